"""Whether a cluster has become a site: asked of its own API server, of Azure Resource Manager, and of the router."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from cli.cluster.extension import ALWAYS, ARC, COMPONENTS, GROUP, INFERENCE, KINDS, NAMESPACE, SETTINGS, TRAINING
from cli.cluster.plan import Attachment, Resource
from triggers.errors import Refused

TIMEOUT_S = 15.0
MOST_BYTES = 64 * 1024 * 1024
ROUTER = "azureml-fe"
ARM = "https://management.azure.com"
EXTENSIONS, COMPUTES = "2022-11-01", "2024-10-01"
"""api-versions."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `how` mends it."""

    name: str
    ok: bool
    what: str
    how: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status 0: there was none, and `text` says why."""

    status: int
    text: str

    @property
    def json(self) -> dict[str, Any]:
        try:
            found = json.loads(self.text)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def items(self) -> list[dict[str, Any]]:
        return list(self.json.get("items") or [])

    def __str__(self) -> str:
        return f"status {self.status}: {self.text[:200]}" if self.status else self.text


@dataclass(frozen=True)
class Server:
    """Somebody who answers over HTTPS."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    context: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    def ask(self, path: str, body: bytes | None = None) -> Answer:
        """GET, or POST where there is a body."""
        about = {"Accept": "application/json", "Content-Type": "application/json", **self.headers}
        request = urllib.request.Request(self.url + path, body, about)  # noqa: S310 - https is made sure of by who made it
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self.context) as answer:  # noqa: S310
                return Answer(answer.status, answer.read(MOST_BYTES).decode(errors="replace"))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read(4096).decode(errors="replace"))
        except (OSError, HTTPException) as error:
            return Answer(0, f"no answer: {getattr(error, 'reason', None) or error}")


def kube(path: Path, context: str = "") -> Server:
    """The API server of a kubeconfig's context, as its user. Raises Refused where there is nothing to sign in with."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text("utf-8"))
        wanted = context or config["current-context"]
        chosen = _named(config, "contexts", "context", wanted)
        cluster = _named(config, "clusters", "cluster", chosen["cluster"])
        user = _named(config, "users", "user", chosen["user"])
        server = str(cluster["server"]).rstrip("/")
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise Refused(f"{path}: not a kubeconfig, or without that context: {error}") from error
    if not server.startswith("https://"):
        raise Refused(f"{path}: the API server {server} is not reached over https")
    token = user.get("token") or (Path(user["tokenFile"]).read_text().strip() if user.get("tokenFile") else "")
    tls = _context(path, cluster, user)
    if not token and not _pem(path, user, "client-certificate"):
        raise Refused(
            f"{path}: {wanted} signs in by another program; give a kubeconfig with a token or a client certificate "
            "(kubectl create token, az aks get-credentials --admin)"
        )
    return Server(server, {"Authorization": f"Bearer {token}"} if token else {}, tls)


def _named(config: Mapping[str, Any], kind: str, part: str, name: str) -> Mapping[str, Any]:
    found = next((item[part] for item in config[kind] if item["name"] == name), None)
    if found is None:
        raise KeyError(f"{kind}: {name}")
    return found  # type: ignore[no-any-return]


def _pem(config: Path, of: Mapping[str, Any], name: str) -> bytes:
    """As data, or in a file that is named."""
    if of.get(f"{name}-data"):
        return base64.b64decode(of[f"{name}-data"])
    return (config.parent / of[name]).read_bytes() if of.get(name) else b""


def _context(path: Path, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    authority = _pem(path, cluster, "certificate-authority").decode()
    made = ssl.create_default_context(cadata=authority or None)
    if cluster.get("insecure-skip-tls-verify"):
        raise Refused(f"{path}: insecure-skip-tls-verify: the API server could be anybody; name its authority")
    if cert := _pem(path, user, "client-certificate"):
        with tempfile.NamedTemporaryFile() as file:
            file.write(cert + b"\n" + _pem(path, user, "client-key"))
            file.flush()
            made.load_cert_chain(file.name)
    return made


def arm(url: str = ARM) -> Server:
    """As who is signed in (az login), or the machine's identity."""
    from azure.identity import DefaultAzureCredential

    token = DefaultAzureCredential().get_token(f"{ARM}/.default").token
    return Server(url.rstrip("/"), {"Authorization": f"Bearer {token}"})


# --- what Azure says


def in_azure(server: Server, cluster: Resource, extension: str, attached: Iterable[Attachment]) -> Iterable[Check]:
    about = f"/providers/Microsoft.KubernetesConfiguration/extensions/{extension}?api-version={EXTENSIONS}"
    yield _provisioned(server.ask(f"{cluster}{about}"), f"extension {extension}")
    for a in attached:
        answer = server.ask(f"{a.workspace}/computes/{a.compute}?api-version={COMPUTES}")
        name = f"compute {a.compute} of {a.workspace.name}"
        found = str((answer.json.get("properties") or {}).get("resourceId", cluster))
        if answer.status == 200 and found.lower() != str(cluster).lower():
            yield Check(name, False, f"is another cluster: {found}", "detach it, or attach under another name")
        else:
            yield _provisioned(answer, name)


def _provisioned(answer: Answer, name: str) -> Check:
    about = answer.json.get("properties") or {}
    state = about.get("provisioningState")
    if answer.status == 404:
        return Check(name, False, "is not there", "run onboard.sh of `driftloop cluster plan`")
    if answer.status != 200 or state is None:
        return Check(name, False, str(answer), "sign in as somebody who may read it (az login)")
    said = "; ".join(str(s.get("message") or s.get("code")) for s in about.get("statuses") or [])[:300]
    how = "Pending may last some minutes; for the rest see its statuses and the pods' logs"
    return Check(name, state == "Succeeded", f"{state}{': ' * bool(said)}{said}", "" if state == "Succeeded" else how)


# --- what the cluster says


def in_cluster(server: Server, settings: Mapping[str, str], extension: str, arc: bool) -> Iterable[Check]:
    """`settings` are those that the extension was given; none: only what it always brings is expected."""
    version = server.ask("/version")
    if version.status != 200:
        yield Check("API server", False, str(version), "look at the address and the token of the kubeconfig")
        return
    yield Check("API server", True, str(version.json.get("gitVersion")))
    wanted = _wanted(settings, arc)
    yield _pods(server)
    yield from _components(server, wanted, extension)
    yield _kinds(server, wanted)
    if settings.get("sslSecret"):
        yield _secret(server, settings["sslSecret"])
    if wanted(INFERENCE):
        yield from _router(server, settings)
        yield _legacy(server)


def _wanted(settings: Mapping[str, str], arc: bool) -> Callable[[str], bool]:
    """Whether what comes with this (a workload, a setting, Arc) should be there."""

    def on(name: str) -> bool:
        return (settings.get(name) or SETTINGS[name].default).lower() == "true"

    enabled = {TRAINING: on("enableTraining"), INFERENCE: on("enableInference"), ALWAYS: True, ARC: arc}

    def wanted(by: str) -> bool:
        return enabled[by] if by in enabled else on(by) and any(enabled[w] for w in SETTINGS[by].for_)

    return wanted


def _pods(server: Server) -> Check:
    answer = server.ask(f"/api/v1/namespaces/{NAMESPACE}/pods")
    if answer.status != 200 or not answer.items:
        why = f"no pods in {NAMESPACE}" if answer.status == 200 else str(answer)
        return Check("pods", False, why, "the extension is not there, or the token may not list pods")
    waiting = [
        f"{p['metadata']['name']} {_reason(p['status'])}"
        for p in answer.items
        if p["status"].get("phase") not in ("Running", "Succeeded")
    ]
    if waiting:
        how = f"kubectl describe pod -n {NAMESPACE} NAME: most often no node has room, or an image cannot be pulled"
        return Check("pods", False, f"{len(waiting)} of {len(answer.items)} do not run: {'; '.join(waiting[:5])}", how)
    return Check("pods", True, f"{len(answer.items)} run")


def _reason(status: Mapping[str, Any]) -> str:
    states = (c.get("state", {}).get("waiting", {}).get("reason") for c in status.get("containerStatuses") or [])
    conditions = (c.get("reason") for c in status.get("conditions") or [] if c.get("status") == "False")
    return next(filter(None, (*states, *conditions)), None) or str(status.get("phase"))


def _components(server: Server, wanted: Callable[[str], bool], extension: str) -> Iterable[Check]:
    for kind in ("deployments", "daemonsets", "statefulsets"):
        answer = server.ask(f"/apis/apps/v1/namespaces/{NAMESPACE}/{kind}")
        if answer.status != 200:
            yield Check(kind, False, str(answer), f"give the token the right to list {kind} in {NAMESPACE}")
            continue
        there = {item["metadata"]["name"] for item in answer.items}
        names = [n.format(extension=extension) for n, (k, by) in COMPONENTS.items() if k == kind and wanted(by)]
        missing = [name for name in names if name not in there]
        what = f"missing: {', '.join(missing)}" if missing else f"{len(names)} expected are there"
        yield Check(
            kind,
            not missing,
            what,
            "wait until the extension has Succeeded, or delete and create it anew" * bool(missing),
        )


def _kinds(server: Server, wanted: Callable[[str], bool]) -> Check:
    answer = server.ask("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
    if answer.status != 200:
        return Check("custom resources", False, str(answer), "give the token the right to list their definitions")
    there = {i["spec"]["names"]["kind"].lower() for i in answer.items if i["spec"]["group"] == GROUP}
    missing = [kind for kind, by in KINDS.items() if wanted(by) and kind.lower() not in there]
    what = f"missing: {', '.join(missing)}" if missing else f"{len(there)} of {GROUP}"
    return Check("custom resources", not missing, what, "delete the extension and create it anew" * bool(missing))


def _secret(server: Server, name: str) -> Check:
    answer = server.ask(f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")
    missing = sorted({"cert.pem", "key.pem"} - set(answer.json.get("data") or {}))
    what = (
        (f"without {' and '.join(missing)}" if missing else "has both PEM files")
        if answer.status == 200
        else str(answer)
    )
    how = f"kubectl create secret generic {name} -n {NAMESPACE} --from-file=cert.pem --from-file=key.pem"
    return Check(f"secret {name}", not missing, what, how * bool(missing))


def _router(server: Server, settings: Mapping[str, str]) -> Iterable[Check]:
    """Through the API server, so that no way from here to the cluster's network is needed."""
    answer = server.ask(f"/api/v1/namespaces/{NAMESPACE}/services")
    found = next((s for s in answer.items if s["metadata"]["name"].startswith(ROUTER)), None)
    if found is None:
        yield Check(
            "router", False, f"no service {ROUTER}" if answer.status == 200 else str(answer), "look at its pods"
        )
        return
    kind, wanted = str(found["spec"].get("type")), settings.get("inferenceRouterServiceType", "")
    if wanted and kind.lower() != wanted.lower():
        yield Check("router's service", False, f"is {kind}, not {wanted}", "delete the extension and create it anew")
    elif kind == "LoadBalancer" and not (found.get("status", {}).get("loadBalancer") or {}).get("ingress"):
        how = "the cluster gives out no load balancers: install one, or take NodePort"
        yield Check("router's service", False, "waits for an address", how)
    else:
        yield Check("router's service", True, kind)
    name, port = found["metadata"]["name"], found["spec"]["ports"][0]
    scheme = "https:" if port.get("port") == 443 else ""
    said = server.ask(f"/api/v1/namespaces/{NAMESPACE}/services/{scheme}{name}:{port['port']}/proxy/")
    ok = 200 <= said.status < 500 and said.status not in (401, 403)
    yield Check(
        "router", ok, f"answers {said.status}" if ok else str(said), "look at the pods of azureml-fe-v2" * (not ok)
    )


def _legacy(server: Server) -> Check:
    """Of the first generation of Azure ML on AKS."""
    answer = server.ask("/apis/apps/v1/namespaces/default/deployments")
    left = [i["metadata"]["name"] for i in answer.items if i["metadata"]["name"].startswith(ROUTER)]
    how = "remove what Azure ML v1 left in the namespace default before models are deployed"
    return Check("no older router", not left, f"{', '.join(left)} in default" if left else "none", how * bool(left))


# --- what a caller sees


def scoring(url: str, body: bytes, key: str) -> Check:
    server = Server(url, {"Authorization": f"Bearer {key}"} if key else {})
    answer = server.ask("", body)
    how = {401: "give the endpoint's key", 404: "the endpoint has no such path, or no traffic is on its deployment"}
    ok = answer.status == 200
    return Check(
        "scoring", ok, answer.text[:200] if ok else str(answer), "" if ok else how.get(answer.status, "see its log")
    )
