"""Events over HTTP: the door for Event Grid webhooks, and for whoever sends a CloudEvent directly.

Where the Functions host has Event Grid triggers, subscriptions go to those. Nobody is believed here, handshake or not:
an event is a hint. A batch bears its site's signature, a deployment must be one that a run has asked for, a job's end
is asked of the training service, a file is read where the app itself may read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import azure.functions as func
import msgspec
from azure.functions.meta import Datum

from functions import answers, azureml, deployments, sources, telemetry, training, wire
from triggers.errors import Misconfigured, Retry

bp = func.Blueprint()

LARGEST = 1024 * 1024
MANY = 5000
ORIGIN = "eventgrid.azure.net"
VALIDATION = "Microsoft.EventGrid.SubscriptionValidationEvent"

HANDLERS: Mapping[str, Callable[..., None]] = {
    "job_ended": training.job_ended,
    "forward_deployment": deployments.forward_deployment,
    "hear_telemetry": telemetry.hear_telemetry,
    "workspace_changed": azureml.workspace_changed,
    "hear_upload": sources.hear_upload,
}
"""The functions behind `wire.SUBSCRIPTIONS`."""


@bp.route("events", methods=["OPTIONS"])
def agree_to_events(req: func.HttpRequest) -> func.HttpResponse:
    """The handshake of CloudEvents: Event Grid asks whether it may send. Nobody else may."""
    if req.headers.get("WebHook-Request-Origin", "").strip().lower() != ORIGIN:
        return answers.problem(403, f"events are taken from {ORIGIN}")
    allowed = {"WebHook-Allowed-Origin": ORIGIN, "WebHook-Allowed-Rate": "*", "Allow": "OPTIONS, POST"}
    return func.HttpResponse(b"", status_code=200, headers={**answers.SECURITY, **allowed})


@bp.route("events", methods=["POST"])
def accept_events(req: func.HttpRequest) -> func.HttpResponse:
    """One event or several, as CloudEvents 1.0 or in Event Grid's own schema.

    200 when each is done, quarantined or none of ours. What we cannot take now is 503, never 4xx: Event Grid would not
    send it again. 400 is for what can never be read.
    """
    payload = req.get_body()
    if len(payload) > LARGEST:
        return answers.problem(413, f"at most {LARGEST} bytes, not {len(payload)}")
    try:
        said = msgspec.json.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as problem:
        return answers.problem(400, f"not JSON: {problem}")
    events = said if isinstance(said, list) else [said]
    if len(events) > MANY or not all(isinstance(event, dict) for event in events):
        return answers.problem(400, f"expected an event, or an array of at most {MANY}")
    if req.headers.get("aeg-event-type", "").strip().lower() == "subscriptionvalidation":
        return _validated(events)
    try:
        taken = sum(map(_take, events))
    except (Misconfigured, Retry) as later:
        return answers.problem(503, str(later))
    return answers.data({"events": len(events), "taken": taken})


def _validated(events: list[dict[str, Any]]) -> func.HttpResponse:
    """The handshake of Event Grid's own schema: the code goes back, and whatever else came is left alone. The address
    that comes with it is never called."""
    data = events[0].get("data") if len(events) == 1 and events[0].get("eventType") == VALIDATION else None
    code = data.get("validationCode") if isinstance(data, dict) else None
    if not isinstance(code, str) or not re.fullmatch(r"[A-Za-z0-9-]{1,128}", code):
        return answers.problem(400, "a handshake is one validation event, alone")
    return answers.data({"validationResponse": code})


def _take(event: dict[str, Any]) -> bool:
    """Hand an event to its function; False for one that is nobody's. Raises Retry, Misconfigured."""
    kind = event.get("type", event.get("eventType"))
    name = next((n for n, types in wire.SUBSCRIPTIONS.items() if isinstance(kind, str) and kind in types), None)
    if name is None:
        return False
    if not all(isinstance(event.get(field), str) for field in ("id", "source" if "specversion" in event else "topic")):
        wire.quarantine("events", msgspec.json.encode(event), "an event has an id and a source")
        return False
    if not isinstance(event.get("subject") or "", str):
        wire.quarantine("events", msgspec.json.encode(event), "an event's subject is text")
        return False
    try:
        message = (
            func.get_binding_registry()
            .get("eventGridTrigger")
            .decode(Datum(msgspec.json.encode(_cloud_event(event)).decode(), "json"), trigger_metadata={})
        )
    except (ValueError, TypeError) as problem:
        wire.quarantine("events", msgspec.json.encode(event), f"not an event: {problem}")
        return False
    HANDLERS[name](message)
    return True


def _cloud_event(event: dict[str, Any]) -> dict[str, Any]:
    """The same in the one schema that our functions take."""
    if "specversion" in event:
        return event
    names = {"id": "id", "topic": "source", "eventType": "type", "subject": "subject", "eventTime": "time"}
    return {"specversion": "1.0", "data": event.get("data"), **{n: event[o] for o, n in names.items() if o in event}}
