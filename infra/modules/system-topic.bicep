// What a resource of Azure's says of itself, to our functions.

param name string
param location string
param source string
param topicType string
param begins string
@description('As names.json calls the source.')
param heardAs string
param apps object
param retry object
param deadLetters object
param storageId string

var single = contains(apps, 'all')
var subscriptions = filter(loadJsonContent('../names.json').subscriptions, s => s.source == heardAs)
var blobContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'

resource topic 'Microsoft.EventGrid/systemTopics@2022-06-15' = {
  name: name
  location: location
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    source: source
    topicType: topicType
  }
}

module mayDeadLetter 'grant.bicep' = {
  name: 'dead-letters-${name}'
  scope: resourceGroup(split(storageId, '/')[2], split(storageId, '/')[4])
  params: {
    kind: 'container'
    resourceName: last(split(storageId, '/'))
    container: deadLetters.properties.blobContainerName
    principalId: topic.identity.principalId
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobContributor)
  }
}

resource told 'Microsoft.EventGrid/systemTopics/eventSubscriptions@2022-06-15' = [for s in subscriptions: {
  parent: topic
  name: replace(s.function, '_', '-')
  dependsOn: [mayDeadLetter]
  properties: {
    eventDeliverySchema: 'CloudEventSchemaV1_0'
    filter: {
      includedEventTypes: s.types
      subjectBeginsWith: begins
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
