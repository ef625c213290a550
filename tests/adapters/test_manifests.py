"""What is applied to a cluster, against the schemas of Kubernetes itself, of an old and of a new version."""

from __future__ import annotations

import copy
import functools
import operator
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.azure.flux import PODS, rendered
from adapters.azure.program import Addresses
from tests.triggers.world import LOOP
from triggers import config as cfg

pytestmark = pytest.mark.wire
replace = cfg.msgspec.structs.replace
INFRA = Path(__file__).resolve().parents[2] / "infra"
OBJECTS = [
    one
    for folder in ("site", "kserve")
    for path in sorted((INFRA / folder).glob("*.yaml"))
    for one in yaml.safe_load_all(path.read_text())
    if one.get("kind") and one["kind"] != "Kustomization"
]
VERSIONS = "1.25", "1.37"
"""The first that the package has, and its own."""
POD_SPEC_OF_OTHERS = {"minReplicas", "maxReplicas", "deploymentStrategy"}
"""What KServe has beside a pod's own fields in `predictor`."""


def checked(one: dict[str, Any]) -> None:
    """Raises where a field is unknown, missing or of another type. KServe's own kind is checked for the pod in it."""
    import kubernetes_validate as kubernetes

    if one["kind"] == "InferenceService":
        spec = {k: v for k, v in one["spec"]["predictor"].items() if k not in POD_SPEC_OF_OTHERS}
        one = {"apiVersion": "v1", "kind": "Pod", "metadata": one["metadata"], "spec": spec}
    for version in VERSIONS:
        kubernetes.validate(one, version, strict=True)


@pytest.mark.parametrize("one", OBJECTS, ids=lambda o: f"{o['kind']}-{o['metadata']['name']}")
def test_a_manifest_is_one_of_kubernetes(one: dict[str, Any]) -> None:
    checked(one)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    import kubernetes_validate as kubernetes

    [served] = [o for o in OBJECTS if o["kind"] == "StatefulSet"]
    [other] = [o for o in OBJECTS if o["kind"] == "InferenceService"]
    for one, pod in ((served, "template.spec"), (other, "predictor")):
        broken = copy.deepcopy(one)
        functools.reduce(operator.getitem, pod.split("."), broken["spec"])["containers"][0]["livenesProbe"] = {}
        with pytest.raises(kubernetes.ValidationError, match="livenesProbe"):
            checked(broken)


@pytest.mark.parametrize("workload", PODS)
def test_what_is_committed_for_a_site_makes_a_pod_of_kubernetes(workload: Any) -> None:
    kind, _ = PODS[workload]
    taints = (cfg.Toleration(key="line", value="press"), cfg.Toleration(key="gpu", effect="NoExecute"))
    loop = replace(LOOP, serving=cfg.Serving(workload=workload, needs=cfg.Needs(cpu="500m", memory="1Gi")))
    addresses = Addresses(ingest="https://app/api/telemetry", registry="blob://plant/driftloop")
    files = rendered(loop, cfg.Site(name="north", tolerations=taints), "1" * 64, addresses, b"PUBLIC")
    overlay = yaml.safe_load(files["kustomization.yaml"])
    [patch] = overlay["patches"]
    [base] = [o for o in OBJECTS if o["kind"] == patch["target"]["kind"] == kind]
    patched = copy.deepcopy(base)
    for step in yaml.safe_load(patch["patch"]):
        *path, last = step["path"].strip("/").split("/")
        into = functools.reduce(lambda at, part: at[int(part) if isinstance(at, list) else part], path, patched)
        into[last] = step["value"]
    checked(patched)
    assert patched != base
    for made in overlay["configMapGenerator"]:
        data = {name: files[name].decode() for name in made["files"]}
        checked({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": made["name"]}, "data": data})
