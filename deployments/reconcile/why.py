"""Why a node could not pull: the layer at fault, since when, and the next command.

`explain` joins what a message says (`deployments.pull_failures`) with what the rows know, and on request with what AWS
says now, with reads only (`Look`). It writes no row, nothing to AWS, and no line of the log with
the text.

It claims a layer only where the message or an observation shows it. Where several layers remain, `possible` names them,
and the answer says that it cannot be known from here.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from deployments import clock, images, policy, pull_failures
from deployments.aws.partitions import partitions
from deployments.aws.values import DescribedImage
from deployments.config import Configuration
from deployments.errors import RegistryError
from deployments.models import Deployment, EventKind, Promotion, Repository, RepositoryEvent, RepositoryStatus
from deployments.policy import RegistryPolicy
from deployments.pull_failures import Cause, PullFailure
from deployments.reconcile import registry_policies, targets
from deployments.reconcile.targets import Target

EVENTS_READ = 50  # the newest events of a repository that kept a policy
DEPLOYMENTS_SHOWN = 5
PULL = ("ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")


class Layer(StrEnum):
    """Where a pull ends. The values are in `--json` and never change."""

    REPOSITORY_POLICY = "repository_policy"
    REGISTRY_POLICY = "registry_policy"
    IDENTITY = "identity"
    ORGANIZATION = "organization"
    LOG_IN = "log_in"
    WRONG_HOST = "wrong_host"
    NO_IMAGE = "no_image"
    ARCHIVED = "archived"
    PLATFORM = "platform"
    NETWORK = "network"
    THROTTLED = "throttled"
    NOT_OURS = "not_ours"
    UNKNOWN = "unknown"

    @property
    def words(self) -> str:
        """The layer for people."""
        return _WORDS[self]


_WORDS = {
    Layer.REPOSITORY_POLICY: "the repository policy",
    Layer.REGISTRY_POLICY: "the registry policy",
    Layer.IDENTITY: "the identity of the node (its IAM role)",
    Layer.ORGANIZATION: "a policy of the AWS organization",
    Layer.LOG_IN: "the log-in of the node",
    Layer.WRONG_HOST: "the account, region or host of the image ref",
    Layer.NO_IMAGE: "an image that does not exist",
    Layer.ARCHIVED: "an archived image",
    Layer.PLATFORM: "the platform of the image",
    Layer.NETWORK: "the network between the node and the registry",
    Layer.THROTTLED: "throttling: AWS asks for fewer requests",
    Layer.NOT_OURS: "a registry that this installation does not manage",
    Layer.UNKNOWN: "cannot be known from here",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do next. `command`: for a shell; its parts are quoted."""

    words: str
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What AWS answered to GetRepositoryPolicy, GetRegistryPolicy (with GetAccountSetting) and DescribeImages.

    `policy` None: the repository has no policy. `image` None: there is no such image.
    """

    at: datetime
    calls: Mapping[str, int]
    exists: bool | None = None  # None: AWS did not say
    policy: str | RegistryError | None = None
    registry: RegistryPolicy | RegistryError | None = None  # None: it was not asked for
    image: DescribedImage | RegistryError | None = None
    asked_for_image: bool = False

    @property
    def words(self) -> str:
        """Which calls were made, for people."""
        return ", ".join(f"{name} {number}" for name, number in sorted(self.calls.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """The answer. `certain`: the message, or an observation, leaves no other layer."""

    failure: PullFailure
    layer: Layer
    certain: bool
    says: str
    possible: tuple[Layer, ...] = ()  # the other layers that remain
    since: datetime | None = None
    since_words: str = ""
    facts: tuple[str, ...] = ()
    not_known: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    repository: Repository | None = None
    deployments: tuple[Deployment, ...] = ()
    can_look: bool = False  # AWS could be asked about this repository
    look: Look | None = None

    @property
    def title(self) -> str:
        """The layer as a heading."""
        words = self.layer.words
        if self.layer is Layer.UNKNOWN:
            return "It cannot be known from here"
        return f"{words[0].upper()}{words[1:]}" if self.certain else f"Probably {words}"

    @property
    def others(self) -> str:
        """The other layers that remain, for people; empty if none does."""
        return f"Possible too: {'; '.join(layer.words for layer in self.possible)}." if self.possible else ""

    def as_document(self) -> dict[str, Any]:
        """The answer as JSON values."""
        failure = self.failure
        names = (
            "host",
            "account",
            "region",
            "repository",
            "tag",
            "digest",
            "principal",
            "caller",
            "action",
            "platform",
        )
        return {
            "layer": self.layer.value,
            "certain": self.certain,
            "possible": [layer.value for layer in self.possible],
            "says": self.says,
            "since": self.since.isoformat() if self.since else None,
            "since_words": self.since_words,
            "facts": list(self.facts),
            "not_known": list(self.not_known),
            "next": [{"words": step.words, "command": step.command} for step in self.steps],
            "message": {
                "form": failure.shape.name if failure.shape else None,
                "cause": failure.cause.value if failure.cause else None,
                "source": failure.shape.source if failure.shape else None,
                **{name: getattr(failure, name) for name in names},
            },
            "repository": self.repository
            and {"id": self.repository.pk, "name": self.repository.name, "status": self.repository.status},
            "deployments": [
                {
                    "id": row.pk,
                    "version": str(row.version),
                    "project": row.project.ref,
                    "environment": str(row.environment),
                }
                for row in self.deployments
            ],
            "looked": {"at": self.look.at.isoformat(), "calls": dict(self.look.calls)} if self.look else None,
        }


def explain(*, text: str, configuration: Configuration, look: bool = False) -> Why:
    """Why the pull failed that this text is about. The text is at most `pull_failures.MAX_BYTES` long.

    `look`: also ask AWS, if the repository belongs to a configured registry; an error of AWS becomes a fact. Raises
    ConfigurationError if the configuration has problems.
    """
    failure = pull_failures.read(text, partitions())
    case = _Case(failure=failure, configuration=configuration)
    case.find()
    if look and case.target is not None and case.failure.repository:
        case.look = _look(case.target, case.failure)
    answer = _ANSWERS[failure.cause](case) if failure.cause else _no_form(case)
    return replace(
        answer,
        facts=(*case.facts(), *answer.facts),
        not_known=(*answer.not_known, *_not_seen(answer, case)),
        repository=case.row,
        deployments=tuple(case.deployments),
        can_look=case.target is not None and bool(case.failure.repository),
        look=case.look,
    )


# ---------------------------------------------------------------------------------------------------------- the facts


@dataclass(slots=True, kw_only=True)
class _Case:
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
        """The repository policy as of now, or else of the last check; None: it was never seen."""
        if self.look is not None and not isinstance(self.look.policy, RegistryError) and self.look.exists:
            return self.look.policy or ""
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
            seen = f"last checked {_time(row.last_checked_at)}" if row.last_checked_at else "never checked"
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
            state = f"it is current there since {_time(since)}" if since else "it is not current there"
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
            pushed = f", pushed {_time(look.image.pushed_at)}" if look.image.pushed_at else ""
            yield f"AWS says that the image exists: {look.image.status}{pushed}."
        elif look.asked_for_image and look.exists:
            yield "AWS says that the image does not exist, in no storage class."


def _look(target: Target, failure: PullFailure) -> Look:
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


def _not_seen(answer: Why, case: _Case) -> Iterator[str]:
    """What no answer about permissions can know from here."""
    layers = {answer.layer, *answer.possible}
    about_policies = layers & {Layer.REPOSITORY_POLICY, Layer.REGISTRY_POLICY} and case.failure.account
    if about_policies and case.registry is None:
        yield f"The registry policy of account {case.failure.account} was not read."
    if layers & {Layer.IDENTITY, Layer.ORGANIZATION, Layer.REGISTRY_POLICY}:
        yield "IAM policies of the node's role and policies of the AWS organization cannot be seen from here."
    if Layer.NETWORK in layers:
        yield "The network of the node and the policies of its VPC endpoints cannot be seen from here."


# --------------------------------------------------------------------------------------------- the answer of each cause


def _no_form(case: _Case) -> Why:
    return Why(
        failure=case.failure,
        layer=Layer.UNKNOWN,
        certain=False,
        says="The text has no form of message that Registry Admin knows.",
        steps=(
            Step(
                words="Paste the whole line with the reason. ErrImagePull and ImagePullBackOff alone do not have it:",
                command="kubectl describe pod NAME",
            ),
        ),
    )


def _elsewhere(case: _Case) -> Why | None:
    """The answer if the image ref names a registry that is not ours; None if the registry is ours or is not named."""
    failure = case.failure
    if case.row is not None or case.target is not None:
        return None
    if case.elsewhere and failure.partition:
        other = case.elsewhere[0]
        return Why(
            failure=failure,
            layer=Layer.WRONG_HOST,
            certain=True,
            says=f"The image ref names account {failure.account} in {failure.region}, but the repository "
            f"{failure.repository} that is known here is in account {other.account}, region {other.region}.",
            steps=(Step(words=f"Use this in the image ref: {other.host}/{other.name}"),),
        )
    configured = {config.host for config in case.configuration.registries}
    if failure.host in configured:
        return None
    if failure.host and not failure.partition:
        return _wrong_host(case) if _resembles_ecr(failure.host) else _not_ours(case, failure.host)
    if failure.account and failure.region:
        ours = {(each.registry.account, each.registry.region) for each in targets.configured(case.configuration)}
        if (failure.account, failure.region) not in ours:
            return _not_ours(case, f"account {failure.account} in {failure.region}")
    return None


def _not_ours(case: _Case, what: str) -> Why:
    return Why(
        failure=case.failure,
        layer=Layer.NOT_OURS,
        certain=True,
        says=f"The image is in the registry {what}, which this installation does not manage.",
        steps=(Step(words="Ask the operator of that registry, or correct the image ref."),),
    )


def _resembles_ecr(host: str) -> bool:
    return ".dkr.ecr" in host or ".dkr-ecr" in host


def _wrong_host(case: _Case) -> Why:
    known = sorted({config.host for config in case.configuration.registries if config.host})
    return Why(
        failure=case.failure,
        layer=Layer.WRONG_HOST,
        certain=True,
        says=f"{case.failure.host} is not the name of an ECR registry in any AWS partition.",
        steps=(Step(words=f"Correct the host in the image ref. Configured here: {', '.join(known)}."),)
        if known
        else (),
    )


def _granted_by_no_resource_policy(case: _Case) -> Why:
    if elsewhere := _elsewhere(case):
        return elsewhere
    failure, text = case.failure, case.policy_text
    who = _who(failure)
    says = f"AWS says that no resource policy allows {who} to use {failure.action or 'the repository'}."
    if text is None or not failure.caller:
        return _by_policy(case, says, certain=True)
    answer = case.answer(text, failure.principal or failure.caller)
    if answer.verdict == "no":
        since, words = _since(case)
        return replace(
            _by_policy(case, says, certain=True), since=since, since_words=words, facts=(_agrees(case, answer),)
        )
    if answer.verdict == "yes":
        since, words = _allowed_since(case)
        says += " The policy that was seen last allows it, so the policy was another one when the node asked."
        return replace(
            _by_policy(case, says, certain=True, steps=(Step(words="Let the node try again."), *_look_step(case))),
            since=since, since_words=words, facts=(_agrees(case, answer),),
        )  # fmt: skip
    return replace(_by_policy(case, says, certain=True), facts=(_agrees(case, answer),))


def _denied_by_resource_policy(case: _Case) -> Why:
    if elsewhere := _elsewhere(case):
        return elsewhere
    failure, text = case.failure, case.policy_text
    says = f"AWS says that a resource policy explicitly denies {failure.action or 'the pull'} to {_who(failure)}."
    if text is None or not failure.caller:
        return replace(_by_policy(case, says, certain=False), possible=(Layer.REGISTRY_POLICY,))
    answer = case.answer(text, failure.principal or failure.caller)
    if answer.verdict == "no" and answer.statement is not None:
        since, words = _since(case)
        return replace(
            _by_policy(case, says, certain=True), since=since, since_words=words, facts=(_agrees(case, answer),)
        )
    if answer.verdict == "depends":
        return replace(
            _by_policy(case, says, certain=False), possible=(Layer.REGISTRY_POLICY,), facts=(_agrees(case, answer),)
        )
    access = case.access(failure.principal or failure.caller)
    if access.verdict == "no" and access.layer == policy.REGISTRY:
        return replace(
            _by_registry_policy(case, says, certain=True), facts=(_agrees(case, answer), _by_both(case, access)),
        )  # fmt: skip
    return replace(
        _by_registry_policy(
            case,
            f"{says} The repository policy that was seen last has no such Deny, so it is in the registry policy, or "
            "the repository policy was changed.",
            certain=False,
        ),
        possible=(Layer.REPOSITORY_POLICY,),
        facts=(_agrees(case, answer),),
    )


def _by_registry_policy(case: _Case, says: str, *, certain: bool) -> Why:
    read = Step(words="Read the registry policy:", command=_aws(case, "get-registry-policy", repository=False))
    return Why(
        failure=case.failure,
        layer=Layer.REGISTRY_POLICY,
        certain=certain,
        says=says,
        steps=(read, *_look_step(case)),
    )


def _refused(case: _Case) -> Why:
    """403 without the kind of policy: the observed repository policy decides what can be said."""
    if elsewhere := _elsewhere(case):
        return elsewhere
    failure, text = case.failure, case.policy_text
    if case.is_other:
        return replace(
            _no_log_in(case), says=f"The registry {failure.host} refused the log-in of the node.", possible=()
        )
    others: tuple[Layer, ...] = (Layer.REGISTRY_POLICY, Layer.IDENTITY, Layer.ORGANIZATION, Layer.LOG_IN, Layer.NETWORK)
    unknown = Why(
        failure=failure,
        layer=Layer.UNKNOWN,
        certain=False,
        possible=(Layer.REPOSITORY_POLICY, *others),
        says="The registry refused the pull, and the message does not say why.",
        steps=_full_message(case),
    )
    if text is None:
        return unknown
    consumers = case.target.config.consumer_accounts if case.target else ()
    callers = [failure.principal or failure.caller] if failure.caller else consumers
    answers = {caller: case.answer(text, caller) for caller in callers}
    facts = tuple(_agrees(case, answer) for answer in answers.values())
    verdicts = {answer.verdict for answer in answers.values()}
    both = [case.access(caller) for caller in callers] if failure.action in ("", *PULL) else []
    facts += tuple(_by_both(case, access) for access in both if access.layer == policy.REGISTRY)
    if both and all(access.verdict == "no" and access.layer == policy.REGISTRY for access in both):
        who = _who(failure) if failure.caller else "the configured consumer accounts"
        says = f"The registry refused the pull, and the registry policy denies it to {who}."
        return replace(
            _by_registry_policy(case, says, certain=bool(failure.caller)),
            facts=facts,
            possible=() if failure.caller else (Layer.REPOSITORY_POLICY, *others[1:]),
        )
    allowed = bool(both) and all(access.verdict == "yes" for access in both)
    if allowed:
        others = others[1:]  # both policies were read, and together they allow the pull
    own = failure.caller == failure.account != ""
    if own and all(answer.statement is None for answer in answers.values()):
        return replace(
            unknown,
            layer=Layer.IDENTITY,
            possible=(Layer.REGISTRY_POLICY, Layer.ORGANIZATION, Layer.NETWORK),
            says="The node's role is of the registry's own account, which needs no repository policy: its own IAM "
            "policy has to allow the pull.",
            steps=_identity_steps(case),
        )
    if verdicts == {"no"} and not allowed:
        since, words = _since(case)
        who = _who(failure) if failure.caller else "the configured consumer accounts"
        says = f"The registry refused the pull, and the repository policy does not let {who} pull."
        return replace(
            _by_policy(case, says, certain=bool(failure.caller)),
            facts=facts, since=since, since_words=words, possible=() if failure.caller else others,
        )  # fmt: skip
    if verdicts == {"yes"} or allowed:
        who = _who(failure) if failure.caller else "each configured consumer account"
        return replace(
            unknown,
            possible=others if failure.caller else (*others, Layer.REPOSITORY_POLICY),
            facts=facts,
            says=f"The registry refused the pull, but {_allowing(allowed)} {who} pull. Another layer refused it; "
            "the message does not say which one."
            + ("" if failure.caller else " A node of another account is refused by the repository policy."),
        )
    return replace(unknown, facts=facts)


def _identity(case: _Case) -> Why:
    failure = case.failure
    return Why(
        failure=failure,
        layer=Layer.IDENTITY,
        certain=True,
        says=f"The IAM side of {_who(failure)} does not allow {failure.action or 'the pull'}. "
        "A repository policy cannot correct this.",
        steps=_identity_steps(case),
    )


def _organization(case: _Case) -> Why:
    return Why(
        failure=case.failure,
        layer=Layer.ORGANIZATION,
        certain=True,
        says="A service control policy or a resource control policy of the AWS organization refuses the request.",
        steps=(Step(words="Ask the administrators of the AWS organization; the message names the kind of policy."),),
    )


def _endpoint_policy(case: _Case) -> Why:
    return Why(
        failure=case.failure,
        layer=Layer.NETWORK,
        certain=True,
        says="The policy of the VPC endpoint that the node uses refuses the request.",
        steps=(_endpoints(case),),
    )


def _log_in_expired(case: _Case) -> Why:
    # GetAuthorizationToken: “The authorization token is valid for 12 hours.”
    return Why(
        failure=case.failure,
        layer=Layer.LOG_IN,
        certain=True,
        says="The log-in that the node sent has expired: a log-in for ECR is valid for 12 hours.",
        steps=_log_in_steps(case),
    )


def _no_log_in(case: _Case) -> Why:
    return Why(
        failure=case.failure,
        layer=Layer.LOG_IN,
        certain=False,
        possible=(Layer.IDENTITY,),
        says="The node sent no log-in that the registry knows. Its credential provider is missing or failed, or its "
        "role may not get a log-in (ecr:GetAuthorizationToken).",
        steps=_log_in_steps(case),
    )


def _no_repository(case: _Case) -> Why:
    if elsewhere := _elsewhere(case):
        return elsewhere
    failure, row = case.failure, case.row
    says = f"The registry has no repository {failure.repository or 'of this name'}."
    if row is not None and row.status == RepositoryStatus.MISSING:
        event = row.events.filter(kind=EventKind.MISSING).first()
        return Why(
            failure=failure, layer=Layer.NO_IMAGE, certain=True, says=says,
            since=event.at if event else None,
            since_words="A check found then that it was deleted." if event else "",
            steps=(Step(words="The next deploy makes the repository again; its images are gone. Deploy again."),),
        )  # fmt: skip
    if case.look is not None and case.look.exists:
        return Why(
            failure=failure,
            layer=Layer.UNKNOWN,
            certain=False,
            possible=(Layer.WRONG_HOST,),
            says=f"The registry has the repository {failure.repository} now. It was made after the node asked.",
            steps=(Step(words="Let the node try again."),),
        )
    steps = (
        (Step(words="List the repositories:", command=_aws(case, "describe-repositories")),) if failure.account else ()
    )
    return Why(failure=failure, layer=Layer.NO_IMAGE, certain=True, says=says, steps=(*steps, *_look_step(case)))


def _no_image(case: _Case) -> Why:
    if elsewhere := _elsewhere(case):
        return elsewhere
    failure, look = case.failure, case.look
    what = failure.digest or (f"the tag {failure.tag}" if failure.tag else "this image")
    why = Why(
        failure=failure,
        layer=Layer.NO_IMAGE,
        certain=False,
        possible=(Layer.ARCHIVED,),
        says=f"The registry does not give out {what}: it does not exist, or it is archived. AWS answers both alike.",
        steps=_image_steps(case),
    )
    if case.is_other:
        says = f"The registry {failure.host} does not have {what}."
        return replace(why, certain=True, possible=(), says=says, steps=_deploy_again(case))
    if look is None or not look.asked_for_image or isinstance(look.image, RegistryError):
        return replace(why, steps=(*_look_step(case), *why.steps))
    if look.image is None:
        return replace(
            why, certain=True, possible=(), says=f"The registry does not have {what}.", steps=_deploy_again(case)
        )
    if look.image.status == "ACTIVATING":
        says = f"The image {what} is being restored from the archive of ECR. Until it is active, nothing can pull it."
        again = (Step(words="Let the node try again later."),)
        return replace(why, layer=Layer.ARCHIVED, certain=True, possible=(), says=says, steps=again)
    if look.image.status != "ACTIVE":
        return replace(
            why, layer=Layer.ARCHIVED, certain=True, possible=(), since=look.image.archived_at,
            since_words="It was archived then." if look.image.archived_at else "",
            says=f"The image {what} is in the archive of ECR ({look.image.status}), from which nothing can be pulled.",
            steps=(Step(words="Restore it; that can take some time:", command=_restore(case)),),
        )  # fmt: skip
    return replace(
        why,
        layer=Layer.UNKNOWN,
        possible=(Layer.WRONG_HOST,),
        says=f"The registry has {what} now. It came after the node asked, or the node asked a mirror.",
        steps=(Step(words="Let the node try again."),),
    )


def _platform(case: _Case) -> Why:
    wanted = case.failure.platform
    facts = tuple(
        f"Deployment {row.version} was built for {row.image_platform}."
        for row in case.deployments
        if row.image_platform
    )
    return Why(
        failure=case.failure,
        layer=Layer.PLATFORM,
        certain=True,
        says=f"The image exists, but has no variant for {wanted or 'the platform of the node'}.",
        facts=facts,
        steps=(
            Step(words="Compare the platforms of the image with the node's:", command=_inspect(case)),
            Step(
                words="Build for the node's platform (docker buildx build --platform), or use a node of another type."
            ),
        ),
    )


def _layer_storage(case: _Case) -> Why:
    # ECR User Guide, “Amazon ECR interface VPC endpoints”: the bucket is prod-REGION-starport-layer-bucket.
    return Why(
        failure=case.failure,
        layer=Layer.NETWORK,
        certain=True,
        says="The registry allowed the pull, but Amazon S3, which stores the layers, refused the download. Usually the "
        "policy of the S3 endpoint of the node's network does not allow the bucket of ECR.",
        steps=(_endpoints(case),),
    )


def _no_host(case: _Case) -> Why:
    failure = case.failure
    if failure.host and not failure.partition and _resembles_ecr(failure.host):
        return _wrong_host(case)
    return replace(
        _network(case),
        says=f"The name {failure.host or 'of the registry'} has no address on the node: its DNS does not answer, or "
        "its network has no private DNS for the endpoint of ECR.",
    )


def _certificate(case: _Case) -> Why:
    return replace(
        _network(case),
        says="The node does not trust the certificate that it was shown. Usually a proxy replaces the certificate, or "
        "the node's list of certificate authorities is too old.",
    )


def _network(case: _Case) -> Why:
    host = case.failure.host
    url = shlex.quote(f"https://{host}/v2/")
    reach = Step(words="From the node:", command=f"curl -sS -o /dev/null -w '%{{http_code}}\\n' {url}")
    return Why(
        failure=case.failure,
        layer=Layer.NETWORK,
        certain=True,
        says=f"The node did not reach {host or 'the registry'}, its API, or the storage of its layers. No policy is at "
        "fault.",
        steps=(*([reach] if host else []), _endpoints(case)),
    )


def _throttled(case: _Case) -> Why:
    return Why(
        failure=case.failure,
        layer=Layer.THROTTLED,
        certain=True,
        says="The registry asked for fewer requests. The same pull can succeed later.",
        steps=(Step(words="Wait; start fewer nodes at once, or ask AWS for a higher quota of the refused call."),),
    )


_ANSWERS: dict[Cause, Callable[[_Case], Why]] = {
    Cause.GRANTED_BY_NO_RESOURCE_POLICY: _granted_by_no_resource_policy,
    Cause.DENIED_BY_RESOURCE_POLICY: _denied_by_resource_policy,
    Cause.IDENTITY: _identity,
    Cause.ORGANIZATION: _organization,
    Cause.ENDPOINT_POLICY: _endpoint_policy,
    Cause.REFUSED: _refused,
    Cause.LOG_IN_EXPIRED: _log_in_expired,
    Cause.NO_LOG_IN: _no_log_in,
    Cause.NO_REPOSITORY: _no_repository,
    Cause.NO_IMAGE: _no_image,
    Cause.PLATFORM: _platform,
    Cause.LAYER_STORAGE: _layer_storage,
    Cause.NO_HOST: _no_host,
    Cause.CERTIFICATE: _certificate,
    Cause.NETWORK: _network,
    Cause.THROTTLED: _throttled,
}


# -------------------------------------------------------------------------------------------------------------- history


def _since(case: _Case) -> tuple[datetime | None, str]:
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


def _allowed_since(case: _Case) -> tuple[datetime | None, str]:
    """When a policy that refused was replaced, where the policy allows it now."""
    principal = case.failure.principal or case.failure.caller
    for event in _with_policy(case.row) if case.row else ():
        if case.answer(event.policy_before, principal).verdict == "no":
            return event.at, f"Until then the policy refused it: {event.message}"
    return None, ""


def _with_policy(row: Repository) -> Iterable[RepositoryEvent]:
    return row.events.exclude(policy_before="")[:EVENTS_READ]


# --------------------------------------------------------------------------------------------------- words and commands


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else ""


def _who(failure: PullFailure) -> str:
    return failure.principal or (f"account {failure.caller}" if failure.caller else "the node")


def _by_both(case: _Case, access: policy.Access) -> str:
    """The verdict of the repository policy and the registry policy together, with the age of the second."""
    at = f" (the registry policy as read {_time(case.registry_read_at)})" if case.registry_read_at else ""
    return f"By both policies{at}: {access.words}"


def _allowing(both: bool) -> str:
    """The policies that allow a pull, as the subject of a sentence."""
    return "the repository policy and the registry policy let" if both else "the repository policy lets"


def _agrees(case: _Case, answer: policy.Answer) -> str:
    """The verdict of the observed policy, with its time."""
    return f"By the repository policy as seen {_time(case.seen_at)}: {answer.words}"


def _by_policy(case: _Case, says: str, *, certain: bool, steps: tuple[Step, ...] = ()) -> Why:
    row = case.row
    if not steps:
        look = Step(words="Read the policy:", command=_aws(case, "get-repository-policy"))
        steps = (_write_again(case, row), look) if row is not None and row.is_managed else (look,)
    return Why(failure=case.failure, layer=Layer.REPOSITORY_POLICY, certain=certain, says=says, steps=steps)


def _write_again(case: _Case, row: Repository) -> Step:
    command = f"python manage.py reconcile {shlex.quote(row.name)}"
    default = case.target.config.default_repository_policy if case.target else None
    principal = case.failure.principal or case.failure.caller
    verdict = case.answer(default or "", principal).verdict if principal else "depends"
    if verdict == "yes":
        return Step(words="The default policy allows it. Write the policy again:", command=command)
    if verdict == "no":
        return Step(
            words="The default policy does not allow it either. Add the account of the node to "
            "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY, restart, and write the policy again:",
            command=command,
        )
    return Step(words="If the default policy allows it, write the policy again:", command=command)


def _aws(case: _Case, operation: str, *more: str, repository: bool = True) -> str:
    """A command of AWS's CLI about the repository. A part that the message does not name is a word in capitals."""
    failure = case.failure
    words = ["aws", "ecr", operation]
    if repository:
        name = failure.repository or "NAME"
        words += ["--registry-id", failure.account or "ACCOUNT"]
        words += ["--repository-names" if operation == "describe-repositories" else "--repository-name", name]
    return shlex.join([*words, *more, "--region", failure.region or "REGION"])


def _look_step(case: _Case) -> tuple[Step, ...]:
    if case.look is not None or case.target is None or not case.failure.repository:
        return ()
    return (Step(words="Ask AWS about the repository and the image now:", command=_LOOK),)


_LOOK = "python manage.py why --look -"


def _image_id(case: _Case) -> str:
    failure = case.failure
    return f"imageDigest={failure.digest}" if failure.digest else f"imageTag={failure.tag or 'TAG'}"


def _image_steps(case: _Case) -> tuple[Step, ...]:
    more = ("--image-ids", _image_id(case), "--filter", "imageStatus=ANY")
    return (Step(words="With AWS's CLI:", command=_aws(case, "describe-images", *more)), *_deploy_again(case))


def _deploy_again(case: _Case) -> tuple[Step, ...]:
    if case.current:
        return (Step(words="The image is current: roll back to a deployment whose image exists, or deploy again."),)
    return (Step(words="Correct the tag or the digest, or deploy again."),)


def _restore(case: _Case) -> str:
    return _aws(case, "update-image-storage-class", "--image-id", _image_id(case), "--target-storage-class", "STANDARD")


def _inspect(case: _Case) -> str:
    failure = case.failure
    end = f"@{failure.digest}" if failure.digest else f":{failure.tag or 'TAG'}"
    image = f"{failure.host}/{failure.repository}{end}" if failure.host and failure.repository else "IMAGE"
    return shlex.join(["docker", "buildx", "imagetools", "inspect", image])


def _full_message(case: _Case) -> tuple[Step, ...]:
    """docker shows AWS's reason, which containerd and ECS leave out."""
    host, region = case.failure.host or "HOST", case.failure.region or "REGION"
    pull = shlex.join(["docker", "pull", f"{host}/{case.failure.repository or 'NAME'}:{case.failure.tag or 'TAG'}"])
    return (
        Step(words="docker shows AWS's reason, which containerd and ECS leave out. With the node's role:"),
        Step(words="log in,", command=_docker_log_in(host, region)),
        Step(words="pull, and paste the answer here.", command=pull),
        *_look_step(case),
    )


def _docker_log_in(host: str, region: str) -> str:
    log_in = shlex.join(["aws", "ecr", "get-login-password", "--region", region])
    return f"{log_in} | {shlex.join(['docker', 'login', '--username', 'AWS', '--password-stdin', host])}"


def _log_in_steps(case: _Case) -> tuple[Step, ...]:
    if case.is_other:
        return (
            Step(words="Log in to the registry again:", command=shlex.join(["docker", "login", case.failure.host])),
        )
    return (
        Step(
            words="docker: log in again, or install the credential helper of ECR.",
            command=_docker_log_in(case.failure.host or "HOST", case.failure.region or "REGION"),
        ),
        Step(words="kubelet: look at its credential provider.", command="journalctl -u kubelet | grep -i credential"),
        Step(words="The node's role needs ecr:GetAuthorizationToken in its IAM policy."),
    )


def _identity_steps(case: _Case) -> tuple[Step, ...]:
    failure = case.failure
    action = failure.action or "ecr:BatchGetImage"
    role = _role_of(failure)
    resource = (
        f"arn:{failure.partition or 'aws'}:ecr:{failure.region}:{failure.account}:repository/{failure.repository}"
    )
    on = [] if action == "ecr:GetAuthorizationToken" or not failure.repository else ["--resource-arns", resource]
    simulate = ["aws", "iam", "simulate-principal-policy", "--policy-source-arn", role or "ROLE_ARN"]
    return (
        Step(
            words=f"Add {action} to the IAM policy of the role, and look at its permissions boundary. A pull needs "
            "ecr:GetAuthorizationToken, ecr:BatchGetImage and ecr:GetDownloadUrlForLayer.",
        ),
        Step(
            words="In the account of the role, AWS says what its policies allow:",
            command=shlex.join([*simulate, "--action-names", action, *on]),
        ),
    )


def _role_of(failure: PullFailure) -> str:
    """The ARN of the role of a session; a role's path is not in it. A user's ARN is its own."""
    kind, _, rest = failure.principal.rpartition(":")[2].partition("/")
    if kind != "assumed-role":
        return failure.principal
    partition = failure.principal.split(":")[1]
    return f"arn:{partition}:iam::{failure.caller}:role/{rest.partition('/')[0]}"


def _endpoints(case: _Case) -> Step:
    region = case.failure.region or "REGION"
    services = ",".join(f"com.amazonaws.{region}.{each}" for each in ("ecr.api", "ecr.dkr", "s3"))
    return Step(
        words="Look at the route, the security groups and, in a network without internet access, at its endpoints for "
        "ecr.api, ecr.dkr and S3, with their policies:",
        command=shlex.join(
            [
                "aws",
                "ec2",
                "describe-vpc-endpoints",
                "--filters",
                f"Name=service-name,Values={services}",
                "--region",
                region,
            ]
        ),
    )
