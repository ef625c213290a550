"""Bounded samples of however many rows: what comes twice, or in another order, changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import sample
from jobs.sample import Reservoir
from jobs.table import Table
from tests.jobs.conftest import DAY, START, Home, pumps


@pytest.fixture
def place(tmp_path: Path) -> Home:
    return Home(tmp_path)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.randoms(use_true_random=False))
def test_any_order_and_repetition_give_the_same_sample(n: int, size: int, random: object) -> None:
    from tests.jobs.conftest import LOOP
    from triggers.config import parse_loop

    schema = parse_loop(LOOP.format(task="binary", train="null", evaluate="null")).schema.telemetry("binary")
    table = pumps(n)
    whole = Reservoir(size, schema)
    whole.add(table)
    cut = [table.take(np.arange(i, min(i + 17, n))) for i in range(0, n, 17)] * 2
    random.shuffle(cut)  # type: ignore[attr-defined]
    pieces = Reservoir(size, schema)
    for piece in cut:
        pieces.add(piece)
    a, b = whole.table(), pieces.table()
    assert sorted(a.ids) == sorted(b.ids)
    assert len(a) == min(n, size)
    assert (np.diff(a.at) >= 0).all()
    assert len(pieces._keys) <= 4 * size + 17


def test_it_is_of_the_time_the_site_and_the_model_that_are_asked_for(place: Home) -> None:
    place.told(pumps(400))
    span = (START + 2 * DAY, START + 9 * DAY)

    def drawn(**more: object) -> Table:
        return sample.stored(place.blobs, "pumps", place.schema, span, rows=50, **more).table()  # type: ignore[arg-type]

    found = drawn(sites=["north"])
    assert len(found) == 50
    assert set(found.site) == {"north"}
    assert span[0] <= found.at.min() <= found.at.max() < span[1]
    assert len(drawn(candidate="c" * 64)) == 50
    assert len(drawn(candidate="d" * 64)) == 0
