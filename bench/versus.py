"""Fold and check together for a fleet, beside what Evidently and NannyML need for one site of the same size.

All from float64 columns in memory (no text categories, no decoding), processor seconds of one core, medians. What the
others make of their reference beforehand (NannyML's fit) is left out, as the making of ours is. Evidently keeps none,
and reads it anew each time: it is given one as large as the window, and one five times as large, which is little for
what a model was trained on. The others are measured on one site and multiplied.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import pandas as pd

from bench import check
from drift.report import Limits, assess
from drift.sketch import sketch
from drift.telemetry import Rows
from drift.windows import Window


def run(sites: int, rows: int, features: int, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds: `ours` for the whole fleet, `theirs` for one site. `times`: how many times as long they take for the
    fleet, by repeats: each measures all of them, since a shared machine is now fast, now slow."""
    day = ours(sites, rows, features)
    others = {
        f"{name}, {reference:,}": work
        for reference in (rows, 5 * rows)
        for name, work in theirs(rows, features, reference).items()
    }
    next(day)  # makes the model of the reference
    found: dict[str, list[float]] = {name: [] for name in ("fold", "check", *others)}
    for _ in range(repeats):
        for name, seconds in {**next(day), **{name: _seconds(work) for name, work in others.items()}}.items():
            found[name].append(seconds)
    both = [a + b for a, b in zip(found["fold"], found["check"], strict=True)]
    return {
        "ours": {
            "fold": statistics.median(found["fold"]),
            "check": statistics.median(found["check"]),
            "both": statistics.median(both),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        },
        "theirs": {name: statistics.median(found[name]) for name in others},
        "times": {
            name: statistics.median(sites * t / o for t, o in zip(found[name], both, strict=True)) for name in others
        },
    }


def ours(sites: int, rows: int, features: int) -> Iterator[dict[str, float]]:
    """Seconds for the whole fleet, day by day; every site's columns are folded, four tables by turns."""
    reference = check.a_reference(sites, features, 64, days=8, per_day=4)
    rng = np.random.default_rng(5)
    at, ids = np.zeros(rows, np.int64), range(rows)
    tables = [
        Rows(ids, at, rng.random(rows), {f"f{i}": rng.standard_normal(rows) for i in range(features)})  # type: ignore[arg-type]
        for _ in range(4)
    ]
    outcomes = check.windows(reference, 100, 0)[0].outcomes
    state = None
    for day in count(1000):
        start = time.process_time()
        now = [
            Window("m", site, day * check.DAY, check.DAY, sketch(tables[i % 4], reference), outcomes)
            for i, site in enumerate(reference.sites)
        ]
        folded = time.process_time()
        _, state = assess(reference, now, state, Limits())
        yield {"fold": folded - start, "check": time.process_time() - folded}


def theirs(rows: int, features: int, reference: int) -> dict[str, Callable[[], object]]:
    """What takes one site, by name; against so many rows of a reference."""
    from evidently import Report
    from evidently.legacy.calculations.stattests.registry import get_stattest
    from evidently.legacy.core import ColumnType
    from evidently.presets import DataDriftPreset
    from nannyml.chunk import SizeBasedChunker
    from nannyml.drift.univariate import UnivariateDriftCalculator

    rng = np.random.default_rng(6)
    then, now = (pd.DataFrame(rng.standard_normal((n, features))).add_prefix("f") for n in (reference, rows))
    number = ColumnType.Numerical

    def tests(name: str | None) -> list[object]:
        return [get_stattest(then[c], now[c], number, name)(then[c], now[c], number, None) for c in then]

    fitted = UnivariateDriftCalculator(list(then.columns), chunker=SizeBasedChunker(rows)).fit(then)
    return {
        # as a dictionary too: the numbers of a report are worked out when it is first read
        "evidently report": lambda: Report([DataDriftPreset()]).run(now, then).dict(),
        "evidently psi": lambda: tests("psi"),
        "evidently default tests": lambda: tests(None),
        "nannyml": lambda: fitted.calculate(now),
    }


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    print(json.dumps(run(*(int(a) for a in sys.argv[1:]))))
