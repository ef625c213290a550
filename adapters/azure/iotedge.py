"""Sites that are devices of IoT Edge: a layered deployment of IoT Hub for each candidate, the newest with the greatest
priority."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from adapters.azure.arm import Arm
from adapters.azure.program import site_of
from triggers.config import Site
from triggers.errors import Offline, Refused
from triggers.ports import Change, Clock, Configs, Underway

VERSION = "2021-04-12"
SCOPE = "https://iothubs.azure.net/.default"
QUIET = timedelta(minutes=30)
"""A device that is disconnected and was last heard of before is offline."""
DOWN = frozenset({"failed", "unhealthy", "dead"})
"""`unknown` is what an agent says until it has looked: it is waited for."""


class IotEdgeExecutor:
    """Port Executor. What a deployment holds cannot be changed in IoT Hub, so each candidate has its own; which one
    counts is its priority, the change's fence: a way back raises that of the old one.

    A site counts as asked when its device reports the module running with the candidate.
    """

    def __init__(self, configs: Configs, hub: Arm, clock: Clock, image: Callable[[], str]) -> None:
        self._configs, self._hub, self._clock, self._image = configs, hub, clock, image

    def apply(self, change: Change, proven: bool = False) -> Underway | None:
        """Refused: the hub knows no such device, or the module does not stay up. Offline: the device is away; a way out
        is not begun then, a way back is."""
        site = site_of(self._configs, change)
        device = site.labels.get("device", site.name)
        away = self._away(site, device)
        if away and change.action == "deploy":
            raise Offline(away, site=site.name)
        path = f"/configurations/{configuration_of(change.loop, site.name, change.candidate)}"
        found = self._hub.get(path, VERSION)
        if found is None:
            self._hub.put(path, VERSION, self._made(change, device, path))
        elif int(found["priority"]) < change.fence:
            self._hub.put(path, VERSION, {**found, "priority": change.fence}, etag=str(found["etag"]))
        if away:
            raise Offline(away, site=site.name)
        twin = self._hub.get(f"/twins/{quote(device)}/modules/$edgeAgent", VERSION) or {}
        modules = ((twin.get("properties") or {}).get("reported") or {}).get("modules") or {}
        module = modules.get(module_of(change.loop)) or {}
        has = ((module.get("env") or {}).get("DRIFTLOOP_WANTED") or {}).get("value", "")
        if has != wanted(change):
            return Underway("deployed", "the device has not taken it yet")
        state = module.get("runtimeStatus", "unknown")
        if state in DOWN:
            raise Refused(f"the module is {state}: {module.get('statusDescription', '')}".rstrip(": "), site=site.name)
        return None if state == "running" else Underway("taken", f"the module is {state}")

    def finish(self, change: Change) -> None:
        """Deletes the deployments of other candidates for this site; a hub holds a hundred of them in all."""
        site = site_of(self._configs, change)
        mine = configuration_of(change.loop, site.name, change.candidate)
        begins = mine[: -len(change.candidate[:12])]
        found = self._hub.get("/configurations", VERSION) or {}
        for each in found.get("value", []):
            if each["id"].startswith(begins) and each["id"] != mine:
                self._hub.delete(f"/configurations/{each['id']}", VERSION)

    def _made(self, change: Change, device: str, path: str) -> dict[str, Any]:
        options = {"HostConfig": {"Binds": ["/etc/driftloop:/etc/driftloop:ro", "/var/lib/driftloop:/state"]}}
        module = {
            "version": "1.0",
            "type": "docker",
            "status": "running",
            "restartPolicy": "always",
            "settings": {"image": self._image(), "createOptions": json.dumps(options)},
            "env": {"DRIFTLOOP_WANTED": {"value": wanted(change)}},
        }
        content = {"$edgeAgent": {f"properties.desired.modules.{module_of(change.loop)}": module}}
        return {
            "id": path.rsplit("/", 1)[1],
            "schemaVersion": "1.0",
            "content": {"modulesContent": content},
            "targetCondition": f"deviceId='{device}'",
            "priority": change.fence,
            "labels": {"run": change.run, "candidate": change.candidate[:12]},
            "metrics": {"queries": {}},
        }

    def _away(self, site: Site, device: str) -> str:
        found = self._hub.get(f"/devices/{quote(device)}", VERSION)
        if found is None:
            raise Refused(f"the hub has no device {device!r}", site=site.name)
        if found.get("connectionState") == "Connected":
            return ""
        last = str(found.get("lastActivityTime", ""))
        heard = datetime.fromisoformat(last) if last else None
        if heard is not None and self._clock.now() - heard < QUIET:
            return ""
        return f"the device is disconnected, last heard of at {last}"


def wanted(change: Change) -> str:
    """What the program at the device is told to serve."""
    return json.dumps({"candidate": change.candidate})


def module_of(loop: str) -> str:
    return f"driftloop-{loop}".lower()


def configuration_of(loop: str, site: str, candidate: str) -> str:
    """An id as IoT Hub takes it.

    >>> configuration_of("line", "Werk Süd", "0a1b2c3d4e5f6789")
    'driftloop-line-werk-s-d-e280c6-0a1b2c3d4e5f'
    """
    made = re.sub(r"[^a-z0-9]+", "-", f"{loop}-{site}".lower())[:80].strip("-")
    return f"driftloop-{made}-{hashlib.sha256(f'{loop}/{site}'.encode()).hexdigest()[:6]}-{candidate[:12]}"
