"""Pushing through Azure ML, step by step: what is asked of the workspace, and what a deployment must show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adapters.local.blobs import FileBlobs
from edge import candidate, signing
from tests.adapters.azureml import WORKSPACE, AzureMl
from tests.adapters.fields import fleet, push
from tests.adapters.test_executors import Sites, Time
from tests.edge.conftest import SCHEMA, a_model, a_reference
from tests.triggers.world import LOOP, Configs, put_candidate
from triggers import config as cfg
from triggers.errors import Refused, Retry

pytestmark = pytest.mark.wire
ENDPOINT = f"{WORKSPACE}/onlineEndpoints/line-a"


@dataclass
class Pushed(Sites):
    @property
    def server(self) -> AzureMl:
        found: AzureMl = self.field.more
        return found

    def once(self, proven: bool = False, **more: Any) -> str:
        underway = self.field.executor.apply(self.change(self.new, **more), proven)
        return underway.step if underway else "done"


@pytest.fixture
def pushed(tmp_path: Path) -> Iterator[Pushed]:
    blobs, clock = FileBlobs(tmp_path / "blobs"), Time()
    with push(tmp_path, blobs, Configs(LOOP, fleet("azureml")), clock) as field:
        found = Pushed(field, clock, "azureml")
        for name in ("old", "new"):
            digest = put_candidate(blobs, b"reference", name)
            blobs.put(f"candidates/{digest}/manifest.sig", b"signature")
            setattr(found, name, digest)
        found.carry_on(found.change(found.old, run=0))
        yield found


def test_requests_move_over_in_steps_each_when_the_candidate_has_shown_itself(pushed: Pushed) -> None:
    assert pushed.once() == "dark"
    assert pushed.field.shares("a") == {pushed.old: 100}
    for share in (10, 50):
        for proven in (True, False):  # the first moves on, the second waits
            assert pushed.once(proven) == f"{share}%"
            assert pushed.field.shares("a") == {pushed.old: 100 - share, pushed.new: share}
    assert pushed.once(proven=True) == "done"
    assert pushed.field.shares("a") == {pushed.new: 100}
    pushed.field.executor.finish(pushed.change(pushed.new))
    assert list(pushed.server.pretended.values()) == [pushed.new]


def test_what_is_done_with_is_deleted_when_no_other_operation_goes_on(pushed: Pushed) -> None:
    change = pushed.change(pushed.new)
    pushed.carry_on(change)
    pushed.server.fail("DELETE", r"/deployments/", 409)
    with pytest.raises(Retry):
        pushed.field.executor.finish(change)
    pushed.field.executor.finish(change)
    assert list(pushed.server.pretended.values()) == [pushed.new]


def test_what_takes_long_is_waited_for(pushed: Pushed) -> None:
    pushed.server.slow = 3
    assert [pushed.once() for _ in range(5)] == ["dark"] * 4 + ["10%"]


def test_whatever_fails_when_it_comes_to_the_same(pushed: Pushed) -> None:
    calls = [("GET", r"/connectedClusters/"), ("GET", r"/line-a$"), ("PUT", r"/models/"), ("PUT", r"/deployments/"),
             ("POST", r"/listKeys$"), ("PUT", r"/line-a$")]  # fmt: skip
    for method, path in calls:
        for fault in ({"status": 503, "times": 4}, {"status": 0, "after": True}):
            back = pushed.change(pushed.old, back=True)
            pushed.carry_on(back)
            pushed.field.executor.finish(back)
            pushed.server.resources.pop(f"{WORKSPACE}/models/line/versions/{pushed.new}", None)
            pushed.server.fail(method, path, **fault)  # type: ignore[arg-type]
            pushed.carry_on(pushed.change(pushed.new))
            assert pushed.field.shares("a") == {pushed.new: 100}, (method, path, fault)
            assert not [f for f in pushed.server.faults if f.times > 0], f"{method} {path} was not asked for"
            pushed.server.faults.clear()


def wrong(how: str, old: str, new: str, asked: str, rows: list[Any]) -> dict[str, Any]:
    """What a deployment says that is not well."""
    scores: list[float | None] = [0.5] * len(rows)
    if how == "another":
        return {"candidate": old, "scores": scores}
    if how == "nothing":
        return {"candidate": asked, "scores": [None] * len(rows) if asked == new else scores}
    return {"error": "no model"} if how == "error" else {"candidate": asked, "scores": scores[:1]}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("another", "answers as .* not as the candidate"),
        ("nothing", "no score for 2 of 2"),
        ("error", "gives no scores"),
        ("less", "gives no scores"),
    ],
)
def test_a_deployment_that_does_not_answer_as_it_should_gets_no_requests(pushed: Pushed, how: str, words: str) -> None:
    pushed.once()
    pushed.server.serving = lambda c, rows: wrong(how, pushed.old, pushed.new, c, rows)
    with pytest.raises(Refused, match=words):
        pushed.once()
    assert pushed.field.shares("a") == {pushed.old: 100}


def test_an_endpoint_that_cannot_be_reached_from_here_is_tried_at_the_site_alone(pushed: Pushed) -> None:
    pushed.once()
    pushed.server.resources[ENDPOINT]["properties"]["scoringUri"] = "https://127.0.0.1:1/score"
    assert pushed.once() == "10%"


def test_what_the_service_refuses_is_said_in_its_words(pushed: Pushed) -> None:
    pushed.server.room = 1
    with pytest.raises(Refused, match="QuotaExceeded: an endpoint has at most 1 deployments"):
        pushed.once()
    pushed.server.fail("PUT", r"/deployments/", 409)
    with pytest.raises(Retry):
        pushed.once()


def test_a_site_without_compute_or_room_is_refused(pushed: Pushed, tmp_path: Path) -> None:
    configs = pushed.field.executor._configs  # type: ignore[attr-defined]
    whole = configs.sites
    small = (cfg.InstanceType(name="small", cpu="1", memory="1Gi"),)
    sites = tuple(cfg.msgspec.structs.replace(s, instance_types=small, compute="") for s in whole.sites)
    configs.sites = cfg.Fleet(sites=sites)
    with pytest.raises(Refused, match="names no compute"):
        pushed.once(site="b")
    configs.one = cfg.msgspec.structs.replace(LOOP, serving=cfg.Serving(needs=cfg.Needs(cpu="2")))
    with pytest.raises(Refused, match="no instance type of the cluster has 2 CPU"):
        pushed.once()


def test_the_program_itself_behind_a_deployment_and_what_the_sdk_reads_of_it(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path / "blobs")
    private, public = signing.new()
    digest = publish(blobs, tmp_path / "work", private)
    features = (cfg.Feature(name="distance"), cfg.Feature(name="carrier", kind="category"))
    loop = cfg.Loop(loop="line", schema=cfg.Schema(site="s", features=features))
    with push(tmp_path, blobs, Configs(loop, fleet("azureml")), Time(), public.encode()) as field:
        server: AzureMl = field.more
        server.serving = None
        sites = Sites(field, Time(), "azureml")
        change = sites.change(digest)
        assert sites.carry_on(change) == ["endpoint", "dark"]
        [path] = server.deployments
        assert path == f"{ENDPOINT}/deployments/c-{digest[:12]}"
        answer = server.score("line-a", {"rows": [{"id": "1", "distance": 1.0, "carrier": "AA"}]})
        assert (answer["candidate"], answer["scores"]) == (digest, [pytest.approx(0.7310586)])
        client = field.executor._workspace.client  # type: ignore[attr-defined]
        read = client.online_deployments.get(f"c-{digest[:12]}", "line-a")
        assert read.model.endswith(f"/models/line/versions/{digest}")
        assert read.environment_variables["DRIFTLOOP_CHANGE"] == change.id
        assert read.code_configuration.scoring_script == "edge/azureml.py"
        assert read.readiness_probe.failure_threshold == 30
        endpoint = client.online_endpoints.get("line-a")
        assert endpoint.traffic == {f"c-{digest[:12]}": 100}
        assert endpoint.compute.endswith("/computes/k8s-a")
        forged = publish(blobs, tmp_path / "forged", signing.new()[0], weight=3.0)
        with pytest.raises(Refused, match="is Failed"):
            sites.carry_on(sites.change(forged, run=2))
        assert server.score("line-a", {"probe": [{}]})["candidate"] == digest


def publish(blobs: FileBlobs, work: Path, private: bytes, weight: float = 1.0) -> str:
    work.mkdir()
    (work / "model.onnx").write_bytes(a_model(weight))
    (work / "reference.bin").write_bytes(a_reference())
    (work / "smoke.json").write_text(json.dumps({"rows": [{"distance": 0.0, "carrier": "AA"}], "scores": [0.5]}))
    manifest = candidate.build(work, loop="line", schema=SCHEMA, lineage=candidate.Lineage(), created="")
    return candidate.publish(work, manifest, candidate.sign(manifest, private), blobs.put)
