"""Cold start: `import function_app` against `import azure.functions`, and the first telemetry batch after it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np

from adapters.local.blobs import FileBlobs
from bench.world import World
from drift import envelope
from drift.telemetry import Batch, Rows
from triggers.config import parse_loop

FEATURES, ROWS = 20, 500

_FIRST = """
import sys, time
import function_app
heavy = {"pandas", "pyarrow", "scipy", "sklearn", "evidently", "onnxruntime", "azure.ai.ml"}
payload = open(sys.argv[1], "rb").read()
began, cpu = time.perf_counter(), time.process_time()
from triggers import intake
from functions import host
found = intake.ingest(host.ports(), [payload])
print(time.perf_counter() - began, time.process_time() - cpu)
assert found.rows == 500, found
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def run(repeats: int = 7) -> dict[str, float]:
    """Medians, in seconds of processor time (a busy machine does not count) and the ratio."""
    library = _median("import azure.functions", repeats)
    app = _median("import function_app", repeats)
    nothing = _median("pass", repeats)
    wall, cpu = first_batch(repeats)
    return {
        "import azure.functions": library - nothing,
        "import function_app": app - nothing,
        "ratio": (app - nothing) / (library - nothing),
        "first telemetry, processor": cpu,
        "first telemetry, wall": wall,
    }


def first_batch(repeats: int) -> tuple[float, float]:
    """Wall and processor seconds of the first batch of 500 rows after the import, median."""
    with tempfile.TemporaryDirectory() as folder:
        payload = _state(Path(folder))
        found = []
        for _ in range(repeats):
            (Path(folder) / "state.db").unlink(missing_ok=True)
            out = subprocess.run(
                [sys.executable, "-c", _FIRST, str(payload)],
                check=True,
                capture_output=True,
                text=True,
                env=_environment(folder),
            ).stdout
            found.append([float(x) for x in out.split()])
        wall, cpu = np.median(np.array(found), axis=0)
        return float(wall), float(cpu)


def _environment(folder: str) -> dict[str, str]:
    return {**os.environ, "DRIFTLOOP_PROFILE": "local", "DRIFTLOOP_STATE": folder}


def _state(folder: Path) -> Path:
    """A state folder with one loop, one site and one candidate's reference; returns a batch for it."""
    config = folder / "config" / "bench"
    config.mkdir(parents=True)
    names = [f"f{i}" for i in range(FEATURES)]
    listed = ", ".join(f"{{name: {n}}}" for n in names)
    (config / "loop.yaml").write_text(f"loop: bench\nschema: {{features: [{listed}]}}\n")
    (config / "fleet.yaml").write_text("sites: [{name: s0000}]\n")
    reference = World(0, sites=3, features=FEATURES).reference(60).to_bytes()
    layer = sha256(reference).hexdigest()
    manifest = msgspec.json.encode({"files": {"reference.bin": {"sha256": layer, "bytes": len(reference)}}})
    candidate = sha256(manifest).hexdigest()
    blobs = FileBlobs(folder / "blobs")
    blobs.put(f"layers/{layer}", reference)
    blobs.put(f"candidates/{candidate}/manifest.json", manifest)
    x = np.random.default_rng(0).normal(size=(ROWS, FEATURES))
    start = int(time.time()) - 86_400
    at = np.full(ROWS, start)
    columns = {name: x[:, i] for i, name in enumerate(names)}
    rows = Rows([str(i) for i in range(ROWS)], at, np.full(ROWS, 0.5), columns)
    batch = Batch("1", "bench", candidate, "s0000", "b1", start, start + 1, rows=rows)
    payload = folder / "batch.json"
    schema = parse_loop((config / "loop.yaml").read_text()).schema.telemetry("binary")
    payload.write_bytes(envelope.encode(batch, schema))
    return payload


def _median(code: str, repeats: int) -> float:
    spent = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return float(np.median(spent))
