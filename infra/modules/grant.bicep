// One role for one identity on one resource, in whatever group that is.

@allowed(['vault', 'logs', 'insights', 'workspace', 'storage', 'container', 'cluster', 'hub'])
param kind string
param resourceName string
param container string = ''
param principalId string
param roleDefinitionId string

var properties = {
  principalId: principalId
  principalType: 'ServicePrincipal'
  roleDefinitionId: roleDefinitionId
}
var name = guid(resourceGroup().id, kind, resourceName, container, principalId, roleDefinitionId)

resource vault 'Microsoft.KeyVault/vaults@2023-07-01' existing = if (kind == 'vault') {
  name: resourceName
}

resource onVault 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (kind == 'vault') {
  scope: vault
  name: name
  properties: properties
}

resource logs 'Microsoft.OperationalInsights/workspaces@2023-09-01' existing = if (kind == 'logs') {
  name: resourceName
}

resource onLogs 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (kind == 'logs') {
  scope: logs
  name: name
  properties: properties
}

resource insights 'Microsoft.Insights/components@2020-02-02' existing = if (kind == 'insights') {
  name: resourceName
}

resource onInsights 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (kind == 'insights') {
  scope: insights
  name: name
  properties: properties
}

resource workspace 'Microsoft.MachineLearningServices/workspaces@2024-10-01' existing = if (kind == 'workspace') {
  name: resourceName
}

resource onWorkspace 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (kind == 'workspace') {
  scope: workspace
  name: name
  properties: properties
}

resource cluster 'Microsoft.Kubernetes/connectedClusters@2024-01-01' existing = if (kind == 'cluster') {
  name: resourceName
}

resource onCluster 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (kind == 'cluster') {
  scope: cluster
  name: name
  properties: properties
}

resource hub 'Microsoft.Devices/IotHubs@2023-06-30' existing = if (kind == 'hub') {
  name: resourceName
}

resource onHub 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (kind == 'hub') {
  scope: hub
  name: name
  properties: properties
}

resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' existing = if (kind == 'storage' || kind == 'container') {
  name: resourceName
}

resource onStorage 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (kind == 'storage') {
  scope: storage
  name: name
  properties: properties
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' existing = if (kind == 'container') {
  parent: storage
  name: 'default'
}

resource part 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' existing = if (kind == 'container') {
  parent: blobs
  name: container
}

resource onContainer 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (kind == 'container') {
  scope: part
  name: name
  properties: properties
}
