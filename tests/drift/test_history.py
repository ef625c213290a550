"""A table folded at once is the same, to the last count, as its rows sent in batches with labels that come later."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drift.history import History
from drift.performance import Predictions
from drift.reference import Reference
from drift.telemetry import Batch, Feature, Labels, Rows, Schema
from drift.windows import Window, fold, settled

DAY = 86_400
SITES = ("a", "b", "c")


def some(n: int, seed: int, days: int, wild: float = 0.0) -> History:
    r = np.random.default_rng(seed)
    x = r.normal(size=n)
    x[r.random(n) < 0.1] = np.nan
    x[r.random(n) < wild] *= 1e6
    score = r.random(n)
    score[r.random(n) < 0.05] = np.nan
    c = r.choice(np.array(["u", "v", "w", None, "new"], dtype=object), n, p=[0.5, 0.2, 0.1, 0.1, 0.1])
    at = np.sort(r.integers(0, days * DAY, n))
    label = np.where(r.random(n) < 0.8, (r.random(n) < 0.4).astype(float), np.nan)
    rows = Rows([f"r{i}" for i in range(n)], at, score, {"x": x, "y": r.normal(size=n).round(1), "c": c})
    return History(rows, SITES, r.integers(0, 3, n), label, at + r.integers(0, 3 * DAY, n))


def taken(h: History, which: np.ndarray) -> Rows:
    columns = {name: values[which] for name, values in h.rows.columns.items()}
    return Rows([h.rows.ids[i] for i in which], h.rows.at[which], h.rows.score[which], columns)


def reference(task: str) -> Reference:
    h = some(3000, 1, 20)
    known = np.isfinite(h.label)
    label = np.where(known, h.label, 0.0) if task == "binary" else h.rows.score * 3 + 0.1
    schema = Schema("1", (Feature("x", low=-2.0, high=2.0), Feature("y"), Feature("c", "category")), task)  # type: ignore[arg-type]
    return Reference.build(schema, h.rows, label, [SITES[i] for i in h.site], bins=32)


REFERENCES = {task: reference(task) for task in ("binary", "regression")}


def by_rows(h: History, about: Reference, patience: int) -> dict[tuple[str, int], Window]:
    """The way of the rows: a batch a site and half day, labels settled as they come."""
    made: dict[tuple[str, int], Window] = {}
    for s, site in enumerate(SITES):
        for start in range(0, int(h.rows.at[-1]) + 1, DAY // 2):
            which = np.flatnonzero((h.site == s) & (h.rows.at >= start) & (h.rows.at < start + DAY // 2))
            if not len(which):
                continue
            rows = taken(h, which)
            deltas = list(fold(Batch("1", "l", "m", site, "b", start, start, rows=rows), about, DAY).values())
            in_time = np.isfinite(h.label[which]) & (h.known_at[which] <= start - start % DAY + DAY + patience)
            told = which[in_time]
            labels = Labels([h.rows.ids[i] for i in told], h.rows.at[told], h.label[told])
            outcomes = Predictions.of(rows, about, DAY).settle(labels)[1]
            for delta in (*deltas, *settled("m", site, DAY, about, outcomes).values()):
                key = (site, delta.start)
                made[key] = made[key] + delta if key in made else delta
    return made


@pytest.mark.parametrize("task", ["binary", "regression"])
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 400), st.integers(0, 1000), st.integers(1, 5), st.sampled_from([0.0, 0.1]))
def test_a_folded_history_is_its_rows_path(task: str, n: int, seed: int, days: int, wild: float) -> None:
    about, h = REFERENCES[task], some(n, seed, days, wild)
    end = int(h.rows.at[-1]) // DAY * DAY + DAY
    folded = dict(h.folded(about, "m", 0, end, DAY, DAY // 2))
    assert list(folded) == list(range(0, end, DAY))
    found = {(w.site, w.start): w for windows in folded.values() for w in windows}
    wanted = by_rows(h, about, DAY // 2)
    assert found.keys() == wanted.keys()
    for key, window in wanted.items():
        assert found[key] == window


def test_it_goes_on_from_any_period() -> None:
    h = some(300, 2, 6)
    about = REFERENCES["binary"]
    whole = dict(h.folded(about, "m", 0, 6 * DAY, DAY, 0))
    assert dict(h.folded(about, "m", 3 * DAY, 6 * DAY, DAY, 0)) == {p: w for p, w in whole.items() if p >= 3 * DAY}
