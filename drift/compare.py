"""All distances of some counts from others made with the same reference, column by column."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift import distances
from drift.bins import EXTRA, TAIL_STEPS
from drift.reference import GROUPS, Reference

NAMES = ("psi", "js", "ks", "wasserstein", "hellinger", "tv")


def compare(now: NDArray[np.int64], then: NDArray[np.int64], reference: Reference) -> dict[str, NDArray[np.float64]]:
    """Distances [n, columns] by name, of counts [n, columns, width].

    PSI is on at most 16 groups of bins, where it has little bias; KS and Wasserstein (in units of the column's scale)
    are of the values that are there, NaN for categories; the others are on all bins.
    """
    p, q = now.astype(np.float32), then.astype(np.float32)
    hot, places, number = _fixed(reference)
    groups = [np.matmul(x.transpose(1, 0, 2), hot).transpose(1, 0, 2) for x in (p, q)]
    values, usual = p[..., :-EXTRA], q[..., :-EXTRA]
    made = {
        "psi": distances.psi(groups[0], groups[1]),
        "js": distances.js(p, q),
        "ks": np.where(number, distances.ks(values, usual), np.nan),
        "wasserstein": np.where(number, distances.wasserstein(values, usual, places), np.nan),
        "hellinger": distances.hellinger(p, q),
        "tv": distances.tv(p, q),
    }
    return {name: np.asarray(x, np.float64) for name, x in made.items()}


@lru_cache(maxsize=8)
def _fixed(reference: Reference) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """(groups one-hot [C, width, GROUPS], where each bin's mass lies [C, bins], which columns are numbers [C])."""
    hot = (reference.groupings[:, :, None] == np.arange(GROUPS)).astype(np.float32)
    places = np.zeros((len(reference.columns), reference.width - EXTRA))
    for i, column in enumerate(reference.columns):
        if column.kind == "number":
            places[i] = bin_places(column.edges, reference.means[i, :-EXTRA]) / column.scale
    return hot, places.astype(np.float32), np.array([c.kind == "number" for c in reference.columns])


def bin_places(edges: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the mass of each bin is taken to lie, [len(means)]: its mean in the reference, else its middle or edge."""
    low, high = np.concatenate((edges[:1], edges)), np.concatenate((edges, edges[-1:]))
    placed = np.full(len(means), high[-1])
    placed[: len(low)] = (low + high) / 2
    return np.asarray(np.maximum.accumulate(np.where(np.isnan(means), placed, means)))


def tail_excess(tails: NDArray[np.int64], scale: float) -> NDArray[Any]:
    """How far, in all, values lay below and above the training range, in the column's own unit, from `Sketch.tails`."""
    return np.asarray(tails * (scale / TAIL_STEPS))
