"""What a site reaches over the network: the registry that it reads and the ingest that it writes to."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from edge.errors import Refused, Unreachable

TIMEOUT = 30.0
"""Seconds."""
_PART = 1 << 18


@dataclass(frozen=True, slots=True)
class Answer:
    """What the ingest said to one batch; `retry_after` in seconds, 0 where it named none."""

    status: int
    reason: str
    retry_after: float = 0.0

    @property
    def accepted(self) -> bool:
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Wrong and stays wrong. Anything else that is not accepted may be asked again."""
        return 400 <= self.status < 500 and self.status not in (408, 429)


class Registry:
    """Candidates and layers under a folder or an http(s) URL."""

    def __init__(self, source: str) -> None:
        self._source = source

    def read(self, name: str, limit: int) -> bytes:
        """At most `limit` bytes. Raises Refused where there is no such name, Unreachable where nobody answers."""
        if urlsplit(self._source).scheme in ("http", "https"):
            return self._fetch(f"{self._source.rstrip('/')}/{name}", name, limit)
        try:
            with (Path(self._source) / name).open("rb") as file:
                return _within(file.read(limit + 1), limit, name)
        except FileNotFoundError as error:
            if not Path(self._source).is_dir():
                raise Unreachable(f"the registry {self._source} is not there") from error
            raise Refused("is not in the registry", name) from error
        except OSError as error:
            raise Unreachable(f"{name} cannot be read: {error}") from error

    def fetch(self, name: str, target: Path, size: int) -> None:
        """Bring `size` bytes into a file, from where an earlier attempt was cut off.

        Raises Refused where there are more, or no such name; Unreachable where not all came: what came stays.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab") as file:
            begin = file.tell() if file.tell() <= size else 0
            if begin == size:
                return
            try:
                start, source = self._open(name, begin)
                with source:
                    file.seek(start)
                    file.truncate()
                    while part := source.read(_PART):
                        file.write(part)
                        if file.tell() > size:
                            raise Refused(f"is longer than {size} bytes", name)
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable(f"the registry cannot be reached: {error}") from error
            if file.tell() < size:
                raise Unreachable(f"{name} was cut off after {file.tell():,} of {size:,} bytes")

    def _open(self, name: str, begin: int) -> tuple[int, BinaryIO]:
        """The bytes from `begin` on, or, where the other end does not know parts, from 0 on."""
        if urlsplit(self._source).scheme not in ("http", "https"):
            try:
                file = (Path(self._source) / name).open("rb")
            except FileNotFoundError as error:
                raise Refused("is not in the registry", name) from error
            file.seek(begin)
            return begin, file
        request = urllib.request.Request(f"{self._source.rstrip('/')}/{name}")  # noqa: S310  as below
        if begin:
            request.add_header("Range", f"bytes={begin}-")
        try:
            answer = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310  the scheme was looked at
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                raise Refused("is not in the registry", name) from error
            raise Unreachable(f"the registry answered {error.code} to {name}") from error
        return (begin if answer.status == 206 else 0), answer

    def _fetch(self, url: str, name: str, limit: int) -> bytes:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310  the scheme was looked at
                return _within(answer.read(limit + 1), limit, name)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                raise Refused("is not in the registry", name) from error
            raise Unreachable(f"the registry answered {error.code} to {name}") from error
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the registry cannot be reached: {error}") from error


class Uplink:
    """Posts batches to the ingest over one connection that is kept open."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise Refused(f"is not an http(s) URL: {url!r}", "ingest")
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes) -> Answer:
        """Raises Unreachable."""
        fresh = self._connection is None
        try:
            return self._post(body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if fresh:
                raise Unreachable(f"{self._url.netloc}: {error}") from error
        try:  # the other end closes a connection that was idle for long
            return self._post(body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(f"{self._url.netloc}: {error}") from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, body: bytes) -> Answer:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
            self._connection = kind(self._url.hostname or "", self._url.port, timeout=TIMEOUT)
        path = self._url.path or "/"
        path = f"{path}?{self._url.query}" if self._url.query else path
        self._connection.request("POST", path, body, {"Content-Type": "application/json"})
        with self._connection.getresponse() as answer:
            said = answer.read(1 << 16)
            after = answer.headers.get("Retry-After", "")
            if answer.length:  # more than anybody reads
                self.close()
            reason = said[:300].decode(errors="replace") or answer.reason
            return Answer(answer.status, reason, float(after) if after.isdigit() else 0.0)


class Backoff:
    """When to try again: twice as long after each failure, from 1 s to 5 minutes."""

    def __init__(self) -> None:
        self._wait = 0.0
        self._until = 0.0
        self._lock = threading.Lock()

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._until

    def note(self, reached: bool, at_least: float = 0.0) -> None:
        """What came of a try; the other end may have asked for a pause, in seconds."""
        with self._lock:
            self._wait = 0.0 if reached else min(300.0, max(1.0, 2 * self._wait))
            self._until = time.monotonic() + min(300.0, max(self._wait, at_least))


def _within(data: bytes, limit: int, name: str) -> bytes:
    if len(data) > limit:
        raise Refused(f"is longer than {limit} bytes", name)
    return data
