"""The versions of each registry's default policy: proposing them, and which version a repository shall have.

The setting is the one source of texts. When the configuration that counts brings another text, that text becomes a new
`PolicyVersion`. With DEPLOY_REGISTRY_ECR_ROLLOUT=at-once the new version is active at once, everywhere. With `staged`
the active version goes on to count, and `reconcile.rollouts` brings the new version to one repository after another.

A repository has the active version, except where `Repository.policy_version` names another one. `applied` puts the
texts into the configuration and `for_repository` picks the text of one repository. No call to AWS.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from django.db.models import Count, Exists, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Now

from deployments import policy
from deployments.aws.partitions import partition_of, registry_of
from deployments.config import RegistryConfig
from deployments.images import EcrRegistry
from deployments.log import get_logger
from deployments.models import PolicyStep, PolicyText, PolicyVersion, Repository, StepState, VersionState
from deployments.policy.actions import CUSTOMARY, PULL, spelling

log = get_logger(__name__)

MOVING = (VersionState.CANARIES, VersionState.WATCHING, VersionState.BATCHES, VersionState.UNDOING)
OPEN = (VersionState.WAITING, VersionState.STOPPED, *MOVING)
_PUT_BACK = (StepState.UNDONE, StepState.KEPT, StepState.LEFT)
_NAMED = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:(root|role/.+|user/.+)")


def of_registry(registry: EcrRegistry, namespace: str) -> QuerySet[PolicyVersion]:
    """The versions of the registry with this namespace, newest first, with their texts."""
    rows = PolicyVersion.objects.filter(account=registry.account, region=registry.region, namespace=namespace)
    return rows.select_related("text").order_by("-number")


def text_row(text: str) -> PolicyText:
    """The row of a policy text."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return PolicyText.objects.get_or_create(digest=digest, defaults={"text": text})[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """A version that a person must decide about: a sentence, and the command that is the next step."""

    version: PolicyVersion
    words: str
    then: str


def in_need() -> QuerySet[PolicyVersion]:
    """The versions that wait for a person or are stopped."""
    return PolicyVersion.objects.filter(state__in=(VersionState.WAITING, VersionState.STOPPED))


def attention() -> list[Attention]:
    """The versions that wait for a person, the roll-outs that are stopped, and an undo that AWS refuses."""
    found = []
    for row in in_need():
        if row.state == VersionState.WAITING:
            words, then = f"{row} waits for a person. {row.why}", f"manage.py policy start {row.number} [--now]"
        else:
            words = f"The roll-out of version {row.number} of the default policy is stopped. {row.reason}"
            then = f"manage.py policy resume {row.number}, or manage.py policy rollback {row.number}"
        found.append(Attention(version=row, words=words, then=then))
    refused = PolicyStep.objects.filter(version__state=VersionState.UNDOING, before__isnull=False).exclude(words="")
    for step in refused.exclude(state__in=_PUT_BACK).select_related("version", "repository")[:1]:
        words = f"The undo of version {step.version.number} is not done. {step.repository.name}: {step.words}"
        found.append(Attention(version=step.version, words=words, then=f"manage.py policy show {step.version.number}"))
    return found


def described(row: PolicyVersion, *, whole: bool = False) -> dict[str, Any]:
    """A version as JSON. `whole`: with its text, its difference to the version before, and its repositories."""
    counts = dict(row.steps.order_by().values_list("state").annotate(Count("pk")))
    answer: dict[str, Any] = {
        "id": str(row.pk),
        "version": row.number,
        "registry": row.place,
        "state": row.state,
        "digest": row.text.digest,
        "proposedAt": row.proposed_at,
        "proposedBy": row.proposed_by,
        "why": row.why,
        "startedAt": row.started_at,
        "startedBy": row.started_by,
        "stage": row.stage,
        "reason": row.reason,
        "changedAt": row.changed_at,
        "changedBy": row.changed_by,
        "repositories": {state.value: counts[state] for state in StepState if state in counts},
    }
    if whole:
        answer |= {"policy": row.text.text, "differences": differences(row)}
        answer["steps"] = [
            {"repository": step.repository.name, "stage": step.stage, "state": step.state, "words": step.words}
            for step in row.steps.select_related("repository")
        ]
    return answer


def differences(row: PolicyVersion) -> list[str]:
    """What a version gives (+) and takes (-), against the version before it."""
    if row.follows is None:
        return []
    found = policy.compare(row.follows.text.text, row.text.text, partition=partition_of(row.region))
    return [
        *([found.why] if found.why else []),
        *(f"+ {grant.words}" for grant in found.gained),
        *(f"- {grant.words}" for grant in found.lost),
        *found.more,
    ]


# --------------------------------------------------------------------------------------------- which text is desired


def applied(config: RegistryConfig) -> RegistryConfig:
    """The registry's configuration with its active version and the versions of single repositories.

    As given if the registry is not ECR, or has no default policy or no version.
    """
    registry = registry_of(config.host)
    if registry is None or config.default_repository_policy is None:
        return config
    pinned = Exists(Repository.objects.filter(policy_version=OuterRef("pk")))
    counting = Q(state__in=[VersionState.ACTIVE, *OPEN]) | pinned
    rows = list(of_registry(registry, config.namespace).filter(counting))
    active = next((row for row in rows if row.state == VersionState.ACTIVE), None)
    if active is None:
        return config
    new = next((row.pk for row in rows if canaries_passed(row)), None)
    return replace(
        config,
        default_repository_policy=active.text.text,
        active_version=active.pk,
        new_version=new,
        versions=tuple((row.pk, row.text.text) for row in rows),
    )


def canaries_passed(row: PolicyVersion) -> bool:
    """Whether the canaries of an unfinished roll-out passed: then a new repository gets the version."""
    return VersionState.BATCHES in (row.state, row.resumes if row.state == VersionState.STOPPED else "")


def for_repository(config: RegistryConfig, row: Repository) -> RegistryConfig:
    """The configuration with the default policy that this repository shall have.

    As given if the row names a version that is newer than `config`: then another activation counts, so that nothing is
    written (`RepositoryLease.require_writable`).
    """
    return _with_text(config, row.policy_version_id)


def for_new_repository(config: RegistryConfig) -> RegistryConfig:
    """The configuration with the default policy that a new repository gets; its version is `config.new_version`."""
    return _with_text(config, config.new_version or config.active_version)


def _with_text(config: RegistryConfig, version: int | None) -> RegistryConfig:
    if config.active_version is None or version is None:
        return config
    return replace(
        config, default_repository_policy=dict(config.versions).get(version, config.default_repository_policy)
    )


def written_texts(config: RegistryConfig) -> set[str]:
    """The default policies that the registry has and has had.

    Without a version whose roll-out has not begun or is under way: where it was not written, it gave nothing yet.
    """
    registry = registry_of(config.host)
    if registry is None:
        return set()
    rows = of_registry(registry, config.namespace).filter(started_at__isnull=False).exclude(state__in=OPEN)
    return set(rows.values_list("text__text", flat=True))


def keep_before(row: Repository, live: str) -> None:
    """Keep what is live before the first write of the version that a roll-out gave to this repository.

    Called before the write, so that the way back survives a crash. `live`: empty if there is no policy.
    """
    if row.policy_version_id is not None:
        steps = PolicyStep.objects.filter(version=row.policy_version_id, repository=row, before=None)
        steps = steps.exclude(state=StepState.UNCHANGED)  # it had the version: what is corrected is no way back
        if steps.exists():
            steps.update(before=text_row(live))


def take_back(version: PolicyVersion) -> None:
    """Take a version from the repositories that it was given to and not written to. Their steps are planned again.

    For a roll-out that does not go on. Needs an open transaction. A process that writes the version at this moment
    still keeps what was there before (`keep_before`).
    """
    steps = PolicyStep.objects.filter(version=version, state=StepState.OPEN, before=None)
    given = Repository.objects.filter(policy_version=version, pk__in=steps.values("repository"))
    before = PolicyStep.objects.filter(version=version, repository=OuterRef("pk")).order_by().values("version_before")
    given.update(policy_version=Subquery(before[:1]), checked_digest="")
    steps.update(state=StepState.PLANNED)


# ---------------------------------------------------------------------------------------------------------- proposing


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How a new text is rolled out. `why`: the reason, in sentences."""

    starts: bool  # by itself; False: it waits for a person
    at_once: bool = False  # everywhere, without stages
    why: str = ""


def judge(
    befores: Iterable[str],
    text: str,
    *,
    partition: str,
    consumers: Iterable[str],
    consumers_before: Iterable[str] = (),
) -> Judgement:
    """How a text is rolled out over repositories that have one of the texts `befores`. Pure.

    It starts by itself if all that changes is that accounts, roles or users that it names may pull. It is active at
    once if no consumer account, of now or before, can pull by any text before and one can by the new text.
    """
    befores, of_before = list(befores), {*consumers, *consumers_before}
    able = _pullers(text, consumers, partition)
    if able and not any(_pullers(each, of_before, partition) for each in befores):
        why = f"Before, no consumer account could pull. Now {', '.join(able)} can."
        return Judgement(starts=True, at_once=True, why=why)
    words: list[str] = []
    for before in befores:
        found = policy.compare(before, text, partition=partition, names=("version before", "new version"))
        if found.level == "incomparable":
            return Judgement(starts=False, why=f"The two texts cannot be compared. {found.why}")
        if found.lost or found.more:
            return Judgement(starts=False, why=_sentence(grant.words for grant in found.lost) or _sentence(found.more))
        wider = [grant.words for grant in found.gained if not _only_adds_a_pull(grant)]
        if wider:
            return Judgement(starts=False, why=_sentence(wider))
        words += [grant.words for grant in found.gained]
    return Judgement(starts=True, why=_sentence(words) or "It gives the same access in another text.")


def _only_adds_a_pull(grant: policy.Grant) -> bool:
    pulls = all(spelling(action) in PULL | {CUSTOMARY} for action in grant.actions)
    return grant.effect == "Allow" and pulls and _NAMED.fullmatch(grant.principal) is not None


def _pullers(text: str, accounts: Iterable[str], partition: str) -> list[str]:
    """The accounts that can pull by this text, or may be able to."""
    try:
        parsed = policy.parse(text)
    except policy.PolicyError:
        return []
    return [each for each in accounts if policy.can_pull(parsed, each, partition=partition).verdict != "no"]


def _sentence(words: Iterable[str]) -> str:
    """At most five differences as one sentence."""
    every = list(dict.fromkeys(words))
    text = "; ".join(every[:5]) + (f"; and {len(every) - 5} more" if len(every) > 5 else "")
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def propose(
    config: RegistryConfig,
    *,
    staged: bool,
    by: str,
    earlier: Callable[[], Iterable[tuple[str, str]]] = tuple,
    consumers_before: Iterable[str] = (),
) -> bool:
    """Make a version of the registry's default policy, if the text is new for the registry. Needs an open transaction.

    True if a version was made or has ended: then each process must read the versions again.
    `config`: of the configuration that counts. `by`: the process or the person that brought it. `earlier`: (text, by)
    of the configurations that counted before, oldest first; they are the first versions of a registry that has none.
    `consumers_before`: the consumer accounts of the configuration that counted before.
    Raises IntegrityError if another process proposes at the same time.
    """
    registry = registry_of(config.host)
    if registry is None or config.default_repository_policy is None:
        return False
    proposal = _Proposal(
        registry=registry, config=config, staged=staged, by=by, consumers_before=tuple(consumers_before)
    )
    return proposal.make(earlier)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proposal:
    registry: EcrRegistry
    config: RegistryConfig
    staged: bool
    by: str
    consumers_before: tuple[str, ...]

    def make(self, earlier: Callable[[], Iterable[tuple[str, str]]]) -> bool:
        text = self.config.default_repository_policy or ""
        rows = of_registry(self.registry, self.config.namespace)
        if not rows.exists():
            self._make_earlier(earlier())
        newest, active = rows.first(), rows.filter(state=VersionState.ACTIVE).first()
        unfinished = rows.filter(state__in=OPEN).first()
        if unfinished is not None:
            # After an undo, `generation.propose_again` proposes the text.
            if self.staged and (unfinished.state == VersionState.UNDOING or unfinished.text.text == text):
                return False
            take_back(unfinished)
        others = self._other_texts(active)
        if active is not None and active.text.text == text and (not others or not self.staged):
            if unfinished is not None:
                _supersede(unfinished, f"The setting has the text of version {active.number} again.")
            return self._unpin() or unfinished is not None
        if newest is not None and newest.state == VersionState.UNDONE and newest.text.text == text and self.staged:
            return False  # a person put the policies back; the same setting does not start it again
        self._make_new(text, active, others, newest.number + 1 if newest else 1, unfinished)
        return True

    def _make_new(
        self, text: str, active: PolicyVersion | None, others: list[str], number: int, unfinished: PolicyVersion | None
    ) -> None:
        if unfinished is not None:
            words = "The setting has another text" if self.staged else "DEPLOY_REGISTRY_ECR_ROLLOUT is at-once"
            _supersede(unfinished, f"{words}: version {number}.")
        if active is None or not self.staged:
            why = "It is the first version." if active is None else "DEPLOY_REGISTRY_ECR_ROLLOUT is at-once."
            if active is not None:
                _supersede(active, f"Version {number} is active.")
            self._create(text, number=number, state=VersionState.ACTIVE, follows=active, why=why)
            self._unpin()
            return
        judged = judge(
            [active.text.text, *others],
            text,
            partition=self.registry.partition,
            consumers=self.config.consumer_accounts,
            consumers_before=self.consumers_before,
        )
        state = VersionState.WAITING
        if judged.starts:
            state = VersionState.BATCHES if judged.at_once else VersionState.CANARIES
        self._create(text, number=number, state=state, follows=active, why=judged.why, at_once=judged.at_once)

    def _make_earlier(self, earlier: Iterable[tuple[str, str]]) -> None:
        before = ""
        for text, by in earlier:
            if text == before:
                continue
            rows = of_registry(self.registry, self.config.namespace)
            active, number = rows.filter(state=VersionState.ACTIVE).first(), rows.count() + 1
            if active is not None:
                _supersede(active, f"Version {number} is active.")
            why = "It counted before versions were kept."
            self._create(text, number=number, state=VersionState.ACTIVE, follows=active, why=why, by=by)
            before = text

    def _create(self, text: str, *, number: int, state: str, why: str, by: str = "", **values: object) -> None:
        started = state != VersionState.WAITING
        PolicyVersion.objects.create(
            account=self.registry.account,
            region=self.registry.region,
            namespace=self.config.namespace,
            number=number,
            text=text_row(text),
            state=state,
            proposed_by=(by or self.by)[:300],
            why=why[:300],
            pauses=not started,
            started_at=Now() if started else None,
            started_by="Registry Admin" if started else "",
            **values,
        )
        write = log.warning if state == VersionState.WAITING else log.info
        write("policy_version.proposed", version=number, registry=self.config.host, state=str(state), why=why)

    def _other_texts(self, active: PolicyVersion | None) -> list[str]:
        """The texts that repositories have besides the active one: of an unfinished roll-out."""
        pinned = Repository.objects.filter(policy_version=OuterRef("pk"))
        rows = of_registry(self.registry, self.config.namespace).filter(Exists(pinned))
        return [row.text.text for row in rows if active is None or row.pk != active.pk]

    def _unpin(self) -> bool:
        rows = of_registry(self.registry, self.config.namespace).order_by()
        pinned = Repository.objects.filter(policy_version__in=rows.values("pk"))
        return bool(pinned.update(policy_version=None, checked_digest=""))


def _supersede(row: PolicyVersion, reason: str) -> None:
    PolicyVersion.objects.filter(pk=row.pk, state=row.state).update(
        state=VersionState.SUPERSEDED, reason=reason, changed_at=Now(), changed_by="Registry Admin"
    )
