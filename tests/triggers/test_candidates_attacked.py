"""Attacks on candidates that the core holds off; each says which defence stands between, and what happens without."""

from __future__ import annotations

import pytest

from tests.triggers.samples import DAY, NOW, a_fleet, a_loop
from tests.triggers.test_audit import ENTRIES, HEAD
from triggers.config import Retrain
from triggers.policy import Finding, History, decide
from triggers.records import verify

pytestmark = pytest.mark.attack

ALARM = Finding(
    kind="feature", statistical=True, scope="fleet", sites=("a", "b", "c"), features=("x",), reason="x moved"
)


def storm(budget: str, days: int = 30) -> int:
    """Retrainings that follow from an alarm on each day, each retraining over at once."""
    loop = a_loop(retrain=Retrain(confirm=1, cooldown="1s", budget=budget, minimum_rows=1))
    history, begun = History(), 0
    for day in range(days):
        decision, history = decide([ALARM], history, NOW + day * DAY, loop, a_fleet(), active=[], rows=1000)
        begun += decision.action == "retrain"
    return begun


def test_a_storm_of_drift_cannot_drain_more_than_the_budget() -> None:
    assert storm("2 per 30 days") == 2
    assert storm("99 per 30 days") == 30, "without a budget worth the name, each alarm trains a model"


@pytest.mark.parametrize("left", range(6))
def test_a_truncated_audit_trail_is_found_by_the_head(left: int) -> None:
    assert verify(ENTRIES[:left], HEAD)
    assert verify(ENTRIES[:left]) == "", "without the head, what is left of the chain holds"
