"""The pages of the documentation: their blocks of commands, their links, their anchors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    p
    for pattern in ("*.md", "docs/**/*.md", "edge/*.md", "infra/*.md", "examples/*/*.md")
    for p in ROOT.glob(pattern)
    if p.name != "CHANGELOG.md"
)

PROGRAMS = {
    *("driftloop", ".venv/bin/driftloop", ".venv/bin/python", "python", "python3", "make", "sed", "cat", "export"),
    *("az", "azd", "kubectl", "func", "curl", "model_signing", "infra/deploy.sh"),
}
SHELLS = {"sh", "bash", "console"}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each block of commands: fenced as a shell's, or indented and beginning with a program."""
    for line, language, text in code(page):
        if language in SHELLS or (not language and begins_with_a_program(text)):
            yield line, text


def begins_with_a_program(text: str) -> bool:
    first = next(iter(text.split()), "")
    while re.fullmatch(r"[A-Z_]+=\S*", first):  # settings before a command
        text = text.lstrip()[len(first) :]
        first = next(iter(text.split()), "")
    return first in PROGRAMS


def code(page: Path) -> Iterator[tuple[int, str, str]]:
    """(line, language, text) of each fenced or indented block; no language where it is indented."""
    lines, i = page.read_text("utf-8").splitlines(), 0
    while i < len(lines):
        fence = re.match(r"```(\w*)", lines[i])
        if fence:
            end = next(j for j in range(i + 1, len(lines)) if lines[j].startswith("```"))
            yield i + 1, fence[1] or "text", "\n".join(lines[i + 1 : end])
            i = end + 1
        elif lines[i].startswith("    ") and (i == 0 or not lines[i - 1].strip()):
            end = i
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield i + 1, "", "\n".join(line[4:] for line in lines[i:end]).strip("\n")
            i = end
        else:
            i += 1


def spans(page: Path) -> Iterator[list[str]]:
    """The words of each `driftloop ...` within a sentence or a table."""
    prose = re.sub(r"^(```.*?^```|    .*?$)", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for found in re.findall(r"`(driftloop [^`]+)`", prose.replace("\\|", "|")):
        yield shlex.split(" ".join(found.split()))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", f.lower())).strip().replace(" ", "-") for f in found}


def links(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```|`[^`]*`", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"\]\(([^)\s]+)\)", text))
