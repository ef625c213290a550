"""How two candidates differ on the same rows beside their metric: by group, in calibration, in answers changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.evaluate import Comparison
from jobs.metrics import Compared, clusters, half_width
from jobs.table import Table
from triggers.config import Loop, Slice

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

MOST_GROUPS = 40
"""Categories of a feature that are looked at, the most frequent."""
BINS = 10


def measured(found: Comparison) -> dict[str, Any]:
    """What the gates judge beside the gain."""
    return {
        "groups": dict(groups(found)),
        "fairness": {part.feature: asdict(far) for part in found.loop.gates.slices if (far := fairness(found, part))},
        "calibration": {
            name: calibration_error(found.rows.label, score) if found.loop.task == "binary" else None
            for name, score in (("champion", found.champion), ("challenger", found.challenger))
        },
        "churn": churn(found.loop, found.champion, found.challenger),
    }


def groups(found: Comparison) -> Iterator[tuple[str, dict[str, Any]]]:
    """The comparison in each group of `gates.slices`; one in which the champion, too, cannot be measured (a binary task
    needs both outcomes) is left out."""
    for part in found.loop.gates.slices:
        for name, which in parted(found.rows, part):
            compared = found.on(which)
            if np.isfinite(compared["champion"]) or not np.isfinite(found.challenger[which]).all():
                yield name, compared


def parted(rows: Table, part: Slice) -> Iterator[tuple[str, Mask]]:
    """The groups of a feature, with rows: each category, or each part of a number's range, and what is missing."""
    values = rows.columns[part.feature]
    if values.dtype == object:
        texts = np.array(["" if v is None else v for v in values.tolist()], dtype=str)
        names, codes, counts = np.unique(texts, return_inverse=True, return_counts=True)
        for i in np.argsort(-counts, kind="stable")[:MOST_GROUPS].tolist():
            yield f"{part.feature} {names[i] or 'missing'}", codes == i
        return
    known = np.isfinite(values)
    edges = np.array(part.edges, dtype=np.float64)
    if part.quantiles and known.any():
        edges = np.unique(np.quantile(values[known], np.linspace(0, 1, part.quantiles + 1)[1:-1]))
    code = np.where(known, np.searchsorted(edges, values, "right"), -1)
    for i in np.unique(code).tolist():
        yield f"{part.feature} {_between(edges, i)}", code == i


def _between(edges: Floats, i: int) -> str:
    if i < 0:
        return "missing"
    if not len(edges):
        return "any"
    if i == 0:
        return f"< {edges[0]:g}"
    return f">= {edges[-1]:g}" if i == len(edges) else f"{edges[i - 1]:g} to {edges[i]:g}"


def fairness(found: Comparison, part: Slice) -> Compared | None:
    """How far apart the groups with rows enough are, at most, in their share of positive answers (regression: their
    mean prediction): with the champion, with the challenger, and what that has shrunk by. None where that is not
    judged, or there are not two such groups."""
    gates = found.loop.gates
    parts = [which for _, which in parted(found.rows, part) if which.sum() >= gates.minimum_part_rows]
    n = int(sum(which.sum() for which in parts))
    if part.maximum_difference is None or len(parts) < 2:
        return None
    if not (np.isfinite(found.champion).all() and np.isfinite(found.challenger).all()):
        return Compared(n)
    (a, of_a), (b, of_b) = (_spread(_answers(found.loop, s), parts) for s in (found.champion, found.challenger))
    half = half_width(of_b - of_a, clusters(found.rows.at), gates.confidence)
    return Compared(n, a, b, a - b, a - b - half, a - b + half)


def _spread(answers: Floats, parts: list[Mask]) -> tuple[float, Floats]:
    """The distance between the greatest and the least mean, and each row's influence on it."""
    means = [float(answers[which].mean()) for which in parts]
    influence = np.zeros(len(answers))
    for i, sign in ((int(np.argmax(means)), 1.0), (int(np.argmin(means)), -1.0)):
        influence[parts[i]] += sign * (answers[parts[i]] - means[i]) / parts[i].sum()
    return max(means) - min(means), influence


def _answers(loop: Loop, score: Floats) -> Floats:
    return (score >= loop.gates.threshold).astype(np.float64) if loop.task == "binary" else score


def churn(loop: Loop, champion: Floats, challenger: Floats) -> float | None:
    """The share of rows with another answer; None without rows, or where a row has none."""
    if not len(champion) or not (np.isfinite(champion).all() and np.isfinite(challenger).all()):
        return None
    if loop.task == "regression":
        return float((np.abs(challenger - champion) > loop.gates.threshold).mean())
    return float((_answers(loop, champion) != _answers(loop, challenger)).mean())


def calibration_error(label: Floats, score: Floats) -> float | None:
    """Expected calibration error: the mean distance of score and truth in ten parts with as many rows each.

    >>> calibration_error(np.array([0.0, 1.0] * 50), np.full(100, 0.5)), calibration_error(np.ones(20), np.zeros(20))
    (0.0, 1.0)
    """
    if not len(label) or not np.isfinite(score).all():
        return None
    parts = np.array_split(np.argsort(score, kind="stable"), BINS)
    return float(sum(abs((score[p] - label[p]).sum()) for p in parts) / len(label))
