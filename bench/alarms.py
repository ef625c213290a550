"""How often the detectors ring when nothing has changed, beside how often they were asked to."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from scipy.stats import chi2

from bench.world import Flights, Watch, World, keep_flights

LIMITS = (30.0, 90.0, 365.0)
SMALL = {"sites": 10, "features": 6, "rows": 150, "categories": 1}
FULL = {"sites": 100, "features": 20, "rows": 200, "categories": 2}
DAYS, LIFE, FLEETS = 60, 730, 51
KEPT = Path("build/bench/alarms.jsonl")


def fleet(seed: int, life: int, days: int = DAYS, **shape: float) -> list[int]:
    """How often each of LIMITS rang for one fleet, calibrated on `days` days and then watched for `life` windows."""
    return _rang(World(seed, **shape), life, days)  # type: ignore[arg-type]


def _rang(world: World, life: int, days: int) -> list[int]:
    watch = Watch(world, days, LIMITS)
    total = [0] * len(LIMITS)
    for _ in range(life):
        total = [n + rang for n, rang in zip(total, watch.step(), strict=True)]
    return total


def table(rang: Iterable[list[int]], life: int) -> list[dict[str, float]]:
    """Alarms of all fleets by limit, as a share of those asked for, with the upper end of the one-sided 95% interval of
    that share (alarms are counted as Poisson)."""
    fleets = list(rang)
    made = []
    for i, limit in enumerate(LIMITS):
        expected, alarms = len(fleets) * life / limit, sum(f[i] for f in fleets)
        upper = float(chi2.ppf(0.95, 2 * (alarms + 1)) / 2 / expected)
        made.append(
            {"limit": limit, "expected": expected, "alarms": alarms, "ratio": alarms / expected, "upper": upper}
        )
    return made


def run(fleets: int = 8, life: int = 365) -> list[dict[str, float]]:
    """A bounded share: small fleets."""
    return table((fleet(seed, life, **SMALL) for seed in range(fleets)), life)


def flights(fleets: int, days: int = DAYS, life: int = LIFE) -> list[dict[str, float]]:
    """Days of real flights, drawn again and again: the weather makes single days extreme, and not all of them are in
    the calibration of `days` days."""
    keep_flights()
    return table((_rang(Flights(1000 + seed), life, days) for seed in range(fleets)), life)


def full() -> list[dict[str, float]]:
    """All of it, hours of it: what was done by an earlier call is kept in build/bench/."""
    kept = _kept()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(one, [seed for seed in range(FLEETS) if seed not in kept]):
            print(f"  {len(_kept())} of {FLEETS} fleets", file=sys.stderr, flush=True)
    return table(_kept().values(), LIFE)


def one(seed: int) -> None:
    """One fleet of the full size, noted down."""
    rang = fleet(seed, LIFE, **FULL)
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    with KEPT.open("a") as file:
        file.write(json.dumps({"seed": seed, "rang": rang}) + "\n")


def _kept() -> dict[int, list[int]]:
    lines = KEPT.read_text().splitlines() if KEPT.exists() else []
    return {found["seed"]: found["rang"] for found in map(json.loads, lines)}


if __name__ == "__main__":
    one(int(sys.argv[1]))
