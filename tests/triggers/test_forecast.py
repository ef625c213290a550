"""Whose turn it is, when it comes, and what is seen of a candidate meanwhile."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from tests.triggers.samples import DAY, HOUR, NEW, NOW, an_event, replace
from triggers import windows
from triggers.config import Blackout, Fleet, Rollout, Site, Window
from triggers.events import Measured, WaveReported
from triggers.gates import Verdict
from triggers.rollout import (
    Health,
    Hold,
    Plan,
    PlannedWave,
    Room,
    SiteForecast,
    Turn,
    WaveForecast,
    forecast,
    judge_wave,
    late,
    plan,
    proven,
    rings,
    room,
    unknown,
)

MINUTE = timedelta(minutes=1)
NIGHTS = Window(cron="0 0 * * *", duration="6h")
SHORT = Window(cron="0 0 * * *", duration="1m")
MIDNIGHT = NOW + 18 * HOUR
CROWDED = "as many sites as may be are being changed"


def fleet(*sites: Site, **more: Any) -> Fleet:
    return Fleet(sites=sites, **more)


def hold(of: Fleet, size: int = 0, **limits: Any) -> Hold:
    return Hold(of, Rollout(**limits), lambda site: size)


# --- whose turn it is


def test_a_change_begins_in_a_window_in_which_it_also_ends() -> None:
    free, night = Site(name="free"), Site(name="night", windows=(NIGHTS,))
    slow = Site(name="slow", windows=(NIGHTS,), link_kbps=8)
    held = hold(fleet(free, night, slow), size=3_600_000, install="1h")
    assert (held.needed(free), held.needed(slow)) == (HOUR, 2 * HOUR)
    assert held.start(free, NOW) == NOW
    assert held.start(night, NOW) == MIDNIGHT
    assert held.start(slow, MIDNIGHT + 4 * HOUR) == MIDNIGHT + 4 * HOUR
    assert held.start(slow, MIDNIGHT + 5 * HOUR) == MIDNIGHT + DAY
    assert hold(fleet(slow), size=9_000_000, install="4h").start(slow, NOW) is None


def test_a_blackout_of_the_site_or_the_fleet_holds_it_too() -> None:
    closed = Blackout(start=NOW - HOUR, end=NOW + HOUR)
    own, any_ = Site(name="own", blackouts=(closed,)), Site(name="any")
    assert hold(fleet(own)).start(own, NOW) == NOW + HOUR
    assert hold(fleet(any_, blackouts=(closed,))).start(any_, NOW) == NOW + HOUR


def test_a_start_that_is_known_is_not_looked_for_again_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, real = [], windows.next_start

    def next_start(site: Site, now: Any, *more: Any) -> Any:
        looked.append(now)
        return real(site, now, *more)

    monkeypatch.setattr(windows, "next_start", next_start)
    night, never = Site(name="night", windows=(NIGHTS,)), Site(name="never", windows=(SHORT,))
    held = hold(fleet(night, never))
    assert [held.start(night, NOW + n * HOUR) for n in range(3)] == [MIDNIGHT] * 3
    assert [held.start(never, NOW + n * HOUR) for n in range(3)] == [None] * 3
    assert looked == [NOW, NOW]
    assert held.start(night, MIDNIGHT + HOUR) == MIDNIGHT + HOUR  # what was found lies behind
    assert held.start(night, NOW - DAY) == MIDNIGHT - DAY  # and this is about another time


def test_why_a_change_must_wait_is_said() -> None:
    night, never = Site(name="night", windows=(NIGHTS,)), Site(name="never", windows=(SHORT,))
    held = Hold(fleet(night, never), Rollout(), lambda site: 0, lambda site: "stocktaking" if site == "never" else "")
    assert held.why(night, MIDNIGHT) == ""
    assert held.why(night, NOW) == "its window opens at 2026-03-11 00:00 UTC"
    assert held.why(never, MIDNIGHT) == "stocktaking"
    assert held.waits(never, None) == "no window within a year is 5 min long"


def test_turns_are_given_while_there_is_room_and_first_to_who_is_well() -> None:
    sites = [Site(name=name) for name in ("down", "a", "b", "busy")]
    held = hold(fleet(*sites))
    crowded = "as many sites as may be are unavailable"
    assert held.turn(sites, NOW, Room(2, 1), {"down"}, {"busy"}) == Turn(("a", "busy", "down"), {"b": crowded}, None)
    assert held.turn(sites, NOW, Room(1, 1), {"down"}, {"busy"}) == Turn(
        ("a", "busy"), {"b": crowded, "down": crowded}, None
    )
    assert held.turn(sites[:1], NOW, Room(0, 0), {"down"}) == Turn((), {"down": crowded}, None)


def test_who_has_to_wait_is_named_with_the_next_start_of_any() -> None:
    early = Site(name="early", windows=(Window(cron="0 20 * * *", duration="1h"),))
    night, never = Site(name="night", windows=(NIGHTS,)), Site(name="never", windows=(SHORT,))
    frozen = Site(name="frozen", windows=(Window(cron="0 7 * * *", duration="1h"),))
    whole = fleet(night, early, never, frozen)
    held = Hold(whole, Rollout(), lambda site: 0, lambda site: "stocktaking" if site == "frozen" else "")
    assert held.turn(whole.sites, NOW, Room(9, 9)) == Turn(
        (),
        {
            "night": "its window opens at 2026-03-11 00:00 UTC",
            "early": "its window opens at 2026-03-10 20:00 UTC",
            "never": "no window within a year is 5 min long",
            "frozen": "stocktaking",
        },
        NOW + 14 * HOUR,
    )


@pytest.mark.parametrize(
    ("limits", "of", "left"),
    [
        ({"max_unavailable": 5}, (20, 0, 0), Room(5, 5)),
        ({"max_unavailable": 5}, (20, 1, 4), Room(4, 0)),
        ({"max_unavailable": 5, "max_concurrent": 2}, (20, 1, 1), Room(1, 1)),
        ({"max_unavailable": 5, "max_concurrent": "50%"}, (20, 6, 0), Room(4, 0)),
        ({"max_unavailable": 1}, (20, 2, 3), Room(0, 0)),
    ],
)
def test_room_is_what_the_limits_leave(limits: Any, of: tuple[int, int, int], left: Room) -> None:
    assert room(Rollout(**limits), *of) == left


def test_a_site_is_unknown_when_it_is_silent_for_longer_than_it_may() -> None:
    assert unknown(None, HOUR, NOW)
    assert not unknown(NOW - HOUR, HOUR, NOW)
    assert unknown(NOW - HOUR - MINUTE, HOUR, NOW)


# --- the plan


def test_a_wave_takes_in_who_has_joined_its_ring_and_only_the_last_one_does() -> None:
    planned = (Site(name="lab1", ring="lab"), Site(name="n1", ring="plant"), Site(name="n2", ring="plant"))
    made = plan(fleet(*planned), Rollout(rings=("lab", "plant")), "line", NEW)
    assert [w.sites for w in made.waves] == [("lab1",), ("n1",), ("n2",)]
    assert made.sites == 3
    later = fleet(*planned, Site(name="n3", ring="plant"), Site(name="lab2", ring="lab"), Site(name="far", ring="far"))
    assert [made.members(wave, later) for wave in range(3)] == [("lab1", "lab2"), ("n1",), ("n2", "n3")]


def test_rings_that_loop_yaml_leaves_out_come_after_those_it_names() -> None:
    whole = fleet(
        Site(name="a", ring="x"), Site(name="b", ring="y", labels={"tier": "pilot"}), Site(name="c", ring="z")
    )
    assert rings(whole, Rollout(rings=("tier=pilot", "z"))) == ("tier=pilot", "z", "x")


def expected(site: str, start: Any, end: Any, held: str = "", size: int = 0) -> SiteForecast:
    return SiteForecast(site=site, start=start, end=end, bytes=size, held=held)


def of_one_wave(of: Fleet, size: int = 0, **limits: Any) -> WaveForecast:
    allowed = Rollout(**{"wave_size": 9, "soak": "12h", **limits})
    made = plan(of, allowed, "line", NEW)
    [wave] = forecast(made, Hold(of, allowed, lambda site: size), NOW)
    return wave


def test_sites_take_turns_where_not_all_may_change_at_once() -> None:
    wave = of_one_wave(fleet(Site(name="a"), Site(name="b"), Site(name="c")), size=7)
    assert wave == WaveForecast(
        ring="default",
        start=NOW,
        end=NOW + 15 * MINUTE + 12 * HOUR,
        bytes=21,
        held=f"c: {CROWDED}",
        sites=(
            expected("a", NOW, NOW + 5 * MINUTE, size=7),
            expected("b", NOW + 5 * MINUTE, NOW + 10 * MINUTE, CROWDED, 7),
            expected("c", NOW + 10 * MINUTE, NOW + 15 * MINUTE, CROWDED, 7),
        ),
    )
    two = of_one_wave(fleet(Site(name="a"), Site(name="b"), Site(name="c")), max_unavailable=2)
    assert [s.start for s in two.sites] == [NOW, NOW, NOW + 5 * MINUTE]
    assert [s.held for s in two.sites] == ["", "", CROWDED]


def test_nothing_holds_a_wave_whose_sites_begin_at_once() -> None:
    assert of_one_wave(fleet(Site(name="a"))).held == ""


def test_a_window_that_opens_when_there_is_room_again_is_what_a_site_waits_for() -> None:
    in_time, later = (Window(cron=f"{minute} 6 * * *", duration="1h") for minute in (5, 20))
    wave = of_one_wave(fleet(Site(name="c", windows=(later,)), Site(name="a"), Site(name="b", windows=(in_time,))))
    assert [(s.site, s.start, s.held) for s in wave.sites] == [
        ("c", NOW + 20 * MINUTE, "its window opens at 2026-03-10 06:20 UTC"),
        ("a", NOW, ""),
        ("b", NOW + 5 * MINUTE, "its window opens at 2026-03-10 06:05 UTC"),
    ]
    assert (wave.start, wave.end) == (NOW, NOW + 25 * MINUTE + 12 * HOUR)
    assert wave.held == "c: its window opens at 2026-03-10 06:20 UTC"


def test_who_waits_for_a_place_may_have_to_wait_for_the_next_window_then() -> None:
    night = {"windows": (Window(cron="0 0 * * *", duration="8m"),)}
    wave = of_one_wave(fleet(Site(name="a", **night), Site(name="b", **night)))  # type: ignore[arg-type]
    assert [s.start for s in wave.sites] == [MIDNIGHT, MIDNIGHT + DAY]


def test_a_site_without_a_window_long_enough_is_never_changed_and_holds_the_wave() -> None:
    never = Site(name="never", windows=(SHORT,))
    wave = of_one_wave(fleet(never, Site(name="a"), Site(name="b")))
    why = "no window within a year is 5 min long"
    assert wave.sites[0] == expected("never", None, None, why)
    assert wave.held == f"1 of 3 sites never: {why}"
    assert (wave.start, wave.end) == (NOW, NOW + 10 * MINUTE + 12 * HOUR)


def test_the_next_wave_begins_when_the_last_one_is_expected_to_be_verified() -> None:
    whole, limits = fleet(Site(name="a"), Site(name="b")), Rollout(soak="12h")
    first, second = forecast(plan(whole, limits, "line", NEW), Hold(whole, limits, lambda site: 0), NOW)
    assert (first.end, second.start) == (NOW + 5 * MINUTE + 12 * HOUR, first.end)
    assert second.end == first.end + 5 * MINUTE + 12 * HOUR


def test_a_wave_whose_sites_are_gone_only_soaks() -> None:
    made = Plan(loop="line", candidate=NEW, waves=(PlannedWave("lab", ("gone",)),), limits=Rollout(soak="12h"))
    [wave] = forecast(made, hold(fleet()), NOW)
    assert wave == WaveForecast(ring="lab", start=NOW, end=NOW + 12 * HOUR, bytes=0, held="", sites=())


# --- what is seen of it

FRESH = Health(candidate=NEW, since=NOW)
STRICT = Rollout(max_error_rate=0.1, max_p95_ms=50.0)


def test_health_adds_up_what_each_batch_tells() -> None:
    one = FRESH.heard(NOW + HOUR, 10, 1, 50.0, STRICT)
    assert one == Health(candidate=NEW, since=NOW, last=NOW + HOUR, requests=10, errors=1, slow=0, p95_ms=50.0, bad=0)
    two = one.heard(NOW, 20, 3, 60.0, STRICT)  # an older one, and it comes later
    assert two == Health(candidate=NEW, since=NOW, last=NOW + HOUR, requests=30, errors=4, slow=20, p95_ms=60.0, bad=1)
    assert two.heard(NOW, 0, 0, 1.0, STRICT) == two
    assert two.heard(NOW, 10, 2, 1.0, STRICT).bad == 2
    assert two.heard(NOW, 10, 1, 1.0, STRICT).bad == 0
    assert two.heard(NOW + 2 * HOUR, 1, 0, 1.0, STRICT).last == NOW + 2 * HOUR


def test_a_latency_that_is_no_number_is_slow() -> None:
    one = FRESH.heard(NOW, 10, 0, math.nan, STRICT)
    assert (one.slow, math.isnan(one.p95_ms)) == (10, True)
    assert FRESH.heard(NOW, 10, 0, math.nan, replace(STRICT, max_p95_ms=None)).slow == 0


def test_a_change_takes_its_next_step_without_a_soak_and_not_without_requests() -> None:
    enough = replace(FRESH, requests=20)
    assert proven(enough, Rollout(minimum_requests=20), NOW)
    assert not proven(replace(enough, requests=19), Rollout(minimum_requests=20), NOW)
    assert not proven(replace(enough, errors=9), Rollout(minimum_requests=20), NOW)


def test_a_site_is_late_after_the_change_the_soak_and_the_deadline() -> None:
    limits, needed = Rollout(soak="1d", deadline="3d"), HOUR
    assert not late(NOW, needed, limits, NOW + 4 * DAY + HOUR)
    assert late(NOW, needed, limits, NOW + 4 * DAY + HOUR + MINUTE)


COUNTED = "wave 2: 2 verified, 0 deferred, 0 pending"


@pytest.mark.parametrize(
    ("measured", "limits", "outcome", "more"),
    [
        ({}, {}, "passed", ""),
        ({"rows": 20, "score_drift": 9.0, "labels": 5, "metric": "auc", "metric_loss": 0.9}, {}, "passed", ""),
        (
            {"rows": 20, "score_drift": 0.2},
            {"max_score_drift": 0.2},
            "passed",
            "its scores are 0.200 PSI from those in training",
        ),
        (
            {"rows": 20, "score_drift": 0.2004},
            {"max_score_drift": 0.2},
            "failed",
            "its scores are 0.200 PSI from those in training, more than 0.2",
        ),
        (
            {"rows": 20, "score_drift": math.nan},
            {"max_score_drift": 0.2},
            "failed",
            "its scores are nan PSI from those in training, more than 0.2",
        ),
        (
            {"rows": 19, "score_drift": 0.0},
            {"max_score_drift": 0.2},
            "inconclusive",
            "its scores are not known (19 rows)",
        ),
        ({"rows": 99}, {"max_score_drift": 0.2}, "inconclusive", "its scores are not known (99 rows)"),
        ({"labels": 0, "metric_loss": 0.9}, {"max_metric_loss": 0.05}, "passed", ""),
        (
            {"labels": 1500, "metric": "auc", "metric_loss": 0.05},
            {"max_metric_loss": 0.05},
            "passed",
            "auc is worse by 0.0500 than in its evaluation, by 1,500 labels",
        ),
        (
            {"labels": 1500, "metric": "auc", "metric_loss": 0.051},
            {"max_metric_loss": 0.05},
            "failed",
            "auc is worse by 0.0510 than in its evaluation, by 1,500 labels; 0.05 tolerated",
        ),
        (
            {"labels": 1500, "metric": "auc"},
            {"max_metric_loss": 0.05},
            "inconclusive",
            "1,500 labels, by which auc is not known",
        ),
        (
            {"labels": 1500, "metric": "auc", "metric_loss": math.nan},
            {"max_metric_loss": 0.05},
            "inconclusive",
            "1,500 labels, by which auc is not known",
        ),
    ],
)
def test_a_wave_is_judged_by_what_its_sites_measured(
    measured: dict[str, Any], limits: dict[str, Any], outcome: str, more: str
) -> None:
    report: WaveReported = an_event(WaveReported, wave=1, verified=2, measured=Measured(**measured))
    said = f"{COUNTED}; {more}" if more else COUNTED
    assert judge_wave(report, Rollout(**limits), 10) == Verdict(outcome, said)  # type: ignore[arg-type]


def test_a_wave_that_nobody_verified_has_not_passed_because_some_are_gone() -> None:
    for counts in ({"deferred": 1, "removed": 1}, {"failed": 1, "removed": 1}):
        report: WaveReported = an_event(WaveReported, wave=1, **{"verified": 0, **counts})
        assert judge_wave(report, Rollout(max_failed=1), 10).outcome == "inconclusive"
