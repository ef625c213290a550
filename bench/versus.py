"""Fold and check together for a fleet, beside what Evidently and NannyML need for one site of the same size.

All from float64 columns in memory (no text categories, no decoding), processor seconds of one core, medians. What the
others make of their reference beforehand (NannyML's fit) is left out, as the making of ours is; Evidently keeps none.
The others are measured on one site and multiplied.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from bench import check
from drift.report import Limits, assess
from drift.sketch import sketch
from drift.telemetry import Rows
from drift.windows import Window


def ours(sites: int, rows: int, features: int, repeats: int) -> dict[str, float]:
    """Seconds for the whole fleet; every site's columns are folded, four tables by turns."""
    reference = check.a_reference(sites, features, 64, days=8, per_day=4)
    rng = np.random.default_rng(5)
    at, ids = np.zeros(rows, np.int64), range(rows)
    tables = [
        Rows(ids, at, rng.random(rows), {f"f{i}": rng.standard_normal(rows) for i in range(features)})  # type: ignore[arg-type]
        for _ in range(4)
    ]
    outcomes = check.windows(reference, 100, 0)[0].outcomes
    state, folds, checks = None, [], []
    for day in range(repeats + 1):
        start = time.process_time()
        now = [
            Window("m", site, (1000 + day) * check.DAY, check.DAY, sketch(tables[i % 4], reference), outcomes)
            for i, site in enumerate(reference.sites)
        ]
        folds.append(time.process_time() - start)
        start = time.process_time()
        _, state = assess(reference, now, state, Limits())
        checks.append(time.process_time() - start)
    both = [a + b for a, b in zip(folds, checks, strict=True)][1:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "fold": statistics.median(folds[1:]),
        "check": statistics.median(checks[1:]),
        "both": statistics.median(both),
        "peak_mb": peak,
    }


def theirs(rows: int, features: int, repeats: int) -> dict[str, float]:
    """Seconds for one site."""
    from evidently import Report
    from evidently.legacy.calculations.stattests.psi import _psi
    from evidently.legacy.calculations.stattests.wasserstein_distance_norm import _wasserstein_distance_norm
    from evidently.legacy.core import ColumnType
    from evidently.presets import DataDriftPreset
    from nannyml.chunk import SizeBasedChunker
    from nannyml.drift.univariate import UnivariateDriftCalculator

    rng = np.random.default_rng(6)
    then, now = (pd.DataFrame(rng.standard_normal((rows, features))).add_prefix("f") for _ in range(2))
    number = ColumnType.Numerical

    def report() -> None:
        # as a dictionary too: the numbers of a report are worked out when it is first read
        Report([DataDriftPreset()]).run(now, then).dict()

    fitted = UnivariateDriftCalculator(list(then.columns), chunker=SizeBasedChunker(rows)).fit(then)
    return {
        "evidently report": _median(report, repeats),
        "evidently psi": _median(lambda: [_psi(then[c], now[c], number, 0.1) for c in then], repeats),
        "evidently default test": _median(
            lambda: [_wasserstein_distance_norm(then[c], now[c], number, 0.1) for c in then], repeats
        ),
        "nannyml": _median(lambda: fitted.calculate(now), repeats),
    }


def _median(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


if __name__ == "__main__":
    n, r, f, k = (int(a) for a in sys.argv[1:])
    print(json.dumps({"ours": ours(n, r, f, k), "theirs": theirs(r, f, k)}))
