"""`driftloop host`: the app in this folder, on the local profile, in real time."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("host", help="run the function app in this folder on this machine")
    parser.add_argument("--state", type=Path, help="folder of the state (default: DRIFTLOOP_STATE, or `state`)")
    parser.add_argument("--port", type=int, default=7071, help="HTTP port on 127.0.0.1 (default 7071; 0: any)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Until SIGTERM or ctrl-c; 2 where the app would not run in Azure either, or another host has the state."""
    if args.state:
        os.environ["DRIFTLOOP_STATE"] = str(args.state)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    from cli.host.app import AppError, load
    from cli.host.host import Host, alone
    from functions import host as composition

    try:
        app = load(Path("function_app.py"))
        with alone(Path(composition.setting("DRIFTLOOP_STATE"))):
            local = composition.local()
            settings = {**composition.SETTINGS, **os.environ}
            Host(app, local.bus, local.topic, local.store, local.clock, settings).serve_forever(args.port)
    except (AppError, OSError) as e:
        print(f"driftloop host: {e}", file=sys.stderr)
        return 2
    return 0
