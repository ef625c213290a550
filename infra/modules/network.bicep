// A network of the loop's own: the apps go out through it; private endpoints are in it.

param name string
param location string
param tags object
param apps array
param addresses string

resource rules 'Microsoft.Network/networkSecurityGroups@2024-05-01' = {
  name: 'nsg-${name}'
  location: location
  tags: tags
}

resource network 'Microsoft.Network/virtualNetworks@2024-05-01' = {
  name: 'vnet-${name}'
  location: location
  tags: tags
  properties: {
    addressSpace: {
      addressPrefixes: ['${addresses}.0.0/16']
    }
  }
}

@batchSize(1)
resource appSubnets 'Microsoft.Network/virtualNetworks/subnets@2024-05-01' = [for (app, i) in apps: {
  parent: network
  name: 'app-${app}'
  properties: {
    addressPrefix: '${addresses}.${i}.0/24'
    networkSecurityGroup: {
      id: rules.id
    }
    delegations: [
      {
        name: 'functions'
        properties: {
          serviceName: 'Microsoft.App/environments'
        }
      }
    ]
  }
}]

resource endpoints 'Microsoft.Network/virtualNetworks/subnets@2024-05-01' = {
  parent: network
  name: 'endpoints'
  dependsOn: [appSubnets]
  properties: {
    addressPrefix: '${addresses}.100.0/24'
    networkSecurityGroup: {
      id: rules.id
    }
    privateEndpointNetworkPolicies: 'Enabled'
  }
}

output id string = network.id
output endpointsSubnetId string = endpoints.id
output appSubnetIds array = [for (app, i) in apps: appSubnets[i].id]
