"""What a fleet needs of Azure ML's quotas, and where it does not fit: said before anything is touched.

A Kubernetes endpoint belongs to one cluster. Sites of one cluster share endpoints as far as an endpoint holds their
deployments, each two while one replaces the other; clusters go where their subscription and region have room, or to
another subscription that is listed; what fits nowhere is better pulled by Flux, which needs no endpoint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from triggers.config import Fleet, Quota, Site

PROFILES: dict[str, dict[str, int]] = {
    "current": {
        "endpoints": 100,
        "deployments": 500,
        "per_endpoint": 20,
        "cluster_endpoints": 60,
        "cluster_deployments": 100,
    },
    "older": {
        "endpoints": 50,
        "deployments": 200,
        "per_endpoint": 20,
        "cluster_endpoints": 50,
        "cluster_deployments": 100,
    },
}
"""By the service's limits as they are, and as they were and in some regions still are."""

PER_SITE = 2
"""Deployments of one site while one replaces the other."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint: where it counts, and whose deployments it holds."""

    subscription: str
    region: str
    cluster: str
    sites: tuple[str, ...]


class Packing(msgspec.Struct, frozen=True, kw_only=True):
    """Endpoints that fit; sites to move to another subscription; sites that should pull; all of it in words."""

    endpoints: tuple[Endpoint, ...] = ()
    moved: dict[str, str] = {}
    pull: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


_Place = tuple[str, str]
"""Subscription and region; or cluster."""


class _Room:
    """What is left of one limit, by place."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used: dict[_Place, int] = defaultdict(int)

    def fits(self, place: _Place, n: int) -> bool:
        return self.used[place] + n <= self.most


def limit(quota: Quota, name: str) -> int:
    """One limit: as fleet.yaml says, else as its profile does."""
    said: int | None = getattr(quota, name)
    return PROFILES[quota.profile][name] if said is None else said


def planned(fleet: Fleet) -> Packing:
    """Pack all sites that are pushed to. Pure: the same fleet gives the same packing."""
    quota = fleet.quota
    endpoints, deployments = _Room(limit(quota, "endpoints")), _Room(limit(quota, "deployments"))
    on_cluster, at_cluster = _Room(limit(quota, "cluster_endpoints")), _Room(limit(quota, "cluster_deployments"))
    holds = max(1, limit(quota, "per_endpoint") // PER_SITE)
    packed: list[Endpoint] = []
    moved: dict[str, str] = {}
    pull: list[str] = []
    for cluster, sites in _clusters(s for s in fleet.sites if s.executor == "azureml").items():
        for i in range(0, len(sites), holds):
            part = sites[i : i + holds]
            needs, home, region = PER_SITE * len(part), part[0].subscription, part[0].region
            at = (cluster, "")
            here = on_cluster.fits(at, 1) and at_cluster.fits(at, needs)
            fitting = [
                sub
                for sub in dict.fromkeys((home, *quota.subscriptions))
                if here and endpoints.fits((sub, region), 1) and deployments.fits((sub, region), needs)
            ]
            if not fitting:
                pull += [s.name for s in part]
                continue
            sub = fitting[0]
            for room, place, n in (
                (endpoints, (sub, region), 1),
                (deployments, (sub, region), needs),
                (on_cluster, at, 1),
                (at_cluster, at, needs),
            ):
                room.used[place] += n
            names = tuple(s.name for s in part)
            packed.append(Endpoint(subscription=sub, region=region, cluster=cluster, sites=names))
            if sub != home:
                moved |= dict.fromkeys(names, sub)
    notes = [
        f"{sub or 'the subscription'}, {region or 'its region'}: {used} of {endpoints.most} endpoints, "
        f"{deployments.used[sub, region]} of {deployments.most} deployments"
        for (sub, region), used in sorted(endpoints.used.items())
        if used
    ]
    problems = []
    for sub in sorted(set(moved.values())):
        there = [n for n, to in moved.items() if to == sub]
        problems.append(f"{_some(there)}: no room in their subscription; set subscription: {sub}, which has it")
    if pull:
        problems.append(f"{_some(pull)}: no room under the quotas ({quota.profile}); executor: flux needs none")
    return Packing(endpoints=tuple(packed), moved=moved, pull=tuple(pull), notes=tuple(notes), problems=tuple(problems))


def _clusters(sites: Iterable[Site]) -> dict[str, list[Site]]:
    """Sites by the cluster that they are on; a site that names none is one by itself."""
    found: dict[str, list[Site]] = {}
    for site in sites:
        found.setdefault(site.resource_id.lower() or site.name, []).append(site)
    return found


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} site{'s' * (len(names) != 1)} ({', '.join(names[:most])}{more})"
