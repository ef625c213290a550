"""Every command of the documentation: all are parsed; `make test-wire` runs them, from top to bottom of each page.

Run in one scratch folder with the tutorial's table (real weather), in the order of ORDER, as a reader would. What needs
what a test has not is in NEEDS, with the reason, and is parsed alone.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli import main
from cli.completion import actions
from tests.docs import pages
from tests.docs.pages import PAGES, ROOT

NEEDS = {
    r"(azd?|func) ": "a subscription",
    r"infra/deploy\.sh|export (SIGN_IN_CLIENT_ID|AZURE_LOCATION)": "a subscription",
    r"kubectl ": "a cluster",
    r"driftloop cluster verify": "a cluster: tests/cli/test_cluster_verify.py has one",
    r"driftloop fleet discover": "Azure Resource Graph: tests/adapters has one",
    r"driftloop .*--app ": "an app with an address: tests/functions/test_commands.py has one",
    r"driftloop rollout ": "a rollout under way: tests/functions/test_commands.py has one",
    r"driftloop audit verify --head": "a head that was written down before: tests/functions/test_commands.py",
    r"(DRIFTLOOP_STATE=\S+ )?driftloop host|python -m edge|curl ": "runs until told to end: tests/host, tests/edge",
    r"model_signing ": "the stock tool: tests/edge/test_model_signing.py runs it",
    r"make (demo|test|example)|python3 tools/setup.py": "minutes: CI runs make test, tests/examples the examples",
    r"DRIFTLOOP_TEST_SERVICEBUS=": "a namespace of Service Bus",
    r"driftloop completion bash >": "your home folder: tests/cli/test_completion.py asks the shells",
}
"""What a test has not, by the command's beginning."""

ORDER = ("docs/tutorial.md", "docs/how-to.md")
"""These first: they make what the others look at."""

STATUS = {
    "driftloop assess": {0, 1},  # 1: they differ
    "driftloop status": {0, 1},  # 1: something wants a person
    "driftloop doctor": {0, 1},  # 1: something is wrong; in a scratch folder, the schedules
    "driftloop retrain": {0, 2},  # 2: one is active
    "driftloop simulate": {0, 1},  # 1: not finished
}
"""Exit statuses that a page speaks of; of all others 0."""

SHELL_SYNTAX = re.compile(r"<<-?\s*['\"]?(\w+)")


def commands(block: str) -> Iterator[str]:
    """The commands of a block, continued lines joined, each with its here-document."""
    lines = iter(block.replace("\\\n", " ").splitlines())
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        whole = [line]
        if found := SHELL_SYNTAX.search(line):
            for inner in lines:
                whole.append(inner)
                if inner.strip() == found[1]:
                    break
        yield "\n".join(whole).replace(".venv/bin/", "")


def needs(command: str) -> str:
    return next((why for pattern, why in NEEDS.items() if re.match(pattern, command)), "")


EVERY = [(pages.name(p), line, c) for p in PAGES for line, block in pages.blocks(p) for c in commands(block)]


NO_COMMAND = re.compile(r"[\w-]+:(\s|$)|\{|(from|import) ")
"""What an indented block may begin with besides a program: YAML or words that are quoted, JSON, Python."""


def test_every_indented_block_is_commands_or_seen_to_be_none() -> None:
    """So that no command goes unseen because it begins with an unknown program."""
    unknown = {
        (pages.name(p), line)
        for p in PAGES
        for line, language, text in pages.code(p)
        if not language and not pages.begins_with_a_program(text) and not NO_COMMAND.match(text)
    }
    assert unknown == set(), "add the program to tests/docs/pages.py"


def words(command: str) -> list[str]:
    """The words of a `driftloop` command, without what only a shell reads."""
    first = command.split("\n", maxsplit=1)[0]
    plain = shlex.split(re.sub(r"\s(>|\||&).*$", "", first), comments=True)
    while plain and re.fullmatch(r"[A-Z_]+=.*", plain[0]):
        plain.pop(0)
    return plain


@pytest.mark.parametrize(("page", "line", "command"), EVERY, ids=lambda v: str(v)[:60])
def test_a_command_can_be_parsed(page: str, line: int, command: str) -> None:
    subprocess.run(["bash", "-n", "-c", command], check=True)
    said = words(command) if re.match(r"([A-Z_]+=\S+ )?(driftloop|make) ", command) else []
    if said[:1] == ["driftloop"]:
        plain = [re.sub(r"[\[\]]", "", w) for w in said[1:]]  # [--optional]
        main.parser(*plain[:1]).parse_args(plain)
    elif said:
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert said[1] in targets


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_commands_and_options_within_sentences_are_there(page: Path) -> None:
    wrong = []
    for said in pages.spans(page):
        if not said[1].isalpha() or not said[1].islower():  # driftloop COMMAND, driftloop --help
            continue
        known = {o for a in actions(main.parser(said[1])) for o in a.option_strings}
        options = {o for word in said[2:] for o in re.findall(r"--[a-z][\w-]*", word)}
        wrong += [said] if said[1] not in main.COMMANDS or options - known else []
    assert wrong == []


# --- run


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    for there in ("examples", "tools", "docs", "infra", "edge", "tests"):
        (folder / there).symlink_to(ROOT / there)
    (folder / "bin").mkdir()
    for name, target in (("python", sys.executable), ("driftloop", "-P -m cli.main")):
        run = f'exec "{sys.executable}" {target}' if name == "driftloop" else f'exec "{target}"'
        (folder / "bin" / name).write_text(f'#!/bin/sh\n{run} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    return folder


def given(folder: Path) -> None:
    """What other pages take for granted: tables, a loop and a fleet of the reader's own; made from the tutorial's."""
    import pandas as pd

    shutil.rmtree(folder / "pump", ignore_errors=True)
    hours = pd.read_csv(folder / "hours.csv")
    pump = hours.rename(columns={"at": "time", "origin": "plant"}).drop(columns=["known"])
    pump.assign(failed=(pump["missing"] > 0).astype(int)).drop(columns=["missing"]).to_csv(
        folder / "pump.csv", index=False
    )
    half = len(hours) // 2
    for name, part in (("june", hours[:half]), ("july", hours[half:]), ("then", hours[:half]), ("now", hours[half:])):
        part.to_csv(folder / f"{name}.csv", index=False)
    for name in ("loop.yaml", "fleet.yaml"):
        (folder / name).write_text((folder / "haze" / name).read_text())
    for name in ("history", "old", "rows"):
        hours.assign(at=pd.to_datetime(hours["at"], utc=True)).to_parquet(folder / f"{name}.parquet", index=False)
    (folder / "prices.json").write_text('{"queues: Standard months": 10}')
    (folder / "nodes.json").write_text(json.dumps({"kind": "List", "items": [node(i) for i in range(3)]}))
    (folder / "cluster.json").write_text(json.dumps({"id": CLUSTER, "type": CLUSTER_TYPE, "name": "south"}))


def node(number: int) -> dict[str, Any]:
    """As kubectl prints it, what `cluster check` looks at."""
    has = {"cpu": "16", "memory": "64Gi", "pods": "110"}
    labels = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    about = {"kubeletVersion": "v1.30.0", "operatingSystem": "linux", "architecture": "amd64"}
    ready = [{"type": "Ready", "status": "True"}]
    status = {"allocatable": has, "capacity": has, "conditions": ready, "nodeInfo": about}
    return {"kind": "Node", "metadata": {"name": f"n{number}", "labels": labels}, "spec": {}, "status": status}


SUBSCRIPTION = "/subscriptions/00000000-0000-0000-0000-00000000000a/resourceGroups/plant/providers"
CLUSTER_TYPE = "Microsoft.Kubernetes/connectedClusters"
CLUSTER = f"{SUBSCRIPTION}/{CLUSTER_TYPE}/south"
WORKSPACE = f"{SUBSCRIPTION}/Microsoft.MachineLearningServices/workspaces/ml"


def filled(command: str, folder: Path) -> str:
    """With what the reader puts in the place of words in capitals, and the tutorial's state in that of others."""
    state = folder / "build" / "haze"
    candidates = sorted(p.name for p in (state / "blobs" / "candidates").glob("*"))
    told = folder / "runs.json"
    runs = re.findall(r"haze\.\d{4}-\d\d-\d\d\.\d+", told.read_text() if told.exists() else "")
    put = {"--cluster ID": f"--cluster {CLUSTER}", "WORKSPACE_ID": WORKSPACE, "line/plant-7": "haze/JFK"}
    put |= dict.fromkeys(("--state DIR", "--state state", "--state build/demo/state"), f"--state {state}")
    put |= {"--registry DIR": f"--registry {state / 'blobs'}", "--out DIR": "--out out"}
    put |= {"DIGEST": candidates[0]} if candidates else {}
    put |= {"--run RUN": f"--run {runs[0]}", "--run flights.2013-04-13.1": f"--run {runs[0]}"} if runs else {}
    for word, value in put.items():
        command = re.sub(rf"(?<![\w/]){re.escape(word)}\b", value, command)
    return re.sub(r"\[(--[^]]*)\]", r"\1", command)


def in_order() -> list[tuple[str, int, str]]:
    return sorted(EVERY, key=lambda e: (ORDER.index(e[0]) if e[0] in ORDER else len(ORDER), e[0], e[1]))


@pytest.mark.wire
def test_every_command_runs(scratch: Path) -> None:
    env = {**os.environ, "PATH": f"{scratch / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    env |= {"DRIFTLOOP_STATE": str(scratch / "build" / "haze"), "PYTHONPATH": str(ROOT)}
    failed, before, ran = [], "", 0
    for page, line, command in in_order():
        if page != before and page not in ORDER:
            given(scratch)
        before = page
        if needs(command):
            continue
        ran += 1
        said, began = filled(command, scratch), time.monotonic()
        done = subprocess.run(["bash", "-c", said], check=False, cwd=scratch, env=env, capture_output=True, text=True)
        print(f"{time.monotonic() - began:6.1f} s  {done.returncode}  {page}:{line}  {said[:100]!r}")
        expected = next((s for begin, s in STATUS.items() if command.startswith(begin)), {0})
        if done.returncode not in expected:
            failed.append(f"{page}:{line}: {said}\n{done.returncode}: {done.stdout[-600:]}{done.stderr[-600:]}")
        if command.startswith("driftloop runs") and "--json" in command:
            (scratch / "runs.json").write_text(done.stdout)
    assert failed == [], "\n\n".join(failed)
    assert ran > 40


def test_what_is_not_run_says_why_and_is_still_there() -> None:
    """No pattern outlives its commands."""
    assert [p for p in NEEDS if not any(re.match(p, c) for _, _, c in EVERY)] == []
