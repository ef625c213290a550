"""Foreign payload -> our fact: the only reader of foreign schemas, and the fence around poison."""

from __future__ import annotations

import base64
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import azure.functions as func
import msgspec

from adapters import claims
from functions import host
from triggers import codec, events
from triggers.errors import Refused
from triggers.lifecycle import IllegalTransition
from triggers.ports import Change
from triggers.quarantine import keep

log = logging.getLogger("driftloop")

JOB_ENDED = ("driftloop.job.ended",)
DEPLOYMENT_REQUESTED = ("driftloop.deployment.requested",)
TELEMETRY = ("driftloop.telemetry",)
WORKSPACE = (
    "Microsoft.MachineLearningServices.RunCompleted",
    "Microsoft.MachineLearningServices.RunStatusChanged",
    "Microsoft.MachineLearningServices.ModelRegistered",
    "Microsoft.MachineLearningServices.DatasetDriftDetected",
    "Microsoft.Resources.ResourceWriteSuccess",
)
UPLOADED = ("Microsoft.Storage.BlobCreated",)

SUBSCRIPTIONS: Mapping[str, tuple[str, ...]] = {
    "job_ended": JOB_ENDED,
    "forward_deployment": DEPLOYMENT_REQUESTED,
    "hear_telemetry": TELEMETRY,
    "workspace_changed": WORKSPACE,
    "hear_upload": UPLOADED,
}
"""Event Grid subscriptions: function -> the event types that it is sent."""


def body(message: func.ServiceBusMessage) -> bytes:
    """What a message says; what was too large for the queue is fetched. Raises Refused."""
    return claims.collect(host.ports().blobs, message.get_body())


def data(message: func.CloudEvent) -> bytes:
    """What an event says, as bytes to keep."""
    return msgspec.json.encode(message.get_json())


def event_id(message: func.CloudEvent) -> str:
    """What names an event: an id is its source's own."""
    return codec.digest(msgspec.json.encode([message.source, message.id]))


def batch(message: func.CloudEvent) -> bytes:
    """The envelope that an event brings: as `data_base64` or as text, byte by byte what its site has signed, or as an
    object, which can bear no signature. Raises Refused."""
    given = message.get_json()
    encoded = message.extension_attrs.get("data_base64")
    try:
        if encoded is not None:
            return base64.b64decode(encoded, validate=True)
        if isinstance(given, str):
            return given.encode()
    except (ValueError, TypeError) as problem:
        raise Refused(f"not an envelope: {problem}") from problem
    if not isinstance(given, Mapping):
        raise Refused("the event brings no envelope")
    return msgspec.json.encode(given)


def event(body: bytes) -> events.Event:
    """A fact for a run. Raises Refused."""
    found: events.Event = codec.decode_as(body, events.AnyEvent, "Event")
    return found


def change(data: Any) -> Change:
    """A deployment request, from the data of its CloudEvent or the body of its message. Raises Refused."""
    try:
        if isinstance(data, bytes):
            return msgspec.json.decode(data, type=Change)
        return msgspec.convert(data, type=Change)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise Refused(f"not a deployment request: {problem}") from problem


def job(data: Any) -> str:
    """The job that an event says has ended. Raises Refused."""
    name = data.get("name") if isinstance(data, Mapping) else None
    if not isinstance(name, str) or not name:
        raise Refused("the event names no job")
    return name


def uploaded(data: Any) -> str:
    """The address of the blob that an event says was created. Raises Refused."""
    url = data.get("url") if isinstance(data, Mapping) else None
    if not isinstance(url, str) or not url:
        raise Refused("the event names no blob")
    return url


def isolated(queue: str, body: Callable[[Any], bytes]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A handler whose poison is quarantined with its reason, so that it is not retried and holds nobody up.

    What may succeed later (Retry), or is no fault of the message (Misconfigured), is raised, and comes again. The
    worker cannot settle messages, so returning is completing.
    """

    def wrap(handler: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(handler)
        def guarded(message: Any) -> None:
            try:
                handler(message)
            except (Refused, IllegalTransition) as problem:
                quarantine(queue, body(message), str(problem))

        return guarded

    return wrap


def quarantine(queue: str, body: bytes, reason: str) -> None:
    """Keep bytes that no handler will take, and why."""
    keep(host.ports(), body, reason, batch=queue)
    log.warning("quarantined a message of %s: %s", queue, reason)
