"""How the time of a check and of folding grows with rows, and a picture of it: docs/growth.svg."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from bench import check
from drift.report import Limits, assess
from drift.sketch import sketch
from drift.telemetry import Rows

ROWS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
SITES, FEATURES = 100, 20
PLOT = Path("docs/growth.svg")


def run(repeats: int = 5) -> list[dict[str, float]]:
    """Median processor milliseconds by rows a window: a check of 100 sites x 20 features, a fold of 20 features."""
    reference = check.a_reference(SITES, FEATURES, 64, days=8, per_day=20)
    rng = np.random.default_rng(3)
    found = []
    for n in ROWS:
        columns = {f"f{i}": rng.standard_normal(n) for i in range(FEATURES)}
        table = Rows(range(n), np.zeros(n, np.int64), rng.random(n), columns)  # type: ignore[arg-type]
        sketch(table, reference)
        folds, checks, state = [], [], None
        for day in range(repeats + 1):
            windows = check.windows(reference, n, 1000 + day, day)
            start = time.process_time()
            _, state = assess(reference, windows, state, Limits())
            checks.append(time.process_time() - start)
            start = time.process_time()
            sketch(table, reference)
            folds.append(time.process_time() - start)
        found.append(
            {"rows": n, "check": 1e3 * float(np.median(checks[1:])), "fold": 1e3 * float(np.median(folds[1:]))}
        )
    return found


def plot(found: list[dict[str, float]]) -> str:
    """Both curves as SVG, both axes logarithmic."""
    wide, high, left, top, bottom = 640, 360, 70, 30, 50

    def x(rows: float) -> float:
        return left + (np.log10(rows) - 3) / 3 * (wide - left - 100)

    def y(ms: float) -> float:
        return high - bottom - (np.log10(ms) + 1) / 4 * (high - bottom - top)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif">']
    parts.append(f'<title>Milliseconds by rows in a window</title><rect width="{wide}" height="{high}" fill="#fff"/>')
    for power in range(-1, 4):
        at = y(10.0**power)
        parts.append(f'<path d="M{left} {at:.1f}H{wide - 100}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end" font-size="12">{10.0**power:g} ms</text>'
        )
    for power in range(3, 7):
        at = x(10.0**power)
        text = f"{10**power:,} rows"
        parts.append(f'<text x="{at:.1f}" y="{high - bottom + 20}" text-anchor="middle" font-size="12">{text}</text>')
    for name, label, color in (
        ("check", f"check, {SITES} sites", "#1b6ca8"),
        ("fold", "fold, one site", "#b5542a"),
    ):
        points = [(x(f["rows"]), y(f[name])) for f in found]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{color}"/>' for a, b in points]
        a, b = points[-1]
        parts.append(f'<text x="{a + 8:.1f}" y="{b + 4:.1f}" font-size="12" fill="{color}">{label}</text>')
    return "\n".join((*parts, "</svg>")) + "\n"
