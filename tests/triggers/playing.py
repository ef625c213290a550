"""A world in which anybody may do anything, at any time, with faults; and the invariants that hold after each act.

One seed plays one history. The same acts are the rules of the state machine in test_invariants.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from adapters.faults import SKEW, Crash, faulty, faulty_ports
from adapters.faults import Faults as Weather
from drift import envelope
from drift.windows import Window, too_late
from tests.triggers.world import HALF, LOOP, Neighbour, World, a_fleet, a_reference, put_candidate
from triggers import approval, codec, events, lifecycle, loop, policy, rebuild, rollout, sites, windows
from triggers import config as cfg
from triggers import effects as do
from triggers.errors import DriftloopError, NotFound, Refused, Retry
from triggers.ports import Change, Delete, Put, Record
from triggers.records import BatchRecord, Head, Outbox, Quarantined, SiteState, site_partition, verify
from triggers.run import Phase, Run

replace = msgspec.structs.replace
NAMES = ("a", "b", "c")
PEOPLE = ("ann", "bob", "eve")
PLAYED = replace(LOOP, retrain=replace(LOOP.retrain, confirm=1, minimum_rows=50, cooldown="1d", budget="3 per 30 days"))
MOVES = ("jump", "hang", "delay", "slow")
WORKERS = 3
MEANWHILE, COMMITTED = 0.03, 0.2
"""How often another worker has a turn before a call of a port; before a commit, of what was read before that."""
CALLED = ("store", "blobs", "bus", "topic", "jobs", "executor", "notifier")
NIGHTS = cfg.Window(cron="0 0 * * *", duration="6h")


class Broken(AssertionError):
    """An invariant that does not hold, by its number in the list of promises."""


def need(number: int, holds: object, what: object) -> None:
    if not holds:
        raise Broken(f"{number}: {what}")


@lru_cache(10_000)
def rows_in(window: bytes) -> int:
    """Values that did not change since the last act are not read again."""
    return Window.from_bytes(window).rows


@lru_cache(10_000)
def accepted(batch: bytes) -> int:
    return codec.decode(batch, BatchRecord).rows


class Watched:
    """A store; which candidates a site was ever verified with, however briefly, and which it was to serve."""

    def __init__(self, store: Any, verified: set[str], meant: set[tuple[str, str]]) -> None:
        self._store, self._verified, self._meant = store, verified, meant

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, partition: str, changes: Sequence[Put | Delete]) -> None:
        self._store.commit(partition, changes)
        for change in changes:
            if isinstance(change, Put) and change.key == sites.SITE:
                state = codec.decode(change.value, SiteState)
                self._meant.add((partition, state.candidate))
                if state.status == "verified" and state.observed == state.candidate:
                    self._verified.add(state.candidate)


class Meant:
    """An executor that is asked only for what was written before."""

    def __init__(self, executor: Any, meant: set[tuple[str, str]]) -> None:
        self._executor, self._meant = executor, meant

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def apply(self, change: Change, *more: Any) -> Any:
        meant = (site_partition(change.loop, change.site), change.candidate) in self._meant
        need(21, meant, f"{change.site} is asked to serve {change.candidate[:12]}, and nobody wrote that it should")
        return self._executor.apply(change, *more)


class Beside:
    """A port; before each of its calls somebody else may have a turn."""

    def __init__(self, port: Any, turn: Callable[[str], object]) -> None:
        self._port, self._turn = port, turn

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if name.startswith("_") or not callable(found):
            return found

        def call(*args: Any, **named: Any) -> Any:
            self._turn(name)
            return found(*args, **named)

        setattr(self, name, call)
        return call


class Player:
    """Acts on one loop, and what is remembered of it to judge what came of them. Several may have one world."""

    def __init__(
        self, folder: Path, seed: int = 0, chances: dict[Any, float] | None = None, *, others: int = 0
    ) -> None:
        """`others`: so many loops more."""
        fleet = a_fleet(*NAMES)
        nightly = (*fleet.sites[:2], replace(fleet.sites[2], windows=(NIGHTS,)))
        self.fleet = replace(fleet, sites=nightly)
        self._begin(self, World(folder, a_loop=PLAYED, fleet=self.fleet))
        self.all = [self, *(Another(self, f"line-{n + 2}") for n in range(others))]
        self.world.at_once = 1 + seed % 3
        self.weather = Weather(seed, chances, clock=self.world.clock)
        self.chance, self.busy, self.turns = Random(f"others of {seed}"), 1, 0
        self.told: list[str] = []
        self.verified: set[str] = set()
        self.meant: set[tuple[str, str]] = set()
        self._watch()
        for player in self.all:
            player.first = player.world.begin()
            self.verified.add(player.first)
            player.before()

    def _begin(self, root: Player, world: World) -> None:
        self.root, self.world, self.name = root, world, world.name
        self.first = ""
        self.sent: dict[tuple[str, str], bytes] = {}
        self.tried: set[bytes] = set()
        self.starts: dict[tuple[str, str], int] = {}
        self.rows = dict.fromkeys(NAMES, 0)
        self.conflicts: set[str] = set()
        self.fences: dict[str, int] = {}
        self.kept: dict[str, bytes] = {}
        self.decided: dict[str, approval.Request] = {}
        self.asked: dict[str, approval.Request] = {}
        self.cursors: dict[tuple[str, str], int] = {}
        self.made = 0

    def _watch(self) -> None:
        """Ports of which none fails, for who judges."""
        ports = self.world.ports
        store, executor = Watched(ports.store, self.verified, self.meant), Meant(ports.executor, self.meant)
        self.ports = dataclasses.replace(ports, store=store, executor=executor)
        self.world.ports, self.bus = self.ports, self.world.bus

    def _storm(self) -> None:
        """Every port fails now and then, the queues' hand-out with them, and the clock jumps; and where a worker calls
        a port, another one goes on first."""
        clock = faulty(self.world.clock, self.weather, "clock")
        ports = faulty_ports(self.ports, self.weather)
        beside = {name: Beside(getattr(ports, name), self._another) for name in CALLED}
        self.world.ports = dataclasses.replace(ports, clock=clock, **beside)
        self.world.bus = Beside(faulty(self.bus, self.weather, "queue"), self._another)

    def _another(self, method: str) -> None:
        """A worker's turn, or a person's, while others wait in the middle of theirs: to its end, unless a third has one
        meanwhile."""
        if self.busy == WORKERS or self.chance.random() >= (COMMITTED if method == "commit" else MEANWHILE):
            return
        self.busy, self.turns = self.busy + 1, self.turns + 1
        try:
            self.chance.choice(TURNS)(self, self.chance)
        except DriftloopError:
            pass  # comes again, or is somebody's to repeat
        finally:
            self.busy -= 1

    def _a_message(self, random: Random) -> None:
        """Of any queue that has one."""
        queues = [*self.world.consumers()]
        any(self.world.hand_out(*of) for of in random.sample(queues, len(queues)))

    # acts

    def act(self, name: str, random: Random) -> None:
        """One act, and what must then hold; a call that failed is somebody's to repeat."""
        root = self.root
        root.told.append(name if self is root else f"{self.name}: {name}")
        for player in root.all:
            player.before()
        root._storm()
        try:
            ACTS[name](self, random)
        except DriftloopError as problem:
            root.told[-1] += f" ({type(problem).__name__})"
        except Crash:  # of all that this process did
            root.told[-1] += " (the host dies)"
            root._restart(random)
        finally:
            root.world.ports, root.world.bus = root.ports, root.bus
        for player in root.all:
            player.check()

    def _half_day(self, random: Random) -> None:
        """For every loop."""
        self.world.clock.set(self.world.clock.now() + HALF)
        for player in self.root.all:
            player._speak()
        self.pump()
        for player in self.root.all:
            if self.world.clock.now().hour == 0:
                self._sure(lambda name=player.name: loop.check(self.world.ports, name))
            self._sure(lambda name=player.name: loop.sweep(self.world.ports, name))
        self.pump()

    def _speak(self) -> None:
        """What each site has to say, where it is there to say it."""
        for name in NAMES:
            batch = self.world.batch(name)
            payload = self.world.payload(batch)
            self.world.plants[name].unsent.append(payload)
            self.sent[name, batch.id], self.starts[name, batch.id] = payload, batch.start
            self.rows[name] += len(batch.rows)
        for plant in self.world.plants.all.values():
            if plant.online:
                self._send(*plant.unsent)
                plant.unsent.clear()

    def _send(self, *payloads: bytes) -> None:
        self.tried.update(payloads)
        if payloads:
            self._sure(lambda: self.world.send(*payloads))

    def _sure(self, call: Callable[[], Any]) -> None:
        """A site, or a timer, that asks until it is answered."""
        for _ in range(20):
            try:
                call()
                return
            except Retry:
                continue
        raise Broken("22: a call failed twenty times")

    def pump(self) -> None:
        self._sure(self.world.pump)

    def _drift(self, random: Random) -> None:
        self.world.shift = self.world.jobs.shift = random.choice((0.0, 3.0))

    def _hand_in(self, random: Random) -> None:
        self.made += 1
        made = put_candidate(self.world.blobs, a_reference(0.1 * self.made), f"made-{self.made}", loop=self.name)
        plant = self.world.plants[random.choice(NAMES)]
        if random.random() < 0.2:
            plant.slow.add(made)
        if random.random() < 0.1:
            plant.refuses.add(made)
        loop.submit(self.world.ports, self.name, made, random.choice(PEOPLE), "by hand")
        self.pump()

    def _retrain(self, random: Random) -> None:
        self.world.jobs.gain = random.choice((0.05, 0.05, -0.05, None))
        who, instead = random.choice(PEOPLE), random.random() < 0.3
        loop.retrain(self.world.ports, self.name, who, "new machine", supersede=instead)
        self.pump()

    def _jobs(self, random: Random) -> None:
        """Jobs go on for days, or to their end; those to come fail, or do not."""
        jobs = self.world.jobs
        if random.random() < 0.7:
            jobs.holds = not jobs.holds
        else:
            jobs.fails = not jobs.fails
        self.pump()

    def _answer(self, random: Random) -> None:
        run = self.world.runs[-1].id if self.world.runs else ""
        if run and self.world.store.get(self.name, f"approval/{run}"):
            said = random.choice(("approve", "approve", "approve", "reject", "changes"))
            self.world.answer(said, by=random.choice(PEOPLE), run=run)

    def _ask(self, random: Random) -> None:
        if self.world.runs:
            what = random.choice(
                (events.Cancelled, events.RollBackAsked, events.Paused, events.Resumed, events.Resumed)
            )
            loop.ask(self.world.ports, self.world.runs[-1].id, what, "ann", "because")
            self.pump()

    def _freeze(self, random: Random) -> None:
        if sites.frozen(self.world.ports, self.name):
            loop.unfreeze(self.world.ports, self.name, "ann")
        else:
            loop.freeze(self.world.ports, self.name, "ann", "inventory")
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
        self._send(payload)
        if payload != self.sent[site, id_]:
            self.conflicts.add(id_)
        self.pump()

    def _restart(self, random: Random) -> None:
        root = self.root
        root.world.restart()
        root._watch()
        root.weather._clock = root.world.clock

    def _same_time(self, random: Random) -> None:
        """A timer fires twice: the check of this moment is the one that was made; where the clock has jumped
        meanwhile, the second has no evidence, and begins nothing."""
        weather, busy = self.root.weather, self.root.busy
        begun, self.root.busy = len(weather.calls), WORKERS  # what others count meanwhile would be evidence
        try:
            self._sure(lambda: loop.check(self.world.ports, self.name))
            first = self._checked()
            self._sure(lambda: loop.check(self.world.ports, self.name))
            second = self._checked()
        finally:
            self.root.busy = busy
        moved = any(call.fault in MOVES for call in weather.calls[begun:])
        need(23, first == second or moved, "a timer that fires twice decides twice")
        need(23, first[1] == second[1] or first[0] != second[0], "a timer that fires twice begins two runs")
        self.pump()

    def _checked(self) -> tuple[Any, int, Any]:
        """Up to where telemetry was assessed, how many runs there are, and what was decided."""
        store, runs = self.world.store, self.world.runs
        seen = [codec.decode(r.value, loop.Detector).cursor for r in store.scan(self.name, "detector/")]
        return seen, len(runs), list(store.scan(self.name, "decision/"))

    def end(self, days: int = 20) -> None:
        """Faults stop, everybody is there: everything ends, and one more tick changes nothing."""
        self.weather.stop()
        self.busy = WORKERS  # from here on, one alone
        self.pump()
        for _ in range(2 * days):
            for player in self.all:
                player._calm()  # again: a pause may still have been on its way
            self.act("half a day", Random(0))
            if all(player._over() for player in self.all):
                break
        for player in self.all:
            active = loop.head(self.ports, player.name).active
            need(21, not player.world.waiting(), f"still asked for: {player.world.waiting()}")
            need(22, not active, [(r.phase, r.because) for r in player.world.runs[-1:]])
        self.act("half a day", Random(0))
        before = self.whole()
        for player in self.all:
            loop.sweep(self.ports, player.name)
        self.pump()
        need(22, self.whole() == before, "one more tick changes something")
        for player in self.all:
            need(20, player._settled(), [player.world.state(name) for name in NAMES])
            player._told_whole()

    def _told_whole(self) -> None:
        """What the trail alone says is what is stored."""
        ports, runs = self.root.ports, {run.id: run for run in self.world.runs}
        found = rebuild.rebuild(loop.story(ports, self.name))
        need(24, not (wrong := rebuild.differences(found, loop.head(ports, self.name), runs, ())), wrong)

    def _calm(self) -> None:
        ports, world = self.root.ports, self.world
        for plant in world.plants.all.values():
            plant.online = True
        world.jobs.holds = world.jobs.fails = False
        if sites.frozen(ports, self.name):
            loop.unfreeze(ports, self.name, "ann")
        if world.runs and world.runs[-1].paused:  # what a person has paused waits for one
            loop.ask(ports, world.runs[-1].id, events.Resumed, "ann", "on")
        world.shift = 0.0

    def _over(self) -> bool:
        return not loop.head(self.root.ports, self.name).active and not self.world.waiting() and self._settled()

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
        self.was_frozen = self._freeze_record()
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
        running = [n for n in self.world.jobs.jobs if self.world.jobs.status(n).state == "running"]
        effects = [codec.decode(r.value, Outbox).effect for r in self.world.store.scan(self.name, "outbox/")]
        ending = {effect.job for effect in effects if isinstance(effect, do.CancelJob)}  # as soon as it gets through
        alive = {name.rsplit("-", 1)[0] for name in running if name not in ending}
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
        waiting = self._waiting()
        for name in NAMES:
            plant = self.world.plants[name]
            unsent = set(plant.unsent)
            arrived = {i: p for (s, i), p in self.sent.items() if s == name and p not in unsent}
            tried = {i for (s, i), p in self.sent.items() if s == name and p in self.tried}
            part = site_partition(self.name, name)
            counted = {r.key.removeprefix("batch/"): accepted(r.value) for r in self.world.store.scan(part, "batch/")}
            lost = arrived.keys() - counted.keys() - waiting
            lost -= self._too_late(name) if lost else set()
            right = counted.keys() <= tried and not lost
            need(6, right, f"{name}: {len(arrived)} batches came, {len(counted)} are counted, lost {sorted(lost)[:3]}")
            rows = sum(rows_in(r.value) for r in self.world.store.scan(part, "window/"))
            due = sum(counted.values())
            need(4, rows == due, f"{name}: {rows} rows in windows, {due} accepted")
            need(5, rows <= self.rows[name], f"{name}: {rows} rows counted, {self.rows[name]} sent")
        missing = self.conflicts - set(self.world.quarantined()) - waiting
        need(5, not missing, f"conflicts that are not in quarantine: {missing}")
        for record in self.world.store.scan(self.name, "detector/"):
            detector = codec.decode(record.value, loop.Detector)
            for site, until in detector.cursor.items():
                need(
                    7,
                    until >= self.cursors.get((record.key, site), until),
                    f"{site}: evidence of a window is used again",
                )
                self.cursors[record.key, site] = until
        for record in self.world.store.scan(self.name, "decision/"):
            if record.key not in self.kept:
                need(8, not (wrong := self._unlike(record)), f"{record.key}: {wrong}")
            need(8, self.kept.setdefault(record.key, record.value) == record.value, f"{record.key} has changed")

    def _waiting(self) -> set[str]:
        """Batches in the queue, those for later and those that failed ten times and are kept for a person, too."""
        bodies = self.world.database.read(
            "select bodies.body from bodies join (select queue, body from messages union all select queue, body from"
            " scheduled union all select queue, body from dead) as one on one.body = bodies.number"
            " where queue = 'telemetry'"
        )
        found = [envelope.peek(body) for (body,) in bodies]
        return {header.batch for header in found if header.loop == self.name}

    def _unlike(self, record: Record) -> str:
        """How a decision differs from what it was made of, as it is kept."""
        decision = codec.decode(record.value, policy.Decision)
        kept = {decision.weighed: self._kept(decision.weighed)}
        with suppress(Refused):
            made_of = rebuild.read(kept, decision.weighed, policy.Weighed)
            kept |= {digest: self._kept(digest) for digest in (made_of.loop, made_of.fleet)}
        return rebuild.unlike(decision, kept)

    def _kept(self, digest: str) -> bytes:
        try:
            return self.world.blobs.get(rebuild.kept_as(digest))
        except NotFound:
            return b""

    def _too_late(self, site: str) -> set[str]:
        """Batches that were put aside as older than is counted, and were."""
        length, late = (
            int(cfg.duration(d).total_seconds()) for d in (PLAYED.telemetry.window, PLAYED.telemetry.lateness)
        )
        found = [codec.decode(r.value, Quarantined) for r in self.world.store.scan(self.name, "quarantine/")]
        return {
            q.batch
            for q in found
            if q.site == site and (site, q.batch) in self.starts and "later than" in q.reason
            if too_late(self.starts[site, q.batch], int((q.at + 2 * SKEW).timestamp()), late, length)
        }

    def _approvals(self) -> None:
        for record in self.world.store.scan(self.name, "approval/"):
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
        runs = {run.id: run for run in self.world.runs}
        updating = 0
        for name in NAMES:
            state, plant = self.world.state(name), self.world.plants[name]
            need(9, plant.serves in approved, f"{name} serves what nobody approved")
            if state.action == "deploy":
                need(
                    9, self._bound(runs[state.run], state), f"{name} is to serve for {state.run} what was not approved"
                )
            manifest = self.world.blobs.get(f"candidates/{plant.serves}/manifest.json")
            need(12, codec.digest(manifest) == plant.serves, f"{name} serves what is not what its digest says")
            need(3, state.fence >= self.fences.get(name, 0), f"{name}: the fence falls to {state.fence}")
            self.fences[name] = state.fence
            shown = state.observed == state.candidate or state.action == "adopt"
            need(20, state.status != "verified" or shown, f"{name} is called verified and says otherwise")
            need(16, state.last_good, f"{name} has no way back")
            need(17, state.last_good in self.root.verified, f"{name} would go back to what was never verified")
            updating += state.status in rollout.UPDATING and state.action == "deploy"
            if len(plant.applied) > self.applied[name] and state.action == "deploy" and state.asked:
                site = self.world.configs.sites.site(name)
                jumps = (timedelta(0), 2 * SKEW, -2 * SKEW)  # of the clock, between a look at the window and the record
                open_ = site and any(windows.open_at(site, state.asked + by, ()) for by in jumps)
                need(19, open_, f"{name} is changed outside its window")
        need(15, updating <= 2, f"{updating} are being changed")

    def _bound(self, run: Run, state: SiteState) -> bool:
        """Whether the site is to serve what was approved for its run, by what was shown then."""
        asked = self.decided.get(run.id)
        shown = asked and (asked.state, asked.candidate, asked.evidence, asked.plan)
        return state.candidate == run.candidate and shown == ("approved", run.candidate, run.evidence, run.plan)

    def _freeze_record(self) -> Record | None:
        return self.root.ports.store.get("driftloop", f"freeze/{self.name}")

    def _frozen(self) -> None:
        if self.was_frozen is None or self.was_frozen != self._freeze_record():
            return  # not frozen, or not all the while
        need(18, set(self.world.jobs.jobs) <= self.jobs, f"while frozen: {set(self.world.jobs.jobs) - self.jobs}")
        for name in NAMES:
            plant, state = self.world.plants[name], self.world.state(name)
            begun = len(plant.applied) > self.applied[name] and state.action != "rollback"
            need(18, not begun, f"{name} is changed while frozen")

    def _trail(self) -> None:
        record = self.world.store.get(self.name, "head")
        head = codec.decode(record.value, Head) if record else Head()
        story = loop.story(self.world.ports, self.name)
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


class Another(Player):
    """Acts on another loop of the same world."""

    def __init__(self, root: Player, name: str) -> None:
        self._begin(root, Neighbour(root.world, replace(PLAYED, loop=name), root.fleet))


ACTS: dict[str, Callable[[Player, Random], None]] = {
    "half a day": Player._half_day,
    "drift": Player._drift,
    "a candidate is handed in": Player._hand_in,
    "a retraining is asked for": Player._retrain,
    "an answer": Player._answer,
    "somebody wants something": Player._ask,
    "jobs go on or fail, or do not": Player._jobs,
    "freeze or not": Player._freeze,
    "a site is away or back": Player._away,
    "a batch again": Player._again,
    "the host starts again": Player._restart,
    "a timer fires twice": Player._same_time,
}
TURNS: list[Callable[[Player, Random], object]] = [
    *[Player._a_message] * 6,
    lambda player, random: loop.sweep(player.world.ports, random.choice(player.all).name),
    lambda player, random: loop.check(player.world.ports, random.choice(player.all).name),
    *[lambda player, random: random.choice(player.all)._again(random)] * 2,
    lambda player, random: random.choice(player.all)._answer(random),
    lambda player, random: random.choice(player.all)._hand_in(random),
    lambda player, random: random.choice(player.all)._ask(random),
    lambda player, random: random.choice(player.all)._freeze(random),
]
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
    "crash before": 0.0005,
    "crash after": 0.0005,
}


def play(folder: Path, seed: int, acts: int = 25, chances: dict[Any, float] | None = None) -> Player:
    """One history, every third of two loops. Raises Broken, with the seed and what was done."""
    random = Random(seed)
    player = Player(folder, seed, FAULTS if chances is None else chances, others=int(seed % 3 == 0))
    try:
        for _ in range(acts):
            random.choice(player.all).act(random.choice(OFTEN), random)
        player.end()
    except Exception as wrong:
        raise Broken(f"{wrong}\nseed {seed}: {', '.join(player.told)}") from wrong
    finally:
        player.world.close()
    return player
