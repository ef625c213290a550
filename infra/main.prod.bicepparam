using 'main.bicep'

param environmentName = 'prod'
param location = readEnvironmentVariable('AZURE_LOCATION', 'westeurope')
param closed = true
param addresses = '10.42'
param redundancy = 'Standard_ZRS'
param signInClientId = readEnvironmentVariable('SIGN_IN_CLIENT_ID', '')
param teamsWorkflowUrl = readEnvironmentVariable('TEAMS_WORKFLOW_URL', '')
param webhookUrl = readEnvironmentVariable('WEBHOOK_URL', '')
param webhookSecret = readEnvironmentVariable('WEBHOOK_SECRET', '')
param gitUrl = readEnvironmentVariable('GIT_URL', '')
param iotHubId = readEnvironmentVariable('IOT_HUB_ID', '')
param siteImage = readEnvironmentVariable('SITE_IMAGE', '')
param gitToken = readEnvironmentVariable('GIT_TOKEN', '')
param retentionDays = 90
param dailyCapGb = 5
param alwaysReady = 1
param maxNodes = 4
param alertEmails = [readEnvironmentVariable('ALERT_EMAIL', 'operator@example.com')]
param budget = 1000
// The first day of the month in which it is first deployed; a budget's beginning cannot be changed afterwards.
param budgetStart = readEnvironmentVariable('BUDGET_START', '2026-11-01')
