"""A candidate in a process of its own, loaded and asked as a site does: `python -m edge.trial FOLDER ROWS OUT`.

FOLDER holds the candidate: its files, its manifest and, where `--key` names the registry's public key, its signature.
ROWS holds 0000.npz and so on: `names` of the features, and the column of each as arr_0 and so on, numbers, or texts
with "" for missing. OUT gets scores.npy,
and trial.json: {"error", "memory", "cpu_ms", "p50_ms", "p95_ms", "architecture"}.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge import candidate
from edge.errors import Refused
from edge.scorer import Scorer

SINGLE = 200
"""Rows that are asked one by one, for the time that each takes."""
MOST_MEMORY = 8 << 30
"""Bytes of address space; a model that asks for more is refused here, not by the site that it would bring down."""


def opened(folder: Path, public: bytes | None) -> Scorer:
    """The candidate's model, every byte checked first. Raises Refused."""
    manifest = (folder / candidate.MANIFEST).read_bytes()
    if public is None:
        found = candidate.read(manifest)
    else:
        found = candidate.signed(manifest, (folder / candidate.SIGNATURE).read_bytes(), public)
    named = {file.sha256: name for name, file in found.files.items()}
    files = candidate.contents(found, lambda sha256: (folder / named[sha256]).read_bytes())
    return Scorer.of(files, found.telemetry())


def tried(scorer: Scorer, rows: Path) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """The scores of all rows, and what it took."""
    scores: list[NDArray[np.float64]] = []
    took: list[float] = []
    cpu = 0.0
    for path in sorted(rows.iterdir()):
        with np.load(path, allow_pickle=False) as found:
            part = {name: found[f"arr_{i}"] for i, name in enumerate(found["names"].tolist())}
        scores.append(scorer.score(part))
        one_by_one = range(min(len(scores[-1]), SINGLE - len(took)))
        began = time.process_time()
        for i in one_by_one:
            start = time.perf_counter()
            scorer.score({name: values[i : i + 1] for name, values in part.items()})
            took.append((time.perf_counter() - start) * 1000)
        cpu += time.process_time() - began
    p50, p95 = np.quantile(took, (0.5, 0.95)).round(3).tolist() if took else (None, None)
    measured = {
        "memory": peak(),
        "cpu_ms": round(cpu * 1000 / len(took), 4) if took else None,
        "p50_ms": p50,
        "p95_ms": p95,
    }
    return np.concatenate(scores) if scores else np.empty(0), measured


def peak() -> int | None:
    """The most memory that this process has had, in bytes; None where Linux does not say so."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Try a candidate.")
    for name in ("folder", "rows", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--key", type=Path, help="the registry's public key")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    found: dict[str, Any] = {"error": "", "architecture": platform.machine()}
    try:
        scores, measured = tried(opened(args.folder, args.key.read_bytes() if args.key else None), args.rows)
        found |= measured
        np.save(args.out / "scores.npy", scores)
    except (Refused, OSError, MemoryError) as error:
        found["error"] = str(error) or type(error).__name__
    (args.out / "trial.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
