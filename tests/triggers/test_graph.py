"""docs/lifecycle.md, and the diagram in docs/loop.md, are what the code does."""

from __future__ import annotations

import pytest

from cli import graph
from cli.main import main
from triggers.lifecycle import RULES
from triggers.run import Phase


def test_docs_lifecycle_is_not_stale() -> None:
    assert graph.FILE.read_text(encoding="utf-8") == graph.page(), "stale: run `driftloop graph`"


def test_the_diagram_in_docs_loop_is_not_stale() -> None:
    text = graph.LOOP.read_text(encoding="utf-8")
    assert text.count("```mermaid") == 1
    assert text == graph.drawn(text), "stale: run `driftloop graph`"


def test_every_rule_and_every_phase_is_in_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", "--out", "-"]) == 0
    page = capsys.readouterr().out
    for phase in Phase:
        assert f'state "{phase}" as {phase.name}\n' in page
    for (phase, event), rule in RULES.items():
        leads = ", ".join(rule.leads_to) or "stays"
        assert f"| {phase} | {event.__name__} | {leads} | " in page
        for to in rule.leads_to:
            assert f"    {phase.name} --> {to.name}: {event.__name__}\n" in page
