"""How long a check takes: sites x features x bins, all distances, all detectors, one core."""

from __future__ import annotations

import time

import numpy as np

from drift.bins import EXTRA
from drift.performance import Outcomes
from drift.reference import Reference
from drift.report import Limits, assess
from drift.sketch import Sketch
from drift.telemetry import Feature, Rows, Schema
from drift.windows import Window

DAY = 86_400


def a_reference(sites: int, features: int, bins: int, days: int = 28, per_day: int = 40) -> Reference:
    """A reference of a large fleet, from few rows a site: the cost of a check does not depend on how many."""
    rng = np.random.default_rng(0)
    n = sites * days * per_day
    columns = {f"f{i}": rng.standard_normal(n) for i in range(features)}
    at = np.tile(np.repeat(np.arange(days) * DAY, per_day), sites)
    names = np.repeat([f"s{i:04d}" for i in range(sites)], days * per_day).tolist()
    rows = Rows(range(n), at, rng.random(n), columns)  # type: ignore[arg-type]
    schema = Schema("1", tuple(Feature(f"f{i}") for i in range(features)))
    return Reference.build(schema, rows, (rng.random(n) < 0.5).astype(float), names, bins=bins)


def windows(reference: Reference, rows: int, day: int, seed: int = 1) -> list[Window]:
    """One window a site, its counts drawn from the reference's own shares."""
    rng = np.random.default_rng(seed)
    share = (reference.pooled + 0.01) / (reference.pooled + 0.01).sum(axis=1, keepdims=True)
    made = []
    for site in reference.sites:
        counts = rng.multinomial(rows, share).astype(np.int64)
        zero = np.zeros(len(counts), np.int64)
        sketch = Sketch(reference.version, counts, np.zeros((len(counts), 2), np.int64), zero)
        labels = np.zeros((reference.width, 2), np.int64)
        labels[:-EXTRA] = rng.multinomial(
            rows // 2, np.full(reference.width - EXTRA, 1 / (reference.width - EXTRA)), 2
        ).T
        made.append(Window("model", site, day * DAY, DAY, sketch, Outcomes(labels)))
    return made


def run(sites: int = 1000, features: int = 100, bins: int = 128, repeats: int = 5) -> dict[str, float]:
    """Median and best processor seconds of a check; `first` makes the model of the reference."""
    reference = a_reference(sites, features, bins, days=8, per_day=4)
    state, times = None, []
    limits = Limits()
    for day in range(repeats + 1):
        now = windows(reference, 10_000, 1000 + day, day)
        start = time.process_time()
        _, state = assess(reference, now, state, limits)
        times.append(time.process_time() - start)
    return {
        "first": times[0],
        "median": float(np.median(times[1:])),
        "best": min(times[1:]),
        "state_kb": len(state.to_bytes()) / 1024,
    }


if __name__ == "__main__":
    print(run(200, 100, 128, 3))
