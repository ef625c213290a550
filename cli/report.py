"""`driftloop report`: the drift report that a person reads, of any model, time and site, drawn by Evidently.

It is drawn from samples of at most 2,000 rows a side, in a process of its own, and stored with the app's blobs: that of
a run is linked from the run and from its approval page. It also says whether a model can tell the rows apart. The
reference is what the model was trained on: stored telemetry of its training window, or --data for a first champion.
Sites that send sketches alone have no rows to draw.

Of an app on Azure: without --state, with DRIFTLOOP_PROFILE=azure and the app settings in the environment. The batches
of the two times are fetched into a temporary folder, and the page goes into the app's container.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from triggers.errors import Refused

if TYPE_CHECKING:
    from triggers.ports import Blobs, Ports

WINDOWS = 14
"""Before a run began, where no time is said."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "report",
        help="the drift report of a model, a time and a site",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--state", type=Path, metavar="DIR", help="the state folder of an app (default: one on Azure)")
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
    if args.state is None:
        return _on_azure(args)
    from adapters.local.profile import Local

    if not (args.state / "state.db").exists():
        raise Refused(f"{args.state}: no state.db there; expected the state folder of an app that has run")
    local = Local(args.state)
    try:
        name, spec = _asked(local.ports, args)
    finally:
        local.close()
    state = args.state.resolve()
    spec |= {"loop": str(state / "config" / name / "loop.yaml"), "blobs": str(state / "blobs")}
    folder = state / "work" / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    told = _drawn(spec, folder)
    return _say({**told, "file": str(state / "blobs" / told["report"])} if told else {}, args)


def _on_azure(args: argparse.Namespace) -> int:
    """With the app's own settings; what is drawn from is fetched first."""
    from functions import host

    if os.environ.get("DRIFTLOOP_PROFILE") != "azure":
        raise Refused("of which app? expected --state DIR, or DRIFTLOOP_PROFILE=azure and the settings of an app there")
    azure = host.azure()
    name, spec = _asked(azure.ports, args)
    with TemporaryDirectory(prefix="driftloop-report-") as temporary:
        folder = Path(temporary)
        (folder / "loop.yaml").write_bytes(azure.files.get(f"{name}/loop.yaml"))
        _fetch(azure.blobs, name, spec, folder)
        told = _drawn({**spec, "loop": str(folder / "loop.yaml"), "blobs": str(folder)}, folder)
        if told:
            azure.blobs.put(told["report"], (folder / told["report"]).read_bytes())
    return _say({**told, "file": f"{azure.settings.container}/{told['report']}"} if told else {}, args)


def _fetch(blobs: Blobs, loop: str, spec: Mapping[str, Any], folder: Path) -> None:
    """The bundles that may hold rows of both times, as jobs.assemble.bundles chooses them."""
    first = min(start[:10] for start, _ in (spec["current"], *([] if spec["data"] else [spec["reference"]])))
    sites = [""] if spec["sites"] is None else [f"{site}/" for site in spec["sites"]]
    found = {name for site in sites for name in blobs.names(f"batches/{loop}/{site}")}
    wanted = sorted(name for name in found if name.rpartition("/")[2][:10] >= first)

    def one(name: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blobs.get(name))

    with ThreadPoolExecutor(8) as threads:
        for n, _ in enumerate(threads.map(one, wanted), 1):
            if n % 500 == 0 or n == len(wanted):
                print(f"fetched {n:,} of {len(wanted):,} bundles", file=sys.stderr, flush=True)


def _asked(ports: Ports, args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The loop that is meant, and what is to be drawn of it."""
    from cli.backfill import loop_name

    name = loop_name(ports, args.loop or (args.run or "").split(".")[0] or None)
    return name, specified(ports, name, args)


def _drawn(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the process said that draws it; empty, once it is said why, where there is nothing to draw."""
    from cli.children import environment
    from cli.host import APP

    path = folder / f"{spec['name']}.json"
    path.write_text(json.dumps(spec))
    print(f"drawing {spec['name']} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-W", "ignore", "-m", "jobs.drift_report", str(path)]
    ended = subprocess.run(command, cwd=APP.parent, env=environment(), capture_output=True, text=True, check=False)
    said = _last(ended.stdout)
    if ended.returncode or "report" not in said:
        why = said.get("error") or ended.stderr.strip().splitlines()[-1:] or [f"status {ended.returncode}"]
        print(f"driftloop: {why if isinstance(why, str) else why[0]}", file=sys.stderr)
        return {}
    return said


def _say(told: Mapping[str, Any], args: argparse.Namespace) -> int:
    if not told:
        return 1
    told = {**told, "link": f"/api/reports/{told['report']}"}
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
