"""The dashboard of 5,000 sites: `python -m bench page`, with limits that hold on a busy machine too."""

from __future__ import annotations

import pytest

from bench import page

SITES = 5000


@pytest.mark.wire
def test_a_fleet_of_thousands_is_drawn_soon_and_in_few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DRIFTLOOP_PROFILE", "DRIFTLOOP_STATE", "DRIFTLOOP_CLOCK"):
        monkeypatch.setenv(name, "")  # what the bench sets is taken back
    found = page.run(SITES)
    print(found)
    _, cpu, size = found["api"]["the whole fleet"]
    assert size < 25 * SITES
    assert found["api"]["the whole fleet, unchanged (304)"][-1] == 0
    assert cpu < 1
    if found["browser"] is not None:
        assert found["browser"]["drawn"] < 10
