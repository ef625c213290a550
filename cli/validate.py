"""`driftloop validate`: whether loop.yaml and fleet.yaml are right, each in itself and both together.

`python -m cli.validate --schemas FOLDER` writes their JSON Schemas, for editors.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from triggers import quota, sites
from triggers.config import Fleet, Loop, json_schema, parse, parse_fleet, parse_loop
from triggers.errors import Refused
from triggers.reading import Document, Problem, Wrong


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("validate", help="check loop.yaml and fleet.yaml", description=__doc__)
    parser.add_argument("--loop", type=Path, metavar="FILE", help="loop.yaml")
    parser.add_argument("--fleet", type=Path, metavar="FILE", help="fleet.yaml")
    parser.add_argument("--json", action="store_true", help="print the problems as JSON")


def run(args: argparse.Namespace) -> int:
    """0 where all is well, 2 with every problem where it is not. What Azure's quotas have no room for is a warning, and
    so is a setting that will not do what it says."""
    warnings: tuple[str, ...] = ()
    try:
        problems = found(args.loop, args.fleet)
        if args.fleet and not problems:
            warnings = quota.planned(parse_fleet(text(args.fleet), str(args.fleet))).problems
        if args.loop and not problems:
            warnings += _without_effect(parse_loop(text(args.loop), str(args.loop)), args.loop)
    except Unreadable as e:
        if not args.json:
            raise
        problems = [Problem(e.file, 0, (), e.why)]
    if args.json:
        print(json.dumps({"problems": _plain(problems), "warnings": warnings}, indent=2))
    elif problems:
        raise Wrong(problems)
    else:
        print("\n".join([*(f"warning: {w}" for w in warnings), "no problems"]))
    return 2 if problems else 0


def _without_effect(loop: Loop, file: Path) -> tuple[str, ...]:
    from drift.streams import LEAST_ROWS

    if loop.drift.minimum_rows >= LEAST_ROWS:
        return ()
    said = loop.drift.minimum_rows
    return (f"{file}: drift.minimum_rows: {said}: below {LEAST_ROWS:.0f} rows no window is evidence",)


def _plain(problems: list[Problem]) -> list[dict[str, Any]]:
    return [{"file": p.file, "line": p.line, "field": p.field, "what": p.what} for p in problems]


def found(loop: Path | None, fleet: Path | None) -> list[Problem]:
    """The problems of one file or of both. Raises Refused where neither is given, or one cannot be read."""
    try:
        if loop and fleet:
            config, _ = parse(text(loop), text(fleet), str(loop), str(fleet))
        elif loop:
            config = parse_loop(text(loop), str(loop))
        elif fleet:
            parse_fleet(text(fleet), str(fleet))
            return []
        else:
            raise Refused("nothing to check: give --loop FILE, --fleet FILE or both")
    except Wrong as e:
        return list(e.problems)
    frozen = config.gates.holdout.table if config.gates.holdout else None
    return Document(text(loop), str(loop)).problems(
        (at, f"{name!r} is not there; expected a file beside loop.yaml, or that it is left out")
        for at, name in (
            (("training", "script"), config.training.script),
            (("evaluation", "script"), config.evaluation.script),
            (("gates", "examples"), config.gates.examples),
            (("gates", "holdout", "table"), frozen),
        )
        if name and not (loop.parent / name).is_file()
    )


def text(path: Path) -> str:
    """A configuration file. Raises Unreadable."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise Unreadable(str(path), str(e.strerror) if isinstance(e, OSError) else "not UTF-8 text") from e


class Unreadable(Refused):
    """A configuration file that is not there, or no text."""

    def __init__(self, file: str, why: str) -> None:
        super().__init__(f"{file}: {why}")
        self.file, self.why = file, why


def write_schemas(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (folder / name).write_text(schema)


def schemas() -> dict[str, str]:
    """The published JSON Schemas by file name."""
    kinds: dict[str, type[Loop] | type[Fleet]] = {"loop.schema.json": Loop, "fleet.schema.json": Fleet}
    made = {name: json_schema(kind) for name, kind in kinds.items()}
    made["deployment.schema.json"] = sites.event_schema()
    return {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in made.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m cli.validate")
    parser.add_argument("--schemas", type=Path, metavar="FOLDER", required=True)
    write_schemas(parser.parse_args(sys.argv[1:]).schemas)
