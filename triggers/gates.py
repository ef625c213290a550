"""Evidence + limits -> verdict. Fails closed: what is missing, stale or not a number never passes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from triggers.config import Gates, duration
from triggers.events import Comparison, Evidence

Outcome = Literal["passed", "failed", "inconclusive"]

_AHEAD = timedelta(minutes=10)
"""How far two clocks of ours may be apart."""


class Verdict(msgspec.Struct, frozen=True):
    """What a gate says, and the numbers that made it say so."""

    outcome: Outcome
    reason: str

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


def judge(evidence: Evidence, candidate: str, champion: str, limits: Gates, now: datetime) -> Verdict:
    """One verdict over all gates: the worst outcome wins, and every gate's reason is kept."""
    return worst(
        [
            _subject(evidence, candidate, champion, limits),
            _fresh(evidence, limits, now),
            _gain(evidence.overall, evidence, limits),
            *_sites(evidence, limits),
        ]
    )


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst outcome, with the reasons of those who gave it.

    >>> worst([Verdict("passed", "a"), Verdict("failed", "b"), Verdict("inconclusive", "c")])
    Verdict(outcome='failed', reason='b')
    """
    all_of = list(verdicts)
    outcomes: tuple[Outcome, ...] = ("failed", "inconclusive", "passed")
    for outcome in outcomes:
        reasons = [v.reason for v in all_of if v.outcome == outcome and v.reason]
        if any(v.outcome == outcome for v in all_of):
            return Verdict(outcome, "; ".join(reasons))
    return Verdict("inconclusive", "nothing was judged")


def _subject(evidence: Evidence, candidate: str, champion: str, limits: Gates) -> Verdict:
    if (evidence.challenger, evidence.champion) != (candidate, champion):
        shown = f"{evidence.challenger[:12]} against {evidence.champion[:12]}"
        return Verdict("failed", f"evidence is about {shown}, not {candidate[:12]} against {champion[:12]}")
    if limits.metric and evidence.metric != limits.metric:
        return Verdict("failed", f"evidence is about {evidence.metric}, not {limits.metric}")
    return Verdict("passed", "")


def _fresh(evidence: Evidence, limits: Gates, now: datetime) -> Verdict:
    if evidence.end is None:
        return Verdict("inconclusive", "evidence does not say from when it is")
    if evidence.end > now + _AHEAD:
        return Verdict("inconclusive", f"evidence ends at {evidence.end:%Y-%m-%d %H:%M} UTC, in the future")
    age = now - evidence.end
    if age > duration(limits.maximum_age):
        return Verdict("inconclusive", f"evidence is {age.days} days old, more than {limits.maximum_age}")
    return Verdict("passed", "")


def _gain(found: Comparison, evidence: Evidence, limits: Gates) -> Verdict:
    if found.rows < limits.minimum_rows:
        return Verdict(
            "inconclusive",
            f"{found.rows} labelled rows outside both training windows, fewer than {limits.minimum_rows}",
        )
    numbers = (found.champion, found.challenger, found.gain, found.gain_low, found.gain_high)
    if not _finite(numbers):
        return Verdict("failed", f"{evidence.metric} is not a number")
    champion, challenger, gain, low, high = (float(x) for x in numbers if x is not None)
    if not low <= gain <= high:
        return Verdict("failed", f"the interval [{low:+.4f}, {high:+.4f}] does not hold its own estimate {gain:+.4f}")
    if not limits.confidence <= evidence.confidence < 1:
        at = f"{evidence.confidence:.0%} confidence, not {limits.confidence:.0%}"
        return Verdict("inconclusive", f"the interval is at {at}")
    said = (
        f"{evidence.metric} {challenger:.4f} against {champion:.4f} on {found.rows:,} rows, "
        f"gain {gain:+.4f} [{low:+.4f}, {high:+.4f}] at {evidence.confidence:.0%}"
    )
    if low > limits.minimum_gain:
        return Verdict("passed", f"{said}, above {limits.minimum_gain:+.4f}")
    if gain <= limits.minimum_gain:
        return Verdict("failed", f"{said}: not above {limits.minimum_gain:+.4f}")
    return Verdict("inconclusive", f"{said}: the interval reaches below {limits.minimum_gain:+.4f}")


def _sites(evidence: Evidence, limits: Gates) -> Iterator[Verdict]:
    if limits.maximum_site_loss is None:
        return
    for site, found in sorted(evidence.sites.items()):
        if found.rows < limits.minimum_rows:
            continue
        if found.gain is None or not math.isfinite(found.gain):
            yield Verdict("failed", f"{site}: {evidence.metric} is not a number")
        elif -found.gain > limits.maximum_site_loss:
            loss = f"loses {-found.gain:.4f} {evidence.metric} on {found.rows:,} rows"
            yield Verdict("failed", f"{site} {loss}, more than {limits.maximum_site_loss:.4f}")


def _finite(numbers: Iterable[float | None]) -> bool:
    return all(x is not None and math.isfinite(x) for x in numbers)
