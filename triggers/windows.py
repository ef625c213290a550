"""When a site may be changed: while one of its windows is open, and no blackout denies it.

A window opens at a local time and stays open for its duration, in elapsed time. Where the clocks are changed, it opens
once: a local time that comes twice opens it the first time only, and one that is skipped opens it at the instant at
which it would have come had the clocks not been changed yet (02:30, skipped by an hour, is 03:30 summer time).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache, lru_cache
from math import inf
from typing import Any

from triggers.config import Blackout, Site, Window, duration

HORIZON = timedelta(days=366)
"""How far ahead a start is looked for."""

_CHUNK = 28 * 86_400
_DAY = timedelta(days=1)
_ANCHOR = datetime(2024, 1, 1)  # noqa: DTZ001 (local time of whichever zone)

Span = tuple[float, float]
"""Start and end, UTC seconds."""


def open_at(site: Site, now: datetime, denied: Sequence[Blackout] = ()) -> bool:
    """Whether the site may be changed at `now`; `denied`: the fleet's blackouts."""
    at = now.timestamp()
    first = next(spans(site, at, denied), None)
    return first is not None and first[0] <= at


def next_start(
    site: Site, now: datetime, needed: timedelta = timedelta(0), denied: Sequence[Blackout] = ()
) -> datetime | None:
    """When a change that takes `needed` may begin, so that it ends before the site is closed again.

    None where that is not before HORIZON is over.
    """
    at, seconds = now.timestamp(), needed.total_seconds()
    for start, end in spans(site, at, denied, seconds):
        begin = max(start, at)
        if begin + seconds <= end:
            return datetime.fromtimestamp(begin, UTC)
    return None


def spans(site: Site, at: float, denied: Sequence[Blackout] = (), enough: float = 0.0) -> Iterator[Span]:
    """The times from `at` (UTC seconds) to HORIZON in which the site may be changed, in order and apart.

    A span that has lasted `enough` seconds is not followed to its end.
    """
    until = at + HORIZON.total_seconds()
    closed = sorted((b.start.timestamp(), b.end.timestamp()) for b in (*site.blackouts, *denied))
    for start, end in _opened(site.windows, site.timezone, at, until, enough) if site.windows else [(at, inf)]:
        for no, again in closed:
            if no >= end:
                break
            if again > start:
                if no > max(start, at):
                    yield start, no
                start = again
        if end > max(start, at) and start < until:
            yield start, end


def _opened(windows: tuple[Window, ...], timezone: str, at: float, until: float, enough: float) -> Iterator[Span]:
    """Windows alone, those that touch joined."""
    begin, end = -inf, -inf
    longest = max(duration(w.duration).total_seconds() for w in windows)  # no longer than a chunk
    for chunk in range(int((at - longest) // _CHUNK), int(until // _CHUNK) + 1):
        for opens, closes in _chunk(windows, timezone, chunk):
            if closes <= at:
                continue
            if opens > end:
                if end > at:
                    yield begin, end
                begin = opens
            end = max(end, closes)
        if end - max(begin, at) > enough + _CHUNK:
            break
    if end > at:
        yield begin, end


@lru_cache(maxsize=8192)
def _chunk(windows: tuple[Window, ...], timezone: str, chunk: int) -> tuple[Span, ...]:
    """The windows that open within 28 days, joined."""
    zone, low, high = _zone(timezone), chunk * _CHUNK, (chunk + 1) * _CHUNK
    found = []
    for window in windows:
        seconds = duration(window.duration).total_seconds()
        for local in _times(window.cron, window.rrule, chunk):
            opens = local.replace(tzinfo=zone).timestamp()  # fold=0: the first of two, and a skipped one as if not
            if low <= opens < high:
                found.append((opens, opens + seconds))
    joined: list[Span] = []
    for opens, closes in sorted(found):
        if joined and opens <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], closes))
        else:
            joined.append((opens, closes))
    return tuple(joined)


@cache
def _zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


def _naive(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


@lru_cache(maxsize=1024)
def _times(cron: str, rrule: str, chunk: int) -> tuple[datetime, ...]:
    """The local times at which a window opens, those within a chunk in any zone among them."""
    low, high = _naive(chunk * _CHUNK) - _DAY, _naive((chunk + 1) * _CHUNK) + _DAY
    if rrule:
        return tuple(rule(rrule).between(low, high, inc=True))
    from cronsim import CronSim

    fields = CronSim(cron, low)
    hours, minutes = sorted(fields.hours), sorted(fields.minutes)
    days = (low + n * _DAY for n in range((high - low).days))
    return tuple(
        day.replace(hour=hour, minute=minute)
        for day in days
        if day.month in fields.months and fields.match_day(day.date())
        for hour in hours
        for minute in minutes
    )


@lru_cache(maxsize=1024)
def rule(text: str) -> Any:
    """An RRULE of RFC 5545, counted from the beginning of 2024 unless it says DTSTART. Raises ValueError."""
    from dateutil.rrule import rrulestr

    return rrulestr(text, dtstart=_ANCHOR, cache=True)
