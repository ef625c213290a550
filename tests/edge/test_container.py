"""The site's program as a container and as a scoring script: what would be built and applied, as far as it can be
checked without a builder or a cluster."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge import azureml, candidate, config, signing
from edge.errors import BadCandidate
from tests.edge.conftest import Ingest, Registry, Settings

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra" / "site"
MANIFESTS = [d for f in sorted(INFRA.glob("*.yaml")) for d in yaml.safe_load_all(f.read_text())]


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^\s*-?\s*([\w.-]+)==([\w.]+)", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", ["edge/requirements.txt", "jobs/conda.yaml"])
def test_what_runs_elsewhere_is_pinned_as_the_app_is(path: str) -> None:
    ours, theirs = pins(ROOT / "requirements.txt"), pins(ROOT / path)
    assert len(theirs) > 5
    assert {name: ours.get(name) for name in theirs} == theirs


def test_the_image_is_built_of_what_is_there_by_nobody_in_particular() -> None:
    text = re.sub(r"\\\n\s*", "", (ROOT / "edge" / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    steps = [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]
    known = {"FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "ENTRYPOINT"}
    assert {name for name, _ in steps} <= known
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", steps[0][1]), "a pinned base"
    copied = [what.split()[0] for name, what in steps if name == "COPY"]
    assert all((ROOT / what).exists() for what in copied)
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert all(f"!{what.split('/')[0]}" in ignored for what in copied)
    names = [name for name, _ in steps]
    assert names.index("USER") > names.index("RUN")
    assert dict(steps)["USER"] == "10001"
    assert json.loads(dict(steps)["ENTRYPOINT"])[:3] == ["python", "-m", "edge"]


def test_what_is_copied_into_the_image_is_all_that_it_imports(tmp_path: Path) -> None:
    for package in ("drift", "edge"):
        shutil.copytree(ROOT / package, tmp_path / package)
    modules = "edge.__main__, edge.azureml, edge.services, json, sys"
    names = "{m.partition('.')[0] for m in sys.modules}"
    code = f"import {modules}; print(json.dumps(sorted({names})))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    loaded = set(json.loads(ended.stdout))
    assert loaded & {"adapters", "azure", "cli", "functions", "jobs", "triggers"} == set()


def test_every_manifest_names_itself_and_all_are_applied() -> None:
    listed = yaml.safe_load((INFRA / "kustomization.yaml").read_text())
    assert {*listed["resources"], "kustomization.yaml"} == {f.name for f in INFRA.glob("*.yaml")}
    for one in MANIFESTS:
        assert one["apiVersion"]
        assert one["kind"]
        if one["kind"] != "Kustomization":
            assert one["metadata"]["name"]
            assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == listed["namespace"]
    for generated in listed["configMapGenerator"]:
        assert all((INFRA / name).is_file() for name in generated["files"])


def of_kind(kind: str) -> Any:
    return next(m for m in MANIFESTS if m["kind"] == kind)


def test_the_pod_is_restricted_probed_bounded_and_keeps_its_state() -> None:
    spec = of_kind("StatefulSet")["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert spec["replicas"] == 1, "a state has one process"
    assert pod["securityContext"]["runAsNonRoot"]
    assert str(pod["securityContext"]["runAsUser"]) in (ROOT / "edge" / "Dockerfile").read_text()
    limits = container["securityContext"]
    assert limits["readOnlyRootFilesystem"]
    assert not limits["allowPrivilegeEscalation"]
    assert limits["capabilities"] == {"drop": ["ALL"]}
    assert {"requests", "limits"} <= container["resources"].keys()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    mounted = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    claimed = {c["metadata"]["name"] for c in spec["volumeClaimTemplates"]}
    assert {v["name"] for v in pod["volumes"]} | claimed == mounted.keys()
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    service = of_kind("Service")["spec"]
    assert service["selector"].items() <= labels.items()
    assert {p["targetPort"] for p in service["ports"]} <= ports.keys()
    policy = of_kind("NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert pod["serviceAccountName"] == of_kind("ServiceAccount")["metadata"]["name"]


def test_the_configuration_in_the_config_map_is_one_that_fits_the_pod() -> None:
    told = config.load(INFRA / "edge.json")
    [site] = told.sites
    container = of_kind("StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    mounted = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert (told.host, told.port) == ("0.0.0.0", container["ports"][0]["containerPort"])
    assert site.state == mounted["state"]
    assert Path(site.registry_key).name == "registry.pub"
    assert str(site.key).startswith(mounted["key"])
    egress = of_kind("NetworkPolicy")["spec"]["egress"][0]["ports"]
    assert {443, 5671} <= {p["port"] for p in egress}, "https, and AMQP over TLS"


# --- the scoring script


@pytest.fixture
def model(tmp_path: Path, registry: Registry, make_model: Callable[..., bytes]) -> Path:
    """A candidate as a registered model's folder holds it."""
    digest = registry.publish(make_model())
    folder = tmp_path / "model" / "INPUT_model"
    folder.mkdir(parents=True)
    source = registry.folder / "candidates" / digest
    for name in (candidate.MANIFEST, candidate.SIGNATURE):
        shutil.copy(source / name, folder)
    for name, file in candidate.read((source / candidate.MANIFEST).read_bytes()).files.items():
        shutil.copy(registry.folder / "layers" / file.sha256, folder / name)
    return tmp_path / "model"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, settings: Settings, model: Path) -> Iterator[Any]:
    settings.site(flush=1)
    monkeypatch.setenv("DRIFTLOOP_EDGE", str(settings.path))
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(model))
    loaded = importlib.reload(azureml)
    yield loaded
    loaded.stop()


def test_the_script_serves_its_model_and_tells_which(script: Any, ingest: Ingest, registry: Registry) -> None:
    script.init()
    [digest] = [p.name for p in (registry.folder / "candidates").iterdir()]
    answer = script.run(json.dumps({"rows": [{"id": "1", "distance": 0.5, "carrier": "AA"}]}))
    assert answer["candidate"] == digest
    assert len(answer["scores"]) == 1
    assert script.run(b"{}")["candidate"] == digest
    assert script.run('{"labels": [{"id": "1", "at": 1357000000, "label": 1}]}') == {"labels": 1}
    assert "error" in script.run("[]")
    assert "error" in script.run('{"rows": [{"id": 7.5}]}')
    for _ in range(100):
        if any(json.loads(body).get("columns") or json.loads(body).get("rows") for body in ingest.bodies):
            break
        time.sleep(0.1)
    told = [json.loads(body) for body in ingest.bodies]
    assert {body["candidate"] for body in told} == {digest}
    assert all(body["signature"] for body in told)


def test_what_was_seen_is_told_when_it_is_asked_for_and_at_the_latest_at_the_end(
    script: Any, settings: Settings, ingest: Ingest
) -> None:
    settings.site(flush=3600)
    script.init()
    told = []
    for end in (lambda: script.run('{"report": true}'), script.stop):
        script.run(json.dumps({"rows": [{"distance": 0.5, "carrier": "AA"}]}))
        end()
        told.append(len(ingest.bodies))
    assert told == [1, 2]
    assert all(len(json.loads(body)["columns"]["distance"]) == 1 for body in ingest.bodies)


def test_a_deployment_whose_model_is_not_the_registrys_fails(script: Any, model: Path) -> None:
    [signature] = model.rglob(candidate.SIGNATURE)
    manifest = (signature.parent / candidate.MANIFEST).read_bytes()
    signature.write_text(candidate.sign(manifest, signing.new()[0]))
    with pytest.raises(BadCandidate, match="not the registry's: it names another key"):
        script.init()


def test_a_model_whose_bytes_were_changed_is_not_served(script: Any, model: Path) -> None:
    [onnx] = model.rglob("model.onnx")
    data = bytearray(onnx.read_bytes())
    data[len(data) // 2] ^= 1
    onnx.write_bytes(data)
    with pytest.raises(BadCandidate, match="other bytes than the manifest names"):
        script.init()
