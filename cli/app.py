"""The app that a command talks to: a state folder on this machine, or a deployed one by its address. Both are asked
over the same HTTP surface; that of a state folder is served in this process, whether or not a host is running on it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from getpass import getuser
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

from triggers.errors import NotFound, Refused, Retry

_WAIT_S = 60.0


class _Answers(Protocol):
    """Status, headers and body of one request; `path` begins with /api/."""

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> _Answer: ...


_Answer = tuple[int, Mapping[str, str], bytes]


class App:
    """The HTTP surface of an app, for whoever is signed in."""

    def __init__(self, origin: str, ask: _Answers, headers: Mapping[str, str]) -> None:
        """`headers` say who asks."""
        self._origin, self._ask, self._who = origin, ask, headers

    def get(self, path: str, **query: str | int) -> Any:
        """What GET /api/`path` answers. Raises NotFound, Refused, Retry."""
        return json.loads(self.read(path, **query))

    def all(self, path: str, name: str, **query: str | int) -> Any:
        """As `get`, with what is on the pages that follow: the list `name` is whole."""
        found = page = self.get(path, **query)
        while page["next"]:
            page = self.get(path, cursor=page["next"], **query)
            found[name] += page[name]
        return {**found, "next": None}

    def read(self, path: str, **query: str | int) -> bytes:
        """As `get`, the very bytes."""
        return self._call("GET", f"{path}?{urlencode(query)}" if query else path)

    def do(self, path: str, reason: str, **more: str | bool) -> Any:
        """What POST /api/`path` answers to somebody who gives a reason. Raises as `get`."""
        csrf = self.get("session")["csrf"]
        if not csrf:
            raise Refused("not signed in: who may change something is said by a login link, or a token (--help)")
        headers = {"Content-Type": "application/json", "Origin": self._origin, "X-CSRF-Token": csrf}
        return json.loads(self._call("POST", path, headers, json.dumps({"reason": reason, **more}).encode()))

    def answer(self, run: str, word: str, reason: str, shown: Mapping[str, str]) -> Any:
        """What POST /api/approvals/`run` answers, bound to the digests that were `shown`. Raises as `get`."""
        body = {"answer": word, "reason": reason, **shown}
        if "Authorization" not in self._who:
            page = self._call("GET", f"approvals/{run}").decode()
            found = re.search(r'name="csrf" value="([^"]*)"', page)
            body["csrf"] = found[1] if found else ""
        headers = {"Content-Type": "application/json", "Origin": self._origin}
        return json.loads(self._call("POST", f"approvals/{run}", headers, json.dumps(body).encode()))

    def loop(self, said: str | None) -> str:
        """The loop that is meant: the only one, where none is said. Raises Refused."""
        if said:
            return said
        names = [found["name"] for found in self.get("loops")["loops"]]
        if len(names) != 1:
            raise Refused(f"--loop: expected one of {', '.join(names) or '(there is no loop yet)'}")
        return str(names[0])

    def _call(self, method: str, path: str, headers: Mapping[str, str] = {}, body: bytes = b"") -> bytes:
        status, _, said = self._ask(method, f"/api/{path}", {**self._who, **headers}, body)
        if status < 300:
            return said
        try:
            what = json.loads(said)["detail"]
        except (ValueError, KeyError, TypeError):
            what = f"{self._origin}/api/{path} answers {status}"
        if status == 401:
            what = f"{what}: with DRIFTLOOP_TOKEN, or a login link as --app"
        kind = NotFound if status == 404 else Retry if status in (429, 502, 503, 504) else Refused
        raise kind(what)


def arguments(parser: argparse.ArgumentParser) -> None:
    """--state, --app and --json."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--state", type=Path, metavar="DIR", help="its state folder (default: DRIFTLOOP_STATE, or state)"
    )
    where.add_argument(
        "--app",
        metavar="URL",
        help="its address, or the login link that a local host has printed (default: DRIFTLOOP_APP). Of a deployed app "
        "the token is DRIFTLOOP_TOKEN, or one for the scope DRIFTLOOP_SCOPE by your Azure sign-in",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


@contextmanager
def connect(args: argparse.Namespace) -> Iterator[App]:
    """The app that the arguments mean. Raises Refused where there is none."""
    url = args.app or ("" if args.state else os.environ.get("DRIFTLOOP_APP", ""))
    if url:
        yield _deployed(url)
        return
    state = args.state or Path(os.environ.get("DRIFTLOOP_STATE", "state"))
    if not (state / "state.db").exists():
        raise Refused(f"{state}: no state.db there; expected the state folder of an app that has run, or --app URL")
    os.environ.update(DRIFTLOOP_PROFILE="local", DRIFTLOOP_STATE=str(state))
    from functions import host

    host.ports.cache_clear()
    host.local.cache_clear()
    try:
        yield _here(getattr(args, "name", "") or getuser())
    finally:
        host.local().close()
        host.ports.cache_clear()
        host.local.cache_clear()


def _here(name: str) -> App:
    """The functions in this process, asked as whoever runs the command: who may write the state may operate it."""
    from cli.host import APP, decode, load
    from cli.host.app import index, read_host_json
    from cli.host.http import Router, path_of
    from functions import host

    prefix = read_host_json(APP.parent / "host.json").route_prefix
    router = Router(index(load(APP), host.SETTINGS), prefix)
    origin = "http://localhost"

    def ask(method: str, path: str, headers: Mapping[str, str], body: bytes) -> _Answer:
        match = router.match(method, path_of(origin + path))
        if match.function is None:
            raise NotFound(f"no such address: {path}")
        request = decode.request(method, origin + path, headers, match.params, body)
        status, found, said = decode.response(match.function.call(**{match.function.arg: request}))
        return status, {k.lower(): v for k, v in found}, said

    link = host.local().people.login_link("", name)
    return App(origin, ask, _cookie(ask("GET", link, {}, b"")))


def _deployed(url: str) -> App:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(f"--app {url}: expected an address like https://loop.example.org")
    origin = f"{parts.scheme}://{parts.netloc}"
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    def ask(method: str, path: str, headers: Mapping[str, str], body: bytes) -> _Answer:
        connection = kind(parts.netloc, timeout=_WAIT_S)
        try:
            connection.request(method, path, body or None, dict(headers))
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        except (OSError, http.client.HTTPException) as e:
            raise Retry(f"{origin}: {e}") from e
        finally:
            connection.close()

    if parts.path == "/api/login":
        return App(origin, ask, _cookie(ask("GET", f"{parts.path}?{parts.query}", {}, b"")))
    token = os.environ.get("DRIFTLOOP_TOKEN") or _token(os.environ.get("DRIFTLOOP_SCOPE", ""))
    return App(origin, ask, {"Authorization": f"Bearer {token}"} if token else {})


def _cookie(answer: _Answer) -> dict[str, str]:
    status, headers, _ = answer
    if status != 200 or "set-cookie" not in headers:
        raise Refused("the login link is not valid, or no longer")
    return {"Cookie": headers["set-cookie"].partition(";")[0]}


def _token(scope: str) -> str:
    if not scope:
        return ""
    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import DefaultAzureCredential

    try:
        return DefaultAzureCredential().get_token(scope).token
    except ClientAuthenticationError as e:
        raise Refused(f"no token for {scope}: {e.message.splitlines()[0]}") from e


def when(text: str | None) -> str:
    """
    >>> when("2026-03-01T06:05:09Z"), when(None)
    ('2026-03-01 06:05', '')
    """
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M}" if text else ""


COLOURS: Mapping[str, str] = {
    **dict.fromkeys(("verified", "restored", "passed", "approved"), "green"),
    **dict.fromkeys(("asked", "applied", "underway", "training", "evaluating", "rolling-out"), "blue"),
    **dict.fromkeys(("awaiting-approval", "deferred", "restoring", "inconclusive"), "yellow"),
    **dict.fromkeys(("failed", "stuck", "silent", "rolling-back", "rolled-back"), "red"),
}
"""Of words in tables, on a terminal; what they say is in the word."""


def show_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns; the last one is folded on a terminal, and written out where there is none."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=1000)
    table = Table(*(Column(h, no_wrap=h != head[-1]) for h in head), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell, COLOURS.get(cell.partition(",")[0], "")) for cell in row))
    console.print(table)


def show_chapter(title: str, sentences: Iterable[str]) -> None:
    """A title, and a sentence a line."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=1000)
    console.print(Text(title, style="bold"))
    for sentence in sentences:
        console.print(Text(f"  {sentence}"))
    console.print()
