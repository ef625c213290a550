"""A person's browser, as far as answering at the approval page needs one."""

from __future__ import annotations

import http.client
import urllib.parse
from collections.abc import Mapping
from html.parser import HTMLParser

from triggers.errors import Refused


class Page:
    """A signed-in person: what says who they are, a form, its hidden fields."""

    def __init__(self, base: str, login: str) -> None:
        self.base = base
        self.headers = {"Origin": base, "Content-Type": "application/x-www-form-urlencoded"}
        self._sign_in(login)

    def _sign_in(self, login: str) -> None:
        status, headers, _ = self._send("GET", login.removeprefix(self.base))
        self.headers["Cookie"] = (headers.get("set-cookie") or "").split(";")[0]
        if not self.headers["Cookie"]:
            raise Refused(f"the login link was not accepted ({status})")

    def form(self, path: str) -> dict[str, str] | None:
        """The hidden fields of the page's form; None where nothing is asked."""
        status, _, body = self._send("GET", path)
        if status != 200:
            raise Refused(f"{path} answered {status}")
        fields = _Hidden()
        fields.feed(body.decode())
        return fields.found or None

    def post(self, path: str, form: Mapping[str, str]) -> None:
        """Raises Refused with what the page says."""
        status, _, body = self._send("POST", path, urllib.parse.urlencode(form).encode())
        if status >= 400:
            raise Refused(f"{path} answered {status}: {body[:300].decode('utf-8', 'replace')}")

    def _send(self, method: str, path: str, body: bytes = b"") -> tuple[int, http.client.HTTPMessage, bytes]:
        host = urllib.parse.urlsplit(self.base).netloc
        connection = http.client.HTTPConnection(host, timeout=30)
        connection.request(method, path, body or None, self.headers)
        answer = connection.getresponse()
        found = answer.status, answer.headers, answer.read()
        connection.close()
        return found


class _Hidden(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "input" and said.get("type") == "hidden" and said.get("name"):
            self.found[str(said["name"])] = said.get("value") or ""
