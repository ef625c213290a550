"""What an Azure ML workspace says through Event Grid: jobs that ended, models, monitors, labelled data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import azure.functions as func

from functions import host, wire
from triggers import loop, training
from triggers.errors import NotFound, Refused
from triggers.ports import Ports

bp = func.Blueprint()

BREACHED = "azureml_modelmonitor_threshold_breached"
_LABELS = re.compile(r"/workspaces/[^/]+/data/([^/]+)/versions/([^/?]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Said:
    """An event's parts by lower-case name: the service's casing varies, as does where a part stands."""

    kind: str
    subject: str
    parts: Mapping[str, Any] = field(default_factory=dict)

    def text(self, name: str) -> str:
        found = self.parts.get(name, "")
        return str(found) if isinstance(found, str | int) else ""

    def tags(self, name: str) -> dict[str, str]:
        """Names in lower case."""
        found = self.parts.get(name)
        return {str(k).lower(): str(v) for k, v in found.items()} if isinstance(found, Mapping) else {}


def read(kind: str, subject: str, data: Any) -> Said:
    """Raises Refused where there is nothing to read."""
    if not isinstance(data, Mapping):
        raise Refused("the event brings no data")
    return Said(kind.rsplit(".", 1)[-1].lower(), subject, {str(k).lower(): v for k, v in data.items()})


@bp.event_grid_trigger(arg_name="message")
@wire.isolated("workspace-events", wire.data)
def workspace_changed(message: func.CloudEvent) -> None:
    """An event of the workspace is a hint: what it names is asked of the training service."""
    said = read(message.type, message.subject or "", message.get_json())
    hear(host.ports(), said, f"{message.source}#{message.id}")


def hear(ports: Ports, said: Said, event_id: str) -> None:
    """Take what concerns a loop of ours; a workspace has other users too. Raises Refused, Retry."""
    if said.kind == "resourcewritesuccess":
        _labelled(ports, said)
    elif said.kind == "modelregistered":
        _registered(ports, said)
    elif said.kind == "datasetdriftdetected":
        name, size = said.text("datadriftname"), said.text("driftcoefficient") or said.parts.get("driftcoefficient")
        _breached(ports, event_id, f"the dataset monitor {name} found drift ({size})", name)
    elif BREACHED in said.tags("runtags"):
        what = said.tags("runtags")[BREACHED] or said.text("experimentname") or said.text("runid")
        named = said.tags("runtags").get("driftloop", "") or said.text("experimentname")
        _breached(ports, event_id, f"the monitor of {said.text('experimentname')} has breached: {what}", named)
    elif said.kind in ("runcompleted", "runstatuschanged"):
        name = unquoted(said.text("runid"))
        if name.partition(".")[0] in ports.configs.loops() and name.endswith(("-train", "-evaluate")):
            training.job_ended(ports, name)


def _breached(ports: Ports, event_id: str, reason: str, named: str) -> None:
    """The loop whose name the monitor bears, or begins with; the only one there is."""
    loops = list(ports.configs.loops())
    found = [name for name in loops if re.match(rf"{re.escape(name)}(\W|_|$)", named, re.IGNORECASE)]
    if not (chosen := found or (loops if len(loops) == 1 else [])):
        raise Refused(f"the monitor {named!r} names no loop: tag it with `driftloop: <loop>`")
    loop.breached(ports, max(chosen, key=len), event_id, reason[:300])


def _registered(ports: Ports, said: Said) -> None:
    name, version, tags = said.text("modelname"), said.text("modelversion"), said.tags("modeltags")
    if name not in ports.configs.loops():
        return
    ours = tags.get("driftloop", "")
    if re.fullmatch(r"[0-9a-f]{64}", ours) and ports.blobs.exists(f"candidates/{ours}/manifest.json"):
        return
    window = (tags["from"], tags["to"]) if {"from", "to"} <= tags.keys() else None
    authors = tuple(a.strip() for tag in ("author", "authors") for a in tags.get(tag, "").split(",") if a.strip())
    model = f"azureml:{name}:{version}"
    if (registrar := ports.jobs.author(model)) and registrar not in authors:
        authors = (*authors, registrar)  # whatever the tags say
    loop.registered(ports, name, model, tags.get("by") or registrar or "the registry", window, authors)


def _labelled(ports: Ports, said: Said) -> None:
    found = _LABELS.search(said.text("resourceuri") or said.subject)
    if found is None:
        return
    for name in ports.configs.loops():
        try:
            wanted = ports.configs.loop(name).training.labels
        except NotFound:
            continue
        if wanted is not None and wanted.lower() == found[1].lower():
            loop.labelled(ports, name, found[2])


def unquoted(name: str) -> str:
    """A job's own name."""
    from adapters.azure.ml import unquoted as plain

    return plain(name)
