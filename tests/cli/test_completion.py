"""`driftloop completion`: each shell itself is asked what it would offer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli import completion, main

BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shtab_driftloop
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = "source $argv[1]; complete -C $argv[2]"
ZSH = r"""
import os, pty, re, select, subprocess, sys, time
script, folder, line = sys.argv[1:]
master, slave = pty.openpty()
env = {"PATH": os.environ["PATH"], "HOME": folder, "TERM": "dumb", "LINES": "60", "COLUMNS": "200"}
shell = subprocess.Popen(["zsh", "-f", "-i"], stdin=slave, stdout=slave, stderr=slave, env=env, cwd=folder)
def until(pattern):
    said, end = "", time.monotonic() + 60
    while not re.search(pattern, said):
        if time.monotonic() > end: break
        if select.select([master], [], [], 0.1)[0]: said += os.read(master, 65536).decode(errors="replace")
    return said
def key(text): os.write(master, text.encode())
key(f"PS1='ready''> '; fpath=({folder} $fpath); autoload -U compinit; compinit -u -D; driftloop() {{ :; }}\n")
until("ready> ")
key(line + "\t")
print(until("MORE|" + sys.stdin.read().strip()))
key("\x15exit\n")
shell.wait(60)
"""

QUOTED = "'\"'\"'"
ASKED = [
    (["driftloop", "ret"], "retrain"),
    (["driftloop", "cluster", "ver"], "verify"),
    (["driftloop", "cluster", "check", "--scenario", "pro"], "production"),
    (["driftloop", "backtest", "--lo"], "--loop"),
    (["driftloop", "validate", "--loop", "lo"], "loop.yaml"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shells")
    (made / "loop.yaml").touch()
    for shell in completion.SHELLS:
        (made / ("_driftloop" if shell == "zsh" else shell)).write_text(completion.script(shell))
    return made


@pytest.mark.parametrize(("words", "wanted"), ASKED)
def test_bash_offers_commands_options_choices_and_files(folder: Path, words: list[str], wanted: str) -> None:
    command = ["bash", "--norc", "-c", BASH, "bash", str(folder / "bash"), *words]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert wanted in said.stdout.split(), said.stderr


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish")
@pytest.mark.parametrize(("words", "wanted"), ASKED)
def test_fish_does_too(folder: Path, words: list[str], wanted: str) -> None:
    env = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    command = ["fish", "--no-config", "-c", FISH, str(folder / "fish"), " ".join(words)]
    said = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True)
    assert wanted in said.stdout.split(), said.stderr


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh")
@pytest.mark.parametrize(("words", "wanted"), ASKED)
def test_zsh_does_too(folder: Path, words: list[str], wanted: str) -> None:
    line = " ".join(words)
    command = [sys.executable, "-c", ZSH, "_driftloop", str(folder), line]
    said = subprocess.run(command, input=wanted, capture_output=True, text=True, check=True, timeout=60)
    assert wanted in said.stdout, said.stdout


def test_every_command_is_offered_with_its_line_of_help() -> None:
    made = completion.script("zsh")
    lines = [f"{name}:'{line.replace(chr(39), QUOTED)}'" for name, line in main.COMMANDS.items()]
    assert [line for line in lines if line not in made] == []


def test_a_shell_that_it_does_not_know_is_wrong_usage() -> None:
    with pytest.raises(SystemExit, match="2"):
        main.main(["completion", "csh"])
