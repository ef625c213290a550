"""A simulated fleet: correlated features, weekly season, unequal traffic, sites that differ, days that differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drift.detectors import Detector, State, detector
from drift.reference import GROUPS, Reference
from drift.streams import Model, model
from drift.telemetry import Feature, Rows, Schema

DAY = 86_400
KINDS = ("a", "b", "c", "d", "e", "new")
"""Values of a category, by code; the last one comes only by a change."""

_CUTS = np.array([-1.0, 0.0, 0.8, 1.8])
Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""(values [rows, features], site of each row, generator) -> changed values; NaN is missing."""


@dataclass
class World:
    """The last `categories` features are categories, their values the codes of KINDS. `common` and `own`: standard
    deviation of the days' effects that all sites share and of each site's own, in standard deviations of a feature;
    `memory`: their autocorrelation from day to day."""

    seed: int
    sites: int = 100
    features: int = 20
    rows: int = 200
    common: float = 0.03
    own: float = 0.06
    memory: float = 0.0
    season: float = 0.1
    categories: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        r, s, f = self.rng, self.sites, self.features
        self.schema = Schema(
            "1", tuple(Feature(f"f{i}", "number" if i < f - self.categories else "category") for i in range(f))
        )
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
        for i in range(f - self.categories, f):
            x[:, i] = np.searchsorted(_CUTS, x[:, i])
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
        self.means = np.array([means(p[0], p[1], self.sites) for p in parts])
        x, site, score, label = (np.concatenate([p[i] for p in parts]) for i in range(4))
        at = np.repeat(np.arange(days) * DAY, [len(p[1]) for p in parts])
        columns = {f.name: values(f, x[:, i]) for i, f in enumerate(self.schema.features)}
        rows = Rows(range(len(at)), at, score.astype(float), columns)  # type: ignore[arg-type]
        return Reference.build(self.schema, rows, label, [f"s{i:04d}" for i in site.tolist()], bins=bins)


FLIGHTS = Path("build/bench/flights.npz")
NUMBERS = ("dep_minute", "distance", "temp", "wind_speed")


def keep_flights() -> None:
    """What Flights reads: numbers with the spread of the made ones, carriers as codes of KINDS, at three airports."""
    from examples.flights.data import flights, source

    table = flights(source())
    early = table["scheduled"] < np.datetime64("2013-04-01").astype("datetime64[s]").astype(np.int64)
    x = np.stack([table[name][early] for name in NUMBERS], axis=1)
    x = 1.2 * (x - np.nanmean(x, axis=0)) / np.nanstd(x, axis=0)
    _, carrier = np.unique(table["carrier"][early].astype(str), return_inverse=True)
    code = np.minimum(np.argsort(np.argsort(-np.bincount(carrier)))[carrier], 4)
    site = np.unique(table["origin"][early].astype(str), return_inverse=True)[1]
    date = (table["scheduled"][early] - 5 * 3600) // DAY
    FLIGHTS.parent.mkdir(parents=True, exist_ok=True)
    np.savez(FLIGHTS, x=np.column_stack((x, code)).astype(np.float32), site=site, date=date)


@dataclass
class Flights(World):
    """Real flights in place of made ones. Each day's are drawn with replacement from those of a day of the same weekday
    in January to March, so that days differ as they did and nothing else changes; the score is made, from what is known
    at the departure."""

    sites: int = 3
    features: int = 5
    categories: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        with np.load(FLIGHTS) as file:
            self.x, self.site, self.date = file["x"], file["site"], file["date"]

    def day(self, t: int, change: Change | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        dates = np.unique(self.date)
        rows = np.flatnonzero(self.date == self.rng.choice(dates[dates % 7 == t % 7]))
        rows = np.sort(self.rng.choice(rows, len(rows)))
        rows = rows[np.argsort(self.site[rows], kind="stable")]
        x, site = self.x[rows], self.site[rows]
        x = x if change is None else change(x, site, self.rng)
        score = 1 / (1 + np.exp(-(np.nan_to_num(x) @ self.weight) / 2))
        return x, site, score, (self.rng.random(len(site)) < score).astype(float)


def means(x: np.ndarray, site: np.ndarray, sites: int) -> np.ndarray:
    """The mean of each feature at each site, [sites, features]; values that are missing are left out."""
    there = ~np.isnan(x)
    total, n = (
        np.stack([np.bincount(site, column, sites) for column in a.T], axis=1) for a in (np.nan_to_num(x), there)
    )
    return total / np.maximum(n, 1)


def values(feature: Feature, x: np.ndarray) -> Any:
    """A column as in telemetry.Rows."""
    if feature.kind == "number":
        return x.astype(float)
    return [None if code != code else KINDS[int(code)] for code in x.tolist()]


class Watch:
    """A world's days through the detectors, for one or more limits, by group counts: the same arithmetic as `assess`,
    without its words."""

    def __init__(self, world: World, days: int, limits: Sequence[float], reference: Reference | None = None) -> None:
        self.world, self.limits, self.t = world, limits, days
        self.reference = reference or world.reference(days)
        self.model: Model = model.__wrapped__(self.reference)
        self.detector: Detector = detector.__wrapped__(self.reference)
        self.states = [State.new(self.reference) for _ in limits]
        self.tables = [self._table(i) for i in range(world.features + 1)]

    def _table(self, i: int) -> np.ndarray | None:
        """The group of each code of a category, and last that of none."""
        column = self.reference.columns[i]
        if column.kind == "number":
            return None
        return self.reference.groupings[i][column.slots([*KINDS, None], self.reference.width)]

    def group(self, i: int, x: np.ndarray) -> np.ndarray:
        """The group of each value of a column."""
        if (table := self.tables[i]) is not None:
            return table[np.where(np.isnan(x), len(KINDS), x).astype(int)]
        return self.reference.groupings[i][self.reference.columns[i].slots(x, self.reference.width)]

    def counts(self, x: np.ndarray, site: np.ndarray, score: np.ndarray) -> list[np.ndarray]:
        """Counts in all bins, by site [columns, width]."""
        s, width, made = self.world.sites, self.reference.width, []
        for i, column in enumerate(self.reference.columns):
            if column.kind == "number":
                slot = column.slots(x[:, i] if i < x.shape[1] else score, width)
            else:
                table = column.slots([*KINDS, None], width)
                slot = table[np.where(np.isnan(x[:, i]), len(KINDS), x[:, i]).astype(int)]
            made.append(np.bincount(site * width + slot, minlength=s * width).reshape(s, width))
        return list(np.stack(made, axis=1))

    def groups(self, x: np.ndarray, site: np.ndarray, score: np.ndarray, label: np.ndarray) -> tuple:
        s, c = self.world.sites, self.world.features + 1
        counts = np.zeros((s, c, GROUPS))
        for i in range(c):
            group = self.group(i, x[:, i] if i < c - 1 else score)
            counts[:, i] = np.bincount(site * GROUPS + group, minlength=s * GROUPS).reshape(s, GROUPS)
        outcome = np.bincount((site * GROUPS + group) * 2 + (label > 0.5), minlength=s * GROUPS * 2)
        return counts.astype(np.float32), outcome.reshape(s, GROUPS, 2).astype(float)

    def step(self, change: Change | None = None, day: tuple | None = None) -> list[bool]:
        """One more day; which limits ring that did not ring the day before."""
        groups, outcomes = self.groups(*(day or self.world.day(self.t, change)))
        sums = self.model.sums(groups, outcomes, np.zeros((self.world.sites, 4)))
        scored = self.model.scores(sums, self.reference.sites, self.t)
        rung = []
        for i, (state, limit) in enumerate(zip(self.states, self.limits, strict=True)):
            after = self.detector.step(state, self.reference.sites, scored, self.t, limit)
            self.states[i] = self.detector.judged(after, limit)[0]
            rung.append(self.states[i].alarm and not state.alarm)
        self.t += 1
        return rung
