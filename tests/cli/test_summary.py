"""The summary on a terminal of 80 columns: words stay whole, numbers too, and nothing is an empty table."""

from __future__ import annotations

import io
import re
from typing import Any

from rich.console import Console

from cli import summary

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
        "figures": {"seconds": 9.0, "peak_mb": 300, "rows_per_second": 20_000, "failed": {}},
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
