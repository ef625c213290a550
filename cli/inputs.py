"""What a state was begun with: a replay goes on with the very same, or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from triggers.config import Loop
from triggers.errors import Refused


def scripts(loop_file: Path, loop: Loop) -> dict[str, Path]:
    """What jobs need beside loop.yaml, by its path from there: Python files beside it and beside the scripts that it
    names, the packages there, and the gates' tables."""
    home = loop_file.resolve().parent
    places = {home, *((home / s).resolve().parent for s in (loop.training.script, loop.evaluation.script) if s)}
    found = {path for place in places for path in place.glob("*.py")}
    packages = {init.parent for place in places for init in place.glob("*/__init__.py")}
    found |= {path for package in packages for path in package.rglob("*.py")}
    tables = (loop.gates.examples, loop.gates.holdout.table if loop.gates.holdout else None)
    found |= {(home / table).resolve() for table in tables if table}
    return {path.relative_to(home).as_posix(): path for path in sorted(found) if path.is_relative_to(home)}


def digests(loop_file: Path, loop: Loop, fleet_file: Path, data: Path) -> dict[str, str]:
    """sha256 by what it is of: loop.yaml, its scripts, fleet.yaml, the data. Raises Refused."""
    files = {"loop.yaml": loop_file, **scripts(loop_file, loop), "fleet.yaml": fleet_file, "data": data}
    return {name: _digest(path) for name, path in files.items()}


def keep(state: Path, inputs: Mapping[str, str]) -> None:
    """Remember what a new state begins with. Raises Refused where it was begun with something else."""
    kept = state / "inputs.json"
    if not kept.exists():
        state.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        partial.write_text(json.dumps(inputs, indent=2) + "\n")
        partial.replace(kept)
        return
    begun = json.loads(kept.read_text())
    if changed := list(_changed(begun, inputs)):
        other = ", ".join(changed)
        raise Refused(f"{state} was begun with another {other}; put that back, or begin anew in another folder")


def _changed(begun: Mapping[str, str], inputs: Mapping[str, str]) -> Iterable[str]:
    return (name for name in {**begun, **inputs} if begun.get(name) != inputs.get(name))


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise Refused(f"{path}: {problem.strerror}") from problem
