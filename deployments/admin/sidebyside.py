"""Two JSON texts side by side, line by line, with the different lines marked. Pure.

It only shows: `deployments.policy` decides whether two policies give the same access. To show few lines as different,
both texts are first formatted in the same way: keys sorted, lists of texts sorted, a list of one text as that text, and
account ids as root ARNs, as ECR stores them.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: A Sid of a statement, as `laid_out` writes it: of the only statement, or of one in a list.
_SID = re.compile(r'( {4}| {6})"Sid": ')


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffLine:
    """A line of each side; None where only the other side has a line."""

    left: str | None
    right: str | None
    left_number: int | None
    right_number: int | None
    differs: bool

    @property
    def is_name(self) -> bool:
        """Whether the line differs and has only a Sid, a statement's name, which gives no access."""
        return self.differs and all(_SID.match(side) for side in (self.left, self.right) if side is not None)


def side_by_side(left: str, right: str, *, partition: str = "aws") -> list[DiffLine]:
    """The lines of both texts. `partition`: of the registry, for account ids."""
    return list(_lines(laid_out(left, partition).splitlines(), laid_out(right, partition).splitlines()))


def laid_out(text: str, partition: str = "aws") -> str:
    """The text formatted for the comparison; a text that is not JSON stays unchanged. Never raises."""
    try:
        return json.dumps(_alike(json.loads(text), partition), indent=2, ensure_ascii=False, sort_keys=True)
    except (ValueError, RecursionError):
        return text


def _alike(value: Any, partition: str, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _alike(each, partition, key) for key, each in value.items()}
    if isinstance(value, list):
        values = [_alike(each, partition, name) for each in value]
        if values and all(isinstance(each, str) for each in values):
            return sorted(values) if len(values) > 1 else values[0]
        return values
    if name == "AWS" and isinstance(value, str) and len(value) == 12 and value.isdecimal():
        return f"arn:{partition}:iam::{value}:root"  # ECR stores an account id as this ARN
    return value


def _lines(left: list[str], right: list[str]) -> Iterator[DiffLine]:
    # Without the comma at their end: a line gets one if another follows.
    bare = [[line.removesuffix(",") for line in side] for side in (left, right)]
    for tag, a, a_end, b, b_end in difflib.SequenceMatcher(a=bare[0], b=bare[1], autojunk=False).get_opcodes():
        for offset in range(max(a_end - a, b_end - b)):
            at, bt = a + offset, b + offset
            yield DiffLine(
                left=left[at] if at < a_end else None,
                right=right[bt] if bt < b_end else None,
                left_number=at + 1 if at < a_end else None,
                right_number=bt + 1 if bt < b_end else None,
                differs=tag != "equal",
            )
