"""A candidate as the shell reads it: bytes that have the digest that names them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from triggers import codec
from triggers.errors import Refused
from triggers.ports import Ports

if TYPE_CHECKING:
    from drift.reference import Reference

_KEPT = 64


def reference(ports: Ports, candidate: str) -> Reference:
    """The reference of a candidate, cached. Raises NotFound, or Refused where the bytes are not what they should be."""
    from drift.reference import Reference

    key = f"reference/{candidate}"
    if key not in ports.cache:
        layer = manifest(ports, candidate)["files"]["reference.bin"]["sha256"]
        data = ports.blobs.get(f"layers/{layer}")
        if codec.digest(data) != layer:
            raise Refused(f"reference of {candidate[:12]} is not the one its manifest names", candidate=candidate)
        while len(ports.cache) >= _KEPT:
            ports.cache.pop(next(iter(ports.cache)))
        ports.cache[key] = Reference.from_bytes(data)
    found: Reference = ports.cache[key]
    return found


def manifest(ports: Ports, candidate: str) -> dict[str, Any]:
    """What a candidate is made of. Raises NotFound, Refused."""
    data = ports.blobs.get(f"candidates/{candidate}/manifest.json")
    if codec.digest(data) != candidate:
        raise Refused(f"candidate {candidate[:12]} is not the bytes that its name says", candidate=candidate)
    found: dict[str, Any] = msgspec.json.decode(data)
    return found
