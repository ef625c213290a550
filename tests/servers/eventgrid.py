"""An Event Grid topic for tests: takes CloudEvents as the service does, and delivers them to webhooks.

What it holds and when it tries again is the local topic's (`adapters.local.topic`), whose delivering side the local
host drives for Event Grid triggers. Webhooks have to pass the handshake first.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from adapters.local.topic import SqliteTopic
from tests.servers.https import Handler, serving
from triggers.errors import Refused

KEY = "the-topic-key"
ORIGIN = "eventgrid.azure.net"
REQUEST_BYTES = 1024 * 1024
NEVER_AGAIN = (400, 401, 403, 413)
"""What a webhook answers so is not tried again: dead-lettered, or dropped."""

How = Literal["drop", "done, then drop", "done, then 503"] | int
"""drop: no answer. A number: that status, and nothing done. done, then: it was published all the same."""


@dataclass
class EventGrid:
    """A topic over https. `topic` holds what was published, where one is given; `requests` what came."""

    url: str = ""
    topic: SqliteTopic | None = None
    tokens: Collection[str] = ()
    faults: deque[How] = field(default_factory=deque)
    requests: list[Mapping[str, Any]] = field(default_factory=list)

    def publish(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
        """Status and words of the answer."""
        parts = urlsplit(path)
        if parts.path != "/api/events" or "api-version" not in parse_qs(parts.query):
            return 404, "no such topic"
        bearer = headers.get("Authorization", "").removeprefix("Bearer ")
        if headers.get("aeg-sas-key") != KEY and bearer not in self.tokens:
            return 401, "neither the key nor a token that is known"
        if not headers.get("Content-Type", "").startswith("application/cloudevents-batch+json"):
            return 400, "the topic's schema is CloudEvents 1.0"
        if len(body) > REQUEST_BYTES:
            return 413, f"{len(body)} bytes"
        try:
            events = json.loads(body)
            if not isinstance(events, list):
                return 400, "expected an array"
            assert self.topic is not None
            self.topic.publish(events)
        except (ValueError, Refused) as problem:
            return 400, str(problem)
        self.requests.append({"events": len(events), "bytes": len(body)})
        return 200, ""


@contextmanager
def running(cert: str, key: str, tokens: Collection[str] = ()) -> Iterator[EventGrid]:
    """On a free port of 127.0.0.1, with this certificate; believes its key and these tokens."""
    grid = EventGrid(tokens=tokens)

    class Topic(Handler):
        def do_POST(self) -> None:  # noqa: N802
            body = self.read()
            fault = grid.faults.popleft() if grid.faults else None
            status, words = fault, "on purpose"
            if not isinstance(fault, int) and fault != "drop":
                status, words = grid.publish(self.path, self.headers, body)
            if fault == "done, then 503":
                status = 503
            if fault in ("drop", "done, then drop"):
                self.close_connection = True
                return
            assert isinstance(status, int)
            said = b"" if status == 200 else json.dumps({"error": {"code": str(status), "message": words}}).encode()
            self.answer(status, said)

    with serving(Topic, cert, key) as address:
        grid.url = f"{address}/api/events"
        yield grid


class HandshakeFailed(Exception):
    """The webhook did not prove that it wants the events."""


@dataclass
class Webhook:
    """A subscription whose events go to an HTTP endpoint, in one of the two schemas."""

    topic: SqliteTopic
    name: str
    url: str
    schema: Literal["cloud", "eventgrid"] = "cloud"
    answered: list[int] = field(default_factory=list)

    def subscribe(self, types: tuple[str, ...] = ()) -> None:
        """The handshake, then the subscription. Raises HandshakeFailed."""
        (self._asked_for_origin if self.schema == "cloud" else self._asked_for_code)()
        self.topic.subscribe(self.name, types)

    def deliver(self) -> None:
        """Send what is due, once; what is refused for good is a dead letter, anything else is tried later."""
        for handout in self.topic.pending(self.name):
            status, _, _ = self.post("Notification", [dict(handout.event)])
            self.answered.append(status)
            if 200 <= status < 300:
                self.topic.done([handout])
            elif status in NEVER_AGAIN:
                self.topic.dead_letter(handout, str(status))
            else:
                self.topic.retry(handout, str(status))

    def post(self, kind: str, events: list[dict[str, Any]]) -> tuple[int, Mapping[str, str], bytes]:
        batch = self.schema == "cloud" and len(events) == 1
        body = events[0] if batch else events if self.schema == "cloud" else [*map(_in_event_grid_schema, events)]
        media = "application/cloudevents+json; charset=utf-8" if batch else "application/json; charset=utf-8"
        headers = {"Content-Type": media, "aeg-event-type": kind, "aeg-delivery-count": "0"}
        if self.schema == "cloud":
            headers["WebHook-Request-Origin"] = ORIGIN
        return call("POST", self.url, headers, json.dumps(body).encode())

    def _asked_for_origin(self) -> None:
        status, headers, _ = call("OPTIONS", self.url, {"WebHook-Request-Origin": ORIGIN})
        if status != 200 or headers.get("webhook-allowed-origin") not in (ORIGIN, "*"):
            raise HandshakeFailed(f"{status}, allowed origin: {headers.get('webhook-allowed-origin')}")

    def _asked_for_code(self) -> None:
        code = "512d38b6-c7b8-40c8-89fe-f46f9e9622b6"
        status, _, said = call("POST", self.url, VALIDATION_HEADERS, validation(code))
        if status != 200 or json.loads(said).get("validationResponse") != code:
            raise HandshakeFailed(f"{status}: {said[:200]!r}")


VALIDATION_HEADERS = {"Content-Type": "application/json; charset=utf-8", "aeg-event-type": "SubscriptionValidation"}


def validation(code: str, url: str = "https://rp.eventgrid.azure.net/validate") -> bytes:
    """The body of a handshake in Event Grid's own schema."""
    event = {
        "id": "2d1781af-3a4c-4d7c-bd0c-e34b19da4e66",
        "topic": "/subscriptions/S/resourceGroups/G/providers/Microsoft.EventGrid/topics/T",
        "subject": "",
        "data": {"validationCode": code, "validationUrl": url},
        "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
        "eventTime": "2026-03-01T00:00:00Z",
        "metadataVersion": "1",
        "dataVersion": "2",
    }
    return json.dumps([event]).encode()


def call(method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> tuple[int, Mapping[str, str], bytes]:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=30)
    try:
        connection.request(method, parts.path, body or None, dict(headers))
        found = connection.getresponse()
        return found.status, {k.lower(): v for k, v in found.getheaders()}, found.read()
    finally:
        connection.close()


def _in_event_grid_schema(event: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": event["id"],
        "topic": "/subscriptions/S/resourceGroups/G/providers/Microsoft.EventGrid/topics/T",
        "subject": event.get("subject", ""),
        "eventType": event["type"],
        "eventTime": event.get("time", "2026-03-01T00:00:00Z"),
        "data": event.get("data"),
        "dataVersion": "1.0",
        "metadataVersion": "1",
    }
