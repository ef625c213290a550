"""Two tables from the command line: what is compared, what is said, and how it ends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from cli.main import main
from drift.telemetry import Feature, Schema
from jobs.multivariate import told_apart

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as a job sets it; by default scikit-learn waits for busy cores

LOOP = """
loop: mine
schema:
  label: late
  prediction: p
  features: [{name: heat, column: x}, {name: kind, column: c, kind: category}]
"""


def a_table(n: int = 2000, seed: int = 0, shift: float = 0.0, **more: Any) -> pa.Table:
    r = np.random.default_rng(seed)
    columns = {
        "x": r.normal(size=n) + shift,
        "c": r.choice(["a", "b"], n),
        "row": np.arange(n),
        "ref": [f"r{i}" for i in range(n)],
        "when": ["2024-01-01T00:00:00Z"] * n,
        "p": r.random(n),
        "late": r.integers(0, 2, n),
    }
    return pa.table({k: pa.array(v) for k, v in (columns | more).items() if v is not None})


@pytest.fixture
def assess(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(then: pa.Table, now: pa.Table, *options: str) -> tuple[int, Any]:
        parquet.write_table(then, tmp_path / "then.parquet")
        csv.write_csv(now, tmp_path / "now.csv")
        (tmp_path / "loop.yaml").write_text(LOOP)
        options = tuple(str(tmp_path / o) if o == "loop.yaml" else o for o in options)
        tables = ["--reference", str(tmp_path / "then.parquet"), "--current", str(tmp_path / "now.csv")]
        status = main(["assess", *tables, *options])
        out, err = capsys.readouterr()
        return status, json.loads(out) if "--json" in options and not err else (err or out)

    return run


def test_a_column_that_moved_is_named_with_its_distances(assess: Any) -> None:
    status, found = assess(a_table(), a_table(seed=1, shift=0.5), "--json")
    assert (status, found["drifted"]) == (1, ["x"])
    assert set(found["features"]) == {"x", "c", "p", "late"}
    one = found["features"]["x"]
    assert one["ks"] <= 0.25 <= one["wasserstein"] <= one["ks_bound"] * 10
    assert one["p"] < 1e-9
    assert found["features"]["c"]["ks"] is None
    assert found["reason"].startswith("1 of 4 columns differ at a false discovery rate of 0.05: x (psi ")
    assert found["rows"] == {"reference": 2000, "current": 2000}
    assert set(found["left_out"]) == {"row", "ref", "when"}


def test_nothing_that_moved_ends_well_and_says_so(assess: Any) -> None:
    status, said = assess(a_table(), a_table(seed=3))
    assert status == 0
    assert "none of 4 columns differs" in said
    assert "left out: when (a time)" in said


def test_columns_that_are_not_in_both_or_not_alike_are_named(assess: Any) -> None:
    now = a_table(seed=1, c=np.arange(2000) % 3, new=np.ones(2000), p=None)
    _, found = assess(a_table(), now, "--json")
    why = found["left_out"]
    assert why["c"] == "text in one, number in the other"
    assert "only in" in why["p"]
    assert "only in" in why["new"]


def test_a_loop_names_the_features_and_score_and_label_stand_apart(assess: Any) -> None:
    status, found = assess(a_table(), a_table(seed=1, late=np.ones(2000)), "--loop", "loop.yaml", "--json")
    assert (status, found["drifted"]) == (1, [])
    assert set(found["features"]) == {"heat", "kind"}
    assert (found["prediction"]["drifted"], found["label"]["drifted"]) == (False, True)
    status, said = assess(a_table(), a_table(x=None), "--loop", "loop.yaml")
    assert status == 2
    assert "now.csv: no column x, which loop.yaml names" in said
    status, said = assess(a_table(), a_table(x=["much"] * 2000), "--loop", "loop.yaml")
    assert status == 2
    assert "column x: expected numbers" in said


@pytest.mark.parametrize("option", [["--fdr", "5"], ["--reference", "nowhere.csv"]])
def test_wrong_usage_says_what_was_expected(assess: Any, option: list[str]) -> None:
    status, said = assess(a_table(), a_table(), *option)
    assert status == 2
    assert "expected" in said


def test_a_turned_correlation_shows_in_no_column_and_to_a_model() -> None:
    r = np.random.default_rng(0)

    def rows(n: int, rho: float) -> dict[str, Any]:
        x = r.normal(size=n)
        return {"x": x, "y": rho * x + np.sqrt(1 - rho**2) * r.normal(size=n), "c": ["a", None] * (n // 2)}

    schema = Schema("", (Feature("x"), Feature("y"), Feature("c", "category")))
    turned, same = (
        told_apart(schema, rows(800, 0.8), rows(600, -0.8)),
        told_apart(schema, rows(800, 0.8), rows(600, 0.8)),
    )
    assert turned.drifted
    assert turned.auc is not None
    assert turned.auc > 0.8
    assert set(list(turned.features)[:2]) == {"x", "y"}
    assert turned.verdict.reason.startswith("a model tells 600 rows from 800 of the reference with AUC 0.")
    assert same.drifted is False
    assert told_apart(schema, rows(800, 0.8), rows(40, 0.8)).drifted is None
