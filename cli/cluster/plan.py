"""What is to be run to make a cluster a site: az commands, the same as Bicep, and manifests."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cli.cluster.extension import CLUSTER_TYPES, GROUP, LEAST, SETTINGS, SPELLING, TYPE
from cli.cluster.nodes import GPU, Node
from cli.cluster.rules import subscription
from triggers.errors import Refused

COMPUTE = re.compile(r"[A-Za-z](-?[A-Za-z0-9]){1,15}")
NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource id, taken apart."""

    subscription: str
    group: str
    type: str
    name: str

    def __str__(self) -> str:
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}/providers/{self.type}/{self.name}"


def resource(id: str, *types: str) -> Resource:
    """Raises Refused where it is not the id of one of these types.

    >>> resource("/subscriptions/s/resourcegroups/g/providers/microsoft.kubernetes/connectedclusters/c",
    ...     "Microsoft.Kubernetes/connectedClusters").name
    'c'
    """
    part = r"([\w.()-]+)"
    pattern = rf"/subscriptions/{part}/resourceGroups/{part}/providers/([\w.]+/\w+)/{part}"
    found = re.fullmatch(pattern, id, re.IGNORECASE)
    kind = next((t for t in types if found and t.lower() == found[3].lower()), None)
    if found is None or kind is None:
        raise Refused(f"{id!r} is not the resource id of a {' or '.join(types)}")
    return Resource(found[1], found[2], kind, found[4])


@dataclass(frozen=True, slots=True)
class Attachment:
    """One compute of a workspace: the cluster, or a namespace of it, under a name."""

    workspace: Resource
    namespace: str
    compute: str


def attachment(text: str, cluster: str) -> Attachment:
    """`WORKSPACE_ID[,namespace=N][,name=C]`; the compute is called as the cluster where nothing else is said."""
    id, *more = text.split(",")
    said = dict(part.partition("=")[::2] for part in more)
    if unknown := set(said) - {"namespace", "name"}:
        raise Refused(f"--attach knows namespace= and name=, not {', '.join(sorted(unknown))}")
    workspace = resource(id, "Microsoft.MachineLearningServices/workspaces")
    found = Attachment(workspace, said.get("namespace", "default"), said.get("name", cluster[:16].strip("-")))
    if not COMPUTE.fullmatch(found.compute):
        raise Refused(f"{found.compute!r} is no name of a compute: 2 to 16 letters, digits and hyphens (name=...)")
    if not NAMESPACE.fullmatch(found.namespace):
        raise Refused(f"{found.namespace!r} is no name of a namespace")
    return found


@dataclass(frozen=True, slots=True)
class Flux:
    """The Git repository that a site is kept like."""

    url: str
    branch: str = "main"
    path: str = "./"


@dataclass(frozen=True, slots=True)
class Plan:
    """`settings` empty: the extension is there already. `connect`: an AKS cluster that Arc has to connect first."""

    cluster: Resource
    extension: str
    settings: Mapping[str, str]
    attachments: Sequence[Attachment] = ()
    flux: Flux | None = None
    nodes: Sequence[Node] = ()
    connect: Resource | None = None

    @property
    def cluster_type(self) -> str:
        return next(short for short, full in CLUSTER_TYPES.items() if full == self.cluster.type)

    @property
    def namespaces(self) -> list[str]:
        return sorted({a.namespace for a in self.attachments} - {"default"})


def through_arc(plan: Plan) -> Plan:
    """AKS goes to workspaces of its own subscription alone: for others, as a cluster that Arc connects in theirs."""
    others = [
        a.workspace for a in plan.attachments if subscription(str(a.workspace)) != subscription(str(plan.cluster))
    ]
    if plan.cluster.type != CLUSTER_TYPES["managedClusters"] or not others:
        return plan
    arc = CLUSTER_TYPES["connectedClusters"]
    return replace(
        plan,
        cluster=Resource(others[0].subscription, others[0].group, arc, plan.cluster.name),
        connect=plan.cluster,
    )


def files(plan: Plan) -> dict[str, str]:
    """By name: the commands, the same as Bicep, and what kubectl applies."""
    made = {"onboard.sh": commands(plan), "onboard.bicep": bicep(plan)}
    if plan.attachments:
        made["attach.bicep"] = ATTACH
    if manifests := [*map(_namespace, plan.namespaces), *map(instance_type, sizes(plan.nodes))]:
        made["cluster.yaml"] = "---\n".join(manifests)
    return made


# --- commands


def commands(plan: Plan) -> str:
    lines = ["#!/bin/sh", "# Makes a cluster a site.", "set -eu", ""]
    for title, asked in _steps(plan):
        lines += [f"# {title}", *asked, ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _steps(plan: Plan) -> Iterable[tuple[str, list[str]]]:
    own = plan.cluster
    place = {"--subscription": own.subscription, "--resource-group": own.group}
    here = {"--cluster-type": plan.cluster_type, "--cluster-name": own.name, **place}
    if aks := plan.connect:
        yield (
            f"AKS and a workspace are in different subscriptions: Arc connects {aks.name} in the workspace's",
            [
                _az("aks get-credentials", {**_place(aks), "--name": aks.name}),
                _az("connectedk8s connect", {**place, "--name": own.name}),
            ],
        )
    if plan.settings:
        asked = {"--name": plan.extension, "--extension-type": TYPE, **here, "--scope": "cluster"}
        command = _az("k8s-extension create", asked, _pairs(plan.settings))
        shown = _az("k8s-extension show", {"--name": plan.extension, **here, "--query": "provisioningState"})
        yield "Azure ML's extension", [command, shown]
    if plan.namespaces or plan.nodes:
        yield "Namespaces and instance types", ["kubectl apply -f cluster.yaml"]
    for a in plan.attachments:
        asked = {"--type": "Kubernetes", "--name": a.compute, "--workspace-name": a.workspace.name}
        asked |= {**_place(a.workspace), "--resource-id": str(own), "--namespace": a.namespace}
        yield (
            f"{a.workspace.name} has it as {a.compute}",
            [_az("ml compute attach", {**asked, "--identity-type": "SystemAssigned"})],
        )
    if plan.flux:
        asked = {"--name": "driftloop", **here, "--namespace": "driftloop", "--scope": "cluster"}
        asked |= {"--url": plan.flux.url, "--branch": plan.flux.branch}
        kustomization = ["--kustomization", "name=site", f"path={plan.flux.path}", "prune=true"]
        yield "The site is kept like its repository", [_az("k8s-configuration flux create", asked, kustomization)]


def _place(of: Resource) -> dict[str, str]:
    return {"--subscription": of.subscription, "--resource-group": of.group}


def _az(what: str, options: Mapping[str, str], last: Sequence[str] = ()) -> str:
    said = [f"{name} {shlex.quote(value)}" for name, value in options.items()]
    return " \\\n  ".join([f"az {what}", *said, *([shlex.join(last)] if last else [])])


def _pairs(settings: Mapping[str, str]) -> list[str]:
    """As `--config` and `--config-protected` take them."""
    secret = {k: v for k, v in settings.items() if k in PEM}
    plain = {k: v for k, v in settings.items() if k not in PEM}
    words = ["--config", *(f"{k}={_spelt(k, v)}" for k, v in plain.items())]
    return words + (["--config-protected", *(f"{k}={v}" for k, v in secret.items())] if secret else [])


def _spelt(name: str, value: str) -> str:
    known = SETTINGS.get(name)
    return SPELLING.get(value.lower(), value) if known and known.values else value


# --- Bicep

ATTACH = """// A Kubernetes cluster as a compute of one workspace.

param workspace string
param compute string
param cluster string
param namespace string
param location string = resourceGroup().location

resource ml 'Microsoft.MachineLearningServices/workspaces@2024-10-01' existing = {
  name: workspace
}

resource attached 'Microsoft.MachineLearningServices/workspaces/computes@2024-10-01' = {
  parent: ml
  name: compute
  location: location
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    computeType: 'Kubernetes'
    resourceId: cluster
    properties: {
      namespace: namespace
    }
  }
}
"""

_SYMBOLS = {
    "managedClusters": "Microsoft.ContainerService/managedClusters@2024-09-01",
    "connectedClusters": "Microsoft.Kubernetes/connectedClusters@2024-01-01",
}


PEM = {"sslCertPemFile": ("certificate", "scoringFe.sslCert"), "sslKeyPemFile": ("key", "scoringFe.sslKey")}
"""PEM files are read by az, which passes what they hold: parameter and protected setting of each, as in its source."""


def bicep(plan: Plan) -> str:
    """For `az deployment group create` in the cluster's resource group."""
    return "\n".join(_bicep(plan)) + "\n"


def _bicep(plan: Plan) -> Iterable[str]:
    files = {PEM[k]: v for k, v in plan.settings.items() if k in PEM}
    given = "".join(f" {param}=@{path}" for (param, _), path in files.items())
    parameters = f" --parameters{given}" if given else ""
    yield f"// az deployment group create --subscription {plan.cluster.subscription} \\"
    yield f"//   --resource-group {plan.cluster.group} --template-file onboard.bicep{parameters}"
    if plan.settings and plan.cluster_type == "connectedClusters":
        yield "// On Arc, az also makes the Azure Relay that the extension talks through: where the extension stays"
        yield "// Pending, create it by the command in onboard.sh instead."
    for param, _ in files:
        yield f"\n@secure()\nparam {param} string"
    yield f"\nresource cluster '{_SYMBOLS[plan.cluster_type]}' existing = {{\n  name: {_text(plan.cluster.name)}\n}}"
    if plan.settings:
        plain = {k: v for k, v in plan.settings.items() if k not in PEM}
        settings = "".join(f"      {_key(k)}: {_text(_spelt(k, v))}\n" for k, v in plain.items())
        secrets = "".join(f"      {_text(key)}: base64({param})\n" for param, key in files)
        protected = f"    configurationProtectedSettings: {{\n{secrets}    }}\n" if secrets else ""
        yield _EXTENSION.format(name=_text(plan.extension), type=_text(TYPE), settings=settings, protected=protected)
    after = "  dependsOn: [extension]\n" if plan.settings else ""
    for i, a in enumerate(plan.attachments):
        yield _MODULE.format(i=i, a=a, w=a.workspace, after=after)
    if plan.flux:
        yield _FLUX.format(url=_text(plan.flux.url), branch=_text(plan.flux.branch), path=_text(plan.flux.path))


def _text(value: str) -> str:
    """A string of Bicep's."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${") + "'"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) else _text(name)


_EXTENSION = """
resource extension 'Microsoft.KubernetesConfiguration/extensions@2022-11-01' = {{
  scope: cluster
  name: {name}
  identity: {{
    type: 'SystemAssigned'
  }}
  properties: {{
    extensionType: {type}
    autoUpgradeMinorVersion: true
    releaseTrain: 'stable'
    scope: {{
      cluster: {{
        releaseNamespace: 'azureml'
      }}
    }}
    configurationSettings: {{
{settings}    }}
{protected}  }}
}}"""

_MODULE = """
module attach{i} 'attach.bicep' = {{
  name: 'attach-{i}-{a.compute}'
  scope: resourceGroup('{w.subscription}', '{w.group}')
  params: {{
    workspace: '{w.name}'
    compute: '{a.compute}'
    cluster: cluster.id
    namespace: '{a.namespace}'
  }}
{after}}}"""

_FLUX = """
resource flux 'Microsoft.KubernetesConfiguration/fluxConfigurations@2025-04-01' = {{
  scope: cluster
  name: 'driftloop'
  properties: {{
    scope: 'cluster'
    namespace: 'driftloop'
    sourceKind: 'GitRepository'
    gitRepository: {{
      url: {url}
      repositoryRef: {{
        branch: {branch}
      }}
    }}
    kustomizations: {{
      site: {{
        path: {path}
        prune: true
      }}
    }}
  }}
}}"""


# --- manifests


@dataclass(frozen=True, slots=True)
class Size:
    """What one workload may have: millicores, Mi, GPUs, on nodes with this label (none: on any)."""

    name: str
    cpu: int
    memory: int
    gpus: int = 0
    label: tuple[str, str] | None = None


MACHINE = "node.kubernetes.io/instance-type"


def sizes(nodes: Sequence[Node]) -> list[Size]:
    """Whole, half and a quarter of each kind of node, after the extension's own share of it."""
    able = [n for n in nodes if not n.unfit]
    kinds: dict[tuple[str, int, int, int], Node] = {}
    for n in able:
        kinds.setdefault((n.labels.get(MACHINE, ""), round(n.cpu, -2), n.memory // 1024, n.gpus), n)
    own = LEAST["production" if len(able) >= LEAST["production"].nodes else "test"]
    machines = {key[0] for key in kinds}
    found: dict[str, Size] = {}
    for (machine, *_), n in kinds.items():
        cpu, memory = n.cpu - own.cpu // len(able), n.memory - own.memory // len(able)
        label = (MACHINE, machine) if machine and len(machines) > 1 else None
        for part, name in ((1, "whole"), (2, "half"), (4, "quarter")):
            if cpu // part >= 100 and memory // part >= 256 and not (n.gpus and part > 1):
                size = Size(_name(machine, n, name, len(kinds)), cpu // part, memory // part, min(n.gpus, 1), label)
                found.setdefault(size.name, size)
    return list(found.values())


def _name(machine: str, node: Node, part: str, kinds: int) -> str:
    kind = re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-") or f"c{node.cpu // 1000}m{node.memory // 1024}"
    return f"{kind}-{part}" if kinds > 1 else part


def instance_type(size: Size) -> str:
    gpu = f'      {GPU}: "{size.gpus}"\n' if size.gpus else ""
    have = f'      cpu: "{size.cpu}m"\n      memory: "{size.memory}Mi"\n'
    label = f'  nodeSelector:\n    {size.label[0]}: "{size.label[1]}"\n' if size.label else ""
    return (
        f"apiVersion: {GROUP}/v1alpha1\nkind: InstanceType\nmetadata:\n  name: {size.name}\nspec:\n{label}"
        f"  resources:\n    requests:\n{have}    limits:\n{have}{gpu}"
    )


def _namespace(name: str) -> str:
    return f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n"
