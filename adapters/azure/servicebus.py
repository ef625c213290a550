"""Queues on Azure Service Bus: what the app sends. What it receives comes by Functions triggers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from adapters import claims
from adapters.queues import check
from triggers.errors import Refused, Retry
from triggers.ports import Blobs, Clock, Message, Queue

if TYPE_CHECKING:
    from adapters.azure.identity import Identity
    from adapters.azure.settings import Settings

LARGEST = 240 * 1024
"""Bytes of a body that is sent as it is: the Standard tier takes 256 KB a message, with its headers."""

TIMEOUT_S = 20.0
"""Of one attempt; without it, a handler whose peer says nothing is waited for without end."""


def connect(settings: Settings, identity: Identity, timeout_s: float = TIMEOUT_S, **options: Any) -> Any:
    """A ServiceBusClient: as the app's identity, or by a connection string where there is an emulator."""
    from azure.servicebus import ServiceBusClient

    again = {"retry_total": 2, "retry_backoff_factor": 0.2, "retry_backoff_max": 5.0}
    patience: dict[str, Any] = {**again, "try_timeout": timeout_s, **options}
    if settings.service_bus:
        return ServiceBusClient.from_connection_string(settings.service_bus, **patience)
    return ServiceBusClient(settings.namespace, identity.credential, **patience)


def names(settings: Settings) -> Mapping[Queue, str]:
    """What each queue is called in the namespace."""
    return {
        "telemetry": settings.telemetry_queue,
        "runs": settings.runs_queue,
        "effects": settings.effects_queue,
        "deployments": settings.deployments_queue,
    }


class ServiceBusBus:
    """Port Bus. The queues are expected to detect duplicates: an answer that is lost is sent again, with the same id.

    Handlers are kept open, as opening one takes longer than sending; after an error a new one is opened. A body that
    no message could hold goes to a blob (`adapters.claims`).
    """

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        blobs: Blobs,
        clock: Clock,
        timeout_s: float = TIMEOUT_S,
        **options: Any,
    ) -> None:
        """`options` go to ServiceBusClient: another address of the namespace, its certificate."""
        self._settings, self._identity, self._timeout_s, self._options = settings, identity, timeout_s, options
        self._blobs, self._clock = blobs, clock
        self._lock = threading.Lock()
        self._client: Any = None
        self._turns: dict[str, threading.Lock] = {}
        self._senders: dict[str, Any] = {}

    def send(self, queue: Queue, messages: Sequence[Message]) -> None:
        """In order within each session; after an error some may have been sent, and are sent again with the rest."""
        check(queue, messages)
        if messages:
            with self._sender(queue) as sender:
                for session in dict.fromkeys(message.session for message in messages):
                    _send(sender, [self._made(message) for message in messages if message.session == session])

    def close(self) -> None:
        for queue in list(self._senders):
            self._drop(queue)
        if self._client is not None:
            self._client.close()
            self._client = None

    @contextmanager
    def _sender(self, queue: Queue) -> Iterator[Any]:
        """The queue's sender, for one thread at a time; foreign errors become ours."""
        from azure.core.exceptions import AzureError
        from azure.servicebus.exceptions import MessageSizeExceededError

        with self._lock:
            turn = self._turns.setdefault(queue, threading.Lock())
        with turn:
            try:
                if queue not in self._senders:
                    self._senders[queue] = self._opened().get_queue_sender(names(self._settings)[queue])
                yield self._senders[queue]
            except MessageSizeExceededError as error:
                raise Refused(f"a message is too large for queue {queue}: {error}", queue=queue) from error
            except (AzureError, OSError) as error:
                self._drop(queue)
                raise Retry(f"queue {queue}: {type(error).__name__}: {error}", queue=queue) from error

    def _opened(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = connect(self._settings, self._identity, self._timeout_s, **self._options)
            return self._client

    def _drop(self, queue: str) -> None:
        sender = self._senders.pop(queue, None)
        if sender is not None:
            with suppress(Exception):
                sender.close()

    def _made(self, message: Message) -> Any:
        from azure.servicebus import ServiceBusMessage

        properties: dict[Any, Any] = {**message.properties}
        body = message.body
        if len(body) > LARGEST:
            body = claims.leave(self._blobs, body, self._clock.now())
        return ServiceBusMessage(
            body,
            message_id=message.id,
            session_id=message.session or None,
            application_properties=properties,
            scheduled_enqueue_time_utc=message.at,
        )


def _send(sender: Any, messages: Sequence[Any]) -> None:
    """In as few transfers as hold them."""
    batch = sender.create_message_batch()
    for message in messages:
        try:
            batch.add_message(message)
        except ValueError:  # full
            if not len(batch):
                raise
            sender.send_messages(batch)
            batch = sender.create_message_batch()
            batch.add_message(message)
    sender.send_messages(batch)
