"""Telemetry envelopes: every spelling says the same, bad rows cost only themselves, and hostile bytes only words."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from drift.envelope import MAGIC, BadBatch, decode, encode, iso, peek, seconds, signed, signed_part
from drift.telemetry import Batch, Feature, Labels, Refusal, Rows, Schema, Serving

SCHEMA = Schema("1", (Feature("distance"), Feature("car:rier", "category")))
START, END = 1_357_000_000, 1_357_086_400
HEAD = {
    "schema": "1",
    "loop": "flights",
    "candidate": "ab" * 32,
    "site": "JFK",
    "batch": "b-1",
    "from": iso(START),
    "to": iso(END),
}


def a_batch(**changes: Any) -> Batch:
    rows = Rows(
        ["r:1", "r2", "r3"],
        np.array([START, START + 5, END]),
        np.array([0.25, np.nan, 1.0]),
        {"distance": np.array([1.5, np.nan, -2.0]), "car:rier": ["AA", None, 'é"\\:']},
    )
    given = {"rows": rows, "serving": Serving(3, 1, 0.5, 2.5), "key": "k1"} | changes
    return Batch("1", "flights", "ab" * 32, "JFK", "b-1", START, END, **given)


def assert_same(one: Batch, other: Batch) -> None:
    for name in ("schema", "loop", "candidate", "site", "id", "start", "end", "sketch", "serving", "key", "refused"):
        assert getattr(one, name) == getattr(other, name), name
    assert (one.rows is None, one.labels is None) == (other.rows is None, other.labels is None)
    if one.rows is not None and other.rows is not None:
        assert list(one.rows.ids) == list(other.rows.ids)
        np.testing.assert_array_equal(one.rows.at, other.rows.at)
        np.testing.assert_array_equal(one.rows.score, other.rows.score)
        np.testing.assert_array_equal(one.rows.columns["distance"], other.rows.columns["distance"])
        assert list(one.rows.columns["car:rier"]) == list(other.rows.columns["car:rier"])
        assert other.rows.score.dtype == other.rows.columns["distance"].dtype == np.float64
        assert other.rows.at.dtype == np.int64
    if one.labels is not None and other.labels is not None:
        assert list(one.labels.ids) == list(other.labels.ids)
        np.testing.assert_array_equal(one.labels.at, other.labels.at)
        np.testing.assert_array_equal(one.labels.label, other.labels.label)


def written(**members: Any) -> bytes:
    return json.dumps(HEAD | members).encode()


def rows_of(*rows: Any) -> bytes:
    return written(rows=list(rows))


def a_row(**members: Any) -> dict[str, Any]:
    return {"id": "r1", "at": START, "score": 0.5, "distance": 1.0, "car:rier": "AA"} | members


def with_stream(stream: bytes, **members: Any) -> bytes:
    header = written(arrow=hashlib.sha256(stream).hexdigest(), **members)
    return MAGIC + len(header).to_bytes(4, "little") + header + stream


def an_arrow(table: Any, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, **options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("spelling", ["rows", "columns", "arrow"])
def test_every_spelling_says_the_same(spelling: Any) -> None:
    labels = Labels(["x", "y"], np.array([5, 6]), np.array([0.0, 1.0]))
    for batch in (a_batch(), a_batch(labels=labels), a_batch(rows=None, labels=labels)):
        payload = encode(batch, SCHEMA, spelling)
        assert_same(batch, decode(payload, SCHEMA))
        header = peek(payload)
        assert (header.site, header.batch, header.start, header.end, header.key) == ("JFK", "b-1", START, END, "k1")
        assert header.spelling == ("labels" if batch.rows is None else spelling)


def test_a_sketch_travels_as_its_bytes() -> None:
    batch = a_batch(rows=None, sketch=b"\x00\x01counts")
    assert_same(batch, decode(encode(batch, SCHEMA, "sketch"), SCHEMA))
    assert peek(encode(batch, SCHEMA)).spelling == "sketch"


def test_a_batch_of_no_rows_is_a_sign_of_life() -> None:
    assert len(decode(rows_of(), SCHEMA).rows or []) == 0


@pytest.mark.parametrize("spelling", ["rows", "columns", "arrow"])
def test_the_signature_covers_the_very_bytes_and_can_be_cut_out(spelling: Any) -> None:
    payload = encode(a_batch(), SCHEMA, spelling)
    seen: list[bytes] = []
    sent = signed(payload, lambda part: seen.append(part) or b"s" * 64)  # type: ignore[func-returns-value]
    assert signed_part(sent) == (seen[0], b"s" * 64)
    assert signed_part(payload) == (seen[0], None)
    assert_same(a_batch(), decode(sent, SCHEMA))


def test_a_signature_may_stand_anywhere_among_the_members() -> None:
    unsigned = json.dumps(HEAD | {"rows": []}, sort_keys=True, separators=(",", ":")).encode()
    with_it = HEAD | {"rows": [], "signature": base64.b64encode(b"sig").decode()}
    for members in (with_it, {"signature": with_it["signature"]} | with_it):
        body = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
        assert signed_part(body) == (unsigned, b"sig")
    first = b'{"signature":"c2ln",' + unsigned[1:]
    assert signed_part(first) == (unsigned, b"sig")


def test_a_signature_elsewhere_is_not_the_batch_s() -> None:
    payload = rows_of(a_row(signature="c2ln"))
    assert signed_part(payload) == (payload, None)
    twice = b'{"a":{"b":1,"signature":"c2ln"},"signature" : "c2ln"}'
    assert signed_part(twice)[0].count(b"c2ln") == 1  # never both
    for hostile in (b'{"signature":"c2ln","x":{"signature":"c2ln"}}', b'{"signature":5}', b'{"a":1,"signature":"%%"}'):
        with pytest.raises(BadBatch):
            signed_part(hostile)


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (a_row(distance="far"), "distance", "expected a number, got the text 'far'"),
        (a_row(distance=True), "distance", "expected a number, got true"),
        (a_row(distance=[1]), "distance", "expected a number, got a list"),
        (a_row(**{"car:rier": 5}), "car:rier", "expected text, got 5"),
        (a_row(**{"car:rier": "\ud800"}), "car:rier", "holds a lone surrogate"),
        (a_row(id="\udfff"), "id", "holds a lone surrogate"),
        (a_row(id=""), "id", "expected 1 to 200 characters"),
        (a_row(id="x" * 201), "id", "expected 1 to 200 characters"),
        (a_row(id=None), "id", "expected text, got null"),
        (a_row(id="ok"), "id", "is the id of row 0 as well"),
        (a_row(at="yesterday"), "at", "is not a time: the text 'yesterday'"),
        (a_row(at=START - 1), "at", f"is outside the batch, {iso(START)} to {iso(END)}"),
        (a_row(at=10**30), "at", "is a time outside the years 1 to 9999"),
        (a_row(at=None), "at", "is not a time: null"),
        (a_row(score=1.5), "score", "is outside 0 to 1"),
        (a_row(score=float("nan")), "score", "expected a number, got NaN (write null where a value is missing)"),
        (
            a_row(distance=float("-inf")),
            "distance",
            "expected a number, got -Infinity (write null where a value is missing)",
        ),
        (7, "", "expected an object, got 7"),
    ],
)
def test_a_bad_row_is_named_with_its_field_and_costs_only_itself(row: Any, field: str, reason: str) -> None:
    batch = decode(rows_of(a_row(id="ok"), row, a_row(id="too")), SCHEMA)
    assert batch.refused == (Refusal(1, field, reason),)
    assert batch.rows is not None
    assert list(batch.rows.ids) == ["ok", "too"]
    if isinstance(row, dict) and "\ud800" not in str(row.values()):
        columns = {name: [a_row(id="ok")[name], row[name], a_row(id="too")[name]] for name in a_row()}
        assert decode(written(columns=columns), SCHEMA).refused == batch.refused


def test_a_number_beyond_what_a_float_holds_is_refused_with_its_row() -> None:
    for huge in ("1e999", "9" * 4000):
        text = rows_of(a_row(), a_row(id="r2", distance=0)).replace(b'"distance": 0', f'"distance": {huge}'.encode())
        assert [(r.row, r.field) for r in decode(text, SCHEMA).refused] == [(1, "distance")]


def test_a_member_that_stands_twice_in_a_row_is_found_however_it_is_spelled() -> None:
    plain = json.dumps(a_row(id="r2"))
    for again in ('"distance":2,', '"dist\\u0061nce" : 2,', '"at":1,', '"car\\u003arier":"a:b",', '"id":"a:b",'):
        text = rows_of(a_row(), 0).replace(b", 0]", f", {{{again}{plain[1:]}]".encode())
        refused = decode(text, SCHEMA).refused
        assert [(r.row, r.reason) for r in refused] == [(1, "stands twice in one row")], again


def test_a_member_of_the_batch_that_stands_twice_is_refused() -> None:
    for again in (b'{"site":"EWR",', b'{"rows":[],', b'{"s\\u0069te":"a:b",', b'{"signature":"","signature":"",'):
        with pytest.raises(BadBatch, match="stands twice"):
            decode(again + rows_of(a_row())[1:], SCHEMA)
    with pytest.raises(BadBatch, match="stands twice"):
        decode(written(columns=0).replace(b": 0}", b': {"id": [], "id": [], "at": []}}'), SCHEMA)


def test_what_is_not_known_is_skipped_and_what_is_absent_is_missing() -> None:
    batch = decode(written(new={"x": [1]}, rows=[{"id": 17, "at": START, "later": {}}]), SCHEMA)
    assert batch.refused == ()
    assert batch.rows is not None
    assert list(batch.rows.ids) == ["17"]
    assert np.isnan(batch.rows.score[0])
    assert np.isnan(batch.rows.columns["distance"][0])
    assert batch.rows.columns["car:rier"] == [None]


def test_a_batch_of_another_schema_is_read_as_far_as_it_goes() -> None:
    batch = decode(written(schema=2, rows=[a_row()]), SCHEMA)
    assert batch.schema == "2"
    assert batch.rows is not None
    assert len(batch.rows) == 1


def test_labels_are_read_in_both_spellings_and_refused_one_by_one() -> None:
    rows = [{"id": "a", "at": 5, "label": True}, {"id": "b", "at": 6, "label": None}, {"id": "c", "at": 7, "label": 2}]
    columns = {"id": ["a", "b", "c"], "at": [5, 6, 7], "label": [1, None, 2]}
    for labels in (rows, columns):
        batch = decode(written(labels=labels), SCHEMA)
        assert batch.labels is not None
        assert (list(batch.labels.ids), batch.labels.label.tolist()) == (["a"], [1.0])
        assert [(r.row, r.field) for r in batch.refused] == [(1, "label"), (2, "label")]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not JSON"),
        (b"\x1f\x8bzipped", "gzip"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"x":' * 100_000, "nested too deep"),
        (rows_of(a_row())[:-1] + b',"x":' + b"[" * 100_000, "nested too deep"),
        (b"[]", "expected an object"),
        (b"{}", "schema: is missing"),
        (b'{"schema":NaN}', "schema: expected"),
        (written(rows=[], columns={"id": [], "at": []}), "only one of rows and columns"),
        (written(), "neither rows"),
        (written(rows=5), "expected rows or columns"),
        (written(columns={"at": []}), "id: expected a list"),
        (written(columns={"id": [], "at": [1]}), "at: has 1 values, `id` has 0"),
        (written(columns={"id": ["a"], "at": [1], "score": [1], "distance": 5}), "distance: expected a list"),
        (written(rows=[], to=iso(START - 1)), "to: is before `from`"),
        (written(rows=[], to="soon"), "to: is not a time"),
        (written(rows=[], to=1e300), "to: is a time outside"),
        (written(rows=[], site=""), "site: has 0 characters"),
        (written(rows=[], site="\ud800"), "site: holds a lone surrogate"),
        (written(rows=[], batch="b" * 201), "batch: has 201 characters"),
        (written(rows=[], serving={"requests": -1}), "serving: is negative"),
        (written(rows=[], serving={"requests": "many"}), "serving.requests: expected"),
        (written(sketch="not base64!"), "sketch: is not base64"),
        (MAGIC, "longer than the payload"),
        (MAGIC + b"\xff\xff\xff\xff{}", "longer than the payload"),
        (with_stream(b"not arrow"), "not an Arrow stream"),
        (with_stream(b"x", sketch=""), "only one of sketch and arrow"),
        (b"x" * (1 << 20) + b"x", "at most 1048576"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_a_hostile_batch_is_refused_with_words(payload: bytes, reason: str) -> None:
    with pytest.raises(BadBatch, match=reason):
        decode(payload, SCHEMA)


def test_peek_refuses_what_decode_refuses_of_the_header() -> None:
    for payload in (b"", b"[" * 100_000, b"{}", written(), written(rows=[], site=""), b"\x1f\x8b"):
        with pytest.raises(BadBatch):
            peek(payload)


def test_an_arrow_stream_is_bound_to_its_header() -> None:
    payload = bytearray(encode(a_batch(), SCHEMA, "arrow"))
    payload[-20] ^= 1
    with pytest.raises(BadBatch, match="not the sha256"):
        decode(bytes(payload), SCHEMA)


def test_an_arrow_stream_may_use_other_widths_dictionaries_and_timestamps() -> None:
    table = pa.table(
        {
            "id": pa.array(["a", "b"], pa.large_string()),
            "at": pa.array([START * 1000, END * 1000], pa.timestamp("ms", "UTC")),
            "distance": pa.array([1, None], pa.int16()),
            "car:rier": pa.array(["AA", None]).dictionary_encode(),
        }
    )
    batch = decode(with_stream(an_arrow(table)), SCHEMA)
    assert batch.rows is not None
    assert batch.rows.at.tolist() == [START, END]
    np.testing.assert_array_equal(batch.rows.columns["distance"], [1.0, np.nan])
    assert list(batch.rows.columns["car:rier"]) == ["AA", None]
    assert np.isnan(batch.rows.score).all()


def test_an_arrow_stream_that_could_harm_is_refused() -> None:
    ids = pa.array(["a"] * 5)
    at = pa.array([START] * 5)
    zipped = pa.ipc.IpcWriteOptions(compression="zstd")
    hostile = [
        an_arrow(pa.table({"id": ids, "at": at}), options=zipped),
        an_arrow(pa.table({"id": ids.dictionary_encode(), "at": at}), options=zipped),
        an_arrow(pa.table([ids, ids, at], names=["id", "id", "at"])),
        an_arrow(pa.table({"id": ids})),
        an_arrow(pa.table({"id": at, "at": at})),
        an_arrow(pa.table({"id": ids, "at": ids})),
        an_arrow(pa.table({"id": ids, "at": at, "distance": ids})),
        an_arrow(pa.table({"id": pa.nulls(10**9), "at": pa.nulls(10**9)})),
    ]
    for stream in hostile:
        with pytest.raises(BadBatch):
            decode(with_stream(stream), SCHEMA)
    nulls = an_arrow(pa.table({"id": ["a", None, "a"], "at": [START, START, None], "distance": [1.0, 2.0, np.inf]}))
    assert [(r.row, r.field) for r in decode(with_stream(nulls), SCHEMA).refused] == [(1, "id"), (2, "at")]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = st.sampled_from([*HEAD, "rows", "columns", "labels", "sketch", "arrow", "serving", "key", "signature"])
ROWS = st.lists(st.dictionaries(st.sampled_from(list(a_row())), JSON_VALUES) | JSON_VALUES, max_size=4)


def answers(payload: bytes) -> None:
    """Anything but an answer or BadBatch, with words, fails the test."""
    for question in (peek, signed_part, lambda given: decode(given, SCHEMA)):
        try:
            question(payload)
        except BadBatch as bad:
            said = bad.reason
        else:
            said = "fine"
        assert said


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(MEMBERS, JSON_VALUES, max_size=4), ROWS)
def test_no_json_raises_anything_but_bad_batch(members: dict[str, Any], rows: list[Any]) -> None:
    answers(json.dumps(HEAD | {"rows": rows} | members).encode())
    answers(json.dumps(HEAD | {"labels": rows} | members, ensure_ascii=False).encode(errors="surrogatepass"))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["rows", "columns", "arrow"]), st.data())
def test_no_damage_raises_anything_but_bad_batch(spelling: Any, data: st.DataObject) -> None:
    payload = bytearray(signed(encode(a_batch(), SCHEMA, spelling), lambda part: b"s" * 64))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    answers(bytes(payload))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_damaged_arrow_stream_raises_anything_but_bad_batch(data: st.DataObject) -> None:
    payload = encode(a_batch(), SCHEMA, "arrow")
    stream = bytearray(payload[8 + int.from_bytes(payload[4:8], "little") :])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream) - 1))
        stream[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
    answers(with_stream(bytes(stream)))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8),
            st.integers(START, END),
            st.none() | st.floats(0, 1),
            st.none() | st.floats(allow_nan=False, allow_infinity=False),
            st.none() | st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
        ),
        max_size=5,
        unique_by=lambda row: row[0],
    )
)
@example([("a:b\\u003a", START, None, 1.0, '":')])
def test_rows_survive_every_spelling_and_the_writers_of_others(rows: list[tuple[Any, ...]]) -> None:
    names = ("id", "at", "score", "distance", "car:rier")
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    first = decode(rows_of(*objects), SCHEMA)
    assert first.refused == ()
    assert first.rows is not None
    assert list(first.rows.ids) == [row[0] for row in rows]
    assert_same(first, decode(msgspec.json.encode(HEAD | {"rows": objects}), SCHEMA))
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    assert_same(first, decode(json.dumps(HEAD | {"columns": columns}, ensure_ascii=False).encode(), SCHEMA))
    for spelling in ("rows", "columns", "arrow"):
        assert_same(first, decode(encode(first, SCHEMA, spelling), SCHEMA))  # type: ignore[arg-type]


GOOD: tuple[list[Any], ...] = (
    ["a", "b", "c:\\u003a", "d", "e"],
    [START, START + 7, END, START + 0.5, iso(START)],
    [0.5, 0, 1, None, -0.0],
    [1.5, None, 3, -(2**70), 1e308, 5e-324],
    ["AA", None, "", 'x":1', "\U0001f6eb"],
)
BAD: tuple[list[Any], ...] = (["", 7, None], [END + 1, "soon", True], [1.5, True, "0.5"], [10**400, [], "1"], [0, {}])
EITHER = tuple(good + bad for good, bad in zip(GOOD, BAD, strict=True))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([GOOD, EITHER]).flatmap(lambda v: st.lists(st.tuples(*map(st.sampled_from, v)))), st.booleans())
def test_the_fast_way_and_the_careful_one_read_the_same(rows: list[tuple[Any, ...]], by_column: bool) -> None:
    """A member of the batch that nobody knows sends it the careful way."""
    names = ("id", "at", "score", "distance", "car:rier")
    told: dict[str, Any] = {"rows": [dict(zip(names, row, strict=True)) for row in rows]}
    if by_column:
        told = {"columns": {name: [row[i] for row in rows] for i, name in enumerate(names)}}
    assert_same(decode(written(**told), SCHEMA), decode(written(**told, unknown=1), SCHEMA))


def test_a_megabyte_of_nonsense_rows_is_refused_as_a_whole() -> None:
    with pytest.raises(BadBatch, match="rows: 340001 rows in"):
        decode(written(rows=[]).replace(b"[]", b"[" + b"{}," * 340_000 + b"{}]"), SCHEMA)


@pytest.mark.parametrize("value", ["2013-01-01T00:26:40Z", "2013-01-01T01:26:40+01:00", "2013-01-01 00:26:40", 1.357e9])
def test_times_are_read_as_utc(value: Any) -> None:
    assert seconds(value) == 1_357_000_000
