"""Everything stored or sent goes through one versioned codec, and yesterday's bytes stay readable."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from typing import Any

import msgspec
import pytest

import triggers
from tests.triggers.goldens import EFFECTS, FOLDER, GOLDENS, read, written
from tests.triggers.samples import NOW, a_run
from triggers import codec, effects, events
from triggers.errors import Refused
from triggers.records import BatchRecord, Freeze
from triggers.run import Phase, Run

NOT_STORED = {"config", "views", "glance", "story", "codec"}
"""Modules whose types are parts of others, or only shown. codec's own is the frame around all."""

ONLY_IN_MEMORY = {"Effect", "Endpoint", "Event", "Packing", "SiteForecast", "Verdict", "WaveForecast"}


@pytest.mark.parametrize("name", sorted({*GOLDENS, *(p.stem for p in FOLDER.glob("*.json"))}))
def test_what_was_stored_by_this_version_or_an_older_one_is_read_as_it_was_meant(name: str) -> None:
    """A new kind wants a file (`python -m tests.triggers.goldens`); an old file wants a reader."""
    golden = GOLDENS[name]
    assert read(golden, (FOLDER / f"{name}.json").read_bytes()) == golden.value


@pytest.mark.parametrize("name", sorted(GOLDENS))
def test_what_is_written_is_read_back_and_equal_values_are_equal_bytes(name: str) -> None:
    golden = GOLDENS[name]
    data = written(golden)
    assert read(golden, data) == golden.value
    assert written(golden._replace(value=read(golden, data))) == data


def test_what_a_newer_worker_asks_of_a_run_is_named_and_no_poison() -> None:
    run = a_run(Phase.EVALUATING)
    stored = msgspec.json.decode(codec.encode(run))
    limits = stored["body"]["limits"]
    limits["gates"] |= {"kindness": {"least": 3}, "calm": True}
    limits["approval"] |= {"moon": "full"}
    found = codec.decode(msgspec.json.encode(stored), Run)
    assert sorted(found.limits.unknown) == ["approval.moon", "gates.calm", "gates.kindness"]
    assert msgspec.structs.replace(found, limits=run.limits) == run
    again = codec.decode(codec.encode(found), Run)
    assert again == found, "and stays named when this one has written it"
    limits["gates"]["minimum_rows"] = "many"
    with pytest.raises(Refused, match="minimum_rows"):
        codec.decode(msgspec.json.encode(stored), Run)


def test_every_type_of_the_core_is_in_a_golden_file() -> None:
    modules = [f"triggers.{m.name}" for m in pkgutil.iter_modules(triggers.__path__) if m.name not in NOT_STORED]
    mine = {
        name
        for module in modules
        for name, found in inspect.getmembers(import_module(module), inspect.isclass)
        if issubclass(found, msgspec.Struct) and found.__module__ == module
    }
    seen: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, msgspec.Struct):
            seen.add(type(value).__name__)
            value = msgspec.structs.astuple(value)
        if isinstance(value, dict):
            value = [*value, *value.values()]
        if isinstance(value, list | tuple | set | frozenset):
            for part in value:
                walk(part)

    for golden in GOLDENS.values():
        walk(golden.value)
    assert mine - seen == ONLY_IN_MEMORY


def test_every_event_and_every_effect_is_one_of_its_union() -> None:
    assert set(events.AnyEvent.__args__) == set(events.EVENTS)
    assert set(effects.AnyEffect.__args__) == {type(e) for e in EFFECTS}


FREEZE = Freeze(by="ann", at=NOW, reason="inventory")


def test_a_stored_value_says_its_version_and_kind() -> None:
    body = b'{"by":"ann","at":"2026-03-10T06:00:00Z","reason":"inventory"}'
    assert codec.encode(FREEZE) == b'{"v":1,"kind":"Freeze","body":' + body + b"}"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (codec.encode(FREEZE), "stored value is a Freeze, not a Run"),
        (b'{"v":1,"kind":"Run","body":{"id":1}}', "not a Run: Expected `str`, got `int`"),
        (b'{"v":1,"kind":"Run","body":{}}', "not a Run: Object missing required field `id`"),
        (b'{"kind":"Run"}', "not a Run: Object missing required field `v`"),
        (b"", "not a Run: Input data was truncated"),
        (b"\xff\xfe", "not a Run: "),
        (b"[" * 100_000, "not a Run: "),
    ],
)
def test_what_is_no_such_value_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(Refused, match=words):
        codec.decode(data, Run)


def test_a_field_of_a_later_version_is_no_obstacle() -> None:
    """What the newer one of two versions that run side by side adds, the older one skips."""
    data = codec.encode(FREEZE).replace(b'"by"', b'"since":"noon","by"')
    assert codec.decode(data, Freeze) == FREEZE


def test_an_older_version_is_migrated_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "VERSION", 3)
    steps = {
        ("BatchRecord", 1): lambda body: {**body, "refused": body.pop("bad")},
        ("BatchRecord", 2): lambda body: {**body, "rows": body["rows"] * 2},
    }
    monkeypatch.setattr(codec, "MIGRATIONS", steps)
    old = b'{"v":1,"kind":"BatchRecord","body":{"digest":"d","rows":5,"bad":1,"at":"2026-03-10T06:00:00Z"}}'
    assert codec.decode(old, BatchRecord) == BatchRecord(digest="d", rows=10, refused=1, at=NOW)
    assert codec.encode(FREEZE).startswith(b'{"v":3,')
