"""Maintenance windows, against an oracle that goes through two years minute by minute."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pytest
from numpy.typing import NDArray

from triggers.config import Blackout, Site, Window, duration
from triggers.windows import next_start, open_at, spans

FIRST = datetime(2025, 1, 1, tzinfo=UTC)
MINUTES = 730 * 1440
TEN = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "Australia/Lord_Howe",  # half an hour
    "Africa/Casablanca",  # back for Ramadan
    "America/Santiago",  # at midnight
    "Asia/Kathmandu",
    "Pacific/Chatham",
    "Antarctica/Troll",  # two hours
)
WINDOWS = (
    Window(cron="30 2 * * *", duration="3h"),
    Window(cron="0 0 * * SAT", duration="30h"),
    Window(cron="15 1,2,3 * * *", duration="20m"),
    Window(cron="45 23 1 * *", duration="2d"),
    Window(rrule="FREQ=MONTHLY;BYDAY=1SU;BYHOUR=2;BYMINUTE=0", duration="90m"),
)


class Oracle:
    """One zone, two years and a month before, by the minute."""

    def __init__(self, zone: str) -> None:
        before = 31 * 1440
        self.skip, n = before, before + MINUTES
        begin = int(FIRST.timestamp()) // 60 - before
        halves = range(begin // 30, (begin + n) // 30 + 1)
        tz = ZoneInfo(zone)
        offsets = [
            datetime.fromtimestamp(half * 1800, tz).utcoffset() // timedelta(minutes=1)  # type: ignore[operator]
            for half in halves
        ]
        self.local: NDArray[np.int64] = np.arange(begin, begin + n) + np.repeat(offsets, 30)[:n]
        self.at: dict[
            int, int
        ] = {}  # of the local minutes that do not come as they should: when they come, or would have
        for i in np.flatnonzero(np.diff(self.local) != 1).tolist():
            last, now = int(self.local[i]), int(self.local[i + 1])
            self.at |= {m: i + m - last for m in range(last + 1, now)}
            self.at |= {m: i - (last - m) for m in range(now, last + 1)}
        self.order = np.maximum.accumulate(self.local)

    def open(self, window: Window) -> NDArray[np.bool_]:
        length = int(duration(window.duration).total_seconds()) // 60
        steps = np.zeros(len(self.local) + length + 1, np.int32)
        wall = [m for m in _opens(window) if self.local[0] <= m <= self.local[-1]]
        starts = [self.at.get(m, i) for m, i in zip(wall, np.searchsorted(self.order, wall).tolist(), strict=True)]
        np.add.at(steps, starts, 1)
        np.add.at(steps, np.array(starts) + length, -1)
        return (np.cumsum(steps) > 0)[self.skip : len(self.local)]


def _opens(window: Window) -> list[int]:
    """The minutes of the wall clock at which a window opens, day by day."""
    found = []
    for n in range(-40, 740):
        day = datetime(2025, 1, 1) + timedelta(days=n)  # noqa: DTZ001
        minute, hour, of_month, _, of_week = (window.cron or "0 2 * * -").split()
        if window.rrule:  # the first Sunday of a month
            fits = day.weekday() == 6 and day.day <= 7
        else:
            fits = of_month in ("*", str(day.day)) and (of_week == "*" or day.weekday() == 5)
        midnight = int(day.replace(tzinfo=UTC).timestamp()) // 60
        found += [midnight + 60 * int(h) + int(minute) for h in hour.split(",") if fits]
    return found


def marked(site: Site, denied: tuple[Blackout, ...] = ()) -> NDArray[np.bool_]:
    """The open minutes of two years by our spans."""
    found = np.zeros(MINUTES, bool)
    base = FIRST.timestamp()
    for year in (0, 365):
        for start, end in spans(site, base + year * 86_400, denied):
            found[max(0, int(start - base) // 60) : max(0, int(min(end - base, MINUTES * 60)) // 60)] = True
    return found


def compare(zone: str) -> None:
    oracle, rng = Oracle(zone), random.Random(zone)
    together = np.zeros(MINUTES, bool)
    for window in WINDOWS:
        expected = oracle.open(window)
        together |= expected
        found = marked(Site(name="s", timezone=zone, windows=(window,)))
        wrong = np.flatnonzero(found != expected)
        assert not len(wrong), f"{zone}, {window}: {FIRST + timedelta(minutes=int(wrong[0]))}, {len(wrong)} in all"
    site = Site(name="s", timezone=zone, windows=WINDOWS)
    no = Blackout(start=FIRST + timedelta(days=80), end=FIRST + timedelta(days=90, minutes=7))
    together[80 * 1440 : 90 * 1440 + 7] = False
    closed, minutes = np.append(np.flatnonzero(~together), MINUTES), np.arange(MINUTES)
    left = closed[np.searchsorted(closed, minutes)] - minutes
    for _ in range(60):
        minute, needed = rng.randrange(MINUTES - 40 * 1440), rng.choice([0, 10, 60, 200, 2000])
        now = FIRST + timedelta(minutes=minute)
        assert open_at(site, now, (no,)) == together[minute], (zone, now)
        later = minute + int(np.argmax(left[minute:] >= max(needed, 1)))
        assert next_start(site, now, timedelta(minutes=needed), (no,)) == FIRST + timedelta(minutes=later)


@pytest.mark.parametrize("zone", TEN)
def test_windows_are_those_of_a_walk_through_every_minute_of_two_years(zone: str) -> None:
    compare(zone)


@pytest.mark.nightly
@pytest.mark.parametrize("zone", sorted(available_timezones()))
def test_windows_are_right_in_every_zone(zone: str) -> None:
    compare(zone)


BERLIN: dict[str, Any] = {"name": "s", "timezone": "Europe/Berlin"}
NIGHT = Site(**BERLIN, windows=(Window(cron="30 2 * * *", duration="1h"),))


@pytest.mark.parametrize(
    ("now", "start"),
    [
        ("2026-03-28T03:00Z", "2026-03-29T01:30Z"),  # 02:30 is skipped: 03:30 summer time
        ("2026-03-29T01:45Z", "2026-03-29T01:45Z"),
        ("2026-10-24T02:30Z", "2026-10-25T00:30Z"),  # 02:30 comes twice: the first
        ("2026-10-25T01:30Z", "2026-10-26T01:30Z"),  # the second does not open it again
    ],
)
def test_a_window_opens_once_when_the_clocks_are_changed(now: str, start: str) -> None:
    assert next_start(NIGHT, datetime.fromisoformat(now)) == datetime.fromisoformat(start)


def test_a_change_that_would_not_end_in_its_window_waits_for_one_that_is_long_enough() -> None:
    site = Site(name="s", windows=(*NIGHT.windows, Window(cron="0 0 * * SUN", duration="12h")))
    monday = datetime(2026, 3, 2, 2, 30, tzinfo=UTC)
    assert next_start(site, monday, timedelta(hours=1)) == monday
    assert next_start(site, monday + timedelta(seconds=1), timedelta(hours=1)) == monday + timedelta(days=1)
    assert next_start(site, monday, timedelta(hours=12)) == datetime(2026, 3, 8, tzinfo=UTC)
    assert next_start(site, monday, timedelta(hours=12, seconds=1)) is None


def test_what_denies_beats_what_allows() -> None:
    at = datetime(2026, 3, 2, tzinfo=UTC)
    no = Blackout(start=at + timedelta(hours=2), end=at + timedelta(hours=4))
    always = Site(name="s", blackouts=(no,))
    assert next_start(always, at, timedelta(hours=2)) == at
    assert next_start(always, at, timedelta(hours=3)) == at + timedelta(hours=4)
    assert not open_at(Site(name="s"), at, (Blackout(start=at, end=at + timedelta(seconds=1)),))
    assert open_at(always, at + timedelta(hours=4))


def test_windows_that_touch_are_one() -> None:
    site = Site(name="s", windows=tuple(Window(cron=f"0 {h} * * *", duration="6h") for h in (0, 6, 12, 18)))
    at = datetime(2026, 3, 2, 5, tzinfo=UTC)
    assert next_start(site, at, timedelta(days=60)) == at
