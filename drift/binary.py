"""A small versioned binary form: a kind, a JSON header and numpy arrays, compressed.

Integers are stored in the fewest bytes that hold them. What is read comes from sites and disks, so everything is
bounded and whatever does not fit is a ValueError.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_INTEGERS = ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<i8")
_BOUNDS = tuple((name, int(np.iinfo(name).min), int(np.iinfo(name).max)) for name in _INTEGERS)
_DTYPES = frozenset((*_INTEGERS, "<u8", "<f4", "<f8"))


def pack(kind: bytes, header: Mapping[str, Any], arrays: Sequence[NDArray[Any]], *, level: int = 6) -> bytes:
    """`kind` is four bytes, the last of them the version of the form.

    >>> header, (counts,) = unpack(b"TST1", pack(b"TST1", {"a": 1}, [np.arange(3)]))
    >>> header["a"], counts.tolist()
    (1, [0, 1, 2])
    """
    small = [_narrow(a) for a in arrays]
    head = json.dumps({**header, "arrays": [[a.dtype.str.lstrip("|"), list(a.shape)] for a in small]}, sort_keys=True)
    text = head.encode()
    return kind + zlib.compress(b"".join((len(text).to_bytes(4, "little"), text, *(a.tobytes() for a in small))), level)


def unpack(kind: bytes, data: bytes, *, limit: int = 1 << 28) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """The header and the arrays (integers as int64, but for uint64). Raises ValueError; reads at most `limit` bytes."""
    if data[:3] != kind[:3]:
        raise ValueError(f"not a {kind[:3].decode()} record")
    if data[:4] != kind:
        raise ValueError(f"{kind[:3].decode()} record of version {data[3:4]!r}; this program reads {kind[3:]!r}")
    try:
        body = _inflate(data[4:], limit)
        end = 4 + int.from_bytes(body[:4], "little")
        header = json.loads(body[4:end])
        arrays = []
        for name, shape in header.pop("arrays"):
            array, end = _read(body, end, name, shape)
            arrays.append(array)
    except (zlib.error, KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
        raise ValueError(f"damaged {kind[:3].decode()} record: {error}") from error
    if end != len(body):
        raise ValueError(f"damaged {kind[:3].decode()} record: {len(body) - end} bytes too many")
    return header, arrays


def header(kind: bytes, data: bytes, *, most: int = 4096) -> dict[str, Any]:
    """The header alone, at a fraction of the time; empty where there is none, or it is longer than `most` bytes.

    >>> header(b"TST1", pack(b"TST1", {"a": 1}, [np.arange(3)]))["a"], header(b"TST1", b"TST1?")
    (1, {})
    """
    try:
        body = zlib.decompressobj().decompress(data[4:], most) if data[:4] == kind else b""
        found = json.loads(body[4 : 4 + int.from_bytes(body[:4], "little")])
    except (zlib.error, RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _inflate(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj()
    body = stream.decompress(data, limit)
    if not stream.eof or stream.unused_data:
        raise ValueError(f"truncated, followed by other bytes, or over {limit} bytes")
    return body


def _read(body: bytes, start: int, name: Any, shape: Any) -> tuple[NDArray[Any], int]:
    if name not in _DTYPES or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"unknown array {name!r} {shape!r}")
    dtype = np.dtype(name)
    size = dtype.itemsize
    for n in shape:
        size *= n
    if start + size > len(body):
        raise ValueError("an array ends beyond the record")
    array = np.frombuffer(body, dtype, size // dtype.itemsize, start).reshape(shape)
    wanted = np.int64 if dtype.kind in "iu" and name != "<u8" else dtype
    return array.astype(wanted, copy=not body), start + size


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "b":
        return np.ascontiguousarray(array, dtype="u1")
    if array.dtype.kind == "f":
        return np.ascontiguousarray(array, dtype="<f4" if array.dtype.itemsize <= 4 else "<f8")
    if array.dtype == np.uint64:
        return np.ascontiguousarray(array, dtype="<u8")
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for name, least, most in _BOUNDS:
        if least <= low and high <= most:
            return np.ascontiguousarray(array, dtype=name)
    raise ValueError(f"no integer holds {low} to {high}")
