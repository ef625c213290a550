"""Evidently, NannyML and river in a virtual environment of their own, build/bench-peers, which is made when needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tools import setup

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "bench" / "peers.txt"
HOME = ROOT / "build" / "bench-peers"
PYTHON = HOME / "bin" / "python"


SILENT = {"NML_DISABLE_USAGE_LOGGING": "1", "DO_NOT_TRACK": "1"}
"""The peers report home what they are used for, unless told not to."""


class Missing(Exception):
    """The peers cannot be had here; the message says why."""


def run(module: str, *arguments: str) -> Any:
    """What `python -m MODULE` says as JSON in its last line, run where the peers are."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", **SILENT}
    command = [str(python()), "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Missing(f"{module} ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def python() -> Path:
    """The interpreter that has the peers; raises Missing."""
    stamp = HOME / "has"
    if not (stamp.exists() and stamp.read_text() == PINS.read_text() and PYTHON.exists()):
        said = [_make(version) for version in (sys.executable, "3.12", "3.11")]
        if all(said):
            raise Missing(f"Evidently, NannyML and river could not be installed into {HOME}: " + "; ".join(said))
        stamp.write_text(PINS.read_text())
    return PYTHON


def _make(version: str) -> str:
    """Make the environment with this Python unless it is there; returns what went wrong."""
    if PYTHON.exists() and (HOME / "has").exists():
        return ""
    uv = [sys.executable, "-m", "uv"] if _works([sys.executable, "-m", "uv", "--version"]) else ["uv"]
    if not _works([*uv, "--version"]):
        return "uv is missing (pip install uv)"
    shutil.rmtree(HOME, ignore_errors=True)
    environment = setup.uv_environment() if setup.PYTHON.exists() else dict(os.environ)
    for command in (
        [*uv, "venv", "--quiet", "--python", version, str(HOME)],
        [*uv, "pip", "install", "--quiet", "--python", str(PYTHON), "-r", str(PINS)],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{version}: {(done.stderr.strip().splitlines() or ['uv failed'])[-1]}"
    (HOME / "has").write_text("")
    return ""


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
