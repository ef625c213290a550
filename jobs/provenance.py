"""Where training rows come from: how many of each site's batches, and which batches are unlike the others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from jobs.table import Table

Batches = NDArray[np.object_]
"""The batch id of each row of a table."""

SHARE, FEWEST = 0.05, 5
"""A batch is heavy with outliers from so many rows on, as a share and at least."""
PARTS = 8
NAMED = 50


def record(table: Table, batches: Batches) -> bytes:
    """Rows by site and batch, as JSON; its sha256 goes into the lineage."""
    counts: dict[str, dict[str, int]] = {}
    for site in sorted(set(table.site.tolist())):
        ids, rows = np.unique(batches[table.site == site].astype(str), return_counts=True)
        counts[site] = dict(zip(ids.tolist(), rows.tolist(), strict=True))
    return json.dumps(counts, sort_keys=True, separators=(",", ":")).encode()


def name(data: bytes) -> str:
    """The blob that holds a record."""
    return f"provenance/{hashlib.sha256(data).hexdigest()}"


def outlying(table: Table, batches: Batches) -> dict[str, int]:
    """Batches (site/id) heavy with rows that have a number far from all that is usual, and how many such rows.

    Usual is between the medians, over equal parts of every site's time, of each part's 0.5% and 99.5% quantiles: less
    than half of the parts cannot move them. Far is beyond it by twice its width.
    """
    far = np.zeros(len(table), np.bool_)
    parts = [part for part in _parts(table) if len(part)]
    for values in table.columns.values():
        if values.dtype != object and np.isfinite(values).any():
            found = [values[part][np.isfinite(values[part])] for part in parts]
            ends = np.array([np.quantile(v, (0.005, 0.995)) for v in found if len(v)])
            low, high = np.median(ends, axis=0)
            far |= (values < low - 2 * (high - low)) | (values > high + 2 * (high - low))
    if not far.any():
        return {}
    named = np.char.add(np.char.add(table.site.astype(str), "/"), batches.astype(str))
    ids, codes, rows = np.unique(named, return_inverse=True, return_counts=True)
    odd = np.bincount(codes, far, len(ids)).astype(int)
    heavy = np.flatnonzero((odd >= FEWEST) & (odd >= SHARE * rows))
    most = heavy[np.argsort(-odd[heavy], kind="stable")][:NAMED]
    return {str(ids[i]): int(odd[i]) for i in most}


def _parts(table: Table) -> Iterator[NDArray[np.intp]]:
    for site in sorted(set(table.site.tolist())):
        yield from np.array_split(np.flatnonzero(table.site == site), PARTS)
