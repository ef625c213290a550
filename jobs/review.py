"""Looking back: what each candidate would have scored, month by month, whether it was let through or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.metrics import METRICS as MEASURES
from jobs.model import Model
from jobs.table import Table
from triggers.config import METRICS, Loop


def review(
    table: Table,
    loop: Loop,
    folders: Mapping[str, Path],
    unseen: Mapping[str, NDArray[np.bool_]],
    champion: str,
    metric: str | None,
) -> dict[str, Any]:
    """By month (`2013-03`): the metric of what was served (`loop`), of the first champion left alone (`static`), and
    of every candidate on the rows [n] that it was not trained on (`unseen`). A month in which a model left a row
    unscored is null, as is one in which it had seen every row."""
    name = metric or loop.gates.metric or METRICS[loop.task][0]
    schema = loop.schema.telemetry(loop.task)
    scores = {digest: Model(folder / "model.onnx", schema).score(table) for digest, folder in folders.items()}
    served = np.isfinite(table.score)  # a row that no model scored when it was made counts against nobody

    def by_month(which: str, score: NDArray[np.float64], of: NDArray[np.bool_]) -> dict[str, float]:
        return {m: _measured(which, table.label[k & of], score[k & of]) for m, k in months(table.at)}

    everything = np.ones(len(table), np.bool_)
    found: dict[str, Any] = {
        "metric": name,
        "rows": {m: int(k.sum()) for m, k in months(table.at)},
        "static": by_month(name, scores[champion], everything),
        "loop": by_month(name, table.score, served),
        "candidates": {digest: by_month(name, score, unseen[digest]) for digest, score in scores.items()},
        "log_loss": None,
    }
    if loop.task == "binary":
        found["log_loss"] = {
            "static": by_month("log_loss", scores[champion], everything),
            "loop": by_month("log_loss", table.score, served),
        }
    return found


def _measured(metric: str, label: NDArray[np.float64], score: NDArray[np.float64]) -> float:
    if not len(label) or not np.isfinite(score).all():
        return float("nan")
    return MEASURES[metric](label, score)[0]


def months(at: NDArray[np.int64]) -> list[tuple[str, NDArray[np.bool_]]]:
    """The months (`2013-03`, UTC) of times [n], and which are of each."""
    month = at.astype("datetime64[s]").astype("datetime64[M]")
    return [(str(m), month == m) for m in np.unique(month)]


def thinned(table: Table, rows: int) -> Table:
    """At most so many rows of every month, evenly over it."""
    kept = [np.flatnonzero(k) for _, k in months(table.at)]
    parts = [k[np.linspace(0, len(k) - 1, min(rows, len(k))).astype(np.intp)] for k in kept]
    return table.take(np.concatenate(parts)) if parts else table
