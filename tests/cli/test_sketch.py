"""Counts in place of rows, made at a site; and late history, rows or sketches, taken into an app's state."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapters.local.profile import Local
from cli import tables
from cli.main import main
from drift import envelope, windows
from drift.performance import Predictions
from drift.reference import Reference
from drift.sketch import OtherReference
from drift.telemetry import Batch, Labels
from drift.windows import Window
from edge import candidate, keys, signing
from jobs.package import Blobs
from triggers.config import parse_loop
from triggers.records import site_partition

DAY = 86_400
START = int(datetime(2024, 3, 1, tzinfo=UTC).timestamp())
LOOP = """
loop: pumps
schema: {timestamp: at, site: plant, id: id, label: failed, prediction: score,
         features: [{name: heat, range: [0, 100]}, {name: maker, kind: category}]}
telemetry: {lateness: 2d}
"""
SCHEMA = parse_loop(LOOP).schema.telemetry("binary")


def rows(n: int, seed: int = 0, days: int = 6, site: tuple[str, ...] = ("north", "south")) -> pa.Table:
    r = np.random.default_rng(seed)
    heat = r.normal(60, 10, n)
    heat[r.random(n) < 0.1] = np.nan
    return pa.table(
        {
            "id": [f"r{seed}-{i}" for i in range(n)],
            "at": np.sort(r.integers(START, START + days * DAY, n)),
            "plant": r.choice(site, n),
            "failed": pa.array(np.where(r.random(n) < 0.8, r.integers(0, 2, n), np.nan), from_pandas=True),
            "score": r.random(n),
            "heat": pa.array(heat, from_pandas=True),
            "maker": r.choice(["acme", "zenith", "new"], n),
        }
    )


class Place:
    """A folder with the rows, loop.yaml, a candidate in the registry, and the state of an app that knows it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "loop.yaml").write_text(LOOP)
        self.table = folder / "rows.parquet"
        pq.write_table(rows(3000), self.table)
        self.state = folder / "state"
        self.reference = self._reference(seed=1)
        self.candidate = self._candidate(self.reference)
        pem, public = keys.new()
        (folder / "north.pem").write_bytes(pem)
        config = self.state / "config" / "pumps"
        config.mkdir(parents=True)
        shutil.copy(folder / "loop.yaml", config / "loop.yaml")
        listed = f"keys: [{{id: k1, public: {public!r}}}]"
        (config / "fleet.yaml").write_text(f"sites: [{{name: north, {listed}}}, {{name: south}}]")
        Local(self.state, datetime(2024, 6, 1, tzinfo=UTC)).close()

    def _reference(self, seed: int) -> Reference:
        pq.write_table(rows(2000, seed, 20), self.folder / "then.parquet")
        then = tables.load(self.folder / "then.parquet", parse_loop(LOOP)).table
        return Reference.build(SCHEMA, then.rows(then.score), then.label, then.site.tolist(), bins=16)

    def other(self) -> Path:
        path = self.folder / "other.bin"
        path.write_bytes(self._reference(seed=9).to_bytes())
        return path

    def _candidate(self, reference: Reference) -> str:
        made = self.folder / "made"
        made.mkdir()
        (made / "model.onnx").write_bytes(b"not opened here")
        (made / "reference.bin").write_bytes(reference.to_bytes())
        manifest = candidate.build(made, loop="pumps", schema=SCHEMA, lineage=candidate.Lineage(), created="")
        sign = candidate.sign(manifest, signing.new()[0])
        return candidate.publish(made, manifest, sign, Blobs(self.state / "blobs").put)

    def sketch(self, *options: str) -> int:
        files = ["--loop", str(self.folder / "loop.yaml"), "--data", str(self.table), "--out", str(self.folder / "out")]
        return main(
            ["sketch", *files, "--candidate", self.candidate, "--registry", str(self.state / "blobs"), *options]
        )

    def windows(self) -> dict[tuple[str, int], Window]:
        """What the state holds."""
        local = Local(self.state)
        found = {}
        for site in ("north", "south"):
            for record in local.store.scan(site_partition("pumps", site), "window/"):
                window = Window.from_bytes(record.value)
                found[site, window.start] = window
        local.close()
        return found

    def by_rows(self) -> dict[tuple[str, int], Window]:
        """What the same rows and labels come to."""
        table = tables.load(self.table, parse_loop(LOOP)).table
        made: dict[tuple[str, int], Window] = {}
        for site in ("north", "south"):
            part = table.take(table.site == site)
            of = part.rows(part.score)
            batch = Batch("1", "pumps", self.candidate, site, "b", START, START + 9 * DAY, rows=of)
            known = part.labelled
            told = Labels(known.ids.tolist(), known.at, known.label)
            outcomes = Predictions.of(of, self.reference, DAY).settle(told)[1]
            deltas = windows.fold(batch, self.reference, DAY)
            settled = windows.settled(self.candidate, site, DAY, self.reference, outcomes)
            made |= {(site, start): w + settled[start] for start, w in deltas.items()}
        return made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("DRIFTLOOP_STATE", "DRIFTLOOP_PROFILE", "DRIFTLOOP_CLOCK"):
        monkeypatch.setenv(name, "")
    return Place(tmp_path)


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_sketch_is_its_rows_to_the_last_count_and_far_smaller(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.sketch("--json") == 0
    said = told(capsys)
    assert said["reference"] == place.reference.version
    assert said["rows"] == 3000
    found = {}
    for made in said["batches"]:
        batch = envelope.decode(Path(made["file"]).read_bytes(), SCHEMA)
        for window in windows.fold(batch, place.reference, DAY).values():
            found[made["site"], window.start] = window
    assert found == place.by_rows()
    sizes = said["bytes"]
    assert sizes["sketch"] * 10 < min(sizes["rows"], sizes["columns"], sizes["arrow"])
    assert sizes["sketch"] == sum(Path(made["file"]).stat().st_size for made in said["batches"])


def test_the_same_table_makes_the_same_bytes(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    key = ("--site", "north", "--key", str(place.folder / "north.pem"), "--key-id", "k1", "--json")
    assert place.sketch(*key) == 0
    first = {b["file"]: Path(b["file"]).read_bytes() for b in told(capsys)["batches"]}
    assert place.sketch(*key) == 0
    assert {b["file"]: Path(b["file"]).read_bytes() for b in told(capsys)["batches"]} == first
    (payload,) = first.values()
    signed, signature = envelope.signed_part(payload)
    assert signature is not None
    pem = (place.state / "config" / "pumps" / "fleet.yaml").read_text().split("public: '")[1].split("'")[0]
    assert keys.verify(pem, signature, signed)


def test_another_reference_is_refused_with_both_versions_named(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    other = place.other()
    theirs = Reference.from_bytes(other.read_bytes())
    assert place.sketch("--reference", str(other)) == 2
    said = capsys.readouterr().err
    assert theirs.version in said
    assert place.reference.version in said
    place.sketch("--json")
    batch = envelope.decode(Path(told(capsys)["batches"][0]["file"]).read_bytes(), SCHEMA)
    with pytest.raises(OtherReference, match=f"{place.reference.version}, not {theirs.version}"):
        windows.fold(batch, theirs, DAY)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--site", "west"], "no rows of site 'west'"),
        (["--key", "north.pem", "--key-id", "k1"], "say which with --site"),
        (["--key", "north.pem", "--site", "north"], "expected --key-id too"),
        (["--candidate", "0" * 64], "no candidate 000000000000 with a reference"),
        (["--reference", "loop.yaml"], "expected a candidate's reference.bin"),
    ],
)
def test_what_cannot_be_is_refused_with_what_is_expected(
    place: Place, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    there = [str(place.folder / o) if (place.folder / o).is_file() else o for o in options]
    assert place.sketch(*there) == 2
    assert says in capsys.readouterr().err


def backfill(place: Place, *options: str) -> int:
    return main(["backfill", "--state", str(place.state), "--candidate", place.candidate, "--json", *options])


def test_a_table_too_late_for_telemetry_is_taken_in_once(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert backfill(place, "--data", str(place.table)) == 0
    said = told(capsys)
    assert (said["rows"], said["quarantined"], len(said["windows"])) == (3000, 0, 12)
    assert place.windows() == place.by_rows()
    assert backfill(place, "--data", str(place.table)) == 0
    said = told(capsys)
    assert (said["rows"], said["known"]["rows"], said["windows"]) == (0, 3000, [])
    assert place.windows() == place.by_rows()


def test_sketches_are_taken_in_as_sites_made_them(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.sketch("--site", "north", "--key", str(place.folder / "north.pem"), "--key-id", "k1", "--json")
    place.sketch("--site", "south", "--json")
    capsys.readouterr()
    assert backfill(place, "--batches", str(place.folder / "out")) == 0
    assert told(capsys)["rows"] == 3000
    assert place.windows() == place.by_rows()
    assert backfill(place, "--batches", str(place.folder / "out")) == 0
    assert told(capsys)["known"]["batches"] == 2


def test_backfill_says_what_is_wrong(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(rows(10, 3, site=("west",)), place.folder / "stray.parquet")
    assert backfill(place, "--data", str(place.folder / "stray.parquet")) == 2
    assert "sites that fleet.yaml does not name: west" in capsys.readouterr().err
    assert backfill(place, "--loop", "tanks", "--data", str(place.table)) == 2
    assert "--loop tanks: expected one of pumps" in capsys.readouterr().err
    assert main(["backfill", "--state", str(place.folder), "--data", "x"]) == 2
    assert "no state.db there" in capsys.readouterr().err
    made = replace(Batch("1", "pumps", place.candidate, "north", "b", START, START, sketch=b"x"), key="k1")
    (place.folder / "in").mkdir()
    (place.folder / "in" / "b.json").write_bytes(envelope.encode(made, SCHEMA))
    assert backfill(place, "--batches", str(place.folder / "in")) == 1
    assert told(capsys)["quarantined"] == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "expected --run RUN, or --from TIME and --to TIME"),
        (["--from", "2024-03-05", "--to", "2024-03-01"], "expected a time before --to 2024-03-01"),
        (["--from", "spring", "--to", "2024-03-01"], "--from: is not a time"),
        (["--from", "2024-03-01", "--to", "2024-03-05", "--site", "west"], "fleet.yaml names no such site"),
        (["--from", "2024-03-01", "--to", "2024-03-05"], "does not say what it was trained on"),
        (["--run", "pumps.2024-03-01.1"], "pumps.2024-03-01.1"),
    ],
)
def test_a_report_that_cannot_be_drawn_says_what_is_missing(
    place: Place, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    assert main(["report", "--state", str(place.state), "--candidate", place.candidate, *options]) == 2
    assert says in capsys.readouterr().err
