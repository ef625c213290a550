"""`driftloop plan`: the waves in which a candidate would reach the fleet: when, how many bytes, what holds it back."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from cli.app import show_table, when
from cli.validate import text
from drift.envelope import iso
from triggers import codec, quota, rollout
from triggers.config import Fleet, Loop, Site, check, parse_fleet, parse_loop
from triggers.errors import Refused
from triggers.reading import Document, Wrong

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("plan", help="the waves of a rollout", description=__doc__)
    parser.add_argument("--loop", type=Path, required=True, metavar="FILE", help="loop.yaml")
    parser.add_argument("--fleet", type=Path, required=True, metavar="FILE", help="fleet.yaml")
    parser.add_argument(
        "--candidate", required=True, metavar="C", help="a size like 40MB, a folder of files, or a digest with --state"
    )
    parser.add_argument("--state", type=Path, metavar="DIR", help="the app's state folder, for what each site holds")
    parser.add_argument("--at", metavar="TIME", help="when it would be approved (default: now)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0; 1 where a site has no window that is long enough, or quotas do not suffice."""
    loop = parse_loop(text(args.loop), str(args.loop))
    fleet = parse_fleet(text(args.fleet), str(args.fleet))
    fitting(loop, fleet, str(args.loop))
    at = time(args.at) if args.at else datetime.now(UTC).replace(microsecond=0)
    with _sizes(args, loop.loop) as size:
        found = describe(loop, fleet, args.candidate, size, at)
    if args.json:
        print(json.dumps(found))
    else:
        show(found)
    return 1 if found["problems"] else 0


def describe(loop: Loop, fleet: Fleet, candidate: str, size: Callable[[Site], int], at: datetime) -> dict[str, Any]:
    """The plan with its forecast, as JSON."""
    plan = rollout.plan(fleet, loop.rollout, loop.loop, candidate)
    waves = rollout.forecast(plan, rollout.Hold(fleet, loop.rollout, size), at)
    never = [f"{s.site}: {s.held}" for w in waves for s in w.sites if s.end is None]
    room = quota.planned(fleet)
    return {
        "loop": loop.loop,
        "candidate": candidate,
        "plan": codec.digest(codec.encode(plan)),
        "at": iso(int(at.timestamp())),
        "sites": plan.sites,
        "bytes": sum(w.bytes for w in waves),
        "end": iso(int((waves[-1].end if waves else at).timestamp())),
        "waves": msgspec.to_builtins(waves),
        "quota": msgspec.to_builtins(room),
        "problems": [*never, *room.problems],
    }


def show(found: dict[str, Any]) -> None:
    """As a table."""
    rows = [
        (
            str(n),
            w["ring"],
            str(len(w["sites"])),
            when(w["start"]),
            when(w["end"]),
            f"{w['bytes'] / 1e6:,.1f}",
            w["held"],
        )
        for n, w in enumerate(found["waves"], 1)
    ]
    show_table(("wave", "ring", "sites", "starts (UTC)", "verified", "MB", "held by"), rows)
    end = when(found["end"])
    print(f"{found['sites']:,} sites, {found['bytes'] / 1e6:,.1f} MB, verified by {end} UTC if all are well")
    for line in (*found["quota"]["notes"], *(f"problem: {p}" for p in found["problems"])):
        print(line)


def time(said: str) -> datetime:
    """Raises Refused."""
    try:
        at = datetime.fromisoformat(said)
    except ValueError as e:
        raise Refused(f"--at {said}: expected a time like 2026-03-01T06:00:00Z") from e
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def size_of(candidate: str) -> int:
    """Bytes of a size in words, or of the files of a folder. Raises Refused.

    >>> size_of("40MB"), size_of("1.5 KiB")
    (40000000, 1536)
    """
    folder = Path(candidate)
    if folder.is_dir():
        return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?b)?", candidate, re.IGNORECASE)
    if not found:
        raise Refused(f"--candidate {candidate}: expected a size like 40MB, a folder, or a digest with --state")
    return int(float(found[1]) * _UNITS[(found[2] or "").lower()])


def fitting(loop: Loop, fleet: Fleet, file: str) -> None:
    """Raises Wrong where the two do not fit each other."""
    paths = ((p.path, p.what) for p in check(loop, fleet))
    if problems := Document(Path(file).read_text("utf-8"), file).problems(paths):
        raise Wrong(problems)


def with_rings_of(loop: Loop, fleet: Fleet) -> Loop:
    """The loop for a made-up fleet: rings as they come there, and a column for the site."""
    limits = msgspec.structs.replace(
        loop.rollout, rings=rollout.rings(fleet, msgspec.structs.replace(loop.rollout, rings=()))
    )
    schema = msgspec.structs.replace(loop.schema, site=loop.schema.site or "site")
    return msgspec.structs.replace(loop, rollout=limits, schema=schema)


@contextmanager
def _sizes(args: argparse.Namespace, loop: str) -> Iterator[Callable[[Site], int]]:
    """The bytes that each site has to fetch: with a state folder, those that it lacks."""
    if args.state is None:
        size = size_of(args.candidate)
        yield lambda site: size
        return
    from adapters.local.profile import Local
    from triggers import candidates, sites

    if not (args.state / "state.db").exists():
        raise Refused(f"{args.state}: no state.db there; expected the state folder of an app that has run")
    local = Local(args.state)
    try:
        candidates.manifest(local.ports, args.candidate)
        yield sites.missing(local.ports, loop, args.candidate)
    finally:
        local.close()
