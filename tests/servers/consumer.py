"""The consumer's side of Service Bus through its SDK, as the local host and the contract suite want it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusClient, ServiceBusSubQueue
from azure.servicebus.exceptions import (
    MessageLockLostError,
    OperationTimeoutError,
    ServiceBusConnectionError,
    ServiceBusError,
    SessionLockLostError,
)

from adapters.local.bus import DeadLetter, Delivery
from adapters.queues import SESSIONS

PEEKED = 1000
LOST = (MessageLockLostError, SessionLockLostError)


@dataclass(frozen=True)
class Wait:
    """Seconds: for a message, and for a session that has one."""

    message: float = 0.2
    session: float = 1.0


class Consumer:
    """Receives and settles. Of a session at most one message is out; a session is kept until its lock is lost.

    `ready(queue, session)` may know that there is nothing to receive, which is quicker than to ask.
    """

    def __init__(
        self, client: ServiceBusClient, *, ready: Callable[..., bool] = lambda *_: True, wait: Wait = Wait()
    ) -> None:
        self._client, self._ready, self._wait = client, ready, wait
        self._plain: dict[str, Any] = {}
        self._sessions: dict[str, dict[str, Any]] = {}
        self._dead: dict[str, Any] = {}
        self._out: dict[str, tuple[Any, Any]] = {}

    def receive(self, queue: str, max_count: int = 1) -> list[Delivery]:
        return self._of_sessions(queue, max_count) if queue in SESSIONS else self._of_queue(queue, max_count)

    def complete(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return self._each(deliveries, lambda receiver, message: receiver.complete_message(message))

    def abandon(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return self._each(deliveries, lambda receiver, message: receiver.abandon_message(message))

    def renew(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        def renew(receiver: Any, message: Any) -> None:
            if receiver.session:
                receiver.session.renew_lock()
            else:
                receiver.renew_message_lock(message)

        return self._each(deliveries, renew, settled=False)

    def dead_letter(self, delivery: Delivery, reason: str, description: str = "") -> list[Delivery]:
        return self._each(
            [delivery],
            lambda receiver, message: receiver.dead_letter_message(
                message, reason=reason, error_description=description
            ),
        )

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:
        """The newest first. When a message died, Service Bus does not say."""
        if queue not in self._dead:
            dead = self._client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER)
            self._dead[queue] = dead.__enter__()
        found = []
        for message in self._dead[queue].peek_messages(PEEKED, sequence_number=1):
            told = _delivery(queue, message)
            properties = {k: v for k, v in told.properties.items() if not k.startswith("DeadLetter")}
            why = message.dead_letter_reason or "", message.dead_letter_error_description or ""
            whole = told.queue, told.sequence, told.id, told.body, told.session, properties, told.sent
            found.append(DeadLetter(*whole, message.delivery_count or 0, told.sent, *why))
        return found[::-1][:limit]

    def recover(self) -> None:
        """What another consumer had locked comes when its locks expire."""

    def close(self) -> None:
        held = [receiver for of_queue in self._sessions.values() for receiver in of_queue.values()]
        _close((*self._plain.values(), *self._dead.values(), *held))
        self._plain, self._dead, self._sessions, self._out = {}, {}, {}, {}

    def _of_queue(self, queue: str, max_count: int) -> list[Delivery]:
        if not self._ready(queue):
            return []
        if queue not in self._plain:
            self._plain[queue] = self._client.get_queue_receiver(queue).__enter__()
        return self._taken(queue, self._plain[queue], max_count)

    def _of_sessions(self, queue: str, max_count: int) -> list[Delivery]:
        held = self._sessions.setdefault(queue, {})
        busy = {message.session_id for _, message in self._out.values()}
        found: list[Delivery] = []
        for session in [s for s in held if s not in busy and self._ready(queue, s)][:max_count]:
            try:
                found += self._taken(queue, held[session], 1)
            except (SessionLockLostError, ServiceBusConnectionError):
                _close([held.pop(session)])
        while len(found) < max_count and (receiver := self._next_session(queue)):
            held[receiver.session.session_id] = receiver
            found += self._taken(queue, receiver, 1)
        return sorted(found, key=lambda d: d.sequence)

    def _next_session(self, queue: str) -> Any:
        if not self._ready(queue):
            return None
        receiver = self._client.get_queue_receiver(
            queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=self._wait.session
        )
        try:
            return receiver.__enter__()
        except OperationTimeoutError:
            _close([receiver])
            return None

    def _taken(self, queue: str, receiver: Any, max_count: int) -> list[Delivery]:
        messages = receiver.receive_messages(max_count, max_wait_time=self._wait.message)
        deliveries = [_delivery(queue, message) for message in messages]
        for delivery, message in zip(deliveries, messages, strict=True):
            self._out[delivery.token] = receiver, message
        return deliveries

    def _each(
        self, deliveries: Sequence[Delivery], act: Callable[[Any, Any], object], *, settled: bool = True
    ) -> list[Delivery]:
        lost = []
        for delivery in deliveries:
            held = self._out.get(delivery.token)
            try:
                if held is None:
                    lost.append(delivery)
                    continue
                act(*held)
            except LOST:
                self._out.pop(delivery.token)
                lost.append(delivery)
            if settled:
                self._out.pop(delivery.token, None)
        return lost


def _delivery(queue: str, message: Any) -> Delivery:
    until = message.locked_until_utc if message.lock_token else None
    return Delivery(
        queue=queue,
        sequence=message.sequence_number,
        id=message.message_id,
        body=b"".join(message.body),
        session=message.session_id or "",
        properties={_text(k): _text(v) for k, v in (message.application_properties or {}).items()},
        sent=message.enqueued_time_utc,
        count=(message.delivery_count or 0) + 1,
        token=str(message.lock_token),
        locked_until=until or datetime.fromtimestamp(0, UTC),
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _close(receivers: Iterable[Any]) -> None:
    """At once: to close one takes a second, of waiting."""

    def close(receiver: Any) -> None:
        with suppress(ServiceBusError):
            receiver.close()

    threads = [threading.Thread(target=close, args=[receiver], daemon=True) for receiver in receivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
