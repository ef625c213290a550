"""A revoked candidate: no site is asked to serve it, by whatever way it comes."""

from __future__ import annotations

import pytest

from tests.triggers.test_asking import by_rule, handed_in
from tests.triggers.world import World, a_reference, put_candidate
from triggers import candidates, loop, views
from triggers.errors import NotFound, Refused

WHY = "revoked by zoe: it leaks"


def revoke(world: World, candidate: str) -> None:
    loop.revoke(world.ports, "line", candidate, "zoe", "it leaks")


@pytest.mark.attack
@pytest.mark.parametrize("defended", [True, False])
def test_a_way_back_that_aims_at_a_revoked_candidate_is_not_gone(
    world: World, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    first = world.begin()
    handed_in(world)
    second = world.runs[-1].candidate
    world.plants["a"].slow.add(second)
    assert world.answer() == ""
    assert world.plants["a"].serves == second
    revoke(world, first)
    if not defended:
        monkeypatch.setattr(candidates, "revoked", lambda *_: "")
    run = world.until("rolled-back")
    served = world.plants["a"].serves
    assert served == (second if defended else first), "without its defence the attack succeeds"
    if defended:
        why = f"a: {first[:12]} was {WHY}"
        assert (world.state("a").status, world.state("a").reason) == ("stuck", why)
        assert why in run.because


def test_what_is_revoked_after_it_was_approved_reaches_no_further_site(world: World) -> None:
    handed_in(world)
    candidate = world.runs[-1].candidate
    assert world.answer() == ""
    revoke(world, candidate)
    run = world.until("rolled-back")
    assert f"b: {candidate[:12]} was {WHY}" in run.because
    assert [candidate in p.applied for p in world.plants.all.values()] == [True, False, False]
    assert world.plants["a"].serves == run.champion


def test_it_is_not_approved_by_people_or_by_rule(world: World) -> None:
    handed_in(world)
    candidate = world.runs[-1].candidate
    revoke(world, candidate)
    assert world.answer() == f"{candidate[:12]} was {WHY}"
    assert loop.story(world.ports, "line", world.runs[-1].id)[-1].kind == "answer-refused"
    assert world.answer("reject", "bob") == "", "nothing is in the way of a rejection"


def test_by_rule_nothing_begins_with_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = world.jobs._evaluated
    monkeypatch.setattr(world.jobs, "_evaluated", lambda job: revoke(world, job.spec["challenger"]) or evaluated(job))
    by_rule(world)
    assert (world.request().state, world.runs[-1].phase) == ("open", "awaiting-approval")


def test_it_does_not_come_in_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = put_candidate(world.blobs, a_reference(), "better")
    revoke(world, candidate)
    for comes in (loop.submit, loop.adopt):
        args = (world.ports, "line", candidate, "ann")
        with pytest.raises(Refused, match=f"{candidate[:12]} was {WHY}"):
            comes(*args, "again") if comes is loop.submit else comes(*args)
    monkeypatch.setattr(world.jobs, "_trained", lambda job: {"candidate": candidate, "rows": 5000})
    loop.retrain(world.ports, "line", "ann", "now")
    world.pump()
    assert (world.runs[-1].phase, WHY in world.runs[-1].because) == ("failed", True)


def test_who_revoked_it_and_where_it_is_served_is_seen(world: World) -> None:
    handed_in(world)
    world.half_day()
    first, run = world.plants["a"].serves, world.runs[-1]
    revoke(world, first)
    loop.revoke(world.ports, "line", first, "eve", "said again")
    assert [e.text for e in loop.story(world.ports, "line", first) if e.kind == "revoked"] == ["it leaks"]
    assert {s.revoked for ring in views.fleet(world.ports, "line").rings for s in ring.sites} == {WHY}
    assert views.run(world.ports, run.id).revoked == ""
    revoke(world, run.candidate)
    assert views.run(world.ports, run.id).revoked == WHY
    with pytest.raises(NotFound, match="no candidate"):
        revoke(world, "0" * 64)
