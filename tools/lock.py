"""Pins requirements: `*.in` says what is wanted and what for, `*.txt` pins it with all that it needs in turn.

One resolution holds for every Python from 3.11 on; environment markers tell the versions apart where they must.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def compiled(source: str, *extra: str) -> dict[str, list[str]]:
    """Pins by package name; two where markers split a package."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    command += ["--fork-strategy", "fewest", "--no-header", "--annotation-style", "line", source, *extra]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    pins: dict[str, list[str]] = {}
    for line in filter(None, out.splitlines()):
        pins.setdefault(_name(line), []).append(re.sub(r"-r (\S+)", r"\1", re.sub(r"\s+#", "  #", line)))
    return pins


def lock(source: str, target: str, without: dict[str, list[str]], *extra: str) -> dict[str, list[str]]:
    """Write `target`: the wanted packages under their comments, then what they need."""
    everything = compiled(source, *extra)
    pins = dict(everything)
    out = [f"# Made from {source} by `make lock`.", ""]
    if without:
        out += ["-r requirements.txt", ""]
    for line in (ROOT / source).read_text().splitlines()[2:]:
        if line.startswith("#") or not line:
            out.append(line)
        else:
            out += [pin.partition("  #")[0] for pin in pins.pop(_name(line), [])]
    rest = sorted(pins.keys() - without.keys())
    out += ["", "# What these need in turn", *(pin for name in rest for pin in pins[name])]
    (ROOT / target).write_text("\n".join(out) + "\n")
    return everything


def _name(line: str) -> str:
    return re.match(r"[A-Za-z0-9._-]+", line)[0].lower()  # type: ignore[index]


if __name__ == "__main__":
    app = lock("requirements.in", "requirements.txt", {})
    tests = lock("requirements-dev.in", "requirements-dev.txt", app, "--constraint", "requirements.txt")
    pinned = "--constraint", "requirements.txt", "--constraint", "requirements-dev.txt"
    lock("requirements-wire.in", "requirements-wire.txt", {**app, **tests}, *pinned)
