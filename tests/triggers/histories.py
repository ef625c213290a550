"""A story broken off in the middle of a rollout, as a version left its folder, for later ones to go on with.

`python -m tests.triggers.histories` keeps that of this version (pyproject.toml) in golden/history-VERSION.zip, where it
is not there yet; what is there was written by an older version, and is never written anew.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import msgspec

from tests.triggers.crashing import FAST, STORIES, begun, end_of, half_day, untrue
from tests.triggers.world import Crash, Plant, World, a_fleet
from triggers import codec, loop, policy
from triggers.config import Fleet, Loop
from triggers.ports import Change, Job, Underway
from triggers.rebuild import differences, rebuild

FOLDER = Path(__file__).parent / "golden"
STORY = STORIES["drift, retrained and verified"]


class Around(msgspec.Struct):
    """What is not driftloop's and has no file: sites, jobs, what people were told; and the half day it was."""

    now: int
    shift: float
    plants: dict[str, Plant]
    jobs: dict[str, Job]
    ended: set[str]
    cards: dict[str, dict[str, Any]]
    told: set[str]


def broken_off(folder: Path) -> Around:
    """The process dies as it asks the second site: that message is in hand, deadlines wait, the first site serves the
    candidate."""
    with closing(World(folder, a_loop=FAST, fleet=a_fleet("a", "b"))) as world:
        apply = world.plants.apply

        def dies(change: Change, proven: bool = False) -> Underway | None:
            if change.site == "b":
                raise Crash
            return apply(change, proven)

        world.plants.apply = dies  # type: ignore[method-assign]
        for now in range(STORY.half_days + 1):
            try:
                begun(world, STORY, now)
            except Crash:
                board, jobs = world.board, world.jobs
                cards = {key: dict(card) for key, card in board.cards.items()}
                return Around(now, world.shift, world.plants.all, jobs.jobs, world._told, cards, board.told)
    raise AssertionError("nobody asks the second site")


def keep(path: Path) -> None:
    """Play it, and keep the folder, with the configuration that it had."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        around = broken_off(folder)
        (folder / "people.key").unlink()  # a secret that nothing here needs
        (folder / "around.json").write_bytes(msgspec.json.format(msgspec.json.encode(around, order="deterministic")))
        (folder / "loop.json").write_bytes(codec.encode(FAST))
        (folder / "fleet.json").write_bytes(codec.encode(a_fleet("a", "b")))
        with ZipFile(path, "w", ZIP_DEFLATED, compresslevel=9) as kept:
            for file in sorted(file for file in folder.rglob("*") if file.is_file()):
                data, info = file.read_bytes(), ZipInfo(file.relative_to(folder).as_posix())
                assert str(folder).encode() not in data
                kept.writestr(info, data, ZIP_DEFLATED)


@contextmanager
def opened(path: Path, folder: Path) -> Iterator[tuple[World, int]]:
    """What was kept, opened by this version; and the half day that it is."""
    with ZipFile(path) as kept:
        kept.extractall(folder)
    around = msgspec.json.decode((folder / "around.json").read_bytes(), type=Around)
    with closing(_configured(folder, folder)) as world:
        world.shift = world.jobs.shift = around.shift
        world.plants.all.update(around.plants)
        world.jobs.jobs.update(around.jobs)
        world._told.update(around.ended)
        world.board.cards.update(around.cards)
        world.board.told.update(around.told)
        yield world, around.now


def _configured(kept: Path, folder: Path) -> World:
    """As loop.yaml and fleet.yaml were."""
    a_loop = codec.decode((kept / "loop.json").read_bytes(), Loop)
    return World(folder, a_loop=a_loop, fleet=codec.decode((kept / "fleet.json").read_bytes(), Fleet))


def whole(kept: Path, folder: Path) -> dict[str, Any]:
    """The end of the story that this version plays alone; `kept`: where the configuration is."""
    with closing(_configured(kept, folder)) as world:
        for now in range(STORY.half_days + 1):
            half_day(world, STORY, now)
        return seen(world)


def gone_on(world: World, now: int) -> dict[str, Any]:
    """The end of a story that is gone on with at that half day."""
    half_day(world, STORY, now, again=True)
    for later in range(now + 1, STORY.half_days + 1):
        half_day(world, STORY, later)
    return seen(world)


def unlike_the_trail(world: World) -> list[str]:
    """What is wrong with the trail, and where the store says something else."""
    story, runs = loop.story(world.ports, "line"), {run.id: run for run in world.runs}
    wrong = differences(rebuild(story), loop.head(world.ports, "line"), runs, ())
    return [*filter(None, [untrue(world)]), *wrong]


def seen(world: World) -> dict[str, Any]:
    """All that is the same in any version: not the words, nor digests, which are named by the run that made them."""
    end, names = end_of(world), {"": ""}
    for name in world.blobs.names("candidates/"):
        names[name.split("/")[1]] = msgspec.json.decode(world.blobs.get(name))["lineage"]["run"]
    decisions = [codec.decode(r.value, policy.Decision) for r in world.store.scan("line", "decision/")]
    return {
        "runs": [(run.id, run.phase, run.scope, names[run.candidate], run.approved_by) for run in end["runs"]],
        "head": (names[end["head"].champion], end["head"].scoped, end["head"].active),
        "decisions": [(d.at, d.action, d.scope, d.sites) for d in decisions],
        "request": (end["request"].state, end["request"].by, names[end["request"].candidate]),
        "sites": [(names[s.candidate], s.status, names[s.observed], s.batches, s.rows) for s in end["sites"]],
        "serves": [names[plant.serves] for plant in world.plants.all.values()],
        "applied": [[names[digest] for digest in applied] for applied in end["applied"]],
        "windows": [{(names[made], start): n for (made, start), n in site.items()} for site in end["windows"]],
        "jobs": end["jobs"],
        "cards": end["cards"],
        "waiting": end["waiting"],
        "quarantine": end["quarantine"],
    }


if __name__ == "__main__":
    version = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    path = FOLDER / f"history-{version}.zip"
    if not path.exists():
        keep(path)
        print(f"wrote {path}")
