"""A candidate of two models: whether it will be hazy, and how hazy when it is. The script that loop.yaml names.

It leaves chance.onnx (a classifier), amount.onnx (a regression, fitted to hazy hours alone), expect.onnx (their
product: some hundred bytes) and orchestrate.json, which chains them (edge/bundle.py). When one of the three does not
change, it is not sent again: layers go to a site one by one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.telemetry import Schema
from jobs.light import without_pandas
from jobs.model import IR, OPSET, Encoder, export
from jobs.table import Table, load
from jobs.train import arguments, held_out, predicted

ORCHESTRATION = {
    "steps": [
        {"model": "chance.onnx", "outputs": {"score": "chance"}},
        {"model": "amount.onnx", "outputs": {"score": "amount"}},
        {"model": "expect.onnx", "inputs": {"left": "chance", "right": "amount"}},
    ]
}


def fit(rows: Table, schema: Schema) -> tuple[Encoder, Any, Any]:
    """What turns rows into a matrix, the model of the chance, and that of the amount."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    encoder = Encoder.fit(schema, rows)
    matrix, hazy = encoder.matrix(rows), rows.label > 0
    some: dict[str, Any] = {"max_iter": 60, "max_leaf_nodes": 15, "early_stopping": False, "random_state": 0}
    chance = HistGradientBoostingClassifier(**some).fit(matrix, hazy)
    amount = HistGradientBoostingRegressor(**some).fit(matrix[hazy], rows.label[hazy])
    return encoder, chance, amount


def score(models: tuple[Encoder, Any, Any], rows: Table) -> NDArray[np.float64]:
    """What the bundle says, computed here."""
    encoder, chance, amount = models
    matrix = encoder.matrix(rows)
    return predicted(chance, matrix) * predicted(amount, matrix)


def product(path: Path) -> None:
    """score = left * right, as ONNX."""
    from onnx import TensorProto, helper, save

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in ("left", "right", "score")]
    graph = helper.make_graph([helper.make_node("Mul", ["left", "right"], ["score"])], "expect", ends[:2], ends[2:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR), str(path))


def main() -> None:
    data, loop, out = arguments()
    schema = loop.schema.telemetry(loop.task)
    rows = load(data, schema).labelled
    np.save(out / "held_out.npy", held_out(rows, lambda some, others: score(fit(some, schema), others)))
    encoder, chance, amount = fit(rows, schema)
    export(chance, encoder, out / "chance.onnx")
    export(amount, encoder, out / "amount.onnx")
    product(out / "expect.onnx")
    (out / "orchestrate.json").write_text(json.dumps(ORCHESTRATION, indent=2) + "\n")
    print(f"trained on {len(rows):,} hours, {int((rows.label > 0).sum()):,} of them hazy")


if __name__ == "__main__":
    without_pandas()
    main()
