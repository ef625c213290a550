"""What a fleet needs of Azure ML's quotas."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triggers.config import Fleet, Quota, Site
from triggers.quota import PER_SITE, limit, planned


def pushed(n: int, cluster: str = "", **more: str) -> tuple[Site, ...]:
    return tuple(
        Site(
            name=f"{cluster}{i}",
            executor="azureml",
            resource_id=cluster,
            subscription="s1",
            region="westeurope",
            **more,
        )  # type: ignore[arg-type]
        for i in range(n)
    )


@pytest.mark.parametrize(("profile", "most"), [("current", 100), ("older", 50)])
def test_what_has_no_room_is_better_pulled(profile: str, most: int) -> None:
    found = planned(Fleet(sites=pushed(120), quota=Quota(profile=profile)))  # type: ignore[arg-type]
    assert (len(found.endpoints), len(found.pull)) == (most, 120 - most)
    assert found.notes == (
        f"s1, westeurope: {most} of {most} endpoints, {2 * most} of {500 if most == 100 else 200} deployments",
    )
    assert found.problems[0].startswith(f"{120 - most} sites ({most}, {most + 1}, ")
    assert found.problems[0].endswith(f"no room under the quotas ({profile}); executor: flux needs none")


def test_sites_of_one_cluster_share_endpoints() -> None:
    found = planned(Fleet(sites=pushed(25, "c")))
    assert [len(e.sites) for e in found.endpoints] == [10, 10, 5]
    assert found.problems == ()


def test_a_cluster_holds_no_more_than_its_own_limits() -> None:
    found = planned(Fleet(sites=pushed(60, "c")))
    assert (sum(len(e.sites) for e in found.endpoints), len(found.pull)) == (50, 10)


def test_another_subscription_takes_what_the_own_one_has_no_room_for() -> None:
    found = planned(Fleet(sites=pushed(120), quota=Quota(subscriptions=("s2",))))
    assert (len(found.moved), set(found.moved.values()), found.pull) == (20, {"s2"}, ())
    assert "no room in their subscription; set subscription: s2, which has it" in found.problems[0]


def test_sites_that_pull_need_no_quota() -> None:
    sites = tuple(Site(name=str(i), executor="flux") for i in range(500))
    assert planned(Fleet(sites=sites)) == planned(Fleet(sites=(Site(name="lab"),)))


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["s1", "s2"])), max_size=80), st.integers(1, 12))
def test_no_limit_is_ever_exceeded_and_every_site_is_somewhere(where: list[tuple[int, str]], most: int) -> None:
    sites = tuple(
        Site(name=str(i), executor="azureml", resource_id=f"c{c}" if c else "", subscription=sub)
        for i, (c, sub) in enumerate(where)
    ) or (Site(name="lab"),)
    quota = Quota(endpoints=most, deployments=10 * most, per_endpoint=6, cluster_endpoints=3, cluster_deployments=14)
    found = planned(Fleet(sites=sites, quota=quota))
    assert sorted([s for e in found.endpoints for s in e.sites] + list(found.pull)) == sorted(
        s.name for s in sites if s.executor == "azureml"
    )
    ends, used, on, at = Counter(), Counter(), Counter(), Counter()  # type: ignore[var-annotated]
    for e in found.endpoints:
        ends[e.subscription] += 1
        on[e.cluster] += 1
        used[e.subscription] += PER_SITE * len(e.sites)
        at[e.cluster] += PER_SITE * len(e.sites)
        assert PER_SITE * len(e.sites) <= 6
    told = {"endpoints": ends, "deployments": used, "cluster_endpoints": on, "cluster_deployments": at}
    for name, counted in told.items():
        assert max(counted.values(), default=0) <= limit(quota, name)
