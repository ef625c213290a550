"""Events out on an Azure Event Grid topic. Events in come by Functions triggers, or to `functions.events`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from adapters import cloudevents
from adapters.azure.errors import named
from triggers.errors import Refused

if TYPE_CHECKING:
    from adapters.azure.identity import Identity
    from adapters.azure.settings import Settings

REQUEST_BYTES = 900 * 1024
"""Of events in a request, which may have 1 MB."""

_PATIENCE = {"retry_total": 3, "retry_backoff_factor": 0.3, "connection_timeout": 10, "read_timeout": 30}


class EventGridTopic:
    """Port Topic. An answer that is lost is asked for again, so that an event may be published twice: by its id it is
    known for the same."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self._settings, self._identity = settings, identity

    def publish(self, events: Sequence[Mapping[str, Any]]) -> None:
        """In as few requests as hold them; after an error some may have been published, and are again with the rest."""
        from azure.core.messaging import CloudEvent

        for event in events:
            cloudevents.encoded(event)
        sizes = [len(json.dumps(event)) for event in events]  # as the SDK writes them
        try:
            made: list[Any] = [CloudEvent.from_dict(dict(event)) for event in events]
        except ValueError as error:
            raise Refused(f"not a CloudEvent: {error}") from error
        for part in _parts(made, sizes):
            with named("Event Grid did not take the events"):
                self._client.send(part)

    @cached_property
    def _client(self) -> Any:
        """As the app's identity, or by the topic's key where the topic is an emulator's."""
        from azure.core.credentials import AzureKeyCredential
        from azure.eventgrid import EventGridPublisherClient

        key = self._settings.topic_key
        credential = AzureKeyCredential(key) if key else self._identity.credential
        patience: dict[str, Any] = {**_PATIENCE}
        return EventGridPublisherClient(self._settings.topic, credential, **patience)


def _parts(events: Sequence[Any], sizes: Sequence[int]) -> Iterator[list[Any]]:
    """Consecutive events, as many together as fit; one that is too large is a part of its own.

    >>> list(_parts("abc", [500_000, 500_000, 1]))
    [['a'], ['b', 'c']]
    """
    part: list[Any] = []
    total = 0
    for event, size in zip(events, sizes, strict=True):
        if part and total + size > REQUEST_BYTES:
            yield part
            part, total = [], 0
        part.append(event)
        total += size
    if part:
        yield part
