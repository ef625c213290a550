"""Thin and broken links: what is fetched, what is fetched again, and sites that are told by a file."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge.config import load
from edge.errors import BadCandidate, Unreachable
from edge.server import Host
from edge.site import Site
from tests.edge.conftest import Registry, Settings


class Web(ThreadingHTTPServer):
    """A registry over HTTP: cuts each answer about a layer after `cut` bytes; `parts`: knows ranges."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.cut, self.parts = folder, 0, True
        self.sent: list[tuple[str, int, int]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def do_GET(self) -> None:
        web = self.server
        data = (web.folder / self.path.lstrip("/")).read_bytes()
        begin = 0
        if web.parts and (asked := self.headers.get("Range")):
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
        rest = data[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        cut = web.cut if web.cut and "layers/" in self.path else len(rest)
        self.wfile.write(rest[:cut])
        web.sent.append((self.path, begin, len(rest[:cut])))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def web(registry: Registry) -> Iterator[Web]:
    with Web(registry.folder) as web:
        threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield web
        web.shutdown()


@pytest.fixture
def site(settings: Settings, web: Web) -> Iterator[Site]:
    site = Site(settings.site(registry=web.url))
    yield site
    site.close()


def test_a_download_goes_on_where_the_link_was_cut(
    site: Site, web: Web, registry: Registry, make_model: Callable[..., bytes]
) -> None:
    digest = registry.publish(make_model())
    web.cut = 200
    while site.candidate is None and len(web.sent) < 20:
        with suppress(Unreachable):
            site.deploy(digest)
    assert site.candidate == digest
    layers = {path for path, _, _ in web.sent if "layers/" in path}
    sizes = {path: (registry.folder / path.lstrip("/")).stat().st_size for path in layers}
    assert len(web.sent) > len(layers) + 2, "it was cut more than once"
    assert {path: sum(n for p, _, n in web.sent if p == path) for path in layers} == sizes, "each byte once"


def test_a_registry_that_knows_no_parts_is_read_from_the_beginning(
    site: Site, web: Web, registry: Registry, make_model: Callable[..., bytes]
) -> None:
    digest = registry.publish(make_model())
    web.cut, web.parts = 200, False
    with pytest.raises(Unreachable, match="was cut off after 200 of"):
        site.deploy(digest)
    web.cut = 0
    site.deploy(digest)
    assert site.candidate == digest


def test_what_was_left_of_other_bytes_is_found_at_the_end_and_dropped(
    site: Site, web: Web, registry: Registry, make_model: Callable[..., bytes]
) -> None:
    digest = registry.publish(make_model())
    web.cut = 200
    with pytest.raises(Unreachable):
        site.deploy(digest)
    [part] = (Path(site.config.state) / "layers").glob("*.part")
    part.write_bytes(b"x" * part.stat().st_size)
    web.cut = 0
    with pytest.raises(BadCandidate, match="other bytes"):
        site.deploy(digest)
    site.deploy(digest)
    assert site.candidate == digest


def test_layers_that_are_there_are_not_fetched_again(
    site: Site, web: Web, registry: Registry, make_model: Callable[..., bytes]
) -> None:
    site.deploy(registry.publish(make_model()))
    web.sent.clear()
    site.deploy(registry.publish(make_model(2.0)))
    fetched = [path for path, _, _ in web.sent if "layers/" in path]
    assert len(fetched) == 1, "the model is new, its reference is not"


def test_a_site_that_is_told_by_a_file_serves_what_it_names(
    settings: Settings, registry: Registry, make_model: Callable[..., bytes]
) -> None:
    first, second = registry.publish(make_model()), registry.publish(make_model(2.0))
    wanted = settings.path.parent / "wanted.json"
    config = settings.site(wanted="wanted.json")
    site = Site(config)
    site.follow()
    assert site.candidate is None
    wanted.write_text(json.dumps({"candidate": first, "change": "c1"}))
    site.follow()
    wanted.write_text(json.dumps({"candidate": "0" * 64}))
    site.follow()
    assert site.candidate == first
    assert "is not in the registry" in site.status()["problem"]
    wanted.write_text(json.dumps({"candidate": second, "change": "c2"}))
    site.follow()
    assert (site.candidate, site.status()["change"]) == (second, "c2")
    site.close()


def test_the_program_looks_at_the_file_by_itself(
    settings: Settings, registry: Registry, make_model: Callable[..., bytes]
) -> None:
    digest = registry.publish(make_model())
    (settings.path.parent / "wanted.json").write_text(json.dumps({"candidate": digest}))
    settings.site(wanted="wanted.json")
    host = Host(load(settings.path))
    running = threading.Thread(target=host.run)
    running.start()
    [site] = host.sites.values()
    for _ in range(100):
        if site.candidate:
            break
        time.sleep(0.02)
    host.stop()
    running.join()
    assert site.candidate == digest


def test_a_device_is_told_by_its_environment(
    settings: Settings, registry: Registry, make_model: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = registry.publish(make_model())
    monkeypatch.setenv("DRIFTLOOP_WANTED", json.dumps({"candidate": digest}))
    site = Site(settings.site())
    site.follow()
    assert site.candidate == digest
    site.close()


def test_rows_that_nobody_lived_leave_no_trace(
    settings: Settings, registry: Registry, make_model: Callable[..., bytes]
) -> None:
    site = Site(settings.site())
    digest = registry.publish(make_model())
    site.deploy(digest)
    answer = site.probe([{"distance": 0.5, "carrier": "AA"}, {"distance": "far"}])
    assert answer["candidate"] == digest
    assert answer["scores"][0] == pytest.approx(0.6224593)
    assert answer["scores"][1] is None
    site.flush()
    assert site.status()["batches"] == 0
    site.close()
