"""What `kubectl get nodes -o json` says, as what the rules ask of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cli.cluster.extension import TOLERATED
from triggers.errors import Refused

_SUFFIX = {
    "": 1.0,
    "m": 1e-3,
    "u": 1e-6,
    "n": 1e-9,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
    **{f"{letter}i": 1024.0 ** (n + 1) for n, letter in enumerate("KMGTPE")},
}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([numkMGTPE]|[KMGTPE]i)?")
GPU = "nvidia.com/gpu"
MI = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Node:
    """`cpu` (millicores), `memory` (Mi) and `gpus` are what pods may have of it; `size_cpu` and `size_memory` what it
    has in all. `unfit` says why nothing of Azure ML's runs there; empty: it does."""

    name: str
    cpu: int
    memory: int
    gpus: int = 0
    size_cpu: int = 0
    size_memory: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    unfit: str = ""

    @property
    def nvidia(self) -> bool:
        """Whether there are signs of a GPU of NVIDIA's, usable or not."""
        signs = (f"{key}={value}".lower() for key, value in self.labels.items())
        found = any("nvidia.com/gpu" in s or "accelerator=nvidia" in s or "pci-10de" in s for s in signs)
        return self.gpus > 0 or found


def quantity(text: object) -> float:
    """A quantity of Kubernetes'. Raises ValueError.

    >>> quantity("1780m"), quantity("2Gi"), quantity(4), quantity("1e3")
    (1.78, 2147483648.0, 4.0, 1000.0)
    """
    found = _QUANTITY.fullmatch(str(text).strip())
    if found is None:
        raise ValueError(f"{text!r} is no quantity")
    return float(found[1]) * _SUFFIX[found[2] or ""]


def read(said: object) -> list[Node]:
    """Raises Refused where it is not what kubectl prints."""
    items = said.get("items", [said]) if isinstance(said, Mapping) else None
    if not isinstance(items, list) or not all(
        isinstance(i, Mapping) and i.get("kind", "Node") == "Node" for i in items
    ):
        raise Refused("not a list of nodes: give what `kubectl get nodes -o json` prints")
    try:
        return [_node(item) for item in items]
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise Refused(f"not a list of nodes as `kubectl get nodes -o json` prints it: {problem}") from problem


def _node(item: Mapping[str, Any]) -> Node:
    meta, status = item["metadata"], item["status"]
    size = status.get("capacity") or status["allocatable"]
    free = status.get("allocatable") or size
    return Node(
        name=meta["name"],
        cpu=round(quantity(free["cpu"]) * 1000),
        memory=int(quantity(free["memory"]) // MI),
        gpus=int(quantity(free.get(GPU, 0))),
        size_cpu=round(quantity(size["cpu"]) * 1000),
        size_memory=int(quantity(size["memory"]) // MI),
        labels=dict(meta.get("labels") or {}),
        unfit=_unfit(item),
    )


def _unfit(item: Mapping[str, Any]) -> str:
    spec, status = item.get("spec") or {}, item["status"]
    ready = [c["status"] for c in status.get("conditions") or [] if c["type"] == "Ready"]
    system = ((item["metadata"].get("labels") or {}).get("kubernetes.io/os") or "linux").lower()
    taints = [t["key"] for t in spec.get("taints") or [] if t.get("effect") in ("NoSchedule", "NoExecute")]
    stranger = next((key for key in taints if not key.startswith(TOLERATED)), None)
    if ready and ready[0] != "True":
        return "is not ready"
    if spec.get("unschedulable"):
        return "is cordoned"
    if system != "linux":
        return f"runs {system}"
    return f"is tainted {stranger}" if stranger else ""
