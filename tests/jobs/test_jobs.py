"""`python -m jobs`, from spec to result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drift.reference import Reference
from jobs.table import Table

ROOT = Path(__file__).parents[2]
DAY = 86400
COPIES = "import shutil, sys; a = sys.argv; out = a[a.index('--out') + 1]; shutil.copytree('{made}', out)"


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def test_a_table_is_trained_on_with_no_code_at_all(home: Any, rows: Callable[..., Table]) -> None:
    data = home.csv(rows(900))
    asked = {"data": str(data), "from": None, "to": iso(home.start + 15 * DAY)}
    found = home.does("train", settings={"iterations": 5}, **asked)
    known = int((rows(900).at < home.start + 14.75 * DAY).sum())  # labels come six hours later
    assert found["rows"] == sum(found["sites"].values()) == pytest.approx(known, abs=1)
    manifest = home.manifest(found["candidate"])
    assert set(manifest.files) == {"model.onnx", "reference.bin"}
    assert (manifest.lineage.start, manifest.lineage.end) == (found["from"], found["to"])
    assert "scikit-learn" in manifest.lineage.environment
    layer = home.blobs / "layers" / manifest.files["reference.bin"].sha256
    reference = Reference.from_bytes(layer.read_bytes())
    assert reference.sites == ("north", "south")
    held_out = (rows(900).at // DAY % 5 == 4) & (rows(900).at < home.start + 14.75 * DAY)
    assert reference.expected.labels == held_out.sum() > 0


def test_a_regression_is_trained_on_what_the_sites_sent(home: Any, rows: Callable[..., Table]) -> None:
    home.loop(task="regression")
    home.told(rows(600, "regression"))
    window = {"from": iso(home.start), "to": iso(home.start + 12 * DAY)}
    first = home.does("train", "a", settings={"iterations": 30}, parent="p", run="r", authors=["cem"], **window)
    guess = home.candidate(0.1, window["from"], window["to"])
    lineage = home.manifest(first["candidate"]).lineage
    assert (lineage.run, lineage.parent, lineage.rows) == ("r", "p", first["rows"])
    assert lineage.authors == ("cem",)
    pair = {"champion": guess, "challenger": first["candidate"]}
    found = home.does("evaluate", **pair, **{"from": iso(home.start), "to": iso(home.start + 30 * DAY)})
    assert found["metric"] == "rmse"
    assert found["log_loss"] is None
    assert found["rows"] == (rows(600, "regression").at >= home.start + 12 * DAY).sum()
    assert 0 < found["gain_low"] < found["gain"] == pytest.approx(found["champion_value"] - found["challenger_value"])


@pytest.fixture
def pair(home: Any, rows: Callable[..., Table]) -> dict[str, Any]:
    """A weak champion, a better challenger, and rows to compare them on."""
    home.told(rows(500))
    days = [iso(home.start + d * DAY) for d in (0, 4, 8)]
    champion = home.candidate(-0.01, days[0], days[1])
    challenger = home.candidate(0.1, days[1], days[2])
    asked = {"champion": champion, "challenger": challenger, "from": days[0], "to": iso(home.start + 30 * DAY)}
    return {**asked, "public": str(home.folder / "registry.pub")}


def test_rows_of_either_training_window_do_not_count(home: Any, pair: dict[str, Any], rows: Any) -> None:
    found = home.does("evaluate", **pair)
    assert found["rows"] == (rows(500).at >= home.start + 8 * DAY).sum()
    assert found["gain_low"] > 0
    assert datetime.fromisoformat(found["newest"]).timestamp() == rows(500).at.max() + 6 * 3600
    assert found["log_loss"]["challenger"] < found["log_loss"]["champion"]
    assert sum(site["rows"] for site in found["sites"].values()) == found["rows"]
    assert found["training"]["challenger"] == [f"2024-01-{d}T00:00:00Z" for d in ("05", "09")]
    assert found["bytes"] > 100
    assert len(found["data"]) == 64


def test_where_no_row_is_left_nothing_is_measured(home: Any, pair: dict[str, Any]) -> None:
    found = home.does("evaluate", **{**pair, "to": iso(home.start + 8 * DAY)})
    assert (found["rows"], found["gain"], found["sites"]) == (0, None, {})
    assert found["challenger"] == pair["challenger"]


def test_a_candidate_of_unknown_training_window_leaves_no_row(home: Any, pair: dict[str, Any]) -> None:
    assert home.does("evaluate", **{**pair, "challenger": home.candidate(0.2)})["rows"] == 0


def test_a_row_that_the_challenger_refuses_makes_its_metric_null(home: Any, pair: dict[str, Any]) -> None:
    window = (iso(home.start), iso(home.start + DAY))
    found = home.does("evaluate", **{**pair, "challenger": home.candidate(0.1, *window, refuses=85)})
    assert found["rows"] > 0
    assert (found["challenger_value"], found["gain"], found["gain_low"]) == (None, None, None)
    assert found["unscored"]["challenger"] > 0
    assert "NaN" not in (home.folder / "jobs" / "job" / "result.json").read_text()


def test_a_nan_in_the_evidence_of_a_users_script_is_null(home: Any, pair: dict[str, Any]) -> None:
    script = "import sys; open(sys.argv[sys.argv.index('--out') + 1], 'w').write('{\"gain\": NaN, \"rows\": 1e9}')"
    home.loop(evaluate=script)
    found = home.does("evaluate", **pair)
    assert found["gain"] is None
    assert found["rows"] < 500  # never more than there were
    assert found["champion"] == pair["champion"]


def test_another_metric_and_confidence_may_be_asked_for(home: Any, pair: dict[str, Any]) -> None:
    found = home.does("evaluate", **pair, metric="log_loss", confidence=0.8)
    assert (found["metric"], found["confidence"]) == ("log_loss", 0.8)


@pytest.mark.parametrize("what", ["layer", "manifest.json", "manifest.sig"])
def test_a_flipped_byte_of_a_candidate_is_refused(home: Any, pair: dict[str, Any], what: str) -> None:
    digest = pair["challenger"]
    path = home.blobs / "candidates" / digest / what
    if what == "layer":
        path = home.blobs / "layers" / home.manifest(digest).files["model.onnx"].sha256
    data = path.read_bytes()
    path.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    assert "error" in home.does("evaluate", **pair)


def test_a_users_script_that_fails_is_quoted(home: Any, rows: Callable[..., Table]) -> None:
    home.told(rows(50))
    home.loop(train="raise SystemExit('the disk is full')")
    found = home.does("train", **{"from": iso(home.start), "to": iso(home.start + 30 * DAY)})
    assert found == {"error": "train.py ended with status 1: the disk is full"}
    assert sorted(p.name for p in (home.folder / "jobs" / "job").iterdir()) == ["result.json", "spec.json"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("pass", "train.py ended well, but left no model.onnx in its --out folder"),
        (None, "no labelled rows before 2024-01-02T00:00:00Z: nothing to train on"),
    ],
)
def test_what_is_missing_is_said(home: Any, rows: Callable[..., Table], script: str | None, words: str) -> None:
    if script:
        home.told(rows(50))
        home.loop(train=script)
    end = home.start + (30 if script else 1) * DAY
    assert home.does("train", **{"from": iso(home.start), "to": iso(end)}) == {"error": words}


def test_a_wrong_spec_is_refused_by_its_field(home: Any) -> None:
    assert "`$.from`" in home.does("train", **{"from": "yesterday", "to": iso(home.start)})["error"]


def test_a_users_model_becomes_a_candidate(home: Any, rows: Callable[..., Table], pair: dict[str, Any]) -> None:
    home.loop(train=COPIES.format(made=home.folder / "made-0.1-None"))
    window = {"from": iso(home.start), "to": iso(home.start + 9 * DAY)}
    found = home.does("train", sites=["south"], **window)
    assert set(found["sites"]) == {"south"}
    assert "reference.bin" in home.manifest(found["candidate"]).files
    again = home.does("train", "again", sites=["south"], **window)
    assert again["candidate"] == found["candidate"]


def test_a_job_that_is_killed_leaves_no_result(home: Any, rows: Callable[..., Table]) -> None:
    home.told(rows(50))
    home.loop(train="import pathlib, time; pathlib.Path('began').touch(); time.sleep(60)")
    spec = home.spec("train", **{"from": iso(home.start), "to": iso(home.start + 30 * DAY)})
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs", spec],
        cwd=spec.parent,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    for _ in range(1200):
        if (spec.parent / "began").exists():
            break
        time.sleep(0.05)
    else:
        pytest.fail("it never began")
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (spec.parent / "result.json").exists()


def test_a_review_says_what_each_candidate_would_have_done(home: Any, pair: dict[str, Any], rows: Any) -> None:
    told = rows(500, seed=2, days=45)
    home.told(told)
    asked = {"champion": pair["champion"], "candidates": [pair["challenger"], pair["champion"]]}
    window = {"from": iso(home.start), "to": iso(home.start + 60 * DAY)}
    found = home.does("review", **asked, **window)
    assert set(found["static"]) == {"2024-01", "2024-02"}
    assert found["candidates"][pair["champion"]]["2024-02"] == found["static"]["2024-02"]
    assert found["candidates"][pair["champion"]]["2024-01"] != found["static"]["2024-01"]  # four days were its own
    assert found["candidates"][pair["challenger"]]["2024-02"] > found["static"]["2024-02"]
    assert found["loop"]["2024-02"] == 0.5  # every row was served the same score
    assert set(found["log_loss"]) == {"static", "loop"}
    few = home.does("review", "few", rows=60, **asked, **window)
    assert set(few["rows"].values()) == {60}


def test_the_app_may_import_nothing_heavy_by_way_of_a_spec() -> None:
    heavy = ("sklearn", "pyarrow", "pandas", "onnxruntime")
    code = f"import sys, jobs.specs; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(out.stdout.replace("'", '"')) == []


def test_pandas_is_kept_out_where_it_is_asked_to_be() -> None:
    code = "import jobs.light; jobs.light.without_pandas(); import pyarrow as p; print(p.array([1.5]).to_numpy())"
    code += "; import pandas"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert out.stdout == "[1.5]\n"
    assert "pandas is kept out of this process" in out.stderr


def test_the_held_out_scores_must_be_one_a_row(home: Any, rows: Callable[..., Table], pair: dict[str, Any]) -> None:
    np.save(home.folder / "made-0.1-None" / "held_out.npy", np.zeros(3))
    home.loop(train=COPIES.format(made=home.folder / "made-0.1-None"))
    found = home.does("train", **{"from": iso(home.start), "to": iso(home.start + 9 * DAY)})
    assert "held_out.npy has shape (3,)" in found["error"]
