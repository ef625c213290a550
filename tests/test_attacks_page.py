"""The page that lists attacks names tests that there are, each marked as one."""

from __future__ import annotations

import re
from pathlib import Path

from tests.functions.test_approval_attacks import ATTACKS

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "attacks.md"
ROWS = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| ")][2:]


def test_every_test_that_the_page_names_is_there_and_marked() -> None:
    named = {tuple(found) for row in ROWS for found in re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[2])}
    assert len(named) > 25
    for file, test in named:
        (path,) = TESTS.rglob(file)
        text = path.read_text()
        (head,) = re.findall(rf"((?:^@[^\n]*\n(?:^[ )\]][^\n]*\n)*)*)^def {test}\(", text, re.MULTILINE)
        assert "mark.attack" in head or "pytestmark = pytest.mark.attack" in text, f"{file}::{test}"


def test_every_attack_with_a_defence_to_take_away_is_on_the_page() -> None:
    listed = {
        name.strip()
        for row in ROWS
        for names in re.findall(r"`test_approval_attacks\.py` ([^`|]*)", row[2])
        for name in names.split(";")
        if name.strip()
    }
    assert listed == set(ATTACKS)
