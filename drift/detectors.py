"""Evidence that adds up: e-detectors with a stated time between false alarms, averaged over a fleet as processes.

Each stream of standard scores gets Shiryaev-Roberts e-detectors (Shin, Ramdas and Rinaldo, "E-detectors", 2022):
R <- (R + 1) e, with e = exp(a z - a^2 / 2) for a few sizes a, upwards and downwards, and z the normal score of the
window's rank among the calibration windows. While nothing has changed E[R] grows by at most 1 a window, so their
weighted mean, whatever the dependence between streams, first reaches A after A windows or more on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from drift import binary
from drift.reference import Reference
from drift.streams import Model, model

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
_VALUE = np.exp(_LOG)
_AHEAD = np.log1p(_VALUE).astype(np.float32)
_CAP = 3.0
"""One site moves the fleet's mean by no more than this many of its standard deviations in one window."""

_MEMORY = 64.0
_RECENT = 32.0
_FADE = 0.3
FLEET = ""


@dataclass(frozen=True, eq=False)
class State:
    """What is remembered between checks. Row 0 is the fleet's mean, the others are `sites`; columns are streams.

    `evidence` uint8 [rows, streams, 6] codes the detectors (sizes upwards, then downwards) in eighths of a nat;
    `level` int16 and `times` int64 [rows, streams] the sum and number of scores, which refine the level that the
    calibration could only estimate; `recent` int8 a fading mean of scores. `windows` counts assessed periods, `until`
    is the end of the newest, `seen` by site the end of its newest window; `alarm` whether the last check was one.
    """

    reference: str
    sites: tuple[str, ...]
    evidence: NDArray[np.uint8]
    level: NDArray[np.int64]
    times: NDArray[np.int64]
    recent: NDArray[np.int64]
    windows: int = 0
    until: int = 0
    seen: tuple[int, ...] = ()
    alarm: bool = False

    @classmethod
    def new(cls, reference: Reference) -> State:
        shape = (1, model(reference).layout.streams)
        zero = np.zeros(shape, np.int64)
        return cls(reference.version, (), np.zeros((*shape, 6), np.uint8), zero, zero, zero)

    def joined(self, sites: Sequence[str]) -> State:
        """The same with rows for sites that are new."""
        fresh = tuple(sorted(set(sites) - set(self.sites)))
        if not fresh:
            return self

        def grow(a: NDArray[np.int64]) -> NDArray[np.int64]:
            return np.concatenate((a, np.zeros((len(fresh), *a.shape[1:]), a.dtype)))

        return replace(
            self,
            sites=self.sites + fresh,
            evidence=grow(self.evidence),  # type: ignore[arg-type]
            level=grow(self.level),
            times=grow(self.times),
            recent=grow(self.recent),
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
        return binary.pack(_KIND, header, (self.evidence, self.level, self.times, self.recent))

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """Raises ValueError where the bytes are not a state of this version."""
        header, arrays = binary.unpack(_KIND, data)
        try:
            evidence, level, times, recent = arrays
            shape = (len(header["sites"]) + 1, level.shape[1])
            if evidence.shape != (*shape, 6) or any(a.shape != shape for a in (level, times, recent)):
                raise ValueError("rows that are not the sites'")
            return cls(
                header["reference"],
                tuple(header["sites"]),
                evidence.astype(np.uint8),
                level,
                times,
                recent,
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
        grid = np.arange(0.0, 40.0, 0.05)
        if len(x) < 20:
            x, n = np.abs(_QUANTILES), len(_QUANTILES)
        above = (len(x) - np.searchsorted(x, grid) + 1.0) / (n + 1.0)
        start = max(_BEYOND, 10.0 / n)
        place = int(np.argmax(above <= start))
        beyond = x[x > grid[place]] - grid[place]
        effective = max(min(len(beyond), days / 4.0), 1.0)
        excess = (float(beyond.mean()) if len(beyond) else 0.4) * (1.0 + 1.0 / np.sqrt(effective))
        log_p = np.log(np.minimum(above, 1.0))
        log_p[place:] = log_p[place] - (grid[place:] - grid[place]) / max(excess, 0.25)
        self.grid = grid
        self.normal = np.maximum.accumulate(_normal_score(log_p - (np.log(2.0) if two_sided else 0.0)))
        self.two_sided = two_sided

    def __call__(self, scores: F64) -> F64:
        size = np.interp(np.abs(scores), self.grid, self.normal)
        if self.two_sided:
            return np.asarray(np.copysign(size, scores))
        return np.asarray(np.where(scores > 0, size, np.minimum(scores, 0.0)))


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
    """log P(Z > z) for z >= 0, to 1e-4: Borjesson and Sundberg (1979).

    >>> np.exp(_log_tail(np.array([0.0, 1.6449]))).round(3).tolist()
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
        fleet, self.share = self._together()
        self.fleet_tails = self._tails(fleet)

    def _tails(self, scores: F64) -> tuple[Tail, Tail]:
        use = scores[:, self.model.active & self.signed], scores[:, self.model.active & ~self.signed]
        return (
            Tail(use[0][~np.isnan(use[0])], self.model.days, two_sided=True),
            Tail(use[1][~np.isnan(use[1])], self.model.days, two_sided=False),
        )

    def _together(self) -> tuple[F64, F64]:
        """(fleet scores of the calibration periods, the share of variance that sites have in common, by stream)."""
        m = self.model
        days = np.unique(m.ordinary_period)
        scores = np.clip(m.ordinary, -_CAP, _CAP)
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

    def fleet(self, scores: F64) -> F64:
        """The fleet's score [streams] of its sites' [n, streams], each capped; NaN for fewer than two sites."""
        clipped = np.clip(scores, -_CAP, _CAP)
        n = (~np.isnan(clipped)).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.nansum(clipped, axis=0) / n
            return np.where(n > 1, mean / np.sqrt(self.share + (1 - self.share) / n), np.nan)

    def normal(self, scores: F64, tails: tuple[Tail, Tail]) -> F64:
        """Normal scores of standard ones [n, streams]; NaN stays NaN."""
        made = np.full(scores.shape, np.nan)
        for pick, tail in ((self.signed, tails[0]), (~self.signed, tails[1])):
            made[:, pick] = tail(scores[:, pick])
        return made

    def step(self, state: State, sites: Sequence[str], scores: F64, limit: float) -> State:
        """Take in one period: the scores [n, streams] of windows at `sites`, for alarms at evidence `limit`."""
        state = state.joined(sites)
        place = {name: i + 1 for i, name in enumerate(state.sites)}
        rows = np.array([0, *(place[name] for name in sites)])
        memory = np.concatenate(([np.full(scores.shape[1], float(self.model.days))], self.model.memory(sites)))
        both = np.concatenate((self.fleet(scores)[None], scores))
        level, times = state.level[rows] / _MEMORY, state.times[rows]
        known = memory + times
        fresh = (both - np.where(self.signed, level / known, 0.0)) / np.sqrt(1 + 1 / known - 1 / np.maximum(memory, 1))
        z = np.concatenate((self.normal(fresh[:1], self.fleet_tails), self.normal(fresh[1:], self.site_tails)))
        seen = ~np.isnan(z) & self.model.active
        z = np.where(seen, z, 0.0)
        cap = np.log(limit * max(self.model.layout.streams * len(state.sites), 1)) + 1.0
        evidence, after = state.evidence[rows], state.evidence.copy()
        bets = z.astype(np.float32)[:, :, None] * _BETS - _BETS**2 / 2
        grown = np.minimum(_AHEAD[evidence] + bets, np.float32(cap))
        codes = np.clip(np.rint((grown - _FLOOR) * _STEP) + 1, 0, 255).astype(np.uint8)
        after[rows] = np.where(seen[:, :, None], codes, evidence)
        clipped = np.clip(np.where(seen, both, 0.0), -4.0, 4.0)
        return replace(
            state,
            evidence=after,
            level=_set(state.level, rows, state.level[rows] + np.rint(clipped * _MEMORY).astype(np.int64)),
            times=_set(state.times, rows, times + seen),
            recent=_set(state.recent, rows, _faded(state.recent[rows], clipped, seen)),
            windows=state.windows + 1,
        )

    def evidence(self, state: State) -> tuple[F64, F64]:
        """(evidence, weight) of every stream, [rows, streams]: the sum of their product is what is held to the
        limit."""
        value = _VALUE[state.evidence]
        up, down = value[:, :, :3].mean(axis=2), value[:, :, 3:].mean(axis=2)
        return np.where(self.signed, (up + down) / 2, up), self.weights(len(state.sites))

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


_BETS = np.concatenate((SIZES, -SIZES)).astype(np.float32)


def _set(whole: NDArray[np.int64], rows: NDArray[np.intp], part: NDArray[np.int64]) -> NDArray[np.int64]:
    made = whole.copy()
    made[rows] = part
    return made


def _faded(before: NDArray[np.int64], scores: F64, seen: NDArray[np.bool_]) -> NDArray[np.int64]:
    moved = np.rint((1 - _FADE) * before + _FADE * _RECENT * scores).astype(np.int64)
    return np.where(seen, moved, before)


def named(evidence: F64, weights: F64, limit: float) -> NDArray[np.bool_]:
    """Which streams an alarm is about: e-BH on evidence / limit, and those that carry a tenth of the alarm."""
    part = evidence * weights
    heavy = part >= 0.1 * part.sum()
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
