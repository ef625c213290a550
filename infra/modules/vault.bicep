// Secrets of people's making: the Teams workflow's URL, a token for Git. The app's own keys are blobs that it makes itself.

param name string
param location string
param tags object
param logsId string
param closed bool
@secure()
param teamsWorkflowUrl string
@secure()
param webhookUrl string
@secure()
param webhookSecret string
@secure()
param gitToken string

resource vault 'Microsoft.KeyVault/vaults@2023-07-01' = {
  name: 'kv-${name}'
  location: location
  tags: tags
  properties: {
    tenantId: tenant().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enablePurgeProtection: true
    softDeleteRetentionInDays: 90
    publicNetworkAccess: closed ? 'Disabled' : 'Enabled'
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: closed ? 'Deny' : 'Allow'
    }
  }
}

resource teams 'Microsoft.KeyVault/vaults/secrets@2023-07-01' = if (!empty(teamsWorkflowUrl)) {
  parent: vault
  name: 'teams-workflow-url'
  properties: {
    contentType: 'text/uri'
    value: teamsWorkflowUrl
  }
}

resource hook 'Microsoft.KeyVault/vaults/secrets@2023-07-01' = if (!empty(webhookUrl)) {
  parent: vault
  name: 'webhook-url'
  properties: {
    contentType: 'text/uri'
    value: webhookUrl
  }
}

resource hookSecret 'Microsoft.KeyVault/vaults/secrets@2023-07-01' = if (!empty(webhookSecret)) {
  parent: vault
  name: 'webhook-secret'
  properties: {
    contentType: 'text/plain'
    value: webhookSecret
  }
}

resource git 'Microsoft.KeyVault/vaults/secrets@2023-07-01' = if (!empty(gitToken)) {
  parent: vault
  name: 'git-token'
  properties: {
    contentType: 'text/plain'
    value: gitToken
  }
}

resource told 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  scope: vault
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

output id string = vault.id
