"""`driftloop freeze [TARGET]`: begin nothing new; what takes back and what cancels goes on."""

from __future__ import annotations

import argparse
import json
from typing import Any

from cli import app


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("freeze", help="begin nothing new", description=__doc__)
    arguments(parser)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="?", default="all", metavar="TARGET", help="all (default), LOOP or LOOP/SITE")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="for the audit trail")
    app.arguments(parser)


def run(args: argparse.Namespace) -> int:
    with app.connect(args) as here:
        done = here.do("freeze", args.reason, target=args.target)
    print(json.dumps(done) if args.json else f"{done['frozen']} is frozen")
    return 0
