"""How fast values are counted: nanoseconds a value, one core, exact edges."""

from __future__ import annotations

import time

import numpy as np

from drift.bins import EXTRA, of_numbers


def run(n: int = 1_000_000, repeats: int = 15) -> dict[str, float]:
    """Million values a second, best of `repeats` by processor time, by kind of column, 64 bins unless said."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=n)
    columns = {
        "normal": (normal, 64),
        "normal, 128 bins": (normal, 128),
        "normal, float32": (normal.astype(np.float32), 64),
        "normal, 5% missing": (np.where(rng.random(n) < 0.05, np.nan, normal), 64),
        "whole numbers": (rng.integers(0, 40, n).astype(float), 64),
        "lognormal": (rng.lognormal(size=n), 64),
        "lognormal, sigma 2": (rng.lognormal(0, 2, n), 64),
        "cauchy": (rng.standard_cauchy(n), 64),
    }
    found = {}
    moved = {
        "normal, moved by 2 sd": normal + 2,
        "normal, moved by 9 sd": normal + 9,
        "normal, 10 times as wide": normal * 10,
        "normal, stuck": np.full(n, 0.1),
        "normal, stuck at an edge": np.full(n, of_numbers("x", normal, 64).edges[20]),
    }
    for name, (x, bins) in {**columns, **{name: (x, 64) for name, x in moved.items()}}.items():
        column = of_numbers("x", normal if name in moved else x.astype(float), bins)
        column.count(x, bins + EXTRA)
        best = min(_seconds(lambda c=column, v=x, b=bins: c.count(v, b + EXTRA)) for _ in range(repeats))
        found[name] = n / best / 1e6
    return found


def _seconds(work: object) -> float:
    start = time.process_time()
    work()  # type: ignore[operator]
    return time.process_time() - start
