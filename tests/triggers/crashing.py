"""Stories in which the process dies, or is told of an error, at calls of its ports: what they come to in the end.

Of the story without faults, all that is stored is kept at each half day. A story with a fault goes on from the half day
of that call; where it then has what the other has, the rest is the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from tests.triggers.conftest import MEMORY
from tests.triggers.world import HALF, LOOP, START, Crash, Faults, World, a_fleet, a_reference, put_candidate
from triggers import loop, sites
from triggers.errors import Retry
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


def half_day(world: World, story: Story, now: int, again: bool = False) -> None:
    """What happens at one half day; who died is started again, and does what it was at once more."""
    while True:
        try:
            begun(world, story, now, again)
            return
        except Crash:
            world.restart()
        except Retry:  # a timer comes again, and so does whoever asked
            pass
        again = True


def begun(world: World, story: Story, now: int, again: bool = False) -> None:
    """One half day, to its end or to the first fault. `again`: it was begun before."""
    world.clock.set(START + now * HALF)
    world.begin()
    if again:  # what was sent comes again, and the sweep finds what was not
        world.pump()
        loop.sweep(world.ports, "line")
        world.pump()
    if now:
        world.hear()
        loop.sweep(world.ports, "line")  # more often than there are checks
        world.pump()
        world.tick()
    story.act(world, now)


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
        "cards": sorted(key for key in world.board.cards if not key.startswith("digest/")),
        "told": sorted(world.board.told),  # in how many cards is as the hours had it
        "waiting": (world.waiting(), [world.waiting_labels(name) for name in names]),
        "quarantine": (world.quarantine, world.quarantined()),
        "audit": sorted({(e.kind, e.subject, e.text) for e in loop.story(world.ports, "line")}),
    }


def stored(world: World) -> dict[str, Any]:
    """All that the rest of a story depends on, to the byte; not the audit trail, nor how often something came."""
    query = world.database.read
    rows = {
        (partition, key): value
        for partition, key, value in query("select partition, key, value from rows")
        if not key.startswith("audit/") and key not in ("head", sites.SITE)
    }
    names = list(world.plants.all)
    return {
        "rows": rows,
        "head": replace(loop.head(world.ports, "line"), audit=0, audit_hash=""),
        "sites": [replace(world.state(name), duplicates=0) for name in names],
        "messages": sorted(query("select queue, id, session from messages")),
        "scheduled": sorted(query("select queue, id, session, due from scheduled")),
        "memory": in_memory(world),
    }


def in_memory(world: World) -> dict[str, Any]:
    """What no file keeps: sites, jobs, what people were told."""
    return {
        "plants": world.plants.all,
        "jobs": vars(world.jobs),
        "cards": (world.board.cards, world.board.told),
        "quarantine": world.quarantine,
        "shift": world.shift,
        "told": world._told,
    }


@dataclass
class Kept:
    """A world between two half days."""

    folder: Path
    memory: dict[str, Any]
    calls: int
    stored: dict[str, Any]


class Played:
    """A story without faults, and what becomes of it with some.

    Where all is as without faults again, at the end of a half day, what comes is as without them, too: a later fault is
    then that fault alone, at a call of another number.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.story, self.folder = STORIES[name], folder
        self.kept: list[Kept] = []
        self.healed: dict[tuple[int, str], tuple[int, int]] = {}  # a first fault: by which call, and how many it cost
        self.alone: dict[tuple[int, str], list[str]] = {}
        self.went_on = 0  # stories that were not at once as without faults
        faults = Faults()
        world = World(folder / "first", a_loop=FAST, fleet=a_fleet("a", "b"), faults=faults)
        for now in range(self.story.half_days + 1):
            self.kept.append(self._keep(world, now))
            half_day(world, self.story, now)
        assert world.runs[-1].phase is self.story.ends
        self.end, self.calls = end_of(world), faults.calls
        self.kept.append(self._keep(world, self.story.half_days + 1))
        world.close()

    def _keep(self, world: World, now: int) -> Kept:
        world.restart()  # what is in the file then is all there is
        folder = self.folder / f"kept-{now}"
        world.database.read("select 1")
        shutil.copytree(world.folder, folder)
        memory = deepcopy(in_memory(world))
        memory["jobs"].pop("blobs")
        return Kept(folder, memory, world.faults.calls, deepcopy(_comparable(stored(world))))

    def _restored(self, now: int, faults: Faults) -> World:
        there, kept = self.folder / "now", self.kept[now]
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(kept.folder, there)
        faults.calls = kept.calls
        world = World(there, a_loop=FAST, fleet=a_fleet("a", "b"), faults=faults)
        memory = deepcopy(kept.memory)
        world.plants.all.clear()
        world.plants.all.update(memory["plants"])
        vars(world.jobs).update(memory["jobs"])
        world.board.cards.update(memory["cards"][0])
        world.board.told.update(memory["cards"][1])
        world.quarantine[:] = memory["quarantine"]
        world.shift = memory["shift"]
        world._told.update(memory["told"])
        return world

    def different(self, at: Sequence[int], how: str = "before") -> list[str]:
        """In what the end differs from that without faults; the calls `at`, at most two, from 1, fail in that way."""
        first, later = at[0], at[1:]
        if later and later[0] > self.healed.get((first, how), (later[0], 0))[0]:
            return self._alone(later[0] - self.healed[first, how][1], how)
        now = max(n for n, kept in enumerate(self.kept) if kept.calls < first)
        world = self._restored(now, Faults(at, how))
        try:
            while now <= self.story.half_days:
                half_day(world, self.story, now)
                now += 1
                calls = world.faults.calls
                if calls < first or _comparable(stored(world)) != self.kept[now].stored or untrue(world):
                    continue
                if later and calls < later[0]:
                    self.healed[first, how] = calls, calls - self.kept[now].calls
                    return self._alone(later[0] - self.healed[first, how][1], how)
                return []
            self.went_on += 1
            found = end_of(world)
            if set(found["cards"]) <= set(self.end["cards"]):  # all was told; some of it in a digest
                found["cards"] = self.end["cards"]
            return [part for part, value in self.end.items() if found[part] != value]
        finally:
            world.close()

    def _alone(self, at: int, how: str) -> list[str]:
        """One fault; after the last call there is none."""
        if at > self.calls:
            return []
        if (at, how) not in self.alone:
            self.alone[at, how] = self.different([at], how)
        return self.alone[at, how]


def _comparable(found: dict[str, Any]) -> dict[str, Any]:
    jobs = {k: v for k, v in found["memory"]["jobs"].items() if k != "blobs"}
    return {**found, "memory": {**found["memory"], "jobs": jobs}}


def untrue(world: World) -> str:
    """What is wrong with the audit trail."""
    end = loop.head(world.ports, "line")
    return verify(loop.story(world.ports, "line"), (end.audit, end.audit_hash))


@contextmanager
def played(name: str) -> Iterator[Played]:
    """In memory, where the machine offers it."""
    with TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder:
        yield Played(name, Path(folder))
