"""Workers of two versions on one state: what the newer one has stored waits for it, and is neither changed nor lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from tests.triggers.samples import NOW, a_run
from triggers import codec
from triggers.errors import Refused, Retry
from triggers.records import Freeze
from triggers.run import Phase, Run


@contextmanager
def version(number: int, monkeypatch: pytest.MonkeyPatch, **migrations: Any) -> Iterator[None]:
    """As a worker of that version would read and write."""
    with monkeypatch.context() as patch:
        patch.setattr(codec, "VERSION", number)
        patch.setattr(codec, "MIGRATIONS", {(kind, 1): how for kind, how in migrations.items()})
        yield


def test_what_a_newer_worker_has_stored_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(Phase.TRAINING)
    with version(2, monkeypatch):
        stored = codec.encode(run)
    with pytest.raises(Retry, match="stored by a newer version"):
        codec.decode(stored, Run)
    with version(2, monkeypatch):
        assert codec.decode(stored, Run) == run


def test_what_an_older_worker_has_stored_is_migrated_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    old = codec.encode(Freeze(by="ann", at=NOW, reason="inventory"))

    def renamed(body: Any) -> Any:
        return {**body, "reason": f"{body['reason']} (migrated)"}

    with version(2, monkeypatch, Freeze=renamed):
        assert codec.decode(old, Freeze).reason == "inventory (migrated)"
        assert codec.decode(codec.encode(Freeze(by="ann", at=NOW, reason="new")), Freeze).reason == "new"


def test_a_field_more_is_tolerated_in_a_record_and_named_in_what_binds_a_run() -> None:
    whole = msgspec.json.decode(codec.encode(Freeze(by="ann", at=NOW, reason="x")))
    whole["body"]["since"] = "2027"
    assert codec.decode(msgspec.json.encode(whole), Freeze).by == "ann"
    run = msgspec.json.decode(codec.encode(a_run(Phase.TRAINING)))
    run["body"]["limits"]["gates"]["maximum_regret"] = 0.1
    assert codec.decode(msgspec.json.encode(run), Run).limits.unknown == ("gates.maximum_regret",)


def test_what_is_damaged_is_refused_all_the_same() -> None:
    run = msgspec.json.decode(codec.encode(a_run(Phase.TRAINING)))
    run["body"]["phase"] = "dancing"
    with pytest.raises(Refused):
        codec.decode(msgspec.json.encode(run), Run)
