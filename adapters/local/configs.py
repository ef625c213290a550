"""Configurations as files: config/<loop>/loop.yaml and fleet.yaml in the state folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from triggers.config import Fleet, Loop
from triggers.errors import Misconfigured, NotFound

T = TypeVar("T", Loop, Fleet)
_Stamp = tuple[int, int, int]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
"""What loop.yaml lets a loop be called; nothing else is looked for."""

log = logging.getLogger("driftloop.config")


class FileConfigs:
    """Port Configs. A file that changes is read again; while it is wrong, what it said before goes on to hold."""

    def __init__(self, state: Path | str) -> None:
        self._folder = Path(state).resolve() / "config"
        self._loops: dict[Path, tuple[_Stamp, Loop]] = {}
        self._fleets: dict[Path, tuple[_Stamp, Fleet]] = {}

    def loops(self) -> Sequence[str]:
        return sorted(path.parent.name for path in self._folder.glob("*/loop.yaml"))

    def loop(self, name: str) -> Loop:
        """Raises NotFound, and Misconfigured where the file was never right."""
        from triggers.config import parse_loop

        return _read(self._path(name, "loop.yaml"), self._loops, parse_loop)

    def fleet(self, name: str) -> Fleet:
        """As `loop`; `name` is the loop's."""
        from triggers.config import parse_fleet

        return _read(self._path(name, "fleet.yaml"), self._fleets, parse_fleet)

    def _path(self, name: str, file: str) -> Path:
        if not _NAME.fullmatch(name):
            raise NotFound(f"no loop {name[:100]!r}", loop=name[:100])
        return self._folder / name / file


def _read(path: Path, kept: dict[Path, tuple[_Stamp, T]], parse: Callable[[str, str], T]) -> T:
    before, name = kept.get(path), "/".join(path.parts[-3:])  # as the state folder has it
    try:
        found = path.stat()
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if before is not None and before[0] == stamp:
            return before[1]
        value = parse(path.read_text(encoding="utf-8"), name)
    except FileNotFoundError as error:
        raise NotFound(f"no {path.name} for loop {path.parent.name!r}", loop=path.parent.name) from error
    except (Misconfigured, UnicodeDecodeError) as error:
        if before is None:
            raise error if isinstance(error, Misconfigured) else Misconfigured(f"{name}: not UTF-8") from error
        log.error("%s is wrong, and what it said before goes on to hold: %s", path, error)
        value = before[1]
    kept[path] = (stamp, value)
    return value
