"""What is known about a message of a failed pull: from the rows, from their history, and on request from AWS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from deployments import clock, images, policy
from deployments.aws.values import DescribedImage
from deployments.config import Configuration
from deployments.errors import RegistryError
from deployments.models import Deployment, EventKind, Promotion, Repository, RepositoryEvent, RepositoryStatus
from deployments.policy import RegistryPolicy
from deployments.pull_failures import PullFailure
from deployments.reconcile import registry_policies, targets
from deployments.reconcile.targets import Target
from deployments.reconcile.why.answer import Look

EVENTS_READ = 50  # the newest events of a repository that kept a policy


DEPLOYMENTS_SHOWN = 5


@dataclass(slots=True, kw_only=True)
class Case:
    """A message with what the rows know of its repository and its image."""

    failure: PullFailure
    configuration: Configuration
    target: Target | None = None
    row: Repository | None = None
    elsewhere: list[Repository] = field(default_factory=list)  # of the same name, in another registry
    deployments: list[Deployment] = field(default_factory=list)
    current: dict[str, datetime] = field(default_factory=dict)  # deployment → since when it is current
    look: Look | None = None

    def find(self) -> None:
        """Read the rows. A message that names no region is completed if only one repository fits."""
        failure = self.failure
        if failure.repository:
            named = list(Repository.objects.select_related("project").filter(name=failure.repository)[:100])
            here = [row for row in named if failure.account in ("", row.account) and failure.region in ("", row.region)]
            if not failure.host or failure.partition:
                self.row = here[0] if len(here) == 1 else None
            self.elsewhere = [row for row in named if row not in here]
        if self.row is not None:
            row = self.row
            self.failure = replace(failure, account=row.account, region=row.region, host=failure.host or row.host)
            self.target = targets.of(row, self.configuration)
        elif failure.account and failure.region and failure.repository:
            self.target = targets.find(
                self.configuration, account=failure.account, region=failure.region, name=failure.repository
            )
        self._find_deployments()

    def _find_deployments(self) -> None:
        rows = Deployment.objects.select_related("project", "environment").order_by("-created_at")
        tag = images.parse_tag(self.failure.tag)
        if self.failure.digest:
            rows = rows.filter(image_digest=self.failure.digest)
        elif tag and self.row is not None and self.row.project_id:
            rows = rows.filter(project=self.row.project_id, short_code=tag.short_code)
        else:
            return
        self.deployments = list(rows.defer("error", "receipt", "git")[:DEPLOYMENTS_SHOWN])
        self.current = dict(
            Promotion.objects.filter(deployment__in=self.deployments).values_list("deployment_id", "promoted_at")
        )

    @property
    def is_other(self) -> bool:
        """Whether the registry is none of ECR's."""
        return bool(self.failure.host) and not self.failure.partition

    @property
    def policy_text(self) -> str | None:
        """The repository policy as of now, or else of the last check; None: none was seen, or AWS has no repository."""
        if self.look is not None and not isinstance(self.look.policy, RegistryError):
            return (self.look.policy or "") if self.look.exists else None
        row = self.row
        missing = row is not None and row.status == RepositoryStatus.MISSING and not row.policy_text
        if row is None or row.last_checked_at is None or missing:
            return None
        return row.policy_text

    @property
    def registry(self) -> RegistryPolicy | None:
        """The registry policy as of now, or else as it was last read; None: it is not known."""
        if self.look is not None and isinstance(self.look.registry, RegistryPolicy):
            return self.look.registry
        return registry_policies.seen(account=self.failure.account, region=self.failure.region)

    @property
    def registry_read_at(self) -> datetime | None:
        """When `registry` was read; None: it is not known."""
        if self.look is not None and isinstance(self.look.registry, RegistryPolicy):
            return self.look.at
        row = registry_policies.reading(account=self.failure.account, region=self.failure.region)
        return None if row is None or row.error else row.read_at

    def access(self, principal: str) -> policy.Access:
        """Whether the principal can pull by both policies, as far as they are known."""
        failure = self.failure
        partition = failure.partition or "aws"
        arn = f"arn:{partition}:ecr:{failure.region}:{failure.account}:repository/{failure.repository}"
        return policy.effective(self.policy_text, self.registry, principal, arn=arn, partition=partition)

    @property
    def seen_at(self) -> datetime | None:
        """When `policy_text` was read."""
        if self.look is not None and not isinstance(self.look.policy, RegistryError):
            return self.look.at
        return self.row.last_checked_at if self.row else None

    def answer(self, text: str, principal: str) -> policy.Answer:
        """Whether a repository policy alone lets the principal do what the message says was refused (else: pull)."""
        partition = self.failure.partition or "aws"
        try:
            parsed = policy.parse(text or '{"Version": "2012-10-17", "Statement": []}')
        except policy.PolicyError as error:
            return policy.Answer(verdict="depends", statement=None, words=f"The policy cannot be understood: {error}")
        if self.failure.action:
            return policy.may(parsed, principal, self.failure.action, partition=partition)
        return policy.can_pull(parsed, principal, partition=partition)

    def facts(self) -> Iterator[str]:
        """What is known of the repository and the image, in sentences."""
        row, failure = self.row, self.failure
        if row is not None:
            seen = f"last checked {time_words(row.last_checked_at)}" if row.last_checked_at else "never checked"
            state = row.get_status_display().lower()
            yield f"Repository {row.name} of account {row.account} in {row.region}: {state}, {seen}."
        elif self.target is not None:
            yield (
                f"Account {failure.account} in {failure.region} is a configured registry, but no repository "
                f"{failure.repository} is known there."
            )
        for other in self.elsewhere[:3] if row is None else ():
            yield f"A repository of this name is in account {other.account}, region {other.region}."
        for deployment in self.deployments:
            since = self.current.get(deployment.pk)
            state = f"it is current there since {time_words(since)}" if since else "it is not current there"
            where = f"{deployment.project}/{deployment.environment}"
            yield f"The image is of deployment {deployment.version} of {where}; {state}."
        if failure.digest and not self.deployments:
            yield f"No deployment has the digest {failure.digest}."
        if self.look is not None:
            yield from self._looked()

    def _looked(self) -> Iterator[str]:
        look = self.look
        assert look is not None  # noqa: S101  # the caller has checked it
        if isinstance(look.registry, RegistryError):
            yield f"AWS did not show the registry policy: {look.registry}"
        if isinstance(look.policy, RegistryError):
            yield f"AWS did not show the repository policy: {look.policy}"
        elif look.exists is False:
            yield "AWS says that the repository does not exist."
        if isinstance(look.image, RegistryError):
            yield f"AWS did not say whether the image exists: {look.image}"
        elif isinstance(look.image, DescribedImage):
            pushed = f", pushed {time_words(look.image.pushed_at)}" if look.image.pushed_at else ""
            yield f"AWS says that the image exists: {look.image.status}{pushed}."
        elif look.asked_for_image and look.exists:
            yield "AWS says that the image does not exist in any storage class."


def ask_aws(target: Target, failure: PullFailure) -> Look:
    """Ask AWS for the policies and the image: at most four reads, side by side."""
    counted = Counter[str]()
    ecr = target.ecr(answered=lambda operation, code: counted.update([operation]))
    asks_for_image = bool(failure.digest or failure.tag)
    questions: list[Callable[[], Any]] = [
        lambda: ecr.observe(failure.repository, details=False),
        ecr.registry_policy,
    ]
    if asks_for_image:
        questions.append(lambda: ecr.image(failure.repository, digest=failure.digest, tag=failure.tag))
    at = clock.now()
    observed, registry, *rest = ecr.side_by_side(questions)
    calls = dict(counted)
    image = rest[0] if rest else None
    if isinstance(observed, RegistryError):
        found = Look(at=at, calls=calls, policy=observed)
    else:
        exists = True if isinstance(observed.policy, RegistryError) else observed.exists
        found = Look(at=at, calls=calls, exists=exists, policy=observed.policy)
    return replace(found, registry=registry, image=image, asked_for_image=asks_for_image)


def refused_since(case: Case) -> tuple[datetime | None, str]:
    """Since when the repository policy refuses, as far as the history of the repository shows it.

    An event keeps the policy that it found. The newest of them that allowed it was changed at that time or later.
    """
    row = case.row
    if row is None:
        return None, ""
    principal = case.failure.principal or case.failure.caller
    if not principal:
        return row.drifted_since, "The repository has drifted since then." if row.drifted_since else ""
    for event in _with_policy(row):
        if case.answer(event.policy_before, principal).verdict != "yes":
            continue
        by = f" ({event.cause})" if event.cause else ""
        if event.kind == EventKind.DRIFT_FOUND:
            return event.at, "The policy of that time allowed it; it was changed then or later."
        return event.at, f"A write replaced a policy that allowed it{by}: {event.message}"
    target = case.target
    default = target.config.default_repository_policy if target else None
    if default and row.drifted_since and case.answer(default, principal).verdict == "yes":
        return row.drifted_since, "The policy was found changed then; the default policy allows it."
    return None, "The history of the repository has no policy that allowed it."


def allowed_since(case: Case) -> tuple[datetime | None, str]:
    """When a policy that refused was replaced, where the policy allows it now."""
    principal = case.failure.principal or case.failure.caller
    for event in _with_policy(case.row) if case.row else ():
        if case.answer(event.policy_before, principal).verdict == "no":
            return event.at, f"Until then the policy refused it: {event.message}"
    return None, ""


def _with_policy(row: Repository) -> Iterable[RepositoryEvent]:
    return row.events.exclude(policy_before="")[:EVENTS_READ]


def time_words(moment: datetime | None) -> str:
    """A time for people; empty for None."""
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else ""
