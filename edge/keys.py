"""Ed25519 keys: PEM (PKCS 8) for the private half, base64 of its 32 bytes for the public one."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from edge.errors import Refused


def new() -> tuple[bytes, str]:
    """A private key as PEM, and its public half as base64."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return pem, base64.b64encode(private.public_key().public_bytes_raw()).decode()


def public(pem: bytes) -> str:
    """The public half of a private key (PEM), as base64. Raises Refused where the bytes are not such a key."""
    return base64.b64encode(_private(pem).public_key().public_bytes_raw()).decode()


def signer(pem: bytes) -> Callable[[bytes], bytes]:
    """What signs with this private key. Raises Refused where the bytes are not such a key."""
    sign: Callable[[bytes], bytes] = _private(pem).sign
    return sign


def _private(pem: bytes) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Refused(f"not a private key in PEM: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise Refused("not an Ed25519 key")
    return private


def verify(public: str | bytes, signature: bytes, signed: bytes) -> bool:
    """Whether `signature` is of `signed`, by the owner of `public`. Raises Refused where `public` is not a key."""
    from cryptography.exceptions import InvalidSignature

    key = _public(public.encode() if isinstance(public, str) else public)
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _public(public: bytes) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        if not public.lstrip().startswith(b"-----BEGIN"):
            return Ed25519PublicKey.from_public_bytes(base64.b64decode(public.strip(), validate=True))
        key = load_pem_public_key(public)
    except (ValueError, binascii.Error, UnsupportedAlgorithm) as error:
        raise Refused(f"not a public key, PEM or base64 of 32 bytes: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise Refused("not an Ed25519 key")
    return key
