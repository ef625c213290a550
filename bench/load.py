"""Load: signed batches of 100 rows x 20 features at a fixed pace, over HTTP and straight into the queue of a real host.

A batch's time runs from the moment at which it was due, so that a sender that is held up hides nothing. What was
answered 202, or was sent to the queue, is accepted; in the end each accepted batch has to be counted, once.
"""

from __future__ import annotations

import http.client
import queue
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from adapters.local.profile import Local
from bench import factory
from bench.factory import NAME, Factory
from drift import envelope
from drift.telemetry import Batch
from triggers.ports import Message

ROWS, FEATURES, SITES = 100, 20, 20
SENDERS = 48
"""Connections that are kept open."""

QUEUED = 4
"""One batch in so many goes straight into the queue, as with the Service Bus client."""

AGAIN = 50
"""One in so many is sent twice, as by a client whose answer got lost."""

PACED = 200.0
"""Batches a second up to which LATENCY_S is asked for; above it is a burst."""

LATENCY_S, MEMORY_MB, DRAIN_S = 0.25, 300.0, 300.0
"""Asked for: the time until a batch is durable (p99), the host's resident memory, the time until none waits."""

WARM_S = 3.0
"""The first seconds, of which the percentiles say nothing; a fifth of a short run."""

_MARK = b"@batch@"


@dataclass
class Load:
    """One run: `pace` batches a second for `seconds`; then the queue has `drain_s` to become empty."""

    factory: Factory
    pace: float
    seconds: float
    drain_s: float = DRAIN_S
    statuses: Counter[str] = field(default_factory=Counter)
    took: dict[str, list[float]] = field(default_factory=lambda: {"http": [], "queue": []})
    warming: dict[str, list[float]] = field(default_factory=lambda: {"http": [], "queue": []})
    accepted: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._due: queue.SimpleQueue[tuple[float, int] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._memory: list[float] = []
        self._backlog = 0

    def run(self) -> dict[str, Any]:
        champion = self.factory.begin()
        self._templates = {site: self._template(site, champion) for site in self.factory.names}
        host = self.factory.host(SweepSchedule="0 */5 * * * *", CheckSchedule="0 0 6 * * *")
        with factory.running(host):
            self._local = Local(self.factory.state)
            try:
                before = factory.memory_mb(host.pid)
                watching = threading.Event()
                watch = threading.Thread(target=self._watch, args=(host.pid, watching))
                watch.start()
                self._send_all()
                drained = self._drain()
                watching.set()
                watch.join()
            finally:
                self._local.close()
        return self._judge(before, drained)

    def _template(self, site: str, champion: str) -> tuple[bytes, Callable[[bytes], bytes]]:
        """A batch of this site, all but its name, and how the site signs."""
        random = np.random.default_rng(len(self.factory.names) + int(site[1:]))
        now = int(time.time())
        rows, _ = self.factory.rows(random, site, _MARK.decode(), np.full(ROWS, now - 1))
        batch = Batch("1", NAME, champion, site, _MARK.decode(), now - 1, now, rows, key="k1")
        return envelope.encode(batch, self.factory.schema), self.factory.sign[site]

    def _payload(self, n: int) -> tuple[str, str, bytes]:
        site, name = self.factory.names[n % SITES], f"b{n}"
        template, sign = self._templates[site]
        return site, name, envelope.signed(template.replace(_MARK, name.encode()), sign)

    # --- sending

    def _send_all(self) -> None:
        senders = [threading.Thread(target=self._sender) for _ in range(SENDERS)]
        for sender in senders:
            sender.start()
        began = time.monotonic()
        self._began, self._warm = began, began + min(WARM_S, self.seconds / 5)
        for n in range(int(self.pace * self.seconds)):
            due = began + n / self.pace
            if (wait := due - time.monotonic()) > 0:
                time.sleep(wait)
            self._due.put((due, n))
        for _ in senders:
            self._due.put(None)
        for sender in senders:
            sender.join()
        self._sent = time.monotonic()

    def _sender(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.factory.port, timeout=30)
        while (wanted := self._due.get()) is not None:
            due, n = wanted
            site, name, payload = self._payload(n)
            for _ in range(1 + (n % AGAIN == 0)):
                if n % QUEUED:
                    status = self._post(connection, payload)
                    way = "http"
                else:
                    self._local.bus.send("telemetry", [Message(str(uuid4()), payload)])
                    status, way = "202", "queue"
            with self._lock:
                self.statuses[status] += 1
                if status == "202":
                    self.accepted.add((site, name))
                    (self.took if due >= self._warm else self.warming)[way].append(time.monotonic() - due)
        connection.close()

    def _post(self, connection: http.client.HTTPConnection, payload: bytes) -> str:
        try:
            connection.request("POST", "/api/telemetry", payload, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            return str(answer.status)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return type(error).__name__

    # --- watching

    def _watch(self, pid: int, over: threading.Event) -> None:
        while not over.wait(1.0):
            self._memory.append(factory.memory_mb(pid))
            self._backlog = max(self._backlog, self._local.bus.pending("telemetry"))

    def _drain(self) -> float:
        """Seconds from the last answer until the queue is empty; infinite where that takes too long."""
        while time.monotonic() - self._sent < self.drain_s:
            if not self._local.bus.pending("telemetry"):
                return time.monotonic() - self._sent
            time.sleep(0.2)
        return float("inf")

    def _judge(self, before: float, drained: float) -> dict[str, Any]:
        found = factory.audit(self.factory.state)
        counted = {(site, name) for site, names in found.batches.items() for name in names}
        lost = self.accepted - counted
        wrong = list(found.wrong)
        wrong += [f"{len(lost)} accepted batches are not counted"] if lost else []
        wrong += [f"{found.dead} dead letters"] if found.dead else []
        wrong += [f"{len(found.quarantined)} quarantined"] if found.quarantined else []
        told: dict[str, Any] = {
            "pace": self.pace,
            "seconds": self._sent - self._began,
            "statuses": dict(self.statuses),
            "took": self.took,
            "slowest": {way: max(self.warming[way] + took, default=0.0) for way, took in self.took.items()},
            "memory": max(self._memory, default=0.0),
            "memory before": before,
            "backlog": self._backlog,
            "drained": drained,
            "counted": len(counted) - self.factory.history_rows // factory.A_DAY,
        }
        return {**told, "wrong": wrong + unmet(told)}


LONG_S = 60.0
"""Latency is judged of runs that are as long: in shorter ones a moment of another program's would decide."""


def unmet(told: Mapping[str, Any]) -> list[str]:
    """What was asked for and is not so, in words. Of a burst no latency is asked."""
    wrong = [f"{n} answers of {status}" for status, n in told["statuses"].items() if status not in ("202", "503")]
    for way, seconds in told["took"].items() if told["pace"] <= PACED else ():
        p99 = factory.percentile(seconds, 0.99)
        if not seconds:
            wrong.append(f"{way}: nothing was taken")
        elif told["seconds"] >= LONG_S - 1.0 and p99 > LATENCY_S:
            wrong.append(f"{way}: p99 {1000 * p99:.0f} ms")
    wrong += [f"{told['memory']:.0f} MB of memory"] if told["memory"] > MEMORY_MB else []
    wrong += [f"batches waited for more than {DRAIN_S:g} s"] if told["drained"] > DRAIN_S else []
    return wrong


def run(pace: float, seconds: float) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="driftloop-load-"))
    try:
        names = tuple(f"s{n}" for n in range(SITES))
        return Load(Factory(folder / "state", names, FEATURES), pace, seconds).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def show(found: Mapping[str, Any]) -> list[str]:
    what = f"{found['pace']:g} batches/s of {ROWS} rows x {FEATURES} features for {found['seconds']:.0f} s"
    lines = [f"{what}: answered {found['statuses']}"]
    for way, seconds in found["took"].items():
        p50, p99 = (1000 * factory.percentile(seconds, share) for share in (0.5, 0.99))
        most, asked = 1000 * found["slowest"][way], f"; asked: {1000 * LATENCY_S:g}" if found["pace"] <= PACED else ""
        lines.append(
            f"{way}, once warm: durable after {p50:.0f} ms (p50), {p99:.0f} ms (p99{asked}), {most:.0f} ms (max)"
        )
    memory, first = found["memory"], found["memory before"]
    asked = f"asked: {MEMORY_MB:g}"
    lines.append(f"resident memory of the host: at most {memory:.0f} MB ({asked}), {first:.0f} MB at first")
    waiting, drained = found["backlog"], found["drained"]
    asked = f"asked: {DRAIN_S:g}"
    lines.append(f"at most {waiting:,} batches waiting, none {drained:.0f} s after the last was sent ({asked})")
    lines.append(f"{found['counted']:,} batches counted; wrong: {'; '.join(found['wrong']) or 'nothing'}")
    return lines
