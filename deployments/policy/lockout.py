"""Does a Deny keep Registry Admin itself out? By statement: always, under a condition, or never.

ECR refuses a repository policy that would keep its writer from writing another one (*Amazon ECR API Reference*,
SetRepositoryPolicy, parameter `force`, which this program never sets). A Deny on another action that we need is stored,
and each later check or deploy fails with AccessDenied.

Only a Deny matters here: a principal of the registry's own account needs no Allow of a repository policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deployments.policy import words
from deployments.policy.actions import KNOWN, expand_all
from deployments.policy.atoms import EVERYONE, AllExcept, Principal, Subject, Who, principal_of, subjects
from deployments.policy.conditions import condition_of
from deployments.policy.context import all_of, any_of, holds
from deployments.policy.document import Policy, Statement
from deployments.policy.evaluate import EVERY_REQUEST
from deployments.policy.findings import place_of

SET_POLICY = "ecr:setrepositorypolicy"
_NEEDED = """
    BatchCheckLayerAvailability BatchGetImage CompleteLayerUpload DescribeImages DescribeRepositories
    GetDownloadUrlForLayer GetLifecyclePolicy GetLifecyclePolicyPreview GetRepositoryPolicy InitiateLayerUpload
    ListImages ListTagsForResource PutImage PutImageTagMutability PutLifecyclePolicy SetRepositoryPolicy
    StartLifecyclePolicyPreview TagResource UpdateImageStorageClass UploadLayerPart
"""
#: What Registry Admin and the credentials of a deploy do on a repository that exists: docs/iam-policy.json, lower case.
NEEDED = frozenset(f"ecr:{name.lower()}" for name in _NEEDED.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Lockout:
    """One Deny that is about the writer. `certain` False: it depends on `condition`, or on who exactly writes."""

    statement: Statement
    actions: frozenset[str]  # those of NEEDED that it denies
    certain: bool
    condition: str  # in words; empty: none

    @property
    def place(self) -> str:
        """The statement as the subject of a sentence."""
        return place_of(self.statement)

    @property
    def of_the_policy(self) -> bool:
        """Whether the Deny is about ecr:SetRepositoryPolicy, so that ECR refuses the text."""
        return SET_POLICY in self.actions


def lockouts(policy: Policy, *, writer: str | None, partition: str) -> Iterator[Lockout]:
    """The Denies that keep out the identity that writes the policy, or may do so.

    `writer`: the ARN of a role or the 12 digits of an account; None: not known, so only a Deny for everyone counts.
    """
    identity = None if writer is None else principal_of("AWS", writer, partition=partition)
    for statement in policy.statements:
        denied = _actions(statement) & NEEDED if statement.effect == "Deny" else frozenset()
        if not denied:
            continue
        meant = any_of(_covers(one, identity) for one in subjects(statement, policy, partition=partition))
        condition = condition_of(statement.conditions, policy.version)
        held = all_of(holds(test, _facts(identity)) for test in condition.tests)
        applies = all_of((meant, held))
        if applies is not False:
            yield Lockout(
                statement=statement,
                actions=denied,
                certain=applies is True and not statement.puzzles,
                condition="" if held else words.of_condition(condition).strip().removeprefix("only "),
            )


def _actions(statement: Statement) -> frozenset[str]:
    if statement.actions is not None:
        return expand_all(statement.actions)
    return KNOWN - expand_all(statement.not_actions) if statement.not_actions is not None else frozenset()


def _covers(subject: Subject, writer: Principal | None) -> bool | None:
    """Whether a Deny for this principal is about the writer."""
    if isinstance(subject, AllExcept):
        if writer is None:
            return None
        if EVERYONE in subject.principals:
            return False
        # A Deny with NotPrincipal spares a session only if its account, its role and the session itself are named (IAM
        # User Guide, “AWS JSON policy elements: NotPrincipal”). Nobody knows the names of our sessions beforehand.
        return None if any(one.account == writer.account for one in subject.principals) else True
    if subject == EVERYONE:
        return True
    if writer is None or subject.account != writer.account or subject.partition != writer.partition:
        return False
    if subject.kind is Who.ACCOUNT:
        return True
    return _is_role(subject, writer)


def _is_role(one: Principal, writer: Principal) -> bool | None:
    """Whether a principal of the writer's account is the writer's role. None: one session of it."""
    if writer.sort != "role":
        return False  # which role of the account writes is not known
    name = writer.path.rsplit("/", 1)[-1]
    if one.sort == "role":
        return one.path.rsplit("/", 1)[-1] == name
    return None if one.sort == "assumed-role" and one.path.split("/")[0] == name else False


def _facts(writer: Principal | None) -> dict[str, tuple[str, ...] | None]:
    facts = EVERY_REQUEST | {"aws:principalisawsservice": ("false",), "aws:viaawsservice": ("false",)}
    if writer is not None and writer.account:
        facts |= {"aws:principalaccount": (writer.account,)}
    if writer is not None and writer.sort == "role":
        facts |= {"aws:principalarn": (writer.name,)}
    return facts
