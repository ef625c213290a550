"""Pumps at two sites: a small table that is not the flights, and models of it made by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drift.envelope import bundle, encode, iso
from drift.telemetry import Batch, Labels, Schema
from edge import candidate, signing
from jobs.package import Blobs
from jobs.table import Table
from triggers.config import Loop, parse_loop

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as a job sets it; by default scikit-learn waits for busy cores

START = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
DAY = 86400

LOOP = """
loop: pumps
task: {task}
schema:
  timestamp: at
  site: plant
  id: id
  label: failed
  label_delay: 6h
  features:
    - {{name: pressure, unit: bar, range: [0, 20]}}
    - {{name: heat, column: temperature}}
    - {{name: maker, kind: category}}
training:
  script: {train}
evaluation:
  script: {evaluate}
gates: {{minimum_rows: 10}}
"""


def pumps(n: int, task: str = "binary", seed: int = 1, days: float = 20) -> Table:
    """Rows over some days from START; pressure goes missing, and one maker appears rarely."""
    random = np.random.default_rng(seed)
    pressure, heat = random.normal(5, 1, n).round(3), random.normal(60, 10, n).round(2)
    maker = np.array(["acme", "zenith", "acme", None, "rare"], dtype=object)[random.integers(0, 4, n)]
    maker[:: max(1, n // 3)] = "rare"
    value = (pressure - 5) + (heat - 60) / 10 + (maker == "zenith")
    label = value if task == "regression" else (value + random.normal(0, 1, n) > 0.5).astype(float)
    pressure[random.random(n) < 0.1] = np.nan
    at = START + np.sort(random.integers(0, int(days * DAY), n))
    ids = np.array([f"p{i}" for i in range(n)], dtype=object)
    site = np.array(["north", "south"], dtype=object)[random.integers(0, 2, n)]
    columns = {"pressure": pressure, "heat": heat, "maker": maker}
    return Table(ids, at, site, np.full(n, 0.5), label.astype(float), columns)


class Home:
    """A folder with a loop, keys, a blob store and jobs."""

    start = START

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs"
        self.blobs.mkdir()
        private, self.public = signing.new()
        (folder / "registry.pem").write_bytes(private)
        (folder / "registry.pub").write_text(self.public)
        self.loop()

    def loop(self, task: str = "binary", train: str | None = None, evaluate: str | None = None) -> Loop:
        """loop.yaml, with scripts given as their text."""
        named = {}
        for kind, text in (("train", train), ("evaluate", evaluate)):
            named[kind] = "null" if text is None else f"{kind}.py"
            if text is not None:
                (self.folder / f"{kind}.py").write_text(text)
        text = LOOP.format(task=task, **named)
        (self.folder / "loop.yaml").write_text(text)
        return parse_loop(text)

    @property
    def schema(self) -> Schema:
        loop = parse_loop((self.folder / "loop.yaml").read_text())
        return loop.schema.telemetry(loop.task)

    def told(self, rows: Table, hours: int = 12, label_after: int = 4) -> None:
        """Store the rows as each site's batches, every label some periods after its row."""
        for site in sorted(set(rows.site.tolist())):
            own = rows.take(rows.site == site)
            period = own.at // (hours * 3600)
            for p in range(int(period.min()), int(period.max()) + label_after + 1):
                now, then = own.take(period == p), own.take(period == p - label_after)
                if len(now) or len(then):
                    self.store(self.batch(site, f"b{p}", p * hours * 3600, now, then))

    def store(self, *batches: Batch) -> None:
        for b in batches:
            data = bundle([encode(b, self.schema)])
            folder = self.blobs / "batches" / "pumps" / b.site
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{iso(b.end)[:10]}-{candidate.sha256(data)[:16]}").write_bytes(data)

    @staticmethod
    def batch(site: str, name: str, start: int, rows: Table | None, labelled: Table | None) -> Batch:
        labels = None
        if labelled is not None and len(labelled):
            labels = Labels(labelled.ids.tolist(), labelled.at, labelled.label)
        own = rows.rows(rows.score) if rows is not None and len(rows) else None
        times = [start] if own is None else [start, int(own.at.min()), int(own.at.max())]
        return Batch("1", "pumps", "c" * 64, site, name, min(times), max(times) + 1, rows=own, labels=labels)

    def csv(self, rows: Table) -> Path:
        """The rows as the user's own table."""
        path = self.folder / "pumps.csv"
        lines = ["id,at,plant,failed,pressure,temperature,maker"]
        for i in range(len(rows)):
            c = {name: column[i] for name, column in rows.columns.items()}
            pressure = "" if np.isnan(c["pressure"]) else c["pressure"]
            at = datetime.fromtimestamp(int(rows.at[i]), UTC).isoformat()
            lines.append(f"{rows.ids[i]},{at},{rows.site[i]},{rows.label[i]},{pressure},{c['heat']},{c['maker'] or ''}")
        path.write_text("\n".join(lines))
        return path

    def candidate(self, slope: float, start: str = "", end: str = "", refuses: float | None = None) -> str:
        """Publish a model by hand: the logistic function of slope x heat; its training window is what it says."""
        folder = self.folder / f"made-{slope}-{refuses}"
        folder.mkdir(exist_ok=True)
        (folder / "model.onnx").write_bytes(by_hand(slope, refuses))
        lineage = candidate.Lineage(start=start, end=end, sites={"elsewhere": 1})
        manifest = candidate.build(folder, loop="pumps", schema=self.schema, lineage=lineage, created="")
        key = (self.folder / "registry.pem").read_bytes()
        return candidate.publish(folder, manifest, candidate.sign(manifest, key), Blobs(self.blobs).put)

    def spec(self, kind: str, name: str = "job", **fields: Any) -> Path:
        """The path of a spec."""
        folder = self.folder / "jobs" / name
        folder.mkdir(parents=True, exist_ok=True)
        common = {"name": name, "kind": kind, "loop": str(self.folder / "loop.yaml"), "blobs": str(self.blobs)}
        if kind == "train":
            common["key"] = str(self.folder / "registry.pem")
        (folder / "spec.json").write_text(json.dumps({**common, **fields}))
        return folder / "spec.json"

    def does(self, kind: str, name: str = "job", **fields: Any) -> dict[str, Any]:
        """The result of a job, run in this process."""
        from jobs.__main__ import main

        spec = self.spec(kind, name, **fields)
        status = main([str(spec)])
        found: dict[str, Any] = json.loads((spec.parent / "result.json").read_text())
        assert status == (1 if "error" in found else 0)
        return found

    def manifest(self, digest: str) -> candidate.Manifest:
        return candidate.read((self.blobs / "candidates" / digest / "manifest.json").read_bytes())


def by_hand(slope: float, refuses: float | None) -> bytes:
    """ONNX: sigmoid(slope * (heat - 60)); a row with more heat than `refuses` is looked up where nothing is."""
    from onnx import TensorProto, helper

    def scalar(name: str, value: float) -> Any:
        return helper.make_tensor(name, TensorProto.FLOAT, [1], [value])

    nodes = [
        helper.make_node("Sub", ["heat", "middle"], ["centred"]),
        helper.make_node("Mul", ["centred", "slope"], ["scaled"]),
        helper.make_node("Sigmoid", ["scaled"], ["probability"]),
        helper.make_node("Greater", ["heat", "limit"], ["above"]),
        helper.make_node("Cast", ["above"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["nothing", "place"], ["offset"]),
        helper.make_node("Add", ["probability", "offset"], ["score"]),
    ]
    constants = [scalar("middle", 60), scalar("slope", slope), scalar("limit", refuses or 1e9), scalar("nothing", 0)]
    heat = helper.make_tensor_value_info("heat", TensorProto.FLOAT, [None, 1])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])
    graph = helper.make_graph(nodes, "by-hand", [heat], [score], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture(scope="session")
def rows() -> Callable[..., Table]:
    """Makes pumps: rows(n, task, seed, days)."""
    return pumps


@pytest.fixture(scope="session")
def home_at() -> Callable[[Path], Home]:
    return Home
