"""Blobs as files under a folder, whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

from adapters.local import files
from triggers.errors import NotFound, Refused, Retry

NAME_CHARACTERS = 1024

_PLAIN = re.compile(rb"[A-Za-z0-9._=+@-]")
_LOWER = re.compile(r"[a-z0-9_=+@-]+")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)
_UNFINISHED = ".unfinished"
_PIECE = 200  # characters of a file's name; most file systems take 255


@lru_cache(4096)
def quote(segment: str, fold: bool = False) -> str:
    """A file name that every file system takes, no two alike; plain names stay what they are.

    Where `fold`, names differ also where upper and lower case are the same.

    >>> quote("model.onnx"), quote(".."), quote("a b/c"), quote("")
    ('model.onnx', '%2e%2e', 'a%20b%2fc', '%')
    """
    if not segment:
        return "%"
    if _LOWER.fullmatch(segment) and not _DEVICE.match(segment):
        return segment
    quoted = "".join(
        chr(byte) if _PLAIN.match(bytes([byte])) and not (fold and 65 <= byte <= 90) else f"%{byte:02x}"
        for byte in segment.encode()
    )
    if quoted[0] == "." or _DEVICE.match(quoted):
        quoted = f"%{ord(quoted[0]):02x}{quoted[1:]}"
    if quoted[-1] == ".":
        quoted = f"{quoted[:-1]}%2e"
    return quoted


def unquote(quoted: str) -> str:
    """
    >>> unquote(quote("Zürich: 10%"))
    'Zürich: 10%'
    """
    return re.sub(rb"%([0-9a-f]{2}|)", lambda found: bytes.fromhex(found[1].decode()), quoted.encode()).decode()


class FileBlobs:
    """Port Blobs. `/` makes folders; a name cannot be a blob and a folder of blobs at once.

    A segment too long for a file name goes on in a folder of its own, marked by `%` at the end.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder).resolve()
        self._unfinished = self._folder / _UNFINISHED
        self._unfinished.mkdir(parents=True, exist_ok=True)
        self._fold = (self._folder / _UNFINISHED.upper()).exists()

    def put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        temporary = self._unfinished / str(uuid4())
        try:
            files.write(temporary, data)
            files.make(path.parent)
            _move(temporary, path)
        except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
            raise Refused(f"{name!r} is, or is under, another blob or folder", name=name) from error
        except OSError as error:
            raise Retry(f"{name!r} cannot be written: {error}", name=name) from error
        finally:
            temporary.unlink(missing_ok=True)

    def get(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise NotFound(f"no blob {name!r}", name=name) from error

    def exists(self, name: str) -> bool:
        return self._path(name).is_file()

    def names(self, prefix: str = "") -> Iterator[str]:
        """Sorted by code point."""
        folder, _, _ = prefix.rpartition("/")
        start = self._path(folder) if folder or prefix[:1] == "/" else self._folder
        found = (_name(path, self._folder) for path in _below(start) if self._unfinished not in path.parents)
        yield from sorted(name for name in found if name.startswith(prefix))

    def delete(self, name: str) -> None:
        path = self._path(name)
        try:
            path.unlink()
            files.sync(path.parent)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
            if path.is_file():
                raise

    def _path(self, name: str) -> Path:
        """Never outside the folder. Refuses the empty name, one too long, and what is not Unicode text."""
        if not 0 < len(name) <= NAME_CHARACTERS:
            raise Refused(f"a blob's name has 1 to {NAME_CHARACTERS} characters", name=name[:80])
        try:
            segments = [quote(segment, self._fold) for segment in name.split("/")]
        except UnicodeEncodeError as error:
            raise Refused("a blob's name that is not Unicode text", name=ascii(name)) from error
        path = self._folder.joinpath(*(piece for segment in segments for piece in _pieces(segment)))
        if len(os.fspath(path)) > os.pathconf(self._folder, "PC_PATH_MAX") - 1:
            raise Refused("a blob's name too long for this file system", name=name[:80])
        return path


def _pieces(quoted: str) -> list[str]:
    """
    >>> [len(piece) for piece in _pieces("x" * 450)]
    [201, 201, 50]
    """
    pieces = []
    while len(quoted) > _PIECE:
        cut = _PIECE if "%" not in quoted[_PIECE - 2 : _PIECE] else quoted.index("%", _PIECE - 2)
        pieces.append(f"{quoted[:cut]}%")
        quoted = quoted[cut:]
    return [*pieces, quoted]


def _name(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder).parts
    joined = "".join(part[:-1] if part != "%" and part.endswith("%") else f"{part}/" for part in parts)
    return "/".join(unquote(segment) for segment in joined[:-1].split("/"))


def _below(folder: Path) -> Iterator[Path]:
    for at, _, found in os.walk(folder):
        for file in found:
            yield Path(at, file)


def _move(temporary: Path, path: Path) -> None:
    """Also onto a folder that is left over, empty, from deleted blobs."""
    try:
        temporary.replace(path)
    except IsADirectoryError:
        try:
            path.rmdir()
        except OSError as error:
            raise FileExistsError(path) from error
        temporary.replace(path)
    files.sync(path.parent)
