"""What was not counted, kept with its reason: to be looked at, and tried again when what was in the way is mended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from triggers import codec
from triggers.errors import Conflict, NotFound, Refused
from triggers.ports import Delete, Message, Ports, Put, Record
from triggers.records import LoopUnit, Quarantined, again

NOWHERE = "driftloop"
"""The partition of what no loop would own."""

_PREFIX = "quarantine/"
_BATCHES = ("", "telemetry", "telemetry-events")
"""What a batch that nobody could read is listed as."""


def keep(
    ports: Ports,
    payload: bytes,
    reason: str,
    *,
    partition: str = NOWHERE,
    loop: str = "",
    site: str = "",
    batch: str = "",
    rows: tuple[tuple[int, str, str], ...] = (),
) -> Quarantined:
    """The bytes, then the reason; the same bytes are kept once. `rows`: those of a batch whose others were counted."""
    digest = codec.digest(payload)
    blob = f"quarantine/{partition}/{digest}"
    found = Quarantined(at=ports.clock.now(), loop=loop, site=site, batch=batch, reason=reason, blob=blob, rows=rows)
    ports.blobs.put(blob, payload)
    key = f"{_PREFIX}{'rows-' if rows else ''}{digest[:32]}"
    ports.store.commit(partition, [Put(key, codec.encode(found), "*")])
    return found


def listed(ports: Ports, loop: str) -> Iterator[tuple[str, Quarantined]]:
    """(id, what is kept) of a loop, and of nobody."""
    for partition in (loop, NOWHERE):
        for record in ports.store.scan(partition, _PREFIX):
            yield record.key.removeprefix(_PREFIX), codec.decode(record.value, Quarantined)


def content(ports: Ports, loop: str, name: str) -> bytes:
    """The bytes that are kept under an id. Raises NotFound; Refused where they are still at their source."""
    return _bytes(ports, name, codec.decode(_find(ports, loop, name)[1].value, Quarantined))


def replay(ports: Ports, loop: str, name: str, by: str, reason: str) -> str:
    """Let a batch come in once more, as if the site had sent it again, and forget that it was kept; what is still wrong
    with it puts it back. Raises NotFound; Refused for what is no whole batch. Returns the batch's id."""
    partition, record = _find(ports, loop, name)
    found = codec.decode(record.value, Quarantined)
    if found.rows:
        raise Refused("the other rows of this batch were counted: send these anew, in a batch of their own", id=name)
    if not found.loop and found.batch not in _BATCHES:
        raise Refused(f"a message of {found.batch}: what it asked for is asked for again by the sweep", id=name)
    body, now = _bytes(ports, name, found), ports.clock.now()

    def attempt() -> None:
        unit = LoopUnit(ports.store, loop, now)
        unit.note("replayed", found.batch or name, f"it was in quarantine for: {found.reason}; {reason}", by)
        unit.commit()

    again(attempt)
    ports.bus.send("telemetry", [Message(id=codec.short(f"replay/{name}/{now.isoformat()}"), body=body)])
    with suppress(Conflict):  # it is back already
        ports.store.commit(partition, [Delete(record.key, record.version)])
    return found.batch


def _find(ports: Ports, loop: str, name: str) -> tuple[str, Record]:
    for partition in (loop, NOWHERE):
        if record := ports.store.get(partition, f"{_PREFIX}{name}"):
            return partition, record
    raise NotFound(f"nothing in quarantine under {name[:80]!r}", id=name)


def _bytes(ports: Ports, name: str, found: Quarantined) -> bytes:
    if name.startswith("source-"):
        raise Refused(f"the rows are where they came from ({found.blob}): mend them there, under another name", id=name)
    return ports.blobs.get(found.blob)
