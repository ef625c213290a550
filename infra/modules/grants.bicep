// What one app may do with the loop's state, queues, topic, secrets and logs, by its role.

param role string
param principalId string
param storageName string
param busName string
param topicName string
param vaultId string
param readsSecrets bool
param logsId string
param insightsId string

var names = loadJsonContent('../names.json')

var blobContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
var blobReader = '2a2b9908-6ea1-4ae2-8e65-a410df84e7d1'
var tableContributor = '0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3'
var busSender = '69a216fc-b8fb-44d8-bc22-1f3c2cd27a39'
var busReceiver = '4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0'
var topicSender = 'd5a91429-5739-47e2-a06b-3470a27159e7'
var secretsUser = '4633458b-17de-408a-b874-0445c86b69e6'
var logAnalyticsReader = '73c42c96-874c-492b-b04d-ab87d138a893'
var metricsPublisher = '3913510d-42f4-4e42-8a64-420c390055eb'

var ingests = role == 'ingest' || role == 'all'
var controls = role == 'control' || role == 'all'
var deploys = role == 'deploy' || role == 'all'

var queueGrants = concat(
  ingests || controls ? [{ queue: 'telemetry', right: busSender }] : [],
  controls ? [
    { queue: 'telemetry', right: busReceiver }
    { queue: 'runs', right: busReceiver }
    { queue: 'effects', right: busReceiver }
    { queue: 'effects', right: busSender }
  ] : [],
  controls || deploys ? [
    { queue: 'runs', right: busSender }
    { queue: 'deployments', right: busSender }
  ] : [],
  deploys ? [{ queue: 'deployments', right: busReceiver }] : []
)

// Paths that a role may write, where not all: what is too large for a queue, what no handler would take, models.
var onlyPaths = role == 'ingest' ? ['claims/*'] : ['claims/*', 'quarantine/*', 'models/*']
var onlyWhen = join(map(onlyPaths, path => '@Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike \'${path}\''), ' OR ')
var writesAndDeletes = '!(ActionMatches{\'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write\'}) AND !(ActionMatches{\'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/add/action\'}) AND !(ActionMatches{\'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/delete\'}) AND !(ActionMatches{\'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/move/action\'})'
var readsToo = role == 'ingest' ? ' AND !(ActionMatches{\'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read\'})' : ''
var condition = '((${writesAndDeletes}${readsToo}) OR (${onlyWhen}))'

resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: storageName
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' existing = {
  parent: storage
  name: 'default'
}

resource stateContainer 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' existing = {
  parent: blobs
  name: names.containers.state
}

resource configContainer 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' existing = {
  parent: blobs
  name: names.containers.config
}

resource keysContainer 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' existing = {
  parent: blobs
  name: names.containers.keys
}

resource tables 'Microsoft.Storage/storageAccounts/tableServices@2023-05-01' existing = {
  parent: storage
  name: 'default'
}

resource table 'Microsoft.Storage/storageAccounts/tableServices/tables@2023-05-01' existing = {
  parent: tables
  name: names.table
}

resource bus 'Microsoft.ServiceBus/namespaces@2024-01-01' existing = {
  name: busName
}

resource queues 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' existing = [for grant in queueGrants: {
  parent: bus
  name: grant.queue
}]

resource topic 'Microsoft.EventGrid/topics@2022-06-15' existing = {
  name: topicName
}

resource mayQueue 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for (grant, i) in queueGrants: {
  scope: queues[i]
  name: guid(bus.id, grant.queue, principalId, grant.right)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', grant.right)
  }
}]

resource mayWriteSome 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!controls) {
  scope: stateContainer
  name: guid(stateContainer.id, principalId, blobContributor)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobContributor)
    condition: condition
    conditionVersion: '2.0'
  }
}

resource mayWriteAll 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (controls) {
  scope: stateContainer
  name: guid(stateContainer.id, principalId, blobContributor)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobContributor)
  }
}

resource mayConfigure 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (controls || deploys) {
  scope: configContainer
  name: guid(configContainer.id, principalId, blobReader)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobReader)
  }
}

resource mayKeepKeys 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (controls) {
  scope: keysContainer
  name: guid(keysContainer.id, principalId, blobContributor)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobContributor)
  }
}

resource mayKeepState 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (controls || deploys) {
  scope: table
  name: guid(table.id, principalId, tableContributor)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', tableContributor)
  }
}

resource mayPublish 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (controls || deploys) {
  scope: topic
  name: guid(topic.id, principalId, topicSender)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', topicSender)
  }
}

module mayReadSecrets 'grant.bicep' = if (readsSecrets) {
  name: 'secrets-${role}'
  scope: resourceGroup(split(vaultId, '/')[2], split(vaultId, '/')[4])
  params: {
    kind: 'vault'
    resourceName: last(split(vaultId, '/'))
    principalId: principalId
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsUser)
  }
}

module mayReadLogs 'grant.bicep' = if (controls) {
  name: 'logs-${role}'
  scope: resourceGroup(split(logsId, '/')[2], split(logsId, '/')[4])
  params: {
    kind: 'logs'
    resourceName: last(split(logsId, '/'))
    principalId: principalId
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', logAnalyticsReader)
  }
}

module mayTell 'grant.bicep' = {
  name: 'tells-${role}'
  scope: resourceGroup(split(insightsId, '/')[2], split(insightsId, '/')[4])
  params: {
    kind: 'insights'
    resourceName: last(split(insightsId, '/'))
    principalId: principalId
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', metricsPublisher)
  }
}
