"""The query endpoint of Log Analytics for tests: answers what it is told to, to who has a token that it knows."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.servers.https import Handler, serving


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

    class Asked(Handler):
        def do_POST(self) -> None:  # noqa: N802
            asked = json.loads(self.read())
            here.asked.append({"path": self.path, "prefer": self.headers.get("Prefer", ""), **asked})
            answer = here.answers.popleft() if len(here.answers) > 1 else here.answers[0]
            if answer == "drop":
                self.close_connection = True
                return
            if self.headers.get("Authorization", "").removeprefix("Bearer ") not in here.tokens:
                answer = 401
            status, body = (200, answer) if isinstance(answer, dict) else (answer, {"error": {"code": str(answer)}})
            self.answer(status, json.dumps(body).encode())

    with serving(Asked, cert, key) as here.url:
        yield here
