"""The bytes that reach a site of the flights example: all of it, another model with its code, other code alone.

Every candidate is fetched by the program itself over HTTP, and what the registry sent is counted. The code of a bundle
is what surrounds its model: here a graph that corrects the score, in a layer of its own.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, distribution
from io import BytesIO
from pathlib import Path
from re import match
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from adapters.azure.push import program
from edge import bundle, candidate, signing
from edge.config import parse
from edge.scorer import Scorer
from edge.site import Site
from edge.smoke import SMOKE, Sample
from examples.flights.data import write
from jobs.specs import Train
from jobs.work import do
from triggers.config import Loop, parse_loop

ROOT = Path(__file__).resolve().parent.parent
FLIGHTS = ROOT / "examples" / "flights"


def run() -> dict[str, int]:
    """Bytes by what was moved."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        loop = parse_loop((FLIGHTS / "loop.yaml").read_text())
        private, public = signing.new()
        (folder / "registry.pub").write_text(public)
        table = write(folder / "flights.parquet")
        trained = [_trained(folder, table, month) for month in ("2013-03-01T05:00:00Z", "2013-04-01T04:00:00Z")]
        made = [(trained[0], 0.98), (trained[1], 0.99), (trained[1], 1.0)]
        digests = [_bundle(folder, loop, files, factor, private) for files, factor in made]
        with _serving(folder / "registry") as (url, sent):
            site = Site(_told(folder, loop, url))
            moved = []
            for digest in digests:
                sent.clear()
                site.deploy(digest)
                moved.append(sum(sent))
            site.close()
    own = _packed(program(public.encode()))
    return {
        "first load: what the program needs": _installed(ROOT / "edge" / "requirements.txt"),
        "first load: the program": own,
        "first load: the candidate": moved[0],
        "another model, reference and code": moved[1],
        "other code of the candidate": moved[2],
        "other code of the program": own,
    }


def _trained(folder: Path, table: Path, until: str) -> dict[str, bytes]:
    """What the example's own script makes of the flights up to a time."""
    blobs = folder / "trained"
    spec = Train(
        name="t",
        loop=str(FLIGHTS / "loop.yaml"),
        blobs=str(blobs),
        data=str(table),
        start=None,
        end=datetime.fromisoformat(until),
    )
    digest = do(spec, folder)["candidate"]
    manifest = candidate.read((blobs / "candidates" / digest / "manifest.json").read_bytes())
    return {name: (blobs / "layers" / file.sha256).read_bytes() for name, file in manifest.files.items()}


def _bundle(folder: Path, loop: Loop, files: Mapping[str, bytes], factor: float, private: bytes) -> str:
    """The model, a graph that corrects its score, and what chains them; published."""
    schema, work = loop.schema.telemetry(loop.task), folder / "bundle"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    steps = [
        {"model": "model.onnx", "outputs": {"score": "raw"}},
        {"model": "correct.onnx"},
    ]
    whole = {**files, "correct.onnx": _correction(factor), bundle.ORCHESTRATE: json.dumps({"steps": steps}).encode()}
    scorer = Scorer.of(whole, schema)
    columns = {f.name: np.zeros(2) if f.kind == "number" else ["", ""] for f in schema.features}
    rows: list[dict[str, Any]] = [{f.name: 0.0 if f.kind == "number" else "" for f in schema.features}] * 2
    whole[SMOKE] = msgspec.json.encode(Sample(rows, scorer.score(columns).tolist()))
    for name, data in whole.items():
        (work / name).write_bytes(data)
    manifest = candidate.build(work, loop=loop.loop, schema=schema, lineage=candidate.Lineage(), created="")

    def put(name: str, data: bytes) -> None:
        path = folder / "registry" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return candidate.publish(work, manifest, candidate.sign(manifest, private), put)


def _correction(factor: float) -> bytes:
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Mul", ["raw", "factor"], ["score"])]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in ("raw", "score")]
    constant = helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])
    graph = helper.make_graph(nodes, "correct", value[:1], value[1:], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _told(folder: Path, loop: Loop, registry: str) -> Any:
    features = [{"name": f.name, "kind": f.kind} for f in loop.schema.features]
    site = {"name": "EWR", "loop": loop.loop, "state": "state", "ingest": "http://127.0.0.1:9/", "registry": registry}
    schema = {"task": loop.task, "features": features}
    told = {"sites": [{**site, "registry_key": "registry.pub", "schema": schema}]}
    return parse(json.dumps(told).encode(), folder, "edge.json").sites[0]


@contextmanager
def _serving(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """A registry over HTTP, and how many bytes each answer had."""
    sent: list[int] = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def copyfile(self, source: Any, outputfile: Any) -> None:
            data = source.read()
            sent.append(len(data))
            outputfile.write(data)

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", sent
        server.shutdown()


def _packed(files: Mapping[str, bytes]) -> int:
    """As a layer of a container's image: a tar, compressed."""
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return len(gzip.compress(made.getvalue(), mtime=0))


def _installed(requirements: Path) -> int:
    """Bytes on the disk of the packages and of what they need, as installed here."""
    wanted = [line for line in requirements.read_text().splitlines() if line and not line.startswith("#")]
    found: dict[str, int] = {}
    while wanted:
        name = (match(r"[A-Za-z0-9._-]+", wanted.pop()) or [""])[0].lower().replace("_", "-")
        if name in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        files = (Path(str(package.locate_file(f))) for f in package.files or ())
        found[name] = sum(path.stat().st_size for path in files if path.exists() and path.suffix != ".pyc")
        wanted += [r for r in package.requires or () if "extra ==" not in r]
    return sum(found.values())
