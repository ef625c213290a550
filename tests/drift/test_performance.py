"""Labels that come late, twice or against each other, and what they say of the model."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drift import binary, performance
from drift.performance import Outcomes, Predictions, auc, log_loss, mae, rmse
from drift.reference import Reference
from drift.telemetry import Feature, Labels, Rows, Schema, Task

DAY = 86_400


def scored(n: int, task: Task = "binary", seed: int = 0, offset: int = 0) -> tuple[Rows, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    score = 1 / (1 + np.exp(-x)) if task == "binary" else x
    label = (rng.random(n) < score).astype(float) if task == "binary" else x + rng.normal(size=n) * 0.5
    ids = [f"{seed}-{i}" for i in range(n)]
    return Rows(ids, offset + rng.integers(0, 3 * DAY, n), score.astype(np.float32).astype(float), {"x": x}), label


def a_reference(task: Task = "binary") -> Reference:
    rows, label = scored(4000, task)
    return Reference.build(Schema("1", (Feature("x"),), task), rows, label, ["s"] * 4000)


BINARY, REGRESSION = a_reference(), a_reference("regression")


def test_settled_labels_give_the_exact_log_loss_and_nearly_the_exact_auc() -> None:
    rows, label = scored(3000, seed=1)
    _, found, matched = Predictions.of(rows, BINARY, DAY).settle(Labels(rows.ids, rows.at, label))
    whole = performance.total(list(found.values()), BINARY.width)
    p = np.where(label > 0.5, rows.score, 1 - rows.score)
    order = np.argsort(rows.score)
    ranks = np.empty(3000)
    ranks[order] = np.arange(1, 3001)
    positives = label.sum()
    exact = (ranks[label > 0.5].sum() - positives * (positives + 1) / 2) / (positives * (3000 - positives))
    assert matched.all()
    assert log_loss(whole) == pytest.approx(-np.log(p).mean(), abs=1e-6)
    assert float(auc(whole.counts)) == pytest.approx(exact, abs=0.002)


def test_regression_errors_are_exact_to_the_fixed_point() -> None:
    rows, label = scored(500, "regression", seed=2)
    _, found, _ = Predictions.of(rows, REGRESSION, DAY).settle(Labels(rows.ids, rows.at, label))
    whole = performance.total(list(found.values()), REGRESSION.width)
    error = rows.score - label
    assert rmse(whole, REGRESSION.unit) == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
    assert mae(whole, REGRESSION.unit) == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert performance.label_mean(whole, "regression", REGRESSION.unit) == pytest.approx(label.mean(), abs=1e-5)


@given(st.lists(st.integers(0, 39), max_size=60), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_labels_in_any_order_and_twice_count_once(picked: list[int], random: object) -> None:
    rows, label = scored(40, seed=3)

    def settle(order: list[int], size: int) -> tuple[Predictions, dict[int, Outcomes]]:
        record, whole = Predictions.of(rows, BINARY, DAY), dict[int, Outcomes]()
        for i in range(0, len(order), size):
            part = order[i : i + size]
            told = Labels([rows.ids[k] for k in part], rows.at[part], label[part])
            record, found, _ = Predictions.from_bytes(record.to_bytes()).settle(told)
            for start, o in found.items():
                whole[start] = whole[start] + o if start in whole else o
        return record, whole

    once = sorted(set(picked))
    shuffled = list(picked)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    record, whole = settle(shuffled, 7)
    assert whole == settle(once, 1000)[1]
    assert int((~np.isnan(record.label)).sum()) == len(once)


def test_a_label_that_contradicts_the_first_is_a_conflict_and_changes_nothing() -> None:
    rows, _ = scored(3, seed=4)
    record = Predictions.of(rows, BINARY, DAY)
    record, first, _ = record.settle(Labels(rows.ids, rows.at, np.array([1.0, 0.0, 1.0])))
    after, second, matched = record.settle(Labels(rows.ids[:2], rows.at[:2], np.array([1.0, 1.0])))
    assert matched.all()
    assert sum(o.labels for o in first.values()) == 3
    assert [(o.labels, o.conflicts) for o in second.values()] == [(0, 1)]
    assert np.array_equal(after.label, record.label)


def test_labels_of_other_predictions_and_labels_that_are_no_number_match_nothing() -> None:
    rows, _ = scored(3, seed=5)
    record = Predictions.of(rows, BINARY, DAY)
    after, found, matched = record.settle(
        Labels(["other", rows.ids[0]], np.zeros(2, np.int64), np.array([1.0, np.nan]))
    )
    assert (found, matched.tolist()) == ({}, [False, False])
    assert not after.settled
    empty = Predictions.of(Rows([], np.zeros(0, np.int64), np.zeros(0), {"x": np.zeros(0)}), BINARY, DAY)
    assert empty.settle(Labels(["a"], np.zeros(1, np.int64), np.ones(1)))[2].tolist() == [False]


def test_outcomes_add_beyond_64_bits() -> None:
    large = Outcomes(np.zeros((3, 2), np.int64), (0, 0, 0, 1 << 70))
    assert (large + large).sums[3] == 1 << 71


def test_estimated_auc_follows_the_inputs_without_labels() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=4000) * 0.4
    score = 1 / (1 + np.exp(-x))
    label = (rng.random(4000) < score).astype(float)
    counts, _, _ = BINARY.columns[-1].count(score, BINARY.width)
    slots = BINARY.columns[-1].slots(score, BINARY.width)
    realised = auc(performance.count(score, slots, label, BINARY.width, "binary", 1.0).counts)
    assert BINARY.estimated(counts) == pytest.approx(float(realised), abs=0.03)
    assert float(auc(BINARY.expected.counts)) - BINARY.estimated(counts) > 0.05


def test_the_times_of_a_record_are_read_without_the_rest_of_it() -> None:
    rows = Rows(["a", "b", "c"], np.array([86_403, 86_401, 86_402]), np.array([0.2, 0.4, 0.6]), {"x": np.zeros(3)})
    raw = Predictions.of(rows, BINARY, DAY).to_bytes()
    assert Predictions.span(raw) == (86_401, 86_403)
    header, arrays = binary.unpack(raw[:4], raw)
    older = {name: value for name, value in header.items() if name != "end"}
    assert Predictions.span(binary.pack(raw[:4], older, arrays)) is None, "an earlier version did not say"
    assert len(Predictions.from_bytes(binary.pack(raw[:4], older, arrays))) == 3
    for nothing in (b"", b"DLP1", raw[:9], b"XXX1" + raw[4:], binary.pack(raw[:4], {"start": "x", "end": 5}, [])):
        assert Predictions.span(nothing) is None
