"""Contract of the port Executor, against a site that answers over HTTP."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from adapters.local.configs import FileConfigs
from adapters.local.sites import HttpExecutor
from triggers.errors import DriftloopError, NotFound, Offline, Refused, Retry
from triggers.ports import Change

LOOP = """
loop: {name}
schema:
  features: [{{name: distance}}]
"""


class Site(ThreadingHTTPServer):
    """A site's program that answers as it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: tuple[int, bytes] = (202, b"{}")
        self.asked: list[tuple[str, Any]] = []
        self.slow = 0.0
        self.url = f"http://127.0.0.1:{self.server_port}/north"

    def handle_error(self, *args: Any) -> None:
        """Who asked has hung up."""


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_POST(self) -> None:
        self.server.asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        time.sleep(self.server.slow)
        status, body = self.server.answer
        if status == 0:
            self.wfile.write(body)
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        site.shutdown()
        thread.join()


def fleet(state: Path, loop: str = "flights", **urls: str) -> HttpExecutor:
    folder = state / "config" / loop
    folder.mkdir(parents=True)
    (folder / "loop.yaml").write_text(LOOP.format(name=loop))
    (folder / "fleet.yaml").write_text(json.dumps({"sites": [{"name": n, "url": url} for n, url in urls.items()]}))
    return HttpExecutor(FileConfigs(state), timeout_s=0.3)


def change(site: str, **more: Any) -> Change:
    made = {"id": "1", "loop": "flights", "site": site, "run": "r", "wave": 0, "candidate": "d1", "action": "deploy"}
    return Change(**{**made, "fence": 2, "at": datetime(2026, 3, 1, tzinfo=UTC), **more})


def test_a_site_is_asked_for_a_candidate(site: Site, tmp_path: Path) -> None:
    executor = fleet(tmp_path, north=site.url, south="http://127.0.0.1:1")
    for status in (200, 202):
        site.answer = (status, b'{"candidate": "d1"}')
        executor.apply(change("north", id="change 1"))
    assert site.asked == [("/north/deploy", {"candidate": "d1", "change": "change 1"})] * 2


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((409, b'{"error": "too old a change"}'), Refused, "too old a change"),
        ((422, '{"error": "schätzt falsch"}'.encode()), Refused, "schätzt falsch"),
        ((404, b""), Refused, "north answered 404"),
        ((400, b"plain words \xff"), Refused, "plain words \ufffd"),
        ((503, b'{"error": "starting"}'), Offline, "starting"),
        ((500, b'{"error": "oops"}'), Retry, "oops"),
        ((502, b'["x"]'), Retry, "502"),
        ((302, b""), Retry, "302"),
        ((0, b"no HTTP at all\r\n\r\n"), Retry, "HTTP"),
        ((0, b""), Offline, "closed connection"),
    ],
)
def test_what_a_site_answers_asks_for_a_reaction(
    site: Site, tmp_path: Path, answer: tuple[int, bytes], error: type[DriftloopError], words: str
) -> None:
    executor = fleet(tmp_path, north=site.url)
    site.answer = answer
    with pytest.raises(error, match=words) as raised:
        executor.apply(change("north"))
    assert type(raised.value) is error
    assert raised.value.fields["site"] == "north"


def test_a_site_that_cannot_be_reached_is_offline(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    executor = fleet(tmp_path, north=f"http://127.0.0.1:{port}", south="http://no-such-host.invalid/")
    for name in ("north", "south"):
        with pytest.raises(Offline, match=f"{name} cannot be reached"):
            executor.apply(change(name))


def test_a_site_that_does_not_answer_in_time_is_offline(site: Site, tmp_path: Path) -> None:
    site.slow = 0.6
    with pytest.raises(Offline, match="timed out"):
        fleet(tmp_path, north=site.url).apply(change("north"))


def test_a_site_without_a_usable_url_is_refused(tmp_path: Path) -> None:
    executor = fleet(tmp_path, a="", b="http://host:port/")
    for name in ("a", "unknown"):
        with pytest.raises(NotFound):
            executor.apply(change(name))
    with pytest.raises(Refused, match="no usable url"):
        executor.apply(change("b"))
