"""Multivariate drift: can a model tell the rows of now from those of then? On demand and off the hot path.

A domain classifier (Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", 2017): gradient-boosted trees are
trained to say from which side a row comes, and judged on rows that they were not trained on. Where nothing has moved
they cannot, and their AUC is 0.5. It sees what no single column shows, such as a correlation that has turned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.report import Verdict
from drift.telemetry import Schema
from jobs.metrics import auc, half_width
from jobs.model import Encoder
from jobs.table import Table
from jobs.train import Settings, estimator, predicted

ROWS = 5000
"""Of each side; an even sample where there are more."""
LEAST = 50
"""Rows of each side without which nothing is said."""
FOLDS = 2
ALARM = 0.01
"""The AUC is drift where chance alone would exceed it so rarely."""


@dataclass(frozen=True, slots=True)
class Apart:
    """How well rows can be told apart: `auc` with its 95% interval, `p` that chance alone gives as much, and by how
    much each feature's shuffling lowers it, the greatest first. None where there are too few rows."""

    auc: float | None
    low: float | None
    high: float | None
    p: float | None
    rows: tuple[int, int]
    features: Mapping[str, float]
    drifted: bool | None
    reason: str

    @property
    def verdict(self) -> Verdict:
        return Verdict("multivariate", self.drifted, self.reason)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def told_apart(schema: Schema, then: Mapping[str, Any], now: Mapping[str, Any], seed: int = 0) -> Apart:
    """Columns as in telemetry.Rows, of any two lengths. The same rows give the same answer."""
    sides = [_sampled(schema, side) for side in (then, now)]
    n, m = (len(s) for s in sides)
    if min(n, m) < LEAST:
        return Apart(None, None, None, None, (n, m), {}, None, f"{n} and {m} rows: too few to tell apart ({LEAST})")
    both = _joined(schema, *sides)
    random = np.random.default_rng(seed)
    fold = np.concatenate([random.permutation(np.arange(k) % FOLDS) for k in (n, m)])
    value, variance, influence, drops = 0.0, 0.0, [], np.zeros(len(schema.features))
    for part in range(FOLDS):
        fit, test = both.take(fold != part), both.take(fold == part)
        encoder = Encoder.fit(schema, fit, 40)
        model = estimator("binary", len(fit), Settings(iterations=60, seed=seed)).fit(encoder.matrix(fit), fit.label)
        found, of_rows = auc(test.label, predicted(model, encoder.matrix(test)))
        value += found / FOLDS
        influence.append(of_rows / FOLDS)
        drops += _drops(model, encoder.matrix(test), test.label, random) / FOLDS
        a, b = int((test.label < 0.5).sum()), int((test.label > 0.5).sum())
        variance += (a + b + 1) / (12 * a * b) / FOLDS**2  # where nothing has moved: Mann and Whitney (1947)
    half = half_width(np.concatenate(influence), np.arange(n + m), 0.95)
    p = 1 - NormalDist(0.5, variance**0.5).cdf(value)
    order = [i for i in np.argsort(-drops, kind="stable").tolist() if drops[i] > 0]
    features = {schema.names[i]: round(float(drops[i]), 4) for i in order}
    low, high = max(value - half, 0.0), min(value + half, 1.0)
    drifted = p < ALARM
    told = f"a model tells {m:,} rows from {n:,} of the reference with AUC {value:.3f} [{low:.3f}, {high:.3f}]"
    by = f", by {', '.join([*features][:5])}" if drifted and features else ""
    reason = f"{told}{by}" if drifted else f"{told}: no better than chance (p {p:.2g})"
    return Apart(value, low, high, float(p), (n, m), features, drifted, reason)


def _sampled(schema: Schema, columns: Mapping[str, Any]) -> Table:
    rows = len(columns[schema.names[0]]) if schema.features else 0
    index = np.linspace(0, rows - 1, min(rows, ROWS)).astype(np.intp)
    made = {}
    for f in schema.features:
        values = np.empty(rows, object) if f.kind == "category" else np.empty(rows)
        values[:] = columns[f.name]
        made[f.name] = values[index]
    nothing = np.full(len(index), np.nan)
    texts = np.full(len(index), "", dtype=object)
    return Table(texts, np.zeros(len(index), np.int64), texts, nothing, nothing, made)


def _joined(schema: Schema, then: Table, now: Table) -> Table:
    """Both, labelled 0 and 1."""
    label = np.repeat([0.0, 1.0], (len(then), len(now)))
    columns = {n: np.concatenate((then.columns[n], now.columns[n])) for n in schema.names}
    texts = np.concatenate((then.ids, now.ids))
    return Table(texts, np.zeros(len(label), np.int64), texts, np.full(len(label), np.nan), label, columns)


def _drops(
    model: Any, matrix: NDArray[np.float32], label: NDArray[np.float64], random: np.random.Generator
) -> NDArray[np.float64]:
    """By how much the AUC falls when one column is shuffled (Breiman, 2001), [columns]."""
    whole = auc(label, predicted(model, matrix))[0]
    found = np.zeros(matrix.shape[1])
    for i in range(matrix.shape[1]):
        shuffled = matrix.copy()
        shuffled[:, i] = random.permutation(shuffled[:, i])
        found[i] = whole - auc(label, predicted(model, shuffled))[0]
    return found
