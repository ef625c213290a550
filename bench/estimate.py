"""Performance without labels, on bins, beside NannyML's CBPE on the same rows."""

from __future__ import annotations

import json

import numpy as np

from bench.world import DAY
from drift.reference import Reference
from drift.telemetry import Feature, Rows, Schema


def run(seed: int = 0) -> list[dict[str, float]]:
    """AUC by chunk: realised, ours, and NannyML's where it is installed; the inputs drift from chunk to chunk."""
    rng = np.random.default_rng(seed)

    def rows(n: int, level: float, spread: float) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(level, spread, n)
        p = 1 / (1 + np.exp(-1.3 * x + 0.4))
        return 1 / (1 + np.exp(-x)), (rng.random(n) < p).astype(float)

    score, label = rows(30_000, 0, 1)
    columns = {"x": score}
    at = np.arange(30_000) * (60 * DAY) // 30_000
    table = Rows(range(30_000), at, score, columns)  # type: ignore[arg-type]
    reference = Reference.build(Schema("1", (Feature("x"),)), table, label, ["s"] * 30_000)
    chunks = [(5000, level, spread) for level in (0.0, 0.5, 1.0) for spread in (0.5, 1.0, 1.5)]
    drawn = [rows(*c) for c in chunks]
    found = []
    theirs = _nannyml(score, label, drawn)
    for i, (s, y) in enumerate(drawn):
        counts, _, _ = reference.columns[-1].count(s, reference.width)
        order = np.argsort(s)
        rank = np.empty(len(s))
        rank[order] = np.arange(1, len(s) + 1)
        n1 = y.sum()
        realised = (rank[y > 0.5].sum() - n1 * (n1 + 1) / 2) / (n1 * (len(y) - n1))
        found.append({"realised": realised, "driftloop": float(reference.estimated(counts)), "nannyml": theirs[i]})
    return found


def _nannyml(score: np.ndarray, label: np.ndarray, drawn: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    import nannyml
    import pandas as pd

    frame = pd.DataFrame({"score": score, "label": label.astype(int), "guess": (score > 0.5).astype(int)})
    later = pd.concat([pd.DataFrame({"score": s, "label": 0, "guess": (s > 0.5).astype(int)}) for s, _ in drawn])
    cbpe = nannyml.CBPE(
        y_pred_proba="score",
        y_pred="guess",
        y_true="label",
        metrics=["roc_auc"],
        chunk_size=5000,
        problem_type="classification_binary",
    ).fit(frame)
    result = cbpe.estimate(later.drop(columns="label").reset_index(drop=True)).filter(period="analysis").to_df()
    return [float(v) for v in result[("roc_auc", "value")]]


if __name__ == "__main__":
    print(json.dumps(run()))
