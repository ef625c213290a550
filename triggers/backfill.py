"""Late history: rows, or batches as sites made them, counted into the windows that they belong to, however old.

What is stored already is not counted again: rows and labels are known by their ids, batches by theirs, from the
batches that were kept as they came. A window that a check has assessed takes the counts too; its evidence stays.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from drift import envelope
from drift.performance import hashes
from drift.telemetry import MAX_BYTES, Batch, Labels, Rows
from drift.windows import Window
from triggers import codec
from triggers.config import duration
from triggers.errors import Refused
from triggers.intake import ingest
from triggers.loop import Detector, head
from triggers.ports import Ports
from triggers.records import LoopUnit, again, site_partition

_ROWS = 2000
_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Reopened:
    """One window that has changed: rows before and after, and whether a check had assessed it before."""

    site: str
    candidate: str
    start: int
    before: int
    after: int
    assessed: bool


@dataclass
class Backfilled:
    """What became of some history. `known` are rows or batches that were stored before."""

    rows: int = 0
    labels: int = 0
    batches: int = 0
    known_rows: int = 0
    known_batches: int = 0
    quarantined: int = 0
    reopened: list[Reopened] = field(default_factory=list)

    def add(self, other: Backfilled) -> None:
        for name in ("rows", "labels", "batches", "known_rows", "known_batches", "quarantined", "reopened"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class Stored:
    """What one site sent before: hashes of the ids of rows and labels, and the ids of batches."""

    rows: NDArray[np.uint64]
    labels: NDArray[np.uint64]
    batches: frozenset[str]


def rows(
    ports: Ports, loop: str, site: str, given: Rows, label: NDArray[np.float64], candidate: str = ""
) -> Backfilled:
    """Scored rows of one site, `label` [n] NaN where it is not known. Without `candidate` each row is of the one that
    the site's windows of that time name. An operator vouches for them: no key signs them. Raises Refused."""
    config = ports.configs.loop(loop)
    seconds = int(duration(config.telemetry.window).total_seconds())
    done = Backfilled()
    if not len(given):
        return done
    known = stored(ports, loop, site, int(given.at.min()))
    ids = hashes(given.ids)
    first = np.zeros(len(ids), np.bool_)
    first[np.unique(ids, return_index=True)[1]] = True
    new = first & ~np.isin(ids, known.rows)
    told = first & np.isfinite(label) & ~np.isin(ids, known.labels)
    done.known_rows = int((~new).sum())
    serving = _Serving(ports, loop, site, candidate)
    schema, payloads = config.schema.telemetry(config.task), []
    starts = given.at - given.at % seconds
    for start in np.unique(starts[new | told]).tolist():
        index = np.flatnonzero((starts == start) & (new | told))
        for part in (index[i : i + _ROWS] for i in range(0, len(index), _ROWS)):
            with_rows, with_labels = part[new[part]], part[told[part]]
            batch = Batch(
                schema.version,
                loop,
                serving.at(start),
                site,
                "",
                int(given.at[part].min()),
                int(given.at[part].max()),
                rows=_take(given, with_rows) if len(with_rows) else None,
                labels=_labels(given, label, with_labels) if len(with_labels) else None,
            )
            payloads += _cut(batch, lambda b: envelope.encode(_named(b), schema))
            done.rows += len(with_rows)
            done.labels += len(with_labels)
    return _counted(ports, loop, site, payloads, done, verify=False)


def batches(ports: Ports, loop: str, payloads: Iterable[bytes]) -> Backfilled:
    """Batches as sites made them, signed where a site has keys; rows or sketches."""
    done = Backfilled()
    by_site: dict[str, list[tuple[envelope.Header, bytes]]] = {}
    for payload in payloads:
        try:
            found = envelope.peek(payload)
        except envelope.BadBatch as problem:
            raise Refused(f"a file is not a batch: {problem}") from problem
        if found.loop != loop:
            raise Refused(f"batch {found.batch} of {found.site} is of the loop {found.loop}, not {loop}")
        by_site.setdefault(found.site, []).append((found, payload))
    for site, of_site in sorted(by_site.items()):
        known = stored(ports, loop, site, min(h.start for h, _ in of_site)).batches
        fresh = [payload for h, payload in of_site if h.batch not in known]
        part = Backfilled(known_batches=len(of_site) - len(fresh))
        done.add(_counted(ports, loop, site, fresh, part, verify=True))
    return done


def note(ports: Ports, loop: str, done: Backfilled, by: str) -> None:
    """Put on record what was backfilled."""
    sites = sorted({r.site for r in done.reopened})
    text = f"{done.rows:,} rows in {len(done.reopened)} windows of {', '.join(sites[:5])}"

    def attempt() -> None:
        unit = LoopUnit(ports.store, loop, ports.clock.now())
        unit.note("backfilled", loop, text, by, rows=done.rows, batches=done.batches, sites=sites)
        unit.commit()

    if done.batches:
        again(attempt)


def stored(ports: Ports, loop: str, site: str, since: int) -> Stored:
    """What is kept of a site's batches that may hold rows or labels of rows since then (UTC seconds)."""
    config = ports.configs.loop(loop)
    schema, first = config.schema.telemetry(config.task), envelope.iso(since)[:10]
    rows, labels, named = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)], set()
    for name in ports.blobs.names(f"batches/{loop}/{site}/"):
        if name.split("/")[-1] < first:
            continue
        for payload in envelope.unbundle(ports.blobs.get(name)):
            batch = envelope.decode(payload, schema, max_bytes=max(len(payload), 1))
            named.add(batch.id)
            if batch.rows is not None:
                rows.append(hashes(batch.rows.ids))
            if batch.labels is not None:
                labels.append(hashes(batch.labels.ids))
    return Stored(np.concatenate(rows), np.concatenate(labels), frozenset(named))


class _Serving:
    """Which candidate a site served at a time, by its windows: that of the period, else of the one before."""

    def __init__(self, ports: Ports, loop: str, site: str, said: str) -> None:
        self.said = said
        rows: dict[int, tuple[int, str]] = {}
        for record in ports.store.scan(site_partition(loop, site), "window/"):
            window = Window.from_bytes(record.value)
            rows[window.start] = max(rows.get(window.start, (-1, "")), (window.rows, window.candidate))
        self._starts = sorted(rows)
        self._candidates = [rows[start][1] for start in self._starts]
        self._champion = head(ports, loop).champion_of(site)

    def at(self, start: int) -> str:
        """Raises Refused."""
        if found := self.said or self._nearest(start):
            return found
        raise Refused("no champion, and no window that names a candidate; say which served with --candidate")

    def _nearest(self, start: int) -> str:
        i = bisect_right(self._starts, start)
        return self._candidates[max(i - 1, 0)] if self._starts else self._champion


def _counted(
    ports: Ports, loop: str, site: str, payloads: Sequence[bytes], done: Backfilled, *, verify: bool
) -> Backfilled:
    """Count them, and see which windows that has changed."""
    before = dict(_windows(ports, loop, site))
    for i in range(0, len(payloads), _AT_ONCE):
        taken = ingest(ports, payloads[i : i + _AT_ONCE], backfill=True, verify=verify)
        done.batches += taken.accepted
        done.quarantined += taken.quarantined
        done.known_batches += taken.duplicate
        if verify:
            done.rows += taken.rows
    for (candidate, start), (rows, version) in _windows(ports, loop, site):
        was, then = before.get((candidate, start), (0, ""))
        if version != then:
            assessed = _cursor(ports, loop, candidate, site) >= start
            done.reopened.append(Reopened(site, candidate, start, was, rows, assessed))
    return done


def _windows(ports: Ports, loop: str, site: str) -> Iterator[tuple[tuple[str, int], tuple[int, str]]]:
    """((candidate, start), (rows, version)) of each stored window."""
    for record in ports.store.scan(site_partition(loop, site), "window/"):
        window = Window.from_bytes(record.value)
        yield (window.candidate, window.start), (window.rows, record.version)


def _cursor(ports: Ports, loop: str, candidate: str, site: str) -> int:
    record = ports.store.get(loop, f"detector/{candidate}")
    return codec.decode(record.value, Detector).cursor.get(site, -1) if record else -1


def _take(given: Rows, index: NDArray[np.intp]) -> Rows:
    columns = {
        name: values[index] if isinstance(values, np.ndarray) else [values[i] for i in index.tolist()]
        for name, values in given.columns.items()
    }
    return Rows([given.ids[i] for i in index.tolist()], given.at[index], given.score[index], columns)


def _labels(given: Rows, label: NDArray[np.float64], index: NDArray[np.intp]) -> Labels:
    return Labels([given.ids[i] for i in index.tolist()], given.at[index], label[index])


def _named(batch: Batch) -> Batch:
    """With an id that only these rows and labels have."""
    ids = [*(batch.rows.ids if batch.rows else ()), "", *(batch.labels.ids if batch.labels else ())]
    digest = codec.digest("\x1f".join(ids).encode("utf-8", "surrogatepass"))
    return replace(batch, id=f"backfill-{envelope.iso(batch.start)}-{digest[:16]}")


def _cut(batch: Batch, encode: Callable[[Batch], bytes]) -> list[bytes]:
    """As bytes, cut in two as often as it takes to keep within the bound."""
    payload = encode(batch)
    n = len(batch.rows) if batch.rows is not None else 0
    if len(payload) <= MAX_BYTES or n < 2:
        return [payload]
    assert batch.rows is not None
    halves = np.arange(n // 2), np.arange(n // 2, n)
    one = replace(batch, rows=_take(batch.rows, halves[0]))
    return [*_cut(one, encode), *_cut(replace(batch, rows=_take(batch.rows, halves[1]), labels=None), encode)]
