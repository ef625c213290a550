"""A site: takes only what is signed for it, keeps a way back, serves, and tells what it served."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from drift import envelope
from drift.reference import Reference
from drift.telemetry import Feature, Schema
from drift.windows import fold
from edge import keys, signing
from edge.errors import BadCandidate, NotReady, Refused, Unreachable
from edge.site import Site

SCHEMA = Schema("1", (Feature("distance"), Feature("carrier", "category")))


@pytest.fixture
def site(settings: Any) -> Iterator[Site]:
    with closing(Site(settings.site())) as site:
        yield site


def test_a_site_serves_what_it_was_asked_to_and_keeps_the_one_before(
    site: Site, registry: Any, make_model: Any
) -> None:
    with pytest.raises(NotReady, match="no candidate"):
        site.score_rows([{}])
    one, two, three = (registry.publish(make_model(weight)) for weight in (1.0, 2.0, 3.0))
    for digest in (one, two, two, three):
        site.deploy(digest, "c7")
    status = site.status()
    assert (status["candidate"], status["previous"], status["change"]) == (three, two, "c7")
    kept = sorted(p.name for p in (Path(site.config.state) / "candidates").iterdir())
    assert kept == sorted([two, three])
    assert len(list((Path(site.config.state) / "layers").iterdir())) == 3  # two models, one reference
    for path in registry.folder.rglob("*"):
        if path.is_file():
            path.unlink()
    site.deploy(two)  # the way back needs no registry
    assert site.candidate == two


def test_what_is_refused_leaves_the_site_as_it_was(site: Site, registry: Any, make_model: Any) -> None:
    good = registry.publish(make_model())
    site.deploy(good)
    stranger, _ = signing.new()
    narrow = Schema("1", (Feature("distance"), Feature("carrier", "category"), Feature("wind")))
    regression = Schema("1", SCHEMA.features, "regression")
    for model, about, reason in (
        (make_model(2.0), {"private": stranger}, "not the registry's: it names another key"),
        (make_model(3.0), {"loop": "others"}, "is of the loop 'others'"),
        (make_model(4.0), {"schema": narrow}, "wants the number 'wind'"),
        (make_model(5.0), {"schema": regression}, "is for a regression task"),
        (b"\x80\x04pickle", {}, "is not an ONNX model"),
        (make_model(known=("AA",), unseen=9), {}, "gives no score"),
    ):
        with pytest.raises(BadCandidate, match=reason):
            site.deploy(registry.publish(model, **about))
    for digest, reason in (("0" * 64, "not in the registry"), ("../x", "64 hexadecimal"), ("", "64 hexadecimal")):
        with pytest.raises(Refused, match=reason):
            site.deploy(digest)
    assert site.status()["candidate"] == good
    assert site.score_rows([{"distance": 0, "carrier": "AA"}])["scores"] == [0.5]


@pytest.mark.attack
def test_bytes_changed_in_the_registry_are_not_served(site: Site, registry: Any, make_model: Any) -> None:
    digest = registry.publish(make_model())
    for path in sorted(p for p in registry.folder.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for change in (whole[:-1], whole + b"x", bytes([whole[0] ^ 1]) + whole[1:], b""):
            path.write_bytes(change)
            with pytest.raises((Refused, Unreachable)):  # what is cut off is waited for
                site.deploy(digest)
        path.unlink()
        with pytest.raises(Refused, match="not in the registry"):
            site.deploy(digest)
        path.write_bytes(whole)
    asked, other = (registry.folder / "candidates" / registry.publish(make_model(weight)) for weight in (2.0, 3.0))
    for name in ("manifest.json", "manifest.sig"):
        (asked / name).write_bytes((other / name).read_bytes())
    with pytest.raises(BadCandidate, match="has the digest"):
        site.deploy(asked.name)
    assert site.candidate is None


def test_a_registry_that_is_away_is_another_matter(settings: Any, registry: Any, make_model: Any) -> None:
    digest = registry.publish(make_model())
    for away in ("nowhere", "http://127.0.0.1:9"):
        with closing(Site(settings.site(registry=away))) as site, pytest.raises(Unreachable):
            site.deploy(digest)


def test_a_registry_may_be_a_url(settings: Any, registry: Any, make_model: Any) -> None:
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(registry.folder))

        def log_message(self, *values: object) -> None:
            pass

    digest = registry.publish(make_model())
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with closing(Site(settings.site(registry=url))) as site:
            site.deploy(digest)
            assert site.candidate == digest
            with pytest.raises(Refused, match="not in the registry"):
                site.deploy("0" * 64)
        server.shutdown()


def test_after_a_restart_the_site_serves_on_from_its_own_disk(settings: Any, registry: Any, make_model: Any) -> None:
    config = settings.site()
    one, two = registry.publish(make_model()), registry.publish(make_model(2.0))
    with closing(Site(config)) as site:
        site.deploy(one)
        site.deploy(two)
    with closing(Site(config)) as site:
        assert (site.candidate, site.status()["previous"]) == (two, one)
    model = json.loads((registry.folder / "candidates" / two / "manifest.json").read_bytes())["files"]["model.onnx"]
    (Path(config.state) / "layers" / model["sha256"]).write_bytes(b"rotten")
    with closing(Site(config)) as site:
        assert site.candidate == one
        assert "cannot be served: model.onnx: has 6 bytes" in site.status()["problem"]
        site.deploy(two)  # fetched again
        assert site.candidate == two


def test_one_process_at_a_time_owns_a_site(settings: Any) -> None:
    config = settings.site()
    with closing(Site(config)), pytest.raises(Refused, match="in use by another process"):
        Site(config)


def test_what_was_served_is_told_signed_and_once(settings: Any, registry: Any, ingest: Any, make_model: Any) -> None:
    digest = registry.publish(make_model(unseen=9))
    config = settings.site()
    now = int(time.time())
    with closing(Site(config)) as site:
        site.deploy(digest)
        answer = site.score_rows(
            [
                {"id": "a", "at": now - 5, "distance": 0.0, "carrier": "AA"},
                {"distance": None, "carrier": "UA"},
                {"id": "c", "distance": 1, "carrier": "B6"},
                {"id": "d", "distance": "far", "carrier": "AA"},
            ]
        )
        assert answer["candidate"] == digest
        assert [s is None for s in answer["scores"]] == [False, False, True, True]
        assert answer["refused"] == {3: "distance: expected a number"}
        for wrong in ({"id": ""}, {"id": ["x"]}, {"at": "soon"}):
            with pytest.raises(Refused):
                site.score_rows([wrong])
    with closing(Site(config)) as site:  # what was served before a crash is not forgotten
        site.flush()
        site.take_labels([{"id": "a", "at": now - 5, "label": 1}])
        site.flush()
        assert site.send() == len(ingest.bodies)
        assert site.send() == 0
    batches = [envelope.decode(body, SCHEMA) for body in ingest.bodies]
    rows = [i for batch in batches if batch.rows for i in batch.rows.ids]
    assert sorted(rows) == sorted(answer["ids"])
    assert sum(batch.serving.requests for batch in batches) == 4
    assert sum(batch.serving.errors for batch in batches) == 2
    assert [list(b.labels.ids) for b in batches if b.labels] == [["a"]]
    for body, batch in zip(ingest.bodies, batches, strict=True):
        part, signature = envelope.signed_part(body)
        assert signature is not None
        assert keys.verify(settings.public, signature, part)
        assert (batch.key, batch.site, batch.candidate, batch.refused) == ("jfk-1", "JFK", digest, ())
        assert batch.start <= batch.end <= time.time() + 1
    for wrong in ([{"id": "a"}], [{"id": "a", "at": 1, "label": "x"}]):
        with closing(Site(config)) as site, pytest.raises(Refused, match="a label has an id"):
            site.take_labels(wrong)


@pytest.mark.parametrize("stays", [False, True])
def test_a_site_of_which_nothing_is_asked_tells_what_it_serves(
    settings: Any, registry: Any, ingest: Any, make_model: Any, stays: bool
) -> None:
    digest = registry.publish(make_model())
    with closing(Site(settings.site(stays=stays))) as site:
        site.report()
        site.deploy(digest)
        for _ in range(2):
            site.report()
        assert site.send() == 1, "what waits says it already"
        site.report()
        assert site.send() == 1
        site.score_rows([{"distance": 0.0, "carrier": "AA"}])
        site.report()
        site.send()
    idle, again, _ = [envelope.decode(body, SCHEMA) for body in ingest.bodies]
    assert [(len(b.rows), b.candidate, b.serving.requests) for b in (idle, again) if b.rows is not None] == [
        (0, digest, 0)
    ] * 2
    assert idle.id != again.id
    assert idle.refused == ()


def test_a_site_whose_data_stays_sends_counts_and_not_a_row(
    settings: Any, registry: Any, ingest: Any, make_model: Any
) -> None:
    from edge.player import Player, Recording

    digest = registry.publish(make_model())
    config = settings.plays(stays=True)
    with closing(Site(config)) as site:
        site.deploy(digest)
        recording = Recording(Path(config.data), SCHEMA.names)
        Player(site, recording).advance(int(recording.known_at[-1]))
    manifest = json.loads((registry.folder / "candidates" / digest / "manifest.json").read_bytes())
    layer = registry.folder / "layers" / manifest["files"]["reference.bin"]["sha256"]
    reference = Reference.from_bytes(layer.read_bytes())
    windows = [w for body in ingest.bodies for w in fold(envelope.decode(body, SCHEMA), reference, 86_400).values()]
    assert all(b"JFK-1" not in body for body in ingest.bodies)
    assert sum(w.rows for w in windows) == len(recording.at) == 300
    assert sum(w.outcomes.labels for w in windows) == len(recording.labelled) == 240
    assert sum(w.serving.requests for w in windows) == 300
    with closing(sqlite3.connect(Path(config.state) / "site.db")) as db:
        kept = db.execute("select count(*) from predictions").fetchone()[0]
    assert kept == 10  # a fifth of the labels never came: they wait


def test_a_batch_too_large_for_the_wire_is_cut(settings: Any, registry: Any, ingest: Any, make_model: Any) -> None:
    with closing(Site(settings.site(batch_bytes=2000, batch_rows=25))) as site:
        site.deploy(registry.publish(make_model()))
        ids = site.score_rows([{"id": f"row-{i}", "at": 1_357_000_000 + i, "distance": i} for i in range(100)])["ids"]
        site.flush()
        site.send()
    assert all(len(body) <= 2000 for body in ingest.bodies)
    rows = [row for body in ingest.by_id().values() for row in json.loads(body)["columns"]["id"]]
    assert rows == ids
    assert sum(json.loads(body).get("serving", {}).get("requests", 0) for body in ingest.bodies) == 100


def test_a_configuration_that_cannot_be_used_is_refused_with_words(settings: Any, ingest: Any) -> None:
    for changes, reason in (
        ({"flush": 0}, "flush"),
        ({"colour": "red"}, "colour"),
        ({"name": ""}, "name"),
        ({"ingest": "ftp://x"}, "ingest: is not an http"),
        ({"key": "nowhere.pem"}, "cannot be read"),
        ({"key": "registry.pub"}, "not a private key"),
    ):
        before = settings.path.read_text()
        with pytest.raises(Refused, match=reason):
            Site(settings.site(**changes))
        settings.path.write_text(before)
