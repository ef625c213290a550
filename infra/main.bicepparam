using 'main.bicep'

// For azd, which asks for the name and the region of an environment.
param environmentName = readEnvironmentVariable('AZURE_ENV_NAME', 'dev')
param location = readEnvironmentVariable('AZURE_LOCATION', 'westeurope')
param signInClientId = readEnvironmentVariable('SIGN_IN_CLIENT_ID', '')
param teamsWorkflowUrl = readEnvironmentVariable('TEAMS_WORKFLOW_URL', '')
param webhookUrl = readEnvironmentVariable('WEBHOOK_URL', '')
param webhookSecret = readEnvironmentVariable('WEBHOOK_SECRET', '')
param gitUrl = readEnvironmentVariable('GIT_URL', '')
param iotHubId = readEnvironmentVariable('IOT_HUB_ID', '')
param siteImage = readEnvironmentVariable('SITE_IMAGE', '')
param gitToken = readEnvironmentVariable('GIT_TOKEN', '')
