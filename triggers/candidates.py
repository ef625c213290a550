"""A candidate as the shell reads it: bytes that have the digest that names them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from triggers import codec
from triggers.errors import NotFound, Refused
from triggers.ports import Ports
from triggers.records import Revoked

if TYPE_CHECKING:
    from drift.reference import Reference

_KEPT = 32
"""References in memory, of one process: 0.3 MB each with 4 features, 6 MB with 100."""


def reference(ports: Ports, candidate: str) -> Reference:
    """The reference of a candidate, cached. Raises NotFound, or Refused where the bytes are not what they should be."""
    from drift.reference import Reference

    known: dict[str, Reference] = ports.cache.setdefault("references", {})
    found = known.get(candidate)
    if found is None:
        layer = manifest(ports, candidate)["files"]["reference.bin"]["sha256"]
        data = ports.blobs.get(f"layers/{layer}")
        if codec.digest(data) != layer:
            raise Refused(f"reference of {candidate[:12]} is not the one its manifest names", candidate=candidate)
        for old in list(known)[: 1 - _KEPT]:
            known.pop(old, None)
        found = known[candidate] = Reference.from_bytes(data)
    return found


def revoked(ports: Ports, loop: str, candidate: str) -> str:
    """Why no site of the loop is asked to serve this candidate any more; empty where one may be."""
    record = ports.store.get(loop, f"revoked/{candidate}")
    return f"{candidate[:12]} was {_in_words(codec.decode(record.value, Revoked))}" if record else ""


def all_revoked(ports: Ports, loop: str) -> dict[str, str]:
    """Why, by the digests of a loop's revoked candidates."""
    found = ports.store.scan(loop, "revoked/")
    return {r.key.removeprefix("revoked/"): _in_words(codec.decode(r.value, Revoked)) for r in found}


def _in_words(found: Revoked) -> str:
    """Who revoked it, and why."""
    return f"revoked by {found.by}: {found.reason}"


def manifest(ports: Ports, candidate: str) -> dict[str, Any]:
    """What a candidate is made of. Raises NotFound, Refused."""
    data = ports.blobs.get(f"candidates/{candidate}/manifest.json")
    if codec.digest(data) != candidate:
        raise Refused(f"candidate {candidate[:12]} is not the bytes that its name says", candidate=candidate)
    found: dict[str, Any] = msgspec.json.decode(data)
    return found


def layers(ports: Ports, candidate: str) -> dict[str, int]:
    """The layers of a candidate: sha256 -> bytes; none where nobody knows it any more."""
    try:
        return layers_of(manifest(ports, candidate))
    except NotFound:
        return {}


def layers_of(manifest: Mapping[str, Any]) -> dict[str, int]:
    return {file["sha256"]: int(file["bytes"]) for file in manifest["files"].values()}


def layers_missing(wanted: Mapping[str, int], held: Collection[str]) -> int:
    """The bytes that a site has to fetch for `wanted` (sha256 -> bytes), where it holds the layers `held`.

    A site keeps what it serves and the way back: the layers of its SiteState's `candidate`, `observed`, `last_good`.

    >>> layers_missing({"model": 4_000_000_000, "code": 30_000}, {"model", "older code"})
    30000
    """
    return sum(size for layer, size in wanted.items() if layer not in held)
