"""The cause of a repository's trouble, so that many repositories with one cause are one alarm and one message.

Pure: facts of a row in, a `Cause` out. Repositories with equal causes need one and the same correction. The operation
and the permission of an error stand in its sentence only, so they are read back from there (`catalogue.read_back`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from deployments import catalogue
from deployments.reconcile import desired
from deployments.row_values import Difference

#: Stands before the sentence of an error in the event of its second occurrence.
AGAIN = "The same error a second time: "
TITLE_CHARACTERS = 140

_COMPARED = "Compared with the default policy, "
_AWS_REFUSED = re.compile(r"AWS refused (\w+) on (\S+): (\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why repositories need attention. Two causes are equal if one correction is for both."""

    what: str  # what is wrong, without a full stop and without the name of a repository
    action: str = ""  # what to do next, as a sentence; empty: it depends on the mode
    said: str = field(default="", compare=False)  # AWS's words, or all that differs, for one of the repositories
    permission: str = ""  # the action that AWS denied and that an Allow statement can allow; empty: none

    @property
    def title(self) -> str:
        """What is wrong, in at most TITLE_CHARACTERS."""
        return self.what if len(self.what) <= TITLE_CHARACTERS else self.what[: TITLE_CHARACTERS - 1].rstrip() + "…"

    @property
    def key(self) -> str:
        """Identifies the cause in the address of a list."""
        return hashlib.sha256(f"{self.what}|{self.action}".encode()).hexdigest()[:12]


INCOMPARABLE = Cause(
    what="The repository policy cannot be compared", action="Take the policy over on the repository's page."
)
MISSING = Cause(what="Deleted from ECR", action="The next deploy recreates the repository.")


def of_differences(differences: Iterable[Difference]) -> Cause:
    """The cause of drift: the same differences."""
    every = list(differences)
    found = desired.drift(every) or every
    words = " ".join(each.words for each in found)
    return replace(INCOMPARABLE, said=words) if any(each.is_incomparable for each in found) else of_words(words)


def of_words(words: str) -> Cause:
    """The cause of drift whose differences are these sentences."""
    what = (words or "The repository differs from the settings").rstrip(".")
    if what.startswith(_COMPARED):
        what = f"The repository policy differs: {what.removeprefix(_COMPARED)}"
    return Cause(what=what, said=words if len(what) > TITLE_CHARACTERS else "")


def of_error(error: str, *, name: str, code: str = "") -> Cause:
    """The cause of an error, from its sentence on the row or event of the repository `name`, and its code if known."""
    sentence = error.removeprefix(AGAIN)
    found = catalogue.read_back(sentence, code)
    if found is None:
        words = sentence.replace(f" on {name}", "", 1).replace(name, "the repository")
        refused = _AWS_REFUSED.match(sentence)
        return Cause(what=f"{refused[1]} fails: {refused[3]}", said=words) if refused else Cause(what=words.rstrip("."))
    entry, values = found
    # AWS's explicit deny overrules every Allow, so no statement to add can help:
    # https://repost.aws/knowledge-center/iam-explicit-deny-errors
    said = values.get("reason", "").replace(name, "the repository")
    if (permission := values.get("permission", "")) and "explicit deny" not in said:
        action = f"Allow {permission} to Registry Admin."
        return Cause(what=f"{permission} is denied", action=action, said=said, permission=permission)
    if permission:
        action = (
            f"A policy of AWS denies {permission} explicitly: correct this statement. An Allow does not overrule it."
        )
        return Cause(what=f"{permission} is denied explicitly", action=action, said=said)
    operation = "A call to AWS" if entry.installation else values.get("operation", "")  # which one does not matter then
    values |= {"name": "the repository", "operation": operation}
    action = entry.todo.format(**values)
    if said:
        aws_code = said.partition(":")[0]
        what = f"{operation} is throttled" if aws_code in catalogue.THROTTLED else f"{operation} fails: {aws_code}"
        return Cause(what=what, action=action, said=said)
    what = entry.says.format(**values).rstrip(".")
    return Cause(what=what[:1].upper() + what[1:], action=action)


def of_row(*, status: str, name: str, error: str, code: str, differences: Iterable[Difference]) -> Cause:
    """The cause of a repository that is failed, missing or drifted, from the facts of its row."""
    if error:
        return of_error(error, name=name, code=code)
    if status == "missing":
        return MISSING
    return of_differences(differences)
