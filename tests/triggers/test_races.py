"""Many answers at once: one decision, and a whole trail."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.triggers.world import World, a_reference, put_candidate
from triggers import approval, asking, loop, records
from triggers.errors import Conflict
from triggers.ports import Delete, Put

RACERS = 100


def asked(world: World) -> str:
    world.begin()
    run = loop.submit(world.ports, "line", put_candidate(world.blobs, a_reference(), "better"), "eve", "by hand")
    world.pump()
    return run


def race(world: World, run: str, racers: int) -> list[tuple[str, str]]:
    """Ann approves and Bob rejects, at the same moment: what each said, and why it does not count."""
    request, begin = world.request(), threading.Barrier(racers)
    shown = {"candidate": request.candidate, "evidence": request.evidence, "plan": request.plan}

    def answer(n: int) -> tuple[str, str]:
        said, by = (("approve", "ann"), ("reject", "bob"))[n % 2]
        given = approval.Answer(answer=said, by=by, reason=f"{n}", **shown)  # type: ignore[arg-type]
        begin.wait(30)
        try:
            return said, asking.answer(world.ports, run, given)
        except Conflict:
            return said, "to be sent again"

    with ThreadPoolExecutor(racers) as pool:
        return list(pool.map(answer, range(racers)))


@pytest.mark.attack
def test_of_a_hundred_answers_at_once_one_decision_counts(world: World) -> None:
    run = asked(world)
    counted = {said for said, why in race(world, run, RACERS) if not why}
    decided = world.request()
    assert counted == {{"approved": "approve", "rejected": "reject"}[decided.state]}
    told = loop.story(world.ports, "line", run)
    assert [e.kind for e in told].count("answered") == 1
    end = loop.head(world.ports, "line")
    assert records.verify(loop.story(world.ports, "line"), (end.audit, end.audit_hash)) == ""
    world.pump()
    assert world.runs[-1].phase == ("rolling-out" if decided.state == "approved" else "rejected")


@pytest.mark.attack
def test_without_expected_versions_both_answers_would_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defence of the race: a write that expects what was read."""
    run, both = asked(world), threading.Barrier(2)

    def commit(unit: records.Unit) -> None:
        both.wait(30)
        found: list[Any] = []
        with LOCK:
            for key in unit._changed:
                there, value = unit.store.get(unit.partition, key), unit._values[key]
                version = there.version if there else None
                found.append(Put(key, value, version) if value is not None else Delete(key, version or ""))
            unit.store.commit(unit.partition, found)

    monkeypatch.setattr(records.Unit, "commit", commit)
    assert [why for _, why in race(world, run, 2)] == ["", ""]


LOCK = threading.Lock()
