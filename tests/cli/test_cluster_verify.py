"""`driftloop cluster verify` against an API server and a Resource Manager of ours, over HTTPS."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from cli import main
from tests.servers import identity as issuer
from tests.servers.https import Handler, serving

GROUP = "/subscriptions/11111111-0000-0000-0000-000000000000/resourceGroups/plant/providers"
ARC = f"{GROUP}/Microsoft.Kubernetes/connectedClusters/south"
ML = f"{GROUP}/Microsoft.MachineLearningServices/workspaces/ml"
EXTENSION = f"{ARC}/providers/Microsoft.KubernetesConfiguration/extensions/azureml"
AZUREML, APPS = "/api/v1/namespaces/azureml", "/apis/apps/v1/namespaces"
TOKEN = "the-token"

DEPLOYMENTS = [
    *("relayserver", "gateway", "aml-operator", "metrics-controller-manager", "azureml-kube-state-metrics"),
    *("azureml-prometheus-operator", "amlarc-identity-controller", "amlarc-identity-proxy", "azureml-fe-v2"),
    *("inference-operator-controller-manager", "volcano-admission", "volcano-controllers", "volcano-scheduler"),
]
KINDS = ["AmlJob", "Identity", "InstanceType", "Metrics", "OnlineEndpoint", "OnlineDeployment"]
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def named(*names: str, **about: Any) -> dict[str, Any]:
    return {"items": [{"metadata": {"name": name}, **about} for name in names]}


def installed() -> dict[str, Any]:
    """What a cluster says on which all is well."""
    router = {"type": "NodePort", "ports": [{"port": 443}]}
    definitions = [{"spec": {"group": "amlarc.azureml.com", "names": {"kind": kind}}} for kind in KINDS]
    return {
        "/version": {"gitVersion": "v1.34.1"},
        f"{AZUREML}/pods": named("gateway-1", "fe-1", status={"phase": "Running"}),
        f"{APPS}/azureml/deployments": named(*DEPLOYMENTS),
        f"{APPS}/azureml/daemonsets": named("fluent-bit"),
        f"{APPS}/azureml/statefulsets": named("prometheus-prom-prometheus"),
        f"{APPS}/default/deployments": {"items": []},
        DEFINITIONS: {"items": definitions},
        f"{AZUREML}/secrets/tls": {"data": {"cert.pem": "", "key.pem": ""}},
        f"{AZUREML}/services": named("azureml-fe", spec=router),
        f"{AZUREML}/services/https:azureml-fe:443/proxy/": {},
        EXTENSION: {"properties": {"provisioningState": "Succeeded", "statuses": []}},
        f"{ML}/computes/south": {"properties": {"provisioningState": "Succeeded", "resourceId": ARC}},
        "/api/v1/endpoint/pump/score": {"scores": [0.5]},
    }


@dataclass
class Site:
    url: str
    folder: Path
    says: dict[str, Any] = field(default_factory=installed)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def verify(self, *asked: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, Any]]]:
        capsys.readouterr()
        status = main.main(["cluster", "verify", *asked, "--json"])
        return status, {c["name"]: c for c in json.loads(capsys.readouterr().out)["checks"]}

    def kubeconfig(self, **user: Any) -> Path:
        authority = base64.b64encode((self.folder / "ca.pem").read_bytes()).decode()
        path = self.folder / "kubeconfig"
        config = {
            "current-context": "south",
            "contexts": [{"name": "south", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": "u", "user": user or {"token": TOKEN}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    cert = ca.issue_cert("127.0.0.1", "localhost")
    cert.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    found = Site("", tmp_path)

    class Api(Handler):
        def do_GET(self) -> None:  # noqa: N802
            path = self.path.partition("?")[0]
            found.asked.append((self.command, self.path))
            if TOKEN not in self.headers.get("Authorization", "") and not path.startswith("/subscriptions"):
                return self.answer(401, b"{}")
            said = found.says.get(path, 404)
            return self.answer(said, b"{}") if isinstance(said, int) else self.answer(200, json.dumps(said).encode())

        def do_POST(self) -> None:  # noqa: N802
            self.read()
            self.do_GET()

    with serving(Api, str(tmp_path / "server.pem"), str(tmp_path / "server.pem")) as url:
        found.url = url
        yield found


@pytest.fixture
def settings(tmp_path: Path) -> str:
    (tmp_path / "s.yaml").write_text(
        "enableTraining: True\nenableInference: True\n"
        "inferenceRouterServiceType: NodePort\nsslSecret: tls\nsslCname: a.b\n"
    )
    return str(tmp_path / "s.yaml")


@pytest.fixture
def signed_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[issuer.Identity]:
    with issuer.running() as identity:
        for name, value in identity.environment.items():
            monkeypatch.setenv(name, value)
        yield identity


def asked_of(site: Site, settings: str) -> list[str]:
    return ["--kubeconfig", str(site.kubeconfig()), "--settings", settings]


def test_all_is_well(
    site: Site, settings: str, signed_in: issuer.Identity, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("SCORING_KEY", TOKEN)
    (site.folder / "rows.json").write_text('{"rows": []}')
    azure = ["--cluster", ARC, "--arm", site.url, "--attach", f"{ML},name=south"]
    score = ["--score", f"{site.url}/api/v1/endpoint/pump/score", "--body", f"{site.folder}/rows.json"]
    status, checks = site.verify(*asked_of(site, settings), *azure, *score, capsys=capsys)
    assert [c for c in checks.values() if not c["ok"]] == []
    assert status == 0
    assert list(checks) == [
        "extension azureml",
        "compute south of ml",
        "API server",
        "pods",
        "deployments",
        "daemonsets",
        "statefulsets",
        "custom resources",
        "secret tls",
        "router's service",
        "router",
        "no older router",
        "scoring",
    ]
    assert [m for m, _ in site.asked] == ["GET"] * 12 + ["POST"]
    assert signed_in.asked == {"https://management.azure.com": 1}


FAULTS: dict[str, tuple[str, str, Any, str]] = {
    "a pod without a node": (
        "pods",
        f"{AZUREML}/pods",
        named("fe-1", status={"phase": "Pending", "conditions": [{"status": "False", "reason": "Unschedulable"}]}),
        "fe-1 Unschedulable",
    ),
    "an image that cannot be pulled": (
        "pods",
        f"{AZUREML}/pods",
        named(
            "fe-1",
            status={
                "phase": "Pending",
                "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}],
            },
        ),
        "fe-1 ImagePullBackOff",
    ),
    "no pods": ("pods", f"{AZUREML}/pods", {"items": []}, "no pods"),
    "pods that may not be seen": ("pods", f"{AZUREML}/pods", 403, "status 403"),
    "a missing component": ("deployments", f"{APPS}/azureml/deployments", named(*DEPLOYMENTS[2:]), "missing: gateway"),
    "a missing daemon": ("daemonsets", f"{APPS}/azureml/daemonsets", {"items": []}, "fluent-bit"),
    "no custom resources": (
        "custom resources",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        {},
        "InstanceType",
    ),
    "half a secret": ("secret tls", f"{AZUREML}/secrets/tls", {"data": {"cert.pem": ""}}, "without key.pem"),
    "no secret": ("secret tls", f"{AZUREML}/secrets/tls", 404, "status 404"),
    "no router": ("router", f"{AZUREML}/services", {"items": []}, "no service azureml-fe"),
    "another service": (
        "router's service",
        f"{AZUREML}/services",
        named("azureml-fe", spec={"type": "ClusterIP", "ports": [{"port": 443}]}),
        "is ClusterIP, not NodePort",
    ),
    "a router that is not reached": ("router", f"{AZUREML}/services/https:azureml-fe:443/proxy/", 503, "status 503"),
    "an older router": ("no older router", f"{APPS}/default/deployments", named("azureml-fe"), "azureml-fe in default"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_in_the_cluster_is_found(site: Site, settings: str, fault: str, capsys: Any) -> None:
    name, path, says, what = FAULTS[fault]
    site.says[path] = says
    status, checks = site.verify(*asked_of(site, settings), capsys=capsys)
    assert status == 1
    assert [c["name"] for c in checks.values() if not c["ok"]] == [name]
    assert what in checks[name]["what"]
    assert checks[name]["how"]


def test_a_load_balancer_that_is_never_given_is_found(site: Site, capsys: Any) -> None:
    spec = {"type": "LoadBalancer", "ports": [{"port": 80}]}
    site.says[f"{AZUREML}/services"] = named("azureml-fe", spec=spec, status={"loadBalancer": {}})
    site.says[f"{AZUREML}/services/azureml-fe:80/proxy/"] = {}
    status, checks = site.verify("--kubeconfig", str(site.kubeconfig()), "--preset", "aks-test", capsys=capsys)
    assert (status, checks["router's service"]["what"]) == (1, "waits for an address")


@pytest.mark.parametrize(
    ("path", "says", "name", "what"),
    [
        (EXTENSION, {"properties": {"provisioningState": "Pending"}}, "extension azureml", "Pending"),
        (
            EXTENSION,
            {"properties": {"provisioningState": "Failed", "statuses": [{"message": "no Helm"}]}},
            "extension azureml",
            "Failed: no Helm",
        ),
        (EXTENSION, 404, "extension azureml", "is not there"),
        (EXTENSION, 403, "extension azureml", "status 403: {}"),
        (
            f"{ML}/computes/south",
            {"properties": {"provisioningState": "Succeeded", "resourceId": f"{ARC}-2"}},
            "compute south of ml",
            f"is another cluster: {ARC}-2",
        ),
    ],
)
def test_what_is_wrong_in_azure_is_found(
    site: Site, signed_in: issuer.Identity, path: str, says: Any, name: str, what: str, capsys: Any
) -> None:
    site.says[path] = says
    asked = ["--cluster", ARC, "--arm", site.url, "--attach", f"{ML},name=south"]
    status, checks = site.verify(*asked, capsys=capsys)
    assert (status, checks[name]["ok"], checks[name]["what"]) == (1, False, what)


def test_a_cluster_that_does_not_answer_or_believe_is_said(site: Site, capsys: Any) -> None:
    _, checks = site.verify("--kubeconfig", str(site.kubeconfig(token="wrong")), capsys=capsys)
    assert [(c["name"], c["ok"]) for c in checks.values()] == [("API server", False)]
    site.url = "https://127.0.0.1:1"
    status, checks = site.verify("--kubeconfig", str(site.kubeconfig()), capsys=capsys)
    assert (status, checks["API server"]["what"].startswith("no answer")) == (1, True)


@pytest.mark.attack
def test_a_server_that_its_authority_does_not_know_gets_no_token(site: Site, tmp_path: Path, capsys: Any) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    status, checks = site.verify("--kubeconfig", str(site.kubeconfig()), capsys=capsys)
    assert (status, "CERTIFICATE_VERIFY_FAILED" in checks["API server"]["what"], site.asked) == (1, True, [])


def test_a_client_certificate_signs_in_too(tmp_path: Path, capsys: Any) -> None:
    import ssl
    from http.server import ThreadingHTTPServer

    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    mine = ca.issue_cert("me@plant.example")
    cert, key = mine.cert_chain_pems[0].bytes(), mine.private_key_pem.bytes()

    class Api(Handler):
        def do_GET(self) -> None:  # noqa: N802
            self.answer(200, b'{"gitVersion": "v1"}') if self.path == "/version" else self.answer(404, b"{}")

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        about = {"client-certificate-data": base64.b64encode(cert), "client-key-data": base64.b64encode(key)}
        found = Site(f"https://127.0.0.1:{server.server_port}", tmp_path)
        path = found.kubeconfig(**{name: value.decode() for name, value in about.items()})
        _, checks = found.verify("--kubeconfig", str(path), capsys=capsys)
        server.shutdown()
    assert checks["API server"] == {"name": "API server", "ok": True, "what": "v1", "how": ""}


@pytest.mark.parametrize("user", [{"exec": {"command": "kubelogin"}}, {}])
def test_a_kubeconfig_without_a_token_is_refused(site: Site, user: dict[str, Any]) -> None:
    path = site.kubeconfig(**(user or {"username": "u"}))
    assert main.main(["cluster", "verify", "--kubeconfig", str(path)]) == 2


@pytest.mark.parametrize("text", ["", "[]", "current-context: x\ncontexts: []\n", "a: ["])
def test_what_is_no_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "k").write_text(text)
    assert main.main(["cluster", "verify", "--kubeconfig", str(tmp_path / "k")]) == 2


def test_somebody_has_to_be_asked() -> None:
    assert main.main(["cluster", "verify"]) == 2


def test_a_person_reads_what_to_do(site: Site, settings: str, capsys: pytest.CaptureFixture[str]) -> None:
    site.says[f"{AZUREML}/pods"] = {"items": []}
    assert main.main(["cluster", "verify", *asked_of(site, settings)]) == 1
    assert "failed pods: no pods in azureml\n       -> the extension is not there" in capsys.readouterr().out
