"""A trained model becomes a candidate: its reference beside it, a signed manifest over both, in the registry."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift.reference import Reference
from drift.telemetry import Schema
from edge import candidate
from edge.bundle import ORCHESTRATE
from edge.candidate import Lineage, Manifest
from edge.errors import BadCandidate
from edge.smoke import SMOKE, Sample
from jobs.model import Model
from jobs.table import Table
from triggers.config import Loop, duration

HELD_OUT = "held_out.npy"
PACKAGES = ("numpy", "scikit-learn", "skl2onnx", "onnx", "onnxruntime")


class Blobs:
    """The blob store of one machine, as a job sees it: the names that jobs use need no quoting."""

    def __init__(self, folder: Path, out: Path | None = None) -> None:
        """What is put goes to `out`, where that is another folder."""
        self.folder = folder
        self.out = out or folder

    def get(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def put(self, name: str, data: bytes) -> None:
        """Whole or not at all."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def package(
    folder: Path, loop: Loop, table: Table, lineage: Lineage, created: str, key: bytes | None, blobs: Blobs
) -> str:
    """Publish the model in `folder`, trained on the labelled rows of `table`; the candidate's digest.

    The reference is of all rows, labelled or not. `key` is the registry's private key (PEM); without it, the candidate
    has no signature yet.
    """
    schema = loop.schema.telemetry(loop.task)
    score = Model(folder / candidate.MODEL, schema).score(table)
    unseen = _held_out(folder / HELD_OUT, table)
    if unseen is not None:
        score = np.where(np.isfinite(unseen), unseen, score)
    reference = Reference.build(
        schema,
        table.rows(score),
        table.label,
        table.site.tolist(),
        held_out=None if unseen is None else np.isfinite(unseen),
        bins=loop.drift.bins,
        window_seconds=int(duration(loop.telemetry.window).total_seconds()),
    )
    (folder / candidate.REFERENCE).write_bytes(reference.to_bytes())
    if (folder / ORCHESTRATE).exists() and not (folder / SMOKE).exists():
        (folder / SMOKE).write_bytes(_sample(schema, table, Model(folder / candidate.MODEL, schema)))
    manifest = candidate.build(folder, loop=loop.loop, schema=schema, lineage=lineage, created=created)
    return candidate.publish(folder, manifest, candidate.sign(manifest, key) if key else None, blobs.put)


def _sample(schema: Schema, table: Table, model: Model) -> bytes:
    """Rows that nobody lived (in each, every feature has the same quantile of its own), and their scores."""
    shares = np.linspace(0.05, 0.95, 8)
    columns: dict[str, NDArray[np.object_ | np.float64]] = {}
    for f in schema.features:
        values = table.columns[f.name]
        if f.kind == "number":
            known = values[np.isfinite(values)]
            columns[f.name] = np.quantile(known, shares) if len(known) else np.full(len(shares), np.nan)
        else:
            often = [name for name, _ in Counter(v for v in values if v).most_common(len(shares))] or [""]
            columns[f.name] = np.array([often[i % len(often)] for i in range(len(shares))], dtype=object)
    n = len(shares)
    none = np.full(n, np.nan)
    ids = np.array([str(i) for i in range(n)], dtype=object)
    scores = model.score(Table(ids, np.zeros(n, np.int64), ids, none, none, columns))
    rows = [{name: _plain(column[i]) for name, column in columns.items()} for i in range(n)]
    return msgspec.json.encode(Sample(rows, [_plain(s) for s in scores]))


def _plain(value: Any) -> Any:
    """As JSON has it: NaN is null."""
    return value if isinstance(value, str) else None if np.isnan(value) else float(value)


def _held_out(path: Path, table: Table) -> NDArray[np.float64] | None:
    """The scores that the training script gave to rows it had not fitted, by row of the whole table; None where it
    gave none. The file is used up: it is no part of the candidate."""
    if not path.exists():
        return None
    given = np.load(path, allow_pickle=False)
    path.unlink()
    labelled = np.isfinite(table.label)
    if given.shape != (int(labelled.sum()),):
        raise ValueError(f"{HELD_OUT} has shape {given.shape}, expected one score for each of {labelled.sum()} rows")
    out = np.full(len(table), np.nan)
    out[labelled] = given
    return out


def fetch(digest: str, blobs: Blobs, public: bytes | None, folder: Path) -> Manifest:
    """Write a candidate to `folder`, its manifest too, every byte checked against the digest; where the registry's key
    is given, its signature is checked and written. Raises BadCandidate with what differs."""
    manifest = blobs.get(f"candidates/{digest}/{candidate.MANIFEST}")
    if candidate.digest(manifest) != digest:
        raise BadCandidate(f"has sha256 {candidate.digest(manifest)[:12]}, not {digest[:12]}", candidate.MANIFEST)
    whole, found = {candidate.MANIFEST: manifest}, candidate.read(manifest)
    if public is not None:
        whole[candidate.SIGNATURE] = blobs.get(f"candidates/{digest}/{candidate.SIGNATURE}")
        candidate.signed(manifest, whole[candidate.SIGNATURE], public)
    whole.update(candidate.contents(found, lambda sha256: blobs.get(f"layers/{sha256}")))
    folder.mkdir(parents=True)
    for name, data in whole.items():
        (folder / name).write_bytes(data)
    return found


def environment(names: Iterable[str] = PACKAGES, of: Callable[[str], str] = version) -> str:
    """What a model was made with: Python and the packages that are installed."""
    found = [f"Python {python_version()}"]
    for name in names:
        try:
            found.append(f"{name} {of(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
