"""`driftloop host`: the app in this folder, until it is told to end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

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


def test_it_serves_the_app_in_this_folder_and_ends_when_told(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parent / "app", tmp_path, dirs_exist_ok=True)
    process = host(tmp_path)
    assert process.stderr
    try:
        said = next(line for line in process.stderr if "listening" in line)
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert found
        with urllib.request.urlopen(f"{found[0]}/api/echo/3") as answer:
            assert answer.read() == b"GET 3 {}"
        second = host(tmp_path)
        assert "another host is running" in second.communicate(timeout=20)[1]
        assert second.returncode == 2
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_an_app_that_does_not_load_is_exit_status_2_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "function_app.py").write_text("import no_such_thing")
    process = host(tmp_path)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 2
    assert said.startswith("driftloop host: function_app.py")
    assert "Traceback" not in said
