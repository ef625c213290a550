"""A loop is frozen in the moment of any call that leaves the process: nothing new begins, and it ends later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.triggers.conftest import MEMORY
from tests.triggers.crashing import FAST
from tests.triggers.world import Faults, World, a_fleet, a_reference, put_candidate
from triggers import effects as do
from triggers import loop, sites
from triggers.errors import Refused
from triggers.run import Phase

HALF_DAYS = 7


class Freezer(Faults):
    """Freezes before one of the calls is done: whoever makes it has looked before."""

    def __init__(self, when: int) -> None:
        super().__init__()
        self.when = when
        self.world: World | None = None
        self.jobs: set[str] | None = None
        self.applied: dict[str, int] = {}
        self.call = ""

    def guard(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **named: Any) -> Any:
            if self.world and self.jobs is None:
                self.calls += 1
                if self.calls == self.when:
                    self._freeze(self.world, call.__name__)
            return call(*args, **named)

        return guarded

    def _freeze(self, world: World, call: str) -> None:
        self.jobs, self.call = set(world.jobs.jobs), call
        self.applied = {name: len(plant.applied) for name, plant in world.plants.all.items()}
        loop.freeze(world.ports, "line", "ann", "inventory")


@contextmanager
def a_story(slow: bool, when: int = 0) -> Iterator[tuple[World, Freezer, str]]:
    """Drift, a retraining and its rollout; where `slow`, the second site is, and it is taken back."""
    freezer = Freezer(when)
    with (
        TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder,
        closing(World(Path(folder), a_loop=FAST, fleet=a_fleet("a", "b"), faults=freezer)) as world,
    ):
        first = world.begin()
        freezer.world, world.shift = world, 3.0
        if slow:
            better = put_candidate(world.blobs, a_reference(), "better")
            world.plants["b"].slow.add(better)
            with suppress(Refused):  # frozen, at its own first calls
                loop.submit(world.ports, "line", better, "eve", "made by hand")
            world.pump()
        else:
            world.jobs.shift = 3.0
        for _ in range(HALF_DAYS):
            go_on(world)
        yield world, freezer, first


def go_on(world: World) -> None:
    world.half_day()
    run = world.runs[-1] if world.runs else None
    if run and run.phase is Phase.AWAITING_APPROVAL and world.store.get("line", f"approval/{run.id}"):
        world.answer()


def begun(world: World, freezer: Freezer, first: str) -> list[str]:
    """What began since the freeze, and is neither on the way back nor the call in whose moment it came."""
    jobs = sorted(set(world.jobs.jobs) - (freezer.jobs or set()))
    changes = [
        f"{name} {candidate[:8]}"
        for name, plant in world.plants.all.items()
        for candidate in plant.applied[freezer.applied.get(name, 0) :]
        if candidate != first
    ]
    own = {"submit": jobs, "apply": changes}.get(freezer.call, [])
    del own[:1]
    return [*jobs, *changes]


def holds_at(slow: bool, when: int) -> None:
    with a_story(slow, when) as (world, freezer, first):
        assert freezer.jobs is not None
        assert sites.frozen(world.ports, "line")
        assert begun(world, freezer, first) == []
        loop.unfreeze(world.ports, "line", "ann")
        world.pump()
        for _ in range(24):
            if world.runs and world.runs[-1].phase.final and not world.waiting():
                break
            go_on(world)
        run = world.runs[-1] if world.runs else None
        assert (run is None and slow) or (run and run.phase.final), run
        assert world.waiting() == []


def calls(slow: bool) -> int:
    with a_story(slow) as (_, freezer, _):
        return freezer.calls


@pytest.mark.parametrize("slow", [False, True], ids=["drift", "taken back"])
def test_a_freeze_in_the_moment_of_a_call_lets_nothing_new_begin(slow: bool) -> None:
    """At calls spread over the story; `make test-wire` takes half of them, `make test-nightly` each."""
    for when in range(9, calls(slow) + 1, 11):
        holds_at(slow, when)


@pytest.mark.parametrize("slow", [False, True], ids=["drift", "taken back"])
@pytest.mark.parametrize(
    "step", [pytest.param(2, marks=pytest.mark.wire), pytest.param(1, marks=pytest.mark.nightly)], ids=["half", "all"]
)
def test_a_freeze_in_the_moment_of_any_call_lets_nothing_new_begin(slow: bool, step: int) -> None:
    every = calls(slow)
    assert every > 60
    for when in range(1, every + 1, step):
        holds_at(slow, when)


def test_who_does_not_look_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(do, "GOES_ON_WHILE_FROZEN", (*do.GOES_ON_WHILE_FROZEN, do.Train, do.Evaluate))
    found = 0
    for when in range(1, calls(False) + 1, 3):
        with a_story(False, when) as (world, freezer, first):
            found += begun(world, freezer, first) != []
    assert found
