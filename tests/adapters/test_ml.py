"""Azure ML from end to end: real training and evaluation as its jobs, at a site too, and faults of every call."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapters.azure.ml import AzureMlJobs, quoted
from adapters.azure.workspace import Workspace
from adapters.local.blobs import FileBlobs
from adapters.local.clock import SystemClock
from adapters.local.configs import FileConfigs
from adapters.signatures import Ed25519
from drift.envelope import iso
from edge import candidate, keys, signing
from tests.adapters.azureml import IMAGE, WORKSPACE_ID, AzureMl
from tests.infra.calls import uncalled
from tests.jobs.conftest import DAY, START, Home, by_hand, pumps
from triggers.errors import Refused, Retry
from triggers.ports import Job, JobStatus

pytestmark = pytest.mark.wire

ROOT = Path(__file__).parents[2]
FLEET = """
sites:
  - {{name: north}}
  - {{name: south, data: stays, dataset: {table}, compute: south-k8s, key_file: {key},
     keys: [{{id: s1, public: "{public}"}}],
     instance_types: [{{name: large, cpu: "4", memory: 8Gi}}, {{name: small, cpu: "1", memory: 2Gi}}]}}
"""
QUICK = {"retry_backoff_factor": 0.01, "read_timeout": 1}
TIMES = {"from": iso(START), "to": iso(START + 12 * DAY)}
LATER = {"from": iso(START + 12 * DAY), "to": iso(START + 18 * DAY)}


class Plant:
    """Pumps at two sites, one of which keeps its rows; a workspace, and the app's jobs in it."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.home.loop()
        self.rows = pumps(1500)
        self.blobs = FileBlobs(self.home.blobs)
        self.private, self.public = signing.new()
        south, public = keys.new()
        (folder / "south.pem").write_bytes(south)
        self.config = FileBlobs(folder / "config")
        self.config.put("pumps/loop.yaml", (folder / "loop.yaml").read_bytes())
        told = {"table": self.home.csv(self.rows), "key": folder / "south.pem", "public": public}
        self.config.put("pumps/fleet.yaml", FLEET.format(**told).encode())
        self.server = AzureMl(folder / "service", self.blobs)
        identity: Any = self.server
        self.workspace = Workspace(lambda: WORKSPACE_ID, identity, **self.server.options(), **QUICK)
        self.jobs = AzureMlJobs(
            self.workspace,
            self.blobs,
            self.config,
            FileConfigs(folder),
            Ed25519(),
            SystemClock(),
            registry_key=lambda: self.private,
            storage=lambda: "https://account.blob.core.windows.net/driftloop",
            datastore=lambda: "driftloop",
            compute=lambda: "cluster",
        )

    def does(self, kind: Any, name: str, site: str = "", **spec: Any) -> JobStatus:
        self.submit(kind, name, site, **spec)
        assert self.server.wait(120)
        return self.jobs.status(name)

    def submit(self, kind: Any, name: str, site: str = "", **spec: Any) -> None:
        about = {"sites": None, **TIMES, **spec}
        place = "edge" if site else "cloud"
        self.jobs.submit(Job(name, kind, "pumps", "pumps.2024-01-13.1", place, about, 120.0, site))

    def files(self, digest: str) -> Any:
        """The candidate's files, checked as a site checks them."""
        folder = f"candidates/{digest}"
        manifest, signature = (self.blobs.get(f"{folder}/{n}") for n in ("manifest.json", "manifest.sig"))
        assert candidate.digest(manifest) == digest
        return candidate.verify(manifest, signature, self.public, lambda s: self.blobs.get(f"layers/{s}"))

    def asset(self, kind: str, name: str, version: str) -> Any:
        return next(r for p, r in self.server.resources.items() if p.endswith(f"/{kind}/{name}/versions/{version}"))

    def body(self, name: str) -> Any:
        return self.server.runs[quoted(name)].body


@pytest.fixture(scope="module", autouse=True)
def calls_that_the_role_is_made_for(request: pytest.FixtureRequest) -> Iterator[None]:
    before = len(AzureMl.called)
    yield
    assert uncalled(request, "driftloop trainer", AzureMl.called[before:]) == set(), "infra/calls.json"


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    plant = Plant(tmp_path)
    yield plant
    plant.server.close()


def test_a_model_is_trained_signed_and_registered_with_its_lineage_then_compared(plant: Plant) -> None:
    north = plant.rows.take(plant.rows.site == "north")
    plant.home.told(north)
    status = plant.does("train", "pumps.2024-01-13.1-train", parent="a" * 64, sites=["north"])
    assert status.state == "succeeded", status
    assert status.log == "https://ml.azure.com/runs/pumps_2e2024-01-13_2e1-train"
    digest = status.result["candidate"]
    assert set(plant.files(digest)) == {"model.onnx", "reference.bin"}
    manifest = plant.home.manifest(digest)
    assert manifest.lineage.run == "pumps.2024-01-13.1"
    assert manifest.lineage.environment.endswith(f", image {IMAGE}")

    body = plant.body("pumps.2024-01-13.1-train")
    assert body["computeId"].endswith("/computes/cluster")
    assert body["limits"]["timeout"] == "PT2M"
    model = plant.asset("models", "pumps", digest)["properties"]
    assert model["modelUri"].endswith(f"/models/pumps/{digest}/")
    tags = model["tags"]
    assert tags | {"code": "", "data": "", "environment": ""} == {
        "driftloop": digest,
        "run": "pumps.2024-01-13.1",
        "parent": "a" * 64,
        "from": TIMES["from"],
        "to": TIMES["to"],
        "rows": str(status.result["rows"]),
        "reference": manifest.files["reference.bin"].sha256,
        "code": "",
        "data": "",
        "environment": "",
        "image": IMAGE,
    }
    assert len(tags["code"]) == 64
    _, name, version = tags["data"].split(":")
    window = plant.asset("data", name, version)["properties"]
    assert (name, window["tags"]["from"], window["tags"]["sites"]) == ("pumps-window", TIMES["from"], "1")
    assert plant.jobs.newest(name) == version
    assert plant.jobs.newest("other") == ""
    assert plant.jobs.author(f"azureml:pumps:{digest}") == "driftloop", "as ARM says, whatever its tags do"
    assert plant.jobs.author("azureml:pumps:7") == ""
    signature = plant.blobs.get(f"candidates/{digest}/manifest.sig").decode()
    assert model["properties"]["driftloop.signature"] == signature, "which plant.files has verified"
    whole = {n.rsplit("/", 1)[1] for n in plant.blobs.names(f"models/pumps/{digest}/")}
    assert whole == {"model.onnx", "reference.bin", "manifest.json", "manifest.sig"}

    other = plant.does("train", "pumps.2024-01-13.2-train", parent=digest, sites=["north"], to=iso(START + 9 * DAY))
    found = plant.does(
        "evaluate",
        "pumps.2024-01-13.2-evaluate",
        champion=digest,
        challenger=other.result["candidate"],
        **LATER,
        sites=["north"],
        confidence=0.9,
        metric="auc",
    )
    assert found.state == "succeeded", found
    assert found.result["rows"] > 50
    assert found.result["gain_low"] <= found.result["gain"] <= found.result["gain_high"]


def test_rows_that_come_after_a_job_was_asked_for_are_not_in_its_window(plant: Plant) -> None:
    plant.home.told(plant.rows)
    plant.submit("train", "a", sites=["north"])
    spec = msgspec.json.decode(plant.blobs.get("jobs/a/spec.json"))
    before = plant.blobs.get(f"windows/pumps/{spec['asset'].split(':')[2]}/bundles.txt")
    plant.home.told(pumps(200, seed=9), hours=5)
    plant.submit("train", "a", sites=["north"])
    assert msgspec.json.decode(plant.blobs.get("jobs/a/spec.json")) == spec
    plant.submit("train", "b", sites=["north"])
    assert msgspec.json.decode(plant.blobs.get("jobs/b/spec.json"))["asset"] != spec["asset"]
    assert before
    assert b"south" not in before


def test_where_data_stays_the_candidate_and_signed_evidence_come_out_and_no_row(plant: Plant) -> None:
    south = plant.jobs._configs.fleet("pumps").sites[1]
    told = {"data": south.dataset, "sites": ["south"], "site_key": south.key_file, "site_key_id": "s1"}
    trained = plant.does("train", "t", "south", **told)
    assert trained.state == "succeeded", trained
    body = plant.body("t")
    assert body["computeId"].endswith("/computes/south-k8s")
    assert body["resources"]["instanceType"] == "small"
    assert set(body["inputs"]) == {"spec"}
    assert trained.result["sites"] == {"south": trained.result["rows"]}
    digest = trained.result["candidate"]
    old = plant.home.candidate(0.05)
    data = plant.blobs.get(f"candidates/{old}/manifest.json")
    plant.blobs.put(f"candidates/{old}/manifest.sig", candidate.sign(data, plant.private).encode())
    more = {"champion": old, "challenger": digest, "confidence": 0.9, "metric": "auc", **told, **LATER}
    found = plant.does("evaluate", "e", "south", **more)
    assert found.state == "succeeded", found
    assert set(plant.body("e")["inputs"]) == {"spec", "candidates", "layers"}
    ids = [i.encode() for i in plant.rows.ids[:50]]
    for name in plant.blobs.names():
        data = plant.blobs.get(name)
        assert not any(b'"' + i + b'"' in data for i in ids), name


def test_evidence_that_its_site_did_not_sign_is_no_evidence(plant: Plant) -> None:
    south = plant.jobs._configs.fleet("pumps").sites[1]
    told = {"data": south.dataset, "sites": ["south"], "site_key": south.key_file, "site_key_id": "s1"}
    plant.submit("train", "t", "south", **told)
    assert plant.server.wait(60)
    fleet, result = plant.config.get("pumps/fleet.yaml"), plant.blobs.get("jobs/t/made/result.json")

    def why() -> str:
        status = plant.jobs.status("t")
        assert (status.state, status.log) == ("failed", "https://ml.azure.com/runs/t")
        plant.blobs.delete("jobs/t/ended.json")
        return status.reason

    plant.config.put("pumps/fleet.yaml", fleet.replace(b"id: s1", b"id: s2"))
    assert why() == "the evidence of t is signed with a key that south has not"
    plant.config.put("pumps/fleet.yaml", fleet.replace(b"id: s1,", b"id: s1, not_after: 2024-01-01T00:00:00Z,"))
    assert why() == "the evidence of t is signed with key 's1', which is not valid now"
    plant.config.put("pumps/fleet.yaml", fleet)
    plant.blobs.put("jobs/t/made/result.json", result + b" ")
    assert why() == "the evidence of t is not what key 's1' of south signed"
    plant.blobs.put("jobs/t/made/result.json", result)
    plant.blobs.delete("jobs/t/made/result.sig")
    assert why() == "the evidence of t is not signed by south"
    assert list(plant.blobs.names("candidates/")) == []


def test_bytes_that_are_not_what_the_manifest_names_become_no_candidate(plant: Plant) -> None:
    plant.home.told(plant.rows)
    plant.submit("train", "t", sites=["north"])
    assert plant.server.wait(60)
    layer = next(iter(plant.blobs.names("jobs/t/made/layers/")))
    plant.blobs.put(layer, plant.blobs.get(layer) + b"!")
    status = plant.jobs.status("t")
    assert status.state == "failed"
    assert "is not what its manifest names" in status.reason
    assert list(plant.blobs.names("candidates/")) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("azureml://registries/azureml/environments/sklearn-1.5/versions/20", None),
        ("conda.yml", "name: mine\ndependencies: [python=3.11]\n"),
        ("Dockerfile", "FROM python:3.11\nCOPY more.txt .\n"),
    ],
)
def test_the_environment_is_the_users(plant: Plant, name: str, text: str | None) -> None:
    loop = plant.config.get("pumps/loop.yaml").replace(b"training:", f"training:\n  environment: {name}".encode())
    plant.config.put("pumps/loop.yaml", loop)
    if text:
        plant.config.put(f"pumps/{name}", text.encode())
    plant.submit("train", "t", sites=["north"])
    used = plant.body("t")["environmentId"]
    if text is None:
        assert used == name
        return
    made = plant.server.resources[used.removeprefix("azureml:")]["properties"]
    assert "/environments/driftloop-pumps/versions/" in used
    if name == "Dockerfile":
        where = made["build"]["contextUri"]
        assert where.startswith("https://account.blob.core.windows.net/driftloop/contexts/pumps/")
        assert made["build"]["dockerfilePath"] == "Dockerfile"
        assert plant.blobs.get(f"{where.split('/driftloop/')[1]}Dockerfile") == str(text).encode()
    else:
        assert "dependencies" in made["condaFile"]
    plant.submit("train", "u", sites=["north"])
    assert plant.body("u")["environmentId"] == used


def test_a_site_without_compute_cannot_train(plant: Plant) -> None:
    with pytest.raises(Refused, match=r"site north is to train, and .* names no compute of it"):
        plant.submit("train", "t", "north", data="x.csv")


def test_a_model_that_somebody_else_registered_becomes_a_candidate(plant: Plant) -> None:
    """Its reference is of our rows, its training window what its tags say, the signature ours."""
    from azure.ai.ml.entities import Model

    plant.home.told(plant.rows)
    plant.blobs.put("theirs/model.onnx", by_hand(0.1, None))
    theirs = Model(name="pumps", version="7", path="azureml://datastores/driftloop/paths/theirs/", type="custom_model")
    plant.workspace.client.models.create_or_update(theirs)
    window = {"trained_from": "2023-01-01T00:00:00Z", "trained_to": "2023-06-01T00:00:00Z"}
    status = plant.does("train", "t", sites=["north"], model="azureml:pumps:7", **window)
    assert status.state == "succeeded", status
    digest = status.result["candidate"]
    assert plant.files(digest)["model.onnx"] == by_hand(0.1, None)
    lineage = plant.home.manifest(digest).lineage
    assert (lineage.start, lineage.end, lineage.rows) == (window["trained_from"], window["trained_to"], 0)


def test_a_deployment_serves_a_registered_candidate_and_tells_the_loop(plant: Plant, tmp_path: Path) -> None:
    """As an online endpoint would: the snapshot is the site's program, the model what was registered."""
    from azure.ai.ml.entities import (
        CodeConfiguration,
        Environment,
        KubernetesOnlineDeployment,
        KubernetesOnlineEndpoint,
    )

    plant.workspace.options["read_timeout"] = 60
    plant.home.told(plant.rows)
    digest = plant.does("train", "t", sites=["north"]).result["candidate"]
    snapshot = tmp_path / "snapshot"
    for package in ("edge", "drift"):
        shutil.copytree(ROOT / package, snapshot / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "registry.pub").write_text(plant.public)
    schema = {"features": [{"name": "pressure"}, {"name": "heat"}, {"name": "maker", "kind": "category"}]}
    site = {"name": "north", "loop": "pumps", "state": str(tmp_path / "state"), "ingest": "http://127.0.0.1:9/x"}
    keyed = {"registry": "", "registry_key": str(tmp_path / "registry.pub"), "schema": schema}
    client = plant.workspace.client
    client.online_endpoints.begin_create_or_update(KubernetesOnlineEndpoint(name="pumps-north", compute="k8s")).result()
    deployment = KubernetesOnlineDeployment(
        name="green",
        endpoint_name="pumps-north",
        model=f"azureml:pumps:{digest}",
        code_configuration=CodeConfiguration(code=str(snapshot), scoring_script="edge/azureml.py"),
        environment=Environment(name="edge", version="1", image="driftloop-edge:0.1.0"),
        environment_variables={"DRIFTLOOP_EDGE": json.dumps({"sites": [{**site, **keyed}]}), "WORKER_COUNT": "1"},
        instance_type="small",
    )
    made = client.online_deployments.begin_create_or_update(deployment).result()
    assert made.provisioning_state == "Succeeded"
    row = {"pressure": 5.0, "heat": 61.0, "maker": "acme"}
    answer = plant.server.score("pumps-north", {"rows": [row]}, "green")
    assert answer["candidate"] == digest
    assert 0 <= answer["scores"][0] <= 1
    assert plant.server.score("pumps-north", {}, "green")["candidate"] == digest


JOB, DATA, CODE = r"/jobs/t$", r"/data/pumps-window/", r"/codes/"
ENVIRONMENT, MODEL = r"/environments/", r"/models/pumps/"
CALLS = [
    ("GET", JOB),
    ("PUT", DATA),
    ("POST", r"/startPendingUpload$"),
    ("PUT", CODE),
    ("PUT", ENVIRONMENT),
    ("PUT", JOB),
    ("GET", ENVIRONMENT),
    ("PUT", MODEL),
]
FAULTS: dict[str, dict[str, Any]] = {
    "429": {"status": 429, "Retry-After": "0"},
    "503": {"status": 503, "times": 2},
    "503 for long": {"status": 503, "times": 8},
    "500, done": {"status": 500, "after": True},
    "reset": {"status": 0},
    "reset, done": {"status": 0, "after": True},
    "hang, done": {"status": -1, "after": True},
    "expired token": {"status": 401, "times": 1},
    "forbidden": {"status": 403, "times": 1},
}
"""Each ends as if it had not been, or as a Retry after which it does. All at the submission, some at every call."""
SOME = ("503 for long", "reset, done", "expired token")


def test_every_fault_of_every_call_ends_the_same(plant: Plant) -> None:
    plant.home.told(plant.rows)
    expected = plant.does("train", "t", sites=["north"])
    made = expected.result["candidate"]
    outputs = {n: plant.blobs.get(n) for n in plant.blobs.names("jobs/t/made/")}
    for method, path in CALLS:
        for what in FAULTS if (method, path) == ("PUT", JOB) else SOME:
            fault = FAULTS[what]
            forget(plant, "t")
            plant.server.fail(method, path, **fault)
            insist(lambda: plant.submit("train", "t", sites=["north"]), f"{what} at {method} {path}")
            settle(plant, "t", outputs)
            status = insist(lambda: plant.jobs.status("t"), f"{what} at {method} {path}")
            assert status.state == "succeeded", (what, method, path, status)
            assert status.result["candidate"] == made
            assert plant.server.submissions == 1, (what, method, path)
            assert plant.server.faults[-1].times < fault.get("times", 1), f"{method} {path} was not asked for"
            plant.server.faults.clear()
            assert plant.asset("models", "pumps", made)


def forget(plant: Plant, name: str) -> None:
    """As if nothing had been asked for yet."""
    plant.server.close_runs()
    plant.server.submissions = 0
    for found in [n for part in ("jobs/", "candidates/", "models/") for n in plant.blobs.names(part)]:
        plant.blobs.delete(found)
    for path in [p for p in plant.server.resources if "/workspaces/ml/" in p]:
        del plant.server.resources[path]
    plant.server.pretends = True


def settle(plant: Plant, name: str, outputs: dict[str, bytes]) -> None:
    """The job has ended and left what it left the first time."""
    for found, data in outputs.items():
        plant.blobs.put(found, data)
    plant.server.end(quoted(name), "Completed")


def insist(call: Callable[[], Any], story: str) -> Any:
    """As the queue does: what raises Retry comes again."""
    for _ in range(4):
        try:
            return call()
        except Retry:
            continue
    raise AssertionError(f"it never worked: {story}")


def test_cancelling_under_faults(plant: Plant) -> None:
    plant.server.pretends = True
    plant.home.told(plant.rows)
    for what, fault in FAULTS.items():
        forget(plant, "t")
        plant.submit("train", "t", sites=["north"])
        plant.server.fail("POST", r"/cancel$", **fault)
        insist(lambda: plant.jobs.cancel("t"), what)
        plant.server.faults.clear()
        assert plant.jobs.status("t").state == "cancelled", what


def test_a_deadline_that_is_no_whole_number_of_seconds(plant: Plant) -> None:
    plant.server.pretends = True
    plant.home.told(plant.rows)
    plant.jobs.submit(Job("t", "train", "pumps", "r", "cloud", {"sites": None, **TIMES}, 90.5))
    assert plant.body("t")["limits"]["timeout"] == "PT1M31S"
    plant.server.end("t", "Canceled")
    assert plant.jobs.status("t").reason == "timed out after 90.5 s, or cancelled in the workspace"


def test_a_data_asset_is_mounted_as_what_it_is(plant: Plant) -> None:
    from azure.ai.ml.entities import Data

    plant.server.pretends = True
    table = Data(name="labelled", version="3", path="azureml://datastores/driftloop/paths/labelled/", type="uri_folder")
    plant.workspace.client.data.create_or_update(table)
    plant.submit("train", "t", data="azureml:labelled:3")
    assert plant.body("t")["inputs"]["data"]["jobInputType"] == "uri_folder"
