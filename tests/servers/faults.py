"""A proxy that fails as networks and services do: in front of a local server, by plan or by chance from a seed."""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

Fault = Literal[
    *("429", "500", "503", "expired", "reset", "hang"),
    *("done, then 500", "done, then reset", "done, then half", "done, then hang"),
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
_CHALLENGE = 'Bearer authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize"'
_OURS = frozenset({"connection", "transfer-encoding", "content-length", "keep-alive"})


@dataclass
class Faults:
    """Which request has which fault: by its number (from 0), or by chance. `seen` is the history."""

    plan: Mapping[int, Fault] = field(default_factory=dict)
    chances: Mapping[Fault, float] = field(default_factory=dict)
    seed: int = 0
    hang_s: float = 3.0
    seen: list[tuple[str, Fault | None]] = field(default_factory=list)
    began: int = 0
    """How many requests there were before what is planned."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, plan: Mapping[int, Fault]) -> None:
        """From now on, with the numbers of the plan counted from here."""
        self.began = len(self.seen)
        self.plan = {self.began + number: fault for number, fault in plan.items()}

    def next(self, about: str) -> Fault | None:
        with self._lock:
            fault = self.plan.get(len(self.seen)) or self._by_chance(Random(f"{self.seed}/{len(self.seen)}").random())
            self.seen.append((about, fault))
            return fault

    def _by_chance(self, drawn: float) -> Fault | None:
        for fault, chance in self.chances.items():
            drawn -= chance
            if drawn < 0:
                return fault
        return None

    def stop(self) -> None:
        self.plan, self.chances = {}, {}

    def __str__(self) -> str:
        return "\n".join(
            f"{n:4} {about}" + (f"  <- {fault}" if fault else "") for n, (about, fault) in enumerate(self.seen)
        )


@contextmanager
def between(upstream: str, faults: Faults, ca: Path, cert: Path, key: Path) -> Iterator[str]:
    """The address to use instead of `upstream` (https)."""
    with _Server(upstream, faults, ca, cert, key) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"https://127.0.0.1:{server.server_port}{server.upstream.path}"
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    upstream: http.client.HTTPSConnection | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.faults.next(f"{self.command} {self.path.partition('?')[0]}")
        if fault is None:
            return self.reply(*self.forward(body))
        if fault.startswith("done"):
            status, headers, said = self.forward(body)
            if fault == "done, then half":
                self.reply(status, headers, said[: len(said) // 2])
        if fault.endswith(("429", "500", "503", "expired")):
            return self.refuse(401 if fault == "expired" else int(fault[-3:]))
        return self.hang_up(self.server.faults.hang_s if fault.endswith("hang") else 0.0)

    def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body of the answer."""
        if self.upstream is None:
            self.upstream = http.client.HTTPSConnection(self.server.upstream.netloc, context=self.server.trusted)
        self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _OURS:
                self.upstream.putheader(name, value)
        self.upstream.putheader("Content-Length", str(len(body)))
        self.upstream.endheaders(body)
        response = self.upstream.getresponse()
        said = response.read()
        length = response.headers.get("Content-Length") if self.command == "HEAD" else str(len(said))
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in _OURS]
        return response.status, [*headers, *([("Content-Length", length)] if length else [])], said

    def reply(self, status: int, headers: list[tuple[str, str]], said: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(said)

    def refuse(self, status: int) -> None:
        headers = [("Content-Length", "0"), *([("WWW-Authenticate", _CHALLENGE)] if status == 401 else [])]
        self.reply(status, headers, b"")

    def hang_up(self, after_s: float) -> None:
        time.sleep(after_s)
        with suppress(OSError):
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()
        if self.upstream is not None:
            self.upstream.close()

    def log_message(self, *_: Any) -> None:
        return


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str, faults: Faults, ca: Path, cert: Path, key: Path) -> None:
        self.upstream, self.faults = urlsplit(upstream), faults
        self.trusted = ssl.create_default_context(cafile=str(ca))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(cert, key)
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        raw, address = super().get_request()
        return self._context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, *_: Any) -> None:
        return
