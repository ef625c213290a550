"""The query endpoint of Log Analytics for tests: answers what it is told to, to who has a token that it knows."""

from __future__ import annotations

import json
import ssl
import threading
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class LogAnalytics:
    """`answers` come one after the other, the last one again and again: a body, a status, or "drop"."""

    url: str = ""
    tokens: Collection[str] = ()
    answers: deque[Any] = field(default_factory=deque)
    asked: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def running(cert: str, key: str, tokens: Collection[str]) -> Iterator[LogAnalytics]:
    here = LogAnalytics(tokens=tokens)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            here.asked.append({"path": self.path, "prefer": self.headers.get("Prefer", ""), **asked})
            answer = here.answers.popleft() if len(here.answers) > 1 else here.answers[0]
            if answer == "drop":
                self.close_connection = True
                return
            if self.headers.get("Authorization", "").removeprefix("Bearer ") not in here.tokens:
                answer = 401
            status, body = (200, answer) if isinstance(answer, dict) else (answer, {"error": {"code": str(answer)}})
            said = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            if status in (429, 503):
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        here.url = f"https://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield here
        server.shutdown()
