"""A simulated fleet: correlated features, weekly season, unequal traffic, sites that differ, days that differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from drift.detectors import Detector, State, detector
from drift.reference import GROUPS, Reference
from drift.streams import Model, model
from drift.telemetry import Feature, Rows, Schema

DAY = 86_400
Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""(values [rows, features], site of each row, generator) -> changed values; NaN is missing."""


@dataclass
class World:
    """`common` and `own`: standard deviation of the days' effects that all sites share and of each site's own, in
    standard deviations of a feature; `memory`: their autocorrelation from day to day."""

    seed: int
    sites: int = 100
    features: int = 20
    rows: int = 200
    common: float = 0.03
    own: float = 0.06
    memory: float = 0.0
    season: float = 0.1

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        r, s, f = self.rng, self.sites, self.features
        self.schema = Schema("1", tuple(Feature(f"f{i}") for i in range(f)))
        self.level = r.normal(0, 0.3, (s, f))
        self.week = r.normal(0, self.season, (7, s, f)) * 0.5 + r.normal(0, self.season, (7, 1, f))
        self.traffic = r.lognormal(0, 0.5, s)
        self.load = r.normal(0, 0.6, (3, f))
        self.weight = r.normal(0, 1, f) / np.sqrt(f)
        self.together, self.apart = np.zeros((1, f)), np.zeros((s, f))

    def day(self, t: int, change: Change | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(values [n, features], site [n], score [n], label [n]) of day t; days are made in order."""
        r, s, f, m = self.rng, self.sites, self.features, self.memory
        keep = np.sqrt(1 - m * m)
        self.together = m * self.together + keep * r.normal(0, self.common, (1, f))
        self.apart = m * self.apart + keep * r.normal(0, self.own, (s, f))
        n = np.maximum(r.poisson(self.rows * self.traffic * r.lognormal(0, 0.15, s)), 1)
        site = np.repeat(np.arange(s), n)
        x = r.standard_normal((len(site), f), dtype=np.float32)
        x += r.standard_normal((len(site), 3), dtype=np.float32) @ self.load.astype(np.float32)
        x += (self.level + self.week[t % 7] + self.together + self.apart)[site].astype(np.float32)
        if change is not None:
            x = change(x, site, r)
        score = 1 / (1 + np.exp(-(np.nan_to_num(x) @ self.weight) - 0.2))
        return x, site, score, (r.random(len(site)) < score).astype(float)

    def reseed(self, seed: int) -> None:
        """Other days from here on, of the same world."""
        self.rng = np.random.default_rng(10_000 + seed)

    def reference(self, days: int, bins: int = 64) -> Reference:
        """The reference of the first `days` days."""
        parts = [self.day(t) for t in range(days)]
        x, site, score, label = (np.concatenate([p[i] for p in parts]) for i in range(4))
        at = np.repeat(np.arange(days) * DAY, [len(p[1]) for p in parts])
        columns = {f"f{i}": x[:, i].astype(float) for i in range(self.features)}
        rows = Rows(range(len(at)), at, score.astype(float), columns)  # type: ignore[arg-type]
        return Reference.build(self.schema, rows, label, [f"s{i:04d}" for i in site.tolist()], bins=bins)


class Watch:
    """A world's days through the detectors, by group counts: the same arithmetic as `assess`, without its words."""

    def __init__(self, world: World, days: int, limit: float, reference: Reference | None = None) -> None:
        self.world, self.limit, self.t = world, limit, days
        self.reference = reference or world.reference(days)
        self.model: Model = model.__wrapped__(self.reference)
        self.detector: Detector = detector.__wrapped__(self.reference)
        self.state = State.new(self.reference)
        self.alarm = False

    def groups(self, x: np.ndarray, site: np.ndarray, score: np.ndarray, label: np.ndarray) -> tuple:
        s, c = self.world.sites, self.world.features + 1
        counts = np.zeros((s, c, GROUPS))
        for i in range(c):
            column = self.reference.columns[i]
            slot = column.slots(x[:, i] if i < c - 1 else score, self.reference.width)
            group = self.reference.groupings[i][slot]
            counts[:, i] = np.bincount(site * GROUPS + group, minlength=s * GROUPS).reshape(s, GROUPS)
        outcome = np.bincount((site * GROUPS + group) * 2 + (label > 0.5), minlength=s * GROUPS * 2)
        return counts.astype(np.float32), outcome.reshape(s, GROUPS, 2).astype(float)

    def step_with(self, peers: object, change: Change | None = None) -> dict[str, float]:
        """One more day, and what `peers.day` makes of the same rows."""
        day = self.world.day(self.t, change)
        self.step(day=day)
        return peers.day(day[0], day[1])  # type: ignore[attr-defined,no-any-return]

    def step(self, change: Change | None = None, day: tuple | None = None) -> float:
        """The evidence after one more day."""
        groups, outcomes = self.groups(*(day or self.world.day(self.t, change)))
        sums = self.model.sums(groups, outcomes, np.zeros((self.world.sites, 4)))
        scored = self.model.scores(sums, self.reference.sites, self.t)
        self.last = scored[0]
        self.state = self.detector.step(self.state, self.reference.sites, scored, self.t, self.limit)
        self.t += 1
        self.state, evidence, weights = self.detector.judged(self.state, self.limit)
        return float((evidence * weights).sum())
