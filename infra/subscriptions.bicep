// Who is told of which event. Deployed when the functions are there: a subscription to one that is not fails.

@description('As main.bicep put out: the app of each role.')
param apps object
param topicName string
param storageId string
@description('The Azure ML workspace; empty: it is not heard.')
param workspaceId string = ''
@description('The account to which sites upload files; empty: none does.')
param uploadsId string = ''
param location string = resourceGroup().location

var names = loadJsonContent('names.json')
var single = contains(apps, 'all')
var retry = {
  maxDeliveryAttempts: 30
  eventTimeToLiveInMinutes: 1440
}
var deadLetters = {
  endpointType: 'StorageBlob'
  properties: {
    resourceId: storageId
    blobContainerName: names.containers.deadLetters
  }
}

resource topic 'Microsoft.EventGrid/topics@2022-06-15' existing = {
  name: topicName
}

resource ours 'Microsoft.EventGrid/topics/eventSubscriptions@2022-06-15' = [for s in filter(names.subscriptions, s => s.source == 'topic'): {
  parent: topic
  name: replace(s.function, '_', '-')
  properties: {
    eventDeliverySchema: 'CloudEventSchemaV1_0'
    filter: {
      includedEventTypes: s.types
    }
    destination: {
      endpointType: 'AzureFunction'
      properties: {
        resourceId: '${single ? apps.all : apps[s.role]}/functions/${s.function}'
        maxEventsPerBatch: 1
      }
    }
    retryPolicy: retry
    deadLetterWithResourceIdentity: {
      identity: {
        type: 'SystemAssigned'
      }
      deadLetterDestination: deadLetters
    }
  }
}]

var systems = filter([
  { source: 'workspace', id: workspaceId, type: 'Microsoft.MachineLearningServices.Workspaces', begins: '', where: location }
  { source: 'group', id: empty(workspaceId) ? '' : join(take(split(workspaceId, '/'), 5), '/'), type: 'Microsoft.Resources.ResourceGroups', begins: '${workspaceId}/data/', where: 'global' }
  { source: 'uploads', id: uploadsId, type: 'Microsoft.Storage.StorageAccounts', begins: '', where: location }
], s => !empty(s.id))

module heard 'modules/system-topic.bicep' = [for s in systems: {
  name: 'hears-${s.source}'
  scope: resourceGroup(split(s.id, '/')[2], split(s.id, '/')[4])
  params: {
    name: 'evgt-${topicName}-${s.source}'
    location: s.where
    source: s.id
    topicType: s.type
    begins: s.begins
    heardAs: s.source
    apps: apps
    retry: retry
    deadLetters: deadLetters
    storageId: storageId
  }
}]
