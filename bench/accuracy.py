"""Our distances beside those of Evidently's own functions, on the flights and on one outlier; what binning costs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from drift import distances
from drift.telemetry import Feature, Schema
from drift.two_tables import compare_tables


def evidently(then: Any, now: Any, category: bool) -> dict[str, float]:
    """What Evidently's functions say of two columns; Jensen-Shannon in bits, as ours."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently.legacy.calculations.stattests.hellinger_distance import _hellinger_distance
        from evidently.legacy.calculations.stattests.jensenshannon import _jensenshannon
        from evidently.legacy.calculations.stattests.psi import _psi
        from evidently.legacy.calculations.stattests.tvd_stattest import _total_variation_distance
        from evidently.legacy.calculations.stattests.wasserstein_distance_norm import _wasserstein_distance_norm
        from evidently.legacy.core import ColumnType
    kind = ColumnType.Categorical if category else ColumnType.Numerical
    a, b = pd.Series(then), pd.Series(now)
    made = {
        "psi": float(_psi(a, b, kind, 0.1)[0]),
        "js": float(_jensenshannon(a, b, kind, 0.1, base=2)[0]),  # type: ignore[arg-type]
        "hellinger": float(_hellinger_distance(a.copy(), b.copy(), kind, 0.1)[0]),
    }
    if category:
        return made | {"tv": float(_total_variation_distance(a, b))}
    return made | {"wasserstein": float(_wasserstein_distance_norm(a, b, kind, 0.1)[0])}


def of_categories(then: list[str], now: list[str]) -> dict[str, float]:
    """Our distances on the same categories."""
    names = sorted({*then, *now})
    q, p = (np.array([column.count(n) for n in names]) for column in (then, now))
    measures = {"psi": distances.psi, "js": distances.js, "hellinger": distances.hellinger, "tv": distances.tv}
    return {name: float(distance(p, q)) for name, distance in measures.items()}


def flights() -> Mapping[str, dict[str, tuple[float, float]]]:
    """(ours, Evidently's) by feature and distance: New York's flights of March 2013 against those of January."""
    from examples.flights.data import flights, source

    table = flights(source())
    month = np.array(table["scheduled"], "datetime64[s]").astype("datetime64[M]").astype(int) % 12
    found = {}
    for name, category in (("carrier", True), ("origin", True), ("distance", False), ("temp", False)):
        if name not in table:
            continue
        then, now = (_there(table[name], month == m) for m in (0, 2))
        theirs = evidently(then, now, category)
        if category:
            ours = of_categories([str(v) for v in then], [str(v) for v in now])
        else:
            kind = Schema("1", (Feature(name),))
            told = compare_tables(kind, {name: then}, {name: now}).features[name]
            ours = {"psi": told.psi, "js": told.js, "hellinger": told.hellinger, "wasserstein": told.wasserstein or 0.0}
        found[name] = {d: (ours[d], theirs[d]) for d in theirs}
    return found


def _there(column: Any, pick: np.ndarray) -> Any:
    values = np.asarray(column, object)[pick]
    try:
        numbers = values.astype(float)
    except (TypeError, ValueError):
        return [str(v) for v in values if v is not None]
    return numbers[np.isfinite(numbers)]


def outlier(n: int = 10_000) -> list[dict[str, float]]:
    """PSI of a shift by half a standard deviation, without and with one value of 1,000 in `n` rows."""
    rng = np.random.default_rng(0)
    then, now = rng.normal(size=n), rng.normal(0.5, 1, n)
    made = []
    for last in (now[-1], 1000.0):
        now[-1] = last
        ours = compare_tables(Schema("1", (Feature("x"),)), {"x": then}, {"x": now}).features["x"].psi
        made.append({"last value": float(last), "driftloop": ours, "evidently": evidently(then, now, False)["psi"]})
    return made


def binning(repeats: int = 20) -> dict[str, float]:
    """The largest errors on 64 bins over normal, lognormal and t columns of 1,000 to 100,000 rows: KS below the truth
    (never above), its bound above, Wasserstein in standard deviations; and PSI between samples of the same source over
    the bias that is returned with it."""
    from scipy.stats import ks_2samp, wasserstein_distance

    rng = np.random.default_rng(1)
    ks, bound, area, bias = [], [], [], []
    draws = (rng.normal, rng.lognormal, lambda size: rng.standard_t(3, size))
    for k in range(repeats):
        n = (1000, 10_000, 100_000)[k % 3]
        draw = draws[k // 3 % 3]
        then, now = draw(size=20_000), draw(size=n)
        same = compare_tables(Schema("1", (Feature("x"),)), {"x": then}, {"x": now}).features["x"]
        bias.append(same.psi / same.psi_bias)
        now += 0.1 * (k % 4)
        told = compare_tables(Schema("1", (Feature("x"),)), {"x": then}, {"x": now}).features["x"]
        truth = ks_2samp(then, now).statistic
        ks.append(truth - (told.ks or 0.0))
        bound.append((told.ks_bound or 0.0) - truth)
        inner = np.clip(then, *np.quantile(then, (0.001, 0.999))).std()
        area.append(abs((told.wasserstein or 0.0) - wasserstein_distance(then, now) / inner))
    return {
        "ks, most below the truth": max(ks),
        "ks, least below": min(ks),
        "ks bound, least above": min(bound),
        "wasserstein, most off (sd)": max(area),
        "psi of equal sources over its bias, mean": float(np.mean(bias)),
    }
