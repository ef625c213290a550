"""What a fleet needs of Azure ML's quotas."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triggers.config import Fleet, Quota, Site
from triggers.quota import PER_SITE, limit, planned


def pushed(n: int, cluster: str = "", **labels: str) -> tuple[Site, ...]:
    names = [f"{cluster}{i}" for i in range(n)]
    return tuple(Site(name=name, executor="azureml", resource_id=cluster, labels=labels) for name in names)


@pytest.mark.parametrize(("profile", "most"), [("current", 100), ("older", 50)])
def test_what_has_no_room_is_better_pulled(profile: str, most: int) -> None:
    found = planned(Fleet(sites=pushed(120), quota=Quota(profile=profile)))  # type: ignore[arg-type]
    assert (len(found.endpoints), len(found.pull)) == (most, 120 - most)
    assert found.notes == (
        f"the workspace: {most} of {most} endpoints, {2 * most} of {500 if most == 100 else 200} deployments",
    )
    assert found.problems[0].startswith(f"{120 - most} sites ({most}, {most + 1}, ")
    advice = "executor: flux needs none"
    if profile == "older":
        advice += "; under profile: current, where the region has it, 20 would be without"
    assert found.problems[0].endswith(f"no room under the quotas ({profile}); {advice}")


def test_another_profile_is_not_advised_where_it_changes_nothing() -> None:
    found = planned(Fleet(sites=pushed(9), quota=Quota(profile="older", endpoints=5)))
    assert found.problems[0].endswith("no room under the quotas (older); executor: flux needs none")


def test_each_site_has_an_endpoint_of_its_own_as_push_makes_it() -> None:
    found = planned(Fleet(sites=tuple(s for c in "abcde" for s in pushed(50, c))))
    assert (len(found.endpoints), len(found.pull)) == (100, 150)
    assert found.problems[0].startswith("150 sites (c0, c1, ")


def test_sites_count_where_the_workspace_is_and_not_where_their_clusters_are() -> None:
    sites = [Site(name=str(i), executor="azureml", subscription=f"s{i % 3}", region=f"r{i % 3}") for i in range(120)]
    assert len(planned(Fleet(sites=tuple(sites), quota=Quota(subscriptions=("s9",)))).pull) == 20


def test_two_sites_of_one_endpoint_are_a_problem() -> None:
    found = planned(Fleet(sites=pushed(2, "c", endpoint="shared")))
    assert found.problems == ("2 sites (c0, c1): one label endpoint: shared; each site needs an endpoint of its own",)


def test_a_cluster_holds_no_more_than_its_own_limits() -> None:
    found = planned(Fleet(sites=pushed(60, "c")))
    assert (len(found.endpoints), len(found.pull)) == (50, 10)


def test_sites_that_pull_need_no_quota() -> None:
    sites = tuple(Site(name=str(i), executor="flux") for i in range(500))
    assert planned(Fleet(sites=sites)) == planned(Fleet(sites=(Site(name="lab"),)))


@given(st.lists(st.integers(0, 4), max_size=80), st.integers(1, 12))
def test_no_limit_is_ever_exceeded_and_every_site_is_somewhere(where: list[int], most: int) -> None:
    sites = tuple(
        Site(name=str(i), executor="azureml", resource_id=f"c{c}" if c else "") for i, c in enumerate(where)
    ) or (Site(name="lab"),)
    quota = Quota(endpoints=most, deployments=15, cluster_endpoints=3, cluster_deployments=5)
    found = planned(Fleet(sites=sites, quota=quota))
    assert sorted([e.site for e in found.endpoints] + list(found.pull)) == sorted(
        s.name for s in sites if s.executor == "azureml"
    )
    on = max(Counter(e.cluster for e in found.endpoints).values(), default=0)
    told = {"endpoints": len(found.endpoints), "deployments": PER_SITE * len(found.endpoints)}
    told |= {"cluster_endpoints": on, "cluster_deployments": PER_SITE * on}
    for name, counted in told.items():
        assert counted <= limit(quota, name)
