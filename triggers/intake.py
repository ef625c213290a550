"""Telemetry in: each batch is verified, counted once into its windows, and kept as it came; or quarantined, with the
reason.

All that a batch changes at its site (windows, predictions, the batch's own record, what the site is seen to serve) is
one write, so that a batch is counted wholly or not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from drift import envelope, windows
from drift.performance import Outcomes, Predictions, hashes
from drift.reference import Reference
from drift.telemetry import Batch, Labels, Refusal, Schema
from drift.windows import Window
from triggers import codec, quarantine, sites
from triggers.candidates import reference
from triggers.config import Fleet, Loop, Site, duration
from triggers.errors import Conflict, Misconfigured, NotFound, Refused, Retry
from triggers.ports import Ports
from triggers.records import BatchRecord, Orphans, SiteState, Unit, again, site_partition

replace = msgspec.structs.replace

MAX_AHEAD = timedelta(minutes=10)
"""How far a site's clock may be ahead of ours."""

_COMMIT = 60
"""A write is made when it has so many changes, or _BYTES; it may have _MOST."""

_MOST, _BYTES = 98, 1_500_000
_SPAN = 30
_RECORD = 512
"""Predictions in one record, at most, unless they came in one batch."""

_WAITING, _RECORDS = 1024, 80
"""Labels in a record of those that wait for their predictions, and such records of a period."""

_ROOMS = 4
"""Records of a period with room for more, each of one candidate."""

_PAGE = 8
"""Records of predictions that are read at once."""

_TRIES = 4
"""Without any success in between, before a failure is the caller's."""


@dataclass
class Intake:
    """What became of some payloads. `rows` are those counted into windows; `reasons` is a line for each quarantined."""

    accepted: int = 0
    duplicate: int = 0
    rows: int = 0
    refused_rows: int = 0
    reasons: list[str] = field(default_factory=list)

    @property
    def quarantined(self) -> int:
        return len(self.reasons)

    def add(self, other: Intake) -> None:
        self.accepted += other.accepted
        self.duplicate += other.duplicate
        self.rows += other.rows
        self.refused_rows += other.refused_rows
        self.reasons += other.reasons


@dataclass(frozen=True, slots=True)
class _Arrival:
    payload: bytes
    digest: str
    batch: Batch


class _Bad(Exception):
    """This payload goes to quarantine, for this reason."""


class _Unstorable(Exception):
    """What was to be written is more than the store takes."""


def ingest(ports: Ports, payloads: Iterable[bytes], *, backfill: bool = False, verify: bool = True) -> Intake:
    """Count what can be counted and quarantine the rest; durable when it returns. One bad batch costs only itself.

    Batches of a loop whose configuration is wrong wait: Misconfigured is raised when the others are counted.
    `backfill` takes history of any age, which says nothing of what a site serves now; without `verify` it is an
    operator who vouches for it, not the site's key.
    """
    done, misconfigured = Intake(), None
    by_site: dict[tuple[str, str], list[_Arrival]] = {}
    configured: dict[str, tuple[Loop, Fleet, Schema]] = {}
    for payload in payloads:
        header = None
        try:
            header = envelope.peek(payload)
            if header.loop not in configured:
                configured[header.loop] = _configured(ports, header.loop)
            loop, fleet, schema = configured[header.loop]
            _admit(ports, payload, header, loop, fleet, late=backfill, verify=verify)
            batch = envelope.decode(payload, schema)
        except Misconfigured as problem:
            misconfigured = problem
            continue
        except (_Bad, envelope.BadBatch, Refused) as problem:
            done.reasons.append(_quarantine(ports, payload, header, str(problem)))
            continue
        arrival = _Arrival(payload, codec.digest(payload), batch)
        by_site.setdefault((batch.loop, batch.site), []).append(arrival)

    def fold(named: tuple[str, str]) -> Intake:
        return _fold(ports, configured[named[0]][0], named[1], by_site[named], backfill)

    for folded in ports.together(fold, by_site):
        done.add(folded)
    if misconfigured is not None:
        raise misconfigured
    return done


def join(ports: Ports, loop_name: str) -> None:
    """Look for the predictions of labels that wait, wherever they are in their period: a label is joined when it comes
    where its time is that of its prediction, and here where it is another one of the same period. What fails for a
    site is done at the next check."""
    loop, fleet, _ = _configured(ports, loop_name)

    def attempt(site: str) -> None:
        folder = _Folder(ports, loop, site, backfill=False)
        folder.join()
        folder.save()

    def joined(site: str) -> None:
        with suppress(Conflict, Retry, _Unstorable):
            if any(ports.store.scan(site_partition(loop_name, site), "orphans/", limit=1)):
                again(lambda: attempt(site))

    for _ in ports.together(joined, [site.name for site in fleet.sites]):
        pass


def _configured(ports: Ports, name: str) -> tuple[Loop, Fleet, Schema]:
    try:
        loop, fleet = ports.configs.loop(name), ports.configs.fleet(name)
    except NotFound as problem:
        raise _Bad(f"unknown loop {name!r}") from problem
    return loop, fleet, loop.schema.telemetry(loop.task)


def _admit(
    ports: Ports, payload: bytes, header: envelope.Header, loop: Loop, fleet: Fleet, *, late: bool, verify: bool
) -> None:
    site = fleet.site(header.site)
    if site is None:
        raise _Bad(f"unknown site {header.site!r}")
    if verify:
        _verify(ports, payload, header, site)
    now = ports.clock.now().timestamp()
    if header.end > now + MAX_AHEAD.total_seconds():
        raise _Bad(f"ends at {envelope.iso(header.end)}, in the future")
    lateness, seconds = (duration(d).total_seconds() for d in (loop.telemetry.lateness, loop.telemetry.window))
    if not late and windows.too_late(header.start, int(now), int(lateness), int(seconds)):
        raise _Bad(f"begins at {envelope.iso(header.start)}, later than {loop.telemetry.lateness}: use backfill")


def proven(ports: Ports, payload: bytes, header: envelope.Header, site: Site) -> bool:
    """Whether the batch bears the signature of a key of the site that it names."""
    try:
        _verify(ports, payload, header, site)
    except (_Bad, envelope.BadBatch, Refused):
        return False
    return bool(site.keys)


def _verify(ports: Ports, payload: bytes, header: envelope.Header, site: Site) -> None:
    if not site.keys:
        return
    key = next((k for k in site.keys if k.id == header.key), None)
    if key is None:
        raise _Bad(f"{site.name} has no key {header.key!r}")
    if key.revoked:
        raise _Bad(f"key {key.id!r} of {site.name} is revoked")
    made = datetime.fromtimestamp(header.end, ports.clock.now().tzinfo)
    if (key.not_before and made < key.not_before) or (key.not_after and made > key.not_after):
        raise _Bad(f"key {key.id!r} of {site.name} is not valid at {made:%Y-%m-%d %H:%M} UTC")
    signed, signature = envelope.signed_part(payload)
    if signature is None:
        raise _Bad("is not signed")
    if not ports.signatures.verify(key.public, signature, signed):
        raise _Bad(f"signature is not by key {key.id!r} of {site.name}")


def _quarantine(ports: Ports, payload: bytes, header: envelope.Header | None, reason: str) -> str:
    """Keep the bytes and the reason; returns a line for a log."""
    known = header is not None and header.loop in ports.configs.loops()
    found = quarantine.keep(
        ports,
        payload,
        reason,
        partition=header.loop if header and known else quarantine.NOWHERE,
        loop=header.loop[:100] if header else "",
        site=header.site[:100] if header else "",
        batch=header.batch[:200] if header else "",
    )
    return f"{found.loop}/{found.site} {found.batch!r} ({len(payload)} bytes, {found.blob[-64:][:12]}): {reason}"


def _fold(ports: Ports, loop: Loop, site: str, arrivals: Sequence[_Arrival], backfill: bool) -> Intake:
    """Fold one site's batches, in as few writes as fit. Where a call fails among the many, few are done again."""
    done, i, most, failed = Intake(), 0, len(arrivals), 0
    while i < len(arrivals):
        try:
            folder = again(lambda: _attempt(ports, loop, site, arrivals[i : i + most], backfill))  # noqa: B023 (called at once)
        except _Unstorable as problem:
            if most == 1:
                bad = arrivals[i].payload
                done.reasons.append(_quarantine(ports, bad, envelope.peek(bad), str(problem)))
                i += 1
            most = 1  # one by one, to find whose fault it is
            continue
        except Retry:
            failed += 1
            if failed == _TRIES:
                raise
            most = max(1, min(most, len(arrivals) - i) // 4)
            continue
        i, most, failed = i + folder.taken, 2 * most, 0
        done.add(folder.counted)
        _speak(ports, loop, site, folder)
    return done


def _attempt(ports: Ports, loop: Loop, site: str, arrivals: Sequence[_Arrival], backfill: bool) -> _Folder:
    folder = _Folder(ports, loop, site, backfill)
    for arrival in arrivals:
        folder.take(arrival)
        folder.taken += 1
        if folder.full:
            break
    folder.save()
    return folder


def _speak(ports: Ports, loop: Loop, site: str, folder: _Folder) -> None:
    """After the write: what the site's new state means for its run."""
    before, after = folder.before, folder.state
    if after.status != before.status:
        sites.follow_up(ports, loop.loop, site, after)
    if folder.counted.accepted and sites.returned(after):
        sites.ask_returned(ports, loop.loop, site, after)


class _Kept:
    """A record of predictions, read as far as it is needed."""

    def __init__(self, key: str, raw: bytes) -> None:
        self.key, self.raw = key, raw

    @cached_property
    def span(self) -> tuple[int, int] | None:
        """Its first and its last time; None where an earlier version wrote it."""
        return Predictions.span(self.raw)

    @cached_property
    def predictions(self) -> Predictions:
        return Predictions.from_bytes(self.raw)

    def last(self) -> int:
        return self.span[1] if self.span else int(self.predictions.at.max(initial=0))


class _Folder:
    """One unit of work at one site."""

    def __init__(self, ports: Ports, loop: Loop, site: str, backfill: bool) -> None:
        self.ports, self.loop, self.site, self.backfill = ports, loop, site, backfill
        self.now = ports.clock.now()
        self.unit = Unit(ports.store, site_partition(loop.loop, site))
        self.before = self.unit.get(sites.SITE, SiteState) or SiteState()
        self.state = self.stored = self.before
        self.windows: dict[str, Window] = {}
        self.seconds = int(duration(loop.telemetry.window).total_seconds())
        self.kept: dict[str, list[_Arrival]] = {}
        self.waiting: dict[int, dict[str, Labels]] = {}
        self.told: dict[int, set[tuple[str, float]]] = {}
        self.records: dict[str, _Kept] = {}  # of one period
        self.period = 0
        self.counted = Intake()
        self.taken = 0

    def take(self, arrival: _Arrival) -> None:
        batch = self._in_reach(arrival.batch)
        key = f"batch/{batch.id}"
        known = self.unit.get(key, BatchRecord)
        if known is not None:
            if known.digest == arrival.digest:
                self.counted.duplicate += 1
                self.state = replace(self.state, duplicates=self.state.duplicates + 1)
            else:
                self._refuse(arrival, f"batch {batch.id!r} was counted before with other bytes")
            return
        try:
            about = reference(self.ports, batch.candidate)
            deltas = windows.fold(batch, about, self.seconds)
        except NotFound:
            self._refuse(arrival, f"unknown candidate {batch.candidate[:64]!r}")
            return
        except (Refused, ValueError) as problem:
            self._refuse(arrival, str(problem))
            return
        if len(deltas) > _SPAN:
            self._refuse(arrival, f"spans {len(deltas)} windows, more than {_SPAN}: cut it")
            return
        self.kept.setdefault(envelope.iso(batch.end)[:10], []).append(arrival)
        predicted = Predictions.of(batch.rows, about, self.seconds) if batch.rows is not None else None
        predicted, settled, left = self._labelled(batch.labels, predicted)
        batch = dataclasses.replace(batch, refused=batch.refused + left)
        if len(self.unit) + len(self.windows) + 2 * len(deltas) + 2 * _ROOMS + 4 > _MOST:  # windows and predictions
            self.save()
        for start, delta in deltas.items():
            self._add(batch.candidate, start, delta)
        if predicted is not None and len(predicted):
            self._outcomes(batch.candidate, about, settled)
            self._remember(batch, predicted)
        if batch.refused:
            self._refused_rows(arrival, batch.refused)
        rows = sum(w.rows for w in deltas.values())
        record = BatchRecord(digest=arrival.digest, rows=rows, refused=len(batch.refused), at=self.now)
        self.unit.put(key, record)
        if (batch.rows is not None or batch.sketch is not None) and not self.backfill:
            self.state = sites.observe(self.state, batch, self.loop.rollout, self.now)
        self.state = replace(self.state, batches=self.state.batches + 1, rows=self.state.rows + rows)
        self.counted.accepted += 1
        self.counted.rows += rows
        self.counted.refused_rows += len(batch.refused)
        self._greet(predicted)

    @property
    def full(self) -> bool:
        return len(self.unit) + len(self.windows) > _COMMIT or self.unit.size > _BYTES

    def save(self) -> None:
        """The batches as they came first: a crash in between leaves them there twice, and rows count by their id.

        Each write has the site's state in it, which every worker's has: who finds it changed since the write before
        begins anew, with what is there now."""
        for day, arrivals in self.kept.items():
            name = codec.digest("".join(a.digest for a in arrivals).encode())[:32]
            data = envelope.bundle([a.payload for a in arrivals])
            self.ports.blobs.put(f"batches/{self.loop.loop}/{self.site}/{day}-{name}", data)
        self.kept.clear()
        for key, window in self.windows.items():
            self.unit.raw(key)
            self.unit.put_raw(key, window.to_bytes())
        there = self.unit.get(sites.SITE, SiteState) or SiteState()
        if there != self.stored:
            raise Conflict(f"{self.site} was counted by somebody else meanwhile")
        if len(self.unit) or self.state != there:
            self.unit.put(sites.SITE, self.state)
        try:
            self.unit.commit()
        except Refused as problem:
            raise _Unstorable(str(problem)) from problem
        for read in (self.windows, self.waiting, self.told, self.records):
            read.clear()
        self.stored = self.state

    def _in_reach(self, batch: Batch) -> Batch:
        """Without labels of predictions that are no longer kept, or not yet made."""
        if batch.labels is None:
            return batch
        at = batch.labels.at
        kept = self.now - 2 * duration(self.loop.telemetry.lateness)
        out = at > batch.end if self.backfill else (at < kept.timestamp()) | (at > batch.end)
        if not out.any():
            return batch
        why = f"is of a prediction before {kept:%Y-%m-%d %H:%M} UTC, or after the batch"
        refused = tuple(Refusal(i, "label", why) for i in np.flatnonzero(out).tolist())
        return dataclasses.replace(batch, labels=_pick(batch.labels, ~out), refused=batch.refused + refused)

    def _add(self, candidate: str, start: int, delta: Window) -> None:
        key = f"window/{candidate}/{start:012}"
        window = self._window(key)
        self.windows[key] = delta if window is None else window + delta

    def _window(self, key: str) -> Window | None:
        """As it is by now."""
        if key in self.windows:
            return self.windows[key]
        raw = self.unit.raw(key)
        return None if raw is None else Window.from_bytes(raw)

    def _remember(self, batch: Batch, whole: Predictions) -> None:
        """Keep the predictions until their labels come, by period."""
        periods = whole.at - whole.at % self.seconds
        for start in np.unique(periods).tolist():
            self._keep(start, batch, _part(whole, periods == start), alone=len(np.unique(periods)) == 1)

    def _keep(self, start: int, batch: Batch, record: Predictions, alone: bool) -> None:
        """Small batches share a record with room for more; others are kept by the time of their last prediction."""
        room = f"predictions/{start:012}/room/{batch.candidate}"
        full: Predictions | None = record
        if alone and len(record) < _RECORD:
            raw = self.unit.raw(room)
            if raw is None:
                self._close_rooms(start, batch.id)
            full = None if raw is None else Predictions.from_bytes(raw)
            if full is not None and len(full) + len(record) <= _RECORD:
                record, full = full.joined(record), None
            self.unit.put_raw(room, record.to_bytes())
        if full is not None:
            key = f"{_past(start, int(full.at.max()))}/{batch.candidate}/{batch.id}"
            self.unit.raw(key)
            self.unit.put_raw(key, full.to_bytes())

    def _close_rooms(self, start: int, name: str) -> None:
        """The oldest, before one more opens: who looks for predictions since some time reads all that have room. An
        earlier version left more of them, and larger ones: not all are closed at once."""
        rooms = sorted((_Kept(*found) for found in self.unit.scan(f"predictions/{start:012}/room/")), key=_Kept.last)
        for room in rooms[: max(0, min(_ROOMS, len(rooms) - _ROOMS + 1))]:
            if self.unit.size + len(room.raw) > _BYTES:
                return
            self.unit.put_raw(f"{_past(start, room.last())}/{_candidate(room.key)}/{name}", room.raw)
            self.unit.delete(room.key)

    def _labelled(
        self, labels: Labels | None, own: Predictions | None
    ) -> tuple[Predictions | None, dict[int, Outcomes], tuple[Refusal, ...]]:
        """Join labels with predictions of their time, those kept or the batch's `own`, or of later; others wait.

        Returns the batch's own with what is now known of them, their outcomes, which are added with them, and labels
        for which there is no room to wait. Settling the kept ones twice is the same as once (but for contradictions,
        which are counted again), so many labels may take several writes; the batch's record comes last.
        """
        settled: dict[int, Outcomes] = {}
        if labels is None:
            return own, settled, ()
        beyond = set[tuple[str, int]]()
        starts = labels.at - labels.at % self.seconds
        for start in np.unique(starts).tolist():
            left = _pick(labels, starts == start)
            low, high = int(left.at.min()), int(left.at.max())
            left = self._settle(left, self._predicted(start, low, high))
            if own is not None and len(left):
                own, outcomes, matched = own.settle(left)
                left = _pick(left, ~matched)
                for period, more in outcomes.items():
                    settled[period] = settled[period] + more if period in settled else more
            if len(left):  # who tells them may know the day alone
                left = self._settle(left, self._predicted(start, low, high, later=True))
            left = self._unknown(start, left)
            for i in range(0, len(left), _WAITING):
                some = _pick(left, np.arange(len(left)) // _WAITING == i // _WAITING)
                if not self._waits(start, some):
                    beyond |= _named(some)
                if self.full:
                    self.save()
        why = f"waits for its prediction with more than {_RECORDS * _WAITING:,} others of its period"
        told = enumerate(zip(labels.ids, labels.at.tolist(), strict=True))
        return own, settled, tuple(Refusal(i, "label", why) for i, label in told if label in beyond)

    def _predicted(self, start: int, low: int, high: int, *, later: bool = False) -> Iterator[_Kept]:
        """Records of a period that may have predictions between these times, or have only later ones."""
        if self.period != start:
            self.period = start
            self.records.clear()
        for key, raw in self.unit.scan(f"predictions/{start:012}/", _past(start, low), _PAGE):
            record = self.records.get(key)
            if record is None or record.raw != raw:
                self.records[key] = record = _Kept(key, raw)
            first, last = record.span or (low, high)
            if first > high if later else first <= high and low <= last:
                yield record

    def join(self) -> None:
        """Look for what waits in all its period."""
        partition, store = self.unit.partition, self.ports.store
        for start in sorted({int(r.key.split("/")[1]) for r in store.scan(partition, "orphans/")}):
            self._meet(start, None)

    def _greet(self, predicted: Predictions | None) -> None:
        """Predictions that are kept now meet the labels that waited for them."""
        if predicted is not None and len(predicted):
            periods = predicted.at - predicted.at % self.seconds
            for start in np.unique(periods).tolist():
                at = predicted.at[periods == start]
                self._meet(start, (int(at.min()), int(at.max())))

    def _meet(self, start: int, at: tuple[int, int] | None) -> None:
        """Join what waits with what is kept of its period, or in records of predictions between these times. What is
        settled goes before what waited, so that who is stopped in between finds it settled."""
        waiting = self._waiting(start)
        if not waiting:
            return
        labels = Labels(
            [i for told in waiting.values() for i in told.ids],
            np.concatenate([told.at for told in waiting.values()]),
            np.concatenate([told.label for told in waiting.values()]),
        )
        if at is None:  # all of them: no need to remember those in which nothing is found
            self.save()
            everything = self.ports.store.scan(self.unit.partition, f"predictions/{start:012}/")
            left = self._settle(labels, (_Kept(r.key, r.value) for r in everything))
        else:
            left = self._settle(labels, self._predicted(start, *at))
        if len(left) == len(labels):
            return
        met = _named(labels) - _named(left)
        for key in list(self._waiting(start)):
            told = self._waiting(start).get(key)  # as it is by now
            if told is None:
                continue
            stays = [named not in met for named in zip(told.ids, told.at.tolist(), strict=True)]
            if not all(stays):
                self._wait(start, key, _pick(told, np.array(stays, np.bool_)))
            if self.full:
                self.save()

    def _settle(self, labels: Labels, records: Iterator[_Kept]) -> Labels:
        """Join labels with kept predictions; returns those that have none among them."""
        hashed = hashes(labels.ids)
        while len(labels) and (kept := next(records, None)):
            record, outcomes, matched = kept.predictions.settle(labels, hashed)
            if outcomes and (now := self.unit.raw(kept.key)) != kept.raw:  # of before the last write
                if now is None:
                    continue
                record, outcomes, matched = Predictions.from_bytes(now).settle(labels, hashed)
            if outcomes:
                candidate = _candidate(kept.key)
                self.unit.put_raw(kept.key, record.to_bytes())
                self._outcomes(candidate, reference(self.ports, candidate), outcomes)
            if matched.any():
                labels, hashed = _pick(labels, ~matched), hashed[~matched]
            if self.full:
                self.save()
        return labels

    def _waiting(self, start: int) -> dict[str, Labels]:
        """Labels of a period whose predictions have not come, by record."""
        if start not in self.waiting:
            told = {k: codec.decode(raw, Orphans) for k, raw in self.unit.scan(f"orphans/{start:012}")}
            self.waiting[start] = {
                k: Labels(o.ids, np.array(o.at, np.int64), np.array(o.label, np.float64)) for k, o in told.items()
            }
        return self.waiting[start]

    def _unknown(self, start: int, labels: Labels) -> Labels:
        """Those of them that do not wait already."""
        if not len(labels):
            return labels
        if start not in self.told:
            there = self._waiting(start).values()
            self.told[start] = {pair for told in there for pair in zip(told.ids, told.label.tolist(), strict=True)}
        known = self.told[start]
        new = [pair not in known for pair in zip(labels.ids, labels.label.tolist(), strict=True)]
        known.update(zip(labels.ids, labels.label.tolist(), strict=True))
        return _pick(labels, np.array(new, np.bool_))

    def _wait(self, start: int, key: str, labels: Labels) -> None:
        self.unit.raw(key)
        if len(labels):
            self._waiting(start)[key] = labels
            self.unit.put(key, Orphans(ids=list(labels.ids), at=labels.at.tolist(), label=labels.label.tolist()))
        else:
            self._waiting(start).pop(key, None)
            self.unit.delete(key)

    def _waits(self, start: int, labels: Labels) -> bool:
        """Whether there is room for them, where they then wait."""
        here = self._waiting(start)
        key = next((k for k, there in here.items() if len(there) + len(labels) <= _WAITING), "")
        if not key and len(here) == _RECORDS:
            return False
        last = max((int(k.split("/")[2]) for k in here if k.count("/") == 2), default=0)
        key = key or f"orphans/{start:012}/{last + 1:06}"
        self._wait(start, key, _joined(here.get(key), labels))
        return True

    def _outcomes(self, candidate: str, about: Reference, outcomes: Mapping[int, Outcomes]) -> None:
        for start, more in outcomes.items():
            key = f"window/{candidate}/{start:012}"
            window = self._window(key) or windows.empty(candidate, self.site, start, self.seconds, about)
            self.windows[key] = dataclasses.replace(window, outcomes=window.outcomes + more)

    def _refuse(self, arrival: _Arrival, reason: str) -> None:
        said = _quarantine(self.ports, arrival.payload, envelope.peek(arrival.payload), reason)
        self.counted.reasons.append(said)

    def _refused_rows(self, arrival: _Arrival, refused: Sequence[Refusal]) -> None:
        batch = arrival.batch
        quarantine.keep(
            self.ports,
            arrival.payload,
            f"{len(refused)} rows of the batch could not be read; the others were counted",
            partition=batch.loop,
            loop=batch.loop,
            site=batch.site,
            batch=batch.id,
            rows=tuple((r.row, r.field, r.reason) for r in refused[:100]),
        )


def _named(labels: Labels) -> set[tuple[str, int]]:
    return set(zip(labels.ids, labels.at.tolist(), strict=True))


def _past(start: int, last: int) -> str:
    return f"predictions/{start:012}/past/{last:012}"


def _candidate(key: str) -> str:
    """Of a record of predictions; those of earlier versions are named by it at once."""
    kind, *more = key.split("/")[2:]
    return {"past": more[1:2], "room": more[:1]}.get(kind, [kind])[0]


def _part(whole: Predictions, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> Predictions:
    if mask.all():
        return whole
    return dataclasses.replace(
        whole,
        ids=whole.ids[mask],
        at=whole.at[mask],
        score=whole.score[mask],
        slot=whole.slot[mask],
        label=whole.label[mask],
    )


def _joined(first: Labels | None, then: Labels) -> Labels:
    if first is None:
        return then
    at, label = np.concatenate((first.at, then.at)), np.concatenate((first.label, then.label))
    return Labels([*first.ids, *then.ids], at, label)


def _pick(labels: Labels, mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Labels:
    if mask.all():
        return labels
    index = np.flatnonzero(mask)
    return Labels([labels.ids[i] for i in index.tolist()], labels.at[index], labels.label[index])
