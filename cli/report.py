"""`driftloop report`: the drift report that a person reads, of any model, time and site, drawn by Evidently.

It is drawn from samples of at most 2,000 rows a side, in a process of its own, and stored with the app's blobs: that of
a run is linked from the run and from its approval page. It also says whether a model can tell the rows apart. The
reference is what the model was trained on: stored telemetry of its training window, or --data for a first champion.
Sites that send sketches alone have no rows to draw.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triggers.errors import Refused

if TYPE_CHECKING:
    from triggers.ports import Ports

WINDOWS = 14
"""Before a run began, where no time is said."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "report",
        help="the drift report of a model, a time and a site",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="the state folder of an app")
    parser.add_argument("--loop", metavar="NAME", help="the loop's name there (default: the only one)")
    parser.add_argument("--run", metavar="RUN", help="of what this run saw when it began")
    parser.add_argument("--candidate", metavar="DIGEST", help="the model (default: the run's champion, or the loop's)")
    parser.add_argument("--site", help="of this site alone")
    parser.add_argument("--from", dest="start", metavar="TIME", help="ISO 8601, UTC where it names no zone")
    parser.add_argument("--to", dest="end", metavar="TIME")
    parser.add_argument("--data", type=Path, metavar="FILE", help="a table with the rows of the reference")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0 when it is drawn and stored; 1 where there is nothing to draw."""
    from adapters.local.profile import Local
    from cli.backfill import loop_name
    from cli.children import environment
    from cli.host import APP

    if not (args.state / "state.db").exists():
        raise Refused(f"{args.state}: no state.db there; expected the state folder of an app that has run")
    local = Local(args.state)
    try:
        name = loop_name(local.ports, args.loop or (args.run or "").split(".")[0] or None)
        spec = specified(local.ports, name, args)
    finally:
        local.close()
    state = args.state.resolve()
    spec |= {"loop": str(state / "config" / name / "loop.yaml"), "blobs": str(state / "blobs")}
    folder = state / "work" / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{spec['name']}.json"
    path.write_text(json.dumps(spec))
    print(f"drawing {spec['name']} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-W", "ignore", "-m", "jobs.drift_report", str(path)]
    ended = subprocess.run(command, cwd=APP.parent, env=environment(), capture_output=True, text=True, check=False)
    said = _last(ended.stdout)
    if ended.returncode or "report" not in said:
        why = said.get("error") or ended.stderr.strip().splitlines()[-1:] or [f"status {ended.returncode}"]
        print(f"driftloop: {why if isinstance(why, str) else why[0]}", file=sys.stderr)
        return 1
    told = {**said, "file": str(state / "blobs" / said["report"]), "link": f"/api/reports/{said['report']}"}
    if args.json:
        print(json.dumps(told))
    else:
        print(f"{told['file']}\non the page: {told['link']}\n{told['multivariate']['reason']}")
    return 0


def specified(ports: Ports, loop: str, args: argparse.Namespace) -> dict[str, Any]:
    """What jobs.drift_report is asked for. Raises Refused with what is missing."""
    from triggers import candidates, views
    from triggers.config import duration
    from triggers.loop import head

    config = ports.configs.loop(loop)
    of = views.stored_run(ports, args.run) if args.run else None
    if of is None and not (args.start and args.end):
        raise Refused("of when? expected --run RUN, or --from TIME and --to TIME")
    start, end = _time("--from", args.start), _time("--to", args.end)
    if of is not None:
        end = end or of.started
        start = start or end - WINDOWS * duration(config.telemetry.window)
    assert start is not None
    assert end is not None
    if start >= end:
        raise Refused(f"--from {start:%Y-%m-%d %H:%M}: expected a time before --to {end:%Y-%m-%d %H:%M}")
    sites = [args.site] if args.site else list(of.sites) if of is not None and of.sites is not None else None
    if args.site and ports.configs.fleet(loop).site(args.site) is None:
        raise Refused(f"--site {args.site}: fleet.yaml names no such site")
    model = args.candidate or (of.champion if of is not None else head(ports, loop).champion)
    lineage = candidates.manifest(ports, model).get("lineage") or {}
    if not (lineage.get("from") and lineage.get("to")):
        raise Refused(f"candidate {model[:12]} does not say what it was trained on, so there is no reference")
    where = args.site or "fleet"
    return {
        "name": args.run or f"{model[:12]}-{where}-{start:%Y%m%dT%H%M}-{end:%Y%m%dT%H%M}",
        "reference": [lineage["from"], lineage["to"]],
        "current": [start.isoformat(), end.isoformat()],
        "data": str(args.data.resolve()) if args.data else None,
        "sites": sites,
        "candidate": args.candidate or "",
    }


def _time(option: str, text: str | None) -> datetime | None:
    from cli.hindsight import utc
    from drift.envelope import seconds

    try:
        return None if text is None else utc(seconds(text))
    except ValueError as problem:
        raise Refused(f"{option}: {problem}; expected ISO 8601 such as 2026-03-01") from problem


def _last(text: str) -> dict[str, Any]:
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    return {}
