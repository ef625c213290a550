"""What every topic asks of what is published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from triggers.errors import Refused

EVENT_BYTES = 1024 * 1024

_REQUIRED = ("id", "source", "type")


def encoded(event: Mapping[str, Any]) -> bytes:
    """A CloudEvent 1.0 as JSON. Raises Refused for what is none, or is larger than 1 MiB."""
    if event.get("specversion") != "1.0":
        raise Refused("not a CloudEvent: specversion must be 1.0", id=event.get("id"))
    for name in _REQUIRED:
        if not isinstance(event.get(name), str) or not event[name]:
            raise Refused(f"not a CloudEvent: {name} must be text", id=event.get("id"), field=name)
    try:
        made = msgspec.json.encode(event)
    except (TypeError, ValueError) as error:
        raise Refused(f"not a CloudEvent: {error}", id=event.get("id")) from error
    if len(made) > EVENT_BYTES:
        raise Refused(f"an event of {len(made)} bytes, {EVENT_BYTES} allowed", id=event.get("id"))
    return made
