"""The plan, and how sites and waves are judged."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.triggers.samples import DAY, HOUR, NEW, NOW, an_event, replace
from triggers.config import Fleet, Rollout, Site
from triggers.events import Wave, WaveReported
from triggers.gates import Verdict
from triggers.rollout import Health, Plan, PlannedWave, SiteStatus, count, judge_site, judge_wave, plan

FLEET = Fleet(
    sites=(
        Site(name="n1", ring="plant"),
        Site(name="lab", ring="lab"),
        Site(name="n2", ring="plant"),
        Site(name="n3", ring="plant"),
        Site(name="far", ring="far"),
    )
)


def planned(limits: Rollout, sites: tuple[str, ...] | None = None) -> list[tuple[str, tuple[str, ...]]]:
    made = plan(FLEET, limits, "line", NEW, sites)
    assert (made.loop, made.candidate, made.limits) == ("line", NEW, limits)
    return [(w.ring, w.sites) for w in made.waves]


@pytest.mark.parametrize(
    ("limits", "sites", "waves"),
    [
        (
            Rollout(),
            None,
            [("plant", ("n1",)), ("plant", ("n2",)), ("plant", ("n3",)), ("lab", ("lab",)), ("far", ("far",))],
        ),
        (
            Rollout(rings=("lab", "plant", "far"), max_unavailable=3),
            None,
            [("lab", ("lab",)), ("plant", ("n1", "n2", "n3")), ("far", ("far",))],
        ),
        (
            Rollout(rings=("lab",), wave_size=2, max_unavailable=5),
            None,
            [("lab", ("lab",)), ("plant", ("n1", "n2")), ("plant", ("n3",)), ("far", ("far",))],
        ),
        (Rollout(wave_size=1), ("n3", "lab"), [("plant", ("n3",)), ("lab", ("lab",))]),
        (Rollout(), ("elsewhere",), []),
    ],
)
def test_a_plan_takes_ring_by_ring_and_cuts_each_into_waves(
    limits: Rollout, sites: tuple[str, ...] | None, waves: list[tuple[str, tuple[str, ...]]]
) -> None:
    assert planned(limits, sites) == waves


@given(
    st.lists(st.sampled_from(["lab", "plant", "far"]), min_size=1, max_size=30),
    st.permutations(["lab", "plant", "far"]),
    st.one_of(st.none(), st.integers(1, 5)),
    st.integers(1, 5),
    st.booleans(),
)
def test_every_site_in_scope_is_in_exactly_one_wave_of_its_ring(
    of: list[str], order: list[str], size: int | None, most: int, half: bool
) -> None:
    fleet = Fleet(sites=tuple(Site(name=f"s{i}", ring=ring) for i, ring in enumerate(of)))
    scope = tuple(s.name for s in fleet.sites[::2]) if half else None
    limits = Rollout(rings=tuple(order), wave_size=size, max_unavailable=most)
    waves = plan(fleet, limits, "line", NEW, scope).waves
    assert sorted(s for w in waves for s in w.sites) == sorted(
        s.name for s in fleet.sites if not half or s.name in scope
    )
    assert all(fleet.site(s).ring == w.ring for w in waves for s in w.sites)
    assert [order.index(w.ring) for w in waves] == sorted(order.index(w.ring) for w in waves)
    assert all(0 < len(w.sites) <= (size or most) for w in waves)


def test_a_plan_knows_its_summary() -> None:
    waves = (PlannedWave("lab", ("lab",)), PlannedWave("plant", ("n1", "n2")), PlannedWave("far", ("far",)))
    made = Plan(loop="line", candidate=NEW, waves=waves, limits=Rollout())
    assert made.summary == (Wave("lab", 1), Wave("plant", 2), Wave("far", 1))


# --- one site

LIMITS = Rollout(soak="1d", minimum_requests=20, max_error_rate=0.02)


def health(**changes: Any) -> Health:
    return replace(Health(candidate=NEW, since=NOW - DAY, last=NOW, requests=100, errors=1, p95_ms=9.0), **changes)


@pytest.mark.parametrize(
    ("found", "limits", "said"),
    [
        (health(), LIMITS, Verdict("passed", "1 errors in 100 requests")),
        (health(requests=0, errors=0), LIMITS, Verdict("inconclusive", "0 fresh requests of 20")),
        (health(requests=19, errors=19), LIMITS, Verdict("inconclusive", "19 fresh requests of 20")),
        (health(errors=2), LIMITS, Verdict("passed", "2 errors in 100 requests")),
        (health(errors=3), LIMITS, Verdict("failed", "3 errors in 100 requests (3.0%), more than 2.0%")),
        (
            health(since=NOW - DAY + timedelta(seconds=1)),
            LIMITS,
            Verdict("inconclusive", "1 errors in 100 requests; soaking for 1d"),
        ),
        (
            health(since=NOW, errors=9),
            LIMITS,
            Verdict("failed", "9 errors in 100 requests (9.0%), more than 2.0%"),
        ),
        (
            health(slow=50),
            replace(LIMITS, max_p95_ms=5.0),
            Verdict("passed", "1 errors in 100 requests, worst p95 9.0 ms"),
        ),
        (
            health(slow=51),
            replace(LIMITS, max_p95_ms=5.0),
            Verdict("failed", "p95 above 5 ms for 51 of 100 requests (worst 9.0 ms)"),
        ),
        (health(slow=51), LIMITS, Verdict("passed", "1 errors in 100 requests")),
    ],
)
def test_a_site_is_judged_by_its_own_numbers(found: Health, limits: Rollout, said: Verdict) -> None:
    assert judge_site(found, limits, NOW) == said


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 200), st.integers(0, 48))
def test_a_site_passes_only_soaked_with_enough_requests_and_few_errors(
    requests: int, errors: int, slow: int, hours: int
) -> None:
    found = health(requests=requests, errors=errors, slow=slow, since=NOW - hours * HOUR)
    passes = requests >= 20 and errors <= 0.02 * requests and slow * 2 <= requests and hours >= 24
    assert judge_site(found, replace(LIMITS, max_p95_ms=5.0), NOW).passed is passes


# --- one wave


def test_the_count_of_a_wave_counts_failures_of_earlier_waves_and_sites_not_yet_listed() -> None:
    statuses: list[tuple[int, SiteStatus]] = [
        (0, "verified"),
        (0, "failed"),
        (1, "verified"),
        (1, "failed"),
        (1, "deferred"),
        (1, "applied"),
        (2, "failed"),
    ]
    assert count(statuses, 1, 4) == (1, 2, 1, 1, 0)
    assert count(statuses, 1, 6) == (1, 2, 1, 3, 0)
    assert count([(1, "removed"), (1, "verified")], 1, 2) == (1, 0, 0, 0, 1)
    assert count([], 1, 2) == (0, 0, 0, 2, 0)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(get_args(SiteStatus))), max_size=20), st.integers(0, 2))
def test_every_site_of_a_wave_is_counted_once(statuses: list[tuple[int, SiteStatus]], wave: int) -> None:
    here = sum(of == wave for of, _ in statuses)
    earlier = sum(of < wave and status == "failed" for of, status in statuses)
    assert sum(count(statuses, wave, here)) == here + earlier


def reported(**counts: Any) -> WaveReported:
    report: WaveReported = an_event(WaveReported, **{"wave": 1, "verified": 0, **counts})
    return report


@pytest.mark.parametrize(
    ("counts", "limits", "said"),
    [
        ({"verified": 2}, {}, Verdict("passed", "wave 2: 2 verified, 0 deferred, 0 pending")),
        ({"verified": 1, "pending": 1}, {}, Verdict("inconclusive", "wave 2: 1 verified, 0 deferred, 1 pending")),
        (
            {"verified": 1, "failed": 1, "pending": 3, "because": "n1: slow"},
            {},
            Verdict("failed", "wave 2: 1 failed, 0 tolerated (n1: slow)"),
        ),
        (
            {"verified": 1, "failed": 1},
            {"max_failed": 1},
            Verdict("passed", "wave 2: 1 verified, 0 deferred, 0 pending"),
        ),
        ({"failed": 2}, {"max_failed": 1}, Verdict("failed", "wave 2: 2 failed, 1 tolerated")),
        ({"verified": 1, "deferred": 1}, {}, Verdict("passed", "wave 2: 1 verified, 1 deferred, 0 pending")),
        (
            {"verified": 1, "deferred": 2},
            {},
            Verdict("inconclusive", "wave 2: 1 verified, 2 deferred, 0 pending; more than 1 unavailable"),
        ),
        (
            {"deferred": 1},
            {},
            Verdict("inconclusive", "wave 2: 0 verified, 1 deferred, 0 pending; nobody has verified it"),
        ),
        ({"removed": 2}, {}, Verdict("passed", "wave 2: 0 verified, 0 deferred, 0 pending")),
        (
            {"failed": 1},
            {"max_failed": 1},
            Verdict("inconclusive", "wave 2: 0 verified, 0 deferred, 0 pending; nobody has verified it"),
        ),
    ],
)
def test_a_wave_is_judged_by_its_counts(counts: dict[str, Any], limits: dict[str, int], said: Verdict) -> None:
    assert judge_wave(reported(**counts), Rollout(**limits), 10) == said


@pytest.mark.parametrize("rate", [math.nan, -1.0])
def test_a_limit_that_is_no_number_verifies_nobody(rate: float) -> None:
    assert judge_site(health(), replace(LIMITS, max_error_rate=rate), NOW).outcome == "failed"
