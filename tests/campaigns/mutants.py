"""A file's mutants: the same text with one expression or statement changed.

What is changed: comparisons, calculations, `and` and `or`, conditions, numbers, truths,
strings, `min` and `max`, `any` and `all`; what is returned becomes None; a call or a raise
that is a statement of its own is left out; `continue` and `break`, `+=` and `-=` change
places. What a `raise` says is left alone, and so are f-strings, docstrings and assertions.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

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
_CALCULATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
}
_CALLED = {"min": "max", "max": "min", "any": "all", "all": "any"}
# What these say is for readers and type checkers.
_NOT_RUN = {"annotation", "returns", "decorator_list"}


@dataclass(frozen=True)
class Place:
    """The statement that something is part of: what must run for that to matter."""

    first: int
    last: int
    # Not empty where it runs on import: the names that it gives a meaning.
    names: frozenset[str] = frozenset()
    # The function that all of it is inside of, as Python names it; and its first line.
    function: str = ""
    function_line: int = 0
    # A message: what it says is nobody's promise.
    said: bool = False


@dataclass(frozen=True)
class Mutant:
    """One file with one thing changed."""

    path: str
    line: int
    column: int
    before: str
    after: str
    source: str = field(repr=False)
    place: Place = field(repr=False)

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def words(self) -> set[str]:
        """The words of its statement."""
        lines = self.source.splitlines()[self.place.first - 1 : self.place.last]
        return words_of(" ".join([self.before, *lines]))

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.before}  ->  {self.after}"


def words_of(text: str) -> set[str]:
    return set(re.findall("[a-z]{4,}", text.lower()))


def mutants(path: str, source: str) -> Iterator[Mutant]:
    """Every mutant of a file, in the order of its lines."""
    starts = [0]
    for text in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(text.encode()))
    raw = source.encode()
    for node, place in _places(ast.parse(source), Place(0, 0)):
        for old, changed in chain(((node, new) for new in _changes(node, place)), _negated(node)):
            assert old.end_lineno is not None and old.end_col_offset is not None
            start = starts[old.lineno - 1] + old.col_offset
            end = starts[old.end_lineno - 1] + old.end_col_offset
            after = ast.unparse(changed)
            put = f"({after})" if isinstance(changed, ast.expr) else after
            yield Mutant(
                path,
                old.lineno,
                old.col_offset,
                " ".join(raw[start:end].decode().split()),
                after,
                (raw[:start] + put.encode() + raw[end:]).decode(),
                place,
            )


def _places(
    tree: ast.AST, place: Place, *, scope: str = ""
) -> Iterator[tuple[ast.expr | ast.stmt, Place]]:
    """All statements and expressions that are run, each with its place."""
    for name, value in ast.iter_fields(tree):
        if name in _NOT_RUN:
            continue
        for child in value if isinstance(value, list) else [value]:
            # Asserts pair with what is checked elsewhere; places in f-strings are not
            # where they seem to be before Python 3.12.
            if not isinstance(child, ast.AST) or isinstance(child, ast.Assert | ast.JoinedStr):
                continue
            if _is_talk(child):
                continue
            inside, there = scope, place
            match child:
                case ast.FunctionDef() if not place.function:
                    # Its header runs on import, but shows when the function is called.
                    last = child.end_lineno or child.lineno
                    yield from _places(child.args, Place(child.body[0].lineno, last))
                    first = min((d.lineno for d in child.decorator_list), default=child.lineno)
                    there = Place(child.lineno, last, frozenset(), f"{scope}{child.name}", first)
                    body = ast.Module(child.body, [])
                    yield from _places(body, there)
                    continue
                case ast.ClassDef():
                    inside = f"{scope}{child.name}."
                    there = _place(child, place)
                case ast.stmt() | ast.ExceptHandler() | ast.match_case():
                    there = _place(child, place)
                case _:
                    pass
            if isinstance(child, ast.expr | ast.stmt):
                yield child, there
            yield from _places(child, there, scope=inside)


def _is_talk(node: ast.AST) -> bool:
    """Docstrings, imports for type checkers, and types as values."""
    match node:
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Subscript(value=ast.Name(id="Literal")):
            return True
        case _:
            return False


def _place(node: ast.stmt | ast.ExceptHandler | ast.match_case, outer: Place) -> Place:
    """The lines of a statement, or of the head of one that has others inside."""
    if isinstance(node, ast.match_case):
        first = last = node.pattern.lineno
    else:
        first, last = node.lineno, node.end_lineno or node.lineno
    inner = getattr(node, "body", None) or getattr(node, "cases", None)
    if inner:
        below = inner[0].pattern if isinstance(inner[0], ast.match_case) else inner[0]
        last = max(first, below.lineno - 1)
    names: frozenset[str] = frozenset()
    if not outer.function:
        named = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and _is_stored(n)}
        names = frozenset(named or {getattr(node, "name", "")})
    said = isinstance(node, ast.Raise)
    return Place(first, last, names, outer.function, outer.function_line, said)


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _changes(node: ast.expr | ast.stmt, place: Place) -> Iterator[ast.expr | ast.stmt]:
    changed = copy.deepcopy(node)
    match changed:
        case ast.Compare(ops=ops):
            for at, operator in enumerate(ops):
                ops[at] = _COMPARED[type(operator)]()
                yield changed
                ops[at] = operator
        case ast.BinOp(op=operation) if type(operation) in _CALCULATED:
            changed.op = _CALCULATED[type(operation)]()
            yield changed
        case ast.BoolOp(op=ast.And()):
            changed.op = ast.Or()
            yield changed
        case ast.BoolOp():
            changed.op = ast.And()
            yield changed
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as truth):
            yield ast.Constant(not truth)
        case ast.Constant(value=int() as number):
            yield ast.Constant(number + 1)
        case ast.Constant(value=str() as text) if not place.said:
            yield ast.Constant(f"XX{text}XX")
        case ast.Call(func=ast.Name(id=name)) if name in _CALLED:
            changed.func = ast.Name(_CALLED[name], ast.Load())
            yield changed
        case ast.Expr(value=ast.Call()) | ast.Raise():
            yield ast.Pass()
        case ast.Return(value=value) if value is not None and not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()
        case ast.AugAssign(op=ast.Add()):
            changed.op = ast.Sub()
            yield changed
        case ast.AugAssign(op=ast.Sub()):
            changed.op = ast.Add()
            yield changed
        case _:
            pass


def _negated(node: ast.expr | ast.stmt) -> Iterator[tuple[ast.expr, ast.expr]]:
    """The conditions in a node, each turned round; those calculated are changed by themselves."""
    match node:
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            conditions = [test]
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            conditions = [test for part in node.generators for test in part.ifs]
        case _:
            conditions = []
    for test in conditions:
        if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp):
            yield test, ast.UnaryOp(ast.Not(), test)


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None
