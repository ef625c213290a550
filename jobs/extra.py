"""What candidates are asked beside the labelled rows of the last days: the frozen holdout, and canned examples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.envelope import iso
from edge import candidate
from edge.candidate import Manifest
from jobs import table as tables
from jobs.assemble import Assembled, nothing
from jobs.evaluate import Comparison
from jobs.package import Blobs
from jobs.table import Table
from triggers.config import Loop, duration

Floats = NDArray[np.float64]


def freeze(loop: Loop, rows: Table, known: candidate.Frozen | None, blobs: Blobs) -> candidate.Frozen | None:
    """The holdout that `gates.holdout.freeze` asks for: the one that is `known`, where it is of the same sites, or the
    labelled rows of its sites among these, kept under their sha256. None where the loop asks for none, or there are no
    such rows yet."""
    rule = loop.gates.holdout.freeze if loop.gates.holdout else None
    if rule is None or (known is not None and sorted(known.sites) == sorted(rule.sites)):
        return known if rule else None
    mine = rows.take(np.isin(rows.site.astype(str), rule.sites))
    if rule.first and len(mine):
        mine = mine.take(mine.at < mine.at.min() + int(duration(rule.first).total_seconds()))
    mine = mine.labelled
    if not len(mine):
        return None
    with TemporaryDirectory() as folder:
        tables.write(mine, path := Path(folder) / "holdout.parquet")
        data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    blobs.put(f"holdouts/{digest}", data)
    start, end = iso(int(mine.at.min())), iso(int(mine.at.max()) + 1)
    return candidate.Frozen(sha256=digest, sites=tuple(sorted(rule.sites)), rows=len(mine), start=start, end=end)


def without_frozen(loop: Loop, found: Assembled) -> Assembled:
    """What is left to train on: no row of a site whose rows are the holdout, whenever it is of."""
    rule = loop.gates.holdout.freeze if loop.gates.holdout else None
    if rule is None:
        return found
    keep = ~np.isin(found.table.site.astype(str), rule.sites)
    left_out = {**found.left_out, "rows of sites that are the frozen holdout": int((~keep).sum())}
    batches = None if found.batches is None else found.batches[keep]
    return replace(found, table=found.table.take(keep), left_out=left_out, batches=batches)


@dataclass(frozen=True)
class Frozen:
    """The rows of the holdout that count, the file's sha256, and what is left out, by reason."""

    rows: Table
    sha256: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)

    def compared(self, scores: Mapping[str, Floats], loop: Loop) -> dict[str, Any] | None:
        """The comparison on these rows; None where the loop has no holdout."""
        if not self.sha256:
            return None
        found = Comparison(self.rows, scores["champion"], scores["challenger"], loop).on(np.arange(len(self.rows)))
        return {**found, "sha256": self.sha256, "data": self.rows.digest(), "left_out": dict(self.left_out)}


def holdout(
    loop: Loop, folder: Path, manifests: Mapping[str, Manifest], window: tuple[int, int], blobs: Blobs | None = None
) -> Frozen:
    """The labelled rows of `gates.holdout` (a table, or what the champion's training froze) but for those of sites that
    a candidate was trained on, and those of the time (UTC seconds) that the evaluation is about. Where a candidate's
    sites are not known, any row may be of them: none is left. Raises BadTable."""
    schema, asked = loop.schema.telemetry(loop.task), loop.gates.holdout
    left_out: dict[str, int] = {}
    if asked is None:
        return Frozen(nothing(schema))
    if asked.table is not None:
        path = folder / asked.table
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        rows, _, left_out = tables.read(path, loop, "")
    else:
        known = next((m.lineage.holdout for m in manifests.values() if m.lineage.holdout), None)
        if known is None or blobs is None:
            return Frozen(nothing(schema))
        rows, digest = _kept(known.sha256, blobs, loop), known.sha256
    trained_on = [manifest.lineage.sites for manifest in manifests.values()]
    seen = sorted(set().union(*trained_on))
    out = {
        "rows, as the sites that a model was trained on are not known": np.full(len(rows), not all(trained_on)),
        "rows without a label": np.isnan(rows.label),
        "rows of sites that were trained on": np.isin(rows.site.astype(str), seen),
        "rows of the time that is evaluated": rows.between(*window),
    }
    left_out |= {reason: int(which.sum()) for reason, which in out.items()}
    kept = rows.take(~np.logical_or.reduce(list(out.values())))
    return Frozen(kept, digest, {reason: n for reason, n in left_out.items() if n})


def _kept(digest: str, blobs: Blobs, loop: Loop) -> Table:
    """The rows that were frozen. Raises BadTable where they are not those that the lineage names."""
    data = blobs.get(f"holdouts/{digest}")
    if (found := hashlib.sha256(data).hexdigest()) != digest:
        raise tables.BadTable(f"the frozen holdout has sha256 {found[:12]}..., not {digest[:12]}... as in the lineage")
    with TemporaryDirectory() as folder:
        (path := Path(folder) / "holdout.parquet").write_bytes(data)
        return tables.load(path, loop.schema.telemetry(loop.task))


@dataclass(frozen=True)
class Examples:
    """Rows, and the least and greatest score that each may get, NaN for any."""

    rows: Table
    least: Floats
    most: Floats

    def judged(self, score: Floats) -> dict[str, Any]:
        """How many were tried, and which failed, with their scores; one that has no score fails."""
        missed = np.isnan(score) | (score < self.least) | (score > self.most)
        named = [
            f"{self.rows.ids[i]} scored {score[i]:.4g}, {self._bounds(i)}" for i in np.flatnonzero(missed).tolist()
        ]
        return {"tried": len(score), "missed": named}

    def _bounds(self, i: int) -> str:
        said = [("at least", self.least[i]), ("at most", self.most[i])]
        return " and ".join(f"{words} {bound:g}" for words, bound in said if np.isfinite(bound)) or "expected a score"


def examples(loop: Loop, folder: Path) -> Examples:
    """Those of `gates.examples`. Raises BadTable."""
    if loop.gates.examples is None:
        return Examples(nothing(loop.schema.telemetry(loop.task)), np.empty(0), np.empty(0))
    return Examples(*tables.examples(folder / loop.gates.examples, loop))


def differs(manifest: Manifest, loop: Loop) -> str:
    """In what a candidate's rows and answers are not the loop's; empty where they are the same."""
    ours, theirs = loop.schema.telemetry(loop.task), manifest.telemetry()
    if theirs.task != ours.task:
        return f"it is for a {theirs.task} task, not {ours.task}"
    pairs = [{(f.name, f.kind) for f in schema.features} for schema in (theirs, ours)]
    more, less = (sorted(f"{name} ({kind})" for name, kind in a - b) for a, b in (pairs, pairs[::-1]))
    said = [("wants", more), ("lacks", less)]
    return "; ".join(f"it {word} {', '.join(names)}" for word, names in said if names)
