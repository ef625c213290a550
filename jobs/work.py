"""The jobs themselves: rows gathered, the user's script run on them, what it made checked and kept."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge import safety
from edge.bundle import ORCHESTRATE
from edge.candidate import Frozen, Lineage, Manifest
from jobs import behaviour, extra, provenance, specs, trials
from jobs import table as tables
from jobs.assemble import Assembled, assemble, joined
from jobs.evaluate import Comparison, nothing
from jobs.package import Blobs, environment, fetch, package
from jobs.review import review, thinned
from jobs.table import Table
from triggers.config import Loop, duration, parse_loop

ROOT = Path(__file__).resolve().parent.parent


class JobFailed(Exception):
    """The job cannot be done; the words say why."""


def do(spec: specs.AnySpec, folder: Path) -> dict[str, Any]:
    """What the spec asks for. Files on the way lie in a folder of their own under `folder`, and go at the end."""
    with TemporaryDirectory(dir=folder, prefix="work-") as work:
        if isinstance(spec, specs.Train):
            return _train(spec, Path(work))
        if isinstance(spec, specs.Evaluate):
            return _evaluate(spec, Path(work))
        return _review(spec, Path(work))


def _train(spec: specs.Train, work: Path) -> dict[str, Any]:
    began = time.monotonic()
    loop = _loop(spec)
    found = _rows(spec, loop, spec.start, spec.end)
    frozen, found = extra.freeze(loop, found.table, spec.holdout, _blobs(spec)), extra.without_frozen(loop, found)
    keep, capped = found.table.within(loop.training.site_share)
    _say_capped(capped)
    rows = found.table.take(keep)
    known = np.isfinite(rows.label)
    labelled = rows.take(known)
    if not len(labelled):
        raise JobFailed(f"no labelled rows before {_iso(spec.end)}: nothing to train on")
    settings = {**loop.training.settings, **spec.settings}
    told = _told(spec, loop, work, training={"settings": settings} if spec.settings else {})
    data, out = work / "rows.parquet", work / "candidate"
    tables.write(labelled, data)
    script = _script(spec, loop.training.script)
    if spec.model:
        lineage = _made_elsewhere(spec, out, frozen)
    else:
        _say(f"training on {len(labelled):,} labelled rows of {len(rows):,}")
        _run(script or "jobs.train", "--data", data, "--loop", told, "--out", out)
        if not any((out / name).is_file() for name in ("model.onnx", ORCHESTRATE)):
            raise JobFailed(f"{_named(script, 'jobs.train')} ended well, but left no model.onnx in its --out folder")
        start = spec.start or datetime.fromtimestamp(int(rows.at[0]), UTC)
        lineage = Lineage(
            run=spec.run,
            parent=spec.parent,
            start=_iso(start),
            end=_iso(spec.end),
            rows=len(labelled),
            sites=labelled.sites(),
            capped=capped,
            without_rows=found.without_rows,
            left_out=dict(found.left_out),
            **({} if found.batches is None else _provenance(labelled, found.batches[keep][known], _blobs(spec))),
            code=_code(script or ROOT / "jobs/train.py"),
            settings=hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest(),
            architecture=_architecture(out),
            environment=environment(),
            authors=spec.authors,
            holdout=frozen,
        )
    _say("packaging")
    key = Path(spec.key).read_bytes() if spec.key else None
    digest = package(out, loop, rows, lineage, _iso(spec.end), key, _blobs(spec))
    _say(f"candidate {digest}")
    return {
        "candidate": digest,
        "rows": lineage.rows,
        "from": lineage.start,
        "to": lineage.end,
        "sites": lineage.sites,
        "seconds": round(time.monotonic() - began, 2),
    }


def _code(script: Path) -> str:
    """sha256 of a script, and of the modules and packages beside it that it may import."""
    home = script.parent
    beside = {*home.glob("*.py"), *(p for init in home.glob("*/__init__.py") for p in init.parent.rglob("*.py"))}
    found = hashlib.sha256(script.read_bytes())
    for path in sorted(beside - {script}) if home != ROOT / "jobs" else ():
        data = path.read_bytes()
        found.update(f"\0{path.relative_to(script.parent).as_posix()}\0{len(data)}\0".encode() + data)
    return found.hexdigest()


def _architecture(out: Path) -> str:
    """Of all models in a folder, by name; empty where one of them cannot be read, which packaging refuses."""
    found = hashlib.sha256()
    try:
        for path in sorted(out.glob("*.onnx")):
            found.update(f"{path.name} {safety.outline(path.read_bytes())}\n".encode())
    except (IndexError, ValueError):
        return ""
    return found.hexdigest()


def _provenance(rows: Table, batches: provenance.Batches, blobs: Blobs) -> dict[str, Any]:
    """What the lineage says of the batches that were trained on; their record goes into the blob store."""
    data = provenance.record(rows, batches)
    blobs.put(provenance.name(data), data)
    odd = provenance.outlying(rows, batches)
    for batch, n in odd.items():
        _say(f"unlike the others: batch {batch}, {n:,} outlying rows")
    counted = sum(map(len, json.loads(data).values()))
    return {"batches": counted, "provenance": hashlib.sha256(data).hexdigest(), "outlying": odd}


def _made_elsewhere(spec: specs.Train, out: Path, frozen: Frozen | None) -> Lineage:
    """The model of somebody else in `out`, and what is known of its training."""
    path = Path(spec.model or "")
    found = [path] if path.is_file() else sorted(path.rglob("*.onnx"))
    if len(found) != 1:
        raise JobFailed(f"the model has {len(found)} files *.onnx; one is expected")
    out.mkdir(exist_ok=True)
    shutil.copyfile(found[0], out / "model.onnx")
    known = spec.trained_from is not None and spec.trained_to is not None
    start, end = (_iso(t) if t is not None and known else "" for t in (spec.trained_from, spec.trained_to))
    return Lineage(run=spec.run, parent=spec.parent, start=start, end=end, authors=spec.authors, holdout=frozen)


def _evaluate(spec: specs.Evaluate, work: Path) -> dict[str, Any]:
    """The comparison by the user's script, if there is one, and all that the gates judge beside it."""
    loop = _loop(spec)
    blobs, key = _blobs(spec), Path(spec.public) if spec.public else None
    digests = {"champion": spec.champion, "challenger": spec.challenger}
    manifests = {role: fetch(d, blobs, key.read_bytes() if key else None, work / role) for role, d in digests.items()}
    windows = {role: _window(manifest) for role, manifest in manifests.items()}
    everything = _rows(spec, loop, spec.start, spec.end).table
    rows = everything.labelled
    rows = rows.take(_outside(rows, windows.values()))
    keep, capped = rows.within(loop.training.site_share)
    _say_capped(capped)
    rows = rows.take(keep)
    limits = {"metric": spec.metric, "confidence": spec.confidence}
    told = _told(spec, loop, work, gates={name: value for name, value in limits.items() if value is not None})
    loop, beside = parse_loop(told.read_text(), str(told)), Path(spec.loop).resolve().parent
    frozen = extra.holdout(loop, beside, manifests, (_seconds(spec.start), _seconds(spec.end)), blobs)
    examples = extra.examples(loop, beside)
    asked = joined([rows, frozen.rows, examples.rows])
    trials.write(asked, work / "rows")
    scores, tried = {}, {}
    scores["challenger"], tried["challenger"] = trials.run(work / "challenger", work / "rows", key, len(asked))
    with ThreadPoolExecutor(1) as beside_it:
        trial = beside_it.submit(trials.run, work / "champion", work / "rows", key, len(asked))
        own: dict[str, Any] = {}
        script = _script(spec, loop.evaluation.script)
        if script and len(rows) and not tried["challenger"]["error"]:
            own = _compared(script, rows, told, work)
        scores["champion"], tried["champion"] = trial.result()
    parts = np.split(np.arange(len(asked)), np.cumsum([len(rows), len(frozen.rows)]))
    live, old, canned = ({role: score[part] for role, score in scores.items()} for part in parts)
    _say(f"comparing on {len(rows):,} labelled rows that neither was trained on")
    compared = Comparison(rows, live["champion"], live["challenger"], loop)
    measured = _measured(compared, spec.cohorts) if len(rows) else nothing(loop)
    return (
        measured
        | _own(own, measured, loop)
        | {
            **digests,
            "rows": min(int(own.get("rows") or len(rows)), len(rows)),
            "from": _iso(spec.start),
            "to": _iso(spec.end),
            "newest": _newest(rows, loop, spec.end),
            "data": rows.digest(),
            "training": {role: [_iso(t) for t in window] if window else None for role, window in windows.items()},
            "holdout": frozen.compared(old, loop),
            "examples": examples.judged(canned["challenger"]),
            "trials": tried,
            "bytes": sum(f.bytes for n, f in manifests["challenger"].files.items() if n.endswith(".onnx")),
            "new_bytes": _new(manifests["challenger"], manifests["champion"]),
            "rows_per_hour": everything.busiest(3600),
            "schema": extra.differs(manifests["challenger"], loop),
        }
    )


def _newest(rows: Table, loop: Loop, end: datetime) -> str | None:
    """When the newest row was due to have its label, at most the end of the window."""
    if not len(rows):
        return None
    due = datetime.fromtimestamp(int(rows.at.max()), UTC) + duration(loop.schema.label_delay)
    return _iso(min(due, _aware(end)))


def _compared(script: Path, rows: Table, told: Path, work: Path) -> dict[str, Any]:
    """What the user's script says of both candidates."""
    data, out = work / "rows.parquet", work / "evidence.json"
    tables.write(rows, data)
    folders = [part for role in ("champion", "challenger") for part in (f"--{role}", work / role)]
    _run(script, "--data", data, "--loop", told, *folders, "--out", out)
    return _written(out, script.name)


def _own(said: Mapping[str, Any], measured: Mapping[str, Any], loop: Loop) -> dict[str, Any]:
    """What a user's script may say in place of what was measured: the comparison, by all parts that there are."""
    for kind in ("sites", "cohorts", "groups"):
        parts = said.get(kind, measured.get(kind))
        if missing := sorted(measured.get(kind, {}).keys() - (parts.keys() if isinstance(parts, dict) else set())):
            wrote = f"{loop.evaluation.script} wrote evidence without all of the {kind} that there are"
            raise JobFailed(f"{wrote}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    return {name: value for name, value in said.items() if name not in ("calibration", "churn", "fairness")}


def _measured(found: Comparison, cohorts: Mapping[str, str]) -> dict[str, Any]:
    of = np.array([cohorts.get(site, "") for site in found.rows.site.tolist()], dtype=object)
    by_cohort = {cohort: found.on(of == cohort) for cohort in sorted(set(of.tolist()) - {""})}
    return found.measured() | behaviour.measured(found) | {"cohorts": by_cohort}


def _new(challenger: Manifest, champion: Manifest) -> int:
    """Bytes of the files that a site with the champion has not."""
    there = {file.sha256 for file in champion.files.values()}
    return sum(file.bytes for file in challenger.files.values() if file.sha256 not in there)


def _review(spec: specs.Review, work: Path) -> dict[str, Any]:
    loop = _loop(spec)
    blobs = Blobs(Path(spec.blobs))
    folders = {digest: work / digest for digest in dict.fromkeys([spec.champion, *spec.candidates])}
    windows = {digest: _window(fetch(digest, blobs, None, folder)) for digest, folder in folders.items()}
    rows = _stored(spec, loop, spec.start, spec.end).table.labelled
    rows = rows if spec.rows is None else thinned(rows, spec.rows)
    unseen = {digest: _outside(rows, [window]) for digest, window in windows.items()}
    return review(rows, loop, folders, unseen, spec.champion, spec.metric)


def _outside(table: Table, windows: Iterable[tuple[datetime, datetime] | None]) -> NDArray[np.bool_]:
    """Which rows lie in none of the training windows. A window that is not known may hold any row: none is left."""
    keep = np.ones(len(table), np.bool_)
    for window in windows:
        keep &= ~table.between(_seconds(window[0]), _seconds(window[1])) if window else False
    return keep


def _window(manifest: Manifest) -> tuple[datetime, datetime] | None:
    lineage = manifest.lineage
    return (_utc(lineage.start), _utc(lineage.end)) if lineage.start and lineage.end else None


def _loop(spec: specs.Spec) -> Loop:
    return parse_loop(Path(spec.loop).read_text(), spec.loop)


def _told(spec: specs.Spec, loop: Loop, work: Path, **changes: Mapping[str, Any]) -> Path:
    """The loop.yaml that the script reads: the user's own, or one in which this job's settings stand."""
    if not any(changes.values()):
        return Path(spec.loop).resolve()
    whole = msgspec.to_builtins(loop)
    for section, values in changes.items():
        whole[section] |= values
    path = work / "loop.yaml"
    path.write_bytes(msgspec.json.encode(whole))
    return path


def _stored(spec: specs.Spec, loop: Loop, start: datetime | None, end: datetime) -> Assembled:
    if start is None:
        raise JobFailed("the spec says no `from`, and no table to train on")
    schema = loop.schema.telemetry(loop.task)
    listed = Path(spec.window).read_text().splitlines() if spec.window else None
    found = assemble(
        Path(spec.blobs),
        loop.loop,
        schema,
        _seconds(start),
        _seconds(end),
        spec.sites,
        listed,
        spec.untrusted,
        spec.revoked,
    )
    _say(f"{len(found.table):,} rows from {_iso(start)} to {_iso(end)}")
    _say_left_out(found.left_out)
    return found


def _rows(spec: specs.Train | specs.Evaluate, loop: Loop, start: datetime | None, end: datetime) -> Assembled:
    """What there is to work on: stored telemetry, or a user's table with the labels known by the end of the window."""
    if spec.data is None:
        return _stored(spec, loop, start, end)
    alone = {"site": spec.sites[0]} if spec.sites and len(spec.sites) == 1 else {}
    rows, known_at, left_out = tables.read(_one_file(Path(spec.data)), loop, **alone)
    inside = rows.between(_seconds(start) if start else int(rows.at[0]), _seconds(end))
    if spec.sites is not None:
        inside &= np.isin(rows.site.astype(str), spec.sites)
    for site, why in spec.untrusted.items():
        left_out |= {f"rows of {site}: {why}": int((inside & (rows.site == site)).sum())}
        inside &= rows.site != site
    left_out = {reason: n for reason, n in left_out.items() if n}
    if isinstance(spec, specs.Train):
        rows.label[known_at > _seconds(end)] = np.nan
    _say_left_out(left_out)
    return Assembled(rows.take(inside), left_out)


def _one_file(path: Path) -> Path:
    """The table itself, or the only one in a folder."""
    if not path.is_dir():
        return path
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in (".parquet", ".pq", ".csv"))
    if len(found) != 1:
        raise JobFailed(f"{path} has {len(found)} tables (Parquet or CSV); one is expected")
    return found[0]


def _blobs(spec: specs.Spec) -> Blobs:
    return Blobs(Path(spec.blobs), Path(spec.out) if spec.out else None)


def _script(spec: specs.Spec, script: str | None) -> Path | None:
    """The user's script, relative to loop.yaml."""
    if script is None:
        return None
    path = Path(spec.loop).resolve().parent / script
    if not path.is_file():
        raise JobFailed(f"{spec.loop} names the script {script}; there is no such file beside it")
    return path


def _named(script: Path | None, module: str) -> str:
    return module if script is None else script.name


def _run(script: Path | str, *args: Path | str) -> None:
    ended = trials.process(script, *args)
    sys.stderr.write(ended.stderr)
    if ended.returncode:
        name = script if isinstance(script, str) else script.name
        raise JobFailed(f"{name} ended with status {ended.returncode}: {trials.last(ended.stderr)}")


def _written(path: Path, script: str) -> dict[str, Any]:
    """The evidence that a script wrote; a literal NaN in it is null."""
    try:
        found = json.loads(path.read_text(), parse_constant=lambda _: None)
    except FileNotFoundError:
        raise JobFailed(f"{script} ended well, but wrote no evidence") from None
    except ValueError as error:
        raise JobFailed(f"{script} wrote evidence that is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise JobFailed(f"{script} wrote evidence that is no object")
    return found


def _seconds(at: datetime) -> int:
    return int(_aware(at).timestamp())


def _utc(text: str) -> datetime:
    return _aware(datetime.fromisoformat(text))


def _aware(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _iso(at: datetime) -> str:
    return _aware(at).astimezone(UTC).isoformat().replace("+00:00", "Z")


def _say_capped(rows: Mapping[str, int]) -> None:
    for site, n in sorted(rows.items()):
        _say(f"left out: {n:,} rows of {site}, above its share (training.site_share)")


def _say_left_out(rows: Mapping[str, int]) -> None:
    for reason, n in sorted(rows.items()):
        _say(f"left out: {n:,} {reason}")


def _say(text: str) -> None:
    print(text, flush=True)
