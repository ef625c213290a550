"""Clocks: the machine's, and one that moves only when told."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime, timedelta

from adapters.local.database import Database

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TABLE = "create table if not exists clock (one integer primary key check (one = 1), now integer not null)"


def micros(time: datetime) -> int:
    """
    >>> micros(EPOCH + timedelta(seconds=2))
    2000000
    """
    return (time - EPOCH) // timedelta(microseconds=1)


def moment(micros: int) -> datetime:
    """
    >>> moment(2_000_000)
    datetime.datetime(1970, 1, 1, 0, 0, 2, tzinfo=datetime.timezone.utc)
    """
    return EPOCH + timedelta(microseconds=micros)


class SystemClock:
    """Port Clock: the machine's time."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class VirtualClock:
    """Port Clock: stands still until it is set. Kept in the file, so that a restart goes on where it was."""

    def __init__(self, database: Database, start: datetime) -> None:
        """Begins at `start`, or where the file's clock already was."""
        self._database = database
        self._lock = threading.RLock()
        database.define(_TABLE)
        rows = database.read("select now from clock")
        self._now = moment(rows[0][0]) if rows else EPOCH
        if not rows:
            self.set(start)

    @classmethod
    def resumed(cls, database: Database) -> VirtualClock | None:
        """The clock that the file has, if it has one."""
        database.define(_TABLE)
        return cls(database, EPOCH) if database.read("select 1 from clock") else None

    def now(self) -> datetime:
        return self._now

    def set(self, to: datetime) -> datetime:
        """Move to `to`, or stay where that is past; returns the time it is then."""
        with self._lock:
            if to > self._now:
                self._database.write(lambda connection: _keep(connection, to))
                self._now = to
            return self._now

    def advance(self, by: timedelta) -> datetime:
        with self._lock:
            return self.set(self._now + by)


def _keep(connection: sqlite3.Connection, now: datetime) -> None:
    connection.execute(
        "insert into clock values (1, ?) on conflict (one) do update set now = max(now, excluded.now)", (micros(now),)
    )
