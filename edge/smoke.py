"""A candidate's own sample: rows that nobody lived, and the scores that they must get, end to end, before it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.errors import BadCandidate

SMOKE = "smoke.json"
TOLERANCE = 1e-3
"""By which a score in float32 may differ between processors."""


class Sample(msgspec.Struct, frozen=True):
    rows: list[dict[str, Any]]
    scores: list[float | None]


def try_out(sample: bytes, score: Callable[[Sequence[Mapping[str, Any]]], NDArray[np.float64]]) -> None:
    """Raises BadCandidate where the sample's rows do not get the sample's scores."""
    try:
        wanted = msgspec.json.decode(sample, type=Sample)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadCandidate(f"cannot be read: {error}", SMOKE) from error
    if not wanted.rows or len(wanted.rows) != len(wanted.scores):
        raise BadCandidate(f"has {len(wanted.rows)} rows and {len(wanted.scores)} scores", SMOKE)
    expected = np.array([np.nan if s is None else s for s in wanted.scores], dtype=np.float64)
    given = score(wanted.rows)
    near = np.abs(given - expected) <= TOLERANCE * np.maximum(1.0, np.abs(expected))
    wrong = np.flatnonzero(~(near | (np.isnan(given) & np.isnan(expected))))
    if len(wrong):
        first = int(wrong[0])
        said = f"{len(wrong)} of {len(expected)} rows get other scores than when it was made"
        raise BadCandidate(f"{said}: row {first} {given[first]:.6g}, not {expected[first]:.6g}", SMOKE)
