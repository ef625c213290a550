"""The examples beside flights: dryers (a simulated factory) and haze (real weather, two models as one candidate)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cli.main import main
from cli.validate import found
from triggers.config import parse_loop

EXAMPLES = Path(__file__).parents[2] / "examples"
BOTH = ("dryers", "haze")
DAYS = {"dryers": 30, "haze": 120}


def module(example: str, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"{example}_{name}", EXAMPLES / example / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A share of each example's table, made as its README makes the whole."""
    folder = tmp_path_factory.mktemp("tables")
    for name in BOTH:
        command = [sys.executable, EXAMPLES / name / "data.py", folder / f"{name}.parquet", "--days", str(DAYS[name])]
        subprocess.run(command, check=True, capture_output=True)
    return {name: folder / f"{name}.parquet" for name in BOTH}


@pytest.mark.parametrize("name", BOTH)
def test_the_table_is_what_loop_yaml_says(tables: dict[str, Path], name: str) -> None:
    folder = EXAMPLES / name
    assert found(folder / "loop.yaml", folder / "fleet.yaml") == []
    schema = parse_loop((folder / "loop.yaml").read_text()).schema
    table = pq.read_table(tables[name])
    assert {schema.timestamp, schema.site, schema.id, schema.label, schema.label_at} <= set(table.column_names)
    assert pc.count_distinct(table[schema.id]).as_py() == len(table)
    outside = {}
    for f in schema.features:
        if f.kind == "number":
            low, high = pc.min_max(table[f.name]).as_py().values()
            outside |= {} if f.range[0] <= low <= high <= f.range[1] else {f.name: (low, high)}
    assert set(outside) <= {"wind_speed"}  # of the weather's one hour with 1,048 mph, which the range is there for


def test_the_simulator_gives_the_same_rows_again_and_plants_what_it_says() -> None:
    data = module("dryers", "data")
    one, other = (data.table(days=180).to_pandas() for _ in range(2))
    assert one.equals(other)
    day = (one["sampled"] - one["sampled"].min()).dt.days
    late, wetter = day >= 144, day >= 90
    low = one[late].groupby("dryer")["inlet"].mean() - one[~late].groupby("dryer")["inlet"].mean()
    assert low.abs().sort_values().index[-1] == "harbour-3"
    assert low["harbour-3"] == pytest.approx(-12, abs=0.5)
    assert low.drop("harbour-3").abs().max() < 0.6
    assert one[wetter]["moisture_in"].mean() - one[~wetter]["moisture_in"].mean() == pytest.approx(4, abs=0.3)


@pytest.mark.wire
def test_the_bundle_says_at_a_site_what_its_two_models_say_together(tables: dict[str, Path], tmp_path: Path) -> None:
    from jobs.model import Model
    from jobs.table import load

    train = module("haze", "train")
    loop = parse_loop((EXAMPLES / "haze" / "loop.yaml").read_text())
    schema = loop.schema.telemetry(loop.task)
    rows = load(_as_a_job_gets_it(tables["haze"], loop, tmp_path), schema).labelled
    command = [sys.executable, EXAMPLES / "haze" / "train.py", "--data", tmp_path / "rows.parquet"]
    command += ["--loop", EXAMPLES / "haze" / "loop.yaml", "--out", tmp_path]
    env = {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=env)
    steps = json.loads((tmp_path / "orchestrate.json").read_text())["steps"]
    assert [(tmp_path / s["model"]).is_file() for s in steps] == [True, True, True]
    assert (tmp_path / "expect.onnx").stat().st_size < 500
    served = Model(tmp_path / "model.onnx", schema).score(rows)
    np.testing.assert_allclose(served, train.score(train.fit(rows, schema), rows), atol=1e-4)


def _as_a_job_gets_it(table: Path, loop: Any, folder: Path) -> Path:
    from jobs.table import read, write

    write(read(table, loop, loop.schema.site)[0], folder / "rows.parquet")
    return folder / "rows.parquet"


def goes_round(name: str, days: int, folder: Path) -> dict[str, Any]:
    """What `make example` does, on fewer days; its summary."""
    data, summary = folder / "table.parquet", folder / "summary.json"
    command = [sys.executable, EXAMPLES / name / "data.py", data, "--days", str(days)]
    subprocess.run(command, check=True, capture_output=True)
    files = ["--loop", str(EXAMPLES / name / "loop.yaml"), "--fleet", str(EXAMPLES / name / "fleet.yaml")]
    words = ["replay", *files, "--data", str(data), "--state", str(folder / "state"), "--port", "0"]
    assert main([*words, "--approve", "--json", str(summary)]) == 0
    told: dict[str, Any] = json.loads(summary.read_text())
    return told


@pytest.mark.wire
def test_a_share_of_the_factory_goes_round_the_loop(tmp_path: Path) -> None:
    """Drift is found, a candidate trained, gated, rolled out at night, and verified at three plants."""
    told = goes_round("dryers", 92, tmp_path)
    assert [run["phase"] for run in told["runs"]] == ["verified"]
    assert all(site["verified"] for site in told["sites"].values())


@pytest.mark.wire
def test_a_bundle_serves_its_sites(tmp_path: Path) -> None:
    """The first champion is a bundle: three sites verify it, open it, and their telemetry counts."""
    told = goes_round("haze", 110, tmp_path)
    assert told["rows"] > 1000
    [digest] = {site["candidate"] for site in told["sites"].values()}
    manifest = json.loads((tmp_path / "state" / "blobs" / "candidates" / digest / "manifest.json").read_text())
    assert {"chance.onnx", "amount.onnx", "expect.onnx", "orchestrate.json"} <= set(manifest["files"])


@pytest.mark.nightly
def test_a_better_bundle_replaces_the_first_one(tmp_path: Path) -> None:
    told = goes_round("haze", 256, tmp_path)
    assert "verified" in [run["phase"] for run in told["runs"]]
    assert all(site["verified"] for site in told["sites"].values())
