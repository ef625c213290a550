"""`driftloop retrain`: begin a run now, whatever drift says. Refused where one is active, or all is frozen.

With --supersede it takes the place of a run that nobody has answered yet.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from cli import app


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("retrain", help="begin a run now", description=__doc__)
    parser.add_argument("--loop", metavar="NAME", help="the loop's name (default: the only one)")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="for the audit trail")
    parser.add_argument("--supersede", action="store_true", help="in place of a run that nobody has answered yet")
    app.arguments(parser)


def run(args: argparse.Namespace) -> int:
    with app.connect(args) as here:
        done = here.do(f"loops/{here.loop(args.loop)}/retrain", args.reason, supersede=args.supersede)
    print(json.dumps(done) if args.json else f"{done['run']} has begun: driftloop show {done['run']}")
    return 0
