"""Raw batches and quarantined bytes go when loop.yaml says so, and never what a run still needs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.triggers.samples import a_run, replace
from tests.triggers.world import DAY, HALF, LOOP, START, World
from triggers import codec, config, intake, loop, quarantine, retention
from triggers.config import Retention, parse_loop
from triggers.ports import Put
from triggers.run import Phase


@pytest.fixture
def kept(world: World) -> World:
    """Twenty days of batches of one site and a bad batch each; batches may go after ten days, the bad after five."""
    world.configs.one = replace(LOOP, retention=Retention(batches="10d", quarantine="5d"))
    for day in range(20):
        world.clock.set(START + day * DAY + HALF)
        good, bad = world.payload(world.batch("a", id=f"b{day}")), b'{"site": "%d"' % day
        intake.ingest(world.ports, [good])
        quarantine.keep(world.ports, bad, "no JSON", partition="line", loop="line")
    return world


def days(world: World) -> list[str]:
    return sorted({name.split("/")[-1][:10] for name in world.blobs.names("batches/line/a/")})


def test_what_is_older_than_the_rule_goes_and_nothing_else(kept: World) -> None:
    before, counted = days(kept), kept.counted("a")
    bundles, bad = retention.sweep(kept.ports, "line")
    cut = f"{kept.clock.now() - timedelta(days=10):%Y-%m-%d}"
    assert days(kept) == [day for day in before if day >= cut] != before
    assert (bundles, bad) == (len(before) - len(days(kept)), 14)
    left = list(quarantine.listed(kept.ports, "line"))
    assert len(left) == 6
    assert all(kept.blobs.get(found.blob) for _, found in left)
    assert len(list(kept.blobs.names("quarantine/line/"))) == 6
    assert kept.counted("a") == counted, "windows stay"
    assert loop.story(kept.ports, "line")[-1].kind == "deleted"
    assert retention.sweep(kept.ports, "line") == (0, 0), "one more sweep changes nothing"


def active(world: World, runs: dict[str, str]) -> Put:
    return Put("head", codec.encode(replace(loop.head(world.ports, "line"), active=runs)), "*")


def test_what_an_active_run_works_on_stays_until_it_has_ended(kept: World) -> None:
    run = a_run(Phase.TRAINING, id="line.2026-03-20.1", loop="line", data_start=START + 3 * DAY)
    kept.store.commit("line", [Put(f"run/{run.id}", codec.encode(run)), active(kept, {"fleet": run.id})])
    retention.sweep(kept.ports, "line")
    assert days(kept)[0] == f"{START + 3 * DAY:%Y-%m-%d}"
    kept.store.commit("line", [active(kept, {})])
    retention.sweep(kept.ports, "line")
    assert days(kept)[0] == f"{kept.clock.now() - timedelta(days=10):%Y-%m-%d}"


def test_bytes_that_a_younger_record_names_too_stay(kept: World) -> None:
    [(_, oldest)] = [x for x in quarantine.listed(kept.ports, "line") if x[1].at == START + HALF]
    body = kept.blobs.get(oldest.blob)
    quarantine.keep(kept.ports, body, "1 row", partition="line", loop="line", rows=((0, "x", "is no number"),))
    retention.sweep(kept.ports, "line")
    assert kept.blobs.get(oldest.blob) == body


def test_without_a_rule_nothing_goes(kept: World) -> None:
    kept.configs.one = LOOP
    assert retention.sweep(kept.ports, "line") == (0, 0)


def test_a_rule_that_would_take_what_training_needs_is_refused() -> None:
    text = "loop: line\nschema: {label: y, features: [{name: x}]}\ntraining: {window: 20d, holdout: 4d}\n"
    assert parse_loop(text + "retention: {batches: 24d, quarantine: 1d}\n").retention.batches == "24d"
    with pytest.raises(config.Wrong, match=r"retention\.batches: '23d' would delete what the next training needs"):
        parse_loop(text + "retention: {batches: 23d}\n")


def test_a_deletion_that_was_cut_off_is_done_by_the_next_sweep(kept: World, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[str] = []
    delete = type(kept.blobs).delete

    def dies(self: Any, name: str) -> None:
        if len(deleted) == 12:
            raise KeyboardInterrupt
        deleted.append(name)
        delete(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(type(kept.blobs), "delete", dies)
        with pytest.raises(KeyboardInterrupt):
            retention.sweep(kept.ports, "line")
    retention.sweep(kept.ports, "line")
    assert len(list(quarantine.listed(kept.ports, "line"))) == len(list(kept.blobs.names("quarantine/line/"))) == 6
