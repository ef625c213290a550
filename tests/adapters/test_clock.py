"""Clocks, and what they write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from adapters.local.clock import SystemClock, VirtualClock, micros, moment
from adapters.local.database import Database

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_the_system_clock_is_aware_and_utc() -> None:
    before = datetime.now(UTC)
    now = SystemClock().now()
    assert before <= now <= datetime.now(UTC)
    assert now.utcoffset() == timedelta(0)


def test_a_virtual_clock_moves_only_when_told(clock: VirtualClock) -> None:
    assert clock.now() == clock.now() == START
    assert clock.advance(HOUR) == clock.now() == START + HOUR
    assert clock.set(START + 5 * HOUR) == clock.now() == START + 5 * HOUR


def test_a_virtual_clock_never_goes_back(clock: VirtualClock) -> None:
    clock.set(START + HOUR)
    assert clock.set(START) == START + HOUR
    assert clock.advance(-HOUR) == START + HOUR


def test_a_restart_resumes_the_virtual_time(tmp_path: Path) -> None:
    for life in range(3):
        database = Database(tmp_path / "state.db")
        clock = VirtualClock(database, START)
        assert clock.now() == START + life * HOUR
        clock.advance(HOUR)
        database.close()


@given(st.datetimes(timezones=st.just(UTC)))
def test_stored_times_are_exact(time: datetime) -> None:
    assert moment(micros(time)) == time
