"""What the shell needs from the world. Each port has one contract suite that every adapter passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO, Literal, Protocol, TypeVar

import msgspec

from triggers.config import Fleet, Loop

A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Record:
    """A stored value and the version that a later write may expect."""

    key: str
    value: bytes
    version: str


@dataclass(frozen=True, slots=True)
class Put:
    """Write `value` at `key`. `expect`: the version read before, None for "must be new", "*" for whatever is there."""

    key: str
    value: bytes
    expect: str | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove `key`; `expect` as for Put ("*": also when it is already gone)."""

    key: str
    expect: str = "*"


class Store(Protocol):
    """Rows in partitions; a commit within one partition is all or nothing, and durable when it returns.

    Keys and partitions are any text up to 400 characters; values at most 900 KiB; a commit at most 100 changes
    and 2.75 MiB. A write whose `expect` does not hold raises Conflict and changes nothing.
    """

    def get(self, partition: str, key: str) -> Record | None: ...
    def scan(self, partition: str, prefix: str = "", after: str = "", limit: int = 0) -> Iterator[Record]:
        """Records whose key starts with `prefix` and is greater than `after`, by key; at most `limit` where > 0."""
        ...

    def commit(self, partition: str, changes: Sequence[Put | Delete]) -> None: ...


class Blobs(Protocol):
    """Named bytes, written whole. Names are '/'-separated; a name never leaves its container."""

    def put(self, name: str, data: bytes) -> None: ...
    def get(self, name: str) -> bytes:
        """Raises NotFound."""
        ...

    def exists(self, name: str) -> bool: ...
    def names(self, prefix: str = "") -> Iterator[str]: ...
    def delete(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Message:
    """What is put on a queue. Sent twice with one id within the duplicate window, it arrives once (at least)."""

    id: str
    body: bytes
    session: str = ""
    at: datetime | None = None  # not before
    properties: Mapping[str, str] = field(default_factory=dict)


Queue = Literal["telemetry", "runs", "effects", "deployments"]


class Bus(Protocol):
    """Queues, at least once. `runs` and `deployments` have sessions: one consumer a session, in order."""

    def send(self, queue: Queue, messages: Sequence[Message]) -> None: ...


class Topic(Protocol):
    """Events out, as CloudEvents 1.0 (dicts with specversion, id, source, type, subject, time, data)."""

    def publish(self, events: Sequence[Mapping[str, Any]]) -> None: ...


JobState = Literal["unknown", "running", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Job:
    """A training or an evaluation to be run. The name is deterministic: submitted twice, it runs once.

    `site` is the one on whose compute it runs, where `compute` is "edge".
    """

    name: str
    kind: Literal["train", "evaluate"]
    loop: str
    run: str
    compute: str
    spec: Mapping[str, Any]
    timeout_s: float = 7200.0
    site: str = ""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """`result` is what the job wrote (train: candidate, lineage; evaluate: evidence) where it succeeded; `log` is the
    address at which a person reads what it did."""

    state: JobState
    result: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    log: str = ""


class Jobs(Protocol):
    """Where training and evaluation run. An ended job is also announced as an event; events get lost, so poll too."""

    def submit(self, job: Job) -> None: ...
    def status(self, name: str) -> JobStatus: ...
    def cancel(self, name: str) -> None: ...
    def newest(self, asset: str) -> str:
        """The newest version of a data asset; empty where there is none."""
        ...

    def author(self, model: str) -> str:
        """Who registered a model (azureml:NAME:VERSION), as the service knows them; empty where it does not."""
        ...


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A request to one site. Of two changes the one with the greater fence wins, whenever it arrives. `finish`: what
    `candidate` has taken the place of may go."""

    id: str
    loop: str
    site: str
    run: str
    wave: int
    candidate: str
    action: Literal["deploy", "rollback", "finish"]
    fence: int
    at: datetime
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Underway:
    """A change that takes longer than one call: its step, by name, and what that waits for."""

    step: str
    reason: str


class Executor(Protocol):
    """How a candidate reaches a site. Applying again what a site already has changes nothing."""

    def apply(self, change: Change, proven: bool = False) -> Underway | None:
        """Begin a change, or carry it on by what it has come to meanwhile; None when there is no more to do than to
        wait for the site's own telemetry. `proven`: that telemetry has shown the candidate well since the step began.

        Raises Offline, Retry, or Refused with what the site said.
        """
        ...

    def finish(self, change: Change) -> None:
        """The change is verified and nobody will go back on it: what it took the place of may be removed."""
        ...


class Notifier(Protocol):
    """Tells people. A card is plain data: kind, title, text, facts, link."""

    def tell(self, card: Mapping[str, Any]) -> None: ...


class Signatures(Protocol):
    """Checks who made some bytes."""

    def verify(self, public: str, signature: bytes, data: bytes) -> bool:
        """Ed25519; `public` is base64 of the 32 bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who has proven who they are. Roles: "operate" (retrain, cancel, roll back, freeze), "approve", "read".

    `id` never changes, as the name may; `groups` are ids, and not all of them where `partial`. `token`: they brought
    one of their own, which no browser sends by itself, so that no page of somebody else's can have asked.
    """

    name: str
    roles: frozenset[str] = frozenset()
    id: str = ""
    groups: frozenset[str] = frozenset()
    partial: bool = False
    token: bool = False


class People(Protocol):
    """Who asks, and that a form which comes back is one that we made."""

    def identify(self, headers: Mapping[str, str]) -> Person | None:
        """Who sent a request with these headers (names in any case); None where that is not proven."""
        ...

    def may_look(self, person: Person | None) -> bool:
        """Whether somebody, or a nobody, may see what the app shows."""
        ...

    def sign(self, text: str) -> str:
        """A mark that only we can make on this text."""
        ...

    def check(self, text: str, mac: str) -> bool:
        """Whether `mac` is our mark on `text`; takes as long whatever is wrong with it."""
        ...

    def login(self, token: str) -> tuple[Person, str] | None:
        """Who a login link's token names, and the Set-Cookie header that keeps them signed in; None: no such token,
        or people sign in elsewhere."""
        ...


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file as it was when it was opened: its container and name, what tells it from later ones, and its bytes."""

    name: str
    etag: str
    file: BinaryIO


class Uploads(Protocol):
    """Files that others put where the app may read."""

    def name(self, url: str) -> str:
        """Container and name of the file at an address. Raises Refused where files are not uploaded there."""
        ...

    def open(self, name: str) -> AbstractContextManager[UploadedFile]:
        """Raises NotFound; Refused for a file that is too large."""
        ...


@dataclass(frozen=True, slots=True)
class LogTable:
    """What a query found; `partial` says why that is not all."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    partial: str = ""


class LogQueries(Protocol):
    """Log Analytics workspaces."""

    def query(self, workspace: str, kql: str, start: datetime, end: datetime) -> LogTable: ...


class Clock(Protocol):
    def now(self) -> datetime:
        """Aware, UTC."""
        ...


class Configs(Protocol):
    """The loops that this app runs, and the fleet each runs on."""

    def loops(self) -> Sequence[str]: ...
    def loop(self, name: str) -> Loop: ...
    def fleet(self, name: str) -> Fleet: ...


class Together(Protocol):
    """Work on things that do not depend on each other, maybe at the same time."""

    def __call__(self, work: Callable[[A], R], items: Iterable[A], /) -> list[R]:
        """What `work` returns for each, in order; raises what one of them raises."""
        ...


def in_turn(work: Callable[[A], R], items: Iterable[A], /) -> list[R]:
    """Together, one after the other."""
    return [work(item) for item in items]


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything the shell may touch."""

    store: Store
    blobs: Blobs
    bus: Bus
    topic: Topic
    jobs: Jobs
    executor: Executor
    notifier: Notifier
    signatures: Signatures
    people: People
    clock: Clock
    configs: Configs
    uploads: Uploads | None = None
    logs: LogQueries | None = None
    together: Together = in_turn
    cache: dict[str, Any] = field(default_factory=dict)  # of immutable things, by digest
