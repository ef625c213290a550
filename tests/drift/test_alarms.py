"""A bounded share of the simulation behind the promise; the whole of it is `python -m bench alarms --full`."""

from bench import alarms


def test_a_fleet_that_does_not_change_rings_no_more_often_than_asked() -> None:
    life = 250
    for row in alarms.table([alarms.fleet(seed, life, **alarms.SMALL) for seed in (0, 1)], life):
        if row["expected"] > 5:
            assert row["upper"] <= 1.2, row
