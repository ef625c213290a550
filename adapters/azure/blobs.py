"""Blobs in a container of Blob storage, whole or not at all."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from adapters.azure.identity import Identity
from adapters.azure.rest import Answer, Rest, md5
from adapters.azure.settings import Settings
from adapters.local.blobs import NAME_CHARACTERS, quote, unquote
from triggers.errors import NotFound, Refused

PIECE = 4 * 1024 * 1024
PATIENCE: Mapping[str, Any] = {"connection_timeout": 5, "read_timeout": 20}


class BlobStore:
    """Port Blobs. Names are quoted as in a folder of the local profile: a job that mounts the container finds the same.

    What is large goes in pieces, and each piece has its digest with it, both ways: what is damaged on the way is sent
    again.
    """

    def __init__(self, settings: Settings, identity: Identity, container: Callable[[], str]) -> None:
        self._rest, self._name = Rest("blob", settings, identity, PATIENCE), container

    def put(self, name: str, data: bytes) -> None:
        self._upload(name, data)

    def create(self, name: str, data: bytes) -> bytes:
        """Write what is not there yet, and return what is there then: of several who create it, one wins."""
        if self._upload(name, data, {"If-None-Match": "*"}).status in (409, 412):
            return self.get(name)
        return data

    def _upload(self, name: str, data: bytes, unless: Mapping[str, str] | None = None) -> Answer:
        """`unless`: a condition, whose failing is an answer."""
        what, path, taken = f"blob {name!r} cannot be written", self._path(name), (409, 412) if unless else ()
        headers = {"x-ms-blob-type": "BlockBlob", "Content-MD5": md5(data), **(unless or {})}
        if len(data) <= PIECE:
            return self._written(what, path, {}, headers, data, taken)
        ids = []
        for n, start in enumerate(range(0, len(data), PIECE)):
            piece = data[start : start + PIECE]
            ids.append(base64.b64encode(f"{n:08}".encode()).decode())
            self._written(what, path, {"comp": "block", "blockid": ids[-1]}, {"Content-MD5": md5(piece)}, piece)
        listed = "".join(f"<Latest>{block}</Latest>" for block in ids)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
        headers = {"x-ms-blob-content-md5": md5(data), **(unless or {})}
        return self._written(what, path, {"comp": "blocklist"}, headers, body, taken)

    def _written(
        self,
        what: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
        taken: tuple[int, ...] = (),
    ) -> Answer:
        while True:
            answer = self._rest.ask(what, "PUT", path, query, headers, body, taken=(404, *taken))
            if answer.status != 404:
                return answer
            if answer.code != "ContainerNotFound":
                raise NotFound(what)
            self._create_container()

    def get(self, name: str) -> bytes:
        found = self.newer(name, "")
        assert found is not None
        return found[0]

    def newer(self, name: str, than: str) -> tuple[bytes, str] | None:
        """Bytes and ETag; None where the ETag is still `than`. Raises NotFound."""
        first = self._piece(name, 0, {"If-None-Match": than} if than else {})
        if first.status == 304:
            return None
        pieces, etag = [first.body], first.headers["ETag"]
        total = int(first.headers.get("Content-Range", "").rpartition("/")[2] or len(first.body))
        while (there := sum(map(len, pieces))) < total:
            pieces.append(self._piece(name, there, {"If-Match": etag}).body)
        return b"".join(pieces), etag

    def _piece(self, name: str, start: int, since: Mapping[str, str]) -> Answer:
        what, path = f"blob {name!r} cannot be read", self._path(name)
        part = {"x-ms-range": f"bytes={start}-{start + PIECE - 1}", "x-ms-range-get-content-md5": "true"}
        answer = self._rest.ask(what, "GET", path, {}, {**since, **part}, taken=(304, 404, 416), name=name)
        if answer.status == 416:  # it is empty
            answer = self._rest.ask(what, "GET", path, {}, since, taken=(304, 404), name=name)
        if answer.status == 404:
            raise NotFound(f"no blob {name!r}", name=name)
        return answer

    def exists(self, name: str) -> bool:
        what = f"blob {name!r} cannot be looked for"
        return self._rest.ask(what, "HEAD", self._path(name), taken=(404,), name=name).status != 404

    def names(self, prefix: str = "") -> Iterator[str]:
        """Sorted by code point."""
        folder, slash, _ = prefix.rpartition("/")
        begin = "/".join(map(quote, folder.split("/"))) + slash if slash else ""
        found = map(unstored, self._listed(f"the names below {prefix!r} cannot be listed", begin))
        yield from sorted(name for name in found if name.startswith(prefix))

    def _listed(self, what: str, begin: str) -> Iterator[str]:
        from xml.etree import ElementTree

        query, marker = {"restype": "container", "comp": "list", "prefix": begin}, ""
        while True:
            more = {"marker": marker} if marker else {}
            answer = self._rest.ask(what, "GET", f"/{self._name()}", {**query, **more}, taken=(404,))
            if answer.status == 404:
                return
            page = ElementTree.fromstring(answer.body)  # noqa: S314 - the storage account's own words
            yield from (name.text or "" for name in page.iterfind("Blobs/Blob/Name"))
            marker = page.findtext("NextMarker") or ""
            if not marker:
                return

    def delete(self, name: str) -> None:
        self._rest.ask(f"blob {name!r} cannot be deleted", "DELETE", self._path(name), taken=(404,), name=name)

    def _create_container(self) -> None:
        what = f"container {self._name()!r} cannot be made"
        self._rest.ask(what, "PUT", f"/{self._name()}", {"restype": "container"}, taken=(409,))

    def _path(self, name: str) -> str:
        return f"/{self._name()}/{stored(name)}"


def stored(name: str) -> str:
    """The blob's own name. Refuses the empty name, one too long, and what is not Unicode text.

    >>> stored("batches/flights/a b"), unstored(stored("../ä"))
    ('batches/flights/a%20b', '../ä')
    """
    try:
        quoted = "/".join(map(quote, name.split("/")))
    except UnicodeEncodeError as error:
        raise Refused("a blob's name that is not Unicode text", name=ascii(name)) from error
    if not name or len(quoted) > NAME_CHARACTERS:
        raise Refused(f"a blob's name has 1 to {NAME_CHARACTERS} characters, quoted", name=name[:80])
    return quoted


def unstored(quoted: str) -> str:
    return "/".join(map(unquote, quoted.split("/")))
