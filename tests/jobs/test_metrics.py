"""The comparison of two models, against definitions and by simulation."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import metrics
from jobs.metrics import auc, compare, half_width, log_loss, mae, rmse, student

DAY = 86400


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(metrics).failed == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[bool, int]]) -> None:
    label, score = (np.array(x, float) for x in zip(*rows, strict=True))
    up, down = score[label == 1], score[label == 0]
    value, influence = auc(label, score)
    if len(up) and len(down):
        pairs = [(a > b) + (a == b) / 2 for a in up for b in down]
        assert value == pytest.approx(np.mean(pairs))
    else:
        assert math.isnan(value)
    assert influence.sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("metric", [auc, log_loss, mae, rmse])
def test_an_influence_is_what_a_row_adds(metric: object) -> None:
    random = np.random.default_rng(0)
    label, score = (random.random(400) > 0.5).astype(float), random.random(400)
    value, influence = metric(label, score)  # type: ignore[operator]
    twice = np.append(np.arange(400), 7)
    moved = metric(label[twice], score[twice])[0] - value  # type: ignore[operator]
    assert moved == pytest.approx(influence[7], rel=0.05, abs=1e-5)


def test_a_gain_is_positive_where_the_challenger_is_better() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=500)
    good, bad = truth + random.normal(0, 0.1, 500), truth + random.normal(0, 1, 500)
    at = np.arange(500) * 3600
    for metric, label in (("rmse", truth), ("mae", truth), ("auc", (truth > 0).astype(float))):
        found = compare(metric, label, bad, good, at, 0.95)
        assert 0 < found.gain_low < found.gain < found.gain_high
        worse = compare(metric, label, good, bad, at, 0.95)
        assert worse.gain == pytest.approx(-found.gain)


def test_identical_models_gain_nothing_and_the_interval_says_so() -> None:
    score = np.random.default_rng(0).random(100)
    found = compare("auc", (score > 0.4).astype(float), score, score, np.arange(100) * DAY, 0.95)
    assert (found.gain, found.gain_low, found.gain_high) == (0, 0, 0)


def test_one_missing_score_makes_its_models_metric_and_the_gain_unmeasurable() -> None:
    score = np.random.default_rng(0).random(100)
    holed = np.where(np.arange(100) == 3, np.nan, score)
    for champion, challenger in ((score, holed), (holed, score)):
        found = compare("auc", (score > 0.4).astype(float), champion, challenger, np.arange(100), 0.95)
        assert found.rows == 100
        assert math.isnan(found.champion) is (champion is holed)
        assert math.isnan(found.challenger) is (challenger is holed)
        assert math.isnan(found.gain)
        assert math.isnan(found.gain_low)


def test_rows_of_bad_days_in_common_widen_the_interval() -> None:
    random = np.random.default_rng(0)
    day = np.repeat(np.arange(20), 50)
    shared = random.normal(size=20)[day] / 1000
    assert half_width(shared, day, 0.95) > 3 * half_width(shared, np.arange(1000), 0.95)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        day = np.repeat(np.arange(12), 30)
        error = random.normal(size=(12, 2))[day] * 0.5 + random.normal(size=(360, 2))
        found = compare("mae", np.zeros(360), np.abs(error[:, 0]) + 1, np.abs(error[:, 1]) + 1, day * DAY, 0.9)
        held += found.gain_low <= 0 <= found.gain_high
    assert 0.86 < held / 400 < 0.94


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (99, 1.984)])
def test_students_quantile(freedom: int, quantile: float) -> None:
    assert student(0.95, freedom) == pytest.approx(quantile, rel=0.01)
