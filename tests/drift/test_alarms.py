"""A bounded share of the simulation behind the promise; the whole of it is `python -m bench alarms --full`."""

import numpy as np

from bench import alarms
from bench.world import Watch, World


def test_a_fleet_that_does_not_change_rings_no_more_often_than_asked() -> None:
    life = 250
    for row in alarms.table([alarms.fleet(seed, life, **alarms.SMALL) for seed in (0, 1)], life):
        if row["expected"] > 5:
            assert row["upper"] <= 1.2, row


def test_an_outage_that_training_never_saw_rings_where_it_stays_and_not_by_itself() -> None:
    def outage(x: np.ndarray, site: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        here = np.flatnonzero(site == 0)
        x[here[: len(here) // 10], :2] = np.nan
        return x

    watch = Watch(World(5, **alarms.SMALL), 40, (90.0,))  # type: ignore[arg-type]
    passing = [watch.step(change) for change in (None, outage, None, None, None)]
    assert not any(rang for (rang,) in passing)
    staying = [watch.step(outage) for _ in range(6)]
    assert any(rang for (rang,) in staying)
