"""Enough of Bicep to run our templates without its compiler: from parameters to the resources they would make.

What only Azure knows (a principal's id, an endpoint) is a text in angle brackets. A name that is not defined, a
module's parameter that is missing or unknown, an output that is not there, a value that is not allowed: each is an
error, as the compiler's would be. Types of properties are not known here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

TOKEN = re.compile(
    r"""(?P<space>[ \t]+|//[^\n]*|/\*.*?\*/)|(?P<long>'''.*?''')|(?P<text>')|(?P<number>\d+)|(?P<name>[A-Za-z_]\w*)
    |(?P<line>\n[\s]*)|(?P<mark>=>|==|!=|<=|>=|&&|\|\||\?\?|\.\?|::|[-+*/%<>=!?:.,(){}\[\]@])""",
    re.VERBOSE | re.DOTALL,
)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "'": "'", "\\": "\\", "$": "$"}


class BicepError(Exception):
    """What a template says wrong, and where."""


@dataclass(frozen=True)
class Token:
    kind: str
    text: Any
    line: int


def tokens(source: str, file: str) -> list[Token]:
    found, at, line = [], 0, 1
    while at < len(source):
        hit = TOKEN.match(source, at)
        if hit is None:
            raise BicepError(f"{file}:{line}: {source[at : at + 20]!r}")
        kind, text = str(hit.lastgroup), hit[0]
        if kind == "text":
            parts, end = _text(source, hit.end(), file, line)
            found.append(Token("text", parts, line))
            at = end
            continue
        if kind == "long":
            found.append(Token("text", [text[3:-3].removeprefix("\n")], line))
        elif kind != "space":
            found.append(Token(kind, int(text) if kind == "number" else text, line))
        line += text.count("\n")
        at = hit.end()
    return [*found, Token("line", "\n", line), Token("end", "", line)]


def _text(source: str, at: int, file: str, line: int) -> tuple[list[Any], int]:
    """The parts of a string: texts, and tokens of what is put between."""
    parts: list[Any] = [""]
    while at < len(source):
        c = source[at]
        if c == "'":
            return parts, at + 1
        if c == "\n":
            break
        if c == "\\":
            parts[-1] += ESCAPES[source[at + 1]]
            at += 2
        elif source.startswith("${", at):
            end = _closing(source, at + 2)
            parts += [tokens(source[at + 2 : end], file), ""]
            at = end + 1
        else:
            parts[-1] += c
            at += 1
    raise BicepError(f"{file}:{line}: a string does not end")


def _closing(source: str, at: int) -> int:
    depth, quoted = 1, False
    while depth:
        c = source[at]
        if c == "'":
            quoted = not quoted
        elif not quoted:
            depth += (c == "{") - (c == "}")
        at += 1
    return at - 1


@dataclass
class Statement:
    kind: str
    name: str
    line: int
    type: str = ""
    value: Any = None
    existing: bool = False
    decorators: list[Any] = field(default_factory=list)


class Parser:
    """Expressions become tuples: (what, parts...)."""

    def __init__(self, found: list[Token], file: str) -> None:
        self.found, self.file, self.at = found, file, 0

    def fail(self, what: str) -> BicepError:
        return BicepError(f"{self.file}:{self.peek.line}: {what}, at {self.peek.text!r}")

    @property
    def peek(self) -> Token:
        return self.found[self.at]

    def take(self, kind: str, text: str = "") -> Token:
        if self.peek.kind != kind or (text and self.peek.text != text):
            raise self.fail(f"expected {text or kind}")
        self.at += 1
        return self.found[self.at - 1]

    def maybe(self, text: str) -> bool:
        if self.peek.kind in ("mark", "name") and self.peek.text == text:
            self.at += 1
            return True
        return False

    def lines(self) -> None:
        while self.peek.kind == "line":
            self.at += 1

    def statements(self) -> Iterator[Statement]:
        self.lines()
        while self.peek.kind != "end":
            decorators = []
            while self.maybe("@"):
                decorators.append(self.expression())
                self.lines()
            made = self.statement()
            made.decorators = decorators
            yield made
            if self.peek.kind not in ("line", "end"):
                raise self.fail("expected the end of the line")
            self.lines()

    def statement(self) -> Statement:
        line, kind = self.peek.line, self.take("name").text
        if kind in ("targetScope", "using"):
            if kind == "targetScope":
                self.take("mark", "=")
            return Statement(kind, kind, line, value=self.expression())
        made = Statement(kind, self.take("name").text, line)
        if kind in ("param", "output") and not (self.peek.kind == "mark" and self.peek.text == "="):
            made.type = self.type()
        if kind in ("resource", "module"):
            made.type = self.take("text").text[0]
            made.existing = self.maybe("existing")
        if kind not in ("param", "var", "resource", "module", "output"):
            raise self.fail(f"no statement begins with {kind}")
        if kind != "param" or (self.peek.kind == "mark" and self.peek.text == "="):
            self.take("mark", "=")
            made.value = self.expression()
        return made

    def type(self) -> str:
        text = self.take("name").text
        while self.peek.kind == "mark" and self.peek.text in ("[", "]", "?"):
            text += self.take("mark").text
        return str(text)

    def expression(self) -> Any:
        if self.peek.kind == "name" and self.peek.text == "if" and self.found[self.at + 1].text == "(":
            self.at += 1
            self.take("mark", "(")
            condition = self.expression()
            self.take("mark", ")")
            return ("when", condition, self.expression())
        found = self.binary(0)
        if self.maybe("?"):
            self.lines()
            yes = self.expression()
            self.lines()
            self.take("mark", ":")
            self.lines()
            return ("if", found, yes, self.expression())
        return found

    LEVELS = (("??",), ("||",), ("&&",), ("==", "!="), ("<", ">", "<=", ">="), ("+", "-"), ("*", "/", "%"))

    def binary(self, level: int) -> Any:
        if level == len(self.LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while self.peek.kind == "mark" and self.peek.text in self.LEVELS[level]:
            sign = self.take("mark").text
            self.lines()
            left = ("binary", sign, left, self.binary(level + 1))
        return left

    def unary(self) -> Any:
        if self.maybe("!"):
            return ("not", self.unary())
        if self.maybe("-"):
            return ("minus", self.unary())
        return self.postfix(self.primary())

    def postfix(self, found: Any) -> Any:
        while self.peek.kind == "mark":
            if self.maybe(".") or self.maybe(".?"):
                safe = self.found[self.at - 1].text == ".?"
                name = self.take("name").text
                if self.peek.text == "(" and self.peek.kind == "mark":
                    raise self.fail(f"no namespace is known: {name}")
                found = ("get", found, ("text", [name]), safe)
            elif self.peek.text == "[":
                self.at += 1
                safe = self.maybe("?")
                found = ("get", found, self.expression(), safe)
                self.take("mark", "]")
            elif self.maybe("!"):
                continue
            else:
                break
        return found

    def primary(self) -> Any:
        token = self.peek
        self.at += 1
        if token.kind == "number":
            return ("value", token.text)
        if token.kind == "text":
            return ("text", [p if isinstance(p, str) else Parser(p, self.file).expression() for p in token.text])
        if token.kind == "name":
            return self.named(token)
        if token.text == "(":
            found = self.expression()
            self.take("mark", ")")
            return found
        if token.text == "{":
            return self.mapping()
        if token.text == "[":
            return self.sequence()
        self.at -= 1
        raise self.fail("expected a value")

    def named(self, token: Token) -> Any:
        if token.text in ("true", "false", "null"):
            return ("value", {"true": True, "false": False, "null": None}[token.text])
        if self.maybe("=>"):
            return ("lambda", [token.text], self.expression())
        if self.peek.kind == "mark" and self.peek.text == "(":
            self.at += 1
            given = []
            self.lines()
            while not self.maybe(")"):
                given.append(self.expression())
                self.lines()
                if self.maybe(","):
                    self.lines()
            return ("call", token.text, given, token.line)
        return ("name", token.text, token.line)

    def mapping(self) -> Any:
        pairs = []
        self.lines()
        while not self.maybe("}"):
            key = self.primary()
            self.take("mark", ":")
            self.lines()
            pairs.append((("text", [key[1]]) if key[0] == "name" else key, self.expression()))
            self.maybe(",")
            self.lines()
        return ("map", pairs)

    def sequence(self) -> Any:
        self.lines()
        if self.peek.kind == "name" and self.peek.text == "for":
            self.at += 1
            names = [self.take("name").text] if self.peek.kind == "name" else self._pair()
            self.take("name", "in")
            over = self.expression()
            self.take("mark", ":")
            body = self.expression()
            self.lines()
            self.take("mark", "]")
            return ("for", names, over, body)
        values = []
        while not self.maybe("]"):
            values.append(self.expression())
            self.maybe(",")
            self.lines()
        return ("list", values)

    def _pair(self) -> list[str]:
        self.take("mark", "(")
        first = self.take("name").text
        self.take("mark", ",")
        second = self.take("name").text
        self.take("mark", ")")
        return [first, second]


@dataclass(frozen=True)
class Resource:
    """One that a template would make, or points at (`existing`)."""

    type: str
    api: str
    body: Mapping[str, Any]
    existing: bool
    file: str
    scope: str

    @property
    def name(self) -> str:
        parent = self.body.get("parent")
        own = str(self.body.get("name"))
        return f"{parent.name}/{own}" if isinstance(parent, Resource) else own

    @property
    def id(self) -> str:
        """With the group that it is in."""
        if self.type == "Microsoft.Resources/resourceGroups":
            return f"/subscriptions/<subscription>/resourceGroups/{self.name}"
        on = self.body.get("scope")
        base = on.id if isinstance(on, Resource) else f"<{on}>" if on else self.scope
        return f"{base}/providers/{self.type}/{self.name}"

    def get(self, name: str) -> Any:
        if name in ("id", "name"):
            return getattr(self, name)
        if name in ("type", "apiVersion"):
            return self.type if name == "type" else self.api
        found = self.body.get(name)
        return found if found is not None and name in ("location", "sku", "tags") else Later(f"<{self.name}.{name}>")


class Later(str):
    """What only Azure knows."""

    def get(self, name: str) -> Any:
        return Later(f"{self.removesuffix('>')}.{name}>")


class Module(dict[str, Any]):
    """What a module gave; one that was not deployed gives nothing that may be used."""


@cache
def _statements(path: Path) -> list[Statement]:
    return list(Parser(tokens(path.read_text("utf-8"), path.name), path.name).statements())


SCOPE = "/subscriptions/<subscription>/resourceGroups/<group>"
MODULE_KEYS = {"name", "scope", "params", "dependsOn"}


class Template:
    """One file, read; `run` gives its resources and those of its modules, and its outputs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.statements = _statements(path)
        self.names: dict[str, Statement] = {}
        for s in self.statements:
            if s.kind not in ("output", "targetScope", "using"):
                if s.name in self.names:
                    raise BicepError(f"{path.name}:{s.line}: {s.name} is defined twice")
                self.names[s.name] = s

    def of(self, kind: str) -> dict[str, Statement]:
        return {s.name: s for s in self.statements if s.kind == kind}

    def unused(self) -> set[str]:
        """Parameters, variables and existing resources that nothing mentions."""
        used = {name for s in self.statements for name in mentioned([s.value, s.decorators])}
        return {n for n, s in self.names.items() if (s.kind in ("param", "var") or s.existing)} - used

    def run(self, given: Mapping[str, Any], scope: str = SCOPE) -> tuple[list[Resource], dict[str, Any]]:
        return Run(self, given, scope).done()


def mentioned(part: Any) -> Iterator[str]:
    """Names that an expression speaks of."""
    if isinstance(part, tuple) and part and part[0] == "name":
        yield part[1]
    elif isinstance(part, tuple | list):
        for inner in part:
            yield from mentioned(inner)


class Run:
    """One file with its parameters."""

    def __init__(self, template: Template, given: Mapping[str, Any], scope: str) -> None:
        self.template, self.scope = template, scope
        self.known: dict[str, Any] = {}
        self.resources: list[Resource] = []
        declared = template.of("param")
        if strange := set(given) - set(declared):
            raise BicepError(f"{template.path.name}: no parameter {', '.join(sorted(strange))}")
        for name, s in declared.items():
            if name not in given and s.value is None:
                raise BicepError(f"{template.path.name}: parameter {name} is missing")
            value = given[name] if name in given else self.value(s.value)
            self._allowed(s, value)
            self.known[name] = value

    def _allowed(self, s: Statement, value: Any) -> None:
        kinds = {"string": str, "bool": bool, "int": int, "object": dict, "array": list, "string[]": list}
        where = f"{self.template.path.name}:{s.line}: {s.name}"
        if s.type not in kinds:
            raise BicepError(f"{where}: of an unknown type {s.type}")
        if not isinstance(value, kinds[s.type]):
            raise BicepError(f"{where} is {value!r}, not of type {s.type}")
        for d in s.decorators:
            if d[0] == "call" and d[1] == "allowed" and value not in self.value(d[2][0]):
                raise BicepError(f"{where} may not be {value!r}")

    def done(self) -> tuple[list[Resource], dict[str, Any]]:
        for s in self.template.statements:
            if s.kind in ("resource", "module", "var"):
                self.named(s.name, s.line)
        return self.resources, {s.name: self.value(s.value) for s in self.template.statements if s.kind == "output"}

    def named(self, name: str, line: int) -> Any:
        if name not in self.known:
            s = self.template.names.get(name)
            if s is None:
                raise BicepError(f"{self.template.path.name}:{line}: {name} is not defined")
            self.known[name] = self._made(s) if s.kind in ("resource", "module") else self.value(s.value)
        return self.known[name]

    def _made(self, s: Statement, local: Mapping[str, Any] | None = None, value: Any = None) -> Any:
        value = s.value if value is None else value
        if value[0] == "for":
            return [self._made(s, scope, value[3]) for scope in self._turns(value, local or {})]
        if value[0] == "when":
            return self._made(s, local, value[2]) if self.value(value[1], local) else Module()
        body = self.value(value, local)
        if s.kind == "module":
            return self._module(s, body)
        type_, _, api = s.type.partition("@")
        made = Resource(type_, api, body, s.existing, self.template.path.name, str(self.scope))
        self.resources.append(made)
        return made

    def _module(self, s: Statement, body: Mapping[str, Any]) -> Module:
        if strange := set(body) - MODULE_KEYS:
            raise BicepError(f"{self.template.path.name}:{s.line}: {s.name}: {strange}")
        inner = Template((self.template.path.parent / s.type).resolve())
        scope = body.get("scope")
        try:
            resources, outputs = inner.run(body.get("params", {}), str(scope.get("id")) if scope else str(self.scope))
        except BicepError as error:
            raise BicepError(f"{self.template.path.name}:{s.line}: {error}") from error
        self.resources += resources
        return Module(outputs=outputs, name=body["name"])

    def _turns(self, loop: Any, local: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        _, names, over, _ = loop
        for i, item in enumerate(self.value(over, local)):
            yield {**local, **dict(zip(names, (item, i), strict=False))}

    def value(self, e: Any, local: Mapping[str, Any] | None = None) -> Any:
        return getattr(self, f"_{e[0]}")(e, local or {})

    def _value(self, e: Any, _: Mapping[str, Any]) -> Any:
        return e[1]

    def _text(self, e: Any, local: Mapping[str, Any]) -> Any:
        parts = [p if isinstance(p, str) else self.value(p, local) for p in e[1]]
        return "".join(str(p).lower() if isinstance(p, bool) else str(p) for p in parts)

    def _name(self, e: Any, local: Mapping[str, Any]) -> Any:
        return local[e[1]] if e[1] in local else self.named(e[1], e[2])

    def _map(self, e: Any, local: Mapping[str, Any]) -> Any:
        made: dict[str, Any] = {}
        for key, value in e[1]:
            name = self.value(key, local)
            if name in made:
                raise BicepError(f"{self.template.path.name}: {name} is said twice in an object")
            made[name] = self.value(value, local)
        return made

    def _list(self, e: Any, local: Mapping[str, Any]) -> Any:
        return [self.value(v, local) for v in e[1]]

    def _for(self, e: Any, local: Mapping[str, Any]) -> Any:
        return [self.value(e[3], scope) for scope in self._turns(e, local)]

    def _if(self, e: Any, local: Mapping[str, Any]) -> Any:
        return self.value(e[2] if self.value(e[1], local) else e[3], local)

    def _not(self, e: Any, local: Mapping[str, Any]) -> Any:
        return not self.value(e[1], local)

    def _minus(self, e: Any, local: Mapping[str, Any]) -> Any:
        return -self.value(e[1], local)

    def _lambda(self, e: Any, local: Mapping[str, Any]) -> Any:
        return lambda *given: self.value(e[2], {**local, **dict(zip(e[1], given, strict=True))})

    def _get(self, e: Any, local: Mapping[str, Any]) -> Any:
        of, name = self.value(e[1], local), self.value(e[2], local)
        if isinstance(of, Resource | Later):
            return of.get(name)
        try:
            return of[name]
        except (KeyError, IndexError, TypeError) as error:
            if e[3] and of is not None:
                return None
            raise BicepError(f"{self.template.path.name}: no {name!r} in {str(of)[:120]}") from error

    def _binary(self, e: Any, local: Mapping[str, Any]) -> Any:
        sign, left = e[1], self.value(e[2], local)
        if sign in ("&&", "||", "??"):
            stop = {"&&": not left, "||": bool(left), "??": left is not None}[sign]
            return left if stop else self.value(e[3], local)
        return OPERATORS[sign](left, self.value(e[3], local))

    def _call(self, e: Any, local: Mapping[str, Any]) -> Any:
        name = e[1]
        if name in ("loadJsonContent", "loadTextContent"):
            text = (self.template.path.parent / self.value(e[2][0], local)).read_text("utf-8")
            return json.loads(text) if name == "loadJsonContent" else text
        if name == "resourceGroup":
            given = [self.value(v, local) for v in e[2]]
            ids = {1: ["<subscription>", *given], 2: given}.get(len(given))
            place = f"/subscriptions/{ids[0]}/resourceGroups/{ids[1]}" if ids else self.scope
            return {"id": place, "name": place.rpartition("/")[2], "location": "<location>"}
        if name not in FUNCTIONS:
            raise BicepError(f"{self.template.path.name}:{e[3]}: no function {name}")
        return FUNCTIONS[name](*(self.value(v, local) for v in e[2]))


OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def _digest(*words: Any) -> str:
    return hashlib.sha256("\0".join(map(str, words)).encode()).hexdigest()


def _union(*given: Any) -> Any:
    if isinstance(given[0], list):
        return [
            v for i, v in enumerate(w for part in given for w in part) if v not in [w for p in given for w in p][:i]
        ]
    return {k: v for part in given for k, v in part.items()}


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "uniqueString": lambda *words: _digest(*words)[:13],
    "guid": lambda *words: _digest(*words)[:32],
    "toLower": lambda text: text.lower(),
    "take": lambda text, n: text[:n],
    "replace": lambda text, old, new: text.replace(old, new),
    "split": lambda text, by: text.split(by),
    "join": lambda parts, by: by.join(parts),
    "last": lambda parts: parts[-1],
    "first": lambda parts: parts[0],
    "union": _union,
    "concat": lambda *parts: [v for part in parts for v in part],
    "contains": lambda where, what: what in where,
    "empty": lambda what: not what,
    "length": len,
    "items": lambda of: [{"key": k, "value": v} for k, v in sorted(of.items())],
    "map": lambda values, f: [f(v) for v in values],
    "filter": lambda values, f: [v for v in values if f(v)],
    "flatten": lambda parts: [v for part in parts for v in part],
    "toObject": lambda values, key, value: {key(v): value(v) for v in values},
    "string": lambda value: json.dumps(value) if isinstance(value, dict | list) else str(value),
    "base64": lambda text: f"<base64 of {text}>",
    "subscription": lambda: {"id": "/subscriptions/<subscription>", "subscriptionId": "<subscription>"},
    "tenant": lambda: {"tenantId": "<tenant>"},
    "environment": lambda: {"suffixes": {"storage": "core.windows.net"}, "resourceManager": "<arm>"},
    "subscriptionResourceId": lambda type_, name: f"/subscriptions/<subscription>/providers/{type_}/{name}",
    "readEnvironmentVariable": lambda name, default="": default,
}


def parameters(path: Path) -> tuple[Template, dict[str, Any]]:
    """A .bicepparam: the template that it is for, and what it gives."""
    file = Template(path)
    [using] = file.of("using").values()
    made = Run.__new__(Run)
    made.template, made.scope, made.known = file, SCOPE, {}
    given = {name: made.value(s.value) for name, s in file.of("param").items()}
    return Template((path.parent / made.value(using.value)).resolve()), given
