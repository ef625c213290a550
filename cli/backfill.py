"""`driftloop backfill`: history that comes too late for telemetry, into an app's state.

Rows of a table, or batches as sites made them (--batches), are counted into the windows that they belong to, however
old. What is stored already is not counted again: rows and labels are known by their ids, batches by theirs. A window
that a check has assessed takes the counts too; its evidence stays as it was. The state is that of the profile
(DRIFTLOOP_PROFILE, DRIFTLOOP_STATE) or of --state.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triggers.errors import Refused

if TYPE_CHECKING:
    from triggers.backfill import Backfilled
    from triggers.ports import Ports


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "backfill",
        help="late history into an app's state",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--state", type=Path, metavar="DIR", help="the state folder of an app on one machine")
    parser.add_argument("--loop", metavar="NAME", help="the loop's name there (default: the only one)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, metavar="FILE", help="rows (CSV, Parquet), columns as loop.yaml names them")
    what.add_argument("--batches", type=Path, metavar="DIR", help="batches as sites made them, a file each")
    parser.add_argument("--candidate", default="", metavar="DIGEST", help="what served the rows (default: by its time)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0; 1 where something was put into quarantine."""
    if args.state is not None:
        if not (args.state / "state.db").exists():
            raise Refused(f"{args.state}: no state.db there; expected the state folder of an app that has run")
        os.environ.update(DRIFTLOOP_PROFILE="local", DRIFTLOOP_STATE=str(args.state))
    from functions import host
    from triggers import backfill

    host.ports.cache_clear()
    host.local.cache_clear()
    ports = host.ports()
    try:
        name = loop_name(ports, args.loop)
        done = backfill.Backfilled()
        parts = _rows(ports, name, args) if args.data else _batches(ports, name, args.batches)
        for part in parts:
            done.add(part)
        backfill.note(ports, name, done, getuser())
    finally:
        if os.environ.get("DRIFTLOOP_PROFILE", "local") == "local":
            host.local().close()
    if args.json:
        print(json.dumps(as_json(done)))
    else:
        _show(done)
    return 1 if done.quarantined else 0


def loop_name(ports: Ports, said: str | None) -> str:
    """The loop that is meant. Raises Refused."""
    names = list(ports.configs.loops())
    if said is None and len(names) == 1:
        return names[0]
    if said not in names:
        raise Refused(f"--loop {said or ''}: expected one of {', '.join(names) or '(the state has no loop)'}")
    return said


def _rows(ports: Ports, loop: str, args: argparse.Namespace) -> Iterator[Backfilled]:
    from cli import tables
    from triggers import backfill

    config, fleet = ports.configs.loop(loop), ports.configs.fleet(loop)
    table = tables.load(args.data, config).table
    sites = table.sites()
    if stray := sorted(set(sites) - {s.name for s in fleet.sites}):
        raise Refused(f"{args.data}: sites that fleet.yaml does not name: {', '.join(stray[:10])}")
    if config.schema.id is None:
        raise Refused(
            f"{args.data}: loop.yaml names no id column, so rows that come twice could not be told: schema.id"
        )
    for site in sites:
        of_site = table.take(table.site == site)
        print(f"{site}: {len(of_site):,} rows", file=sys.stderr, flush=True)
        yield backfill.rows(ports, loop, site, of_site.rows(of_site.score), of_site.label, args.candidate)


def _batches(ports: Ports, loop: str, folder: Path) -> Iterator[Backfilled]:
    from triggers import backfill

    files = sorted(f for f in folder.glob("*") if f.is_file())
    if not files:
        raise Refused(f"{folder}: no files; expected batches, a file each")
    print(f"{len(files)} batches", file=sys.stderr, flush=True)
    yield backfill.batches(ports, loop, (f.read_bytes() for f in files))


def as_json(done: Backfilled) -> dict[str, Any]:
    """What --json prints."""
    from drift.envelope import iso

    return {
        "rows": done.rows,
        "labels": done.labels,
        "batches": done.batches,
        "known": {"rows": done.known_rows, "batches": done.known_batches},
        "quarantined": done.quarantined,
        "windows": [
            {
                "site": r.site,
                "candidate": r.candidate,
                "from": iso(r.start),
                "rows_before": r.before,
                "rows": r.after,
                "assessed": r.assessed,
            }
            for r in done.reopened
        ],
    }


def _show(done: Backfilled) -> None:
    from drift.envelope import iso

    for r in done.reopened:
        old = ", assessed before" if r.assessed else ""
        print(f"{iso(r.start)[:16]} {r.site}: {r.before:,} -> {r.after:,} rows ({r.candidate[:12]}{old})")
    print(f"{done.rows:,} rows and {done.labels:,} labels in {done.batches:,} batches; {len(done.reopened)} windows")
    if done.known_rows or done.known_batches:
        print(f"stored before: {done.known_rows:,} rows, {done.known_batches:,} batches")
    if done.quarantined:
        print(f"quarantined: {done.quarantined:,} batches; the page and GET /api/loops/<loop>/quarantine say why")
