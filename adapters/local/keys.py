"""Keys of a state folder: the registry's, which signs candidates, and each site's, which signs telemetry. Made once."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)


def registry(state: Path) -> Path:
    """keys/registry.pem, with keys/registry.pub (base64) beside it."""
    path = state / "keys" / "registry.pem"
    _make(path)
    public = path.with_suffix(".pub")
    if not public.exists():
        _write(public, _public(path).encode(), 0o644)
    return path


def site(state: Path, name: str) -> Path:
    """The private key of a site."""
    path = state / "sites" / quote(name, safe="") / "key.pem"
    _make(path)
    return path


def public(state: Path, name: str) -> str:
    """The public key of a site, base64, as fleet.yaml lists it."""
    return _public(site(state, name))


def _public(path: Path) -> str:
    key = load_pem_private_key(path.read_bytes(), None)
    return base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def _make(path: Path) -> None:
    if not path.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write(path, pem, 0o600)


def _write(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
