"""The process dies at every commit and every send of a story, and again while it recovers: the end is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest

from tests.triggers.conftest import MEMORY
from tests.triggers.world import HALF, LOOP, START, Crash, Faults, World, a_fleet, a_reference, put_candidate
from triggers import loop, sites
from triggers.records import verify
from triggers.run import Phase

replace = msgspec.structs.replace


@dataclass(frozen=True)
class Story:
    """What somebody does at each half day, and how it ends."""

    half_days: int
    act: Callable[[World, int], None]
    ends: Phase


def drift(world: World, now: int) -> None:
    """x moves from the beginning; what is asked is approved."""
    world.shift = world.jobs.shift = 3.0
    if world.runs and world.runs[-1].phase is Phase.AWAITING_APPROVAL:
        assert world.answer() == ""


def taken_back(world: World, now: int) -> None:
    """A candidate is handed in and approved, and is slow at the second site."""
    better = put_candidate(world.blobs, a_reference(), "better")
    world.plants["b"].slow.add(better)
    if not world.runs:
        loop.submit(world.ports, "line", better, "eve", "made by hand")
        world.pump()
    if world.runs[-1].phase is Phase.AWAITING_APPROVAL:
        assert world.answer() == ""


def cut_off(world: World, now: int) -> None:
    """As before, but the first site goes away in the middle, comes back later, and there is a freeze meanwhile."""
    world.plants["a"].online = not 2 <= now < 4
    taken_back(world, now)
    held = sites.frozen(world.ports, "line")
    if now == 2 and not held:
        loop.freeze(world.ports, "line", "ann", "inventory")
    if now == 3 and held:
        loop.unfreeze(world.ports, "line", "ann")
        world.pump()


STORIES = {
    "drift, retrained and verified": Story(7, drift, Phase.VERIFIED),
    "a candidate taken back": Story(4, taken_back, Phase.ROLLED_BACK),
    "a site away and a freeze while it is taken back": Story(6, cut_off, Phase.ROLLED_BACK),
}
FAST = replace(LOOP, retrain=replace(LOOP.retrain, confirm=1, minimum_rows=50))


@contextmanager
def played(story: Story, faults: Faults) -> Iterator[World]:
    """The story from its beginning; a process that died is started again and does what it was at once more."""
    with TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder:
        world = World(Path(folder), a_loop=FAST, fleet=a_fleet("a", "b"), faults=faults)
        for now in range(story.half_days + 1):
            died = False
            while True:
                try:
                    world.clock.set(START + now * HALF)
                    world.begin()
                    if died:  # what was sent comes again, and the sweep finds what was not
                        world.pump()
                        loop.sweep(world.ports, "line")
                        world.pump()
                    if now:
                        world.speak()
                    story.act(world, now)
                    break
                except Crash:
                    died = True
                    world.restart()
        yield world
        world.close()


def end_of(world: World) -> dict[str, Any]:
    """All that matters in the end; not how often something was tried."""
    names = list(world.plants.all)
    end = loop.head(world.ports, "line")
    assert verify(loop.story(world.ports, "line"), (end.audit, end.audit_hash)) == ""
    assert [q for q in ("runs", "effects", "deployments", "telemetry") if world.bus.dead_letters(q)] == []
    return {
        "runs": [replace(run, seen=frozenset()) for run in world.runs],
        "head": replace(loop.head(world.ports, "line"), audit=0, audit_hash=""),
        "decisions": world.decisions,
        "request": world.request(),
        "sites": [replace(world.state(name), duplicates=0) for name in names],
        "lists": [row for run in world.runs for _, row in sites.rows(world.ports, run.id)],
        "windows": [world.counted(name) for name in names],
        "applied": [world.plants[name].applied for name in names],
        "jobs": (sorted(world.jobs.jobs), world.jobs.cancelled),
        "cards": sorted(world.board.cards),
        "waiting": (world.waiting(), [world.waiting_labels(name) for name in names]),
        "quarantine": (world.quarantine, world.quarantined()),
        "audit": sorted({(e.kind, e.subject, e.text) for e in loop.story(world.ports, "line")}),
    }


@lru_cache
def undisturbed(name: str) -> tuple[dict[str, Any], int]:
    """How the story ends, and in how many calls."""
    faults = Faults()
    with played(STORIES[name], faults) as world:
        assert world.runs[-1].phase is STORIES[name].ends
        return end_of(world), faults.calls


def crashed(name: str, faults: Faults) -> None:
    expected, _ = undisturbed(name)
    with played(STORIES[name], faults) as world:
        found = end_of(world)
    for part, value in expected.items():
        assert found[part] == value, f"{part} differ after dying at call {faults.at}, after={faults.after}"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", STORIES)
def test_a_crash_at_a_commit_or_send_changes_nothing(name: str, after: bool) -> None:
    """At calls spread over the story, others before and after they are done; at every call by night."""
    _, calls = undisturbed(name)
    for at in range(2 + 5 * after, calls + 1, 12):
        crashed(name, Faults((at,), after))


@pytest.mark.nightly
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", STORIES)
def test_a_crash_at_any_call_and_others_while_it_recovers_change_nothing(name: str, after: bool) -> None:
    _, calls = undisturbed(name)
    for at in range(1, calls + 1):
        crashed(name, Faults((at,), after))
        crashed(name, Faults((at, at + 1, at + 5), after))


@pytest.mark.parametrize("name", STORIES)
def test_a_process_that_dies_again_and_again_still_gets_there(name: str) -> None:
    _, calls = undisturbed(name)
    for every, after in ((7, True), (11, False)):
        crashed(name, Faults(tuple(range(every, 3 * calls, every)), after))
