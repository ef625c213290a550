"""How soon a change is found, at the same measured rate of false alarms, beside what others would have done.

All get the same rows. Of each other method there is one statistic per site and feature, held against each site's own
training rows; it alarms when the largest exceeds a threshold. The thresholds as they come ring every day on a fleet,
so each is raised until, on the same quiet days, it rings no more often than driftloop did, its rules included:

- PSI (comes with > 0.2), on the reference's quantile groups, missing values being one;
- Evidently's default (> 0.1): Wasserstein over standard deviation for numbers, Jensen-Shannon for categories;
- NannyML's default: Jensen-Shannon, above its mean over the training windows in their standard deviations (3);
- NannyML's mean: as above, of each feature's mean, both ways (3);
- ADWIN of river, fed row by row (delta 0.002);
- KSWIN: the last 30 rows of each stream against 30 of the 70 before (statistic of river's class, for all streams at
  once).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from river.drift import ADWIN

from bench.world import Change, Flights, Watch, World, means
from drift import distances
from drift.bins import MISSING, UNSEEN
from drift.compare import measure
from drift.report import Limits

SHAPE = {"sites": 10, "features": 6, "rows": 200, "categories": 1}
DAYS, LIMIT, CALM, LIFE, QUIET = 60, 90.0, 5, 12, 150
DELTAS = (2e-3, 1e-6, 1e-12, 1e-24, 1e-48)


ALONE = "without rules"
"""Our detectors alone, which are what is under the promise."""

REAL = "flights" in sys.argv


def a_world(seed: int) -> World:
    """Of the flights where the command line says so, else made up."""
    return Flights(1000 + seed) if REAL else World(1000 + seed, **SHAPE)  # type: ignore[arg-type]


def changes() -> dict[str, Change]:
    """Injected changes by name: of one feature at one site, or at all sites; and none, which nobody should find."""
    made: dict[str, Change] = {"nothing": lambda x, site, rng: x}
    for place in ("one site", "all sites"):
        for size in (0.1, 0.25, 0.5, 1.0):
            made[f"mean +{size} sd, {place}"] = _column(place, 0, lambda v, r, s=size: v + s * 1.2)
        for size in (1.2, 1.5):
            made[f"spread x{size}, {place}"] = _column(place, 0, lambda v, r, s=size: (v - v.mean()) * s + v.mean())
        for share in (0.01, 0.05):
            made[f"{share:.0%} missing, {place}"] = _column(place, 0, _some(share, np.nan))
            made[f"{share:.0%} in a new category, {place}"] = _column(place, -1, _some(share, 5.0))
        made[f"correlation rotated, {place}"] = _column(place, 0, lambda v, r: v[r.permutation(len(v))])
    return made


def _column(place: str, column: int, change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Change:
    def apply(x: np.ndarray, site: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for s in (0,) if place == "one site" else range(int(site.max()) + 1):
            rows = site == s
            x[rows, column] = change(x[rows, column], rng)
        return x

    return apply


def _some(share: float, value: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    return lambda v, r: np.where(r.random(len(v)) < share, value, v)


class Peers:
    """The statistics of each day, the largest over all sites and features, by method."""

    def __init__(self, watch: Watch, deltas: tuple[float, ...]) -> None:
        self.watch, reference = watch, watch.reference
        self.known = np.arange(watch.world.sites)
        self.level = distances.shares(watch.model.groups)
        cal = reference.calibration
        self.js = self._moments(distances.js_of(distances.shares(cal.groups), self.level[cal.site]), cal.site)
        self.mean = watch.world.means.mean(axis=0), watch.world.means.std(axis=0)
        numbers = watch.world.features - watch.world.categories
        self.adwin = {d: [[ADWIN(delta=d) for _ in range(numbers)] for _ in self.known] for d in deltas}
        self.last: list[np.ndarray] = [np.zeros((0, numbers))] * len(self.known)
        self.rng = np.random.default_rng(7)

    def _moments(self, value: np.ndarray, site: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [value[site == s] for s in self.known]
        return np.array([p.mean(axis=0) for p in parts]), np.array([p.std(axis=0) for p in parts])

    def day(self, x: np.ndarray, site: np.ndarray, score: np.ndarray, label: np.ndarray) -> dict[str, float]:
        counts = self.watch.counts(x, site, score)
        _, found = measure(counts, list(range(1, len(counts) + 1)), self.known, self.watch.reference)
        number = np.array([c.kind == "number" for c in self.watch.reference.columns])
        kept = 5 if self.watch.world.categories else 0
        z = np.abs(means(x, site, len(self.known)) - self.mean[0]) / self.mean[1]
        made = {
            "PSI": float(found["psi"].max()),
            "Evidently": float(np.where(number, found["wasserstein"], found["js"]).max()),
            "NannyML": float(((found["js"] - self.js[0]) / np.maximum(self.js[1], 1e-9)).max()),
            "NannyML mean": float(z[:, number[:-1]].max()) if kept else float(z.max()),
            "KSWIN": self._kswin(x, site),
        }
        return made | {f"ADWIN {d:g}": self._adwin(detectors, x, site) for d, detectors in self.adwin.items()}

    def _adwin(self, detectors: list[list[ADWIN]], x: np.ndarray, site: np.ndarray) -> float:
        rang = False
        for s, row in enumerate(detectors):
            mine = x[site == s]
            for i, detector in enumerate(row):
                for value in mine[:, i][~np.isnan(mine[:, i])].tolist():
                    detector.update(value)
                    rang |= detector.drift_detected
        return float(rang)

    def _kswin(self, x: np.ndarray, site: np.ndarray) -> float:
        largest = 0.0
        for s in self.known:
            new = x[site == s][:, : self.last[s].shape[1]]
            stream = np.concatenate((self.last[s], np.where(np.isnan(new), 0.0, new)))
            self.last[s] = stream[-99:]
            if len(stream) < 100:
                continue
            views = np.lib.stride_tricks.sliding_window_view(stream, 100, axis=0)  # [steps, features, 100]
            pick = self.rng.permuted(np.tile(np.arange(70), (len(views), 1)), axis=1)[:, None, :30]
            old = np.take_along_axis(views[:, :, :70], np.broadcast_to(pick, (*views.shape[:2], 30)), axis=2)
            both = np.concatenate((old, views[:, :, 70:]), axis=2)
            step = np.where(np.argsort(both, axis=2) < 30, 1.0, -1.0)
            largest = max(largest, float(np.abs(np.cumsum(step, axis=2)).max()) / 30)
        return largest


def breaks(watch: Watch, x: np.ndarray, site: np.ndarray, score: np.ndarray) -> bool:
    """Whether a site's day breaks a rule of driftloop as it comes: unseen categories, or more missing than it had."""
    limits, calibration = Limits(), watch.model.groups
    counts = np.stack(watch.counts(x, site, score))
    rows = np.maximum(counts.sum(axis=2), 1)
    usual = calibration[:, :, -1] / np.maximum(calibration.sum(axis=2), 1)
    unseen, missing = counts[:, :, UNSEEN] / rows, counts[:, :, MISSING] / rows - usual
    return bool((unseen > limits.unseen).any() or (missing > limits.missing).any())


def calm(seed: int, quiet: int) -> dict[str, list[float]]:
    """What every method says on quiet days of one fleet; ours says whether it rang or a rule was broken."""
    watch = Watch(a_world(seed), DAYS, (LIMIT,))
    peers, said = Peers(watch, DELTAS), {}
    for t in range(CALM + quiet):
        day = watch.world.day(watch.t)
        values = {"driftloop": float(watch.step(day=day)[0] or breaks(watch, *day[:3])), **peers.day(*day)}
        for name, value in values.items() if t >= CALM else ():
            said.setdefault(name, []).append(value)
    return said


def thresholds(said: list[dict[str, list[float]]]) -> tuple[dict[str, float], dict[str, int]]:
    """(the least threshold of every method at which it rings no more often than driftloop did on the same quiet days,
    how often each then rang); of ADWIN the delta."""
    allowed = int(sum(sum(s["driftloop"]) for s in said))
    limit: dict[str, float] = {}
    rang = {"driftloop": allowed}
    for name in (n for n in said[0] if n != "driftloop" and not n.startswith("ADWIN")):
        every = sorted({v for s in said for v in s[name]})
        low, high = 0, len(every) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if _rings(said, name, every[middle]) <= allowed else (middle + 1, high)
        limit[name], rang[name] = every[low], _rings(said, name, every[low])
    rings = {d: _rings(said, f"ADWIN {d:g}", 0.5) for d in DELTAS}
    limit["ADWIN"] = next((d for d in DELTAS if rings[d] <= allowed), DELTAS[-1])
    rang["ADWIN"] = rings[limit["ADWIN"]]
    return limit, rang


def _rings(said: list[dict[str, list[float]]], name: str, threshold: float) -> int:
    """Days above it that follow one which is not."""
    over = [np.array(s[name]) > threshold for s in said]
    return int(sum((o & ~np.concatenate(([False], o[:-1]))).sum() for o in over))


def found(seed: int, change: Change, limit: dict[str, float]) -> dict[str, int]:
    """Windows until each method finds the change in one fleet; LIFE + 1 where it does not."""
    world = a_world(seed)
    watch = Watch(world, DAYS, (LIMIT,), _reference(seed, world))
    peers, hit = Peers(watch, (limit["ADWIN"],)), {}
    for t in range(CALM + LIFE):
        day = world.day(watch.t, change if t >= CALM else None)
        watch.step(day=day)
        values = peers.day(*day)
        if t < CALM:
            continue
        values["ADWIN"] = values.pop(f"ADWIN {limit['ADWIN']:g}")
        over = {name for name, v in values.items() if v > (0.5 if name == "ADWIN" else limit[name])}
        over |= {ALONE} if watch.states[0].alarm else set()
        over |= {"driftloop"} if watch.states[0].alarm or breaks(watch, *day[:3]) else set()
        for name in over:
            hit.setdefault(name, t - CALM + 1)
        if len(hit) == len(values) + 2:
            break
    return {name: hit.get(name, LIFE + 1) for name in ("driftloop", ALONE, *limit)}


_REFERENCES: dict[int, tuple[Any, np.ndarray]] = {}


def _reference(seed: int, world: World) -> Any:
    """The fleet's reference, made once; its days are then others than those of the quiet run."""
    if seed not in _REFERENCES:
        made = world.reference(DAYS)
        _REFERENCES[seed] = made, world.means
    reference, world.means = _REFERENCES[seed]
    world.reseed(seed)
    return reference


def run(repeats: int, quiet: int = QUIET) -> dict[str, Any]:
    """Median windows until found, by change and method; how often each rang on the quiet days; its threshold."""
    limit, rang = thresholds([calm(seed, quiet) for seed in range(repeats)])
    table = {}
    for name, change in changes().items():
        parts = [found(seed, change, limit) for seed in range(repeats)]
        table[name] = {m: float(np.median([p[m] for p in parts])) for m in parts[0]}
        print(name, table[name], file=sys.stderr, flush=True)
    return {"found": table, "quiet": {"windows": repeats * quiet, "rang": rang, "threshold": limit}}


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]))))
