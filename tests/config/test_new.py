# ruff: noqa: E501 - tables of cases, a line each
"""`driftloop new`: a table in, a loop that runs as it is out; and the command's own manners."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import csv, parquet

from cli import guess, scaffold, tables
from cli.main import main
from drift.telemetry import LEAST_PERIODS
from triggers.config import duration, parse

ROOT = Path(__file__).resolve().parents[2]
N = 4000


def a_table(**more: Any) -> pa.Table:
    """200 days of two plants."""
    random = np.random.default_rng(1)
    at = (np.datetime64("2025-01-01T00:00:00") + np.sort(random.integers(0, 200 * 86400, N))).astype("datetime64[s]")
    columns = {
        "measured_at": at,
        "plant": random.choice(["north", "no"], N, p=[0.7, 0.3]),
        "temp °C": np.where(random.random(N) < 0.1, np.nan, random.normal(20, 5, N)),
        "grade": random.choice(["a", "b", "c"], N),
        "score": random.uniform(0, 1, N),
        "err_code": random.integers(1, 9, N),
        "note": [f"free text {i}" for i in range(N)],
        "row": np.arange(N),
        "fixed": np.ones(N),
        "defective": random.integers(0, 2, N),
    }
    return pa.table({k: pa.array(v) for k, v in (columns | more).items() if v is not None})


def over(days: float, **more: Any) -> pa.Table:
    """The same in another time."""
    at = np.datetime64("2025-01-01T00:00:00") + np.sort(np.random.default_rng(7).integers(0, int(days * 86400), N))
    return a_table(measured_at=at, **more)


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Write a table, run `driftloop new`, and give what it guessed, or what it refused with."""
    monkeypatch.chdir(tmp_path)

    def run(table: pa.Table, *options: str, name: str = "rows.csv") -> Any:
        (csv.write_csv if name.endswith(".csv") else parquet.write_table)(table, tmp_path / name)
        status = main(["new", "mine", "--data", name, "--json", *options])
        out, err = capsys.readouterr()
        if status:
            assert status == 2
            return err.strip()
        loop, _ = parse(*((tmp_path / "mine" / f).read_text("utf-8") for f in ("loop.yaml", "fleet.yaml")))
        assert len(tables.load(tmp_path / name, loop)) > 0
        return {c["column"]: c["as"] for c in json.loads(out)["columns"]}

    return run


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_columns_are_guessed_and_the_loop_runs_as_it_is(new: Any, name: str, tmp_path: Path) -> None:
    assert new(a_table(), name=name) == {
        "measured_at": "timestamp",
        "plant": "site",
        "defective": "label",
        "score": "prediction",
        "temp °C": "number",
        "grade": "category",
        "err_code": "category",
        "note": "left out",
        "row": "left out",
        "fixed": "left out",
    }
    loop, fleet = parse(*((tmp_path / "mine" / f).read_text("utf-8") for f in ("loop.yaml", "fleet.yaml")))
    assert (loop.task, loop.gates.metric, loop.rollout.rings) == ("binary", "auc", ("first", "rest"))
    assert [(s.name, s.ring) for s in fleet.sites] == [("no", "first"), ("north", "rest")]
    assert "left out: note: nearly every row has its own" in (tmp_path / "mine" / "loop.yaml").read_text("utf-8")


def test_ranges_hold_what_is_there_and_some_more(new: Any, tmp_path: Path) -> None:
    new(a_table())
    loop, _ = parse(*((tmp_path / "mine" / f).read_text("utf-8") for f in ("loop.yaml", "fleet.yaml")))
    low, high = next(f.range for f in loop.schema.features if f.name == "temp °C")
    assert low is not None
    assert high is not None
    assert low < 5 < 35 < high < 100


def test_options_overrule_the_guess(new: Any, tmp_path: Path) -> None:
    options = ["--label", "temp °C", "--site", "grade", "--id", "row", "--prediction", "err_code"]
    found = new(a_table().drop_columns(["score"]).filter(~np.isnan(a_table()["temp °C"])), *options)
    assert [c for c, what in found.items() if what in ("site", "id", "label", "prediction")] == [
        "grade",
        "row",
        "temp °C",
        "err_code",
    ]
    loop, fleet = parse(*((tmp_path / "mine" / f).read_text("utf-8") for f in ("loop.yaml", "fleet.yaml")))
    assert (loop.task, loop.gates.metric, len(fleet.sites)) == ("regression", "rmse", 3)


def test_sites_of_a_thin_table_are_still_judged(new: Any, tmp_path: Path) -> None:
    new(over(1000))
    loop, _ = parse(*((tmp_path / "mine" / f).read_text("utf-8") for f in ("loop.yaml", "fleet.yaml")))
    assert loop.gates.maximum_site_loss is not None
    assert loop.gates.minimum_part_rows == loop.gates.minimum_rows < 100


def test_without_a_site_there_is_one(new: Any, tmp_path: Path) -> None:
    new(a_table(plant=None))
    assert "- name: main" in (tmp_path / "mine" / "fleet.yaml").read_text("utf-8")


def test_seconds_since_1970_are_a_time(new: Any) -> None:
    seconds = np.sort(np.random.default_rng(2).integers(1_700_000_000, 1_710_000_000, N))
    assert new(a_table(measured_at=seconds))["measured_at"] == "timestamp"


def test_odd_names_are_quoted_and_reserved_ones_renamed(new: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(size=N)
    odd = {name: values + i for i, name in enumerate(["at", "yes", "a: b #c", "'", "- x", "null", "[", "日本", "a\tb"])}
    found = new(a_table(**odd, score=None), "--timestamp", "measured_at")
    assert [found[name] for name in odd] == ["number"] * len(odd)
    loop, _ = parse(*((tmp_path / "mine" / f).read_text("utf-8") for f in ("loop.yaml", "fleet.yaml")))
    assert {f.column or f.name for f in loop.schema.features} >= set(odd)
    assert "at_value" in [f.name for f in loop.schema.features]


@pytest.mark.parametrize(
    ("more", "options", "said"),
    [
        ({"measured_at": None}, (), "no column holds times"),
        ({"measured_at": ["31/12/2025"] * N}, (), "'measured_at' would be it by its name, but '31/12/2025' is not ISO 8601"),
        ({}, ("--label", "grade"), "--label: 'grade' is text; expected 0 and 1, or numbers"),
        ({"defective": np.resize(["yes", "no"], N)}, ("--label", "defective"), "write 1 for 'yes' and 0 for 'no'"),
        ({"defective": np.resize(["a", "b"], N), "err_code": None}, (), "'defective' would be it by its name, but is text"),
        ({"defective": (np.arange(N) > 0.6 * N).astype(int)}, (), "labels, all of them 0: no first model can be trained on it"),
        ({"defective": np.resize([1, 2], N)}, ("--label", "defective"), "--label: 'defective' has 2 values from 1 to 2"),
        ({}, ("--label", "nope"), "--label: no column 'nope'; there are measured_at, plant"),
        ({}, ("--id", "grade"), "--id: 'grade' has values that come twice"),
        ({"plant": np.resize(["a/b", "c"], N)}, (), "'a/b' has '/'; expected a name that may stand in an address"),
        ({"measured_at": np.resize(np.datetime64("2025-01-01T00:00:00"), N)}, (), "all rows have one time"),
    ],
)  # fmt: skip
def test_what_cannot_be_guessed_is_refused_with_what_to_do(new: Any, more: Any, options: Any, said: str) -> None:
    assert said in new(a_table(**more), *options)


def test_of_two_columns_of_0_and_1_the_one_with_gaps_is_the_label(new: Any) -> None:
    flags = {name: pa.array(np.random.default_rng(4).integers(0, 2, N)) for name in ("first", "last")}
    flags["first"] = pa.array([v if i % 9 else None for i, v in enumerate(flags["first"].to_pylist())])
    found = new(a_table(**flags, defective=None))
    assert (found["first"], found["last"]) == ("label", "number")


def test_the_bootstrap_is_long_enough_for_both_classes(new: Any, tmp_path: Path) -> None:
    new(over(60, defective=np.where(np.arange(N) < 0.35 * N, 0, np.arange(N) % 2)))
    loop, _ = parse(*((tmp_path / "mine" / f).read_text("utf-8") for f in ("loop.yaml", "fleet.yaml")))
    assert loop.bootstrap.fraction == 0.4


@pytest.mark.parametrize(
    ("days", "share", "window", "covered"),
    [(365, 0.3, "7d", True), (60, 0.3, "1d", True), (7, 0.5, "6h", True), (2, 0.2, "1d", False)],
)
def test_window_and_bootstrap_cover_the_first_models_alarms_or_it_is_said_at_once(
    new: Any, tmp_path: Path, capsys: Any, days: float, share: float, window: str, covered: bool
) -> None:
    new(over(days))
    loop, _ = parse(*((tmp_path / "mine" / f).read_text("utf-8") for f in ("loop.yaml", "fleet.yaml")))
    assert (loop.bootstrap.fraction, loop.telemetry.window) == (share, window)
    rows = tables.load(tmp_path / "rows.csv", loop)
    periods = duration(window) / timedelta(seconds=1)
    before = rows.between(rows.first, rows.start_of_telemetry(loop)).table.at // periods
    assert (len(set(before.tolist())) >= LEAST_PERIODS) == covered
    training = duration(loop.training.window) - duration(loop.training.holdout)
    assert training >= LEAST_PERIODS * duration(window)
    main(["new", "again", "--data", "rows.csv"])
    assert ("drift will be shown, but retrains nothing" in " ".join(capsys.readouterr().out.split())) != covered


def test_of_a_day_of_data_a_fifth_is_the_bootstrap(new: Any, tmp_path: Path) -> None:
    begin = np.datetime64("2025-01-01T07:00:00")
    times = begin + np.sort(np.random.default_rng(5).integers(0, 20 * 3600, N)).astype("timedelta64[s]")
    new(a_table(measured_at=times))
    loop, _ = parse(*((tmp_path / "mine" / f).read_text("utf-8") for f in ("loop.yaml", "fleet.yaml")))
    rows = tables.load(tmp_path / "rows.csv", loop)
    assert rows.start_of_telemetry(loop) == np.datetime64("2025-01-01T11:00:00").astype(int)


def test_decimals_are_numbers(new: Any) -> None:
    exact = pa.array(np.random.default_rng(6).normal(size=N).round(3)).cast(pa.decimal128(12, 3))
    assert new(a_table(price=exact), name="rows.parquet")["price"] == "number"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("at;x;y\n2025-01-01;1;0\n", "one column, 'at;x;y': is the separator ';'? Expected commas"),
        ("at;x;y\n2025-01-01;1,5;0\n", "one column, 'at;x;y': is the separator ';'? Expected commas"),
        ("at\tx\n2025-01-01\t1\n", r"is the separator '\t'?"),
        ("at,temp °C\n2025-01-01,1\n", "the first line is not UTF-8; expected UTF-8"),
        ("at,colour\n2025-01-01,grün\n", "column colour is not UTF-8; expected UTF-8"),
    ],
)  # fmt: skip
def test_another_separator_or_encoding_is_named(tmp_path: Path, capsys: Any, data: str, said: str) -> None:
    (tmp_path / "x.csv").write_bytes(data.encode("latin-1"))
    assert main(["new", str(tmp_path / "mine"), "--data", str(tmp_path / "x.csv")]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_a_line(tmp_path: Path, capsys: Any) -> None:
    csv.write_csv(a_table(), tmp_path / "rows.csv")
    assert main(["new", str(tmp_path / "rows.csv" / "mine"), "--data", str(tmp_path / "rows.csv")]) == 2
    said = capsys.readouterr().err
    assert said == f"driftloop: {tmp_path / 'rows.csv' / 'mine'}: Not a directory\n"


def test_files_that_are_no_tables_are_refused(new: Any, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    assert main(["new", "other", "--data", "x.parquet"]) == 2
    assert main(["new", "other", "--data", "nowhere.csv"]) == 2
    assert "the table has no rows" in new(a_table().slice(0, 0), name="rows.parquet")


def test_nothing_is_written_over_unless_told(new: Any, tmp_path: Path) -> None:
    new(a_table())
    before = (tmp_path / "mine" / "loop.yaml").read_text("utf-8")
    (tmp_path / "mine" / "loop.yaml").write_text("mine now")
    assert "is there already; --force writes over it" in new(a_table())
    assert (tmp_path / "mine" / "loop.yaml").read_text("utf-8") == "mine now"
    new(a_table(), "--force")
    assert (tmp_path / "mine" / "loop.yaml").read_text("utf-8") == before


def test_a_person_sees_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    csv.write_csv(a_table(), "rows.csv")
    assert main(["new", "mine", "--data", "rows.csv"]) == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert ["plant", "site", "by its name; 2 sites"] in rows
    assert ["defective", "label", "by its name"] in rows
    assert ["grade", "category", "3 different texts"] in rows
    assert ["row", "left out", "a running number"] in rows
    assert any(row[:2] == ["temp °C", "number"] and row[2].startswith("from ") for row in rows)
    assert "driftloop replay --loop mine/loop.yaml --fleet mine/fleet.yaml --data rows.csv" in out


def test_a_file_that_is_not_there_is_a_problem_like_any_other(capsys: Any) -> None:
    assert main(["validate", "--loop", "nowhere.yaml", "--json"]) == 2
    said = json.loads(capsys.readouterr().out)["problems"]
    assert said == [{"file": "nowhere.yaml", "line": 0, "field": "", "what": "No such file or directory"}]


def test_plausible_ranges_keep_their_sign_and_are_round() -> None:
    column = guess.Column("x", "number", 10, 0, 10, False, -3.2, -0.1, (-3.0, -0.2))
    assert guess.plausible(column) == (-4.4, 0.0)


def driftloop(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "cli.main", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_help_names_the_commands_and_imports_none_of_them() -> None:
    code = "import sys, cli.main\ntry: cli.main.main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert "validate" in out
    assert not {"numpy", "msgspec", "yaml", "rich", "cli.new", "cli.validate"} & set(out.splitlines()[-1].split())


def test_wrong_usage_is_status_2_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").write_text("loop: a b\nschema: {features: [{name: id}]}\n")
    for words in ([], ["nope"], ["new", "mine"]):
        with pytest.raises(SystemExit, match="2"):
            main(words)
    assert main(["validate"]) == 2
    ended = driftloop("validate", "--loop", str(tmp_path / "loop.yaml"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        f"{tmp_path}/loop.yaml:1: loop: 'a b'; expected text like delays or line-3",
        f"{tmp_path}/loop.yaml:2: schema.features[0].name: 'id' is reserved; expected another name, with `column: id` beside it",
    ]


def test_validate_says_problems_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop, fleet = tmp_path / "loop.yaml", tmp_path / "fleet.yaml"
    loop.write_text("loop: a\nschema: {features: [{name: b}]}\ntraining: {script: train.py}\n")
    fleet.write_text("sites: [{name: a}]\n")
    words = ["validate", "--loop", str(loop), "--fleet", str(fleet), "--json"]
    assert main(words) == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["line"], problem["field"]) == (3, "training.script")
    (tmp_path / "train.py").touch()
    assert main(words) == 0


def test_validate_warns_of_a_setting_without_effect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "loop.yaml"
    for rows, said in ((29, [f"{path}: drift.minimum_rows: 29: below 30 rows no window is evidence"]), (30, [])):
        path.write_text(f"loop: line\nschema: {{features: [{{name: heat}}]}}\ndrift: {{minimum_rows: {rows}}}\n")
        assert main(["validate", "--loop", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"problems": [], "warnings": said}


def test_the_version_is_the_projects(capsys: pytest.CaptureFixture[str]) -> None:
    import tomllib

    with pytest.raises(SystemExit):
        main(["--version"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"driftloop {project['version']}\n"


@pytest.mark.parametrize("place", ["cloud", "edge"])
def test_for_azure_there_is_a_script_an_environment_and_everything_is_said(
    new: Any, tmp_path: Path, place: str
) -> None:
    new(a_table(), "--azure", place)
    assert {p.name for p in (tmp_path / "mine").iterdir()} == {*scaffold.files(), "loop.yaml", "fleet.yaml"}
    assert main(["validate", "--loop", "mine/loop.yaml", "--fleet", "mine/fleet.yaml"]) == 0
    text, sites = (tmp_path / "mine" / name for name in ("loop.yaml", "fleet.yaml"))
    loop, _ = parse(text.read_text(), sites.read_text())
    assert (loop.training.script, loop.training.environment) == ("train.py", "environment.yaml")
    assert loop.training.compute == {"cloud": "cloud", "edge": "auto"}[place]
    assert "dependencies" in yaml.safe_load((tmp_path / "mine" / "environment.yaml").read_text())
    said = sites.read_text().replace("    # ", "    ")
    whole = text.read_text().replace("  # m", "  m")
    _, fleet = parse(whole, said)
    assert {s.executor for s in fleet.sites} == {"azureml"}
    assert {s.data for s in fleet.sites} == {{"cloud": "may-leave", "edge": "stays"}[place]}
    assert all(line in text.read_text() for line in (*scaffold.GATES.splitlines(), *scaffold.ROLLOUT.splitlines()))


@pytest.mark.nightly
def test_the_script_that_new_writes_trains_a_model(new: Any, tmp_path: Path) -> None:
    new(a_table(), "--azure", "cloud")
    rows = a_table()
    columns = {"id": [str(i) for i in range(N)], "at": np.arange(N), "site": rows["plant"], "score": rows["score"]}
    loop, _ = parse(*((tmp_path / "mine" / name).read_text() for name in ("loop.yaml", "fleet.yaml")))
    features = {f.name: rows[f.column or f.name] for f in loop.schema.features}
    parquet.write_table(pa.table({**columns, "label": rows["defective"], **features}), tmp_path / "t.parquet")
    asked = ["mine/train.py", "--data", "t.parquet", "--loop", "mine/loop.yaml", "--out", "."]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *asked], cwd=tmp_path, env=env, check=True, capture_output=True)
    assert (tmp_path / "model.onnx").stat().st_size > 1000
