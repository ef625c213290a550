"""The summary on a terminal of 80 columns: words stay whole, numbers too, and nothing is an empty table; and what was
regretted."""

from __future__ import annotations

import io
import re
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console

from cli import summary
from tests.triggers.samples import DAY, NEW, NOW, OLD, a_run
from triggers.run import Phase

REASON = (
    "fleet: feature drift in temperature_outlet, pressure_inlet (shape, location) at 3 of 3 sites (fleet): evidence "
    "1.44e+03 >= 12.9 (one false alarm in 90 windows); held: seen in 1 check in a row, 2 confirm; "
    + "; ".join(f"prediction drift at site number {n}: evidence {n}.5 >= 12.9" for n in range(1, 9))
)


def found(**more: Any) -> dict[str, Any]:
    told = {
        "drift": [],
        "runs": [],
        "regret": [],
        "performance": {"metric": "auc", "static": {"2024-02": 0.7}, "loop": {"2024-02": 0.75}},
        "rows": 1200,
        "batches": {"accepted": 40, "duplicate": 1, "quarantined": 0},
        "left_out": {},
        "quarantine": [],
        "sites": {},
        "report": None,
        "figures": {
            "seconds": 9.0,
            "peak_mb": 300,
            "rows_per_second": 20_000,
            "rows_per_processor_second": 25_000,
            "failed": {},
        },
    }
    return told | more


def shown(told: dict[str, Any]) -> str:
    out = io.StringIO()
    summary.show(told, Console(file=out, width=80))
    return out.getvalue()


def test_words_and_numbers_stay_whole() -> None:
    drift = {"at": "2024-02-01T13:00:00+00:00", "scope": "fleet", "sites": ["Werk [red]", "plant 2"], "reason": REASON}
    run = {
        "id": "pumps.2024-02-03.1",
        "candidate": "0123456789abcdef",
        "phase": "verified",
        "outcome": "passed",
        "verdict": "auc 0.7561 against 0.7012 on 500 rows, gain +0.0549 [+0.0210, +0.0888] at 95%",
        "reason": "wave 2: 1 verified, 0 deferred, 0 pending",
        "waves": [{"ring": "first", "verified": "2024-02-04T07:00:00+00:00"}],
    }
    gain = {"month": "2024-03", "run": run["id"], "accepted": True, "gain": 0.0123, "regret": False}
    features = [f"feature_{n}" for n in range(8)]
    text = shown(found(drift=[{**drift, "features": features}], runs=[run], regret=[gain]))
    words = set(re.split(r"[\s│]+", text))
    assert {"temperature_outlet,", "1.44e+03", "[red],", "feature_5", "[+0.0210,", "+0.0888]", run["id"]} <= words
    assert {"0123456789ab", "02-04", "07:00", "+0.012"} <= words
    assert "and 2 more" in text
    assert "... (5 more)" in " ".join(re.sub("│", " ", text).split())
    assert max(map(len, text.splitlines())) <= 80


def test_what_did_not_happen_is_a_line() -> None:
    text = shown(found())
    assert "No drift found.\nNo run began.\n" in text
    assert "Was it right?" not in text


@pytest.mark.parametrize("metric", ["auc", "rmse"])
def test_of_each_decision_later_months_say_whether_it_was_right(metric: str) -> None:
    """What was accepted is regretted where it is worse than the champion that it met, what was refused where better."""
    sign = 1 if metric == "auc" else -1
    months = ["2026-02", "2026-03", "2026-04", "2026-05", "2026-06"]
    review = {
        "metric": metric,
        "static": dict.fromkeys(months, 5.0),
        "candidates": {
            OLD: dict.fromkeys(months, 5.0),
            NEW: dict(zip(months, [9.0, 9.0, 5.0 + sign, 5.0 - sign, None], strict=True)),
        },
    }
    accepted = a_run(Phase.VERIFIED, id="line.1", ended=NOW + DAY)
    refused = a_run(Phase.REJECTED, id="line.2", ended=NOW + 3 * DAY)
    unfinished = a_run(Phase.TRAINING, id="line.3")
    late = a_run(Phase.REJECTED, id="line.4", ended=NOW + timedelta(days=200))
    found = summary.regret([late, unfinished, refused, accepted], review)
    assert [(r["month"], r["run"], r["accepted"], r["gain"], r["regret"]) for r in found] == [
        ("2026-04", "line.1", True, 1.0, False),
        ("2026-04", "line.2", False, 1.0, True),
        ("2026-05", "line.1", True, -1.0, True),
        ("2026-05", "line.2", False, -1.0, False),
    ]
