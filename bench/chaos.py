"""Real kills: a factory under load whose host, sites and jobs are SIGKILLed at random, and an audit of what is left.

The host is `driftloop host`, the sites are the edge program. Rows are scored at the sites all the while; batches that
the harness signs come in over HTTP; one person asks for one retraining after the other, another approves what passes.
Rows and batches of an answered request have to be found again, once.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from adapters.local.child import Child
from adapters.local.people import LocalPeople
from bench import factory
from bench.factory import NAME, Factory, Process, ask
from cli.browser import Page
from drift import envelope
from drift.telemetry import Batch
from triggers.errors import Refused
from triggers.run import Phase

ROWS = 20
"""Rows of a request, and of a batch."""

JOBS = 0.02
"""The share of the kills that is kept for jobs: two run a minute, at most, and the others are always there."""

LOOK_S = 0.05
PATIENCE_S = 180.0
"""How long the last kills wait for a job; what is left then is said, and wrong."""

SETTLE_S = 180.0
"""How long what is under way may take to end, when nobody kills any more."""

RECOVERY_S = 5.0
"""How long a process may take until it answers again."""


@dataclass
class Chaos:
    """One run on one state folder, on one seed: `kills` of the host, the sites and the jobs together, or as many as
    `minutes` allow."""

    factory: Factory
    kills: int
    seed: int = 0
    minutes: float = 600.0
    scored: dict[str, set[str]] = field(default_factory=dict)
    accepted: dict[str, set[str]] = field(default_factory=dict)
    recovery: dict[str, list[float]] = field(default_factory=lambda: {"host": [], "site": []})
    killed: dict[str, int] = field(default_factory=lambda: {"host": 0, "site": 0, "job": 0})
    problems: list[str] = field(default_factory=list)

    pause_s: ClassVar[float] = 0.05
    """Between two requests at a site, each with its labels."""

    def __post_init__(self) -> None:
        self.scored = {name: set() for name in self.factory.names}
        self.accepted = {name: set() for name in self.factory.names}
        self._over, self._quiet = threading.Event(), threading.Event()
        jobs = min(self.kills, max(1, round(JOBS * self.kills)))
        self._left, self._lock = {"job": jobs, "other": self.kills - jobs}, threading.Lock()

    def run(self) -> dict[str, Any]:
        """Kill, then let it settle, stop it and look through what it left."""
        champion = self.factory.begin()
        began = time.monotonic()
        self._end = began + 60 * self.minutes
        host = self.host()
        sites = {name: self.factory.site(name) for name in self.factory.names}
        with factory.running(host, *sites.values()):
            for name in sites:
                ask(
                    self.factory.ports_of[name], "POST", f"/{name}/deploy", json.dumps({"candidate": champion}).encode()
                )
            work: list[Callable[[], None]] = [self._operate, lambda: self._batches(random.Random(self.seed))]
            work += [lambda name=name: self._requests(name) for name in sites]  # type: ignore[misc]
            at_work = [self._thread(w) for w in work]
            self.disturb(host, list(sites.values()))
            self._quiet.set()
            in_time = time.monotonic() < self._end
            settled = self._settle()
            self._over.set()
            for thread in at_work:
                thread.join()
            for site in sites.values():
                site.stop()
            factory.drained(self.factory.state, SETTLE_S)
        return self._judge(settled, time.monotonic() - began, in_time)

    def host(self) -> Process:
        return self.factory.host()

    def disturb(self, host: Process, sites: list[Process]) -> None:
        """Kill, until it is enough."""
        killers = [lambda: self._kill(host, "host"), *(lambda s=s: self._kill(s, "site") for s in sites)]
        for thread in [self._thread(killer) for killer in [*killers, self._kill_jobs]]:
            thread.join()

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - said at the end
                self.problems.append(f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    # --- who kills

    def _one_more(self, what: str) -> bool:
        share = what if what in self._left else "other"
        with self._lock:
            if not self._left[share] or time.monotonic() > self._end:
                return False
            self._left[share] -= 1
            self.killed[what] += 1
            return True

    def _kill(self, process: Process, what: str) -> None:
        """At a random moment after it has come up, or, one time in five, while it comes up."""
        chance = random.Random(f"{self.seed}/{what}/{process.command[-1]}")
        while True:
            time.sleep(chance.uniform(0.0, 1.0))
            if not self._one_more(what):
                return
            process.kill()
            died = time.monotonic()
            process.start()
            while chance.random() < 0.2:
                time.sleep(chance.uniform(0.0, 0.8))
                if not self._one_more(what):
                    break
                process.kill()
                died = time.monotonic()
                process.start()
            process.until_ready()
            self.recovery[what].append(time.monotonic() - died)

    def _kill_jobs(self) -> None:
        """Every second process group of training and evaluation, at a random moment: their ids are in the jobs' own
        folders."""
        chance, seen, last = random.Random(f"{self.seed}/jobs"), set(), time.monotonic()
        while self._left["job"] and time.monotonic() < self._end:
            time.sleep(LOOK_S)
            for job in map(Child, self.factory.state.glob("jobs/*.*/")):  # host.lock is none
                this = job.name, job.starts()
                if not this[1] or this in seen:
                    continue
                seen.add(this)
                last = time.monotonic()
                time.sleep(chance.uniform(0.0, 1.0))
                if chance.random() < 0.5 and job.runs() and self._one_more("job"):
                    job.kill()
            if self._left["other"]:
                last = time.monotonic()
            elif time.monotonic() - last > PATIENCE_S:
                self.problems.append(f"no job ran for {PATIENCE_S:g} s")
                return

    # --- who works

    def _requests(self, site: str) -> None:
        """Score rows at a site and tell the truth of them, again and again."""
        chance, port, n = np.random.default_rng(len(site)), self.factory.ports_of[site], 0
        while not self._quiet.is_set():
            n += 1
            at = np.full(ROWS, int(time.time()))
            rows, labels = self.factory.rows(chance, site, f"{site}-live-{n}", at)
            sent = [
                {"id": id, "at": int(at[0]), **{k: float(v[i]) for k, v in rows.columns.items()}}
                for i, id in enumerate(rows.ids)
            ]
            truth = [
                {"id": i, "at": int(t), "label": y} for i, t, y in zip(labels.ids, labels.at, labels.label, strict=True)
            ]
            with suppress(OSError):
                if ask(port, "POST", f"/{site}/score", json.dumps({"rows": sent}).encode())[0] == 200:
                    self.scored[site] |= set(rows.ids)
                    ask(port, "POST", f"/{site}/labels", json.dumps({"labels": truth}).encode())
            time.sleep(self.pause_s)

    def _batches(self, chance: random.Random) -> None:
        """Batches straight to the host, each sent until it is answered; one in ten is sent again all the same."""
        numbers, n = np.random.default_rng(5), 0
        while not self._quiet.is_set():
            n += 1
            site = chance.choice(self.factory.names)
            now = int(time.time())
            rows, _ = self.factory.rows(numbers, site, f"{site}-sent-{n}", np.full(ROWS, now - 1))
            serves = self._serves(site)
            batch = Batch("1", NAME, serves, site, f"sent-{n}", now - 1, now, rows, key="k1")
            payload = envelope.signed(envelope.encode(batch, self.factory.schema), self.factory.sign[site])
            while not self._over.is_set():
                with suppress(OSError):
                    if ask(self.factory.port, "POST", "/api/telemetry", payload)[0] == 202:
                        self.accepted[site].add(batch.id)
                        break
                time.sleep(0.05)
            if chance.random() < 0.1:
                with suppress(OSError):
                    ask(self.factory.port, "POST", "/api/telemetry", payload)
            time.sleep(0.03)

    def _serves(self, site: str) -> str:
        while not self._over.is_set():
            with suppress(OSError):
                found = json.loads(ask(self.factory.ports_of[site], "GET", f"/{site}/status")[1])["candidate"]
                if found:
                    return str(found)
            time.sleep(0.02)
        return ""

    def _operate(self) -> None:
        """Ask for a retraining whenever none runs, and approve what asks; on the way back now and then."""
        people = LocalPeople(self.factory.state / "keys" / "people.key")
        url = f"http://127.0.0.1:{self.factory.port}"
        chance = random.Random(f"{self.seed}/operator")
        while not self._over.is_set():
            with suppress(OSError, Refused, ValueError, KeyError):
                approver = Page(url, people.login_link(url, "operator", ["approve"]))
                self._next(approver, Page(url, people.login_link(url, "driver", ["operate"])), chance)
            time.sleep(0.3)

    def _next(self, approver: Page, driver: Page, chance: random.Random) -> None:
        runs = json.loads(ask(self.factory.port, "GET", f"/api/loops/{NAME}/runs")[1])["runs"]
        moving = [r for r in runs if not r["final"]]
        if not moving and not self._quiet.is_set():
            self._do(driver, f"loops/{NAME}/retrain")
        for run in moving:
            if run["phase"] == "awaiting-approval":
                form = approver.form(f"/api/approvals/{run['id']}")
                if form:
                    approver.post(f"/api/approvals/{run['id']}", {**form, "answer": "approve", "reason": "passed"})
            elif run["phase"] == "rolling-out" and chance.random() < 0.02:
                self._do(driver, f"runs/{run['id']}/rollback")

    def _do(self, page: Page, what: str) -> None:
        cookie = {"Cookie": page.headers["Cookie"]}
        token = json.loads(ask(self.factory.port, "GET", "/api/session", None, 10.0, **cookie)[1])["csrf"]
        headers = {**cookie, "Origin": page.base, "X-CSRF-Token": token}
        ask(self.factory.port, "POST", f"/api/{what}", b'{"reason": "chaos"}', **headers)

    # --- the end

    def _settle(self) -> float:
        """Seconds until nothing waits at the sites and no run moves; SETTLE_S where that is not so."""
        began = time.monotonic()
        while time.monotonic() - began < SETTLE_S:
            with suppress(OSError, ValueError, KeyError):
                if self._still():
                    return time.monotonic() - began
            time.sleep(0.5)
        return SETTLE_S

    def _still(self) -> bool:
        """The sites flush every second: two looks with a flush in between."""
        for _ in range(2):
            runs = json.loads(ask(self.factory.port, "GET", f"/api/loops/{NAME}/runs")[1])["runs"]
            waiting = sum(
                json.loads(ask(port, "GET", f"/{name}/status")[1])["buffered"]
                for name, port in self.factory.ports_of.items()
            )
            if waiting or any(not run["final"] for run in runs):
                return False
            time.sleep(2.5)
        return True

    def _judge(self, settled: float, seconds: float, in_time: bool) -> dict[str, Any]:
        found = factory.audit(self.factory.state)
        wrong = list(found.wrong) + self.problems
        scored = lost = unsent = doubled = 0
        for site, ids in self.scored.items():
            counts = [found.ids[site, id] for id in ids]
            there = factory.at_site(self.factory, site)
            missing_here = {id for id, count in zip(ids, counts, strict=True) if not count}
            scored, unsent = scored + len(ids), unsent + len(missing_here & there.rows)
            lost += len(missing_here - there.rows)
            refused = Counter(there.refused).most_common(3)
            wrong += [f"{n} batches of {site} were refused: {reason}" for reason, n in refused]
            wrong += [f"{there.dropped} batches of {site} gave way to newer ones"] if there.dropped else []
            doubled += sum(n > 1 for n in counts)
        missing = sum(len(ids - found.batches[site]) for site, ids in self.accepted.items())
        wrong += [
            f"{n} {what}"
            for n, what in (
                (lost, "rows lost"),
                (doubled, "rows counted twice"),
                (unsent, f"rows still wait at their site {SETTLE_S:g} s after the last"),
            )
            if n
        ]
        wrong += [f"{missing} accepted batches are not counted"] if missing > found.pending else []
        wrong += [f"{found.dead} dead letters"] if found.dead else []
        aside = Counter(reason for _, reason in found.quarantined)
        wrong += [f"{n} batches quarantined: {reason}" for reason, n in aside.most_common(5)]
        moving = sum(n for phase, n in found.phases.items() if not Phase(phase).final)
        told: dict[str, Any] = {
            "asked": self.kills,
            "killed": self.killed,
            "in time": in_time,
            "seconds": seconds,
            "recovery": self.recovery,
            "rows answered": scored,
            "batches accepted": sum(map(len, self.accepted.values())),
            "batches counted": sum(map(len, found.batches.values())),
            "pending": found.pending,
            "runs": dict(found.phases),
            "moving": moving,
            "settled": settled,
        }
        return {**told, "wrong": wrong + unmet(told)}


MANY = 100
"""Recovery is judged of runs with as many kills; of smaller ones it is printed."""


def unmet(told: Mapping[str, Any]) -> list[str]:
    """What was asked for and is not so, in words. Fewer kills are wrong only where `minutes` did not end them."""
    total, wrong = sum(told["killed"].values()), []
    if total < told["asked"] and told["in time"]:
        wrong.append(f"{total:,} of {told['asked']:,} kills")
    for what, seconds in told["recovery"].items() if told["asked"] >= MANY else ():
        if slow := sum(s > RECOVERY_S for s in seconds):
            wrong.append(f"{what}: {slow} recoveries above {RECOVERY_S:g} s")
    if told["moving"]:
        wrong.append(f"{told['moving']} runs have not ended after {SETTLE_S:g} s")
    return wrong


def somewhere(work: Callable[[Factory], dict[str, Any]]) -> dict[str, Any]:
    """What `work` finds on a factory in a folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="driftloop-chaos-"))
    try:
        return work(Factory(folder / "state"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(kills: int, seed: int = 0, minutes: float = 600.0) -> dict[str, Any]:
    return somewhere(lambda here: Chaos(here, kills, seed, minutes).run())


def show(found: Mapping[str, Any]) -> list[str]:
    """The lines that the command prints."""
    killed, lines = found["killed"], []
    total = sum(killed.values())
    split = ", ".join(f"{n} of the {what}s" if what != "host" else f"{n} of the host" for what, n in killed.items())
    lines.append(f"{total:,} of {found['asked']:,} SIGKILLs in {found['seconds']:.0f} s: {split}")
    for what, seconds in found["recovery"].items():
        p50, p99 = factory.percentile(seconds, 0.5), factory.percentile(seconds, 0.99)
        slowest = max(seconds, default=0.0)
        lines.append(
            f"{what} answers again after {p50:.2f} s (p50), {p99:.2f} s (p99), {slowest:.2f} s (max; "
            f"asked: {RECOVERY_S:g}{', not met' if slowest > RECOVERY_S else ''})"
        )
    lines.append(
        f"{found['rows answered']:,} rows answered, {found['batches accepted']:,} batches accepted by hand; "
        f"{found['batches counted']:,} batches counted, {found['pending']} pending"
    )
    lines.append(f"runs: {found['runs']}, {found['moving']} moving; still after {found['settled']:.0f} s")
    lines.append("wrong: " + ("; ".join(found["wrong"]) or "nothing"))
    return lines
