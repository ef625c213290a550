"""Recorded rows, played against a clock that others set: scored as they would have been, and told as telemetry."""

from __future__ import annotations

import threading
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.telemetry import Labels, Rows, Serving
from edge.errors import Refused
from edge.site import Served, Site, percentiles

_TIMED = 20
"""Rows of a batch that are scored again one by one, and timed."""
_PERIODS = 32
_SECONDS = 1.0
"""A write ends after so many flush periods, or after so long: meanwhile the site answers nobody else."""


class Recording:
    """A .npz of one site: id, at, label, label_at (UTC seconds, NaN where it never became known) and the features.

    Numbers are arrays of floats, categories of unicode texts ("" missing). Rows are put in the order of `at`, labels in
    the order in which they became known.
    """

    def __init__(self, path: Path, features: tuple[str, ...]) -> None:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                missing = {"id", "at", "label", "label_at", *features} - set(data.files)
                if missing:
                    raise Refused(f"has no {', '.join(sorted(missing))}", str(path))
                order = np.argsort(data["at"], kind="stable")
                in_order = bool((np.diff(order) == 1).all())
                columns = {}
                self._id = np.strings.encode(data["id"], "utf-8")[order]  # a quarter of the memory
                for name in ("at", "label", *features):
                    columns[name] = data[name] if in_order else data[name][order]
                known = data["label_at"][order].astype(np.float64)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise Refused(f"is not a recording: {error}", str(path)) from error
        self.at = columns.pop("at").astype(np.int64)
        self.label = columns.pop("label").astype(np.float64)
        self.columns: dict[str, NDArray[Any]] = columns
        known[np.isnan(self.label)] = np.nan
        self.labelled = np.argsort(known, kind="stable")[: int(np.isfinite(known).sum())]
        self.known_at = np.maximum(known[self.labelled], self.at[self.labelled]).astype(np.int64)
        again = np.argsort(self.known_at, kind="stable")
        self.labelled, self.known_at = self.labelled[again], self.known_at[again]

    def next(self, row: int, label: int) -> int | None:
        """When something happens again, `row` rows and `label` labels on; None at the end."""
        ahead = [int(times[i]) for times, i in ((self.at, row), (self.known_at, label)) if i < len(times)]
        return min(ahead, default=None)

    def rows(self, part: slice, score: NDArray[np.float64]) -> Rows:
        columns = {name: _cells(values[part]) for name, values in self.columns.items()}
        return Rows(self._ids(part), self.at[part], score, columns)

    def labels(self, part: slice) -> Labels:
        which = self.labelled[part]
        return Labels(self._ids(which), self.at[which], self.label[which])

    def _ids(self, part: slice | NDArray[np.intp]) -> list[str]:
        return [name.decode() for name in self._id[part].tolist()]


@dataclass(frozen=True, slots=True)
class Played:
    """What one call played: rows scored, batches that the ingest took, batches that wait."""

    rows: int
    sent: int
    buffered: int


class Player:
    """Plays a site's recording. Where it is, is written together with the batches made so far: after a crash it goes
    on from there, and no batch is lost, or made twice with other bytes.
    """

    def __init__(self, site: Site, recording: Recording) -> None:
        self._site = site
        self._recording = recording
        self._playing = threading.Lock()

    def advance(self, to: int) -> Played:
        """Play everything up to `to` (UTC seconds), and send what waits. Raises NotReady before the first candidate."""
        with self._playing:
            rows = sent = 0
            more = True
            while more:
                done, more = self._play(to)
                rows += done
                if not more or not self._site.buffer.problem:  # an ingest that is away is asked once more at the end
                    sent += self._site.send()
            return Played(rows, sent, self._site.buffer.waiting)

    def _play(self, to: int) -> tuple[int, bool]:
        """Some periods, in one write: how many rows, and whether there is more."""
        site, recording = self._site, self._recording
        served = site.serving()
        row, label = site.state.get("cursor", {"row": 0, "label": 0}).values()
        first, began = row, time.monotonic()
        with site.state.change():
            for _ in range(_PERIODS):
                ahead = recording.next(row, label)
                if ahead is None or ahead > to or time.monotonic() - began > _SECONDS:
                    break
                start = ahead // site.config.flush * site.config.flush
                until = min(start + site.config.flush - 1, to)
                end_row = int(np.searchsorted(recording.at, until, "right"))
                end_label = int(np.searchsorted(recording.known_at, until, "right"))
                rows, serving = self._score(served, slice(row, end_row)) if end_row > row else (None, Serving())
                labels = recording.labels(slice(label, end_label)) if end_label > label else None
                site.telemetry.tell(served.digest, rows, serving, labels, start, until)
                row, label = end_row, end_label
            site.state.put(cursor={"row": row, "label": label})
            ahead = recording.next(row, label)
        return row - first, ahead is not None and ahead <= to

    def _score(self, served: Served, part: slice) -> tuple[Rows, Serving]:
        """Score a period's rows together, and some of them once more, one by one, to see how long one takes.

        So `serving` says: as many requests as rows, as many errors as rows that the model refused, and p50 and p95 of
        the model's own time for up to 20 single rows. That is neither HTTP's time nor that of rows scored together.
        """
        columns = {name: values[part] for name, values in self._recording.columns.items()}
        score, ms = served.scorer.timed(columns, _TIMED)
        serving = Serving(len(score), int(np.isnan(score).sum()), *percentiles(ms))
        return self._recording.rows(part, score), serving


def _cells(values: NDArray[Any]) -> Any:
    return values.astype(np.float64) if values.dtype.kind != "U" else [value or None for value in values.tolist()]
