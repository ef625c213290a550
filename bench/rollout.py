"""How fast a rollout is planned, simulated, and taken back."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from cli.simulation import Simulation, Weather, a_fleet, with_limits
from triggers import loop as shell
from triggers import rollout
from triggers.config import Feature, Fleet, Loop, Schema, Site, duration
from triggers.rollout import DOWN, UPDATING
from triggers.windows import open_at, spans

START = datetime(2026, 3, 2, 6, tzinfo=UTC)
LOOP = Loop(loop="bench", schema=Schema(site="site", features=(Feature(name="x"),)))
CANDIDATE = 50_000_000


class Watched(Simulation):
    """Counts by brute force, at every start, what must hold: invariants 14, 15, 18 and 19."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.started, self.wrong = 0, []
        self.once_deferred: set[str] = set()  # they converge when they are back, whatever has begun since
        super().__init__(*args, **more)

    def ask(self, place: Any) -> None:
        """Before the site is asked: who is not to be counted on already, or will not be?"""
        limits, name = self.loop.rollout, place.site.name
        self.started += 1
        gone = {n for n, p in self.places.items() if p.status in (*UPDATING, *DOWN) or self.mute(n)}
        most = rollout.at_most(limits.max_unavailable, len(self.places))
        if len(gone | {name}) > max(most, len(gone)):
            self.wrong.append(f"{name}: {len(gone)} of {most} are unavailable already")
        updating = sum(p.status in UPDATING for p in self.places.values())
        at_once = limits.max_concurrent or limits.max_unavailable
        if name not in gone and updating + 1 > rollout.at_most(at_once, len(self.places)):
            self.wrong.append(f"{name}: {updating} are being updated")
        at, end = self.now.timestamp(), (self.now + self.hold.needed(place.site)).timestamp()
        here = next(spans(place.site, at, self.fleet.blackouts), (0.0, 0.0))
        if not (open_at(place.site, self.now, self.fleet.blackouts) and here[0] <= at and end <= here[1]):
            self.wrong.append(f"{name}: outside its window")
        if self.frozen(name):
            self.wrong.append(f"{name}: frozen")
        earlier = {n for wave in self.plan.waves[: place.wave] for n in wave.sites} - self.once_deferred
        if any(self.places[n].status in ("waiting", *UPDATING, "soaking") for n in earlier):
            self.wrong.append(f"{name}: an earlier wave is not decided")
        super().ask(place)

    def _set(self, place: Any, status: Any, reason: str = "") -> None:
        if status == "deferred":
            self.once_deferred.add(place.site.name)
        super()._set(place, status, reason)

    def mute(self, name: str) -> bool:
        place, silence = self.places[name], duration(self.loop.telemetry.silence).total_seconds()
        return not place.online and self.time - place.since >= silence


def a_trial(seed: int) -> Watched:
    """A random fleet with faults and limits of every kind, for ten days."""
    random = Random(seed)
    fleet = a_fleet(random.randint(1, 25), random, random.randint(1, 4), random.random())
    limits = {
        "wave_size": random.choice((None, 1, 3, 10, "30%", "100%")),
        "max_unavailable": random.choice((1, 2, 5, "10%", "40%")),
        "max_concurrent": random.choice((None, 1, 2, "20%")),
        "max_failed": random.choice((0, 0, 1, 3)),
        "soak": random.choice(("1h", "6h", "1d")),
        "deadline": random.choice(("6h", "2d")),
        "ask": "1d",
        "install": random.choice(("1m", "30m")),
    }
    frozen = frozenset(s.name for s in fleet.sites if random.random() < 0.03)
    weather = Weather(
        offline=random.choice((0.0, 0.05, 0.3)),
        spell_hours=random.choice((2.0, 60.0)),
        failing=random.choice((0.0, 0.05, 0.5)),
        batch_s=random.choice((3600, 10_800)),
    )
    loop = with_limits(LOOP, **limits)
    size = random.choice((1_000_000, 100_000_000))
    trial = Watched(loop, fleet, size, START, random, weather, lambda name: "frozen" * (name in frozen))
    trial.go(10)
    return trial


def blast(trials: int) -> dict[str, int]:
    """Violations in so many random fleets with faults."""
    started = wrong = verified = back = 0
    for seed in range(trials):
        trial = a_trial(seed)
        started, wrong = started + trial.started, wrong + len(trial.wrong)
        verified += trial.run.phase == "verified"
        back += trial.run.phase == "rolled-back"
    return {"fleets": trials, "starts": started, "violations": wrong, "verified": verified, "rolled back": back}


def speed(sites: int = 10_000, rings: int = 20) -> dict[str, float]:
    """Seconds (of the processor) to plan, and to simulate a month of it."""
    random = Random(1)
    fleet = a_fleet(sites, random, rings)
    loop = with_limits(LOOP, wave_size="100%", max_unavailable="5%", soak="12h")
    begun = time.process_time()
    plan = rollout.plan(fleet, loop.rollout, loop.loop, "candidate")
    waves = rollout.forecast(plan, rollout.Hold(fleet, loop.rollout, lambda site: CANDIDATE), START)
    planned = time.process_time()
    made = Simulation(loop, fleet, CANDIDATE, START, random, Weather())
    made.go(30)
    ended = time.process_time()
    result = made.result()
    return {
        "plan": planned - begun,
        "waves": len(waves),
        "zones": len({s.timezone for s in fleet.sites}),
        "simulate": ended - planned,
        "days": made.time / 86_400,
        "updated": result["updated"],
    }


def way_back(sites: int = 1000) -> dict[str, float]:
    """Seconds of the clock on the local profile's store, bus and topic: from the batch that shows the failure to the
    decision, and until a request is with every site."""
    from tests.triggers import world as worlds

    names = [f"s{n:04}" for n in range(sites)]
    limits = {"max_unavailable": "100%", "soak": "12h", "max_p95_ms": 50.0}
    config = with_limits(worlds.LOOP, **limits)
    with TemporaryDirectory() as folder:
        world = worlds.World(Path(folder), a_loop=config, fleet=Fleet(sites=tuple(Site(name=n) for n in names)))
        first = world.begin()
        made = worlds.put_candidate(world.blobs, worlds.a_reference(0.1), "second")
        shell.submit(world.ports, "line", made, "carol", "better")
        world.pump = partial(world.pump, 100 * sites)  # type: ignore[method-assign]
        world.pump()
        world.answer()
        assert all(p.serves == made for p in world.plants.all.values())
        world.plants[names[0]].slow.add(made)
        world.clock.advance(worlds.HALF)
        world.send(world.payload(world.batch(names[0])))
        begun = time.perf_counter()
        while world.runs[-1].phase != "rolling-back":
            for queue, count, handle in world._consumers():
                if queue in ("telemetry", "runs") and (told := world.bus.receive(queue, count)):
                    handle([m.body for m in told])
                    world.bus.complete(told)
        decided = time.perf_counter()
        world.pump()
        ended = time.perf_counter()
        assert all(p.serves == first for p in world.plants.all.values())
        world.close()
    return {"decision": decided - begun, "requests": ended - decided, "sites": sites}
