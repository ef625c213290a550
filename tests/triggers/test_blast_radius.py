"""Invariants 14, 15, 18 and 19 in random fleets with faults, counted by brute force at every start."""

from __future__ import annotations

from random import Random

import pytest

from bench.rollout import LOOP, START, Watched, blast, with_limits
from cli.simulation import Weather
from triggers.config import Fleet, Site


def test_no_change_ever_raises_what_is_unavailable_above_what_may_be() -> None:
    found = blast(500)
    assert found["violations"] == 0
    assert found["starts"] > 2000
    assert found["verified"] > 50
    assert found["rolled back"] > 50


@pytest.mark.nightly
def test_not_in_ten_thousand_fleets_either() -> None:
    assert blast(10_000)["violations"] == 0


def test_the_count_would_find_a_violation() -> None:
    fleet = Fleet(sites=tuple(Site(name=f"s{n}") for n in range(6)))
    made = Watched(with_limits(LOOP, max_unavailable=1, wave_size=6), fleet, 1000, START, Random(1), Weather())
    made.hold.turn = lambda waiting, now, room, away=(): type(made.hold).turn(made.hold, waiting, now, 6, away)  # type: ignore[method-assign]
    made.go(1)
    assert "1 of 1 are unavailable already" in made.wrong[0]
