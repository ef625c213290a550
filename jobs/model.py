"""A model as ONNX: one input per feature, by name, one output `score`.

A number is float32 [n, 1] with NaN for missing, a category string [n, 1] with "" for missing; `score` is float32
[n, 1], the probability of the positive class or the value of a regression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.telemetry import Feature, Schema
from edge.bundle import ORCHESTRATE
from edge.candidate import MODEL
from edge.scorer import Scorer
from jobs.table import Table

OPSET, ML_OPSET, IR = 17, 3, 8
CHUNK = 8192
UNKNOWN = -1.0
"""The code of a category that training did not keep, or that is missing."""


@dataclass(frozen=True)
class Encoder:
    """Rows -> float32 [n, features], for a model of trees. Categories become their rank by mean label, which lets a
    tree part them with one cut; all but the `top` most frequent are unknown."""

    features: tuple[Feature, ...]
    categories: Mapping[str, tuple[str, ...]]

    @classmethod
    def fit(cls, schema: Schema, table: Table, top: int = 40) -> Encoder:
        """Learnt from labelled rows. The mean label of a category is drawn to the overall mean by 20 rows' worth."""
        ranked = {f.name: _ranked(table.columns[f.name], table.label, top) for f in schema.features if _text(f)}
        return cls(schema.features, ranked)

    def matrix(self, table: Table) -> NDArray[np.float32]:
        columns = [self._codes(f, table.columns[f.name]) if _text(f) else table.columns[f.name] for f in self.features]
        return np.column_stack([np.asarray(c, np.float32) for c in columns])

    def _codes(self, feature: Feature, values: NDArray[Any]) -> NDArray[np.float32]:
        code = {name: float(i) for i, name in enumerate(self.categories[feature.name])}
        return np.fromiter((code.get(v, UNKNOWN) for v in values.tolist()), np.float32, len(values))


def _text(feature: Feature) -> bool:
    return feature.kind == "category"


def _ranked(values: NDArray[Any], label: NDArray[np.float64], top: int) -> tuple[str, ...]:
    known = np.array([v is not None and v != "" for v in values.tolist()], dtype=bool)
    if not known.any():
        return ()
    names, codes, counts = np.unique(values[known].astype(str), return_inverse=True, return_counts=True)
    overall = float(label.mean())
    mean = (np.bincount(codes, label[known] - overall) / (counts + 20.0)).round(9)
    kept = np.lexsort((names, -counts))[:top]
    return tuple(str(names[i]) for i in sorted(kept.tolist(), key=lambda i: (mean[i], names[i])))


def export(model: Any, encoder: Encoder, path: Path) -> None:
    """Write a fitted scikit-learn classifier (two classes) or regressor over `encoder.matrix` as ONNX."""
    from onnx import checker, save

    made = to_onnx(model, encoder)
    checker.check_model(made)
    save(made, str(path))


def to_onnx(model: Any, encoder: Encoder) -> Any:
    """The ONNX model: the encoder's lookups, one matrix, the converted model, its score."""
    from onnx import TensorProto, helper

    classifier = hasattr(model, "predict_proba")
    core = _converted(model, len(encoder.features), classifier)
    inputs, nodes, columns = [], [], []
    for i, f in enumerate(encoder.features):
        kind = TensorProto.STRING if _text(f) else TensorProto.FLOAT
        inputs.append(helper.make_tensor_value_info(f.name, kind, [None, 1]))
        columns.append(f"code_{i}" if _text(f) else f.name)
        if _text(f):
            names = encoder.categories[f.name] or ("\x00",)  # a lookup needs an entry
            codes = [float(k) for k in range(len(names))]
            lookup: dict[str, Any] = {"keys_strings": list(names), "values_floats": codes, "default_float": UNKNOWN}
            nodes.append(helper.make_node("LabelEncoder", [f.name], [columns[-1]], domain="ai.onnx.ml", **lookup))
    nodes.append(helper.make_node("Concat", columns, ["matrix"], axis=1))
    nodes += core.node
    result, constants = core.output[-1].name, list(core.initializer)
    if classifier:
        constants.append(helper.make_tensor("positive", TensorProto.INT64, [1], [1]))
        nodes.append(helper.make_node("Gather", [result, "positive"], ["score"], axis=1))
    else:
        nodes.append(helper.make_node("Identity", [result], ["score"]))
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])
    graph = helper.make_graph(_needed(nodes, "score"), "model", inputs, [score], constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name="driftloop")


def _converted(model: Any, features: int, classifier: bool) -> Any:
    """The graph of the model over one matrix, its score in the last output."""
    import skl2onnx
    from skl2onnx.common import tree_ensemble
    from skl2onnx.common.data_types import FloatTensorType

    add_node = tree_ensemble.add_node

    def whole(*args: Any, nodes_missing_value_tracks_true: int = 0, **more: Any) -> Any:
        """skl2onnx 1.20 writes a boolean here, which protobuf refuses from 7.34 on."""
        return add_node(*args, nodes_missing_value_tracks_true=int(nodes_missing_value_tracks_true), **more)

    tree_ensemble.add_node = whole
    try:
        return skl2onnx.to_onnx(
            model,
            initial_types=[("matrix", FloatTensorType([None, features]))],
            options={id(model): {"zipmap": False}} if classifier else None,
            target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
        ).graph
    finally:
        tree_ensemble.add_node = add_node


def _needed(nodes: Sequence[Any], output: str) -> list[Any]:
    """The nodes that `output` comes from, in their order."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


class Model:
    """A candidate's `model.onnx`, or the bundle in whose folder it would be, as a site would open it.

    Raises BadCandidate where a site would refuse it.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        bundle = (path.parent / ORCHESTRATE).exists()
        files = {p.name: p.read_bytes() for p in path.parent.iterdir() if p.is_file()} if bundle else {}
        self._scorer = Scorer.of(files or {MODEL: path.read_bytes()}, schema)
        self._features = schema.features

    def score(self, table: Table) -> NDArray[np.float64]:
        """One score a row, [n]; NaN for each row that the model refuses."""
        feeds = self._feeds(table)
        parts = [self._scorer.score(_part(feeds, start, CHUNK)) for start in range(0, len(table), CHUNK)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _feeds(self, table: Table) -> dict[str, NDArray[Any]]:
        return {f.name: _feed(f, table.columns[f.name]) for f in self._features}


def _part(feeds: Mapping[str, NDArray[Any]], start: int, rows: int) -> dict[str, NDArray[Any]]:
    return {name: column[start : start + rows] for name, column in feeds.items()}


def _feed(feature: Feature, values: NDArray[Any]) -> NDArray[Any]:
    return np.array([v or "" for v in values.tolist()], dtype=object) if _text(feature) else values
