"""The callers that two policies can tell apart: one for each principal that a policy names, and one for all others.

A principal of an account that no policy names by itself stands for all such principals of the account, and the caller
`STRANGER` for everybody of whom no policy says anything. What a request of a caller has for certain (its account, its
ARN) limits the keys of its requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from deployments.policy.atoms import EVERYONE, AllExcept, Principal, Rule, Subject, Who
from deployments.policy.automaton import Run
from deployments.policy.budget import Budget
from deployments.policy.cells import MISSING, Cells, arn_runs
from deployments.policy.values import tokens

STRANGER = Principal(kind=Who.EVERYONE, name="other")
OF_THE_CALLER = ("aws:principalaccount", "aws:principalarn", "aws:principalisawsservice", "aws:principalservicename")
OF_SERVICES = ("aws:principalservicename", "aws:principalservicenameslist")  # in no request of another principal
BY_ACCOUNT, BY_NAME = 1, 2  # how a statement means a caller: a role that is named needs no policy of its account
_ONE_OF_AN_ACCOUNT = frozenset({"role", "user", "assumed-role", "federated-user"})

Meaning = int | AllExcept | Principal | None  # None: not meant; a principal: AWS does not document whether it is meant


@dataclass(frozen=True, eq=False)
class Whom:
    """The principals of one statement, arranged so that a caller is found without a search."""

    rule: Rule

    @cached_property
    def plain(self) -> frozenset[Principal]:
        return frozenset(one for one in self.rule.subjects if isinstance(one, Principal))

    @cached_property
    def excepts(self) -> tuple[AllExcept, ...]:
        return tuple(one for one in self.rule.subjects if isinstance(one, AllExcept))

    def means(self, caller: Principal) -> Meaning:
        """How the statement means the caller."""
        found: Meaning = _named(self.plain, caller)
        for one in self.excepts:
            if found is None:
                found = _not_named(one, caller, deny=self.rule.effect == "Deny")
        return found

    def subject_of(self, caller: Principal) -> Subject:
        """The principal by which the statement means the caller: the widest one."""
        for one in (EVERYONE, caller, root_of(caller)):
            if one is not None and one in self.plain:
                return one
        if isinstance(found := _named(self.plain, caller), Principal):
            return found
        if found is not None:  # a session of a role that is named
            return next(one for one in sorted_(self.plain) if _named(frozenset({one}), caller))
        return min(self.excepts, key=lambda one: sorted(each.name for each in one.principals))


def _named(names: frozenset[Principal], caller: Principal) -> Meaning:
    if EVERYONE in names:
        return BY_NAME
    if caller in names:  # an account stands for its principals that nobody names
        return BY_ACCOUNT if caller.kind is Who.ACCOUNT else BY_NAME
    if caller.sort == "assumed-role":
        role = caller.path.split("/")[0]
        for one in names:
            if one.sort == "role" and _same_account(one, caller) and one.path.rsplit("/", 1)[-1] == role:
                return BY_NAME
    unclear: Meaning = None
    if caller.sort == "federated-user":
        unclear = next((one for one in sorted_(names) if one.sort == "user" and _same_account(one, caller)), None)
    return BY_ACCOUNT if root_of(caller) in names else unclear


def _not_named(subject: AllExcept, caller: Principal, *, deny: bool) -> Meaning:
    """With Deny, both the principal and its account must be named, or AWS may still deny (rule 12)."""
    exempt = _named(subject.principals, caller)
    if exempt is None:
        return BY_NAME
    if not isinstance(exempt, int):
        return subject
    account = root_of(caller) or caller if caller.account is not None else None
    if deny and account is not None and EVERYONE not in subject.principals:
        whole = names_in_whole(subject.principals, caller, account)
        return None if whole else subject
    return None


def names_in_whole(names: frozenset[Principal], caller: Principal, account: Principal) -> bool:
    """Whether a NotPrincipal with Deny names all that AWS validates of a caller, one after the other.

    That is the account, then the role, then the session (IAM User Guide, “AWS JSON policy elements: NotPrincipal”). A
    role calls by sessions, and an account by its principals, whose names are not in the list: it is not certain.
    """
    if caller.kind is Who.ACCOUNT or caller.sort == "role" or not {caller, account} <= names:
        return False
    if caller.sort != "assumed-role":
        return True
    role = caller.path.split("/")[0]
    return any(
        one.sort == "role" and _same_account(one, caller) and one.path.rsplit("/", 1)[-1] == role for one in names
    )


def root_of(caller: Principal) -> Principal | None:
    """The account of a caller as a principal; None if the caller's name does not say it."""
    if caller.account is None or caller.kind is Who.ACCOUNT:
        return None
    return Principal(kind=Who.ACCOUNT, name=f"arn:{caller.partition}:iam::{caller.account}:root")


def _same_account(one: Principal, other: Principal) -> bool:
    return one.account == other.account and one.partition == other.partition


def sorted_(principals: Iterable[Principal]) -> list[Principal]:
    """Principals in an order that is the same in every run."""
    return sorted(principals, key=lambda one: (one.kind, one.name))


def callers_of(rules: Iterable[Rule], budget: Budget) -> list[Principal]:
    """The callers that these statements can tell apart."""
    found: set[Principal] = set()
    for rule in rules:
        for subject in rule.subjects:
            budget.take()
            found |= subject.principals if isinstance(subject, AllExcept) else {subject}
    return [STRANGER, *sorted_(found - {EVERYONE})]


def is_one_of_an_account(caller: Principal) -> bool:
    """Whether the account's own policies decide about the caller too, unless a statement names the caller itself."""
    return caller.kind is Who.ACCOUNT or caller.sort in _ONE_OF_AN_ACCOUNT


# ------------------------------------------------------------------------------------ what the caller's requests have


def texts_of(key: str, callers: Iterable[Principal]) -> frozenset[str]:
    """The values of a key that `facts` needs as cells."""
    if key == "aws:principalisawsservice":
        return frozenset({"true", "false"})
    if key == "aws:principalaccount":
        return frozenset(one.account for one in callers if one.account is not None)
    if key == "aws:principalservicename":
        return frozenset(one.name for one in callers if one.kind is Who.SERVICE)
    return frozenset()


def patterns_of(callers: Iterable[Principal]) -> tuple[tuple[Run, ...], ...]:
    """The patterns of aws:PrincipalArn that `facts` needs as cells."""
    return tuple(dict.fromkeys(pattern for caller in callers for pattern in _arns_of(caller)))


def _arns_of(caller: Principal) -> list[tuple[Run, ...]]:
    """What aws:PrincipalArn can be: the ARN of a role or user, a session's role, any principal of an account."""
    where = f"arn:{caller.partition}:iam::{caller.account}"
    if caller.account is None:
        return []
    if caller.sort in ("role", "user"):
        return [arn_runs(tokens(caller.name, wildcards=False))]
    if caller.sort == "assumed-role":
        role = tokens(caller.path.split("/")[0], wildcards=False)
        return [arn_runs((*tokens(f"{where}:role/{path}", wildcards=True), *role)) for path in ("", "*/")]
    federated = f"arn:{caller.partition}:sts::{caller.account}:federated-user/*"
    return [arn_runs(tokens(name, wildcards=True)) for name in (f"{where}:*", federated)]


def facts(caller: Principal, callers: Iterable[Principal], cells: Mapping[str, Cells]) -> dict[str, int]:
    """Key about the caller that a policy tests → the cells that the caller's requests can have.

    A caller whose name says no account is in none of the accounts that a policy names: those have callers of their own.
    """
    arns, accounts = cells.get("aws:principalarn"), cells.get("aws:principalaccount")
    given: dict[str, str] = {}
    if caller.account is not None:
        given = {"aws:principalaccount": caller.account, "aws:principalisawsservice": "false"}
    elif caller.kind is Who.SERVICE:
        given = {"aws:principalisawsservice": "true", "aws:principalservicename": caller.name}
    found = {key: cells[key].of_text[value] for key, value in given.items() if key in cells}
    if caller.account is not None:
        found |= {key: MISSING for key in OF_SERVICES if key in cells}
        return found | ({"aws:principalarn": arns.of_patterns(_arns_of(caller))} if arns is not None else {})
    for other in callers:
        if other.kind is Who.ACCOUNT and accounts is not None:
            named = accounts.of_text[str(other.account)]
            found["aws:principalaccount"] = found.get("aws:principalaccount", accounts.all) & ~named
        if other.kind is Who.ACCOUNT and arns is not None:
            found["aws:principalarn"] = found.get("aws:principalarn", arns.all) & ~arns.of_patterns(_arns_of(other))
    return found
