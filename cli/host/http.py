"""HTTP triggers: a routing table, and a server for 127.0.0.1 that no client can hold up or make talk.

Differs from Azure where that helps on one machine: authorisation levels are not asked for (there are no function
keys; the loopback interface is the limit), HEAD is answered by the GET function with the body dropped, OPTIONS says
what is allowed, and a method that a path does not have is 405, not 404.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from cli.host.app import METHODS, AppError, Function
from functions.answers import SECURITY
from triggers.errors import Refused

log = logging.getLogger("driftloop.host")

_CONSTRAINTS: Mapping[str, str] = {
    "": "[^/]+",
    "int": r"-?[0-9]{1,10}",
    "long": r"-?[0-9]{1,19}",
    "alpha": "[A-Za-z]+",
    "bool": "[Tt]rue|[Ff]alse",
    "guid": "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
}
_LINGER_S, _LINGER_BYTES, _CHUNK = 2.0, 16 << 20, 1 << 16
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "date"})
_PHRASES = {int(s): s.phrase for s in HTTPStatus}
_PARAMETER = re.compile(r"\{(\*{0,2})([A-Za-z_]\w*)(?::([a-z]+))?(\?)?\}")


class BadPath(ValueError):
    """A path that no route can mean."""


@dataclass(frozen=True, slots=True)
class Route:
    """A path pattern and the function behind it."""

    pattern: re.Pattern[str]
    rank: tuple[int, ...]
    function: Function


@dataclass(frozen=True, slots=True)
class Match:
    """What a request's path and method lead to: a function, or else the methods that the path would have."""

    function: Function | None
    params: Mapping[str, str]
    allowed: tuple[str, ...]


class Router:
    """Paths to functions. Literals come before constrained parameters, parameters, and rests, segment by segment."""

    def __init__(self, functions: Iterable[Function], prefix: str) -> None:
        self.routes = sorted((_route(f, prefix) for f in functions if f.kind == "http"), key=lambda r: r.rank)

    def match(self, method: str, path: str) -> Match:
        """`path` as it came, percent-encoded. Raises BadPath."""
        plain = _decoded(path)
        allowed: list[str] = []
        for route in self.routes:
            found = route.pattern.fullmatch(plain)
            if not found:
                continue
            if method in route.function.methods:
                return Match(route.function, {k: v for k, v in found.groupdict().items() if v is not None}, ())
            allowed += route.function.methods
        return Match(None, {}, tuple(m for m in METHODS if m in allowed))


def _route(function: Function, prefix: str) -> Route:
    segments = [s for s in f"{prefix}/{function.route}".split("/") if s]
    pattern, rank = "", []
    for n, segment in enumerate(segments):
        found = _PARAMETER.fullmatch(segment)
        if not found:
            pattern += "/" + _mixed(segment, function.name)
            rank.append(1 if "{" in segment else 0)
        elif found[1]:
            if n < len(segments) - 1 or found[3]:
                raise AppError(f"{function.name}: route {function.route!r}: a rest comes last")
            pattern += f"(?:/(?P<{found[2]}>.*))?"
            rank.append(4)
        else:
            optional = "?" if found[4] else ""
            pattern += f"(?:/(?P<{found[2]}>{_constraint(found[3], function)})){optional}"
            rank.append(2 if found[3] else 3)
    try:
        return Route(re.compile(pattern or "/", re.IGNORECASE | re.DOTALL), tuple(rank), function)
    except re.error as e:
        raise AppError(f"{function.name}: route {function.route!r}: {e}") from e


def _mixed(segment: str, name: str) -> str:
    """A segment with text, perhaps around plain parameters."""
    parts, end = "", 0
    for found in _PARAMETER.finditer(segment):
        parts += re.escape(segment[end : found.start()]) + f"(?P<{found[2]}>[^/]+?)"
        end = found.end()
    rest = segment[end:]
    if "{" in rest or "}" in rest:
        raise AppError(f"{name}: route: not understood: {segment!r}")
    return parts + re.escape(rest)


def _constraint(name: str | None, function: Function) -> str:
    if (name or "") not in _CONSTRAINTS:
        raise AppError(f"{function.name}: route {function.route!r}: the local host does not know the constraint {name}")
    return _CONSTRAINTS[name or ""]


def _decoded(path: str) -> str:
    """The path as routes see it: decoded once, but an encoded slash stays encoded, so segments stay what they were."""
    kept = re.sub("%2[fF]", "%252F", path)
    if re.search("%(?![0-9A-Fa-f]{2})", kept) or len(path) > 8192:
        raise BadPath
    try:
        plain = unquote_to_bytes(kept).decode("utf-8")
    except UnicodeDecodeError as e:
        raise BadPath from e
    if any(ord(c) < 32 or c in "\\\x7f" for c in plain) or {".", ".."} & set(plain.split("/")):
        raise BadPath
    return plain.rstrip("/") or "/"


Answer = tuple[int, Sequence[tuple[str, str]], bytes]
Handle = Callable[[str, str, Mapping[str, str], bytes], Answer]


def problem(status: int, detail: str = "", headers: Sequence[tuple[str, str]] = ()) -> Answer:
    """An RFC 9457 answer, with the headers that every answer has."""
    said = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    if detail:
        said["detail"] = detail
    return (
        status,
        [("content-type", "application/problem+json"), *SECURITY.items(), *headers],
        json.dumps(said).encode(),
    )


class Server(ThreadingHTTPServer):
    """Serves `handle(method, url, headers, body)` on 127.0.0.1. A thread a connection, as many as `connections`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, port: int, handle: Handle, *, limit: int = 1 << 20, patience: float = 30.0, connections: int = 256
    ) -> None:
        """`limit`: bytes of a body; `patience`: seconds for a whole request to arrive, or an answer to be taken.

        Raises Refused where the port cannot be had.
        """
        self.handle, self.limit, self.patience = handle, limit, patience
        self._free = threading.BoundedSemaphore(connections)
        self._waits: dict[socket.socket, float] = {}
        try:
            super().__init__(("127.0.0.1", port), _Connection)
        except (OSError, OverflowError) as e:
            raise Refused(f"port {port} of 127.0.0.1: {getattr(e, 'strerror', None) or e}; --port names another") from e
        self.port: int = self.server_address[1]
        names = ("127.0.0.1", "localhost", "[::1]")
        self.hosts = frozenset((*names, *(f"{name}:{self.port}" for name in names)))

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.1,), name="http", daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            request.settimeout(1.0)
            with suppress(OSError):
                request.sendall(_rendered(problem(503, "too many connections", [("retry-after", "1")]), last=True))
            self.shutdown_request(request)
            return
        self.wait(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._waits.pop(request, None)
            self._free.release()

    def wait(self, connection: socket.socket, *, on: bool = True) -> None:
        """Begin to be impatient with a client, or stop being so while it waits for us."""
        self._waits[connection] = time.monotonic() + self.patience if on else float("inf")

    def service_actions(self) -> None:
        now = time.monotonic()
        for connection, until in list(self._waits.items()):
            if until < now:
                self._waits[connection] = float("inf")
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("connection lost")


class _Connection(BaseHTTPRequestHandler):
    """One client's connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def handle_one_request(self) -> None:
        self.server.wait(self.connection)
        super().handle_one_request()

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        refusal = self._refusal()
        if refusal:
            self.close_connection = True
            self._send(refusal)
            self._let_go()
        return refusal is None

    def handle_expect_100(self) -> bool:
        if self._refusal() is None:
            return bool(super().handle_expect_100())
        return True

    def _refusal(self) -> Answer | None:
        """What is wrong with the request's head."""
        hosts, lengths = self.headers.get_all("host", []), self.headers.get_all("content-length", [])
        if self.request_version == "HTTP/0.9" or len(hosts) > 1 or (not hosts and self.request_version != "HTTP/1.0"):
            return problem(400, "one Host header, and HTTP/1.0 or later")
        if hosts and hosts[0].strip().lower() not in self.server.hosts:
            return problem(421, "served on the loopback interface only")
        if "transfer-encoding" in self.headers:
            return problem(400 if lengths else 411, "send the body with a Content-Length")
        if len(set(lengths)) > 1 or (lengths and not re.fullmatch("[0-9]{1,18}", lengths[0].strip())):
            return problem(400, "Content-Length")
        if lengths and int(lengths[0]) > self.server.limit:
            return problem(413, f"at most {self.server.limit} bytes")
        if self.headers.defects:
            return problem(400, "malformed headers")
        return None

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length) if length else b""
        if len(body) < length:
            self.close_connection = True
            return
        self.server.wait(self.connection, on=False)
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            name = name.lower()
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        url = self.path
        if url.startswith("/"):
            url = f"http://{headers.get('host', f'127.0.0.1:{self.server.port}')}{url}"
        answer = self.server.handle(self.command, url, headers, body)
        self.server.wait(self.connection)
        self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer  # noqa: N815

    def _send(self, answer: Answer) -> None:
        self.wfile.write(_rendered(answer, last=self.close_connection, head_only=self.command == "HEAD"))
        self.wfile.flush()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses, in our words: it would quote the request."""
        self.close_connection = True
        self._send(problem(code))
        self._let_go()

    def _let_go(self) -> None:
        """Hear a refused body out, within bounds: closing on unread bytes resets the connection, and a client that is
        still sending never sees the answer (RFC 9112, 9.6).
        """
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(_LINGER_S)
            for _ in range(_LINGER_BYTES // _CHUNK):
                if not self.rfile.read1(_CHUNK):
                    return

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def _rendered(answer: Answer, *, last: bool, head_only: bool = False) -> bytes:
    """The bytes of an answer; framing is ours, whatever the handler's headers say of it."""
    status, headers, body = answer
    phrase = _PHRASES.get(status, "Unknown")
    lines = [f"HTTP/1.1 {status} {phrase}", f"date: {formatdate(usegmt=True)}"]
    lines += [f"{k}: {v}" for k, v in headers if k.lower() not in _FRAMING]
    if status in (204, 304):
        body = b""
    else:
        lines.append(f"content-length: {len(body)}")
    if last:
        lines.append("connection: close")
    head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
    return head if head_only else head + body


def path_of(url: str) -> str:
    """The path of an absolute URL, still encoded; raises BadPath."""
    try:
        return urlsplit(url).path or "/"
    except ValueError as e:
        raise BadPath from e
