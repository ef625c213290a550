"""The house: its layout, who may import whom, what starts quickly, what may be used."""

from __future__ import annotations

import ast
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("adapters", "cli", "drift", "edge", "functions", "jobs", "triggers")
HEAVY = {"azure.ai.ml", "evidently", "onnx", "onnxruntime", "pandas", "pyarrow", "rich", "scipy", "skl2onnx", "sklearn"}
FOREIGN = {  # what the core may import beside the standard library, drift and itself
    "drift": {"numpy"},
    "drift/envelope.py": {"numpy", "msgspec", "pyarrow"},
    "triggers": {"numpy", "msgspec"},
    "triggers/reading.py": {"msgspec", "yaml"},
    "triggers/config.py": {"msgspec", "cronsim", "dateutil"},
    "triggers/windows.py": {"cronsim", "dateutil"},
}


def tracked() -> Iterator[Path]:
    """Files under version control that are still there."""
    out = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return (path for name in out.split("\0") if name and (path := ROOT / name).is_file())


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_the_layout_is_there() -> None:
    folders = {
        *PACKAGES,
        "adapters/azure",
        "adapters/local",
        "docs/schemas",
        "examples/flights",
        "infra",
        "tests",
        "bench",
    }
    files = {
        "function_app.py",
        "host.json",
        "requirements.txt",
        "pyproject.toml",
        "Makefile",
        "README.md",
        "CHANGELOG.md",
    }
    assert {f for f in folders if not (ROOT / f).is_dir()} == set()
    assert {f for f in files if not (ROOT / f).is_file()} == set()
    assert list((ROOT / "tests").rglob("__init__.py")) == [], "tests/drift/__init__.py would shadow `import drift`"


def test_imports_go_one_way() -> None:
    linter = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    ended = subprocess.run([sys.executable, "-c", linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_nothing_but_the_commands_imports_the_app() -> None:
    files = (f for p in PACKAGES if p != "cli" for f in (ROOT / p).rglob("*.py"))
    assert [str(f) for f in files if "function_app" in set(imports(f))] == []


@pytest.mark.parametrize("path", sorted((*(ROOT / "drift").glob("*.py"), *(ROOT / "triggers").glob("*.py"))), ids=str)
def test_the_core_uses_little(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    may = FOREIGN.get(name, FOREIGN[path.parent.name]) | {"drift", path.parent.name} | sys.stdlib_module_names
    assert {module.partition(".")[0] for module in imports(path)} - may == set()


def test_importing_the_app_loads_nothing_heavy() -> None:
    loaded = set(json.loads(python("import function_app, json, sys; print(json.dumps(list(sys.modules)))")))
    assert loaded & HEAVY == set()
    assert "azure.functions" in loaded


def test_no_installed_package_has_the_name_of_one_of_ours() -> None:
    assert packages_distributions().keys() & {*PACKAGES, "function_app"} == set()


def test_files_name_no_place_on_the_machine_they_were_written_on() -> None:
    place = re.compile(rb"/(work)/(main|shared)|/(root|home/\w+)/|/tmp/\w+/(bin|lib)/|/opt/(pypi|wheels)")
    assert [str(f.relative_to(ROOT)) for f in tracked() if f.suffix != ".png" and place.search(f.read_bytes())] == []


@pytest.mark.parametrize("name", ["requirements", "requirements-dev", "requirements-wire"])
def test_what_is_wanted_is_pinned(name: str) -> None:
    wanted = re.findall(r"^([\w.-]+)", (ROOT / f"{name}.in").read_text(), re.MULTILINE)
    locked = (ROOT / f"{name}.txt").read_text().splitlines()
    pinned = {line.partition("==")[0] for line in locked if "==" in line}
    assert set(wanted) - pinned == set(), "run `make lock`"
    assert [line for line in locked if line and not re.match(r"#|-r |[\w.-]+==\S+( ; .+)?(  # .+)?$", line)] == []


def test_every_licence_may_be_used() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "licences.py"))
    rows = list(tool["licences"]())
    assert len(rows) > 100
    assert [row for row in rows if tool["refused"](row[2])] == []


@pytest.mark.parametrize(
    ("text", "kept_out"),
    [
        ("MIT", False),
        ("LGPL-3.0-or-later", False),
        ("GPL-3.0-or-later OR MIT", False),
        ("GNU General Public License v3 (GPLv3)", True),
        ("AGPL-3.0-only", True),
        ("Business Source License 1.1", True),
        ("unknown", True),
    ],
)
def test_which_licences_keep_a_package_out(text: str, kept_out: bool) -> None:
    assert runpy.run_path(str(ROOT / "tools" / "licences.py"))["refused"](text) is kept_out
