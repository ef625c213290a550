"""Telemetry that means harm, and has a test nowhere else."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.triggers.world import START, World, some_rows
from triggers import intake, loop

HOUR = timedelta(hours=1)


def a_batch(world: World, name: str, n: int) -> bytes:
    """A batch of site a of the first hour, with n rows."""
    rows, _ = some_rows("a", START, HOUR, n)
    span = {"start": int(START.timestamp()), "end": int((START + HOUR).timestamp())}
    return world.payload(world.batch("a", id=name, rows=rows, labels=None, **span))


@pytest.mark.attack
def test_a_replay_after_the_dedupe_window_counts_nothing(world: World) -> None:
    """While it may be late a batch is known by its record; afterwards it is too old to be taken at all."""
    world.clock.set(START + HOUR)
    payload = a_batch(world, "b1", 5)
    assert intake.ingest(world.ports, [payload]).rows == 5
    before = world.counted("a")
    assert before
    for days in (1, 9, 12, 21, 40):
        world.clock.set(START + timedelta(days=days))
        loop.forget(world.ports, "line")
        done = intake.ingest(world.ports, [payload])
        assert (done.accepted, done.duplicate + done.quarantined) == (0, 1), f"after {days} days"
        assert world.counted("a") == before


@pytest.mark.attack
def test_ids_that_look_alike_are_different_batches(world: World) -> None:
    ids = (
        "b",
        "B",
        "e\u0301",
        "\u00e9",
        "\u212a",
        "K",
        "k",
        "a/b",
        "a#b",
        "a?b",
        "a%2fb",
        "..",
        "batch/b",
        "b ",
        "\u200bb",
    )
    world.clock.set(START + HOUR)
    for n, name in enumerate(ids):
        found = intake.ingest(world.ports, [a_batch(world, name, 3 + n)])
        assert (found.accepted, found.duplicate, found.rows, found.reasons) == (1, 0, 3 + n, []), name


@pytest.mark.attack
@pytest.mark.nightly
def test_one_poison_in_five_thousand_costs_only_itself(world: World) -> None:
    world.clock.set(START + HOUR)
    good = a_batch(world, "@name@", 1)
    payloads = [good.replace(b"@name@", f"b{n}".encode()) for n in range(4999)]
    payloads.insert(2500, payloads[0].replace(b'"batch":', b'"\\ud800":1,"batch":'))
    counted = quarantined = 0
    for n in range(0, len(payloads), 1000):
        done = intake.ingest(world.ports, payloads[n : n + 1000])
        counted, quarantined = counted + done.accepted, quarantined + done.quarantined
    assert (counted, quarantined) == (4999, 1)
