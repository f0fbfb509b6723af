"""One deliberate change to the code: where it is made, what it replaces, and which tests fail under it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class Stale(Exception):
    """The entry no longer fits the code: its function does not exist, or `before` does not occur exactly once."""


@functools.lru_cache(64)  # many entries change the same module
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


@dataclass(frozen=True, slots=True)
class Mutant:
    """In `function` of `module`, the text `before` becomes `after`; then one of `tests` must fail.

    `module` is a path from the project's root. `function` is dotted (`Lease.claim`, `outer.inner`); empty: anywhere in
    the module. `tests` are pytest's node ids, without `tests/`. `postgresql`: run them on PostgreSQL.
    """

    module: str
    function: str
    before: str
    after: str
    tests: tuple[str, ...]
    postgresql: bool = False

    def __str__(self) -> str:
        where = f"{self.module} {self.function}".strip()
        return f"{where}: {_short(self.before)} → {_short(self.after)}"

    def applied(self, text: str) -> str:
        """The module's text with the change. Raises Stale."""
        lines = text.splitlines(keepends=True)
        first, last = 0, len(lines)
        if self.function:
            node = _find(parsed(text), self.function.split("."))
            if node is None:
                raise Stale(f"{self}: there is no such function")
            first, last = node.lineno - 1, node.end_lineno or last
        head, body, rest = ("".join(part) for part in (lines[:first], lines[first:last], lines[last:]))
        if (count := body.count(self.before)) != 1:
            raise Stale(f"{self}: the text is there {count} times instead of once")
        return head + body.replace(self.before, self.after) + rest

    def test_names(self) -> Iterator[tuple[Path, str]]:
        """(file below tests/, name of the test function) of each test."""
        for test in self.tests:
            file, _, name = test.partition("::")
            yield Path(file), name.partition("[")[0]


def _find(tree: ast.AST, names: list[str]) -> ast.FunctionDef | ast.ClassDef | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == names[0]:
            return node if len(names) == 1 else _find(node, names[1:])
    return None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "…"
