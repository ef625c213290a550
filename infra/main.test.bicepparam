using 'main.bicep'

// As production, without its network and its reserves.
param environmentName = 'test'
param location = readEnvironmentVariable('AZURE_LOCATION', 'westeurope')
param addresses = '10.41'
param signInClientId = readEnvironmentVariable('SIGN_IN_CLIENT_ID', '')
param teamsWorkflowUrl = readEnvironmentVariable('TEAMS_WORKFLOW_URL', '')
param webhookUrl = readEnvironmentVariable('WEBHOOK_URL', '')
param webhookSecret = readEnvironmentVariable('WEBHOOK_SECRET', '')
param gitUrl = readEnvironmentVariable('GIT_URL', '')
param iotHubId = readEnvironmentVariable('IOT_HUB_ID', '')
param siteImage = readEnvironmentVariable('SITE_IMAGE', '')
param gitToken = readEnvironmentVariable('GIT_TOKEN', '')
