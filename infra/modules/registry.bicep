// Images of training environments and of the sites' program.

param name string
param location string
param tags object
param logsId string
param closed bool

resource registry 'Microsoft.ContainerRegistry/registries@2023-07-01' = {
  name: 'cr${replace(name, '-', '')}'
  location: location
  tags: tags
  sku: {
    name: closed ? 'Premium' : 'Basic'
  }
  properties: {
    adminUserEnabled: false
    anonymousPullEnabled: false
    publicNetworkAccess: closed ? 'Disabled' : 'Enabled'
  }
}

resource told 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  scope: registry
  name: 'logs'
  properties: {
    workspaceId: logsId
    logs: [
      {
        categoryGroup: 'audit'
        enabled: true
      }
    ]
  }
}

output id string = registry.id
