"""`driftloop status`: every loop at a glance, and the sites of each; of more than 100, how many of each ring are well.
Times are UTC.

Exit status 1 where something wants a person: a question is open, a loop cannot be read, a site is silent or
stuck, or serves what was revoked.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from cli import app

WANTING = ("failed", "stuck")
MANY = 100


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "status",
        help="every loop at a glance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    app.arguments(parser)


def run(args: argparse.Namespace) -> int:
    """0 where all is well; 1 where something wants a person."""
    with app.connect(args) as here:
        found = here.get("loops")
        small = [loop["name"] for loop in found["loops"] if loop["sites"] <= MANY]
        large = [loop["name"] for loop in found["loops"] if loop["sites"] > MANY]
        fleets = [here.get(f"loops/{name}") for name in small]
        glances = [here.get(f"loops/{name}/glance") for name in large]
    wanting = [*wants(found, fleets), *wanted(glances)]
    if args.json:
        print(json.dumps({"at": found["now"], "wanting": wanting, **found, "fleets": fleets, "glances": glances}))
    else:
        for glance in glances:
            show_large(glance)
        show(found, fleets, wanting)
    return 1 if wanting else 0


def wants(found: dict[str, Any], fleets: list[dict[str, Any]]) -> list[str]:
    """What wants a person, in words, with the command that goes on."""
    said = [f"{loop['name']} cannot be read: {loop['problem']}" for loop in found["unreadable"]]
    for fleet in fleets:
        name = fleet["loop"]["name"]
        said += [f"{run['id']} waits for an answer: driftloop show {run['id']}" for run in fleet["waiting"]]
        for site in (s for ring in fleet["rings"] for s in ring["sites"]):
            if site["revoked"]:
                said.append(
                    f"{name}/{site['name']} serves {(site['observed'] or site['intent'])[:12]}, {site['revoked']}"
                )
            if site["status"] in WANTING:
                said.append(f"{name}/{site['name']} {site['status']}: {site['reason']}")
            elif site["silent"]:
                said.append(f"{name}/{site['name']} silent since {app.when(site['heard'])}")
    return said


def wanted(glances: list[dict[str, Any]]) -> list[str]:
    """What wants a person in large fleets."""
    tones = ("bad", "warn")
    return [f"{g['loop']['name']}: {w['what']}: {w['do']}" for g in glances for w in g["wants"] if w["tone"] in tones]


def show_large(glance: dict[str, Any]) -> None:
    """A row a ring."""
    about = glance["loop"]
    print(f"{about['name']}: {about['sites']:,} sites serve {about['champion'][:12] or 'no model'}")
    print(f"next: {about['next']}")
    tones = {"good": "well", "info": "at work", "warn": "to look at", "bad": "bad", "neutral": "other"}
    rows = ((r["name"], f"{r['sites']:,}", *(f"{r['tones'].get(t, 0):,}" for t in tones)) for r in glance["rings"])
    app.show_table(("ring", "sites", *tones.values()), rows)
    print()


def show(found: dict[str, Any], fleets: list[dict[str, Any]], wanting: list[str]) -> None:
    """A table a loop."""
    if found["frozen_all"]:
        print(f"all loops: {found['frozen_all']}")
    for fleet in fleets:
        about = fleet["loop"]
        frozen = f"; {about['frozen']}" if about["frozen"] else ""
        print(f"{about['name']}: {about['sites']} sites serve {about['champion'][:12] or 'no model'}{frozen}")
        print(f"next: {about['next']}")
        for run in about["active"]:
            print(f"{run['id']} {run['phase']}: {run['because']}")
        head = ("ring", "site", "serves", "rows", "errors", "heard", "status")
        app.show_table(head, ((ring["name"], *_row(site)) for ring in fleet["rings"] for site in ring["sites"]))
        if fleet["quarantined"]:
            print(f"{fleet['quarantined']} in quarantine: driftloop quarantine list --loop {about['name']}")
        print()
    for line in wanting:
        print(f"! {line}")
    if not found["loops"] and not found["unreadable"]:
        print("no loop yet: put loop.yaml and fleet.yaml into config/NAME of the state")


def _row(site: dict[str, Any]) -> tuple[str, ...]:
    errors = f"{site['errors']:,} of {site['requests']:,}" if site["requests"] else ""
    status = f"{site['status']}, silent" if site["silent"] else site["status"]
    rows = f"{site['recent']['rows']:,}"
    return site["name"], site["observed"][:12], rows, errors, app.when(site["heard"]), status
