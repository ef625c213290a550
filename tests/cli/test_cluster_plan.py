"""`driftloop cluster plan` and `attach`: commands, Bicep and manifests say the same."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import main
from cli.cluster import nodes, plan
from cli.cluster.extension import CLUSTER_TYPES, PRESETS
from tests.infra.bicep import Resource, Template
from triggers.errors import Refused

GROUP = "/subscriptions/11111111-0000-0000-0000-000000000000/resourceGroups/plant/providers"
AKS = f"{GROUP}/Microsoft.ContainerService/managedClusters/south"
ARC = f"{GROUP}/Microsoft.Kubernetes/connectedClusters/south"
ML = f"{GROUP}/Microsoft.MachineLearningServices/workspaces/ml"
FAR = ML.replace("11111111", "22222222").replace("plant", "far")


def planned(folder: Path, *asked: str, command: str = "plan") -> dict[str, str]:
    assert main.main(["cluster", command, *asked, "--out", str(folder / "out")]) == 0
    return {path.name: path.read_text() for path in (folder / "out").iterdir()}


def commands(script: str) -> list[list[str]]:
    """The az and kubectl commands of a script, in words."""
    whole = script.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in whole if line.startswith(("az ", "kubectl "))]


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def made(folder: Path, **given: str) -> list[Resource]:
    return Template(folder / "out" / "onboard.bicep").run(given)[0]


def properties(found: list[Resource], type_: str) -> list[Any]:
    return [r.body.get("properties") for r in found if r.type == type_ and not r.existing]


@pytest.mark.parametrize("preset", PRESETS)
def test_commands_and_bicep_of_a_documented_scenario_say_the_same(tmp_path: Path, preset: str) -> None:
    type_, settings = PRESETS[preset]
    cluster = AKS if type_ == "managedClusters" else ARC
    files = planned(tmp_path, "--cluster", cluster, "--preset", preset, "--attach", ML)
    create, show, attach = commands(files["onboard.sh"])
    assert create[1:3] == ["k8s-extension", "create"]
    assert (option(create, "--cluster-type"), option(create, "--scope")) == (type_, "cluster")
    said = dict(word.split("=", 1) for word in create if "=" in word)
    assert said == settings
    assert show[1:3] == ["k8s-extension", "show"]
    assert option(attach, "--resource-id") == cluster

    pem = {"certificate": "C", "key": "K"} if "sslCertPemFile" in settings else {}
    found = made(tmp_path, **pem)
    [extension] = properties(found, "Microsoft.KubernetesConfiguration/extensions")
    assert extension["extensionType"] == option(create, "--extension-type")
    plain = {k: v for k, v in settings.items() if k not in plan.PEM}
    assert extension["configurationSettings"] == plain
    secret = {"scoringFe.sslCert": "<base64 of C>", "scoringFe.sslKey": "<base64 of K>"} if pem else None
    assert extension.get("configurationProtectedSettings") == secret
    [compute] = properties(found, "Microsoft.MachineLearningServices/workspaces/computes")
    assert compute["properties"] == {"namespace": "default"}


def test_settings_win_over_the_preset_and_are_spelt_as_az_takes_them(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("inferenceRouterServiceType: nodeport\nnodeSelector.line: a b\nsslSecret: tls\n")
    asked = ["--cluster", ARC, "--preset", "aks-test", "--settings", f"{tmp_path}/s.yaml"]
    files = planned(tmp_path, *asked)
    words = commands(files["onboard.sh"])[0]
    assert {"inferenceRouterServiceType=NodePort", "nodeSelector.line=a b", "enableTraining=True"} <= set(words)
    [extension] = properties(made(tmp_path), "Microsoft.KubernetesConfiguration/extensions")
    assert extension["configurationSettings"]["nodeSelector.line"] == "a b"


def test_one_cluster_goes_to_several_workspaces_and_namespaces(tmp_path: Path) -> None:
    more = ["--attach", f"{ML},namespace=line-a,name=line-a", "--attach", f"{ML},namespace=line-b,name=line-b"]
    files = planned(tmp_path, "--cluster", ARC, "--attach", FAR, *more, command="attach")
    asked = commands(files["onboard.sh"])
    assert [c[:2] for c in asked] == [["kubectl", "apply"], *[["az", "ml"]] * 3]
    assert [(option(c, "--name"), option(c, "--namespace")) for c in asked[1:]] == [
        ("south", "default"),
        ("line-a", "line-a"),
        ("line-b", "line-b"),
    ]
    assert {option(c, "--resource-id") for c in asked[1:]} == {ARC}
    assert [m["metadata"]["name"] for m in yaml.safe_load_all(files["cluster.yaml"])] == ["line-a", "line-b"]
    computes = [r for r in made(tmp_path) if r.type.endswith("/computes")]
    assert [r.id.split("/")[4] for r in computes] == ["far", "plant", "plant"]
    assert [r.body["properties"]["resourceId"].endswith("connectedClusters/south") for r in computes] == [True] * 3


def test_aks_goes_to_another_subscription_through_arc(tmp_path: Path) -> None:
    files = planned(tmp_path, "--cluster", AKS, "--preset", "aks-test", "--attach", FAR)
    sign_in, connect, create, _, attach = commands(files["onboard.sh"])
    assert option(sign_in, "--resource-group") == "plant"
    assert connect[1:3] == ["connectedk8s", "connect"]
    assert option(create, "--cluster-type") == "connectedClusters"
    far = FAR.replace("Microsoft.MachineLearningServices/workspaces/ml", "Microsoft.Kubernetes/connectedClusters/south")
    assert option(attach, "--resource-id") == far


def test_flux_keeps_a_site_like_its_repository(tmp_path: Path) -> None:
    url = "https://git.example/site's.git"
    files = planned(tmp_path, "--cluster", ARC, "--preset", "arc-training", "--flux", url, "--flux-path", "./south")
    flux = commands(files["onboard.sh"])[-1]
    assert (option(flux, "--url"), "path=./south" in flux) == (url, True)
    [found] = properties(made(tmp_path), "Microsoft.KubernetesConfiguration/fluxConfigurations")
    assert found["gitRepository"]["url"] == url
    assert found["kustomizations"]["site"] == {"path": "./south", "prune": True}


def node(name: str, cpu: int, memory: int, machine: str = "", gpus: int = 0, unfit: str = "") -> nodes.Node:
    labels = {plan.MACHINE: machine} if machine else {}
    return nodes.Node(name, cpu, memory, gpus, cpu, memory, labels, unfit)


def test_instance_types_are_what_the_nodes_have_after_the_extension_s_share() -> None:
    found = plan.sizes([node("a", 4000, 16384), node("b", 9000, 9000, unfit="is not ready")])
    assert [(s.name, s.cpu, s.memory) for s in found] == [
        ("whole", 2220, 13944),
        ("half", 1110, 6972),
        ("quarter", 555, 3486),
    ]


def test_unlike_nodes_have_types_of_their_own_and_a_gpu_is_not_shared() -> None:
    three = [node("a", 4000, 16384, "D4"), node("b", 4000, 16384, "D4"), node("g", 6000, 57344, "NC6", gpus=1)]
    found = {s.name: s for s in plan.sizes(three)}
    assert list(found) == ["d4-whole", "d4-half", "d4-quarter", "nc6-whole"]
    manifest = yaml.safe_load(plan.instance_type(found["nc6-whole"]))
    assert manifest["spec"]["nodeSelector"] == {plan.MACHINE: "NC6"}
    assert manifest["spec"]["resources"]["limits"] == {"cpu": "4800m", "memory": "55931Mi", nodes.GPU: "1"}
    assert manifest["apiVersion"] == "amlarc.azureml.com/v1alpha1"


def test_settings_that_do_not_fit_the_nodes_are_not_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = {"allocatable": {"cpu": "2", "memory": "8Gi"}}
    (tmp_path / "n.json").write_text(json.dumps({"kind": "Node", "metadata": {"name": "n"}, "status": status}))
    asked = ["--cluster", AKS, "--preset", "aks-production", "--nodes", f"{tmp_path}/n.json"]
    assert main.main(["cluster", "plan", *asked, "--out", str(tmp_path / "out")]) == 1
    assert "error: inferenceRouterHA" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_instance_types_come_with_the_plan(tmp_path: Path) -> None:
    status = {"allocatable": {"cpu": "4", "memory": "16Gi"}}
    (tmp_path / "n.json").write_text(json.dumps({"kind": "Node", "metadata": {"name": "n"}, "status": status}))
    asked = ["--cluster", ARC, "--preset", "arc-training", "--nodes", f"{tmp_path}/n.json", "--scenario", "test"]
    files = planned(tmp_path, *asked)
    assert [m["kind"] for m in yaml.safe_load_all(files["cluster.yaml"])] == ["InstanceType"] * 3


@pytest.mark.parametrize(
    "wrong",
    [
        ["--cluster", ML, "--preset", "aks-test"],
        ["--cluster", "south", "--preset", "aks-test"],
        ["--cluster", f"{AKS}'; rm -rf /", "--preset", "aks-test"],
        ["--cluster", AKS],
        ["--cluster", AKS, "--preset", "aks-test", "--attach", AKS],
        ["--cluster", AKS, "--preset", "aks-test", "--attach", f"{ML},compute=a"],
        ["--cluster", AKS, "--preset", "aks-test", "--attach", f"{ML},name=a_b"],
        ["--cluster", AKS, "--preset", "aks-test", "--attach", f"{ML},namespace=A"],
    ],
)
def test_what_cannot_be_planned_is_refused(wrong: list[str]) -> None:
    assert main.main(["cluster", "plan", *wrong]) == 2


def test_an_arc_cluster_s_id_is_not_that_of_a_container_service() -> None:
    with pytest.raises(Refused, match="is not the resource id"):
        plan.resource(ARC.replace("Microsoft.Kubernetes", "Microsoft.ContainerService"), *CLUSTER_TYPES.values())
