"""`driftloop host`: the app in this folder, or else driftloop's own, on the local profile, in real time; and the host
itself for other commands.

`AppError`, `Host`, `alone` and `load` are imported when first used: they need azure.functions.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triggers.config import check
from triggers.errors import Misconfigured, NotFound

if TYPE_CHECKING:
    from cli.host.app import AppError, load
    from cli.host.host import Host, alone
    from triggers.ports import Configs

log = logging.getLogger("driftloop.host")

__all__ = ["APP", "AppError", "Host", "add_parser", "alone", "load", "run"]

APP = Path(__file__).resolve().parents[2] / "function_app.py"

_HOMES = {"AppError": "cli.host.app", "load": "cli.host.app", "Host": "cli.host.host", "alone": "cli.host.host"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("host", help="run the function app on this machine", description=__doc__)
    parser.add_argument("--state", type=Path, help="folder of the state (default: DRIFTLOOP_STATE, or `state`)")
    parser.add_argument("--port", type=int, default=7071, help="HTTP port on 127.0.0.1 (default 7071; 0: any)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Until SIGTERM or ctrl-c; 2 where the app would not run in Azure either, a setting is wrong, or another host has
    the state."""
    if args.state:
        os.environ["DRIFTLOOP_STATE"] = str(args.state)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    from cli.host.app import AppError, load
    from cli.host.host import Host, alone
    from functions import host as composition
    from functions import wire

    try:
        app = load(here if (here := Path("function_app.py")).is_file() else APP)
        with alone(Path(composition.setting("DRIFTLOOP_STATE"))):
            composition.ports()
            local = composition.local()
            local.jobs.recover()
            _look_through(local.ports.configs)
            settings = {name: composition.setting(name) for name in composition.SETTINGS}
            parts = local.bus, local.topic, local.store, local.clock
            host = Host(app, *parts, settings, subscriptions=wire.SUBSCRIPTIONS)
            host.serve_forever(args.port, listening=lambda url: _greet(url, local.people.login_link(url)))
    except (AppError, OSError) as e:
        print(f"driftloop host: {e}", file=sys.stderr)
        return 2
    return 0


def _greet(url: str, login: str) -> None:
    """The login link opens a session for whoever has it: for the person at the terminal, not for a log."""
    if sys.stdout.isatty():
        print(f"page: {url}/   sign in: {login}", flush=True)


def _look_through(configs: Configs) -> None:
    """Say what is wrong with a loop as the host starts, not when its turn comes."""
    for name in configs.loops():
        try:
            fleet = configs.fleet(name)
            problems = [str(p) for p in check(configs.loop(name), fleet)]
        except (Misconfigured, NotFound) as e:
            problems = str(e).splitlines()
        for problem in problems:
            log.error("loop %s: %s", name, problem)
