"""What is fuzzed: decoders and HTTP endpoints, each with valid input to begin from and the errors it may raise."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bench import outside
from bench.fuzz import Target
from bench.mutate import mutated
from drift import envelope, performance, reference, sketch, windows
from drift.telemetry import Batch, Feature, Labels, Rows, Schema, Serving

if TYPE_CHECKING:
    from tests.functions.conftest import Stage

SCHEMA = Schema("1", (Feature("x", low=0.0, high=9.0), Feature("car:rier", "category"), Feature("z")))
START = 1_772_323_200


def decoders() -> list[Target]:
    """Every reader of bytes that come from a site, a service, a person's file or the disk."""
    return [*_envelopes(), *_binaries(), *_stored(), *_files(), *outside.rows(), *_site()]


def a_batch(**changes: Any) -> Batch:
    rows = Rows(
        ["r:1", "r2", "r3"],
        np.array([START, START + 5, START + 9]),
        np.array([0.25, np.nan, 1.0]),
        {"x": np.array([1.5, np.nan, -2.0]), "car:rier": ["AA", None, 'é"\\:'], "z": np.array([0.0, 1e9, -3.25])},
    )
    given = {"rows": rows, "serving": Serving(3, 1, 0.5, 2.5), "key": "k1"} | changes
    return Batch("1", "flights", "ab" * 32, "JFK", "b-1", START, START + 60, **given)


def batches() -> list[bytes]:
    """A batch in each spelling, with and without labels, and the worst of the attack list."""
    labels = Labels(["x", "y"], np.array([START + 5, START + 6]), np.array([0.0, 1.0]))
    made = [
        a_batch(),
        a_batch(labels=labels),
        a_batch(rows=None, labels=labels),
        a_batch(rows=None, sketch=b"\0counts"),
    ]
    spellings: tuple[envelope.Spelling, ...] = ("rows", "columns", "arrow")
    found = [envelope.encode(batch, SCHEMA, spelling) for batch in made for spelling in spellings]
    plain = envelope.encode(a_batch(), SCHEMA)
    nested = plain.replace(b'"serving":{', b'"serving":' + b"[" * 100_000 + b'{"a":{')
    twice = plain.replace(b'"site":"JFK"', b'"site":"JFK","site":"LGA"')
    return [*found, envelope.signed(plain, lambda _: b"s" * 64), nested, twice]


def _envelopes() -> list[Target]:
    seeds, bad = batches(), (envelope.BadBatch,)
    return [
        Target("envelope-peek", envelope.peek, bad, seeds),
        Target("envelope-decode", lambda data: envelope.decode(data, SCHEMA), bad, seeds, 6.0),
        Target("envelope-signed-part", envelope.signed_part, bad, seeds),
        Target("envelope-unbundle", envelope.unbundle, (ValueError,), [envelope.bundle(seeds[:3])], 0.5),
    ]


def _binaries() -> list[Target]:
    from drift.detectors import State

    random = np.random.default_rng(1)
    n = 400
    at = START - 86_400 * 30 + np.sort(random.integers(0, 86_400 * 30, n))
    columns = {"x": random.normal(size=n), "car:rier": ["AA", "BB"] * (n // 2), "z": random.normal(size=n)}
    rows = Rows([f"r{i}" for i in range(n)], at, random.random(n), columns)
    about = reference.Reference.build(SCHEMA, rows, (random.random(n) < 0.5).astype(float), ["a"] * n, bins=8)
    batch = a_batch(rows=rows)
    window = next(iter(windows.fold(batch, about, 86_400).values()))
    predictions = performance.Predictions.of(rows, about, 86_400)
    bad = (ValueError,)
    return [
        Target("window", windows.Window.from_bytes, bad, [window.to_bytes()]),
        Target("sketch", sketch.Sketch.from_bytes, bad, [sketch.sketch(rows, about).to_bytes()]),
        Target("reference", reference.Reference.from_bytes, bad, [about.to_bytes()], 0.5),
        Target("predictions", performance.Predictions.from_bytes, bad, [predictions.to_bytes()]),
        Target("detector-state", State.from_bytes, bad, [State.new(about).to_bytes()]),
    ]


def _stored() -> list[Target]:
    """The codec, for every kind of value that is stored or sent."""
    from tests.triggers.goldens import FOLDER, GOLDENS, read
    from triggers.errors import Refused, Retry

    return [
        Target(
            f"stored-{name}",
            lambda data, g=golden: read(g, data),  # type: ignore[misc]
            (Refused, Retry) if golden.kind else (msgspec.DecodeError, UnicodeDecodeError, RecursionError),
            [(FOLDER / f"{name}.json").read_bytes()],
            0.1,
        )
        for name, golden in GOLDENS.items()
    ]


def _files() -> list[Target]:
    from edge import config as edge_config
    from edge.errors import Refused as EdgeRefused
    from tests.functions.conftest import FLEET_YAML, LOOP_YAML
    from triggers import config
    from triggers.errors import Misconfigured

    def text(data: bytes) -> str:
        return data.decode("utf-8", "replace")

    edge = {"name": "EWR", "loop": "flights", "state": "state", "ingest": "http://127.0.0.1:9/", "registry": "r"}
    sites = [{**edge, "registry_key": "k", "schema": {"features": [{"name": "x"}]}}]
    told = json.dumps({"port": 0, "sites": sites}).encode()
    return [
        Target("loop.yaml", lambda d: config.parse_loop(text(d)), (Misconfigured,), [LOOP_YAML.encode()], 0.2),
        Target("fleet.yaml", lambda d: config.parse_fleet(text(d)), (Misconfigured,), [FLEET_YAML.encode()], 0.2),
        Target("edge.json", lambda d: edge_config.parse(d, Path("/"), "edge.json"), (EdgeRefused,), [told]),
    ]


def _site() -> list[Target]:
    """What a site reads: a candidate's manifest and its signature."""
    from edge import candidate, keys, signing
    from edge.errors import Refused

    private, public = signing.new()
    file = {"sha256": "ab" * 32, "bytes": 5}
    about = {
        "format": 1,
        "loop": "flights",
        "task": "binary",
        "created": "2026-01-01T00:00:00Z",
        "lineage": {"rows": 1},
    }
    schema = {"version": "1", "features": [{"name": "x", "kind": "number"}]}
    manifest = json.dumps({**about, "schema": schema, "files": {"model.onnx": file}}).encode()
    signed = signing.sign("ab" * 32, {"model.onnx": "ab" * 32}, private).encode()
    _, raw = keys.new()
    return [
        Target("manifest", candidate.read, (Refused,), [manifest]),
        Target("signature", lambda data: signing.verify(data, public), (Refused,), [signed]),
        Target("public-key", lambda data: keys.verify(data, b"s" * 64, b""), (Refused,), [raw.encode()], 0.3),
    ]


# --- the endpoints


@contextmanager
def endpoints() -> Iterator[list[Target]]:
    """Every function of the app behind HTTP, on a state in which a run waits for its answer; the server's own reading
    of requests; batches from the queue; what a job wrote; and the edge program. The state is in memory where the
    machine has a file system for that."""
    from tests.functions.conftest import Stage

    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="driftloop-fuzz-", dir=memory if memory.is_dir() else None))
    logging.disable(logging.CRITICAL)
    settings = dict(os.environ)
    try:
        with Stage(folder / "state") as stage, outside.site(folder / "edge") as edge:
            stage.configure()
            run = stage.begin()
            stage.judge(run)
            stage.sign_in("anna")
            yield [*_endpoints(stage, run), *outside.results(stage, run), *edge]
    finally:
        os.environ.clear()
        os.environ |= settings  # its clock stands still
        logging.disable(logging.NOTSET)
        shutil.rmtree(folder, ignore_errors=True)


class Broken(Exception):
    """An answer that no client should get."""


def _endpoints(stage: Stage, run: str) -> list[Target]:
    from triggers import intake

    errors: list[Exception] = []
    stage.host._on_invoke = lambda _name, _took, error: errors.append(error) if error else None

    def ask(data: bytes) -> None:
        errors.clear()
        method, url, headers, body = parsed(data)
        status, answered, _ = stage.host.request(method, f"{stage.origin}{url}", headers, body)
        if status >= 500 and status not in (501, 503):
            raise Broken(f"{status} for {method} {url[:100]}: {errors[0] if errors else ''!r}") from (
                errors[0] if errors else None
            )
        if not any(name.lower() == "x-content-type-options" for name, _ in answered):
            raise Broken(f"{status} for {method} {url[:100]} without security headers")

    requests = _requests(stage, run)
    raw = [r.replace(b"\r\n", b" HTTP/1.1\r\nhost: localhost\r\n", 1) for r in requests]
    return [
        Target("http-request", ask, (), requests, 8.0, _mutated_request),
        Target("http-socket", connected(stage.server.port), (ConnectionError,), raw, 1.0),
        Target("queue-telemetry", lambda data: intake.ingest(stage.ports, [data]), (), _known(stage), 2.0),
    ]


def connected(port: int, head: bytes = b"HTTP/1.1 ") -> Callable[[bytes], None]:
    """Send bytes to a server of this machine, and look at what it answers, which begins with `head`."""

    def connect(data: bytes) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(data[:60_000])
            with suppress(OSError):  # it may be gone
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while part := connection.recv(1 << 16):
                answer += part
        if answer and not answer.startswith(head):
            raise Broken(f"answered {answer[:60]!r}")
        if answer[9:12] in (b"500", b"502"):
            raise Broken(answer[:300].decode("latin-1"))

    return connect


def _known(stage: Stage) -> list[bytes]:
    """Batches that the loop takes, and others."""
    now = int(stage.ports.clock.now().timestamp())
    schema = stage.ports.configs.loop("flights").schema.telemetry("binary")
    rows, late = stage._rows(np.random.default_rng(1), now - 86_400, 5, 0.0)
    labels = Labels(rows.ids, rows.at, late)
    batch = Batch("1", "flights", stage.champion, "JFK", "fuzz", now - 86_400, now, rows, None, labels)
    spellings: tuple[envelope.Spelling, ...] = ("rows", "columns", "arrow")
    spelled = [envelope.encode(replace(batch, id=s), schema, s) for s in spellings]
    return [*spelled, *batches()]


def _requests(stage: Stage, run: str) -> list[bytes]:
    """Every endpoint as a signed-in person's page would ask, and what the attack list sends."""
    cookie = "; ".join(f"{k}={v}" for k, v in stage.cookies.items())
    csrf = stage.get("/api/session").json()["csrf"]
    page = {"cookie": cookie, "origin": stage.origin, "x-csrf-token": csrf}
    named = _names(stage, run)
    found = []
    for function in stage.host.functions:
        if function.kind != "http":
            continue
        path = "/api/" + re.sub(r"\{([^}]+)\}", lambda part: named[part[1]], function.route)
        assert "{" not in path, path
        assert "GET" not in function.methods or stage.get(path).status != 404, path
        for method in function.methods:
            for body in _bodies(stage, run, function.route) if method == "POST" else [b""]:
                kind = "application/x-www-form-urlencoded" if b"csrf=" in body else "application/json"
                found.append(_written(method, path, {**page, "content-type": kind}, body))
    return found


def _names(stage: Stage, run: str) -> dict[str, str]:
    """What is there, by the name that routes have for it."""
    from triggers import intake

    report = "evidently/flights/x.html"
    stage.ports.blobs.put(report, b"<p>")
    intake.ingest(stage.ports, [envelope.encode(a_batch(), SCHEMA)])
    known = {"loop": "flights", "run": run, "site": "JFK", "feature": "wind", "*file": "app.js", "*name": report}
    (aside,) = stage.get("/api/loops/flights/quarantine").json()["quarantined"][-1:]
    (check,) = stage.get("/api/loops/flights/drift").json()["checks"][-1:]
    return known | {"id": aside["id"], "check": check["id"]}


def _bodies(stage: Stage, run: str, route: str) -> list[bytes]:
    if route == "telemetry":
        return batches()
    if route == "events":
        return _events()
    if route.startswith("approvals"):
        form = {**stage.form(run), "answer": "approve", "reason": "looks right"}
        return ["&".join(f"{k}={v}" for k, v in form.items()).encode(), json.dumps(form).encode()]
    return [b'{"reason":"inventory"}', b'{"reason":"inventory","target":"flights/JFK"}']


def _events() -> list[bytes]:
    from functions import wire

    plain = envelope.encode(a_batch(), SCHEMA)
    cloud = {"specversion": "1.0", "id": "1", "source": "/s", "subject": "x", "time": "2026-03-01T00:00:00Z"}
    data: list[Any] = [{"name": "job-1"}, {"url": "https://x.blob.core.windows.net/a/../b"}, plain.decode(), None]
    found = [
        {**cloud, "type": kind, "data": d} for types in wire.SUBSCRIPTIONS.values() for kind in types for d in data
    ]
    found.append({**cloud, "type": "driftloop.telemetry", "data_base64": base64.b64encode(plain).decode()})
    grid = {"id": "2", "topic": "/t", "subject": "x", "eventTime": "2026-03-01T00:00:00Z", "dataVersion": "1"}
    forged = {"validationCode": "512d38b6", "validationUrl": "http://169.254.169.254/"}
    kind = "Microsoft.EventGrid.SubscriptionValidationEvent"
    found += [
        {**grid, "eventType": "driftloop.job.ended", "data": data[0]},
        {**grid, "eventType": kind, "data": forged},
    ]
    return [*(json.dumps(event).encode() for event in found), json.dumps(found).encode()]


def _written(method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    head = "\r\n".join([f"{method} {path}", *(f"{k}: {v}" for k, v in headers.items())])
    return head.encode() + b"\r\n\r\n" + body


def parsed(data: bytes) -> tuple[str, str, dict[str, str], bytes]:
    """As a server would have read it: what no server lets through is made harmless."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, _, path = first.partition(" ")
    named = (line.partition(":") for line in lines)
    headers = {k.strip().lower(): v.strip() for k, colon, v in named if colon}
    path = "".join(c for c in path if " " < c <= "\xff") or "/"
    return method[:20] or "GET", path if path.startswith("/") else f"/{path}", headers, body[: 1 << 20]


def _mutated_request(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Its body, its path, or anything."""
    head, _, body = random.choice(seeds).partition(b"\r\n\r\n")
    if body and random.random() < 0.6:
        return head + b"\r\n\r\n" + mutated(random, [body])
    if random.random() < 0.7:
        first, *lines = head.split(b"\r\n")
        method, _, path = first.partition(b" ")
        return b"\r\n".join([method + b" " + mutated(random, [path, b"/api/" + path]), *lines]) + b"\r\n\r\n" + body
    return mutated(random, [head + b"\r\n\r\n" + body])
