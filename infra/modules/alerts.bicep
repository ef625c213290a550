// Who is told when the loop itself is ill: dead letters, failures that repeat, checks that do not run; and of money.

param name string
param location string
param tags object
param emails array
param busId string
param topicId string
param insightsId string
param budget int
param budgetStart string
@description('Where docs/runbooks.md is to be read: alerts link their part of it.')
param runbooks string

resource people 'Microsoft.Insights/actionGroups@2023-01-01' = {
  name: 'ag-${name}'
  location: 'global'
  tags: tags
  properties: {
    groupShortName: 'driftloop'
    enabled: true
    emailReceivers: [for email in emails: {
      name: email
      emailAddress: email
      useCommonAlertSchema: true
    }]
  }
}

var metrics = [
  { name: 'dead-letters', of: busId, namespace: 'Microsoft.ServiceBus/namespaces', metric: 'DeadletteredMessages', over: 0, aggregation: 'Maximum' }
  { name: 'telemetry-waits', of: busId, namespace: 'Microsoft.ServiceBus/namespaces', metric: 'ActiveMessages', over: 10000, aggregation: 'Average' }
  { name: 'events-undelivered', of: topicId, namespace: 'Microsoft.EventGrid/topics', metric: 'DeadLetteredCount', over: 0, aggregation: 'Total' }
]

resource alerts 'Microsoft.Insights/metricAlerts@2018-03-01' = [for m in metrics: {
  name: 'alert-${name}-${m.name}'
  location: 'global'
  tags: tags
  properties: {
    description: 'What to do: ${runbooks}#${m.name}'
    severity: 2
    enabled: true
    autoMitigate: true
    scopes: [m.of]
    evaluationFrequency: 'PT5M'
    windowSize: 'PT15M'
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          name: m.name
          criterionType: 'StaticThresholdCriterion'
          metricNamespace: m.namespace
          metricName: m.metric
          operator: 'GreaterThan'
          threshold: m.over
          timeAggregation: m.aggregation
        }
      ]
    }
    actions: [
      {
        actionGroupId: people.id
      }
    ]
  }
}]

var queries = [
  {
    name: 'quarantined'
    query: 'traces | where message startswith "quarantined"'
    over: 10
    window: 'PT1H'
  }
  {
    name: 'failing'
    query: 'requests | where success == false | where name !in ("login", "session")'
    over: 20
    window: 'PT1H'
  }
  {
    name: 'no-check'
    query: 'requests | where name == "check_drift" and success == true | summarize ran = count() | where ran == 0'
    over: 0
    window: 'P2D'
  }
]

resource logAlerts 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [for q in queries: {
  name: 'alert-${name}-${q.name}'
  location: location
  tags: tags
  kind: 'LogAlert'
  properties: {
    description: 'What to do: ${runbooks}#${q.name}'
    severity: 2
    enabled: true
    autoMitigate: true
    scopes: [insightsId]
    evaluationFrequency: 'PT1H'
    windowSize: q.window
    criteria: {
      allOf: [
        {
          query: q.query
          timeAggregation: 'Count'
          operator: 'GreaterThan'
          threshold: q.over
          failingPeriods: {
            numberOfEvaluationPeriods: 1
            minFailingPeriodsToAlert: 1
          }
        }
      ]
    }
    actions: {
      actionGroups: [people.id]
    }
  }
}]

resource money 'Microsoft.Consumption/budgets@2023-11-01' = if (budget > 0) {
  name: 'budget-${name}'
  properties: {
    category: 'Cost'
    amount: budget
    timeGrain: 'Monthly'
    timePeriod: {
      startDate: budgetStart
    }
    notifications: {
      near: {
        enabled: true
        operator: 'GreaterThan'
        threshold: 80
        thresholdType: 'Actual'
        contactEmails: emails
        contactGroups: [people.id]
      }
      over: {
        enabled: true
        operator: 'GreaterThan'
        threshold: 100
        thresholdType: 'Forecasted'
        contactEmails: emails
        contactGroups: [people.id]
      }
    }
  }
}
