"""What the page of a repository says of its differences, and what happens with each.

One function writes all of it, so that no two cards of the page contradict each other.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.utils import timezone

from deployments.config import RegistryConfig
from deployments.models import Repository, RepositoryStatus
from deployments.reconcile import desired, repositories
from deployments.row_values import Difference

_STAYS = "Registry Admin does not change it: somebody else chose it, or AWS fixes it when the repository is created. "
_IN_SYNC = "So the repository counts as in sync."


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDifference:
    """A difference, and what happens with it. `then` empty: its own words say so, or a person takes the policy over."""

    part: str
    words: str
    then: str
    is_incomparable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """The card “what differs”. `mark`: a word beside the status at the top of the page."""

    title: str
    tone: str
    note: str
    mark: str
    rows: tuple[ShownDifference, ...]


def card(row: Repository, *, enforce: bool, paused: bool) -> Differences | None:
    """The differences of the last check; None if there are none.

    `enforce`: whether the settings correct drift. `paused`: whether an operator has paused all writes to AWS.
    """
    if not row.differences:
        return None
    then = _what_happens(row, enforce=enforce, paused=paused)
    rows = tuple(
        ShownDifference(
            part=each.part,
            words=each.words,
            then=_then(each, then),
            is_incomparable=each.is_incomparable,
        )
        for each in row.differences
    )
    number = len(rows)
    if not desired.drift(row.differences):
        counts = _IN_SYNC if row.status == RepositoryStatus.IN_SYNC else ""
        note = f"{_STAYS}{counts}".strip()
        return Differences(title="Reported only", tone="idle", note=note, mark=f"{number} reported only", rows=rows)
    incomparable = any(each.is_incomparable for each in row.differences)
    title = f"What differs from the settings{', or cannot be compared' if incomparable else ''}"
    tone = "warn" if row.status == RepositoryStatus.DRIFTED else "idle"
    return Differences(title=title, tone=tone, note="", mark="", rows=rows)


def _then(difference: Difference, then: str) -> str:
    if difference.waits or difference.is_incomparable:
        return ""
    return then if difference.fixable else "It stays as it is."


def _what_happens(row: Repository, *, enforce: bool, paused: bool) -> str:
    """What happens with a difference that a reconcile can correct."""
    now = timezone.now()
    if not repositories.corrects(row, enforce=repositories.effective_enforce(row, enforce, now)):
        if row.mode_until is not None and row.mode_until > now:
            return f"Exception: left as it is until {row.mode_until:%d %b %Y, %H:%M} UTC."
        return "Left as it is: the settings say observe."
    if paused:
        return "Not corrected: writes to AWS are paused."
    if row.last_error and row.last_error_heals:
        return "Not corrected yet: the next attempt tries again."
    if row.last_error:
        return "Not corrected: the last attempt failed."
    return "The next reconcile corrects it."


def others_kept(row: Repository) -> str:
    """How many statements of others the last look has found kept, in words; empty: none."""
    number = sum(each.kept for each in row.foreign_statements)
    return f"with {number} statement{'s' if number > 1 else ''} of others" if number else ""


def of_the_policy(row: Repository, registry: RegistryConfig | None, *, partition: str) -> tuple[str, bool]:
    """(what the card of the policy says of the last seen policy, whether it differs in what it allows).

    It is compared with the settings of now, as the two texts on the page are.
    """
    if registry is None:
        return "The settings name another registry now", False
    if registry.default_repository_policy is None:
        return "The settings have no default policy, so no policy is changed", False
    if row.status == RepositoryStatus.MISSING:
        return "The repository was deleted", False
    if not row.policy_text:
        return ("It had none at the last check" if row.last_checked_at else "Not read yet"), False
    seen = ", as last seen" if row.last_error else ""
    found = repositories.policy_differences(row, row.policy_text, registry, partition=partition)
    if any(each.is_incomparable for each in found):
        return "Cannot be compared", False
    if not found:
        others = others_kept(row)
        return f"The same in what it allows{f', {others}' if others else ''}{seen}", False
    known = any(each.part == found[0].part for each in row.differences)
    if known or row.status in (RepositoryStatus.UNMANAGED, RepositoryStatus.PENDING, RepositoryStatus.FAILED):
        return f"Differs in what it allows{seen}", True
    return "Differs from the settings of now, which the last check did not know", True
