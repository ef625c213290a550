"""Versioned JSON for everything stored or sent: `{"v": 1, "kind": "Run", "body": {...}}`.

What an older version stored stays readable: a change of shape adds a migration here, and a golden file to the tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from triggers.errors import Refused, Retry
from triggers.run import set_apart

VERSION = 1
MESSAGE_ID = 128
T = TypeVar("T")

MIGRATIONS: Mapping[tuple[str, int], Callable[[Any], Any]] = {}
"""(kind, version) -> how its body becomes the next version's body."""


FORGIVING: Mapping[str, Callable[[Any], Any]] = {"Run": set_apart}
"""kind -> what makes a body readable in which a newer worker of the same version wrote more than this one knows."""


class _Stored(msgspec.Struct, frozen=True):
    v: int
    kind: str
    body: msgspec.Raw


def encode(value: object, kind: str = "") -> bytes:
    """One value as bytes; equal values give equal bytes."""
    body = msgspec.json.encode(value, order="deterministic")
    return msgspec.json.encode({"v": VERSION, "kind": kind or type(value).__name__, "body": msgspec.Raw(body)})


def decode(data: bytes, as_type: type[T]) -> T:
    """The value back. Raises Refused where it is of another kind or does not fit; Retry where a newer version stored
    it: what this one does not know it would drop, so a worker of that version has to take it."""
    value: T = decode_as(data, as_type, as_type.__name__)
    return value


def decode_as(data: bytes, as_type: Any, wanted: str) -> Any:
    """As `decode`, for what is no class of its own: a union, say."""
    try:
        stored = msgspec.json.decode(data, type=_Stored)
        if stored.kind != wanted:
            raise Refused(f"stored value is a {stored.kind}, not a {wanted}", kind=stored.kind)
        if stored.v < 1:
            raise Refused(f"{wanted} of version {stored.v}: there is none", version=stored.v)
        if stored.v > VERSION:
            raise Retry(f"{wanted} was stored by a newer version ({stored.v} > {VERSION})", version=stored.v)
        if stored.v == VERSION:
            return _body(stored, as_type)
        body = msgspec.json.decode(stored.body)
        for version in range(stored.v, VERSION):
            body = MIGRATIONS.get((wanted, version), _same)(body)
        return msgspec.convert(body, type=as_type)
    except msgspec.ValidationError as problem:
        if "unknown field" in str(problem):  # of a configuration: a newer version's
            raise Retry(f"{wanted} was stored by a newer version: {problem}", kind=wanted) from problem
        raise Refused(f"not a {wanted}: {problem}", kind=wanted) from problem
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise Refused(f"not a {wanted}: {problem}", kind=wanted) from problem


def _body(stored: _Stored, as_type: Any) -> Any:
    try:
        return msgspec.json.decode(stored.body, type=as_type)
    except msgspec.ValidationError:
        if stored.kind not in FORGIVING:
            raise
        return msgspec.convert(FORGIVING[stored.kind](msgspec.json.decode(stored.body)), type=as_type)


def _same(body: Any) -> Any:
    return body


def short(name: str) -> str:
    """A name that a queue takes as a message's id: at most 128 characters.

    >>> short("run/1"), len(short("long" * 100))
    ('run/1', 64)
    """
    return name if len(name) <= MESSAGE_ID else digest(name.encode())


def digest(data: bytes) -> str:
    """SHA-256, as hex: how candidates, evidence and plans are named.

    >>> digest(b"")[:12]
    'e3b0c44298fc'
    """
    return hashlib.sha256(data).hexdigest()
