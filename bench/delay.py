"""How soon a change is found, at the same measured rate of false alarms, beside what others would have done.

The others get the same windows of rows, one test per site and feature, and alarm when any of them does: PSI (10
quantile bins, against each site's own reference rows), the two-sample KS statistic and the mean (as in NannyML's
"mean +- 3 sigma", against the calibration windows of that site and feature). Their thresholds as they come ring every
day on a fleet, so each is raised until it rings as rarely as ours does on the same quiet days.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.world import Change, Watch, World

QUIET, CALM = 90, 3
"""Quiet windows in which thresholds are set; windows before a change."""


def changes(features: int, sites: int) -> dict[str, Change]:
    """Injected changes, by name: of one feature at one site, or of one at all sites."""

    def at(pick: int | None, change: object) -> Change:
        def apply(x: np.ndarray, site: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            rows = slice(None) if pick is None else site == pick
            x[rows, 0] = change(x[rows, 0], rng)  # type: ignore[operator]
            return x

        return apply

    def rotated(x: np.ndarray, site: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x[:, 0] = x[rng.permutation(len(x)), 0]
        return x

    made: dict[str, Change] = {}
    for name, pick in (("one site", 0), ("all sites", None)):
        for size in (0.1, 0.25, 0.5, 1.0):
            made[f"mean +{size} sd, {name}"] = at(pick, lambda v, r, s=size: v + s * 1.2)
        for size in (1.2, 1.5):
            made[f"spread x{size}, {name}"] = at(pick, lambda v, r, s=size: (v - v.mean()) * s + v.mean())
        made[f"5% missing, {name}"] = at(pick, lambda v, r: np.where(r.random(len(v)) < 0.05, np.nan, v))
    made["values permuted between rows, all sites"] = rotated
    return made


@dataclass
class Peers:
    """The largest PSI, KS statistic and standardised mean over all sites and features, per window."""

    watch: Watch

    def __post_init__(self) -> None:
        w = self.watch.world
        reference = self.watch.reference
        self.cuts, self.base = [], []
        for i in range(w.features):
            column = reference.columns[i]
            total = np.cumsum(reference.pooled[i, : column.bins])
            places = np.searchsorted(total, np.arange(1, 10) / 10 * total[-1])
            self.cuts.append(np.unique(np.minimum(places, column.bins - 1)))
        self.level = [self._sites(i, reference.counts[:, i]) for i in range(w.features)]
        windows = self.watch.model.ordinary[:, : w.features]
        self.spread = np.nanstd(windows, axis=0)

    def _sites(self, i: int, counts: np.ndarray) -> np.ndarray:
        below = np.concatenate((np.zeros((len(counts), 1)), np.cumsum(counts[:, :-3], axis=1)), axis=1)
        edges = np.concatenate(([0], self.cuts[i] + 1, [counts.shape[1] - 3]))
        ten = np.diff(below[:, edges], axis=1)
        return np.concatenate((ten, counts[:, -1:]), axis=1)

    def day(self, x: np.ndarray, site: np.ndarray) -> dict[str, float]:
        w, reference = self.watch.world, self.watch.reference
        psi = ks = 0.0
        for i in range(w.features):
            width = reference.width
            slot = reference.columns[i].slots(x[:, i], width)
            now = np.bincount(site * width + slot, minlength=w.sites * width).reshape(w.sites, width)
            p, q = self._sites(i, now), self.level[i]
            p, q = (np.maximum(a / a.sum(axis=1, keepdims=True), 1e-4) for a in (p, q))
            psi = max(psi, float(((p - q) * np.log(p / q)).sum(axis=1).max()))
            a, b = now[:, :-3], reference.counts[:, i, :-3]
            n, m = a.sum(axis=1), b.sum(axis=1)
            f = np.cumsum(a, axis=1) / n[:, None] - np.cumsum(b, axis=1) / m[:, None]
            ks = max(ks, float((np.abs(f).max(axis=1) * np.sqrt(n * m / (n + m))).max()))
        z = np.abs(self.watch.last[:, : w.features]) / self.spread
        return {"PSI": psi, "KS": ks, "mean": float(np.nanmax(z))}


def run(repeats: int = 3, life: int = 20, limit: float = 90.0, **shape: int) -> dict[str, dict[str, float]]:
    """Median windows until the change is found (`life` + 1: not found), by change and method."""
    shape = {"sites": 20, "features": 10, "rows": 200, **shape}
    found: dict[str, dict[str, list[int]]] = {}
    for seed in range(repeats):
        calm = Watch(World(1000 + seed, **shape), 60, limit)
        quiet = Peers(calm)
        worst: dict[str, list[float]] = {}
        rings = 0
        for _ in range(QUIET):
            before, value = calm.state.alarm, calm.step_with(quiet)
            rings += calm.state.alarm and not before
            for name, v in value.items():
                worst.setdefault(name, []).append(v)
        threshold = {name: sorted(v)[-1 - rings] for name, v in worst.items()}
        for name, change in changes(shape["features"], shape["sites"]).items():
            watch = Watch(World(1000 + seed, **shape), 60, limit, calm.reference)
            watch.world.reseed(seed)
            peers, hit = Peers(watch), {}
            for t in range(CALM + life):
                values = watch.step_with(peers, change if t >= CALM else None)
                if t < CALM:
                    continue
                if watch.state.alarm:
                    hit.setdefault("driftloop", t - CALM + 1)
                for peer, v in values.items():
                    if v > threshold[peer]:
                        hit.setdefault(peer, t - CALM + 1)
            for method in ("driftloop", *threshold):
                found.setdefault(name, {}).setdefault(method, []).append(hit.get(method, life + 1))
    return {name: {m: float(np.median(v)) for m, v in by.items()} for name, by in found.items()}
