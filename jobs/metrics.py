"""How much better one set of scores is than another on the same rows, with an interval that days in common widen.

Every metric is a mean, or close to one, of what each row contributes (its influence). Rows of one day share weather,
shifts and incidents, so contributions are added by day before the variance is taken: the clustered form of DeLong's
interval for the AUC (Obuchowski 1997), and of the paired t interval for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NAN = float("nan")
DAY = 86400
FEWEST = 5
"""Clusters that an interval needs."""


@dataclass(frozen=True)
class Compared:
    """Champion and challenger on the same rows. `gain` is oriented so that positive is better; NaN: not measurable."""

    rows: int
    champion: float = NAN
    challenger: float = NAN
    gain: float = NAN
    gain_low: float = NAN
    gain_high: float = NAN


def compare(
    metric: str, label: Floats, champion: Floats, challenger: Floats, at: NDArray[np.int64], confidence: float
) -> Compared:
    """The metric of both on labelled rows, and the interval of the gain. A score that is missing makes its model's
    metric NaN, and the gain."""
    if not len(label):
        return Compared(0)
    measure = METRICS[metric]
    (a, of_a), (b, of_b) = (
        measure(label, score) if np.isfinite(score).all() else (NAN, np.full(len(label), NAN))
        for score in (champion, challenger)
    )
    sign = 1.0 if metric in HIGHER_IS_BETTER else -1.0
    gain = sign * (b - a)
    half = half_width(sign * (of_b - of_a), clusters(at), confidence)
    return Compared(len(label), a, b, gain, gain - half, gain + half)


def clusters(at: NDArray[np.int64]) -> NDArray[np.int64]:
    """The day of each row; its hour, or the row itself, where days or hours are too few to be told apart."""
    for seconds in (DAY, 3600):
        if len(np.unique(at // seconds)) >= FEWEST:
            return at // seconds
    return np.arange(len(at))


def half_width(influence: Floats, cluster: NDArray[np.int64], confidence: float) -> float:
    """Half the width of the interval of a sum of influences, clusters independent; infinite with fewer than two.

    >>> round(half_width(np.array([0.1, -0.1, 0.1, -0.1]), np.array([1, 2, 3, 4]), 0.95), 3)
    0.734
    """
    sums = np.bincount(np.unique(cluster, return_inverse=True)[1], influence)
    n = len(sums)
    if n < 2:
        return math.inf
    return student(confidence, n - 1) * math.sqrt(n / (n - 1) * float((sums**2).sum()))


def student(confidence: float, freedom: int) -> float:
    """Two-sided quantile of Student's t: exact for 1 and 2 degrees of freedom, else to within 1% at 95%, by the
    expansion of Abramowitz and Stegun 26.7.5.

    >>> [round(student(0.95, n), 2) for n in (1, 2, 9, 30)]
    [12.71, 4.3, 2.26, 2.04]
    """
    p = (1 + confidence) / 2
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z, n = NormalDist().inv_cdf(p), freedom
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / n + g2 / n**2 + g3 / n**3 + g4 / n**4


def auc(label: Floats, score: Floats) -> tuple[float, Floats]:
    """Area under the ROC curve, and each row's influence on it; ties count one half. NaN where a class is absent.

    >>> auc(np.array([0, 0, 1, 1.0]), np.array([0.1, 0.4, 0.35, 0.8]))[0]
    0.75
    """
    positive = label > 0.5
    up, down = score[positive], score[~positive]
    if not len(up) or not len(down):
        return NAN, np.zeros(len(label))
    above, below = _share_below(up, down), 1.0 - _share_below(down, up)
    value = float(above.mean())
    influence = np.empty(len(label))
    influence[positive] = (above - value) / len(up)
    influence[~positive] = (below - value) / len(down)
    return value, influence


def _share_below(x: Floats, of: Floats) -> Floats:
    """For each x the share of `of` that lies below it; an equal one counts one half."""
    of = np.sort(of)
    return np.asarray((np.searchsorted(of, x, "left") + np.searchsorted(of, x, "right")) / 2 / len(of))


def log_loss(label: Floats, score: Floats) -> tuple[float, Floats]:
    """Mean negative log-likelihood in nats; a probability is taken to be at least 1e-15."""
    p = np.clip(np.where(label > 0.5, score, 1.0 - score), 1e-15, 1.0)
    return _mean(-np.log(p))


def mae(label: Floats, score: Floats) -> tuple[float, Floats]:
    """Mean absolute error."""
    return _mean(np.abs(score - label))


def rmse(label: Floats, score: Floats) -> tuple[float, Floats]:
    """Root of the mean squared error; its influence by the delta method."""
    mean, influence = _mean((score - label) ** 2)
    value = math.sqrt(mean)
    return value, influence / (2 * value) if value else influence


def _mean(each: Floats) -> tuple[float, Floats]:
    value = float(each.mean())
    return value, (each - value) / len(each)


METRICS: dict[str, Callable[[Floats, Floats], tuple[float, Floats]]] = {
    "auc": auc,
    "log_loss": log_loss,
    "rmse": rmse,
    "mae": mae,
}
HIGHER_IS_BETTER = frozenset({"auc"})
