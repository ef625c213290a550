"""Evidence that adds up: e-detectors with a stated time between false alarms, averaged over a fleet as processes.

Each stream of standard scores gets Shiryaev-Roberts e-detectors (Shin, Ramdas and Rinaldo, "E-detectors", 2022):
R <- (R + 1) e, with e = exp(a z - a^2 / 2) for a few sizes a, upwards and downwards, and z the normal score of the
window's rank among the calibration windows. While nothing has changed E[R] grows by at most 1 a window, so their
weighted mean, whatever the dependence between streams, first reaches A after A windows or more on average.

A fixed, small calibration makes its ranks dependent: an error in a level is then there in every window. So the level
and the variance of every stream go on being learned (a change is learned too, but sixty windows outweigh a few), and
what the last window foretells of the next is taken out first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift import binary
from drift.reference import Reference
from drift.streams import Model, model
from drift.telemetry import LEAST_PERIODS

F64 = NDArray[np.float64]

_KIND = b"DLD1"
SIZES = np.array([0.7, 1.8, 4.0])
"""Changes, in standard deviations of a window, that the detectors are made for."""

SHARES = np.array([0.5, 0.15, 0.15, 0.2])
"""How the evidence of features, prediction, labels and performance is weighted, where all are watched."""

NAMING = 0.2
"""Expected share of streams that are named wrongly, at most (e-BH: Wang and Ramdas, 2022)."""

_STEP, _FLOOR = 8.0, -4.0
_LOG = np.concatenate(([-np.inf], _FLOOR + np.arange(255) / _STEP))
_VALUE = np.exp(_LOG).astype(np.float32)


def _code(nats: F64 | float) -> F64:
    """The code of a logarithm, as a float to be cut off: rounded to eighths of a nat; 0 below the floor."""
    return np.asarray((nats - _FLOOR) * _STEP + 1.5)


_AHEAD = _code(np.log1p(np.exp(_LOG))).astype(np.float32)
"""Of each code: that of the logarithm of (R + 1)."""
_CAP = 3.0
"""One site moves the fleet's mean by no more than this many of its standard deviations in one window."""

RECENT = 3
"""Where the fading mean is among a state's scores."""

ENDS = 0.5
"""An alarm lasts until the evidence is below so much of the limit."""

_BEYOND_ALARM = 1.0
"""One detector's logarithm goes no further than this beyond what would be an alarm by itself, so that it can end."""

_UNIT = 64.0
_FADE = 0.3
_PRIOR = 60.0
"""The calibrated variance of a stream counts as much as that many windows of its own."""

_CALM, _CALM_SQUARE = 2.5, 0.9598
"""Squares are capped at 2.5 standard deviations, where they have this mean, so that a change does not hide itself."""


@dataclass(frozen=True, eq=False)
class State:
    """What is remembered between checks. Row 0 is the fleet's mean, the others are `sites`; columns are streams.

    `evidence` uint8 [rows, streams, 6] codes the detectors (sizes upwards, then downwards) in eighths of a nat.
    `scores` int32 [5, rows, streams] are, in fixed point: how many scores there were, their sum and their sum of
    squares, which refine the level and variance that the calibration could only estimate; a fading mean; the last
    score. `last` int64 [rows] is the period of the last score. `windows` counts assessed periods, `until` is the end
    of the newest, `seen` by site the end of its newest window; `alarm` whether the last check was one.
    """

    reference: str
    sites: tuple[str, ...]
    evidence: NDArray[np.uint8]
    scores: NDArray[np.int32]
    last: NDArray[np.int64]
    windows: int = 0
    until: int = 0
    seen: tuple[int, ...] = ()
    alarm: bool = False

    @classmethod
    def new(cls, reference: Reference) -> State:
        n = model(reference).layout.streams
        evidence, scores = np.zeros((1, n, 6), np.uint8), np.zeros((5, 1, n), np.int32)
        return cls(reference.version, (), evidence, scores, np.zeros(1, np.int64))

    def joined(self, sites: Sequence[str]) -> State:
        """The same with rows for sites that are new."""
        fresh = tuple(sorted(set(sites) - set(self.sites)))
        if not fresh:
            return self

        def grow(a: NDArray[Any], axis: int = 0) -> NDArray[Any]:
            shape = (*a.shape[:axis], len(fresh), *a.shape[axis + 1 :])
            return np.concatenate((a, np.zeros(shape, a.dtype)), axis=axis)

        return replace(
            self,
            sites=self.sites + fresh,
            evidence=grow(self.evidence),
            scores=grow(self.scores, axis=1),
            last=grow(self.last),
            seen=self.seen + (0,) * len(fresh),
        )

    def to_bytes(self) -> bytes:
        header = {
            "reference": self.reference,
            "sites": self.sites,
            "windows": self.windows,
            "until": self.until,
            "seen": self.seen,
            "alarm": self.alarm,
        }
        return binary.pack(_KIND, header, (self.evidence, *self.scores, self.last), level=1)

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """Raises ValueError where the bytes are not a state of this version."""
        header, arrays = binary.unpack(_KIND, data)
        try:
            evidence, *scores, last = arrays
            shape = (len(header["sites"]) + 1, evidence.shape[1])
            if len(scores) != 5 or evidence.shape != (*shape, 6) or last.shape != shape[:1]:
                raise ValueError("rows that are not the sites'")
            return cls(
                header["reference"],
                tuple(header["sites"]),
                evidence.astype(np.uint8),
                np.stack(scores).astype(np.int32),
                last,
                header["windows"],
                header["until"],
                tuple(header["seen"]),
                header["alarm"],
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"damaged DLD record: {error}") from error


class Tail:
    """Standard scores to normal ones, by rank among calibration scores; beyond them by an exponential tail, which is
    heavier than the normal one that sums of rows have."""

    def __init__(self, scores: F64, days: int, two_sided: bool) -> None:
        x = np.sort(np.abs(scores) if two_sided else scores[scores > 0])
        n = len(scores)
        grid = np.arange(0.0, 40.0, 1 / _FINE)
        if len(x) < 20:
            x, n = np.abs(_QUANTILES), len(_QUANTILES)
        above = (len(x) - np.searchsorted(x, grid) + 1.0) / (n + 1.0)
        start = max(_BEYOND, 10.0 / n)
        place = int(np.argmax(above <= start))
        beyond = x[x > grid[place]] - grid[place]
        effective = max(min(len(beyond), days), 1)
        excess = (float(beyond.mean()) if len(beyond) else 0.4) * (1.0 + 1.0 / np.sqrt(effective))
        log_p = np.log(np.minimum(above, 1.0))
        log_p[place:] = log_p[place] - (grid[place:] - grid[place]) / max(excess, 0.25)
        self.table = np.maximum.accumulate(_normal_score(log_p - (np.log(2.0) if two_sided else 0.0))).astype(
            np.float32
        )
        self.two_sided = two_sided

    def __call__(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        place = np.minimum(np.abs(scores) * _FINE + 0.5, len(self.table) - 1).astype(np.int32)
        size = self.table.take(place)
        if self.two_sided:
            return np.asarray(np.copysign(size, scores))
        return np.asarray(np.where(scores > 0, size, scores))


_FINE = np.float32(100.0)
_BEYOND = 0.03


def _normal_score(log_p: F64) -> F64:
    """The z >= 0 that a standard normal exceeds with probability exp(log_p), by bisection on its tail."""
    low, high = np.zeros_like(log_p), np.full_like(log_p, 60.0)
    for _ in range(50):
        middle = (low + high) / 2
        above = _log_tail(middle) > log_p
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return low


def _log_tail(z: F64) -> F64:
    """log P(Z > z) for z >= 0, to 0.3%: Borjesson and Sundberg (1979).

    >>> np.exp(_log_tail(np.array([0.0, 1.6449]))).round(2).tolist()
    [0.5, 0.05]
    """
    a, b = 0.339, 5.510
    return np.asarray(-(z**2) / 2 - np.log(np.sqrt(2 * np.pi)) - np.log((1 - a) * z + a * np.sqrt(z**2 + b)))


_QUANTILES = np.concatenate([s * _normal_score(np.log(np.arange(1, 200) / 400.0)) for s in (-1.0, 1.0)])


class Detector:
    """The detectors of a reference: how scores become normal ones, and how sites are joined to a fleet."""

    def __init__(self, reference: Reference) -> None:
        self.model: Model = model(reference)
        m = self.model
        self.signed = m.layout.signed
        self.site_tails = self._tails(m.ordinary)
        link = _autocorrelation(m.ordinary, m.ordinary_period, m.ordinary_site, m.days)
        fleet, self.share = self._together(_whitened(m.ordinary, m.ordinary_period, m.ordinary_site, link))
        self.fleet_tails = self._tails(fleet)
        periods = np.unique(m.ordinary_period)
        judged = ~np.isnan(m.ordinary).all(axis=1)
        self._jumps = _rarest(len(np.unique(m.ordinary_period[judged]))), _rarest(int(judged.sum()))
        self._link = np.stack((_autocorrelation(fleet, periods, np.zeros_like(periods), m.days), link))

    @property
    def resemblance(self) -> float:
        """How much a period resembles the one before: the correlation that four fifths of the streams stay below."""
        return float(np.quantile(self._link[1, self.model.active], 0.8)) if self.model.active.any() else 0.0

    def _tails(self, scores: F64) -> tuple[Tail, Tail]:
        use = scores[:, self.model.active & self.signed], scores[:, self.model.active & ~self.signed]
        return (
            Tail(use[0][~np.isnan(use[0])], self.model.days, two_sided=True),
            Tail(use[1][~np.isnan(use[1])], self.model.days, two_sided=False),
        )

    def _together(self, scores: F64) -> tuple[F64, F64]:
        """(fleet scores of the calibration periods, the share of variance that sites have in common, by stream)."""
        m = self.model
        days = np.unique(m.ordinary_period)
        scores = np.clip(scores, -_CAP, _CAP)
        total, squares, n = (np.zeros((len(days), m.layout.streams)) for _ in range(3))
        place = np.searchsorted(days, m.ordinary_period)
        np.add.at(total, place, np.nan_to_num(scores))
        np.add.at(squares, place, np.nan_to_num(scores) ** 2)
        np.add.at(n, place, ~np.isnan(scores))
        pairs = n * (n - 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            common = np.where(pairs > 0, (total**2 - squares) / pairs, np.nan)
        usable = np.maximum((pairs > 0).sum(axis=0), 1)
        filled = np.nan_to_num(common)
        mean = filled.sum(axis=0) / usable
        error = np.sqrt(np.maximum((filled**2).sum(axis=0) / usable - mean**2, 0.0) / usable)
        share = np.clip(mean + error, 0.0, 1.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(n > 1, total / n / np.sqrt(share + (1 - share) / n), np.nan), share

    def fleet(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """The fleet's score [streams] of its known sites' [n, streams], each capped; NaN for fewer than two sites."""
        clipped = np.clip(scores, -_CAP, _CAP)
        n = (~np.isnan(clipped)).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.nansum(clipped, axis=0) / n
            joined = np.where(n > 1, mean / np.sqrt(self.share + (1 - self.share) / n), np.nan)
        return joined.astype(np.float32)

    def normal(self, scores: NDArray[np.float32], tails: tuple[Tail, Tail], jump: float) -> NDArray[np.float32]:
        """Normal scores of standard ones [n, streams], 0 for NaN; those of shapes at most `jump`."""
        scores = np.where(np.isnan(scores), np.float32(0), scores)
        made = np.empty(scores.shape, np.float32)
        for pick, tail in ((self.signed, tails[0]), (~self.signed, tails[1])):
            made[:, pick] = tail(scores[:, pick])
        shapes = made[:, self.model.layout.shapes]
        np.minimum(shapes, np.float32(jump), out=shapes)
        return made

    def step(self, state: State, sites: Sequence[str], scored: tuple[F64, F64], period: int, limit: float) -> State:
        """Take in one period: the scores and memory [n, streams] of windows at `sites` (see streams.Model.scores), for
        alarms at evidence `limit`."""
        scores, memory = (x.astype(np.float32) for x in scored)
        state = state.joined(sites)
        place = {name: i + 1 for i, name in enumerate(state.sites)}
        rows = np.array([0, *(place[name] for name in sites)])
        stored, gap = state.scores[:, rows], period - state.last[rows]
        own, kept = self._fresh(scores, stored[:, 1:], gap[1:], memory, self._link[1])
        days = np.minimum(np.median(memory, axis=0), np.float32(max(self.model.days, 2)))[None]
        known = np.array([[name in self.model.index] for name in sites])
        mean = self.fleet(np.where(known, own, np.float32(np.nan)))
        all_of, kept_of_all = self._fresh(mean[None], stored[:, :1], gap[:1], days, self._link[0])
        seen = ~np.isnan(np.concatenate((all_of, own))) & self.model.active
        z = np.concatenate(
            (
                self.normal(all_of, self.fleet_tails, self._jumps[0]),
                self.normal(own, self.site_tails, self._jumps[1]),
            )
        )
        alone = np.log(limit * 6 / np.maximum(self.weights(len(state.sites))[rows], 1e-12))
        most = np.minimum(_code(alone + _BEYOND_ALARM), 255.0).astype(np.float32)
        codes = state.evidence[rows]
        for i, (bet, cost) in enumerate(zip(_BETS, _COST, strict=True)):
            code = z * bet
            code -= cost
            code += _AHEAD.take(codes[:, :, i])
            np.copyto(codes[:, :, i], np.clip(code, np.float32(0), most, out=code), casting="unsafe", where=seen)
        evidence, scores_after, last = state.evidence.copy(), state.scores.copy(), state.last.copy()
        evidence[rows] = codes
        np.copyto(stored, np.concatenate((kept_of_all, kept), axis=1), where=seen)
        scores_after[:, rows] = stored
        last[rows] = np.where(seen.any(axis=1), period, last[rows])
        return replace(state, evidence=evidence, scores=scores_after, last=last, windows=state.windows + 1)

    def _fresh(
        self,
        z: NDArray[np.float32],
        stored: NDArray[np.int32],
        gap: NDArray[np.int64],
        memory: NDArray[np.float32],
        correlation: F64,
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(what is new in scores [n, streams], NaN where there are none; the scores to store): without what the last
        window foretold, and against level and variance as far as they are known by now."""
        times, total, squares, recent, last = stored.astype(np.float32) * np.float32(1 / _UNIT)
        link = correlation.astype(np.float32) ** np.maximum(gap, 1).astype(np.float32)[:, None]
        link[(gap <= 0) | (times == 0).all(axis=1)] = 0
        new = (z - link * last) / np.sqrt(1 - link**2)
        times *= _UNIT
        known = memory + times
        fresh = (new - total / known) / np.sqrt(1 - 1 / memory + 1 / known)
        fresh /= np.sqrt((_PRIOR + squares) / (_PRIOR + times))
        kept = (
            (times + 1) / _UNIT,
            total + np.clip(new, -4.0, 4.0),
            squares + np.minimum(fresh**2, _CALM**2) / _CALM_SQUARE,
            (1 - _FADE) * recent + _FADE * np.clip(fresh, -4.0, 4.0),
            np.clip(z, -4.0, 4.0),
        )
        with np.errstate(invalid="ignore"):  # what is NaN is not stored
            return fresh, np.rint(np.stack(kept) * np.float32(_UNIT)).astype(np.int32)

    def evidence(self, state: State) -> tuple[F64, F64]:
        """(evidence, weight) of every stream, [rows, streams]: the sum of their product is what is held to the
        limit."""
        value = _VALUE.take(state.evidence)
        up, down = value @ _UP, value @ _DOWN
        return np.where(self.signed, (up + down) / 2, up).astype(np.float64), self.weights(len(state.sites))

    def judged(self, state: State, limit: float) -> tuple[State, F64, F64]:
        """(state, evidence, weights) once it is known whether there is an alarm. An alarm lasts until the evidence is
        below half the limit; then all evidence begins anew, as the promise has it."""
        evidence, weights = self.evidence(state)
        value = float((evidence * weights).sum())
        if value >= limit or (state.alarm and value >= limit * ENDS):
            return replace(state, alarm=True), evidence, weights
        if state.alarm:
            return replace(state, alarm=False, evidence=np.zeros_like(state.evidence)), evidence, weights
        return state, evidence, weights

    def weights(self, sites: int) -> F64:
        """Weights [1 + sites, streams], in all 1: half to the fleet's mean where there are at least two sites."""
        kinds, active = self.model.layout.kinds, self.model.active
        share = np.zeros(len(kinds))
        for kind, part in enumerate(SHARES):
            mine = active & (kinds == kind)
            if mine.any():
                share[mine] = part / mine.sum()
        share /= max(float(share.sum()), 1e-12)
        row = np.full(sites + 1, 0.5 / max(sites, 1)) if sites > 1 else np.ones(sites + 1)
        row[0] = 0.5 if sites > 1 else 0.0
        return np.asarray(row[:, None] * share)


_UP, _DOWN = (np.array(x, np.float32) / 3 for x in ((1, 1, 1, 0, 0, 0), (0, 0, 0, 1, 1, 1)))
_BETS = (np.concatenate((SIZES, -SIZES)) * _STEP).astype(np.float32)
_COST = (np.concatenate((SIZES, SIZES)) ** 2 / 2 * _STEP).astype(np.float32)


def _rarest(windows: int) -> float:
    """How far a shape may jump in one window: the normal score of one in `windows` + 1.

    A mean over rows has a tail that can be foretold. The share of what is missing or new has none: an outage, never
    seen in that many windows, may still be as frequent as that, of any size, and many rows at once.
    """
    return float(_normal_score(-np.log(np.array([max(windows, LEAST_PERIODS) + 1.0])))[0])


def _autocorrelation(scores: F64, period: NDArray[np.int64], site: NDArray[np.int64], days: int) -> F64:
    """Correlation of each stream's scores with those of the period before, [streams]; 0 where it may be chance."""
    order = np.lexsort((period, site))
    x = np.nan_to_num(scores[order])
    follows = (np.diff(period[order]) == 1) & (np.diff(site[order]) == 0)
    both = (x[1:] * x[:-1])[follows].sum(axis=0)
    power = np.maximum((x[1:] ** 2)[follows].sum(axis=0), 1e-12)
    found = both / power
    return np.where(found > 1.0 / np.sqrt(max(days, 1)), np.minimum(found + 4.0 / max(days, 8), 0.9), 0.0)


def _whitened(scores: F64, period: NDArray[np.int64], site: NDArray[np.int64], link: F64) -> F64:
    """Scores without what those of the period before, where there is one, foretell."""
    order = np.lexsort((period, site))
    x = scores[order]
    follows = (np.diff(period[order]) == 1) & (np.diff(site[order]) == 0)
    made = x.copy()
    made[1:][follows] = ((x[1:] - link * np.nan_to_num(x[:-1])) / np.sqrt(1 - link**2))[follows]
    back = np.empty_like(made)
    back[order] = made
    return back


def named(evidence: F64, weights: F64, limit: float) -> NDArray[np.bool_]:
    """Which streams an alarm is about: e-BH on evidence / limit, and those that carry a tenth of the alarm, or most."""
    part = evidence * weights
    heavy = part >= min(0.1 * part.sum(), part.max())
    e = np.where(weights > 0, evidence / limit, 0.0).ravel()
    order = np.sort(e)[::-1]
    streams = max(int(np.count_nonzero(weights)), 1)
    good = np.flatnonzero(order >= streams / (NAMING * np.arange(1, len(order) + 1)))
    least = order[good[-1]] if len(good) else np.inf
    return np.asarray(heavy | (e.reshape(evidence.shape) >= least))


@lru_cache(maxsize=8)
def detector(reference: Reference) -> Detector:
    """The detectors of a reference, made once."""
    return Detector(reference)
