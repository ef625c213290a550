// Role definitions of our own, as roles/*.json say.

targetScope = 'subscription'

param name string

var definitions = [
  loadJsonContent('../roles/data-scientist.json')
  loadJsonContent('../roles/loop-trainer.json')
  loadJsonContent('../roles/loop-deployer.json')
  loadJsonContent('../roles/approver.json')
  loadJsonContent('../roles/operator.json')
  loadJsonContent('../roles/reader.json')
]

resource made 'Microsoft.Authorization/roleDefinitions@2022-04-01' = [for definition in definitions: {
  name: guid(subscription().id, name, definition.name)
  properties: {
    roleName: '${definition.name} (${name})'
    description: definition.description
    type: 'CustomRole'
    assignableScopes: [subscription().id]
    permissions: [
      {
        actions: definition.actions
        notActions: []
        dataActions: definition.dataActions
        notDataActions: []
      }
    ]
  }
}]

output ids object = toObject(definitions, definition => definition.name, definition => subscriptionResourceId('Microsoft.Authorization/roleDefinitions', guid(subscription().id, name, definition.name)))
