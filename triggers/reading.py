"""YAML text to frozen values, led by their types, so that every problem has a line, a field and what was expected.

The types say what a scalar means, not YAML: where text is wanted, `no`, `1.10` and `2013-01-01` are text. Aliases and
merge keys work, within a limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

from msgspec import inspect

from triggers.errors import Misconfigured

Path = tuple[str | int, ...]
Told = frozenset[Path]
T = TypeVar("T")

MOST_VALUES = 1_000_000
"""Aliases may multiply what a file says; beyond so many values it is refused."""

MOST_LEVELS = 50

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?\d{1,18}")
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?")
_BAD = object()


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong in a configuration file, and what to write instead. `line` counts from 1; 0 is the whole file."""

    file: str
    line: int
    path: Path
    what: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.field}: {self.what}" if self.path else f"{place}: {self.what}"

    @property
    def field(self) -> str:
        """
        >>> Problem("loop.yaml", 9, ("schema", "features", 2, "name"), "").field
        'schema.features[2].name'
        """
        return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in self.path).removeprefix(".")


class Wrong(Misconfigured):
    """A configuration that cannot be used; `problems` says all that is wrong with it, a line each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)), problems=self.problems)


class Document:
    """A YAML document whose values still know their lines. Raises Wrong where it is no YAML, or not one document."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.root = _compose(text.removeprefix("\ufeff"), file)

    def read(self, kind: type[T], check: Callable[[T, Told], Iterable[tuple[Path, str]]]) -> T:
        """The document as a `kind` (a msgspec Struct), with no problem that `check` finds. Raises Wrong with everything
        that does not fit.

        Where some fields cannot be read, `check` still sees the others: it gets the paths of those fields, for which
        their defaults stand, and what it says of them is not told.
        """
        reader = _Reader(self.file)
        value = reader.read(self.root, inspect.type_info(kind), ())
        told = frozenset(p.path for p in reader.problems)
        found = [] if value is _BAD else [(path, what) for path, what in check(value, told) if path not in told]
        if problems := reader.problems + self.problems(found):
            raise Wrong(sorted(problems, key=lambda p: p.line))
        return value  # type: ignore[no-any-return]

    def problems(self, found: Iterable[tuple[Path, str]]) -> list[Problem]:
        """Findings with their lines, in the order of the file."""
        return sorted((Problem(self.file, self.line(p), p, what) for p, what in found), key=lambda p: p.line)

    def line(self, path: Path) -> int:
        """Where a field is; where its nearest ancestor is, for one that is not there."""
        node = self.root
        line = node.line
        for step in path:
            pair = next((p for p in _children(node) if p[0] == step), None)
            if pair is None:
                break
            _, key, node = pair
            line = key.line
        return line


@dataclass(slots=True)
class Node:
    """A value as it was written. A mapping's `value` is key, value, key, value, ...; `plain` is a scalar unquoted."""

    kind: Literal["scalar", "sequence", "mapping"]
    line: int
    value: Any
    plain: bool = False
    pairs: Any = None  # of a mapping, once asked for


def _compose(text: str, file: str) -> Node:
    """Without recursion: deep nesting must not fell the process."""
    import yaml  # costs more than the rest of the module

    root: Node | None = None
    anchors: dict[str, Node] = {}
    open_: list[Node] = []
    try:
        events: Any = yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        for event in events:
            line = event.start_mark.line + 1
            if isinstance(event, yaml.CollectionEndEvent):
                open_.pop()
                continue
            if not isinstance(event, yaml.NodeEvent):
                continue
            node = _node(event, line, anchors, file)
            if open_:
                open_[-1].value.append(node)
            elif root is not None:
                raise Wrong([Problem(file, line, (), "a second document; write one in a file, without `---` between")])
            else:
                root = node
            if isinstance(event, yaml.CollectionStartEvent):
                open_.append(node)
            if len(open_) > MOST_LEVELS:
                raise Wrong([Problem(file, line, (), f"nested more than {MOST_LEVELS} levels deep")])
    except yaml.MarkedYAMLError as e:
        raise Wrong([_unreadable(e, text, file)]) from e
    except yaml.reader.ReaderError as e:
        line = text.count("\n", 0, e.position) + 1
        raise Wrong([Problem(file, line, (), f"a character that YAML does not allow ({e.reason}); remove it")]) from e
    if root is None:
        raise Wrong([Problem(file, 0, (), "is empty")])
    return root


def _node(event: Any, line: int, anchors: dict[str, Node], file: str) -> Node:
    match type(event).__name__:
        case "AliasEvent":
            if event.anchor not in anchors:
                raise Wrong([Problem(file, line, (), f"alias *{event.anchor} has no anchor &{event.anchor} before it")])
            return anchors[event.anchor]
        case "ScalarEvent":
            node = Node("scalar", line, event.value, not event.style)
        case "SequenceStartEvent":
            node = Node("sequence", line, [])
        case _:
            node = Node("mapping", line, [])
    if event.anchor:
        anchors[event.anchor] = node
    return node


def _unreadable(e: Any, text: str, file: str) -> Problem:
    mark = e.problem_mark or e.context_mark
    lines = text.splitlines()
    if mark and mark.line < len(lines) and re.match(r"\s*\t", lines[mark.line]):
        what = "a tab; indent with spaces"
    else:
        what = f"not YAML: {', '.join(filter(None, (e.problem, e.context)))}"
    return Problem(file, mark.line + 1 if mark else 0, (), what)


def _children(node: Node) -> Iterable[tuple[str | int, Node, Node]]:
    """(step, node to point at, value) of a mapping or a sequence, merge keys resolved."""
    if node.kind == "mapping":
        yield from ((name, key, value) for name, (key, value) in _pairs(node)[0].items())
    elif node.kind == "sequence":
        yield from ((i, item, item) for i, item in enumerate(node.value))


def _pairs(node: Node, depth: int = 0) -> tuple[dict[str, tuple[Node, Node]], list[tuple[str, Node]]]:
    """A mapping's (key, value) nodes by name, `<<` resolved; and what is wrong with its keys."""
    if node.pairs is None:
        node.pairs = _merged(node, depth)
    return node.pairs  # type: ignore[no-any-return]


def _merged(node: Node, depth: int) -> tuple[dict[str, tuple[Node, Node]], list[tuple[str, Node]]]:
    own: dict[str, tuple[Node, Node]] = {}
    merged: dict[str, tuple[Node, Node]] = {}
    wrong: list[tuple[str, Node]] = []
    for key, value in zip(node.value[::2], node.value[1::2], strict=True):
        if key.kind != "scalar":
            wrong.append(("a key must be a name", key))
        elif key.value == "<<" and key.plain:
            for source in value.value if value.kind == "sequence" else [value]:
                if source.kind != "mapping" or depth > MOST_LEVELS:
                    wrong.append(("`<<` takes an alias of another mapping", key))
                else:
                    merged = _pairs(source, depth + 1)[0] | merged
        elif key.value in own:
            wrong.append((f"`{key.value}` is there twice (first in line {own[key.value][0].line})", key))
        else:
            own[key.value] = (key, value)
    return merged | own, wrong


class _Reader:
    """Collects problems instead of stopping at the first. `_BAD` stands for a value that has one; in a mapping, the
    field's default, or for a text without one what is written there."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.left = MOST_VALUES
        self.open: set[int] = set()

    def bad(self, node: Node, path: Path, what: str) -> object:
        self.problems.append(Problem(self.file, node.line, path, what))
        return _BAD

    def read(self, node: Node, kind: inspect.Type, path: Path) -> Any:
        self.left -= 1
        if self.left < 0:
            raise Wrong([Problem(self.file, 0, (), f"aliases make more than {MOST_VALUES:,} values of this file")])
        if isinstance(kind, inspect.UnionType):
            if _is_null(node):
                return None
            kind = _fitting(node, kind)
        if node.kind == "scalar":
            return self.scalar(node, kind, path)
        if id(node) in self.open:
            return self.bad(node, path, "an alias that contains itself")
        self.open.add(id(node))
        value = self.collection(node, _bare(kind), path)
        self.open.discard(id(node))
        return value

    def scalar(self, node: Node, kind: inspect.Type, path: Path) -> Any:
        try:
            return _SCALARS[type(_bare(kind))](node, _bare(kind))
        except (KeyError, OverflowError, ValueError) as e:
            wanted = str(e) if isinstance(e, _Expected) else expected(kind)
            what = "is empty" if _is_null(node) else _shown(node, text=isinstance(_bare(kind), inspect.StrType))
            return self.bad(node, path, f"{what}; expected {wanted}")

    def collection(self, node: Node, kind: inspect.Type, path: Path) -> Any:
        if isinstance(kind, inspect.AnyType):
            kind = inspect.DictType(inspect.StrType(), kind) if node.kind == "mapping" else inspect.ListType(kind)
        match node.kind, kind:
            case "mapping", inspect.StructType():
                return self.struct(node, kind, path)
            case "mapping", inspect.DictType():
                pairs = self.pairs(node, path)
                read = {name: self.read(n, kind.value_type, (*path, name)) for name, (_, n) in pairs.items()}
                return _BAD if _any_bad(read.values()) else read
            case "sequence", inspect.VarTupleType() | inspect.ListType() if len(node.value) >= (kind.min_length or 0):
                items = [self.read(n, kind.item_type, (*path, i)) for i, n in enumerate(node.value)]
                return _BAD if _any_bad(items) else tuple(items) if isinstance(kind, inspect.VarTupleType) else items
            case "sequence", inspect.TupleType() if len(node.value) == len(kind.item_types):
                each = zip(node.value, kind.item_types, strict=True)
                items = [self.read(n, t, (*path, i)) for i, (n, t) in enumerate(each)]
                return _BAD if _any_bad(items) else tuple(items)
        found = "a mapping" if node.kind == "mapping" else f"a list of {len(node.value)}"
        return self.bad(node, path, f"{found}; expected {expected(kind)}")

    def struct(self, node: Node, kind: inspect.StructType, path: Path) -> Any:
        pairs = self.pairs(node, path)
        fields = {f.encode_name: f for f in kind.fields}
        values: dict[str, Any] = {}
        for name, (key, value) in pairs.items():
            if name in fields:
                values[name] = self.read(value, fields[name].type, (*path, name))
            else:
                self.bad(key, (*path, name), f"unknown field; {_known(name, fields)}")
        for name, f in fields.items():
            if f.required and name not in values:
                values[name] = self.bad(node, (*path, name), f"is missing; expected {expected(f.type)}")
            if values.get(name) is _BAD and not f.required:
                del values[name]
            elif values.get(name) is _BAD and isinstance(_bare(f.type), inspect.StrType):
                values[name] = pairs[name][1].value if name in pairs and pairs[name][1].kind == "scalar" else ""
        return _BAD if _any_bad(values.values()) else kind.cls(**values)

    def pairs(self, node: Node, path: Path) -> dict[str, tuple[Node, Node]]:
        pairs, wrong = _pairs(node)
        for what, key in wrong:
            self.bad(key, (*path, key.value) if key.kind == "scalar" else path, what)
        return pairs


class _Expected(ValueError):
    """Says more than the type does about what was expected."""


def _any_bad(values: Iterable[Any]) -> bool:
    return any(v is _BAD for v in values)


def _is_null(node: Node) -> bool:
    return node.kind == "scalar" and node.plain and node.value in _NULL


def _shown(node: Node, text: bool) -> str:
    """What is written there; quotes make it text, which matters where no `text` is wanted."""
    short = node.value if len(node.value) <= 60 else node.value[:57] + "..."
    return repr(short) if node.plain or text else f'"{short}" is text'


def _text(node: Node, kind: inspect.StrType) -> str:
    text: str = node.value
    if _is_null(node) or (kind.pattern and not re.search(kind.pattern, text)):
        raise ValueError
    return text


def _choice(node: Node, kind: inspect.LiteralType) -> str:
    if node.value not in kind.values:
        raise ValueError
    return str(node.value)


def _bool(node: Node, _: inspect.Type) -> bool:
    if not node.plain or node.value not in _BOOL:
        raise ValueError
    return _BOOL[node.value]


def _number(node: Node, kind: inspect.IntType | inspect.FloatType) -> float:
    shape, make = (_INT, int) if isinstance(kind, inspect.IntType) else (_FLOAT, float)
    if not node.plain or not shape.fullmatch(node.value):
        raise ValueError
    value: float = make(node.value)
    low, high = kind.ge if kind.ge is not None else kind.gt, kind.le if kind.le is not None else kind.lt
    below = low is not None and (value < low or (value == low and kind.ge is None))
    above = high is not None and (value > high or (value == high and kind.le is None))
    if below or above or value in (float("inf"), float("-inf")):
        raise ValueError
    return value


def _time(node: Node, _: inspect.Type) -> datetime:
    text = node.value.strip()
    value = datetime.fromisoformat(text)
    if len(text) <= 10:
        return value.replace(tzinfo=UTC)
    if value.tzinfo is None:
        raise _Expected(f"a time zone with it ({text}Z is UTC)")
    return value.astimezone(UTC)


def _anything(node: Node, _: inspect.Type) -> Any:
    text = node.value
    if not node.plain:
        return text
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


_SCALARS: Mapping[type, Callable[[Any, Any], Any]] = {
    inspect.StrType: _text,
    inspect.LiteralType: _choice,
    inspect.BoolType: _bool,
    inspect.IntType: _number,
    inspect.FloatType: _number,
    inspect.DateTimeType: _time,
    inspect.AnyType: _anything,
}


def expected(kind: inspect.Type) -> str:
    """A type in words.

    >>> expected(inspect.type_info(float | None))
    'a number'
    """
    match kind:
        case inspect.Metadata():
            examples = (kind.extra_json_schema or {}).get("examples", ())
            return expected(kind.type) + (f" like {' or '.join(map(str, examples))}" if examples else "")
        case inspect.UnionType():
            return " or ".join(expected(t) for t in kind.types if not isinstance(t, inspect.NoneType))
        case inspect.LiteralType():
            return "one of " + ", ".join(map(str, kind.values))
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number" + _limits(kind)
        case inspect.FloatType():
            return "a number" + _limits(kind)
        case inspect.DateTimeType():
            return "a time, as 2026-03-01T06:00:00Z (2026-03-01 is its midnight, UTC)"
        case inspect.StrType():
            return "text"
        case inspect.TupleType():
            return f"a list of {len(kind.item_types)}: [{', '.join(expected(t) for t in kind.item_types)}]"
        case inspect.VarTupleType() | inspect.ListType():
            least = f" of at least {kind.min_length}" if kind.min_length else ""
            return f"a list{least}: each {expected(kind.item_type)}"
        case inspect.StructType():
            return "a mapping with " + ", ".join([f.encode_name for f in kind.fields if f.required] or ["its fields"])
    return "a mapping (`key: value`)"


def _limits(kind: inspect.IntType | inspect.FloatType) -> str:
    words = (("from", kind.ge), ("above", kind.gt), ("to", kind.le), ("below", kind.lt))
    said = [f" {word} {limit:g}" for word, limit in words if limit is not None]
    return "".join(said).replace(" from", " of at least") if len(said) == 1 else "".join(said)


def _bare(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def _fitting(node: Node, kind: inspect.UnionType) -> inspect.Type:
    """The type of a union that a node is of; where it is of none, the union as a whole says what was expected."""
    types = [t for t in kind.types if not isinstance(t, inspect.NoneType)]
    if len(types) == 1:
        return types[0]
    for one in types:
        with suppress(KeyError, ValueError):
            _SCALARS[type(_bare(one))](node, _bare(one))
            return one
    return kind


def _known(name: str, fields: Mapping[str, Any]) -> str:
    near = get_close_matches(name, fields, 1)
    return f"did you mean `{near[0]}`?" if near else f"known are {', '.join(fields)}"
