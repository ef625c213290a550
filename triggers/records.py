"""What is stored, where, and the one way to write it: a unit of reads and writes within one partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, Literal, TypeVar

import msgspec

from triggers import codec
from triggers.effects import AnyEffect
from triggers.errors import Conflict, NotFound
from triggers.events import Event
from triggers.policy import History, Maintenance
from triggers.ports import Bus, Delete, Message, Put, Store
from triggers.rollout import Health, SiteStatus
from triggers.run import Run

T = TypeVar("T")
R = TypeVar("R")


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The one row that every write to a loop's runs goes through: who is champion, what runs, where the audit ends."""

    champion: str = ""
    scoped: dict[str, str] = {}  # site -> champion, where it is not the loop's
    active: dict[str, str] = {}  # scope -> run
    counter: int = 0
    history: History = History()
    audit: int = 0
    audit_hash: str = ""

    def champion_of(self, site: str) -> str:
        return self.scoped.get(site, self.champion)


class Outbox(msgspec.Struct, frozen=True, kw_only=True):
    """An effect that is asked for; the row goes when it is performed."""

    run: str
    effect: AnyEffect


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One link of the chain; `hash` covers everything else, `previous` included."""

    seq: int
    at: datetime
    kind: str
    subject: str
    actor: str
    text: str
    data: dict[str, Any] = {}
    previous: str = ""
    hash: str = ""


class SiteState(msgspec.Struct, frozen=True, kw_only=True):
    """What one site should serve, what it says it serves, and the way back."""

    candidate: str = ""  # intent
    change: str = ""
    run: str = ""
    wave: int = 0
    action: Literal["adopt", "deploy", "rollback"] = "adopt"
    fence: int = 0
    status: SiteStatus = "waiting"
    reason: str = ""
    asked: datetime | None = None
    health: Health | None = None
    observed: str = ""  # digest in its newest telemetry
    observed_at: datetime | None = None
    last_good: str = ""
    before: str = ""  # last known good when the run reached it: where that run's way back leads
    step: str = ""  # of a change that is underway: both candidates may answer meanwhile
    batches: int = 0
    duplicates: int = 0
    rows: int = 0


class RolloutRow(msgspec.Struct, frozen=True, kw_only=True):
    """How one site of a run's plan stands, as the run's own list. `failed`: why it did, also when it is back."""

    site: str
    wave: int
    status: SiteStatus
    reason: str = ""
    failed: str = ""
    at: datetime

    @property
    def counted(self) -> SiteStatus:
        """What it counts as in its wave: a site that failed has done so, wherever it is on its way back."""
        return "failed" if self.failed else self.status


class BatchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """That a batch was counted, and the digest of its bytes: the same id with other bytes is a conflict."""

    digest: str
    rows: int
    refused: int
    at: datetime


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that were not counted, or rows of a batch that were not, and why."""

    at: datetime
    loop: str
    site: str
    batch: str
    reason: str
    blob: str
    rows: tuple[tuple[int, str, str], ...] = ()


class Orphans(msgspec.Struct, frozen=True, kw_only=True):
    """Labels whose predictions have not come yet."""

    ids: list[str]
    at: list[int]
    label: list[float]


class MaintenanceEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What a check wants somebody to look at, and whether that was told."""

    at: datetime
    sites: tuple[Maintenance, ...]
    told: bool = False


class WaitingModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that somebody registered while another run was active, or the loop frozen."""

    at: datetime
    model: str
    by: str
    trained: tuple[str, str] | None = None
    authors: tuple[str, ...] = ()


class Freeze(msgspec.Struct, frozen=True, kw_only=True):
    by: str
    at: datetime
    reason: str


class Revoked(msgspec.Struct, frozen=True, kw_only=True):
    """That no site is to serve a candidate any more: who said so, and why."""

    by: str
    at: datetime
    reason: str


class Unit:
    """Reads and writes of one partition that land together; each write expects what was read.

    A key that was not read before it is written must be new.
    """

    def __init__(self, store: Store, partition: str) -> None:
        self.store = store
        self.partition = partition
        self._seen: dict[str, str | None] = {}
        self._values: dict[str, bytes | None] = {}
        self._changed: dict[str, None] = {}
        self._scanned: dict[str, tuple[str, str]] = {}

    def raw(self, key: str) -> bytes | None:
        if key not in self._seen:
            record = self.store.get(self.partition, key)
            self._seen[key] = record.version if record else None
            self._values[key] = record.value if record else None
        return self._values[key]

    def get(self, key: str, as_type: type[T]) -> T | None:
        raw = self.raw(key)
        return None if raw is None else codec.decode(raw, as_type)

    def need(self, key: str, as_type: type[T]) -> T:
        found = self.get(key, as_type)
        if found is None:
            raise NotFound(f"{self.partition}: no {key}", key=key)
        return found

    def scan(self, prefix: str, after: str = "", page: int = 0) -> Iterator[tuple[str, bytes]]:
        """Stored records with this prefix, by key, with the unit's own unwritten changes; read at once, or `page` by
        page as they are asked for, and once."""
        while True:
            last = self._fetch(prefix, after, page)
            here = (k for k in self._values if k.startswith(prefix) and k > after and (not last or k <= last))
            for key, value in [(key, self._values[key]) for key in sorted(here)]:
                if value is not None:
                    yield key, value
            if not last:
                return
            after = last

    def _fetch(self, prefix: str, after: str, page: int) -> str:
        """The last key up to which all from `after` on is read, a page more where none was; empty where that is all."""
        known = self._scanned.get(prefix)
        if known and known[0] <= after and (not known[1] or after < known[1]):
            return known[1]
        found = list(self.store.scan(self.partition, prefix, after, page))
        for record in found:
            if record.key not in self._seen:
                self._seen[record.key], self._values[record.key] = record.version, record.value
        last = found[-1].key if page and len(found) == page else ""
        if known and known[1] == after:
            self._scanned[prefix] = known[0], last
            return last
        if known and last >= known[0] > after and (not known[1] or known[1] > last):  # what follows is known already
            last = known[1]
        self._scanned[prefix] = after, last
        return last

    def put(self, key: str, value: object) -> None:
        self.put_raw(key, value if isinstance(value, bytes) else codec.encode(value))

    def put_raw(self, key: str, value: bytes) -> None:
        self._seen.setdefault(key, None)
        self._values[key] = value
        self._changed[key] = None

    def delete(self, key: str) -> None:
        self.raw(key)
        self._values[key] = None
        self._changed[key] = None

    def __len__(self) -> int:
        return len(self._changed)

    @property
    def size(self) -> int:
        """Bytes of what is to be written."""
        return sum(len(self._values[key] or b"") for key in self._changed)

    def commit(self) -> None:
        """All or nothing. Raises Conflict where somebody else wrote first; the unit is then of no more use."""
        changes: list[Put | Delete] = []
        for key in self._changed:
            value, expect = self._values[key], self._seen[key]
            if value is not None:
                changes.append(Put(key, value, expect))
            elif expect is not None:
                changes.append(Delete(key, expect))
        if changes:
            self.store.commit(self.partition, changes)
        self._seen.clear()
        self._values.clear()
        self._changed.clear()
        self._scanned.clear()


class LoopUnit(Unit):
    """A unit on a loop's own partition, which always goes through its head and its audit chain."""

    def __init__(self, store: Store, loop: str, now: datetime) -> None:
        super().__init__(store, loop)
        self.now = now
        self.head = self.get("head", Head) or Head()

    def note(self, kind: str, subject: str, text: str, actor: str = "driftloop", **data: Any) -> None:
        """Add a link to the audit chain."""
        seq = self.head.audit + 1
        entry = AuditEntry(
            seq=seq,
            at=self.now,
            kind=kind,
            subject=subject,
            actor=actor,
            text=text,
            data=data,
            previous=self.head.audit_hash,
        )
        linked = msgspec.structs.replace(entry, hash=chain(entry))
        self.put(f"audit/{seq:012}", linked)
        self.set_head(audit=seq, audit_hash=linked.hash)

    def set_head(self, **changes: Any) -> None:
        self.head = msgspec.structs.replace(self.head, **changes)
        self.put("head", self.head)

    def run(self, run_id: str) -> Run:
        return self.need(f"run/{run_id}", Run)

    def post(self, run_id: str, event_id: str, effects: tuple[Any, ...]) -> None:
        """Put effects into the outbox: the keys are `run/event/n`, so that a replay repeats them."""
        for n, effect in enumerate(effects):
            self.put(f"outbox/{run_id}/{event_id}/{n}", Outbox(run=run_id, effect=effect))


def hand_on(bus: Bus, event: Event, at: datetime | None = None) -> None:
    """Send a run what has happened, now or at a time."""
    message = Message(id=codec.short(event.id), body=codec.encode(event, "Event"), session=event.run, at=at)
    bus.send("runs", [message])


def chain(entry: AuditEntry) -> str:
    """The hash of an entry, its own hash left out."""
    return codec.digest(codec.encode(msgspec.structs.replace(entry, hash="")))


def verify(
    entries: Iterable[AuditEntry], head: tuple[int, str] | None = None, anchors: Iterable[tuple[int, str]] = ()
) -> str:
    """What is wrong with a chain, at its first broken link; empty where it holds.

    A cut-off end shows by the head (number and hash of the newest entry), and, where that was cut too, by anchors:
    heads of earlier days, kept elsewhere. No later one takes the place of an earlier one: two hashes for one number
    are a trail that was written anew between them.
    """
    last, previous = 0, ""
    anchored: dict[int, set[str]] = {}
    for seq, digest in anchors:
        anchored.setdefault(seq, set()).add(digest)
    for entry in entries:
        if entry.seq != last + 1:
            return f"entry {last + 1} is not there, but {entry.seq}"
        if entry.previous != previous:
            return f"entry {entry.seq} does not follow entry {last}"
        if entry.hash != chain(entry):
            return f"entry {entry.seq} is not what was written"
        kept = anchored.pop(entry.seq, {entry.hash})
        if len(kept) > 1:
            return f"entry {entry.seq} was anchored twice, differently"
        if entry.hash not in kept:
            return f"entry {entry.seq} is not the one that was anchored"
        last, previous = entry.seq, entry.hash
    if anchored:
        return f"entry {max(anchored)} was anchored and is not there: the chain ends with entry {last}"
    if head is not None and head != (last, previous):
        return f"the chain ends with entry {last}, not with entry {head[0]} as the head says"
    return ""


def again(attempt: Callable[[], R], times: int = 8) -> R:
    """Load again and decide again when somebody else wrote first."""
    for _ in range(times - 1):
        try:
            return attempt()
        except Conflict:
            continue
    return attempt()


def loop_of(run_id: str) -> str:
    """
    >>> loop_of("flights.2013-04-12.7")
    'flights'
    """
    return run_id.split(".", 1)[0]


def site_partition(loop: str, site: str) -> str:
    return f"{loop}/{site}"


def rollout_partition(run_id: str) -> str:
    return f"{loop_of(run_id)}/rollout/{run_id}"
