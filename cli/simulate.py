"""`driftloop simulate`: how long a rollout will take, and what can go wrong, before the first real one.

The same planner, rules and limits as in an app, over sites that are made up: their links vary, they go offline, and
some may take the candidate badly. The same seed gives the same story.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from cli import plan
from cli.simulation import Simulation, Weather, a_fleet, counts
from cli.validate import text
from triggers.config import parse_fleet, parse_loop
from triggers.errors import Refused


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("simulate", help="a rollout to a fleet, with faults", description=__doc__)
    parser.add_argument("--loop", type=Path, required=True, metavar="FILE", help="loop.yaml")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--fleet", type=Path, metavar="FILE", help="fleet.yaml")
    which.add_argument("--sites", type=int, metavar="N", help="so many made-up sites in five rings")
    parser.add_argument("--candidate", default="50MB", metavar="C", help="a size, or a folder of files (default: 50MB)")
    parser.add_argument("--at", metavar="TIME", help="when it is approved (default: now)")
    parser.add_argument("--days", type=float, default=30.0, metavar="D", help="how long to look (default: 30)")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument(
        "--offline", type=float, default=0.02, metavar="SHARE", help="of the time, a site (default: 0.02)"
    )
    parser.add_argument("--failing", type=float, default=0.0, metavar="SHARE", help="of the sites (default: 0)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the updated sites by day, as SVG")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0 where every site that could be reached is updated in time, 1 where not."""
    if not (
        0 <= args.offline < 1 and 0 <= args.failing <= 1 and args.days > 0 and (args.sites is None or args.sites > 0)
    ):
        raise Refused("expected shares from 0 to 1 (--offline below it), and some --days and --sites")
    loop, random = parse_loop(text(args.loop), str(args.loop)), Random(args.seed)
    fleet = parse_fleet(text(args.fleet), str(args.fleet)) if args.fleet else a_fleet(args.sites, random)
    start = plan.time(args.at) if args.at else datetime.now(UTC).replace(microsecond=0)
    if not args.fleet:  # its rings are not those of loop.yaml
        loop = plan.with_rings_of(loop, fleet)
    plan.fitting(loop, fleet, str(args.loop))
    weather = Weather(offline=args.offline, failing=args.failing)
    made = Simulation(loop, fleet, plan.size_of(args.candidate), start, random, weather)
    made.go(args.days)
    result = made.result()
    if args.plot:
        args.plot.write_text(made.plot())
    if args.json:
        print(json.dumps(result))
    else:
        print("\n".join([*result["story"], counts(result)]))
    return 0 if result["phase"] == "verified" else 1
