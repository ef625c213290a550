// The workspace that trains, its cluster, and the loop's container as a datastore without credentials. Its own account
// keeps what its users see: the loop's state is in another.

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

var ownStorage = empty(storageId)
var usedStorageId = ownStorage ? account.id : storageId

resource account 'Microsoft.Storage/storageAccounts@2023-05-01' = if (ownStorage) {
  name: take('stml${replace(name, '-', '')}', 24)
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: {
    name: 'Standard_LRS'
  }
  properties: {
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    allowSharedKeyAccess: false
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    publicNetworkAccess: closed ? 'Disabled' : 'Enabled'
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: closed ? 'Deny' : 'Allow'
    }
  }
}

resource workspace 'Microsoft.MachineLearningServices/workspaces@2024-10-01' = {
  name: 'mlw-${name}'
  location: location
  tags: tags
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    friendlyName: name
    storageAccount: usedStorageId
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
output storageId string = usedStorageId
output computePrincipalId string = cluster.identity.principalId
