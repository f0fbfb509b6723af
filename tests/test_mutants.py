"""The list of deliberate changes fits the code: each change can be made, and the tests that it names exist."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from tests.mutants.entries import MUTANTS
from tests.mutants.mutant import Mutant, Stale

ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def functions_in(file: Path) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.wide
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_every_change_can_still_be_made_and_its_tests_are_there(mutant: Mutant) -> None:
    text = (ROOT / mutant.module).read_text(encoding="utf-8")

    changed = mutant.applied(text)

    assert changed != text
    ast.parse(changed)
    assert mutant.tests
    for file, name in mutant.test_names():
        assert name in functions_in(file), f"{file} has no {name}"


def test_no_change_is_listed_twice() -> None:
    places = [(mutant.module, mutant.function, mutant.before, mutant.after) for mutant in MUTANTS]

    assert len(places) == len(set(places))


def test_a_change_is_made_in_its_function_alone_wherever_that_stands() -> None:
    text = "X = 1\n\n\nclass A:\n    def f(self):\n        return 1 + 1\n\n    def g(self):\n        return 1\n"

    assert Mutant("m", "A.g", "return 1", "return 2", ()).applied(text).endswith("return 2\n")
    assert Mutant("m", "A.f", "1 + 1", "1", ()).applied("\n\n" + text).startswith("\n\nX = 1")
    for function, before in (("A.h", "return 1"), ("A.f", "nothing"), ("A.f", "1")):
        with pytest.raises(Stale):
            Mutant("m", function, before, "x", ()).applied(text)
