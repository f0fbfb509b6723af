"""What would another default repository policy change? Answered from the last observations: no call to AWS, no write.

Repositories with the same policy text are compared once, as a group. Only a summary of each group is kept, so ten
thousand repositories need little memory.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from deployments import policy
from deployments.models import RegistryPolicyReading, Repository, RepositoryStatus
from deployments.policy import Finding
from deployments.reconcile import desired, registry_policies, repositories
from deployments.reconcile.targets import Target

GROUPS_SHOWN = 50
NAMES_SHOWN = 5
WORDS_SHOWN = 8  # sentences that are kept of a group
WHO_SHOWN = 100

Verdict = Literal["unchanged", "changed", "unreadable"]
_Answer = tuple[str, str, str]  # consumer account, verdict, words


@dataclass(slots=True, kw_only=True)
class Group:
    """Repositories with the same policy text."""

    verdict: Verdict
    gained: tuple[str, ...] = ()  # the access that the new policy would add, in sentences
    lost: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()  # access beyond the current setting, which would be removed
    why: str = ""
    has_none: bool = False
    number: int = 0
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """Whether a consumer account could pull from some repositories: by the text and by the registry policy."""

    account: str
    verdict: str  # as of `policy.effective`
    words: str
    number: int  # of repositories; 0: there is none yet, and the answer is for a new one
    example: str  # one of them


@dataclass(slots=True, kw_only=True)
class Rehearsal:
    """The answer. All counts are numbers of repositories."""

    findings: tuple[Finding, ...]
    total: int = 0
    unchanged: int = 0
    changed: int = 0
    unreadable: int = 0
    foreign: int = 0
    unseen: int = 0  # not checked yet
    texts: int = 0  # number of different policy texts
    groups: list[Group] = field(default_factory=list)  # the largest groups that would change
    gains: list[tuple[str, int]] = field(default_factory=list)  # (who gains which access, number of repositories)
    losses: list[tuple[str, int]] = field(default_factory=list)
    pulls: list[Pull] = field(default_factory=list)  # of each account the worst answer first
    rests_on: tuple[str, ...] = ()  # sentences: on which policies `pulls` rests, and what was not seen
    registry: RegistryPolicyReading | None = None  # the registry policy that `pulls` rests on; None: never read

    @property
    def would_be_refused(self) -> bool:
        """Whether the policy has a finding that would stop the start."""
        return any(finding.level == "error" for finding in self.findings)


def rehearse(*, text: str, target: Target, allow_public: bool = False) -> Rehearsal:
    """Compare the text with the last observed policy of each repository of a registry."""
    partition = target.registry.partition
    consumers = target.config.consumer_accounts
    answer = Rehearsal(
        findings=policy.lint(
            text, partition=partition, allow_public=allow_public, consumer_accounts=consumers, writer=target.writer
        )
    )
    try:
        policy.parse(text)
    except policy.PolicyError:
        return answer  # a finding says that the text is not a policy
    present = target.config.default_repository_policy
    account, region = target.registry.account, target.registry.region
    answer.registry = registry_policies.reading(account=account, region=region)
    pulls = _Pulls(text=text, target=target, registry=registry_policies.seen(account=account, region=region))
    groups: dict[bytes, Group] = {}
    for row in _rows(target):
        name, live, seen = row.name, row.policy_text, row.last_checked_at
        answer.total += 1
        pulls.ask(name)
        if not seen:
            answer.unseen += 1
            continue
        trust = repositories.trust(row, target.config)
        text_and_adopted = "\n".join([live, *sorted(trust.adopted)])
        key = hashlib.sha256(text_and_adopted.encode("utf-8", "surrogatepass")).digest()
        group = groups.get(key)
        if group is None:
            group = groups[key] = _group(live, text, present, partition, trust)
        group.number += 1
        if len(group.names) < NAMES_SHOWN:
            group.names.append(name)
    answer.pulls, answer.rests_on = pulls.answers(), tuple(pulls.rests_on)
    counts, gains, losses = Counter[str](), Counter[str](), Counter[str]()
    for group in groups.values():
        gains.update(dict.fromkeys(group.gained, group.number))
        losses.update(dict.fromkeys(group.lost, group.number))
    answer.gains, answer.losses = gains.most_common(WHO_SHOWN), losses.most_common(WHO_SHOWN)
    for group in groups.values():
        counts[group.verdict] += group.number
        answer.foreign += group.number if group.foreign else 0
    answer.unchanged, answer.changed = counts["unchanged"], counts["changed"]
    answer.unreadable, answer.texts = counts["unreadable"], len(groups)
    shown = [group for group in groups.values() if group.verdict != "unchanged" or group.foreign]
    answer.groups = sorted(shown, key=lambda group: (-group.number, group.names))[:GROUPS_SHOWN]
    return answer


@dataclass(slots=True, kw_only=True)
class _Pulls:
    """The answers about the consumer accounts. The repositories differ only in whether the registry policy is about
    them: a statement of an AWS service, which stays beside the text, is about no account.
    """

    text: str
    target: Target
    registry: policy.RegistryPolicy | None
    examples: dict[_Answer, str] = field(default_factory=dict)
    numbers: Counter[_Answer] = field(default_factory=Counter)
    rests_on: dict[str, None] = field(default_factory=dict)

    def ask(self, name: str) -> None:
        """Answer for one repository."""
        self.numbers.update(self._asked(name))

    def _asked(self, name: str) -> list[_Answer]:
        registry, found = self.target.registry, list[_Answer]()
        arn, partition = registry.repository_arn(name), registry.partition
        for account in self.target.config.consumer_accounts:
            access = policy.effective(self.text, self.registry, account, arn=arn, partition=partition)
            found.append((account, access.verdict, access.words))
            self.examples.setdefault(found[-1], name)
            self.rests_on.setdefault(access.basis)
        return found

    def answers(self) -> list[Pull]:
        """One for each account and answer. Without a repository, those of a new one below the namespace."""
        if not self.examples:
            self._asked(f"{self.target.config.namespace}/a-new-repository")
        pulls = [
            Pull(account=each[0], verdict=each[1], words=each[2], number=self.numbers[each], example=name)
            for each, name in self.examples.items()
        ]
        worst = ("no", "unknown", "depends", "yes")
        return sorted(pulls, key=lambda each: (each.account, worst.index(each.verdict), each.example))


def _rows(target: Target) -> Iterator[Repository]:
    return (
        Repository.objects.filter(target.rows)
        .exclude(status__in=(RepositoryStatus.UNMANAGED, RepositoryStatus.MISSING))
        .order_by("pk")
        .only("account", "name", "policy_text", "adopted_statements", "last_checked_at")
        .iterator(chunk_size=500)
    )


def _group(live: str, text: str, present: str | None, partition: str, trust: policy.Trust) -> Group:
    """`text` and `present`: without the statements of AWS services, which stay beside any default policy."""
    text = desired.policy_beside(text, live, partition=partition, trust=trust)
    comparison = policy.compare(live or None, text, partition=partition)
    if comparison.level == "incomparable":
        return Group(verdict="unreadable", why=comparison.why)
    foreign: tuple[str, ...] = ()
    if live and present is not None:
        present = desired.policy_beside(present, live, partition=partition, trust=trust)
        beyond = policy.compare(present, live, partition=partition).gained
        foreign = tuple(grant.words.replace(" gains ", " has ", 1) for grant in beyond[:WORDS_SHOWN])
    if comparison.level != "access":
        return Group(verdict="unchanged", foreign=foreign)
    return Group(
        verdict="changed",
        gained=tuple(grant.words for grant in comparison.gained[:WORDS_SHOWN]),
        lost=tuple(grant.words for grant in comparison.lost[:WORDS_SHOWN]),
        foreign=foreign,
        has_none=not live,
    )
