"""A repository policy as it was written: strict JSON in, a frozen value out.

This module judges nothing and normalises nothing. A part of the policy that it does not understand is kept as a
`Puzzle` (rule 10): `lint` names it, `compare` answers “incomparable” and `may` answers “depends”. Only a text that is
not JSON raises.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

MAX_DEPTH = 32  # a real policy is seven deep
VERSIONS = ("2008-10-17", "2012-10-17")
PRINCIPAL_KINDS = ("AWS", "Service", "Federated", "CanonicalUser")
TOP_ELEMENTS = frozenset({"Version", "Id", "Statement"})
STATEMENT_ELEMENTS = frozenset(
    {"Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Condition", "Resource", "NotResource"}
)


class PolicyError(ValueError):
    """The text is not JSON. `str()` is one sentence that quotes nothing of the text."""

    def __init__(self, reason: str, *, line: int | None = None, column: int | None = None) -> None:
        self.reason, self.line, self.column = reason, line, column
        where = f" (line {line}, column {column})" if line is not None else ""
        super().__init__(f"The policy is not JSON: {reason}{where}.")


class Kind(StrEnum):
    """The kinds of puzzle. `lint` reports RESOURCE as E104, EMPTY as W127 and the others as E103."""

    ELEMENT = "unknown element"
    RESOURCE = "resource"
    EFFECT = "effect"
    SHAPE = "shape"
    EMPTY = "empty"  # only in `Policy.slips`: ECR takes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Puzzle:
    """A part of a policy that we do not understand. `statement` is the statement's index; None: the policy itself."""

    kind: Kind
    words: str
    statement: int | None = None


class Number(str):
    """The digits of a JSON number as written: an account id keeps its digits (rule 1), and 1.0 is not 1 (rule 8)."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPrincipal:
    """One principal as written. Kind `bare`: a string other than `"*"` in place of an object of principals."""

    kind: str
    text: str
    number: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCondition:
    """One operator on one condition key as written; booleans and numbers are text already (rule 8)."""

    operator: str
    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement. `principals` and `actions` are None where the element is absent (or null, rule 9)."""

    index: int
    sid: str | None
    effect: str | None  # Allow, Deny, or None where it is neither
    principals: tuple[WrittenPrincipal, ...] | None
    not_principals: tuple[WrittenPrincipal, ...] | None
    actions: tuple[str, ...] | None
    not_actions: tuple[str, ...] | None
    conditions: tuple[WrittenCondition, ...]
    puzzles: tuple[Puzzle, ...] = ()

    @property
    def label(self) -> str:
        """The Sid, or `Statement[index]` where the statement has none."""
        return self.sid or f"Statement[{self.index}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A repository policy as a value. `version` is 2008-10-17 where the policy names none (rule 7).

    `slips`: parts that are not in the grammar although their meaning is clear, such as a number as Sid. Only `lint`
    reads them; a policy with slips is compared and evaluated.
    """

    version: str
    statements: tuple[Statement, ...]
    puzzles: tuple[Puzzle, ...] = ()
    slips: tuple[Puzzle, ...] = ()

    @property
    def all_puzzles(self) -> tuple[Puzzle, ...]:
        """The puzzles of the policy itself, then those of its statements."""
        return self.puzzles + tuple(puzzle for statement in self.statements for puzzle in statement.puzzles)


def parse(text: str) -> Policy:
    """Read a policy. Raises PolicyError if the text is not JSON, and no other exception."""
    doubled: list[str] = []

    def no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) != len(pairs):
            doubled.extend(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        return names

    def no_constant(name: str) -> Any:
        raise PolicyError(f"{name} is not a JSON number")

    if text.startswith("\ufeff"):
        raise PolicyError("it starts with a byte order mark", line=1, column=1)
    try:
        document = json.loads(
            text, object_pairs_hook=no_doubles, parse_int=Number, parse_float=Number, parse_constant=no_constant
        )
    except json.JSONDecodeError as error:
        # json's own messages are fixed sentences; the text itself is never part of them.
        raise PolicyError(error.msg[0].lower() + error.msg[1:], line=error.lineno, column=error.colno) from None
    except RecursionError:
        raise PolicyError("it is nested too deeply to be a policy") from None
    puzzles = [
        Puzzle(kind=Kind.SHAPE, words=f"the name {quoted(name)} is given twice in one object")
        for name in dict.fromkeys(doubled)
    ]
    puzzles += [Puzzle(kind=Kind.SHAPE, words=words) for words in _unspeakable(document)]
    if not isinstance(document, dict):
        puzzles.append(Puzzle(kind=Kind.SHAPE, words=f"a policy is an object, and this is {_a(document)}"))
        return Policy(version=VERSIONS[0], statements=(), puzzles=tuple(puzzles))
    for name in sorted(document.keys() - TOP_ELEMENTS):
        puzzles.append(Puzzle(kind=Kind.ELEMENT, words=f"the policy has an unknown element {quoted(name)}"))
    version = document.get("Version")
    slips = [
        _slip(f"{name} is {_a(document[name])}, not a text")
        for name in ("Version", "Id")
        if _is_no_text(document, name)
    ]
    if version is None:
        version = VERSIONS[0]
    elif version not in VERSIONS:
        puzzles.append(Puzzle(kind=Kind.SHAPE, words=f"Version must be {VERSIONS[1]} or {VERSIONS[0]}"))
        version, slips = VERSIONS[0], [slip for slip in slips if not slip.words.startswith("Version")]
    statements = []
    items = _listed(document.get("Statement"))
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            words = f"Statement[{index}] is {_a(item)}, not an object"
            puzzles.append(Puzzle(kind=Kind.SHAPE, words=words, statement=index))
        elif item:  # an empty object is not a statement (rules 2 and 9)
            statements.append(_statement(index, item))
            slips += _slips(statements[-1], item)
    if statements:
        slips += [_slip(f"Statement[{index}] is an empty object") for index, item in enumerate(items) if item == {}]
    return Policy(version=version, statements=tuple(statements), puzzles=tuple(puzzles), slips=tuple(slips))


def _slip(words: str, kind: Kind = Kind.SHAPE) -> Puzzle:
    return Puzzle(kind=kind, words=words)


def _is_no_text(item: Mapping[str, Any], name: str) -> bool:
    return name in item and (not isinstance(item[name], str) or isinstance(item[name], Number))


def _slips(statement: Statement, item: Mapping[str, Any]) -> Iterator[Puzzle]:
    """The parts of a statement that the grammar does not have although their meaning is clear."""
    label = quoted(statement.sid) if statement.sid and not _is_no_text(item, "Sid") else f"Statement[{statement.index}]"
    if _is_no_text(item, "Sid"):
        yield _slip(f"{label}: Sid is {_a(item['Sid'])}, not a text")
    for one, other in (("Principal", "NotPrincipal"), ("Action", "NotAction")):
        for name, beside in ((one, other), (other, one)):
            if name in item and item[name] is None and item.get(beside) is not None:
                yield _slip(f"{label}: {name} is null beside {beside}")
    for name in ("Principal", "NotPrincipal"):
        value = item.get(name)
        if isinstance(value, list) and value and all(text == "*" for text in value):
            yield _slip(f'{label}: {name} is a list; everyone is written "*" or {{"AWS": "*"}}')
        if isinstance(value, dict):
            numbers = any(isinstance(text, Number) for texts in value.values() for text in _listed(texts))
            if numbers:
                yield _slip(f"{label}: {name} holds a number, not a text")
            empty = [kind for kind, texts in value.items() if kind in PRINCIPAL_KINDS and not _listed(texts)]
            if len(empty) < len(value):
                yield from (_slip(f"{label}: {name} has no {kind} principal in its list") for kind in empty)
    yield from _condition_slips(label, item.get("Condition"))


def _condition_slips(label: str, value: Any) -> Iterator[Puzzle]:
    for operator, block in value.items() if isinstance(value, dict) else ():
        if block is None or block == []:
            yield _slip(f"{label}: Condition {quoted(operator)} is {_a(block)}, not an object")
        elif block == {}:
            yield _slip(f"{label}: Condition {quoted(operator)} names no key", Kind.EMPTY)
        elif isinstance(block, dict):
            for key, values in block.items():
                if not key:
                    yield _slip(f"{label}: Condition {quoted(operator)} has a key without a name")
                elif values is None or values == {}:
                    yield _slip(f"{label}: Condition {quoted(operator)} {quoted(key)} is {_a(values)}, not a value")
                elif values == []:
                    yield _slip(f"{label}: Condition {quoted(operator)} {quoted(key)} has no values", Kind.EMPTY)


def _statement(index: int, item: Mapping[str, Any]) -> Statement:
    sid = item.get("Sid") if isinstance(item.get("Sid"), str) else None
    label = quoted(sid) if sid else f"Statement[{index}]"
    puzzles: list[Puzzle] = []

    def puzzle(words: str, kind: Kind = Kind.SHAPE) -> None:
        puzzles.append(Puzzle(kind=kind, words=f"{label}: {words}", statement=index))

    for name in sorted(item.keys() - STATEMENT_ELEMENTS):
        puzzle(f"unknown element {quoted(name)}", Kind.ELEMENT)
    for name in ("Resource", "NotResource"):
        if name in item:
            puzzle(f"a repository policy cannot have {name}", Kind.RESOURCE)
    effect = item.get("Effect")
    if effect not in ("Allow", "Deny"):
        puzzle("Effect must be Allow or Deny, in exactly this spelling", Kind.EFFECT)
        effect = None
    principals, not_principals = (
        _principals(item.get(name), name, puzzle) if item.get(name) is not None else None
        for name in ("Principal", "NotPrincipal")
    )
    actions, not_actions = (
        _actions(item.get(name), name, puzzle) if item.get(name) is not None else None
        for name in ("Action", "NotAction")
    )
    for first, second in ((principals, not_principals), (actions, not_actions)):
        if first is not None and second is not None:
            name = "Principal" if first is principals else "Action"
            puzzle(f"{name} and Not{name} cannot stand in the same statement")
    return Statement(
        index=index,
        sid=sid or None,
        effect=effect,
        principals=principals,
        not_principals=not_principals,
        actions=actions,
        not_actions=not_actions,
        conditions=_conditions(item.get("Condition"), puzzle),
        puzzles=tuple(puzzles),
    )


def _principals(value: Any, name: str, puzzle: Any) -> tuple[WrittenPrincipal, ...]:
    found: list[WrittenPrincipal] = []
    if not isinstance(value, dict):
        for text in _listed(value):
            if not isinstance(text, str):
                puzzle(f"{name} holds {_a(text)}")
            else:
                kind = "AWS" if text == "*" else "bare"
                found.append(WrittenPrincipal(kind=kind, text=str(text), number=isinstance(text, Number)))
        return tuple(found)
    for kind, texts in value.items():
        if kind not in PRINCIPAL_KINDS:
            puzzle(f"{name} has an unknown kind {quoted(kind)}", Kind.ELEMENT)
            continue
        for text in _listed(texts):
            if isinstance(text, str):
                found.append(WrittenPrincipal(kind=kind, text=str(text), number=isinstance(text, Number)))
            else:
                puzzle(f"{name} holds {_a(text)}")
    return tuple(found)


def _actions(value: Any, name: str, puzzle: Any) -> tuple[str, ...]:
    found = []
    for text in _listed(value):
        if isinstance(text, str) and not isinstance(text, Number):
            found.append(text)
        else:
            puzzle(f"{name} holds {_a(text)}")
    return tuple(found)


def _conditions(value: Any, puzzle: Any) -> tuple[WrittenCondition, ...]:
    if value is None or value == []:
        return ()
    if not isinstance(value, dict):
        puzzle(f"Condition is {_a(value)}, not an object")
        return ()
    found = []
    for operator, block in value.items():
        if block is None or block == []:
            continue
        if not isinstance(block, dict):
            puzzle(f"Condition {quoted(operator)} is {_a(block)}, not an object")
            continue
        for key, values in block.items():
            texts: list[str] = []
            for text in _listed(values):
                if isinstance(text, bool):
                    texts.append("true" if text else "false")  # rule 8
                elif isinstance(text, str):
                    texts.append(str(text))
                else:
                    puzzle(f"Condition {quoted(operator)} {quoted(key)} holds {_a(text)}")
            found.append(WrittenCondition(operator=operator, key=key, values=tuple(texts)))
    return tuple(found)


def _listed(value: Any) -> list[Any]:
    """A single value is a list of one (rule 2); null and an empty object are an empty list (rule 9)."""
    if value is None or value == {}:
        return []
    return value if isinstance(value, list) else [value]


def _unspeakable(document: Any) -> Iterator[str]:
    """Why no policy can hold this text.

    Keeps its own stack: a deeply nested text must not exhaust Python's recursion.
    """
    waiting: list[tuple[Any, int]] = [(document, 1)]
    lone = nul = deep = False
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, str):
            nul = nul or "\0" in node
            lone = lone or any("\ud800" <= character <= "\udfff" for character in node)
            continue
        deep = deep or depth > MAX_DEPTH
        if isinstance(node, dict):
            waiting.extend((name, depth) for name in node)
            waiting.extend((value, depth + 1) for value in node.values())
        elif isinstance(node, list):
            waiting.extend((value, depth + 1) for value in node)
    if lone:
        yield "it holds half of a surrogate pair, which is not a character"
    if nul:
        yield "it holds a NUL character"
    if deep:
        yield f"it is nested more than {MAX_DEPTH} deep"


def quoted(text: str, limit: int = 60) -> str:
    """A text from a policy in quotation marks, shortened to `limit` characters and printable."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return "“" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown) + "”"


def _a(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, Number):
        return "a number"
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else "a string"
