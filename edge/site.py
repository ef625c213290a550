"""One site: the candidate that it serves, how it takes another, and what it tells about both."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift import envelope
from drift.reference import Reference
from drift.telemetry import Feature, Labels, Rows, Schema, Serving
from edge import candidate as candidates
from edge import keys, signing
from edge.buffer import Buffer, Faults
from edge.candidate import MANIFEST, REFERENCE, SIGNATURE
from edge.config import SiteConfig
from edge.errors import BadCandidate, NotReady, Refused, Unreachable
from edge.link import Answer
from edge.scorer import Scorer
from edge.services import registry, sender
from edge.smoke import SMOKE, try_out
from edge.state import State, settle, write_file
from edge.telemetry import Telemetry

MAX_ROWS = 10_000
"""In one request."""
_FLUSH_ROWS = 20_000
_PATIENCE = 5.0
"""Seconds for which one change waits for another."""


@dataclass(frozen=True, slots=True)
class Served:
    """An open candidate."""

    digest: str
    scorer: Scorer


class Wanted(msgspec.Struct, frozen=True):
    """What a site is told by a file to serve."""

    candidate: str
    change: str = ""


class Site:
    """Raises Refused where its configuration, or the folder of its state, cannot be used.

    Its candidate is opened from its own disk, every byte checked again; where it does not open, the one before does
    (the last known good), and `problem` says so.
    """

    def __init__(self, config: SiteConfig) -> None:
        self.config = config
        self.schema = config.schema.telemetry()
        self.online = True
        self.problem = ""
        self._public = _file(config.registry_key)
        sign = keys.signer(_file(config.key)) if config.key else None
        self._uplink = sender(config.ingest)
        self._registry = registry(config.registry)
        self._folder = Path(config.state)
        self.state = State(self._folder)
        faults = config.faults
        shown = Faults(faults.seed, faults.duplicate, faults.reorder, faults.malformed) if config.data else Faults()
        self.buffer = Buffer(self.state, config.buffer_bytes, shown)
        self._reference = lru_cache(maxsize=4)(self._read_reference)
        self.telemetry = Telemetry(config, self.state, self.buffer, sign, self._reference)
        self._deploying = threading.Lock()
        self.served: Served | None = None
        self._followed = b""
        self._wake()

    def close(self) -> None:
        self.state.close()
        self._uplink.close()

    @property
    def candidate(self) -> str | None:
        return self.served.digest if self.served else None

    # Deploying.

    def deploy(self, digest: str, change: str = "") -> None:
        """Serve this candidate: fetched, checked and opened first, then swapped in. What is served already stays.

        Raises Refused with the reason, Unreachable where the registry is, or where another change takes long; then
        the site serves on as before.
        """
        if not self.online:
            raise Unreachable("the site is offline")
        if not self._deploying.acquire(timeout=_PATIENCE):
            raise Unreachable("another change is under way")
        try:
            if digest != self.candidate:
                self._fetch(digest)
                served = self._open(digest)
                self.state.put(candidate=digest, previous=self.candidate, change=change)
                self.served, self.problem = served, ""
                self._sweep()
            else:
                self.state.put(change=change)
        finally:
            self._deploying.release()

    def _fetch(self, digest: str) -> None:
        """The candidate onto this disk; what is there already is not fetched again."""
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise Refused("a candidate is named by 64 hexadecimal digits", "candidate")
        folder = self._folder / "candidates" / digest
        try:
            manifest = self._manifest(digest, _file(folder / MANIFEST), _file(folder / SIGNATURE))
        except Refused:
            data = self._registry.read(f"candidates/{digest}/{MANIFEST}", candidates.MAX_MANIFEST)
            signature = self._registry.read(f"candidates/{digest}/{SIGNATURE}", signing.MAX_BYTES)
            manifest = self._manifest(digest, data, signature)
            write_file(folder / SIGNATURE, signature)
            write_file(folder / MANIFEST, data)
        for name, file in manifest.files.items():
            path = self._layer(file.sha256)
            if path.exists() and candidates.sha256(path.read_bytes()) == file.sha256:
                continue
            partial = path.with_name(f"{path.name}.part")
            self._registry.fetch(f"layers/{file.sha256}", partial, file.bytes)
            if candidates.sha256(partial.read_bytes()) != file.sha256:
                partial.unlink()
                raise BadCandidate("the registry holds other bytes than the manifest names", name)
            settle(partial, path)

    def _manifest(self, digest: str, data: bytes, signature: bytes) -> candidates.Manifest:
        """The manifest of this very candidate, signed by the registry, of this loop, for rows like this site's."""
        if candidates.digest(data) != digest:
            raise BadCandidate(f"has the digest {candidates.digest(data)[:12]}..., not {digest[:12]}...", MANIFEST)
        manifest = candidates.signed(data, signature, self._public)
        if manifest.loop != self.config.loop:
            raise BadCandidate(f"is of the loop {manifest.loop!a}, not {self.config.loop!r}", MANIFEST)
        ours = {f.name: f.kind for f in self.schema.features}
        for feature in manifest.schema.features:
            if ours.get(feature.name) != feature.kind:
                raise BadCandidate(f"wants the {feature.kind} {feature.name!a}, which this site lacks", MANIFEST)
        if manifest.task != self.schema.task:
            raise BadCandidate(f"is for a {manifest.task} task, not {self.schema.task}", MANIFEST)
        return manifest

    def _open(self, digest: str) -> Served:
        """The candidate on this disk, every byte checked, opened and tried."""
        folder = self._folder / "candidates" / digest
        data, signature = _file(folder / MANIFEST), _file(folder / SIGNATURE)
        manifest = self._manifest(digest, data, signature)
        files = candidates.verify(data, signature, self._public, lambda sha256: _file(self._layer(sha256)))
        if self.config.stays and REFERENCE not in files:
            raise BadCandidate(f"holds no {REFERENCE}, without which no sketches can be made", MANIFEST)
        scorer = Scorer.of(files, manifest.telemetry())
        if SMOKE in files:
            try_out(files[SMOKE], lambda rows: scorer.score(_columns(rows, manifest.telemetry())[0]))
        return Served(digest, scorer)

    def _wake(self) -> None:
        for name in ("candidate", "previous"):
            digest = self.state.get(name)
            if digest is None:
                continue
            try:
                self.served = self._open(digest)
            except Refused as error:
                self.problem = f"{name} {digest[:12]} cannot be served: {error}"
                continue
            if name == "previous":
                self.state.put(candidate=digest, previous=None)
            return

    def _sweep(self) -> None:
        """Remove candidates that are neither served, nor the way back, nor awaited by predictions without labels."""
        keep = {self.state.get("candidate"), self.state.get("previous")}
        keep |= {found for (found,) in self.state.all("select distinct candidate from predictions")}
        layers: set[str] = set()
        for folder in (self._folder / "candidates").iterdir():
            if folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)
            elif (folder / MANIFEST).exists():
                layers |= {file.sha256 for file in candidates.read(_file(folder / MANIFEST)).files.values()}
        for path in (self._folder / "layers").iterdir():
            if path.name not in layers:  # unfinished ones of other candidates, too
                path.unlink(missing_ok=True)

    def _layer(self, sha256: str) -> Path:
        return self._folder / "layers" / sha256

    def _read_reference(self, digest: str) -> Reference:
        manifest = candidates.read(_file(self._folder / "candidates" / digest / MANIFEST))
        file = manifest.files.get(REFERENCE)
        if file is None:
            raise BadCandidate(f"holds no {REFERENCE}", MANIFEST)
        return Reference.from_bytes(_file(self._layer(file.sha256)))

    # Serving.

    def score_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Scores, None for each row that the model refuses; the rows are kept for telemetry.

        A row may carry `id` and `at`; without, it gets them. Raises Refused where the request as a whole is wrong.
        """
        began = time.perf_counter()
        served = self.serving()
        if len(rows) > MAX_ROWS:
            raise Refused(f"{len(rows)} rows, at most {MAX_ROWS}", "rows")
        now = int(time.time())
        ids = [_id(row) for row in rows]
        at = np.array([_at(row, now) for row in rows], dtype=np.int64)
        columns, odd = _columns(rows, self.schema)
        scores = served.scorer.score(columns) if rows else np.empty(0)
        scores[list(odd)] = np.nan
        features = (columns[f.name].tolist() if f.kind == "number" else columns[f.name] for f in self.schema.features)
        kept = zip(ids, at.tolist(), scores.tolist(), *features, strict=True)
        with self.state.change(durable=False) as db:
            db.executemany(
                "insert into served (candidate, row) values (?, ?)",
                [(served.digest, msgspec.json.encode(values)) for values in kept],
            )
            ms = (time.perf_counter() - began) * 1000
            errors = int(np.isnan(scores).sum())
            db.execute(
                "insert into requests (candidate, rows, errors, ms) values (?, ?, ?, ?)",
                (served.digest, len(ids), errors, ms),
            )
        given = [None if np.isnan(score) else score for score in scores.tolist()]
        return {"candidate": served.digest, "ids": ids, "scores": given, "refused": odd}

    def probe(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """As `score_rows`, for rows that nobody lived: they leave no trace in the telemetry."""
        served = self.serving()
        if len(rows) > MAX_ROWS:
            raise Refused(f"{len(rows)} rows, at most {MAX_ROWS}", "rows")
        columns, odd = _columns(rows, self.schema)
        scores = served.scorer.score(columns) if rows else np.empty(0)
        scores[list(odd)] = np.nan
        return {"candidate": served.digest, "scores": [None if np.isnan(x) else x for x in scores.tolist()]}

    def follow(self) -> None:
        """Serve what the file `wanted` of the configuration names, or DRIFTLOOP_WANTED; a candidate that is refused is
        not tried again before something else is said."""
        said = os.environ.get("DRIFTLOOP_WANTED", "").encode()
        if self.config.wanted is not None and Path(self.config.wanted).exists():
            said = _file(self.config.wanted)
        if not said or said == self._followed:
            return
        try:
            wanted = msgspec.json.decode(said, type=Wanted)
            self.deploy(wanted.candidate, wanted.change)
        except Unreachable as error:
            self.problem = str(error)
            return
        except (Refused, msgspec.MsgspecError) as error:
            self.problem = f"what is wanted is refused: {error}"
        self._followed = said

    def take_labels(self, labels: Sequence[Mapping[str, Any]]) -> None:
        """What turned out to be true, by the ids of predictions: buffered when this returns. Raises Refused."""
        served = self.serving()
        try:
            ids = [str(label["id"]) for label in labels]
            at = np.array([envelope.seconds(label["at"]) for label in labels], dtype=np.int64)
            truth = np.array([float(label["label"]) for label in labels], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"a label has an id, a time `at` and a number `label`: {error!r}", "labels") from error
        now = int(time.time())
        if labels:
            with self.state.change():
                self.telemetry.tell(served.digest, None, Serving(), Labels(ids, at, truth), now, now)

    def report(self) -> None:
        """As `flush`; where nothing was served and nothing waits, a batch without rows says what would be."""
        if not self.flush() and self.served is not None and not self.buffer.waiting:
            with self.state.change():
                self.telemetry.alive(self.served.digest, int(time.time()))

    def flush(self) -> int:
        """Put what was served into the buffer, by candidate and period; how many rows.

        A request's rows and errors count in `serving`; its latency is the whole request's, once for each of its rows.
        """
        total = 0
        while rows := self._flush():
            total += rows
        return total

    def _flush(self) -> int:
        """Some rows, in one write; how many."""
        with self.state.change() as db:
            found = self.state.all("select seq, candidate, row from served order by seq limit ?", _FLUSH_ROWS)
            groups: dict[tuple[str, int], list[list[Any]]] = {}
            for _, digest, row in found:
                values = msgspec.json.decode(row)
                groups.setdefault((digest, values[1] - values[1] % self.config.flush), []).append(values)
            serving = self._requests()
            for (digest, start), rows in sorted(groups.items()):
                end = min(start + self.config.flush, max(int(time.time()), *(values[1] for values in rows)))
                told = _rows(rows, self.schema), serving.pop(digest, Serving()), None
                self.telemetry.tell(digest, *told, start, end)
            db.execute("delete from served where seq <= ?", (found[-1][0] if found else 0,))
            db.execute("delete from requests")
            return len(found)

    def tell(self) -> dict[str, Any]:
        """Tell now what was seen until now, rather than at the end of the period; the status then."""
        self.flush()
        self.send()
        return self.status()

    def send(self) -> int:
        """Send what waits; how many batches were taken."""
        return self.buffer.send(self._post)

    def status(self) -> dict[str, Any]:
        refused = self.buffer.refused()
        return {
            "site": self.config.name,
            "loop": self.config.loop,
            "candidate": self.candidate,
            "previous": self.state.get("previous"),
            "change": self.state.get("change", ""),
            "online": self.online,
            "buffered": self.buffer.waiting,
            "dropped": self.buffer.dropped,
            "refused": [{"batch": batch, "reason": reason} for batch, reason in refused[-20:]],
            "batches": self.state.get("batches", 0),
            "cursor": self.state.get("cursor"),
            "problem": self.problem or self.buffer.problem,
        }

    def _post(self, body: bytes) -> Answer:
        if not self.online:
            raise Unreachable("the site is offline")
        return self._uplink.post(body)

    def serving(self) -> Served:
        """What is served now. Raises NotReady before the first candidate."""
        if self.served is None:
            raise NotReady("no candidate is deployed here yet")
        return self.served

    def _requests(self) -> dict[str, Serving]:
        """How each candidate was served since the last flush."""
        found: dict[str, list[tuple[int, int, float]]] = {}
        for digest, rows, errors, ms in self.state.all("select candidate, rows, errors, ms from requests"):
            found.setdefault(digest, []).append((rows, errors, ms))
        return {digest: _summed(*zip(*requests, strict=True)) for digest, requests in found.items()}


def _summed(rows: Sequence[int], errors: Sequence[int], ms: Sequence[float]) -> Serving:
    each = np.repeat(np.asarray(ms), np.maximum(rows, 1))
    return Serving(sum(rows), sum(errors), *percentiles(each))


def percentiles(ms: NDArray[np.float64]) -> tuple[float, float]:
    """p50 and p95, each a value that was measured, to the microsecond.

    >>> percentiles(np.arange(1.0, 21.0))
    (10.0, 19.0)
    """
    if not len(ms):
        return 0.0, 0.0
    p50, p95 = np.percentile(ms, (50, 95), method="inverted_cdf")
    return round(float(p50), 3), round(float(p95), 3)


def _file(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror}", str(path)) from error


def _id(row: Mapping[str, Any]) -> str:
    given = row.get("id")
    if given is None:
        return uuid4().hex
    if not isinstance(given, str | int) or not 0 < len(str(given)) <= envelope.MAX_TEXT:
        raise Refused(f"an id is a text of 1 to {envelope.MAX_TEXT} characters", "id")
    return str(given)


def _at(row: Mapping[str, Any], now: int) -> int:
    try:
        return envelope.seconds(row["at"]) if row.get("at") is not None else now
    except ValueError as error:
        raise Refused(str(error), "at") from error


def _columns(rows: Sequence[Mapping[str, Any]], schema: Schema) -> tuple[dict[str, Any], dict[int, str]]:
    """Columns with what could not be read as missing, and for those rows the reason."""
    odd: dict[int, str] = {}
    columns: dict[str, Any] = {}
    for feature in schema.features:
        values = [row.get(feature.name) for row in rows]
        for i, value in enumerate(values):
            if value is not None and not _fits(value, feature):
                odd.setdefault(i, f"{feature.name}: expected a {feature.kind}")
                values[i] = None
        columns[feature.name] = np.array(values, dtype=np.float64) if feature.kind == "number" else values
    return columns, odd


def _fits(value: Any, feature: Feature) -> bool:
    if feature.kind == "category":
        return isinstance(value, str)
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _rows(found: Sequence[Sequence[Any]], schema: Schema) -> Rows:
    """Rows as they were kept: id, at, score, then the features."""
    ids, at, score, *features = zip(*found, strict=True)
    columns = {
        f.name: np.array(values, dtype=np.float64) if f.kind == "number" else list(values)
        for f, values in zip(schema.features, features, strict=True)
    }
    return Rows(ids, np.array(at, dtype=np.int64), np.array(score, dtype=np.float64), columns)
