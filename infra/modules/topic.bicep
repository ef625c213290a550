// The app's own events out. Who is told of them is in subscriptions.bicep, deployed when the functions are there.

param name string
param location string
param tags object
param logsId string
param closed bool

resource topic 'Microsoft.EventGrid/topics@2022-06-15' = {
  name: 'evgt-${name}'
  location: location
  tags: tags
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    inputSchema: 'CloudEventSchemaV1_0'
    disableLocalAuth: true
    publicNetworkAccess: closed ? 'Disabled' : 'Enabled'
  }
}

resource told 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  scope: topic
  name: 'logs'
  properties: {
    workspaceId: logsId
    logs: [
      {
        category: 'DeliveryFailures'
        enabled: true
      }
      {
        category: 'PublishFailures'
        enabled: true
      }
    ]
  }
}

output id string = topic.id
output name string = topic.name
output endpoint string = topic.properties.endpoint
output principalId string = topic.identity.principalId
