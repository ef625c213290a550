"""Evidence is judged, and whatever is missing, stale, foreign or no number never passes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.triggers.samples import DAY, NEW, NOW, OLD, a_comparison, evidence, replace
from triggers.config import Fleet, Free, Gates, Holdout, InstanceType, Site, Slice, Window
from triggers.events import Comparison, Evidence, Trial
from triggers.gates import Verdict, judge, rooms

LIMITS = Gates()
SAID = "auc 0.7500 against 0.7000 on 1,000 rows, gain +0.0500 [+0.0300, +0.0700] at 95%"


def verdict(found: Evidence, limits: Gates = LIMITS) -> Verdict:
    return judge(found, NEW, OLD, limits, NOW)


def overall(**changes: Any) -> Evidence:
    return evidence(overall=a_comparison(**changes))


@pytest.mark.parametrize(
    ("found", "limits", "said"),
    [
        (evidence(), LIMITS, Verdict("passed", f"{SAID}, above +0.0000; no frozen holdout")),
        (evidence(), Gates(minimum_gain=0.03), Verdict("inconclusive", f"{SAID}: the interval reaches below +0.0300")),
        (evidence(), Gates(minimum_gain=0.05), Verdict("failed", f"{SAID}: not above +0.0500")),
        (evidence(), Gates(minimum_gain=-0.1), Verdict("passed", f"{SAID}, above -0.1000; no frozen holdout")),
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
        (
            evidence(newest=NOW - 9 * DAY),
            LIMITS,
            Verdict("inconclusive", "evidence is 9 days old, more than 7d"),
        ),
        (evidence(newest=NOW - DAY), LIMITS, Verdict("passed", f"{SAID}, above +0.0000; no frozen holdout")),
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


PASSES = Verdict("passed", f"{SAID}, above +0.0000; no frozen holdout")


def worse(by: float, width: float = 0.01, rows: int = 1000) -> Comparison:
    """A loss, and its interval."""
    return Comparison(rows, 0.7, 0.7 - by, -by, -by - width, -by + width)


UNMEASURED = Comparison(1000)
"""Neither model could be measured, as by the AUC where all rows have one outcome."""


@pytest.mark.parametrize(
    ("sites", "limit", "said"),
    [
        ({"a": worse(0.05)}, None, PASSES),
        ({"a": worse(0.02)}, 0.02, PASSES),
        (
            {"a": worse(0.05), "b": worse(0.04), "c": a_comparison()},
            0.02,
            Verdict(
                "failed",
                "a loses 0.0500 [0.0400, 0.0600] auc on 1,000 rows, more than 0.0200; "
                "b loses 0.0400 [0.0300, 0.0500] auc on 1,000 rows, more than 0.0200",
            ),
        ),
        (
            {"a": worse(0.05, 0.04)},
            0.02,
            Verdict(
                "inconclusive",
                "a loses 0.0500 [0.0100, 0.0900] auc on 1,000 rows, more than 0.0200, though not proven",
            ),
        ),
        ({"a": worse(0.9, rows=10), "b": a_comparison()}, 0.02, PASSES),
        (
            {"a": worse(0.9, rows=10)},
            0.02,
            Verdict("inconclusive", "no site could be compared: 1 has fewer rows than 100"),
        ),
        (
            {"a": UNMEASURED, "b": a_comparison(), "c": UNMEASURED},
            0.02,
            replace(PASSES, reason=f"{PASSES.reason}; 2 of 3 sites could not be compared by auc"),
        ),
        (
            {"a": UNMEASURED, "b": a_comparison(rows=99)},
            0.02,
            Verdict(
                "inconclusive",
                "no site could be compared: 1 has fewer rows than 100, at 1 neither model could be measured by auc",
            ),
        ),
        ({"a": replace(UNMEASURED, champion=0.7)}, 0.02, Verdict("failed", "a: auc is not a number")),
        (
            {"a": a_comparison(gain=-0.05, gain_low=-0.01, gain_high=0.01)},
            0.1,
            Verdict("failed", "a: the interval [-0.0100, +0.0100] does not hold its own estimate -0.0500"),
        ),
        ({"a": a_comparison(gain=None)}, 0.02, Verdict("failed", "a: auc is not a number")),
        ({"a": a_comparison(gain_high=math.nan)}, 0.02, Verdict("failed", "a: auc is not a number")),
        ({}, 0.02, Verdict("inconclusive", "the models were not compared by site")),
    ],
)
def test_better_on_average_and_worse_at_one_site_is_refused_with_its_name(
    sites: dict[str, Comparison], limit: float | None, said: Verdict
) -> None:
    assert verdict(evidence(sites=sites), Gates(maximum_site_loss=limit)) == said


WET = Slice(feature="rain", edges=(0.1,))


@pytest.mark.parametrize(
    ("found", "limits", "said"),
    [
        ({}, Gates(), PASSES),
        ({"cohorts": {"city": worse(0.05)}}, Gates(), PASSES),
        (
            {"cohorts": {"city": worse(0.05)}},
            Gates(maximum_slice_loss=0.02),
            Verdict("failed", "cohort city loses 0.0500 [0.0400, 0.0600] auc on 1,000 rows, more than 0.0200"),
        ),
        (
            {"cohorts": {"city": a_comparison()}, "groups": {"rain >= 0.1": worse(0.05)}},
            Gates(maximum_slice_loss=0.02, slices=(WET,)),
            Verdict("failed", "rain >= 0.1 loses 0.0500 [0.0400, 0.0600] auc on 1,000 rows, more than 0.0200"),
        ),
        (
            {"cohorts": {"city": a_comparison()}},
            Gates(maximum_slice_loss=0.02, slices=(WET,)),
            Verdict("inconclusive", "the models were not compared by group"),
        ),
        (
            {"fairness": {"rain": worse(0.2)}},
            Gates(slices=(replace(WET, maximum_difference=0.1),)),
            Verdict(
                "failed",
                "groups of rain lie further apart by 0.2000 [0.1900, 0.2100] in their answers on 1,000 rows, "
                "more than 0.1000",
            ),
        ),
        (
            {},
            Gates(slices=(replace(WET, maximum_difference=0.1),)),
            Verdict("inconclusive", "how far apart the groups of rain are was not measured"),
        ),
    ],
)
def test_no_cohort_and_no_group_may_lose_too_much(found: dict[str, Any], limits: Gates, said: Verdict) -> None:
    assert verdict(evidence(**found), limits) == said


def test_with_a_margin_no_worse_is_enough() -> None:
    found = overall(challenger=0.69, gain=-0.01, gain_low=-0.015, gain_high=-0.005)
    assert verdict(found).outcome == "failed"
    assert verdict(found, Gates(margin=0.02)).passed
    assert verdict(found, Gates(margin=0.012)).outcome == "inconclusive"
    assert verdict(found, Gates(margin=0.01)).outcome == "failed"


FROZEN = Gates(holdout=Holdout(table="old.csv", sha256="e" * 64, maximum_loss=0.03))


@pytest.mark.parametrize(
    ("found", "outcome", "said"),
    [
        ({}, "inconclusive", "the frozen holdout old.csv was not looked at"),
        (
            {"holdout": a_comparison(), "holdout_sha256": "f" * 64},
            "failed",
            "the holdout has sha256 ffffffffffff..., not eeeeeeeeeeee... as frozen",
        ),
        ({"holdout": a_comparison(rows=3)}, "inconclusive", "3 rows in the frozen holdout, fewer than 500"),
        (
            {"holdout": worse(0.05)},
            "failed",
            "auc 0.6500 against 0.7000 on 1,000 rows, gain -0.0500 [-0.0600, -0.0400] at 95%: not above -0.0300",
        ),
        ({"holdout": worse(0.025)}, "inconclusive", "the interval reaches below -0.0300"),
        ({"holdout": worse(0.015)}, "passed", "[-0.0250, -0.0050] at 95%, above -0.0300"),
    ],
)
def test_what_never_changes_must_not_be_forgotten(found: dict[str, Any], outcome: str, said: str) -> None:
    told = verdict(evidence(**{"holdout_sha256": "e" * 64, **found} if found else {}), FROZEN)
    assert told.outcome == outcome
    assert said in told.reason


GIB = 2**30
TRIAL = Trial(memory=GIB, cpu_ms=900.0, p50_ms=2.0, p95_ms=5.0, architecture="x86_64")
TRIED = evidence(trials={"champion": TRIAL, "challenger": replace(TRIAL, memory=3 * GIB)}, rows_per_hour=4000)
"""A row takes 0.9 CPU seconds: 4,000 an hour keep one CPU busy."""


def judged_for(*sites: Site, **changes: Any) -> Verdict:
    found = replace(TRIED, **changes)
    return judge(found, NEW, OLD, LIMITS, NOW, rooms(Fleet(sites=sites), None))


def free(cpu: str = "", memory: str = "", name: str = "mill", **more: Any) -> Site:
    return Site(name=name, free=Free(cpu=cpu, memory=memory), **more)


SMALL, LARGE = InstanceType(name="small", cpu="2", memory="2Gi"), InstanceType(name="large", cpu="4", memory="8Gi")


@pytest.mark.parametrize(
    ("site", "said"),
    [
        (free(memory="4Gi", cpu="2"), ""),
        (free(memory="3.5Gi"), "mill: memory 1.0 GiB (old) + 3.0 GiB (new) = 4.0 GiB, of 3.5 GiB free"),
        (free(cpu="1500m"), "mill: CPU 1 (old) + 1 (new) = 2, of 1.5 free"),
        (
            free(memory="6Gi", executor="azureml"),
            "3.0 GiB (new) + 2.4 GiB (Azure ML's extension) = 6.4 GiB",
        ),
        (
            free(memory="8Gi", instance_types=(SMALL, LARGE)),
            "mill: memory 2.0 GiB (old, small) + 8.0 GiB (new, large) = 10.0 GiB, of 8.0 GiB free",
        ),
        (
            Site(name="mill", instance_types=(SMALL,)),
            "mill: the new version takes 3.0 GiB and 1 CPU, the instance types have small 2.0 GiB and 2 CPU",
        ),
        (free(memory="8Gi", instance_types=(InstanceType(name="any"),)), ""),
    ],
)
def test_too_big_for_the_smallest_site_is_refused_with_the_arithmetic(site: Site, said: str) -> None:
    found = judged_for(free(memory="64Gi", cpu="8", name="plant"), site)
    assert (said in found.reason, found.outcome) == (True, "failed" if said else "passed")


def test_sites_that_have_the_same_are_named_once_and_reasons_end() -> None:
    alike = [free(memory="3Gi", name=f"mill-{i}") for i in range(3)]
    assert judged_for(*alike).reason.startswith("mill-0 (and 2 like it): memory 1.0 GiB")
    different = [free(memory=f"{i + 1}Mi", name=f"mill-{i}") for i in range(11)]
    assert judged_for(*different).reason.endswith("; and 3 more")
    assert judged_for(free(memory="3Gi"), trials={"challenger": TRIAL}) == Verdict(
        "inconclusive", "mill: what the old version needs was not measured"
    )


def test_what_does_not_arrive_within_a_window_is_refused() -> None:
    windows = (Window(cron="0 2 * * *", duration="30m"), Window(cron="0 2 * * SAT", duration="1h"))
    site = Site(name="mill", link_kbps=1000, windows=windows)
    assert judged_for(site, new_bytes=449 * 10**6).passed
    assert judged_for(site, new_bytes=460 * 10**6) == Verdict(
        "failed", "mill: 438.7 MiB over 1000 kbit/s take 61.3 min, longer than its longest window, 60.0 min"
    )
    assert judged_for(site).reason == "mill: how much there is to download was not measured"
    assert judged_for(Site(name="mill", link_kbps=1), new_bytes=10**9).passed  # at any time


@pytest.mark.parametrize(
    ("limit", "architecture", "trials", "said"),
    [
        (None, "arm64", TRIED.trials, ""),
        (5.0, "amd64", TRIED.trials, ""),
        (4.0, "", TRIED.trials, "a row takes p50 2 ms, p95 5 ms on x86_64, more than 4 ms"),
        (5.0, "arm64", TRIED.trials, "mill is arm64, and a row's time was measured on x86_64"),
        (5.0, "", {"challenger": Trial()}, "how long a row takes was not measured"),
    ],
)
def test_rows_are_scored_in_time_on_the_sites_architecture(
    limit: float | None, architecture: str, trials: dict[str, Trial], said: str
) -> None:
    at = rooms(Fleet(sites=(Site(name="mill", architecture=architecture),)), None)
    found = judge(replace(TRIED, trials=trials), NEW, OLD, Gates(maximum_p95_ms=limit), NOW, at)
    assert found == Verdict("failed" if "more than" in said else "inconclusive", said) if said else found.passed


@pytest.mark.parametrize(
    ("found", "limits", "said"),
    [
        (
            {"schema": "it lacks x (number)"},
            Gates(),
            Verdict("failed", "its rows are not the loop's: it lacks x (number)"),
        ),
        ({"schema": None}, Gates(), Verdict("inconclusive", "whether its rows are the loop's was not looked at")),
        ({"churn": 0.5, "calibration": {"challenger": 0.5}}, Gates(), PASSES),
        (
            {"churn": 0.2},
            Gates(maximum_churn=0.1),
            Verdict("failed", "share of changed answers 0.2000, more than 0.1000"),
        ),
        ({}, Gates(maximum_churn=0.1), Verdict("inconclusive", "the share of changed answers was not measured")),
        (
            {"calibration": {"champion": 0.01, "challenger": 0.2}},
            Gates(maximum_calibration_error=0.1),
            Verdict("failed", "calibration error 0.2000, more than 0.1000"),
        ),
        (
            {"calibration": {"challenger": math.nan}},
            Gates(maximum_calibration_error=0.1),
            Verdict("inconclusive", "the calibration error was not measured"),
        ),
        ({"examples": 3}, Gates(examples="must.csv"), PASSES),
        ({}, Gates(examples="must.csv"), Verdict("inconclusive", "no example of must.csv was tried")),
        (
            {"examples": 9, "missed": tuple("abcdefg")},
            Gates(examples="must.csv"),
            Verdict("failed", "7 of 9 examples that must not fail: a, b, c, d, e and 2 more"),
        ),
        (
            {"trials": {"challenger": Trial(error="model.onnx: has no inputs")}},
            Gates(),
            Verdict("failed", "a site cannot serve it: model.onnx: has no inputs"),
        ),
        ({"trials": {}}, Gates(), Verdict("inconclusive", "the candidate was not tried as a site loads it")),
    ],
)
def test_it_behaves_as_the_loop_asks(found: dict[str, Any], limits: Gates, said: Verdict) -> None:
    assert verdict(evidence(**found), limits) == said


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
