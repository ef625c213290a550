"""`driftloop cluster check`: each planted fault is found, and what the documentation describes is clean."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from cli import main
from cli.cluster import nodes
from cli.cluster.extension import PRESETS
from cli.cluster.rules import RULES

AKS, ARC = "managedClusters", "connectedClusters"
GROUP = "/subscriptions/11111111-0000-0000-0000-000000000000/resourceGroups/plant/providers"
ELSEWHERE = "/subscriptions/22222222-0000-0000-0000-000000000000/resourceGroups/ml/providers"


def node(name: str = "n", cpu: str = "3860m", memory: str = "13Gi", **about: Any) -> dict[str, Any]:
    """As kubectl prints it; `about`: labels, taints, ready, unschedulable, gpus."""
    more = {nodes.GPU: str(about["gpus"])} if "gpus" in about else {}
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux", **about.get("labels", {})}},
        "spec": {"taints": about.get("taints", []), "unschedulable": about.get("unschedulable", False)},
        "status": {
            "capacity": {"cpu": "4", "memory": "14Gi", **more},
            "allocatable": {"cpu": cpu, "memory": memory, **more},
            "conditions": [{"type": "Ready", "status": about.get("ready", "True")}],
        },
    }


THREE = [node(f"n{i}") for i in range(3)]
ONE = THREE[:1]
GPUS = [node(f"g{i}", labels={"nvidia.com/gpu.present": "true"}) for i in range(3)]
CONTROL = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}

HTTP = PRESETS["aks-test"][1]
TRAINING = PRESETS["arc-training"][1]
HTTPS = {
    "enableInference": "True",
    "inferenceRouterServiceType": "NodePort",
    "sslCname": "ml.plant.example",
    "sslSecret": "router-tls",
}


def without(settings: Mapping[str, str], *names: str) -> dict[str, str]:
    return {k: v for k, v in settings.items() if k not in names}


def found(
    folder: Path,
    settings: Mapping[str, str] | str,
    nodes_: list[dict[str, Any]],
    type_: str = ARC,
    scenario: str = "production",
    cluster: Mapping[str, Any] | None = None,
    workspaces: tuple[str, ...] = (),
) -> tuple[int, list[dict[str, str]]]:
    """Exit status and findings, through the command."""
    text = settings if isinstance(settings, str) else "".join(f"{k}: {v}\n" for k, v in settings.items())
    (folder / "settings.yaml").write_text(text)
    (folder / "nodes.json").write_text(json.dumps({"kind": "List", "items": nodes_}))
    asked = ["cluster", "check", "--settings", f"{folder}/settings.yaml", "--nodes", f"{folder}/nodes.json"]
    asked += ["--cluster-type", type_, "--scenario", scenario, "--json"]
    if cluster is not None:
        (folder / "cluster.json").write_text(json.dumps(cluster))
        asked += ["--cluster", f"{folder}/cluster.json"]
    for workspace in workspaces:
        asked += ["--workspace", workspace]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = main.main(asked)
    return status, json.loads(out.getvalue())["findings"]


@pytest.mark.parametrize(
    ("preset", "nodes_", "scenario"),
    [
        ("aks-test", [node(cpu="1900m", memory="5Gi")], "test"),
        ("arc-training", ONE, "test"),
        ("aks-production", THREE, "production"),
        ("arc-gpu", GPUS, "production"),
    ],
)
def test_the_documented_scenarios_are_clean(
    tmp_path: Path, preset: str, nodes_: list[dict[str, Any]], scenario: str
) -> None:
    type_, settings = PRESETS[preset]
    small = [{**n, "status": {**n["status"], "capacity": {"cpu": "2", "memory": "7Gi"}}} for n in nodes_]
    assert found(tmp_path, settings, small if scenario == "test" else nodes_, type_, scenario) == (0, [])


def test_https_with_a_secret_is_clean_and_values_have_no_case(tmp_path: Path) -> None:
    assert found(tmp_path, HTTPS, THREE) == (0, [])
    shouted = {k: v.upper() if k in ("enableInference", "inferenceRouterServiceType") else v for k, v in HTTPS.items()}
    assert found(tmp_path, shouted, THREE) == (0, [])


AKS_SHOWN = {"id": f"{GROUP}/Microsoft.ContainerService/managedClusters/c", "identity": {"type": "SystemAssigned"}}
AKS_SHOWN |= {"type": "Microsoft.ContainerService/ManagedClusters", "provisioningState": "Succeeded"}
ARC_SHOWN = {"type": "microsoft.kubernetes/connectedclusters", "connectivityStatus": "Connected"}

FAULTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    # fault: (severity, setting, what is different from HTTPS on three nodes of Arc in production)
    "nothing enabled": ("error", "enableTraining", {"settings": {"installPromOp": "True"}}),
    "both said False": ("error", "enableTraining", {"settings": {"enableTraining": "False"}}),
    "unknown setting": ("error", "enableInferencing", {"more": {"enableInferencing": "True"}}),
    "setting in other case": ("error", "enabletraining", {"more": {"enabletraining": "True"}}),
    "no boolean": ("error", "enableTraining", {"more": {"enableTraining": "yes"}}),
    "unknown service type": (
        "error",
        "inferenceRouterServiceType",
        {"more": {"inferenceRouterServiceType": "Ingress"}},
    ),
    "no service type": ("error", "inferenceRouterServiceType", {"less": ["inferenceRouterServiceType"]}),
    "empty setting": ("error", "sslCname", {"more": {"sslCname": ""}}),
    "said twice": (
        "error",
        "enableTraining",
        {"settings": "enableTraining: true\nenableTraining: false\nenableInference: false\n"},
    ),
    "nested": ("error", "nodeSelector", {"settings": "enableTraining: true\nnodeSelector:\n  disk: ssd\n"}),
    "selector without a label": ("error", "nodeSelector", {"more": {"nodeSelector": "disk=ssd"}}),
    "outdated name": ("warning", "inferenceLoadBalancerHA", {"more": {"inferenceLoadBalancerHA": "False"}}),
    "outdated name on one node": (
        "error",
        "inferenceRouterHA",
        {"settings": {**without(HTTP, "inferenceRouterHA"), "inferenceLoadBalancerHA": "False"}, "nodes_": ONE}
        | {"type_": AKS, "scenario": "test"},
    ),
    "inference settings without inference": (
        "warning",
        "sslCname",
        {"settings": {**TRAINING, "sslCname": "a.example"}},
    ),
    "volcano without training": ("warning", "installVolcano", {"more": {"installVolcano": "True"}}),
    "load balancer on premises": (
        "warning",
        "inferenceRouterServiceType",
        {"more": {"inferenceRouterServiceType": "LoadBalancer"}},
    ),
    "router inside alone": (
        "info",
        "inferenceRouterServiceType",
        {"more": {"inferenceRouterServiceType": "ClusterIP"}},
    ),
    "internal balancer on Arc": (
        "error",
        "internalLoadBalancerProvider",
        {"more": {"internalLoadBalancerProvider": "azure", "inferenceRouterServiceType": "LoadBalancer"}},
    ),
    "internal balancer of others": (
        "error",
        "internalLoadBalancerProvider",
        {"more": {"internalLoadBalancerProvider": "aws"}, "type_": AKS},
    ),
    "internal balancer without a balancer": (
        "warning",
        "internalLoadBalancerProvider",
        {"more": {"internalLoadBalancerProvider": "azure"}, "type_": AKS},
    ),
    "HTTP in production": (
        "error",
        "allowInsecureConnections",
        {"settings": {**without(HTTP, "inferenceRouterHA")}, "type_": AKS},
    ),
    "HTTPS without a name": ("error", "sslCname", {"less": ["sslCname"]}),
    "a name that is an address": ("error", "sslCname", {"more": {"sslCname": "https://ml.plant.example"}}),
    "HTTPS without a certificate": ("error", "sslSecret", {"less": ["sslSecret"]}),
    "certificate without key": ("error", "sslKeyPemFile", {"less": ["sslSecret"], "more": {"sslCertPemFile": "c.pem"}}),
    "key without certificate": ("error", "sslCertPemFile", {"less": ["sslSecret"], "more": {"sslKeyPemFile": "k.pem"}}),
    "secret and files": ("error", "sslSecret", {"more": {"sslCertPemFile": "c.pem", "sslKeyPemFile": "k.pem"}}),
    "secret that is a path": ("error", "sslSecret", {"more": {"sslSecret": "azureml/router-tls"}}),
    "TLS and HTTP": (
        "warning",
        "sslSecret",
        {"more": {"allowInsecureConnections": "True"}, "scenario": "test"},
    ),
    "no nodes": ("error", "nodes", {"nodes_": []}),
    "HA by default on two nodes": ("error", "inferenceRouterHA", {"nodes_": THREE[:2]}),
    "HA with a control plane": ("error", "inferenceRouterHA", {"nodes_": [*THREE[:2], node("m", taints=[CONTROL])]}),
    "HA with a node that is not ready": (
        "error",
        "inferenceRouterHA",
        {"nodes_": [*THREE[:2], node("m", ready="False")]},
    ),
    "HA with a cordoned node": ("error", "inferenceRouterHA", {"nodes_": [*THREE[:2], node("m", unschedulable=True)]}),
    "HA with a Windows node": (
        "error",
        "inferenceRouterHA",
        {"nodes_": [*THREE[:2], node("m", labels={"kubernetes.io/os": "windows"})]},
    ),
    "HA on selected nodes": (
        "error",
        "inferenceRouterHA",
        {"more": {"nodeSelector.ml": "yes"}, "nodes_": [*THREE, node("m", labels={"ml": "yes"})]},
    ),
    "two nodes in production": ("error", "nodes", {"more": {"inferenceRouterHA": "False"}, "nodes_": THREE[:2]}),
    "one router in production": ("warning", "inferenceRouterHA", {"more": {"inferenceRouterHA": "False"}}),
    "selector that fits no node": ("error", "nodeSelector.disk", {"more": {"nodeSelector.disk": "ssd"}}),
    "selectors that fit none together": (
        "error",
        "nodeSelector",
        {
            "more": {"nodeSelector.a": "1", "nodeSelector.b": "2"},
            "nodes_": [node("x", labels={"a": "1"}), node("y", labels={"b": "2"})],
        },
    ),
    "nothing but tainted nodes": ("error", "nodes", {"nodes_": [node(taints=[CONTROL])]}),
    "too little CPU in production": ("error", "nodes", {"nodes_": [node(f"n{i}", cpu="1100m") for i in range(3)]}),
    "too little memory in production": (
        "error",
        "nodes",
        {"nodes_": [node(f"n{i}", memory="1400Mi") for i in range(3)]},
    ),
    "too little CPU in a test": (
        "error",
        "nodes",
        {"settings": HTTP, "nodes_": [node(cpu="1779m")], "type_": AKS, "scenario": "test"},
    ),
    "too little memory in a test": (
        "error",
        "nodes",
        {"settings": HTTP, "nodes_": [node(memory="2439Mi")], "type_": AKS, "scenario": "test"},
    ),
    "too little for training": (
        "warning",
        "nodes",
        {"settings": TRAINING, "nodes_": [node(cpu="1")], "scenario": "test"},
    ),
    "device plugin without a GPU": (
        "warning",
        "installNvidiaDevicePlugin",
        {"more": {"installNvidiaDevicePlugin": "True"}},
    ),
    "exporter without a GPU": ("warning", "installDcgmExporter", {"more": {"installDcgmExporter": "True"}}),
    "GPU without device plugin": ("warning", "installNvidiaDevicePlugin", {"nodes_": GPUS}),
    "own Prometheus operator": ("info", "installPromOp", {"more": {"installPromOp": "False"}}),
    "own Volcano": ("info", "installVolcano", {"settings": {**TRAINING, "installVolcano": "False"}}),
    "AKS taken for Arc": ("error", "cluster-type", {"cluster": AKS_SHOWN}),
    "service principal": (
        "error",
        "identity",
        {"cluster": {**AKS_SHOWN, "identity": None, "servicePrincipalProfile": {"clientId": "1f"}}, "type_": AKS},
    ),
    "no local accounts": (
        "error",
        "disableLocalAccounts",
        {"cluster": {**AKS_SHOWN, "disableLocalAccounts": True}, "type_": AKS},
    ),
    "authorised ranges": (
        "warning",
        "authorizedIpRanges",
        {"cluster": {**AKS_SHOWN, "apiServerAccessProfile": {"authorizedIpRanges": ["1.2.3.0/24"]}}, "type_": AKS},
    ),
    "pod identity": (
        "error",
        "podIdentityProfile",
        {"cluster": {**AKS_SHOWN, "podIdentityProfile": {"enabled": True}}, "type_": AKS},
    ),
    "another subscription": (
        "error",
        "subscription",
        {"cluster": AKS_SHOWN, "type_": AKS}
        | {"workspaces": (f"{ELSEWHERE}/Microsoft.MachineLearningServices/workspaces/ml",)},
    ),
    "stopped": ("error", "cluster", {"cluster": {**AKS_SHOWN, "powerState": {"code": "Stopped"}}, "type_": AKS}),
    "failed": ("error", "cluster", {"cluster": {**AKS_SHOWN, "provisioningState": "Failed"}, "type_": AKS}),
    "unheard by Arc": ("error", "cluster", {"cluster": {**ARC_SHOWN, "connectivityStatus": "Expired"}}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(tmp_path: Path, fault: str) -> None:
    severity, setting, given = FAULTS[fault]
    given = dict(given)
    less, more = given.pop("less", []), given.pop("more", {})
    settings = given.pop("settings", {**without(HTTPS, *less), **more})
    status, findings = found(tmp_path, settings, given.pop("nodes_", THREE), **given)
    hits = [f for f in findings if (f["severity"], f["setting"]) == (severity, setting)]
    assert hits, findings
    assert all(f[part] for f in hits for part in ("what", "why", "how"))
    assert status == int(any(f["severity"] == "error" for f in findings))


def test_every_rule_has_a_planted_fault(tmp_path: Path) -> None:
    whys = set()
    for _, _, given in FAULTS.values():
        given = dict(given)
        less, more = given.pop("less", []), given.pop("more", {})
        settings = given.pop("settings", {**without(HTTPS, *less), **more})
        whys |= {f["why"] for f in found(tmp_path, settings, given.pop("nodes_", THREE), **given)[1]}
    elsewhere = {"sslCname": _why("callers would refuse"), "pem": _why("the router reads PEM files as they are")}
    assert {rule.why for rule in RULES} - whys == {*elsewhere.values(), _why("recommended at least")}


def _why(begins: str) -> str:
    [why] = {rule.why for rule in RULES if rule.why.startswith(begins)}
    return why


def test_small_nodes_are_named(tmp_path: Path) -> None:
    small = node("s")
    small["status"]["capacity"] = {"cpu": "2", "memory": "8Gi"}
    _, findings = found(tmp_path, HTTPS, [*THREE, small])
    assert [(f["severity"], f["what"]) for f in findings] == [("info", "s has 2000m CPU and 8192Mi")]


def test_a_control_plane_that_azure_ml_may_use_counts(tmp_path: Path) -> None:
    allowed = node("m", taints=[{"key": "ml.azure.com/amlarc", "effect": "NoSchedule", "value": "true"}])
    assert found(tmp_path, HTTPS, [*THREE[:2], allowed]) == (0, [])


def test_a_cluster_of_azure_s_that_arc_connects_has_a_load_balancer(tmp_path: Path) -> None:
    settings = {**HTTPS, "inferenceRouterServiceType": "LoadBalancer"}
    assert found(tmp_path, settings, THREE, cluster={**ARC_SHOWN, "infrastructure": "azure"}) == (0, [])


def pems(folder: Path, name: str, until: datetime | None = None) -> dict[str, str]:
    made = trustme.CA().issue_cert(name, not_after=until)
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    made.private_key_pem.write_to_path(folder / "key.pem")
    return {**without(HTTPS, "sslSecret"), "sslCertPemFile": "cert.pem", "sslKeyPemFile": "key.pem"}


def test_pem_files_that_are_here_are_looked_into(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as to

    settings = pems(tmp_path, "*.plant.example")
    assert found(tmp_path, settings, THREE) == (0, [])
    key = to.load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    locked = key.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, to.BestAvailableEncryption(b"pass"))
    (tmp_path / "key.pem").write_bytes(locked)
    assert _said(found(tmp_path, settings, THREE)) == [("sslKeyPemFile", "sslKeyPemFile is protected by a pass phrase")]
    (tmp_path / "key.pem").write_text("no key")
    assert [setting for setting, _ in _said(found(tmp_path, settings, THREE))] == ["sslKeyPemFile"]
    (tmp_path / "other").mkdir()
    pems(tmp_path / "other", "x.example")
    (tmp_path / "other" / "key.pem").rename(tmp_path / "key.pem")
    assert _said(found(tmp_path, settings, THREE)) == [("sslKeyPemFile", "the key is not the certificate's")]


def test_a_certificate_for_another_name_or_time_is_found(tmp_path: Path) -> None:
    wrong = found(tmp_path, pems(tmp_path, "other.example"), THREE)
    assert _said(wrong) == [("sslCname", "the certificate is for other.example, not for ml.plant.example")]
    past = datetime.now(UTC) - timedelta(days=1)
    old = found(tmp_path, pems(tmp_path, "ml.plant.example", past), THREE)
    assert [setting for setting, _ in _said(old)] == ["sslCertPemFile"]


def _said(answer: tuple[int, list[dict[str, str]]]) -> list[tuple[str, str]]:
    return [(f["setting"], f["what"]) for f in answer[1]]


@pytest.mark.parametrize("text", ["- a\n", "a: [", "plain"])
def test_what_are_no_settings_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    (tmp_path / "n.json").write_text(json.dumps(node()))
    asked = ["cluster", "check", "--settings", f"{tmp_path}/s.yaml", "--nodes", f"{tmp_path}/n.json"]
    assert main.main([*asked, "--cluster-type", ARC, "--scenario", "test"]) == 2


@pytest.mark.parametrize("text", ["{", "[]", '{"items": [{"kind": "Pod"}]}', '{"items": [{"kind": "Node"}]}'])
def test_what_are_no_nodes_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text("enableTraining: true\n")
    (tmp_path / "n.json").write_text(text)
    asked = ["cluster", "check", "--settings", f"{tmp_path}/s.yaml", "--nodes", f"{tmp_path}/n.json"]
    assert main.main([*asked, "--cluster-type", ARC, "--scenario", "test"]) == 2


def test_findings_are_told_to_people_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.yaml").write_text("enableTraining: true\ninstallVolcano: false\n")
    (tmp_path / "n.json").write_text(json.dumps(node()))
    asked = ["cluster", "check", "--settings", f"{tmp_path}/s.yaml", "--nodes", f"{tmp_path}/n.json"]
    assert main.main([*asked, "--cluster-type", ARC, "--scenario", "test"]) == 0
    assert capsys.readouterr().out.startswith("info: installVolcano: installVolcano is False\n  training jobs are")
