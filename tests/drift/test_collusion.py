"""A minority of sites that lie together: they are named, and they are never the fleet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from drift.history import History
from drift.reference import Reference
from drift.report import Limits, Report, assess
from drift.telemetry import Feature, Rows, Schema

DAY = 86_400
SITES = tuple(f"site-{i:02}" for i in range(20))
LIARS = SITES[3::5]
"""A fifth of them, one in each cohort."""
SCHEMA = Schema("1", tuple(Feature(f"x{i}") for i in range(4)))
N = 80
LEVEL = np.random.default_rng(7).normal(0, 0.5, (1, len(SITES), 1))
Lie = Callable[[History], History]


def days(first: int, last: int, seed: int) -> History:
    """N rows a site and day; the features of a site lean on each other, and each day is a little its own."""
    r = np.random.default_rng(seed)
    shape = (last - first, len(SITES), N)
    day = r.normal(0, 0.08, (last - first, 1, 1))
    base = r.normal(size=shape)
    columns = {f"x{i}": (LEVEL + day + 0.6 * base + 0.8 * r.normal(size=shape)).reshape(-1) for i in range(4)}
    score = 1 / (1 + np.exp(-columns["x0"]))
    at = np.repeat(np.arange(first, last) * DAY, len(SITES) * N)
    rows = Rows([str(i) for i in range(len(at))], at, score, columns)
    site = np.tile(np.repeat(np.arange(len(SITES)), N), last - first)
    return History(rows, SITES, site, (r.random(len(at)) < score).astype(float), at)


THEN = days(0, 35, 0)
REFERENCE = Reference.build(SCHEMA, THEN.rows, THEN.label, [SITES[i] for i in THEN.site])
LIMITS = Limits(cohorts={s: f"cohort-{i % 4}" for i, s in enumerate(SITES)})


def watched(lie: Lie) -> list[Report]:
    state, reports = None, []
    told = lie(days(40, 54, 1))
    for _, windows in told.folded(REFERENCE, "m", 40 * DAY, 54 * DAY, DAY, DAY):
        report, state = assess(REFERENCE, windows, state, LIMITS)
        reports.append(report)
    return reports


def lying(history: History) -> np.ndarray:
    """Their rows, from the third day on."""
    return np.isin(history.site, [SITES.index(s) for s in LIARS]) & (history.rows.at >= 42 * DAY)


def moved(size: float, *names: str) -> Lie:
    def lie(history: History) -> History:
        columns = {n: c + size * lying(history) * (n in names) for n, c in history.rows.columns.items()}
        return replace(history, rows=replace(history.rows, columns=columns))

    return lie


def flipped(history: History) -> History:
    return replace(history, label=np.where(lying(history), 1 - history.label, history.label))


@pytest.mark.parametrize(
    "lie",
    [moved(0.3, "x1"), moved(1.0, "x1"), moved(6.0, "x1"), moved(1.0, *SCHEMA.names), flipped],
    ids=["a little", "a deviation", "far", "everything", "labels"],
)
def test_a_fifth_of_the_sites_cannot_pass_for_the_fleet_and_is_named(lie: Lie) -> None:
    reports = watched(lie)
    assert {f.scope for r in reports for f in r.findings} <= {"site"}
    found = {s for r in reports for f in r.findings for s in f.sites}
    assert set(LIARS) <= found
    assert len(found - set(LIARS)) <= 4


def test_nobody_lies_and_nobody_is_named() -> None:
    assert [f for r in watched(lambda h: h) for f in r.findings] == []
