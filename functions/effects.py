"""Effects: what a run asked for, performed once."""

from __future__ import annotations

import azure.functions as func

from functions import host, traces, wire
from triggers import loop

bp = func.Blueprint()


@bp.service_bus_queue_trigger(arg_name="message", queue_name="%EffectsQueue%", connection="ServiceBus")
@wire.isolated("effects", lambda message: message.get_body())
def perform_effect(message: func.ServiceBusMessage) -> None:
    """The message is the key of an outbox row; a row that is gone was performed before."""
    key = message.get_body().decode("utf-8", "replace")
    with traces.step("perform_effect", key.split("/")[1] if "/" in key else ""):
        loop.perform(host.ports(), key)
