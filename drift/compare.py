"""All distances of some counts from others made with the same reference, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift import distances
from drift.bins import EXTRA
from drift.reference import GROUPS, Reference

NAMES = ("psi", "psi_bias", "js", "ks", "ks_bound", "wasserstein", "chi2", "hellinger", "tv")


def measure(
    counts: Sequence[NDArray[np.int64]], ends: Sequence[int], known: NDArray[np.intp], reference: Reference
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    """(counts by group [n, columns, GROUPS], distances [sites, columns] by name) of the counts [columns, width] of n
    windows, in one pass. Those of one site follow each other: the i-th's end before `ends[i]`, and all of them
    together are held against row `known[i]` of `usual`."""
    groups = np.empty((len(counts), len(reference.columns), GROUPS), np.float32)
    values = {name: np.empty((len(ends), len(reference.columns)), np.float32) for name in NAMES}
    fixed, base, start = _fixed(reference), usual(reference), 0
    for i in range(0, len(ends), _AT_ONCE):
        sites = slice(i, i + _AT_ONCE)
        first, end = np.array([start, *ends[sites][:-1]]) - start, ends[sites][-1]
        now = np.array(counts[start:end], np.float32)
        grouped = groups[start:end] = _grouped(now, fixed)
        if len(first) < len(now):
            now, grouped = np.add.reduceat(now, first), np.add.reduceat(grouped, first)
        for name, found in _compare(now, grouped, base.take(known[sites]), fixed).items():
            values[name][sites] = found
        start = end
    return groups, values


def _compare(
    now: NDArray[np.float32], groups: NDArray[np.float32], then: Usual, fixed: _Fixed
) -> dict[str, NDArray[np.float32]]:
    """Distances [n, columns] by name, of counts [n, columns, width], also by group; single precision, for the eye.

    KS and Wasserstein (in units of the column's scale) are on all bins, of the values that are there, NaN for
    categories. The others, which noise inflates with every bin, are on at most 16 groups of bins. What binning costs
    comes with them: the KS of the values is at most `ks_bound` (between two edges a distribution function moves by no
    more than the largest bin), and of psi `psi_bias` is what chance alone adds.
    """
    below = np.matmul(now.reshape(-1, now.shape[2]), fixed.up_to).reshape(*now.shape[:2], -1)
    a, b = distances.shares(groups), then.share
    with np.errstate(invalid="ignore", divide="ignore"):
        below *= 1 / below[:, :, -1:]
        below -= then.below
        np.abs(below, out=below)
        ks, rows = _largest(below), groups.sum(axis=2)
        filled = np.count_nonzero(groups + b, axis=2)
        area = np.matmul(below.transpose(1, 0, 2), fixed.lengths[:, :, None])[:, :, 0].T
        return {
            "psi": distances.psi_of(a, b),
            "js": distances.js_of(a, b),
            "psi_bias": np.maximum(filled - 1, 0) * (1 / rows + 1 / then.rows),
            "ks": np.where(fixed.number, ks, np.float32(np.nan)),
            "ks_bound": np.where(fixed.number, np.minimum(ks + then.largest, 1), np.float32(np.nan)),
            "wasserstein": np.where(fixed.number, area, np.float32(np.nan)),
            "chi2": distances.chi2_of(a, b, rows, then.rows),
            "hellinger": distances.hellinger_of(a, b),
            "tv": distances.tv_of(a, b),
        }


def _largest(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The maximum over the last axis: by halves, as far as they are whole, several times faster than `max`."""
    while x.shape[-1] % 2 == 0:
        half = x.shape[-1] // 2
        x = np.maximum(x[..., :half], x[..., half:])
    return np.asarray(x.max(axis=-1))


@dataclass(frozen=True, eq=False)
class Usual:
    """What counts are held against: of `rows` [n, C] the `share` [n, C, GROUPS] in each group, `below` [n, C, bins] the
    distribution function at the bins' upper ends, and `largest` [n, C] the largest share of a bin."""

    rows: NDArray[np.float32]
    share: distances.Floats
    below: NDArray[np.float32]
    largest: NDArray[np.float32]

    @classmethod
    def of(cls, counts: NDArray[Any], reference: Reference) -> Usual:
        below = np.cumsum(counts[:, :, :-EXTRA], axis=2, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            below /= below[:, :, -1:]
        rows = counts.sum(axis=2).astype(np.float32)
        largest = np.diff(below, axis=2, prepend=0).max(axis=2).astype(np.float32)
        return cls(rows, distances.shares(by_group(counts, reference)), below.astype(np.float32), largest)

    def take(self, index: NDArray[np.intp]) -> Usual:
        which = slice(index[0], index[-1] + 1) if (np.diff(index) == 1).all() else index
        return Usual(self.rows[which], self.share[which], self.below[which], self.largest[which])


@lru_cache(maxsize=4)
def usual(reference: Reference) -> Usual:
    """What each site's counts are held against, by the reference's sites, and last that of all together."""
    counts = (
        *(reference.counts[i : i + _AT_ONCE] for i in range(0, len(reference.counts), _AT_ONCE)),
        reference.pooled[None],
    )
    parts = [Usual.of(c, reference) for c in counts]
    return Usual(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("rows", "share", "below", "largest")))


_AT_ONCE = 32


def by_group(counts: NDArray[Any], reference: Reference) -> NDArray[np.float32]:
    """Counts [n, C, width] by group, [n, C, GROUPS]."""
    return _grouped(counts.astype(np.float32), _fixed(reference))


def _grouped(counts: NDArray[np.float32], fixed: _Fixed) -> NDArray[np.float32]:
    return np.ascontiguousarray(np.matmul(counts.transpose(1, 0, 2), fixed.one_hot).transpose(1, 0, 2))


@dataclass(frozen=True, eq=False)
class _Fixed:
    """Of a reference: groups one-hot [C, width, GROUPS], what adds up the bins up to each [width, bins], from each
    bin's place to the next [C, bins] (the last is 0), and which columns are numbers [C]."""

    one_hot: NDArray[np.float32]
    up_to: NDArray[np.float32]
    lengths: NDArray[np.float32]
    number: NDArray[np.bool_]


@lru_cache(maxsize=8)
def _fixed(reference: Reference) -> _Fixed:
    places = np.zeros((len(reference.columns), reference.width - EXTRA))
    for i, column in enumerate(reference.columns):
        if column.kind == "number":
            places[i] = bin_places(column.edges, reference.means[i, :-EXTRA]) / column.scale
    return _Fixed(
        (reference.groupings[:, :, None] == np.arange(GROUPS)).astype(np.float32),
        np.triu(np.ones((reference.width, reference.width - EXTRA), np.float32)),
        np.diff(places, append=places[:, -1:]).astype(np.float32),
        np.array([c.kind == "number" for c in reference.columns]),
    )


def bin_places(edges: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the mass of each bin is taken to lie, [len(means)]: its mean in the reference, else its middle or edge."""
    low, high = np.concatenate((edges[:1], edges)), np.concatenate((edges, edges[-1:]))
    placed = np.full(len(means), high[-1])
    placed[: len(low)] = (low + high) / 2
    return np.asarray(np.maximum.accumulate(np.where(np.isnan(means), placed, means)))
