"""What Azure ML's extension for Kubernetes takes, needs and brings, as tables. Nothing here decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TYPE = "Microsoft.AzureML.Kubernetes"
NAMESPACE = "azureml"
CLUSTER_TYPES = {
    "managedClusters": "Microsoft.ContainerService/managedClusters",
    "connectedClusters": "Microsoft.Kubernetes/connectedClusters",
}
"""What `--cluster-type` says, and the resource type behind it: AKS, and any cluster that Arc has connected."""

TRAINING, INFERENCE = "training", "inference"
ROUTERS = 3
"""Replicas of the inference router under high availability: each wants a worker node."""


@dataclass(frozen=True, slots=True)
class Setting:
    """`values`: what may be said, in lower case; none: any text. `for_`: the workloads that it concerns."""

    default: str = ""
    values: tuple[str, ...] = ()
    for_: tuple[str, ...] = (TRAINING, INFERENCE)


def _flag(default: str, *workloads: str) -> Setting:
    return Setting(default, ("true", "false"), workloads or (TRAINING, INFERENCE))


SETTINGS: Mapping[str, Setting] = {
    "enableTraining": _flag("false"),
    "enableInference": _flag("false"),
    "allowInsecureConnections": _flag("false", INFERENCE),
    "inferenceRouterServiceType": Setting(values=("loadbalancer", "nodeport", "clusterip"), for_=(INFERENCE,)),
    "inferenceRouterHA": _flag("true", INFERENCE),
    "internalLoadBalancerProvider": Setting(values=("azure",), for_=(INFERENCE,)),
    "sslCname": Setting(for_=(INFERENCE,)),
    "sslSecret": Setting(for_=(INFERENCE,)),
    "sslCertPemFile": Setting(for_=(INFERENCE,)),
    "sslKeyPemFile": Setting(for_=(INFERENCE,)),
    "installNvidiaDevicePlugin": _flag("false"),
    "installDcgmExporter": _flag("false"),
    "installPromOp": _flag("true"),
    "installVolcano": _flag("true", TRAINING),
}

SELECTOR = "nodeSelector."
"""Settings of this prefix name a label that a node must bear."""

OUTDATED: Mapping[str, str] = {"inferenceLoadBalancerHA": "inferenceRouterHA"}
"""Names in old examples, and today's."""

SPELLING = {"loadbalancer": "LoadBalancer", "nodeport": "NodePort", "clusterip": "ClusterIP"} | {
    "true": "True",
    "false": "False",
}


@dataclass(frozen=True, slots=True)
class Least:
    """The least that the extension with inference runs on: what its pods request (millicores, Mi), worker nodes, and
    the size of a node that is recommended."""

    cpu: int
    memory: int
    nodes: int
    node_cpu: int
    node_memory: int


LEAST: Mapping[str, Least] = {
    "test": Least(1780, 2440, 1, 2000, 7 * 1024),
    "production": Least(3600, 4240, 3, 4000, 14 * 1024),
}

PRESETS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "aks-test": (
        "managedClusters",
        {
            "enableTraining": "True",
            "enableInference": "True",
            "inferenceRouterServiceType": "LoadBalancer",
            "allowInsecureConnections": "True",
            "inferenceRouterHA": "False",
        },
    ),
    "arc-training": ("connectedClusters", {"enableTraining": "True"}),
    "aks-production": (
        "managedClusters",
        {
            "enableTraining": "True",
            "enableInference": "True",
            "inferenceRouterServiceType": "LoadBalancer",
            "sslCname": "ml.example.com",
            "sslCertPemFile": "cert.pem",
            "sslKeyPemFile": "key.pem",
        },
    ),
    "arc-gpu": (
        "connectedClusters",
        {
            "enableTraining": "True",
            "enableInference": "True",
            "inferenceRouterServiceType": "NodePort",
            "sslCname": "ml.example.com",
            "installNvidiaDevicePlugin": "True",
            "installDcgmExporter": "True",
            "sslCertPemFile": "cert.pem",
            "sslKeyPemFile": "key.pem",
        },
    ),
}
"""The four scenarios that the extension's documentation describes: cluster type and settings of each."""

ARC, ALWAYS, GPU = "arc", "always", "gpu"

COMPONENTS: Mapping[str, tuple[str, str]] = {
    "relayserver": ("deployments", ARC),
    "gateway": ("deployments", ALWAYS),
    "aml-operator": ("deployments", TRAINING),
    "metrics-controller-manager": ("deployments", ALWAYS),
    "{extension}-kube-state-metrics": ("deployments", ALWAYS),
    "{extension}-prometheus-operator": ("deployments", "installPromOp"),
    "amlarc-identity-controller": ("deployments", INFERENCE),
    "amlarc-identity-proxy": ("deployments", INFERENCE),
    "azureml-fe-v2": ("deployments", INFERENCE),
    "inference-operator-controller-manager": ("deployments", INFERENCE),
    "volcano-admission": ("deployments", "installVolcano"),
    "volcano-controllers": ("deployments", "installVolcano"),
    "volcano-scheduler": ("deployments", "installVolcano"),
    "fluent-bit": ("daemonsets", ALWAYS),
    "{extension}-dcgm-exporter": ("daemonsets", "installDcgmExporter"),
    "nvidia-device-plugin-daemonset": ("daemonsets", "installNvidiaDevicePlugin"),
    "prometheus-prom-prometheus": ("statefulsets", ALWAYS),
}
"""What the extension brings into its namespace: kind, and with what: always, on Arc, a workload, or a setting."""

GROUP = "amlarc.azureml.com"
KINDS: Mapping[str, str] = {
    "InstanceType": ALWAYS,
    "Metrics": ALWAYS,
    "AmlJob": TRAINING,
    "Identity": INFERENCE,
    "OnlineEndpoint": INFERENCE,
    "OnlineDeployment": INFERENCE,
}
"""Its custom resources, and with what they come."""

TOLERATED = "ml.azure.com/"
"""The beginning of the taints that Azure ML's pods can be told to bear."""
