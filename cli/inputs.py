"""What a state was begun with: a replay goes on with the very same, or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from triggers.errors import Refused


def digests(loop_file: Path, fleet_file: Path, data: Path) -> dict[str, str]:
    """sha256 by what it is of: loop.yaml, the scripts beside it, fleet.yaml, the data. Raises Refused."""
    scripts = {path.name: path for path in sorted(loop_file.parent.glob("*.py"))}
    files = {"loop.yaml": loop_file, **scripts, "fleet.yaml": fleet_file, "data": data}
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
