"""Telemetry in: each batch is counted once, whatever comes twice, late, reordered, forged or broken."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.faults import Faults, faulty_ports
from adapters.together import Threads
from drift import envelope, windows
from drift.performance import Predictions
from drift.reference import Reference
from drift.telemetry import Batch, Labels, Rows, Serving
from drift.windows import Window
from tests.triggers.conftest import MEMORY
from tests.triggers.world import DAY, HALF, LOOP, START, Key, World, a_fleet, a_reference, put_candidate, some_rows
from triggers import codec, intake, quarantine, sites
from triggers.config import parse_loop
from triggers.errors import Misconfigured, Refused
from triggers.ports import Delete, Put, Record, in_turn
from triggers.records import Quarantined

Worlds = Callable[..., World]
SECONDS = 86_400


# --- a serial oracle


def batches(world: World, count: int = 4) -> list[Batch]:
    """Predictions of one site over two days in `count` batches, and their labels in as many."""
    length = 2 * DAY / count
    made = []
    for n in range(count):
        start = START + n * length
        rows, labels = some_rows("a", start, length, 12)
        said = {
            "candidate": world.plants["a"].serves,
            "start": int(start.timestamp()),
            "end": int((start + length).timestamp()),
        }
        made.append(world.batch("a", id=f"p{n}", rows=rows, labels=None, **said))
        made.append(world.batch("a", id=f"l{n}", rows=None, labels=labels, serving=Serving(), **said))
    return made


def oracle(told: Sequence[Batch]) -> tuple[dict[int, Window], int, int]:
    """Windows by period, accepted and quarantined: one batch after the other, each id once, by its first bytes."""
    reference = Reference.from_bytes(a_reference())
    first: dict[str, bytes] = {}
    accepted: list[Batch] = []
    conflicts = 0
    for batch in told:
        data = envelope.encode(batch, LOOP.schema.telemetry(LOOP.task))
        if batch.id not in first:
            first[batch.id] = data
            accepted.append(batch)
        elif first[batch.id] != data:
            conflicts += 1
    total: dict[int, Window] = {}

    def add(deltas: dict[int, Window]) -> None:
        for start, delta in deltas.items():
            total[start] = total[start] + delta if start in total else delta

    records = []
    for batch in accepted:
        add(windows.fold(batch, reference, SECONDS))
        if batch.rows is not None:
            records.append(Predictions.of(batch.rows, reference, SECONDS))
    for batch in accepted:
        if batch.labels is not None:
            for record in records:
                _, outcomes, _ = record.settle(batch.labels)
                add(windows.settled(batch.candidate, "a", SECONDS, reference, outcomes))
    return total, len(accepted), conflicts


def same(a: Window, b: Window) -> bool:
    return bool(np.array_equal(a.sketch.counts, b.sketch.counts)) and (a.outcomes, a.serving) == (b.outcomes, b.serving)


@contextmanager
def a_world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as name:
        world = World(Path(name))
        world.begin()
        world.clock.advance(3 * DAY)
        yield world
        world.close()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.booleans()), min_size=1, max_size=14),
    st.permutations(range(8)),
    st.integers(1, 9),
)
def test_duplicates_conflicts_and_any_order_equal_a_serial_oracle(
    more: list[tuple[int, bool]], order: list[int], at_once: int
) -> None:
    """Every batch in some order, some of them again, some under an id that was used before."""
    with a_world() as world:
        made = batches(world)
        told = [made[i] for i in order]
        for i, forged in more:
            told.append(replace(made[i], key="other") if forged else made[i])
        expected, accepted, conflicts = oracle(told)
        payloads = [world.payload(b) for b in told]
        done = intake.Intake()
        for i in range(0, len(payloads), at_once):
            part = intake.ingest(world.ports, payloads[i : i + at_once])
            done.accepted += part.accepted
            done.duplicate += part.duplicate
            done.reasons += part.reasons
            done.rows += part.rows
        found = {w.start: w for w in world.windows("a")}
        assert found.keys() == expected.keys()
        assert all(same(found[start], expected[start]) for start in found)
        assert (done.accepted, done.quarantined) == (accepted, conflicts)
        assert done.duplicate == len(told) - accepted - conflicts
        assert done.rows == sum(w.rows for w in found.values())
        assert [r.key for r in world.store.scan("line/a", "orphans/")] == []
        records = [r.key for r in world.store.scan("line/a", "batch/")]
        assert len(records) == accepted, "counted once for each distinct accepted (site, batch id)"


def test_labels_may_come_first_twice_and_against_each_other(world: World) -> None:
    world.clock.advance(DAY)
    rows, labels = some_rows("a", world.clock.now() - HALF, HALF, 60)
    only = {"rows": None, "serving": Serving()}
    other = Labels(labels.ids[:10], labels.at[:10], 1.0 - labels.label[:10])
    world.send(world.payload(world.batch("a", id="l1", labels=labels, **only)))
    world.pump()
    start = int(START.timestamp())
    assert world.counted("a") == {}
    assert world.waiting_labels("a") == 60
    world.send(world.payload(world.batch("a", id="p1", rows=rows, labels=None)))
    world.pump()
    key = (world.plants["a"].serves, start)
    assert world.counted("a") == {key: (60, 60, 0)}
    assert world.waiting_labels("a") == 0
    world.send(world.payload(world.batch("a", id="l2", labels=labels, **only)))
    world.pump()
    assert world.counted("a") == {key: (60, 60, 0)}
    world.send(world.payload(world.batch("a", id="l3", labels=other, **only)))
    world.pump()
    assert world.counted("a") == {key: (60, 60, 10)}


def test_labels_find_predictions_of_a_batch_that_spans_many_windows(world: World) -> None:
    """A site that was away sends five days at once, labels later or earlier."""
    world.clock.advance(6 * DAY)
    begin, length = START, 5 * DAY
    said = {"start": int(begin.timestamp()), "end": int((begin + length).timestamp())}
    rows, labels = some_rows("a", begin, length, 100)
    first = Labels(labels.ids[::2], labels.at[::2], labels.label[::2])
    second = Labels(labels.ids[1::2], labels.at[1::2], labels.label[1::2])
    only = {"rows": None, "serving": Serving(), **said}
    world.send(world.payload(world.batch("a", id="l1", labels=first, **only)))
    world.pump()
    world.send(world.payload(world.batch("a", id="p1", rows=rows, labels=None, **said)))
    world.pump()
    world.send(world.payload(world.batch("a", id="l2", labels=second, **only)))
    world.pump()
    assert sum(labels for _, labels, _ in world.counted("a").values()) == 100
    assert world.waiting_labels("a") == 0


def test_many_small_batches_of_labels_before_their_predictions_are_all_joined(world: World) -> None:
    world.clock.advance(DAY)
    rows, labels = some_rows("a", world.clock.now() - HALF, HALF, 240)
    only = {"rows": None, "serving": Serving()}
    for i in range(0, 240, 2):
        part = Labels(labels.ids[i : i + 2], labels.at[i : i + 2], labels.label[i : i + 2])
        world.send(world.payload(world.batch("a", id=f"l{i}", labels=part, **only)))
    world.send(world.payload(world.batch("a", id="p", rows=rows, labels=None)))
    world.pump()
    assert sum(labels for _, labels, _ in world.counted("a").values()) == 240
    assert world.waiting_labels("a") == 0


def test_a_batch_with_its_own_labels_settles_them(world: World) -> None:
    world.clock.advance(DAY)
    world.send(world.payload(world.batch("a")))
    world.pump()
    assert list(world.counted("a").values()) == [(60, 60, 0)]


def test_a_batch_without_rows_says_what_its_site_serves(world: World) -> None:
    world.clock.advance(DAY)
    rows, _ = some_rows("a", world.clock.now(), HALF, 1)
    nothing = Rows([], rows.at[:0], rows.score[:0], {name: values[:0] for name, values in rows.columns.items()})
    idle = world.batch("a", id="idle", rows=nothing, labels=None, serving=Serving())
    done = intake.ingest(world.ports, [world.payload(idle)])
    assert (done.accepted, done.rows, done.reasons) == (1, 0, [])
    state = sites.state_of(world.ports, "line", "a")
    assert (state.observed, state.observed_at) == (idle.candidate, world.clock.now())
    assert world.counted("a") == {}


# --- what is put aside


def test_a_configuration_that_is_wrong_makes_its_batches_wait_and_no_others(world: World) -> None:
    world.clock.advance(DAY)
    ours, theirs = world.payload(world.batch("a")), world.payload(replace(world.batch("a"), loop="other"))
    told = world.configs.loop

    def half_written(name: str) -> Any:
        return parse_loop("loop: [") if name == "other" else told(name)

    world.configs.loop, world.configs.loops = half_written, lambda: ["line", "other"]  # type: ignore[method-assign]
    with pytest.raises(Misconfigured):
        intake.ingest(world.ports, [theirs, ours])
    assert sum(rows for rows, _, _ in world.counted("a").values()) == 60
    assert not list(quarantine.listed(world.ports, "other"))


def forged(world: World, **changes: Any) -> bytes:
    """A batch that says something else about itself."""
    plain = msgspec.json.decode(world.payload(world.batch("a", id="bad")))
    return msgspec.json.encode({**plain, **changes})


AHEAD = (START + DAY + timedelta(minutes=11)).isoformat()
BAD: list[tuple[str, Callable[[World], bytes], str]] = [
    ("no JSON", lambda w: b"hello", "not JSON: "),
    ("nothing", lambda w: b"", "not JSON: "),
    ("gzip", lambda w: b"\x1f\x8b" + b"0" * 20, "is gzip; send it uncompressed"),
    ("too large", lambda w: b" " * (envelope.MAX_BYTES + 1), "1048577 bytes, at most 1048576"),
    ("an unknown loop", lambda w: forged(w, loop="other"), "unknown loop 'other'"),
    ("an unknown site", lambda w: forged(w, site="nowhere"), "unknown site 'nowhere'"),
    ("an unknown candidate", lambda w: forged(w, candidate="2" * 64), f"unknown candidate '{'2' * 64}'"),
    ("a candidate that is a path", lambda w: forged(w, candidate="../../keys"), "unknown candidate '../../keys'"),
    ("a candidate that is nothing", lambda w: forged(w, candidate="/"), "unknown candidate '/'"),
    ("the future", lambda w: forged(w, to=AHEAD), "ends at 2026-03-02T00:11:00Z, in the future"),
    (
        "the far past",
        lambda w: forged(w, **{"from": "2026-01-01T00:00:00Z"}),
        "begins at 2026-01-01T00:00:00Z, later than 10d: use backfill",
    ),
    ("a missing member", lambda w: forged(w, batch=None), "batch: "),
    ("deep nesting", lambda w: forged(w)[:-1] + b',"more":' + b"[" * 100_000, "not JSON"),
]


@pytest.mark.attack
@pytest.mark.parametrize(("bad", "reason"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_cannot_be_counted_is_put_aside_with_its_reason_and_its_neighbours_are_counted(
    world: World, bad: Callable[[World], bytes], reason: str
) -> None:
    world.clock.advance(DAY)
    payload = bad(world)
    good = [world.payload(world.batch("a", id="before")), world.payload(world.batch("b", id="after"))]
    done = intake.ingest(world.ports, [good[0], payload, good[1]])
    assert (done.accepted, done.quarantined, done.rows) == (2, 1, 120)
    [(where, found)] = [
        (partition, msgspec.json.decode(r.value)["body"])
        for partition in ("line", "driftloop")
        for r in world.store.scan(partition, "quarantine/")
    ]
    assert found["reason"].startswith(reason)
    assert world.blobs.get(found["blob"]) == payload
    assert where == (
        "driftloop" if reason.startswith(("not JSON", "is gzip", "1048577", "unknown loop", "batch: ")) else "line"
    )
    again = intake.ingest(world.ports, [payload])
    assert (again.quarantined, len(world.quarantined())) == (1, 1)


@pytest.mark.attack
def test_labels_of_a_thousand_days_cost_nobody_else_anything(world: World) -> None:
    world.clock.advance(DAY)
    far = Labels([f"x{i}" for i in range(1000)], np.arange(1000) * SECONDS, np.ones(1000))
    bad = world.payload(world.batch("a", id="bad", rows=None, labels=far, serving=Serving()))
    good = [world.payload(world.batch("a", id="before")), world.payload(world.batch("a", id="after", n=50))]
    done = intake.ingest(world.ports, [good[0], bad, good[1]])
    assert (done.accepted, done.refused_rows) == (3, 1000)
    assert world.quarantined() == {"bad": "1000 rows of the batch could not be read; the others were counted"}
    assert world.waiting_labels("a") == 0


@pytest.mark.attack
def test_labels_of_as_many_periods_as_there_may_be_take_several_writes(worlds: Worlds) -> None:
    minutes = msgspec.structs.replace(LOOP.telemetry, window="1m")
    world = worlds(a_loop=msgspec.structs.replace(LOOP, telemetry=minutes))
    world.begin()
    world.clock.advance(DAY)
    first = int(START.timestamp())
    many = Labels([f"x{i}" for i in range(500)], first + np.arange(500) * 60, np.ones(500))
    payload = world.payload(world.batch("a", id="l1", rows=None, labels=many, serving=Serving()))
    assert intake.ingest(world.ports, [payload]).accepted == 1
    assert world.waiting_labels("a") == 500


@pytest.mark.attack
def test_a_batch_that_no_store_could_hold_costs_only_itself(world: World) -> None:
    world.clock.advance(DAY)
    real = world.store.commit

    def commit(partition: str, changes: Any) -> None:
        if any(c.key == "batch/bad" for c in changes):
            raise Refused("a value of 1000000 bytes, 921600 allowed")
        real(partition, changes)

    world.store.commit = commit  # type: ignore[method-assign]
    made = [world.payload(world.batch("a", id=i, n=n)) for i, n in (("b1", 60), ("bad", 59), ("b2", 58), ("b3", 57))]
    done = intake.ingest(replace(world.ports, store=world.store), made)
    assert (done.accepted, done.duplicate, done.quarantined, done.rows) == (3, 0, 1, 175)
    assert world.quarantined() == {"bad": "a value of 1000000 bytes, 921600 allowed"}
    assert [rows for rows, _, _ in world.counted("a").values()] == [175]


@pytest.mark.attack
def test_a_candidate_whose_bytes_were_changed_is_no_reference(world: World) -> None:
    world.clock.advance(DAY)
    name = put_candidate(world.blobs, a_reference(), "damaged")
    world.blobs.put(f"candidates/{name}/manifest.json", b"{}")
    bad, good = world.payload(world.batch("a", id="bad", candidate=name)), world.payload(world.batch("a"))
    done = intake.ingest(world.ports, [bad, good])
    assert (done.accepted, done.quarantined) == (1, 1)
    assert world.quarantined() == {"bad": f"candidate {name[:12]} is not the bytes that its name says"}


def test_rows_that_cannot_be_read_cost_only_themselves(world: World) -> None:
    world.clock.advance(DAY)
    plain = msgspec.json.decode(world.payload(world.batch("a", id="b1")))
    plain["columns"]["x"][3] = "much"
    plain["columns"]["score"][5] = 1.5
    payload = msgspec.json.encode(plain)
    done = intake.ingest(world.ports, [payload])
    assert (done.accepted, done.rows, done.refused_rows) == (1, 58, 2)
    [(key, found)] = [(r.key, msgspec.json.decode(r.value)["body"]) for r in world.store.scan("line", "quarantine/")]
    assert found["reason"] == "2 rows of the batch could not be read; the others were counted"
    assert [row[:2] for row in found["rows"]] == [[3, "x"], [5, "score"]]
    assert world.blobs.get(found["blob"]) == payload
    assert key.startswith("quarantine/rows-")


def test_the_same_id_with_other_bytes_is_a_conflict_and_never_counted(world: World) -> None:
    world.clock.advance(DAY)
    intake.ingest(world.ports, [world.payload(world.batch("a", id="b1"))])
    before = world.counted("a")
    done = intake.ingest(world.ports, [world.payload(world.batch("a", id="b1", n=50))])
    assert (done.accepted, done.quarantined, world.counted("a")) == (0, 1, before)
    assert world.quarantined() == {"b1": "batch 'b1' was counted before with other bytes"}
    done = intake.ingest(world.ports, [world.payload(world.batch("b", id="b1"))])
    assert done.accepted == 1, "ids are unique within a site"


# --- signatures


@pytest.fixture
def signed(worlds: Worlds) -> World:
    """Site a has a good key, an old one, one of the future and a revoked one; b has one of its own; c has none."""
    keys = {n: Key(n) for n in ("good", "old", "next", "revoked", "b")}
    listed = (
        keys["good"].listed(),
        keys["old"].listed(not_after=START + HALF),
        keys["next"].listed(not_before=START + 2 * DAY),
        keys["revoked"].listed(revoked=True),
    )
    world = worlds(fleet=a_fleet("a", "b", "c", keys={"a": listed, "b": (keys["b"].listed(),)}))
    world.begin()
    world.clock.advance(DAY)
    world.all_keys = keys
    return world


def by(world: World, name: str, signer: str = "", **more: Any) -> bytes:
    """A batch of site a that names key `name` and is signed by `signer`."""
    batch = world.batch("a", id=f"{name}-{signer}", key=name, **more)
    payload = envelope.encode(batch, LOOP.schema.telemetry(LOOP.task))
    return world.all_keys[signer or name].sign(payload)


@pytest.mark.attack
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda w: by(w, "good"), ""),
        (lambda w: by(w, "other", "good"), "a has no key 'other'"),
        (lambda w: by(w, "b"), "a has no key 'b'"),
        (lambda w: by(w, "good", "b"), "signature is not by key 'good' of a"),
        (lambda w: by(w, "revoked"), "key 'revoked' of a is revoked"),
        (lambda w: by(w, "old"), "key 'old' of a is not valid at 2026-03-02 00:00 UTC"),
        (lambda w: by(w, "next"), "key 'next' of a is not valid at 2026-03-02 00:00 UTC"),
        (lambda w: envelope.encode(w.batch("a", key="good"), LOOP.schema.telemetry(LOOP.task)), "is not signed"),
        (
            lambda w: by(w, "good").replace(b'"batch":"good-"', b'"batch":"evil-"'),
            "signature is not by key 'good' of a",
        ),
        (lambda w: by(w, "good").replace(b'"site":"a"', b'"site":"b"'), "b has no key 'good'"),
        (
            lambda w: by(w, "good").replace(b'"signature":"', b'"signature":"AAAA'),
            "signature is not by key 'good' of a",
        ),
    ],
)
def test_only_a_sites_own_valid_key_speaks_for_it(signed: World, make: Callable[[World], bytes], reason: str) -> None:
    done = intake.ingest(signed.ports, [make(signed)])
    assert (done.accepted, done.quarantined) == ((0, 1) if reason else (1, 0))
    assert list(signed.quarantined().values()) == ([reason] if reason else [])


def test_an_expired_key_still_speaks_for_the_time_in_which_it_was_valid(signed: World) -> None:
    half = {"start": int(START.timestamp()), "end": int((START + HALF).timestamp())}
    rows, _ = some_rows("a", START, HALF, 60)
    done = intake.ingest(signed.ports, [by(signed, "old", rows=rows, labels=None, **half)])
    assert (done.accepted, signed.quarantined()) == (1, {})


def test_a_site_without_keys_may_speak_unsigned(signed: World) -> None:
    payload = envelope.encode(signed.batch("c", labels=None), LOOP.schema.telemetry(LOOP.task))
    assert intake.ingest(signed.ports, [payload]).accepted == 1


# --- what a batch says of its site


def test_only_the_newest_telemetry_says_what_a_site_serves(world: World) -> None:
    first = world.plants["a"].serves
    second = put_candidate(world.blobs, a_reference(), "second")
    world.clock.advance(DAY)
    world.send(world.payload(world.batch("a", id="new", candidate=second)))
    world.pump()
    old = {"start": int(START.timestamp()), "end": int((START + HALF).timestamp())}
    rows, _ = some_rows("a", START, HALF, 60)
    world.send(world.payload(world.batch("a", id="old", candidate=first, rows=rows, labels=None, **old)))
    world.pump()
    state = world.state("a")
    assert (state.observed, state.observed_at) == (second, world.clock.now())
    assert (state.batches, state.rows, state.candidate) == (2, 120, first)


def test_a_big_delivery_is_cut_into_writes_that_fit(world: World) -> None:
    """Eighty batches of one site at once, each over two days."""
    world.clock.advance(3 * DAY)
    made = []
    for n in range(80):
        rows, labels = some_rows("a", START + n * timedelta(minutes=17), DAY, 4)
        said = {"start": int(START.timestamp()), "end": int((START + 2 * DAY).timestamp())}
        named = replace(rows, ids=[f"{n}-{i}" for i in range(4)])
        told = Labels(named.ids, labels.at, labels.label)
        made.append(world.payload(world.batch("a", id=f"b{n}", rows=named, labels=told, **said)))
    done = intake.ingest(world.ports, made)
    assert (done.accepted, done.rows) == (80, 320)
    assert sum(rows for rows, _, _ in world.counted("a").values()) == 320
    assert sum(labels for _, labels, _ in world.counted("a").values()) == 320


def test_predictions_of_small_batches_share_records_and_each_finds_its_label(world: World) -> None:
    """Labels are looked for in every record of their day: with one for each of 90 batches that is 90 times as long."""
    world.clock.advance(DAY)
    start = {"start": int(START.timestamp())}
    told = [some_rows("a", START + n * timedelta(minutes=15), timedelta(minutes=15), 20) for n in range(90)]
    for n, (rows, _) in enumerate(told):
        intake.ingest(world.ports, [world.payload(world.batch("a", id=f"p{n}", rows=rows, labels=None, **start))])
    kept = [r.key for r in world.store.scan("line/a", "predictions/")]
    assert len(kept) == -(-90 * 20 // (512 // 20 * 20))
    intake.ingest(
        world.ports,
        [world.payload(world.batch("a", id=f"l{n}", rows=None, labels=labels)) for n, (_, labels) in enumerate(told)],
    )
    assert [labels for _, labels, _ in world.counted("a").values()] == [90 * 20]
    assert list(world.store.scan("line/a", "orphans/")) == []


def test_labels_are_looked_for_first_in_the_records_of_their_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many candidates served on one day, and however late a sender is: with each record to be read, every
    batch takes longer."""
    world.clock.advance(DAY)
    start, length = {"start": int(START.timestamp())}, timedelta(minutes=15)
    ours = world.plants["a"].serves
    others = [put_candidate(world.blobs, a_reference(), f"c{n}") for n in range(20)]
    told = [some_rows("a", START + n * length, length, 20) for n in range(21)]
    for n, (candidate, (rows, _)) in enumerate(zip([*others, ours], told, strict=True)):
        batch = world.batch("a", id=f"p{n}", candidate=candidate, rows=rows, labels=None, **start)
        intake.ingest(world.ports, [world.payload(batch)])
    kept = [record.key for record in world.store.scan("line/a", "predictions/")]
    assert len(kept) == 21
    assert sum("/room/" in key for key in kept) <= 4, "who looks for predictions since some time reads all of these"
    read = list[bytes]()
    real = Predictions.from_bytes
    monkeypatch.setattr(Predictions, "from_bytes", lambda raw: read.append(raw) or real(raw))
    intake.ingest(world.ports, [world.payload(world.batch("a", id="l", rows=None, labels=told[-1][1], **start))])
    assert len(read) == 1
    late = world.batch("a", id="m", rows=None, labels=told[0][1], **start)  # of somebody else's predictions
    intake.ingest(world.ports, [world.payload(late)])
    assert sum(labels for _, labels, _ in world.counted("a").values()) == 40
    read.clear()
    rows, labels = some_rows("a", START + 21 * length, length, 20)
    intake.ingest(world.ports, [world.payload(world.batch("a", id="both", rows=rows, labels=labels, **start))])
    assert len(read) == 1, "labels of the batch's own rows are looked for in no record of another time"
    assert sum(labels for _, labels, _ in world.counted("a").values()) == 60


def test_rooms_that_an_earlier_version_left_are_closed_a_few_at_a_time(world: World) -> None:
    """They are as many as candidates served that day, and of any size: a write takes 98 changes and 3 MB."""
    world.clock.advance(DAY)
    start, length = {"start": int(START.timestamp())}, timedelta(minutes=15)
    rows, _ = some_rows("a", START, length, 600)
    intake.ingest(world.ports, [world.payload(world.batch("a", id="big", rows=rows, labels=None, **start))])
    [big] = world.store.scan("line/a", "predictions/")
    assert "/past/" in big.key, "nothing ever joins it"
    period = big.key.split("/")[1]
    large = Predictions.from_bytes(big.value)
    large = replace(large, **{name: np.repeat(getattr(large, name), 30) for name in ("at", "score", "slot", "label")})
    large = replace(large, ids=np.arange(18_000, dtype=np.uint64)).to_bytes()
    left = [Put(f"predictions/{period}/room/{n:064}", large if n % 8 else big.value, None) for n in range(24)]
    for put in left:
        world.store.commit("line/a", [put])
    for n in range(5):
        other = put_candidate(world.blobs, a_reference(), f"c{n}")
        few, _ = some_rows("a", START + (n + 1) * length, length, 20)
        batch = world.batch("a", id=f"p{n}", candidate=other, rows=few, labels=None, **start)
        assert intake.ingest(world.ports, [world.payload(batch)]).accepted == 1
    kept = [record.key for record in world.store.scan("line/a", "predictions/")]
    assert len(kept) == 1 + 24 + 5, "none is lost"
    assert 24 + 5 - 5 * 4 <= sum("/room/" in key for key in kept) < 24


def test_a_delivery_of_labels_reads_the_predictions_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many batches it is: the more wait, the less each of them costs."""
    world.clock.advance(DAY)
    start, length = {"start": int(START.timestamp())}, timedelta(minutes=15)
    told = [some_rows("a", START + n * length, length, 300) for n in range(20)]
    for n, (rows, _) in enumerate(told):
        intake.ingest(world.ports, [world.payload(world.batch("a", id=f"p{n}", rows=rows, labels=None, **start))])
    early = [some_rows("a", START + timedelta(hours=12), length, 20)[1] for _ in range(20)]
    few = [Labels(labels.ids[:5], labels.at[:5], labels.label[:5]) for _, labels in told]
    read = list[str]()
    real = world.store.scan

    def scan(partition: str, prefix: str = "", *more: Any) -> Iterator[Record]:
        for record in real(partition, prefix, *more):
            read.append(record.key)
            yield record

    monkeypatch.setattr(world.store, "scan", scan)
    batches = [world.batch("a", id=f"l{n}", rows=None, labels=labels, **start) for n, labels in enumerate(few + early)]
    assert intake.ingest(world.ports, [world.payload(batch) for batch in batches]).accepted == 40
    kept = [key for key in read if key.startswith("predictions/")]
    assert len(kept) <= 2 * len(set(kept)), "twice, since it is two writes"
    assert sum(labels for _, labels, _ in world.counted("a").values()) == 100
    assert world.waiting_labels("a") == 20


def test_labels_of_a_day_find_predictions_of_its_hours(world: World) -> None:
    """Who tells what came of rows may know the day alone."""
    world.clock.advance(DAY)
    start = {"start": int(START.timestamp())}
    rows, told = some_rows("a", START + timedelta(hours=3), timedelta(minutes=15), 20)
    intake.ingest(world.ports, [world.payload(world.batch("a", id="p", rows=rows, labels=None, **start))])
    coarse = replace(told, at=np.full(20, start["start"]))
    intake.ingest(world.ports, [world.payload(world.batch("a", id="l", rows=None, labels=coarse, **start))])
    assert sum(labels for _, labels, _ in world.counted("a").values()) == 20
    assert world.waiting_labels("a") == 0


def many_records(world: World) -> tuple[bytes, list[bytes]]:
    """A batch of labels, a batch of others that come too early, and what those are of: the first are in more records
    than one write has, since 150 batches were each over two days."""
    said = {"start": int(START.timestamp()), "end": int((START + 2 * DAY).timestamp())}
    ids, told = list[str](), list[Labels]()
    for n in range(150):
        rows, labels = some_rows("a", START + n * timedelta(minutes=9), DAY, 4)
        named = replace(rows, ids=[f"{n}-{i}" for i in range(4)])
        ids, told = [*ids, *named.ids], [*told, labels]
        intake.ingest(world.ports, [world.payload(world.batch("a", id=f"b{n}", rows=named, labels=None, **said))])
    assert len(list(world.store.scan("line/a", "predictions/"))) > 150
    at, label = (np.concatenate([getattr(labels, name) for labels in told]) for name in ("at", "label"))
    payload = world.payload(world.batch("a", id="told", rows=None, labels=Labels(ids, at, label), start=said["start"]))
    rows, early = some_rows("a", START, DAY, 30)
    others = [
        world.payload(world.batch("a", id="early", rows=None, labels=early)),
        world.payload(world.batch("a", id="rows", rows=rows, labels=None, **said)),
    ]
    return payload, others


def test_labels_of_more_predictions_than_one_write_can_change_take_several(world: World) -> None:
    world.clock.advance(3 * DAY)
    payload, _ = many_records(world)
    assert intake.ingest(world.ports, [payload]).accepted == 1
    assert sum(labels for _, labels, _ in world.counted("a").values()) == 600
    assert world.waiting_labels("a") == 0


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", [1, 2])
def test_who_counts_between_two_writes_of_a_batch_loses_nothing_and_is_not_forgotten(
    world: World, at: int, when: str
) -> None:
    world.clock.advance(3 * DAY)
    payload, others = many_records(world)
    before, real, commits = world.state("a"), world.store.commit, list[int]()

    def commit(partition: str, changes: Any) -> None:
        commits.append(len(changes))
        mine = len(commits) == at
        if not mine or when == "after":
            real(partition, changes)
        for other in others if mine else ():
            intake.ingest(replace(world.ports, store=world.store), [other])
            intake.join(replace(world.ports, store=world.store), "line")
        if mine and when == "before":
            real(partition, changes)

    world.store.commit = commit  # type: ignore[method-assign]
    assert intake.ingest(replace(world.ports, store=world.store), [payload]).accepted == 1
    assert max(commits) > 50
    after = world.state("a")
    assert (after.batches - before.batches, after.rows - before.rows) == (3, 30)
    assert sum(labels for _, labels, _ in world.counted("a").values()) == 630
    assert world.waiting_labels("a") == 0


def test_a_label_is_looked_for_where_predictions_of_its_time_are_and_once_a_day_in_all_of_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day of 90 records: a label costs a few of them, wherever in the day it belongs."""
    world.clock.advance(DAY)
    start = {"start": int(START.timestamp())}
    told = [some_rows("a", START + n * timedelta(minutes=15), timedelta(minutes=15), 300) for n in range(90)]
    for n, (rows, _) in enumerate(told):
        intake.ingest(world.ports, [world.payload(world.batch("a", id=f"p{n}", rows=rows, labels=None, **start))])
    read = list[int]()
    real = Predictions.from_bytes
    monkeypatch.setattr(Predictions, "from_bytes", lambda data: read.append(len(data)) or real(data))
    for n in (0, 45, 89):
        read.clear()
        intake.ingest(world.ports, [world.payload(world.batch("a", id=f"l{n}", rows=None, labels=told[n][1]))])
        assert len(read) <= 2
    exact = told[30][1]
    later = Labels(exact.ids, exact.at + 3600, exact.label)  # when they were found out, say
    intake.ingest(world.ports, [world.payload(world.batch("a", id="later", rows=None, labels=later))])
    assert [labels for _, labels, _ in world.counted("a").values()] == [900]
    assert world.waiting_labels("a") == 300
    for _ in range(2):
        intake.join(world.ports, "line")
        assert [labels for _, labels, _ in world.counted("a").values()] == [1200]
        assert world.waiting_labels("a") == 0


def test_predictions_as_they_were_kept_before_are_found_by_their_labels_within_a_day(world: World) -> None:
    """Records of an earlier version are named by the candidate at once."""
    world.clock.advance(DAY)
    rows, told = some_rows("a", START, DAY, 60)
    payload = world.payload(world.batch("a", id="p", rows=rows, labels=None, start=int(START.timestamp())))
    intake.ingest(world.ports, [payload])
    [kept] = world.store.scan("line/a", "predictions/")
    old = Put(kept.key.replace("/room/", "/") + "/b7", kept.value)
    world.store.commit("line/a", [Delete(kept.key, kept.version), old])
    intake.ingest(world.ports, [world.payload(world.batch("a", id="l", rows=None, labels=told))])
    intake.join(world.ports, "line")
    assert list(world.counted("a").values()) == [(60, 60, 0)]


def test_labels_that_come_before_their_predictions_wait_however_many_they_are(world: World) -> None:
    """A day of 30,000, which one stored value does not hold: a site whose rows wait for its link, not its labels."""
    world.clock.advance(DAY)
    n, start = 30_000, {"start": int(START.timestamp())}
    rows, labels = some_rows("a", START, DAY, n)
    rows = replace(rows, ids=[f"a row with a long name, as of a serial number, {i}" for i in range(n)])
    told = Labels(rows.ids, labels.at, labels.label)
    for first in range(0, n, 3000):
        some = slice(first, first + 3000)
        part = Labels(told.ids[some], told.at[some], told.label[some])
        done = intake.ingest(world.ports, [world.payload(world.batch("a", id=f"l{first}", rows=None, labels=part))])
        assert (done.accepted, done.reasons, done.refused_rows) == (1, [], 0)
    assert world.waiting_labels("a") == n
    order = np.random.default_rng(1).permutation(n)  # each batch meets some of all that wait
    for first in range(0, n, 3000):
        some = np.sort(order[first : first + 3000])
        columns = {name: column[some] for name, column in rows.columns.items()}
        own = Rows([rows.ids[i] for i in some.tolist()], rows.at[some], rows.score[some], columns)
        payload = world.payload(world.batch("a", id=f"p{first}", rows=own, labels=None, **start))
        assert intake.ingest(world.ports, [payload]).reasons == []
    assert list(world.counted("a").values()) == [(n, n, 0)]
    assert world.waiting_labels("a") == 0


def test_labels_that_wait_and_are_told_again_wait_once(world: World) -> None:
    world.clock.advance(DAY)
    rows, told = some_rows("a", START, DAY, 600)
    for n in range(5):
        assert intake.ingest(
            world.ports, [world.payload(world.batch("a", id=f"l{n}", rows=None, labels=told))]
        ).accepted
    assert world.waiting_labels("a") == 600
    intake.ingest(
        world.ports, [world.payload(world.batch("a", id="p", rows=rows, labels=None, start=int(START.timestamp())))]
    )
    assert list(world.counted("a").values()) == [(600, 600, 0)]


def test_a_label_of_each_of_many_big_batches_is_counted_in_writes_that_fit(world: World) -> None:
    """Each changes a record of 100 KB: thirty are more than a write may have."""
    world.clock.advance(2 * DAY)
    ids, ats, values = list[str](), list[int](), list[float]()
    for n in range(30):
        rows, told = some_rows("a", START + n * timedelta(minutes=30), timedelta(minutes=30), 4500)
        said = {"start": int(START.timestamp()), "end": int((START + DAY).timestamp())}
        done = intake.ingest(world.ports, [world.payload(world.batch("a", id=f"p{n}", rows=rows, labels=None, **said))])
        assert done.accepted == 1, done.reasons
        ids, ats = [*ids, told.ids[7]], [*ats, int(told.at[7])]
        values.append(float(told.label[7]))
    assert sum(len(r.value) for r in world.store.scan("line/a", "predictions/")) > 2_900_000
    one = Labels(ids, np.array(ats, np.int64), np.array(values))
    payload = world.payload(world.batch("a", id="l", rows=None, labels=one, start=int(START.timestamp())))
    assert intake.ingest(world.ports, [payload]).reasons == []
    assert sum(labels for _, labels, _ in world.counted("a").values()) == 30


def test_labels_without_room_to_wait_are_refused_and_cost_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_WAITING", 100)
    monkeypatch.setattr(intake, "_RECORDS", 2)
    world.clock.advance(DAY)
    rows, told = some_rows("a", START, DAY, 300)
    for first in range(0, 300, 150):
        some = slice(first, first + 150)
        part = Labels(told.ids[some], told.at[some], told.label[some])
        done = intake.ingest(world.ports, [world.payload(world.batch("a", id=f"l{first}", rows=None, labels=part))])
        assert (done.accepted, done.reasons) == (1, [])
    assert (done.refused_rows, world.waiting_labels("a")) == (100, 200)
    aside = [codec.decode(r.value, Quarantined) for r in world.store.scan("line", "quarantine/")]
    assert [reason for _, _, reason in aside[0].rows[:1]] == [
        "waits for its prediction with more than 200 others of its period"
    ]
    payload = world.payload(world.batch("a", id="p", rows=rows, labels=None, start=int(START.timestamp())))
    assert intake.ingest(world.ports, [payload]).reasons == []
    assert list(world.counted("a").values()) == [(300, 200, 0)]


@pytest.mark.parametrize("seed", range(6))
def test_a_call_that_fails_among_many_costs_only_a_part_of_a_delivery(world: World, seed: int) -> None:
    """Sixty batches of one site are more than a hundred calls, of which one in fifty fails."""
    world.clock.advance(DAY)
    rows, _ = some_rows("a", START, DAY, 60)
    made = []
    for n in range(60):
        own = replace(rows, ids=[rows.ids[n]], at=rows.at[n : n + 1], score=rows.score[n : n + 1])
        own = replace(own, columns={name: column[n : n + 1] for name, column in rows.columns.items()})
        made.append(world.payload(world.batch("a", id=f"b{n}", rows=own, labels=None, start=int(START.timestamp()))))
    ports = faulty_ports(world.ports, Faults(seed, {"before": 0.01, "after": 0.01}), only=("store", "blobs"))
    done = intake.ingest(ports, made)
    assert done.accepted + done.duplicate >= 60  # what was written before its error is found there
    assert sum(w.rows for w in world.windows("a")) == 60


def test_sites_that_are_counted_at_the_same_time_come_to_the_same(worlds: Worlds) -> None:
    """Five sites, each batch twice and one of them damaged, in threads and one after the other."""
    names = ("a", "b", "c", "d", "e")
    found = []
    for together in (in_turn, Threads()):
        world = worlds(fleet=a_fleet(*names))
        world.begin()
        world.clock.advance(DAY)
        told = [world.payload(world.batch(site, id=f"b{n}")) for n in range(2) for site in names]
        done = intake.ingest(replace(world.ports, together=together), [*told, b"{}", *told])
        found.append((done, [[w.to_bytes() for w in world.windows(site)] for site in names]))
        if isinstance(together, Threads):
            together.close()
    assert found[0] == found[1]
    assert (found[0][0].accepted, found[0][0].duplicate, found[0][0].quarantined) == (10, 10, 1)


def test_two_workers_that_count_at_once_count_everything_once(world: World) -> None:
    world.clock.advance(DAY)
    first, second = world.payload(world.batch("a", id="b1")), world.payload(world.batch("a", id="b2"))
    real, raced = world.store.commit, []

    def commit(partition: str, changes: Any) -> None:
        if partition == "line/a" and not raced:
            raced.append(partition)
            raced.append(intake.ingest(replace(world.ports, store=world.store), [second, first]))
        real(partition, changes)

    world.store.commit = commit  # type: ignore[method-assign]
    done = intake.ingest(replace(world.ports, store=world.store), [first])
    assert (done.accepted, done.duplicate) == (0, 1)
    assert raced[1].accepted == 2
    assert list(world.counted("a").values()) == [(120, 60, 0)]
