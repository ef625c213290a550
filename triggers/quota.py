"""What a fleet needs of Azure ML's quotas, and where it does not fit: said before anything is touched.

Push makes one endpoint a site, all of them in the app's one workspace and so in its subscription and region, each with
two deployments while one replaces the other. What has no room there or on its cluster is better pulled by Flux, which
needs no endpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from triggers.config import Fleet, Quota, Site

PROFILES: dict[str, dict[str, int]] = {
    "current": {
        "endpoints": 100,
        "deployments": 500,
        "cluster_endpoints": 60,
        "cluster_deployments": 100,
    },
    "older": {
        "endpoints": 50,
        "deployments": 200,
        "cluster_endpoints": 50,
        "cluster_deployments": 100,
    },
}
"""By the service's limits as they are, and as they were and in some regions still are."""

PER_SITE = 2
"""Deployments of one site while one replaces the other."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The endpoint of one site, and the cluster that it counts on."""

    cluster: str
    site: str


class Packing(msgspec.Struct, frozen=True, kw_only=True):
    """Endpoints that fit; sites that have no room and should pull; all of it in words."""

    endpoints: tuple[Endpoint, ...] = ()
    pull: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def limit(quota: Quota, name: str) -> int:
    """One limit: as fleet.yaml says, else as its profile does."""
    said: int | None = getattr(quota, name)
    return PROFILES[quota.profile][name] if said is None else said


def planned(fleet: Fleet) -> Packing:
    """Count all sites that are pushed to, as PushExecutor does it. Pure: the same fleet gives the same packing."""
    quota = fleet.quota
    pushed = [s for s in fleet.sites if s.executor == "azureml"]
    found, pull = _packed(pushed, quota)
    notes, problems = [], []
    if found:
        notes.append(
            f"the workspace: {len(found)} of {limit(quota, 'endpoints')} endpoints, "
            f"{PER_SITE * len(found)} of {limit(quota, 'deployments')} deployments"
        )
    if pull:
        advice = "executor: flux needs none"
        if quota.profile == "older":
            rest = len(_packed(pushed, msgspec.structs.replace(quota, profile="current"))[1])
            if rest < len(pull):
                advice += f"; under profile: current, where the region has it, {rest or 'none'} would be without"
        problems.append(f"{_some(pull)}: no room under the quotas ({quota.profile}); {advice}")
    for name, count in Counter(s.labels["endpoint"] for s in pushed if s.labels.get("endpoint")).items():
        if count > 1:
            same = [s.name for s in pushed if s.labels.get("endpoint") == name]
            problems.append(f"{_some(same)}: one label endpoint: {name}; each site needs an endpoint of its own")
    return Packing(endpoints=tuple(found), pull=tuple(pull), notes=tuple(notes), problems=tuple(problems))


def _packed(sites: Sequence[Site], quota: Quota) -> tuple[list[Endpoint], list[str]]:
    """In the order of fleet.yaml: endpoints while there is room in the workspace and on the cluster; the rest."""
    most = min(limit(quota, "endpoints"), limit(quota, "deployments") // PER_SITE)
    on_cluster = min(limit(quota, "cluster_endpoints"), limit(quota, "cluster_deployments") // PER_SITE)
    used: Counter[str] = Counter()
    packed: list[Endpoint] = []
    pull: list[str] = []
    for site in sites:
        cluster = site.resource_id.lower() or site.name  # a site that names none is one by itself
        if len(packed) < most and used[cluster] < on_cluster:
            used[cluster] += 1
            packed.append(Endpoint(cluster=cluster, site=site.name))
        else:
            pull.append(site.name)
    return packed, pull


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} site{'s' * (len(names) != 1)} ({', '.join(names[:most])}{more})"
