"""`driftloop sketch`: a table as batches of counts in place of rows, for a site with a thin link.

The counts equal those of the rows, to the last one. They are made against the reference of the candidate that the site
serves: from --registry (the folder that sites fetch candidates from) or from a reference.bin. Where both are given and
differ in version, nothing is made. Scores come from loop.yaml's prediction column, labels from its label column.
What it prints beside says what the same rows cost on the wire in each spelling.

In a program: `drift.windows.fold(batch, reference, seconds)` and `pack`, which need numpy alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cli.validate import text
from triggers.config import Loop, parse_loop
from triggers.errors import Refused

if TYPE_CHECKING:
    from cli.tables import Data
    from drift.history import History
    from drift.reference import Reference
    from drift.windows import Window

SPAN = 25
"""Windows in one batch."""
ROWS = 500
"""Rows in a batch of those that the sketch stands for, as the figures beside count them."""


@dataclass(frozen=True, slots=True)
class Made:
    """A batch of sketches, as bytes, and what it stands for."""

    id: str
    site: str
    start: int
    end: int
    windows: int
    rows: int
    payload: bytes


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "sketch",
        help="a table as counts, for a site with a thin link",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--loop", type=Path, required=True, metavar="FILE", help="loop.yaml")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="the rows (CSV, Parquet)")
    parser.add_argument("--candidate", required=True, metavar="DIGEST", help="what the site serves")
    parser.add_argument("--registry", type=Path, metavar="DIR", help="where candidates are (candidates/, layers/)")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="the candidate's reference.bin")
    parser.add_argument("--site", help="of this site alone (default: of every site in the table)")
    parser.add_argument("--key", type=Path, metavar="FILE", help="sign with this private key (PEM, Ed25519)")
    parser.add_argument("--key-id", default="", metavar="ID", help="what fleet.yaml calls the key")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the batches, a file each")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0 when all batches are written."""
    from cli import tables

    loop = parse_loop(text(args.loop), str(args.loop))
    reference = referred(args.candidate, args.registry, args.reference, loop)
    sign = _signer(args.key, args.key_id)
    data = tables.load(args.data, loop)
    if args.site is not None:
        data = data.take(data.table.site == args.site)
    if not len(data):
        raise Refused(f"{args.data}: no rows of site {args.site!r}")
    if sign is not None and len(data.table.sites()) > 1:
        raise Refused("--key signs for one site; say which with --site")
    made = list(batches(data, loop, reference, args.candidate, args.key_id, sign))
    args.out.mkdir(parents=True, exist_ok=True)
    files = [args.out / f"{m.id}.json" for m in made]
    for m, file in zip(made, files, strict=True):
        file.write_bytes(m.payload)
    told = {
        "reference": reference.version,
        "candidate": args.candidate,
        "rows": len(data),
        "batches": [
            {
                "batch": m.id,
                "site": m.site,
                "file": str(f),
                "windows": m.windows,
                "rows": m.rows,
                "bytes": len(m.payload),
            }
            for m, f in zip(made, files, strict=True)
        ],
        "bytes": {"sketch": sum(len(m.payload) for m in made), **_as_rows(data, loop, args.candidate)},
    }
    if args.json:
        print(json.dumps(told))
    else:
        _show(told)
    return 0


def referred(candidate: str, registry: Path | None, file: Path | None, loop: Loop) -> Reference:
    """The reference that sketches of a candidate are made against. Raises Refused, with both versions where two were
    given that differ."""
    from drift.reference import Reference

    found = []
    if registry is not None:
        found.append(_registered(candidate, registry, loop))
    if file is not None:
        try:
            found.append(Reference.from_bytes(file.read_bytes()))
        except (OSError, ValueError) as problem:
            raise Refused(f"{file}: {problem}; expected a candidate's reference.bin") from problem
    if not found:
        raise Refused("no reference: expected --registry DIR or --reference FILE")
    if len({r.version for r in found}) > 1:
        ours, theirs = (r.version for r in found)
        raise Refused(f"{file} is reference {theirs}, and candidate {candidate[:12]} was made with {ours}")
    if found[0].schema.names != loop.schema.telemetry(loop.task).names:
        raise Refused(f"the reference is of the features {', '.join(found[0].schema.names)}; loop.yaml has others")
    return found[0]


def _registered(candidate: str, registry: Path, loop: Loop) -> Reference:
    from drift.reference import Reference
    from edge import candidate as candidates
    from edge.errors import BadCandidate

    folder = registry / "candidates" / candidate
    try:
        data = (folder / candidates.MANIFEST).read_bytes()
        if candidates.digest(data) != candidate:
            raise Refused(f"{folder}: holds {candidates.digest(data)[:12]}, not {candidate[:12]}")
        manifest = candidates.read(data)
        if manifest.loop != loop.loop:
            raise Refused(f"candidate {candidate[:12]} is of the loop {manifest.loop}, not {loop.loop}")
        raw = (registry / "layers" / manifest.files[candidates.REFERENCE].sha256).read_bytes()
        if candidates.sha256(raw) != manifest.files[candidates.REFERENCE].sha256:
            raise Refused(f"candidate {candidate[:12]}: {candidates.REFERENCE} is not what its manifest names")
        return Reference.from_bytes(raw)
    except (OSError, KeyError, ValueError, BadCandidate) as problem:
        raise Refused(f"{registry}: no candidate {candidate[:12]} with a reference: {problem}") from problem


def batches(
    data: Data,
    loop: Loop,
    reference: Reference,
    candidate: str,
    key: str = "",
    sign: Callable[[bytes], bytes] | None = None,
) -> Iterator[Made]:
    """Every site's windows, packed, in the order of time. The same table makes the same bytes under the same names."""
    from drift import envelope, windows
    from drift.telemetry import MAX_BYTES, Batch

    schema = loop.schema.telemetry(loop.task)
    for site, of_site in by_site(data, reference.seconds, reference, candidate).items():
        for i in range(0, len(of_site), SPAN):
            some = of_site[i : i + SPAN]
            start, end = some[0].start, some[-1].end - 1
            name = f"{site}-sketch-{envelope.iso(start)}-{len(some)}".replace(":", "")
            batch = Batch(
                schema.version, loop.loop, candidate, site, name, start, end, sketch=windows.pack(some), key=key
            )
            payload = envelope.encode(batch, schema)
            payload = payload if sign is None else envelope.signed(payload, sign)
            if len(payload) > MAX_BYTES:
                raise Refused(f"{name} has {len(payload):,} bytes, at most {MAX_BYTES:,}: use fewer bins")
            yield Made(name, site, start, end, len(some), sum(w.rows for w in some), payload)


def by_site(data: Data, seconds: int, reference: Reference, candidate: str) -> dict[str, list[Window]]:
    """The windows of each site, with every label that the table has."""
    history = _history(data)
    start = data.first - data.first % seconds
    found: dict[str, list[Window]] = {site: [] for site in history.sites}
    for _, made in history.folded(reference, candidate, start, data.last + 1, seconds, 1 << 40):
        for window in made:
            found[window.site].append(window)
    return found


def _history(data: Data) -> History:
    from drift.history import History

    table = data.table
    names, site = np.unique(table.site.astype(str), return_inverse=True)
    known = np.minimum(data.label_at, 1 << 40)
    return History(table.rows(table.score), tuple(names.tolist()), site.astype(np.int64), table.label, known)


def _signer(key: Path | None, name: str) -> Callable[[bytes], bytes] | None:
    from edge import keys
    from edge.errors import Refused as BadKey

    if key is None:
        return None
    if not name:
        raise Refused("--key: expected --key-id too, the key's id in fleet.yaml")
    try:
        return keys.signer(key.read_bytes())
    except (OSError, BadKey) as problem:
        raise Refused(f"{key}: {problem}") from problem


def _as_rows(data: Data, loop: Loop, candidate: str) -> dict[str, int]:
    """Bytes of the same rows and labels, in batches of ROWS, by spelling."""
    from drift import envelope
    from drift.telemetry import Batch, Labels

    schema, table = loop.schema.telemetry(loop.task), data.table
    told: dict[envelope.Spelling, int] = {"rows": 0, "columns": 0, "arrow": 0}
    for site in table.sites():
        of_site = table.take(table.site == site)
        for i in range(0, len(of_site), ROWS):
            part = of_site.take(np.arange(i, min(i + ROWS, len(of_site))))
            known = part.labelled
            labels = Labels(known.ids.tolist(), known.at, known.label) if len(known) else None
            start, end = int(part.at[0]), int(part.at[-1])
            rows = part.rows(part.score)
            batch = Batch(
                schema.version, loop.loop, candidate, site, f"{site}-{i}", start, end, rows=rows, labels=labels
            )
            for spelling in told:
                told[spelling] += len(envelope.encode(batch, schema, spelling))
    return {str(name): n for name, n in told.items()}


def _show(told: dict[str, Any]) -> None:
    from rich.console import Console

    out, bytes_ = Console(), told["bytes"]
    for b in told["batches"]:
        words = f"{b['file']}: {b['rows']:,} rows in {b['windows']} windows, {b['bytes']:,} bytes"
        out.print(words, markup=False, highlight=False, soft_wrap=True)
    out.print(f"made against reference {told['reference']}", highlight=False)
    out.print(f"sketches: {bytes_['sketch']:,} bytes for {told['rows']:,} rows")
    for spelling in ("rows", "columns", "arrow"):
        times = bytes_[spelling] / bytes_["sketch"]
        out.print(f"as {spelling}: {bytes_[spelling]:,} bytes, {times:.1f} times as many")
