"""`driftloop doctor`: what is wrong with an installation, and how to mend it. It changes nothing.

On one machine: --state, or DRIFTLOOP_STATE. With DRIFTLOOP_PROFILE=azure: the app settings of this environment, and
whether each service answers to the identity that runs the command, so run it where the app runs, or with its settings.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from triggers.errors import DriftloopError, Misconfigured
from triggers.ports import Queue

if TYPE_CHECKING:
    from adapters.azure.profile import Azure
    from triggers.ports import Ports

FREE_BYTES = 2 << 30
SKEW = timedelta(minutes=2)


class Finding(NamedTuple):
    """What was looked at, what was found, and how to mend it."""

    severity: Literal["error", "warning", "ok"]
    what: str
    found: str
    how: str = ""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="what is wrong with an installation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--state", type=Path, metavar="DIR", help="a state folder (default: DRIFTLOOP_STATE)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0; 1 where something is wrong."""
    if args.state:
        os.environ.update(DRIFTLOOP_PROFILE="local", DRIFTLOOP_STATE=str(args.state))
    found = [*_packages(), *(_azure() if os.environ.get("DRIFTLOOP_PROFILE") == "azure" else _local())]
    if args.json:
        print(json.dumps({"findings": [f._asdict() for f in found]}))
    else:
        for one in found:
            mark = {"error": "ERROR", "warning": "warn ", "ok": "ok   "}[one.severity]
            print(f"{mark} {one.what}: {one.found}" + (f"\n      {one.how}" if one.how else ""))
    return 1 if any(f.severity == "error" for f in found) else 0


def _packages() -> Iterator[Finding]:
    """This Python, and the packages that requirements.txt pins for it."""
    yield Finding("ok", "python", sys.version.split()[0])
    pins = Path(__file__).resolve().parents[1] / "requirements.txt"
    if not pins.is_file():
        return
    from packaging.markers import Marker

    wrong = []
    for name, version, marker in re.findall(r"(?m)^([\w.-]+)==([^\s;#]+)\s*(?:;\s*([^#\n]+))?", pins.read_text()):
        if marker and not Marker(marker.strip()).evaluate():
            continue
        try:
            has = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            has = "missing"
        if has != version:
            wrong.append(f"{name} {has}, not {version}")
    if wrong:
        how = "pip install -r requirements.txt"
        yield Finding("warning", "packages", "; ".join(wrong[:5]) + (" ..." if wrong[5:] else ""), how)
    else:
        yield Finding("ok", "packages", "as requirements.txt pins them")


def _loops(ports: Ports) -> Iterator[Finding]:
    """Each loop.yaml and fleet.yaml, and whether they fit each other."""
    from triggers.config import check

    try:
        names = list(ports.configs.loops())
    except DriftloopError as problem:
        yield Finding("error", "loops", str(problem))
        return
    if not names:
        yield Finding("warning", "loops", "there is none", "put loop.yaml and fleet.yaml into config/NAME")
    for name in names:
        try:
            config, fleet = ports.configs.loop(name), ports.configs.fleet(name)
        except DriftloopError as problem:
            yield Finding("error", f"loop {name}", str(problem), "driftloop validate says the same for the file alone")
            continue
        wrong = [str(p) for p in check(config, fleet)]
        yield Finding("error" if wrong else "ok", f"loop {name}", "; ".join(wrong) or f"{len(fleet.sites)} sites")
        if not config.approval.approvers:
            yield Finding("warning", f"loop {name}", "nobody may approve", "name approvers in loop.yaml")
        if unsigned := [s.name for s in fleet.sites if not s.keys]:
            said = ", ".join(unsigned[:5]) + (" ..." if unsigned[5:] else "")
            yield Finding("warning", f"loop {name}", f"batches need no signature: {said}", "list keys in fleet.yaml")


# --- on one machine


def _local() -> Iterator[Finding]:
    from adapters.local.clock import VirtualClock
    from cli.host import AppError, alone
    from functions import host

    state = Path(host.setting("DRIFTLOOP_STATE"))
    if not (state / "state.db").exists():
        yield Finding("error", "state", f"{state}: no state.db there", "driftloop host --state DIR makes one")
        return
    with sqlite3.connect(f"file:{state / 'state.db'}?mode=ro", uri=True) as base:
        (verdict,) = base.execute("pragma quick_check(1)").fetchone()
    base.close()
    yield Finding(
        "ok" if verdict == "ok" else "error", "state.db", verdict, "" if verdict == "ok" else "restore a copy"
    )
    free = shutil.disk_usage(state).free
    enough = free > FREE_BYTES
    yield Finding("ok" if enough else "warning", "disk", f"{free / 2**30:.1f} GiB free", "" if enough else "make room")
    for secret in (p for p in (state / "keys").glob("*") if p.suffix in (".pem", ".key") and p.stat().st_mode & 0o077):
        yield Finding("error", "keys", f"{secret} can be read by others", f"chmod 600 {secret}")
    try:
        with alone(state):
            yield Finding("warning", "host", "none is running on this state", f"driftloop host --state {state}")
    except AppError:
        yield Finding("ok", "host", "running")
    host.ports.cache_clear()
    host.local.cache_clear()
    local = host.local()
    try:
        if isinstance(local.clock, VirtualClock):
            yield Finding("warning", "clock", f"stands at {local.clock.now():%Y-%m-%d %H:%M} UTC: of a replay")
        for queue in get_args(Queue):
            dead = local.bus.dead_letters(queue)
            found = f"{local.bus.pending(queue)} waiting, {len(dead)} dead letters" + (
                f", the last for: {dead[-1].reason} {dead[-1].description}".rstrip() if dead else ""
            )
            yield Finding("error" if dead else "ok", f"queue {queue}", found, "see the host's log" if dead else "")
        yield from _loops(local.ports)
    finally:
        local.close()
        host.ports.cache_clear()
        host.local.cache_clear()


# --- on Azure


def _azure() -> Iterator[Finding]:
    from adapters.azure.settings import Settings, table_of_settings
    from functions import host

    settings = Settings(os.environ)
    for setting in table_of_settings():
        try:
            setting.__get__(settings, Settings)
        except Misconfigured as problem:
            yield Finding("error", f"setting {setting.name}", str(problem))
    host.azure.cache_clear()
    azure = host.azure()
    yield from _tried(azure)
    yield from _loops(azure.ports)


def _tried(azure: Azure) -> Iterator[Finding]:
    """One harmless call to each service that answers reads."""
    calls: dict[str, Callable[[], object]] = {
        "table storage": lambda: azure.ports.store.get("driftloop", "freeze/all"),
        "blob storage": lambda: azure.blobs.exists("doctor"),
        "configuration": lambda: azure.files.exists("doctor"),
        "keys": lambda: azure.keys.registry,
    }
    for what, call in calls.items():
        try:
            call()
            yield Finding("ok", what, "answers")
        except DriftloopError as problem:
            yield Finding("error", what, str(problem), "does the app's identity have its role there? see docs/azure.md")
    yield from _clock(azure)


def _clock(azure: Azure) -> Iterator[Finding]:
    """Ours against that of the storage service, which says the time in any answer."""
    import http.client
    from urllib.parse import urlsplit

    try:
        at = urlsplit(azure.settings.blobs)
        kind = http.client.HTTPSConnection if at.scheme == "https" else http.client.HTTPConnection
        connection = kind(at.netloc, timeout=10)
        connection.request("HEAD", "/")
        said = connection.getresponse().headers["Date"]
        connection.close()
    except (Misconfigured, OSError, http.client.HTTPException):
        return  # said already, as a setting or a service
    skew = datetime.now(UTC) - parsedate_to_datetime(said)
    well = abs(skew) < SKEW
    how = "" if well else "set this machine's clock: tokens and signatures are judged by it"
    yield Finding("ok" if well else "error", "clock", f"{skew.total_seconds():+.0f} s from the storage service's", how)
