"""The Functions app: registers the blueprints; nothing else."""

import azure.functions as func

from functions import (
    approvals,
    azureml,
    checks,
    deployments,
    effects,
    events,
    operator,
    people,
    runs,
    sources,
    sweep,
    telemetry,
    training,
)

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
modules = (telemetry, sources, events, checks, runs, effects, training, azureml)
for module in (*modules, approvals, deployments, sweep, operator, people):
    app.register_functions(module.bp)
