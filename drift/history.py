"""A table's whole history as windows, folded by column: equal, to the last count, to its rows sent in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift import performance
from drift.bins import TAIL_LIMIT, TAIL_STEPS, Column
from drift.performance import Outcomes
from drift.reference import Reference
from drift.sketch import Sketch
from drift.telemetry import Rows
from drift.windows import Window

_CELLS, _PERIODS = 8_000_000, 64
"""Counts held at once, and periods folded at once, at most."""


@dataclass(frozen=True, eq=False)
class History:
    """Scored rows in the order of time, [n]: `site` indexes `sites`; `label` is NaN where it never came, `known_at`
    UTC seconds at which it was known."""

    rows: Rows
    sites: tuple[str, ...]
    site: NDArray[np.int64]
    label: NDArray[np.float64]
    known_at: NDArray[np.int64]

    def folded(
        self, reference: Reference, candidate: str, start: int, end: int, seconds: int, patience: int
    ) -> Iterator[tuple[int, list[Window]]]:
        """The windows of every period from `start` (the start of one) to before `end`, by site; of a period without
        rows an empty list. Labels count that were known `patience` seconds after the period's end."""
        cells = len(self.sites) * len(reference.columns) * reference.width
        periods = min(max(_CELLS // cells, 1), _PERIODS)
        for first in range(start, end, periods * seconds):
            last = min(first + periods * seconds, end)
            by_period = self._some(reference, candidate, (first, last), seconds, patience)
            for period in range(first, last, seconds):
                yield period, by_period.get(period, [])

    def _some(
        self, reference: Reference, candidate: str, span: tuple[int, int], seconds: int, patience: int
    ) -> dict[int, list[Window]]:
        at = self.rows.at
        part = slice(*np.searchsorted(at, span).tolist())
        key = (at[part] - at[part] % seconds) * len(self.sites) + self.site[part]
        found, code = np.unique(key, return_inverse=True)
        n, width = len(found), reference.width
        counts = np.zeros((len(reference.columns), n, width), np.int64)
        tails, outside = np.zeros((len(reference.columns), n, 2), np.int64), np.zeros((len(reference.columns), n), int)
        slot = np.zeros(0, np.intp)
        for i, column in enumerate(reference.columns):
            values = (self.rows.score if column.name == "score" else self.rows.columns[column.name])[part]
            slot = column.slots(values, width)
            counts[i] = np.bincount(code * width + slot, minlength=n * width).reshape(n, width)
            if column.kind == "number":
                x = np.asarray(values, np.float64)
                tails[i] = _excess(column, x, code, n)
                outside[i] = _outside(column, x, code, n)
        outcomes = self._outcomes(reference, part, code, n, slot, seconds + patience, seconds)
        made: dict[int, list[Window]] = {}
        for w, k in enumerate(found.tolist()):
            start, site = divmod(k, len(self.sites))
            sketch = Sketch(reference.version, *(np.ascontiguousarray(a[:, w]) for a in (counts, tails, outside)))
            window = Window(candidate, self.sites[site], start, seconds, sketch, outcomes[w])
            made.setdefault(start, []).append(window)
        return made

    def _outcomes(
        self,
        reference: Reference,
        part: slice,
        code: NDArray[np.intp],
        n: int,
        slot: NDArray[np.intp],
        wait: int,
        seconds: int,
    ) -> list[Outcomes]:
        at, score, label = self.rows.at[part], self.rows.score[part], self.label[part]
        score = score.astype(np.float32).astype(np.float64)  # as predictions are kept until their labels come
        told = np.isfinite(label) & (self.known_at[part] <= at - at % seconds + wait)
        index = np.flatnonzero(told)
        index = index[np.argsort(code[index], kind="stable")]
        ends = np.cumsum(np.bincount(code[index], minlength=n))
        task, unit = reference.schema.task, reference.unit
        return [
            performance.count(score[p], slot[p], label[p], reference.width, task, unit)
            for p in np.split(index, ends[:-1])
        ]


def _excess(column: Column, x: NDArray[np.float64], code: NDArray[np.intp], n: int) -> NDArray[np.int64]:
    """How far values lie below and above the training range, as Column.count sums it, [n, 2]."""
    made = np.zeros((n, 2), np.int64)
    for side, beyond in enumerate((column.edges[0] - x, x - column.edges[-1])):
        far = np.flatnonzero(beyond > 0)
        with np.errstate(over="ignore"):
            steps = np.fmin(np.rint(beyond[far] * (TAIL_STEPS / column.scale)), TAIL_LIMIT).astype(np.int64)
        np.add.at(made[:, side], code[far], steps)
    return made


def _outside(column: Column, x: NDArray[np.float64], code: NDArray[np.intp], n: int) -> NDArray[Any]:
    out = np.zeros(len(x), np.bool_)
    if column.low is not None:
        out |= x < column.low
    if column.high is not None:
        out |= x > column.high
    return np.bincount(code[out], minlength=n)
