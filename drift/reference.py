"""What a model was trained on, as counts: bins, each site's own shares, and its training time cut into windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift import binary, performance
from drift.bins import EXTRA, MISSING, OTHER, UNSEEN, Column, of_categories, of_numbers
from drift.performance import Outcomes
from drift.telemetry import Feature, Rows, Schema

_KIND = b"DLR1"
GROUPS = 16
"""Detectors look at few groups of bins: up to 14 of values, then strangers (other, unseen), then missing."""

_VALUE_GROUPS = GROUPS - 2
_CELLS = 4_000_000


@dataclass(frozen=True, eq=False)
class Calibration:
    """The reference rows cut by site and period, as production will be: n windows.

    `site` int64 [n] indexes the sites; `start` int64 [n] UTC seconds; `groups` int64 [n, columns, GROUPS];
    `outcomes` int64 [n, GROUPS, 2] labels by group of the score's bins; `sums` float64 [n, 4] as in Outcomes.
    """

    site: NDArray[np.int64]
    start: NDArray[np.int64]
    groups: NDArray[np.int64]
    outcomes: NDArray[np.int64]
    sums: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.site)


@dataclass(frozen=True, eq=False)
class Reference:
    """The profile of a model version. The last column is the score.

    `counts` int64 [sites, columns, width]: each site's reference rows; `means` float64 [columns, width] the mean value
    within a bin (NaN where empty); `outcomes` by site, where labels are known; `unit` is the label's standard
    deviation for a regression, else 1; `raw` are the bytes that `version` names.
    """

    schema: Schema
    columns: tuple[Column, ...]
    sites: tuple[str, ...]
    counts: NDArray[np.int64]
    means: NDArray[np.float64]
    outcomes: tuple[Outcomes, ...]
    seconds: int
    unit: float
    calibration: Calibration
    raw: bytes

    @classmethod
    def build(
        cls,
        schema: Schema,
        rows: Rows,
        labels: NDArray[np.float64] | None,
        sites: Sequence[str],
        *,
        held_out: NDArray[np.bool_] | None = None,
        bins: int = 64,
        window_seconds: int = 86400,
    ) -> Reference:
        """The reference of a model trained on `rows`, [n], each from `sites` [n], with `labels` [n] (NaN: unknown).

        A model looks better and surer on rows that it was fitted to. Where some rows were not, say which by
        `held_out` [n]: the score, and all that is expected of performance, are then taken from those alone.
        """
        if not len(rows):
            raise ValueError("a reference needs at least one row")
        names, site = _coded(sites)
        judged = np.ones(len(rows), np.bool_) if held_out is None or not held_out.any() else held_out.astype(np.bool_)
        columns = _columns(schema, rows, judged, bins)
        width = max(c.bins for c in columns) + EXTRA
        period = rows.at - rows.at % window_seconds
        first, span = int(period.min()), int(np.ptp(period)) + 1
        key, code = np.unique(site * span + period - first, return_inverse=True)
        window = np.stack((key // span, key % span + first), axis=1)
        counts = np.zeros((len(names), len(columns), width), np.int64)
        means = np.full((len(columns), width), np.nan)
        groups = np.zeros((len(window), len(columns), GROUPS), np.int64)
        slot = np.zeros(len(rows), np.intp)
        for i, column in enumerate(columns):
            values = _values(rows, column)
            slot = column.slots(values, width)
            seen = judged if column.name == "score" else np.ones(len(rows), np.bool_)
            flat = np.bincount((site * width + slot)[seen], minlength=len(names) * width)
            counts[:, i] = flat.reshape(len(names), width)
            group = grouping(column, counts[:, i].sum(axis=0))
            flat = np.bincount((code * GROUPS + group[slot])[seen], minlength=len(window) * GROUPS)
            groups[:, i] = flat.reshape(len(window), GROUPS)
            if column.kind == "number":
                means[i] = _means(np.asarray(values), slot, width)
        y = np.full(len(rows), np.nan) if labels is None else np.asarray(labels, np.float64)
        unit = _unit(schema, y)
        group = grouping(columns[-1], counts[:, -1].sum(axis=0))
        usable = judged & np.isfinite(y)

        def known(pick: NDArray[np.bool_], slots: NDArray[np.intp], n: int) -> Outcomes:
            return performance.count(rows.score[pick], slots[pick], y[pick], n, schema.task, unit)

        by_site = tuple(known(usable & (site == s), slot, width) for s in range(len(names)))
        by_window = _by_window(usable, code, len(window), rows, group[slot], y, schema, unit)
        keep = _thin(window[:, 0], len(columns))
        calibration = Calibration(
            window[keep, 0].astype(np.int64),
            window[keep, 1].astype(np.int64),
            groups[keep],
            np.array([by_window[k].counts for k in keep], np.int64).reshape(len(keep), GROUPS, 2),
            np.array([by_window[k].sums for k in keep], np.float64).reshape(len(keep), 4),
        )
        made = cls(schema, columns, names, counts, means, by_site, window_seconds, unit, calibration, b"")
        return cls.from_bytes(made._pack())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self.version == other.version

    def __hash__(self) -> int:
        return hash(self.version)

    @property
    def width(self) -> int:
        """Slots of a column: the most bins that one has, then other, unseen, missing."""
        return int(self.counts.shape[2])

    @cached_property
    def version(self) -> str:
        return sha256(self.raw).hexdigest()[:16]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    @cached_property
    def pooled(self) -> NDArray[np.int64]:
        """Counts of all sites together, [columns, width]."""
        return np.asarray(self.counts.sum(axis=0))

    @cached_property
    def groupings(self) -> NDArray[np.intp]:
        """The group of every slot, [columns, width]."""
        return np.array([grouping(c, n) for c, n in zip(self.columns, self.pooled, strict=True)])

    @cached_property
    def expected(self) -> Outcomes:
        """The outcomes of all sites together."""
        return performance.total(self.outcomes, self.width)

    @cached_property
    def rate(self) -> NDArray[np.float64]:
        """The calibration map of a binary task: expected share of positives per score slot, [width], smoothed towards
        its neighbours' mean where labels are few; NaN without labels."""
        counts = self.expected.counts.astype(np.float64)
        n = counts.sum(axis=1)
        if self.schema.task != "binary" or not n.sum():
            return np.full(self.width, np.nan)
        overall = counts[:, 1].sum() / n.sum()
        near = np.convolve(n, np.ones(5), "same"), np.convolve(counts[:, 1], np.ones(5), "same")
        prior = (near[1] + overall) / (near[0] + 1.0)
        return np.asarray((counts[:, 1] + 5.0 * prior) / (n + 5.0))

    def estimated(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        """What score counts [..., width] say of the model before labels come: the expected AUC; NaN where unknown."""
        if np.isnan(self.rate).all():
            return np.full(scores.shape[:-1], np.nan)
        return performance.estimated_auc(scores[..., :-EXTRA], self.rate[:-EXTRA])

    def to_bytes(self) -> bytes:
        return self.raw

    def _pack(self) -> bytes:
        header: dict[str, Any] = {
            "schema": {
                "version": self.schema.version,
                "task": self.schema.task,
                "features": [asdict(f) for f in self.schema.features],
            },
            "columns": [
                {
                    "name": c.name,
                    "kind": c.kind,
                    "edges": len(c.edges),
                    "scale": c.scale,
                    "low": c.low,
                    "high": c.high,
                    "categories": c.categories,
                    "known": None if c.known is None else sorted(c.known),
                }
                for c in self.columns
            ],
            "sites": self.sites,
            "seconds": self.seconds,
            "unit": self.unit,
            "outcomes": [[str(s) for s in o.sums] for o in self.outcomes],
        }
        c = self.calibration
        return binary.pack(
            _KIND,
            header,
            (
                np.concatenate([c.edges for c in self.columns]),
                self.counts,
                self.means,
                np.array([o.counts for o in self.outcomes], np.int64).reshape(-1, self.width, 2),
                c.site,
                c.start,
                c.groups,
                c.outcomes,
                c.sums,
            ),
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Reference:
        """Raises ValueError where the bytes are not a reference of this version."""
        header, arrays = binary.unpack(_KIND, data, limit=1 << 31)
        try:
            edges, counts, means, outcomes, site, start, groups, by_group, sums = arrays
            ends = np.cumsum([c["edges"] for c in header["columns"]])
            columns = tuple(
                Column(
                    c["name"],
                    c["kind"],
                    edges[end - c["edges"] : end],
                    c["scale"],
                    c["low"],
                    c["high"],
                    tuple(c["categories"]),
                    None if c["known"] is None else frozenset(c["known"]),
                )
                for c, end in zip(header["columns"], ends.tolist(), strict=True)
            )
            s = header["schema"]
            return cls(
                Schema(s["version"], tuple(Feature(**f) for f in s["features"]), s["task"]),
                columns,
                tuple(header["sites"]),
                counts,
                means,
                tuple(
                    Outcomes(n, (int(x[0]), int(x[1]), int(x[2]), int(x[3])))
                    for n, x in zip(outcomes, header["outcomes"], strict=True)
                ),
                int(header["seconds"]),
                float(header["unit"]),
                Calibration(site, start, groups, by_group, sums),
                data,
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"damaged DLR record: {error}") from error


def grouping(column: Column, counts: NDArray[np.int64]) -> NDArray[np.intp]:
    """The group of every slot of a column, [width], from its reference counts [width]: neighbouring bins of a number
    until they hold a fourteenth of the rows; the thirteen commonest categories and the rest."""
    width = len(counts)
    group = np.zeros(width, np.intp)
    if column.kind == "number":
        share = counts[: column.bins].astype(np.float64)
        middle = (np.cumsum(share) - share / 2) / max(float(share.sum()), 1.0)
        group[: column.bins] = np.minimum((middle * _VALUE_GROUPS).astype(np.intp), _VALUE_GROUPS - 1)
    else:
        group[: column.bins] = np.minimum(np.arange(column.bins), _VALUE_GROUPS - 1)
    group[width + OTHER] = group[width + UNSEEN] = _VALUE_GROUPS
    group[width + MISSING] = _VALUE_GROUPS + 1
    return group


def _coded(names: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The distinct names in their order, and the place of each among them, [n]."""
    distinct = tuple(sorted({str(name) for name in names}))
    place = {name: i for i, name in enumerate(distinct)}
    return distinct, np.fromiter((place[str(name)] for name in names), np.int64, len(names))


def _columns(schema: Schema, rows: Rows, judged: NDArray[np.bool_], bins: int) -> tuple[Column, ...]:
    made = []
    for f in schema.features:
        values = rows.columns[f.name]
        if f.kind == "category":
            made.append(of_categories(f.name, values, bins))
        else:
            made.append(of_numbers(f.name, np.asarray(values, np.float64), bins, f.low, f.high))
    return (*made, of_numbers("score", rows.score[judged], bins))


def _values(rows: Rows, column: Column) -> Any:
    return rows.score if column.name == "score" else rows.columns[column.name]


def _means(values: NDArray[np.float64], slot: NDArray[np.intp], width: int) -> NDArray[np.float64]:
    finite = np.isfinite(values)
    n = np.bincount(slot[finite], minlength=width)
    total = np.bincount(slot[finite], weights=values[finite], minlength=width)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n > 0, total / n, np.nan)


def _unit(schema: Schema, labels: NDArray[np.float64]) -> float:
    known = labels[np.isfinite(labels)]
    spread = float(known.std()) if schema.task == "regression" and len(known) else 1.0
    return spread if spread > 0 else 1.0


def _by_window(
    usable: NDArray[np.bool_],
    code: NDArray[np.intp],
    windows: int,
    rows: Rows,
    group: NDArray[np.intp],
    labels: NDArray[np.float64],
    schema: Schema,
    unit: float,
) -> list[Outcomes]:
    """The outcomes of each window, by group of the score's bins."""
    index = np.flatnonzero(usable)
    index = index[np.argsort(code[index], kind="stable")]
    ends = np.cumsum(np.bincount(code[index], minlength=windows))
    return [
        performance.count(rows.score[part], group[part], labels[part], GROUPS, schema.task, unit)
        for part in np.split(index, ends[:-1])
    ]


def _thin(site: NDArray[np.int64], columns: int) -> NDArray[np.intp]:
    """Which windows to keep: all, or those of evenly chosen sites where all would be too many."""
    every = -(-len(site) * columns * GROUPS // _CELLS)
    return np.flatnonzero(site % every == 0)
