"""The statements of others in a live repository policy: which of them stay beside the default policy, and why.

What this program wrote earlier, what it wants, and what is live are three things (D-foreign-statements). A live
statement is of others if it adds access to the default policy, and no statement of the default policy has its Sid.
Of such a statement, the principals to whom an earlier default policy gave the same are left out: that access ends with
the policy that gave it. For the rest, the setting DEPLOY_REGISTRY_ECR_FOREIGN_STATEMENTS and the operators decide:

* keep-services: the statements of AWS services stay that `service_statements` describes (D-service-statements);
* keep: so do statements that let accounts, roles or users pull who are named, and any that let those of the registry's
  own account do more, except change the repository policy;
* remove: none stays by the setting;
* each stays that an operator has adopted, and none that an operator has refused.

Whatever the setting says, and also for operators, a statement is drift if it is a Deny, has NotPrincipal or NotAction,
may let everybody in, gives more than a pull outside the registry's account, or cannot be written as it is.

Pure. Nothing is judged beside a part that is not understood (rule 10).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from deployments.policy.actions import CUSTOMARY, PULL, PURPOSES, Purpose, spelling, written
from deployments.policy.atoms import EVERYONE, AllExcept, Principal, Rule, Subject, Who, rules_of
from deployments.policy.compare import compare
from deployments.policy.document import Policy, PolicyError, Statement, parse
from deployments.policy.lint import openness
from deployments.policy.service_statements import (
    CHANGES_POLICY,
    ServiceStatement,
    Trust,
    WrittenGrant,
    one_or_more,
    service_statements,
    understood,
    with_statements,
)

_PULL = PULL | {CUSTOMARY}
_OF_POLICY = frozenset(action for action, purpose in PURPOSES.items() if purpose is Purpose.POLICY)
_DENY = "It is a Deny, which takes away access that the default policy gives."
_NOT = "It lets everybody in, or lets them do everything, except what it names."
_SERVICE = "It is of an AWS service, and not in the form that may stay."
_WHO = "It names somebody who is no account, role or user."
_GONE = "AWS shows an id in place of a role or user that was deleted, and refuses a policy that has the id."
_OPEN = "It lets the whole world in."
_MAY_BE_OPEN = "It cannot be shown closed, so it may let the whole world in."
_VARIABLE = "It has a policy variable, whose meaning depends on the rest of the policy."
_MORE = "It lets somebody outside the registry's account do more than pull."
_BEFORE = "An earlier default policy gave the same, so the access ends with that policy."
_NOBODY = "It names no account, role or user, so it stays only if an operator keeps it."
_CHANGES = "It may change or delete the repository policy, so it stays only if an operator keeps it."
_REFUSED = "An operator has refused it."
_KEPT = "Kept beside the default policy."
_BY_SETTING = "DEPLOY_REGISTRY_ECR_FOREIGN_STATEMENTS keeps no such statement. It stays only if an operator keeps it."


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignStatement:
    """One statement of others. `kept`: it stays beside the default policy, and `why`, as a sentence.

    `text`: the statement as JSON, the same for each order and spelling of its parts. `adoptable`: it stays if an
    operator adopts it.
    """

    name: str
    says: str  # what it allows
    text: str
    kept: bool
    why: str
    adoptable: bool = False
    ours: bool = False  # an earlier default policy gave the same
    warning: str = ""


def grants_of(text: str, *, partition: str) -> frozenset[WrittenGrant]:
    """What the Allow statements of a policy text give, one value for each principal and action; empty: no policy."""
    try:
        rules = rules_of(parse(text), partition=partition)
    except PolicyError:
        return frozenset()
    return frozenset().union(*(_grants(rule, one) for rule in rules for one in rule.subjects if rule.effect == "Allow"))


@functools.lru_cache(maxsize=256)
def foreign_statements(live: str, *, default: str, partition: str, trust: Trust) -> tuple[ForeignStatement, ...]:
    """The statements of others in a live policy, in its order.

    Empty where a part of either policy is not understood: then nothing is judged. Raises nothing. Cached: a sweep asks
    twice about each text.
    """
    both = understood(live, default)
    if both is None:
        return ()
    policy, ours = both
    own_grants = grants_of(default, partition=partition)
    services = service_statements(live, default=default, partition=partition, trust=trust)
    judge = _Judge(
        policy=policy,
        own_sids=frozenset(each.sid for each in ours.statements if each.sid),
        own_grants=own_grants,
        default=default,
        partition=partition,
        trust=trust,
        written=trust.written | own_grants,
        services={each.name: each for each in services},
    )
    return tuple(found for each in policy.statements if (found := judge.of(each)) is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    policy: Policy  # the live one
    own_sids: frozenset[str]  # of the default policy
    own_grants: frozenset[WrittenGrant]
    default: str
    partition: str
    trust: Trust
    written: frozenset[WrittenGrant]  # as of `Trust`, with the default policy
    services: dict[str, ServiceStatement]

    def of(self, statement: Statement) -> ForeignStatement | None:
        """The statement as one of others; None: it is the default policy's own, or adds nothing to it."""
        rules = rules_of(Policy(version=self.policy.version, statements=(statement,)), partition=self.partition)
        if statement.sid in self.own_sids or not rules:
            return None
        [rule] = rules
        plain = rule.effect == "Allow" and rule.excluded is None
        if plain and all(_grants(rule, one) <= self.own_grants for one in rule.subjects):
            return None  # so it is with nearly every statement
        service = self.services.get(statement.label)
        if service is not None:
            return self._service(service, rule)
        found = self._other(statement, rule)
        comparison = compare(self.default, with_statements(self.default, [found]), partition=self.partition)
        if comparison.level != "access":
            return None
        said = [each.words.replace(" gains ", " has ", 1) for each in (*comparison.gained, *comparison.lost)]
        return replace(found, says="; ".join((*said, *comparison.more)) + ".")

    def _service(self, one: ServiceStatement, rule: Rule) -> ForeignStatement:
        whom = f"for account{'s' if len(one.accounts) > 1 else ''} {', '.join(one.accounts)}"
        # With the default setting, the earlier default policies do not count: so it was before the setting came.
        counts = self.trust.keeps != "keep-services"
        found = self._decided(
            name=one.name,
            text=one.text,
            ours=counts and all(_grants(rule, each) <= self.written for each in rule.subjects),
            against=_CHANGES if one.warning == CHANGES_POLICY else "",
            by_setting=self.trust.keeps != "remove",
        )
        says = f"{', '.join(one.services)} may {one.allows}, {whom if one.accounts else 'without an account'}."
        return replace(found, says=says, warning=one.warning)

    def _other(self, statement: Statement, rule: Rule) -> ForeignStatement:
        named = [one for one in rule.subjects if isinstance(one, Principal) and one.kind is not Who.UNIQUE_ID]
        whole = _text(statement, rule, named or rule.subjects)
        refused = _by_form(statement, rule) or _not_closed(whole, self.partition) or self._too_much(rule, named)
        if refused:
            return ForeignStatement(name=statement.label, says="", text=whole, kept=False, why=refused)
        left = [one for one in named if not _grants(rule, one, decisive=True) <= self.written]
        return self._decided(
            name=statement.label,
            # An adoption of the whole statement counts before what an earlier default policy gave.
            text=_text(statement, rule, left) if left and whole not in self.trust.adopted else whole,
            ours=not left,
            against=_CHANGES if rule.known & _OF_POLICY else _NOBODY if EVERYONE in named else "",
            by_setting=self.trust.keeps == "keep",
        )

    def _too_much(self, rule: Rule, named: list[Principal]) -> str:
        """Why the statement gives more than may stay outside the registry's account; empty if it does not."""
        outside = any(one.account != self.trust.owner for one in named)
        return _MORE if outside and not (rule.known | rule.named) <= _PULL else ""

    def _decided(self, *, name: str, text: str, ours: bool, against: str, by_setting: bool) -> ForeignStatement:
        """`against`: why the setting alone does not keep it; empty: the setting decides."""
        refused, adopted = text in self.trust.refused, text in self.trust.adopted
        why = _REFUSED if refused else "" if adopted else _BEFORE if ours else against
        kept = not why and (adopted or by_setting)
        return ForeignStatement(
            name=name,
            says="",
            text=text,
            kept=kept,
            why=why or (_KEPT if kept else _BY_SETTING),
            adoptable=not kept and not refused,
            ours=ours and not adopted,
        )


def _by_form(statement: Statement, rule: Rule) -> str:
    """Why a statement is drift by its form, whatever the settings and the operators say; empty if it is not."""
    if rule.effect != "Allow":
        return _DENY
    if rule.excluded is not None or any(isinstance(one, AllExcept) for one in rule.subjects):
        return _NOT
    kinds = {one.kind for one in rule.subjects if isinstance(one, Principal)}
    if Who.SERVICE in kinds:
        return _SERVICE
    if kinds == {Who.UNIQUE_ID}:
        return _GONE
    named = [one for one in rule.subjects if isinstance(one, Principal) and one.kind is Who.AWS]
    if not kinds <= {Who.EVERYONE, Who.ACCOUNT, Who.AWS, Who.UNIQUE_ID} or any(one.account is None for one in named):
        return _WHO
    values = [value for one in statement.conditions for value in one.values]
    if any("${" in text for text in (*values, *(one.name for one in named))):
        return _VARIABLE
    return ""


def _not_closed(text: str, partition: str) -> str:
    """Why one statement may let everybody in; empty: it does not."""
    match openness(json.dumps({"Version": "2012-10-17", "Statement": [json.loads(text)]}), partition=partition):
        case "open":
            return _OPEN
        case "unknown":
            return _MAY_BE_OPEN
        case _:
            return ""


def _grants(rule: Rule, one: Subject, *, decisive: bool = False) -> frozenset[WrittenGrant]:
    """What a rule gives a principal. `decisive`: of a pull, only the two actions without which there is none."""
    actions = rule.known | rule.named
    if decisive:
        actions = actions & PULL or actions
    return frozenset((one, action, rule.condition) for action in actions)


def _text(statement: Statement, rule: Rule, subjects: Iterable[Subject]) -> str:
    """The statement as JSON with these principals, in one spelling."""
    principals: dict[str, set[str]] = {}
    negated = statement.principals is None
    for one in subjects:
        for each in one.principals if isinstance(one, AllExcept) else (one,):
            kind = each.kind.value if each.kind in (Who.SERVICE, Who.FEDERATED, Who.CANONICAL_USER) else "AWS"
            principals.setdefault(kind, set()).add(each.name)
    actions = map(written, map(spelling, statement.actions or statement.not_actions or ()))
    parts: dict[str, object] = {"Sid": statement.sid} if statement.sid else {}
    parts |= {
        "Effect": rule.effect,
        "NotPrincipal" if negated else "Principal": {
            kind: one_or_more(principals[kind]) for kind in sorted(principals)
        },
        "NotAction" if statement.actions is None else "Action": one_or_more(actions),
    }
    condition = rule.condition.as_document()
    return json.dumps(parts | ({"Condition": condition} if condition else {}), ensure_ascii=False)
