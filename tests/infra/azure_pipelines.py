"""Enough of Azure Pipelines' templates to read ours as a run would: `template`, `each`, `parameters.x`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

EXPRESSION = re.compile(r"\$\{\{ *(.+?) *\}\}")
EACH = re.compile(r"\$\{\{ each (\w+) in ([\w.]+) \}\}")


class PipelineError(ValueError):
    """What Azure Pipelines would refuse, or what we do not read."""


def expanded(path: Path) -> dict[str, Any]:
    """The pipeline with nothing left of templates."""
    return {**_read(path), **_file(path, {})}


def _read(path: Path) -> Any:
    text = path.read_text()
    if any(isinstance(t, yaml.AliasToken | yaml.AnchorToken) for t in yaml.scan(text)):
        raise PipelineError(f"{path.name}: Azure Pipelines has no anchors")
    return yaml.safe_load(text)


def _file(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    found = _read(path)
    declared = {p["name"]: p for p in found.pop("parameters", [])}
    if untyped := {k for k, p in declared.items() if "type" not in p}:
        raise PipelineError(f"{path.name}: {untyped} would be texts")
    missing = {k for k, p in declared.items() if "default" not in p} - set(given)
    if missing or set(given) - set(declared):
        raise PipelineError(f"{path.name}: missing {missing}, unknown {set(given) - set(declared)}")
    values = {k: given.get(k, p.get("default")) for k, p in declared.items()}
    return {k: _expand(v, {"parameters": values}, path.parent) for k, v in found.items()}


def _expand(node: Any, names: Mapping[str, Any], folder: Path) -> Any:
    match node:
        case dict():
            return {_expand(k, names, folder): _expand(v, names, folder) for k, v in node.items()}
        case list():
            return [made for item in node for made in _items(item, names, folder)]
        case str():
            return _text(node, names)
    return node


def _items(item: Any, names: Mapping[str, Any], folder: Path) -> list[Any]:
    """What one item of a list becomes: many by `each` or by a template of stages."""
    if isinstance(item, dict) and "template" in item:
        stages: list[Any] = _file(folder / item["template"], _expand(item.get("parameters", {}), names, folder))[
            "stages"
        ]
        return stages
    if isinstance(item, dict) and len(item) == 1 and (each := EACH.fullmatch(str(next(iter(item))))):
        body = next(iter(item.values()))
        return [m for value in _value(each[2], names) for m in _expand(body, {**names, each[1]: value}, folder)]
    return [_expand(item, names, folder)]


def _text(text: str, names: Mapping[str, Any]) -> Any:
    if whole := EXPRESSION.fullmatch(text):
        return _value(whole[1], names)
    return EXPRESSION.sub(lambda m: str(_value(m[1], names)), text)


def _value(expression: str, names: Mapping[str, Any]) -> Any:
    found: Any = names
    for part in expression.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise PipelineError(f"{expression} is not defined")
        found = found[part]
    return found
