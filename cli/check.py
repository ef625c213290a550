"""`driftloop check`: assess what has come since the last drift check, now, and decide; a run may begin.

Exit status 1 where drift was found, whatever was decided.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from cli import app


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("check", help="a drift check now", description=__doc__)
    parser.add_argument("--loop", metavar="NAME", help="the loop's name (default: the only one)")
    parser.add_argument("--reason", default="checked by hand", metavar="TEXT", help="for the audit trail")
    app.arguments(parser)


def run(args: argparse.Namespace) -> int:
    with app.connect(args) as here:
        name = here.loop(args.loop)
        done = here.do(f"loops/{name}/check", args.reason)
    if args.json:
        print(json.dumps(done))
    else:
        print(f"{name}: {done['action']}: {done['reason']}")
        if done["run"]:
            print(f"{done['run']} begins: driftloop show {done['run']}")
    return 1 if done["drift"] else 0
