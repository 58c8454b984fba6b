"""Single changes to a module's source, made by the operators of cosmic-ray.

Only cosmic-ray's operators are used. Its own runner rewrites the file in place, starts a new Python for each change, and takes no
sample; mutmut changes functions only, and works on a copy of the repository that an editable installation does not look at.
"""

from __future__ import annotations

import ast
import difflib
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names

NEED_ARGUMENTS = ("VariableReplacer", "VariableInserter")
NEARLY_SAME = ("_Eq_Is", "_NotEq_IsNot", "_Is_Eq", "_IsNot_NotEq")
"""Operators whose change is seldom one: `is` and `==` agree on None, on enum members and on small numbers."""


LARGE = 1000
"""A number from here on is a unit, such as nanoseconds in a second: one more or less of it is no other behaviour."""


@dataclass(frozen=True, slots=True)
class Change:
    """A module's source after one change, and what was changed."""

    operator: str
    line: int
    source: str
    diff: str


def sample(source: str, count: int, seed: int) -> list[Change]:
    """Return `count` changes at places drawn at random; fewer if there are not as many."""
    return [change for change, _ in zip(_drawn(source, random.Random(seed)), range(count), strict=False)]


def _drawn(source: str, draw: random.Random) -> Iterator[Change]:
    """Yield changes in random order, each place once before any place twice."""
    places = list(_places(source).items())
    draw.shuffle(places)
    for _, changes in places:
        draw.shuffle(changes)
    seen = {_meaning(source)}
    while places:
        for (line, _), changes in places:
            while changes:
                name, occurrence = changes.pop()
                change = _make(source, name, line, occurrence)
                if change is not None and (meaning := _meaning(change.source)) not in seen:
                    seen.add(meaning)
                    yield change
                    break
        places = [(place, changes) for place, changes in places if changes]


@cache
def _operators() -> dict[str, Operator]:
    wanted = [name for name in operator_names() if not name.endswith((*NEED_ARGUMENTS, *NEARLY_SAME))]
    return {name: get_operator(name)() for name in wanted}


def _places(source: str) -> dict[tuple[int, int], list[tuple[str, int]]]:
    """Return the changes, as operator and occurrence, by the line and column of what they change."""
    places = defaultdict(list)
    nodes = list(ast_nodes(get_ast(source)))
    bounds = _bounds(source)
    for name, operator in _operators().items():
        found = [(node, start) for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, (node, start) in enumerate(found):
            if start[0] not in bounds and (node.type != "number" or ast.literal_eval(node.value) < LARGE):
                places[start].append((name, occurrence))
    return dict(sorted(places.items()))


def _bounds(source: str) -> set[int]:
    """Return the lines of constants at the top of the module: their figures are choices, which tests take from there."""
    assigned = [node for node in ast.parse(source).body if isinstance(node, ast.Assign | ast.AnnAssign)]
    return {line for node in assigned for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def _make(source: str, name: str, line: int, occurrence: int) -> Change | None:
    """Return the change; None if it leaves no Python."""
    changed = mutate_code(source, _operators()[name], occurrence)
    try:
        compile(changed, name, "exec", dont_inherit=True)
    except SyntaxError:
        return None
    lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), n=2, lineterm="")
    return Change(name.removeprefix("core/"), line, changed, "\n".join(list(lines)[2:]))


class _WithoutTypes(ast.NodeTransformer):
    """Removes what only a type checker reads or only refuses a wrong use, and assertions: they state what cannot be otherwise."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]  # by name or by place
        node.posonlyargs, node.kwonlyargs = [], []
        node.defaults, node.kw_defaults = [*node.defaults, *filter(None, node.kw_defaults)], []
        return self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST | None:
        return None if node.arg in ("frozen", "slots") else self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if any(isinstance(part, ast.Name) and part.id == "TYPE_CHECKING" for part in ast.walk(node.test)):
            return None
        return self.generic_visit(node)

    def visit_Assert(self, _: ast.Assert) -> None:
        return None


def _meaning(source: str) -> str:
    """Return the part of `source` that says what the module does; equal for changes that change nothing."""
    return ast.dump(_WithoutTypes().visit(ast.parse(source)))
