"""Trains a candidate: the script that loop.yaml names. Change `fit`; the rest is what the loop relies on.

It is called as `train.py --data rows.parquet --loop loop.yaml --out DIR` and must leave DIR/model.onnx. The rows are
the labelled ones of the training window: id, at (UTC seconds), site, score (as served), label, and the features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.telemetry import Schema
from jobs.model import Encoder, export
from jobs.table import Table, load
from jobs.train import arguments, held_out, predicted


def fit(rows: Table, schema: Schema, task: str) -> tuple[Any, Encoder]:
    """A model, and what turns rows into its matrix. Any scikit-learn model that skl2onnx converts will do."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingClassifier if task == "binary" else HistGradientBoostingRegressor
    encoder = Encoder.fit(schema, rows, top=40)
    return kind(max_iter=80, early_stopping=False, random_state=0).fit(encoder.matrix(rows), rows.label), encoder


def main() -> None:
    data, loop, out = arguments()
    schema = loop.schema.telemetry(loop.task)
    rows = load(data, schema).labelled

    def scored(some: Table, others: Table) -> NDArray[np.float64]:
        model, encoder = fit(some, schema, loop.task)
        return predicted(model, encoder.matrix(others))

    np.save(out / "held_out.npy", held_out(rows, scored))  # optional: how it does on rows that it was not fitted to
    export(*fit(rows, schema, loop.task), out / "model.onnx")


if __name__ == "__main__":
    main()
