"""docs/guarantees.md names tests and commands that exist, and every attack's test is marked as one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.__main__ import BENCHES, PROOFS
from cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
TESTS = sorted(set(re.findall(r"tests/[\w/]+\.py(?:::\w+)?", PAGE)))
COMMANDS_NAMED = sorted(set(re.findall(r"`(bench|make|driftloop) ([\w-]+)", PAGE)))


@pytest.mark.parametrize("name", TESTS)
def test_a_test_that_is_named_exists(name: str) -> None:
    file, _, function = name.partition("::")
    text = (ROOT / file).read_text("utf-8")
    assert not function or f"\ndef {function}(" in text


@pytest.mark.parametrize(("program", "name"), COMMANDS_NAMED)
def test_a_command_that_is_named_exists(program: str, name: str) -> None:
    there = {
        "bench": {*BENCHES, *PROOFS},
        "make": set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)),
        "driftloop": set(COMMANDS),
    }
    assert name in there[program]


def test_every_promise_and_attack_has_its_line() -> None:
    assert [int(n) for n in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)] == list(range(1, 21))
    attacks = PAGE.partition("## Attacks")[2].partition("Limits:")[0]
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", attacks)
    assert len(named) > 20
    for file, function in named:
        before = (ROOT / file).read_text("utf-8").partition(f"\ndef {function}(")[0]
        decorated = before.rpartition("\n\n\n")[2]
        marked = "pytest.mark.attack" in decorated or re.search(
            r"^pytestmark = pytest.mark.attack", before, re.MULTILINE
        )
        assert marked, f"{file}::{function} is not marked attack"
