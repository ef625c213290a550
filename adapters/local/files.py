"""Files that are there after a loss of power."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


def write(path: Path, data: bytes) -> None:
    """A new file; its folder is not yet synchronised."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, data: bytes) -> None:
    """Readers see the file that was there before, or this one."""
    temporary = path.with_name(f".{uuid4()}")
    try:
        write(temporary, data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def make(folder: Path) -> None:
    """A folder, and those above it."""
    if not folder.is_dir():
        make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
