"""`driftloop show RUN`: all about one run: why it began, what was judged, who answered, each wave. Times are UTC.

`driftloop explain RUN` tells the same as a story.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from cli import app


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "show",
        help="everything about one run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("id", metavar="RUN")
    app.arguments(parser)


def run(args: argparse.Namespace) -> int:
    with app.connect(args) as here:
        found = here.get(f"runs/{args.id}")
    if args.json:
        print(json.dumps(found))
    else:
        print("\n".join(lines(found)))
    return 0


def lines(found: dict[str, Any]) -> list[str]:
    """What there is to say of a run."""
    of, asked = found["run"], found["approval"]
    said = [f"{of['id']}: {of['phase']}", f"because   {of['because']}", f"cause     {of['cause']}"]
    said += [f"began     {app.when(of['started'])}" + (f", ended {app.when(of['ended'])}" if of["ended"] else "")]
    said += [f"champion  {of['champion']}"] + ([f"candidate {of['candidate']}"] if of["candidate"] else [])
    if found["revoked"]:
        said.append(f"revoked   {found['revoked'].removeprefix('revoked ')}")
    if of["verdict"]:
        said.append(f"gates     {of['outcome']}: {of['verdict']}")
    if asked:
        who = f" by {asked['by']}" if asked["by"] else f", until {app.when(asked['expires'])}"
        said.append(f"approval  {asked['state']}{who}" + (f": {asked['reason']}" if asked["reason"] else ""))
    for n, wave in enumerate(found["waves"], 1):
        done = f", verified {app.when(wave['verified'])}" if wave["verified"] else ""
        began = f" began {app.when(wave['started'])}" if wave["started"] else " not begun"
        said.append(f"wave {n}    {wave['ring']}:{began}{done}")
        said += [f"  {s['site']}: {s['status']}" + (f" ({s['reason']})" if s["reason"] else "") for s in wave["sites"]]
    said += [f"report    {link}" for link in found["reports"]]
    if of["next"]:
        said.append(f"waits for {of['next']}")
    return said
