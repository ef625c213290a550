"""Batches on their way: kept on disk until the ingest has taken them, within a bound."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from edge.errors import Unreachable
from edge.link import Answer, Backoff
from edge.state import State

_FORGET = 100


@dataclass(frozen=True, slots=True)
class Faults:
    """How a demo's network misbehaves, decided by `seed` and a batch's id alone.

    `duplicate` and `reorder` are shares of batches: sent twice; held back until a later sending. `malformed` is the
    number of the batch that also goes out damaged, under an id of its own.
    """

    seed: int = 0
    duplicate: float = 0.0
    reorder: float = 0.0
    malformed: int | None = None

    def twice(self, batch: str) -> bool:
        return self._draw("twice", batch) < self.duplicate

    def late(self, batch: str) -> bool:
        return self._draw("late", batch) < self.reorder

    def _draw(self, what: str, batch: str) -> float:
        raw = blake2b(f"{self.seed} {what} {batch}".encode(), digest_size=8).digest()
        return int.from_bytes(raw, "little") / 2**64


class Buffer:
    """Batches in the order in which they were made. One that the ingest refuses is set aside, with the reason.

    Above `max_bytes` the oldest give way (those set aside first), and `dropped` counts them.
    """

    def __init__(self, state: State, max_bytes: int, faults: Faults) -> None:
        self._state = state
        self._max_bytes = max_bytes
        self._faults = faults
        self._sending = threading.Lock()
        self.backoff = Backoff()
        self.problem = ""
        """Why the last sending ended early."""

    def add(self, batch: str, body: bytes) -> None:
        """Part of the transaction around it, if there is one."""
        with self._state.change() as db:
            db.execute("insert into outbox (batch, body) values (?, ?)", (batch, body))
            size = self._state.get("outbox_bytes", 0) + len(body)
            if size > self._max_bytes:
                size = self._make_room(size)
            self._state.put(outbox_bytes=size)

    @property
    def waiting(self) -> int:
        found = self._state.one("select count(*) from outbox where refused is null")
        return int(found[0]) if found else 0

    @property
    def dropped(self) -> int:
        return int(self._state.get("dropped", 0))

    def refused(self) -> list[tuple[str, str]]:
        """Batches set aside, with the reasons."""
        found = self._state.all("select batch, refused from outbox where refused is not null order by seq")
        return [(batch, reason) for batch, reason in found]

    def send(self, post: Callable[[bytes], Answer]) -> int:
        """Send what waits, until the ingest cannot take more; how many it took.

        A crash in between sends some again: the same bytes under the same id.
        """
        with self._sending:
            self.problem = ""
            done: list[int] = []
            taken = 0
            query = "select seq, batch, held from outbox where refused is null order by seq"
            for seq, batch, held in self._state.all(query):
                if not held and self._faults.late(batch):
                    with self._state.change(durable=False) as db:
                        db.execute("update outbox set held = 1 where seq = ?", (seq,))
                    continue
                if not self._send(seq, batch, post, done):
                    break
                if len(done) >= _FORGET:
                    taken += self._forget(done)
            return taken + self._forget(done)

    def _send(self, seq: int, batch: str, post: Callable[[bytes], Answer], done: list[int]) -> bool:
        """Whether to go on with the next one."""
        found = self._state.one("select body from outbox where seq = ?", seq)
        if found is None:  # gave way to newer ones meanwhile
            return True
        try:
            answer = post(found[0])
            if answer.accepted and self._faults.twice(batch):
                post(found[0])
        except Unreachable as error:
            self.problem = str(error)
            self.backoff.note(reached=False)
            return False
        if answer.accepted:
            done.append(seq)
        elif answer.refused:
            with self._state.change() as db:
                reason = f"{answer.status}: {answer.reason}"
                db.execute("update outbox set refused = ? where seq = ?", (reason, seq))
        else:
            self.problem = f"{answer.status}: {answer.reason}"
            self.backoff.note(reached=False, at_least=answer.retry_after)
            return False
        self.backoff.note(reached=True)
        return True

    def _forget(self, done: list[int]) -> int:
        """Batches that the ingest has taken."""
        if done:
            with self._state.change(durable=False):
                size = self._state.get("outbox_bytes", 0)
                self._state.put(outbox_bytes=size - sum(self._remove(seq) for seq in done))
        n = len(done)
        done.clear()
        return n

    def _make_room(self, size: int) -> int:
        """The oldest go until the rest fits, but never the one just added; how many bytes are left."""
        oldest = self._state.all("select seq from outbox order by refused is null, seq")
        dropped = 0
        for (seq,) in oldest[:-1]:
            if size <= self._max_bytes:
                break
            size -= self._remove(seq)
            dropped += 1
        self._state.put(dropped=self.dropped + dropped)
        return size

    def _remove(self, seq: int) -> int:
        """The bytes that this frees."""
        with self._state.change() as db:
            found = self._state.one("select length(body) from outbox where seq = ?", seq)
            db.execute("delete from outbox where seq = ?", (seq,))
        return int(found[0]) if found else 0
