"""HTTP triggers: the routing table, and a server that hostile or slow clients neither hold up nor make talk."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cli.host.app import AppError, Function
from cli.host.http import BadPath, Router, Server
from triggers.errors import Refused


def a_function(route: str, *methods: str) -> Function:
    return Function(route, "http", "req", print, route=route, methods=methods or ("GET",))


ROUTES = ("sites/{site}", "sites/{n:int}", "sites/all", "sites/{site}/rows/{row?}", "page-{n}.html", "web/{*rest}")
ROUTER = Router([a_function(r) for r in ROUTES], "api")


@pytest.mark.parametrize(
    ("path", "route", "params"),
    [
        ("/api/sites/all", "sites/all", {}),
        ("/API/Sites/ALL/", "sites/all", {}),
        ("/api/sites/-12", "sites/{n:int}", {"n": "-12"}),
        ("/api/sites/12x", "sites/{site}", {"site": "12x"}),
        ("/api/sites/%C3%BC%20b", "sites/{site}", {"site": "ü b"}),
        ("/api/sites/a%2Fb", "sites/{site}", {"site": "a%2Fb"}),
        ("/api/sites/%2e%2E%2fetc", "sites/{site}", {"site": "..%2Fetc"}),
        ("/api/sites/%252e%252e", "sites/{site}", {"site": "%2e%2e"}),
        ("/api/sites/a%2541", "sites/{site}", {"site": "a%41"}),
        ("/api/sites/a/rows", "sites/{site}/rows/{row?}", {"site": "a"}),
        ("/api/sites/a/rows/7", "sites/{site}/rows/{row?}", {"site": "a", "row": "7"}),
        ("/api/page-3.html", "page-{n}.html", {"n": "3"}),
        ("/api/web", "web/{*rest}", {}),
        ("/api/web/a/b//c.js", "web/{*rest}", {"rest": "a/b//c.js"}),
        *((path, None, {}) for path in ("/", "/api", "/api/sites", "/sites/all", "//api/sites/all", "/api//sites/all")),
        ("/api/sites/a/b", None, {}),
        ("*", None, {}),
    ],
)
def test_a_path_leads_to_one_function(path: str, route: str | None, params: dict[str, str]) -> None:
    found = ROUTER.match("GET", path)
    assert (found.function.route if found.function else None, found.params) == (route, params)


@pytest.mark.attack
@pytest.mark.parametrize(
    "path",
    [
        *("/api/web/../secret", "/api/web/%2e%2e/secret", "/api/web/.", "/api/sites/%00", "/api/sites/a%0d%0ab"),
        *("/api/sites/%", "/api/sites/%zz", "/api/sites/%ff", "/api/sites/a\\b", "/api/sites/%5c..", "/" + "a" * 9000),
    ],
)
def test_a_hostile_path_leads_nowhere(path: str) -> None:
    with pytest.raises(BadPath):
        ROUTER.match("GET", path)


@pytest.mark.parametrize("route", ["a/{*rest}/b", "a/{n:regex(x)}", "a/{n:odd}", "a/{n", "{n}/{n}"])
def test_a_route_that_is_not_understood_is_refused(route: str) -> None:
    with pytest.raises(AppError, match="route"):
        Router([a_function(route)], "api")


@pytest.fixture
def port(here: Any) -> Iterator[int]:
    server = here.host.start_http(0)
    yield server.port
    server.stop()


def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def raw(port: int, request: bytes, seconds: float = 5.0) -> bytes:
    """All that the server says to these bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as client:
        client.sendall(request)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        return answer


def test_a_handler_gets_the_request_and_its_answer_goes_back(port: int) -> None:
    status, headers, body = ask(port, "POST", "/api/echo/a", b'{"x":1}')
    assert (status, headers["content-type"], body) == (202, "application/json", b'{"x":1}')
    assert ask(port, "GET", "/api/echo/7?a=1&b=&a=2")[2] == b"GET 7 {'a': '1,2', 'b': ''}"
    assert ask(port, "DELETE", "/api/secret")[::2] == (204, b"")
    status, headers, body = ask(port, "GET", "/api/cookies", **{"X-Twice": "1"})
    assert (headers["set-cookie"], headers["x-seen"], headers["content-length"]) == ("a=1; HttpOnly", "1", "3")


def test_head_has_no_body_and_is_a_get_to_the_handler(port: int) -> None:
    status, headers, body = ask(port, "HEAD", "/api/echo/7")
    assert (status, headers["content-length"], body) == (200, str(len("GET 7 {}")), b"")


def test_options_and_405_say_what_is_allowed(port: int) -> None:
    assert ask(port, "OPTIONS", "/api/secret")[:2][1]["allow"] == "GET, DELETE, HEAD, OPTIONS"
    status, headers, _ = ask(port, "PATCH", "/api/echo/x")
    assert (status, headers["allow"]) == (405, "POST, OPTIONS")


def test_errors_are_problems_without_a_traceback(port: int, caplog: pytest.LogCaptureFixture) -> None:
    status, headers, body = ask(port, "GET", "/nowhere")
    assert (status, headers["content-type"], json.loads(body)["title"]) == (
        404,
        "application/problem+json",
        "Not Found",
    )
    with caplog.at_level(logging.ERROR, "driftloop.host"):
        status, _, body = ask(port, "GET", "/api/secret")
    assert status == 500
    assert b"secret failed" in body
    assert b"swordfish" not in body
    assert b"Traceback" not in body
    assert "secret failed (GET /api/secret): RuntimeError: swordfish" in caplog.text


@pytest.mark.attack
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET /\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n", 501),
        (b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"x: y\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 70000 + b"\r\n\r\n", 431),
        (b"POST /api/echo/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /api/echo/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1e3\r\n\r\n", 400),
        (b"POST /api/echo/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST /api/echo/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST /api/echo/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: x\r\nContent-Length: 1\r\n\r\na", 400),
        (b"POST /api/echo/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (
            b"POST /api/echo/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048577\r\nExpect: 100-continue\r\n\r\n",
            413,
        ),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nno colon here\r\nX-A: 1\r\n\r\n", 400),
    ],
)
def test_a_malformed_request_is_refused_and_the_connection_closed(port: int, request_: bytes, status: int) -> None:
    answer = raw(port, request_)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert b"connection: close" in answer
    assert b"application/problem+json" in answer
    assert answer.count(b"HTTP/1.1") == 1


def test_one_byte_more_than_allowed_is_too_large_and_the_limit_itself_is_not(port: int) -> None:
    assert ask(port, "POST", "/api/echo/a", b"x" * (1 << 20))[0] == 202
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.putrequest("POST", "/api/echo/a")
    connection.putheader("Content-Length", str((1 << 20) + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_who_sends_all_before_listening_hears_why_it_was_refused(port: int) -> None:
    body = b"x" * (8 << 20)  # more than the buffers of both ends hold
    for _ in range(20):
        assert ask(port, "POST", "/api/echo/a", body)[0] == 413


def test_requests_follow_each_other_on_one_connection(port: int) -> None:
    one = b"POST /api/echo/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
    answer = raw(port, one + b"ab" + one + b"cd" + b"GET /api/echo/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert [a.rpartition(b"\r\n\r\n")[2] for a in answer.split(b"HTTP/1.1 ")][1:3] == [b"ab", b"cd"]


def test_slow_clients_are_cut_off_and_hold_up_nobody() -> None:
    server = Server(0, lambda *_: (200, [], b"ok"), patience=2.0, connections=20)
    server.start()
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(15)]
    try:
        for n, client in enumerate(idle):
            client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc"[: 10 * n])
        assert ask(server.port, "GET", "/")[2] == b"ok"
        idle[0].setblocking(False)
        with pytest.raises(BlockingIOError):  # it waits still: nobody was held up until it was cut off
            idle[0].recv(100)
        for client in idle:
            client.settimeout(30)
            assert client.recv(100) == b""
    finally:
        for client in idle:
            client.close()
        server.stop()


def test_more_connections_than_allowed_are_told_to_come_again() -> None:
    server = Server(0, lambda *_: (200, [], b"ok"), connections=2)
    server.start()
    taken = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
    try:
        answer = raw(server.port, b"")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
    finally:
        for client in taken:
            client.close()
        server.stop()


def test_many_clients_at_once_each_get_their_own_answer(port: int) -> None:
    wrong: list[bytes] = []

    def client(n: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        for i in range(20):
            connection.request("POST", f"/api/echo/c{n}", f"{n}/{i}".encode())
            body = connection.getresponse().read()
            if body != f"{n}/{i}".encode():
                wrong.append(body)
        connection.close()

    began = time.monotonic()
    slow = threading.Thread(target=ask, args=(port, "GET", "/api/slow"))
    clients = [slow, *(threading.Thread(target=client, args=(n,)) for n in range(16))]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert wrong == []
    assert time.monotonic() - began < 60


def test_a_bind_that_fails_says_so(port: int, start: Callable[..., Any]) -> None:
    with pytest.raises(Refused, match="in use; --port names another"):
        Server(port, lambda *_: (200, [], b""))
