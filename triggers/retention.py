"""What is deleted when: raw batches and quarantined bytes that loop.yaml lets go, and that no run can still want."""

from __future__ import annotations

from datetime import datetime

from triggers import codec, loop
from triggers.config import duration
from triggers.ports import Delete, Ports
from triggers.records import LoopUnit, Quarantined, again


def sweep(ports: Ports, loop_name: str) -> tuple[int, int]:
    """Delete what is older than `retention` says: how many bundles of raw batches, and how many quarantined.

    Windows, decisions, runs and the trail stay. What an active run works on stays until it has ended. Bytes go before
    the record that names them, so that a crash in between leaves a record, which the next sweep finds.
    """
    config, now = ports.configs.loop(loop_name), ports.clock.now()
    rules, bundles, kept = config.retention, 0, 0
    if rules.batches is not None:
        before = now - duration(rules.batches)
        wanted = [run.data_start for run in loop.active_runs(ports, loop_name) if run.data_start]
        bundles = _bundles(ports, loop_name, min([before, *wanted]))
    if rules.quarantine is not None:
        kept = _quarantined(ports, loop_name, now - duration(rules.quarantine))
    if bundles or kept:
        _note(
            ports, loop_name, f"{bundles:,} bundles of raw batches and {kept:,} quarantined, older than loop.yaml keeps"
        )
    return bundles, kept


def _bundles(ports: Ports, loop_name: str, before: datetime) -> int:
    """A bundle is named by the day on which its batches end: the day must be over."""
    old = [n for n in ports.blobs.names(f"batches/{loop_name}/") if n.split("/")[-1][:10] < f"{before:%Y-%m-%d}"]
    for name in old:
        ports.blobs.delete(name)
    return len(old)


def _quarantined(ports: Ports, loop_name: str, before: datetime) -> int:
    records = [(r, codec.decode(r.value, Quarantined)) for r in ports.store.scan(loop_name, "quarantine/")]
    young = {found.blob for _, found in records if found.at >= before}
    old = [(record, found) for record, found in records if found.at < before]
    for record, found in old:
        if found.blob.startswith("quarantine/") and found.blob not in young:
            ports.blobs.delete(found.blob)
        ports.store.commit(loop_name, [Delete(record.key)])
    return len(old)


def _note(ports: Ports, loop_name: str, text: str) -> None:
    def attempt() -> None:
        unit = LoopUnit(ports.store, loop_name, ports.clock.now())
        unit.note("deleted", loop_name, text)
        unit.commit()

    again(attempt)
