"""`driftloop host`: the app in this folder, or else our own, until it is told to end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.main import main
from functions import host as composition

ROOT = Path(__file__).parents[2]
COMMAND = """
import argparse, sys
from cli.host import add_parser
assert "azure.functions" not in sys.modules
parser = argparse.ArgumentParser()
add_parser(parser.add_subparsers())
args = parser.parse_args(["host", "--state", "state", "--port", "0"])
sys.exit(args.run(args))
"""


def host(folder: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", COMMAND], cwd=folder, env=env, stderr=pipe, text=True)


def test_it_serves_the_app_in_this_folder_says_which_loop_is_wrong_and_ends_when_told(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parent / "app", tmp_path, dirs_exist_ok=True)
    (tmp_path / "state" / "config" / "bad").mkdir(parents=True)
    (tmp_path / "state" / "config" / "bad" / "loop.yaml").write_text("loop: bad")
    (tmp_path / "state" / "config" / "bad" / "fleet.yaml").write_text("sites: [{name: a, link_kbps: 64}]")
    process = host(tmp_path)
    assert process.stderr
    try:
        said = []
        while "listening" not in (line := process.stderr.readline()):
            assert line, said
            said.append(line)
        assert "loop bad: config/bad/loop.yaml" in "".join(said)
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found
        with urllib.request.urlopen(f"{found[0]}/api/echo/3") as answer:
            assert answer.read() == b"GET 3 {}"
        second = host(tmp_path)
        assert "another host is running" in second.communicate(timeout=60)[1]
        assert second.returncode == 2
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_an_app_that_does_not_load_is_exit_status_2_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "function_app.py").write_text("import no_such_thing")
    process = host(tmp_path)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert said.startswith("driftloop host: function_app.py")
    assert "Traceback" not in said


def test_where_no_app_is_the_host_runs_our_own_and_says_who_may_sign_in_to_a_terminal_alone(tmp_path: Path) -> None:
    process = host(tmp_path)
    assert process.stderr
    try:
        said = next(line for line in process.stderr if "listening" in line)
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert found
        with urllib.request.urlopen(f"{found[0]}/api/health") as answer:
            assert b'"status":"ok"' in answer.read()
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[1]
        assert "token=" not in said + rest
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The composition root on a state folder of its own, in this process."""
    monkeypatch.setenv("DRIFTLOOP_STATE", str(tmp_path / "state"))
    for made in (composition.local, composition.ports):
        made.cache_clear()
    yield monkeypatch
    if composition.local.cache_info().currsize:
        composition.local().close()
    for made in (composition.local, composition.ports):
        made.cache_clear()


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("DRIFTLOOP_PROFILE", "xx", "DRIFTLOOP_PROFILE is 'xx': it is `local` or `azure`"),
        ("DRIFTLOOP_CLOCK", "nonsense", "DRIFTLOOP_CLOCK is 'nonsense': it is a time such as 2026-03-01T06:00:00Z"),
    ],
)
def test_a_wrong_setting_is_said_before_anything_listens(
    ours: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], setting: str, value: str, said: str
) -> None:
    ours.setenv(setting, value)
    assert main(["host", "--port", "0"]) == 2
    assert capsys.readouterr().err == f"driftloop: {said}\n"


@pytest.mark.parametrize("port", ["taken", "99999"])
@pytest.mark.usefixtures("ours")
def test_a_port_that_cannot_be_had_is_a_line(capsys: pytest.CaptureFixture[str], port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1]) if port == "taken" else port
        assert main(["host", "--port", port]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"driftloop: port {port} of 127.0.0.1: ")
    assert said.endswith("--port names another")
