"""The real function app behind the real local host, on a state that the shell itself has made."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from adapters.local import keys
from adapters.local.profile import Local
from cli.host.app import load
from cli.host.host import Host
from drift import envelope
from drift.reference import Reference
from drift.telemetry import Batch, Labels, Rows, Serving
from edge import candidate
from functions import host as root
from functions import wire
from triggers import candidates, codec, intake, loop
from triggers.approval import Request

APP = Path(__file__).parents[2] / "function_app.py"
START = datetime(2013, 4, 1, 6, 30, tzinfo=UTC)
LOOP = "flights"
LOOP_YAML = """
loop: flights
schema:
  timestamp: scheduled
  site: origin
  label: late
  features:
    - {name: distance, unit: miles}
    - {name: dep_hour, range: [0, 24]}
    - {name: wind}
    - {name: carrier, kind: category}
drift: {minimum_rows: 20, quality: {minimum_rows: 20}}
retrain: {confirm: 2, minimum_rows: 500}
gates: {minimum_rows: 100}
approval: {approvers: [anna, ben]}
rollout: {rings: [lab, coast], max_unavailable: 2, minimum_requests: 10, soak: 1d, max_p95_ms: 50}
"""
FLEET_YAML = """
sites:
  - {name: EWR, ring: lab, url: "http://127.0.0.1:9/EWR"}
  - {name: JFK, ring: coast, cohort: sea, url: "http://127.0.0.1:9/JFK"}
  - {name: LGA, ring: coast, cohort: sea, url: "http://127.0.0.1:9/LGA"}
"""


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Stage:
    """A state folder, the app on it, and a client of its HTTP surface. Time moves only when told."""

    state: Path
    sites: tuple[str, ...] = ("EWR", "JFK", "LGA")
    cookies: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Stage:
        os.environ |= {"DRIFTLOOP_STATE": str(self.state), "DRIFTLOOP_CLOCK": START.isoformat()}
        root.ports.cache_clear()
        root.local.cache_clear()
        self.local: Local = root.local()
        self.ports = root.ports()
        parts = self.local.bus, self.local.topic, self.local.store, self.local.clock
        self.host = Host(load(APP), *parts, root.SETTINGS, subscriptions=wire.SUBSCRIPTIONS)
        self.server = self.host.start_http(0)
        self.origin = f"http://127.0.0.1:{self.server.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        self.local.close()
        root.ports.cache_clear()
        root.local.cache_clear()

    # --- what happens

    def configure(self, loop_yaml: str = LOOP_YAML, fleet_yaml: str = FLEET_YAML) -> None:
        folder = self.state / "config" / LOOP
        folder.mkdir(parents=True)
        (folder / "loop.yaml").write_text(loop_yaml)
        (folder / "fleet.yaml").write_text(fleet_yaml)

    def candidate(self, seed: int, lineage: Mapping[str, Any]) -> str:
        """A candidate with a reference of 40 days; its digest."""
        rng, days = np.random.default_rng(seed), 40
        begin = int(START.timestamp()) // 86400 * 86400 - days * 86400
        parts = [self._rows(rng, begin + d * 86400, 60, 0.0) for _ in self.sites for d in range(days)]
        names = [s for s in self.sites for _ in range(days * 60)]
        rows = Rows(
            ids=[i for p in parts for i in p[0].ids],
            at=np.concatenate([p[0].at for p in parts]),
            columns={k: _joined([p[0].columns[k] for p in parts]) for k in parts[0][0].columns},
            score=np.concatenate([p[0].score for p in parts]),
        )
        labels = np.concatenate([p[1] for p in parts])
        config = self.ports.configs.loop(LOOP)
        reference = Reference.build(config.schema.telemetry("binary"), rows, labels, names, bins=32)
        raw = reference.to_bytes()
        files = {"model.onnx": b"nobody here opens it", "reference.bin": raw}
        named = {name: {"sha256": codec.digest(data), "bytes": len(data)} for name, data in files.items()}
        about = {"format": 1, "loop": LOOP, "task": "binary", "schema": {"version": "1", "features": []}}
        manifest = {**about, "files": named, "lineage": lineage}
        data = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
        digest = codec.digest(data)
        for content in files.values():
            self.ports.blobs.put(f"layers/{codec.digest(content)}", content)
        signature = candidate.sign(data, keys.registry(self.state).read_bytes()).encode()
        self.ports.blobs.put(f"candidates/{digest}/manifest.sig", signature)
        self.ports.blobs.put(f"candidates/{digest}/manifest.json", data)
        assert candidates.reference(self.ports, digest).version == reference.version
        return digest

    def _rows(self, rng: np.random.Generator, begin: int, n: int, shift: float) -> tuple[Rows, np.ndarray]:
        at = np.sort(rng.integers(begin, begin + 86400, n)).astype(np.int64)
        wind = rng.normal(10 + 8 * shift, 4, n)
        score = 1 / (1 + np.exp(-(wind - 12) / 4))
        values = {
            "distance": rng.gamma(3, 400, n),
            "dep_hour": (at % 86400) / 3600,
            "wind": wind,
            "carrier": rng.choice(
                ["AA", "B6", "DL", "UA"], n, p=[0.2, 0.3 - 0.1 * shift, 0.2 + 0.1 * shift, 0.3]
            ).tolist(),
        }
        late = (rng.random(n) < score).astype(np.float64)
        return Rows(ids=[f"{t}-{i}" for i, t in enumerate(at.tolist())], at=at, columns=values, score=score), late

    def day(self, shift: float = 0.0, serving: str = "", silent: tuple[str, ...] = (), rows: int = 60) -> None:
        """A day of telemetry from every site, then the check of the next morning."""
        now = self.ports.clock.now()
        begin = int(now.timestamp()) // 86400 * 86400
        schema = self.ports.configs.loop(LOOP).schema.telemetry("binary")
        payloads = []
        for n, site in enumerate(s for s in self.sites if s not in silent):
            found, late = self._rows(np.random.default_rng(begin + n), begin, rows, shift)
            batch = Batch(
                schema="1",
                loop=LOOP,
                candidate=serving or loop.head(self.ports, LOOP).champion,
                site=site,
                id=f"{now:%Y-%m-%d}",
                start=begin,
                end=begin + 86400,
                rows=found,
                labels=Labels(found.ids, found.at, late),
                serving=Serving(rows, 0, 2.0, 7.5 + n),
            )
            payloads.append(envelope.encode(batch, schema))
        self.local.clock.set(now + timedelta(days=1))
        assert intake.ingest(self.ports, payloads).quarantined == 0
        self.host.pump()
        loop.check(self.ports, LOOP)

    def job(self, run: str, kind: str, result: Mapping[str, Any]) -> None:
        """A job's result, there before the run asks for it."""
        folder = self.state / "jobs" / f"{run}-{kind}"
        folder.mkdir(parents=True)
        spec = {"kind": kind, "loop": f"config/{LOOP}/loop.yaml", "run": run, "timeout_s": 60}
        (folder / "spec.json").write_text(json.dumps(spec))
        (folder / "ended.json").write_text(json.dumps({"state": "succeeded", "result": result, "reason": ""}))

    def begin(self) -> str:
        """A run that the drift of the last days has begun: its id."""
        self.champion = self.candidate(1, {"rows": 7200})
        loop.adopt(self.ports, LOOP, self.champion, "tests")
        for _ in range(9):
            self.day()
        while not loop.active_runs(self.ports, LOOP):
            self.day(shift=1.0)
        return loop.active_runs(self.ports, LOOP)[0].id

    def judge(self, run: str, gain: float = 0.0571) -> Request:
        """Train and evaluate the run's candidate, up to the question."""
        made = {"run": run, "parent": self.champion, "from": "2013-02-10T00:00:00Z", "to": "2013-04-02T00:00:00Z"}
        sites = {s: 2300 + i for i, s in enumerate(self.sites)}
        code = {"code": "9f1c2d", "environment": "python 3.11"}
        self.challenger = self.candidate(2, {**made, "rows": sum(sites.values()), "sites": sites, **code})
        self.job(run, "train", {"candidate": self.challenger, "rows": sum(sites.values())})
        now = self.ports.clock.now()
        compared = {"rows": 600, "champion": 0.641, "challenger": 0.641 + gain}
        interval = {"gain": gain, "gain_low": gain - 0.021, "gain_high": gain + 0.019}
        here = {
            s: {**compared, **interval, "gain": gain / (i + 1), "gain_low": gain / (i + 1) - 0.04}
            for i, s in enumerate(self.sites)
        }
        self.job(
            run,
            "evaluate",
            {
                "champion": self.champion,
                "challenger": self.challenger,
                "metric": "auc",
                "rows": 1800,
                "confidence": 0.95,
                "from": (now - timedelta(days=10)).isoformat(),
                "to": now.isoformat(),
                "champion_value": 0.641,
                "challenger_value": 0.641 + gain,
                **interval,
                "log_loss": {"champion": 0.61, "challenger": 0.55},
                "sites": here,
                "cohorts": {"sea": {**compared, **interval}},
                "groups": {
                    "carrier AA": {**compared, **interval},
                    "dep_hour below 6": {**compared, "gain": -0.03, "gain_low": -0.05, "gain_high": -0.01, "rows": 140},
                },
                "holdout": {**compared, **interval, "sha256": "e" * 64},
                "trials": {"challenger": {"memory": 91_000_000, "cpu_ms": 0.8, "p50_ms": 1.1, "p95_ms": 3.2}},
                "calibration": {"champion": 0.041, "challenger": 0.022},
                "churn": 0.083,
                "schema": "",
                "data": "d" * 64,
                "bytes": 812345,
            },
        )
        self.host.pump()
        return self.asked(run)

    def asked(self, run: str) -> Request:
        record = self.ports.store.get(LOOP, f"approval/{run}")
        assert record is not None
        return codec.decode(record.value, Request)

    # --- who asks

    def sign_in(self, name: str, *roles: str) -> None:
        link = self.local.people.login_link(self.origin, name, roles or ("approve", "operate"))
        got = self.get(link.removeprefix(self.origin))
        assert got.status == 200, got.text
        cookie = got.headers["set-cookie"].split(";")[0]
        self.cookies = dict([cookie.split("=", 1)])

    def sign_out(self) -> None:
        self.cookies = {}

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        cookie = {"Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())} if self.cookies else {}
        try:
            connection.request(method, path, body or None, {**cookie, **(headers or {})})
            got = connection.getresponse()
            return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        finally:
            connection.close()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.ask("GET", path, headers=headers)

    def operate(self, path: str, said: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Answer:
        """A change, as the dashboard asks for it."""
        token = self.get("/api/session").json()["csrf"]
        base = {"Origin": self.origin, "Content-Type": "application/json", "X-CSRF-Token": token}
        return self.ask("POST", path, json.dumps(said).encode(), {**base, **(headers or {})})

    def form(self, run: str) -> dict[str, str]:
        """The approval page's form, as a browser would send it back."""
        page = self.get(f"/api/approvals/{run}").text
        return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))

    def answer(self, run: str, fields: Mapping[str, str], headers: Mapping[str, str] | None = None) -> Answer:
        base = {"Origin": "null", "Sec-Fetch-Site": "same-origin", "Content-Type": "application/x-www-form-urlencoded"}
        sent = {k: v for k, v in {**base, **(headers or {})}.items() if v}
        return self.ask("POST", f"/api/approvals/{run}", urlencode(fields).encode(), sent)


def _joined(parts: list[Any]) -> Any:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [x for p in parts for x in p]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str, str]:
    """A state in which a run waits for its answer: folder, run, champion, challenger."""
    folder = tmp_path_factory.mktemp("made") / "state"
    with Stage(folder) as stage:
        stage.configure()
        run = stage.begin()
        stage.judge(run)
        return folder, run, stage.champion, stage.challenger


@pytest.fixture
def stage(made: tuple[Path, str, str, str], tmp_path: Path) -> Iterator[Stage]:
    """A copy of it, to do with as a test likes."""
    folder, _, champion, challenger = made
    shutil.copytree(folder, tmp_path / "state")
    with Stage(tmp_path / "state") as stage:
        stage.champion, stage.challenger = champion, challenger
        yield stage


@pytest.fixture(scope="module")
def shared(made: tuple[Path, str, str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Another copy, for all tests of a module; Anna is signed in."""
    folder = tmp_path_factory.mktemp("shared") / "state"
    shutil.copytree(made[0], folder)
    with Stage(folder) as stage:
        stage.sign_in("anna")
        yield stage


@pytest.fixture
def run(made: tuple[Path, str, str, str]) -> str:
    return made[1]


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Stage]:
    """A state in which nothing has happened."""
    with Stage(tmp_path / "state") as stage:
        yield stage
