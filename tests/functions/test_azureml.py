"""What an Azure ML workspace says through Event Grid, and what the loop makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from functions.azureml import hear, read
from tests.triggers.samples import replace
from tests.triggers.world import LOOP, World, a_fleet
from triggers import events as on
from triggers import loop
from triggers.errors import Refused
from triggers.run import Phase

KIND = "Microsoft.MachineLearningServices."


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, fleet=a_fleet("a", "b", "c"))
    world.begin()
    yield world
    world.close()


def say(world: World, kind: str, subject: str = "", event_id: str = "e1", **data: Any) -> None:
    name = kind if "." in kind else KIND + kind
    hear(world.ports, read(name, subject, data), event_id)
    world.pump()


def name_of(run: Any, kind: str = "train") -> str:
    return f"{run.id}-{kind}".replace(".", "_2e")


@pytest.mark.parametrize("parts", [("runId", "runStatus"), ("RunId", "RunStatus"), ("RUNID", "runstatus")])
def test_the_end_of_a_job_is_heard_whatever_the_case(world: World, parts: tuple[str, str]) -> None:
    loop.retrain(world.ports, "line", "ann", "try")
    loop.flush(world.ports, world.runs[-1].id)
    effects = [r.key for r in world.ports.store.scan("line", "outbox/")]
    for key in effects:
        loop.perform(world.ports, key)
    run = world.runs[-1]
    assert run.phase is Phase.TRAINING
    say(world, "RunStatusChanged", **dict(zip(parts, (name_of(run), "Completed"), strict=True)))
    assert world.runs[-1].phase is not Phase.TRAINING


@pytest.mark.parametrize("run_id", ["sharp_engine_4x", "other_2e2026-01-01_2e1-train", "", "line_2e2026_2e1-sweep"])
def test_other_peoples_jobs_are_left_alone(world: World, run_id: str) -> None:
    say(world, "RunCompleted", runId=run_id)
    assert world.runs == []


def test_a_monitor_that_breaches_is_evidence_for_the_next_check_once(world: World) -> None:
    tags = {"AzureML_ModelMonitor_Threshold_Breached": "data drift of x: 0.4 > 0.2", "driftloop": "line"}
    for _ in range(2):
        say(world, "RunStatusChanged", "runs/m1", "m1", runId="m1", experimentName="monitors", RunTags=tags)
    decision = loop.check(world.ports, "line").decision
    [finding] = decision.findings
    assert (finding.kind, finding.scope) == ("monitor", "fleet")
    assert finding.reason == "the monitor of monitors has breached: data drift of x: 0.4 > 0.2"
    assert decision.reason.startswith("fleet: the monitor of monitors has breached")
    world.clock.advance(timedelta(days=1))
    assert loop.check(world.ports, "line").decision.findings == ()


def test_the_old_dataset_monitor_is_evidence_too(world: World) -> None:
    say(world, "DatasetDriftDetected", dataDriftName="line-inputs", driftCoefficient=0.6)
    [finding] = loop.check(world.ports, "line").decision.findings
    assert finding.reason == "the dataset monitor line-inputs found drift (0.6)"


def test_a_model_of_somebody_else_goes_to_the_gate_once(world: World) -> None:
    tags = {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z", "By": "ben"}
    for number in range(2):
        model = {"ModelName": "line", "modelVersion": 7, "MODELTAGS": tags}
        say(world, "ModelRegistered", "models/line:7", f"e{number}", **model)
    [run] = world.runs
    assert run.cause == "asked for by ben: azureml:line:7 was registered"
    train = next(iter(world.jobs.jobs.values()))
    assert train.spec["model"] == "azureml:line:7"
    assert (train.spec["trained_from"], train.spec["trained_to"]) == (tags["from"], tags["to"])


@pytest.mark.attack
def test_who_registered_a_model_is_its_author_whatever_its_tags_say(world: World) -> None:
    """Without `ports.jobs.author`, whoever leaves out the tag, or names another, approves a model of their own."""
    world.jobs.assets["author of azureml:line:7"] = "ann"
    say(world, "ModelRegistered", modelName="line", modelVersion="7", modelTags={"by": "ben", "author": "ben"})
    world.pump()
    assert world.request().authors == ("ben", "ann")
    assert world.answer(by="ann") == "ann is an author of what is to be approved: somebody else has to approve it"
    assert world.request().state == "open"


def test_a_model_that_comes_during_a_run_waits_for_its_end(world: World) -> None:
    first = loop.retrain(world.ports, "line", "ann", "now")
    for number in range(2):
        say(world, "ModelRegistered", "models/line:8", f"e{number}", modelName="line", modelVersion="8")
    loop.sweep(world.ports, "line")
    assert len(world.runs) == 1
    told = [entry for entry in loop.story(world.ports, "line") if entry.subject == "azureml:line:8"]
    assert [(entry.kind, entry.text) for entry in told] == [("model-waits", f"{first} has not ended")]
    loop.ask(world.ports, first, on.Cancelled, "ann", "enough")
    world.pump()
    loop.freeze(world.ports, "line", "ann", "inventory")
    loop.sweep(world.ports, "line")
    assert len(world.runs) == 1
    loop.unfreeze(world.ports, "line", "ann")
    for _ in range(2):
        loop.sweep(world.ports, "line")
    assert [run.cause for run in world.runs[1:]] == ["asked for by the registry: azureml:line:8 was registered"]


def test_our_own_models_and_those_of_no_loop_start_nothing(world: World) -> None:
    ours = loop.head(world.ports, "line").champion
    say(world, "ModelRegistered", modelName="line", modelVersion=ours, modelTags={"driftloop": ours})
    say(world, "ModelRegistered", modelName="other", modelVersion="1")
    assert world.runs == []
    say(world, "ModelRegistered", modelName="line", modelVersion="1", modelTags={"driftloop": "f" * 64})
    assert len(world.runs) == 1, "a tag that names no candidate of ours proves nothing"


def data(version: str) -> str:
    workspace = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
    return f"{workspace}/data/inspections/versions/{version}"


@pytest.mark.parametrize("heard", [True, False])
def test_a_loop_that_waits_for_annotation_says_so_and_goes_on_when_the_labels_come(tmp_path: Path, heard: bool) -> None:
    training = replace(LOOP.training, labels="inspections")
    waiting = replace(LOOP, training=training, retrain=replace(LOOP.retrain, confirm=1))
    world = World(tmp_path, a_loop=waiting, fleet=a_fleet("a", "b", "c"))
    world.begin()
    tags = {"azureml_modelmonitor_threshold_breached": "x"}
    say(world, "RunStatusChanged", experimentName="line", runId="m1", runTags=tags)
    decision = loop.check(world.ports, "line").decision
    assert decision.reason.endswith("held: waiting for a version of the labelled data asset inspections")
    for _ in range(2):
        if heard:
            say(world, "Microsoft.Resources.ResourceWriteSuccess", data("3"), resourceUri=data("3"))
        else:
            world.jobs.assets["inspections"] = "3"
            loop.sweep(world.ports, "line")
            world.pump()
    [run] = world.runs
    assert "version 3 of inspections has come" in run.cause
    train = next(iter(world.jobs.jobs.values()))
    assert train.spec["data"] == "azureml:inspections:3"
    world.close()


@pytest.mark.parametrize("given", [None, [], "text"])
def test_an_event_without_data_is_refused(given: Any) -> None:
    with pytest.raises(Refused, match="brings no data"):
        read(KIND + "RunCompleted", "", given)
