"""What is fuzzed beside the app's own endpoints: files of rows, what a job wrote, and the edge program's HTTP."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from bench.fuzz import Target
from bench.mutate import mutated

if TYPE_CHECKING:
    from edge.server import Host
    from tests.functions.conftest import Stage


# --- files of rows


def rows() -> list[Target]:
    """The formats of functions/files.py; a collector's record may point to rows that are there, or not."""
    from functions import files
    from triggers.errors import NotFound, Refused

    def fetch(url: str) -> bytes:
        if "there" not in url:
            raise NotFound(f"no {url}")
        return url.partition("?")[2].encode() or b'[{"x": 1.5}]'

    def read(kind: str) -> Callable[[bytes], object]:
        return lambda data: [piece.rows for piece in files.pieces(io.BytesIO(data), kind, fetch)]

    return [
        Target("rows-jsonl", read("jsonl"), (Refused,), [b'{"x": 1, "t": "AA"}\n{"x": null}\n', b'{"x": 1}\n[2']),
        Target("rows-collector", read("collector"), (Refused,), _collected()),
        Target("rows-csv", read("csv"), (Refused,), ['\ufeffx,t\n1,"A\nA"\n,"é""\n2\n'.encode(), b"x;t\r\n1;2\r\n"]),
        Target("rows-parquet", read("parquet"), (Refused,), [_parquet()], 0.5),
    ]


def _collected() -> list[bytes]:
    about = {"specversion": "1.0", "id": "c1", "time": "2026-03-01T00:00:00Z", "correlationid": "q"}
    records: list[dict[str, Any]] = [
        {**about, "data": [{"x": 1.5, "t": "AA"}, {"x": None}]},
        {**about, "dataref": "https://x.blob.core.windows.net/there/1"},
        {**about, "dataref": "https://x.blob.core.windows.net/../gone"},
    ]
    lines = [json.dumps(record).encode() for record in records]
    return [*lines, b"\n".join(lines) + b"\n"]


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = io.BytesIO()
    table = {"x": [1.5, None, -2.0], "t": ["AA", None, "é"], "at": [1, 2, 3], "more": [[1], [], None]}
    pq.write_table(pa.table(table), made)
    return made.getvalue()


# --- what a job wrote


def results(stage: Stage, run: str) -> list[Target]:
    """result.json from the job's folder to the event of its run, and evidence to the page that a person approves by."""
    from adapters.local.child import Child
    from functions import approval_page
    from triggers import codec, events, training, views

    folder = stage.state / "jobs" / "fuzzed"
    folder.mkdir(parents=True)

    def read(kind: str) -> Callable[[bytes], object]:
        def told(data: bytes) -> None:
            (folder / "result.json").write_bytes(data)
            (folder / "ended.json").unlink(missing_ok=True)
            child, sent = Child(folder), []
            made = child.made()
            assert made is not None
            child.end(made)
            jobs = SimpleNamespace(status=lambda _: child.ended())
            bus = SimpleNamespace(send=lambda _, messages: sent.extend(messages))
            ports = replace(stage.ports, jobs=jobs, bus=bus)
            training.job_ended(ports, f"{run}-{kind}")
            event = codec.decode_as(sent[0].body, events.AnyEvent, "Event")
            if isinstance(event, events.Evaluated):
                approval_page._evidence(views.evidence(ports, event.digest))

        return told

    kept = {kind: json.loads((stage.state / "jobs" / f"{run}-{kind}" / "ended.json").read_bytes()) for kind in _KINDS}
    deep = b'{"candidate": "c", "rows": 1, "more": ' + b"[" * 500 + b"]" * 500 + b"}"
    return [
        Target(
            f"job-{kind}",
            read(kind),
            (),
            [json.dumps(kept[kind]["result"]).encode(), b'{"error": "no rows"}', deep],
            0.5,
        )
        for kind in _KINDS
    ]


_KINDS = ("train", "evaluate")


# --- the edge program


@contextmanager
def site(folder: Path) -> Iterator[list[Target]]:
    """A process of two sites, one that serves and one that plays a recording: its answers, and its own reading of
    requests. Nobody listens at their ingest."""
    from bench.targets import connected, parsed

    with _edge(folder) as (host, candidate):

        def ask(data: bytes) -> None:
            method, path, _, body = parsed(data)
            status, said = host.answer(method, path, body)
            json.dumps(said)
            assert status < 500 or status == 503, status

        errors: list[BaseException | None] = []
        host._server.handle_error = lambda *_: errors.append(sys.exception())  # type: ignore[method-assign]
        connect = connected(host.port, b"")  # http.server sends no head where a request names no version

        def send(data: bytes) -> None:
            errors.clear()
            connect(data)
            if broken := [e for e in errors if not isinstance(e, ConnectionError)]:
                raise RuntimeError("a request fell over") from broken[0]

        requests = _requests(candidate)
        raw = [r.replace(b"\r\n\r\n", _length(r), 1) for r in requests]
        serving = threading.Thread(target=host._server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield [
                Target("edge-request", ask, (), requests, 2.0, _mutated_body),
                Target("edge-socket", send, (ConnectionError,), raw, 0.5),
            ]
        finally:
            host.stop()
            serving.join()


def _length(request: bytes) -> bytes:
    body = request.partition(b"\r\n\r\n")[2]
    return f" HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()


@contextmanager
def _edge(folder: Path) -> Iterator[tuple[Host, str]]:
    from edge import config, signing
    from edge.server import Host
    from tests.edge.conftest import Registry, a_model, record

    private, public = signing.new()
    registry = Registry(folder / "registry", private, public)
    registry.folder.mkdir(parents=True)
    (folder / "registry.pub").write_text(public)
    record(folder / "line.npz", days=2)
    features = [{"name": "distance"}, {"name": "carrier", "kind": "category"}]
    common = {"loop": "flights", "ingest": "http://127.0.0.1:9/", "registry": "registry", "buffer_bytes": 1 << 20}
    told = {**common, "registry_key": "registry.pub", "schema": {"features": features}}
    both: dict[str, dict[str, Any]] = {"JFK": {}, "LGA": {"data": "line.npz"}}
    sites = [{**told, "name": name, "state": name, **more} for name, more in both.items()]
    (folder / "edge.json").write_text(json.dumps({"port": 0, "sites": sites}))
    host = Host(config.load(folder / "edge.json"))
    try:
        candidate = registry.publish(a_model())
        for each in host.sites.values():
            each.deploy(candidate)
        yield host, candidate
    finally:
        host.close()


def _requests(candidate: str) -> list[bytes]:
    from tests.edge.conftest import DAY, START

    rows = [{"id": "r1", "at": "2026-03-01T00:00:00Z", "distance": 0.5, "carrier": "AA"}, {"distance": None}]
    labels = [{"id": "r1", "at": START, "label": 1.0}]
    bodies: dict[str, Sequence[Any]] = {
        "score": [{"rows": rows}, {"rows": []}],
        "labels": [{"labels": labels}],
        "deploy": [{"candidate": candidate, "change": "c1"}, {"candidate": "ab" * 32}, {"candidate": "../x"}],
        "report": [{}],
        "advance": [{"to": START + DAY}],
        "network": [{"online": False}, {"online": True}],
    }
    asked = [
        f"POST /{name}/{what}\r\n\r\n{json.dumps(body)}".encode()
        for name in ("JFK", "LGA")
        for what, listed in bodies.items()
        for body in listed
    ]
    return [*asked, b"GET /JFK/status\r\n\r\n", b"GET /\r\n\r\n", b"GET /%4aFK/status?x=1\r\n\r\n"]


def _mutated_body(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Its body, mostly; or anything."""
    head, _, body = random.choice(seeds).partition(b"\r\n\r\n")
    if body and random.random() < 0.8:
        return head + b"\r\n\r\n" + mutated(random, [body])
    return mutated(random, [head + b"\r\n\r\n" + body])
