"""The site's program as a scoring script of Azure ML: `init` once, then `run` for each request.

The registered model is the candidate: its folder (AZUREML_MODEL_DIR) holds the files, the manifest and the registry's
signature, and is checked as any other before it is opened. DRIFTLOOP_EDGE is the path of edge.json, or its text; it
names one site, with a state folder that outlives the pod. One worker (WORKER_COUNT=1): a state has one process.
"""

from __future__ import annotations

import atexit
import os
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from edge import candidate
from edge.config import Config, load, parse
from edge.errors import NotReady, Refused, Unreachable
from edge.server import Host
from edge.state import write_file

_GRACE_S = 25.0
"""Kubernetes kills a pod 30 s after it was asked to end."""

_host: Host | None = None
_running: threading.Thread | None = None


def init() -> None:
    """Open the candidate of this deployment, and begin to send what waits. Raises Refused, and the deployment fails."""
    global _host, _running  # noqa: PLW0603  # the script's life is the process's
    config = _config(os.environ["DRIFTLOOP_EDGE"])
    (site,) = config.sites
    registry = Path(site.state) / "registry"
    digest = imported(Path(os.environ["AZUREML_MODEL_DIR"]), registry)
    instance = f"{digest[:12]}-{uuid4().hex[:8]}"  # another deployment, or another pod, may be this site too
    told = msgspec.structs.replace(site, registry=str(registry), instance=instance)
    host = Host(msgspec.structs.replace(config, sites=(told,), port=0))
    try:
        host.sites[site.name].deploy(digest, os.environ.get("DRIFTLOOP_CHANGE", "azureml"))
    except BaseException:
        host.close()
        raise
    _running = threading.Thread(target=host.run, daemon=True)
    _running.start()
    _host = host
    atexit.register(stop)  # the inference server knows of no other end


def run(raw: str | bytes) -> dict[str, Any]:
    """`{"rows": [...]}` as for POST score, `{"probe": [...]}` the same without a trace in the telemetry,
    `{"labels": [...]}` as for POST labels, `{"report": true}` as for POST report, `{}` for the status."""
    site = _site()
    try:
        asked = msgspec.json.decode(raw, type=dict[str, Any])
        if "probe" in asked:
            return site.probe(asked["probe"])
        if "rows" in asked:
            return site.score_rows(asked["rows"])
        if "labels" in asked:
            site.take_labels(asked["labels"])
            return {"labels": len(asked["labels"])}
        if asked.get("report"):
            return site.tell()
        return site.status()
    except (Refused, NotReady, Unreachable, msgspec.MsgspecError) as error:
        return {"error": str(error)}


def stop() -> None:
    """End what `init` began, when what was seen is told; a pod that is killed goes on where it was."""
    global _host  # noqa: PLW0603
    if _host is not None and _running is not None:
        _host.stop()
        _running.join(_GRACE_S)
        _host = None


def imported(model: Path, registry: Path) -> str:
    """The candidate in a model's folder, as a registry of one; its digest."""
    found = sorted(model.rglob(candidate.MANIFEST))
    if len(found) != 1:
        raise Refused(f"holds {len(found)} manifests; one is expected", str(model))
    manifest = found[0].read_bytes()
    digest, folder = candidate.digest(manifest), found[0].parent
    for name, file in candidate.read(manifest).files.items():
        write_file(registry / "layers" / file.sha256, (folder / name).read_bytes())
    for name in (candidate.SIGNATURE, candidate.MANIFEST):
        write_file(registry / "candidates" / digest / name, (folder / name).read_bytes())
    return digest


def _config(said: str) -> Config:
    """The text's paths are relative to the snapshot that this script lies in."""
    if said.lstrip().startswith("{"):
        return parse(said.encode(), Path(__file__).parents[1], "DRIFTLOOP_EDGE")
    return load(Path(said))


def _site() -> Any:
    if _host is None:
        raise RuntimeError("init was not called")
    return next(iter(_host.sites.values()))
