"""The HTTP surface of a process of sites: score, labels, deploy, report, status; for recordings advance and network."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from edge.config import Config
from edge.errors import NotReady, Refused, Unreachable
from edge.player import Player, Recording
from edge.site import Site

MAX_BODY = 8 << 20
_PAUSE = 0.5
_LOOK = 2.0
"""Seconds between two looks at what a site is told to serve."""


class _Score(msgspec.Struct):
    rows: list[dict[str, Any]]


class _Labels(msgspec.Struct):
    labels: list[dict[str, Any]]


class _Deploy(msgspec.Struct):
    candidate: str
    change: str = ""


class _Advance(msgspec.Struct):
    to: int


class _Network(msgspec.Struct):
    online: bool


class Host:
    """The sites of one process. Sites that serve report and send in the background; players when they are advanced."""

    def __init__(self, config: Config) -> None:
        self.sites: dict[str, Site] = {}
        self.players: dict[str, Player] = {}
        self._stopped = threading.Event()
        self._server = _Server((config.host, config.port), self)
        try:
            for each in config.sites:
                site = self.sites[each.name] = Site(each)
                if each.data is not None:
                    self.players[each.name] = Player(site, Recording(Path(each.data), site.schema.names))
        except BaseException:
            self.close()
            raise
        self._background = [
            threading.Thread(target=self._keep_sending, args=(site,), daemon=True)
            for name, site in self.sites.items()
            if name not in self.players
        ]
        self._background += [
            threading.Thread(target=self._keep_following, args=(site,), daemon=True)
            for site in self.sites.values()
            if site.config.wanted is not None or "DRIFTLOOP_WANTED" in os.environ
        ]

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def run(self) -> None:
        """Serve until `stop`."""
        for thread in self._background:
            thread.start()
        self._server.serve_forever(poll_interval=0.2)
        for thread in self._background:
            thread.join()
        self.close()

    def stop(self) -> None:
        """From another thread than `run`."""
        self._stopped.set()
        self._server.shutdown()

    def close(self) -> None:
        self._server.server_close()
        for site in self.sites.values():
            site.close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and body for one request; `path` names a site, quoted as in a URL."""
        try:
            name, _, what = urlsplit(path).path.strip("/").partition("/")
        except ValueError:  # a host that cannot be
            return 404, {"error": f"there is no {method} {path}"}
        name = unquote(name)
        if not name:
            return 200, {"sites": sorted(self.sites)}
        site = self.sites.get(name)
        ask = ROUTES.get((method, what))
        if site is None or ask is None:
            return 404, {"error": f"there is no {method} {path}"}
        try:
            return ask(self, site, body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return 400, {"error": str(error)}
        except NotReady as error:
            return 409, {"error": str(error)}
        except Refused as error:
            return 422, {"error": str(error)}
        except Unreachable as error:
            return 503, {"error": str(error)}

    def _keep_sending(self, site: Site) -> None:
        """Report every period and send what waits, as often as the ingest lets us; a problem is shown in the status."""
        flushed = time.monotonic()
        while not self._stopped.wait(_PAUSE):
            try:
                if time.monotonic() - flushed >= site.config.flush:
                    flushed = time.monotonic()
                    site.report()
                if site.buffer.backoff.due and site.buffer.waiting:
                    site.send()
            except (Refused, Unreachable, OSError, ValueError, sqlite3.Error) as error:
                site.problem = f"{type(error).__name__}: {error}"
        with suppress(Refused, Unreachable, OSError, ValueError, sqlite3.Error):  # what is served is on the disk anyway
            site.flush()
            if site.buffer.backoff.due:  # the disk may go with the pod
                site.send()

    def _keep_following(self, site: Site) -> None:
        while True:
            try:
                site.follow()
            except (Refused, OSError, ValueError, sqlite3.Error) as error:
                site.problem = f"{type(error).__name__}: {error}"
            if self._stopped.wait(_LOOK):
                return


def _score(host: Host, site: Site, body: bytes) -> tuple[int, dict[str, Any]]:
    return 200, site.score_rows(msgspec.json.decode(body, type=_Score).rows)


def _labels(host: Host, site: Site, body: bytes) -> tuple[int, dict[str, Any]]:
    labels = msgspec.json.decode(body, type=_Labels).labels
    site.take_labels(labels)
    return 202, {"labels": len(labels)}


def _deploy(host: Host, site: Site, body: bytes) -> tuple[int, dict[str, Any]]:
    asked = msgspec.json.decode(body, type=_Deploy)
    site.deploy(asked.candidate, asked.change)
    return 202, {"candidate": asked.candidate}


def _status(host: Host, site: Site, body: bytes) -> tuple[int, dict[str, Any]]:
    return 200, site.status()


def _report(host: Host, site: Site, body: bytes) -> tuple[int, dict[str, Any]]:
    return 200, site.tell()


def _advance(host: Host, site: Site, body: bytes) -> tuple[int, dict[str, Any]]:
    player = host.players.get(site.config.name)
    if player is None:
        return 404, {"error": "this site plays no recording"}
    played = player.advance(msgspec.json.decode(body, type=_Advance).to)
    return 200, {"rows": played.rows, "sent": played.sent, "buffered": played.buffered}


def _network(host: Host, site: Site, body: bytes) -> tuple[int, dict[str, Any]]:
    if site.config.name not in host.players:
        return 404, {"error": "this site plays no recording"}
    site.online = msgspec.json.decode(body, type=_Network).online
    return 200, {"online": site.online}


ROUTES: Mapping[tuple[str, str], Callable[[Host, Site, bytes], tuple[int, dict[str, Any]]]] = {
    ("POST", "score"): _score,
    ("POST", "labels"): _labels,
    ("POST", "deploy"): _deploy,
    ("POST", "report"): _report,
    ("GET", "status"): _status,
    ("POST", "advance"): _advance,
    ("POST", "network"): _network,
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], host: Host) -> None:
        self.host = host
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._reply(*self.server.host.answer("GET", self.path, b""))

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            self._reply(413 if length.isdigit() else 411, {"error": f"a body of at most {MAX_BODY} bytes is expected"})
            return
        body = self.rfile.read(int(length))
        if "Origin" in self.headers:  # a page in somebody's browser
            self._reply(403, {"error": "browsers are not served"})
            return
        self._reply(*self.server.host.answer("POST", self.path, body))

    def log_message(self, format: str, *values: object) -> None:
        """Nothing: every request would be a line."""

    def _reply(self, status: int, body: Mapping[str, Any]) -> None:
        data = msgspec.json.encode(body)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
