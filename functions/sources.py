"""Telemetry from elsewhere: files that sites upload, and log tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import azure.functions as func

from functions import host, wire
from functions.each import each_loop
from triggers import codec
from triggers.errors import Misconfigured, Refused
from triggers.ports import Message

if TYPE_CHECKING:
    from triggers.config import Upload
    from triggers.ports import Ports, UploadedFile
    from triggers.sources import Origin

bp = func.Blueprint()


@bp.event_grid_trigger(arg_name="message")
@wire.isolated("uploads", wire.data)
def hear_upload(message: func.CloudEvent) -> None:
    """A file is there. Which one it is, is all that is taken from the event; what it holds is looked up."""
    ports = host.ports()
    if ports.uploads is None:
        raise Refused("this profile takes no uploaded files")
    name, misconfigured = ports.uploads.name(wire.uploaded(message.get_json())), None
    for loop in ports.configs.loops():
        try:
            uploads = ports.configs.loop(loop).telemetry.uploads
        except Misconfigured as problem:
            misconfigured = problem
            continue
        for upload in uploads:
            parts = upload.match(name)
            if parts is not None:
                count_file(ports, loop, upload, name, parts)
                return
    if misconfigured is not None:
        raise misconfigured


@bp.timer_trigger(arg_name="timer", schedule="%LogsSchedule%")
def read_logs(timer: func.TimerRequest) -> None:
    """What the log tables have ingested since the last time."""
    from triggers import sources  # numpy comes with it: not at a cold start

    ports = host.ports()

    def read(name: str) -> None:
        if ports.configs.loop(name).telemetry.logs:
            sources.poll(ports, name)

    each_loop(ports, read)


def count_file(ports: Ports, loop: str, upload: Upload, name: str, parts: dict[str, str]) -> None:
    """Count a file's rows once, piece by piece; a batch is handed on.

    A file that has grown goes on where it was left; one that has changed otherwise is not counted again.
    """
    from functions import files
    from triggers import sources

    assert ports.uploads is not None
    site, candidate = parts.get("site", ""), parts.get("candidate", "")
    id = f"upload/{codec.digest(name.encode())[:24]}"
    origin = sources.Origin(id, name, site, candidate, own="site" in parts)
    before = sources.counted(ports, loop, name)
    with ports.uploads.open(name) as found:
        if before is not None and before.etag == found.etag:
            return
        try:
            kind = files.kind(name, upload.format)
            if kind == "envelope":
                _forward(ports, loop, origin, found)
            else:
                _count(ports, loop, origin, kind, found, before)
        except Refused as problem:
            sources.refuse(ports, loop, origin, f"{name[:200]}: {problem}")


def _forward(ports: Ports, loop: str, origin: Origin, found: UploadedFile) -> None:
    """A batch, into the queue as any other; its own id says whether it was counted."""
    from drift import envelope
    from drift.telemetry import MAX_BYTES

    body = found.file.read(MAX_BYTES + 1)
    try:
        header = envelope.peek(body)
    except envelope.BadBatch as problem:
        raise Refused(f"not a batch: {problem}") from problem
    if header.loop != loop or (origin.site and header.site != origin.site):
        raise Refused(f"is a batch of {header.loop[:80]}/{header.site[:80]}, in a folder of {loop}/{origin.site}")
    ports.bus.send("telemetry", [Message(id=codec.digest(f"{found.name} {found.etag}".encode()), body=body)])


def _count(ports: Ports, loop: str, origin: Origin, kind: str, found: UploadedFile, before: Any) -> None:
    from functions import files
    from triggers import sources

    start, first, digest = (before.bytes, before.rows, before.digest) if before else (0, 0, "")
    if start and (kind not in files.GROW or files.prefix(found.file, start) != digest):
        raise Refused("was counted before, with other bytes")
    folder = found.name.split("/", 1)[0] + "/"

    def fetch(url: str) -> bytes:
        assert ports.uploads is not None
        name = ports.uploads.name(url)
        if not name.startswith(folder):
            raise Refused("leads to another container")
        with ports.uploads.open(name) as other:
            data = other.file.read(files.LINE + 1)
        if len(data) > files.LINE:
            raise Refused(f"more than {files.LINE} bytes")
        return data

    for piece in files.pieces(found.file, kind, fetch, start, first):
        sources.count(ports, loop, origin, piece)
        start, first, digest = piece.end or start, piece.first + len(piece.rows), piece.digest or digest
        if kind in files.GROW:
            _keep(ports, loop, found.name, "", start, digest, first)
    _keep(ports, loop, found.name, found.etag, start, digest, first)


def _keep(ports: Ports, loop: str, name: str, etag: str, size: int, digest: str, rows: int) -> None:
    from triggers import sources

    now = ports.clock.now()
    sources.keep(ports, loop, sources.Counted(name=name, etag=etag, bytes=size, digest=digest, rows=rows, at=now))
