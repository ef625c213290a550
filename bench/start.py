"""Cold start: `import function_app` against `import azure.functions`, and the first telemetry batch after it."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np

from adapters.local.blobs import FileBlobs
from bench.extra import Missing
from bench.world import World
from drift import envelope
from drift.telemetry import Batch, Rows, Schema
from triggers.config import parse_loop

FEATURES, ROWS = 20, 500

_FIRST = """
import sys, time
import function_app
heavy = {"pandas", "pyarrow", "scipy", "sklearn", "evidently", "onnxruntime", "azure.ai.ml", "azure.core"}
payload = open(sys.argv[1], "rb").read()
began, cpu = time.perf_counter(), time.process_time()
from triggers import intake
from functions import host
found = intake.ingest(host.ports(), [payload])
print(time.perf_counter() - began, time.process_time() - cpu)
assert found.rows == 500, found
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


_UPLOAD = """
import os, sys
from pathlib import Path
from adapters.azure.profile import Azure
from adapters.azure.settings import Settings
azure = Azure(Settings(os.environ))
for store, name in ((azure.files, "config"), (azure.blobs, "blobs")):
    home = Path(sys.argv[1]) / name
    for path in home.glob("*/**/*"):
        if path.is_file():
            store.put(path.relative_to(home).as_posix(), path.read_bytes())
"""
"""What a state folder of the local profile holds, into the containers of the azure profile."""


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


def on_azure(repeats: int = 7) -> dict[str, float]:
    """As `run`, of the first batch on the azure profile: configuration, reference and rows in Azurite, over https, with
    a managed identity's token. Raises Missing where there is no Node.js, or not what `make test-wire` installs."""
    wall, cpu = first_batch(repeats, "azure")
    return {"azure: first telemetry, processor": cpu, "azure: first telemetry, wall": wall}


def first_batch(repeats: int, profile: str = "local") -> tuple[float, float]:
    """Wall and processor seconds of the first batch of 500 rows after the import, median."""
    with tempfile.TemporaryDirectory() as folder, _storage(Path(folder), profile) as environment:
        payloads = _state(Path(folder), repeats + 1)
        if profile == "azure":
            _python(_UPLOAD, folder, environment)
        found = [[float(x) for x in _python(_FIRST, str(p), environment).split()] for p in payloads]
        wall, cpu = np.median(np.array(found[1:]), axis=0)  # the first made the database or table
        return float(wall), float(cpu)


def _python(code: str, argument: str, environment: Mapping[str, str]) -> str:
    """What a process of its own prints."""
    command, env = [sys.executable, "-c", code, argument], {**os.environ, **environment}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout


@contextmanager
def _storage(folder: Path, profile: str) -> Iterator[Mapping[str, str]]:
    """The environment of an app on that profile."""
    if profile == "local":
        yield {"DRIFTLOOP_PROFILE": "local", "DRIFTLOOP_STATE": str(folder)}
        return
    try:
        import trustme  # noqa: F401

        from tests.conftest import new_authority
        from tests.servers import azurite, identity
    except ImportError as error:
        raise Missing(f"azure: {error.name} is not installed; `make test-wire` does that") from error
    if shutil.which("node") is None:
        raise Missing("azure: there is no Node.js for Azurite")
    made = new_authority(folder)
    with identity.running() as issuer, azurite.running(folder, made.cert, made.key) as storage:
        trusted = dict.fromkeys(("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"), str(made.ca))
        where = {**storage.settings, **issuer.environment, **trusted, "NO_PROXY": "127.0.0.1,localhost"}
        yield {"DRIFTLOOP_PROFILE": "azure", **where}


def home(folder: Path, sites: Sequence[str], features: Sequence[str], more: str = "") -> tuple[str, Schema]:
    """A state folder with one loop, these sites and one candidate's reference; the candidate, and the rows' schema.
    `more`: what else the loop's schema says."""
    config = folder / "config" / "bench"
    config.mkdir(parents=True)
    listed = ", ".join(f"{{name: {n}}}" for n in features)
    (config / "loop.yaml").write_text(f"loop: bench\nschema: {{{more}features: [{listed}]}}\n")
    (config / "fleet.yaml").write_text(f"sites: [{', '.join(f'{{name: {n}}}' for n in sites)}]\n")
    reference = World(0, sites=3, features=len(features)).reference(60).to_bytes()
    layer = sha256(reference).hexdigest()
    manifest = msgspec.json.encode({"files": {"reference.bin": {"sha256": layer, "bytes": len(reference)}}})
    candidate = sha256(manifest).hexdigest()
    blobs = FileBlobs(folder / "blobs")
    blobs.put(f"layers/{layer}", reference)
    blobs.put(f"candidates/{candidate}/manifest.json", manifest)
    return candidate, parse_loop((config / "loop.yaml").read_text()).schema.telemetry("binary")


def _state(folder: Path, count: int) -> list[Path]:
    """Such a folder; returns so many batches for it."""
    names = [f"f{i}" for i in range(FEATURES)]
    candidate, schema = home(folder, ["s0000"], names)
    x = np.random.default_rng(0).normal(size=(ROWS, FEATURES))
    start = int(time.time()) - 86_400
    at = np.full(ROWS, start)
    columns = {name: x[:, i] for i, name in enumerate(names)}
    rows = Rows([str(i) for i in range(ROWS)], at, np.full(ROWS, 0.5), columns)
    payloads = [folder / f"batch-{n}.json" for n in range(count)]
    for payload in payloads:
        batch = Batch("1", "bench", candidate, "s0000", payload.stem, start, start + 1, rows=rows)
        payload.write_bytes(envelope.encode(batch, schema))
    return payloads


def _median(code: str, repeats: int) -> float:
    spent = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return float(np.median(spent))
