"""Telemetry: a batch over HTTP is durable in the queue when it is acknowledged; from the queue it goes into windows."""

from __future__ import annotations

import logging
import math
import typing
from collections.abc import Sequence
from uuid import uuid4

import azure.functions as func

from drift.telemetry import MAX_BYTES
from functions import answers, host, rates, wire
from triggers.errors import Misconfigured, Refused, Retry
from triggers.ports import Message

if typing.TYPE_CHECKING:
    from triggers import intake

door, bp = func.Blueprint(), func.Blueprint()
log = logging.getLogger("driftloop")


@door.route("telemetry", methods=["POST"])
def accept_telemetry(req: func.HttpRequest) -> func.HttpResponse:
    """One batch in; 202 when it is durable. What is wrong with it is found when it is counted: it is quarantined then,
    with the reason. What only we cannot take now is 503; what is above the site's rate, 429."""
    payload = req.get_body()
    if len(payload) > MAX_BYTES:
        return answers.problem(413, f"a batch has at most {MAX_BYTES} bytes, not {len(payload)}")
    if not payload:
        return answers.problem(400, "a batch has a body")
    try:
        if seconds := rates.wait(host.ports(), payload):
            return answers.problem(429, "above the site's rate", {"Retry-After": str(math.ceil(seconds))})
        host.ports().bus.send("telemetry", [Message(id=str(uuid4()), body=payload)])
    except (Misconfigured, Retry) as later:
        return answers.problem(503, str(later))
    return answers.data({"accepted": 1}, status=202)


@bp.event_grid_trigger(arg_name="message")
@wire.isolated("telemetry-events", wire.data)
def hear_telemetry(message: func.CloudEvent) -> None:
    """A small batch as an event, into the queue; redelivered, it is the same batch."""
    host.ports().bus.send("telemetry", [Message(id=wire.event_id(message), body=wire.batch(message))])


@bp.service_bus_queue_trigger(
    arg_name="messages",
    queue_name="%TelemetryQueue%",
    connection="ServiceBus",
    cardinality=func.Cardinality.MANY,
    data_type=func.DataType.BINARY,
)
def fold_telemetry(messages: typing.List[func.ServiceBusMessage]) -> None:  # noqa: UP006 - all that indexing knows
    """Many batches at a time into the windows of their sites; what is wrong with one is its own affair."""
    payloads = []
    for message in messages:
        try:
            payloads.append(wire.body(message))
        except Refused as problem:
            wire.quarantine("telemetry", message.get_body(), str(problem))
    for reason in _counted(payloads).reasons:
        log.warning("quarantined a batch of %s", reason)


def _counted(payloads: Sequence[bytes], tries: int = 3) -> intake.Intake:
    """What fails beyond the folding of a site, which does its own part again, is tried again in halves, and alone a few
    times: one call that fails must not cost 128 batches a delivery each, of which they have ten."""
    from triggers import intake  # numpy comes with it: not at a cold start

    try:
        return intake.ingest(host.ports(), payloads)
    except Retry:
        if len(payloads) <= 1 and tries <= 1:
            raise
    if len(payloads) <= 1:
        return _counted(payloads, tries - 1)
    half = len(payloads) // 2
    done = _counted(payloads[:half])
    done.add(_counted(payloads[half:]))
    return done
