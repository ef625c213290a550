"""The distances agree with those of others on the same bins, and what binning costs stays within what we say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2 as chi2_distribution
from scipy.stats import chi2_contingency, ks_2samp, wasserstein_distance

from drift import distances
from drift.bins import EXTRA, of_numbers
from drift.compare import by_group, measure
from drift.reference import Reference
from drift.sketch import sketch
from drift.telemetry import Feature, Rows, Schema
from drift.two_tables import chi2_tail, compare_tables

counts = st.integers(2, 30).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 1000), min_size=n, max_size=n).filter(any) for _ in range(2)])
)


@given(counts)
@settings(deadline=None)
def test_on_the_same_bins_the_distances_are_scipys(pair: tuple[list[int], list[int]]) -> None:
    p, q = (np.array(x) for x in pair)
    places = np.arange(len(p)) ** 1.5
    assert float(distances.js(p, q)) == pytest.approx(float(jensenshannon(p, q, base=2)), abs=1e-7)
    assert float(distances.wasserstein(p, q, places)) == pytest.approx(
        wasserstein_distance(places, places, p, q), abs=1e-9
    )
    filled = p + q > 0
    if filled.sum() > 1:
        table = np.stack((p, q))[:, filled]
        assert float(distances.chi2(p, q)) == pytest.approx(
            chi2_contingency(table, correction=False).statistic, abs=1e-9, rel=1e-9
        )


@given(counts)
@settings(deadline=None)
def test_distances_are_zero_for_the_same_symmetric_and_within_their_range(pair: tuple[list[int], list[int]]) -> None:
    p, q = (np.array(x) for x in pair)
    for distance in (distances.psi, distances.js, distances.ks, distances.hellinger, distances.tv):
        assert float(distance(p, p * 3)) == pytest.approx(0, abs=1e-7)
        assert float(distance(p, q)) == pytest.approx(float(distance(q, p)), abs=1e-12)
        assert 0 <= float(distance(p, q)) <= (np.inf if distance is distances.psi else 1)
    assert float(distances.ks(p, q)) <= float(distances.ks_bound(p, q)) + 1e-12


def test_many_pairs_at_once_are_the_pairs_one_by_one() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.integers(0, 50, (4, 3, 9)), rng.integers(1, 50, (3, 9))
    for distance in (distances.psi, distances.js, distances.ks, distances.hellinger, distances.tv, distances.chi2):
        assert np.allclose(distance(p, q), [[distance(p[i, k], q[k]) for k in range(3)] for i in range(4)])


@given(st.integers(0, 1000), st.sampled_from(["normal", "lognormal", "standard_t"]), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_ks_on_bins_is_never_above_the_truth_and_its_bound_never_below(seed: int, kind: str, shift: float) -> None:
    rng = np.random.default_rng(seed)
    draw = {"normal": rng.normal, "lognormal": rng.lognormal, "standard_t": lambda size: rng.standard_t(2, size)}[kind]
    then, now = draw(size=3000), draw(size=1000) + shift
    column = of_numbers("x", then, 64)
    q, p = (column.count(x, 64 + EXTRA)[0][: column.bins] for x in (then, now))
    exact = ks_2samp(then, now).statistic
    assert float(distances.ks(p, q)) <= exact + 1e-12
    assert float(distances.ks_bound(p, q)) >= exact - 1e-12
    assert exact - float(distances.ks(p, q)) <= 0.02


@given(st.integers(0, 1000), st.sampled_from(["normal", "lognormal", "standard_t"]), st.floats(-2, 2))
@settings(max_examples=20, deadline=None)
def test_the_wasserstein_distance_of_the_values_is_never_above_its_bound(seed: int, kind: str, shift: float) -> None:
    rng = np.random.default_rng(seed)
    draw = {"normal": rng.normal, "lognormal": rng.lognormal, "standard_t": lambda size: rng.standard_t(3, size)}[kind]
    then, now = draw(size=2000), draw(size=500) * 1.3 + shift
    inner = np.clip(then, *np.quantile(then, (0.001, 0.999))).std()
    found = compare_tables(Schema("1", (Feature("x"),)), {"x": then}, {"x": now}).features["x"]
    assert found.wasserstein_bound is not None
    assert found.wasserstein_bound >= wasserstein_distance(then, now) / inner - 1e-9


def test_chance_alone_makes_the_psi_that_is_returned_as_its_bias() -> None:
    rng = np.random.default_rng(4)
    schema = Schema("1", tuple(Feature(f"x{i}") for i in range(40)))
    then, now = ({f"x{i}": rng.normal(size=n) for i in range(40)} for n in (4000, 1000))
    found = compare_tables(schema, then, now).features.values()
    assert sum(f.psi for f in found) == pytest.approx(sum(f.psi_bias for f in found), rel=0.25)


@pytest.mark.parametrize("tail", ["normal", "lognormal"])
def test_wasserstein_on_bins_is_within_a_fiftieth_of_a_standard_deviation(tail: str) -> None:
    rng = np.random.default_rng(1)
    for shift in (0.0, 0.2, 1.0):
        then = getattr(rng, tail)(size=20_000)
        now = getattr(rng, tail)(size=5000) + shift
        found = compare_tables(Schema("1", (Feature("x"),)), {"x": then}, {"x": now}).features["x"]
        inner = np.clip(then, *np.quantile(then, (0.001, 0.999))).std()
        assert found.wasserstein == pytest.approx(wasserstein_distance(then, now) / inner, abs=0.02)


@given(st.floats(0.001, 500), st.integers(1, 63))
@settings(deadline=None)
def test_the_chi_square_tail_is_scipys(x: float, freedom: int) -> None:
    assert chi2_tail(x, freedom) == pytest.approx(float(chi2_distribution.sf(x, freedom)), rel=1e-9, abs=1e-300)


def test_two_tables_name_what_changed_and_nothing_else() -> None:
    rng = np.random.default_rng(2)
    n = 4000
    schema = Schema("1", (*(Feature(f"x{i}") for i in range(8)), Feature("c", "category")))
    then = {f"x{i}": rng.normal(size=n) for i in range(8)} | {"c": rng.choice(["a", "b"], n).tolist()}
    now = {f"x{i}": rng.normal(size=n) for i in range(8)} | {"c": rng.choice(["a", "b", "new"], n).tolist()}
    now["x3"] = now["x3"] * 1.3
    found = compare_tables(schema, then, now)
    assert found.drifted == ("x3", "c")
    assert "2 of 9 columns differ" in found.reason
    assert found.features["c"].ks is None
    assert set(found.to_dict()["features"]["x3"]) >= {"kind", "psi", "js", "ks", "ks_bound", "wasserstein", "p"}


def test_two_equal_tables_are_named_at_most_as_often_as_asked() -> None:
    rng = np.random.default_rng(3)
    schema = Schema("1", tuple(Feature(f"x{i}") for i in range(5)))

    def table(n: int) -> dict[str, np.ndarray]:
        return {f"x{i}": rng.normal(size=n) for i in range(5)}

    wrong = sum(bool(compare_tables(schema, table(1000), table(400)).drifted) for _ in range(60))
    assert wrong <= 9


def test_a_check_measures_all_distances_and_each_is_the_one_of_the_same_counts() -> None:
    rng = np.random.default_rng(5)
    schema = Schema("1", (Feature("x"), Feature("c", "category")))

    def rows(n: int, shift: float) -> Rows:
        columns = {"x": rng.normal(shift, size=n), "c": rng.choice(["a", "b", "c"], n).tolist()}
        return Rows([str(i) for i in range(n)], np.zeros(n, np.int64), rng.random(n), columns)

    reference = Reference.build(schema, rows(3000, 0.0), None, ["s1", "s2", "s3"] * 1000, bins=32)
    parts = [sketch(rows(400, shift), reference).counts for shift in (0.0, 0.3, 0.3)]
    _, found = measure(parts, [1, 3], np.array([0, 2]), reference)
    assert set(found) == {"psi", "psi_bias", "js", "ks", "ks_bound", "wasserstein", "chi2", "hellinger", "tv"}
    for site, (counts, row) in enumerate(((parts[0], 0), (parts[1] + parts[2], 2))):
        p, q = by_group(np.stack((counts, reference.counts[row])), reference)
        for name in ("psi", "psi_bias", "js", "chi2", "hellinger", "tv"):
            assert found[name][site] == pytest.approx(getattr(distances, name)(p, q), rel=1e-3, abs=1e-4), name
        inner = [counts[0, :-EXTRA], reference.counts[row, 0, :-EXTRA]]
        assert found["ks"][site, 0] == pytest.approx(float(distances.ks(*inner)), abs=1e-5)
        assert distances.ks_bound(*inner) <= found["ks_bound"][site, 0] + 1e-6 <= distances.ks(*inner) + 2 / 27
        assert np.isnan(found["ks"][site, 1])


def test_empty_and_constant_tables_compare_without_complaint() -> None:
    schema = Schema("1", (Feature("x"), Feature("y")))
    nothing = {"x": np.full(5, np.nan), "y": np.full(5, 1.0)}
    found = compare_tables(schema, nothing, nothing)
    assert found.drifted == ()
    assert found.features["y"].psi == 0
