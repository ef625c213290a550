"""Our distances of categories are those of Evidently's own functions, on what Hypothesis makes and on the flights.

Importing Evidently takes longer than all other tests of distances together.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import accuracy

pytestmark = pytest.mark.nightly

columns = st.lists(st.sampled_from("abcdefgh"), min_size=5, max_size=500)


@given(columns, columns)
@settings(max_examples=100, deadline=None)
def test_categories_agree(then: list[str], now: list[str]) -> None:
    ours, theirs = accuracy.of_categories(then, now), accuracy.evidently(then, now, category=True)
    for name in ("psi", "js", "tv"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-12 if name != "js" else 1e-7)
    assert ours["hellinger"] ** 2 == pytest.approx(theirs["hellinger"] ** 2, abs=1e-12)


def test_the_flights_agree() -> None:
    found = accuracy.flights()
    for feature in ("carrier", "origin"):
        for name, (ours, theirs) in found[feature].items():
            rare = feature == "carrier" and name == "psi"  # one flight in 27,000: we raise it to FLOOR, they only zeros
            assert ours == pytest.approx(theirs, abs=1e-4 if rare else 1e-12)
    ours, theirs = found["distance"]["wasserstein"]
    assert ours == pytest.approx(theirs, abs=0.02)


def test_one_outlier_hides_a_shift_from_evidently_and_not_from_us() -> None:
    without, with_one = accuracy.outlier()
    assert with_one["evidently"] < 0.1 < 0.2 < without["evidently"]
    assert with_one["driftloop"] == pytest.approx(without["driftloop"], rel=0.01)
