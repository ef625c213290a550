"""What a replay checks before it works, which scripts it takes along, and how it ends where a job fails."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import inputs
from cli.main import main
from triggers.config import parse_loop

LOOP = """
loop: line
schema: {timestamp: time, label: scrap, features: [{name: heat}]}
training: {script: steps/train.py}
"""


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., list[str]]:
    """A loop whose bootstrap has one class, as a command's arguments."""
    rows = [f"{1_704_067_200 + n * 3600},{n % 7},{int(n > 300)}" for n in range(600)]
    (tmp_path / "rows.csv").write_text("\n".join(["time,heat,scrap", *rows]))
    (tmp_path / "fleet.yaml").write_text("sites: [{name: main}]\n")

    def write(loop: str) -> list[str]:
        (tmp_path / "loop.yaml").write_text(loop)
        named = {"--loop": "loop.yaml", "--fleet": "fleet.yaml", "--data": "rows.csv"}
        return [word for option, name in named.items() for word in (option, str(tmp_path / name))]

    return write


def test_a_summary_that_could_not_be_written_is_refused_before_any_work(
    files: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, where = tmp_path / "state", tmp_path / "no" / "such" / "summary.json"
    assert main(["replay", *files(LOOP), "--state", str(state), "--json", str(where)]) == 2
    assert capsys.readouterr().err == f"driftloop: --json {where}: expected a file in a folder that is there\n"
    assert not state.exists()


def test_a_port_that_cannot_be_had_is_refused_before_any_work(
    files: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["replay", *files(LOOP), "--state", str(tmp_path / "state"), "--port", port]) == 2
    assert f"port {port} of 127.0.0.1" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_state_that_cannot_be_made_is_a_line(
    files: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "rows.csv" / "state"
    assert main(["replay", *files(LOOP), "--state", str(state), "--port", "0"]) == 2
    assert capsys.readouterr().err == f"driftloop: {state}: Not a directory\n"


def test_a_first_model_that_cannot_be_trained_is_a_failed_run_not_wrong_usage(
    files: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = files(LOOP.replace("training: {script: steps/train.py}", ""))
    assert main(["backtest", *words]) == 1
    assert "training on 2024-01-01" in capsys.readouterr().err


def test_scripts_are_taken_along_with_the_packages_that_they_may_import(tmp_path: Path) -> None:
    there = (
        *("helper.py", "lib/__init__.py", "lib/deep/more.py", "steps/train.py", "steps/common.py"),
        *("steps/parts/__init__.py", "state/config/line/helper.py", "data/notes.py", "../outside.py"),
    )
    home = tmp_path / "home"
    for name in there:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("")
    (home / "loop.yaml").write_text(LOOP)
    assert list(inputs.scripts(home / "loop.yaml", parse_loop(LOOP))) == sorted(there[:6])
