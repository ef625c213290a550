"""A folder that an older version left in the middle of a story is gone on with, to the end that this version comes to
alone; what was damaged in it meanwhile is noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.triggers.histories import FOLDER, gone_on, opened, unlike_the_trail, whole
from tests.triggers.world import World
from triggers import sites
from triggers.ports import Delete, Put
from triggers.records import site_partition
from triggers.run import Phase

KEPT = sorted(FOLDER.glob("history-*.zip"))


def changed(partition: str, prefix: str, old: bytes, new: bytes) -> Callable[[World], None]:
    """Somebody writes the store by hand: the first such row."""

    def change(world: World) -> None:
        record = next(iter(world.store.scan(partition, prefix)))
        assert record.value.count(old) >= 1
        world.store.commit(partition, [Put(record.key, record.value.replace(old, new, 1), record.version)])

    return change


def loses(partition: str, prefix: str) -> Callable[[World], None]:
    """The first such row is gone."""
    return lambda world: world.store.commit(partition, [Delete(next(iter(world.store.scan(partition, prefix))).key)])


def not_as(end: dict[str, Any], kept: Path, folder: Path, damage: Callable[[World], None]) -> list[str]:
    """What is wrong after that damage: by the trail at once, or else in the end."""
    with opened(kept, folder) as (world, now):
        damage(world)
        if wrong := unlike_the_trail(world):
            return wrong
        return [part for part, value in gone_on(world, now).items() if value != end[part]]


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.stem)
def test_a_folder_of_each_version_is_gone_on_with_to_the_same_end(kept: Path, folder: Path) -> None:
    with opened(kept, folder / "kept") as (world, now):
        [run] = world.runs
        assert (run.phase, run.wave) == (Phase.ROLLING_OUT, 1)
        assert [world.state(name).status for name in ("a", "b")] == ["verified", "asked"]
        assert world.bus.pending("deployments") == 1
        assert world.database.read("select count(*) from scheduled where queue = 'runs'")[0][0] >= 1
        assert unlike_the_trail(world) == []
        end = gone_on(world, now)
        assert unlike_the_trail(world) == []
    assert end["runs"][0][1] is Phase.VERIFIED
    assert end == whole(folder / "kept", folder / "whole")


def test_what_was_damaged_in_it_is_noticed(folder: Path) -> None:
    kept = KEPT[-1]
    with opened(kept, folder / "kept") as (world, now):
        end = gone_on(world, now)
    damages = {
        "entry 1 is not what was written": changed("line", "audit/", b'"kind":"adopted"', b'"kind":"admired"'),
        "the store has another approved_by": changed("line", "run/", b'"approved_by":"ann"', b'"approved_by":"eve"'),
        "champion: x": changed("line", "head", b'"champion":"', b'"champion":"x'),
        "sites": changed(site_partition("line", "a"), sites.SITE, b'"batches":', b'"batches":1'),
        "windows": loses(site_partition("line", "b"), "window/"),
    }
    for number, (noticed, damage) in enumerate(damages.items()):
        assert noticed in not_as(end, kept, folder / str(number), damage)[0]
