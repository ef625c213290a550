"""Input changed at random: bytes, and JSON as what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

ATOMS: tuple[bytes, ...] = (
    *(b"null", b"true", b"NaN", b"Infinity", b"-Infinity", b"-0", b"1e999", b"-1e999", b"1e-999", b"9" * 400),
    *(b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616", b"0.1e-7", b"0x10", b"1_000"),
    *(b'""', b'"\\ud800"', b'"\\u0000"', b'"\xed\xa0\x80"', b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"\xc0\xaf"),
    *(b"[" * 2000, b'{"a":' * 2000, b"[]", b"{}", b"[[[]]]", b'{"":{}}', b"{" * 100 + b"}" * 100),
    *(b'"../../../etc/passwd"', b'"a/b#c?d"', b'"%2e%2e%2f"', b"' or 1=1 --", b"<script>alert(1)</script>"),
    *(b'"2026-02-30T25:61:61Z"', b'"0001-01-01T00:00:00Z"', b'"9999-12-31T23:59:59.999999999Z"', b'"+275760-09-13"'),
    *("\u202e\u2028\u00df\u0130".encode(), "\U0001f4a9".encode() * 50, "e\u0301".encode(), "\u212a".encode()),
    *(b"\r\n", b"\r\nSet-Cookie: a=b", b"&a: &a [*a, *a]", b"!!python/object:os.system", b"? : - |", b"\t- -"),
    *(
        b'"signature":"',
        b'"site":"other"',
        b'"columns":{',
        b'"rows":[',
        b"DLA1",
        b"DLB1",
        b"DLS1",
        b"DLR1",
        b"PK\x03\x04",
    ),
    *(b"\x1f\x8b\x08" + b"\x00" * 20, b"\x78\x9c" + b"\xff" * 8, b"\x7fELF", b"\x80\x05cos\nsystem\n."),
)
"""Pieces of the attacks: put in, or instead of something."""


def mutated(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, changed in one to four ways."""
    data = random.choice(seeds)
    if data[:1] in b"{[" and random.random() < 0.5:
        data = _restructured(random, data)
    for _ in range(random.choice((0, 1, 1, 1, 2, 4))):
        data = random.choice(_WAYS)(random, data, seeds)
    return data


def _flip(random: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _cut(random: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    a, b = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return data[:a] + data[b:]


def _end(random: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _double(random: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    a, b = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return data[:b] + data[a:b][:5000] + data[b:]


def _insert(random: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(ATOMS) + data[at:]


def _instead(random: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    a = random.randrange(len(data) + 1)
    return data[:a] + random.choice(ATOMS) + data[a + random.randrange(12) :]


def _splice(random: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = random.choice(seeds)
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def _noise(random: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.randbytes(random.randrange(1, 9)) + data[at + random.randrange(9) :]


_WAYS = (_flip, _cut, _end, _double, _insert, _insert, _instead, _instead, _splice, _noise)

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**53 + 1, 2**63, -(2**63) - 1, 10**300, 1e308, math.nan, math.inf, 1e-320),
    *("", "a", " ", "\x00", "\ud800", "A" * 5000, "é", "e\u0301", "../x", "0", "1e5", "2026-01-01T00:00:00Z"),
    *([], {}, [[]], [None], [0, "a"], {"": ""}, {"a": {"a": {"a": []}}}, [1.5] * 3),
)


def _restructured(random: Random, data: bytes) -> bytes:
    """The same JSON with one value put elsewhere, dropped, told twice or changed to another kind."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    places = list(_places(value))
    if not places:
        return data
    holder, key = random.choice(places)
    what = random.randrange(4)
    if what == 0:
        holder[key] = random.choice(_VALUES)
    elif what == 1:
        del holder[key]
    elif what == 2:
        other, place = random.choice(places)
        holder[key] = other[place] if place in (other if isinstance(other, dict) else range(len(other))) else None
    elif isinstance(holder, dict):
        holder[random.choice(("", "signature", "site", "loop", "id", "\ud800", key + " "))] = holder[key]
    else:
        holder.insert(key, holder[key])
    try:
        return json.dumps(value).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):
        return data


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    if depth > 6:
        return
    pairs = value.items() if isinstance(value, dict) else enumerate(value[:50]) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner, depth + 1)
