"""Late history: the right windows take it, each row and batch once, whatever its age, and nothing else moves."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from drift import envelope, windows
from drift.reference import Reference
from drift.telemetry import Batch, Labels, Rows, Serving
from drift.windows import Window
from tests.triggers.world import DAY, LOOP, START, Key, World, a_fleet, a_reference, some_rows
from triggers import backfill, intake, loop
from triggers.errors import Refused
from triggers.records import SiteState, Unit, site_partition

NOW = START + 100 * DAY


def stored(world: World, site: str = "a") -> dict[int, Window]:
    found = (Window.from_bytes(r.value) for r in world.store.scan(site_partition("line", site), "window/"))
    return {w.start: w for w in found}


def old(day: int, n: int = 40) -> tuple[Rows, Labels]:
    return some_rows("a", START + day * DAY, DAY, n)


def put(world: World, *days: int) -> backfill.Backfilled:
    done = backfill.Backfilled()
    for day in days:
        rows, labels = old(day)
        done.add(backfill.rows(world.ports, "line", "a", rows, labels.label))
    return done


@pytest.fixture
def late(world: World) -> World:
    """A hundred days on: what is sent from the beginning is far too late."""
    world.clock.set(NOW)
    return world


def test_rows_older_than_telemetry_may_be_are_counted_into_their_own_windows(late: World) -> None:
    done = put(late, 3, 5)
    assert (done.rows, done.labels, done.quarantined, done.known_rows) == (80, 80, 0, 0)
    windows_ = stored(late)
    assert list(windows_) == [int((START + d * DAY).timestamp()) for d in (3, 5)]
    reference = Reference.from_bytes(a_reference())
    rows, _ = old(3)
    batch = Batch("1", "line", late.plants["a"].serves, "a", "b", int(rows.at[0]), int(rows.at[-1]), rows=rows)
    (wanted,) = windows.fold(batch, reference, 86_400).values()
    found = windows_[wanted.start]
    assert found.sketch == wanted.sketch
    assert found.outcomes.labels == 40
    assert [(r.before, r.after, r.assessed) for r in done.reopened] == [(0, 40, False)] * 2


def test_what_is_stored_already_is_not_counted_again_after_its_records_are_forgotten_either(late: World) -> None:
    put(late, 3)
    before = {start: w.to_bytes() for start, w in stored(late).items()}
    assert put(late, 3).known_rows == 40
    late.clock.set(NOW + 200 * DAY)
    loop.forget(late.ports, "line")
    again = put(late, 3)
    assert (again.rows, again.known_rows, again.batches, again.reopened) == (0, 40, 0, [])
    assert {start: w.to_bytes() for start, w in stored(late).items()} == before


def test_half_of_a_day_that_is_there_is_filled_up_and_only_that_window_changes(late: World) -> None:
    rows, labels = old(3)
    half = backfill._take(rows, np.arange(15))
    backfill.rows(late.ports, "line", "a", half, labels.label[:15])
    untouched = put(late, 4).reopened[0].start
    kept = stored(late)[untouched].to_bytes()
    done = backfill.rows(late.ports, "line", "a", rows, labels.label)
    assert (done.rows, done.known_rows) == (25, 15)
    assert [(r.before, r.after) for r in done.reopened] == [(15, 40)]
    assert stored(late)[untouched].to_bytes() == kept


def test_labels_of_rows_that_are_there_find_them(late: World) -> None:
    rows, labels = old(3)
    backfill.rows(late.ports, "line", "a", rows, np.full(40, np.nan))
    done = backfill.rows(late.ports, "line", "a", rows, labels.label)
    assert (done.rows, done.labels, done.known_rows) == (0, 40, 40)
    (window,) = stored(late).values()
    assert (window.rows, window.outcomes.labels) == (40, 40)


def test_the_site_is_not_taken_to_serve_what_its_history_names(late: World) -> None:
    def state() -> SiteState | None:
        return Unit(late.store, site_partition("line", "a")).get("site", SiteState)

    before = state()
    put(late, 3)
    after = state()
    assert before is not None
    assert after is not None
    assert (after.observed, after.observed_at, after.status) == (before.observed, before.observed_at, before.status)


def test_rows_are_of_the_candidate_that_served_then(late: World) -> None:
    rows, labels = old(3)
    other = "f" * 64
    done = backfill.rows(late.ports, "line", "a", rows, labels.label, candidate=other)
    assert (done.batches, done.quarantined) == (0, 1)  # nobody knows that candidate
    champion = loop.head(late.ports, "line").champion
    put(late, 3)
    assert {w.candidate for w in stored(late).values()} == {champion}


def test_batches_of_a_site_are_taken_late_once_and_only_with_its_signature(worlds: object) -> None:
    key = Key("k1")
    fleet = a_fleet("a", "b", keys={"a": (key.listed(),)})
    world: World = worlds(fleet=fleet, keys={"a": key})  # type: ignore[operator]
    world.begin()
    rows, labels = old(3)
    made = world.batch("a", id="old-1", rows=rows, labels=labels, serving=Serving())
    made = replace(made, start=int(rows.at[0]), end=int(rows.at[-1]), key="k1")
    payload = key.sign(envelope.encode(made, LOOP.schema.telemetry(LOOP.task)))
    unsigned = envelope.encode(replace(made, id="old-2"), LOOP.schema.telemetry(LOOP.task))
    world.clock.set(NOW)
    assert intake.ingest(world.ports, [payload]).quarantined == 1  # too late for telemetry
    done = backfill.batches(world.ports, "line", [payload, unsigned])
    assert (done.batches, done.rows, done.quarantined) == (1, 40, 1)
    assert backfill.batches(world.ports, "line", [payload]).known_batches == 1
    with pytest.raises(Refused, match="of the loop other, not line"):
        backfill.batches(world.ports, "line", [payload.replace(b'"line"', b'"other"')])


def test_it_is_on_record(late: World) -> None:
    backfill.note(late.ports, "line", put(late, 3, 4), "ann")
    (entry,) = [e for e in loop.story(late.ports, "line") if e.kind == "backfilled"]
    assert (entry.actor, entry.text) == ("ann", "80 rows in 2 windows of a")


def test_a_window_that_was_assessed_says_so_and_keeps_its_evidence(world: World) -> None:
    world.clock.set(START + timedelta(days=1))
    intake.ingest(world.ports, [envelope.encode(world.batch("a"), LOOP.schema.telemetry(LOOP.task))])
    world.clock.set(START + timedelta(days=3))
    loop.check(world.ports, "line")
    detector = world.store.get("line", f"detector/{loop.head(world.ports, 'line').champion}")
    rows, labels = some_rows("a", START + timedelta(hours=1), timedelta(hours=2), 10)
    done = backfill.rows(world.ports, "line", "a", rows, labels.label)
    assert [r.assessed for r in done.reopened] == [True]
    assert world.store.get("line", f"detector/{loop.head(world.ports, 'line').champion}") == detector
