"""Errors and risks in a repository policy, each with a check id, found before the policy is sent to AWS.

Errors: ECR refuses the policy, the policy can never work, or it opens the repository to the whole world. An error in
the default policy stops the start. Warnings: the policy works and has a risk.

The check for open policies fails closed: an Allow for everyone is open unless it has a condition that is known to
restrict *who* may call. A condition as such proves nothing: negations, `…IfExists`, `ForAllValues:` (true when the key
is missing), wildcard values and 0.0.0.0/0 restrict nobody.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from deployments.policy import words
from deployments.policy.actions import AS_OF, KNOWN, PREFIX, PULL, PURPOSES, Purpose, expand_all, spelling, written
from deployments.policy.atoms import EVERYONE, AllExcept, Principal, Subject, Who, subjects
from deployments.policy.condition_findings import condition_findings, without_private_ranges
from deployments.policy.conditions import Condition, Test, condition_of, has_variable, operator_of, spelt
from deployments.policy.context import addresses, restricts_no_address
from deployments.policy.document import Kind, Policy, PolicyError, Statement, parse, quoted
from deployments.policy.evaluate import can_pull, holders
from deployments.policy.findings import Finding, capital, place_of, report
from deployments.policy.lockout import lockouts
from deployments.policy.wildcard import has_wildcard

MAX_CHARACTERS = 10_240  # ECR API: SetRepositoryPolicy, policyText
MAX_WORDS_CHARACTERS = 10_000  # of all messages and hints about one policy; further findings are counted


def lint(
    text: str,
    *,
    partition: str | None,
    allow_public: bool = False,
    consumer_accounts: Iterable[str] = (),
    writer: str | None = None,
) -> tuple[Finding, ...]:
    """All findings about a policy text, errors first.

    `partition` None: it is not known, so the partition of the policy's first ARN is taken. `writer`: the identity that
    writes the policy, as the ARN of a role or the 12 digits of an account; None: it is not known.
    """
    try:
        policy = parse(text)
    except PolicyError as error:
        return (
            report("E101", str(error), "Check it with a JSON validator; save it as UTF-8 without a byte order mark."),
        )
    found: list[Finding] = []
    if len(text) > MAX_CHARACTERS:
        message = f"The policy has {len(text):,} characters; ECR accepts {MAX_CHARACTERS:,}."
        found.append(
            report(
                "E102",
                message,
                "Name accounts instead of roles, or allow an organisation by a condition on aws:PrincipalOrgID.",
            )
        )
    if answer := _whole_answer(policy):
        return (answer,)
    found += _puzzles(policy)
    if not policy.statements and not policy.puzzles:
        hint = 'Add one, such as {"Effect": "Allow", "Principal": {"AWS": "111111111111"}, "Action": [...]}.'
        return (*found, report("E113", "The policy has no statement, and ECR refuses it.", hint))
    partition = partition or _partition_of(policy)
    for statement in policy.statements:
        found += _of_statement(statement, policy, partition)
        found += condition_findings(statement, policy)
    found += _of_denies(policy, partition, writer)
    found += _of_openness(policy, partition, allow_public)
    found += _of_pulls(policy, partition)
    found += _of_sids(policy)
    found += _of_consumers(policy, partition, consumer_accounts)
    return _within(sorted(dict.fromkeys(found), key=lambda finding: (finding.level != "error", finding.id)))


def _within(findings: list[Finding]) -> tuple[Finding, ...]:
    """The findings within MAX_WORDS_CHARACTERS, at least one of each id; the others are counted, id by id."""
    shown: list[Finding] = []
    left_out: dict[str, list[Finding]] = {}
    characters = MAX_WORDS_CHARACTERS
    for one in findings:
        characters -= len(one.message) + len(one.hint)
        if characters >= 0 or not shown or shown[-1].id != one.id:
            shown.append(one)
        else:
            left_out.setdefault(one.id, []).append(one)
    for some in left_out.values():
        more = f"{len(some):,} more finding{'s' if len(some) > 1 else ''} of this kind."
        shown.append(replace(some[0], message=more, hint="Correct the others first, then lint again."))
    return tuple(sorted(shown, key=lambda finding: (finding.level != "error", finding.id)))


def _whole_answer(policy: Policy) -> Finding | None:
    """The finding about a text that is the whole answer of AWS's get-repository-policy, with the policy inside it."""
    if policy.statements or not any("“policyText”" in puzzle.words for puzzle in policy.puzzles):
        return None
    message = "This is the whole answer of get-repository-policy, not a policy: it has an element “policyText”."
    hint = "Use only the policy: aws ecr get-repository-policy … --query policyText --output text."
    return report("E103", message, hint)


def _puzzles(policy: Policy) -> Iterator[Finding]:
    for puzzle in (*policy.all_puzzles, *policy.slips):
        if puzzle.kind is Kind.EMPTY:
            yield report("W127", f"{capital(puzzle.words)}.", "Remove it, or write what must hold.")
        elif puzzle.kind is Kind.RESOURCE:
            yield report("E104", f"{capital(puzzle.words)}.", "Remove it: the policy belongs to one repository.")
        else:
            shape = puzzle.kind is Kind.SHAPE
            hint = "Correct it: AWS would refuse it." if shape else "Element names and Effect are case-sensitive."
            yield report("E103", f"{capital(puzzle.words)}.", hint)


def _partition_of(policy: Policy) -> str:
    for statement in policy.statements:
        for one in (*(statement.principals or ()), *(statement.not_principals or ())):
            if found := re.match(r"arn:(aws[a-z-]*):", one.text):
                return found[1]
    return "aws"


# ---------------------------------------------------------------------------------------------------- each statement


def _of_statement(statement: Statement, policy: Policy, partition: str) -> Iterator[Finding]:
    label = place_of(statement)
    explained = {name for name in ("Principal", "Action") for puzzle in statement.puzzles if name in puzzle.words}
    if not statement.principals and not statement.not_principals and "Principal" not in explained:
        message = f"{label} names no principal, so it grants nothing."
        yield report("E105", message, 'Add a Principal, such as {"AWS": "111111111111"}.')
    if not statement.actions and not statement.not_actions and "Action" not in explained:
        yield report("E106", f"{label} names no action, so it grants nothing.", "Add an Action.")
    for written_one in (*(statement.principals or ()), *(statement.not_principals or ())):
        if written_one.number:
            message = f"{label} gives an account id as a JSON number, which loses leading zeros."
            yield report("W107", message, "Put it in quotes.")
    found: set[Principal] = set()
    for subject in subjects(statement, policy, partition=partition):
        found |= subject.principals if isinstance(subject, AllExcept) else {subject}
    for principal in sorted(found, key=lambda one: (one.kind, one.name)):
        yield from _of_principal(principal, label, partition)
    yield from _of_actions(statement, label)
    yield from _of_condition(statement, policy, label)


def _of_principal(principal: Principal, label: str, partition: str) -> Iterator[Finding]:
    shown = quoted(principal.name)
    if principal.kind is Who.UNIQUE_ID and not re.fullmatch("(AIDA|AROA)[A-Z0-9]{12,124}", principal.name):
        message = f"{label} names {shown}, which is not the id of a role or user."
        yield report("E109", message, "Write the role's ARN, or better the account's.")
    elif principal.kind is Who.UNIQUE_ID:
        message = f"{label} names {principal.name[:40]}, the id of a principal that was deleted."
        yield report("W108", message, "Write the role's ARN again, or better the account's.")
    elif principal.kind is Who.BARE:
        message = f"{label} has {shown} as its Principal; the only text allowed there is “*”."
        yield report("E109", message, 'Write {"AWS": "…"} for an account, {"Service": "…"} for a service.')
    elif principal.kind is Who.CANONICAL_USER:
        message = f"{label} names a CanonicalUser, which only S3 supports."
        yield report("E109", message, "Name the account by its 12 digits.")
    elif principal.kind is Who.SERVICE:
        yield from _of_service(principal.name, label)
    elif principal.kind is Who.FEDERATED and not principal.name:
        yield report("E109", f"{label} names an identity provider without a name.", "Name an account or a role.")
    elif principal.account is not None and principal.partition != partition:
        message = f"{label} names {shown}, which is in another partition than the registry ({partition})."
        yield report("E109", message, "Access does not reach across partitions.")
    elif principal.kind is Who.AWS:
        if not _NAMED.fullmatch(principal.name):
            message = f"{label} names {shown}, which is not an AWS principal."
            hint = "Write an account as 12 digits or as its root ARN; an ARN cannot contain a wildcard."
            if found := re.fullmatch(r"arn:([a-z0-9-]+):(iam|sts)::([0-9]{12}):([a-z-]+)/(.+)", principal.name):
                hint = _SORTS.get((found[2], found[4]), hint).format(partition=found[1], account=found[3])
            yield report("E109", message, hint)
        elif principal.sort in ("role", "user"):
            message = f"{label} names {words.of_subject(principal, partition=partition)}."
            hint = "AWS stores its unique id: if it is deleted and created again, access is lost. Name the account."
            yield report("W106", message, hint)
        else:
            message = f"{label} names {shown}, which is one session: access ends with it."
            yield report("W125", message, "Name the role of the session, or better its account.")


# Each sort of a principal belongs to one service: roles and users are IAM's, sessions are STS's (IAM User Guide,
# “AWS JSON policy elements: Principal”).
_NAMED = re.compile(
    r"arn:[a-z0-9-]+:(iam::[0-9]{12}:(role|user)/([\x21-\x29\x2b-\x3e\x40-\x7e]+/)?[A-Za-z0-9_+=,.@-]+"
    r"|sts::[0-9]{12}:(assumed-role/[A-Za-z0-9_+=,.@-]+/[A-Za-z0-9_+=,.@-]+|federated-user/[A-Za-z0-9_+=,.@-]+))"
)
_SORTS = {
    (
        "iam",
        "assumed-role",
    ): "A session is written arn:{partition}:sts::{account}:assumed-role/ROLE/SESSION; name its role.",
    ("iam", "federated-user"): "A federated session is written arn:{partition}:sts::{account}:federated-user/NAME.",
    ("sts", "role"): "A role is written arn:{partition}:iam::{account}:role/NAME.",
    ("sts", "user"): "A user is written arn:{partition}:iam::{account}:user/NAME.",
    ("iam", "group"): "A group is not a principal; name the account {account}.",
}
_SERVICE = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*\.(amazonaws\.com(\.cn)?|amazon\.com|aws\.internal)")
#: Services that pull from ECR, or write to it, with a statement of its repository policy.
_SERVICE_NAMES = """
    apprunner batch bedrock-agentcore build.apprunner codebuild codepipeline ecs ecs-tasks eks emr-serverless greengrass
    imagebuilder inspector2 lambda replication.ecr robomaker sagemaker tasks.apprunner
"""
_SERVICES = _SERVICE_NAMES.split()


def _of_service(name: str, label: str) -> Iterator[Finding]:
    if not _SERVICE.fullmatch(name):
        message = f"{label} names the service {quoted(name)}, which is not the name of a service."
        yield report("E114", message, "Write it like lambda.amazonaws.com.")
        return
    service = name.partition(".amazonaws.com")[0]
    near = difflib.get_close_matches(service, _SERVICES, n=1, cutoff=0.75)
    if near and service not in _SERVICES:
        message = f"{label} names the service {quoted(name)}, which is not among those that we know to use ECR."
        yield report("W129", message, f"Was {near[0]}.amazonaws.com meant?")


def _of_actions(statement: Statement, label: str) -> Iterator[Finding]:
    for action in (*(statement.actions or ()), *(statement.not_actions or ())):
        one = spelling(action)
        if one in ("*", "*:*"):
            continue
        if not one.startswith(PREFIX):
            message = f"{label} has the action {quoted(action)}, which is not an ECR action."
            yield report("E107", message, "Remove it: ECR refuses the whole policy.")
        elif not re.fullmatch(r"ecr:[a-z0-9*?]+", one):
            message = f"{label} has the action {quoted(action)}, which does not exist in ECR."
            yield report("E108", message, "Write it like ecr:BatchGetImage.")
        elif not expand_all([one]) <= KNOWN:
            message = f"{label} has the action {quoted(action)}, which ECR did not have on {AS_OF}."
            near = difflib.get_close_matches(one, KNOWN, n=1, cutoff=0.85)
            meant = f"Was {written(near[0])} meant? " if near else ""
            yield report("W116", message, f"{meant}ECR refuses a policy with an action that it does not have.")
        elif PURPOSES.get(one) is Purpose.ACCOUNT:
            message = f"{label} has {written(one)}, which acts on the whole account and has no effect here."
            yield report("W105", message, "Put it in the identity policy of the role that pulls.")
    if statement.effect != "Allow":
        return
    everything = [action for action in statement.actions or () if spelling(action) in ("*", "*:*", PREFIX + "*")]
    if everything:
        message = f"{label} allows {everything[0]}: also pushing, deleting and changing this policy."
        yield report("W101", message, "Name the actions that are needed.")
    if statement.actions is None and statement.not_actions is not None:
        message = f"{label} allows every action that it does not name, also actions that AWS adds later."
        yield report("W114", message, "List the allowed actions in Action.")
    strong = _allowed(statement) & _STRONG
    if strong:
        message = f"{label} allows {words.of_actions(sorted(strong))}."
        yield report(
            "W102", message, "Consumers only need to pull; allow the other actions only to the registry's own account."
        )


_STRONG = frozenset(
    action for action, purpose in PURPOSES.items() if purpose in (Purpose.PUSH, Purpose.DELETE, Purpose.POLICY)
)


def _allowed(statement: Statement) -> frozenset[str]:
    """The known actions that a statement is about."""
    if statement.actions is not None:
        return expand_all(statement.actions) & KNOWN
    if statement.not_actions is not None:
        return KNOWN - expand_all(statement.not_actions)
    return frozenset()


def _of_condition(statement: Statement, policy: Policy, label: str) -> Iterator[Finding]:
    for one in statement.conditions:
        if not operator_of(one.operator).known:
            message = f"{label} has the condition operator {quoted(one.operator)}, which IAM does not have."
            yield report("E112", message, "Operators are case-sensitive: StringEquals, ArnLike, IpAddress …")
        if policy.version == "2008-10-17" and any(has_variable(value) for value in one.values):
            message = f"{label} has a policy variable, but Version is not 2012-10-17, so it is plain text."
            yield report("W113", message, 'Set "Version": "2012-10-17".')
    if statement.effect != "Allow":
        return
    condition = condition_of(statement.conditions, policy.version)
    for test in condition.tests:
        operator = operator_of(test.operator)
        if restricts_no_address(test):
            message = f"{label}: the condition {words.of_test(test)} allows every public address."
            yield report("W111", message, "Name the public addresses that may pull, or the organisation.")
        elif operator.known and operator.quantifier == "ForAllValues" and not _must_exist(test.key, condition):
            message = f"{label}: ForAllValues on {words.shown(spelt(test.key))} is true when the key is missing."
            hint = 'Use StringEquals or ForAnyValue, or add {"Null": {"…": "false"}}.'
            yield report("W111", message, hint)


# --------------------------------------------------------------------------------------------------------- open?


@dataclass(frozen=True, slots=True, kw_only=True)
class _Most:
    """The most addresses that ranges may have and still count as the network of somebody."""

    ipv4: int
    ipv6: int

    def is_exceeded(self, values: Iterable[str]) -> bool:
        """Whether the ranges have more addresses; also True if a value is not a range."""
        counted = addresses(values)
        return counted is None or counted[0] > self.ipv4 or counted[1] > self.ipv6


# What AWS calls public: broader than a /8 of IPv4 or a /32 of IPv6 (Amazon S3 User Guide, “Blocking public access”,
# section “The meaning of "public"”).
_AWS = _Most(ipv4=2**24, ipv6=2**96)
# What stops the start, as in version 0.1.0, so that an upgrade keeps starting (D-upgrades-start).
_ANYBODY = _Most(ipv4=2**26, ipv6=2**112)


def _of_openness(policy: Policy, partition: str, allow_public: bool) -> Iterator[Finding]:
    denied, wide_denied = (_denied_to_the_world(policy, partition, most) for most in (_ANYBODY, _AWS))
    yield from _of_ranges_together(policy, partition, wide_denied)
    for statement in policy.statements:
        if statement.effect != "Allow":
            continue
        everybody = sorted(
            words.of_subject(subject, partition=partition)
            for subject in subjects(statement, policy, partition=partition)
            if _is_open(subject)
        )
        condition = condition_of(statement.conditions, policy.version)
        is_open = not closes(condition, _ANYBODY) and (not _allowed(statement) or _allowed(statement) - denied)
        if everybody and is_open:
            actions = sorted(_allowed(statement) - denied)
            yield _open_finding(statement, everybody[0], actions, condition, allow_public)
        elif everybody and not closes(condition, _AWS) and _allowed(statement) - wide_denied:
            message = f"{place_of(statement)} allows {everybody[0]} from more addresses than AWS calls anybody's own."
            yield report("W130", message, _WIDE_HINT)
        for subject in subjects(statement, policy, partition=partition):
            who = words.of_subject(subject, partition=partition)
            if isinstance(subject, AllExcept):
                continue
            if subject.kind is Who.FEDERATED and subject.name:
                message = f"{place_of(statement)} allows {who}, and nobody calls ECR as an identity provider."
                yield report("W112", message, "Name the role that the users of the provider assume, or its account.")
            elif subject.kind is Who.SERVICE and _SERVICE.fullmatch(subject.name) and not _names_a_source(condition):
                message = f"{place_of(statement)} allows {who} without a condition on the account that it acts for."
                yield report("W112", message, "Add a condition on aws:SourceArn or aws:SourceAccount.")


def _of_ranges_together(policy: Policy, partition: str, denied: frozenset[str]) -> Iterator[Finding]:
    """The address ranges of several statements that are too wide together, though each of them is not."""
    ranges: set[str] = set()
    labels: list[str] = []
    for statement in policy.statements:
        tests = condition_of(statement.conditions, policy.version)
        named = {value for test in tests.found if test.key == "aws:sourceip" for value in test.values}
        if (
            statement.effect == "Allow"
            and (not _allowed(statement) or _allowed(statement) - denied)
            and any(_is_open(subject) for subject in subjects(statement, policy, partition=partition))
            and closes(tests, _ANYBODY)
            and not closes(replace(tests, found=frozenset(test for test in tests.found if test.key != "aws:sourceip")))
        ):
            ranges |= named
            labels.append(words.shown(statement.label))
    if len(labels) < 2 or not _AWS.is_exceeded(ranges):
        return
    # A warning also where they are the whole world: the check is new, and an upgrade keeps starting (D-upgrades-start).
    message = f"Together, the address ranges of {words.listed(labels)} are more than AWS calls anybody's own."
    yield report("W130", message, _WIDE_HINT)


Openness = Literal["open", "closed", "unknown"]


def openness(text: str, *, partition: str) -> Openness:
    """Whether a policy text lets the whole world in. `unknown`: it cannot be shown closed, so treat it as open.

    A text is unknown if it is not JSON, or if a part of it is not understood (rule 10), except a part of a Deny, which
    lets nobody in.
    """
    try:
        policy = parse(text)
    except PolicyError:
        return "unknown"
    puzzles = any(statement.puzzles for statement in policy.statements if statement.effect != "Deny")
    operators = all(operator_of(one.operator).known for each in policy.statements for one in each.conditions)
    # Also by AWS's own, narrower limit for address ranges: the answer stops no start.
    is_open = ("deployments.E110", "deployments.W130")
    found = any(finding.id in is_open for finding in _of_openness(policy, partition, allow_public=False))
    if policy.puzzles or puzzles or (found and not operators):
        return "unknown"
    return "open" if found else "closed"


def _open_finding(
    statement: Statement, who: str, actions: list[str], condition: Condition, allow_public: bool
) -> Finding:
    what = words.of_use(actions) if actions else "do what it names"
    note = " (its condition restricts nobody)" if condition.tests else ""
    message = f"{place_of(statement)} is open to the whole world: {who} may {what}{note}."
    if allow_public:
        return report(
            "W109",
            message,
            "DEPLOY_REGISTRY_ECR_ALLOW_PUBLIC_POLICY allows this; unset it if the policy is not meant to be public.",
        )
    hint = "Name accounts, or add a StringEquals condition on aws:PrincipalOrgID."
    return report("E110", message, hint)


_WIDE_HINT = "AWS calls ranges broader than /8 (IPv4) or /32 (IPv6) public: name your own, or an organisation."


def _is_open(subject: Subject) -> bool:
    if isinstance(subject, AllExcept) or subject == EVERYONE:
        return True
    if not has_wildcard(subject.name):
        return False
    # AWS refuses a wildcard in an ARN (E109). A wildcard inside one account's ARNs is not open to the whole world.
    parts = subject.name.split(":", 5)
    return not (len(parts) == 6 and re.fullmatch("[0-9]{12}", parts[4]) and not any(map(has_wildcard, parts[:4])))


def closes(condition: Condition, most: _Most = _ANYBODY) -> bool:
    """Whether a condition is known to restrict who may call. All tests must hold, so one restricting test is enough."""
    return any(
        _restricts(test, most, positive=True)
        and (operator_of(test.operator).quantifier != "ForAllValues" or _must_exist(test.key, condition))
        for test in condition.tests
    )


def _must_exist(key: str, condition: Condition) -> bool:
    return any(test.operator == "Null" and test.key == key and test.values == {"false"} for test in condition.tests)


def _restricts(test: Test, most: _Most = _ANYBODY, *, positive: bool) -> bool:
    """Whether a test (or, in a Deny, the opposite of a negated test) lets in only callers of named owners."""
    operator = operator_of(test.operator)
    # In an Allow, …IfExists lets in callers without the key. In a Deny, a negated test is true for them anyway.
    if not operator.known or operator.negated is positive or (positive and operator.if_exists) or not test.values:
        return False
    if not positive and operator.quantifier == "ForAnyValue":
        return False  # false without the key; ForAllValues is true without the key, so the Deny holds for strangers
    if test.key == "aws:sourceip":
        return operator.base == "IpAddress" and not most.is_exceeded(test.values)
    if operator.base not in ("StringEquals", "StringEqualsIgnoreCase", "StringLike", "ArnEquals", "ArnLike"):
        return False
    sort = _RESTRICTING.get(test.key)
    return sort is not None and all(_is_one_owner(value, sort, operator.base, test.key) for value in test.values)


# Keys that say which account calls, for which account, or from whose network. Tags, user names, user agents, dates and
# TLS are not among them, because every AWS account can choose them freely.
_RESTRICTING = {
    "aws:principalaccount": "account",
    "aws:principalarn": "arn",
    "aws:principalorgid": "id",
    "aws:principalorgpaths": "path",
    "aws:sourceaccount": "account",
    "aws:sourcearn": "arn",
    "aws:sourceorgid": "id",
    "aws:sourceorgpaths": "path",
    "aws:sourcevpc": "id",
    "aws:sourcevpce": "id",
    "aws:userid": "user id",
    "aws:vpceaccount": "account",
    "aws:vpceorgid": "id",
    "aws:vpceorgpaths": "path",
}
# “The same as the repository's own” restricts; a variable of the caller's own (`${aws:PrincipalOrgID}`) never does.
_OWN = {
    "aws:principalaccount": "${aws:resourceaccount}",
    "aws:principalorgid": "${aws:resourceorgid}",
    "aws:sourceaccount": "${aws:resourceaccount}",
    "aws:sourceorgid": "${aws:resourceorgid}",
    "aws:vpceaccount": "${aws:resourceaccount}",
    "aws:vpceorgid": "${aws:resourceorgid}",
}


def _is_one_owner(value: str, sort: str, base: str, key: str) -> bool:
    if value.lower() == _OWN.get(key):
        return True
    if has_variable(value) or not value:
        return False
    if sort == "account":
        return re.fullmatch("[0-9]{12}", value) is not None
    if sort == "id":
        return not has_wildcard(value)
    if sort == "path":
        return not has_wildcard(value.split("/")[0]) and "/" in value
    if sort == "user id":
        return not has_wildcard(value.split(":")[0]) and len(value.split(":")[0]) >= 12
    parts = value.split(":", 5)
    if len(parts) != 6 or (not base.startswith("Arn") and any(map(has_wildcard, parts[:5]))):
        return False  # in StringLike a `*` also matches colons, so the parts after it are not certain
    return re.fullmatch("[0-9]{12}", parts[4]) is not None or not has_wildcard(value)


def _denied_to_the_world(policy: Policy, partition: str, most: _Most) -> frozenset[str]:
    """Actions that a Deny refuses to everyone except named owners: another way to write a closed policy."""
    closed: frozenset[str] = frozenset()
    for statement in policy.statements:
        if statement.effect != "Deny" or statement.puzzles:
            continue
        spoken_of = subjects(statement, policy, partition=partition)
        tests = condition_of(statement.conditions, policy.version).tests
        if EVERYONE in spoken_of:
            # Every further test makes the Deny narrower, so each of them must exempt named owners only. A test that
            # exempts AWS's own services is customary and is allowed.
            own = [test for test in tests if not _is_for_people(test)]
            if all(_restricts(test, most, positive=False) for test in own):
                closed |= _allowed(statement)
        elif not tests and any(
            isinstance(one, AllExcept) and one.principals and not any(map(_is_open, one.principals))
            for one in spoken_of
        ):
            closed |= _allowed(statement)
    return closed


def _is_for_people(test: Test) -> bool:
    return test == Test(operator="BoolIfExists", key="aws:principalisawsservice", values=frozenset({"false"}))


def _names_a_source(condition: Condition) -> bool:
    """Whether a condition says for which account a service acts: a service acts for any customer who asks."""
    return any(
        test.key in ("aws:sourcearn", "aws:sourceaccount", "aws:sourceorgid", "aws:sourceorgpaths")
        and (_restricts(test, positive=True) or _names_accounts_in_any_region(test))
        for test in condition.tests
    )


def _names_accounts_in_any_region(test: Test) -> bool:
    """StringLike on ARNs of named accounts with a wildcard as region, as AWS's own pages about Lambda write it.

    In StringLike a `*` also matches colons. An ARN of Lambda has no name with a colon, so the account is certain.
    """
    return (
        test.operator == "StringLike"
        and test.key == "aws:sourcearn"
        and bool(test.values)
        and all(re.match(r"arn:[a-z-]+:[a-z0-9-]+:[a-z0-9*?-]*:[0-9]{12}:", value) for value in test.values)
    )


# ----------------------------------------------------------------------------------------------------------- denies


def _of_denies(policy: Policy, partition: str, writer: str | None) -> Iterator[Finding]:
    for one in lockouts(policy, writer=writer, partition=partition):
        place, what = one.place, words.of_actions(sorted(one.actions))
        under = f" {one.condition}" if one.condition else ""
        if one.of_the_policy and one.certain:
            message = f"{place} denies ecr:SetRepositoryPolicy to Registry Admin itself, so ECR refuses the policy."
            yield report("E115", message, _EXEMPT)
        elif one.certain:
            message = f"{place} denies {what} also to Registry Admin, so its checks or its deploys fail."
            yield report("W118", message, "Exempt it by a condition on aws:PrincipalArn, or leave these actions out.")
        else:
            refuses = ", and ECR refuses the policy then" if one.of_the_policy else ""
            if one.of_the_policy:
                what = "ecr:SetRepositoryPolicy" + (" and other actions" if len(one.actions) > 1 else "")
            message = f"{place} may deny {what} to Registry Admin too{under}{refuses}."
            hint = (
                "Check that the requests of Registry Admin are exempt, or exempt it by a condition on aws:PrincipalArn."
            )
            yield report("W118", message, hint)
    denies = {statement.label for statement in policy.statements if statement.effect == "Deny"}
    for holder in holders(policy, PULL, partition=partition):
        if holder.answer.verdict == "no" and holder.answer.statement in denies:
            message = f"A Deny takes back what an Allow gives: {holder.answer.words}"
            yield report("W117", message, "Remove the Deny, or exempt the principal from it.")


_EXEMPT = (
    "Exempt it: add the condition ArnNotLike on aws:PrincipalArn with its role, or leave ecr:SetRepositoryPolicy out "
    "of the Deny."
)


# ------------------------------------------------------------------------------------------------- the whole policy


def _of_pulls(policy: Policy, partition: str) -> Iterator[Finding]:
    """W103: nobody can pull. W104: a principal has only one of the two actions that a pull needs."""
    has: dict[Subject, frozenset[str]] = {}
    for statement in policy.statements:
        if statement.effect == "Allow":
            for subject in subjects(statement, policy, partition=partition):
                has[subject] = has.get(subject, frozenset()) | (_allowed(statement) & PULL)
    for_all = has.get(EVERYONE, frozenset())
    if not any(has.values()):
        message = "The policy allows nobody to pull."
        hint = "A pull needs ecr:BatchGetImage and ecr:GetDownloadUrlForLayer."
        yield report("W103", message, hint)
    for subject, actions in has.items():
        missing = PULL - actions - for_all
        if actions and missing:
            who = words.of_subject(subject, partition=partition)
            message = f"{capital(who)} cannot pull: {written(min(missing))} is missing."
            yield report("W104", message, "A pull needs ecr:BatchGetImage and ecr:GetDownloadUrlForLayer.")


def _of_sids(policy: Policy) -> Iterator[Finding]:
    seen: set[str] = set()
    for statement in policy.statements:
        if statement.sid in seen:
            message = f"More than one statement has the Sid {quoted(statement.sid)}."
            yield report("W115", message, "Give each statement its own Sid: people find a statement by its Sid.")
        elif statement.sid:
            seen.add(statement.sid)


def _of_consumers(policy: Policy, partition: str, accounts: Iterable[str]) -> Iterator[Finding]:
    meant = without_private_ranges(policy)
    for account in dict.fromkeys(accounts):
        answer = can_pull(policy, account, partition=partition)
        # Where only private ranges keep the account out it is a warning, as in version 0.1.0 (D-upgrades-start).
        if answer.verdict == "no" and (
            meant == policy or can_pull(meant, account, partition=partition).verdict == "no"
        ):
            hint = (
                "Add it to the Principal of the statement that allows pulling, or remove it from the consumer accounts."
            )
            yield report("E111", f"Consumer account {account} cannot pull: {answer.words}", hint)
        elif answer.verdict != "yes":
            hint = _hint_for_consumer(policy, account, partition)
            yield report("W110", f"Consumer account {account} may be unable to pull: {answer.words}", hint)


def _hint_for_consumer(policy: Policy, account: str, partition: str) -> str:
    named = {
        subject
        for statement in policy.statements
        if statement.effect == "Allow"
        for subject in subjects(statement, policy, partition=partition)
    }
    if EVERYONE in named:
        return "The Principal is *, so the condition decides: check that the account meets it, or name the account."
    if any(isinstance(one, Principal) and one.kind is Who.ACCOUNT and one.account == account for one in named):
        return "The account is named, so the condition decides: check that the requests of its nodes meet it."
    return "Add it to the Principal of the statement that allows pulling, or remove it from the consumer accounts."
