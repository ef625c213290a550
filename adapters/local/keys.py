"""Keys of a state folder: the registry's, which signs candidates, and each site's, which signs telemetry. Made once."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from edge import keys, signing


def registry(state: Path) -> Path:
    """keys/registry.pem, with its public half keys/registry.pub beside it (edge.signing)."""
    path = state / "keys" / "registry.pem"
    if not path.exists():
        _write(path, signing.new()[0], 0o600)
    public = path.with_suffix(".pub")
    if not public.exists():
        _write(public, signing.public(path.read_bytes()).encode(), 0o644)
    return path


def registry_public(state: Path) -> str:
    """The public half of the registry's key."""
    return registry(state).with_suffix(".pub").read_text()


def site(state: Path, name: str) -> Path:
    """The private key of a site."""
    path = state / "sites" / quote(name, safe="") / "key.pem"
    if not path.exists():
        _write(path, keys.new()[0], 0o600)
    return path


def public(state: Path, name: str) -> str:
    """The public key of a site, base64, as fleet.yaml lists it."""
    return keys.public(site(state, name).read_bytes())


def _write(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
