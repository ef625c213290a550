// driftloop, from nothing: `azd up`, or
//   az deployment sub create --location REGION --template-file infra/main.bicep --parameters infra/main.dev.bicepparam

targetScope = 'subscription'

@description('dev, test or prod: part of every name.')
@minLength(2)
@maxLength(10)
param environmentName string
param location string
@description('split: an app for what faces the sites, one that decides, one that touches clusters, each with its own identity. single: one app with the rights of all three.')
@allowed(['split', 'single'])
param apps string = 'split'
@description('Storage, queues, topic, vault, registry and workspace are reached from the network alone. Takes Premium tiers.')
param closed bool = false
@description('First two numbers of the network: 10.40 is 10.40.0.0/16.')
param addresses string = '10.40'
@description('Client id of the Entra app that people sign in to; empty: nobody can, so nobody can approve.')
param signInClientId string = ''
@description('App roles or group ids whose people may look; empty: everybody who signs in.')
param readRoles string = ''
@description('App roles or group ids whose people may approve.')
param approveRoles string = 'approve'
@description('App roles or group ids whose people may operate.')
param operateRoles string = 'operate'
@secure()
@description('A Teams workflow that posts cards; empty: only the dashboard shows them.')
param teamsWorkflowUrl string = ''
@secure()
@description('Where every notice is posted as a CloudEvent, besides; empty: nowhere. The secret signs them.')
param webhookUrl string = ''
@secure()
param webhookSecret string = ''
@description('The Git repository from which Flux brings candidates to sites; empty: none does. Without a token the deploying app pushes as its identity, as Azure DevOps takes it.')
param gitUrl string = ''
param gitBranch string = 'main'
@secure()
param gitToken string = ''
@description('Resource id of the IoT hub of sites that are devices; empty: there are none. Their image is what they run.')
param iotHubId string = ''
param siteImage string = ''
@description('Where people reach the control app, if not at its own name.')
param publicUrl string = ''
@description('Resource ids of what is there already and is to be used; empty: made. A workspace that is there comes with its storage account.')
param vaultId string = ''
param insightsId string = ''
param logsId string = ''
param registryId string = ''
param workspaceStorageId string = ''
param workspaceId string = ''
@description('Of a workspace that is there already: its compute cluster, its datastore of the state container, and the identities of both; empty: made.')
param computeName string = ''
param computePrincipalId string = ''
@description('Storage account to which sites upload files; empty: none does.')
param uploadsId string = ''
@description('Resource ids of the Arc clusters that the loop deploys to.')
param clusterIds array = []
param redundancy string = 'Standard_LRS'
param vmSize string = 'Standard_DS3_v2'
param maxNodes int = 2
param retentionDays int = 30
param dailyCapGb int = 1
@description('Always-ready instances of each app: none is cheaper, and the first batch after a pause waits.')
param alwaysReady int = 0
@description('Who is told when something is wrong; empty: nobody.')
param alertEmails array = []
@description('Address of docs/runbooks.md, as cards and alerts link it; empty: alerts name the file, cards nothing.')
param runbooks string = ''
@description('Of a month, in the currency of the subscription; 0: none.')
param budget int = 0
@description('First day of the month in which the budget is first deployed.')
param budgetStart string = '2026-11-01'

var tags = {
  application: 'driftloop'
  environment: environmentName
  'azd-env-name': environmentName
}
var name = '${environmentName}-${take(uniqueString(subscription().id, environmentName, location), 6)}'
var names = loadJsonContent('names.json')
var roles = apps == 'single' ? ['all'] : ['ingest', 'control', 'deploy']
var groupName = 'rg-driftloop-${environmentName}'
var workspacePlace = empty(workspaceId) ? [subscription().subscriptionId, groupName] : [split(workspaceId, '/')[2], split(workspaceId, '/')[4]]
var snapshotsPlace = empty(workspaceStorageId) ? [subscription().subscriptionId, groupName] : [split(workspaceStorageId, '/')[2], split(workspaceStorageId, '/')[4]]
var blobContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
var hubContributor = '4fc6c259-987e-4a07-842e-c321cc9d413f'
var blobReader = '2a2b9908-6ea1-4ae2-8e65-a410df84e7d1'

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: groupName
  location: location
  tags: tags
}

module definitions 'modules/roles.bicep' = {
  name: 'roles-${name}'
  params: {
    name: name
  }
}

module insights 'modules/insights.bicep' = {
  name: 'insights'
  scope: group
  params: {
    name: name
    location: location
    tags: tags
    existingId: insightsId
    existingLogsId: logsId
    retentionDays: retentionDays
    dailyCapGb: dailyCapGb
  }
}

module network 'modules/network.bicep' = {
  name: 'network'
  scope: group
  params: {
    name: name
    location: location
    tags: tags
    apps: roles
    addresses: addresses
  }
}

module storage 'modules/storage.bicep' = {
  name: 'storage'
  scope: group
  params: {
    name: name
    location: location
    tags: tags
    logsId: insights.outputs.logsId
    closed: closed
    redundancy: redundancy
  }
}

module bus 'modules/bus.bicep' = {
  name: 'bus'
  scope: group
  params: {
    name: name
    location: location
    tags: tags
    logsId: insights.outputs.logsId
    closed: closed
  }
}

module topic 'modules/topic.bicep' = {
  name: 'topic'
  scope: group
  params: {
    name: name
    location: location
    tags: tags
    logsId: insights.outputs.logsId
    closed: closed
  }
}

module vault 'modules/vault.bicep' = if (empty(vaultId)) {
  name: 'vault'
  scope: group
  params: {
    name: name
    location: location
    tags: tags
    logsId: insights.outputs.logsId
    closed: closed
    teamsWorkflowUrl: teamsWorkflowUrl
    webhookUrl: webhookUrl
    webhookSecret: webhookSecret
    gitToken: gitToken
  }
}

module registry 'modules/registry.bicep' = if (empty(registryId)) {
  name: 'registry'
  scope: group
  params: {
    name: name
    location: location
    tags: tags
    logsId: insights.outputs.logsId
    closed: closed
  }
}

var usedRegistryId = empty(registryId) ? registry.outputs.id : registryId
var usedVaultId = empty(vaultId) ? vault.outputs.id : vaultId

module ml 'modules/ml.bicep' = if (empty(workspaceId)) {
  name: 'ml'
  scope: group
  params: {
    name: name
    location: location
    tags: tags
    logsId: insights.outputs.logsId
    closed: closed
    insightsId: insights.outputs.id
    vaultId: usedVaultId
    registryId: usedRegistryId
    storageId: workspaceStorageId
    vmSize: vmSize
    maxNodes: maxNodes
    stateAccount: storage.outputs.name
  }
}

var usedSnapshotsId = empty(workspaceId) ? ml.outputs.storageId : workspaceStorageId
var usedWorkspaceId = empty(workspaceId) ? ml.outputs.id : workspaceId

// Who has a secret to read.
var readers = concat(empty(teamsWorkflowUrl) && empty(webhookUrl) ? [] : ['control', 'all'], empty(gitToken) ? [] : ['deploy', 'all'])

module identities 'modules/identity.bicep' = [for role in roles: {
  name: 'identity-${role}'
  scope: group
  params: {
    name: 'id-${name}-${role}'
    location: location
    tags: tags
  }
}]

module grants 'modules/grants.bicep' = [for (role, i) in roles: {
  name: 'grants-${role}'
  scope: group
  params: {
    role: role
    principalId: identities[i].outputs.principalId
    storageName: storage.outputs.name
    busName: bus.outputs.name
    topicName: topic.outputs.name
    readsSecrets: contains(readers, role)
    vaultId: usedVaultId
    logsId: insights.outputs.logsId
    insightsId: insights.outputs.id
  }
}]

// The workspace: control trains in it, deploy serves from it.
module onWorkspace 'modules/grant.bicep' = [for (role, i) in roles: if (role != 'ingest') {
  name: 'workspace-${role}'
  scope: resourceGroup(workspacePlace[0], workspacePlace[1])
  params: {
    kind: 'workspace'
    resourceName: last(split(usedWorkspaceId, '/'))
    principalId: identities[i].outputs.principalId
    roleDefinitionId: definitions.outputs.ids[role == 'deploy' ? 'driftloop deployer' : 'driftloop trainer']
  }
}]

module alsoDeploys 'modules/grant.bicep' = if (apps == 'single') {
  name: 'workspace-deploys'
  scope: resourceGroup(workspacePlace[0], workspacePlace[1])
  params: {
    kind: 'workspace'
    resourceName: last(split(usedWorkspaceId, '/'))
    principalId: identities[0].outputs.principalId
    roleDefinitionId: definitions.outputs.ids['driftloop deployer']
  }
}

module onClusters 'modules/grant.bicep' = [for (id, i) in clusterIds: {
  name: 'cluster-${i}'
  scope: resourceGroup(split(id, '/')[2], split(id, '/')[4])
  params: {
    kind: 'cluster'
    resourceName: last(split(id, '/'))
    principalId: identities[length(roles) - 1].outputs.principalId
    roleDefinitionId: definitions.outputs.ids['driftloop deployer']
  }
}]

module onDevices 'modules/grant.bicep' = if (!empty(iotHubId)) {
  name: 'devices'
  scope: resourceGroup(split(iotHubId, '/')[2], split(iotHubId, '/')[4])
  params: {
    kind: 'hub'
    resourceName: last(split(iotHubId, '/'))
    principalId: identities[length(roles) - 1].outputs.principalId
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', hubContributor)
  }
}

module onUploads 'modules/grant.bicep' = if (!empty(uploadsId)) {
  name: 'uploads'
  scope: resourceGroup(split(uploadsId, '/')[2], split(uploadsId, '/')[4])
  params: {
    kind: 'storage'
    resourceName: last(split(uploadsId, '/'))
    principalId: identities[apps == 'single' ? 0 : 1].outputs.principalId
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobReader)
  }
}

// Code that a job or an endpoint runs is uploaded to the workspace's own account.
module onSnapshots 'modules/grant.bicep' = [for (role, i) in roles: if (role != 'ingest') {
  name: 'snapshots-${role}'
  scope: resourceGroup(snapshotsPlace[0], snapshotsPlace[1])
  params: {
    kind: 'storage'
    resourceName: last(split(usedSnapshotsId, '/'))
    principalId: identities[i].outputs.principalId
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobContributor)
  }
}]

module trainsOnSnapshots 'modules/grant.bicep' = if (empty(workspaceId) || !empty(computePrincipalId)) {
  name: 'training-snapshots'
  scope: resourceGroup(snapshotsPlace[0], snapshotsPlace[1])
  params: {
    kind: 'storage'
    resourceName: last(split(usedSnapshotsId, '/'))
    principalId: empty(workspaceId) ? ml.outputs.computePrincipalId : computePrincipalId
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobContributor)
  }
}

// The identity of the training cluster reads batches and writes candidates; the topic's writes what nobody took.
module trainsOnState 'modules/grant.bicep' = if (empty(workspaceId) || !empty(computePrincipalId)) {
  name: 'training-state'
  scope: group
  params: {
    kind: 'container'
    resourceName: storage.outputs.name
    container: names.containers.state
    principalId: empty(workspaceId) ? ml.outputs.computePrincipalId : computePrincipalId
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobContributor)
  }
}

module deadLetters 'modules/grant.bicep' = {
  name: 'topic-dead-letters'
  scope: group
  params: {
    kind: 'container'
    resourceName: storage.outputs.name
    container: names.containers.deadLetters
    principalId: topic.outputs.principalId
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobContributor)
  }
}

var settingsOfAll = {
  DRIFTLOOP_PROFILE: 'azure'
  APPLICATIONINSIGHTS_CONNECTION_STRING: insights.outputs.connectionString
  Storage__blobServiceUri: storage.outputs.blobUri
  StateContainer: names.containers.state
  ServiceBus__fullyQualifiedNamespace: bus.outputs.host
  ServiceBus__credential: 'managedidentity'
}
var settingsOfState = {
  Storage__tableServiceUri: storage.outputs.tableUri
  StateTable: names.table
  ConfigContainer: names.containers.config
  EventGrid__topicEndpointUri: topic.outputs.endpoint
  AzureMLWorkspace: usedWorkspaceId
}
var queueSettings = toObject(names.queues, queue => queue.setting, queue => queue.name)
var settingsOfSites = union({
  AzureMLDatastore: names.datastore
  SiteIngest: 'https://func-${name}-${roles[0]}.azurewebsites.net/api/telemetry'
}, empty(gitUrl) ? {} : {
  GitUrl: gitUrl
  GitBranch: gitBranch
}, empty(iotHubId) ? {} : {
  IotHub: '${last(split(iotHubId, '/'))}.azure-devices.net'
}, empty(siteImage) ? {} : {
  SiteImage: siteImage
}, empty(gitToken) ? {} : {
  GitToken: '@Microsoft.KeyVault(VaultName=${last(split(usedVaultId, '/'))};SecretName=git-token)'
})
var settingsOfControl = union(settingsOfState, names.schedules, queueSettings, {
  KeyContainer: names.containers.keys
  AzureMLCompute: empty(workspaceId) ? ml.outputs.computeName : computeName
  AzureMLDatastore: names.datastore
  ApproveRoles: approveRoles
  OperateRoles: operateRoles
}, empty(signInClientId) ? {} : {
  TenantId: tenant().tenantId
  TokenAudience: '${signInClientId}, api://${signInClientId}'
}, empty(publicUrl) ? {} : {
  PublicUrl: publicUrl
}, empty(readRoles) ? {} : {
  ReadRoles: readRoles
}, empty(runbooks) ? {} : {
  Runbooks: runbooks
}, empty(webhookUrl) ? {} : {
  WebhookUrl: '@Microsoft.KeyVault(VaultName=${last(split(usedVaultId, '/'))};SecretName=webhook-url)'
}, empty(webhookSecret) ? {} : {
  WebhookSecret: '@Microsoft.KeyVault(VaultName=${last(split(usedVaultId, '/'))};SecretName=webhook-secret)'
}, empty(teamsWorkflowUrl) ? {} : {
  TeamsWorkflowUrl: '@Microsoft.KeyVault(VaultName=${last(split(usedVaultId, '/'))};SecretName=teams-workflow-url)'
}, empty(uploadsId) ? {} : {
  UploadsBlobServiceUri: 'https://${last(split(uploadsId, '/'))}.blob.${environment().suffixes.storage}'
})
var settingsOf = {
  ingest: {
    TelemetryQueue: queueSettings.TelemetryQueue
  }
  control: settingsOfControl
  deploy: union(settingsOfState, settingsOfSites, {
    RunsQueue: queueSettings.RunsQueue
    DeploymentsQueue: queueSettings.DeploymentsQueue
  })
  all: union(settingsOfControl, settingsOfSites)
}

module functions 'modules/app.bicep' = [for (role, i) in roles: {
  name: 'app-${role}'
  scope: group
  dependsOn: [grants]
  params: {
    name: name
    location: location
    tags: tags
    role: role
    identityId: identities[i].outputs.id
    clientId: identities[i].outputs.clientId
    principalId: identities[i].outputs.principalId
    settings: union(settingsOfAll, settingsOf[role], {
      DRIFTLOOP_ROLE: role
      AZURE_CLIENT_ID: identities[i].outputs.clientId
      ServiceBus__clientId: identities[i].outputs.clientId
      APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identities[i].outputs.clientId};Authorization=AAD'
    })
    logsId: insights.outputs.logsId
    subnetId: network.outputs.appSubnetIds[i]
    closed: closed
    memoryMb: 2048
    maxInstances: 40
    alwaysReady: alwaysReady > 0 ? [
      {
        name: 'http'
        instanceCount: alwaysReady
      }
    ] : []
    signInClientId: role == 'control' || role == 'all' ? signInClientId : ''
  }
}]

var zoneNames = closed ? [
  'privatelink.blob.${environment().suffixes.storage}'
  'privatelink.table.${environment().suffixes.storage}'
  'privatelink.servicebus.windows.net'
  'privatelink.eventgrid.azure.net'
  'privatelink.api.azureml.ms'
  'privatelink.vaultcore.azure.net'
  'privatelink.azurecr.io'
] : []
var privately = closed ? [
  { of: 'storage', group: 'blob', zone: 0 }
  { of: 'storage', group: 'table', zone: 1 }
  { of: 'snapshots', group: 'blob', zone: 0 }
  { of: 'bus', group: 'namespace', zone: 2 }
  { of: 'topic', group: 'topic', zone: 3 }
  { of: 'ml', group: 'amlworkspace', zone: 4 }
  { of: 'vault', group: 'vault', zone: 5 }
  { of: 'registry', group: 'registry', zone: 6 }
] : []
var idOf = {
  storage: storage.outputs.id
  snapshots: usedSnapshotsId
  registry: usedRegistryId
  bus: bus.outputs.id
  topic: topic.outputs.id
  ml: usedWorkspaceId
  vault: usedVaultId
}

module zones 'modules/zone.bicep' = [for zone in zoneNames: {
  name: 'zone-${zone}'
  scope: group
  params: {
    name: zone
    tags: tags
    networkId: network.outputs.id
  }
}]

module endpoints 'modules/private.bicep' = [for p in privately: {
  name: 'private-${p.of}-${p.group}'
  scope: group
  params: {
    name: '${name}-${p.of}'
    location: location
    tags: tags
    subnetId: network.outputs.endpointsSubnetId
    resourceId: idOf[p.of]
    group: p.group
    zoneId: zones[p.zone].outputs.id
  }
}]

module hostEndpoints 'modules/private.bicep' = [for (role, i) in roles: if (closed) {
  name: 'private-host-${role}'
  scope: group
  params: {
    name: '${name}-host-${role}'
    location: location
    tags: tags
    subnetId: network.outputs.endpointsSubnetId
    resourceId: functions[i].outputs.storageId
    group: 'blob'
    zoneId: zones[0].outputs.id
  }
}]

module alerts 'modules/alerts.bicep' = if (!empty(alertEmails)) {
  name: 'alerts'
  scope: group
  params: {
    name: name
    location: location
    tags: tags
    emails: alertEmails
    busId: bus.outputs.id
    topicId: topic.outputs.id
    insightsId: insights.outputs.id
    budget: budget
    budgetStart: budgetStart
    runbooks: empty(runbooks) ? 'docs/runbooks.md' : runbooks
  }
}

// What subscriptions.bicep and azd need.
output AZURE_RESOURCE_GROUP string = group.name
output AZURE_LOCATION string = location
output SERVICE_NAMES array = roles
output subscriptions object = {
  apps: apps == 'single' ? {
    all: functions[0].outputs.id
  } : {
    ingest: functions[0].outputs.id
    control: functions[1].outputs.id
    deploy: functions[2].outputs.id
  }
  topicName: topic.outputs.name
  storageId: storage.outputs.id
  workspaceId: usedWorkspaceId
  uploadsId: uploadsId
}
output TELEMETRY_URL string = '${functions[0].outputs.host}/api/telemetry'
output DASHBOARD_URL string = '${functions[apps == 'single' ? 0 : 1].outputs.host}/api/ui/'
