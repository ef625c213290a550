"""`driftloop fleet discover`: fleet.yaml from Azure Resource Graph, by the tags of Arc-connected clusters.

What Resource Graph cannot know (keys, url, blackouts, ..., and sites that are no clusters) is kept from --fleet. What
no tag says is inferred only where the file says nothing. Look at the result, then put it where the app reads its
configuration.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cli.validate import text
from triggers.config import parse_fleet


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("fleet", help="discover a fleet", description=__doc__)
    parser.add_argument("what", choices=("discover",))
    parser.add_argument(
        "--loop", required=True, metavar="NAME", help="clusters whose tag `driftloop` names it, or is *"
    )
    parser.add_argument("--fleet", type=Path, metavar="FILE", help="the fleet.yaml that there is")
    parser.add_argument(
        "--subscription", action="append", default=[], metavar="ID", help="default: all that you may see"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write it (default: print it)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from azure.identity import DefaultAzureCredential

    from adapters.azure.arm import Arm
    from adapters.azure.graph import ResourceGraph

    known = _known(args.fleet) if args.fleet else {}
    found, notes = ResourceGraph(Arm(DefaultAzureCredential), args.subscription).sites(args.loop, _by_name(known))
    notes += [f"{name}: dropped, as its cluster was not found" for name in dropped(found, known)]
    said = written(found, known, str(args.out or "what was discovered"))
    if args.json:
        print(json.dumps({"sites": found, "notes": notes}))
    elif args.out:
        args.out.write_text(said)
        print(f"{len(found)} clusters found, {len(parse_fleet(said).sites)} sites in {args.out}")
    else:
        print(said, end="")
    print("\n".join(f"note: {note}" for note in notes), file=sys.stderr, end="\n" * bool(notes))
    return 0


def _known(file: Path) -> dict[str, Any]:
    import yaml

    said = text(file)
    parse_fleet(said, str(file))
    known: dict[str, Any] = yaml.safe_load(said)
    return known


def written(found: list[dict[str, Any]], known: dict[str, Any], file: str) -> str:
    """fleet.yaml, checked: each site as it was found over what was known of it, known ones first. Raises Wrong."""
    import yaml

    before, new = _by_name(known), {site["name"]: site for site in found}
    gone = dropped(found, known)
    sites = [_merged(site, new.pop(name, {})) for name, site in before.items() if name not in gone]
    merged = {**known, "sites": [*sites, *new.values()]}
    said = yaml.safe_dump(merged, sort_keys=False, allow_unicode=True)
    parse_fleet(said, file)
    return said


def dropped(found: list[dict[str, Any]], known: dict[str, Any]) -> list[str]:
    """Known sites that are clusters and were not found."""
    there = {site["name"] for site in found}
    return [name for name, site in _by_name(known).items() if site.get("resource_id") and name not in there]


def _by_name(known: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {site["name"]: site for site in known.get("sites") or []}


def _merged(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    labels = {**(before.get("labels") or {}), **found.get("labels", {})}
    return {**before, **found, **({"labels": labels} if labels else {})}
