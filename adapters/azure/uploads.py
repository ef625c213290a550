"""Files that sites upload to Blob storage: read as streams, and only where they belong."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any
from urllib.parse import unquote

from adapters.azure.blobs import PATIENCE
from adapters.azure.errors import named
from adapters.azure.identity import Identity
from adapters.azure.settings import Settings
from triggers.errors import Refused
from triggers.ports import UploadedFile

LARGEST = 256 * 1024 * 1024
_IN_MEMORY = 8 * 1024 * 1024
PIECE = 4 * 1024 * 1024


class BlobUploads:
    """Port Uploads, on one storage account: that of UploadsBlobServiceUri, or else the app's own."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self._settings, self._identity = settings, identity

    def name(self, url: str) -> str:
        """Refuses an address that leaves the account, or whose path is not plain: an event is not believed."""
        base = self._account + "/"
        path = url[len(base) :] if url.lower().startswith(base.lower()) else ""
        try:
            name = unquote(path, errors="strict")
        except UnicodeDecodeError as error:
            raise Refused(f"not the address of an uploaded file: {url[:200]!r}") from error
        parts = name.split("/")
        if (
            re.search(r"[?#\\\x00-\x1f\x7f]", path + name)
            or unquote(name) != name
            or {"", ".", ".."} & set(parts)
            or not re.fullmatch(r"[a-z0-9-]{3,63}", parts[0])
            or len(parts) < 2
        ):
            raise Refused(f"not the address of an uploaded file of this account: {url[:200]!r}")
        return name

    @contextmanager
    def open(self, name: str) -> Iterator[UploadedFile]:
        """A copy, made while the blob stays the same; in memory where it is small."""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
            with named(f"uploaded file {name!r} cannot be read", name=name):
                etag = self._copy(name, file)
            file.seek(0)
            yield UploadedFile(name, etag, file)  # type: ignore[arg-type]

    def _copy(self, name: str, file: IO[bytes]) -> str:
        container, _, blob = name.partition("/")
        found = self._client.get_blob_client(container, blob).download_blob(validate_content=True)
        if found.size > LARGEST:
            raise Refused(f"{name[:200]}: {found.size} bytes, {LARGEST} allowed")
        found.readinto(file)
        return str(found.properties.etag)

    @property
    def _account(self) -> str:
        return self._settings.uploads or self._settings.blobs

    @cached_property
    def _client(self) -> Any:
        from azure.storage.blob import BlobServiceClient

        options: dict[str, Any] = {**PATIENCE, "max_single_get_size": PIECE, "max_chunk_get_size": PIECE}
        if self._settings.storage and not self._settings.uploads:
            return BlobServiceClient.from_connection_string(self._settings.storage, **options)
        return BlobServiceClient(self._account, credential=self._identity.credential, **options)
