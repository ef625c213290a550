"""A policy over history: the flights with a score, and something done to them."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from cli.backtest import sweep
from cli.main import main
from triggers.config import parse_loop
from triggers.errors import Refused

os.environ.setdefault("OMP_NUM_THREADS", "1")

_SPEC = importlib.util.spec_from_file_location("flights_data", Path(__file__).parents[2] / "examples/flights/data.py")
assert _SPEC is not None
assert _SPEC.loader is not None
flights = importlib.util.module_from_spec(_SPEC)
sys.modules["flights_data"] = flights
_SPEC.loader.exec_module(flights)

LOOP = """
loop: flights
schema:
  timestamp: at
  site: origin
  id: flight
  label: late
  label_at: arrived
  {prediction}
  features:
    - {{ name: carrier, kind: category }}
    - {{ name: distance }}
    - {{ name: seats, range: [1, 600] }}
    - {{ name: noise }}
bootstrap: {{ until: 2013-02-10T00:00:00Z }}
telemetry: {{ settle: 30h }}
drift: {{ minimum_rows: 30, quality: {{ missing: 0.5 }} }}
retrain: {{ confirm: 2, cooldown: {cooldown}, minimum_rows: 1000 }}
training: {{ window: 30d, holdout: 5d{script} }}
gates: {{ minimum_rows: 200, confidence: 0.8 }}
"""


TRAIN = """
import argparse, pathlib
import numpy as np
import pyarrow.parquet as pq
from onnx import TensorProto, helper

asked = argparse.ArgumentParser()
for name in ("--data", "--loop", "--out"):
    asked.add_argument(name)
told = asked.parse_args()
rows = pq.read_table(told.data)
x, y = (rows[name].to_numpy(zero_copy_only=False).astype(float) for name in ("noise", "label"))
slope = float(np.polyfit(x[~np.isnan(y)], y[~np.isnan(y)], 1)[0])
values = {"middle": x.mean(), "slope": slope * 4}
graph = helper.make_graph(
    [
        helper.make_node("Sub", ["noise", "middle"], ["centred"]),
        helper.make_node("Mul", ["centred", "slope"], ["scaled"]),
        helper.make_node("Sigmoid", ["scaled"], ["score"]),
    ],
    "line",
    [helper.make_tensor_value_info("noise", TensorProto.FLOAT, [None, 1])],
    [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
    [helper.make_tensor(name, TensorProto.FLOAT, [1], [value]) for name, value in values.items()],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
pathlib.Path(told.out).mkdir(exist_ok=True)
pathlib.Path(told.out, "model.onnx").write_bytes(model.SerializeToString())
"""
"""A line through one feature: scikit-learn would take longer to be imported than all the rest."""


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    """January to March, every third flight (times as at the airport), with a column of noise and a score."""
    with zipfile.ZipFile(flights.source() / "flights.csv.zip") as archive:
        raw = csv.read_csv(
            io.BytesIO(archive.read("flights.csv")), convert_options=csv.ConvertOptions(null_values=["NA"])
        )
    days = np.array([np.datetime64(f"2013-{m:02}-01") for m in range(1, 13)])[raw["month"].to_numpy() - 1]
    minute = raw["hour"].to_numpy() * 60 + raw["minute"].to_numpy()
    at = (days + raw["day"].to_numpy() - 1).astype("datetime64[s]").astype(np.int64) + minute * 60
    late = raw["arr_delay"].to_numpy().astype(np.float64)
    order = np.argsort(at, kind="stable")[: np.count_nonzero(at < seconds("2013-03-25"))][::3]
    r = np.random.default_rng(0)
    n = len(order)
    return {
        "flight": np.array([f"f{i}" for i in order], dtype=object),
        "at": at[order],
        "origin": raw["origin"].to_numpy()[order],
        "carrier": raw["carrier"].to_numpy()[order],
        "late": np.where(np.isnan(late), np.nan, late > 15)[order],
        "arrived": at[order] + 6 * 3600,
        "distance": raw["distance"].to_numpy()[order].astype(np.float64),
        "seats": r.integers(20, 300, n).astype(np.float64),
        "noise": r.normal(size=n),
        "score": 1 / (1 + np.exp(-(minute[order] / 400 - 3 + r.normal(0, 0.5, n)))),
    }


@pytest.fixture
def backtest(tmp_path: Path, capsys: pytest.CaptureFixture[str], table: dict[str, Any]) -> Any:
    def run(*options: str, served: bool = True, cooldown: str = "14d", **changed: np.ndarray) -> tuple[int, Any]:
        columns = {name: pa.array(c, from_pandas=True) for name, c in {**table, **changed}.items()}
        if not served:
            del columns["score"]
        pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
        (tmp_path / "loop.yaml").write_text(
            LOOP.format(
                prediction="prediction: score" if served else "", cooldown=cooldown, script=", script: train.py"
            )
        )
        (tmp_path / "train.py").write_text(TRAIN)
        files = ["--loop", str(tmp_path / "loop.yaml"), "--data", str(tmp_path / "rows.parquet")]
        status = main(["backtest", *files, *options])
        out, err = capsys.readouterr()
        return status, json.loads(out) if status == 0 and "--json" in options else out + err

    return run


def seconds(day: str) -> int:
    return int(np.datetime64(day).astype("datetime64[s]").astype(np.int64))


def since(table: dict[str, Any], day: str) -> np.ndarray:
    return table["at"] >= seconds(day)


def test_what_began_to_drift_is_said_when_and_where_and_what_would_have_followed(
    backtest: Any, table: dict[str, Any]
) -> None:
    moved = table["noise"] + 1.0 * since(table, "2013-03-05")
    status, found = backtest("--json", noise=moved)
    assert status == 0
    assert {"windows", "alarms", "retrains", "covered", "performance"} <= found.keys()
    assert found["windows"] == 3 * 43  # three airports, 10 February to 24 March
    first = next(a for a in found["alarms"] if a["kind"] == "statistical" and "noise" in a["features"])
    assert first["scope"] == "fleet"
    assert first["sites"] == ["EWR", "JFK", "LGA"]
    assert "2013-03-07" <= first["at"][:10] <= "2013-03-08"  # checked 30 hours after the end of the window
    after = [r for r in found["retrains"] if r["at"] >= first["at"]]
    assert after[0]["scope"] == "fleet"
    assert "feature drift in" in after[0]["reason"]
    assert found["performance"]["metric"] == "auc"
    assert list(found["performance"]["static"]) == ["2013-02", "2013-03"]
    assert "loop" not in found["performance"]
    assert {"asked", "kept", "why"} <= found["covered"].keys()


def test_a_broken_rule_has_its_own_name_and_its_site(backtest: Any, table: dict[str, Any]) -> None:
    broken = since(table, "2013-03-01") & (table["origin"] == "JFK")
    _, found = backtest("--json", seats=np.where(broken, np.nan, table["seats"]))
    rule = next(a for a in found["alarms"] if a["kind"] == "missing")
    assert (rule["scope"], rule["sites"], rule["features"]) == ("site", ["JFK"], ["seats"])
    assert rule["at"][:10] == "2013-03-03"


def test_policies_are_compared_in_one_pass_and_alone_they_say_the_same(backtest: Any) -> None:
    _, found = backtest("--json", "--sweep", "false_alarms=1 per 10 days,1 per 90 days", "--sweep", "cooldown=3d,30d")
    policies = [p["policy"] for p in found["policies"]]
    assert policies == [
        {"drift.false_alarms": a, "retrain.cooldown": c}
        for a in ("1 per 10 days", "1 per 90 days")
        for c in ("3d", "30d")
    ]
    _, alone = backtest("--json", "--sweep", "false_alarms=1 per 90 days", "--sweep", "cooldown=30d")
    assert alone["policies"][0] == found["policies"][3]
    assert len(found["policies"][0]["retrains"]) >= len(found["policies"][1]["retrains"])
    status, said = backtest("--sweep", "quorum=0.3,0.9")
    assert status == 0
    assert "Policies on the same windows" in said


def test_with_retrain_each_model_is_trained_judged_and_set_beside_the_first(
    backtest: Any, table: dict[str, Any], tmp_path: Path
) -> None:
    told = {"served": False, "cooldown": "60d", "noise": table["noise"] + 3.0 * since(table, "2013-03-02")}
    status, found = backtest("--json", "--retrain", "--work", str(tmp_path / "work"), **told)
    assert status == 0
    assert found["retrains"]
    for retrain in found["retrains"]:
        assert retrain["outcome"] in ("passed", "failed", "inconclusive")
        assert retrain["verdict"]
        assert len(retrain["candidate"]) == 64
    performance = found["performance"]
    assert list(performance["loop"]) == list(performance["static"]) == ["2013-02", "2013-03"]
    assert performance["loop"]["2013-02"] == performance["static"]["2013-02"]
    assert performance["gain"]["low"] <= performance["gain"]["mean"] <= performance["gain"]["high"]
    trained = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "work" / "jobs").glob("*/result.json")}
    _, again = backtest("--json", "--retrain", "--work", str(tmp_path / "work"), **told)
    assert again == found
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "work" / "jobs").glob("*/result.json")} == trained


def test_a_person_reads_it_in_lines(backtest: Any, table: dict[str, Any]) -> None:
    status, said = backtest(noise=table["noise"] + 1.0 * since(table, "2013-03-05"))
    assert status == 0
    assert "What it would have said" in said
    assert "feature drift in noise" in said
    assert "129 windows; one false alarm in 90: " in said


def test_no_score_anywhere_is_refused_with_the_field(backtest: Any, table: dict[str, Any]) -> None:
    status, said = backtest(score=np.full(len(table["score"]), np.nan))
    assert status == 2
    assert "schema.prediction: column score has no value in the bootstrap" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("cooldown", "expected FIELD=A,B"),
        ("colour=1,2", "expected one of drift.false_alarms"),
        ("cooldown=2 weeks", "Expected `str` matching regex"),
        ("bins=8,16", "expected one of drift.false_alarms"),
        ("drift.quality.minimum_rows=1," + ",".join(map(str, range(70))), "expected at most 64"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_with_what_is_expected(words: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        sweep(parse_loop(LOOP.format(prediction="", cooldown="14d", script=""), "loop.yaml"), [words])
