"""The statements of AWS services in a live repository policy that stay there beside the default policy.

A service that pulls images needs such a statement, and Lambda adds its own where a function is made from an image. A
statement is kept if all of this holds (D-service-statements); every other statement is judged as before:

* it is an Allow, and every principal is an AWS service;
* its actions are among the three of a pull, each written in full;
* its conditions name the account that the service acts for (`aws:SourceAccount`, or the account in the ARN of
  `aws:SourceArn`), which is the registry's own account or a consumer account, and nothing else;
* it adds access to the default policy, and no statement of the default policy has its Sid.

A statement with the same conditions that may also read, change or delete the repository policy is kept once an operator
has adopted it. Lambda adds it in this form, with five actions, although AWS's page names two.

One statement without a condition is kept, with a warning: Lambda's own for functions of the registry's account.

Sources: *AWS Lambda Developer Guide*, “Amazon ECR permissions” and “Amazon ECR cross-account permissions” (the form
without a condition with its Sid; the form with `aws:sourceARN`; that Lambda adds the first one itself); AWS re:Post,
“lambda-ecr-image”; github.com/aws/aws-parallelcluster-ui, pull requests 373 and 380 (the five actions that Lambda
adds); *IAM User Guide*, “AWS global condition context keys” and “The confused deputy problem”.

Pure. It changes no statement of the default policy, and it drops none.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from deployments.policy import words
from deployments.policy.actions import CUSTOMARY, PREFIX, PULL, PURPOSES, Purpose, spelling, written
from deployments.policy.atoms import Subject
from deployments.policy.compare import compare
from deployments.policy.conditions import Condition
from deployments.policy.document import Policy, PolicyError, Statement, WrittenCondition, parse
from deployments.policy.wildcard import ascii_lower, has_wildcard

LAMBDA, LAMBDA_SID = "lambda.amazonaws.com", "LambdaECRImageRetrievalPolicy"
NO_ACCOUNT = (
    "It names no account, so it does not say for whose functions Lambda may pull. AWS documents it in this form for "
    "functions of the registry's own account. A condition on aws:SourceArn makes it certain."
)
CHANGES_POLICY = "It also lets the service read, change or delete the repository policy."

_SERVICE = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*\.amazonaws\.com(\.cn)?")
_ACCOUNT = re.compile(r"[0-9]{12}")
_PULL = PULL | {CUSTOMARY}
_OF_POLICY = frozenset(action for action, purpose in PURPOSES.items() if purpose is Purpose.POLICY) | {
    f"{PREFIX}getrepositorypolicy"
}
_EQUAL = frozenset({"StringEquals", "StringLike"})
_ARN = frozenset({"ArnEquals", "ArnLike"})

Keeps = Literal["keep-services", "keep", "remove"]  # DEPLOY_REGISTRY_ECR_FOREIGN_STATEMENTS
WrittenGrant = tuple[Subject, str, Condition]  # to whom an Allow statement gives which action, and when


class _Written(Protocol):
    """A statement with its text, a JSON object."""

    @property
    def text(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Which statements of others may stay. `adopted`, `refused`: the texts of those of which an operator has decided.

    `written`: what the default policies of the registry have given so far. A service may act for `accounts`.
    """

    owner: str  # the registry's own account
    consumers: tuple[str, ...] = ()
    adopted: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    keeps: Keeps = "keep-services"
    written: frozenset[WrittenGrant] = frozenset()

    @property
    def accounts(self) -> frozenset[str]:
        """The registry's own account and the consumer accounts."""
        return frozenset({self.owner, *self.consumers})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatement:
    """One statement of AWS services. `accounts`: for whom they act; empty: the statement names no account.

    `text`: the statement as JSON, the same for each order and spelling of its parts. `kept`: it stays beside the
    default policy; False: it would, if an operator adopted it.
    """

    name: str
    services: tuple[str, ...]
    accounts: tuple[str, ...]
    actions: tuple[str, ...]
    warning: str
    kept: bool
    text: str

    @property
    def allows(self) -> str:
        """Its actions, after the word “may”."""
        return words.of_use([spelling(action) for action in self.actions])


@functools.lru_cache(maxsize=256)
def service_statements(live: str, *, default: str, partition: str, trust: Trust) -> tuple[ServiceStatement, ...]:
    """The statements of a live policy that are kept beside the default policy, or would be if somebody adopted them.

    Empty where a part of either policy is not understood: then nothing is judged. Raises nothing. Cached: a sweep asks
    twice about each text.
    """
    both = understood(live, default)
    if both is None:
        return ()
    policy, ours = both
    judged = (_judged(each, partition=partition, trust=trust) for each in policy.statements)
    return tuple(
        each for each in judged if each is not None and _is_theirs(each, ours, default=default, partition=partition)
    )


def understood(live: str, default: str) -> tuple[Policy, Policy] | None:
    """The two policies; None if a part of either is not understood."""
    try:
        policy, ours = parse(live), parse(default)
    except PolicyError:
        return None
    return None if policy.all_puzzles or ours.all_puzzles else (policy, ours)


def _is_theirs(statement: ServiceStatement, ours: Policy, *, default: str, partition: str) -> bool:
    """Whether a statement is a service's own: no statement of the default policy has its Sid or allows the same."""
    if statement.name in {each.sid for each in ours.statements}:
        return False
    return compare(default, with_statements(default, [statement]), partition=partition).level == "access"


def with_statements(default: str, statements: Iterable[_Written]) -> str:
    """The text of the default policy with these statements behind its own. Without a statement it is as written.

    The default policy is one that `parse` understands. Its numbers become text, which means the same (rules 1 and 8).
    """
    more = [json.loads(each.text) for each in statements]
    if not more:
        return default
    document = json.loads(default, parse_int=str, parse_float=str)
    own = document.get("Statement") or []
    document["Statement"] = [*(own if isinstance(own, list) else [own]), *more]
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _judged(statement: Statement, *, partition: str, trust: Trust) -> ServiceStatement | None:
    """A statement of AWS services; None: it is not one that may be kept."""
    services = sorted({each.text for each in statement.principals or ()})
    actions = frozenset(map(spelling, statement.actions or ()))
    if (
        statement.effect != "Allow"
        or statement.not_principals is not None
        or statement.not_actions is not None
        or not services
        or not all(each.kind == "Service" and _SERVICE.fullmatch(each.text) for each in statement.principals or ())
        or not actions
        or not actions <= _PULL | _OF_POLICY
    ):
        return None
    only_pulls = actions <= _PULL
    accounts = _accounts(statement.conditions, partition=partition, trust=trust)
    if accounts is None:
        documented = statement.sid == LAMBDA_SID and services == [LAMBDA] and not statement.conditions
        if not (documented and only_pulls):
            return None
    text = _text(statement, services, actions)
    return ServiceStatement(
        name=statement.label,
        services=tuple(services),
        accounts=tuple(sorted(accounts or ())),
        actions=tuple(sorted(map(written, actions))),
        warning=NO_ACCOUNT if accounts is None else "" if only_pulls else CHANGES_POLICY,
        kept=only_pulls or text in trust.adopted,
        text=text,
    )


def _accounts(conditions: Iterable[WrittenCondition], *, partition: str, trust: Trust) -> frozenset[str] | None:
    """The accounts that conditions limit a service to; None: they do not, or they say something else too.

    Each test must hold, so one that names accounts is enough; the others may only be an ARN that names none.
    """
    named: frozenset[str] | None = None
    for one in conditions:
        key = ascii_lower(one.key)
        if key == "aws:sourceaccount" and one.operator in _EQUAL:
            found = [value if _ACCOUNT.fullmatch(value) else None for value in one.values]
        elif key == "aws:sourcearn" and one.operator in _EQUAL | _ARN:
            found = [_account_of(value, one.operator, partition) for value in one.values]
        else:
            return None
        accounts = frozenset(each for each in found if each)
        if not found or None in found or not accounts <= trust.accounts:
            return None
        if "" not in found:
            named = accounts if named is None else named & accounts
    return named or None


def _account_of(arn: str, operator: str, partition: str) -> str | None:
    """The account in the ARN of a condition; empty: the ARN names none; None: it is not certain which.

    Under StringLike a `*` also matches colons. In place of the region that is certain for functions of Lambda only, as
    AWS's own pages write it: the ARN of a function has no name with a colon, so no other account's function matches.
    """
    parts = arn.split(":", 5)
    if len(parts) < 6 or "${" in arn or parts[:2] != ["arn", partition] or not re.fullmatch("[a-z0-9-]+", parts[2]):
        return None
    service, region, account, resource = parts[2:]
    is_function = service == "lambda" and resource.startswith("function:")
    if not re.fullmatch(r"[a-z0-9*?-]*", region) or not resource:
        return None
    if has_wildcard(region) and operator not in _ARN and not is_function:
        return None
    if _ACCOUNT.fullmatch(account):
        return account
    return "" if account in ("", "*") else None


def _text(statement: Statement, services: list[str], actions: frozenset[str]) -> str:
    conditions: dict[str, dict[str, list[str] | str]] = {}
    for one in sorted(statement.conditions, key=lambda each: (each.operator, each.key)):
        conditions.setdefault(one.operator, {})[one.key] = one_or_more(one.values)
    parts: dict[str, object] = {"Sid": statement.sid} if statement.sid else {}
    parts |= {
        "Effect": "Allow",
        "Principal": {"Service": one_or_more(services)},
        "Action": one_or_more(map(written, actions)),
    }
    return json.dumps(parts | ({"Condition": conditions} if conditions else {}), ensure_ascii=False)


def one_or_more(values: Iterable[str]) -> list[str] | str:
    """The values in order, as a policy has them: one alone, several as a list."""
    found = sorted(set(values))
    return found[0] if len(found) == 1 else found
