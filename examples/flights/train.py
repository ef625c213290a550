"""How the flights' model is trained: the script that loop.yaml names. Copy it to begin your own.

It is called as `train.py --data rows.parquet --loop loop.yaml --out DIR` and must leave DIR/model.onnx. The rows are
the labelled ones of the training window: id, at (UTC seconds), site, score (as served), label, and the features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.telemetry import Schema
from jobs.light import without_pandas
from jobs.model import Encoder, export
from jobs.table import Table, load
from jobs.train import arguments, held_out, predicted

ROWS = 60_000
"""As many rows, evenly over the window, teach this model as much as all of them."""


def fit(rows: Table, schema: Schema) -> tuple[Any, Encoder]:
    """A model of trees, and what turns rows into its matrix. Any scikit-learn model that skl2onnx converts will do."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows = rows.take(np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(np.intp))
    encoder = Encoder.fit(schema, rows, top=40)
    model = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=15, min_samples_leaf=100, learning_rate=0.1, early_stopping=False, random_state=0
    )
    return model.fit(encoder.matrix(rows), rows.label), encoder


def main() -> None:
    data, loop, out = arguments()
    schema = loop.schema.telemetry(loop.task)
    rows = load(data, schema).labelled
    if loop.training.settings:  # only in the demo's second act: a candidate that is meant to be caught
        import plant

        return plant.train(rows, loop, out, fit)

    def scored(some: Table, others: Table) -> NDArray[np.float64]:
        model, encoder = fit(some, schema)
        return predicted(model, encoder.matrix(others))

    np.save(out / "held_out.npy", held_out(rows, scored))  # optional: how it does on rows that it was not fitted to
    model, encoder = fit(rows, schema)
    export(model, encoder, out / "model.onnx")
    print(f"trained on {len(rows):,} flights")
    return None


if __name__ == "__main__":
    without_pandas()  # faster; leave this out where you use it
    main()
