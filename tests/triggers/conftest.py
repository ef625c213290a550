"""Worlds, each in a folder of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.triggers.world import World

MEMORY = Path("/dev/shm")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where the machine offers it: every commit waits for the disk, and nothing here loses power."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


@pytest.fixture
def worlds(folder: Path) -> Iterator[Callable[..., World]]:
    """Makes worlds, and closes them."""
    made: list[World] = []
    number = count()

    def make(**how: Any) -> World:
        made.append(World(folder / f"world-{next(number)}", **how))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(worlds: Callable[..., World]) -> World:
    """Three sites that serve an adopted first champion."""
    made = worlds()
    made.begin()
    return made
