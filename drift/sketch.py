"""Exact bin counts of columns: folded from rows in one pass, added in any order, small on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from drift import binary
from drift.bins import Column, stack
from drift.telemetry import Rows

_KIND = b"DLS1"


class Bins(Protocol):
    """What counting needs of a reference."""

    @property
    def version(self) -> str: ...
    @property
    def columns(self) -> Sequence[Column]: ...
    @property
    def width(self) -> int: ...


class OtherReference(ValueError):
    """Counts made against different references cannot be added or compared."""

    def __init__(self, ours: str, theirs: str) -> None:
        super().__init__(f"made against reference {theirs}, not {ours}")
        self.ours, self.theirs = ours, theirs


@dataclass(frozen=True, eq=False)
class Sketch:
    """Counts of some rows: `counts` int64 [columns, slots]; `tails` int64 [columns, 2], how far values lay below and
    above the training range, in scale/1024; `outside` int64 [columns], values out of the plausible range.

    `reference` is the version that the bins come from. `a + b` counts the rows of both; the order never matters.
    """

    reference: str
    counts: NDArray[np.int64]
    tails: NDArray[np.int64]
    outside: NDArray[np.int64]

    @classmethod
    def empty(cls, bins: Bins) -> Sketch:
        n = len(bins.columns)
        return cls(bins.version, *(np.zeros(s, np.int64) for s in ((n, bins.width), (n, 2), (n,))))

    @cached_property
    def rows(self) -> int:
        return int(self.counts[0].sum())

    def __add__(self, other: Sketch) -> Sketch:
        if other.reference != self.reference:
            raise OtherReference(self.reference, other.reference)
        return Sketch(
            self.reference, self.counts + other.counts, self.tails + other.tails, self.outside + other.outside
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sketch)
            and self.reference == other.reference
            and np.array_equal(self.counts, other.counts)
            and np.array_equal(self.tails, other.tails)
            and np.array_equal(self.outside, other.outside)
        )

    __hash__ = None  # type: ignore[assignment]

    def to_bytes(self) -> bytes:
        return binary.pack(_KIND, {"reference": self.reference}, (self.counts, self.tails, self.outside))

    @classmethod
    def from_bytes(cls, data: bytes, limit: int = 1 << 28) -> Sketch:
        """Raises ValueError where the bytes are not a sketch, or no counts could look like that."""
        header, arrays = binary.unpack(_KIND, data, limit=limit)
        return cls.checked(header.get("reference"), arrays)

    @classmethod
    def checked(cls, reference: object, arrays: Sequence[NDArray[np.int64]]) -> Sketch:
        """A sketch of arrays that came from elsewhere. Raises ValueError."""
        if not isinstance(reference, str) or len(arrays) != 3:
            raise ValueError("a sketch has a reference and three arrays")
        counts, tails, outside = arrays
        n = len(counts)
        if counts.ndim != 2 or n == 0 or tails.shape != (n, 2) or outside.shape != (n,):
            raise ValueError(f"a sketch's arrays do not fit: {counts.shape}, {tails.shape}, {outside.shape}")
        if any(a.dtype != np.int64 or (a < 0).any() or (a > 1 << 53).any() for a in arrays):
            raise ValueError("a sketch counts in whole numbers, from 0 to 2^53")
        rows = counts.sum(axis=1)
        if (rows != rows[0]).any() or (outside > rows).any():
            raise ValueError("the columns of a sketch count different rows")
        return cls(reference, counts, tails, outside)


def sketch(rows: Rows, bins: Bins) -> Sketch:
    """The counts of all rows: every column of `bins`, the last being the score."""
    n = len(bins.columns)
    counts, tails, outside = (np.zeros(s, np.int64) for s in ((n, bins.width), (n, 2), (n,)))
    values = [rows.score if c.name == "score" else rows.columns[c.name] for c in bins.columns]
    numbers = [i for i, c in enumerate(bins.columns) if c.kind == "number"]
    together = stack(tuple(bins.columns[i] for i in numbers), bins.width)
    counts[numbers], tails[numbers], outside[numbers] = together.count([values[i] for i in numbers])
    for i, column in enumerate(bins.columns):
        if column.kind == "category":
            counts[i], tails[i], outside[i] = column.count(values[i], bins.width)
    return Sketch(bins.version, counts, tails, outside)
