"""Loads and indexes a Functions app as Azure would: one function that cannot be indexed fails the whole app."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import re
import sys
import traceback
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import azure.functions as func

Kind = Literal["http", "queue", "timer", "event"]
_KINDS: Mapping[str, Kind] = {
    "httpTrigger": "http",
    "serviceBusTrigger": "queue",
    "timerTrigger": "timer",
    "eventGridTrigger": "event",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class AppError(Exception):
    """The app does not load or index; in Azure none of its functions would exist."""


@dataclass(frozen=True, slots=True)
class Function:
    """One indexed function. What belongs to another kind of trigger is empty."""

    name: str
    kind: Kind
    arg: str
    call: Callable[..., Any]
    route: str = ""
    methods: tuple[str, ...] = ()
    queue: str = ""
    many: bool = False
    sessions: bool = False
    binary: bool = False
    schedule: str = ""
    on_startup: bool = False


@dataclass(frozen=True, slots=True)
class HostJson:
    """What matters here of host.json."""

    route_prefix: str = "api"
    batch: int = 1000
    sessions: int = 8
    calls: int = 16


def load(path: Path) -> ModuleType:
    """Import `path` (function_app.py) as the module of its name; raises AppError with what failed and where."""
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise AppError(f"{path}: no such file")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        del sys.modules[name]
        frame = traceback.extract_tb(e.__traceback__)[-1]
        why = f"{type(e).__name__}: {e} ({Path(frame.filename).name}:{frame.lineno})"
        raise AppError(f"{path.name} does not import, so no function would exist: {why}") from e
    return module


def index(module: ModuleType, settings: Mapping[str, str]) -> tuple[Function, ...]:
    """The app's functions in the order in which they were declared. May be called once for a module."""
    app = getattr(module, "app", None)
    if not isinstance(app, func.FunctionApp):
        raise AppError(f"{module.__name__} has no `app` that is a FunctionApp")
    try:
        declared = app.get_functions()
    except Exception as e:
        raise AppError(f"{module.__name__} does not index, so no function would exist: {e}") from e
    found = tuple(_function(f, settings) for f in declared)
    if not found:
        raise AppError(f"{module.__name__} declares no function")
    return found


def _function(declared: Any, settings: Mapping[str, str]) -> Function:
    name, trigger, call = declared.get_function_name(), declared.get_trigger(), declared.get_user_function()
    said = {k: resolve(getattr(v, "value", v), settings, name) for k, v in trigger.get_dict_repr().items()}
    kind = _KINDS.get(trigger.type)
    if kind is None:
        raise AppError(f"{name}: the local host does not drive a {trigger.type}")
    _check(declared, trigger, call, name)
    base: dict[str, Any] = {"name": name, "kind": kind, "arg": trigger.name, "call": _sync(call)}
    if kind == "http":
        methods = tuple(str(getattr(m, "value", m)).upper() for m in said.get("methods") or METHODS)
        return Function(**base, route=said.get("route") or name, methods=methods)
    if kind == "queue":
        if not said.get("queueName"):
            raise AppError(f"{name}: the local host drives queues, not topic subscriptions")
        many = said.get("cardinality") == func.Cardinality.MANY.value
        binary, sessions = said.get("dataType") == func.DataType.BINARY.value, bool(said.get("isSessionsEnabled"))
        return Function(**base, queue=said["queueName"], many=many, sessions=sessions, binary=binary)
    if kind == "timer":
        return Function(**base, schedule=said["schedule"], on_startup=bool(said.get("runOnStartup")))
    return Function(**base)


def _check(declared: Any, trigger: Any, call: Callable[..., Any], name: str) -> None:
    """What the worker checks before it accepts a function."""
    extra = [b.name for b in declared.get_bindings() if b is not trigger and b.name != "$return"]
    wanted = set(inspect.signature(call).parameters)
    if extra or wanted != {trigger.name}:
        more = sorted({*extra, *wanted} - {trigger.name})
        raise AppError(f"{name}: takes {sorted(wanted)}, bound is {trigger.name!r}" + (f", not {more}" if more else ""))
    annotation = typing.get_type_hints(call).get(trigger.name)
    converter = func.get_binding_registry().get(trigger.type)
    if annotation is not None and not converter.check_input_type_annotation(annotation):
        raise AppError(f"{name}: {trigger.name}: the worker takes no {annotation} for a {trigger.type}")


def _sync(call: Callable[..., Any]) -> Callable[..., Any]:
    if not inspect.iscoroutinefunction(call):
        return call
    return lambda **kwargs: asyncio.run(call(**kwargs))


def resolve(value: Any, settings: Mapping[str, str], name: str) -> Any:
    """`%Setting%` in a binding's text, from the app settings; raises AppError where one is missing."""
    if not isinstance(value, str):
        return value

    def setting(found: re.Match[str]) -> str:
        if found[1] not in settings:
            raise AppError(f"{name}: the app setting {found[1]} is not set")
        return settings[found[1]]

    return re.sub(r"%([^%\s]+)%", setting, value)


def read_host_json(path: Path) -> HostJson:
    """host.json beside the app; defaults where it, or a key, is missing. Raises AppError where it is no JSON object."""
    if not path.is_file():
        return HostJson()
    try:
        said = json.loads(path.read_text("utf-8"))
        extensions = said.get("extensions", {})
        bus = extensions.get("serviceBus", {})
        found = HostJson(
            str(extensions.get("http", {}).get("routePrefix", "api")).strip("/"),
            int(bus.get("maxMessageBatchSize", 1000)),
            int(bus.get("maxConcurrentSessions", 8)),
            int(bus.get("maxConcurrentCalls", 16)),
        )
    except (ValueError, AttributeError, TypeError) as e:
        raise AppError(f"{path.name}: {e}") from e
    if min(found.batch, found.sessions, found.calls) < 1:
        raise AppError(f"{path.name}: a number in extensions.serviceBus is below 1")
    return found
