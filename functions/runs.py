"""Run events: one run, one writer, one event at a time."""

from __future__ import annotations

import azure.functions as func

from functions import host, traces, wire
from triggers import loop

bp = func.Blueprint()


@bp.service_bus_queue_trigger(
    arg_name="message", queue_name="%RunsQueue%", connection="ServiceBus", is_sessions_enabled=True
)
@wire.isolated("runs", lambda message: message.get_body())
def advance_run(message: func.ServiceBusMessage) -> None:
    """Move one run by one event; the message's session is the run's id."""
    event = wire.event(wire.body(message))
    with traces.step("advance_run", event.run):
        loop.tell(host.ports(), event)
