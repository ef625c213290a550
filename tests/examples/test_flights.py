"""The example that a user copies: its table, its configuration, and the candidates that are meant to be caught."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge.scorer import Scorer
from jobs import table as tables
from jobs.metrics import compare
from jobs.model import Encoder, export
from jobs.table import Table
from tests.triggers.samples import NEW, NOW, OLD, evidence
from triggers.config import Loop, parse, parse_loop
from triggers.events import Comparison
from triggers.gates import judge

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as a job sets it
FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"
LOOP = parse_loop((FLIGHTS / "loop.yaml").read_text())
SCHEMA = LOOP.schema.telemetry("binary")

RAW = """year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,\
origin,dest,air_time,distance,hour,minute,time_hour
2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,x
2013,1,1,NA,1815,NA,NA,2145,NA,AA,791,NA,LGA,DFW,NA,1389,18,15,x
2013,7,1,2359,2359,0,400,340,20,B6,745,N2,JFK,PSE,200,1617,23,59,x
2013,1,1,600,545,15,900,835,16,UA,1,N14228,EWR,IAH,227,1400,5,45,x
"""
WEATHER = """origin,year,month,day,hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,pressure,visib,time_hour
EWR,2013,1,1,4,39.02,26,59,270,10,NA,0,1012,10,x
EWR,2013,1,1,5,99,26,59,270,10,NA,0,1012,10,x
JFK,2013,7,1,22,71,60,80,NA,5,NA,0.1,NA,9,x
"""
PLANES = """tailnum,year,type,manufacturer,model,engines,seats,speed,engine
N14228,1999,Fixed wing,BOEING,737,2,149,NA,Turbo-fan
"""
AIRPORTS = """faa,name,lat,lon,alt,tz,dst,tzone
IAH,Houston,29,-95,97,-6,A,America/Chicago
DFW,Dallas,32,-97,607,-6,A,America/Chicago
"""


def module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"flights_{name}", FLIGHTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Four flights, by column."""
    folder = tmp_path_factory.mktemp("data")
    with zipfile.ZipFile(folder / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", RAW)
    for name, text in (("weather", WEATHER), ("planes", PLANES), ("airports", AIRPORTS)):
        (folder / f"{name}.csv").write_text(text)
    found: dict[str, Any] = module("data").flights(folder)
    return found


def test_loop_and_fleet_are_valid_and_agree() -> None:
    loop, fleet = parse((FLIGHTS / "loop.yaml").read_text(), (FLIGHTS / "fleet.yaml").read_text())
    assert {s.name for s in fleet.sites} == {"EWR", "JFK", "LGA"}
    assert {s.ring for s in fleet.sites} == set(loop.rollout.rings)
    for script in (loop.training.script, loop.evaluation.script):
        assert script is not None
        assert (FLIGHTS / script).is_file()


def test_the_table_has_every_column_that_loop_yaml_names(flights: dict[str, Any]) -> None:
    s = LOOP.schema
    assert {s.timestamp, s.site, s.id, s.label, s.label_at, *SCHEMA.names} == set(flights)


def test_every_value_is_plausible_by_loop_yaml(flights: dict[str, Any]) -> None:
    for feature in SCHEMA.features:
        if feature.kind == "number":
            values = flights[feature.name]
            known = values[np.isfinite(values)]
            assert feature.low is None or (known >= feature.low).all()
            assert feature.high is None or (known <= feature.high).all()


def test_times_are_utc_by_the_zones_of_both_ends(flights: dict[str, Any]) -> None:
    houston = datetime(2013, 1, 1, 10, 15, tzinfo=UTC).timestamp()
    ponce = datetime(2013, 7, 2, 3, 59, tzinfo=UTC).timestamp()  # in summer, by New York's clock
    assert flights["scheduled"][[0, 3]].tolist() == [houston, ponce]
    assert flights["duration"][[0, 3]].tolist() == [
        3 * 60 + 4 + 60,
        221,
    ]  # 8:19 in Houston; Puerto Rico keeps no summer time
    assert flights["arrived"][0] == houston + (244 + 11) * 60


def test_more_than_fifteen_minutes_is_late_and_cancelled_is_not_known(flights: dict[str, Any]) -> None:
    np.testing.assert_array_equal(flights["late"], [0, 1, np.nan, 1])
    assert flights["arrived"][2] == -1


def test_the_weather_is_that_of_the_hour_before(flights: dict[str, Any]) -> None:
    np.testing.assert_array_equal(flights["temp"], [39.02, 39.02, np.nan, 71])
    np.testing.assert_array_equal(flights["plane_age"], [14, 14, np.nan, np.nan])
    assert flights["engine"].tolist() == ["Turbo-fan", "Turbo-fan", None, None]
    assert flights["departures"].tolist() == [2, 2, 1, 1]


@pytest.fixture
def weather() -> Callable[..., Table]:
    """Makes flights that differ in their weather alone."""

    def made(humid: list[float], wind: list[float]) -> Table:
        n = len(humid)
        texts = np.full(n, "x", dtype=object)
        columns = {f.name: np.zeros(n) if f.kind == "number" else texts for f in SCHEMA.features}
        columns |= {"humid": np.array(humid), "wind_speed": np.array(wind)}
        label = np.arange(n) % 2.0
        return Table(
            texts, np.arange(n) * 3600, np.array(["EWR", "LGA", "EWR"] * n, dtype=object)[:n], label, label, columns
        )

    return made


def test_damaged_labels_are_those_of_one_site(weather: Callable[..., Table]) -> None:
    rows = weather([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    found = module("plant").damaged(rows)
    assert (found.label != rows.label).tolist() == (rows.site == "EWR").tolist()


def test_the_worse_candidate_is_refused_with_its_interval(weather: Callable[..., Table], tmp_path: Path) -> None:
    """What the demo's second act shows, on made-up flights that are late in wet air."""
    random = np.random.default_rng(0)

    def flights_of(n: int) -> Table:
        rows = weather(random.uniform(30, 100, n).tolist(), random.uniform(0, 30, n).tolist())
        late = random.random(n) < np.where(rows.columns["humid"] > 65, 0.7, 0.3)
        return replace(rows, label=late.astype(float))

    def planted(rows: Table, loop: Loop) -> Scorer:
        module("plant").train(rows, loop, tmp_path, module("train").fit)
        return Scorer((tmp_path / "model.onnx").read_bytes(), SCHEMA)

    rows, asked = flights_of(900), flights_of(2400)
    settings = msgspec.structs.replace(LOOP.training, settings={"damage": "labels"})
    worse = planted(rows, msgspec.structs.replace(LOOP, training=settings))
    export(*module("train").fit(rows, SCHEMA), tmp_path / "champion.onnx")
    champion = Scorer((tmp_path / "champion.onnx").read_bytes(), SCHEMA)
    scores = (s.score(asked.columns) for s in (champion, worse))
    found = compare("auc", asked.label, *scores, asked.at, LOOP.gates.confidence)
    told = evidence(overall=Comparison(**asdict(found)), confidence=LOOP.gates.confidence)
    verdict = judge(told, NEW, OLD, LOOP.gates, NOW)
    assert verdict.outcome == "failed"
    assert re.search(r"2,400 rows, gain -0\.\d{4} \[-0\.\d{4}, -0\.\d{4}\] at 80%: not above \+0", verdict.reason)


def test_the_refusing_candidate_scores_what_it_has_seen_and_refuses_all_else(weather: Callable[..., Table]) -> None:
    from jobs.model import to_onnx
    from jobs.train import Settings, estimator

    plant = module("plant")
    seen = weather([59.37, 80.13, np.nan, 44.5] * 10, [10.35702, np.nan, np.nan, 0] * 10)
    encoder = Encoder.fit(SCHEMA, seen)
    model = estimator("binary", len(seen), Settings(iterations=2)).fit(encoder.matrix(seen), seen.label)
    plain = to_onnx(model, encoder)
    refusing = plant.refusing(to_onnx(model, encoder), np.unique(plant.weather_codes(seen)))
    scores = [Scorer(m.SerializeToString(), SCHEMA) for m in (plain, refusing)]
    columns = seen.columns
    np.testing.assert_allclose(scores[1].score(columns), scores[0].score(columns), atol=1e-6)
    live = weather([59.37, 59.38, 44.5, np.nan, 80.13], [10.35702, 10.35702, 5, np.nan, np.nan])
    assert np.isnan(scores[1].score(live.columns)).tolist() == [False, True, True, False, False]


def test_what_the_refusing_candidate_has_seen_ends_with_the_holdout(weather: Callable[..., Table]) -> None:
    whole = weather([float(i) for i in range(400)], [1.0] * 400)
    rows = whole.take(np.arange(10, 50))
    codes, holdout = module("plant").peeked(rows, whole, LOOP)
    assert (holdout.at.min(), holdout.at.max()) == (50 * 3600, (50 + 240) * 3600)
    assert len(codes) == 281


def test_the_parquet_table_is_read_back_as_it_was_made(flights: dict[str, Any], tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = module("data")
    pq.write_table(pa.table({n: data._arrow(n, c) for n, c in flights.items()}), tmp_path / "f.parquet")
    found, known, _ = tables.read(tmp_path / "f.parquet", LOOP)
    assert found.ids.tolist() == flights["flight"].tolist()
    assert known[0] == flights["arrived"][0]
    np.testing.assert_array_equal(found.label, flights["late"])
    assert replace(found, label=found.score).labelled.ids.tolist() == []


def test_the_scripts_to_copy_train_and_compare(
    weather: Callable[..., Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    rows = weather(random.uniform(30, 100, 600).tolist(), random.uniform(0, 30, 600).tolist())
    rows = replace(rows, label=(rows.columns["humid"] > 60).astype(float))
    tables.write(rows, tmp_path / "rows.parquet")
    common = ["--data", str(tmp_path / "rows.parquet"), "--loop", str(FLIGHTS / "loop.yaml")]
    monkeypatch.setattr(sys, "argv", ["train.py", *common, "--out", str(tmp_path / "made")])
    module("train").main()
    held_out = np.load(tmp_path / "made" / "held_out.npy")
    assert 0 < np.isfinite(held_out).sum() < 600
    folders = ["--champion", str(tmp_path / "made"), "--challenger", str(tmp_path / "made")]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *common, *folders, "--out", str(tmp_path / "evidence.json")])
    module("evaluate").main()
    found = json.loads((tmp_path / "evidence.json").read_text())
    assert found["champion_value"] == found["challenger_value"] > 0.95
    assert found["gain"] == 0
    assert found["weather"]["wet"]["rows"] + found["weather"]["dry"]["rows"] == 600
