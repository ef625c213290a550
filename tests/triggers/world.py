"""A small world to run whole stories in: the shell on the real local store, bus, topic, blobs and virtual clock, with
sites, a trainer and a notice board that live in memory.

Queues are pumped by calling what functions/ calls. Nothing here knows how the shell works inside.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from adapters.local.blobs import FileBlobs
from adapters.local.bus import SqliteBus
from adapters.local.clock import VirtualClock
from adapters.local.database import Database
from adapters.local.people import LocalPeople
from adapters.local.store import SqliteStore
from adapters.local.topic import SqliteTopic
from adapters.signatures import Ed25519
from drift import envelope
from drift.reference import Reference
from drift.telemetry import Batch, Labels, Rows, Schema, Serving
from drift.windows import Window
from triggers import approval, asking, codec, events, intake, loop, notices, sites, training
from triggers import config as cfg
from triggers.errors import NotFound, Offline, Refused, Retry
from triggers.lifecycle import IllegalTransition
from triggers.ports import Change, Job, JobStatus, Message, Ports, Underway
from triggers.records import Orphans, Quarantined, SiteState, site_partition
from triggers.run import Run

START = datetime(2026, 3, 1, tzinfo=UTC)
HALF = timedelta(hours=12)
DAY = timedelta(days=1)
ROWS = 60
"""Rows a site sends in half a day."""

LOOP = cfg.Loop(
    loop="line",
    schema=cfg.Schema(timestamp="at", site="site", label="y", features=(cfg.Feature(name="x"), cfg.Feature(name="z"))),
    telemetry=cfg.Telemetry(window="1d", settle="0s", lateness="10d", silence="30d"),
    retrain=cfg.Retrain(confirm=2, cooldown="5d", minimum_rows=100),
    training=cfg.Training(window="8d", holdout="1d"),
    approval=cfg.Approval(approvers=("ann", "bob"), expires="3d"),
    rollout=cfg.Rollout(max_unavailable=2, soak="12h", deadline="2d", minimum_requests=20, max_p95_ms=50.0),
)


def a_fleet(*names: str, keys: Mapping[str, tuple[cfg.Key, ...]] = {}) -> cfg.Fleet:
    """The first site is the lab, the others are the plant."""
    rings = {name: "plant" if i else "lab" for i, name in enumerate(names)}
    return cfg.Fleet(sites=tuple(cfg.Site(name=n, ring=rings[n], keys=keys.get(n, ())) for n in names))


# --- telemetry


def some_rows(site: str, start: datetime, length: timedelta, n: int, shift: float = 0.0) -> tuple[Rows, Labels]:
    """The same rows whenever they are asked for."""
    first = int(start.timestamp())
    rng = np.random.default_rng(crc32(f"{site}/{first}".encode()))
    at = np.sort(rng.integers(first, first + int(length.total_seconds()), n))
    x, z = rng.normal(size=n) + shift, rng.normal(size=n)
    score = np.round(1 / (1 + np.exp(-x - z)), 4)
    ids = [f"{site}-{first}-{i}" for i in range(n)]
    label = (rng.random(n) < score).astype(np.float64)
    return Rows(ids, at, score, {"x": x.round(4), "z": z.round(4)}), Labels(ids, at, label)


@lru_cache
def a_reference(shift: float = 0.0) -> bytes:
    """Thirty days of three sites before the beginning."""
    parts, labels, where = [], [], []
    for site in ("a", "b", "c"):
        for day in range(1, 31):
            rows, told = some_rows(site, START - day * DAY, DAY, 2 * ROWS, shift)
            parts.append(rows)
            labels.append(told.label)
            where += [site] * len(rows)
    columns = {n: np.concatenate([p.columns[n] for p in parts]) for n in ("x", "z")}
    rows = Rows(
        [i for p in parts for i in p.ids],
        np.concatenate([p.at for p in parts]),
        np.concatenate([p.score for p in parts]),
        columns,
    )
    schema: Schema = LOOP.schema.telemetry(LOOP.task)
    return Reference.build(schema, rows, np.concatenate(labels), where, bins=16).to_bytes()


@dataclass
class Key:
    """A site's key, and the entry of fleet.yaml that lists it."""

    id: str
    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def listed(self, **more: Any) -> cfg.Key:
        raw = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return cfg.Key(id=self.id, public=base64.b64encode(raw).decode(), **more)

    def sign(self, payload: bytes) -> bytes:
        return envelope.signed(payload, self.private.sign)


# --- what the ports stand on


class Configs:
    def __init__(self, a_loop: cfg.Loop, fleet: cfg.Fleet) -> None:
        self.one, self.sites = a_loop, fleet

    def loops(self) -> Sequence[str]:
        return [self.one.loop]

    def loop(self, name: str) -> cfg.Loop:
        if name != self.one.loop:
            raise NotFound(f"no loop {name}")
        return self.one

    def fleet(self, name: str) -> cfg.Fleet:
        self.loop(name)
        return self.sites


@dataclass
class Trainer:
    """Port Jobs: what is submitted has ended at once, as `train` and `evaluate` say; each name once. While it `holds`,
    those that have not been seen to end go on; what is submitted while it `fails`, fails."""

    blobs: FileBlobs
    gain: float | None = 0.05
    shift: float = 0.0
    holds: bool = False
    fails: bool = False
    failed: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    evidence: dict[str, Any] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    assets: dict[str, str] = field(default_factory=dict)

    def submit(self, job: Job) -> None:
        if self.fails and job.name not in self.jobs:
            self.failed.add(job.name)
        self.jobs.setdefault(job.name, job)

    def cancel(self, name: str) -> None:
        if self.status(name).state == "running":
            self.cancelled.append(name)

    def newest(self, asset: str) -> str:
        return self.assets.get(asset, "")

    def author(self, model: str) -> str:
        return self.assets.get(f"author of {model}", "")

    def status(self, name: str) -> JobStatus:
        job = self.jobs.get(name)
        if job is None:
            return JobStatus("unknown")
        if name in self.cancelled:
            return JobStatus("cancelled", reason="cancelled")
        if self.holds and name not in self.ended:
            return JobStatus("running")
        self.ended.add(name)
        if name in self.failed:
            return JobStatus("failed", reason="out of memory")
        return JobStatus("succeeded", self._trained(job) if job.kind == "train" else self._evaluated(job))

    def _trained(self, job: Job) -> dict[str, Any]:
        made = put_candidate(self.blobs, a_reference(self.shift), job.run, job.spec.get("authors", ()), job.loop)
        return {"candidate": made, "rows": 5000, "from": job.spec["from"], "to": job.spec["to"], "sites": {}}

    def _evaluated(self, job: Job) -> dict[str, Any]:
        gain = self.gain
        found = {
            "champion": job.spec["champion"],
            "challenger": job.spec["challenger"],
            "metric": job.spec["metric"],
            "confidence": job.spec["confidence"],
            "rows": 1000,
            "from": job.spec["from"],
            "to": job.spec["to"],
            "champion_value": 0.7,
            "challenger_value": None if gain is None else 0.7 + gain,
            "gain": gain,
            "gain_low": None if gain is None else gain - 0.02,
            "gain_high": None if gain is None else gain + 0.02,
            "sites": {},
            "data": "d" * 64,
            "trials": {"challenger": {}},
            "schema": "",
        }
        return {**found, **self.evidence}


def put_candidate(
    blobs: FileBlobs, reference: bytes, name: str, authors: Sequence[str] = (), loop: str = "line"
) -> str:
    """A candidate in the registry; returns its digest."""
    layer = codec.digest(reference)
    said = {"format": 1, "loop": loop, "schema": {"version": "1"}, "task": "binary"}
    alike = {"code": "c1", "settings": "s1", "architecture": "a1", "environment": "python 3.11"}
    lineage = {"run": name, **alike, "authors": authors}
    files = {"reference.bin": {"sha256": layer, "bytes": len(reference)}}
    manifest = msgspec.json.encode({**said, "files": files, "lineage": lineage})
    digest = codec.digest(manifest)
    blobs.put(f"layers/{layer}", reference)
    blobs.put(f"candidates/{digest}/manifest.json", manifest)
    return digest


@dataclass
class Plant:
    """A site: what it serves, and how it behaves."""

    name: str
    serves: str = ""
    online: bool = True
    refuses: set[str] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)
    applied: list[str] = field(default_factory=list)
    steps: bool = False
    joins: str = ""  # answers some of the requests, while a change is underway
    finished: list[str] = field(default_factory=list)
    unsent: list[bytes] = field(default_factory=list)
    spoken: set[datetime] = field(default_factory=set)


class Plants:
    """Port Executor."""

    def __init__(self, names: Sequence[str]) -> None:
        self.all = {name: Plant(name) for name in names}
        self.retries = 0

    def __getitem__(self, name: str) -> Plant:
        return self.all[name]

    def apply(self, change: Change, proven: bool = False) -> Underway | None:
        site, candidate = change.site, change.candidate
        if self.retries:
            self.retries -= 1
            raise Retry("throttled")
        plant = self.all.get(site)
        if plant is None:
            raise NotFound(f"no site {site}")
        if not plant.online:
            raise Offline(f"{site} cannot be reached")
        if candidate in plant.refuses:
            raise Refused("no such bytes")
        if plant.steps and not proven:
            plant.joins = candidate
            return Underway("some", "some of the requests")
        plant.joins = ""
        if plant.serves != candidate:
            plant.serves = candidate
            plant.applied.append(candidate)
        return None

    def finish(self, change: Change) -> None:
        if change.candidate not in (finished := self.all[change.site].finished):
            finished.append(change.candidate)


@dataclass
class Board:
    """Port Notifier: a card is known by its id. `told`: what people have read, alone or with others in a digest."""

    cards: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def tell(self, card: Mapping[str, Any]) -> None:
        self.cards[card["id"]] = card
        digest = card if card["kind"] == "digest" else notices.digest(card["loop"], [dict(card)])
        self.told.update(digest["text"].splitlines())


class Crash(BaseException):
    """The process is gone."""


@dataclass
class Faults:
    """Counts what leaves the process, the first call being 1, and ends it at some: "before" they are done, or "after".
    At "error" it lives, and is told of an error though it was done."""

    at: Container[int] = ()
    how: str = "before"
    calls: int = 0

    def guard(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            mine = self.calls in self.at
            if mine and self.how == "before":
                raise Crash
            done = call(*args, **kwargs)
            if mine:
                raise Retry("done, then an error") if self.how == "error" else Crash
            return done

        return guarded


READS: Mapping[str, frozenset[str]] = {
    "store": frozenset({"get", "scan"}),
    "blobs": frozenset({"get", "exists", "names"}),
    "bus": frozenset({"receive", "pending", "next_due", "dead_letters"}),
    "topic": frozenset({"pending", "next_due", "dead_letters", "recent"}),
    "jobs": frozenset({"status", "newest", "author"}),
    "executor": frozenset(),
    "notifier": frozenset(),
    "signatures": frozenset({"verify"}),
    "people": frozenset({"identify", "may_look", "sign", "check", "login", "login_link"}),
    "clock": frozenset({"now"}),
    "configs": frozenset({"loops", "loop", "fleet"}),
}
"""By port, what only reads: a process that dies at it has died after the write before. All else that is public may be
the last thing that it does. `receive` locks: who dies after it dies before the next write, or before `complete`."""


class Fragile:
    """A port each of whose calls, but its reads, may be the last thing that the process does."""

    def __init__(self, port: Any, faults: Faults, reads: Container[str]) -> None:
        self._port, self._faults, self._reads = port, faults, reads

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if name.startswith("_") or name in self._reads or not callable(found):
            return found
        return self._faults.guard(found)


# --- the world


class World:
    """One loop on one fleet, from START on."""

    def __init__(
        self,
        folder: Path,
        *,
        a_loop: cfg.Loop = LOOP,
        fleet: cfg.Fleet | None = None,
        keys: Mapping[str, Key] = {},
        faults: Faults | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.blobs = FileBlobs(folder / "blobs")
        self.neighbours: list[World] = []
        self._has(a_loop, fleet or a_fleet("a", "b", "c"))
        self.keys = keys
        self.board = Board()
        self.faults = faults or Faults()
        self.quarantine: list[str] = []
        self.lags: set[str] = set()  # queues that hand out nothing
        self.at_once = 32  # messages of telemetry that a worker takes
        self.open()

    def _has(self, a_loop: cfg.Loop, fleet: cfg.Fleet) -> None:
        """What belongs to one loop alone."""
        self.name = a_loop.loop
        self.configs = Configs(a_loop, fleet)
        self.jobs = Trainer(self.blobs)
        self.plants = Plants([s.name for s in fleet.sites])
        self.shift = 0.0
        self._told: set[str] = set()

    def open(self) -> None:
        """A process begins on what is stored."""
        self.database = Database(self.folder / "state.db")
        self.clock = VirtualClock(self.database, START)
        self.store = SqliteStore(self.database)
        bus, topic = SqliteBus(self.database, self.clock), SqliteTopic(self.database, self.clock)
        bus.recover()
        topic.subscribe("forward", ["driftloop.deployment.requested"])
        self.bus, self.topic = self._fragile("bus", bus), self._fragile("topic", topic)
        self.plug()

    def _fragile(self, name: str, port: Any) -> Any:
        return Fragile(port, self.faults, READS[name])

    def plug(self) -> None:
        """The ports, for all the loops that there are."""
        worlds = [self, *self.neighbours]
        configs, jobs, plants = (
            _Apart(worlds, port) if self.neighbours else getattr(self, port) for port in ("configs", "jobs", "plants")
        )
        ports = {
            "store": self.store,
            "blobs": self.blobs,
            "jobs": jobs,
            "executor": plants,
            "notifier": self.board,
            "signatures": Ed25519(),
            "people": LocalPeople(self.folder / "people.key"),
            "clock": self.clock,
            "configs": configs,
        }
        fragile = {name: self._fragile(name, port) for name, port in ports.items()}
        self.ports = Ports(bus=self.bus, topic=self.topic, **fragile)

    def close(self) -> None:
        self.database.close()

    def restart(self) -> None:
        self.close()
        self.open()

    # what moves it

    def pump(self, most: int = 500) -> int:
        """Hand out what is due until nothing is; returns how many messages that were."""
        done = 0
        while True:
            before = done
            for handout in self.topic.pending("forward"):
                change = Change(**{**handout.event["data"], "at": datetime.fromisoformat(handout.event["data"]["at"])})
                body = msgspec.json.encode(change)
                self.ports.bus.send(
                    "deployments", [Message(id=str(handout.event["id"]), body=body, session=change.site)]
                )
                self.topic.done([handout])
                done += 1
            done += sum(self.hand_out(*consumer) for consumer in self.consumers())
            done += sum(world.tell_of_jobs() for world in (self, *self.neighbours))
            if done == before:
                return done
            assert done < most, "no end"

    def hand_out(self, queue: Any, count: int, handle: Callable[[list[bytes]], Any]) -> int:
        """Once, what is due of a queue; returns how many messages that were."""
        told = [] if queue in self.lags else self.bus.receive(queue, count)
        if not told:
            return 0
        try:
            handle([m.body for m in told])
        except Retry:
            self.bus.abandon(told)
            return len(told)
        except (Refused, IllegalTransition) as problem:
            self.quarantine.append(str(problem))
        self.bus.complete(told)
        return len(told)

    def tell_of_jobs(self) -> int:
        """As Event Grid does of Azure ML's; returns how many have ended."""
        ended = [n for n in self.jobs.jobs if n not in self._told and self.jobs.status(n).state != "running"]
        for name in ended:
            training.job_ended(self.ports, name)
            self._told.add(name)
        return len(ended)

    def consumers(self) -> Iterator[tuple[Any, int, Callable[[list[bytes]], Any]]]:
        p = self.ports
        yield "telemetry", self.at_once, lambda bodies: intake.ingest(p, bodies)
        yield "runs", 1, lambda bodies: loop.tell(p, codec.decode_as(bodies[0], events.AnyEvent, "Event"))
        yield "effects", 1, lambda bodies: loop.perform(p, bodies[0].decode())
        yield "deployments", 1, lambda bodies: sites.deploy(p, msgspec.json.decode(bodies[0], type=Change))

    def begin(self) -> str:
        """A first champion, adopted and served everywhere; once."""
        first = put_candidate(self.blobs, a_reference(), "bootstrap", loop=self.name)
        if loop.head(self.ports, self.name).champion not in ("", first):
            return first
        for plant in self.plants.all.values():
            plant.serves = plant.serves or first
        loop.adopt(self.ports, self.name, first, "ann")
        return first

    def batch(self, site: str, *, id: str = "", n: int = ROWS, **more: Any) -> Batch:
        """What a site has to say about the last half day, with its labels."""
        now = self.clock.now()
        rows, told = some_rows(site, now - HALF, HALF, n, self.shift)
        plant = self.plants.all.get(site, Plant(site))
        p95 = 200.0 if plant.serves in plant.slow else 10.0
        said: dict[str, Any] = {
            "schema": "1",
            "loop": self.name,
            "candidate": plant.serves,
            "site": site,
            "id": id or f"{site}-{now:%m%dT%H}",
            "start": int((now - HALF).timestamp()),
            "end": int(now.timestamp()),
            "rows": rows,
            "labels": told,
            "serving": Serving(n, 0, 5.0, p95),
            "key": self.keys[site].id if site in self.keys else "",
        }
        return Batch(**{**said, **more})

    def payload(self, batch: Batch) -> bytes:
        data = envelope.encode(batch, LOOP.schema.telemetry(LOOP.task))
        key = self.keys.get(batch.site)
        return key.sign(data) if key else data

    def send(self, *payloads: bytes) -> None:
        """As POST /api/telemetry does."""
        self.ports.bus.send("telemetry", [Message(id=codec.digest(p), body=p) for p in payloads])

    def half_day(self) -> None:
        """Half a day passes and every site speaks, or keeps what it would have said; at midnight there is a check."""
        self.clock.advance(HALF)
        self.speak()

    def speak(self) -> None:
        """What happens at each half day; doing it again changes nothing."""
        self.hear()
        self.tick()

    def hear(self) -> None:
        """What every site has to say arrives."""
        for name, plant in self.plants.all.items():
            if self.clock.now() not in plant.spoken:
                plant.unsent.append(self.payload(self.batch(name)))
                plant.spoken.add(self.clock.now())
        for plant in self.plants.all.values():
            if plant.online:
                self.send(*plant.unsent)
                plant.unsent.clear()
        self.pump()

    def tick(self) -> None:
        """The timers."""
        if self.clock.now().hour == 0:
            loop.check(self.ports, self.name)
        loop.sweep(self.ports, self.name)
        self.pump()

    def days(self, number: float) -> None:
        for _ in range(int(2 * number)):
            self.half_day()

    def until(self, phase: str, days: float = 12) -> Run:
        """Let days pass until the newest run is in `phase`."""
        for _ in range(int(2 * days)):
            if self.runs and self.runs[-1].phase == phase:
                return self.runs[-1]
            self.half_day()
        raise AssertionError(f"not {phase} but {[(r.phase, r.because) for r in self.runs]}, {self.decisions[-2:]}")

    def answer(self, answer: Any = "approve", by: str = "ann", run: str = "", **changes: Any) -> str:
        """Somebody answers what a run, or else the newest, asks."""
        asked = self.request(run)
        shown = {"candidate": asked.candidate, "evidence": asked.evidence, "plan": asked.plan}
        given = approval.Answer(**{"answer": answer, "by": by, "reason": "", **shown, **changes})
        why = asking.answer(self.ports, asked.run, given)
        self.pump()
        return why

    # what is seen of it

    @property
    def runs(self) -> list[Run]:
        return loop.runs(self.ports, self.name)

    @property
    def decisions(self) -> list[str]:
        return [msgspec.json.decode(r.value)["body"]["reason"] for r in self.store.scan(self.name, "decision/")]

    def request(self, run: str = "") -> approval.Request:
        record = self.store.get(self.name, f"approval/{run or self.runs[-1].id}")
        assert record, "nothing is asked"
        return codec.decode(record.value, approval.Request)

    def state(self, site: str) -> SiteState:
        return sites.state_of(self.ports, self.name, site)

    def windows(self, site: str) -> list[Window]:
        return [Window.from_bytes(r.value) for r in self.store.scan(site_partition(self.name, site), "window/")]

    def counted(self, site: str) -> dict[tuple[str, int], tuple[int, int, int]]:
        """(candidate, period) -> rows, labels, conflicts."""
        return {(w.candidate, w.start): (w.rows, w.outcomes.labels, w.outcomes.conflicts) for w in self.windows(site)}

    def waiting_labels(self, site: str) -> int:
        """Labels whose predictions have not come."""
        found = self.store.scan(site_partition(self.name, site), "orphans/")
        return sum(len(codec.decode(r.value, Orphans).ids) for r in found)

    def quarantined(self) -> dict[str, str]:
        """Batch -> reason."""
        found = [r.value for p in (self.name, "driftloop") for r in self.store.scan(p, "quarantine/")]
        return {q.batch: q.reason for q in (codec.decode(value, Quarantined) for value in found)}

    def waiting(self) -> list[str]:
        """Effects that are asked for and not yet performed."""
        return [r.key for r in self.store.scan(self.name, "outbox/")]


class Neighbour(World):
    """Another loop of the same app: time, store, blobs, queues and workers are those of `root`."""

    def __init__(self, root: World, a_loop: cfg.Loop, fleet: cfg.Fleet) -> None:
        self.root = root
        self._has(a_loop, fleet)
        root.neighbours.append(self)
        root.plug()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.root, name)

    def pump(self, most: int = 500) -> int:
        return self.root.pump(most)


class _Apart:
    """A port of each of several loops: who it is about says which."""

    def __init__(self, worlds: Sequence[World], port: str) -> None:
        self._ports = {world.name: getattr(world, port) for world in worlds}

    def __getattr__(self, name: str) -> Any:
        return lambda about, *more, **named: getattr(self._of(about), name)(about, *more, **named)

    def loops(self) -> Sequence[str]:
        return list(self._ports)

    def _of(self, about: Any) -> Any:
        """A job, a change, or the name of a loop, a run or a job."""
        loop = about.split(".")[0] if isinstance(about, str) else about.loop
        if loop not in self._ports:
            raise NotFound(f"no loop {loop}")
        return self._ports[loop]
