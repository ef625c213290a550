"""NCRONTAB and TimeSpan schedules, against what Azure's documentation and a brute-force clock say."""

from __future__ import annotations

import doctest
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cli.host import timers
from cli.host.timers import Every, parse

SUNDAY = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_the_examples_hold() -> None:
    assert doctest.testmod(timers).failed == 0


@pytest.mark.parametrize(
    ("text", "moment", "expected"),
    [
        ("0 0 6 * * *", "2026-03-01T06:00:00", "2026-03-02T06:00:00"),
        ("0 0 6 * * *", "2026-03-01T05:59:59.5", "2026-03-01T06:00:00"),
        ("*/15 * * * * *", "2026-03-01T23:59:46", "2026-03-02T00:00:00"),
        ("0 0 9-17 * * Mon-Fri", "2026-03-06T17:00:00", "2026-03-09T09:00:00"),
        ("0 0 0 13 * friday", "2026-03-01T00:00:00", "2026-03-13T00:00:00"),
        ("0 0 0 29 2 sun", "2026-03-01T00:00:00", "2032-02-29T00:00:00"),
        ("5,8,10 0 0 1 jan,jul *", "2026-03-01T00:00:00", "2026-07-01T00:00:05"),
        ("30 6 * * *", "2026-03-01T12:00:00", "2026-03-02T06:30:00"),
        ("0 10/20 * * * *", "2026-03-01T12:31:00", "2026-03-01T12:50:00"),
    ],
)
def test_the_next_occurrence_is_the_first_one_later(text: str, moment: str, expected: str) -> None:
    assert parse(text).after(datetime.fromisoformat(moment).replace(tzinfo=UTC)) == datetime.fromisoformat(
        expected
    ).replace(tzinfo=UTC)


def test_it_agrees_with_counting_seconds() -> None:
    rng = random.Random(7)
    for _ in range(20):
        second, minute, hour = rng.randrange(60), rng.randrange(60), rng.randrange(24)
        text = f"{second} {minute}-59/{rng.randint(1, 30)} {hour}/{rng.randint(1, 9)} * * {rng.randrange(7)}"
        cron: Any = parse(text)
        moment = SUNDAY + timedelta(seconds=rng.randrange(10**6))
        found = moment + timedelta(minutes=1) - timedelta(seconds=moment.second)
        found = moment.replace(second=second) if second > moment.second else found.replace(second=second)
        while not (
            found.minute in cron.minutes and found.hour in cron.hours and found.isoweekday() % 7 in cron.weekdays
        ):
            found += timedelta(minutes=1)
        assert cron.after(moment) == found, text


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("00:01:00", timedelta(minutes=1)),
        ("08:30", timedelta(hours=8, minutes=30)),
        ("1.00:00:00", timedelta(days=1)),
        ("25:00:00", timedelta(days=25)),
    ],
)
def test_a_time_span_is_read_as_dotnet_reads_it(text: str, span: timedelta) -> None:
    assert parse(text) == Every(span)


@pytest.mark.parametrize(
    "text",
    [
        *("", "* * * *", "60 * * * * *", "0 0 24 * * *", "0 0 0 0 * *", "0 0 0 * 13 *", "0 0 0 * * 7", "0 */0 * * * *"),
        *("0 5-1 * * * *", "0 0 0 * * mo", "0 0 0 L * *", "0 0 0 30 2 *", "00:00:00", "00:60:00", "@daily", "a:b"),
        *("0 0 0 * * *-3", "0 ٣ * * * * *", "0 0 0 * ju *"),
    ],
)
def test_what_azure_would_refuse_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a|never occurs"):
        parse(text)
