"""Invariants 14, 15, 18, 19 and 20 in random fleets with faults, judged by what arrives at sites and what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.radius import a_trial, blast
from triggers import lifecycle, rollout, sites, windows
from triggers.gates import Verdict


def test_no_change_ever_raises_what_is_unavailable_above_what_may_be() -> None:
    found = blast(40)
    assert found["wrong"] == []
    assert found["starts"] > 100
    assert found["deaths"] > 100
    assert found["phases"]["verified"] > 8
    assert found["phases"]["rolled-back"] > 8


@pytest.mark.wire
def test_not_in_five_hundred_fleets_either() -> None:
    assert blast(500)["wrong"] == []


@pytest.mark.nightly
def test_not_in_ten_thousand_fleets_either() -> None:
    assert blast(10_000)["wrong"] == []


def test_a_site_that_was_cut_off_half_changed_goes_on_once_there_is_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was away when another was asked, and its own request arrives at the same time."""
    assert a_trial(5231).watch.wrong == []
    monkeypatch.setattr(sites, "_full", lambda *given: False)
    assert "are being changed" in " ".join(a_trial(5231).watch.wrong)


def test_a_site_that_fell_silent_with_the_change_is_not_there_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """It named the old candidate after it was asked and before it had all of the new one; then nobody heard it."""
    assert a_trial(2249).watch.wrong == []

    def spoke(state: Any) -> bool:
        return bool(state.observed_at and state.asked and state.observed_at > state.asked)

    monkeypatch.setattr(sites, "_spoke", spoke)
    assert "are unavailable" in " ".join(a_trial(2249).watch.wrong)


def wider(*given: Any) -> rollout.Room:
    found = ROOM(*given)
    return rollout.Room(found.at_once + 1, found.well + 1)


def only_all(ports: Any, run: Any, through: int, reason: str, only_failed: bool = False) -> None:
    if not only_failed:
        BACK(ports, run, through, reason)


def undecided_passes(report: Any, limits: Any, total: int) -> Verdict:
    found = JUDGE(report, limits, total)
    return found if found.outcome == "failed" else Verdict("passed", found.reason)


ROOM, UNKNOWN, BACK, JUDGE = rollout.room, rollout.unknown, sites.roll_back, lifecycle.judge_wave
SLOW = pytest.mark.wire


@pytest.mark.parametrize(
    ("where", "name", "bug", "says"),
    [
        (rollout, "room", wider, "are unavailable"),
        (rollout, "unknown", lambda *given: False, "are unavailable"),
        (lifecycle, "judge_wave", undecided_passes, "of an earlier wave are decided"),
        (windows, "next_start", lambda site, now, needed, denied=(): now, "outside its window"),
        pytest.param(
            rollout, "unknown", lambda heard, *more: heard and UNKNOWN(heard, *more), "are unavailable", marks=SLOW
        ),
        pytest.param(rollout, "DOWN", (), "are unavailable", marks=SLOW),
        pytest.param(sites, "_held", lambda ports, change: "", "are unavailable", marks=SLOW),
        pytest.param(sites, "_frozen_by", lambda target, record: "", "while it is frozen", marks=SLOW),
        pytest.param(sites, "roll_back", only_all, "is not taken back", marks=SLOW),
    ],
    ids=["room", "unknown", "waves", "windows", "never-spoke", "down", "withdrawn", "frozen", "failed"],
)
def test_a_planted_bug_is_found(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, bug: Callable[..., Any], says: str
) -> None:
    monkeypatch.setattr(where, name, bug)
    found = next(filter(None, (a_trial(seed).watch.wrong for seed in range(100))), [])
    assert says in " ".join(found)
