#!/bin/sh
# Subscribes the functions to their events, once they are there: infra/subscribe.sh ENVIRONMENT REGION
# Reads what main.bicep put out from the deployment driftloop-ENVIRONMENT, or from azd where it ran.
set -eu
environment=$1
region=$2

if [ -n "${subscriptions:-}" ]; then
  given=$subscriptions
else
  given=$(az deployment sub show --name "driftloop-$environment" --query properties.outputs.subscriptions.value --output json)
fi
parameters=$(printf '%s' "$given" | python3 -c '
import json, sys
print(json.dumps({name: {"value": value} for name, value in json.load(sys.stdin).items()}))')
az deployment group create \
  --name "driftloop-$environment-subscriptions" \
  --resource-group "rg-driftloop-$environment" \
  --template-file "$(dirname "$0")/subscriptions.bicep" \
  --parameters "$parameters" --parameters "location=$region"
