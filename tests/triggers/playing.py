"""A world in which anybody may do anything, at any time, with faults; and the invariants that hold after each act.

One seed plays one history. The same acts are the rules of the state machine in test_invariants.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from adapters.faults import SKEW, faulty, faulty_ports
from adapters.faults import Faults as Weather
from tests.triggers.world import HALF, LOOP, World, a_fleet, a_reference, put_candidate
from triggers import approval, codec, events, lifecycle, loop, rollout, sites, windows
from triggers import config as cfg
from triggers.errors import DriftloopError, Retry
from triggers.ports import Delete, Put
from triggers.records import BatchRecord, Head, SiteState, site_partition, verify
from triggers.run import Phase, Run

replace = msgspec.structs.replace
NAMES = ("a", "b", "c")
PEOPLE = ("ann", "bob", "eve")
PLAYED = replace(LOOP, retrain=replace(LOOP.retrain, confirm=1, minimum_rows=50, cooldown="1d", budget="3 per 30 days"))
MOVES = ("jump", "hang", "delay", "slow")
NIGHTS = cfg.Window(cron="0 0 * * *", duration="6h")


class Broken(AssertionError):
    """An invariant that does not hold, by its number in the list of promises."""


def need(number: int, holds: object, what: object) -> None:
    if not holds:
        raise Broken(f"{number}: {what}")


class Watched:
    """A store; which candidates a site was ever verified with, however briefly."""

    def __init__(self, store: Any, verified: set[str]) -> None:
        self._store, self._verified = store, verified

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, partition: str, changes: Sequence[Put | Delete]) -> None:
        self._store.commit(partition, changes)
        for change in changes:
            if isinstance(change, Put) and change.key == sites.SITE:
                state = codec.decode(change.value, SiteState)
                if state.status == "verified" and state.observed == state.candidate:
                    self._verified.add(state.candidate)


class Player:
    """Acts, and what is remembered of a world to judge what came of them."""

    def __init__(self, folder: Path, seed: int = 0, chances: dict[Any, float] | None = None) -> None:
        fleet = a_fleet(*NAMES)
        nightly = (*fleet.sites[:2], replace(fleet.sites[2], windows=(NIGHTS,)))
        self.world = World(folder, a_loop=PLAYED, fleet=replace(fleet, sites=nightly))
        self.first = self.world.begin()
        self.weather = Weather(seed, chances, clock=self.world.clock)
        self.verified = {self.first}
        self._watch()
        self.sent: dict[tuple[str, str], bytes] = {}
        self.rows = dict.fromkeys(NAMES, 0)
        self.conflicts: set[str] = set()
        self.fences: dict[str, int] = {}
        self.kept: dict[str, bytes] = {}
        self.decided: dict[str, approval.Request] = {}
        self.asked: dict[str, approval.Request] = {}
        self.cursors: dict[tuple[str, str], int] = {}
        self.told: list[str] = []
        self.made = 0
        self.before()

    def _watch(self) -> None:
        """Ports of which none fails, for who judges."""
        self.ports = dataclasses.replace(self.world.ports, store=Watched(self.world.ports.store, self.verified))
        self.world.ports, self.bus = self.ports, self.world.bus

    def _storm(self) -> None:
        """Every port fails now and then, the queues' hand-out with them, and the clock jumps."""
        clock = faulty(self.world.clock, self.weather, "clock")
        self.world.ports = dataclasses.replace(faulty_ports(self.ports, self.weather), clock=clock)
        self.world.bus = faulty(self.bus, self.weather, "queue")

    # acts

    def act(self, name: str, random: Random) -> None:
        """One act, and what must then hold; a call that failed is somebody's to repeat."""
        self.told.append(name)
        self.before()
        self._storm()
        try:
            ACTS[name](self, random)
        except DriftloopError as problem:
            self.told[-1] += f" ({type(problem).__name__})"
        finally:
            self.world.ports, self.world.bus = self.ports, self.bus
        self.check()

    def _half_day(self, random: Random) -> None:
        self.world.clock.set(self.world.clock.now() + HALF)
        for name in NAMES:
            batch = self.world.batch(name)
            payload = self.world.payload(batch)
            self.world.plants[name].unsent.append(payload)
            self.sent[name, batch.id] = payload
            self.rows[name] += len(batch.rows)
        for plant in self.world.plants.all.values():
            if plant.online:
                self._send(*plant.unsent)
                plant.unsent.clear()
        self.pump()
        if self.world.clock.now().hour == 0:
            self._sure(lambda: loop.check(self.world.ports, "line"))
        self._sure(lambda: loop.sweep(self.world.ports, "line"))
        self.pump()

    def _send(self, *payloads: bytes) -> None:
        if payloads:
            self._sure(lambda: self.world.send(*payloads))

    def _sure(self, call: Callable[[], Any]) -> None:
        """A site, or a timer, that asks until it is answered."""
        for _ in range(12):
            try:
                call()
                return
            except Retry:
                continue
        raise Broken("22: a call failed twelve times")

    def pump(self) -> None:
        self._sure(self.world.pump)

    def _drift(self, random: Random) -> None:
        self.world.shift = self.world.jobs.shift = random.choice((0.0, 3.0))

    def _hand_in(self, random: Random) -> None:
        self.made += 1
        made = put_candidate(self.world.blobs, a_reference(0.1 * self.made), f"made-{self.made}")
        plant = self.world.plants[random.choice(NAMES)]
        if random.random() < 0.2:
            plant.slow.add(made)
        if random.random() < 0.1:
            plant.refuses.add(made)
        loop.submit(self.world.ports, "line", made, random.choice(PEOPLE), "by hand")
        self.pump()

    def _retrain(self, random: Random) -> None:
        self.world.jobs.gain = random.choice((0.05, 0.05, -0.05, None))
        loop.retrain(self.world.ports, "line", random.choice(PEOPLE), "new machine")
        self.pump()

    def _answer(self, random: Random) -> None:
        if self.world.runs and self.world.store.get("line", f"approval/{self.world.runs[-1].id}"):
            said = random.choice(("approve", "approve", "approve", "reject", "changes"))
            self.world.answer(said, by=random.choice(PEOPLE))

    def _ask(self, random: Random) -> None:
        if self.world.runs:
            what = random.choice(
                (events.Cancelled, events.RollBackAsked, events.Paused, events.Resumed, events.Resumed)
            )
            loop.ask(self.world.ports, self.world.runs[-1].id, what, "ann", "because")
            self.pump()

    def _freeze(self, random: Random) -> None:
        if sites.frozen(self.world.ports, "line"):
            loop.unfreeze(self.world.ports, "line", "ann")
        else:
            loop.freeze(self.world.ports, "line", "ann", "inventory")
        self.pump()

    def _away(self, random: Random) -> None:
        plant = self.world.plants[random.choice(NAMES)]
        plant.online = not plant.online

    def _again(self, random: Random) -> None:
        """A batch comes once more; or its id does, with other bytes."""
        if not self.sent:
            return
        (site, id_), payload = random.choice(sorted(self.sent.items()))
        if not self.world.plants[site].online or payload in self.world.plants[site].unsent:
            return
        if random.random() < 0.3:
            batch = self.world.batch(site, id=id_, n=random.randrange(1, 9))
            payload = self.world.payload(batch)
            if payload != self.sent[site, id_]:
                self.conflicts.add(id_)
        self._send(payload)
        self.pump()

    def _restart(self, random: Random) -> None:
        self.world.restart()
        self._watch()
        self.weather._clock = self.world.clock

    def _same_time(self, random: Random) -> None:
        """A timer fires twice: the check of this moment is the one that was made; where the clock has jumped
        meanwhile, the second has no evidence, and begins nothing."""
        begun = len(self.weather.calls)
        self._sure(lambda: loop.check(self.world.ports, "line"))
        first = self._checked()
        self._sure(lambda: loop.check(self.world.ports, "line"))
        second = self._checked()
        moved = any(call.fault in MOVES for call in self.weather.calls[begun:])
        need(23, first == second or moved, "a timer that fires twice decides twice")
        need(23, first[1] == second[1] or first[0] != second[0], "a timer that fires twice begins two runs")
        self.pump()

    def _checked(self) -> tuple[Any, int, Any]:
        """Up to where telemetry was assessed, how many runs there are, and what was decided."""
        store, runs = self.world.store, self.world.runs
        seen = [codec.decode(r.value, loop.Detector).cursor for r in store.scan("line", "detector/")]
        return seen, len(runs), list(store.scan("line", "decision/"))

    def end(self, days: int = 20) -> None:
        """Faults stop, everybody is there: everything ends, and one more tick changes nothing."""
        self.weather.stop()
        for plant in self.world.plants.all.values():
            plant.online = True
        self.world.jobs.holds = False
        if sites.frozen(self.world.ports, "line"):
            loop.unfreeze(self.world.ports, "line", "ann")
        if self.world.runs and self.world.runs[-1].paused:  # what a person has paused waits for one
            loop.ask(self.world.ports, self.world.runs[-1].id, events.Resumed, "ann", "on")
        self.world.shift = 0.0
        for _ in range(2 * days):
            self.act("half a day", Random(0))
            if not loop.head(self.world.ports, "line").active and not self.world.waiting() and self._settled():
                break
        need(21, not self.world.waiting(), f"still asked for: {self.world.waiting()}")
        need(22, not loop.head(self.world.ports, "line").active, [(r.phase, r.because) for r in self.world.runs[-1:]])
        self.act("half a day", Random(0))
        before = self.whole()
        loop.sweep(self.world.ports, "line")
        self.pump()
        need(22, self.whole() == before, "one more tick changes something")
        need(20, self._settled(), [self.world.state(name) for name in NAMES])

    def _settled(self) -> bool:
        """Each site serves what it should; one that was away waits for its window, and for runs to end."""
        states = {name: self.world.state(name) for name in NAMES}
        return all(
            s.candidate == self.world.plants[n].serves or s.status in ("failed", "stuck") for n, s in states.items()
        )

    def whole(self) -> dict[Any, Any]:
        return {(p, k): v for p, k, v in self.world.database.read("select partition, key, value from rows")}

    # what must hold

    def before(self) -> None:
        """Remember what the next act is compared with."""
        world = self.world
        self.began = world.clock.now()
        self.was_frozen = bool(sites.frozen(world.ports, "line"))
        self.jobs = set(world.jobs.jobs)
        self.applied = {name: len(world.plants[name].applied) for name in NAMES}
        self.last = {run.id: run for run in world.runs}

    def check(self) -> None:
        for judge in (self._runs, self._telemetry, self._approvals, self._sites, self._frozen, self._trail):
            judge()

    def _runs(self) -> None:
        runs = self.world.runs
        open_ = [run.id for run in runs if not run.phase.final]
        need(1, len(open_) <= 1, open_)
        alive = {n.rsplit("-", 1)[0] for n in self.world.jobs.jobs if self.world.jobs.status(n).state == "running"}
        need(1, len(alive) <= 1, f"jobs of {alive}")
        for run in runs:
            old = self.last.get(run.id)
            need(2, old is None or not old.phase.final or old.phase is run.phase, f"{run.id} leaves a final phase")
            self._run(run, old)
        own = [r for r in runs if not r.cause.startswith("asked for")]
        per_month = [sum(timedelta(0) <= r.started - o.started < timedelta(days=30) for r in own) for o in own]
        need(25, max(per_month, default=0) <= 3, per_month)

    def _run(self, run: Run, old: Run | None) -> None:
        if run.phase in (Phase.AWAITING_APPROVAL, Phase.ROLLING_OUT, Phase.VERIFIED):
            found = self.world.blobs.get(f"evidence/{run.evidence}.json")
            said = msgspec.json.decode(found)
            bound = codec.digest(found) == run.evidence and said["challenger"] == run.candidate
            number = isinstance(said["gain_low"], float)
            need(13, bound and (number or run.outcome != "passed"), f"{run.id} passes on {said['gain_low']}")
        judged = run.wave if run.phase is Phase.ROLLING_OUT else len(run.waves)
        if run.phase in (Phase.ROLLING_OUT, Phase.VERIFIED) and (
            old is None or old.phase is not run.phase or old.wave < judged
        ):
            rows = [row for _, row in sites.rows(self.world.ports, run.id) if row.wave < judged]
            waited = all(t.verified for t in run.times[:judged])
            open_ = sum(row.status in ("waiting", "asked", "applied") for row in rows)
            put_off = sum(t.deferred for t in run.times[:judged])  # and is back since
            need(14, waited and open_ <= put_off, f"{run.id} goes on before {[(r.site, r.status) for r in rows]}")

    def _telemetry(self) -> None:
        [(pending,)] = self.world.database.read(
            "select (select count(*) from messages where queue = 'telemetry')"
            " + (select count(*) from scheduled where queue = 'telemetry')"
            " + (select count(*) from dead where queue = 'telemetry')"  # tried ten times, and kept for a person
        )
        for name in NAMES:
            plant = self.world.plants[name]
            unsent = set(plant.unsent)
            arrived = {i: p for (s, i), p in self.sent.items() if s == name and p not in unsent}
            part = site_partition("line", name)
            counted = {
                r.key.removeprefix("batch/"): codec.decode(r.value, BatchRecord)
                for r in self.world.store.scan(part, "batch/")
            }
            lost = len(arrived) - len(counted)
            need(6, 0 <= lost <= pending, f"{name}: {len(arrived)} batches came, {len(counted)} are counted")
            rows = sum(w.rows for w in self.world.windows(name))
            due = sum(record.rows for record in counted.values())
            need(4, rows == due, f"{name}: {rows} rows in windows, {due} accepted")
            need(5, rows <= self.rows[name], f"{name}: {rows} rows counted, {self.rows[name]} sent")
        missing = self.conflicts - set(self.world.quarantined())
        need(5, len(missing) <= pending, f"conflicts that are not in quarantine: {missing}")
        for record in self.world.store.scan("line", "detector/"):
            detector = codec.decode(record.value, loop.Detector)
            for site, until in detector.cursor.items():
                need(
                    7,
                    until >= self.cursors.get((record.key, site), until),
                    f"{site}: evidence of a window is used again",
                )
                self.cursors[record.key, site] = until
        for record in self.world.store.scan("line", "decision/"):
            need(8, self.kept.setdefault(record.key, record.value) == record.value, f"{record.key} has changed")

    def _approvals(self) -> None:
        for record in self.world.store.scan("line", "approval/"):
            asked = codec.decode(record.value, approval.Request)
            known = self.decided.get(asked.run)
            need(11, known is None or known == asked, f"{asked.run} was {known and known.state}, is {asked.state}")
            if asked.state not in ("open", "withdrawn"):
                self.decided[asked.run] = asked
            was = self.asked.setdefault(asked.run, asked)
            need(23, asked.expires == was.expires, f"{asked.run} may be answered for longer than was said")
            need(23, was.state != "withdrawn" or asked == was, f"{asked.run} was withdrawn, is {asked.state}")
            self.asked[asked.run] = asked
            if asked.state == "approved" != was.state:
                need(23, self.began < asked.expires + SKEW, f"{asked.run} was approved too late")
            if asked.state == "approved":
                need(10, asked.by not in (*asked.requested_by, *asked.authors), f"{asked.by} approves what is theirs")
                need(23, asked.answered and asked.answered < asked.expires, f"{asked.run} was approved too late")

    def _sites(self) -> None:
        approved = {r.candidate for r in self.decided.values() if r.state == "approved"} | {self.first}
        updating = 0
        for name in NAMES:
            state, plant = self.world.state(name), self.world.plants[name]
            need(9, plant.serves in approved, f"{name} serves what nobody approved")
            manifest = self.world.blobs.get(f"candidates/{plant.serves}/manifest.json")
            need(12, codec.digest(manifest) == plant.serves, f"{name} serves what is not what its digest says")
            need(3, state.fence >= self.fences.get(name, 0), f"{name}: the fence falls to {state.fence}")
            self.fences[name] = state.fence
            shown = state.observed == state.candidate or state.action == "adopt"
            need(20, state.status != "verified" or shown, f"{name} is called verified and says otherwise")
            need(16, state.last_good, f"{name} has no way back")
            need(17, state.last_good in self.verified, f"{name} would go back to what was never verified")
            updating += state.status in rollout.UPDATING and state.action == "deploy"
            if len(plant.applied) > self.applied[name] and state.action == "deploy" and state.asked:
                site = self.world.configs.sites.site(name)
                jumps = (timedelta(0), 2 * SKEW, -2 * SKEW)  # of the clock, between a look at the window and the record
                open_ = site and any(windows.open_at(site, state.asked + by, ()) for by in jumps)
                need(19, open_, f"{name} is changed outside its window")
        need(15, updating <= 2, f"{updating} are being changed")

    def _frozen(self) -> None:
        if not (self.was_frozen and sites.frozen(self.world.ports, "line")):
            return
        need(18, set(self.world.jobs.jobs) <= self.jobs, f"while frozen: {set(self.world.jobs.jobs) - self.jobs}")
        for name in NAMES:
            plant, state = self.world.plants[name], self.world.state(name)
            begun = len(plant.applied) > self.applied[name] and state.action != "rollback"
            need(18, not begun, f"{name} is changed while frozen")

    def _trail(self) -> None:
        record = self.world.store.get("line", "head")
        head = codec.decode(record.value, Head) if record else Head()
        story = loop.story(self.world.ports, "line")
        need(24, not (wrong := verify(story, (head.audit, head.audit_hash))), wrong)
        phases: dict[str, str] = {}
        for entry in story:
            if entry.kind == "run-began":
                phases[entry.subject] = "evaluating" if entry.data.get("candidate") else "training"
            if "phase" in entry.data:
                now, to = phases[entry.subject], entry.data["phase"]
                edges = {str(p) for (f, _), rule in lifecycle.RULES.items() if f == now for p in rule.leads_to}
                need(2, to == now or to in edges, f"{entry.subject} goes from {now} to {to}")
                phases[entry.subject] = to
        stored = {run.id: str(run.phase) for run in self.world.runs}
        need(24, phases == stored, f"the trail says {phases}, the store {stored}")
        named = {name.rsplit("-", 1)[0] for name in self.world.jobs.jobs}
        need(21, named <= phases.keys(), f"jobs of no run: {named - phases.keys()}")


ACTS: dict[str, Callable[[Player, Random], None]] = {
    "half a day": Player._half_day,
    "drift": Player._drift,
    "a candidate is handed in": Player._hand_in,
    "a retraining is asked for": Player._retrain,
    "an answer": Player._answer,
    "somebody wants something": Player._ask,
    "freeze or not": Player._freeze,
    "a site is away or back": Player._away,
    "a batch again": Player._again,
    "the host starts again": Player._restart,
    "a timer fires twice": Player._same_time,
}
OFTEN = ["half a day"] * 8 + ["an answer"] * 4 + ["a candidate is handed in"] * 2 + [*ACTS]
FAULTS: dict[Any, float] = {
    "before": 0.01,
    "after": 0.01,
    "hang": 0.003,
    "delay": 0.003,
    "duplicate": 0.01,
    "reorder": 0.01,
    "full": 0.001,
    "slow": 0.001,
    "lost": 0.03,
    "jump": 0.05,
}


def play(folder: Path, seed: int, acts: int = 25, chances: dict[Any, float] | None = None) -> Player:
    """One history. Raises Broken, with the seed and what was done."""
    random = Random(seed)
    player = Player(folder, seed, FAULTS if chances is None else chances)
    try:
        for _ in range(acts):
            player.act(random.choice(OFTEN), random)
        player.end()
    except Exception as wrong:
        raise Broken(f"{wrong}\nseed {seed}: {', '.join(player.told)}") from wrong
    finally:
        player.world.close()
    return player
