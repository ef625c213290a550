"""Bins, sketches, windows: exact, mergeable, and the same as counting one row at a time."""

import zlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drift import binary
from drift.bins import EXTRA, MISSING, OTHER, TAIL_LIMIT, TAIL_STEPS, UNSEEN, Column, Stack, of_categories, of_numbers
from drift.reference import Reference
from drift.sketch import OtherReference, Sketch, sketch
from drift.telemetry import Batch, Feature, Refusal, Rows, Schema, Serving
from drift.windows import Window, fold, pack, too_late, unpack, watermark

DAY = 86_400
SCHEMA = Schema("1", (Feature("x", low=-3.0, high=3.0), Feature("c", "category")))


def some_rows(seed: int, n: int, days: int = 3) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    x[rng.random(n) < 0.1] = np.nan
    c = rng.choice(np.array(["a", "b", "c", "new", None], dtype=object), n).tolist()
    return Rows([f"{seed}-{i}" for i in range(n)], rng.integers(0, days * DAY, n), rng.random(n), {"x": x, "c": c})


def a_reference(seed: int = 0, n: int = 400) -> Reference:
    rows = some_rows(seed, n)
    rows = replace(rows, columns={**rows.columns, "c": [v if v != "new" else "a" for v in rows.columns["c"]]})
    return Reference.build(SCHEMA, rows, None, ["s"] * n, bins=16)


REFERENCE = a_reference()


def a_batch(rows: Rows | None, **more: object) -> Batch:
    return replace(Batch("1", "loop", "model", "site", "b1", 0, 3 * DAY, rows=rows), **more)


finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
anything = st.floats(width=64)


def one_by_one(column: Column, values: list[float], width: int) -> tuple[list[int], list[int], int]:
    """What counting finds, with nothing but the edges."""
    counts, tails, outside = [0] * width, [0, 0], 0
    low, high = column.edges[0], column.edges[-1]
    with np.errstate(over="ignore"):
        for x in np.asarray(values, np.float64):
            counts[MISSING if np.isnan(x) else int((x >= column.edges).sum())] += 1
            beyond = np.array([low - x, x - high])
            steps = np.fmin(np.rint(beyond * (TAIL_STEPS / column.scale)), TAIL_LIMIT)
            tails = [t + int(s) if b > 0 else t for t, s, b in zip(tails, steps, beyond, strict=True)]
            outside += bool(column.low is not None and x < column.low) + bool(
                column.high is not None and x > column.high
            )
    return counts, tails, outside


@given(
    st.lists(st.lists(finite, min_size=1, max_size=130, unique=True), min_size=1, max_size=3),
    st.lists(anything, max_size=200),
    st.none() | finite,
    st.floats(1e-9, 1e9),
)
@settings(deadline=None)
def test_columns_counted_together_count_each_value_by_the_edges_alone(
    edges: list[list[float]], values: list[float], bound: float | None, scale: float
) -> None:
    width = 131 + EXTRA
    columns = [Column("x", "number", np.sort(np.array(e) + 0.0), scale, low=bound, high=bound) for e in edges]
    rows = [np.array(values + [v for e in edges for v in e])] * len(columns)
    counts, tails, outside = Stack(columns, width).count(rows)
    for i, column in enumerate(columns):
        expected = one_by_one(column, rows[i].tolist(), width)
        assert (counts[i].tolist(), tails[i].tolist(), outside[i]) == expected
        assert (np.bincount(column.slots(rows[i], width), minlength=width) == counts[i]).all()


SHAPES = {
    "normal": lambda r, n: r.normal(20, 5, n),
    "whole": lambda r, n: r.integers(0, 40, n),
    "rain": lambda r, n: np.where(r.random(n) < 0.6, 0.0, r.lognormal(size=n)),
    "heavy": lambda r, n: r.standard_cauchy(n),
    "skewed": lambda r, n: r.lognormal(0, 3, n),
    "clock": lambda r, n: 1.7e9 + r.random(n),
    "tiny": lambda r, n: r.normal(size=n) * 1e-290,
    "huge": lambda r, n: r.normal(size=n) * 1e150,
    "constant": lambda r, n: np.full(n, 7.0),
}


def test_many_rows_of_columns_of_all_shapes_are_counted_by_the_edges_alone() -> None:
    rng, n, bins = np.random.default_rng(3), 20_000, 128
    with np.errstate(over="ignore"):
        columns = [of_numbers(s, np.asarray(make(rng, 5000), float), bins) for s, make in SHAPES.items()]
    rows = [np.where(rng.random(n) < 0.02, np.nan, make(rng, n)) for make in SHAPES.values()]
    rows[0][:4] = np.inf, -np.inf, -0.0, np.frombuffer(b"\x34\x12\0\0\0\0\xf8\xff")[0]  # a NaN with a payload
    counts, _, _ = Stack(columns, bins + EXTRA).count(rows)
    for found, column, x in zip(counts, columns, rows, strict=True):
        expected = np.bincount(column.slots(x, bins + EXTRA), minlength=bins + EXTRA)
        assert found.tolist() == expected.tolist(), column.name


@pytest.mark.parametrize(("times", "plus"), [(1, 3), (1, -9), (10, 0)])
def test_columns_that_moved_out_of_their_range_are_counted_by_the_edges_alone(times: float, plus: float) -> None:
    rng, n, bins = np.random.default_rng(4), 700, 64
    with np.errstate(over="ignore"):
        made = {shape: np.asarray(make(rng, 3000), float) for shape, make in SHAPES.items()}
        columns = [of_numbers(shape, x, bins, low=float(x.min()), high=float(x.max())) for shape, x in made.items()]
        rows = [np.where(rng.random(n) < 0.1, np.nan, x[:n] * times + plus * x.std()) for x in made.values()]
    counts, tails, outside = Stack(columns, bins + EXTRA).count(rows)
    for i, column in enumerate(columns):
        expected = one_by_one(column, rows[i].tolist(), bins + EXTRA)
        assert (counts[i].tolist(), tails[i].tolist(), outside[i]) == expected, column.name


@given(st.lists(st.floats(allow_infinity=False, width=32), min_size=1, max_size=200), st.integers(8, 128))
@settings(deadline=None)
def test_number_bins_count_every_value_once_and_leave_the_outer_bins_open(values: list[float], bins: int) -> None:
    column = of_numbers("x", np.array(values, np.float64), bins)
    counts, tails, _ = column.count(np.array(values, np.float64), bins + EXTRA)
    assert column.bins <= bins
    assert counts.sum() == len(values)
    assert counts[MISSING] == sum(v != v for v in values)
    if not all(v != v for v in values):
        assert counts[0] == counts[column.bins - 1] == 0
        assert tails == (0, 0)


@pytest.mark.parametrize("bins", [8, 64, 128])
def test_a_heavy_value_has_a_bin_of_its_own(bins: int) -> None:
    rng = np.random.default_rng(1)
    x = np.where(rng.random(5000) < 0.6, 0.0, rng.lognormal(size=5000))
    column = of_numbers("rain", x, bins)
    counts, _, _ = column.count(x, bins + EXTRA)
    assert int((x == 0.0).sum()) in counts.tolist()


def test_float32_and_float64_columns_count_alike() -> None:
    x = np.random.default_rng(2).normal(size=5000).astype(np.float32)
    column = of_numbers("x", x.astype(np.float64), 64)
    assert np.array_equal(column.count(x, 70)[0], column.count(x.astype(np.float64), 70)[0])


def test_categories_beyond_the_top_are_other_and_new_ones_unseen() -> None:
    column = of_categories("c", ["a"] * 5 + ["b"] * 3 + ["d", None], 2)
    counts, _, _ = column.count(["a", "d", "z", None, "z"], 8)
    assert (counts[0], counts[OTHER], counts[UNSEEN], counts[MISSING]) == (1, 1, 2, 1)


def test_a_vocabulary_too_large_to_list_calls_strangers_other() -> None:
    column = of_categories("c", [str(i) for i in range(20_000)], 16)
    counts, _, _ = column.count(["never seen"], 20)
    assert (counts[OTHER], counts[UNSEEN]) == (1, 0)


@given(st.lists(st.integers(0, 60), min_size=3, max_size=3), st.permutations(range(3)))
@settings(max_examples=30, deadline=None)
def test_sketches_of_parts_add_up_to_the_sketch_of_the_whole(sizes: list[int], order: list[int]) -> None:
    parts = [some_rows(i + 1, n) for i, n in enumerate(sizes)]
    whole = Rows(
        [i for p in parts for i in p.ids],
        np.concatenate([p.at for p in parts]),
        np.concatenate([p.score for p in parts]),
        {"x": np.concatenate([p.columns["x"] for p in parts]), "c": [v for p in parts for v in p.columns["c"]]},
    )
    total = Sketch.empty(REFERENCE)
    for i in order:
        total = total + sketch(parts[i], REFERENCE)
    assert total == sketch(whole, REFERENCE)
    assert Sketch.from_bytes(total.to_bytes()) == total


def test_sketches_of_different_references_are_not_added() -> None:
    other = a_reference(seed=9)
    with pytest.raises(OtherReference, match=other.version) as caught:
        Sketch.empty(REFERENCE) + Sketch.empty(other)
    assert REFERENCE.version in str(caught.value)


def oracle(rows: Rows) -> dict[int, Counter[tuple[str, int]]]:
    """One row at a time, with no code of the fold but the edges."""
    made: dict[int, Counter[tuple[str, int]]] = {}
    for i, at in enumerate(rows.at.tolist()):
        count = made.setdefault(at - at % DAY, Counter())
        for column in REFERENCE.columns:
            value = rows.score[i] if column.name == "score" else rows.columns[column.name][i]
            if value is None or value != value:
                slot = REFERENCE.width + MISSING
            elif column.kind == "number":
                slot = sum(value >= e for e in column.edges.tolist())
            elif value in column.categories:
                slot = column.categories.index(value)
            else:
                slot = REFERENCE.width + UNSEEN
            count[column.name, slot] += 1
    return made


@given(st.integers(0, 1000), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_fold_counts_like_an_oracle_that_goes_row_by_row(seed: int, n: int) -> None:
    rows = some_rows(seed, n)
    windows = fold(a_batch(rows), REFERENCE, DAY)
    found = {
        start: Counter(
            {
                (REFERENCE.names[c], s): int(w.sketch.counts[c, s])
                for c, s in zip(*np.nonzero(w.sketch.counts), strict=True)
            }
        )
        for start, w in windows.items()
    }
    assert found == oracle(rows)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_batches_in_any_order_give_the_same_windows(sizes: list[int], random: object) -> None:
    batches = [
        a_batch(some_rows(i, n), serving=Serving(n, i, 1.5, 9.25), refused=(Refusal(0, "x", "text"),))
        for i, n in enumerate(sizes)
    ]

    def added(order: list[Batch]) -> dict[int, bytes]:
        whole: dict[int, Window] = {}
        for batch in order:
            for start, w in fold(batch, REFERENCE, DAY).items():
                whole[start] = whole[start] + w if start in whole else w
        return {start: w.to_bytes() for start, w in sorted(whole.items())}

    shuffled = list(batches)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert added(batches) == added(shuffled)


def test_a_batch_of_counts_folds_to_the_same_windows_as_its_rows() -> None:
    rows = some_rows(5, 200)
    windows = fold(a_batch(rows), REFERENCE, DAY)
    again = fold(a_batch(None, sketch=pack(windows.values())), REFERENCE, DAY)
    assert {k: w.to_bytes() for k, w in again.items()} == {k: w.to_bytes() for k, w in windows.items()}


def test_counts_of_another_reference_site_or_time_are_refused() -> None:
    sent = pack(fold(a_batch(some_rows(5, 20)), REFERENCE, DAY).values())
    with pytest.raises(OtherReference):
        fold(a_batch(None, sketch=sent), a_reference(seed=9), DAY)
    for wrong in ({"site": "elsewhere"}, {"candidate": "another"}, {"end": -1}, {"start": 2 * DAY}):
        with pytest.raises(ValueError, match="the sketch is of"):
            fold(a_batch(None, sketch=sent, **wrong), REFERENCE, DAY)


def test_refusals_latencies_and_other_schemas_are_kept_with_the_window() -> None:
    batch = a_batch(
        some_rows(1, 10, days=1),
        schema="2",
        refused=(Refusal(3, "x", "text"), Refusal(4, "x", "text")),
        serving=Serving(10, 1, 2.0, 8.0),
    )
    (window,) = fold(batch, REFERENCE, DAY).values()
    assert (window.rows, window.refused, window.schemas) == (10, {"x": 2}, {"2": 10})
    twice = window + window
    assert (twice.serving.requests, twice.serving.errors, twice.serving.p95_ms) == (20, 2, 8.0)
    assert Window.from_bytes(twice.to_bytes()).to_bytes() == twice.to_bytes()


def test_values_out_of_the_plausible_range_are_counted() -> None:
    rows = Rows(["a", "b"], np.array([5, 6]), np.array([0.1, 0.2]), {"x": np.array([99.0, 0.0]), "c": ["a", "b"]})
    (window,) = fold(a_batch(rows), REFERENCE, DAY).values()
    assert window.outside.tolist() == [1, 0, 0]
    assert window.sketch.tails[0, 1] > 0


def test_a_window_of_100_features_and_10_000_rows_takes_less_than_16_kilobytes() -> None:
    rng = np.random.default_rng(3)
    schema = Schema("1", tuple(Feature(f"f{i}") for i in range(100)))

    def rows(n: int) -> Rows:
        columns = {f"f{i}": rng.normal(size=n) for i in range(100)}
        return Rows([str(i) for i in range(n)], np.zeros(n, np.int64), rng.random(n), columns)

    reference = Reference.build(schema, rows(2000), None, ["s"] * 2000, bins=64)
    assert len(sketch(rows(10_000), reference).to_bytes()) <= 16 * 1024


@given(st.binary(max_size=300), st.integers(0, 10_000))
@settings(max_examples=200, deadline=None)
def test_damaged_bytes_are_a_value_error_and_nothing_else(noise: bytes, place: int) -> None:
    good = pack(fold(a_batch(some_rows(5, 20)), REFERENCE, DAY).values())
    i = place % len(good)
    for bad in (noise, good[:i], good[:i] + bytes([good[i] ^ 0x55]) + good[i + 1 :], good[:4] + zlib.compress(noise)):
        with pytest.raises(ValueError, match=r"."):
            unpack(bad)


def test_a_decompression_bomb_is_refused_before_it_is_large() -> None:
    bomb = b"DLW1" + zlib.compress(b"\0" * ((64 << 20) + 1))
    with pytest.raises(ValueError, match="over"):
        unpack(bomb)


def test_a_record_of_another_version_says_which() -> None:
    with pytest.raises(ValueError, match="version b'2'"):
        binary.unpack(b"TST1", b"TST2")


def test_periods_close_by_the_watermark() -> None:
    now = 10 * DAY + 5
    assert watermark(now, 2 * DAY, DAY) == 8 * DAY
    assert not too_late(8 * DAY, now, 2 * DAY, DAY)
    assert too_late(8 * DAY - 1, now, 2 * DAY, DAY)


def test_a_reference_survives_its_bytes_and_its_version_names_them() -> None:
    again = Reference.from_bytes(REFERENCE.to_bytes())
    assert again == REFERENCE
    assert again.version != a_reference(seed=9).version
    assert again.columns[1].categories == REFERENCE.columns[1].categories
    assert np.array_equal(again.calibration.groups, REFERENCE.calibration.groups)


def test_constant_and_empty_columns_have_bins() -> None:
    schema = Schema("1", (Feature("constant"), Feature("empty"), Feature("none", "category")))
    columns = {"constant": np.full(50, 7.0), "empty": np.full(50, np.nan), "none": [None] * 50}
    rows = Rows([str(i) for i in range(50)], np.arange(50) * 3600, np.full(50, 0.5), columns)
    reference = Reference.build(schema, rows, np.zeros(50), ["s"] * 50)
    assert reference.counts.sum() == 4 * 50
    again = sketch(rows, reference)
    assert np.array_equal(again.counts, reference.pooled)
