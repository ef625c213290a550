"""Whatever comes twice, late or out of order: the same table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from drift.envelope import bundle, encode
from drift.telemetry import Labels
from jobs.assemble import Assembled, assemble
from jobs.table import Table

DAY = 86400


def gathered(home: Any, start: int = 0, end: int = 1 << 40, sites: list[str] | None = None) -> Assembled:
    return assemble(home.blobs, "pumps", home.schema, start, end, sites)


def test_what_was_told_is_what_is_trained_on(home: Any, rows: Callable[..., Table]) -> None:
    told = rows(400)
    home.told(told)
    found = gathered(home)
    order = np.lexsort((told.site.astype(str), told.at))
    assert found.left_out == {}
    assert found.table.ids.tolist() == told.ids[order].tolist()
    assert found.table.label.tolist() == told.label[order].tolist()
    assert found.table.columns["maker"].tolist() == told.columns["maker"][order].tolist()
    np.testing.assert_array_equal(found.table.columns["pressure"], told.columns["pressure"][order])


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), twice=st.floats(0, 1), late=st.integers(0, 40))
def test_duplicates_late_labels_and_any_order_change_nothing(
    seed: int, twice: float, late: int, home_at: Callable[[Path], Any], rows: Callable[..., Table]
) -> None:
    random = np.random.default_rng(seed)
    told = rows(60, seed=seed, days=5)
    with TemporaryDirectory() as folder:
        home = home_at(Path(folder))
        batches = []
        for site in ("north", "south"):
            own = told.take(told.site == site)
            for i, part in enumerate(np.array_split(random.permutation(len(own)), 4)):
                some = own.take(part)
                batches.append(home.batch(site, f"rows-{i}", int(home.start + i * DAY), some, None))
                labels = home.batch(site, f"labels-{i}", int(home.start + (i + late) * DAY), None, some)
                batches.append(labels)
                if random.random() < twice:  # the same rows and labels once more, in another batch
                    batches.append(home.batch(site, f"again-{i}", int(home.start + (i + 50) * DAY), some, some))
        for i in random.permutation(len(batches)):
            home.store(batches[i])
        found = gathered(home).table
    assert sorted(zip(found.site, found.ids, found.label, strict=True)) == sorted(
        zip(told.site, told.ids, told.label, strict=True)
    )
    assert (np.diff(found.at) >= 0).all()


def test_the_first_label_counts_and_the_other_is_reported(home: Any, rows: Callable[..., Table]) -> None:
    one = rows(1)
    home.store(home.batch("north", "a", home.start, one, None))
    for i, label in enumerate((1.0, 0.0, 1.0)):
        said = Labels(one.ids.tolist(), one.at, np.array([label]))
        b = home.batch("north", f"l{i}", home.start + DAY * (i + 1), None, None)
        home.store(type(b)(b.schema, b.loop, b.candidate, b.site, b.id, b.start, b.end, labels=said))
    found = gathered(home)
    assert found.table.label.tolist() == [1.0]
    assert found.left_out == {"labels that contradict an earlier one": 1}


def test_one_id_at_two_sites_is_two_rows(home: Any, rows: Callable[..., Table]) -> None:
    one = rows(1)
    home.store(home.batch("north", "a", home.start, one, one), home.batch("south", "a", home.start, one, None))
    found = gathered(home).table
    assert found.site.tolist() == ["north", "south"]
    assert np.isnan(found.label).tolist() == [False, True]


def test_only_the_rows_of_the_time_and_the_sites_asked_for(home: Any, rows: Callable[..., Table]) -> None:
    told = rows(400)
    home.told(told)
    start, end = home.start + 5 * DAY, home.start + 9 * DAY
    found = gathered(home, start, end, ["south"]).table
    wanted = told.take((told.at >= start) & (told.at < end) & (told.site == "south"))
    assert sorted(found.ids) == sorted(wanted.ids)
    assert np.isfinite(found.label).all()


def test_a_batch_that_began_long_before_is_read_for_the_rows_of_its_end(home: Any, rows: Callable[..., Table]) -> None:
    told = rows(400)
    home.store(home.batch("north", "a", home.start, told.take(told.site == "north"), None))
    start = home.start + 9 * DAY
    wanted = told.take((told.at >= start) & (told.site == "north"))
    assert len(wanted)
    assert sorted(gathered(home, start, home.start + 30 * DAY).table.ids) == sorted(wanted.ids)


def test_what_cannot_be_read_costs_only_itself_and_is_counted(home: Any, rows: Callable[..., Table]) -> None:
    told = rows(40)
    home.told(told)
    folder = home.blobs / "batches" / "pumps" / "north"
    bad = encode(home.batch("north", "x", home.start, told.take(np.arange(2)), None), home.schema)
    (folder / "2024-01-03-garbage").write_bytes(b"garbage")
    (folder / "2024-01-03-poison").write_bytes(
        bundle([b"{", bad.replace(b'"at":[', b'"at":["yesterday",').replace(b"p0", b"q0")])
    )
    found = gathered(home)
    assert len(found.table) == 40
    assert len(found.left_out) >= 2
    assert found.left_out["files that cannot be read (not a bundle of batches)"] == 1


def test_a_batch_that_was_kept_twice_counts_once(home: Any, rows: Callable[..., Table]) -> None:
    told = rows(10)
    b = home.batch("north", "a", home.start, told, told)
    c = home.batch("north", "b", home.start, None, None)
    home.store(b)
    folder = home.blobs / "batches" / "pumps" / "north"
    (folder / "2024-01-01-again").write_bytes(bundle([encode(b, home.schema)]))
    assert c.rows is None
    found = gathered(home)
    assert (len(found.table), found.left_out) == (10, {})


def test_nothing_stored_is_an_empty_table(home: Any) -> None:
    found = gathered(home)
    assert len(found.table) == 0
    assert set(found.table.columns) == {"pressure", "heat", "maker"}
