"""Files that sites upload and tables of logs: each row counts once, bad rows cost themselves, addresses are checked."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from functions import files, host
from functions import sources as doors
from tests.functions.conftest import LOOP, LOOP_YAML, Stage
from tests.triggers.world import Key
from triggers import codec, sources
from triggers.errors import Refused, Retry
from triggers.ports import Delete, LogTable
from triggers.records import Quarantined, SiteState

WORKSPACE = "00000000-0000-0000-0000-000000000001"
SOURCES = """
telemetry:
  uploads:
    - {path: "uploads/flights/{site}/"}
    - {path: "named/{candidate}/"}
    - {path: "azureml/modelDataCollector/{site}/{candidate}/"}
  logs:
    - {workspace: 00000000-0000-0000-0000-000000000001, query: "Flights_CL | project TimeGenerated, origin"}
    - {workspace: 00000000-0000-0000-0000-000000000001}
"""


@pytest.fixture
def here(stage: Stage) -> Stage:
    yaml = LOOP_YAML.replace("  label: late", "  label: late\n  prediction: p\n  id: flight") + SOURCES
    (stage.state / "config" / LOOP / "loop.yaml").write_text(yaml)
    return stage


def rows(stage: Stage, n: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    at = int(stage.ports.clock.now().timestamp()) - 3600
    base = {"origin": "EWR", "distance": 500.5, "dep_hour": 6, "wind": 11, "carrier": "AA", "p": 0.4, "late": 1}
    return [{"flight": f"f{start + i}", "scheduled": at + i % 3000, **base, **more} for i in range(n)]


def put(stage: Stage, name: str, found: Sequence[Mapping[str, Any]] | bytes, mode: str = "wb") -> str:
    """Write a file in the format of its name; the address of the event."""
    path = stage.state / "uploads" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(found, bytes):
        with path.open(mode) as file:
            file.write(found)
    elif name.endswith(".csv"):
        with path.open("w", newline="") as text:
            writer = csv.DictWriter(text, list(found[0]))
            writer.writeheader()
            writer.writerows(found)
    elif name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist([dict(row) for row in found]), path)
    else:
        with path.open(mode) as file:
            file.writelines(json.dumps(row).encode() + b"\n" for row in found)
    return name


def hear(stage: Stage, url: Any) -> None:
    event = {"specversion": "1.0", "id": str(url), "source": "/s", "type": "Microsoft.Storage.BlobCreated"}
    stage.local.topic.publish([{**event, "data": {"url": url, "eTag": "0x1"}}])
    stage.host.pump()


def counted(stage: Stage, site: str = "EWR") -> int:
    record = stage.ports.store.get(f"{LOOP}/{site}", "site")
    return codec.decode(record.value, SiteState).rows if record else 0


def notes(stage: Stage, partition: str = LOOP) -> list[Quarantined]:
    found = stage.ports.store.scan(partition, "quarantine/")
    return [codec.decode(record.value, Quarantined) for record in found]


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_a_file_counts_once_however_often_it_is_heard_of(here: Stage, ending: str) -> None:
    before, known = counted(here), len(notes(here))
    url = put(here, f"uploads/flights/EWR/2013/x.{ending}", rows(here, 4500))
    for _ in range(3):
        hear(here, url)
    assert counted(here) - before == 4500
    assert len(notes(here)) == known


def test_the_end_of_a_crashed_count_counts_what_was_left(here: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    before = counted(here)
    url = put(here, "uploads/flights/EWR/x.jsonl", rows(here, 5000))
    keep, calls = sources.keep, []

    def dies(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Retry("the power is gone")
        keep(*args)

    with monkeypatch.context() as patch:
        patch.setattr(sources, "keep", dies)
        with pytest.raises(Retry):
            doors.count_file(here.ports, LOOP, here.ports.configs.loop(LOOP).telemetry.uploads[0], url, {"site": "EWR"})
    hear(here, url)
    assert counted(here) - before == 5000


def test_a_file_that_grows_goes_on_where_it_was_left_and_one_that_changes_is_not_counted_again(here: Stage) -> None:
    before = counted(here)
    url = put(here, "uploads/flights/EWR/x.jsonl", rows(here, 10))
    hear(here, url)
    put(here, url, rows(here, 5, 10), "ab")
    put(here, url, b'{"flight": "half', "ab")
    hear(here, url)
    assert counted(here) - before == 15
    put(here, url, json.dumps(rows(here, 1, 16)[0]).encode()[len(b'{"flight": "half') :] + b"\n", "ab")
    hear(here, url)
    put(here, url, rows(here, 30, 100))
    hear(here, url)
    assert counted(here) - before <= 16
    assert any("was counted before, with other bytes" in note.reason for note in notes(here))


def test_bad_rows_cost_themselves_and_say_why(here: Stage) -> None:
    before = counted(here)
    bad = [
        {**rows(here, 1)[0], "scheduled": "yesterday"},
        {**rows(here, 1)[0], "scheduled": 4102444800},
        {**rows(here, 1)[0], "scheduled": 0},
    ]
    url = put(here, "uploads/flights/EWR/x.jsonl", [*bad, *rows(here, 7)])
    put(here, url, b"{nonsense\n[1]\n", "ab")
    put(here, url, [{**rows(here, 1, 50)[0], "wind": "strong"}], "ab")
    hear(here, url)
    assert counted(here) - before == 7
    said = [row for note in notes(here) for row in note.rows]
    assert {row[0] for row in said} >= {0, 1, 2, 10}
    assert any("future" in reason for _, _, reason in said)


def test_a_column_names_the_site_where_the_path_does_not_and_the_path_may_name_the_candidate(here: Stage) -> None:
    before = {site: counted(here, site) for site in ("EWR", "JFK")}
    mixed = [*rows(here, 3), *rows(here, 2, 3, origin="JFK"), *rows(here, 1, 5, origin="Mars")]
    hear(here, put(here, f"named/{here.champion}/x.csv", mixed))
    assert {site: counted(here, site) - before[site] for site in before} == {"EWR": 3, "JFK": 2}
    assert any("no site of the fleet" in reason for note in notes(here) for _, _, reason in note.rows)


def collected(stage: Stage, n: int, **more: Any) -> list[dict[str, Any]]:
    """Records as Azure ML's data collector writes them: requests that are near share a correlation id."""
    at = datetime.fromtimestamp(stage.ports.clock.now().timestamp() - 600, UTC)
    base = {"specversion": "1.0", "source": "/e/d", "type": "azureml.inference.model_inputs_outputs"}
    return [
        {**base, "id": f"r{i}", "time": f"{at + timedelta(seconds=i):%Y-%m-%dT%H:%M:%SZ}", "correlationid": "same"}
        | {
            "data": [{k: v for k, v in row.items() if k not in ("flight", "scheduled")} for row in rows(stage, 2)],
            **more,
        }
        for i in range(n)
    ]


def test_the_data_collectors_records_count_by_their_own_ids_and_pointers_are_followed(here: Stage) -> None:
    before = counted(here)
    folder = f"azureml/modelDataCollector/EWR/{here.champion}/model_inputs_outputs/2013/04/01/06"
    raw = json.dumps([{k: v for k, v in r.items() if k != "scheduled"} for r in rows(here, 3)]).encode()
    pointed = put(here, f"{folder}/raw-1.json", raw)
    [pointer] = [{k: v for k, v in r.items() if k != "data"} for r in collected(here, 1)]
    lines = [*collected(here, 3), {**pointer, "id": "p", "dataref": pointed}, {**pointer, "id": "q", "dataref": "../x"}]
    lines.append({**pointer, "id": "z", "dataref": "keys/registry.pem"})
    lines += [7, ["x"]]  # type: ignore[list-item]
    url = put(here, f"{folder}/i1.jsonl", lines)
    hear(here, url)
    hear(here, url)
    assert counted(here) - before == 3 * 2 + 3
    said = [reason for note in notes(here) for _, _, reason in note.rows]
    assert len([reason for reason in said if "points to" in reason]) == 2
    assert len([reason for reason in said if "is no CloudEvent" in reason]) == 2


def test_a_batch_that_a_site_leaves_as_a_file_goes_the_way_of_every_batch(here: Stage) -> None:
    before, at = counted(here), int(here.ports.clock.now().timestamp()) - 60
    row = {"id": "r", "at": at, "score": 0.5, "distance": 1.0, "dep_hour": 2.0, "wind": 3.0, "carrier": "AA"}
    told = {"schema": "1", "loop": LOOP, "candidate": here.champion, "site": "EWR", "batch": "b1"}
    body = json.dumps({**told, "from": at, "to": at, "rows": [row]}).encode()
    url = put(here, "uploads/flights/EWR/b1.envelope.json", body)
    hear(here, url)
    hear(here, url)
    assert counted(here) - before == 1
    hear(here, put(here, "uploads/flights/JFK/b1.envelope.json", body.replace(b"b1", b"b2")))
    hear(here, put(here, "uploads/flights/EWR/b3.envelope.json", b"{}"))
    assert counted(here) - before == 1
    said = [note.reason for note in notes(here)]
    assert any("in a folder of flights/JFK" in reason for reason in said)
    assert any("not a batch" in reason for reason in said)


def test_files_of_nobody_are_left_alone_and_what_is_no_file_is_said(here: Stage) -> None:
    known = len(notes(here))
    hear(here, put(here, "other/x.csv", rows(here, 2)))
    assert len(notes(here)) == known
    for name, data, why in (
        ("x.bin", b"?", "does not say whether"),
        ("x.parquet", b"PAR1 no", "not Parquet"),
        ("x.csv", b"a,a\n1,2\n", "stands twice"),
    ):
        hear(here, put(here, f"uploads/flights/EWR/{name}", data))
        assert any(why in note.reason for note in notes(here)), why


@pytest.mark.attack
@pytest.mark.parametrize(
    "url",
    [
        "../keys/registry.pem",
        "uploads/flights/EWR/../../../keys/registry.pem",
        "/etc/passwd",
        "uploads//flights/EWR/x.csv",
        "https://evil.example/uploads/flights/EWR/x.csv",
        "uploads/flights/EWR/\x00x.csv",
        f"uploads/flights/EWR/{'x' * 300}.csv",
        5,
    ],
)
def test_an_address_that_leaves_the_uploads_is_refused_and_kept(here: Stage, url: Any) -> None:
    put(here, "uploads/flights/EWR/x.txt", b"")  # the folder is there
    before = counted(here)
    hear(here, url)
    assert counted(here) == before
    assert notes(here, "driftloop")


@pytest.mark.attack
def test_a_site_that_signs_is_not_spoken_for_by_a_column(here: Stage) -> None:
    fleet = here.state / "config" / LOOP / "fleet.yaml"
    key = Key("k").listed()
    text = fleet.read_text().replace("{name: EWR,", f"{{name: EWR, keys: [{{id: k, public: '{key.public}'}}],")
    fleet.write_text(text)
    before = counted(here)
    hear(here, put(here, f"named/{here.champion}/x.csv", rows(here, 3)))
    assert counted(here) == before
    hear(here, put(here, "uploads/flights/EWR/x.csv", rows(here, 3)))
    assert counted(here) == before + 3


class Table:
    """A log table whose rows are (ingestion time, row); it cuts off answers that are too long, or fails."""

    def __init__(self) -> None:
        self.rows: list[tuple[datetime, dict[str, Any]]] = []
        self.traffic: list[dict[str, Any]] = []
        self.most, self.fails, self.asked = 10**9, 0, 0

    def query(self, workspace: str, kql: str, start: datetime, end: datetime) -> LogTable:
        self.asked += 1
        if self.fails:
            self.fails -= 1
            raise Retry("throttled")
        a, b = (datetime.fromisoformat(t) for t in re.findall(r"datetime\((\S+?)\)", kql))
        assert kql.splitlines()[1].startswith("| where ingestion_time() >=")
        if kql.startswith("AmlOnline"):
            found = [row for row in self.traffic if a <= row["TimeGenerated"] < b]
        else:
            found = [row for at, row in self.rows if a <= at < b]
        columns = list(found[0]) if found else []
        cut = "too many rows" if len(found) > self.most else ""
        return LogTable(columns, [[row[c] for c in columns] for row in found[: self.most]], cut)


@pytest.fixture
def table(here: Stage) -> Table:
    return Table()


def poll(here: Stage, table: Table) -> int:
    ports = replace(here.ports, logs=table)
    return sources.poll(ports, LOOP).rows


def ingested(here: Stage, table: Table, n: int, ago: timedelta, start: int) -> None:
    at = here.ports.clock.now() - ago
    table.rows += [(at + timedelta(seconds=i), row) for i, row in enumerate(rows(here, n, start))]


def test_a_log_table_is_read_without_skipping_or_repeating(here: Stage, table: Table) -> None:
    before = counted(here)
    ingested(here, table, 50, timedelta(hours=5), 0)
    assert poll(here, table) == 50
    assert poll(here, table) == 0
    for step in range(1, 8):
        ingested(here, table, 5, timedelta(minutes=3), step * 100)
        here.local.clock.advance(timedelta(minutes=7))  # type: ignore[attr-defined]
        poll(here, table)
    here.local.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
    poll(here, table)
    assert counted(here) - before == 50 + 35


def test_each_ingested_row_counts_once_through_failures_and_cut_off_answers(here: Stage, table: Table) -> None:
    before = counted(here)
    ingested(here, table, 200, timedelta(hours=2), 0)
    table.most, table.fails = 30, 1
    with pytest.raises(Retry):
        poll(here, table)
    total = poll(here, table)
    assert (total, counted(here) - before) == (200, 200)


def test_two_timers_that_overlap_count_once(here: Stage, table: Table) -> None:
    before = counted(here)
    ingested(here, table, 40, timedelta(hours=2), 0)
    assert poll(here, table) == 40
    here.ports.store.commit(LOOP, [Delete(r.key) for r in here.ports.store.scan(LOOP, "logs/")])
    table.most = 7
    assert poll(here, table) == 0
    assert counted(here) - before == 40


def test_a_slice_that_is_read_again_in_another_order_is_the_same_batches(here: Stage, table: Table) -> None:
    before = counted(here)
    ingested(here, table, 60, timedelta(hours=2), 0)
    assert poll(here, table) == 60
    here.ports.store.commit(LOOP, [Delete(r.key) for r in here.ports.store.scan(LOOP, "logs/")])
    table.rows.reverse()
    again = sources.poll(replace(here.ports, logs=table), LOOP)
    assert (again.accepted, again.duplicate > 0, again.reasons) == (0, True, [])
    assert counted(here) - before == 60
    assert notes(here) == []


def test_endpoint_traffic_tells_how_a_deployment_serves_once(here: Stage, table: Table) -> None:
    at = here.ports.clock.now() - timedelta(hours=1)
    figures = {"requests": 100, "errors": 1, "p50_ms": 5.0, "p95_ms": 20.0, "TimeGenerated": at}
    table.traffic = [
        {"EndpointName": "ewr", "DeploymentName": f"c-{here.champion[:12]}", **figures},
        {"EndpointName": "jfk", "DeploymentName": "blue", **figures},
        {"EndpointName": "elsewhere", "DeploymentName": "blue", **figures},
    ]
    known = here.ports.store.get(f"{LOOP}/EWR", "site")
    ports = replace(here.ports, logs=table)
    done = sources.poll(ports, LOOP)
    assert (done.accepted, done.duplicate, done.reasons) == (1, 0, [])
    assert here.ports.store.get(f"{LOOP}/EWR", "site") != known
    assert any("'blue'" in note.reason for note in notes(here))
    assert sources.poll(ports, LOOP).accepted == 0


def test_the_timer_reads_the_tables_of_every_loop(here: Stage, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    ingested(here, table, 3, timedelta(hours=2), 0)
    before = counted(here)
    monkeypatch.setattr(host, "ports", lambda: replace(here.ports, logs=table))
    doors.read_logs(None)
    assert counted(here) - before == 3


def test_formats_are_known_by_their_names() -> None:
    assert files.kind("c/a.ndjson", "auto") == "jsonl"
    assert files.kind("c/modelDataCollector/e/d/x.jsonl", "auto") == "collector"
    assert files.kind("c/a.bin", "csv") == "csv"
    with pytest.raises(Refused):
        files.kind("c/a.txt", "auto")


def test_a_large_file_is_read_in_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "x.jsonl"
    with path.open("wb") as file:
        for n in range(20_000):
            file.write(b'{"a": %d, "b": "%s"}\n' % (n, b"x" * 100))
    tracemalloc.start()
    with path.open("rb") as found:
        total = sum(len(piece.rows) for piece in files.pieces(found, "jsonl", lambda _: b""))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 20_000
    assert peak < 5 * 1024 * 1024
