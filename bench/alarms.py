"""How often the detectors ring when nothing has changed, beside how often they were asked to."""

from __future__ import annotations

from scipy.stats import chi2

from bench.world import Watch, World


def run(limit: float, runs: int, life: int, days: int = 60, **shape: float) -> dict[str, float]:
    """Alarms in `runs` fleets, each calibrated on `days` days and then watched for `life` windows, as a share of those
    asked for, with the upper end of its one-sided 95% interval (Poisson)."""
    alarms = on = 0
    for seed in range(runs):
        watch = Watch(World(seed, **shape), days, limit)  # type: ignore[arg-type]
        for _ in range(life):
            before = watch.state.alarm
            watch.step()
            alarms += watch.state.alarm and not before
            on += watch.state.alarm
    asked = runs * life / limit
    return {
        "limit": limit,
        "asked": asked,
        "alarms": float(alarms),
        "ratio": alarms / asked,
        "upper": float(chi2.ppf(0.95, 2 * (alarms + 1)) / 2 / asked),
        "share of windows in alarm": on / runs / life,
    }
