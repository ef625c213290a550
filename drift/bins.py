"""Where values are counted: the bins of one column, made from training data and found again in nanoseconds."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.telemetry import Kind

OTHER, UNSEEN, MISSING = -3, -2, -1
"""The last three slots of every column: known categories beyond the top ones, categories that training never saw,
no value."""

EXTRA = 3
BLOCK = 32_768
TAIL_STEPS = 1024
"""How far values lie beyond the training range is summed in 1/1024 of the column's scale, so that it adds exactly."""

TAIL_LIMIT = float(2**31 - 1)
_GUARDS = (0.001, 0.999)
_SAMPLE = 1 << 18
_KNOWN = 10_000


class Grid:
    """Finds the bin of each value: a grid gives a first guess at or below it, and the edges make it exact.

    `edges` are ascending, [k]; value x is in bin i where edges[i-1] <= x < edges[i]: k + 1 bins, the outer two open.
    """

    __slots__ = ("cells", "edges", "firsts", "start", "steps")

    def __init__(self, edges: NDArray[np.float64]) -> None:
        self.cells, most = _best_cells(edges)
        start = _start(self.cells, edges)
        self.start = start.astype(np.uint8 if len(edges) < 256 else np.intp)
        few = most <= _SIDE_BY_SIDE
        self.steps = () if few else _halves(most)
        self.edges = np.concatenate((edges, np.full(2 << most.bit_length(), np.nan)))
        self.firsts = tuple(self.edges[start + i] for i in range(most)) if few else ()

    def find(self, x: NDArray[np.float64]) -> NDArray[Any]:
        """The bin of each value, as uint8 for fewer than 256 edges; NaN goes to bin 0.

        >>> Grid(np.array([1.0, 2.0, 2.5])).find(np.array([0.0, 1.0, 2.2, 9.0, np.nan])).tolist()
        [0, 1, 2, 3, 0]
        """
        cell = self.cells.of(x)
        found: NDArray[Any] = self.start.take(cell)
        edge, _ = _room(len(x))
        for first in self.firsts:  # the next edge may lie in a later cell: then no value of this one reaches it
            first.take(cell, out=edge, mode="clip")
            np.add(found, (x >= edge).view(np.uint8), out=found)
        for step in self.steps:
            above = x >= self.edges.take(found.astype(np.intp) + (step - 1))
            np.add(found, above.view(np.uint8) * np.uint8(step), out=found)
        return found


class _Room(threading.local):
    """Two arrays that are written again and again: new memory for each block would cost more than the arithmetic."""

    values: NDArray[np.float64] = np.empty(0)
    cells: NDArray[np.intp] = np.empty(0, np.intp)


_ROOM = _Room()


def _room(n: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The room of this thread, for n values."""
    if len(_ROOM.values) < n:
        _ROOM.values, _ROOM.cells = np.empty(n), np.empty(n, np.intp)
    return _ROOM.values[:n], _ROOM.cells[:n]


_SIDE_BY_SIDE = 3
"""So many edges in a cell are looked at one by one; of more, halves are taken."""


@dataclass(frozen=True, slots=True)
class _Even:
    """Cells of one width from `low` on, `scale` to the unit: the same arithmetic for edges as for values."""

    low: float
    scale: float
    number: int

    def of(self, x: NDArray[np.float64]) -> NDArray[np.intp]:
        """The cell of each value, 0 for NaN; until the next call of this thread."""
        place, cell = _room(len(x))
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(x, self.low, out=place)
            place *= self.scale
        np.fmax(place, 0.0, out=place)
        np.fmin(place, self.number - 1.0, out=place)
        np.copyto(cell, place, casting="unsafe")
        return cell


@dataclass(frozen=True, slots=True)
class _Octaves:
    """Cells of one width in the exponent and the first bits of the mantissa, for each sign: for heavy tails. Magnitudes
    below `low` share the innermost cell."""

    shift: int
    low: int
    half: int

    @property
    def number(self) -> int:
        return 2 * self.half

    def of(self, x: NDArray[np.float64]) -> NDArray[np.intp]:
        """The cell of each value, 0 for NaN; until the next call of this thread."""
        place, cell = _room(len(x))
        bits = np.add(x, 0.0, out=place).view(np.int64)  # -0.0 is 0.0
        np.bitwise_and(bits, _MAGNITUDE, out=cell)
        nan = cell > _INFINITE if cell.max(initial=0) > _INFINITE else None
        cell >>= np.int64(self.shift)
        cell -= np.int64(self.low)
        np.clip(cell, 0, self.half - 1, out=cell)
        bits >>= np.int64(63)
        cell ^= bits
        cell += np.int64(self.half)
        if nan is not None:
            cell[nan] = 0
        return cell


_MAGNITUDE, _INFINITE = np.int64(2**63 - 1), np.int64(0x7FF << 52)


def _best_cells(edges: NDArray[np.float64]) -> tuple[_Even | _Octaves, int]:
    """(the cells with the fewest edges in one, so many): octaves only where even ones are too coarse."""
    even, most = _best_even(edges)
    keys = np.abs(edges[edges != 0.0]).view(np.int64)
    best: _Even | _Octaves = even
    for shift in (48, 46, 44) if most > 1 and len(keys) else ():
        low, top = int(keys.min() >> shift) - 1, int(keys.max() >> shift) + 1
        low = max(low, top - 8191)
        cells = _Octaves(shift, low, top - low + 1)
        if (found := _crowd(cells, edges)) < most:
            best, most = cells, found
    return best, most


def _best_even(edges: NDArray[np.float64]) -> tuple[_Even, int]:
    """(the smallest even cells with the fewest edges in one, so many); far tails may share a cell."""
    best, most = _Even(0.0, 0.0, 1), len(edges)
    for trim in (0, 2, 4):
        core = edges[trim : len(edges) - trim]
        if len(core) < 2 or not 0.0 < float(core[-1]) - float(core[0]) < 1e300:
            continue
        for number in (1024, 4096, 16384):
            cells = _Even(float(core[0]), number / (float(core[-1]) - float(core[0])), number)
            if np.isfinite(cells.scale) and (found := _crowd(cells, edges)) < most:
                best, most = cells, found
    return best, most


def _crowd(cells: _Even | _Octaves, edges: NDArray[np.float64]) -> int:
    return int(np.bincount(cells.of(edges)).max())


def _start(cells: _Even | _Octaves, edges: NDArray[np.float64]) -> NDArray[np.intp]:
    """How many edges lie in the cells before each."""
    return np.searchsorted(cells.of(edges), np.arange(cells.number))


def _halves(most: int) -> tuple[int, ...]:
    """The steps that find one of up to `most` edges."""
    return tuple(1 << b for b in reversed(range(most.bit_length())))


@dataclass(frozen=True, eq=False)
class Column:
    """One feature, or the score: its bins, and what is plausible.

    A number has `edges`, [k], for k + 1 bins, the outer two beyond the training range; `scale` is the unit of its
    distances (standard deviation without the outermost thousandths, never 0). A category has its top `categories` as
    bins, by falling count; `known` are the others that training saw, None where they were too many to list.
    """

    name: str
    kind: Kind
    edges: NDArray[np.float64]
    scale: float = 1.0
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()
    known: frozenset[str] | None = frozenset()

    @property
    def bins(self) -> int:
        return len(self.edges) + 1 if self.kind == "number" else len(self.categories)

    @cached_property
    def _grid(self) -> Grid:
        return Grid(self.edges)

    @cached_property
    def _places(self) -> dict[str | None, int]:
        places: dict[str | None, int] = dict.fromkeys(self.known or (), OTHER)
        places.update({name: i for i, name in enumerate(self.categories)})
        places[None] = MISSING
        return places

    @property
    def _stranger(self) -> int:
        return OTHER if self.known is None else UNSEEN

    def slots(self, values: Any, width: int) -> NDArray[np.intp]:
        """The slot of each value in a row of `width` slots; values as in telemetry.Rows."""
        if self.kind == "category":
            found = np.fromiter(map(self._places.get, values, repeat(self._stranger)), np.intp, len(values))
            return np.where(found < 0, found + width, found)
        x = np.asarray(values, dtype=np.float64)
        parts = [self._grid.find(x[i : i + BLOCK]) for i in range(0, len(x), BLOCK)]
        found = np.concatenate(parts).astype(np.intp) if parts else np.zeros(0, np.intp)
        found[np.isnan(x)] = width + MISSING
        return found

    def count(self, values: Any, width: int) -> tuple[NDArray[np.int64], tuple[int, int], int]:
        """(counts [width], excess below and above the training range in scale/1024, values out of range)."""
        counts = np.zeros(width, np.int64)
        if self.kind == "category":
            for value, n in Counter(values).items():
                counts[self._places.get(value, self._stranger)] += n
            return counts, (0, 0), 0
        below = above = outside = 0
        x = np.asarray(values)
        for i in range(0, len(x), BLOCK):  # small enough to stay in the cache
            block = x[i : i + BLOCK].astype(np.float64, copy=False)
            found = np.bincount(self._grid.find(block), minlength=width)
            with np.errstate(over="ignore", invalid="ignore"):
                any_missing = np.isnan(block.sum())
            if any_missing:
                missing = int(np.count_nonzero(np.isnan(block)))
                found[0] -= missing
                found[MISSING] += missing
            counts += found
            if found[0] or found[len(self.edges)]:
                below += self._excess(-block, -self.edges[0])
                above += self._excess(block, self.edges[-1])
            outside += self._outside(block)
        return counts, (below, above), outside

    def _excess(self, x: NDArray[np.float64], end: float) -> int:
        with np.errstate(over="ignore", invalid="ignore"):
            steps = (x[x > end] - end) * (TAIL_STEPS / self.scale)
        return int(np.fmin(np.rint(steps), TAIL_LIMIT).astype(np.int64).sum())

    def _outside(self, x: NDArray[np.float64]) -> int:
        low = 0 if self.low is None else int(np.count_nonzero(x < self.low))
        return low + (0 if self.high is None else int(np.count_nonzero(x > self.high)))


class Stack:
    """Number columns counted together: for a few rows, where the calls cost more than the values.

    What it finds is what each column's `count` finds.
    """

    FEW = 2048
    """Rows from which on counting column by column is faster, because then one column's grid stays in the cache."""

    def __init__(self, columns: Sequence[Column], width: int) -> None:
        even = [_best_even(c.edges) for c in columns]
        grids = [cells for cells, _ in even]
        self._width = width
        self._low = np.array([[g.low] for g in grids])
        self._grid_scale = np.array([[g.scale] for g in grids])
        self._last = np.array([[g.number - 1.0] for g in grids])
        self._cell = np.cumsum([[0], *([g.number] for g in grids[:-1])], axis=0)
        self._start = np.concatenate([_start(g, c.edges) for g, c in zip(grids, columns, strict=True)])
        self._steps = _halves(max(most for _, most in even))
        padding = np.full(2 * self._steps[0], np.nan)
        padded = [np.concatenate((c.edges, padding)) for c in columns]
        self._edges = np.concatenate(padded)
        self._edge = np.cumsum([[0], *([len(e)] for e in padded[:-1])], axis=0)
        self._slot = np.arange(len(columns))[:, None] * width
        self._ends = np.array([[c.edges[0], c.edges[-1]] for c in columns]).T[:, :, None]
        self._scale = np.array([[TAIL_STEPS / c.scale] for c in columns])
        self._bounds = np.array([[_or(c.low, -np.inf), _or(c.high, np.inf)] for c in columns]).T[:, :, None]

    def count(self, x: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of values [columns, n]: counts [columns, width], excess [columns, 2] and outside [columns]."""
        missing = np.isnan(x)
        with np.errstate(over="ignore", invalid="ignore"):
            place = np.clip((x - self._low) * self._grid_scale, 0.0, self._last)
            place[np.isnan(place)] = 0.0
            found = self._start.take(place.astype(np.intp) + self._cell)
            for step in self._steps:
                found += step * (x >= self._edges.take(found + (self._edge + (step - 1))))
            found[missing] = self._width + MISSING
            counts = np.bincount((found + self._slot).ravel(), minlength=len(x) * self._width)
            beyond = np.stack((self._ends[0] - x, x - self._ends[1]))
            steps = np.where(beyond > 0.0, np.fmin(np.rint(beyond * self._scale), TAIL_LIMIT), 0.0)
        excess = steps.astype(np.int64).sum(axis=2).T
        outside = np.count_nonzero((x < self._bounds[0]) | (x > self._bounds[1]), axis=1)
        return counts.reshape(len(x), self._width), excess, outside


def _or(bound: float | None, otherwise: float) -> float:
    return otherwise if bound is None else bound


def of_numbers(
    name: str, values: NDArray[np.float64], bins: int, low: float | None = None, high: float | None = None
) -> Column:
    """Quantile bins: at most `bins`, of about equal counts, cut between observed values, with guard edges at the
    outermost thousandths and at the ends of the range; a value with the weight of two bins has one of its own.

    >>> of_numbers("constant", np.full(9, 5.0), 64).bins
    3
    """
    x = values[np.isfinite(values)]
    if not len(x):
        return Column(name, "number", np.array([0.0]), 1.0, low, high)
    sample = x[:: -(-len(x) // _SAMPLE)]
    unique, count = np.unique(np.concatenate((sample, [x.min(), x.max()])), return_counts=True)
    share = np.cumsum(count) / count.sum()
    pieces = max(bins - 5, 2)
    after = np.searchsorted(share, np.concatenate((np.arange(1, pieces) / pieces, _GUARDS)))
    heavy = np.flatnonzero(count > 2 * count.sum() / pieces)
    cuts = np.unique(np.concatenate((after, heavy, heavy - 1)))
    cuts = cuts[(cuts >= 0) & (cuts < len(unique) - 1)]
    margin = max((unique[-1] - unique[0]) * 1e-6, abs(unique[0]) * 1e-6, abs(unique[-1]) * 1e-6, 1e-12)
    between = unique[cuts] + (unique[cuts + 1] - unique[cuts]) / 2
    edges = np.unique(np.concatenate(([unique[0] - margin], between, [unique[-1] + margin])))
    inner = np.clip(x, *np.quantile(sample, _GUARDS))
    spread = float(inner.std()) or float(x.std()) or max(abs(float(x[0])), 1.0)
    return Column(name, "number", edges, spread, low, high)


def of_categories(name: str, values: Sequence[str | None], bins: int) -> Column:
    """The commonest categories, at most `bins`, by falling count and then by name.

    >>> of_categories("c", ["b", "a", "a", None], 64).categories
    ('a', 'b')
    """
    counts = Counter(values)
    counts.pop(None, None)
    names = sorted(counts, key=lambda c: (-counts[c], str(c)))
    rest = [str(c) for c in names[bins:]]
    return Column(
        name,
        "category",
        np.zeros(0),
        categories=tuple(str(c) for c in names[:bins]),
        known=frozenset(rest) if len(rest) <= _KNOWN else None,
    )
