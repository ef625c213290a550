// The workspace that trains, its cluster, and the loop's container as a datastore without credentials.

param name string
param location string
param tags object
param logsId string
param closed bool
param insightsId string
param vaultId string
param registryId string
param storageId string
param vmSize string
param maxNodes int
param stateAccount string

var names = loadJsonContent('../names.json')

resource workspace 'Microsoft.MachineLearningServices/workspaces@2024-10-01' = {
  name: 'mlw-${name}'
  location: location
  tags: tags
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    friendlyName: name
    storageAccount: storageId
    keyVault: vaultId
    applicationInsights: insightsId
    containerRegistry: registryId
    systemDatastoresAuthMode: 'identity'
    v1LegacyMode: false
    publicNetworkAccess: closed ? 'Disabled' : 'Enabled'
    managedNetwork: {
      isolationMode: closed ? 'AllowInternetOutbound' : 'Disabled'
    }
  }
}

resource cluster 'Microsoft.MachineLearningServices/workspaces/computes@2024-10-01' = {
  parent: workspace
  name: 'training'
  location: location
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    computeType: 'AmlCompute'
    disableLocalAuth: true
    properties: {
      vmSize: vmSize
      vmPriority: 'Dedicated'
      enableNodePublicIp: !closed
      remoteLoginPortPublicAccess: 'Disabled'
      scaleSettings: {
        minNodeCount: 0
        maxNodeCount: maxNodes
        nodeIdleTimeBeforeScaleDown: 'PT5M'
      }
    }
  }
}

resource datastore 'Microsoft.MachineLearningServices/workspaces/datastores@2024-10-01' = {
  parent: workspace
  name: names.datastore
  properties: {
    datastoreType: 'AzureBlob'
    accountName: stateAccount
    containerName: names.containers.state
    serviceDataAccessAuthIdentity: 'WorkspaceSystemAssignedIdentity'
    credentials: {
      credentialsType: 'None'
    }
  }
}

resource told 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  scope: workspace
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

output id string = workspace.id
output computeName string = cluster.name
output principalId string = workspace.identity.principalId
output computePrincipalId string = cluster.identity.principalId
