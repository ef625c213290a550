"""A model as a function of columns, by the convention that every candidate keeps.

One input per feature, by name: a number as float32 [n, 1] (NaN missing), a category as string [n, 1] ("" missing). One
output `score`, float32 [n, 1] or [n]: the probability of the positive class, or the value of a regression.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.telemetry import Schema
from edge import safety
from edge.bundle import ORCHESTRATE, Chain
from edge.candidate import MODEL
from edge.errors import BadCandidate

_TYPES = {"number": "tensor(float)", "category": "tensor(string)"}
_SLACK = 1e-5
"""A probability in float32 may leave 0 to 1 by so much."""


class Scorer:
    """An open model. Raises BadCandidate where its bytes do not keep the convention for `schema`."""

    def __init__(self, model: bytes, schema: Schema) -> None:
        self._setup(_open(model), schema)

    @classmethod
    def of(cls, files: Mapping[str, bytes], schema: Schema) -> Scorer:
        """That of a candidate's files: its model, or its models as one."""
        if ORCHESTRATE not in files:
            return cls(files[MODEL], schema)
        made = cls.__new__(cls)
        made._setup(Chain(files[ORCHESTRATE], files, schema.names, _open), schema)
        return made

    def _setup(self, session: Any, schema: Schema) -> None:
        self._schema = schema
        self._session, self._errors = session, _errors()
        self._inputs = self._checked_inputs()
        self._check_output()
        self._smoke()

    def score(self, columns: Mapping[str, Any]) -> NDArray[np.float64]:
        """float64 [n], NaN for each row that the model refuses: by an error, or by a score that is none.

        A number column is an array, NaN where missing; a category column a sequence of texts, None or "" where missing.
        """
        return self._scores(self._feeds(columns))

    def timed(self, columns: Mapping[str, Any], most: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The scores, and how many ms the model takes for one row: of up to `most` rows, evenly chosen, run again."""
        feeds = self._feeds(columns)
        scores = self._scores(feeds)
        ms = []
        for i in np.linspace(0, len(scores) - 1, min(len(scores), most)).astype(int).tolist():
            one = {name: values[i : i + 1] for name, values in feeds.items()}
            began = time.perf_counter()
            self._run(one)
            ms.append((time.perf_counter() - began) * 1000)
        return scores, np.array(ms)

    def _feeds(self, columns: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        with np.errstate(over="ignore"):
            return {
                name: _numbers(columns[name]) if kind == "number" else _texts(columns[name])
                for name, kind in self._inputs
            }

    def _scores(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        scores = self._run(feeds) if len(next(iter(feeds.values()))) else np.empty(0)
        if self._schema.task == "binary":
            scores[(scores < -_SLACK) | (scores > 1 + _SLACK)] = np.nan
            scores = np.clip(scores, 0.0, 1.0)
        scores[np.isinf(scores)] = np.nan
        return scores

    def _run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """The scores; where rows together fail, each half for itself, down to the row that does."""
        n = len(next(iter(feeds.values())))
        try:
            given = self._session.run(["score"], feeds)[0]
            return np.array(given, dtype=np.float64).reshape(n)
        except self._errors:
            if n == 1:
                return np.array([np.nan])
        half = n // 2
        parts = ({name: values[part] for name, values in feeds.items()} for part in (slice(half), slice(half, n)))
        return np.concatenate([self._run(part) for part in parts])

    def _checked_inputs(self) -> Sequence[tuple[str, str]]:
        kinds: dict[str, str] = {f.name: f.kind for f in self._schema.features}
        inputs = []
        for given in self._session.get_inputs():
            if given.name not in kinds:
                raise BadCandidate(f"wants an input {given.name!a} that is no feature", "model.onnx")
            kind = kinds[given.name]
            if given.type != _TYPES[kind] or len(given.shape) != 2 or given.shape[1] != 1:
                asked = f"{given.type} {given.shape}"
                raise BadCandidate(f"wants {given.name} as {asked}, not {_TYPES[kind]} [n, 1]", "model.onnx")
            inputs.append((given.name, kind))
        if not inputs:
            raise BadCandidate("has no inputs", "model.onnx")
        return inputs

    def _check_output(self) -> None:
        found = {given.name: given.type for given in self._session.get_outputs()}
        if found.get("score") not in ("tensor(float)", "tensor(double)"):
            raise BadCandidate(f"has no output `score` of floats, but {found}", "model.onnx")

    def _smoke(self) -> None:
        """One row of nothing and one of zeros: a model that scores neither is refused before it serves."""
        blank = {name: np.array([np.nan, 0.0]) if kind == "number" else ["", ""] for name, kind in self._inputs}
        if np.isnan(self.score(blank)).all():
            raise BadCandidate("gives no score for a row of missing values, nor for one of zeros", "model.onnx")


@cache
def _errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = tuple(e for e in vars(state).values() if isinstance(e, type) and issubclass(e, Exception))
    return (*found, RuntimeError, ValueError)


def _open(model: bytes) -> Any:
    import onnxruntime as ort

    safety.check(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.load_model_format", "ONNX")  # nothing else was looked through
    options.log_severity_level = 4  # what goes wrong is raised; it need not be printed too
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except _errors() as error:
        raise BadCandidate(f"cannot be opened: {str(error)[:200]}", "model.onnx") from error


def _numbers(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32).reshape(-1, 1)


def _texts(values: Any) -> NDArray[Any]:
    if not isinstance(values, np.ndarray):
        values = np.array(["" if value is None else value for value in values], dtype=object)
    return values.reshape(-1, 1)
