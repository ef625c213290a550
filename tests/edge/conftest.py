"""A registry, an ingest that listens on 127.0.0.1, recordings, and models small enough to read."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from drift.reference import Reference
from drift.telemetry import Feature, Rows, Schema
from edge import candidate, keys, signing
from edge.config import SiteConfig
from edge.config import load as load_config

SCHEMA = Schema("1", (Feature("distance"), Feature("carrier", "category")))
DAY = 86_400
START = 1_357_000_000 // DAY * DAY


def a_model(
    weight: float = 1.0,
    *,
    known: tuple[str, ...] = ("AA", "UA", ""),
    unseen: int = 2,
    outputs: str = "score",
    domain: str = "",
) -> bytes:
    """sigmoid(weight * distance + bias of the carrier), missing distances as 0.

    There are three biases; carriers not `known` take the one numbered `unseen`.
    """
    nodes = [
        helper.make_node("IsNaN", ["distance"], ["hole"]),
        helper.make_node("Where", ["hole", "zero", "distance"], ["filled"]),
        helper.make_node("Mul", ["filled", "weight"], ["scaled"]),
        helper.make_node(
            "LabelEncoder",
            ["carrier"],
            ["code"],
            domain="ai.onnx.ml",
            keys_strings=known,
            values_int64s=range(len(known)),
            default_int64=unseen,
        ),
        helper.make_node("Gather", ["bias", "code"], ["about"]),
        helper.make_node("Add", ["scaled", "about"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], [outputs], domain=domain),
    ]
    inputs = [
        helper.make_tensor_value_info("distance", TensorProto.FLOAT, [None, 1]),
        helper.make_tensor_value_info("carrier", TensorProto.STRING, [None, 1]),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("weight", TensorProto.FLOAT, [1], [weight]),
        helper.make_tensor("bias", TensorProto.FLOAT, [3], [0.0, 0.5, -0.5]),
    ]
    output = helper.make_tensor_value_info(outputs, TensorProto.FLOAT, [None, 1])
    graph = helper.make_graph(nodes, "small", inputs, [output], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def a_reference() -> bytes:
    n = 400
    rng = np.random.default_rng(0)
    columns = {"distance": rng.normal(size=n), "carrier": rng.choice(["AA", "UA"], n).tolist()}
    rows = Rows([f"t{i}" for i in range(n)], START - DAY + np.arange(n), rng.random(n), columns)
    labels = rng.integers(0, 2, n).astype(np.float64)
    return Reference.build(SCHEMA, rows, labels, ["JFK"] * n, bins=8).to_bytes()


def record(path: Path, days: int = 10, per_day: int = 30, carriers: tuple[str, ...] = ("AA", "UA", "")) -> None:
    """Rows evenly over some days; every fifth has no label, the others' is known 20 hours later."""
    n = days * per_day
    at = START + np.arange(n) * DAY // per_day
    label = (np.arange(n) % 2).astype(np.float64)
    label[::5] = np.nan
    distance = np.sin(np.arange(n))
    distance[::7] = np.nan
    np.savez(
        path,
        id=np.array([f"JFK-{i}" for i in range(n)]),
        at=at,
        label=label,
        label_at=at + 20 * 3600.0,
        distance=distance,
        carrier=np.array([carriers[i % len(carriers)] for i in range(n)]),
    )


@dataclass
class Registry:
    folder: Path
    private: bytes
    public: str

    def put(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def publish(self, model: bytes, *, private: bytes | None = None, loop: str = "flights", **about: Any) -> str:
        work = self.folder.parent / f"candidate-{len(list(self.folder.parent.iterdir()))}"
        work.mkdir()
        (work / "model.onnx").write_bytes(model)
        (work / "reference.bin").write_bytes(a_reference())
        given = {"schema": SCHEMA, "lineage": candidate.Lineage(run="r1"), "created": "2013-03-01T00:00:00Z"} | about
        manifest = candidate.build(work, loop=loop, **given)
        return candidate.publish(work, manifest, candidate.sign(manifest, private or self.private), self.put)


@dataclass
class Ingest:
    """What arrived, and what is answered: by default that it was taken."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    answer: Callable[[bytes], int] = lambda body: 202

    def taken(self) -> list[bytes]:
        return [body for body in self.bodies if self.answer(body) < 300]

    def by_id(self) -> dict[str, bytes]:
        """Bodies by batch; fails where one id came with two different bodies."""
        found: dict[str, bytes] = {}
        for body in self.bodies:
            assert found.setdefault(json.loads(body)["batch"], body) == body
        return found


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    private, public = signing.new()
    folder = tmp_path / "registry"
    folder.mkdir()
    (tmp_path / "registry.pub").write_text(public)
    return Registry(folder, private, public)


@pytest.fixture
def ingest() -> Iterator[Ingest]:
    told = Ingest()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            try:
                body = self.rfile.read(int(self.headers["Content-Length"]))
            except ConnectionError:
                return
            if len(body) < int(self.headers["Content-Length"]):  # killed while it sent
                return
            told.bodies.append(body)
            self.send_response(told.answer(body))
            self.send_header("Content-Length", "5")
            with suppress(ConnectionError):
                self.end_headers()
                self.wfile.write(b"words")

        def log_message(self, *values: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    told.url = f"http://127.0.0.1:{server.server_address[1]}/api/telemetry"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield told
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Settings:
    """Where a test's edge.json is, and what it says."""

    folder: Path
    public: str

    @property
    def path(self) -> Path:
        return self.folder / "edge.json"

    def site(self, **changes: Any) -> SiteConfig:
        """The only site of the file, written with these changes."""
        given = json.loads(self.path.read_text())
        given["sites"][0] |= changes
        self.path.write_text(json.dumps(given))
        return load_config(self.path).sites[0]

    def plays(self, **changes: Any) -> SiteConfig:
        """The same site, playing its recording."""
        return self.site(data="jfk.npz", **changes)

    def record(self, **how: Any) -> None:
        record(self.folder / "jfk.npz", **how)


@pytest.fixture
def settings(tmp_path: Path, registry: Registry, ingest: Ingest) -> Settings:
    private, public = keys.new()
    (tmp_path / "jfk.pem").write_bytes(private)
    record(tmp_path / "jfk.npz")
    site = {
        "name": "JFK",
        "loop": "flights",
        "state": "state",
        "ingest": ingest.url,
        "registry": "registry",
        "registry_key": "registry.pub",
        "key": "jfk.pem",
        "key_id": "jfk-1",
        "flush": DAY,
        "schema": {"features": [{"name": "distance"}, {"name": "carrier", "kind": "category"}]},
    }
    (tmp_path / "edge.json").write_text(json.dumps({"sites": [site]}))
    return Settings(tmp_path, public)


@pytest.fixture
def make_model() -> Callable[..., bytes]:
    return a_model
