"""fold(trail) = store: the audit trail alone gives every run again; what was changed behind its back is found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest

from tests.triggers.crashing import FAST, STORIES, half_day
from tests.triggers.samples import a_run, replace
from tests.triggers.world import World, a_fleet
from triggers import loop
from triggers.lifecycle import IllegalTransition
from triggers.rebuild import Rebuilt, differences, rebuild
from triggers.records import AuditEntry
from triggers.run import Phase


@contextmanager
def told(name: str) -> Iterator[tuple[list[AuditEntry], Any, dict[str, Any]]]:
    """The trail of a story, and the head and the runs that are stored."""
    with TemporaryDirectory() as folder, closing(World(Path(folder), a_loop=FAST, fleet=a_fleet("a", "b"))) as world:
        for now in range(STORIES[name].half_days + 1):
            half_day(world, STORIES[name], now)
        runs = {run.id: run for run in world.runs}
        yield loop.story(world.ports, "line"), loop.head(world.ports, "line"), runs


@pytest.mark.parametrize("name", STORIES)
def test_the_trail_gives_the_store_again(name: str) -> None:
    with told(name) as (entries, head, runs):
        found = rebuild(entries)
        assert len(found.runs) == len(runs) > 0
        assert found.events >= 3
        assert differences(found, head, runs, ()) == []


def test_what_was_changed_behind_the_trail_is_found() -> None:
    with told("drift, retrained and verified") as (entries, head, runs):
        found, (name, run) = rebuild(entries), next(iter(runs.items()))
        changed = {**runs, name: replace(run, approved_by="eve", phase=Phase.REJECTED)}
        assert differences(found, head, changed, ()) == [
            f"{name}: the store has another phase, approved_by than the trail"
        ]
        assert differences(found, head, {}, ()) == [f"{name} is in the trail, and not in the store"]
        assert differences(found, head, {**runs, "line.x.9": a_run(Phase.FAILED)}, ()) == [
            "line.x.9 is in the store, and not in the trail"
        ]
        other = replace(head, champion="f" * 64)
        assert differences(found, other, runs, ()) == [
            f"champion: {'f' * 64} in the store, {head.champion} by the trail"
        ]
        assert differences(found, head, runs, ["f" * 64]) == [f"revoked: ['{'f' * 64}'] in one, and not in the other"]


@pytest.mark.parametrize("kind", ["event-trained", "event-evaluated", "event-answered", "run-began"])
def test_a_trail_with_an_entry_left_out_gives_another_store_or_cannot_be_followed(kind: str) -> None:
    with told("drift, retrained and verified") as (entries, head, runs):
        left_out = [e for e in entries if e.kind != kind]
        assert len(left_out) < len(entries)
        try:
            found = rebuild(left_out)
        except IllegalTransition:
            return
        assert differences(found, head, runs, ())


def test_a_run_of_an_older_version_whose_beginning_was_not_kept_is_said_and_not_compared() -> None:
    with told("a candidate taken back") as (entries, head, runs):
        older = [replace(e, data={k: v for k, v in e.data.items() if k != "run"}) for e in entries]
        found = rebuild(older)
        assert found.unknown == set(runs)
        assert differences(found, head, runs, ()) == []


def test_nothing_is_rebuilt_from_nothing() -> None:
    assert rebuild(()) == Rebuilt()
    assert msgspec.to_builtins(rebuild(()).active) == {}
