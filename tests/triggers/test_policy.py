"""When drift leads to a retraining, and why not when it does not."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.triggers.samples import DAY, NOW, a_fleet, a_loop, replace
from triggers.config import Fleet, Follows, Retrain, Site, Training
from triggers.policy import Decision, Finding, History, Maintenance, decide

FLEET = Fleet(
    sites=(
        Site(name="a", cohort="press"),
        Site(name="b", cohort="press"),
        Site(name="c", cohort="oven"),
        Site(name="d", cohort="oven", data="stays"),
    )
)


NONE = History()


def a_finding(scope: str = "fleet", sites: tuple[str, ...] = ("a", "b", "c"), **changes: Any) -> Finding:
    found = Finding(kind="feature", statistical=True, scope=scope, sites=sites, features=("x",), reason="x moved")
    return replace(found, **changes)


ALONE = {"scope": Follows(site="retrain")}
"""A policy that trains for a single site."""


def said(findings: list[Finding], history: History = NONE, **more: Any) -> tuple[Decision, History]:
    loop = a_loop(retrain=Retrain(**{"confirm": 1, "minimum_rows": 100, **more.pop("retrain", {})}))
    return decide(findings, history, NOW, loop, more.pop("fleet", FLEET), **{"rows": 5000, **more})


CLOUD = "compute cloud, without d whose data stays"


def test_drift_of_the_fleet_retrains_for_the_fleet_and_says_why() -> None:
    decision, history = said([a_finding()])
    assert decision == Decision(
        loop="line",
        at=NOW,
        action="retrain",
        reason=f"fleet: x moved; 1 check in a row; 5,000 labelled rows; {CLOUD}",
        findings=(a_finding(),),
    )
    assert history == History(starts=(NOW,))


def test_an_alarm_without_a_promise_retrains_nothing_and_hides_no_other() -> None:
    wide, here = a_finding(covered=False), a_finding("cohort", ("a", "b"))
    decision, history = said([wide], History(streak={"fleet": 9}))
    assert decision.action == "hold"
    assert decision.reason == "fleet: x moved; held: what is not covered retrains nothing"
    assert history.streak == {"fleet": 10}
    decision, _ = said([wide, here])
    assert (decision.action, decision.scope) == ("retrain", "cohort:press")


def test_no_finding_holds() -> None:
    decision, history = said([], History(streak={"fleet": 3}))
    assert decision == Decision(loop="line", at=NOW, action="hold", reason="nothing moved more than it does by itself")
    assert history == History()


def test_what_retraining_does_not_answer_is_said_and_holds() -> None:
    missing = a_finding(kind="missing", statistical=False, reason="x: 30% missing at a")
    decision, history = said([missing])
    assert decision.action == "hold"
    assert decision.reason == "nothing that retraining answers: x: 30% missing at a"
    assert (decision.findings, history.streak) == ((missing,), {})


@pytest.mark.parametrize(
    ("more", "history", "why"),
    [
        ({"retrain": {"confirm": 2}}, History(), "seen in 1 check in a row, 2 confirm it"),
        ({"retrain": {"confirm": 4}}, History(streak={"fleet": 2}), "seen in 3 checks in a row, 4 confirm it"),
        ({"frozen": "line frozen by ann: inventory"}, History(), "frozen (line frozen by ann: inventory)"),
        ({"active": ["line.2026-03-01.1"]}, History(), "line.2026-03-01.1 has not ended"),
        ({"retrain": {"enabled": False}}, History(), "retraining is switched off"),
        ({}, History(ended=NOW - 10 * DAY), "cooldown of 14d ends in 4.0 days"),
        (
            {"retrain": {"budget": "2 per 30 days"}},
            History(starts=(NOW - 29 * DAY, NOW - 20 * DAY)),
            "budget of 2 per 30 days is spent (2)",
        ),
        ({"rows": 99}, History(), "99 labelled rows for training, fewer than 100"),
    ],
)
def test_drift_is_held_and_says_by_what(more: dict[str, Any], history: History, why: str) -> None:
    decision, kept = said([a_finding()], history, **more)
    assert (decision.action, decision.scope, decision.sites) == ("hold", "fleet", None)
    assert decision.reason == f"fleet: x moved; held: {why}"
    assert kept == replace(history, streak={"fleet": history.streak.get("fleet", 0) + 1})


@pytest.mark.parametrize(
    ("more", "history"),
    [
        ({"retrain": {"confirm": 3}}, History(streak={"fleet": 2})),
        ({}, History(ended=NOW - 14 * DAY)),
        ({"retrain": {"budget": "2 per 30 days"}}, History(starts=(NOW - 30 * DAY, NOW - 20 * DAY))),
        ({"rows": 100}, History()),
    ],
)
def test_what_held_it_back_ends(more: dict[str, Any], history: History) -> None:
    decision, kept = said([a_finding()], history, **more)
    assert decision.action == "retrain"
    assert kept.streak == {}
    assert kept.starts[-1] == NOW
    assert all(NOW - start < 30 * DAY for start in kept.starts)


def test_a_check_without_new_windows_confirms_nothing_and_forgets_nothing() -> None:
    """An alarm that persists is no new evidence."""
    before = History(streak={"fleet": 1}, starts=(NOW - DAY,))
    decision, kept = said([a_finding()], before, retrain={"confirm": 2}, fresh=False)
    assert decision.action == "hold"
    assert decision.reason == "no new windows to assess"
    assert kept == before
    decision, _ = said([a_finding(), a_finding(kind="silence", reason="c is silent")], before, fresh=False)
    assert decision.reason == "no new windows to assess; c is silent"


def test_a_site_that_moved_is_retrained_for_alone() -> None:
    decision, history = said([a_finding("site", ("b",))], retrain={"confirm": 2, **ALONE})
    assert (decision.scope, decision.sites) == ("site:b", ("b",))
    assert decision.reason == "site:b: x moved; held: seen in 1 check in a row, 2 confirm it"
    assert history.streak == {"site:b": 1}
    decision, _ = said([a_finding("site", ("b",))], history, retrain={"confirm": 2, **ALONE})
    assert (decision.action, decision.scope, decision.sites) == ("retrain", "site:b", ("b",))
    assert decision.reason == "site:b: x moved; 2 checks in a row; 5,000 labelled rows; compute cloud"


def test_a_cohort_that_moved_is_retrained_for_as_a_whole() -> None:
    decision, _ = said([a_finding("cohort", ("c",))])
    assert (decision.scope, decision.sites) == ("cohort:oven", ("c", "d"))


def test_the_widest_scope_wins() -> None:
    found = [a_finding("site", ("a",), reason="only a"), a_finding("cohort", ("c",)), a_finding(reason="all")]
    decision, _ = said(found)
    assert (decision.scope, decision.sites) == ("fleet", None)
    assert decision.reason.startswith("fleet: all; ")
    assert decision.findings == tuple(found)


def test_another_scope_than_last_time_is_not_confirmed_by_it() -> None:
    _, history = said([a_finding("site", ("a",))], retrain={"confirm": 2, **ALONE})
    decision, history = said([a_finding("site", ("b",))], history, retrain={"confirm": 2, **ALONE})
    assert decision.action == "hold"
    assert history.streak == {"site:b": 1}


def test_a_fleet_that_moved_keeps_the_streaks_of_its_sites_going() -> None:
    confirm = {"confirm": 3, **ALONE}
    _, history = said([a_finding("site", ("a",))], retrain=confirm)
    _, history = said([a_finding()], history, retrain=confirm)
    assert history.streak == {"fleet": 1, "site:a": 2}
    decision, _ = said([a_finding("site", ("a",))], history, retrain=confirm)
    assert (decision.action, decision.scope) == ("retrain", "site:a")


def test_a_broken_sensor_at_one_site_is_for_a_technician_and_not_for_training() -> None:
    broken = a_finding("site", ("b",))
    decision, history = said([broken], retrain={"confirm": 2})
    assert (decision.action, decision.maintenance) == ("hold", ())
    assert decision.reason == "nothing that retraining answers: x moved"
    decision, history = said([broken], history, retrain={"confirm": 2})
    assert decision.maintenance == (Maintenance(site="b", kinds=("feature",), features=("x",), reason="x moved"),)
    decision, history = said([broken], history, retrain={"confirm": 2})
    assert decision.maintenance == (), "it is told once"
    _, history = said([], history, retrain={"confirm": 2})
    assert history == History()
    decision, _ = said([broken], history)
    assert [m.site for m in decision.maintenance] == ["b"], "it has begun anew"


def test_every_site_that_moved_by_itself_is_named_with_all_that_is_wrong_there() -> None:
    found = [
        a_finding("site", ("a", "c")),
        a_finding("site", ("a",), kind="missing", statistical=False, features=("y",), reason="y is missing at a"),
        a_finding("fleet", ("a", "b", "c"), kind="range", statistical=False, reason="out of range everywhere"),
    ]
    decision, _ = said(found)
    assert decision.maintenance == (
        Maintenance(site="a", kinds=("feature", "missing"), features=("x", "y"), reason="x moved; y is missing at a"),
        Maintenance(site="c", kinds=("feature",), features=("x",), reason="x moved"),
    )


def test_the_world_changes_and_a_sensor_breaks_and_both_are_answered() -> None:
    decision, _ = said(
        [a_finding(), a_finding("site", ("b",), kind="silence", statistical=False, reason="b is silent")]
    )
    assert (decision.action, decision.scope) == ("retrain", "fleet")
    assert [m.site for m in decision.maintenance] == ["b"]


def test_what_follows_is_what_the_policy_says_of_the_reach() -> None:
    decision, _ = said([a_finding()], retrain={"scope": Follows(fleet="maintain")})
    assert (decision.action, [m.site for m in decision.maintenance]) == ("hold", ["a", "b", "c"])
    decision, _ = said([a_finding("site", ("b",))], retrain=ALONE)
    assert (decision.scope, decision.maintenance) == ("site:b", ())


def test_a_check_without_new_windows_confirms_no_maintenance() -> None:
    decision, history = said(
        [a_finding("site", ("b",))], History(maintenance={"b": 1}), retrain={"confirm": 2}, fresh=False
    )
    assert (decision.maintenance, history.maintenance) == ((), {"b": 1})


def test_many_reasons_are_cut_short() -> None:
    decision, _ = said([a_finding(reason=f"x{i}") for i in range(5)])
    assert decision.reason.startswith("fleet: x0; x1; x2 and 2 more; ")


def test_three_reasons_are_all_told_and_maintenance_tells_them_in_order() -> None:
    decision, _ = said([a_finding(reason=f"x{i}") for i in range(3)])
    assert decision.reason.startswith("fleet: x0; x1; x2; 1 check in a row")
    found = [("range", "b2"), ("range", "b1"), ("missing", "z"), ("silence", "a")]
    here = [a_finding("site", ("a",), kind=kind, statistical=False, reason=reason) for kind, reason in found]
    decision, _ = said(here)
    assert [m.reason for m in decision.maintenance] == ["z; b1; b2 and 1 more"]


def test_a_monitor_of_ones_own_asks_for_no_maintenance() -> None:
    decision, _ = said([a_finding("site", ("b",), kind="monitor")], retrain={"on": ("feature", "monitor")})
    assert (decision.action, decision.scope, decision.maintenance) == ("retrain", "site:b", ())


def test_what_moved_at_several_sites_alone_is_retrained_for_at_the_first() -> None:
    decision, _ = said([a_finding("site", ("b", "c"))], retrain=ALONE)
    assert (decision.scope, decision.sites) == ("site:b", ("b",))


def test_a_cohort_of_which_no_site_is_left_is_the_default_one() -> None:
    decision, _ = said([a_finding("cohort", ("gone",))])
    assert (decision.scope, decision.sites) == ("cohort:default", ())


def test_without_rows_nothing_is_trained() -> None:
    decision, _ = decide([a_finding()], History(), NOW, a_loop(retrain=Retrain(confirm=1, minimum_rows=1)), FLEET)
    assert decision.reason.endswith("held: 0 labelled rows for training, fewer than 1")


@pytest.mark.parametrize(
    ("fleet", "scope", "compute", "says"),
    [
        (a_fleet("a", "b", "c"), "auto", "cloud", "compute cloud"),
        (FLEET, "auto", "cloud", CLOUD),
        (a_fleet("a", "b", data="stays", dataset="/mnt/t"), "auto", "edge", "compute edge at a: data of a, b stays"),
        (FLEET, "cloud", "cloud", "compute cloud as configured, without d whose data stays"),
        (FLEET, "edge", "edge", "compute edge at a: as configured"),
    ],
)
def test_where_it_is_trained(fleet: Fleet, scope: Any, compute: str, says: str) -> None:
    loop = a_loop(training=Training(compute=scope))
    decision, _ = decide([a_finding()], History(), NOW, loop, fleet, rows=5000)
    assert decision.compute == compute
    assert decision.reason.endswith(f"; {says}")
    assert (decision.scope, decision.sites) == (("site:a", ("a",)) if compute == "edge" else ("fleet", None))


def test_where_there_is_no_place_to_train_it_is_held() -> None:
    fleet = a_fleet("a", "b", data="stays")
    decision, _ = said([a_finding()], fleet=fleet)
    assert decision.action == "hold"
    said_why = "data of a, b stays, and a names no dataset to train on; b names no dataset to train on"
    assert decision.reason.endswith(f"held: {said_why}")


kinds = st.sampled_from(["feature", "prediction", "label", "performance", "missing", "silence"])
places = st.sampled_from([("fleet", ("a", "b", "c")), ("cohort", ("c", "d")), ("site", ("a",)), ("site", ("d",))])
findings = st.lists(st.builds(lambda kind, at: a_finding(at[0], at[1], kind=kind), kinds, places), max_size=4)


@given(st.lists(st.tuples(findings, st.booleans(), st.integers(0, 200)), max_size=12))
def test_never_more_runs_than_the_budget_nor_one_without_confirmation_and_rows(
    checks: list[tuple[list[Finding], bool, int]],
) -> None:
    loop = a_loop(retrain=Retrain(confirm=2, budget="1 per 5 days", minimum_rows=100))
    history = History()
    starts = []
    seen_before = False
    for day, (found, busy, rows) in enumerate(checks):
        now = NOW + day * DAY
        active = ["line.2026-03-01.1"] if busy else []
        decision, history = decide(found, history, now, loop, FLEET, active=active, rows=rows)
        moved = any(f.kind in loop.retrain.on for f in found)
        if decision.action == "retrain":
            assert moved
            assert seen_before
            assert not busy
            assert rows >= 100
            starts.append(now)
            seen_before = False
        else:
            seen_before = moved
        assert decision.reason
    assert all(b - a >= 5 * DAY for a, b in pairwise(starts))


@given(findings, st.integers(0, 200), st.permutations(range(4)))
def test_the_same_inputs_give_the_same_decision_in_whatever_order_the_findings_come(
    found: list[Finding], rows: int, order: list[int]
) -> None:
    shuffled = [found[i] for i in order if i < len(found)]
    (a, kept), (b, kept_too) = said(found, rows=rows), said(shuffled, rows=rows)
    assert (a.action, a.scope, a.sites, a.compute, kept) == (b.action, b.scope, b.sites, b.compute, kept_too)
