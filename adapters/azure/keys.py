"""The app's own secrets, in a container that only its identity may read; made at first use, once."""

from __future__ import annotations

import secrets
from functools import cached_property

from adapters.azure.blobs import BlobStore


class Keys:
    """`registry` signs candidates (PEM, P-256), `public` is its other half (PEM); `forms` marks our forms."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    @cached_property
    def registry(self) -> bytes:
        from edge import signing

        return self._blobs.create("registry.pem", signing.new()[0])

    @cached_property
    def public(self) -> str:
        from edge import signing

        return signing.public(self.registry)

    @cached_property
    def forms(self) -> bytes:
        return self._blobs.create("forms.key", secrets.token_bytes(32))
