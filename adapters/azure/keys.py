"""The app's own secrets, in a container that only its identity may read; made at first use, once."""

from __future__ import annotations

import base64
import secrets
from functools import cached_property

from adapters.azure.blobs import BlobStore


class Keys:
    """`registry` signs candidates (PEM, Ed25519), `public` is its other half (base64); `forms` marks our forms."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    @cached_property
    def registry(self) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        new = Ed25519PrivateKey.generate()
        return self._blobs.create("registry.pem", new.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    @cached_property
    def public(self) -> str:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

        key = load_pem_private_key(self.registry, None).public_key()
        return base64.b64encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()

    @cached_property
    def forms(self) -> bytes:
        return self._blobs.create("forms.key", secrets.token_bytes(32))
