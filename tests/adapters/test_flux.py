"""Pulling from Git: what is committed, and what the cluster's own word does to a change."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.azure.flux import PATIENCE, STALE, rendered
from adapters.azure.program import Addresses
from adapters.local.blobs import FileBlobs
from edge.config import parse
from tests.adapters.fields import cluster, fleet, flux
from tests.adapters.test_executors import Sites, Time
from tests.triggers.world import LOOP, Configs
from triggers import config as cfg
from triggers.errors import Offline, Refused
from triggers.reading import Wrong

ROOT = Path(__file__).parents[2]
replace = cfg.msgspec.structs.replace
OLD, NEW = "0" * 64, "1" * 64


@pytest.fixture
def pulled(tmp_path: Path) -> Iterator[Sites]:
    with flux(tmp_path, FileBlobs(tmp_path / "blobs"), Configs(LOOP, fleet("flux")), Time()) as field:
        found = Sites(field, field.executor._clock, "flux", OLD, NEW)  # type: ignore[attr-defined]
        found.carry_on(found.change(OLD, run=0))
        yield found


def said(pulled: Sites) -> dict[str, Any]:
    """What ARM says of the first site's configuration."""
    name = "/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/driftloop"
    found: dict[str, Any] = pulled.field.more[1].resources[cluster("a") + name]["properties"]
    return found


@pytest.mark.wire
def test_a_commit_says_who_asked_for_what_and_a_revert_what_it_reverts(pulled: Sites) -> None:
    bare = pulled.field.more[0]
    pulled.carry_on(pulled.change(NEW))
    out = bare.head
    before = bare.files("sites/line/a")
    assert json.loads(before["wanted.json"]) == {"candidate": NEW}
    back = pulled.change(OLD, back=True)
    pulled.carry_on(back)
    message = bare.messages()[0]
    assert message.startswith(f'Revert "a: {NEW[:12]}"\n\nThis reverts commit {out}.\n')
    trailers = dict(line.split(": ") for line in message.strip().splitlines() if line.startswith("Driftloop-"))
    assert trailers == {
        "Driftloop-Run": back.run,
        "Driftloop-Candidate": OLD,
        "Driftloop-Change": back.id,
        "Driftloop-Site": "a",
    }
    assert set(bare.files("sites/line")) == {f"a/{name}" for name in before}, "no other site's folder"


@pytest.mark.wire
def test_a_site_with_windows_is_suspended_outside_of_changes(pulled: Sites) -> None:
    configs = pulled.field.executor._configs  # type: ignore[attr-defined]
    window = cfg.Window(cron="0 2 * * *", duration="3h")
    configs.sites = cfg.Fleet(sites=tuple(replace(s, windows=(window,)) for s in configs.sites.sites))
    pulled.carry_on(pulled.change(NEW))
    assert said(pulled)["suspend"] is True
    pulled.field.more[0].commit("sites/line/a/wanted.json", json.dumps({"candidate": "2" * 64}).encode())
    pulled.field.work()
    assert pulled.field.serves("a") == NEW, "what others commit waits"
    pulled.carry_on(pulled.change(OLD, back=True))
    assert (pulled.field.serves("a"), said(pulled)["suspend"]) == (OLD, True)


@pytest.mark.wire
def test_a_configuration_that_somebody_else_suspended_is_left_alone(pulled: Sites) -> None:
    said(pulled)["suspend"] = True
    pulled.field.work()
    pulled.field.executor.apply(pulled.change(NEW))
    pulled.field.work()
    underway = pulled.field.executor.apply(pulled.change(NEW))
    assert underway is not None
    assert said(pulled)["suspend"] is True


@pytest.mark.wire
def test_a_status_that_is_old_is_that_of_an_offline_cluster(pulled: Sites) -> None:
    pulled.clock.at += STALE + timedelta(minutes=1)
    commits = pulled.field.writes()
    with pytest.raises(Offline, match="last word"):
        pulled.field.executor.apply(pulled.change(NEW))
    assert pulled.field.writes() == commits, "a way out is not committed"
    pulled.field.work()
    pulled.carry_on(pulled.change(NEW))
    pulled.field.online["a"] = False
    pulled.field.work()
    with pytest.raises(Offline):
        pulled.field.executor.apply(pulled.change(OLD, back=True))
    assert pulled.field.writes() == commits + 2, "a way back is"
    pulled.field.online["a"] = True
    pulled.carry_on(pulled.change(OLD, back=True))
    assert pulled.field.serves("a") == OLD


@pytest.mark.wire
def test_what_azure_does_not_say_is_not_taken_for_well(pulled: Sites) -> None:
    del said(pulled)["statusUpdatedAt"]
    with pytest.raises(Offline, match="told nothing of its configuration yet"):
        pulled.field.executor.apply(pulled.change(NEW))
    pulled.field.work()
    del pulled.field.more[1].resources[cluster("a")]["properties"]["connectivityStatus"]
    with pytest.raises(Offline, match="does not say whether the cluster is connected"):
        pulled.field.executor.apply(pulled.change(NEW))


@pytest.mark.wire
def test_what_does_not_come_up_has_some_time_and_then_failed_in_flux_words(pulled: Sites) -> None:
    pulled.field.refuses["a"].add(NEW)
    for _ in range(3):
        pulled.field.executor.apply(pulled.change(NEW))
        pulled.field.work()
    pulled.clock.at += PATIENCE + timedelta(minutes=1)
    pulled.field.work()
    with pytest.raises(Refused, match="16 minutes after the commit: StatefulSet site: the pod does not get ready"):
        pulled.field.executor.apply(pulled.change(NEW))


@pytest.mark.wire
def test_a_cluster_without_a_configuration_or_with_an_expired_certificate_is_refused(pulled: Sites) -> None:
    server = pulled.field.more[1]
    server.resources[cluster("a")]["properties"]["connectivityStatus"] = "Expired"
    with pytest.raises(Refused, match="must be connected to Azure anew"):
        pulled.field.executor.apply(pulled.change(NEW))
    for path in [p for p in server.resources if p.startswith(cluster("b") + "/")]:
        del server.resources[path]
    with pytest.raises(Refused, match="no fluxConfiguration 'driftloop'"):
        pulled.field.executor.apply(pulled.change(NEW, site="b"))


def test_a_site_s_tolerations_are_those_of_its_pod() -> None:
    taints = (cfg.Toleration(key="line", value="press"), cfg.Toleration(key="gpu", effect="NoExecute"))
    addresses = Addresses(ingest="https://app/api/telemetry", registry="blob://plant/driftloop")
    overlay = yaml.safe_load(
        rendered(LOOP, cfg.Site(name="north", tolerations=taints), NEW, addresses, b"PUBLIC")["kustomization.yaml"]
    )
    assert yaml.safe_load(overlay["patches"][0]["patch"]) == [
        {
            "op": "add",
            "path": "/spec/template/spec/tolerations",
            "value": [
                {"key": "line", "operator": "Equal", "value": "press", "effect": "NoSchedule"},
                {"key": "gpu", "operator": "Exists", "effect": "NoExecute"},
            ],
        }
    ]


def test_a_taint_that_a_pushed_deployment_would_not_tolerate_is_refused_beforehand() -> None:
    site = "sites: [{{name: a, executor: azureml, tolerations: [{{key: {key}}}]}}]"
    assert cfg.parse_fleet(site.format(key="ml.azure.com/amlarc-workload")).sites[0].tolerations
    with pytest.raises(Wrong, match="'gpu': Azure ML's deployments tolerate "):
        cfg.parse_fleet(site.format(key="gpu"))


@pytest.mark.parametrize("workload", ["statefulset", "inferenceservice"])
def test_a_folder_is_an_overlay_that_kustomize_builds(tmp_path: Path, workload: Any) -> None:
    needs = cfg.Needs(cpu="500m", memory="1Gi")
    loop = replace(LOOP, serving=cfg.Serving(workload=workload, needs=needs))
    addresses = Addresses(ingest="https://app/api/telemetry", registry="blob://plant/driftloop")
    files = rendered(loop, cfg.Site(name="north"), NEW, addresses, b"PUBLIC")
    overlay = yaml.safe_load(files["kustomization.yaml"])
    [base] = overlay["resources"]
    assert (ROOT / "infra" / Path(base).name / "kustomization.yaml").exists()
    [site] = parse(files["edge.json"], tmp_path, "edge.json").sites
    assert (site.name, site.loop, site.wanted) == ("north", "line", "/etc/driftloop-wanted/wanted.json")
    assert [f.name for f in site.schema.features] == ["x", "z"]
    other = rendered(loop, cfg.Site(name="north"), OLD, addresses, b"PUBLIC")
    assert {name for name in files if files[name] != other[name]} == {"wanted.json"}, "no pod restarts for a candidate"
    folder = tmp_path / "sites" / "line" / "north"
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    for name in ("site", "kserve"):
        shutil.copytree(ROOT / "infra" / name, tmp_path / "base" / name)
    kubectl = shutil.which("kubectl")
    if kubectl is None:  # then what Kustomize would say is not known here
        return
    built = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=True).stdout
    objects = list(yaml.safe_load_all(built))
    kind = "StatefulSet" if workload == "statefulset" else "InferenceService"
    [served] = [o for o in objects if o["kind"] == kind]
    spec = served["spec"]["template"]["spec"] if workload == "statefulset" else served["spec"]["predictor"]
    assert spec["containers"][0]["resources"]["limits"] == {"cpu": "500m", "memory": "1Gi"}
    maps = {o["metadata"]["name"]: o["data"] for o in objects if o["kind"] == "ConfigMap"}
    assert json.loads(maps["wanted"]["wanted.json"]) == {"candidate": NEW}
    named = {v["name"]: v["configMap"]["name"] for v in spec["volumes"] if "configMap" in v}
    assert named.keys() >= {"edge", "wanted"}
    assert set(named.values()) == set(maps), "what the pod mounts is there"
