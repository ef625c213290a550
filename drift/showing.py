"""What a candidate shows at the sites that serve it: its scores beside those in training, its outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from drift import performance
from drift.bins import EXTRA
from drift.distances import psi, psi_bias
from drift.reference import Reference
from drift.windows import Window


@dataclass(frozen=True, slots=True)
class Shown:
    """`score_drift`: PSI between the scores and the reference's, less what chance adds, at least 0; `value`: the metric
    on so many `labels`. NaN where it is not known."""

    rows: int
    score_drift: float
    labels: int
    value: float


def shown(reference: Reference, windows: Sequence[Window], metric: str) -> Shown:
    """All windows of one candidate together; `metric` is auc, log_loss, rmse or mae."""
    if not windows:
        return Shown(0, float("nan"), 0, float("nan"))
    scores = np.sum([w.sketch.counts[-1] for w in windows], axis=0)
    usual = reference.pooled[-1]
    rows = int(scores.sum())
    drift = max(0.0, float(psi(scores, usual) - psi_bias(scores, usual))) if rows else float("nan")
    outcomes = reduce(add, (w.outcomes for w in windows))
    values = {
        "auc": lambda: float(performance.auc(outcomes.counts[:-EXTRA])),
        "log_loss": lambda: performance.log_loss(outcomes),
        "rmse": lambda: performance.rmse(outcomes, reference.unit),
        "mae": lambda: performance.mae(outcomes, reference.unit),
    }
    return Shown(rows, drift, outcomes.labels, values[metric]())
