"""`driftloop unfreeze [TARGET]`: go on where a freeze stopped."""

from __future__ import annotations

import argparse
import json
from typing import Any

from cli import app, freeze


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("unfreeze", help="go on where a freeze stopped", description=__doc__)
    freeze.arguments(parser)


def run(args: argparse.Namespace) -> int:
    with app.connect(args) as here:
        done = here.do("unfreeze", args.reason, target=args.target)
    print(json.dumps(done) if args.json else f"{done['unfrozen']} goes on")
    return 0
