"""`driftloop completion`: what a shell needs to complete commands, options and file names.

driftloop completion bash > ~/.local/share/bash-completion/completions/driftloop
driftloop completion zsh  > ~/.zfunc/_driftloop    # with ~/.zfunc in fpath before compinit
driftloop completion fish > ~/.config/fish/completions/driftloop.fish
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cli import main

SHELLS = ("bash", "zsh", "fish")
FOLDERS = {"DIR", "FOLDER"}
"""Metavars of options that take a folder."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "completion",
        help=main.COMMANDS["completion"],
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> int:
    """Always 0."""
    print(script(args.shell))
    return 0


def script(shell: str) -> str:
    """The whole command's completion, for one shell."""
    import shtab

    whole = main.parser(*main.COMMANDS)
    for name, command in _commands(whole):
        command.description = main.COMMANDS[name]  # a shell shows one line
    for action in actions(whole):
        if isinstance(action.choices, dict) and not isinstance(action, argparse._SubParsersAction):
            action.choices = list(action.choices)  # shtab takes a dict for the commands below
        if action.type is Path and not action.choices:
            action.complete = shtab.DIRECTORY if action.metavar in FOLDERS else shtab.FILE  # type: ignore[attr-defined]
    made: str = shtab.complete(whole, shell)
    return made


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every option and argument of a parser and of the commands below it."""
    yield from parser._actions
    for _, command in _commands(parser):
        yield from actions(command)
