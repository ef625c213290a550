"""The training script that works from loop.yaml alone: gradient-boosted trees on numbers and categories.

`python -m jobs.train --data rows.parquet --loop loop.yaml --out DIR` writes DIR/model.onnx, and DIR/held_out.npy: a
score for every fifth day's rows from a model that had not seen those days (NaN elsewhere). From these the reference
learns what to expect of the model; on the rows that it was fitted to it looks better than it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift.telemetry import Schema
from jobs.light import without_pandas
from jobs.model import Encoder, export
from jobs.table import Table, load
from triggers.config import Loop, parse_loop

DAY = 86400
EVERY = 5
"""One day in so many is held out for the reference."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`training.settings` of loop.yaml."""

    iterations: int = 60
    leaves: int = 15
    learning_rate: float = 0.1
    minimum_leaf: int = 50  # rows
    l2: float = 0.0
    categories: int = 40  # most frequent values kept of each category
    seed: int = 0


def settings(loop: Loop) -> Settings:
    """Raises msgspec.ValidationError with the setting's name."""
    return msgspec.convert(loop.training.settings, Settings)


def estimator(task: str, rows: int, s: Settings) -> Any:
    """An unfitted scikit-learn model."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingClassifier if task == "binary" else HistGradientBoostingRegressor
    return kind(
        max_iter=s.iterations,
        max_leaf_nodes=s.leaves,
        learning_rate=s.learning_rate,
        min_samples_leaf=max(1, min(s.minimum_leaf, rows // 20)),
        l2_regularization=s.l2,
        random_state=s.seed,
        early_stopping=False,
    )


def predicted(model: Any, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
    """The score of each row, [n]."""
    found = model.predict_proba(matrix)[:, 1] if hasattr(model, "predict_proba") else model.predict(matrix)
    return np.asarray(found, np.float64)


def held_out(table: Table, scored: Callable[[Table, Table], NDArray[np.float64]]) -> NDArray[np.float64]:
    """Scores [n] of every fifth day's rows by `scored(training rows, rows to score)`; NaN elsewhere, and everywhere
    where either part has fewer than two values of the label."""
    out = np.full(len(table), np.nan)
    left = (table.at // DAY) % EVERY == EVERY - 1
    if all(len(np.unique(table.label[part])) > 1 for part in (left, ~left)):
        out[left] = scored(table.take(~left), table.take(left))
    return out


def train(table: Table, schema: Schema, s: Settings) -> tuple[Any, Encoder]:
    """A fitted model and its encoder. Raises ValueError where there is nothing to learn."""
    if len(np.unique(table.label)) < 2:
        raise ValueError(f"{len(table)} labelled rows with one value of the label: nothing to learn")
    encoder = Encoder.fit(schema, table, s.categories)
    return estimator(schema.task, len(table), s).fit(encoder.matrix(table), table.label), encoder


def arguments(argv: Sequence[str] | None = None) -> tuple[Path, Loop, Path]:
    """What every training script is called with: the rows, the loop, the folder for the model."""
    parser = argparse.ArgumentParser(description="Train a candidate.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--loop", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    return args.data, parse_loop(args.loop.read_text(), str(args.loop)), args.out


def main(argv: Sequence[str] | None = None) -> None:
    data, loop, out = arguments(argv)
    schema, s = loop.schema.telemetry(loop.task), settings(loop)
    table = load(data, schema).labelled

    def scored(fit: Table, rows: Table) -> NDArray[np.float64]:
        model, encoder = train(fit, schema, s)
        return predicted(model, encoder.matrix(rows))

    np.save(out / "held_out.npy", held_out(table, scored))
    model, encoder = train(table, schema, s)
    export(model, encoder, out / "model.onnx")
    print(f"trained on {len(table):,} rows")


if __name__ == "__main__":
    without_pandas()
    main()
