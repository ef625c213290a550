"""Ed25519 signatures."""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache
from typing import Any


class Ed25519:
    """Port Signatures."""

    def verify(self, public: str, signature: bytes, data: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            _key(public).verify(signature, data)
        except (InvalidSignature, ValueError, binascii.Error):
            return False
        return True


@lru_cache(maxsize=4096)
def _key(public: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(base64.b64decode(public))
