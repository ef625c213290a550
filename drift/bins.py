"""Where values are counted: the bins of one column, made from training data and found again in nanoseconds."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.telemetry import Kind

OTHER, UNSEEN, MISSING = -3, -2, -1
"""The last three slots of every column: known categories beyond the top ones, categories that training never saw,
no value."""

EXTRA = 3
TAIL_STEPS = 1024
"""How far values lie beyond the training range is summed in 1/1024 of the column's scale, so that it adds exactly."""

TAIL_LIMIT = float(2**31 - 1)
_GUARDS = (0.001, 0.999)
_SAMPLE = 1 << 18
_KNOWN = 10_000


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
        found = np.searchsorted(self.edges, x, side="right")
        found[np.isnan(x)] = width + MISSING
        return found

    def count(self, values: Any, width: int) -> tuple[NDArray[np.int64], tuple[int, int], int]:
        """(counts [width], excess below and above the training range in scale/1024, values out of range)."""
        counts = np.zeros(width, np.int64)
        if self.kind == "category":
            for value, n in Counter(values).items():
                counts[self._places.get(value, self._stranger)] += n
            return counts, (0, 0), 0
        many, tails, outside = stack((self,), width).count([values])
        return many[0], (int(tails[0, 0]), int(tails[0, 1])), int(outside[0])


BLOCK = 65_536
"""So many values are counted in one go: few enough to stay in the cache, enough for the calls to cost little."""

_ROWS = 16_384
"""Of one column in a block, at least, where there are as many: its table stays in the cache."""

_MANY = 0.06
"""A larger share of a column's values beyond its edges is worth arithmetic on the whole column."""

_AT_ONCE = 8192
"""Values compared: their arrays are then small enough for memory that is at hand."""


class Stack:
    """Number columns counted together, exactly.

    Each column has a ruler: cells, of which no value is ever in a higher one than a larger value. A table says the slot
    of each cell, where that is the same for all values in it. What is left are the values of cells with an edge, beyond
    the edges, or missing: those few are compared with the edges.
    """

    def __init__(self, columns: Sequence[Column], width: int) -> None:
        self._width, self._unsure = width, len(columns) * width
        self._last = last = (1 << (_CELLS * width).bit_length()) - 1
        self._rulers = [_ruler(c.edges, last) for c in columns]
        self._bent = [i for i, ruler in enumerate(self._rulers) if ruler.fine]
        self._centre = np.array([[r.centre] for r in self._rulers])
        self._scale = np.array([[r.scale] for r in self._rulers], np.float32)
        cells = [ruler.cell(c.edges) for ruler, c in zip(self._rulers, columns, strict=True)]
        self._steps = _halves(max(int(np.bincount(found).max()) for found in cells))
        self._stride = width + 2 * self._steps[0]
        self._edges = np.full((len(columns), self._stride), np.nan)
        self._starts = np.empty((len(columns), last + 1), np.min_scalar_type(len(columns) * self._stride))
        self._tables = np.empty((len(columns), last + 1), np.min_scalar_type(self._unsure))
        self._bounds = np.array([[_or(c.low, -np.inf), _or(c.high, np.inf)] for c in columns]).T
        self._bounded = bool(np.isfinite(self._bounds).any())
        self._ends = np.array([[c.edges[0], c.edges[-1]] for c in columns]).T
        self._bins = [c.bins for c in columns]
        self._unit = np.array([TAIL_STEPS / c.scale for c in columns])
        for i, (ruler, found) in enumerate(zip(self._rulers, cells, strict=True)):
            self._edges[i, : len(found)] = columns[i].edges
            below = np.repeat(np.arange(len(found) + 1), np.diff(found, prepend=-1, append=last))
            self._starts[i] = below + i * self._stride
            table = self._tables[i]
            table[:] = below + i * width
            low, high = ruler.cell(self._bounds[:, i])
            table[found] = table[: max(found[0], low) + 1] = table[min(found[-1], high) :] = self._unsure
            table[0] = (i + 1) * width + MISSING

    def count(self, values: Sequence[NDArray[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of one array [n] a column: counts [columns, width], how far values lie below and above the training range
        in scale/1024 [columns, 2], and how many are out of the plausible range [columns]."""
        columns, n = len(self._rulers), len(values[0])
        made = _Counted(
            np.zeros(self._unsure + 1, np.int64), np.zeros((columns, 2), np.int64), np.zeros(columns, np.int64)
        )
        rows = max(1, min(n, max(_ROWS, BLOCK // columns)))
        wide = BLOCK // rows
        with np.errstate(over="ignore", invalid="ignore"):
            for a in range(0, columns, wide):
                for start in range(0, n, rows):
                    self._look_up([v[start : start + rows] for v in values[a : a + wide]], a, made)
            self._compare(made)
        return made.slots[:-1].reshape(columns, self._width), made.excess, made.outside

    def _look_up(self, block: list[NDArray[Any]], a: int, made: _Counted) -> None:
        """Count the columns from `a` on by their tables, and put by what the tables do not know."""
        shape = len(block), len(block[0])
        x, place, whole, cell = _room(shape)
        np.concatenate(block, out=x.reshape(-1), casting="unsafe")
        np.subtract(x, self._centre[a : a + shape[0]], out=place, casting="same_kind")
        for i in self._bent:
            if a <= i < a + shape[0]:
                place[i - a] = self._rulers[i].gap(x[i - a])
        place *= self._scale[a : a + shape[0]]
        np.clip(place, 1.0, self._last, out=place)
        np.copyto(whole, place, casting="unsafe")  # what is missing becomes 0 or the least of all numbers
        np.copyto(cell, whole)
        slot = np.empty(shape, self._tables.dtype)
        for table, of, to in zip(self._tables[a:], cell, slot, strict=False):
            table.take(of, mode="clip", out=to)
        found = np.bincount(slot.ravel())
        made.slots[: len(found)] += found
        if len(found) <= self._unsure:
            return
        unsure = np.flatnonzero(slot == self._unsure)
        many = np.flatnonzero(np.bincount(unsure // shape[1]) > _MANY * shape[1])
        for i in many.tolist():
            self._count_far(a + i, x[i], slot[i], cell[i].view(np.float64), made)
        if len(many):
            unsure = np.flatnonzero(slot == self._unsure)
        made.left.append((unsure // shape[1] + a, x.take(unsure), place.take(unsure)))
        if sum(len(values) for _, values, _ in made.left) > BLOCK:
            self._compare(made)

    def _count_far(
        self, i: int, x: NDArray[np.float64], slot: NDArray[Any], room: NDArray[np.float64], made: _Counted
    ) -> None:
        """Of column `i`: count what lies beyond its edges, where that is much, and mark it as known in `slot`."""
        low, high = self._bounds[:, i]
        for side, last in ((0, 0), (1, self._bins[i] - 1)):
            gap = np.subtract(x, self._ends[side, i], out=room)
            if not side:
                np.negative(gap, out=gap)
            far = gap > 0.0
            n = np.count_nonzero(far)
            if n <= _MANY * len(x):
                continue
            gap *= self._unit[i]
            np.clip(gap, 0.0, TAIL_LIMIT, out=gap)
            np.rint(gap, out=gap)
            total = gap.sum()  # of whole numbers, and below 2^53: exact
            made.excess[i, side] += int(total if total >= 0 else np.nansum(gap))
            made.slots[i * self._width + last] += n
            if self._bounded:
                made.outside[i] += np.count_nonzero(far & ((x < low) | (x > high)))
            slot *= ~far

    def _compare(self, made: _Counted) -> None:
        """Count what was put by."""
        parts = [np.concatenate(part) for part in zip(*made.left, strict=True)]
        made.left.clear()
        for i in range(0, len(parts[0]) if parts else 0, _AT_ONCE):
            self._compare_few(made, *(part[i : i + _AT_ONCE] for part in parts))

    def _compare_few(
        self, made: _Counted, column: NDArray[np.intp], x: NDArray[np.float64], place: NDArray[np.float32]
    ) -> None:
        """Of `x` [n] in `column` [n], which lie in the cells `place` [n]."""
        found = self._starts.take(place.astype(np.intp) + column * (self._last + 1)).astype(np.intp)
        edges = self._edges.ravel()
        for step in self._steps:
            found += step * (x >= edges.take(found + (step - 1)))
        found -= column * (self._stride - self._width)
        made.slots += np.bincount(found, minlength=len(made.slots))
        below, above = self._ends[0].take(column) - x, x - self._ends[1].take(column)
        beyond = np.fmax(below, above)
        which = np.flatnonzero(beyond > 0.0)
        side = column[which] * 2 + (above[which] > 0.0)
        steps = np.fmin(np.rint(beyond[which] * self._unit[column[which]]), TAIL_LIMIT)
        excess = np.bincount(side, steps, made.excess.size)  # of whole numbers, and below 2^53: exact
        made.excess += excess.astype(np.int64).reshape(-1, 2)
        if self._bounded:
            out = (x < self._bounds[0].take(column)) | (x > self._bounds[1].take(column))
            made.outside += np.bincount(column[out], minlength=len(made.outside))


@dataclass(slots=True)
class _Counted:
    """What a Stack has found so far, and what it has yet to compare: columns, values, places."""

    slots: NDArray[np.int64]
    excess: NDArray[np.int64]
    outside: NDArray[np.int64]
    left: list[tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float32]]] = field(default_factory=list)


class _Room(threading.local):
    """Arrays that are written again and again: new memory for each block would cost more than the arithmetic."""

    def __init__(self) -> None:
        self.arrays = [np.empty(BLOCK, kind) for kind in (np.float64, np.float32, np.int32, np.intp)]


_ROOM = _Room()


def _room(shape: tuple[int, int]) -> list[NDArray[Any]]:
    return [a[: shape[0] * shape[1]].reshape(shape) for a in _ROOM.arrays]


@lru_cache(maxsize=16)
def stack(columns: tuple[Column, ...], width: int) -> Stack:
    """Made once for the same columns: 3 MB for 100 of them with 64 bins."""
    return Stack(columns, width)


@dataclass(frozen=True, slots=True)
class _Ruler:
    """Where values lie: the cell is the whole part of `bend(x - centre) * scale`, from 1 to `last`; the outer two are
    open, and 0 is for none. With `fine` the cells widen from the centre on, for heavy tails.

    Multiplied in float32, which is twice as fast and keeps order as well: values are compared as they are."""

    last: int
    centre: float = 0.0
    scale: float = 1.0
    fine: float = 0.0
    low: float = 0.0

    def bend(self, gap: NDArray[np.float64]) -> NDArray[np.float64]:
        """About the logarithm of 1 + |gap| * fine, with the sign of the gap: the bits of a float, as a number."""
        if not self.fine:
            return gap
        size = np.abs(gap)
        size *= self.fine
        size += 1.0
        found = (size.view(np.int64) - _ONE).astype(np.float64)
        np.copysign(found, gap, out=found)
        found -= self.low
        np.copyto(found, np.nan, where=np.isnan(gap))
        return found

    def gap(self, x: NDArray[np.float64]) -> NDArray[np.float32]:
        return self.bend(x - self.centre).astype(np.float32)

    def place(self, x: NDArray[np.float64]) -> NDArray[np.float32]:
        return self.gap(x) * np.float32(self.scale)

    def cell(self, x: NDArray[np.float64]) -> NDArray[np.intp]:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.clip(self.place(x), 1.0, self.last).astype(np.intp)


_ONE = np.float64(1.0).view(np.int64)
_CELLS = 64
"""For each bin, at least."""

_ENOUGH = 0.05
"""A ruler that leaves fewer values to be compared is taken at once."""


def _ruler(edges: NDArray[np.float64], last: int) -> _Ruler:
    """The ruler that leaves the fewest values to be compared: even cells, or else such as widen."""
    best, least = _Ruler(last), 1.0
    for made in (_even, _both_ways, _upwards):
        for trim in (1, 0, 2):
            core = edges[trim : len(edges) - trim]
            if len(core) > 1:
                with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                    ruler = made(core, last)
                    share = _left(ruler, edges)
                if share < least:
                    best, least = ruler, share
                if least < _ENOUGH:
                    return best
    return best


def _even(core: NDArray[np.float64], last: int) -> _Ruler:
    scale = (last - 3) / (core[-1] - core[0])
    low = core[0] - 2 / scale
    return _Ruler(last, float(low), float(scale)) if np.isfinite(low) and 0 < scale < np.inf else _Ruler(last)


def _both_ways(core: NDArray[np.float64], last: int) -> _Ruler:
    return _widening(core, last, float(core[len(core) // 2]))


def _upwards(core: NDArray[np.float64], last: int) -> _Ruler:
    return _widening(core, last, float(core[0]))


def _widening(core: NDArray[np.float64], last: int, centre: float) -> _Ruler:
    fine = 1 / max(float(np.quantile(np.diff(core), 0.1)), 1e-300)
    low, high = _Ruler(last, centre, 1.0, fine).bend(core[[0, -1]] - centre).tolist()
    scale = (last - 3) / max(high - low, 1.0)
    return _Ruler(last, centre, scale, fine, low - 2 / scale)


def _left(ruler: _Ruler, edges: NDArray[np.float64]) -> float:
    """The share of values in cells with an edge or open, about: each bin has as many, but the guards."""
    place = np.nan_to_num(ruler.place(edges))
    share = np.clip(np.arange(len(edges)) - 1.0, 0.0, len(edges) - 3.0) / max(len(edges) - 3, 1)
    cells = np.unique(ruler.cell(edges))
    cells = cells[(cells > 1) & (cells < ruler.last)]
    inner = np.interp(cells + 1.0, place, share) - np.interp(cells, place, share)
    return float(inner.sum() + np.interp(2.0, place, share) + 1.0 - np.interp(ruler.last, place, share))


def _halves(most: int) -> tuple[int, ...]:
    """The steps that find one of up to `most` edges."""
    return tuple(1 << b for b in reversed(range(most.bit_length())))


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
