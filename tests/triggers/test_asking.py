"""How people are asked: how many, when, again, and what begins without them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tests.triggers.world import START, World, a_reference, put_candidate
from triggers import config as cfg
from triggers import events as on
from triggers import loop
from triggers.errors import Refused
from triggers.run import Phase

replace = msgspec.structs.replace
HOUR = timedelta(hours=1)


def handed_in(world: World) -> str:
    """A candidate of somebody else's, up to the person's answer; its run."""
    world.begin()
    candidate = put_candidate(world.blobs, a_reference(), "better")
    run = loop.submit(world.ports, "line", candidate, "eve", "made by hand")
    world.pump()
    return run


def with_rules(world: World, **rules: Any) -> None:
    approval_ = replace(world.configs.one.approval, **rules)
    world.configs.one = replace(world.configs.one, approval=approval_)


def cards(world: World, run: str) -> list[str]:
    return [card["title"] for key, card in world.board.cards.items() if key.startswith(f"approval/{run}")]


def test_two_people_approve_before_anything_begins(world: World) -> None:
    with_rules(world, needed=2)
    run = handed_in(world)
    assert world.answer() == ""
    assert (world.request().state, world.runs[-1].phase) == ("open", "awaiting-approval")
    assert world.answer() == "", "a second click is the same answer"
    assert world.answer("approve", "eve") == "eve is not on the list of approvers"
    assert world.answer("approve", "bob") == ""
    assert (world.runs[-1].phase, world.runs[-1].approved_by) == ("rolling-out", "ann and bob")
    assert [e.kind for e in loop.story(world.ports, "line", run)].count("answered") == 2


@pytest.mark.attack
def test_who_wrote_the_training_code_or_the_model_does_not_approve_it(world: World) -> None:
    training = replace(world.configs.one.training, authors=("ann",))
    world.configs.one = replace(world.configs.one, training=training)
    world.begin()
    loop.registered(world.ports, "line", "azureml:line:7", "cem", authors=("bob",))
    world.pump()
    assert world.request().authors == ("ann", "bob")
    for author in ("ann", "bob"):
        assert (
            world.answer(by=author)
            == f"{author} is an author of what is to be approved: somebody else has to approve it"
        )
    with_rules(world, self_approval=True)
    assert world.answer() == "", "without its defence the attack succeeds"


def test_what_is_sent_back_ends_the_run_with_the_reason(world: World) -> None:
    handed_in(world)
    assert world.answer("changes", "bob", reason="without the night shift") == ""
    assert world.runs[-1].phase == "rejected"
    assert world.runs[-1].because == "sent back for changes by bob: without the night shift"
    assert all(not p.applied for p in world.plants.all.values())


def test_reminders_and_escalation_come_when_nobody_answers(world: World) -> None:
    with_rules(world, remind="1d", expires="3d", escalate=cfg.Escalate(after="2d", approvers=("zoe",)))
    run = handed_in(world)
    assert world.answer("approve", "zoe") == "zoe is not on the list of approvers"
    world.days(2.5)
    told = cards(world, run)
    assert told[0].endswith("a new model waits for your answer")
    assert sum("still waits" in t for t in told) == 2
    assert sum("it is your turn" in t for t in told) == 1
    assert world.answer("approve", "zoe") == ""
    before = len(cards(world, run))
    world.days(2)
    assert len(cards(world, run)) == before, "who has answered is left alone"


def test_in_quiet_hours_nobody_is_told_and_no_time_passes(world: World) -> None:
    with_rules(world, expires="1d", quiet=cfg.Quiet(start="18:00", end="06:00"))
    world.clock.advance(19 * HOUR)
    run = handed_in(world)
    assert cards(world, run) == []
    assert world.request().expires == START + timedelta(days=3, hours=6), "of each day twelve hours count"
    world.clock.advance(12 * HOUR)
    loop.sweep(world.ports, "line")
    world.pump()
    assert len(cards(world, run)) == 1
    world.clock.set(world.request().expires - timedelta(seconds=1))
    assert world.answer() == ""


def by_rule(world: World, gain: float = 0.05) -> str:
    """A candidate within the bounds, up to its first ring."""
    with_rules(world, automatic=cfg.Automatic(minimum_gain=0.01))
    world.jobs.gain = gain
    return handed_in(world)


def test_by_rule_the_first_ring_begins_and_a_person_answers_for_the_rest(world: World) -> None:
    run = by_rule(world)
    assert (world.request().state, world.runs[-1].phase) == ("automatic", "rolling-out")
    assert cards(world, run) == []
    assert world.answer() == "already approved by rule for the first ring"
    told = next(e for e in loop.story(world.ports, "line", run) if e.kind == "answered")
    assert (told.actor, told.data["automatic"], told.text.partition(" for ")[0]) == (
        "driftloop",
        True,
        "automatic, by the bounds in loop.yaml,",
    )
    assert world.until("awaiting-approval").because.endswith("the rest waits for a person")
    assert [p.applied != [] for p in world.plants.all.values()] == [True, False, False]
    assert len(cards(world, run)) == 1
    assert world.answer() == ""
    assert world.until("verified").approved_by == "ann"


@pytest.mark.parametrize("now", [None, cfg.Automatic(minimum_gain=0.2), cfg.Automatic(minimum_gain=0.0)])
def test_by_rule_nothing_begins_that_the_rule_of_now_or_of_then_does_not_let_through(
    world: World, now: cfg.Automatic | None
) -> None:
    then = 0.01 if now is None or now.minimum_gain else 0.2
    with_rules(world, automatic=cfg.Automatic(minimum_gain=then))
    candidate = put_candidate(world.blobs, a_reference(), "better")
    run = loop.submit(world.ports, "line", candidate, "eve", "made by hand")
    with_rules(world, automatic=now)
    world.pump()
    assert (world.request().state, world.runs[-1].phase) == ("open", "awaiting-approval")
    assert len(cards(world, run)) == 1


@pytest.mark.parametrize("how", ["reject", "cancel", "expire", "ring-goes-bad"])
def test_what_began_by_rule_goes_back_when_a_person_does_not_follow(world: World, how: str) -> None:
    run = by_rule(world)
    world.until("awaiting-approval")
    candidate = world.runs[-1].candidate
    if how == "reject":
        assert world.answer("reject", "bob") == ""
    elif how == "cancel":
        loop.ask(world.ports, run, on.Cancelled, "bob", "no")
    elif how == "expire":
        world.days(3)
    else:
        world.plants["a"].slow.add(candidate)
        world.days(2)
    found = world.until("rolled-back")
    assert (found.phase, world.plants["a"].serves) == ("rolled-back", found.champion)
    assert all(not world.plants[name].applied for name in ("b", "c"))


def test_beyond_the_bounds_a_person_is_asked_from_the_start(world: World) -> None:
    run = by_rule(world, gain=0.025)
    assert (world.request().state, world.runs[-1].phase) == ("open", "awaiting-approval")
    assert len(cards(world, run)) == 1


def begun_by_rule(world: World) -> None:
    """The first wave is one site."""
    with_rules(world, automatic=cfg.Automatic(minimum_gain=0.01), expires="20d")
    loop.submit(world.ports, "line", put_candidate(world.blobs, a_reference(), "better"), "eve", "by hand")
    world.pump()


def test_what_time_has_paused_is_paused_no_longer_when_people_are_asked_about_the_rest(world: World) -> None:
    begun_by_rule(world)
    world.plants["a"].online = False
    while not world.runs[-1].paused:
        world.days(0.5)
    world.plants["a"].online = True
    world.until("awaiting-approval")
    assert world.runs[-1].paused is None
    world.days(4)  # longer than who was asked to go on with it has
    assert (world.runs[-1].phase, world.request().state) == (Phase.AWAITING_APPROVAL, "open")
    assert world.answer() == ""
    world.until("verified")


def test_the_way_back_that_is_asked_for_as_the_first_wave_is_verified_is_not_lost(world: World) -> None:
    """It comes when the run waits for people already."""
    first = loop.head(world.ports, "line").champion
    begun_by_rule(world)
    world.lags.add("runs")
    while world.state("a").status != "verified":
        world.days(0.5)
    run = world.runs[-1].id
    for what in (on.Paused, on.Resumed, on.RollBackAsked):
        loop.ask(world.ports, run, what, "ann", "complaints")
        world.clock.advance(timedelta(minutes=1))
    world.lags.clear()
    world.pump()
    assert world.quarantine == []
    assert world.request().state == "withdrawn"
    world.until("rolled-back")
    assert world.plants["a"].serves == first


def test_sites_that_were_reached_by_rule_are_taken_back_while_people_are_asked(world: World) -> None:
    begun_by_rule(world)
    run = world.until("awaiting-approval")
    for what in (on.Paused, on.Resumed):
        with pytest.raises(Refused, match="nothing to"):
            loop.ask(world.ports, run.id, what, "ann", "complaints")
    loop.ask(world.ports, run.id, on.RollBackAsked, "ann", "complaints")
    world.pump()
    assert (world.runs[-1].phase, world.request().state) == (Phase.ROLLING_BACK, "withdrawn")


def test_an_approval_that_comes_after_the_way_back_was_asked_for_changes_nothing(world: World) -> None:
    first = loop.head(world.ports, "line").champion
    begun_by_rule(world)
    run = world.until("awaiting-approval")
    world.lags.add("runs")
    loop.ask(world.ports, run.id, on.RollBackAsked, "ann", "complaints")
    assert world.answer() == ""
    world.lags.clear()
    world.pump()
    assert world.quarantine == []
    assert world.until("rolled-back").because.startswith("taken back by ann: complaints")
    assert {plant.serves for plant in world.plants.all.values()} == {first}
