"""Claim checks: what is too large for a queue waits in a blob, and the message is where to find it.

A claim names the digest of what it stands for: one that was forged or altered leads nowhere. Claims are kept by day
for as long as a message may come again, then forgotten.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta

from triggers.errors import NotFound, Refused
from triggers.ports import Blobs

KEPT = timedelta(days=15)
"""Longer than a message lives (14 days by default)."""

_CLAIM = re.compile(rb"DLC1 (claims/\d{4}-\d\d-\d\d/([0-9a-f]{64}))")


def leave(blobs: Blobs, body: bytes, now: datetime) -> bytes:
    """Put `body` aside; what to send instead."""
    name = f"claims/{now:%Y-%m-%d}/{hashlib.sha256(body).hexdigest()}"
    blobs.put(name, body)
    return b"DLC1 " + name.encode()


def collect(blobs: Blobs, body: bytes) -> bytes:
    """What a message stands for: itself, or what its claim leads to. Raises Refused for a claim that leads nowhere."""
    claim = _CLAIM.fullmatch(body)
    if not claim:
        return body
    name = claim[1].decode()
    try:
        found = blobs.get(name)
    except NotFound as problem:
        raise Refused(f"{name} is not there, or no longer", blob=name) from problem
    if hashlib.sha256(found).hexdigest() != claim[2].decode():
        raise Refused(f"{name} is not what was put there", blob=name)
    return found


def forget(blobs: Blobs, now: datetime) -> int:
    """Delete what no message can stand for any more; returns how many."""
    oldest = f"claims/{now - KEPT:%Y-%m-%d}/"
    gone = [name for name in blobs.names("claims/") if name < oldest]
    for name in gone:
        blobs.delete(name)
    return len(gone)
