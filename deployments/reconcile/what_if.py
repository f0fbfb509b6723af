"""What would another default repository policy change? Answered from the last observations: no call to AWS, no write.

Repositories with the same policy text are compared once. Repositories for which the policy would have the same effect
are one group, whatever texts they have now.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from deployments import clock, policy
from deployments.models import (
    Environment,
    EnvironmentType,
    Promotion,
    RegistryPolicyReading,
    Repository,
    RepositoryStatus,
)
from deployments.policy import Finding
from deployments.reconcile import desired, registry_policies, repositories
from deployments.reconcile.targets import Target

GROUPS_SHOWN = 20
LINKS_SHOWN = 400  # repositories that the groups shown name, all together
ENVIRONMENTS_SHOWN = 200
WORDS_SHOWN = 8  # sentences of a group that are shown
WHO_SHOWN = 100

Verdict = Literal["unchanged", "changed", "unreadable", "unseen"]
_Answer = tuple[str, str, str]  # consumer account, verdict, words
_WORDS = {"changed": "changes", "unchanged": "does not change", "unreadable": "unknown", "unseen": "unknown"}
_NOT_CHECKED = "The repository was not checked yet."


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What the other policy would do to a repository. Of `lost` and `gained`, the sentences are of the new policy."""

    verdict: Verdict
    gained: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    left_out: int = 0  # differences beyond `gained` and `lost`
    foreign: tuple[str, ...] = ()  # access beyond the present default policy
    why: str = ""  # why it is unknown
    has_none: bool = False
    pulls_lost: tuple[tuple[str, str], ...] = ()  # (principal, words) that lose a pull by the repository policy

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """(tone, sentence) of the first WORDS_SHOWN differences; what is lost comes first."""
        every = [("bad", words) for words in self.lost] + [("ok", words) for words in self.gained]
        more = len(every) - WORDS_SHOWN + self.left_out if len(every) > WORDS_SHOWN else self.left_out
        return (*every[:WORDS_SHOWN], *((("idle", f"and {more} more"),) if more else ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Affected:
    """A repository, and what the next sweep would do with its policy."""

    pk: int
    name: str
    would: Literal["", "write", "report"]  # empty: nothing
    losing: tuple[str, ...] = ()  # sentences: who loses pull, by the repository policy and the registry policy
    running: tuple[Environment, ...] = ()  # the environments whose current image is in it

    @property
    def running_words(self) -> str:
        """The environments as texts, separated by commas."""
        return ", ".join(f"{environment.project} / {environment}" for environment in self.running)


@dataclass(slots=True, kw_only=True)
class Group:
    """Repositories for which the other policy has the same effect, by name."""

    effect: Effect
    repositories: list[Affected] = field(default_factory=list)
    shown: list[Affected] = field(default_factory=list)  # the first of them, which the page names

    @property
    def number(self) -> int:
        """The number of repositories."""
        return len(self.repositories)

    @property
    def names(self) -> list[str]:
        """The names of all repositories."""
        return [each.name for each in self.repositories]

    @property
    def left_out(self) -> int:
        """The number of repositories that the page does not name."""
        return self.number - len(self.shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """An environment whose current image is in a repository that somebody could not pull from any more."""

    environment: Environment
    repository: Affected

    @property
    def is_production(self) -> bool:
        """Whether it is a production environment."""
        return self.environment.type == EnvironmentType.PRODUCTION


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
    """The answer. All counts are numbers of repositories, if their name says nothing else."""

    findings: tuple[Finding, ...]
    is_policy: bool = True  # False: the text is no policy, so nothing was compared
    total: int = 0
    unchanged: int = 0
    changed: int = 0
    unreadable: int = 0
    foreign: int = 0
    unseen: int = 0  # not checked yet
    writes: int = 0  # whose policy the next sweep would write
    reports: int = 0  # of which the next sweep would only report the difference
    every: list[Group] = field(default_factory=list)  # all groups, also of what does not change; the largest first
    gains: list[tuple[str, int]] = field(default_factory=list)  # (who gains which access, number of repositories)
    losses: list[tuple[str, int]] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)  # environments that lose a pull, production first
    pulls: list[Pull] = field(default_factory=list)  # of each account the worst answer first
    rests_on: tuple[str, ...] = ()  # sentences: on which policies `pulls` rests, and what was not seen
    registry: RegistryPolicyReading | None = None  # the registry policy that `pulls` rests on; None: never read

    @property
    def refusals(self) -> list[Finding]:
        """The findings that would stop the start."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def risks(self) -> list[Finding]:
        """The other findings."""
        return [finding for finding in self.findings if finding.level != "error"]

    @property
    def unknown(self) -> int:
        """The repositories of which it is not known whether they would change."""
        return self.unreadable + self.unseen

    @property
    def production(self) -> int:
        """The number of production environments that lose a pull."""
        return sum(each.is_production for each in self.running)

    @property
    def others(self) -> int:
        """The number of other environments that lose a pull."""
        return len(self.running) - self.production

    @property
    def running_shown(self) -> list[Running]:
        """The environments that the page names."""
        return self.running[:ENVIRONMENTS_SHOWN]

    @property
    def groups(self) -> list[Group]:
        """The groups that the page shows: what changes, what is unknown, and what has extra permissions."""
        return [each for each in self.every if each.effect.verdict != "unchanged" or each.effect.foreign][:GROUPS_SHOWN]

    def records(self) -> Iterator[dict[str, Any]]:
        """Each repository with the effect, for a file."""
        for group in self.every:
            for each in group.repositories:
                yield {
                    "repository": each.name,
                    "effect": _WORDS[group.effect.verdict],
                    "loses": "; ".join(group.effect.lost),
                    "gains": "; ".join(group.effect.gained),
                    "why_unknown": group.effect.why,
                    "next_sweep": each.would,
                    "running_environments_that_lose_pull": each.running_words if each.losing else "",
                }


COLUMNS = (
    "repository", "effect", "loses", "gains", "why_unknown", "next_sweep", "running_environments_that_lose_pull"
)  # fmt: skip


def rehearse(*, text: str, target: Target, allow_public: bool = False, enforce: bool = True) -> Rehearsal:
    """Compare the text with the last observed policy of each repository of a registry.

    `enforce`: whether sweeps correct a repository without an exception.
    """
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
        answer.is_policy = False  # a finding says so
        return answer
    account, region = target.registry.account, target.registry.region
    answer.registry = registry_policies.reading(account=account, region=region)
    pulls = _Pulls(target=target, registry=registry_policies.seen(account=account, region=region))
    groups: dict[Effect, Group] = {}
    effects: dict[bytes, tuple[Effect, str]] = {}
    running, now = _running(target), clock.now()
    for row in _rows(target):
        effect, whole = _seen_effect(row, effects, text=text, target=target)
        pulls.ask(row.name, whole)
        losing = tuple(words for principal, words in effect.pulls_lost if not pulls.stays(row.name, whole, principal))
        affected = Affected(
            pk=row.pk,
            name=row.name,
            would=_would(row, effect, enforce=enforce, now=now),
            losing=losing,
            running=tuple(running[row.pk]) if losing and row.pk in running else (),
        )
        groups.setdefault(effect, Group(effect=effect)).repositories.append(affected)
    answer.pulls, answer.rests_on = pulls.answers(text), tuple(pulls.rests_on)
    answer.every = sorted(groups.values(), key=lambda group: (-group.number, group.names))
    _count(answer)
    found = [
        Running(environment=environment, repository=each)
        for group in answer.every
        for each in group.repositories
        for environment in each.running
    ]
    order = lambda each: (not each.is_production, each.environment.project.name, str(each.environment))  # noqa: E731
    answer.running = sorted(found, key=order)
    for group in answer.groups:
        group.shown = group.repositories[: LINKS_SHOWN // len(answer.groups)]
    return answer


def setting_line(text: str, target: Target) -> str:
    """The setting with this policy as one line that a POSIX shell and a `.env` file read in the same way."""
    variable = target.config.variable("default_repository_policy")
    value = json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
    escaped = value.replace("'", "\\u0027")  # JSON's notation of the quote that ends the value in both
    return f"{variable}='{escaped}'"


def _count(answer: Rehearsal) -> None:
    numbers, gains, losses = Counter[str](), Counter[str](), Counter[str]()
    for group in answer.every:
        effect = group.effect
        numbers[effect.verdict] += group.number
        answer.foreign += group.number if effect.foreign else 0
        gains.update(dict.fromkeys(effect.gained, group.number))
        losses.update(dict.fromkeys(effect.lost, group.number))
        answer.writes += sum(each.would == "write" for each in group.repositories)
        answer.reports += sum(each.would == "report" for each in group.repositories)
    answer.total = numbers.total()
    answer.unchanged, answer.changed = numbers["unchanged"], numbers["changed"]
    answer.unreadable, answer.unseen = numbers["unreadable"], numbers["unseen"]
    answer.gains, answer.losses = gains.most_common(WHO_SHOWN), losses.most_common(WHO_SHOWN)


def _would(row: Repository, effect: Effect, *, enforce: bool, now: datetime) -> Literal["", "write", "report"]:
    if effect.verdict != "changed" or not row.is_managed:
        return ""
    corrects = repositories.corrects(row, enforce=repositories.effective_enforce(row, enforce, now))
    return "write" if corrects else "report"


@dataclass(slots=True, kw_only=True)
class _Pulls:
    """The answers about the consumer accounts. The repositories differ in whether the registry policy is about them,
    and in the statements of others that stay beside the text.
    """

    target: Target
    registry: policy.RegistryPolicy | None
    examples: dict[_Answer, str] = field(default_factory=dict)
    numbers: Counter[_Answer] = field(default_factory=Counter)
    rests_on: dict[str, None] = field(default_factory=dict)

    def ask(self, name: str, text: str) -> None:
        """Answer for one repository. `text`: with the statements of others that stay."""
        self.numbers.update(self._asked(name, text))

    def _asked(self, name: str, text: str) -> list[_Answer]:
        registry, found = self.target.registry, list[_Answer]()
        arn, partition = registry.repository_arn(name), registry.partition
        for account in self.target.config.consumer_accounts:
            access = policy.effective(text, self.registry, account, arn=arn, partition=partition)
            found.append((account, access.verdict, access.words))
            self.examples.setdefault(found[-1], name)
            self.rests_on.setdefault(access.basis)
        return found

    def stays(self, name: str, text: str, principal: str) -> bool:
        """Whether a principal that loses a pull by the repository policy may pull all the same, by both policies."""
        if self.registry is None or not self.registry.text:
            return False
        arn, partition = self.target.registry.repository_arn(name), self.target.registry.partition
        return policy.effective(text, self.registry, principal, arn=arn, partition=partition).verdict == "yes"

    def answers(self, text: str) -> list[Pull]:
        """One for each account and answer. Without a repository, those of a new one below the namespace."""
        if not self.examples:
            self._asked(f"{self.target.config.namespace}/a-new-repository", text)
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
        .order_by("name", "pk")
        .only(
            "account", "name", "policy_text", "adopted_statements", "foreign_statements", "last_checked_at",
            "management", "origin", "last_in_sync_at", "mode", "mode_until",
        )
        .iterator(chunk_size=500)
    )  # fmt: skip


def _running(target: Target) -> dict[int, list[Environment]]:
    """Repository id → the environments whose current image is in it. One query."""
    current = Promotion.objects.filter(
        label="current",
        environment__archived_at=None,
        deployment__repository__in=Repository.objects.filter(target.rows).order_by().values("pk"),
    ).select_related("environment__project", "deployment")
    found: dict[int, list[Environment]] = defaultdict(list)
    for promotion in current.only(
        "environment__slug", "environment__branch", "environment__type", "environment__project__name",
        "deployment__repository",
    ):  # fmt: skip
        repository = promotion.deployment.repository_id
        if repository is not None:
            found[repository].append(promotion.environment)
    return found


def _seen_effect(
    row: Repository, effects: dict[bytes, tuple[Effect, str]], *, text: str, target: Target
) -> tuple[Effect, str]:
    """The effect on this repository, and the text with the statements of others that stay.

    `effects`: those of the texts that were compared before.
    """
    if not row.last_checked_at:
        return Effect(verdict="unseen", why=_NOT_CHECKED), text
    trust, partition = repositories.trust(row, target.config), target.registry.partition
    text_and_decided = "\n".join([row.policy_text, *sorted(trust.adopted), "", *sorted(trust.refused)])
    key = hashlib.sha256(text_and_decided.encode("utf-8", "surrogatepass")).digest()
    if key not in effects:
        whole = desired.policy_beside(text, row.policy_text, partition=partition, trust=trust)
        present = target.config.default_repository_policy
        effects[key] = _effect(row.policy_text, whole, present, partition, trust), whole
    return effects[key]


def _effect(live: str, text: str, present: str | None, partition: str, trust: policy.Trust) -> Effect:
    """`text`: with the statements of others that stay beside any default policy; `present`: without them."""
    comparison = policy.compare(live or None, text, partition=partition, names=("live", "proposed"))
    if comparison.level == "incomparable":
        return Effect(verdict="unreadable", why=comparison.why)
    foreign: tuple[str, ...] = ()
    if live and present is not None:
        present = desired.policy_beside(present, live, partition=partition, trust=trust)
        beyond = policy.compare(present, live, partition=partition).gained
        foreign = tuple(grant.words.replace(" gains ", " has ", 1) for grant in beyond[:WORDS_SHOWN])
    if comparison.level != "access":
        return Effect(verdict="unchanged", foreign=foreign)
    return Effect(
        verdict="changed",
        gained=tuple(grant.words for grant in comparison.gained),
        lost=tuple(grant.words for grant in comparison.lost),
        left_out=comparison.left_out,
        foreign=foreign,
        has_none=not live,
        pulls_lost=tuple((grant.principal, grant.words) for grant in comparison.lost if grant.of_pull),
    )
