"""A model means the same as ONNX as it did in scikit-learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drift.telemetry import Feature, Schema
from edge.errors import BadCandidate
from jobs.model import Encoder, Model, export, to_onnx
from jobs.table import Table
from jobs.train import Settings, held_out, predicted, train

FEATURES = (Feature("pressure"), Feature("heat"), Feature("maker", "category"))
SCHEMAS: dict[str, Schema] = {t: Schema("1", FEATURES, t) for t in ("binary", "regression")}  # type: ignore[arg-type]
FAST = Settings(iterations=20, categories=2)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_onnx_scores_are_those_of_scikit_learn(task: str, rows: Callable[..., Table], tmp_path: Path) -> None:
    schema, table = SCHEMAS[task], rows(1500, task)
    model, encoder = train(table, schema, FAST)
    export(model, encoder, tmp_path / "model.onnx")
    found = Model(tmp_path / "model.onnx", schema).score(table)
    assert np.abs(found - predicted(model, encoder.matrix(table))).max() < 1e-5
    assert np.ptp(found) > 0.3


def test_missing_and_unseen_values_are_scored_and_alike(rows: Callable[..., Table], tmp_path: Path) -> None:
    schema, table = SCHEMAS["binary"], rows(1500)
    model, encoder = train(table, schema, FAST)
    export(model, encoder, tmp_path / "model.onnx")
    odd = {
        "pressure": np.array([np.nan, np.nan, np.nan]),
        "heat": np.array([60.0, 60.0, 60.0]),
        "maker": np.array([None, "never seen", ""], dtype=object),
    }
    asked = dataclasses.replace(table.take(np.arange(3)), columns=odd)
    found = Model(tmp_path / "model.onnx", schema).score(asked)
    assert np.isfinite(found).all()
    assert len(set(found.tolist())) == 1


def test_only_the_most_frequent_categories_are_kept_in_the_order_of_their_labels(rows: Callable[..., Table]) -> None:
    encoder = Encoder.fit(SCHEMAS["binary"], rows(1500), top=2)
    assert encoder.categories == {"maker": ("acme", "zenith")}


def test_a_category_without_any_value_does_no_harm(rows: Callable[..., Table], tmp_path: Path) -> None:
    schema, table = SCHEMAS["binary"], rows(600)
    table = dataclasses.replace(table, columns={**table.columns, "maker": np.full(600, None, dtype=object)})
    model, encoder = train(table, schema, FAST)
    export(model, encoder, tmp_path / "model.onnx")
    assert np.isfinite(Model(tmp_path / "model.onnx", schema).score(table)).all()


def test_the_same_rows_give_the_same_bytes(rows: Callable[..., Table]) -> None:
    made = [to_onnx(*train(rows(800), SCHEMAS["binary"], FAST)).SerializeToString() for _ in range(2)]
    assert made[0] == made[1]


def test_one_value_of_the_label_is_nothing_to_learn(rows: Callable[..., Table]) -> None:
    table = rows(50)
    with pytest.raises(ValueError, match="50 labelled rows with one value of the label"):
        train(dataclasses.replace(table, label=np.ones(50)), SCHEMAS["binary"], FAST)


def test_a_model_that_wants_other_inputs_is_not_opened(rows: Callable[..., Table], tmp_path: Path) -> None:
    model, encoder = train(rows(300), SCHEMAS["binary"], FAST)
    export(model, encoder, tmp_path / "model.onnx")
    with pytest.raises(BadCandidate, match="no feature"):
        Model(tmp_path / "model.onnx", Schema("2", FEATURES[:2]))


def test_every_fifth_day_is_scored_by_a_model_that_has_not_seen_it(rows: Callable[..., Table]) -> None:
    table = rows(1000)
    seen: list[Any] = []

    def scored(fit: Table, others: Table) -> Any:
        seen.extend((set(fit.at // 86400), set(others.at // 86400)))
        return np.full(len(others), 0.25)

    found = held_out(table, scored)
    assert not seen[0] & seen[1]
    assert np.isfinite(found).sum() == np.isin(table.at // 86400, list(seen[1])).sum() > 100
