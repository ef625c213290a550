"""The dryers' table, from a simulator: `python examples/dryers/data.py dryers.parquet [--days 180]` (2 s).

No plant gave these rows. What is simulated, and what is planted, is all in this file:

- Product goes through a hot-air dryer and loses water at a falling rate, as thin-layer drying does (Lewis 1921):
  out = e + (in - e) exp(-k t), with k growing with the air's temperature above its wet bulb and with its flow, and e
  the moisture that is in balance with the air outside.
- The air cools by what it evaporates (2,260 kJ/kg against 1.006 kJ/kg K).
- Each dryer has a strength of its own and fouls by 8% in three weeks, then it is cleaned; weather has seasons, days and
  spells, and nobody measures it; sensors and laboratory have noise. An operator lets wetter product stay longer, not
  quite long enough.
- Planted from day 90 on: another supplier's raw material, wetter and harder to dry, at all plants.
- Planted from day 144 on: the inlet thermometer of one dryer in one plant reads 12 K too low.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PLANTS = {"north": 4, "harbour": 4, "valley": 3}
"""Dryers of each plant."""

PRODUCTS = np.array(["bran", "flakes", "pellets"])
STEP = 30
"""Minutes from one sample of a dryer to the next."""

DAY = 24 * 60 // STEP
OTHER_MATERIAL, WRONG_THERMOMETER = 90, 144
"""Days on which what is planted begins."""

START = np.datetime64("2024-01-01T00:00", "s")


def table(days: int = 180, seed: int = 7) -> pa.Table:
    """One row for each sample, in the order of time. The same arguments give the same rows."""
    rng = np.random.default_rng(seed)
    parts = []
    for p, (plant, dryers) in enumerate(PLANTS.items()):
        outside, humid = _weather(days, p, rng)
        parts += [_dryer(plant, d, days, outside, humid, rng) for d in range(dryers)]
    whole = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
    order = np.lexsort((whole["sample"], whole["sampled"]))
    columns = {k: pa.array(v[order], from_pandas=True) for k, v in whole.items()}
    for k in ("sampled", "analysed"):
        columns[k] = columns[k].cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    return pa.table(columns)


def _weather(days: int, plant: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Temperature [°C] and water in the air [g/kg], by sample."""
    t = np.arange(days * DAY) / DAY
    spell = np.zeros(days + 2)
    for i in range(1, len(spell)):
        spell[i] = 0.8 * spell[i - 1] + rng.normal(0, 2)
    season = 10 - 9 * np.cos(2 * np.pi * (t - 15) / 365)
    outside = season + 4 * np.sin(2 * np.pi * (t - 0.3)) + np.interp(t, np.arange(len(spell)), spell) - plant
    return outside, np.clip(4 + 0.25 * outside + rng.normal(0, 0.4, len(t)), 1, None)


def _dryer(
    plant: str, number: int, days: int, outside: np.ndarray, humid: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    n = days * DAY
    day = np.arange(n) / DAY
    since, other = (day + 5 * number) % 21, day >= OTHER_MATERIAL
    product = np.repeat(rng.integers(0, len(PRODUCTS), n // 16 + 1), 16)[:n]  # eight hours of each
    strength = rng.normal(1, 0.04) * (1 - 0.08 * since / 21)
    feed = rng.normal(900, 40, n)  # kg/h
    wet_in = np.array([22.0, 26.0, 30.0])[product] + rng.normal(0, 1.2, n) + 4 * other
    inlet = rng.normal(118, 4, n)
    air = rng.normal(12_000, 500, n)  # kg/h
    bound = np.array([1.0, 0.92, 1.06])[product] * np.where(other, 0.86, 1.0)
    balance = 3 + 0.25 * humid
    rate = 0.085 * strength * bound * (inlet - 35 - outside / 3) / 80 * (air / 12_000) ** 0.8  # 1/min
    stay = np.log((wet_in - balance) / 6.0) / 0.085 * rng.normal(0.97, 0.02, n)  # as the operator sets it
    wet_out = balance + (wet_in - balance) * np.exp(-rate * stay)
    outlet = inlet - feed * (wet_in - wet_out) / 100 * 2260 / (1.006 * air)
    reads = inlet + rng.normal(0, 0.5, n)
    if (plant, number) == ("harbour", 2):
        reads = np.where(day >= WRONG_THERMOMETER, reads - 12, reads)
    sampled = START + (np.arange(n) * STEP * 60).astype("timedelta64[s]")
    name = f"{plant}-{number + 1}"
    measured = rng.random(n) < 0.9  # the laboratory loses one sample in ten
    return {
        "sample": np.array([f"{name}-{i}" for i in range(n)]),
        "sampled": sampled,
        "plant": np.full(n, plant),
        "dryer": np.full(n, name),
        "product": PRODUCTS[product],
        "feed": feed.round(1),
        "moisture_in": (wet_in + rng.normal(0, 0.3, n)).round(2),
        "inlet": reads.round(1),
        "outlet": (outlet + rng.normal(0, 0.5, n)).round(1),
        "air": air.round(0),
        "stay": stay.round(2),
        "moisture": np.where(measured, (wet_out + rng.normal(0, 0.15, n)).round(2), np.nan),
        "analysed": sampled + np.timedelta64(4, "h"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--days", type=int, default=180)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(args.days), args.out)
    print(f"{args.out}: {args.days} days of {sum(PLANTS.values())} dryers")


if __name__ == "__main__":
    main()
