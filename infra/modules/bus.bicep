// The queues between functions.

param name string
param location string
param tags object
param logsId string
param closed bool

var queues = loadJsonContent('../names.json').queues

resource bus 'Microsoft.ServiceBus/namespaces@2024-01-01' = {
  name: 'sb-${name}'
  location: location
  tags: tags
  sku: {
    name: closed ? 'Premium' : 'Standard'
    tier: closed ? 'Premium' : 'Standard'
  }
  properties: {
    disableLocalAuth: true
    minimumTlsVersion: '1.2'
    publicNetworkAccess: closed ? 'Disabled' : 'Enabled'
  }
}

resource made 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = [for queue in queues: {
  parent: bus
  name: queue.name
  properties: {
    requiresSession: queue.sessions
    requiresDuplicateDetection: true
    duplicateDetectionHistoryTimeWindow: 'P1D'
    defaultMessageTimeToLive: 'P14D'
    deadLetteringOnMessageExpiration: true
    lockDuration: 'PT5M'
    maxDeliveryCount: 10
    maxSizeInMegabytes: 5120
  }
}]

resource told 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  scope: bus
  name: 'logs'
  properties: {
    workspaceId: logsId
    logs: [
      {
        categoryGroup: 'audit'
        enabled: true
      }
    ]
    metrics: [
      {
        category: 'AllMetrics'
        enabled: true
      }
    ]
  }
}

output id string = bus.id
output name string = bus.name
output host string = '${bus.name}.servicebus.windows.net'
