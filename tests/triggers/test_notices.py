"""Who is told what, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from adapters.local.profile import Local
from triggers import notices
from triggers.errors import Retry

MORNING = datetime(2026, 3, 10, 8, tzinfo=UTC)
LOOP = """
loop: pump
schema: {timestamp: at, site: site, label: failed, features: [{name: wind}]}
"""
NOTIFY = 'notify: {every: 15m, repeat: 1d, quiet: {timezone: Europe/Berlin, start: "20:00", end: "06:00"}}\n'


class Told:
    """What people were told; a notifier that is down where it is said to be."""

    def __init__(self) -> None:
        self.cards: list[dict[str, Any]] = []
        self.down = False

    def tell(self, card: Mapping[str, Any]) -> None:
        if self.down:
            raise Retry("not now")
        self.cards.append(dict(card))


class Stage:
    def __init__(self, folder: Path) -> None:
        config = folder / "config" / "pump"
        config.mkdir(parents=True)
        (config / "loop.yaml").write_text(LOOP + NOTIFY)
        (config / "fleet.yaml").write_text("sites: [{name: A}]\n")
        self.local, self.told = Local(folder, MORNING), Told()
        self.ports = replace(self.local.ports, notifier=self.told)

    def at(self, hours: float) -> None:
        self.local.clock.set(datetime.fromtimestamp(MORNING.timestamp() + hours * 3600, UTC))

    def tell(self, kind: str, text: str, **facts: Any) -> None:
        name = f"{kind}/{self.ports.clock.now():%d%H%M}/{text}"
        card = {"id": name, "kind": kind, "loop": "pump", "title": f"pump: {kind}", "text": text, "facts": facts}
        notices.tell(self.ports, "pump", card)

    def flush(self) -> list[str]:
        notices.flush(self.ports, "pump")
        return self.kinds

    @property
    def kinds(self) -> list[str]:
        return [card["kind"] for card in self.told.cards]


@pytest.fixture
def stage(tmp_path: Path) -> Any:
    made = Stage(tmp_path)
    yield made
    made.local.close()


def test_the_first_is_told_at_once_and_a_storm_as_one_digest(stage: Stage) -> None:
    stage.tell("maintenance", "A: silent for 2.1 days", sites=["A"])
    for n in range(40):
        stage.tell("maintenance", f"S{n}: silent", sites=[f"S{n}"])
    assert stage.kinds == ["maintenance"]
    stage.at(0.2)
    assert stage.flush() == ["maintenance"]
    stage.at(0.3)
    assert stage.flush() == ["maintenance", "digest"]
    digest = stage.told.cards[-1]
    assert digest["title"] == "pump: 40 things"
    assert digest["text"].count("\n") == 20
    assert digest["text"].endswith("and 20 more")
    assert digest["do"].startswith("Have somebody look at these sites")
    stage.at(1)
    assert stage.flush() == ["maintenance", "digest"]


def test_one_that_waited_is_told_as_it_is(stage: Stage) -> None:
    stage.tell("began", "wind", run="pump.1")
    stage.tell("progress", "wave 1", run="pump.1")
    stage.at(0.5)
    assert stage.flush() == ["began", "progress"]


def test_the_same_again_is_not_told_before_a_day_whatever_its_numbers(stage: Stage) -> None:
    stage.tell("drift", "cooldown of 42d ends in 33.0 days; drift at 3 sites", scope="fleet")
    stage.at(2)
    stage.tell("drift", "cooldown of 42d ends in 32.9 days; drift at 3 sites", scope="fleet")
    assert stage.flush() == ["drift"]
    stage.at(27)
    stage.tell("drift", "cooldown of 42d ends in 31.9 days; drift at 3 sites", scope="fleet")
    assert stage.kinds == ["drift", "drift"]


def test_what_is_urgent_is_told_in_the_night_and_the_rest_in_the_morning(stage: Stage) -> None:
    stage.at(13)  # 22:00 in Berlin
    stage.tell("run-verified", "everywhere", run="pump.1")
    stage.tell("run-rolled-back", "wave 1 failed", run="pump.2")
    stage.tell("maintenance", "A: silent", sites=["A"])
    assert stage.flush() == ["run-rolled-back"]
    stage.at(20.9)
    assert stage.flush() == ["run-rolled-back"]
    stage.at(21.1)  # 06:06
    assert stage.flush() == ["run-rolled-back", "digest"]
    assert "everywhere" in stage.told.cards[-1]["text"]


def test_what_could_not_be_told_is_told_later(stage: Stage) -> None:
    stage.told.down = True
    with pytest.raises(Retry):
        stage.tell("began", "wind", run="pump.1")
    stage.told.down = False
    stage.tell("began", "wind", run="pump.1")
    stage.tell("progress", "wave 1", run="pump.1")
    stage.at(1)
    stage.told.down = True
    with pytest.raises(Retry):
        stage.flush()
    stage.told.down = False
    assert stage.flush() == ["began", "progress"]


def test_every_kind_says_what_to_do(stage: Stage) -> None:
    from typing import get_args

    from triggers.config import Notice

    assert {*get_args(Notice)} <= notices.DO.keys()
    stage.tell("run-failed", "no room", run="pump.3")
    assert stage.told.cards[-1]["do"] == notices.DO["run-failed"]
