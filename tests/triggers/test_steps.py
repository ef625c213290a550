"""Changes that take several steps at a site: traffic by parts, say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from drift.telemetry import Serving
from tests.triggers.world import HALF, World, a_fleet, put_candidate
from triggers import loop, sites

MINUTE = timedelta(minutes=1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, fleet=a_fleet("a", "b"))
    for plant in world.plants.all.values():
        plant.steps = True
    yield world
    world.close()


@pytest.fixture
def new(world: World) -> str:
    """A candidate that is on its way to site a."""
    world.begin()
    world.half_day()
    made = put_candidate(world.blobs, world.blobs.get("layers/" + reference(world)), "by hand")
    loop.submit(world.ports, "line", made, "bob", "better")
    world.pump()
    world.answer()
    assert world.plants["a"].joins == made
    return made


def reference(world: World) -> str:
    from triggers import candidates

    champion = loop.head(world.ports, "line").champion
    return str(candidates.manifest(world.ports, champion)["files"]["reference.bin"]["sha256"])


def answers(world: World, candidate: str, errors: int = 0) -> None:
    """Site a tells how the candidate answered in the last half day."""
    world.clock.advance(HALF)
    now = f"{world.clock.now():%d%H}"
    batch = world.batch("a", id=f"a-{candidate[:4]}-{now}", candidate=candidate, serving=Serving(40, errors, 5.0, 9.0))
    world.send(world.payload(batch))
    world.pump()


def test_a_step_is_taken_when_the_sites_own_telemetry_has_shown_the_candidate_well(world: World, new: str) -> None:
    state = world.state("a")
    assert (state.status, state.step, state.reason) == ("underway", "some", "some of the requests")
    for _ in range(3):
        world.clock.advance(MINUTE)
        world.pump()
    assert world.plants["a"].serves != new, "nothing is known of it yet"
    answers(world, world.plants["a"].serves)
    assert world.state("a").status == "underway", "what the other candidate answers proves nothing"
    answers(world, new)
    assert world.plants["a"].serves == new
    assert (world.state("a").status, world.state("a").step) == ("applied", "")


def test_a_step_that_fails_ends_the_change_and_takes_the_site_back(world: World, new: str) -> None:
    old = world.plants["a"].serves
    answers(world, new, errors=30)
    assert world.runs[-1].phase == "rolling-back"
    world.pump()
    assert (world.plants["a"].serves, world.plants["a"].joins) == (old, "")
    answers(world, old)
    assert world.runs[-1].phase == "rolled-back"
    assert world.state("a").status == "restored"


def test_what_is_underway_is_looked_at_once_a_minute_whoever_asks(world: World, new: str) -> None:
    for _ in range(5):
        loop.sweep(world.ports, "line")
    world.clock.advance(MINUTE)
    assert world.bus.pending("deployments") == 1


def test_a_site_that_goes_offline_midway_goes_on_when_it_is_back(world: World, new: str) -> None:
    world.plants["a"].online = False
    world.clock.advance(MINUTE)
    world.pump()
    assert (world.state("a").status, world.state("a").step) == ("deferred", "some")
    world.plants["a"].online = True
    answers(world, new)
    world.clock.advance(MINUTE)
    world.pump()
    answers(world, new)
    world.clock.advance(MINUTE)
    world.pump()
    assert world.plants["a"].serves == new
    assert sites.state_of(world.ports, "line", "a").status in ("applied", "verified")
