"""Each request of each call of the storage adapters, failed in every way: the same outcome, or an error with a name."""

from __future__ import annotations

import gc
import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import uuid4

import pytest

from adapters.azure import blobs, tables, uploads
from adapters.azure.profile import Azure
from adapters.azure.settings import Settings
from tests.conftest import Authority
from tests.servers.azurite import Azurite
from tests.servers.faults import FAULTS, Fault, Faults, between
from tests.servers.identity import Identity
from triggers.errors import Conflict, NotFound, Retry
from triggers.ports import Delete, Put, Record

pytestmark = pytest.mark.wire

LARGE = bytes(range(256)) * 700
"""More than one property of a row, and with PIECE as here, more than one piece of a blob."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(tables.PATIENCE, "read_timeout", 2.0)  # type: ignore[misc]
    monkeypatch.setitem(blobs.PATIENCE, "read_timeout", 2.0)  # type: ignore[misc]
    monkeypatch.setattr(blobs, "PIECE", 100_000)
    monkeypatch.setattr(uploads, "PIECE", 100_000)
    yield
    with warnings.catch_warnings():  # connections that were cut in the middle of an answer
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class Place:
    """A table and containers of one's own, by way of a proxy, and directly."""

    def __init__(self, azurite: Azurite, authority: Authority, credential: Any) -> None:
        self.azurite, self.authority, self.credential = azurite, authority, credential
        self.own = {n: f"t{uuid4().hex}" for n in ("StateTable", "StateContainer", "ConfigContainer", "KeyContainer")}
        self.direct = self._azure(azurite.blobs, azurite.tables)

    def _azure(self, blobs: str, tables: str) -> Azure:
        where = {"Storage__blobServiceUri": blobs, "Storage__tableServiceUri": tables}
        azure = Azure(Settings({**os.environ, **self.own, **where}))
        azure.identity.credential = self.credential  # one for all: who asks first is not what fails here
        return azure

    @contextmanager
    def through(self, faults: Faults) -> Iterator[Azure]:
        a = self.authority
        with ExitStack() as stack:
            there = (self.azurite.blobs, self.azurite.tables)
            yield self._azure(*(stack.enter_context(between(one, faults, a.ca, a.cert, a.key)) for one in there))


@dataclass(frozen=True)
class Call:
    """What is done, and what was there before."""

    do: Callable[[Azure], Any]
    before: Callable[[Azure], object] = lambda azure: None


def some_rows(azure: Azure) -> None:
    azure.ports.store.commit("p", [Put(f"{n}", LARGE) for n in range(3)])


def some_blobs(azure: Azure) -> None:
    azure.ports.blobs.put("a/large", LARGE)
    azure.ports.blobs.put("a/small", b"small")


def a_loop(azure: Azure) -> None:
    azure.files.put("flights/loop.yaml", b"loop: flights\nschema: {features: [{name: distance}]}")


def rows(azure: Azure) -> dict[str, bytes]:
    return {record.key: record.value for record in azure.ports.store.scan("p")}


def row(azure: Azure, key: str) -> Record:
    record = azure.ports.store.get("p", key)
    assert record is not None
    return record


def change(azure: Azure) -> Any:
    old = row(azure, "0")
    if old.value:  # else it was done before, and the answer lost
        azure.ports.store.commit(
            "p", [Put("new", LARGE), Put("0", b"", old.version), Put("1", b"", "*"), Delete("2"), Delete("none")]
        )
    return rows(azure)


def delete(azure: Azure) -> Any:
    azure.ports.store.commit("p", [Delete("0")])
    return rows(azure)


def conflict(azure: Azure) -> Any:
    with pytest.raises(Conflict):
        azure.ports.store.commit("p", [Put("new", b""), Put("0", b"", 'W/"stale"')])
    return rows(azure)


def first_row(azure: Azure) -> Any:
    azure.ports.store.commit("p", [Put("k", b"", "*")])
    return rows(azure)


def put(azure: Azure) -> Any:
    azure.ports.blobs.put("b/new", LARGE)
    azure.ports.blobs.put("b/new", b"new")
    return azure.ports.blobs.get("b/new")


def read(azure: Azure) -> Any:
    with pytest.raises(NotFound):
        azure.ports.blobs.get("none")
    names = list(azure.ports.blobs.names())
    return names, [azure.ports.blobs.get(name) for name in names], azure.ports.store.get("p", "none")


def remove(azure: Azure) -> Any:
    azure.ports.blobs.delete("a/small")
    azure.ports.blobs.delete("a/none")
    return azure.ports.blobs.exists("a/small"), azure.ports.blobs.exists("a/large")


def configs(azure: Azure) -> Any:
    return azure.ports.configs.loops(), azure.ports.configs.loop("flights")


def uploaded(azure: Azure) -> Any:
    assert azure.ports.uploads is not None
    there = azure.ports.uploads
    with there.open(f"{azure.settings.container}/a/large") as found:
        whole = found.file.read()
    with pytest.raises(NotFound), there.open(f"{azure.settings.container}/a/none"):
        pass
    return whole


def key(azure: Azure) -> Any:
    made = azure.keys.forms
    return len(made), made == azure.keys._blobs.get("forms.key")


CALLS: dict[str, Call] = {
    "get": Call(lambda azure: row(azure, "0").value, some_rows),
    "scan": Call(rows, some_rows),
    "commit": Call(change, some_rows),
    "delete": Call(delete, some_rows),
    "conflict": Call(conflict, some_rows),
    "first row": Call(first_row),
    "put": Call(put),
    "read": Call(read, some_blobs),
    "remove": Call(remove, some_blobs),
    "uploaded": Call(uploaded, some_blobs),
    "configs": Call(configs, a_loop),
    "key": Call(key),
}


@pytest.fixture(scope="module")
def credential(azurite: Azurite) -> Any:
    return Azure(Settings(os.environ)).identity.credential


SOME: tuple[Fault, ...] = ("429", "expired", "reset", "done, then reset", "done, then half")
MORE: tuple[Fault, ...] = ("500", "503", "hang", "done, then 500", "done, then hang")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("chosen", [SOME, pytest.param(MORE, marks=pytest.mark.nightly)], ids=["some", "more"])
def test_a_request_that_fails_leaves_the_outcome_or_a_named_error(
    name: str, chosen: tuple[Fault, ...], azurite: Azurite, authority: Authority, credential: Any
) -> None:
    call = CALLS[name]

    def tried(faults: Faults) -> Any:
        place = Place(azurite, authority, credential)
        call.before(place.direct)
        with place.through(faults) as azure:
            try:
                return call.do(azure)
            except Retry:
                faults.stop()
                return call.do(azure)

    whole = Faults()
    wanted = tried(whole)
    plans = [Faults({n: fault}, hang_s=2.5) for n in range(len(whole.seen)) for fault in chosen]
    with ThreadPoolExecutor(8) as threads:
        for faults, found in zip(plans, threads.map(tried, plans), strict=True):
            assert found == wanted, str(faults)


def test_whatever_fails_by_chance_a_commit_is_whole_or_not_at_all(
    azurite: Azurite, authority: Authority, credential: Any
) -> None:
    """Each seed is a history; after each commit the rows are those before it or those after it, as it said."""

    def history(seed: int) -> None:
        random, faults = Random(seed), Faults(seed=seed, chances=dict.fromkeys(FAULTS, 0.05), hang_s=2.5)
        place = Place(azurite, authority, credential)
        with place.through(faults) as azure:
            for n in range(6):
                before = {record.key: record for record in place.direct.ports.store.scan("p")}
                wanted = {k: r.value for k, r in before.items()}
                changes: list[Put | Delete] = []
                for k in random.sample("abcdef", 3):
                    expect = before[k].version if k in before else None
                    gone = expect is not None and random.random() < 0.4
                    changes.append(Delete(k, expect) if gone else Put(k, f"{n}".encode(), expect))  # type: ignore[arg-type]
                    wanted = {**wanted, k: f"{n}".encode()}
                    if gone:
                        del wanted[k]
                try:
                    azure.ports.store.commit("p", changes)
                    said = "done"
                except Retry as error:
                    said = type(error).__name__
                found = rows(place.direct)
                old = {k: r.value for k, r in before.items()}
                assert found == wanted or (said != "done" and found == old), (
                    f"seed {seed}, commit {n}: {said}\n{faults}"
                )

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(history, range(8)))


def test_a_token_that_runs_out_is_fetched_anew(azurite: Azurite, identity: Identity) -> None:
    azure = Azure(Settings({**os.environ, **azurite.settings, "StateTable": f"t{uuid4().hex}"}))
    identity.lasts_s = 1.0
    try:
        azure.ports.store.commit("p", [Put("k", b"")])
        asked = identity.asked.total()
        time.sleep(1.1)
    finally:
        identity.lasts_s = 3600.0
    assert azure.ports.store.get("p", "k") is not None
    assert identity.asked.total() > asked
