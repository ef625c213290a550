"""Blobs in a container of Blob storage, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from adapters.azure.errors import code_of, named
from adapters.azure.identity import Identity
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
        self._settings, self._identity, self._name = settings, identity, container

    @cached_property
    def container(self) -> Any:
        """The SDK's client of it."""
        from azure.storage.blob import ContainerClient, LinearRetry

        pieces = ("max_single_put_size", "max_block_size", "max_single_get_size", "max_chunk_get_size")
        retries = LinearRetry(backoff=0.6, retry_total=3, random_jitter_range=0.4)  # type: ignore[arg-type]
        s, options = self._settings, {**PATIENCE, **dict.fromkeys(pieces, PIECE), "retry_policy": retries}
        if s.storage:
            return ContainerClient.from_connection_string(s.storage, self._name(), **options)
        return ContainerClient(s.blobs, self._name(), credential=self._identity.credential, **options)

    def put(self, name: str, data: bytes) -> None:
        with named(f"blob {name!r} cannot be written", name=name):
            self._upload(stored(name), data, overwrite=True)

    def create(self, name: str, data: bytes) -> bytes:
        """Write what is not there yet, and return what is there then: of several who create it, one wins."""
        from azure.core.exceptions import ResourceExistsError

        with named(f"blob {name!r} cannot be written", name=name):
            try:
                self._upload(stored(name), data, overwrite=False)
            except ResourceExistsError:
                return self.get(name)
            return data

    def _upload(self, quoted: str, data: bytes, overwrite: bool) -> None:
        blob = self.container.get_blob_client(quoted)
        try:
            blob.upload_blob(data, overwrite=overwrite, validate_content=True)
        except Exception as error:
            if code_of(error) != "ContainerNotFound":
                raise
            self._create_container()
            blob.upload_blob(data, overwrite=overwrite, validate_content=True)

    def get(self, name: str) -> bytes:
        found = self.newer(name, "")
        assert found is not None
        return found[0]

    def newer(self, name: str, than: str) -> tuple[bytes, str] | None:
        """Bytes and ETag; None where the ETag is still `than`. Raises NotFound."""
        from azure.core import MatchConditions
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

        since = {"etag": than, "match_condition": MatchConditions.IfModified} if than else {}
        with named(f"blob {name!r} cannot be read", name=name):
            try:
                blob = self.container.download_blob(stored(name), validate_content=True, **since)
                return blob.readall(), blob.properties.etag
            except ResourceNotFoundError as error:
                raise NotFound(f"no blob {name!r}", name=name) from error
            except HttpResponseError as error:
                if error.status_code == 304:
                    return None
                raise

    def exists(self, name: str) -> bool:
        with named(f"blob {name!r} cannot be looked for", name=name):
            return bool(self.container.get_blob_client(stored(name)).exists())

    def names(self, prefix: str = "") -> Iterator[str]:
        """Sorted by code point."""
        folder, slash, _ = prefix.rpartition("/")
        begin = "/".join(map(quote, folder.split("/"))) + slash if slash else ""
        with named(f"the names below {prefix!r} cannot be listed"):
            found = map(unstored, self._listed(begin))
            yield from sorted(name for name in found if name.startswith(prefix))

    def _listed(self, begin: str) -> Iterator[str]:
        try:
            yield from self.container.list_blob_names(name_starts_with=begin)
        except Exception as error:
            if code_of(error) != "ContainerNotFound":
                raise

    def delete(self, name: str) -> None:
        from azure.core.exceptions import ResourceNotFoundError

        with named(f"blob {name!r} cannot be deleted", name=name):
            try:
                self.container.delete_blob(stored(name))
            except ResourceNotFoundError:
                return

    def _create_container(self) -> None:
        from azure.core.exceptions import ResourceExistsError

        try:
            self.container.create_container()
        except ResourceExistsError:
            return


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
