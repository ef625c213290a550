"""Queues on SQLite with the semantics of Azure Service Bus: peek-lock, sessions, delivery counts, dead letters."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

from adapters.local.clock import micros, moment
from adapters.local.database import Database
from adapters.queues import SESSIONS, check, known
from triggers.errors import Retry
from triggers.ports import Clock, Message, Queue

VANISHED = 100

_MESSAGE = "sequence, queue, id, session, properties, sent, deliveries"
_TABLES = """
create table if not exists messages (
    sequence integer primary key autoincrement, queue text not null, id text not null, session text not null,
    properties text not null, sent integer not null, deliveries integer not null, body integer not null,
    head integer not null, locked_until integer not null default 0, token text, owner text,
    vanished integer not null default 0
);
create index if not exists messages_ready on messages (queue, sequence) where head;
create index if not exists messages_session on messages (queue, session, sequence);
create table if not exists scheduled (
    number integer primary key autoincrement, due integer not null, queue text not null, id text not null,
    session text not null, properties text not null, body integer not null
);
create index if not exists scheduled_due on scheduled (queue, due);
create table if not exists dead (
    sequence integer primary key, queue text not null, id text not null, session text not null,
    properties text not null, sent integer not null, deliveries integer not null, body integer not null,
    died integer not null, reason text not null, description text not null
);
create table if not exists bodies (number integer primary key, body blob not null);
create table if not exists sent (
    queue text not null, id text not null, at integer not null, primary key (queue, id)
) without rowid
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message of a queue; `count`: how often it was handed out."""

    queue: str
    sequence: int
    id: str
    body: bytes
    session: str
    properties: Mapping[str, str]
    sent: datetime
    count: int


@dataclass(frozen=True, slots=True)
class Delivery(Sent):
    """A message locked for one consumer until `locked_until`; `count` is 1 the first time."""

    token: str
    locked_until: datetime


@dataclass(frozen=True, slots=True)
class DeadLetter(Sent):
    """A message that nobody could handle, and why; it stays until a person has dealt with it."""

    died: datetime
    reason: str
    description: str


class SqliteBus:
    """Port Bus, and the consumer's side of it for the local host.

    At most one message of a session is out at a time, so that sessions are in order whatever a consumer does.
    What is sent is durable at once; a loss of power may undo a receive or a completion: the message comes again.
    Settling names the lock: what was locked anew since, or whose lock has expired, is left alone and returned.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        lock: timedelta = timedelta(seconds=60),
        deliveries: int = 10,
        duplicates: timedelta = timedelta(minutes=10),
        most: int = 100_000,
    ) -> None:
        """`deliveries` is how often a message is tried, `duplicates` how long an id is remembered, `most` how many
        batches of telemetry may wait: more are not taken (Retry), so that a disk cannot fill up with them."""
        self._database = database
        self._clock = clock
        self._lock = lock // timedelta(microseconds=1)
        self._deliveries = deliveries
        self._window = duplicates // timedelta(microseconds=1)
        self._most = most
        self._looked = self._forgotten = 0
        self._full = False
        self._owner = str(uuid4())
        database.define(_TABLES)
        if not database.read("select 1 from pragma_table_info('messages') where name = 'vanished'"):  # before 0.2
            database.define("alter table messages add column vanished integer not null default 0")

    def send(self, queue: Queue, messages: Sequence[Message]) -> None:
        """All or nothing, in this order. Refuses an unknown queue, a missing session, ids and bodies too large."""
        check(queue, messages)
        if queue == "telemetry":
            self._refuse_more()
        if messages:
            self._database.write(partial(self._send, queue, messages, self._now()))

    def receive(self, queue: Queue, max_count: int = 1) -> list[Delivery]:
        """Lock up to `max_count` messages, oldest first; of a session at most one, its oldest."""
        known(queue)
        now = self._now()
        if not self._database.read(
            "select 1 from messages where queue = :queue and head and locked_until <= :now"
            " union all select 1 from scheduled where queue = :queue and due <= :now limit 1",
            {"queue": queue, "now": now},
        ):
            return []
        return self._database.write(partial(self._receive, queue, max_count, now), durable=False)

    def complete(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Done with these. Returns those whose lock was lost."""
        return self._settle(deliveries, _remove)

    def abandon(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Give these back, to be delivered again at once, or to be dead letters after too many times."""

        def release(connection: sqlite3.Connection, delivery: Delivery) -> None:
            if delivery.count >= self._deliveries:
                self._exhaust(connection, delivery.sequence, self._now())
            else:
                connection.execute(
                    "update messages set locked_until = 0, token = null, owner = null where sequence = ?",
                    (delivery.sequence,),
                )

        return self._settle(deliveries, release)

    def dead_letter(self, delivery: Delivery, reason: str, description: str = "") -> list[Delivery]:
        """Put aside what will never be handled."""
        now = self._now()
        return self._settle([delivery], lambda c, d: _bury(c, d.sequence, now, reason, description))

    def renew(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Keep these locked for another lock duration from now."""
        until = self._now() + self._lock
        return self._settle(
            deliveries,
            lambda c, d: c.execute("update messages set locked_until = ? where sequence = ?", (until, d.sequence)),
        )

    def recover(self) -> None:
        """Release the locks of every other consumer. Only for a host that knows that it is alone, as it starts.

        That a host vanished is not held against the messages that it had in hand, up to VANISHED times: one of them
        may be why.
        """
        self._database.write(
            lambda c: c.execute(
                "update messages set locked_until = 0, token = null, owner = null, vanished = vanished + 1,"
                " deliveries = deliveries - (vanished < ?) where owner <> ?",
                (VANISHED, self._owner),
            )
        )

    def pending(self, queue: Queue) -> int:
        """How many messages are waiting or locked; scheduled and dead ones are not counted."""
        return int(
            self._database.read(
                "select (select count(*) from messages where queue = :queue)"
                " + (select count(*) from scheduled where queue = :queue and due <= :now)",
                {"queue": queue, "now": self._now()},
            )[0][0]
        )

    def next_due(self, queue: Queue) -> datetime | None:
        """When the next message that cannot be received now can be: a scheduled one, or one whose lock expires."""
        [(due,)] = self._database.read(
            "select min(due) from (select min(due) as due from scheduled where queue = :queue and due > :now"
            " union all select min(locked_until) from messages where queue = :queue and head and locked_until > :now)",
            {"queue": queue, "now": self._now()},
        )
        return None if due is None else moment(due)

    def dead_letters(self, queue: Queue, limit: int = 100) -> list[DeadLetter]:
        """The newest first."""
        rows = self._database.read(
            f"select {_MESSAGE}, bodies.body, died, reason, description from dead"  # noqa: S608
            " join bodies on bodies.number = dead.body where queue = ? order by died desc, sequence desc limit ?",
            (queue, limit),
        )
        return [
            DeadLetter(queue, n, id, body, session, json.loads(properties), moment(sent), count, moment(died), *why)
            for n, queue, id, session, properties, sent, count, body, died, *why in rows
        ]

    def _now(self) -> int:
        return micros(self._clock.now())

    def _refuse_more(self) -> None:
        """Counting takes its time: each second once, so that some more than `most` may get in."""
        now = self._now()
        if not 0 <= now - self._looked < 1_000_000:
            self._looked, self._full = now, self.pending("telemetry") >= self._most
        if self._full:
            raise Retry(f"{self._most} batches wait to be counted: no more are taken now")

    def _send(self, queue: str, messages: Sequence[Message], now: int, connection: sqlite3.Connection) -> None:
        self._forget(connection, now)
        _activate(connection, queue, now)
        for message in messages:
            if not self._is_new(connection, queue, message.id, now):
                continue
            properties = json.dumps(dict(message.properties))
            body = connection.execute("insert into bodies (body) values (?)", (message.body,)).lastrowid
            due = now if message.at is None else micros(message.at)
            if due > now:
                connection.execute(
                    "insert into scheduled (due, queue, id, session, properties, body) values (?, ?, ?, ?, ?, ?)",
                    (due, queue, message.id, message.session, properties, body),
                )
            else:
                _enqueue(connection, queue, message.id, message.session, properties, now, body)

    def _is_new(self, connection: sqlite3.Connection, queue: str, id: str, now: int) -> bool:
        cursor = connection.execute(
            "insert into sent values (?, ?, ?) on conflict (queue, id)"
            " do update set at = excluded.at where at <= excluded.at - ?",
            (queue, id, now, self._window),
        )
        return cursor.rowcount == 1

    def _forget(self, connection: sqlite3.Connection, now: int) -> None:
        if now - self._forgotten >= self._window:
            connection.execute("delete from sent where at <= ?", (now - self._window,))
            self._forgotten = now

    def _receive(self, queue: str, max_count: int, now: int, connection: sqlite3.Connection) -> list[Delivery]:
        _activate(connection, queue, now)
        while True:
            rows = connection.execute(
                f"select {_MESSAGE}, bodies.body from messages join bodies on bodies.number = messages.body"  # noqa: S608
                " where queue = ? and head and locked_until <= ? order by sequence limit ?",
                (queue, now, max_count),
            ).fetchall()
            exhausted = [row[0] for row in rows if row[6] >= self._deliveries]
            if not exhausted:
                return [self._locked(connection, row, now) for row in rows]
            for sequence in exhausted:
                self._exhaust(connection, sequence, now)

    def _locked(self, connection: sqlite3.Connection, row: Sequence[Any], now: int) -> Delivery:
        sequence, queue, id, session, properties, sent, deliveries, body = row
        token, until, count = str(uuid4()), now + self._lock, deliveries + 1
        connection.execute(
            "update messages set deliveries = ?, locked_until = ?, token = ?, owner = ? where sequence = ?",
            (count, until, token, self._owner, sequence),
        )
        return Delivery(
            queue, sequence, id, body, session, json.loads(properties), moment(sent), count, token, moment(until)
        )

    def _settle(
        self, deliveries: Sequence[Delivery], settle: Callable[[sqlite3.Connection, Delivery], object]
    ) -> list[Delivery]:
        now = self._now()

        def work(connection: sqlite3.Connection) -> list[Delivery]:
            lost = []
            for delivery in deliveries:
                if connection.execute(
                    "select 1 from messages where sequence = ? and token = ? and locked_until > ?",
                    (delivery.sequence, delivery.token, now),
                ).fetchall():
                    settle(connection, delivery)
                else:
                    lost.append(delivery)
            return lost

        return self._database.write(work, durable=False) if deliveries else []

    def _exhaust(self, connection: sqlite3.Connection, sequence: int, now: int) -> None:
        why = f"Message could not be consumed after {self._deliveries} delivery attempts."
        _bury(connection, sequence, now, "MaxDeliveryCountExceeded", why)


def _activate(connection: sqlite3.Connection, queue: str, now: int) -> None:
    """Scheduled messages enter the queue as they become due, before whatever is sent later."""
    due = connection.execute(
        "select number, due, id, session, properties, body from scheduled"
        " where queue = ? and due <= ? order by due, number",
        (queue, now),
    ).fetchall()
    for number, at, id, session, properties, body in due:
        connection.execute("delete from scheduled where number = ?", (number,))
        _enqueue(connection, queue, id, session, properties, at, body)


def _enqueue(
    connection: sqlite3.Connection, queue: str, id: str, session: str, properties: str, sent: int, body: int | None
) -> None:
    """`head`: may be received now; in a queue with sessions, the first of each."""
    head = (
        "not exists (select 1 from messages where queue = :queue and session = :session)" if queue in SESSIONS else "1"
    )
    connection.execute(
        "insert into messages (queue, id, session, properties, sent, deliveries, body, head)"  # noqa: S608
        f" values (:queue, :id, :session, :properties, :sent, 0, :body, {head})",
        {"queue": queue, "id": id, "session": session, "properties": properties, "sent": sent, "body": body},
    )


def _remove(connection: sqlite3.Connection, delivery: Delivery) -> None:
    body = _take_out(connection, delivery.sequence)
    connection.execute("delete from bodies where number = ?", (body,))


def _bury(connection: sqlite3.Connection, sequence: int, now: int, reason: str, description: str) -> None:
    connection.execute(
        f"insert into dead ({_MESSAGE}, body, died, reason, description)"  # noqa: S608
        f" select {_MESSAGE}, body, ?, ?, ? from messages where sequence = ?",
        (now, reason, description, sequence),
    )
    _take_out(connection, sequence)


def _take_out(connection: sqlite3.Connection, sequence: int) -> int:
    """Out of the queue; its session's next message becomes the head. Returns the number of its body."""
    [(queue, session, body)] = connection.execute(
        "delete from messages where sequence = ? returning queue, session, body", (sequence,)
    ).fetchall()
    if queue in SESSIONS:
        connection.execute(
            "update messages set head = 1 where sequence ="
            " (select min(sequence) from messages where queue = ? and session = ?)",
            (queue, session),
        )
    return int(body)
