"""The Functions app: registers the blueprints of its role; nothing else."""

import azure.functions as func

from functions import (
    approvals,
    azureml,
    checks,
    deployments,
    effects,
    events,
    host,
    operator,
    people,
    runs,
    sources,
    status,
    sweep,
    telemetry,
    training,
)
from triggers.errors import Refused

CONTROL = (
    *(telemetry, sources, events, checks, runs, effects, training, azureml, approvals, sweep),
    *(status, operator, people),
)
ROLES = {
    "ingest": [telemetry.door],
    "control": [module.bp for module in CONTROL],
    "deploy": [deployments.bp],
}
"""An app can use all the rights of its identity: `ingest` faces the sites and can only take telemetry in, `deploy`
alone touches them, `control` is the rest. One app that is `all` has the rights of all three."""

role = host.setting("DRIFTLOOP_ROLE")
if role not in {*ROLES, "all"}:
    raise Refused(f"DRIFTLOOP_ROLE is {role!r}: it is all, {', '.join(ROLES)}")
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
for name, blueprints in ROLES.items():
    for blueprint in blueprints if role in {name, "all"} else ():
        app.register_functions(blueprint)
