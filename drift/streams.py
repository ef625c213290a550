"""What is watched, as standard scores: of each site's window, against that site's own training time.

Every number here is a mean over rows (of a rank, a squared rank, membership of a group of bins, a label, a residual),
so that its variance is one part sampling, which falls with traffic, and one part change from day to day, which the
calibration windows show. A change of traffic alone therefore moves no score.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.compare import by_group
from drift.performance import FIXED, Outcomes
from drift.reference import GROUPS, Reference

F64 = NDArray[np.float64]

WEEK, DAY = 604_800, 86_400
_PER_PHASE = 4
_TRUST = 20.0
"""A site's own day-to-day variance counts as much as the fleet's once it rests on this many windows."""

_LEAST_MEMORY = 1.2
_VALUES = GROUPS - 2
LEAST_ROWS = 30.0
"""Fewer labels, or values that are there, than this in a window are no evidence."""


@dataclass(frozen=True)
class Layout:
    """Where things are for C columns. Scalars: location [C], spread [C], group shares [C * GROUPS], label, bias,
    discrimination. Streams: location [C], spread [C], shape [C], label, bias, discrimination."""

    columns: int

    @property
    def scalars(self) -> int:
        return self.columns * (2 + GROUPS) + 3

    @property
    def streams(self) -> int:
        return self.columns * 3 + 3

    @property
    def shapes(self) -> slice:
        """Where the streams of shapes are."""
        return slice(2 * self.columns, 3 * self.columns)

    @cached_property
    def kinds(self) -> NDArray[np.int64]:
        """Of each stream: 0 feature, 1 prediction, 2 label, 3 performance."""
        column = np.zeros(self.columns, np.int64)
        column[-1] = 1
        return np.concatenate((column, column, column, [2, 3, 3]))

    @cached_property
    def signed(self) -> NDArray[np.bool_]:
        """Streams that may move both ways; the others move upwards."""
        c = self.columns
        return np.concatenate((np.ones(2 * c, np.bool_), np.zeros(c, np.bool_), [True, True, False]))

    def column(self, stream: int) -> int:
        """The column of a stream, -1 for label and performance."""
        return stream % self.columns if stream < 3 * self.columns else -1

    def aspect(self, stream: int) -> str:
        """
        >>> Layout(2).aspect(3), Layout(2).aspect(8)
        ('spread', 'errors')
        """
        rest = ("labels", "bias", "errors")
        c = self.columns
        return ("location", "spread", "shape")[stream // c] if stream < 3 * c else rest[stream - 3 * c]


@dataclass(frozen=True, eq=False)
class Sums:
    """Of n windows and J scalars: the sum over rows, how many rows it is of, and the sum of squares; each [n, J].
    The sums of a union are the sums' sum."""

    total: F64
    count: F64
    square: F64


class Model:
    """What is ordinary for a reference: levels, seasons and variances of every scalar, by site.

    `days` is the number of calibration periods; `phases` how many places in the week (or day) have levels of their
    own, 1 where the calibration is too short to tell them apart.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.layout = Layout(len(reference.columns))
        self.index = {name: i for i, name in enumerate(reference.sites)}
        self.groups = np.concatenate(
            [by_group(reference.counts[i : i + 64], reference) for i in range(0, len(reference.counts), 64)]
        )
        pooled = self.groups.sum(axis=0)
        self._ranks = _rank_scores(reference, pooled)
        self._keep, self._left = _without_ranks(self._ranks, pooled)
        by_site = self.by_group(np.array([o.counts for o in reference.outcomes]))
        self._rate, self._slope = _calibration_map(by_site.sum(axis=0))
        cal = reference.calibration
        site, self._period = cal.site, cal.start // reference.seconds
        self.days = len(np.unique(self._period))
        self.days_of_evidence = len(np.unique(self._period[cal.groups[:, 0].sum(axis=1) >= LEAST_ROWS]))
        self.phases = _phases(self._period, reference.seconds)
        base = self.sums(self.groups, by_site, _sums(reference.outcomes))
        windows = self.sums(cal.groups.astype(np.float32), cal.outcomes.astype(np.float64), cal.sums)
        self._by_phase: dict[int, tuple[NDArray[np.float32], ...]] = {}
        self._fit(base, windows, site)

    def by_group(self, outcomes: NDArray[Any]) -> F64:
        """Outcomes [n, width, 2] by group of the score's bins, [n, GROUPS, 2]."""
        hot = (self.reference.groupings[-1][:, None] == np.arange(GROUPS)).astype(np.float64)
        return np.asarray(np.einsum("nwl,wg->ngl", outcomes.astype(np.float64), hot, optimize=True))

    def sums(self, groups: NDArray[np.float32], outcomes: F64, sums: F64) -> Sums:
        """The scalars of windows: from counts [n, C, GROUPS], outcomes [n, GROUPS, 2] and outcome sums [n, 4]."""
        n, c = len(groups), self.layout.columns
        values = groups[:, :, :_VALUES].transpose(1, 0, 2)
        first, second = (
            np.matmul(values, r.astype(np.float32)).transpose(1, 2, 0).reshape(n, 2 * c)
            for r in (self._ranks, self._ranks**2)
        )
        rows = groups @ np.ones(GROUPS, np.float32)
        present = rows - groups[:, :, _VALUES:].sum(axis=2)
        flat = groups.reshape(n, c * GROUPS)
        total, count, square = self._labels(outcomes, sums)
        return Sums(
            np.concatenate((first, flat, total), axis=1, dtype=np.float32, casting="unsafe"),
            np.concatenate(
                (present, present, np.repeat(rows, GROUPS, axis=1), count), axis=1, dtype=np.float32, casting="unsafe"
            ),
            np.concatenate((second, flat, square), axis=1, dtype=np.float32, casting="unsafe"),
        )

    def _labels(self, outcomes: F64, sums: F64) -> tuple[F64, F64, F64]:
        """(total, count, square) of label, bias and discrimination, each [n, 3]; upwards is worse in the last."""
        n = outcomes.sum(axis=(1, 2))
        if self.reference.schema.task == "regression":
            label, error, absolute, square = (sums / FIXED).T
            with np.errstate(invalid="ignore", divide="ignore"):
                about = np.where(n > 0, n + label**2 / n, 0.0)
            total, squares = (label, error, absolute), (about, square, square)
        else:
            negative, positive = outcomes[:, :, 0], outcomes[:, :, 1]
            r, s = self._rate, self._slope
            residual = positive - (negative + positive) * r
            squared = positive * (1 - r) ** 2 + negative * r**2
            total = (positive.sum(axis=1), residual.sum(axis=1), -(residual * s).sum(axis=1))
            squares = (positive.sum(axis=1), squared.sum(axis=1), (squared * s**2).sum(axis=1))
        return np.stack(total, axis=1), np.stack((n, n, n), axis=1), np.stack(squares, axis=1)

    def _fit(self, base: Sums, windows: Sums, site: NDArray[np.int64]) -> None:
        """Levels, seasons and day-to-day variances, each window held against the rest of its site's."""
        scalars = self.layout.scalars
        self.rows = np.maximum(base.count, 1.0)
        self.level = base.total / self.rows
        self.spread = self._row_variance(base)
        crowd = np.zeros_like(base.count)
        np.add.at(crowd, site, windows.count**2)
        self.span = np.where(crowd > 0, base.count**2 / np.maximum(crowd, 1.0), 0.0)
        rest = base.count[site] - windows.count
        usable = (windows.count >= LEAST_ROWS) & (rest >= LEAST_ROWS) & (self.span[site] > 1.5)
        n, rest = np.maximum(windows.count, 1.0), np.maximum(rest, 1.0)
        gap = np.where(usable, windows.total / n - (base.total[site] - windows.total) / rest, np.nan)
        noise = self.spread[site] * (1 / n + 1 / rest) + self._grain(n)
        self.season = np.zeros((len(base.total), self.phases, scalars))
        if self.phases > 1:
            gap -= self._fit_season(gap, site, self._period % self.phases)
        self._project(gap)
        excess = np.nan_to_num(gap**2 - noise)
        fleet = np.maximum(excess.sum(axis=0) / np.maximum(usable.sum(axis=0), 1), 0.0)
        own, times = np.zeros_like(base.total), np.zeros_like(base.total)
        np.add.at(own, site, excess)
        np.add.at(times, site, usable)
        self.daily = np.maximum((own + _TRUST * fleet) / (times + _TRUST), 0.1 * fleet)
        between = self.level.var(axis=0) if len(self.level) > 1 else 4.0 * fleet + self.spread.mean(axis=0) / 100
        self.strange = fleet + between
        self._center, self._width = np.zeros(self.layout.columns), np.ones(self.layout.columns)
        scores = gap / np.sqrt(np.maximum(noise + self.daily[site], 1e-12))
        if len(site):
            self._center, self._width = _moments(self._shape(scores))
        self.ordinary, self.ordinary_period, self.ordinary_site = self._streams(scores), self._period, site
        ranked = np.abs(self._ranks).max(axis=1) > 0
        enough = ~np.isnan(self.ordinary[:, -3:]).all(axis=0) if len(site) else np.zeros(3, np.bool_)
        self.active = np.concatenate((ranked[:, 0], ranked[:, 1], np.ones(self.layout.columns, np.bool_), enough))

    def _row_variance(self, base: Sums) -> F64:
        """The variance of one row, [sites, J]; never 0, and for a share that was never seen that of half a row."""
        count = np.maximum(base.count, 1.0)
        variance = np.maximum(base.square / count - self.level**2, 0.0)
        c = self.layout.columns
        share = (base.total[:, 2 * c : -3] + 0.5) / (count[:, 2 * c : -3] + 1.0)
        variance[:, 2 * c : -3] = share * np.maximum(1 - share * self._left, 0.1)
        return np.maximum(variance, 1e-6)

    def _project(self, gap: NDArray[Any]) -> None:
        """Leave of the shares what location and spread do not say already, in place."""
        c = self.layout.columns
        shares = gap[:, 2 * c : -3].reshape(len(gap), c, GROUPS).transpose(1, 0, 2)
        left = np.matmul(shares, self._keep.astype(gap.dtype))
        gap[:, 2 * c : -3] = left.transpose(1, 0, 2).reshape(len(gap), c * GROUPS)

    def _grain(self, n: F64) -> F64:
        """A single row of a rare group is no evidence: shares carry one more row's worth of deviation."""
        grain = np.zeros_like(n)
        c = self.layout.columns
        grain[:, 2 * c : -3] = 1.0 / n[:, 2 * c : -3] ** 2
        return grain

    def _fit_season(self, gap: F64, site: NDArray[np.int64], phase: NDArray[np.int64]) -> F64:
        """Learn each site's level by place in the season, shrunk towards none; returns what the other windows of the
        same place say about each window."""
        cell = site * self.phases + phase
        shape = (len(self.level) * self.phases, gap.shape[1])
        total, count = np.zeros(shape), np.zeros(shape)
        np.add.at(total, cell, np.nan_to_num(gap))
        np.add.at(count, cell, ~np.isnan(gap))
        mean = total / np.maximum(count, 1)
        within = np.nansum((gap - mean[cell]) ** 2, axis=0) / np.maximum((count - (count > 0)).sum(axis=0), 1)
        many = np.maximum((count > 0).sum(axis=0), 1)
        across = (mean**2).sum(axis=0) / many - (within / np.maximum(count, 1) * (count > 0)).sum(axis=0) / many
        trust = np.maximum(within / np.maximum(across, 1e-3 * within + 1e-15), 1e-12)
        self.season = (total / (count + trust)).reshape(-1, self.phases, gap.shape[1])
        return np.asarray((total[cell] - np.nan_to_num(gap)) / (np.maximum(count[cell] - 1, 0) + trust))

    def scores(self, sums: Sums, sites: Sequence[str], period: int) -> tuple[F64, F64]:
        """Streams [n, streams] of one period's windows at the sites named, with mean 0 and variance 1 where all is as
        usual, NaN where there is no evidence; and how many such windows the levels rest on, [n, streams]: few where
        traffic is now much larger than in training, about 2 for a site that training did not know."""
        index = np.array([self.index.get(name, -1) for name in sites])
        level, spread, floor, doubt = (_rows(a, index) for a in self._ordinary(period % self.phases))
        c = self.layout.columns
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.float32(1) / np.asarray(sums.count, np.float32)
            gap = np.asarray(sums.total, np.float32) * share
            gap -= level
            self._project(gap)
            variance = spread * share
            variance += floor
            variance[:, 2 * c : -3] += share[:, 2 * c : -3] ** 2
            simple = np.concatenate((variance[:, : 2 * c], variance[:, -3:]), axis=1)
            memory = np.maximum(np.nan_to_num(simple / doubt, posinf=1e6), _LEAST_MEMORY)
            gap /= np.sqrt(variance, out=variance)
        gap[sums.count < LEAST_ROWS] = np.nan
        known = np.where(index >= 0, self.days, 2.0)[:, None]
        shape = np.minimum(memory[:, :c] ** 2, known)
        return self._streams(gap), np.concatenate((memory[:, : 2 * c], shape, memory[:, -3:]), axis=1)

    def _ordinary(self, phase: int) -> tuple[NDArray[np.float32], ...]:
        """(level, variance of a row, variance that no traffic lowers) [sites + 1, J], (variance of the level itself)
        without the shares; the last row is for sites that training did not know."""
        if phase not in self._by_phase:
            season = self.season[:, phase]
            rows = (
                (self.level + season, (self.level + season).mean(axis=0)),
                (self.spread, self.spread.mean(axis=0)),
                (np.maximum(self.spread / self.rows + self.daily, 1e-12), np.maximum(self.strange, 1e-12)),
            )
            doubt = self.spread / self.rows + self.daily / np.maximum(self.span, 2.0)
            c = self.layout.columns
            strange = np.maximum(self.strange / 2, 1e-12)
            whole = [np.concatenate((a, b[None])) for a, b in (*rows, (np.maximum(doubt, 1e-12), strange))]
            whole[3] = np.delete(whole[3], np.s_[2 * c : -3], axis=1)
            self._by_phase[phase] = tuple(a.astype(np.float32) for a in whole)
        return self._by_phase[phase]

    def _shape(self, scores: F64) -> F64:
        """How far all group shares of a column lie from ordinary, before it is standardised, [n, C]."""
        c = self.layout.columns
        shares = np.ascontiguousarray(scores[:, 2 * c : -3]).reshape(len(scores), c, GROUPS)
        return np.asarray(np.cbrt(np.einsum("ncg,ncg->nc", shares, shares)))

    def _streams(self, scores: F64) -> F64:
        c = self.layout.columns
        shape = (self._shape(scores) - self._center) / self._width
        return np.concatenate((scores[:, : 2 * c], shape, scores[:, -3:]), axis=1)


def _rows(a: NDArray[Any], index: NDArray[np.intp]) -> NDArray[Any]:
    """The rows of `a` by index, without a copy where they are its first ones."""
    return a[: len(index)] if np.array_equal(index, np.arange(len(index))) else a[index]


@lru_cache(maxsize=8)
def model(reference: Reference) -> Model:
    """The model of a reference, made once."""
    return Model(reference)


def _sums(outcomes: Sequence[Outcomes]) -> F64:
    return np.array([o.sums for o in outcomes], np.float64).reshape(len(outcomes), 4)


def _moments(raw: F64) -> tuple[F64, F64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        center, width = np.nanmean(raw, axis=0), np.nanstd(raw, axis=0)
    return np.nan_to_num(center), np.maximum(np.nan_to_num(width, nan=1.0), 0.05)


def _rank_scores(reference: Reference, pooled: NDArray[np.float32]) -> F64:
    """Location and spread scores of the groups of values, [C, groups, 2]: mean 0, variance 1 and uncorrelated on the
    reference; 0 for categories, and where there is nothing to vary."""
    made = np.zeros((len(reference.columns), _VALUES, 2))
    for i, column in enumerate(reference.columns):
        q = pooled[i, :_VALUES].astype(np.float64)
        if column.kind != "number" or np.count_nonzero(q) < 2:
            continue
        q /= q.sum()
        rank = np.cumsum(q) - q / 2
        first = _standard(rank, q)
        second = first**2 - 1 - first * float((q * first**3).sum())
        made[i, :, 0] = first
        if float((q * second**2).sum()) > 1e-9:
            made[i, :, 1] = _standard(second, q)
    return made


def _without_ranks(ranks: F64, pooled: NDArray[np.float32]) -> tuple[F64, F64]:
    """(what takes the ranks' part out of a row of shares [C, GROUPS, GROUPS], by how much that lowers the variance of
    each share: q (1 - q x) for the x here [C * GROUPS])."""
    c = len(ranks)
    q = pooled[:, :_VALUES] / np.maximum(pooled[:, :_VALUES].sum(axis=1, keepdims=True), 1)
    keep = np.tile(np.eye(GROUPS), (c, 1, 1))
    keep[:, :_VALUES, :_VALUES] -= np.einsum("cgk,chk,ch->cgh", ranks, ranks, q)
    left = np.ones((c, GROUPS))
    left[:, :_VALUES] += (ranks**2).sum(axis=2)
    return keep, left.reshape(-1)


def _standard(x: F64, q: F64) -> F64:
    centred = x - (q * x).sum()
    return np.asarray(centred / np.sqrt((q * centred**2).sum()))


def _calibration_map(outcomes: F64) -> tuple[F64, F64]:
    """(expected share of positives, standardised rank of the score) of each group, [GROUPS], from [GROUPS, 2]."""
    n = outcomes.sum(axis=1)
    if not n.sum():
        return np.full(GROUPS, 0.5), np.zeros(GROUPS)
    rate = (outcomes[:, 1] + outcomes[:, 1].sum() / n.sum()) / (n + 1)
    q = n / n.sum()
    rank = np.cumsum(q) - q / 2
    return rate, _standard(rank, q) if np.count_nonzero(q) > 1 else np.zeros(GROUPS)


def _phases(period: NDArray[np.int64], seconds: int) -> int:
    """How many places in the season the calibration can tell apart: those of a week, of a day, or one."""
    for cycle in (WEEK, DAY):
        places = cycle // seconds
        if places > 1 and cycle % seconds == 0:
            count = np.bincount(np.unique(period) % places, minlength=places)
            if count.min() >= _PER_PHASE:
                return int(places)
    return 1
