"""Two tables side by side: has a column changed, and by how much? Without calibration windows there is no promise over
time, so this is a two-sample test on the counts, with the false discovery rate held (Benjamini and Hochberg, 1995)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import erfc, exp, lgamma, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift import distances
from drift.bins import EXTRA, MISSING, TAIL_STEPS, Column, of_categories, of_numbers
from drift.compare import bin_places
from drift.reference import GROUPS, grouping
from drift.telemetry import Kind, Schema


@dataclass(frozen=True, slots=True)
class Difference:
    """One column, now against then. Distances as in drift.distances: `psi` on at most 16 groups of bins, the others on
    all; `ks` and `wasserstein` (in standard deviations) are None for categories. What binning costs comes with them:
    the values' own KS is from `ks` to `ks_bound`, their Wasserstein distance at most `wasserstein_bound`, and of `psi`
    about `psi_bias` is chance. `missing` is the share now less the share then; `p` the p-value of chi-square on the
    groups, `chi2` its statistic."""

    kind: Kind
    psi: float
    psi_bias: float
    js: float
    ks: float | None
    ks_bound: float | None
    wasserstein: float | None
    wasserstein_bound: float | None
    chi2: float
    hellinger: float
    tv: float
    missing: float
    p: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences by column, which of them are drift, and why."""

    features: dict[str, Difference]
    drifted: tuple[str, ...]
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As `driftloop assess --json` prints it."""
        features = {name: asdict(d) for name, d in self.features.items()}
        return {"features": features, "drifted": list(self.drifted), "reason": self.reason}


def compare_tables(
    schema: Schema, then: dict[str, Any], now: dict[str, Any], fdr: float = 0.05, bins: int = 64
) -> Comparison:
    """Columns as in telemetry.Rows, of any two lengths. A column is drift where its p-value stands under
    Benjamini-Hochberg at `fdr`, over all columns.

    >>> from drift.telemetry import Feature
    >>> a, b = {"x": np.arange(1000.0)}, {"x": np.arange(1000.0) + 300}
    >>> compare_tables(Schema("1", (Feature("x"),)), a, b).drifted
    ('x',)
    """
    features = {f.name: _difference(f.kind, f.name, then[f.name], now[f.name], bins) for f in schema.features}
    names = list(features)
    drifted = tuple(n for n, hit in zip(names, _discoveries([features[n].p for n in names], fdr), strict=True) if hit)
    worst = sorted(drifted, key=lambda n: -features[n].psi)
    told = ", ".join(f"{n} (psi {features[n].psi:.3g}, p {features[n].p:.2g})" for n in worst[:5])
    more = f" and {len(worst) - 5} more" if len(worst) > 5 else ""
    reason = (
        f"{len(drifted)} of {len(names)} columns differ at a false discovery rate of {fdr:g}: {told}{more}"
        if drifted
        else f"none of {len(names)} columns differs at a false discovery rate of {fdr:g}"
    )
    return Comparison(features, drifted, reason)


def _difference(kind: Kind, name: str, then: Any, now: Any, bins: int) -> Difference:
    column = of_categories(name, then, bins) if kind == "category" else of_numbers(name, np.asarray(then, float), bins)
    width = column.bins + EXTRA
    (q, _, _), (p, beyond, _) = (column.count(values, width) for values in (then, now))
    group = grouping(column, q)
    a, b = (np.bincount(group, weights=x, minlength=GROUPS) for x in (p, q))
    statistic = float(distances.chi2(a, b)) if p.sum() and q.sum() else 0.0
    filled = int(np.count_nonzero(a + b))
    ordered = _ordered(column, p, q, beyond, then) if kind == "number" else _Ordered()
    return Difference(
        kind,
        float(distances.psi(a, b)),
        float(distances.psi_bias(a, b)) if p.sum() and q.sum() else 0.0,
        float(distances.js(p, q)),
        ordered.ks,
        ordered.ks_bound,
        ordered.wasserstein,
        ordered.wasserstein_bound,
        statistic,
        float(distances.hellinger(p, q)),
        float(distances.tv(p, q)),
        float(p[MISSING] / max(p.sum(), 1) - q[MISSING] / max(q.sum(), 1)),
        chi2_tail(statistic, filled - 1) if filled > 1 else 1.0,
    )


@dataclass(frozen=True, slots=True)
class _Ordered:
    """The distances that only numbers have."""

    ks: float | None = None
    ks_bound: float | None = None
    wasserstein: float | None = None
    wasserstein_bound: float | None = None


def _ordered(
    column: Column, p: NDArray[np.int64], q: NDArray[np.int64], beyond: tuple[int, int], then: Any
) -> _Ordered:
    p, q = p[: column.bins], q[: column.bins]
    if not p.sum() or not q.sum():
        return _Ordered()
    x = np.asarray(then, float)
    x = x[np.isfinite(x)]
    slot = column.slots(x, column.bins + EXTRA)
    total = np.bincount(slot, weights=x, minlength=column.bins)[: column.bins]
    with np.errstate(invalid="ignore", divide="ignore"):
        places = bin_places(column.edges, np.where(q > 0, total / q, np.nan))
    outside = (sum(beyond) + p[0] + p[-1]) / TAIL_STEPS / p.sum()  # each of them was rounded
    return _Ordered(
        float(distances.ks(p, q)),
        float(distances.ks_bound(p, q)),
        float(distances.wasserstein(p, q, places, column.scale)),
        float(distances.wasserstein_bound(p, q, column.edges, column.scale) + outside),
    )


def _discoveries(p: Sequence[float], fdr: float) -> NDArray[np.bool_]:
    """Benjamini-Hochberg: reject the k smallest, k the largest with p_(k) <= fdr k / n."""
    x = np.asarray(p, float)
    ranked = np.sort(x)
    good = np.flatnonzero(ranked <= fdr * np.arange(1, len(x) + 1) / max(len(x), 1))
    return np.asarray(x <= ranked[good[-1]]) if len(good) else np.zeros(len(x), np.bool_)


def chi2_tail(x: float, freedom: int) -> float:
    """P(X > x) for a chi-square of whole degrees of freedom: the finite sums of Abramowitz and Stegun, 26.4.4 and 5.

    >>> round(chi2_tail(3.841459, 1), 6), round(chi2_tail(18.307, 10), 5)
    (0.05, 0.05)
    """
    if x <= 0:
        return 1.0
    half = x / 2
    start = 0.5 if freedom % 2 else 0.0
    tail = erfc(sqrt(half)) if freedom % 2 else 0.0
    for i in range(freedom // 2):
        k = start + i
        tail += exp(k * log(half) - half - lgamma(k + 1))
    return min(tail, 1.0)
