"""The pages of docs/reference/, from the code that they describe.

`python tools/reference.py` writes them; tests/docs says when one is stale. What argparse and msgspec say in their own
words, and differently from one Python to the next, is not taken: the pages are made from what they hold.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from inspect import getdoc
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cli import main  # noqa: E402
from functions import wire  # noqa: E402
from triggers import effects, events  # noqa: E402
from triggers.config import Fleet, Loop, json_schema  # noqa: E402

PAGES = ROOT / "docs" / "reference"
MADE = "Written by `tools/reference.py` from {}.\n"


def pages() -> dict[str, str]:
    """Text by file name."""
    return {
        "loop.md": configuration("loop.yaml", json_schema(Loop)),
        "fleet.md": configuration("fleet.yaml", json_schema(Fleet)),
        "commands.md": commands(),
        "events.md": happenings(),
        "metrics.md": metrics(),
    }


# --- loop.yaml and fleet.yaml


def configuration(name: str, schema: Mapping[str, Any]) -> str:
    """A section for each struct of the schema, in the order in which they come up."""
    parts = [f"# {name}\n", MADE.format("triggers/config.py")]
    parts.append("A duration is `90s`, `30m`, `12h`, `7d` or `2w`; a share is between 0 and 1.\n")
    for where, about in _structs(schema):
        parts.append(f"## {where}\n\n{about.get('description', '')}\n")
        needed = set(about.get("required", ()))
        rows = (
            (f"`{field}`", _kind(of), _default(field, of, needed), of.get("description", "") + _for_example(of))
            for field, of in about["properties"].items()
        )
        parts.append(_table(("field", "what", "default", "meaning"), rows))
    return "\n".join(parts)


def _structs(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path in the file, struct), each once."""
    root = schema["$ref"].rpartition("/")[2]
    waiting, seen = [("At the top", "", root)], set()
    while waiting:
        title, path, name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        about = schema["$defs"][name]
        yield title, about
        for field, of in about["properties"].items():
            for inner in re.findall(r"#/\$defs/(\w+)", json.dumps(of)):
                many = "[]" if _is_list(of) else ""
                waiting.append((f"`{path}{field}{many}`", f"{path}{field}{many}.", inner))


def _is_list(of: Mapping[str, Any]) -> bool:
    return of.get("type") == "array" or any(o.get("type") == "array" for o in of.get("anyOf", ()))


def _kind(of: Mapping[str, Any]) -> str:
    """In words, with the bounds that the schema has."""
    if "$ref" in of:
        return "section"
    if "anyOf" in of:
        return " or ".join(dict.fromkeys(_kind(o) for o in of["anyOf"]))
    if "enum" in of or "const" in of:
        return ", ".join(f"`{v}`" for v in of.get("enum", [of.get("const")]))
    if of.get("type") == "array":
        items = of.get("items") or {}
        return f"list of {_kind(items)}s" if items else "list"
    words = {"string": "text", "null": "null", "object": "mapping", "boolean": "true or false"}
    return words.get(str(of.get("type")), str(of.get("type", "any"))) + _bounds(of)


def _bounds(of: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {of[key]:g}" for key, sign in signs.items() if key in of]
    return f" {', '.join(found)}" if found else ""


def _default(field: str, of: Mapping[str, Any], needed: set[str]) -> str:
    if field in needed:
        return "**needed**"
    value = of.get("default")
    if "$ref" in of:
        return "its defaults"
    return "none" if value in (None, "", [], {}) else f"`{json.dumps(value, ensure_ascii=False)}`"


def _for_example(of: Mapping[str, Any]) -> str:
    return "".join(f"; for example `{e}`" for e in of.get("examples", ())[:1])


# --- commands


def commands() -> str:
    """Every command with its arguments."""
    parts = ["# Commands\n", MADE.format("the parsers of cli/")]
    parts.append(
        "Exit status: 0 done, 1 a negative finding or a failed run, 2 wrong usage or configuration. The same is said\n"
        "by `--help` after each.\n"
    )
    whole = main.parser(*main.COMMANDS)
    for name, parser in _below(whole):
        parts += _command(f"driftloop {name}", parser, main.COMMANDS[name])
    return "\n".join(parts)


def _below(parser: argparse.ArgumentParser) -> Iterable[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return [(str(k), v) for k, v in action.choices.items()]
    return ()


def _command(name: str, parser: argparse.ArgumentParser, summary: str) -> Iterator[str]:
    below = _below(parser)
    yield f"{'##' if name.count(' ') == 1 else '###'} {name}\n"
    yield f"{summary}\n"
    rows = [
        _argument(a) for a in parser._actions if not isinstance(a, argparse._HelpAction | argparse._SubParsersAction)
    ]
    if rows:
        yield _table(("argument", "meaning", "default"), rows)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {str(a.dest): str(a.help or "") for a in action._choices_actions}
            for word, inner in below:
                yield from _command(f"{name} {word}", inner, helps.get(word, "") or word)


def _argument(action: argparse.Action) -> tuple[str, str, str]:
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    takes = "" if action.nargs == 0 else f" {value}"
    name = f"`{', '.join(action.option_strings)}{takes}`" if action.option_strings else f"`{value}`"
    default = action.default
    shown = "" if default in (None, False, argparse.SUPPRESS, []) else f"`{default}`"
    if action.required and action.option_strings:
        shown = "**needed**"
    return name, str(action.help or "") % vars(action), shown


# --- events


def happenings() -> str:
    """What reaches a run, what it asks for, and what passes over Event Grid."""
    parts = ["# Events\n", MADE.format("triggers/events.py, triggers/effects.py and functions/wire.py")]
    parts.append("## What reaches a run\n\nEach has `id` (told twice, it counts once), `run` and `at` (UTC).\n")
    parts.append(_table(("event", "when", "fields"), (_struct(e, events.Event) for e in events.EVENTS)))
    parts.append("## What a run asks for\n\nEffects: saved with the run in one write, performed at least once.\n")
    parts.append(_table(("effect", "what", "fields"), (_struct(e, effects.Effect) for e in _effects())))
    parts.append(
        "## Over Event Grid\n\nCloudEvents 1.0; which function is sent which type. The body of "
        "`driftloop.deployment.requested` has a\n[schema](../schemas/deployment.schema.json); a batch's is in "
        "[telemetry.md](../telemetry.md).\n"
    )
    rows = ((f"`{name}`", ", ".join(f"`{t}`" for t in types)) for name, types in wire.SUBSCRIPTIONS.items())
    parts.append(_table(("function", "event types"), rows))
    return "\n".join(parts)


def _effects() -> Iterable[type[msgspec.Struct]]:
    return (
        kind
        for kind in vars(effects).values()
        if isinstance(kind, type) and issubclass(kind, effects.Effect) and kind is not effects.Effect
    )


def _struct(kind: type[msgspec.Struct], base: type[msgspec.Struct]) -> tuple[str, str, str]:
    fields = [f for f in kind.__struct_fields__ if f not in base.__struct_fields__]
    said = (getdoc(kind) if kind.__dict__.get("__doc__") else "") or ""
    return f"`{kind.__struct_config__.tag}`", " ".join(said.split()), ", ".join(f"`{f}`" for f in fields)


# --- metrics


def metrics() -> str:
    """What the apps tell of themselves, and what the alerts look at."""
    code = "\n".join(p.read_text("utf-8") for p in sorted((ROOT / "functions").glob("*.py")))
    made = re.findall(r'\.create_(\w+)\("([\w.]+)", "([^"]*)"\)', code)
    about = re.findall(r'about = \{"(\w+)": \w+, "(\w+)": \w+\}', code)
    spans = re.findall(r'attributes=\{"([\w.]+)"', code)
    bicep = (ROOT / "infra" / "modules" / "alerts.bicep").read_text("utf-8")
    parts = ["# Metrics\n", MADE.format("functions/traces.py and infra/modules/alerts.bicep")]
    parts.append(
        "## What an app tells\n\nThrough OpenTelemetry, where `APPLICATIONINSIGHTS_CONNECTION_STRING` says to whom.\n"
    )
    rows = [(f"{kind} `{name}`", unit, ", ".join(f"`{a}`" for a in about[0])) for kind, name, unit in made]
    rows += [("span of each function's part in a run", "", ", ".join(f"`{a}`" for a in spans))]
    parts.append(_table(("what", "unit", "by"), rows))
    parts.append(
        "Logs begin with what they are about; *quarantined* is what an alert counts. A replay's figures (`figures` of\n"
        "summary.json: seconds, peak_mb, rows_per_second, seconds_by_function) are of one process tree.\n"
    )
    parts.append("## What alerts look at\n\nEach links to what is to be done.\n")
    platform = re.findall(r"\{ name: '([\w-]+)'.*?metric: '(\w+)', over: (\d+), aggregation: '(\w+)'", bicep)
    rows = [(_runbook(n), f"`{metric}` of {kind.lower()}", f"more than {over}") for n, metric, over, kind in platform]
    logs = re.findall(r"name: '([\w-]+)'\n    query: '(.*)'\n    over: (\d+)\n    window: '(\w+)'", bicep)
    rows += [(_runbook(n), f"`{q.replace('|', chr(92) + '|')}`", f"more than {o} in {w}") for n, q, o, w in logs]
    parts.append(_table(("alert", "what", "when"), rows))
    return "\n".join(parts)


def _runbook(alert: str) -> str:
    return f"[{alert}](../runbooks.md#{alert})"


# --- Markdown


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [_row(head), _row(("---",) * len(head)), *(_row(r) for r in rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", " ".join(c.split())) for c in cells) + " |"


if __name__ == "__main__":
    PAGES.mkdir(exist_ok=True)
    for name, text in pages().items():
        (PAGES / name).write_text(text, "utf-8")
        print(f"wrote docs/reference/{name}")
