"""All distances of some counts from others made with the same reference, column by column."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift import distances
from drift.bins import EXTRA, TAIL_STEPS
from drift.reference import GROUPS, Reference

NAMES = ("psi", "js", "ks", "wasserstein", "hellinger", "tv")


def compare(
    now: NDArray[Any], groups: NDArray[np.float32], then: Usual, reference: Reference
) -> dict[str, NDArray[np.float32]]:
    """Distances [n, columns] by name, of counts [n, columns, width], also `by_group`; single precision, for the eye.

    KS and Wasserstein (in units of the column's scale) are on all bins, of the values that are there, NaN for
    categories. The others, which noise inflates with every bin, are on at most 16 groups of bins.
    """
    fixed = _fixed(reference)
    steps = now[:, :, :-EXTRA].astype(np.float32)
    np.cumsum(steps, axis=2, out=steps)
    a, b = distances.shares(groups), then.share
    with np.errstate(invalid="ignore", divide="ignore"):
        steps *= (1 / steps[:, :, -1])[:, :, None]
        steps -= then.below
        np.abs(steps, out=steps)
        made = {
            "psi": distances.psi_of(a, b),
            "js": distances.js_of(a, b),
            "ks": np.where(fixed.number, steps.max(axis=2), np.nan),
            "wasserstein": np.where(fixed.number, np.einsum("ncb,cb->nc", steps, fixed.lengths), np.nan),
            "hellinger": distances.hellinger_of(a, b),
            "tv": distances.tv_of(a, b),
        }
    return {name: np.asarray(made[name], np.float32) for name in NAMES}


@dataclass(frozen=True, eq=False)
class Usual:
    """What counts are held against: the `share` [n, C, GROUPS] of each group, and `below` [n, C, bins] the
    distribution function at the bins' upper ends."""

    share: distances.Floats
    below: NDArray[np.float32]

    @classmethod
    def of(cls, counts: NDArray[Any], reference: Reference) -> Usual:
        below = np.cumsum(counts[:, :, :-EXTRA], axis=2, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            below /= below[:, :, -1:]
        return cls(distances.shares(by_group(counts, reference)), below.astype(np.float32))

    def take(self, index: NDArray[np.intp]) -> Usual:
        if (np.diff(index) == 1).all():
            return Usual(self.share[index[0] : index[-1] + 1], self.below[index[0] : index[-1] + 1])
        return Usual(self.share[index], self.below[index])


@lru_cache(maxsize=4)
def usual(reference: Reference) -> Usual:
    """What each site's counts are held against, by the reference's sites, and last that of all together."""
    counts = (
        *(reference.counts[i : i + _AT_ONCE] for i in range(0, len(reference.counts), _AT_ONCE)),
        reference.pooled[None],
    )
    parts = [Usual.of(c, reference) for c in counts]
    return Usual(np.concatenate([p.share for p in parts]), np.concatenate([p.below for p in parts]))


_AT_ONCE = 16


def by_group(counts: NDArray[Any], reference: Reference) -> NDArray[np.float32]:
    """Counts [n, C, width] by group, [n, C, GROUPS]."""
    return _grouped(counts.astype(np.float32), _fixed(reference))


def _grouped(counts: NDArray[np.float32], fixed: _Fixed) -> NDArray[np.float32]:
    return np.ascontiguousarray(np.matmul(counts.transpose(1, 0, 2), fixed.one_hot).transpose(1, 0, 2))


@dataclass(frozen=True, eq=False)
class _Fixed:
    """Of a reference: groups one-hot [C, width, GROUPS], from each bin's place to the next [C, bins] (the last is 0),
    and which columns are numbers [C]."""

    one_hot: NDArray[np.float32]
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
        np.diff(places, append=places[:, -1:]).astype(np.float32),
        np.array([c.kind == "number" for c in reference.columns]),
    )


def bin_places(edges: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the mass of each bin is taken to lie, [len(means)]: its mean in the reference, else its middle or edge."""
    low, high = np.concatenate((edges[:1], edges)), np.concatenate((edges, edges[-1:]))
    placed = np.full(len(means), high[-1])
    placed[: len(low)] = (low + high) / 2
    return np.asarray(np.maximum.accumulate(np.where(np.isnan(means), placed, means)))


def tail_excess(tails: NDArray[np.int64], scale: float) -> NDArray[Any]:
    """How far, in all, values lay below and above the training range, in the column's own unit, from `Sketch.tails`."""
    return np.asarray(tails * (scale / TAIL_STEPS))
