"""A newer run takes the place of one that nobody has answered: one effective answer, whoever comes first."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from tests.triggers.world import World, a_reference, put_candidate
from triggers import asking, loop, records, sites
from triggers import config as cfg
from triggers import events as on
from triggers.approval import Answer
from triggers.errors import Refused

replace = msgspec.structs.replace


def asked(world: World) -> str:
    """A run that waits for a person."""
    world.begin()
    run = loop.submit(world.ports, "line", put_candidate(world.blobs, a_reference(), "better"), "eve", "by hand")
    world.pump()
    assert world.runs[-1].phase == "awaiting-approval"
    return run


def again(world: World) -> str:
    return loop.retrain(world.ports, "line", "cem", "with the new sensor", supersede=True)


@pytest.mark.attack
def test_an_old_question_cannot_be_approved_after_a_newer_run(world: World) -> None:
    old = asked(world)
    shown = world.request()
    with pytest.raises(Refused, match=f"{old} has not ended"):
        loop.retrain(world.ports, "line", "cem", "with the new sensor")
    new = again(world)
    assert loop.head(world.ports, "line").active == {"fleet": new}
    given = {"candidate": shown.candidate, "evidence": shown.evidence, "plan": shown.plan, "by": "ann"}
    assert asking.answer(world.ports, old, Answer(answer="approve", reason="", **given)) == "already withdrawn"
    late = {"id": "late", "run": old, "at": world.clock.now(), "answer": "approve", "reason": ""}
    waves = sites.load_plan(world.ports, shown.plan).summary
    loop.tell(world.ports, on.Answered(**late, **given, waves=waves))
    world.pump()
    assert [run.phase for run in world.runs] == ["superseded", "awaiting-approval"]
    assert world.runs[0].because == f"superseded by {new}"
    assert all(not plant.applied for plant in world.plants.all.values())
    assert world.answer() == ""
    assert world.runs[-1].phase == "rolling-out"


def test_an_answer_that_came_first_stands(world: World) -> None:
    old, shown = asked(world), world.request()
    given = {"candidate": shown.candidate, "evidence": shown.evidence, "plan": shown.plan, "by": "ann"}
    assert asking.answer(world.ports, old, Answer(answer="approve", reason="", **given)) == ""
    with pytest.raises(Refused, match=f"{old} has been answered"):
        again(world)
    world.pump()
    with pytest.raises(Refused, match=f"{old} is rolling-out and has reached sites"):
        again(world)
    assert [run.phase for run in world.runs] == ["rolling-out"]


def test_a_job_that_is_at_work_is_cancelled(world: World) -> None:
    world.begin()
    world.jobs.holds = True
    old = loop.retrain(world.ports, "line", "ann", "now")
    world.pump()
    new = again(world)
    world.pump()
    assert [(run.id, run.phase) for run in world.runs] == [(old, "superseded"), (new, "training")]
    assert world.jobs.cancelled == [f"{old}-train"]


def test_a_frozen_loop_supersedes_nothing(world: World) -> None:
    asked(world)
    loop.freeze(world.ports, "line", "ann", "inventory")
    with pytest.raises(Refused, match="frozen by ann"):
        again(world)
    assert world.request().state == "open"


def register(world: World, version: int) -> str:
    return loop.registered(world.ports, "line", f"azureml:line:{version}", "ben")


def test_the_newest_version_of_a_registered_model_is_the_one_that_is_asked_about(world: World) -> None:
    world.begin()
    register(world, 9)
    world.pump()
    register(world, 8)
    world.pump()
    assert [run.phase for run in world.runs] == ["awaiting-approval"], "an older one waits"
    register(world, 11)
    register(world, 10)
    world.pump()
    assert [run.phase for run in world.runs] == ["superseded"]
    assert world.runs[0].because == "superseded by azureml:line:11"
    for _ in range(3):
        loop.sweep(world.ports, "line")
        world.pump()
    assert [re.findall("line:[0-9]+", run.cause) for run in world.runs] == [["line:9"], ["line:11"]]
    told = [(e.subject, e.text) for e in loop.story(world.ports, "line") if e.kind == "model-refused"]
    assert told == [(f"azureml:line:{n}", "superseded by azureml:line:11") for n in (10, 8)]


def test_a_registered_model_ends_no_run_of_another_kind_and_none_that_was_let_go(world: World) -> None:
    old = asked(world)
    register(world, 7)
    world.pump()
    assert world.runs[-1].phase == "awaiting-approval", "whoever may register models withdraws no question about drift"
    loop.ask(world.ports, old, on.Cancelled, "ann", "enough")
    world.pump()
    loop.sweep(world.ports, "line")
    world.pump()
    assert world.answer() == ""
    register(world, 8)
    world.pump()
    assert [run.phase for run in world.runs] == ["cancelled", "rolling-out"]


def test_what_was_reached_by_rule_goes_back_before_the_newer_model_enters(world: World) -> None:
    rules = replace(world.configs.one.approval, automatic=cfg.Automatic(minimum_gain=0.01))
    world.configs.one = replace(world.configs.one, approval=rules)
    world.begin()
    register(world, 7)
    world.pump()
    run = world.until("awaiting-approval")
    assert [bool(plant.applied) for plant in world.plants.all.values()] == [True, False, False]
    with pytest.raises(Refused, match=f"{run.id} is awaiting-approval and has reached sites"):
        again(world)
    register(world, 8)
    world.pump()
    assert world.runs[-1].phase == "rolling-back"
    world.days(1)
    back, newer = world.runs
    assert back.because == "superseded by azureml:line:8; 1 sites taken back"
    assert (back.phase, newer.model) == ("rolled-back", "azureml:line:8")
    assert back.ended is not None
    assert newer.started >= back.ended


def test_a_newer_model_that_came_while_the_first_ring_rolled_out_is_heard_when_people_are_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = replace(world.configs.one.approval, automatic=cfg.Automatic(minimum_gain=0.01))
    world.configs.one = replace(world.configs.one, approval=rules)
    world.begin()

    def answered(*event: Any) -> None:
        """Model 8 comes when the rule has answered for model 7, and its run does not know yet."""
        monkeypatch.undo()
        records.hand_on(*event)
        register(world, 8)

    monkeypatch.setattr(asking, "hand_on", answered)
    register(world, 7)
    world.pump()
    assert world.runs[-1].phase == "rolling-out"
    assert [e.kind for e in loop.story(world.ports, "line")].count("event-superseded") == 1, (
        "too late for the first ring"
    )
    for _ in range(12):
        world.half_day()
        loop.sweep(world.ports, "line")
        world.pump()
    old, newer = world.runs
    assert (old.because, newer.model) == ("superseded by azureml:line:8; 1 sites taken back", "azureml:line:8")
    assert world.quarantine == []
