"""A user's table is read as loop.yaml says, or refused in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import table as tables
from jobs.table import BadTable, Table


def assert_same(found: Table, wanted: Table) -> None:
    for name in ("ids", "at", "site", "label"):
        assert getattr(found, name).tolist() == getattr(wanted, name).tolist()
    for name, column in wanted.columns.items():
        if column.dtype == object:
            assert found.columns[name].tolist() == column.tolist()
        else:
            np.testing.assert_array_equal(found.columns[name], column)


def test_a_csv_is_read_by_the_names_of_loop_yaml(home: Any, rows: Callable[..., Table]) -> None:
    wanted = rows(50)
    found, known, left_out = tables.read(home.csv(wanted), home.loop())
    assert_same(found, wanted)
    assert (known - found.at).tolist() == [6 * 3600] * 50
    assert left_out == {}


def test_parquet_says_the_same_as_csv(home: Any, rows: Callable[..., Table]) -> None:
    import pyarrow.parquet as pq
    from pyarrow import csv

    wanted = rows(50)
    pq.write_table(csv.read_csv(home.csv(wanted)), home.folder / "pumps.parquet")
    assert_same(tables.read(home.folder / "pumps.parquet", home.loop())[0], wanted)


def test_rows_that_cannot_be_placed_are_left_out_and_counted_by_reason(home: Any) -> None:
    path = home.folder / "t.csv"
    rows = ["a,,n,1", "b,2024-01-02,,1", ",2024-01-02,n,1", "c,2024-01-03,n,0", "c,2024-01-02,n,1", "c,2024-01-02,s,1"]
    path.write_text("id,at,plant,failed,pressure,temperature,maker\n" + "".join(f"{r},1,1,x\n" for r in rows))
    found, _, left_out = tables.read(path, home.loop())
    assert list(zip(found.ids, found.site, found.label.tolist(), strict=True)) == [("c", "n", 1.0), ("c", "s", 1.0)]
    assert left_out == {
        "rows without a time": 1,
        "rows without a site": 1,
        "rows without an id": 1,
        "rows whose id came before (c)": 1,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,at,plant,failed,pressure\na,2024-01-01,n,1,1\n", "no column temperature, maker; it has id, at"),
        ("id,at,plant,failed,pressure,temperature,maker\na,2024-01-01,n,1,high,1,x\n", "pressure: expected numbers"),
        ("id,at,plant,failed,pressure,temperature,maker\na,2024-01-01,n,7,1,1,x\n", "failed: expected 0 and 1"),
        ("id,at,plant,failed,pressure,temperature,maker\na,soon,n,1,1,1,x\n", "no row has both a time in at"),
    ],
)
def test_a_wrong_table_is_refused_with_its_column(home: Any, text: str, words: str) -> None:
    path = home.folder / "t.csv"
    path.write_text(text)
    with pytest.raises(BadTable, match=words):
        tables.read(path, home.loop())


def test_no_such_file(home: Any) -> None:
    with pytest.raises(BadTable, match="no such file"):
        tables.read(Path("nowhere.csv"), home.loop())


def test_rows_come_back_from_parquet_as_they_were(home: Any, rows: Callable[..., Table]) -> None:
    wanted = rows(80)
    tables.write(wanted, home.folder / "rows.parquet")
    found = tables.load(home.folder / "rows.parquet", home.schema)
    assert_same(found, wanted)
    assert found.digest() == wanted.digest()


def test_a_digest_tells_any_two_tables_apart(rows: Callable[..., Table]) -> None:
    whole = rows(20)
    assert whole.digest() == rows(20).digest()
    assert whole.digest() != whole.take(np.arange(19)).digest()
    other = {**whole.columns, "heat": whole.columns["heat"] + 1e-9}
    assert whole.digest() != Table(whole.ids, whole.at, whole.site, whole.score, whole.label, other).digest()


@pytest.mark.parametrize("share", [None, 0.4, 0.6, 0.05])
def test_no_site_has_more_than_its_share_and_what_is_cut_is_told(
    rows: Callable[..., Table], share: float | None
) -> None:
    table = rows(3000)
    sizes = np.array([0.7, 0.2, 0.04, 0.03, 0.03])
    table = replace(table, site=np.random.default_rng(0).choice(np.array(list("abcde"), object), 3000, p=sizes))
    keep, cut = table.within(share)
    left = table.take(keep).labelled.sites()
    allowed = max(0.6 if share is None else share, 1 / len(left))
    assert max(left.values()) <= allowed * sum(left.values()) + 1
    assert {s: n - left[s] for s, n in table.labelled.sites().items() if n > left[s]} == cut
    assert "a" in cut
    assert np.isnan(table.take(~keep).label).sum() == 0, "only labelled rows are taken out"
    assert np.ptp(table.take(keep & (table.site == "a")).at) > 0.95 * np.ptp(table.at)
