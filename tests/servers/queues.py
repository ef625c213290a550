"""A queue as Service Bus keeps one: locks, sessions, schedules, duplicates, dead letters. Times are milliseconds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID, uuid4

State = Literal["active", "scheduled", "locked"]


@dataclass(eq=False)
class Entry:
    """A message at its place; `holder` is the link that has it locked, `count` how often it was delivered."""

    sequence: int
    message: Any
    enqueued: int
    state: State = "active"
    due: int = 0
    token: UUID | None = None
    until: int = 0
    count: int = 0
    holder: object = None

    @property
    def session(self) -> str | None:
        return self.message.group_id


@dataclass(eq=False)
class Queue:
    """One queue, and beside it the queue of its dead letters.

    `duplicates` is how long a message's id is remembered; 0 for not at all.
    """

    name: str
    sessions: bool = False
    lock: int = 60_000
    deliveries: int = 10
    duplicates: int = 600_000
    dead: Queue | None = None
    entries: dict[int, Entry] = field(default_factory=dict)
    locked_sessions: dict[str, tuple[object, int]] = field(default_factory=dict)
    _seen: dict[Any, int] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def put(self, message: Any, now: int, due: int = 0) -> Entry | None:
        """None for an id that was here within the window: the sender is not told."""
        if self.duplicates and message.id is not None:
            if now - self._seen.get(message.id, -self.duplicates) < self.duplicates:
                return None
            self._seen[message.id] = now
        entry = Entry(next(self._numbers), message, now)
        if due > now:
            entry.state, entry.due = "scheduled", due
        self.entries[entry.sequence] = entry
        return entry

    def settle_time(self, now: int, lost: Callable[[object], None]) -> None:
        """What time alone has done: schedules that are due, locks that expired. `lost` is told of expired sessions.

        A scheduled message gets its number when it is due, as the service does it.
        """
        due = sorted((e for e in self.entries.values() if e.state == "scheduled" and e.due <= now), key=_by_due)
        for entry in due:
            del self.entries[entry.sequence]
            entry.sequence, entry.state, entry.enqueued = next(self._numbers), "active", entry.due
            self.entries[entry.sequence] = entry
        for session, (holder, until) in list(self.locked_sessions.items()):
            if until <= now:
                self.release_session(session, now)
                lost(holder)
        for entry in list(self.entries.values()):
            if entry.state == "locked" and entry.until <= now and entry.session not in self.locked_sessions:
                self.unlock(entry, now)

    def next(self, session: str | None) -> Entry | None:
        """The first that may be delivered: of this session, or where None, of a queue without sessions."""
        return next((e for e in self.entries.values() if e.state == "active" and session in (None, e.session)), None)

    def deliver(self, entry: Entry, holder: object, now: int) -> None:
        entry.state, entry.token, entry.until, entry.holder = "locked", uuid4(), now + self.lock, holder

    def held(self, token: UUID | None) -> Entry | None:
        """What is locked by this token."""
        return next((e for e in self.entries.values() if token is not None and e.token == token), None)

    def complete(self, entry: Entry) -> None:
        del self.entries[entry.sequence]

    def release(self, entry: Entry) -> None:
        """Back to its place, as if it had never been delivered: its receiver was not receiving."""
        entry.state, entry.token, entry.holder = "active", None, None

    def unlock(self, entry: Entry, now: int) -> None:
        """Back to its place, and once more delivered in vain."""
        self.release(entry)
        entry.count += 1
        if entry.count >= self.deliveries:
            why = f"Message could not be consumed after {self.deliveries} delivery attempts."
            self.bury(entry, now, "MaxDeliveryCountExceeded", why)

    def bury(self, entry: Entry, now: int, reason: str | None, description: str | None) -> None:
        del self.entries[entry.sequence]
        if self.dead is None:
            return
        said = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
        entry.message.properties = {**(entry.message.properties or {}), **{k: v for k, v in said.items() if v}}
        dead = self.dead.put(entry.message, now)
        if dead is not None:
            dead.count, dead.enqueued = entry.count, entry.enqueued

    def lock_session(self, wanted: str | None, holder: object, now: int) -> str | None:
        """The session that is now the holder's: the one wanted, or (None) the first that is free and has something."""
        waiting = dict.fromkeys(e.session for e in self.entries.values() if e.state == "active" and e.session)
        for session in waiting if wanted is None else [wanted]:
            if session not in self.locked_sessions:
                self.locked_sessions[session] = (holder, now + self.lock)
                return session
        return None

    def release_session(self, session: str, now: int) -> None:
        """The session is anybody's again, with what its holder had of it."""
        holder, _ = self.locked_sessions.pop(session)
        for entry in list(self.entries.values()):
            if entry.state == "locked" and entry.holder is holder:
                self.unlock(entry, now)


def _by_due(entry: Entry) -> tuple[int, int]:
    return entry.due, entry.sequence
