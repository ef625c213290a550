"""Whether settings of the extension are right for a cluster: every rule, as a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal

from cli.cluster.extension import (
    CLUSTER_TYPES,
    INFERENCE,
    LEAST,
    OUTDATED,
    ROUTERS,
    SELECTOR,
    SETTINGS,
    SPELLING,
    TRAINING,
    Least,
)
from cli.cluster.nodes import Node

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Severity
    setting: str
    what: str
    why: str
    how: str


@dataclass(frozen=True, slots=True)
class Pem:
    """What a certificate's two files hold, of those that are here: `wrong` by setting; the names that the certificate
    is for, none where it is not here."""

    wrong: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """Everything that the rules look at. `told` are the settings as they were written, once each; `twice` those written
    more than once; `nested` those that are no text; `cluster` is what `az aks show` or `az connectedk8s show` printed,
    `workspaces` the resource ids of the workspaces that it is to be attached to."""

    told: Mapping[str, str]
    nodes: Sequence[Node]
    type: str
    scenario: str
    cluster: Mapping[str, Any] = field(default_factory=dict)
    workspaces: Sequence[str] = ()
    pem: Pem = field(default_factory=Pem)
    twice: Sequence[str] = ()
    nested: Sequence[str] = ()

    def value(self, name: str) -> str:
        """What holds, in lower case: what was said, or the default."""
        return (self.told.get(name) or SETTINGS[name].default).lower()

    def on(self, name: str) -> bool:
        return self.value(name) == "true"

    def said(self, name: str) -> bool:
        return bool(self.told.get(name))

    @property
    def training(self) -> bool:
        return self.on("enableTraining")

    @property
    def inference(self) -> bool:
        return self.on("enableInference")

    @property
    def aks(self) -> bool:
        return self.type == "managedClusters"

    @property
    def https(self) -> bool:
        return self.inference and not self.on("allowInsecureConnections")

    @property
    def selector(self) -> dict[str, str]:
        return {k.removeprefix(SELECTOR): v for k, v in self.told.items() if k.startswith(SELECTOR)}

    @cached_property
    def chosen(self) -> list[Node]:
        """Nodes that bear the labels asked for."""
        return [n for n in self.nodes if self.selector.items() <= n.labels.items()]

    @cached_property
    def workers(self) -> list[Node]:
        """Of those, the ones that can run anything."""
        return [n for n in self.chosen if not n.unfit]

    @property
    def least(self) -> Least:
        return LEAST[self.scenario]

    @property
    def counted(self) -> str:
        """The worker nodes, and why others are none, in words."""
        others = [f"{n.name} {n.unfit}" for n in self.chosen if n.unfit]
        if left := len(self.nodes) - len(self.chosen):
            others.append(f"{left} without the nodeSelector's labels")
        said = f"{len(self.workers)} worker node{'s' * (len(self.workers) != 1)}"
        return f"{said} ({'; '.join(others[:4])}{'; ...' * (len(others) > 4)})" if others else said


Found = Callable[[Case], str | Iterable[tuple[str, str]] | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """`found` says what is wrong, nothing where all is well; or for each setting concerned. `why` and `how` hold
    whatever was found."""

    severity: Severity
    setting: str
    found: Found
    why: str
    how: str


def check(case: Case) -> list[Finding]:
    """All that is wrong, errors first."""
    order = ("error", "warning", "info")
    return sorted((f for rule in RULES for f in _findings(rule, case)), key=lambda f: order.index(f.severity))


def _findings(rule: Rule, case: Case) -> Iterable[Finding]:
    found = rule.found(case)
    each = [(rule.setting, found)] if isinstance(found, str) else found or ()
    return [Finding(rule.severity, setting, what, rule.why, rule.how) for setting, what in each]


def _when(condition: object, what: str) -> str | None:
    return what if condition else None


# --- the words of settings.yaml

_DNS = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


def _unknown(case: Case) -> Iterable[tuple[str, str]]:
    for name in case.told:
        if name in SETTINGS or name in OUTDATED or f"{name}.".startswith(SELECTOR):
            continue
        near = next((known for known in SETTINGS if known.lower() == name.lower()), None)
        near = near or next(iter(get_close_matches(name, SETTINGS, 1)), None)
        yield name, f"{name} is no setting of the extension" + (f"; {near} is one" if near else "")


def _outdated(case: Case) -> Iterable[tuple[str, str]]:
    for old, new in OUTDATED.items():
        if case.said(old):
            both = f", and {new} is set too" if case.said(new) else ""
            yield old, f"{old} is an outdated name of {new}{both}"


def _not_a_value(case: Case) -> Iterable[tuple[str, str]]:
    for name, setting in SETTINGS.items():
        if case.said(name) and setting.values and case.value(name) not in setting.values:
            allowed = " or ".join(SPELLING.get(v, v) for v in setting.values)
            yield name, f"{name} is {case.told[name]!r}: it is {allowed}"


def _empty(case: Case) -> Iterable[tuple[str, str]]:
    return ((name, f"{name} is said, and empty") for name in SETTINGS if case.told.get(name) == "")


def _not_for_this(case: Case) -> Iterable[tuple[str, str]]:
    enabled = {TRAINING: case.training, INFERENCE: case.inference}
    if not any(enabled.values()):
        return
    for name, setting in SETTINGS.items():
        if case.said(name) and not any(enabled[workload] for workload in setting.for_):
            yield name, f"{name} concerns {setting.for_[0]}, which is not enabled"


# --- TLS


def _half_a_pair(case: Case) -> Iterable[tuple[str, str]]:
    cert, key = case.said("sslCertPemFile"), case.said("sslKeyPemFile")
    if cert and not key:
        yield "sslKeyPemFile", "sslCertPemFile is given without sslKeyPemFile"
    if key and not cert:
        yield "sslCertPemFile", "sslKeyPemFile is given without sslCertPemFile"


def _no_certificate(case: Case) -> str | None:
    any_ = any(case.said(name) for name in ("sslSecret", "sslCertPemFile", "sslKeyPemFile"))
    return _when(case.https and not any_, "HTTPS is expected, and there is neither sslSecret nor a pair of PEM files")


def _both_certificates(case: Case) -> str | None:
    files = case.said("sslCertPemFile") or case.said("sslKeyPemFile")
    return _when(case.said("sslSecret") and files, "sslSecret and PEM files are both given")


def _unused_tls(case: Case) -> Iterable[tuple[str, str]]:
    if case.inference and not case.https:
        for name in ("sslCname", "sslSecret", "sslCertPemFile", "sslKeyPemFile"):
            if case.said(name):
                yield name, f"{name} is given, and allowInsecureConnections=True has the router speak HTTP"


def _no_such_name(case: Case) -> str | None:
    name = case.told.get("sslCname", "")
    fits = len(name) <= 253 and re.fullmatch(rf"{_DNS}(\.{_DNS})+", name.lower())
    return _when(name and not fits, f"sslCname is {name!r}: that is no DNS name")


def _other_name(case: Case) -> str | None:
    name = case.told.get("sslCname", "").lower()
    held = {n.lower() for n in case.pem.names}
    fits = {name, "*." + name.partition(".")[2]} & held
    return _when(name and held and not fits, f"the certificate is for {', '.join(sorted(held))}, not for {name}")


def _no_secret_name(case: Case) -> str | None:
    name = case.told.get("sslSecret", "")
    fits = len(name) <= 253 and re.fullmatch(rf"{_DNS}(\.{_DNS})*", name)
    return _when(name and not fits, f"sslSecret is {name!r}: that is no name of a Kubernetes secret")


# --- nodes


def _few_for_ha(case: Case) -> str | None:
    few = case.inference and case.on("inferenceRouterHA") and len(case.workers) < ROUTERS
    by = "" if case.said("inferenceRouterHA") else " by default"
    return _when(few, f"inferenceRouterHA is True{by}, and there are {case.counted}")


def _one_router(case: Case) -> str | None:
    enough = len(case.workers) >= ROUTERS
    one = case.inference and case.scenario == "production" and case.value("inferenceRouterHA") == "false"
    return _when(one and enough, f"inferenceRouterHA is False, and there are {case.counted}")


def _few(case: Case) -> str | None:
    said = f"{case.scenario} takes at least {case.least.nodes} worker node(s), and there are {case.counted}"
    return _when(case.inference and case.nodes and len(case.workers) < case.least.nodes, said)


def _nobody_chosen(case: Case) -> Iterable[tuple[str, str]]:
    for key, value in case.selector.items():
        if case.nodes and not any(n.labels.get(key) == value for n in case.nodes):
            yield f"{SELECTOR}{key}", f"no node bears the label {key}={value}"
    if (
        case.nodes
        and not case.chosen
        and all(any(n.labels.get(k) == v for n in case.nodes) for k, v in case.selector.items())
    ):
        yield SELECTOR.rstrip("."), "no node bears all the labels together"


def _short(case: Case, cpu: int, memory: int) -> Iterable[tuple[str, str]]:
    have = (sum(n.cpu for n in case.workers), sum(n.memory for n in case.workers))
    if not case.workers or not (case.training or case.inference):
        return
    if have[0] < cpu:
        yield "nodes", f"CPU: {cpu}m wanted for {case.scenario}, {have[0]}m allocatable on {case.counted}"
    if have[1] < memory:
        yield "nodes", f"memory: {memory}Mi wanted for {case.scenario}, {have[1]}Mi allocatable on {case.counted}"


def _too_small(case: Case) -> Iterable[tuple[str, str]]:
    return _short(case, case.least.cpu, case.least.memory) if case.inference else ()


def _too_small_to_train(case: Case) -> Iterable[tuple[str, str]]:
    return () if case.inference else _short(case, case.least.cpu, case.least.memory)


_SLACK = 0.9
"""A machine of 14 GiB tells of less: firmware and kernel have had theirs."""


def _small_nodes(case: Case) -> Iterable[tuple[str, str]]:
    for n in case.workers if case.inference else ():
        if n.size_cpu < case.least.node_cpu or n.size_memory < case.least.node_memory * _SLACK:
            yield "nodes", f"{n.name} has {n.size_cpu}m CPU and {n.size_memory}Mi"


# --- GPUs


def _no_gpu(case: Case) -> Iterable[tuple[str, str]]:
    if case.workers and not any(n.nvidia for n in case.workers):
        for name in ("installNvidiaDevicePlugin", "installDcgmExporter"):
            if case.on(name):
                yield name, f"{name} is True, and no node tells of a GPU of NVIDIA's"


def _idle_gpu(case: Case) -> str | None:
    idle = [n.name for n in case.workers if n.nvidia and not n.gpus]
    off = not case.on("installNvidiaDevicePlugin")
    return _when(idle and off, f"{', '.join(idle[:4])}: labelled as having a GPU, and none is allocatable")


# --- the cluster itself


def _service_principal(case: Case) -> str | None:
    client = str((case.cluster.get("servicePrincipalProfile") or {}).get("clientId") or "msi").lower()
    own = (case.cluster.get("identity") or {}).get("type") or "None"
    other = client != "msi" or "identity" in case.cluster
    return _when(case.aks and other and "Assigned" not in own, "the cluster has no managed identity")


def _no_local_accounts(case: Case) -> str | None:
    return _when(case.aks and case.cluster.get("disableLocalAccounts") is True, "local accounts are disabled")


def _closed_api(case: Case) -> str | None:
    profile = case.cluster.get("apiServerAccessProfile") or {}
    ranges = profile.get("authorizedIpRanges") or profile.get("authorizedIPRanges") or []
    return _when(case.aks and ranges, f"the API server answers {len(ranges)} authorised IP range(s) alone")


def _pod_identity(case: Case) -> str | None:
    on = (case.cluster.get("podIdentityProfile") or {}).get("enabled") is True
    return _when(case.aks and on, "Azure AD pod identity is enabled")


def _other_type(case: Case) -> str | None:
    kind = str(case.cluster.get("type") or "").lower()
    wanted = CLUSTER_TYPES[case.type].lower()
    return _when(
        kind and kind != wanted, f"--cluster-type is {case.type}, and the cluster is a {case.cluster.get('type')}"
    )


def _not_up(case: Case) -> str | None:
    state = str(case.cluster.get("provisioningState") or "Succeeded")
    power = str((case.cluster.get("powerState") or {}).get("code") or "Running")
    if state != "Succeeded":
        return f"its provisioningState is {state}"
    return _when(power != "Running", f"its powerState is {power}")


def _not_connected(case: Case) -> str | None:
    state = str(case.cluster.get("connectivityStatus") or "Connected")
    return _when(not case.aks and state not in ("Connected", "Connecting"), f"Arc says that the cluster is {state}")


def _subscription(case: Case) -> Iterable[tuple[str, str]]:
    own = subscription(str(case.cluster.get("id") or ""))
    for workspace in case.workspaces if case.aks and own else ():
        if subscription(workspace) not in ("", own):
            yield "subscription", f"{workspace.rpartition('/')[2]} is in another subscription than the cluster"


def subscription(resource: str) -> str:
    """Of a resource id, in lower case; empty: none.

    >>> subscription("/subscriptions/AB-1/resourceGroups/g"), subscription("x")
    ('ab-1', '')
    """
    found = re.match(r"/subscriptions/([^/]+)", resource, re.IGNORECASE)
    return found[1].lower() if found else ""


RULES: Sequence[Rule] = (
    Rule(
        "error",
        "",
        lambda case: ((name, f"{name} holds more settings") for name in case.nested),
        "settings are passed as key=value, each a text",
        "write them flat: nodeSelector.disktype: ssd",
    ),
    Rule(
        "error",
        "",
        lambda case: ((name, f"{name} is said twice") for name in case.twice),
        "only one of the two would hold",
        "keep one of them",
    ),
    Rule(
        "error",
        "",
        _unknown,
        "nothing heeds it, so that what it is to do is not done",
        "correct the name, or leave it out",
    ),
    Rule(
        "warning",
        "inferenceLoadBalancerHA",
        _outdated,
        "the setting has been renamed since; under the old name it may not be heeded, and the default (True) holds",
        "write inferenceRouterHA with the same value, and drop the old name",
    ),
    Rule("error", "", _not_a_value, "the extension knows no other value", "write one of these values"),
    Rule("error", "", _empty, "an empty value is none", "give it a value, or leave it out"),
    Rule(
        "error",
        SELECTOR.rstrip("."),
        lambda case: _when("nodeSelector" in case.told or SELECTOR in case.told, "nodeSelector names no label"),
        "each label is a setting of its own",
        "write nodeSelector.KEY=VALUE, once for each label",
    ),
    Rule(
        "error",
        "enableTraining",
        lambda case: _when(
            not case.training and not case.inference, "neither enableTraining nor enableInference is True"
        ),
        "both are False by default, and the extension would then do nothing",
        "set enableTraining=True, enableInference=True, or both",
    ),
    Rule(
        "warning", "", _not_for_this, "it is not heeded without that workload", "leave it out, or enable the workload"
    ),
    # How the router is reached.
    Rule(
        "error",
        "inferenceRouterServiceType",
        lambda case: _when(
            case.inference and not case.said("inferenceRouterServiceType"), "inferenceRouterServiceType is missing"
        ),
        "real-time inference goes through the router azureml-fe, whose kind of service has no default",
        "set it to LoadBalancer, NodePort or ClusterIP",
    ),
    Rule(
        "warning",
        "inferenceRouterServiceType",
        lambda case: _when(
            case.inference
            and not case.aks
            and str(case.cluster.get("infrastructure")).lower() != "azure"
            and case.value("inferenceRouterServiceType") == "loadbalancer",
            "inferenceRouterServiceType is LoadBalancer on a cluster outside Azure",
        ),
        "most clusters on premises cannot provision an external load balancer: the router's address would stay pending",
        "make sure that the cluster has one (MetalLB, k3s' own), or take NodePort",
    ),
    Rule(
        "info",
        "inferenceRouterServiceType",
        lambda case: _when(
            case.inference and case.value("inferenceRouterServiceType") == "clusterip",
            "inferenceRouterServiceType is ClusterIP",
        ),
        "the router can then be reached from within the cluster alone",
        "put your own load balancer or ingress, which ends TLS, in front of it for callers from outside",
    ),
    Rule(
        "error",
        "internalLoadBalancerProvider",
        lambda case: _when(
            case.said("internalLoadBalancerProvider") and not case.aks,
            "internalLoadBalancerProvider is set on an Arc cluster",
        ),
        "it is for AKS alone",
        "leave it out; with NodePort or ClusterIP the router stays inside your network",
    ),
    Rule(
        "warning",
        "internalLoadBalancerProvider",
        lambda case: _when(
            case.inference
            and case.said("internalLoadBalancerProvider")
            and case.value("inferenceRouterServiceType") in ("nodeport", "clusterip"),
            "internalLoadBalancerProvider is set, and the router has no load balancer",
        ),
        "it says of which network the router's load balancer is",
        "set inferenceRouterServiceType=LoadBalancer, or leave it out",
    ),
    # TLS.
    Rule(
        "error",
        "allowInsecureConnections",
        lambda case: _when(
            case.inference and case.scenario == "production" and not case.https, "allowInsecureConnections is True"
        ),
        "requests and keys would go over HTTP, which is for development and tests",
        "leave it out, and give sslCname with sslSecret or with sslCertPemFile and sslKeyPemFile",
    ),
    Rule(
        "error",
        "sslCname",
        lambda case: _when(case.https and not case.said("sslCname"), "sslCname is missing"),
        "HTTPS endpoints are called by this name; without allowInsecureConnections=True it is required",
        "set sslCname to the name in the certificate (for a test: allowInsecureConnections=True)",
    ),
    Rule(
        "error", "sslCname", _no_such_name, "callers reach the endpoints by it", "write a name such as ml.example.com"
    ),
    Rule(
        "error",
        "sslCname",
        _other_name,
        "callers would refuse the certificate",
        "take a certificate for that name, or the name that the certificate is for",
    ),
    Rule(
        "error",
        "sslSecret",
        _no_certificate,
        "without allowInsecureConnections=True the router must have a certificate",
        "name a secret of the namespace azureml with cert.pem and key.pem (sslSecret), or give both PEM files",
    ),
    Rule(
        "error",
        "sslSecret",
        _both_certificates,
        "they are two ways to give the same certificate, and nothing says which one wins",
        "keep one of them",
    ),
    Rule(
        "error", "", _half_a_pair, "a certificate is of no use without its key, nor a key without it", "give both files"
    ),
    Rule(
        "error",
        "",
        lambda case: case.pem.wrong.items(),
        "the router reads PEM files as they are, and none with a pass phrase",
        "give one valid certificate and its key, decrypted: openssl pkey -in key.pem -out plain.pem",
    ),
    Rule(
        "error",
        "sslSecret",
        _no_secret_name,
        "it is looked up in the namespace azureml",
        "write the secret's name alone",
    ),
    Rule(
        "warning",
        "",
        _unused_tls,
        "the two contradict each other: nothing is encrypted",
        "drop allowInsecureConnections for HTTPS, or drop the TLS settings",
    ),
    # Nodes.
    Rule(
        "error",
        "nodes",
        lambda case: _when(not case.nodes, "there are no nodes"),
        "the extension's pods need nodes to run on",
        "take nodes.json from the cluster in question: kubectl get nodes -o json",
    ),
    Rule(
        "error",
        "nodes",
        lambda case: _when(case.chosen and not case.workers, f"nothing can run: {case.counted}"),
        "pods go to nodes that are ready, run Linux and are neither cordoned nor tainted",
        "make a node ready, or uncordon or untaint it (taints of ml.azure.com/... may stay)",
    ),
    Rule(
        "error",
        "",
        _nobody_chosen,
        "the extension and all workloads run only on nodes with these labels: none would start",
        "label the nodes (kubectl label node NAME KEY=VALUE), or correct the setting",
    ),
    Rule(
        "error",
        "inferenceRouterHA",
        _few_for_ha,
        f"high availability makes {ROUTERS} replicas of the router, each on a worker node of its own",
        f"set inferenceRouterHA=False (one router), or give the cluster {ROUTERS} worker nodes",
    ),
    Rule(
        "warning",
        "inferenceRouterHA",
        _one_router,
        "with a single router, inference stops when its node does",
        "leave inferenceRouterHA at its default, True",
    ),
    Rule("error", "nodes", _few, "fewer do not hold what runs there", "add worker nodes"),
    Rule(
        "error",
        "nodes",
        _too_small,
        "the extension's pods request that much; with less, some stay pending",
        "add nodes or take larger ones; what other workloads use comes on top",
    ),
    Rule(
        "warning",
        "nodes",
        _too_small_to_train,
        "that is known of inference; for training alone no figure is known, and jobs come on top",
        "add nodes or take larger ones",
    ),
    Rule(
        "info",
        "nodes",
        _small_nodes,
        "recommended at least: 2 CPUs and 7 GiB a node for a test, 4 CPUs and 14 GiB in production",
        "take larger machines where you can",
    ),
    # GPUs, and what may be there already.
    Rule(
        "warning",
        "",
        _no_gpu,
        "it is for GPUs of NVIDIA's",
        "leave it out, or add GPU nodes (a label such as nvidia.com/gpu.present=true tells of them)",
    ),
    Rule(
        "warning",
        "installNvidiaDevicePlugin",
        _idle_gpu,
        "without the device plugin no workload can ask for a GPU, and the extension installs none by default",
        "set installNvidiaDevicePlugin=True, or install the plugin yourself",
    ),
    Rule(
        "info",
        "installPromOp",
        lambda case: _when(
            (case.training or case.inference) and not case.on("installPromOp"), "installPromOp is False"
        ),
        "the extension then uses a Prometheus operator that is there already, and does not work without one",
        "make sure that the cluster has one: kubectl get crd prometheuses.monitoring.coreos.com",
    ),
    Rule(
        "info",
        "installVolcano",
        lambda case: _when(case.training and not case.on("installVolcano"), "installVolcano is False"),
        "training jobs are then scheduled by a Volcano that is there already, and wait for ever without one",
        "make sure that the cluster has one: kubectl get crd queues.scheduling.volcano.sh",
    ),
    # The cluster itself.
    Rule(
        "error",
        "cluster-type",
        _other_type,
        "the extension goes to the resource that this type and the cluster's name make up",
        "give the other --cluster-type",
    ),
    Rule(
        "error",
        "identity",
        _service_principal,
        "Azure ML supports AKS with a managed identity, system- or user-assigned, alone",
        "az aks update --enable-managed-identity",
    ),
    Rule(
        "error",
        "disableLocalAccounts",
        _no_local_accounts,
        "Azure ML does not support AKS clusters without local accounts",
        "az aks update --enable-local-accounts",
    ),
    Rule(
        "warning",
        "authorizedIpRanges",
        _closed_api,
        "Azure ML's control plane must reach the API server, or no pod of its is deployed",
        "add the AzureMachineLearning ranges of the cluster's region and of the region paired with it",
    ),
    Rule(
        "error",
        "podIdentityProfile",
        _pod_identity,
        "Azure ML does not support it, as it does not every preview feature of AKS",
        "disable it: az aks update --disable-pod-identity",
    ),
    Rule(
        "error",
        "subscription",
        _subscription,
        "AKS can be attached to workspaces of its own subscription alone",
        "connect the cluster to Arc in the workspace's subscription (az connectedk8s connect), and attach that: "
        "--cluster-type connectedClusters",
    ),
    Rule(
        "error", "cluster", _not_up, "extensions can be installed on a running cluster alone", "mend or start it first"
    ),
    Rule(
        "error",
        "cluster",
        _not_connected,
        "nothing can be asked of a cluster that Arc does not hear; a certificate that has expired (90 days) is final",
        "bring its agents back online; one that has expired is deleted and connected again (az connectedk8s connect)",
    ),
)
