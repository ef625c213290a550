using 'main.bicep'

// Ideas are tried here: one app, nothing private, nothing always ready.
param environmentName = 'dev'
param location = readEnvironmentVariable('AZURE_LOCATION', 'westeurope')
param apps = 'single'
param signInClientId = readEnvironmentVariable('SIGN_IN_CLIENT_ID', '')
param maxNodes = 1
param dailyCapGb = 1
