"""The documentation holds together: links lead somewhere, generated pages are not stale, alerts have runbooks."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.docs import pages
from tests.docs.pages import PAGES, ROOT
from triggers.config import Notice
from triggers.run import FINAL


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in pages.links(page):
        target, _, anchor = link.partition("#")
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        where = (page.parent / target).resolve() if target else page
        if not where.exists() or (anchor and where.suffix == ".md" and anchor not in pages.anchors(where)):
            broken.append(link)
    assert broken == []


def test_every_page_can_be_reached_from_the_first() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        for link in pages.links(page):
            where = (page.parent / link.partition("#")[0]).resolve()
            waiting += [where] if where.suffix == ".md" and where.exists() else []
            waiting += sorted(where.glob("*.md")) if where.is_dir() else []
    assert [pages.name(p) for p in PAGES if p not in seen] == []


NAMED = re.compile(r"\b((?:tests|docs|infra|examples|tools|bench|cli|functions)/[\w./-]*\w)")


def test_files_and_tests_that_pages_name_are_there() -> None:
    named = {(pages.name(page), found) for page in PAGES for found in NAMED.findall(page.read_text("utf-8"))}
    files = {(page, found) for page, found in named if "." in found.rpartition("/")[2]}
    assert sorted(f"{page}: {found}" for page, found in files if not (ROOT / found).exists()) == []


def test_decisions_are_numbered_from_1_without_a_gap() -> None:
    numbers = sorted(int(p.name.partition("-")[0]) for p in (ROOT / "docs" / "decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def reference() -> Any:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_reference_pages_are_what_the_code_says() -> None:
    """Stale? `make schemas` writes them anew."""
    made = reference().pages()
    folder = ROOT / "docs" / "reference"
    assert {p.name for p in folder.iterdir()} == set(made)
    assert [name for name, text in made.items() if (folder / name).read_text("utf-8") != text] == [], "make schemas"


# --- runbooks

RUNBOOKS = ROOT / "docs" / "runbooks.md"


def told() -> Iterator[str]:
    """Kinds of cards that the code tells people with: literals, and one for each end of a run."""
    for path in sorted((ROOT / "triggers").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "tell":
                yield from _kinds(node)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "Announce":
                values = [k.value for k in node.keywords if k.arg == "kind"]
                yield from (v.value for v in values if isinstance(v, ast.Constant))
    yield from (f"run-{phase}" for phase in FINAL)


def _kinds(call: ast.Call) -> Iterator[str]:
    for found in ast.walk(call):
        if isinstance(found, ast.Dict):
            for key, value in zip(found.keys, found.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "kind" and isinstance(value, ast.Constant):
                    yield str(value.value)


def test_every_card_and_every_alert_has_a_runbook() -> None:
    """The alerts' own links are held by tests/infra."""
    assert {"approval", "maintenance", "certificate", "paused", "run-failed"} <= set(told())
    cards = {*get_args(Notice), "digest"}
    assert set(told()) <= cards
    alerts = set(re.findall(r"name: '([\w-]+)'", (ROOT / "infra" / "modules" / "alerts.bicep").read_text())) | {
        "budget"
    }
    assert cards | alerts == pages.anchors(RUNBOOKS) - {"runbooks", "alerts", "cards"}
