"""Evidence is judged, and whatever is missing, stale, foreign or no number never passes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.triggers.samples import DAY, NEW, NOW, OLD, a_comparison, evidence
from triggers.config import Gates
from triggers.events import Comparison, Evidence
from triggers.gates import Verdict, judge

LIMITS = Gates()
SAID = "auc 0.7500 against 0.7000 on 1,000 rows, gain +0.0500 [+0.0300, +0.0700] at 95%"


def verdict(found: Evidence, limits: Gates = LIMITS) -> Verdict:
    return judge(found, NEW, OLD, limits, NOW)


def overall(**changes: Any) -> Evidence:
    return evidence(overall=a_comparison(**changes))


@pytest.mark.parametrize(
    ("found", "limits", "said"),
    [
        (evidence(), LIMITS, Verdict("passed", f"{SAID}, above +0.0000")),
        (evidence(), Gates(minimum_gain=0.03), Verdict("inconclusive", f"{SAID}: the interval reaches below +0.0300")),
        (evidence(), Gates(minimum_gain=0.05), Verdict("failed", f"{SAID}: not above +0.0500")),
        (evidence(), Gates(minimum_gain=-0.1), Verdict("passed", f"{SAID}, above -0.1000")),
        (
            overall(rows=499),
            LIMITS,
            Verdict("inconclusive", "499 labelled rows outside both training windows, fewer than 500"),
        ),
        (
            evidence(challenger=OLD, champion=NEW),
            LIMITS,
            Verdict("failed", f"evidence is about {OLD[:12]} against {NEW[:12]}, not {NEW[:12]} against {OLD[:12]}"),
        ),
        (
            evidence(end=NOW - 8 * DAY),
            LIMITS,
            Verdict("inconclusive", "evidence is 8 days old, more than 7d"),
        ),
        (evidence(end=None), LIMITS, Verdict("inconclusive", "evidence does not say from when it is")),
        (
            evidence(end=NOW + DAY),
            LIMITS,
            Verdict("inconclusive", "evidence ends at 2026-03-11 06:00 UTC, in the future"),
        ),
        (
            evidence(confidence=0.8),
            LIMITS,
            Verdict("inconclusive", "the interval is at 80% confidence, not 95%"),
        ),
        (
            evidence(metric="log_loss"),
            Gates(metric="auc"),
            Verdict("failed", "evidence is about log_loss, not auc"),
        ),
    ],
)
def test_a_verdict_says_why_with_its_numbers(found: Evidence, limits: Gates, said: Verdict) -> None:
    assert verdict(found, limits) == said


def test_the_worst_gate_wins_and_keeps_its_reason() -> None:
    found = evidence(end=None, overall=a_comparison(gain=math.nan))
    assert verdict(found) == Verdict("failed", "auc is not a number")


@pytest.mark.parametrize(
    ("sites", "limit", "said"),
    [
        ({"a": a_comparison(gain=-0.02)}, None, Verdict("passed", f"{SAID}, above +0.0000")),
        ({"a": a_comparison(gain=-0.02)}, 0.02, Verdict("passed", f"{SAID}, above +0.0000")),
        (
            {"a": a_comparison(gain=-0.03), "b": a_comparison(gain=-0.04)},
            0.02,
            Verdict(
                "failed",
                "a loses 0.0300 auc on 1,000 rows, more than 0.0200; "
                "b loses 0.0400 auc on 1,000 rows, more than 0.0200",
            ),
        ),
        ({"a": a_comparison(rows=10, gain=-0.9)}, 0.02, Verdict("passed", f"{SAID}, above +0.0000")),
        ({"a": a_comparison(gain=None)}, 0.02, Verdict("failed", "a: auc is not a number")),
        ({"a": a_comparison(gain=math.nan)}, 0.02, Verdict("failed", "a: auc is not a number")),
    ],
)
def test_no_site_may_lose_too_much(sites: dict[str, Comparison], limit: float | None, said: Verdict) -> None:
    assert verdict(evidence(sites=sites), Gates(maximum_site_loss=limit)) == said


bad = st.sampled_from([None, math.nan, math.inf, -math.inf])


@given(st.sampled_from(["champion", "challenger", "gain", "gain_low", "gain_high"]), bad)
def test_what_is_no_number_never_passes(field: str, value: float | None) -> None:
    assert verdict(overall(**{field: value})) == Verdict("failed", "auc is not a number")


@pytest.mark.parametrize("confidence", [math.nan, math.inf, -1.0, 0.0, 1.0, 95.0])
def test_a_confidence_that_is_none_never_passes(confidence: float) -> None:
    assert not verdict(evidence(confidence=confidence)).passed


numbers = st.one_of(st.none(), st.floats())


@given(
    st.builds(Comparison, st.integers(-5, 5000), numbers, numbers, numbers, numbers, numbers),
    st.sampled_from([OLD, NEW, ""]),
    st.sampled_from([OLD, NEW, ""]),
    st.sampled_from([None, NOW - 100 * DAY, NOW - DAY, NOW + DAY]),
    st.floats(),
)
def test_only_fresh_evidence_about_the_pair_with_an_interval_above_the_limit_passes(
    found: Comparison, champion: str, challenger: str, end: Any, confidence: float
) -> None:
    said = verdict(evidence(overall=found, champion=champion, challenger=challenger, end=end, confidence=confidence))
    passes = (
        (champion, challenger, end) == (OLD, NEW, NOW - DAY)
        and 0.95 <= confidence < 1
        and found.rows >= 500
        and None not in (found.champion, found.challenger, found.gain, found.gain_low, found.gain_high)
        and math.isfinite(found.champion or 0.0)
        and math.isfinite(found.challenger or 0.0)
        and 0 < (found.gain_low or 0.0) <= (found.gain or 0.0) <= (found.gain_high or 0.0) < math.inf
    )
    assert said.passed is passes
    assert said.reason
