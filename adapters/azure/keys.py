"""The app's own secrets, in a container that only its identity may read; made at first use, once."""

from __future__ import annotations

import secrets
from functools import cached_property

from adapters.azure.blobs import BlobStore
from triggers.errors import NotFound

PUBLIC = "registry.pub"


class Keys:
    """`registry` signs candidates (PEM, P-256), `public` is its other half (PEM); `forms` marks our forms.

    `shared` is where the public half lies, for an app that deploys and may not read the other.
    """

    def __init__(self, blobs: BlobStore, shared: BlobStore) -> None:
        self._blobs, self._shared = blobs, shared

    @cached_property
    def registry(self) -> bytes:
        from edge import signing

        private = self._blobs.create("registry.pem", signing.new()[0])
        self._shared.put(PUBLIC, signing.public(private).encode())
        return private

    @cached_property
    def public(self) -> str:
        from edge import signing

        try:
            return self._shared.get(PUBLIC).decode()
        except NotFound:
            return signing.public(self.registry)

    @cached_property
    def forms(self) -> bytes:
        return self._blobs.create("forms.key", secrets.token_bytes(32))
