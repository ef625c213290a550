"""What the worker would hand to a handler, decoded by the library's own converters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import azure.functions as func
from azure.functions.meta import Datum

from adapters.local.bus import Delivery


def _converter(trigger: str) -> Any:
    return func.get_binding_registry().get(trigger)


def _json(value: Any) -> Datum:
    return Datum(json.dumps(value), "json")


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def message(one: Delivery, *, binary: bool) -> Any:
    """A ServiceBusMessage. Unless the binding is binary the body passes through text, as it does in Azure."""
    body = Datum(one.body, "bytes") if binary else Datum(one.body.decode("utf-8", "replace"), "string")
    properties = _json(dict(one.properties))
    metadata = {
        "MessageId": Datum(one.id, "string"),
        "LockToken": Datum(one.token, "string"),
        "DeliveryCount": _json(one.count),
        "SequenceNumber": _json(one.sequence),
        "EnqueuedTimeUtc": Datum(_stamp(one.sent), "string"),
        "UserProperties": properties,
        "ApplicationProperties": properties,
    }
    if one.session:
        metadata["SessionId"] = Datum(one.session, "string")
    return _converter("serviceBusTrigger").decode(body, trigger_metadata=metadata)


def messages(many: Sequence[Delivery], *, binary: bool) -> Any:
    """A list of ServiceBusMessages, for cardinality many."""
    if binary:
        body = Datum(SimpleNamespace(bytes=[m.body for m in many]), "collection_bytes")
    else:
        body = Datum(SimpleNamespace(string=[m.body.decode("utf-8", "replace") for m in many]), "collection_string")
    properties = [dict(m.properties) for m in many]
    metadata = {
        "MessageIdArray": _texts([m.id for m in many]),
        "SessionIdArray": _texts([m.session for m in many]),
        "LockTokenArray": _texts([m.token for m in many]),
        "DeliveryCountArray": _numbers([m.count for m in many]),
        "SequenceNumberArray": _numbers([m.sequence for m in many]),
        "EnqueuedTimeUtcArray": _texts([_stamp(m.sent) for m in many]),
        "UserPropertiesArray": _json(properties),
        "ApplicationPropertiesArray": _texts(properties),
    }
    return _converter("serviceBusTrigger").decode(body, trigger_metadata=metadata)


def _texts(values: list[Any]) -> Datum:
    return Datum(SimpleNamespace(string=values), "collection_string")


def _numbers(values: list[int]) -> Datum:
    return Datum(SimpleNamespace(sint64=values), "collection_sint64")


def event(one: Mapping[str, Any]) -> Any:
    """A CloudEvent; an EventGridEvent where it is in that schema."""
    return _converter("eventGridTrigger").decode(_json(dict(one)), trigger_metadata={})


def timer(past_due: bool, last: datetime, due: datetime) -> Any:
    """A TimerRequest."""
    status = {"Last": _stamp(last), "Next": _stamp(due), "LastUpdated": _stamp(last)}
    said = {"Schedule": {"AdjustForDST": True}, "ScheduleStatus": status, "IsPastDue": past_due}
    return _converter("timerTrigger").decode(_json(said), trigger_metadata={})


def request(method: str, url: str, headers: Mapping[str, str], params: Mapping[str, str], body: bytes) -> Any:
    """An HttpRequest. `params` are the route's; a query name said twice arrives joined by commas."""
    query: dict[str, str] = {}
    for name, value in parse_qsl(url.partition("?")[2].partition("#")[0], keep_blank_values=True, max_num_fields=1000):
        query[name] = f"{query[name]},{value}" if name in query else value
    said = {
        "method": Datum(method, "string"),
        "url": Datum(url, "string"),
        "headers": {k: Datum(v, "string") for k, v in headers.items()},
        "query": {k: Datum(v, "string") for k, v in query.items()},
        "params": {k: Datum(v, "string") for k, v in params.items()},
        "body": Datum(body, "bytes"),
    }
    return _converter("httpTrigger").decode(Datum(said, "http"), trigger_metadata={})


def response(answer: Any) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and body of what an HTTP handler returned; raises NotImplementedError for what is no response."""
    if answer is None:
        return 204, [], b""
    datum = func.get_binding_registry().get("http").encode(answer, expected_type=None)
    if datum.type == "string":
        return 200, [("content-type", "text/plain; charset=utf-8")], datum.value.encode()
    said = datum.value
    headers = [(k, v.value) for k, v in said["headers"].items()]
    for cookie in said["cookies"] or ():
        headers += [("set-cookie", morsel.OutputString()) for morsel in cookie.values()]
    return int(said["status_code"].value), headers, said["body"].value
