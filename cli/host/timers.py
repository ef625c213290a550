"""Timer schedules as Azure Functions reads them: NCRONTAB or a TimeSpan, in UTC."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol

_DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_FIELDS: Sequence[tuple[str, int, int, Sequence[str]]] = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("weekday", 0, 6, _DAYS),
)
_LONGEST = 366 * 40  # days: the longest wait for a 29 February on a given weekday, across 2100


class Schedule(Protocol):
    def after(self, moment: datetime) -> datetime:
        """The first occurrence strictly later than `moment`."""
        ...


@dataclass(frozen=True, slots=True)
class Every:
    """A TimeSpan: so long after the last run."""

    interval: timedelta

    def after(self, moment: datetime) -> datetime:
        return moment + self.interval


@dataclass(frozen=True, slots=True)
class Cron:
    """`second minute hour day month weekday`; day and weekday must both hold."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]

    def after(self, moment: datetime) -> datetime:
        start = (moment.astimezone(UTC) + timedelta(seconds=1)).replace(microsecond=0)
        for day in self._days(start.date()):
            earliest = start.time() if day == start.date() else time()
            found = self._time(earliest)
            if found is not None:
                return datetime.combine(day, found, UTC)
        raise ValueError("the schedule never occurs")

    def _days(self, first: date) -> Iterator[date]:
        for n in range(_LONGEST):
            day = first + timedelta(days=n)
            if day.month in self.months and day.day in self.days and day.isoweekday() % 7 in self.weekdays:
                yield day

    def _time(self, earliest: time) -> time | None:
        for hour in (h for h in self.hours if h >= earliest.hour):
            for minute in self.minutes:
                for second in self.seconds:
                    if (found := time(hour, minute, second)) >= earliest:
                        return found
        return None


def parse(text: str) -> Schedule:
    """Raises ValueError where Azure would refuse the schedule, or where it never occurs.

    >>> parse("0 */5 * * * *").after(datetime(2026, 3, 1, 12, 1, tzinfo=UTC)).isoformat()
    '2026-03-01T12:05:00+00:00'
    >>> parse("0 30 6 * * Mon-Fri").after(datetime(2026, 3, 6, 6, 30, tzinfo=UTC)).isoformat()
    '2026-03-09T06:30:00+00:00'
    >>> parse("1.12:00:00")
    Every(interval=datetime.timedelta(days=1, seconds=43200))
    """
    fields = text.split()
    if len(fields) == 1 and ":" in text:
        return Every(_span(fields[0]))
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise ValueError(f"not a schedule: {text!r} (six NCRONTAB fields, or hh:mm:ss)")
    cron = Cron(*(_field(said, *field) for said, field in zip(fields, _FIELDS, strict=True)))
    cron.after(datetime(2000, 1, 1, tzinfo=UTC))
    return cron


def _field(text: str, what: str, low: int, high: int, names: Sequence[str]) -> tuple[int, ...]:
    values: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?", part)
        step = int(found[3] or 1) if found else 0
        if not found or step < 1 or (found[1] == "*" and found[2]):
            raise ValueError(f"not a {what}: {part!r}")
        if found[1] == "*":
            first, last = low, high
        else:
            first = _value(found[1], what, low, high, names)
            last = _value(found[2], what, low, high, names) if found[2] else (high if found[3] else first)
        if last < first:
            raise ValueError(f"not a {what}: {part!r} runs backwards")
        values.update(range(first, last + 1, step))
    return tuple(sorted(values))


def _value(text: str, what: str, low: int, high: int, names: Sequence[str]) -> int:
    if text.isdecimal() and low <= int(text) <= high:
        return int(text)
    matches = [n for n, name in enumerate(names, low) if len(text) >= 3 and name.startswith(text.lower())]
    if len(matches) != 1:
        raise ValueError(f"not a {what}: {text!r}")
    return matches[0]


def _span(text: str) -> timedelta:
    """.NET's spelling: `[d.]hh:mm[:ss]`; where the first of three numbers is 24 or more, they are d:hh:mm."""
    found = re.fullmatch(r"(?:(\d+)\.)?(\d+):(\d\d)(?::(\d\d))?", text)
    if not found:
        raise ValueError(f"not a TimeSpan: {text!r}")
    days, first, second, third = (int(g or 0) for g in found.groups())
    if first > 23 and not days:
        days, first, second, third = first, second, third, 0
    span = timedelta(days=days, hours=first, minutes=second, seconds=third)
    if first > 23 or second > 59 or third > 59 or not span:
        raise ValueError(f"not a TimeSpan: {text!r}")
    return span
