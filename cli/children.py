"""Processes that a command starts: jobs outside the loop, sites."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.host import APP
from triggers.errors import DriftloopError


class JobFailed(DriftloopError):
    """A job that a command cannot do without ended without a result."""


def run_job(folder: Path, spec: Mapping[str, Any]) -> None:
    """Run one job outside the loop, to its end; what it wrote is in `folder`. Raises JobFailed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(json.dumps(spec))
    with open(folder / "log.txt", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs", str(folder / "spec.json")],
            stdout=log,
            stderr=log,
            cwd=APP.parent,
            env=environment(),
        )
        try:
            process.wait()
        except BaseException:
            terminate(process)
            raise
    if not (folder / "result.json").exists():
        raise JobFailed(f"{spec['name']} ended with status {process.returncode}: see {folder / 'log.txt'}")


def environment() -> dict[str, str]:
    """One thread a child: more would wait for each other. Bytecode is kept: most of a start is compiling."""
    ours = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(APP.parent)}
    return {**{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}, **ours}


def terminate(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end; after five seconds, make it."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
