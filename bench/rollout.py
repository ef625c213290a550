"""How fast a rollout is planned, simulated, and taken back."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from cli.simulation import Simulation, Weather, a_fleet, with_limits
from triggers import loop as shell
from triggers import rollout
from triggers.config import Feature, Fleet, Loop, Schema, Site

START = datetime(2026, 3, 2, 6, tzinfo=UTC)
LOOP = Loop(loop="bench", schema=Schema(site="site", features=(Feature(name="x"),)))
CANDIDATE = 50_000_000


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
