"""A small factory on this machine: a state folder of the local profile, its host and its sites as real processes, and
an audit of what they leave behind."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np

from adapters.local import keys
from adapters.local.profile import Local
from cli.children import environment, run_job, terminate
from drift import envelope
from drift.telemetry import Batch, Labels, Rows, Schema
from drift.windows import Window
from edge.keys import signer
from triggers import codec, intake, sites
from triggers import loop as shell
from triggers.config import parse_loop
from triggers.ports import Ports, Queue
from triggers.records import AuditEntry, BatchRecord, Quarantined, site_partition, verify

ROOT = Path(__file__).resolve().parents[1]
NAME = "factory"
HISTORY_DAYS, A_DAY = 24, 60
"""Days of labelled rows before now, and rows a day from each site."""

_LOOP = """
loop: factory
schema:
  timestamp: time
  site: plant
  id: piece
  label: scrap
  features: [{features}]
telemetry: {{rate: 999999 per hour}}
retrain: {{enabled: false, minimum_rows: 100}}
training: {{window: 20d, holdout: 4d, settings: {{iterations: 10}}}}
gates: {{minimum_rows: 50, margin: 1.0}}
approval: {{approvers: [operator]}}
rollout: {{rings: [first, rest], soak: 1s, deadline: 30m, max_unavailable: 2, minimum_requests: 1}}
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ask(
    port: int, method: str, path: str, body: bytes | None = None, timeout: float = 10.0, **headers: str
) -> tuple[int, bytes]:
    """One request to 127.0.0.1. Raises OSError where nobody answers in HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


class Process:
    """A process of ours that may be killed and started again with the same command; what it writes goes to a log."""

    def __init__(self, command: list[str], log: Path, settings: Mapping[str, str], ready: Callable[[], bool]) -> None:
        self.command, self.log, self.settings, self.ready = command, log, settings, ready
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.pid

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                self.command, stdout=log, stderr=log, cwd=ROOT, env={**environment(), **self.settings}
            )

    def kill(self) -> None:
        """SIGKILL, to this process alone."""
        assert self._running is not None
        self._running.kill()
        self._running.wait()

    def until_ready(self, patience_s: float = 120.0) -> None:
        """Raises TimeoutError, with the end of its log, where it does not come up."""
        end = time.monotonic() + patience_s
        while not self._answers():
            ended = self._running.poll() if self._running else None
            if time.monotonic() > end or ended is not None:
                said = self.log.read_text()[-1000:]
                raise TimeoutError(f"{' '.join(self.command[3:6])} is not up, exit status {ended}: {said}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            return self.ready()
        except OSError:
            return False

    def stop(self) -> None:
        if self._running is not None and self._running.poll() is None:
            terminate(self._running)


@dataclass
class Factory:
    """A state folder with one loop, its sites and their keys; `features` of the loop are f0, f1, ..."""

    state: Path
    names: tuple[str, ...] = ("north", "south", "west")
    features: int = 4
    port: int = field(default_factory=free_port)
    ports_of: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ports_of = {name: free_port() for name in self.names}
        self.config = self.state / "config" / NAME
        self.config.mkdir(parents=True)
        listed = ", ".join(f"{{name: f{n}}}" for n in range(self.features))
        (self.config / "loop.yaml").write_text(_LOOP.format(features=listed))
        self.loop = parse_loop((self.config / "loop.yaml").read_text())
        self.schema: Schema = self.loop.schema.telemetry(self.loop.task)
        keys.registry(self.state)
        self.sign = {name: signer(keys.site(self.state, name).read_bytes()) for name in self.names}
        fleet = [
            {
                "name": name,
                "ring": "rest" if n else "first",
                "url": f"http://127.0.0.1:{self.ports_of[name]}/{name}",
                "keys": [{"id": "k1", "public": keys.public(self.state, name)}],
            }
            for n, name in enumerate(self.names)
        ]
        (self.config / "fleet.yaml").write_text(json.dumps({"sites": fleet}))  # JSON is YAML

    # --- the beginning

    def rows(self, random: np.random.Generator, site: str, name: str, at: np.ndarray) -> tuple[Rows, Labels]:
        """Rows named `name`-0, `name`-1, ... at these times, and what came true of them."""
        x = random.normal(size=(len(at), self.features)).round(4)
        truth = (random.random(len(at)) < 1 / (1 + np.exp(-2 * x[:, 0]))).astype(float)
        ids = [f"{name}-{n}" for n in range(len(at))]
        score = np.round(1 / (1 + np.exp(-x[:, 0])), 4)
        return Rows(ids, at, score, {f"f{n}": x[:, n] for n in range(self.features)}), Labels(ids, at, truth)

    def begin(self) -> str:
        """A first champion, trained by a real job on a history of all sites, which the loop then knows; its digest."""
        now = int(time.time()) // 86_400 * 86_400
        random = np.random.default_rng(1)
        days: list[tuple[str, int, Rows, Labels]] = []
        for name in self.names:
            for day in range(HISTORY_DAYS, 0, -1):
                start = now - day * 86_400
                at = np.sort(random.integers(start, start + 86_400, A_DAY))
                days.append((name, start, *self.rows(random, name, f"{name}-{day}", at)))
        table = self.state / "history.csv"
        table.write_text("\n".join([",".join(["piece", "time", "plant", *self.schema.names, "scrap"]), *_lines(days)]))
        champion = self._train(table, now)
        local = Local(self.state)
        try:
            shell.adopt(local.ports, NAME, champion, "bench")
            payloads = [
                envelope.encode(
                    Batch("1", NAME, champion, site, f"history-{start}", start, start + 86_400, rows, None, labels),
                    self.schema,
                )
                for site, start, rows, labels in days
            ]
            found = intake.ingest(local.ports, payloads, backfill=True, verify=False)
            assert found.accepted == len(payloads), found.reasons[:3]
        finally:
            local.close()
        self.history_rows = len(days) * A_DAY
        return champion

    def _train(self, table: Path, now: int) -> str:
        folder = self.state / "work"
        span = {"from": envelope.iso(now - HISTORY_DAYS * 86_400), "to": envelope.iso(now - 4 * 86_400)}
        run_job(
            folder,
            {
                "name": "first",
                "kind": "train",
                "loop": str(self.config / "loop.yaml"),
                "blobs": str(self.state / "blobs"),
                "run": "first",
                **span,
                "parent": None,
                "sites": None,
                "data": str(table),
                "key": str(self.state / "keys" / "registry.pem"),
                "settings": {"iterations": 10},
            },
        )
        found = json.loads((folder / "result.json").read_text())
        if "error" in found:
            raise RuntimeError(f"the first champion could not be trained: {found['error']}")
        return str(found["candidate"])

    # --- its processes

    def host(self, **settings: str) -> Process:
        """`driftloop host` on this state; a sweep every two seconds, and checks twice a minute."""
        command = [sys.executable, "-W", "ignore", "-m", "cli.main", "host"]
        command += ["--state", str(self.state), "--port", str(self.port)]
        often = {"SweepSchedule": "*/2 * * * * *", "CheckSchedule": "*/30 * * * * *", **settings}
        ready = lambda: ask(self.port, "GET", "/api/health", timeout=2)[0] == 200  # noqa: E731
        return Process(
            command, self.state / "host.log", {"DRIFTLOOP_PROFILE": "local", "DRIFTLOOP_CLOCK": "", **often}, ready
        )

    def site(self, name: str) -> Process:
        """The edge program as one site, which sends a batch a second."""
        folder = self.state / "sites" / name
        told = {
            "name": name,
            "loop": NAME,
            "schema": msgspec.to_builtins(self.schema),
            "state": str(folder / "state"),
            "ingest": f"http://127.0.0.1:{self.port}/api/telemetry",
            "registry": str(self.state / "blobs"),
            "registry_key": str(self.state / "keys" / "registry.pub"),
            "key": str(folder / "key.pem"),
            "key_id": "k1",
            "flush": 1,
        }
        (folder / "edge.json").write_text(json.dumps({"port": self.ports_of[name], "sites": [told]}))
        command = [sys.executable, "-W", "ignore", "-m", "edge", "--config", str(folder / "edge.json")]
        ready = lambda: ask(self.ports_of[name], "GET", f"/{name}/status", timeout=2)[0] == 200  # noqa: E731
        return Process([*command, "--parent", str(os.getpid())], folder / "edge.log", {}, ready)


def _lines(days: list[tuple[str, int, Rows, Labels]]) -> Iterator[str]:
    for site, _, rows, labels in days:
        columns = [rows.columns[name].tolist() for name in rows.columns]
        for n, (id, at, truth) in enumerate(zip(rows.ids, rows.at.tolist(), labels.label.tolist(), strict=True)):
            yield ",".join(map(str, (id, at, site, *(c[n] for c in columns), int(truth))))


@contextmanager
def running(*processes: Process) -> Iterator[None]:
    """Started and answering; stopped in the end, whatever happens."""
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.until_ready()
        yield
    finally:
        for process in processes:
            process.stop()


def drained(state: Path, seconds: float) -> float:
    """Seconds until no batch waits to be counted; infinite where that takes longer."""
    local, began = Local(state), time.monotonic()
    try:
        while local.bus.pending("telemetry"):
            if time.monotonic() - began > seconds:
                return float("inf")
            time.sleep(0.2)
        return time.monotonic() - began
    finally:
        local.close()


# --- the audit


@dataclass(frozen=True, slots=True)
class AtSite:
    """What a site's folder holds when its process is gone: ids of rows that are not sent, reasons of batches that were
    refused, and how many gave way to newer ones."""

    rows: frozenset[str]
    refused: tuple[str, ...]
    dropped: int


def at_site(here: Factory, name: str) -> AtSite:
    with closing(sqlite3.connect(here.state / "sites" / name / "state" / "site.db")) as db:
        served = [json.loads(row)[0] for (row,) in db.execute("select row from served")]
        waiting = [body for (body,) in db.execute("select body from outbox where refused is null")]
        refused = tuple(reason for (reason,) in db.execute("select refused from outbox where refused is not null"))
        dropped = db.execute("select value from facts where name = 'dropped'").fetchone()
    unsent = [batch.rows.ids for batch in (envelope.decode(body, here.schema) for body in waiting) if batch.rows]
    return AtSite(frozenset(served).union(*unsent), refused, json.loads(dropped[0]) if dropped else 0)


@dataclass(frozen=True, slots=True)
class Found:
    """What a state folder holds. `ids`: how often each (site, row id) is in a counted batch; `windows`: rows counted in
    windows, `records`: rows of the counted batches, by site; `quarantined`: (batch, why) of what was put aside;
    `wrong`: promises that do not hold, in words."""

    batches: Mapping[str, frozenset[str]]
    ids: Counter[tuple[str, str]]
    windows: Mapping[str, int]
    records: Mapping[str, int]
    pending: int
    dead: int
    quarantined: tuple[tuple[str, str], ...]
    phases: Counter[str]
    wrong: tuple[str, ...]


def audit(state: Path) -> Found:
    """Look through a state folder that no host runs on."""
    local = Local(state)
    try:
        return _audit(local)
    finally:
        local.close()


def _audit(local: Local) -> Found:
    ports, wrong = local.ports, []
    batches, windows, records = {}, {}, {}
    for site in ports.configs.fleet(NAME).sites:
        partition = site_partition(NAME, site.name)
        kept = {
            r.key.removeprefix("batch/"): codec.decode(r.value, BatchRecord)
            for r in ports.store.scan(partition, "batch/")
        }
        batches[site.name] = frozenset(kept)
        records[site.name] = sum(b.rows for b in kept.values())
        windows[site.name] = sum(Window.from_bytes(r.value).rows for r in ports.store.scan(partition, "window/"))
        if windows[site.name] != records[site.name]:
            wrong.append(f"{site.name}: {windows[site.name]} rows in windows, {records[site.name]} in counted batches")
    ids = _row_ids(ports, batches)
    wrong += [f"row {id} of {site} was counted {n} times" for (site, id), n in ids.items() if n > 1][:5]
    head = shell.head(ports, NAME)
    entries = [codec.decode(r.value, AuditEntry) for r in ports.store.scan(NAME, "audit/")]
    if broken := verify(entries, (head.audit, head.audit_hash)):
        wrong.append(f"audit trail: {broken}")
    wrong += _once(ports, entries)
    kept_aside = [r.value for p in (NAME, "driftloop") for r in ports.store.scan(p, "quarantine/")]
    put_aside = [codec.decode(value, Quarantined) for value in kept_aside]
    return Found(
        batches=batches,
        ids=ids,
        windows=windows,
        records=records,
        pending=local.bus.pending("telemetry"),
        dead=sum(len(local.bus.dead_letters(q)) for q in get_args(Queue)) + len(local.topic.dead_letters()),
        quarantined=tuple((q.batch, q.reason) for q in put_aside),
        phases=Counter(str(run.phase) for run in shell.runs(ports, NAME)),
        wrong=tuple(wrong),
    )


def _row_ids(ports: Ports, batches: Mapping[str, frozenset[str]]) -> Counter[tuple[str, str]]:
    """How often each row is in the counted batches, each batch read once wherever it was kept."""
    schema = ports.configs.loop(NAME).schema.telemetry("binary")
    seen: set[tuple[str, str]] = set()
    found: Counter[tuple[str, str]] = Counter()
    for name in ports.blobs.names(f"batches/{NAME}/"):
        for payload in envelope.unbundle(ports.blobs.get(name)):
            header = envelope.peek(payload)
            this = header.site, header.batch
            if this in seen or header.batch not in batches[header.site]:
                continue
            seen.add(this)
            batch = envelope.decode(payload, schema)
            found.update((header.site, id) for id in (batch.rows.ids if batch.rows is not None else ()))
    return found


def _once(ports: Ports, entries: list[AuditEntry]) -> list[str]:
    """What happened twice although it happens once, and what is asked for and was not done."""
    wrong = []
    told = Counter((e.kind, e.subject) for e in entries if e.kind in ("run-began", "answered"))
    wrong += [f"{kind} of {subject}: {n} times" for (kind, subject), n in told.items() if n > 1]
    for run in shell.runs(ports, NAME):
        waiting = list(ports.store.scan(NAME, f"outbox/{run.id}/"))
        if run.phase.final and waiting:
            wrong.append(f"{run.id} is {run.phase} and has {len(waiting)} unsent effects: {waiting[0].value[:120]!r}")
    champion = shell.head(ports, NAME)
    if not champion.active:
        for name, state in sites.states(ports, NAME).items():
            if state.candidate != champion.champion_of(name):
                wrong.append(f"{name} is to serve {state.candidate[:8]}, the champion is {champion.champion[:8]}")
    return wrong


def memory_mb(pid: int) -> float:
    """Resident memory of a process, MiB."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


def handles(pid: int) -> int:
    """Open file descriptors of a process."""
    with suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0


def percentile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else float("nan")
