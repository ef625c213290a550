#!/bin/sh
# An environment, whole: infra/deploy.sh ENVIRONMENT REGION. Needs az, signed in, and func (azure-functions-core-tools).
set -eu
environment=$1
region=$2
here=$(dirname "$0")

az deployment sub create \
  --name "driftloop-$environment" \
  --location "$region" \
  --template-file "$here/main.bicep" \
  --parameters "$here/main.$environment.bicepparam" \
  --output none

apps=$(az deployment sub show --name "driftloop-$environment" --query "properties.outputs.subscriptions.value.apps" --output json)
for app in $(printf '%s' "$apps" | python3 -c 'import json, sys; print(*(id.rpartition("/")[2] for id in json.load(sys.stdin).values()))'); do
  (cd "$here/.." && func azure functionapp publish "$app" --python --build remote)
done

sh "$here/subscribe.sh" "$environment" "$region"
