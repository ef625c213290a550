"""Mutants of the modules that decide: small changes of the code that some test should notice.

python -m bench.mutants [MODULE ...] [--survivors] [--sample N]: the score of each module (default: all four).

Every test is run once, with the lines noted that it reaches. Each mutant is then put into a child of this process, in
place of the function or constant that it changes, and meets the tests that reach its line, quick ones first, until one
fails or its time is over. Declarations (types, fields of structs and their defaults), docstrings and the words in
f-strings are left as they are.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from types import FrameType, ModuleType
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
MODULES = ("lifecycle", "approval", "rollout", "policy")
TESTED = (*MODULES, "asking", "forecast", "rebuild", "steps", "windows_held")
TESTS = (
    *(f"triggers/{name}.py" for name in MODULES),
    *(f"tests/triggers/test_{name}.py" for name in TESTED),
)
PATIENCE_S = 20.0
"""Given to a mutant beyond five times what its tests took."""


class Mutant(NamedTuple):
    """One change: of which statement at the top of which module, at which line, in words, and how it then reads."""

    module: str
    line: int
    what: str
    statement: ast.stmt


Change = tuple[str, Callable[[], ast.AST]]

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_COUNTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


def _operators(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Compare(ops=[op, *_]):
            yield "comparison", lambda: _with(node, ops=[_COMPARED[type(op)](), *node.ops[1:]])
        case ast.BoolOp(op=op):
            yield "and/or", lambda: _with(node, op=ast.And() if isinstance(op, ast.Or) else ast.Or())
            for n in range(len(node.values)):
                rest = node.values[:n] + node.values[n + 1 :]
                yield f"without its part {n + 1}", lambda r=rest: r[0] if len(r) == 1 else _with(node, values=r)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield "without not or minus", lambda: node.operand
        case ast.BinOp(op=op) if type(op) in _COUNTED:
            yield "operator", lambda: _with(node, op=_COUNTED[type(op)]())


def _values(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Constant(value=bool(value)):
            yield "true/false", lambda: ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield "number", lambda: ast.Constant(value + 1)
        case ast.Constant(value=str(value)):
            yield "text", lambda: ast.Constant(f"XX{value}")
        case ast.Tuple(elts=elts, ctx=ast.Load()) | ast.List(elts=elts, ctx=ast.Load()) | ast.Set(elts=elts):
            for n in range(len(elts) if len(elts) > 1 else 0):
                yield f"without element {n + 1}", lambda n=n: _with(node, elts=elts[:n] + elts[n + 1 :])
        case ast.Dict(keys=keys, values=values):
            for n in range(len(keys)):
                yield (
                    f"without entry {n + 1}",
                    lambda n=n: _with(node, keys=keys[:n] + keys[n + 1 :], values=values[:n] + values[n + 1 :]),
                )
        case ast.Call(keywords=keywords):
            for n, keyword in enumerate(keywords):
                yield f"without {keyword.arg}=", lambda n=n: _with(node, keywords=keywords[:n] + keywords[n + 1 :])


def _statements(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test) if not isinstance(test, ast.Compare):
            yield "condition", lambda: _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.comprehension(ifs=[_, *_]):
            yield "without its condition", lambda: _with(node, ifs=[])
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "returns None", lambda: _with(node, value=ast.Constant(None))
        case ast.Assign() | ast.AugAssign():
            yield (
                "assigns None",
                lambda: ast.Assign(node.targets if isinstance(node, ast.Assign) else [node.target], ast.Constant(None)),
            )
        case ast.Expr(value=ast.Call()) | ast.Raise():
            yield "does nothing", ast.Pass
        case ast.Continue():
            yield "break", ast.Break


def _with(node: Any, **changes: Any) -> Any:
    return type(node)(**{**{f: getattr(node, f) for f in node._fields}, **changes})


def mutants(module: str) -> list[Mutant]:
    """Every one of a module of triggers/."""
    tree = ast.parse((ROOT / "triggers" / f"{module}.py").read_text())
    return [
        Mutant(module, line, what, made)
        for statement in tree.body
        if not _declares(statement)
        for line, what, made in _of(statement)
    ]


def _declares(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.Expr):
        return True
    return isinstance(statement, ast.Assign) and "Literal[" in ast.unparse(statement)


def _of(statement: ast.stmt) -> Iterator[tuple[int, str, ast.stmt]]:
    for path, node in _walk(statement, ()):
        for what, change in (*_operators(node), *_values(node), *_statements(node)):
            made = copy.deepcopy(statement)
            place = made
            for name, n in path[:-1]:
                place = getattr(place, name) if n is None else getattr(place, name)[n]
            if not path:
                continue
            (name, n), new = path[-1], ast.copy_location(change(), node)
            if n is None:
                setattr(place, name, new)
            else:
                getattr(place, name)[n] = new
            yield getattr(node, "lineno", statement.lineno), f"{what}: {_short(node)}", ast.fix_missing_locations(made)


def _short(node: ast.AST) -> str:
    text = ast.unparse(node).splitlines()[0]
    return text if len(text) < 90 else f"{text[:87]}..."


_LEFT = ("annotation", "returns", "decorator_list", "bases", "type_params", "op", "ops", "ctx")
Path_ = tuple[tuple[str, int | None], ...]


def _walk(node: ast.AST, path: Path_) -> Iterator[tuple[Path_, ast.AST]]:
    yield path, node
    if isinstance(node, ast.JoinedStr):
        return
    for name, value in ast.iter_fields(node):
        if name in _LEFT or (name == "slice" and isinstance(value, ast.Constant)):
            continue
        children = value if isinstance(value, list) else [value]
        for n, child in enumerate(children):
            if isinstance(child, ast.AST) and not _left(node, child):
                yield from _walk(child, (*path, (name, n if isinstance(value, list) else None)))


def _left(parent: ast.AST, child: ast.AST) -> bool:
    """Docstrings, and fields of classes."""
    if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
        return True
    return isinstance(parent, ast.ClassDef) and not isinstance(child, ast.FunctionDef)


# --- into the running process


def install(mutant: Mutant) -> None:
    """Change the module as it is loaded: its functions keep who they are, so that who imported them has the mutant."""
    live = importlib.import_module(f"triggers.{mutant.module}")
    names = dict(vars(live))
    code = compile(ast.Module([mutant.statement], []), str(live.__file__), "exec", flags=_ANNOTATIONS)
    exec(code, names)
    match mutant.statement:
        case ast.FunctionDef(name=name):
            _replace(getattr(live, name), names[name])
        case ast.ClassDef(name=name):
            for method in (s.name for s in mutant.statement.body if isinstance(s, ast.FunctionDef)):
                _replace(vars(getattr(live, name))[method], vars(names[name])[method])
        case _:
            for name in [n for n in names if names[n] is not vars(live).get(n) and n != "__builtins__"]:
                _rename(vars(live)[name], names[name], name)


_ANNOTATIONS = 0x1000000  # from __future__ import annotations


def _replace(old: Any, new: Any) -> None:
    while hasattr(old, "__wrapped__"):
        old.cache_clear() if hasattr(old, "cache_clear") else None
        old, new = old.__wrapped__, new.__wrapped__
    old, new = getattr(old, "fget", old), getattr(new, "fget", new)
    old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__


def _rename(old: object, new: object, name: str) -> None:
    for module in [m for m in sys.modules.values() if isinstance(m, ModuleType)]:
        if vars(module).get(name) is old:
            setattr(module, name, new)


# --- the tests


class Trial:
    """A pytest plugin that runs the tests once, and then again for each mutant."""

    def __init__(self, wanted: list[Mutant], patience_s: float) -> None:
        self.wanted, self.patience_s = wanted, patience_s
        self.reach: dict[tuple[str, int], list[pytest.Item]] = {}
        self.took: dict[str, float] = {}
        self.survived: list[Mutant] = []
        self.killed: list[Mutant] = []
        self.failed: list[str] = []

    def pytest_sessionstart(self) -> None:
        from hypothesis import HealthCheck, settings

        patient = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
        settings.register_profile("mutants", patient)  # to be traced is slow, and no failure
        settings.load_profile("mutants")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for item in session.items:
            self._first(item)
        if self.failed:
            raise SystemExit(f"these fail without a mutant: {', '.join(self.failed)}")
        for n, mutant in enumerate(self.wanted):
            (self.killed if self._dies(mutant) else self.survived).append(mutant)
            if (n + 1) % 50 == 0:
                print(f"  {n + 1} of {len(self.wanted)}, {len(self.survived)} survive", file=sys.stderr, flush=True)
        return True

    def _first(self, item: pytest.Item) -> None:
        files = {str(ROOT / "triggers" / f"{m}.py"): m for m in MODULES}
        reached: set[tuple[str, int]] = set()

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            module = files.get(frame.f_code.co_filename)
            if module is None:
                return None
            reached.add((module, frame.f_lineno))
            return trace

        begun = time.process_time()
        sys.settrace(trace)
        try:
            _run(item)
        finally:
            sys.settrace(None)
        self.took[item.nodeid] = time.process_time() - begun
        for place in reached:
            self.reach.setdefault(place, []).append(item)

    def _dies(self, mutant: Mutant) -> bool:
        items = sorted(self._reaching(mutant), key=lambda item: self.took[item.nodeid])
        if not items:
            return False
        done, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._child(mutant, items, told)
        os.close(told)
        patience = self.patience_s + 5 * sum(self.took[item.nodeid] for item in items)
        said = select.select([done], [], [], patience)[0] and os.read(done, 1)
        os.close(done)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return said != b"s"

    def _reaching(self, mutant: Mutant) -> list[pytest.Item]:
        """By its line; what is built when the module is loaded is reached by every test of it."""
        if not isinstance(mutant.statement, ast.FunctionDef | ast.ClassDef):
            lines = [place for place in self.reach if place[0] == mutant.module]
            return list({item.nodeid: item for place in lines for item in self.reach[place]}.values())
        first, last = mutant.line, mutant.line
        while first > mutant.statement.lineno and (mutant.module, first) not in self.reach:
            first -= 1  # a line within an expression that began above
        return self.reach.get((mutant.module, first), []) or self.reach.get((mutant.module, last), [])

    def _child(self, mutant: Mutant, items: list[pytest.Item], told: int) -> None:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        items[0].config.pluginmanager.unregister(name="terminalreporter")
        verdict = b"s"
        try:
            install(mutant)
            for item in items:
                _run(item)
                if self.failed:
                    verdict = b"k"
                    break
        except BaseException:  # noqa: BLE001 - whatever it does, it was noticed
            verdict = b"k"
        os.write(told, verdict)
        os._exit(0)


def _run(item: pytest.Item) -> None:
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", default=MODULES, help=", ".join(MODULES))
    parser.add_argument("--survivors", action="store_true", help="print those that no test notices")
    parser.add_argument("--sample", type=int, default=0, help="so many of each module, chosen by chance, the same ones")
    said = parser.parse_args(arguments)
    wanted = []
    for module in said.modules:
        made = mutants(module)
        wanted += Random(1).sample(made, min(said.sample, len(made))) if said.sample else made
    trial = Trial(wanted, PATIENCE_S)
    there = [test for test in TESTS if (ROOT / test).exists()]
    quiet = ["-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-m", "not wire and not nightly"]
    begun = time.monotonic()
    status = pytest.main([*quiet, "--rootdir", str(ROOT), *there], plugins=[trial])
    if status not in (0, pytest.ExitCode.NO_TESTS_COLLECTED) or len(trial.took) == 0:
        return 2
    for module in said.modules:
        killed, survived = (sum(m.module == module for m in part) for part in (trial.killed, trial.survived))
        share = killed / (killed + survived)
        print(f"  {module:10s} {killed:5d} of {killed + survived:5d} killed: {share:6.1%} (asked: 90%)")
    print(f"  {time.monotonic() - begun:.0f} s, {len(trial.took)} tests")
    if said.survivors:
        for mutant in trial.survived:
            print(f"  triggers/{mutant.module}.py:{mutant.line}: {mutant.what}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
