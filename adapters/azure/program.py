"""What the program at a site is told, and whether the site's cluster is there to be told anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adapters.azure.arm import Arm
from triggers.config import Loop, Site, duration
from triggers.errors import NotFound, Offline, Refused
from triggers.ports import Change, Configs

CLUSTERS = "2024-01-01"


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where a site sends its batches, and where it reads candidates; what edge.services takes."""

    ingest: str
    registry: str


def told(loop: Loop, site: Site, addresses: Addresses, **about: Any) -> Mapping[str, Any]:
    """edge.json of a process that is this one site; `about` is what the executor adds."""
    key = next((k for k in site.keys if not k.revoked), None)
    signs = {"key": site.key_file, "key_id": key.id} if site.key_file and key else {}
    features = [
        {"name": f.name, "kind": f.kind, "unit": f.unit, "low": f.range[0], "high": f.range[1]}
        for f in loop.schema.features
    ]
    one = {
        "name": site.name,
        "loop": loop.loop,
        "ingest": addresses.ingest,
        "registry": addresses.registry,
        "registry_key": "registry.pub",
        "stays": site.data == "stays",
        "flush": max(1, int(duration(loop.telemetry.report).total_seconds())),
        "schema": {"version": loop.schema.version, "task": loop.task, "features": features},
        **signs,
        **about,
    }
    return {"host": "0.0.0.0", "port": 8080, "sites": [one]}  # noqa: S104  within the pod


def site_of(configs: Configs, change: Change) -> Site:
    """The site that a change is for. Raises NotFound, and Refused for one that had nothing to go back to."""
    site = configs.fleet(change.loop).site(change.site)
    if site is None:
        raise NotFound(f"the fleet of {change.loop} has no site {change.site}", site=change.site)
    if not change.candidate:
        raise Refused("nothing was served here before, so there is no way back", site=change.site)
    return site


def connected(arm: Arm, site: Site, now: datetime) -> None:
    """Raises Offline where Azure has not heard of the site's cluster for some time; its certificate lasts 90 days."""
    if not site.resource_id:
        return
    found = (arm.get(site.resource_id, CLUSTERS) or {}).get("properties")
    if found is None:
        raise Refused(f"there is no cluster {site.resource_id}", site=site.name)
    status, last = found.get("connectivityStatus") or "", found.get("lastConnectivityTime", "")
    if not status:
        if "/connectedclusters/" not in site.resource_id.lower():
            return  # Azure's own cluster has no such property
        raise Offline("Azure does not say whether the cluster is connected", site=site.name)
    if status == "Expired":
        raise Refused("the cluster's certificate has expired: it must be connected to Azure anew", site=site.name)
    if status != "Connected":
        silent = f" since {last}" if last else ""
        expiry = found.get("managedIdentityCertificateExpirationTime", "")
        until = f"; its certificate expires at {expiry}" if expiry else ""
        raise Offline(f"the cluster is {status.lower()}{silent}{until}", site=site.name)
