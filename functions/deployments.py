"""Deployments: one request, one site, one change at a time."""

from __future__ import annotations

import azure.functions as func
import msgspec

from functions import host, traces, wire
from triggers import sites
from triggers.ports import Message

bp = func.Blueprint()


@bp.event_grid_trigger(arg_name="message")
@wire.isolated("deployment-events", wire.data)
def forward_deployment(message: func.CloudEvent) -> None:
    """A deployment event into the queue of its site: Event Grid itself cannot set a session."""
    change = wire.change(message.get_json())
    forwarded = Message(id=message.id, body=msgspec.json.encode(change), session=change.site)
    host.ports().bus.send("deployments", [forwarded])


@bp.service_bus_queue_trigger(
    arg_name="message", queue_name="%DeploymentsQueue%", connection="ServiceBus", is_sessions_enabled=True
)
@wire.isolated("deployments", lambda message: message.get_body())
def deploy_to_site(message: func.ServiceBusMessage) -> None:
    """Ask one site to change; it counts as changed when its own telemetry says so."""
    change = wire.change(wire.body(message))
    with traces.step("deploy_to_site", change.run):
        sites.deploy(host.ports(), change)
