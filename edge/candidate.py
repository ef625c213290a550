"""A candidate: files, the manifest that names their bytes, and the registry's signature of the manifest.

The sha256 of the manifest's bytes is the candidate's digest: who knows the digest knows every byte. In a registry:
`candidates/<digest>/manifest.json`, `candidates/<digest>/manifest.sig`, `layers/<sha256>`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from drift import telemetry
from edge import signing
from edge.bundle import ORCHESTRATE
from edge.errors import BadCandidate
from edge.smoke import SMOKE

MODEL = "model.onnx"
REFERENCE = "reference.bin"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"

MAX_FILES = 64
MAX_BYTES = 512 << 20
"""Of one file."""
MAX_MANIFEST = 1 << 20

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class File(msgspec.Struct, frozen=True):
    sha256: str
    bytes: int


class Feature(msgspec.Struct, frozen=True):
    name: str
    kind: Literal["number", "category"] = "number"
    unit: str = ""
    low: float | None = None
    high: float | None = None


class Schema(msgspec.Struct, frozen=True):
    version: str
    features: tuple[Feature, ...]


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """The table that is the holdout, by its sha256; the sites that it is of, its rows, and their time (ISO)."""

    sha256: str
    sites: tuple[str, ...]
    rows: int
    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where a candidate comes from: its run, what it replaces, the training window (ISO) and its rows by site; rows
    that were left out because their site has too large a share, or for another reason; sites that have no rows to give;
    the batches, how many and the sha256 of the record of each one's rows, and those with `outlying` rows; digests of
    the training code with what stands beside it, of its settings, and of the model's outline (edge.safety); who wrote
    it; the rows that were frozen to judge it and what follows it by."""

    run: str = ""
    parent: str | None = None
    start: str = msgspec.field(default="", name="from")
    end: str = msgspec.field(default="", name="to")
    rows: int = 0
    sites: dict[str, int] = {}
    capped: dict[str, int] = {}
    without_rows: tuple[str, ...] = ()
    left_out: dict[str, int] = {}
    batches: int = 0
    provenance: str = ""
    outlying: dict[str, int] = {}
    code: str = ""
    settings: str = ""
    architecture: str = ""
    environment: str = ""
    authors: tuple[str, ...] = ()
    holdout: Frozen | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`files` by name; `created` is ISO 8601, UTC."""

    format: Literal[1] = 1
    loop: str
    schema: Schema
    task: telemetry.Task
    files: dict[str, File]
    lineage: Lineage = Lineage()
    created: str = ""

    def telemetry(self) -> telemetry.Schema:
        """What the model's rows look like."""
        features = (telemetry.Feature(f.name, f.kind, f.unit, f.low, f.high) for f in self.schema.features)
        return telemetry.Schema(self.schema.version, tuple(features), self.task)


def build(folder: Path, *, loop: str, schema: telemetry.Schema, lineage: Lineage, created: str) -> bytes:
    """The manifest of the files in `folder`, as the bytes that are signed. Raises BadCandidate."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name in (MANIFEST, SIGNATURE):
            continue
        if path.is_symlink() or not path.is_file():
            raise BadCandidate("is not a plain file", path.name)
        data = path.read_bytes()
        files[path.name] = File(sha256(data), len(data))
    features = tuple(Feature(f.name, f.kind, f.unit, f.low, f.high) for f in schema.features)
    manifest = Manifest(
        loop=loop,
        schema=Schema(schema.version, features),
        task=schema.task,
        files=files,
        lineage=lineage,
        created=created,
    )
    data = msgspec.json.encode(manifest, order="sorted")
    read(data)
    return data


def digest(manifest: bytes) -> str:
    """The name of the candidate whose manifest this is."""
    return sha256(manifest)


def sign(manifest: bytes, private: bytes) -> str:
    """The registry's signature of a candidate, made with its private key (edge.signing)."""
    found = read(manifest)
    return signing.sign(found.loop, _named(found, manifest), private)


def _named(found: Manifest, manifest: bytes) -> dict[str, str]:
    """Every file of a candidate with its sha256, the manifest among them."""
    return {MANIFEST: digest(manifest), **{name: file.sha256 for name, file in found.files.items()}}


def publish(folder: Path, manifest: bytes, signature: str | None, put: Callable[[str, bytes], None]) -> str:
    """Write a candidate to a registry, the manifest last; its digest. `put` gets a name and the bytes."""
    for name, file in read(manifest).files.items():
        data = (folder / name).read_bytes()
        _agree(name, file, data)
        put(f"layers/{file.sha256}", data)
    folder_name = f"candidates/{digest(manifest)}"
    if signature is not None:
        put(f"{folder_name}/{SIGNATURE}", signature.encode())
    put(f"{folder_name}/{MANIFEST}", manifest)
    return digest(manifest)


def read(manifest: bytes) -> Manifest:
    """The manifest, its names and sizes checked; its signature is not. Raises BadCandidate."""
    if len(manifest) > MAX_MANIFEST:
        raise BadCandidate(f"{len(manifest)} bytes, at most {MAX_MANIFEST}", MANIFEST)
    try:
        found = msgspec.json.decode(manifest, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadCandidate(f"cannot be read: {error}", MANIFEST) from error
    if MODEL not in found.files and ORCHESTRATE not in found.files:
        raise BadCandidate(f"names no {MODEL} and no {ORCHESTRATE}", MANIFEST)
    if ORCHESTRATE in found.files and SMOKE not in found.files:
        raise BadCandidate(f"is a bundle without {SMOKE}", MANIFEST)
    if len(found.files) > MAX_FILES:
        raise BadCandidate(f"names {len(found.files)} files, at most {MAX_FILES}", MANIFEST)
    for name, file in found.files.items():
        if not _NAME.fullmatch(name) or name in (MANIFEST, SIGNATURE):
            raise BadCandidate(f"a file may not be called {name!a}", MANIFEST)
        if not _SHA256.fullmatch(file.sha256):
            raise BadCandidate(f"{name} has no sha256", MANIFEST)
        if not 0 <= file.bytes <= MAX_BYTES:
            raise BadCandidate(f"{name} has {file.bytes} bytes, at most {MAX_BYTES}", MANIFEST)
    return found


def signed(manifest: bytes, signature: str | bytes, public: str | bytes) -> Manifest:
    """The manifest, if the owner of `public` has signed it and the files that it names, and no others. Raises
    BadCandidate with what differs."""
    listed = signing.verify(signature, public)
    if listed.get(MANIFEST) != digest(manifest):
        raise BadCandidate("is not the one that was signed", MANIFEST)
    found = read(manifest)
    for name in sorted(listed.items() ^ _named(found, manifest).items()):
        raise BadCandidate("is not what was signed", name[0])
    return found


def verify(
    manifest: bytes, signature: str | bytes, public: str | bytes, read_layer: Callable[[str], bytes]
) -> Mapping[str, bytes]:
    """The files of a candidate by name, every byte of them accounted for.

    `read_layer` gets a sha256; what it raises passes through. Raises BadCandidate with what differs.
    """
    return contents(signed(manifest, signature, public), read_layer)


def contents(found: Manifest, read_layer: Callable[[str], bytes]) -> Mapping[str, bytes]:
    """As `verify`, of a manifest whose signature was checked, or is not to be."""
    files = {}
    for name, file in found.files.items():
        data = read_layer(file.sha256)
        _agree(name, file, data)
        files[name] = data
    return files


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _agree(name: str, file: File, data: bytes) -> None:
    if len(data) != file.bytes:
        raise BadCandidate(f"has {len(data)} bytes, the manifest says {file.bytes}", name)
    if sha256(data) != file.sha256:
        raise BadCandidate(f"has sha256 {sha256(data)[:12]}..., the manifest says {file.sha256[:12]}...", name)
