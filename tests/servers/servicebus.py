"""Azure Service Bus for tests: its AMQP 1.0 protocol on Qpid Proton, over queues in memory, with faults on demand.

It speaks what azure-servicebus asks of it (claims-based security, links, settlement, sessions, the management node)
from a stack of its own. It shows the SDK against a reading of the protocol; the service has the last word.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import unquote

import pytest
from proton import (
    UNDESCRIBED,
    Array,
    Condition,
    Data,
    Delivery,
    Endpoint,
    Handler,
    Message,
    SSLDomain,
    Terminus,
    int32,
    symbol,
)
from proton import timestamp as amqp_time
from proton.reactor import Container

from tests.servers.queues import Entry, Queue

KEY_NAME, KEY = "RootManageSharedAccessKey", "SAS_KEY_VALUE"
LARGEST = 256 * 1024
"""Bytes of a message, as in the Standard tier."""

Where = Literal["attach", "token", "send", "settle", "request"]
How = Literal["drop", "done, then drop", "busy", "unauthorized", "silence", "done, then silence"]
"""drop: the connection is reset. busy: throttled. silence: no answer. done, then: it was carried out all the same."""

_MS = "com.microsoft:"
_DEAD = "/$deadletterqueue"
_MANAGED = "/$management"
_TICK_S = 0.02
_EPOCH_TICKS = 621_355_968_000_000_000
_DATA = 0x75


class Fault(Exception):
    """An AMQP error condition, as the service names it."""

    def __init__(self, condition: str, words: str, status: int = 400) -> None:
        super().__init__(words)
        self.condition, self.words, self.status = condition, words, status


class Silence(Exception):
    """No answer at all."""


class Peer(Handler):
    """Serves queues on 127.0.0.1 from a thread of its own.

    `clock` (seconds since 1970) is the time of locks, schedules and windows, so that a test may move it; how long
    somebody waits for a session is real time. `log` tells what was done.
    """

    def __init__(
        self,
        queues: Mapping[str, bool],
        clock: Callable[[], float] = time.time,
        *,
        certificate: tuple[str, str] | None = None,
        tokens: Sequence[str] = (),
    ) -> None:
        """`queues`: whether each has sessions. `certificate`: paths of chain and key, for TLS. `tokens`: bearer tokens
        that are believed, beside signatures with the shared key."""
        super().__init__()
        self.log: list[tuple[str, str]] = []
        self._clock, self._certificate, self._tokens = clock, certificate, tokens
        self._queues: dict[str, Queue] = {}
        for name, sessions in queues.items():
            dead = Queue(name + _DEAD, duplicates=0)
            self._queues |= {name: Queue(name, sessions, dead=dead), dead.name: dead}
        self._consumers: dict[Any, _Consumer] = {}
        self._waiting: dict[Any, _Waiting] = {}
        self._replies: dict[tuple[str, str], Any] = {}
        self._faults: dict[Where, deque[How]] = {}
        self._ready, self._ended = threading.Event(), threading.Event()
        self._container = Container(self)

    # --- for the test

    @property
    def connection_string(self) -> str:
        return (
            f"Endpoint=sb://127.0.0.1:{self.port};SharedAccessKeyName={KEY_NAME};SharedAccessKey={KEY};"
            "UseDevelopmentEmulator=true;"
        )

    def fail(self, where: Where, *how: How) -> None:
        """The next calls of this kind end so, one after the other."""
        self._faults.setdefault(where, deque()).extend(how)

    def heal(self) -> None:
        """No more faults."""
        self._faults.clear()

    @property
    def failed(self) -> bool:
        """Whether every fault that was asked for has happened."""
        return not any(self._faults.values())

    def queue(self, name: str) -> Queue:
        return self._queues[name]

    def ready(self, queue: str, session: str | None = None) -> bool:
        """Whether there may be something to receive: of this session, or (None) of the queue, or of a free session."""
        entries = [
            e for e in list(self._queues[queue].entries.values()) if e.state != "scheduled" or e.due <= self._now()
        ]
        if not self._queues[queue].sessions:
            return bool(entries)
        free = {e.session for e in entries} - self._queues[queue].locked_sessions.keys()
        return session in {e.session for e in entries} if session else bool(free)

    def clear(self) -> None:
        """Forget messages, ids and faults, so that the next test finds empty queues."""
        for queue in self._queues.values():
            queue.entries.clear()
            queue.locked_sessions.clear()
            queue._seen.clear()
        self.heal()
        self.log.clear()

    @contextmanager
    def running(self) -> Iterator[Peer]:
        thread = threading.Thread(target=self._container.run, name="service-bus-peer", daemon=True)
        thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the Service Bus peer did not start")
        try:
            yield self
        finally:
            self._ended.set()
            thread.join(10)

    # --- the reactor: connections, time

    def on_reactor_init(self, event: Any) -> None:
        domain = None
        if self._certificate:
            domain = SSLDomain(SSLDomain.MODE_SERVER)
            domain.set_credentials(*self._certificate, None)
        self._acceptor = self._container.listen("127.0.0.1:0", domain)
        self.port: int = self._acceptor._selectable._delegate.getsockname()[1]
        self._container.schedule(_TICK_S, self)
        self._ready.set()

    def on_timer_task(self, event: Any) -> None:
        if self._ended.is_set():
            self._acceptor.close()
            self._container.stop()
            return
        for link, waiting in list(self._waiting.items()):
            if not self._admit(link, waiting) and waiting.until <= time.monotonic():
                del self._waiting[link]
                _refuse(link, Fault(_MS + "timeout", "no session is free"))
        for queue in self._queues.values():
            self._pump(queue)
        self._container.schedule(_TICK_S, self)

    def on_connection_remote_open(self, event: Any) -> None:
        event.connection.container = "service-bus-peer"
        event.connection.open()

    def on_session_remote_open(self, event: Any) -> None:
        event.session.incoming_capacity = 1 << 20
        event.session.open()

    def on_session_remote_close(self, event: Any) -> None:
        event.session.close()

    def on_connection_remote_close(self, event: Any) -> None:
        self.on_transport_closed(event)
        event.connection.close()

    def on_transport_closed(self, event: Any) -> None:
        for link in [link for link in (*self._consumers, *self._waiting) if link.connection == event.connection]:
            self._gone(link)

    def on_link_remote_close(self, event: Any) -> None:
        self._gone(event.link)
        event.link.close()

    def on_link_remote_detach(self, event: Any) -> None:
        self._gone(event.link)
        event.link.detach()

    def _gone(self, link: Any) -> None:
        """A session is free when its link goes; a message without one stays locked until its lock expires."""
        self._waiting.pop(link, None)
        consumer = self._consumers.pop(link, None)
        if consumer and consumer.session is not None:
            lock = consumer.queue.locked_sessions.get(consumer.session)
            if lock and lock[0] is link:
                consumer.queue.release_session(consumer.session, self._now())

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _fault(self, where: Where) -> How | None:
        planned = self._faults.get(where)
        return planned.popleft() if planned else None

    # --- links

    def on_link_remote_open(self, event: Any) -> None:
        link = event.link
        link.source.copy(link.remote_source)
        link.target.copy(link.remote_target)
        link.snd_settle_mode, link.rcv_settle_mode = link.remote_snd_settle_mode, link.remote_rcv_settle_mode
        address = _address((link.remote_source if link.is_sender else link.remote_target).address or "")
        fault = self._fault("attach") if address in self._queues else None
        if fault == "drop":
            _reset(link.connection)
        elif fault == "busy":
            _refuse(link, Fault(_MS + "server-busy", "The request was terminated because the server is busy."))
        elif fault == "silence":
            return
        elif address == "$cbs" or address.removesuffix(_MANAGED) in self._queues:
            self._attach(link, address)
        else:
            _refuse(link, Fault("amqp:not-found", f"The messaging entity '{address}' could not be found."))

    def _attach(self, link: Any, address: str) -> None:
        link.address = address
        if link.is_receiver:
            link.max_message_size = LARGEST
            link.open()
            link.flow(100)
        elif address == "$cbs" or address.endswith(_MANAGED):
            self._replies[link.connection.remote_container, address] = link
            link.open()
        else:
            self._subscribe(link, self._queues[address])

    def _subscribe(self, link: Any, queue: Queue) -> None:
        filters = _plain(_first(link.remote_source.filter))
        wants = _MS + "session-filter"
        if wants in filters:
            patience = _plain(link.remote_properties).get(_MS + "timeout", 65_000) / 1000
            waiting = _Waiting(queue, filters[wants], time.monotonic() + patience)
            if not self._admit(link, waiting):
                self._waiting[link] = waiting
        elif queue.sessions:
            _refuse(link, Fault("amqp:not-allowed", "This queue requires sessions: receive from a session."))
        else:
            self._consumers[link] = _Consumer(queue, None)
            link.open()

    def _admit(self, link: Any, waiting: _Waiting) -> bool:
        """Give a link the session that it waits for, or tell it that somebody else has it."""
        queue, now = waiting.queue, self._now()
        queue.settle_time(now, self._lost)
        session = queue.lock_session(waiting.wanted, link, now)
        if session is None:
            if waiting.wanted is not None:
                _refuse(link, Fault(_MS + "session-cannot-be-locked", f"session '{waiting.wanted}' is locked"))
                self._waiting.pop(link, None)
            return waiting.wanted is not None
        self._waiting.pop(link, None)
        self._consumers[link] = _Consumer(queue, session)
        link.source.filter.clear()
        link.source.filter.put_dict({symbol(_MS + "session-filter"): session})
        until = queue.locked_sessions[session][1]
        link.properties = {symbol(_MS + "locked-until-utc"): _EPOCH_TICKS + until * 10_000}
        link.open()
        return True

    def _lost(self, link: Any) -> None:
        """A session's lock has expired: its link goes."""
        self._consumers.pop(link, None)
        if link.state & Endpoint.LOCAL_ACTIVE:
            link.condition = _condition(Fault(_MS + "session-lock-lost", "The session lock has expired."))
            link.close()

    # --- from us

    def on_link_flow(self, event: Any) -> None:
        consumer = self._consumers.get(event.link)
        if consumer:
            self._pump(consumer.queue)
        if event.link.is_sender and event.link.drain_mode:
            event.link.drained()

    def _pump(self, queue: Queue) -> None:
        """Deliver what may be delivered to whoever has credit."""
        now = self._now()
        queue.settle_time(now, self._lost)
        for link, consumer in list(self._consumers.items()):
            while consumer.queue is queue and link.credit > 0 and (entry := queue.next(consumer.session)):
                queue.deliver(entry, link, now)
                assert entry.token is not None
                link.delivery(entry.token.bytes_le).token = entry.token
                link.stream(_encoded(entry))
                link.advance()

    def on_delivery(self, event: Any) -> None:
        link, delivery = event.link, event.delivery
        if link.is_sender:
            if delivery.remote_state:
                self._settle(link, delivery)
            elif delivery.settled:
                delivery.settle()
        elif delivery.readable and not delivery.partial:
            raw = link.recv(delivery.pending)
            link.advance()
            link.flow(1)
            self._received(link, delivery, raw)

    def _settle(self, link: Any, delivery: Any) -> None:
        consumer = self._consumers.get(link)
        if consumer is None:  # an answer of $cbs or $management
            delivery.settle()
            return
        queue, now = consumer.queue, self._now()
        queue.settle_time(now, self._lost)
        entry = queue.held(delivery.token)
        fault = self._fault("settle")
        if fault == "drop":
            _reset(link.connection)
            return
        if entry is None:
            _reject(delivery, Fault(_MS + "message-lock-lost", "The lock supplied is invalid."))
        else:
            self._decide(queue, entry, delivery, now)
            delivery.update(delivery.remote_state)
        if fault == "done, then drop":
            _reset(link.connection)
            return
        delivery.settle()
        self._pump(queue)

    def _decide(self, queue: Queue, entry: Entry, delivery: Any, now: int) -> None:
        outcome = delivery.remote_state
        names = {Delivery.ACCEPTED: "complete", Delivery.REJECTED: "dead-letter", Delivery.RELEASED: "release"}
        self.log.append((names.get(outcome, "abandon"), queue.name))
        if outcome == Delivery.ACCEPTED:
            queue.complete(entry)
        elif outcome == Delivery.REJECTED:
            condition = delivery.remote.condition
            said = _plain(condition.info if condition else None)
            queue.bury(entry, now, said.get("DeadLetterReason"), said.get("DeadLetterErrorDescription"))
        elif outcome == Delivery.RELEASED:
            queue.release(entry)
        else:
            queue.unlock(entry, now)

    # --- to us

    def _received(self, link: Any, delivery: Any, raw: bytes) -> None:
        kinds: dict[str, tuple[Where, Callable[[Any, bytes], None]]] = {"$cbs": ("token", self._authorize)}
        managed: tuple[Where, Callable[[Any, bytes], None]] = ("request", self._manage)
        taken: tuple[Where, Callable[[Any, bytes], None]] = ("send", self._take)
        where, act = kinds.get(link.address) or (managed if link.address.endswith(_MANAGED) else taken)
        fault = self._fault(where)
        try:
            if fault == "busy":
                raise Fault(_MS + "server-busy", "The request was terminated because the server is busy.")
            if fault == "unauthorized":
                raise Fault("amqp:unauthorized-access", "Unauthorized access. 'Send' claim(s) are required.", 401)
            if fault not in ("drop", "silence"):
                act(link, raw)
        except Fault as problem:
            if where == "send":
                _reject(delivery, problem)
                delivery.settle()
                return
            self._answer(link, _decoded(raw), problem.status, problem.condition, problem.words, {})
        if fault in ("drop", "done, then drop"):
            _reset(link.connection)
        elif fault not in ("silence", "done, then silence"):
            delivery.update(Delivery.ACCEPTED)
            delivery.settle()

    def _take(self, link: Any, raw: bytes) -> None:
        """Messages into a queue, all of a batch or none."""
        queue = self._queues[link.address]
        if len(raw) > LARGEST:
            raise Fault("amqp:link:message-size-exceeded", f"{len(raw)} bytes exceed the limit of {LARGEST} bytes.")
        messages = [_decoded(part) for part in _unbatched(raw)]
        if queue.sessions and not all(m.group_id for m in messages):
            raise Fault("amqp:not-allowed", "A session id is required.")
        now = self._now()
        queue.settle_time(now, self._lost)
        for message in messages:
            queue.put(message, now, _due(message))
        self.log.append((f"send {len(messages)}", queue.name))
        self._pump(queue)

    def _authorize(self, link: Any, raw: bytes) -> None:
        """put-token: a signature with the shared key, or a bearer token that is known."""
        request = _decoded(raw)
        if not (_signed(request.body) or request.body in self._tokens):
            raise Fault("amqp:unauthorized-access", "InvalidSignature: The token has an invalid signature.", 401)
        self.log.append(("token", str(request.properties.get("type"))))
        self._answer(link, request, 202, "", "Accepted", {})

    def _manage(self, link: Any, raw: bytes) -> None:
        """A request to a queue's management node."""
        request = _decoded(raw)
        operation = str(request.properties["operation"]).removeprefix(_MS)
        queue = self._queues[link.address.removesuffix(_MANAGED)]
        queue.settle_time(self._now(), self._lost)
        self.log.append((operation, queue.name))
        asked = _plain(request.body)
        if operation == "peek-message":
            found = [e for n, e in sorted(queue.entries.items()) if n >= asked["from-sequence-number"]]
            found = [e for e in found if asked.get("session-id") in (None, e.session)][: asked["message-count"]]
            body: dict[str, Any] = {"messages": [{"message": _encoded(e)} for e in found]}
            self._answer(link, request, 200 if found else 204, "", "", body if found else {})
        else:
            body = {
                "renew-lock": self._renew,
                "renew-session-lock": self._renew_session,
                "schedule-message": self._schedule,
                "cancel-scheduled-message": self._cancel,
            }[operation](queue, asked)
            self._answer(link, request, 200, "", "OK", body)
        self._pump(queue)

    def _renew(self, queue: Queue, asked: Mapping[str, Any]) -> dict[str, Any]:
        held = [queue.held(token) for token in _listed(asked["lock-tokens"])]
        if None in held:
            raise Fault(_MS + "message-lock-lost", "The lock supplied is invalid.", 410)
        until = self._now() + queue.lock
        for entry in held:
            assert entry is not None
            entry.until = until
        return {"expirations": [amqp_time(until) for _ in held]}

    def _renew_session(self, queue: Queue, asked: Mapping[str, Any]) -> dict[str, Any]:
        lock = queue.locked_sessions.get(asked["session-id"])
        if lock is None:
            raise Fault(_MS + "session-lock-lost", "The session lock has expired.", 410)
        until = self._now() + queue.lock
        queue.locked_sessions[asked["session-id"]] = (lock[0], until)
        return {"expiration": amqp_time(until)}

    def _schedule(self, queue: Queue, asked: Mapping[str, Any]) -> dict[str, Any]:
        numbers = []
        for one in map(_plain, asked["messages"]):
            message = _decoded(bytes(one["message"]))
            entry = queue.put(message, self._now(), _due(message))
            numbers.append(entry.sequence if entry else 0)
        return {"sequence-numbers": Array(UNDESCRIBED, Data.LONG, *numbers)}

    def _cancel(self, queue: Queue, asked: Mapping[str, Any]) -> dict[str, Any]:
        for number in _listed(asked["sequence-numbers"]):
            if number not in queue.entries or queue.entries[number].state != "scheduled":
                raise Fault(_MS + "message-not-found", "The scheduled message does not exist.", 404)
            del queue.entries[number]
        return {}

    def _answer(self, link: Any, request: Message, status: int, condition: str, words: str, body: Any) -> None:
        out = self._replies[link.connection.remote_container, link.address]
        message = Message(body=body)
        message.correlation_id = request.id
        if link.address == "$cbs":
            message.properties = {"status-code": int32(status), "status-description": words}
        else:
            message.properties = {"statusCode": int32(status), "statusDescription": words}
            if condition:
                message.properties["errorCondition"] = symbol(condition)
        delivery = out.delivery(uuid.uuid4().bytes)
        out.stream(message.encode())
        out.advance()
        delivery.settle()


class _Consumer:
    """A receiving link's queue, and its session where the queue has sessions."""

    def __init__(self, queue: Queue, session: str | None) -> None:
        self.queue, self.session = queue, session


class _Waiting:
    """A link that wants a session (None: any), and (monotonic) until when."""

    def __init__(self, queue: Queue, wanted: str | None, until: float) -> None:
        self.queue, self.wanted, self.until = queue, wanted, until


def _address(text: str) -> str:
    """The path of a link's address, in any case: `sb://host/queue` and `Queue` are the same."""
    path = text.split("://", 1)[1].partition("/")[2] if "://" in text else text
    return path.strip("/").lower()


def _first(data: Any) -> Any:
    data.rewind()
    return data.get_object() if data.next() else None


def _plain(values: Mapping[Any, Any] | None) -> dict[str, Any]:
    return {str(name): value for name, value in (values or {}).items()}


def _listed(values: Any) -> list[Any]:
    return list(values.elements if isinstance(values, Array) else values)


def _refuse(link: Any, fault: Fault) -> None:
    link.source.type = Terminus.UNSPECIFIED
    link.condition = _condition(fault)
    link.open()
    link.close()


def _reject(delivery: Any, fault: Fault) -> None:
    delivery.local.condition = _condition(fault)
    delivery.update(Delivery.REJECTED)


def _condition(fault: Fault) -> Condition:
    """With all three fields of an error: the SDK waits without end for an answer to one that has two."""
    return Condition(fault.condition, fault.words, {symbol("peer"): "tests"})


def _reset(connection: Any) -> None:
    """As if the network had gone: the peer reads and writes no more."""
    connection.transport._selectable._delegate.shutdown(socket.SHUT_RDWR)


def _signed(token: Any) -> bool:
    if not isinstance(token, str) or not token.startswith("SharedAccessSignature "):
        return False
    said = dict(part.split("=", 1) for part in token.split(" ", 1)[1].split("&"))
    made = hmac.new(KEY.encode(), f"{said['sr']}\n{said['se']}".encode(), hashlib.sha256).digest()
    right = hmac.compare_digest(unquote(said["sig"]), base64.b64encode(made).decode())
    return right and said["skn"] == KEY_NAME and int(said["se"]) > time.time()


def _due(message: Message) -> int:
    return int(_plain(message.annotations).get("x-opt-scheduled-enqueue-time", 0))


def _decoded(raw: bytes) -> Message:
    message = Message()
    message.decode(raw)
    return message


def _encoded(entry: Entry) -> bytes:
    """A message as its receiver gets it."""
    message = entry.message
    message.delivery_count = entry.count
    message.annotations = {
        **{symbol(name): value for name, value in _plain(message.annotations).items()},
        symbol("x-opt-sequence-number"): entry.sequence,
        symbol("x-opt-enqueued-time"): amqp_time(entry.enqueued),
        symbol("x-opt-message-state"): int32(2 if entry.state == "scheduled" else 0),
        symbol("x-opt-locked-until"): amqp_time(entry.until),
    }
    return bytes(message.encode())


def _unbatched(raw: bytes) -> list[bytes]:
    """The messages of a batch: each is a data section that holds a message of its own."""
    parts = [value for code, value in _sections(raw) if code == _DATA]
    return parts if parts and all(map(_is_message, parts)) else [raw]


def _is_message(data: bytes) -> bool:
    return len(data) > 10 and data[0] == 0 and data[1] in (0x53, 0x80) and _code(data, 0)[0] in range(0x70, 0x79)


def _sections(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """An encoded message's sections (AMQP 1.0, part 3.2): descriptor code, and the bytes of the value."""
    at = 0
    while at < len(raw):
        code, at = _code(raw, at)
        constructor = raw[at]
        wide = constructor >> 4 in (0xB, 0xD, 0xF)
        empty = constructor >> 4 == 0x4
        start = at + 1 if empty else at + 5 if wide else at + 2
        length = 0 if empty else int.from_bytes(raw[at + 1 : start], "big")
        yield code, raw[start : start + length]
        at = start + length


def _code(raw: bytes, at: int) -> tuple[int, int]:
    """A descriptor (0x00, then a small or a whole ulong), and where its value begins."""
    if raw[at + 1] == 0x53:
        return raw[at + 2], at + 3
    return int.from_bytes(raw[at + 2 : at + 10], "big"), at + 10


@dataclass(frozen=True)
class Found:
    """A Service Bus to test against: the peer, whose clock stands still until it is moved; or a real one."""

    connection_string: str
    clear: Callable[[], None]
    ready: Callable[..., bool]
    now: Callable[[], datetime]
    pass_time: Callable[[timedelta], None]
    peer: Peer | None = None


@contextmanager
def found(queues: Mapping[str, bool], start: datetime) -> Iterator[Found]:
    """What the environment variable DRIFTLOOP_TEST_SERVICEBUS names (a connection string, of a namespace or of the
    emulator, with empty queues), or else the peer."""
    named = os.environ.get("DRIFTLOOP_TEST_SERVICEBUS")
    if named:
        yield Found(named, lambda: None, lambda *_: True, lambda: datetime.now(UTC), _wait)
        return
    passed: list[timedelta] = []

    def now() -> datetime:
        return sum(passed, start)

    with Peer(queues, lambda: now().timestamp()).running() as peer:
        yield Found(peer.connection_string, peer.clear, peer.ready, now, passed.append, peer)


def _wait(by: timedelta) -> None:
    if by > timedelta(minutes=2):
        pytest.skip(f"takes {by} of real time")
    time.sleep(by.total_seconds())
