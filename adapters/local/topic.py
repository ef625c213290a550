"""Events out, as CloudEvents in SQLite, and their delivery to subscribers as Azure Event Grid does it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec

from adapters import cloudevents
from adapters.local.clock import micros, moment
from adapters.local.database import Database
from triggers.ports import Clock

RETRIES_S = (10, 30, 60, 300, 600, 1800, 3600, 10800, 21600, 43200)
"""Seconds until an event is tried again; the last one goes on."""

ATTEMPTS = 30
LIFETIME = timedelta(days=1)

_TABLES = """
create table if not exists events (
    sequence integer primary key autoincrement, at integer not null, event blob not null
);
create table if not exists subscribers (name text primary key, types text not null) without rowid;
create table if not exists handouts (
    subscriber text not null, sequence integer not null, due integer not null, attempts integer not null default 0,
    reason text not null default '', dead integer not null default 0, primary key (subscriber, sequence)
) without rowid;
create index if not exists handouts_event on handouts (sequence)
"""


@dataclass(frozen=True, slots=True)
class Handout:
    """An event on its way to one subscriber; `attempts` counts the failed ones, `reason` says why the last did."""

    subscriber: str
    sequence: int
    event: Mapping[str, Any]
    published: datetime
    attempts: int
    reason: str


class SqliteTopic:
    """Port Topic, and the delivering side of it for the local host: at least once, in no promised order.

    The newest `keep` events stay as history, and any that a subscriber still waits for.
    """

    def __init__(self, database: Database, clock: Clock, *, keep: int = 10_000) -> None:
        self._database = database
        self._clock = clock
        self._keep = keep
        database.define(_TABLES)

    def subscribe(self, subscriber: str, types: Sequence[str] = ()) -> None:
        """From now on, hand out events of these types (none named: of every type). Kept across restarts."""
        row = (subscriber, msgspec.json.encode(list(types)).decode())
        if self._database.read("select 1 from subscribers where name = ? and types = ?", row):
            return
        self._database.write(
            lambda c: c.execute(
                "insert into subscribers values (?, ?) on conflict (name) do update set types = excluded.types", row
            )
        )

    def publish(self, events: Sequence[Mapping[str, Any]]) -> None:
        """All or nothing. Refuses what is not a CloudEvent 1.0, or is larger than 1 MiB."""
        encoded = [(cloudevents.encoded(event), event["type"]) for event in events]
        if encoded:
            self._database.write(partial(self._publish, encoded, micros(self._clock.now())))

    def pending(self, subscriber: str, limit: int = 32) -> list[Handout]:
        """What is due for a subscriber, oldest first; it stays due until settled."""
        return self._handouts(
            "subscriber = ? and due <= ? and not dead order by handouts.sequence limit ?",
            (subscriber, micros(self._clock.now()), limit),
        )

    def done(self, handouts: Sequence[Handout]) -> None:
        """The subscriber has these."""
        self._each(handouts, lambda c, at: c.execute("delete from handouts where subscriber = ? and sequence = ?", at))

    def retry(self, handout: Handout, reason: str) -> None:
        """Not now: again after a while that grows; a dead letter after 30 attempts or a day."""
        now = self._clock.now()
        attempts = handout.attempts + 1
        due = now + timedelta(seconds=RETRIES_S[min(attempts, len(RETRIES_S)) - 1])
        if attempts >= ATTEMPTS or due - handout.published > LIFETIME:
            self.dead_letter(handout, reason)
            return
        self._each(
            [handout],
            lambda c, at: c.execute(
                "update handouts set attempts = ?, due = ?, reason = ? where subscriber = ? and sequence = ?",
                (attempts, micros(due), reason, *at),
            ),
        )

    def dead_letter(self, handout: Handout, reason: str) -> None:
        """Never: put aside for a person."""
        self._each(
            [handout],
            lambda c, at: c.execute(
                "update handouts set attempts = ?, reason = ?, dead = 1 where subscriber = ? and sequence = ?",
                (handout.attempts + 1, reason, *at),
            ),
        )

    def dead_letters(self, limit: int = 100) -> list[Handout]:
        """The newest first."""
        return self._handouts("dead order by handouts.sequence desc limit ?", (limit,))

    def next_due(self, subscriber: str) -> datetime | None:
        """When the next event that is not due now will be."""
        [(due,)] = self._database.read(
            "select min(due) from handouts where subscriber = ? and due > ? and not dead",
            (subscriber, micros(self._clock.now())),
        )
        return None if due is None else moment(due)

    def recent(self, limit: int = 100) -> list[dict[str, Any]]:
        """The newest events, newest first."""
        rows = self._database.read("select event from events order by sequence desc limit ?", (limit,))
        return [msgspec.json.decode(event) for (event,) in rows]

    def _publish(self, events: Sequence[tuple[bytes, str]], now: int, connection: sqlite3.Connection) -> None:
        subscribers = [
            (name, frozenset(msgspec.json.decode(types)))
            for name, types in connection.execute("select name, types from subscribers").fetchall()
        ]
        for event, type_ in events:
            sequence = connection.execute("insert into events (at, event) values (?, ?)", (now, event)).lastrowid
            for name, types in subscribers:
                if not types or type_ in types:
                    connection.execute(
                        "insert into handouts (subscriber, sequence, due) values (?, ?, ?)", (name, sequence, now)
                    )
        connection.execute(
            "delete from events where sequence <= (select max(sequence) from events) - ?"
            " and not exists (select 1 from handouts where handouts.sequence = events.sequence)",
            (self._keep,),
        )

    def _handouts(self, where: str, parameters: Sequence[Any]) -> list[Handout]:
        rows = self._database.read(
            "select subscriber, handouts.sequence, event, at, attempts, reason from handouts"  # noqa: S608
            f" join events on events.sequence = handouts.sequence where {where}",
            parameters,
        )
        return [
            Handout(subscriber, sequence, msgspec.json.decode(event), moment(at), attempts, reason)
            for subscriber, sequence, event, at, attempts, reason in rows
        ]

    def _each(
        self, handouts: Sequence[Handout], settle: Callable[[sqlite3.Connection, tuple[str, int]], object]
    ) -> None:
        def work(connection: sqlite3.Connection) -> None:
            for handout in handouts:
                settle(connection, (handout.subscriber, handout.sequence))

        if handouts:
            self._database.write(work, durable=False)
