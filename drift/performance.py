"""How well a model does: from labels that arrive late, twice or never, and, before they arrive, from its own scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drift import binary
from drift.telemetry import Labels, Rows, Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from drift.reference import Reference

_KIND = b"DLP1"
FIXED = 1 << 20
"""Sums are whole multiples of 1/2^20 (of the label's unit, for a regression), so that they add exactly."""

_FAR = 1 << 20
_GOLDEN, _PRIME, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(0x9FB21C651E98DF25), np.uint64(32)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What is known of labelled predictions, by score bin; `a + b` is exact and its order does not matter.

    `counts` is int64 [bins, 2]: labels 0 and 1 (for a regression all are in the first). `sums` are fixed-point: for a
    binary task (log loss, 0, 0, 0), for a regression (label, error, absolute error, squared error), the errors in
    units of the reference. `conflicts` counts labels that contradicted an earlier one; the earlier one was kept.
    """

    counts: NDArray[np.int64]
    sums: tuple[int, int, int, int] = (0, 0, 0, 0)
    conflicts: int = 0

    @classmethod
    def empty(cls, bins: int) -> Outcomes:
        return cls(np.zeros((bins, 2), np.int64))

    @cached_property
    def labels(self) -> int:
        return int(self.counts.sum())

    def __add__(self, other: Outcomes) -> Outcomes:
        if self.counts.shape != other.counts.shape:
            raise ValueError(f"outcomes in {len(self.counts)} and in {len(other.counts)} score bins cannot be added")
        a, b = self.sums, other.sums
        sums = (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3])
        return Outcomes(self.counts + other.counts, sums, self.conflicts + other.conflicts)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Outcomes)
            and np.array_equal(self.counts, other.counts)
            and (self.sums, self.conflicts) == (other.sums, other.conflicts)
        )

    __hash__ = None  # type: ignore[assignment]


def count(
    score: NDArray[np.float64], slot: NDArray[np.intp], label: NDArray[np.float64], bins: int, task: Task, unit: float
) -> Outcomes:
    """The outcomes of labelled rows that have a score. For a binary task a label above 0.5 is the positive class."""
    scored = np.isfinite(score)
    score, slot, label = score[scored], slot[scored], label[scored]
    if task == "binary":
        positive = label > 0.5
        counts = np.bincount(slot * 2 + positive, minlength=bins * 2).reshape(bins, 2).astype(np.int64)
        p = np.clip(np.where(positive, score, 1.0 - score), 1e-15, 1.0)
        return Outcomes(counts, (_fixed(-np.log(p)), 0, 0, 0))
    counts = np.zeros((bins, 2), np.int64)
    counts[:, 0] = np.bincount(slot, minlength=bins)
    error = np.clip((score - label) / unit, -_FAR, _FAR)
    value = np.clip(label / unit, -_FAR, _FAR)
    return Outcomes(counts, (_fixed(value), _fixed(error), _fixed(np.abs(error)), _fixed(error * error)))


def _fixed(values: NDArray[np.float64]) -> int:
    """The exact sum of the values, each rounded to 1/2^20; a value is at most 2^40."""
    steps = np.rint(values * FIXED).astype(np.int64)
    return (int((steps >> 32).sum()) << 32) + int((steps & 0xFFFFFFFF).sum())


def hashes(ids: Iterable[str]) -> NDArray[np.uint64]:
    """64 bits of each id, the same on every machine: its UTF-8 bytes, eight at a time, multiplied and shifted, then
    SplitMix64's finaliser (Steele, Lea and Flood 2014). Who wants two ids to collide can make them; they are then
    their own site's.

    >>> hashes(["a", "b", "a"]).tolist() == hashes(["a", "b", "a much longer id"]).tolist()
    False
    >>> bool(hashes(["a"])[0] == hashes(["a", "a much longer id"])[0])
    True
    """
    ids = list(ids)
    raw = "\0".join(ids).encode("utf-8", "surrogatepass").split(b"\0")
    if len(raw) != len(ids):  # one holds a NUL, or there are none
        raw = [i.encode("utf-8", "surrogatepass") for i in ids]
    length = np.fromiter(map(len, raw), np.uint64, len(raw))
    most, short = -(-int(length.max(initial=0)) // 8), int(length.min()) if raw else 0
    words = np.array(raw, f"S{8 * most or 8}").view("<u8").reshape(len(raw), most or 1)
    found = length + _GOLDEN
    for i in range(most):
        more = (found ^ words[:, i]) * _PRIME
        more ^= more >> _HALF
        found = more if short > 8 * i else np.where(length > 8 * i, more, found)
    return _mixed(found)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of one or more batches, waiting for labels: `ids` uint64 hashes, `at` int64 UTC seconds, `score`
    float32, `slot` the score's bin, `label` float64, NaN until known; all [n], in the order of `ids`.

    `seconds` is the length of a period; `bins`, `task` and `unit` are the reference's.
    """

    ids: NDArray[np.uint64]
    at: NDArray[np.int64]
    score: NDArray[np.float32]
    slot: NDArray[np.int64]
    label: NDArray[np.float64]
    seconds: int
    bins: int
    task: Task = "binary"
    unit: float = 1.0

    @classmethod
    def of(cls, rows: Rows, reference: Reference, seconds: int) -> Predictions:
        ids = hashes(rows.ids)
        ids, first = np.unique(ids, return_index=True)
        slot = reference.columns[-1].slots(rows.score, reference.width)[first].astype(np.int64)
        return cls(
            ids,
            rows.at[first].astype(np.int64),
            rows.score[first].astype(np.float32),
            slot,
            np.full(len(ids), np.nan),
            seconds,
            reference.width,
            reference.schema.task,
            reference.unit,
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def settled(self) -> bool:
        """Whether every label is known."""
        return not np.isnan(self.label).any()

    def settle(
        self, labels: Labels, hashed: NDArray[np.uint64] | None = None
    ) -> tuple[Predictions, dict[int, Outcomes], NDArray[np.bool_]]:
        """The record with what is now known, the outcomes to add by period start, and which labels [len(labels)]
        belong to this record. A label told twice counts once; one that contradicts the first counts as a conflict.

        `hashed` are the hashes of the labels' ids, where they are known already."""
        wanted = hashes(labels.ids) if hashed is None else hashed
        place = np.minimum(np.searchsorted(self.ids, wanted), max(len(self.ids) - 1, 0))
        matched = self.ids[place] == wanted if len(self.ids) else np.zeros(len(wanted), np.bool_)
        matched &= np.isfinite(labels.label)
        if not matched.any():
            return self, {}, matched
        known = self.label.copy()
        index, value = place[matched], labels.label[matched]
        fresh, first = np.unique(index, return_index=True)
        new = np.isnan(known[fresh])
        fresh, first = fresh[new], first[new]
        known[fresh] = value[first]
        clash = known[index] != value
        after = Predictions(
            self.ids, self.at, self.score, self.slot, known, self.seconds, self.bins, self.task, self.unit
        )
        return after, self._outcomes(known, fresh, index[clash]), matched

    def _outcomes(
        self, label: NDArray[np.float64], fresh: NDArray[np.intp], clash: NDArray[np.intp]
    ) -> dict[int, Outcomes]:
        period = self.at - self.at % self.seconds
        made = {}
        for start in np.unique(period[np.concatenate((fresh, clash))]).tolist():
            rows = fresh[period[fresh] == start]
            score = self.score[rows].astype(np.float64)
            found = count(score, self.slot[rows].astype(np.intp), label[rows], self.bins, self.task, self.unit)
            made[start] = Outcomes(found.counts, found.sums, int((period[clash] == start).sum()))
        return made

    def joined(self, other: Predictions) -> Predictions:
        """Both, of one reference; what both have is as it is here."""
        ids, first = np.unique(np.concatenate((self.ids, other.ids)), return_index=True)

        def both(one: NDArray[Any], two: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate((one, two))[first]

        return Predictions(
            ids,
            both(self.at, other.at),
            both(self.score, other.score),
            both(self.slot, other.slot),
            both(self.label, other.label),
            self.seconds,
            self.bins,
            self.task,
            self.unit,
        )

    def to_bytes(self) -> bytes:
        start = int(self.at.min()) if len(self) else 0
        header = {
            "seconds": self.seconds,
            "bins": self.bins,
            "task": self.task,
            "unit": self.unit,
            "start": start,
            "end": int(self.at.max()) if len(self) else 0,
        }
        parts = (self.ids, self.at - start, self.score, self.slot, self.label)
        return binary.pack(_KIND, header, parts, level=0)  # hashes and scores hardly shrink

    @staticmethod
    def span(data: bytes) -> tuple[int, int] | None:
        """The first and the last time of a record, UTC seconds, without the rest of it; None where an earlier version
        wrote it, or it is none."""
        header = binary.header(_KIND, data)
        first, last = header.get("start"), header.get("end")
        return (first, last) if isinstance(first, int) and isinstance(last, int) else None

    @classmethod
    def from_bytes(cls, data: bytes) -> Predictions:
        """Raises ValueError where the bytes are not such a record."""
        header, arrays = binary.unpack(_KIND, data)
        try:
            ids, at, score, slot, label = arrays
            if any(a.shape != ids.shape or a.ndim != 1 for a in arrays):
                raise ValueError("columns of different lengths")
            return cls(
                ids.astype(np.uint64),
                at + int(header["start"]),
                score.astype(np.float32),
                slot,
                label.astype(np.float64),
                int(header["seconds"]),
                int(header["bins"]),
                header["task"],
                float(header["unit"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"damaged DLP record: {error}") from error


def auc(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Area under the ROC curve from counts [..., bins, 2] in ascending score bins; equal bins count one half.

    Range 0 to 1, NaN where a class is absent; on bins it lies at most half the share of tied pairs from the exact
    value. Source: the Mann-Whitney form, Hanley and McNeil (1982).

    >>> float(auc(np.array([[8, 2], [2, 8]])))
    0.8
    """
    negative, positive = (counts[..., i].astype(np.float64) for i in (0, 1))
    below = np.cumsum(negative, axis=-1) - negative / 2
    pairs = negative.sum(axis=-1) * positive.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(pairs > 0, (positive * below).sum(axis=-1) / pairs, np.nan))


def log_loss(outcomes: Outcomes) -> float:
    """Mean negative log-likelihood in nats (exact to 1/2^20), NaN without labels. Range 0 to 34.6."""
    n = outcomes.labels
    return outcomes.sums[0] / FIXED / n if n else float("nan")


def rmse(outcomes: Outcomes, unit: float) -> float:
    """Root of the mean squared error, in the label's own unit; NaN without labels."""
    n = outcomes.labels
    return float(np.sqrt(outcomes.sums[3] / FIXED / n) * unit) if n else float("nan")


def mae(outcomes: Outcomes, unit: float) -> float:
    """Mean absolute error, in the label's own unit; NaN without labels."""
    n = outcomes.labels
    return outcomes.sums[2] / FIXED / n * unit if n else float("nan")


def label_mean(outcomes: Outcomes, task: Task, unit: float) -> float:
    """Mean label (for a binary task the share of the positive class); NaN without labels."""
    n = outcomes.labels
    if not n:
        return float("nan")
    return float(outcomes.counts[:, 1].sum()) / n if task == "binary" else outcomes.sums[0] / FIXED / n * unit


def estimated_auc(scores: NDArray[Any], rate: NDArray[np.float64]) -> NDArray[np.float64]:
    """AUC to be expected without labels, from counts per score bin [..., bins] and the calibrated rate of positives
    per bin [bins]. Holds while P(label | score) holds: it sees covariate shift, never concept drift.

    Source: confidence-based performance estimation (CBPE; NannyML), here on bins.

    >>> round(float(estimated_auc(np.array([10, 10]), np.array([0.2, 0.8]))), 3)
    0.8
    """
    n = scores.astype(np.float64)
    return auc(np.stack((n * (1 - rate), n * rate), axis=-1))


def total(parts: Sequence[Outcomes], bins: int) -> Outcomes:
    """All of them added."""
    whole = Outcomes.empty(bins)
    for part in parts:
        whole = whole + part
    return whole
