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
from tests.triggers.goldens import RULED
from tests.triggers.samples import a_run, replace
from tests.triggers.world import World, a_fleet
from triggers import codec, loop, policy, views
from triggers import rebuild as kept
from triggers.errors import Retry
from triggers.lifecycle import IllegalTransition
from triggers.ports import Put
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


def told_of(world: World) -> tuple[list[policy.Decision], dict[str, bytes]]:
    """Decisions and what they were made of, as the API says it, two to a page."""
    found, made_of, cursor = list[policy.Decision](), dict[str, bytes](), ""
    while True:
        page = views.weighed(world.ports, "line", 2, cursor)
        assert len(page.decisions) <= 2
        found += page.decisions
        made_of |= {digest: text.encode() for digest, text in page.kept.items()}
        if page.next is None:
            return found, made_of
        cursor = page.next


@pytest.fixture
def drifted(tmp_path: Path) -> Iterator[World]:
    """Decisions to hold, to retrain, and of nothing at all; under two loop.yamls."""
    with closing(World(tmp_path, a_loop=FAST, fleet=a_fleet("a", "b"))) as world:
        story = STORIES["drift, retrained and verified"]
        for now in range(story.half_days + 1):
            half_day(world, story, now)
            if now == 3:  # what is configured later is nothing to what was decided before
                world.configs.one = replace(FAST, retrain=replace(FAST.retrain, confirm=2))
        yield world


def with_changed(of: policy.Weighed, made_of: dict[str, bytes], **changes: Any) -> tuple[str, dict[str, bytes]]:
    """What somebody who can write the store would put there."""
    data = codec.encode(replace(of, **changes))
    return codec.digest(data), {**made_of, codec.digest(data): data}


def test_a_decision_is_computed_again_from_the_store(drifted: World) -> None:
    found, made_of = told_of(drifted)
    assert len(found) == len(drifted.decisions) == 3
    assert {decision.action for decision in found} == {"hold", "retrain"}
    assert len(made_of) == len(found) + 3, "what each was made of, two loops and a fleet"
    assert [kept.unlike(decision, made_of) for decision in found] == [""] * 3
    assert kept.untold(found, loop.story(drifted.ports, "line")) == []


def test_a_decision_that_does_not_come_of_what_it_was_made_of_is_found(drifted: World) -> None:
    found, made_of = told_of(drifted)
    decision = next(d for d in found if d.action == "retrain")
    of = kept.read(made_of, decision.weighed, policy.Weighed)
    other = replace(decision, action="hold", reason="eve said so")
    assert "another findings" in kept.unlike(replace(decision, findings=()), made_of)
    assert kept.unlike(other, made_of) == "computed again it has another action, reason than is stored"
    for changes, said in (
        ({"rows": of.rows + 1}, "another reason than"),
        ({"frozen": "inventory"}, "another action, reason than"),
        ({"loop": of.fleet}, "stored value is a Fleet, not a Loop"),
        ({"loop": "f" * 64}, "the Loop ffffffffffff that it was made of is not there"),
        ({"rules": 0}, "made by rules 0: there are none"),
    ):
        digest, there = with_changed(of, made_of, **changes)
        assert said in kept.unlike(replace(decision, weighed=digest), there)
    assert "is another" in kept.unlike(decision, {**made_of, of.loop: b"{}"})
    assert "is not there" in kept.unlike(decision, {k: v for k, v in made_of.items() if k != decision.weighed})
    assert "is not named" in kept.unlike(replace(decision, weighed=""), made_of)
    digest, there = with_changed(of, made_of, rules=policy.RULES + 1)
    with pytest.raises(Retry, match="rules"):
        kept.unlike(replace(decision, weighed=digest), there)
    newer = made_of[of.loop].replace(b'"body":{', b'"body":{"newer":1,')
    digest, there = with_changed(of, {**made_of, codec.digest(newer): newer}, loop=codec.digest(newer))
    with pytest.raises(Retry, match="newer"):
        kept.unlike(replace(decision, weighed=digest), there)
    with pytest.raises(ValueError, match="does not match"):
        views.weighed(drifted.ports, "line", cursor="../x")


def test_a_decision_that_the_trail_does_not_know_is_found(drifted: World) -> None:
    found, entries = told_of(drifted)[0], loop.story(drifted.ports, "line")
    held, begun, quiet = found
    assert (held.action, begun.action, quiet.findings) == ("hold", "retrain", ())
    other = replace(held, reason="eve said so")
    said = f"{held.at:%Y-%m-%d %H:%M:%S}"
    gone = f"{said}: held, says the trail, and there is no such decision"
    assert kept.untold([other, begun, quiet], entries) == [f"{said}: the trail has nothing, not held", gone]
    assert kept.untold([begun, quiet], entries) == [gone]
    at = f"{begun.at:%Y-%m-%d %H:%M:%S}"
    assert kept.untold([held, replace(begun, action="hold"), quiet], entries) == [
        f"{at}: the trail has run-began, not held"
    ]
    assert kept.untold([held, quiet], entries) == [f"{at}: run-began, says the trail, and there is no such decision"]
    forged = replace(begun, weighed="f" * 64)
    assert kept.untold([held, forged, quiet], entries) == [f"{at}: made of something else, says the trail"]


def test_what_a_decision_was_made_of_may_be_gone(drifted: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found, made_of = told_of(drifted)
    of = kept.read(made_of, found[0].weighed, policy.Weighed)
    drifted.blobs.delete(kept.kept_as(of.loop))
    page = views.weighed(drifted.ports, "line")
    assert page.kept[of.loop] == ""
    drifted.blobs.delete(kept.kept_as(found[0].weighed))
    page = views.weighed(drifted.ports, "line")
    assert page.kept[found[0].weighed] == ""
    assert page.decisions == found
    record = next(drifted.store.scan("line", "decision/"))
    drifted.store.commit("line", [Put(record.key, b"{", record.version)])
    page = views.weighed(drifted.ports, "line")
    assert page.decisions == found[1:]
    assert "not a Decision" in page.unreadable[0]
    newest = list(drifted.store.scan("line", "decision/"))[-1]
    drifted.store.commit("line", [Put("decision/2026-3-1T060000", newest.value), Put("decision/zzz", newest.value)])
    page = views.weighed(drifted.ports, "line")
    assert page.decisions == found[1:]
    assert [said.split(":")[0] for said in page.unreadable[1:]] == ["2026-3-1T060000", "zzz"]
    monkeypatch.setattr(views, "_PAGE_BYTES", 1)
    assert told_of(drifted)[0] == found[1:], "a page that is full is followed by another"


def test_the_rules_are_those_of_their_number() -> None:
    """Decisions as these rules made them. Where this fails, `decide` says something else of the same than it did:
    raise policy.RULES, and write the file of the new number (`python -m tests.triggers.goldens`)."""
    stored = msgspec.json.decode(RULED.read_bytes())
    made_of = {codec.digest(text.encode()): text.encode() for text in stored["kept"]}
    found = [codec.decode(text.encode(), policy.Decision) for text in stored["decisions"]]
    assert len({*stored["decisions"]}) == len(found) >= 12
    assert [kept.unlike(decision, made_of) for decision in found] == [""] * len(found)
