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
from triggers import codec, loop, policy, views
from triggers import rebuild as kept
from triggers.lifecycle import IllegalTransition
from triggers.ports import Delete
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


# --- decisions


def made(world: World) -> tuple[list[tuple[policy.Decision, policy.Weighed]], dict[str, bytes]]:
    """Decisions with what they were made of, as the API says it, two to a page."""
    found, configs, cursor = [], dict[str, bytes](), ""
    while True:
        page = views.weighed(world.ports, "line", 2, cursor)
        found += [(d.decision, d.weighed) for d in page.decisions if d.weighed]
        configs |= {digest: text.encode() for digest, text in page.configs.items()}
        if page.next is None:
            return found, configs
        cursor = page.next


def test_a_decision_is_computed_again_from_the_store(tmp_path: Path) -> None:
    with closing(World(tmp_path, a_loop=FAST, fleet=a_fleet("a", "b"))) as world:
        story = STORIES["drift, retrained and verified"]
        for now in range(story.half_days + 1):
            half_day(world, story, now)
            if now == 3:  # what is configured later is nothing to what was decided before
                world.configs.one = replace(FAST, retrain=replace(FAST.retrain, confirm=2))
        found, configs = made(world)
        assert len(found) == len(world.decisions) == 3
        assert {decision.action for decision, _ in found} == {"hold", "retrain"}
        assert len(configs) == 3, "two loops and a fleet"
        assert [kept.unlike(decision, of, configs) for decision, of in found] == [""] * len(found)

        decision, of = next((d, w) for d, w in found if d.action == "retrain")
        other = replace(decision, action="hold", reason="eve said so")
        assert kept.unlike(other, of, configs) == "computed again it has another action, reason than is stored"
        assert "another reason" in kept.unlike(decision, replace(of, rows=of.rows + 1), configs)
        assert "another action" in kept.unlike(decision, replace(of, frozen="inventory"), configs)
        there = f"the configuration {of.loop[:12]} that it was made with is"
        assert kept.unlike(decision, of, {of.fleet: configs[of.fleet]}) == f"{there} not there"
        assert kept.unlike(decision, of, {**configs, of.loop: configs[of.fleet]}) == f"{there} another"
        newer = configs[of.loop][:-1] + b',"newer":1}'
        with pytest.raises(msgspec.ValidationError):
            kept.unlike(decision, replace(of, loop=codec.digest(newer)), {**configs, codec.digest(newer): newer})


def test_what_a_decision_was_made_of_may_be_gone(tmp_path: Path) -> None:
    with closing(World(tmp_path, a_loop=FAST, fleet=a_fleet("a", "b"))) as world:
        for now in range(3):
            half_day(world, STORIES["drift, retrained and verified"], now)
        [first, *_] = views.weighed(world.ports, "line").decisions
        assert first.weighed
        world.blobs.delete(kept.remembered(first.weighed.loop))
        key = next(r.key for r in world.store.scan("line", "weighed/"))
        world.store.commit("line", [Delete(key)])
        page = views.weighed(world.ports, "line")
        assert page.decisions[0].weighed is None
        assert "" in page.configs.values() or len(page.decisions) == 1
        with pytest.raises(ValueError, match="does not match"):
            views.weighed(world.ports, "line", cursor="../x")
