// Where everything is told: logs, traces, and a page that shows them. An Application Insights that is there already can
// be named, and its workspace.

param name string
param location string
param tags object
param existingId string
param existingLogsId string
param retentionDays int
param dailyCapGb int

var logsId = empty(existingLogsId) ? logs.id : existingLogsId

resource logs 'Microsoft.OperationalInsights/workspaces@2023-09-01' = if (empty(existingLogsId)) {
  name: 'log-${name}'
  location: location
  tags: tags
  properties: {
    sku: {
      name: 'PerGB2018'
    }
    retentionInDays: retentionDays
    workspaceCapping: {
      dailyQuotaGb: dailyCapGb
    }
    features: {
      disableLocalAuth: true
    }
  }
}

resource made 'Microsoft.Insights/components@2020-02-02' = if (empty(existingId)) {
  name: 'appi-${name}'
  location: location
  tags: tags
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: logsId
    DisableLocalAuth: true
  }
}

resource shared 'Microsoft.Insights/components@2020-02-02' existing = if (!empty(existingId)) {
  name: last(split(existingId, '/'))
  scope: resourceGroup(split(existingId, '/')[2], split(existingId, '/')[4])
}

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(resourceGroup().id, name, 'workbook')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    displayName: 'driftloop ${name}'
    category: 'workbook'
    sourceId: logsId
    serializedData: loadTextContent('../workbook.json')
  }
}

output id string = empty(existingId) ? made.id : existingId
output logsId string = logsId
output connectionString string = empty(existingId) ? made.properties.ConnectionString : shared.properties.ConnectionString
