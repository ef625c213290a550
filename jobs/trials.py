"""A candidate tried as a site serves it: rows for `edge.trial`, its process, and what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.model import CHUNK
from jobs.table import Table

ROOT = Path(__file__).resolve().parent.parent
LONGEST_S = 900.0


def write(table: Table, folder: Path) -> None:
    """The features of all rows, in files of as many rows as a site takes at once."""
    folder.mkdir()
    for i, start in enumerate(range(0, len(table), CHUNK)):
        columns = [_plain(column[start : start + CHUNK]) for column in table.columns.values()]
        np.savez(folder / f"{i:04}.npz", *columns, names=np.array(list(table.columns), dtype=str))


def _plain(column: NDArray[Any]) -> NDArray[Any]:
    """Texts without objects, "" for missing."""
    return np.array([v or "" for v in column.tolist()], dtype=str) if column.dtype == object else column


def run(candidate: Path, rows: Path, public: Path | None, count: int) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """The scores of `count` rows, NaN where the candidate gave none, and the trial: its `error` says why not."""
    out = candidate.with_name(f"{candidate.name}-tried")
    out.mkdir()
    nothing, key = np.full(count, np.nan), ("--key", public) if public else ()
    try:
        ended = process("edge.trial", candidate, rows, out, *key, timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        return nothing, {"error": f"took longer than {LONGEST_S:g} s"}
    try:
        found: dict[str, Any] = json.loads((out / "trial.json").read_text())
    except FileNotFoundError:
        return nothing, {"error": f"ended with status {ended.returncode}: {last(ended.stderr)}"}
    return nothing if found["error"] else np.load(out / "scores.npy", allow_pickle=False), found


def process(script: Path | str, *args: Path | str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """A script, or a module of ours, in its own process, one thread each; what it prints goes to the log. Raises
    TimeoutExpired."""
    command = [sys.executable, *([str(script)] if isinstance(script, Path) else ["-m", script]), *map(str, args)]
    threads = {name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **threads, "PYTHONPATH": paths}
    sys.stdout.flush()
    return subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False, timeout=timeout)


def last(stderr: str) -> str:
    """The last thing that a process said."""
    return next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "it said nothing")
