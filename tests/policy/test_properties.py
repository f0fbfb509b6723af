"""What holds for every policy, not only for those that somebody thought of.

The judge here is independent of the engine: it takes the documents as they are and plays every request of a small
world against them, with its own few lines of IAM. It shares no code with `deployments.policy`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.policy import PolicyError, compare, lint, may, parse
from deployments.policy.actions import NAMES

quick = settings(deadline=None, max_examples=100)
pytestmark = pytest.mark.slow  # thousands of made-up policies

# ------------------------------------------------------------------------------------------------------ a small world

ACCOUNTS = ["111111111111", "012345678901"]
ROOTS = [f"arn:aws:iam::{account}:root" for account in ACCOUNTS]
ROLE = "arn:aws:iam::111111111111:role/r"
ACTIONS = ["ecr:BatchGetImage", "ecr:BatchDeleteImage", "ecr:PutImage"]
PATTERNS = {"ecr:Batch*": ["ecr:BatchGetImage", "ecr:BatchDeleteImage"], "ecr:*": ACTIONS, "*": ACTIONS}
CALLERS = [*ROOTS, ROLE, "a stranger", "service:lambda.amazonaws.com"]
KEYS = ["k", "j"]
CONTEXTS = [
    {key: value for key, value in zip(KEYS, values, strict=True) if value is not None}
    for values in itertools.product([None, "a", "b", "another"], repeat=len(KEYS))
]
Document = dict[str, Any]

aws_principals = st.sampled_from([*ACCOUNTS, *ROOTS, ROLE, "*"])
principals = st.one_of(
    st.just("*"),
    st.lists(aws_principals, max_size=3).map(lambda names: {"AWS": names}),
    st.just({"Service": "lambda.amazonaws.com"}),
    aws_principals.map(lambda name: {"AWS": name, "Service": ["lambda.amazonaws.com"]}),
)
actions = st.lists(st.sampled_from([*ACTIONS, *PATTERNS]), max_size=3)
tests = st.dictionaries(st.sampled_from(KEYS), st.lists(st.sampled_from("ab"), min_size=1, max_size=2), max_size=2)
positive = tests.map(lambda block: {"StringEquals": block} if block else {})
mixed = st.tuples(tests, tests).map(
    lambda blocks: {op: block for op, block in zip(["StringEquals", "StringNotEquals"], blocks, strict=True) if block}
)

pytestmark = pytest.mark.slow  # thousands of made-up policies


def documents(conditions: st.SearchStrategy[Any]) -> st.SearchStrategy[Document]:
    statement = st.fixed_dictionaries(
        {"Effect": st.sampled_from(["Allow", "Allow", "Deny"]), "Principal": principals, "Action": actions},
        optional={"Condition": conditions},
    )
    return st.lists(statement, max_size=4).map(lambda statements: {"Version": "2012-10-17", "Statement": statements})


def played(document: Document) -> dict[str, set[tuple[str, str, int]]]:
    """Effect → every request of the world that a statement with it applies to."""
    found: dict[str, set[tuple[str, str, int]]] = {"Allow": set(), "Deny": set()}
    for statement in document["Statement"]:
        named = statement["Principal"]
        kinds = {"AWS": ["*"]} if named == "*" else named
        listed = {kind: [names] if isinstance(names, str) else names for kind, names in kinds.items()}
        roots = {account: root for account, root in zip(ACCOUNTS, ROOTS, strict=True)}
        aws = {roots.get(name, name) for name in listed.get("AWS", [])}
        for caller, action, (number, context) in itertools.product(CALLERS, ACTIONS, enumerate(CONTEXTS)):
            if caller.startswith("service:"):
                meant = caller.removeprefix("service:") in listed.get("Service", [])
            else:
                meant = caller in aws or "*" in aws
            named_action = any(action in PATTERNS.get(one, [one]) for one in statement["Action"])
            condition = statement.get("Condition", {})
            held = all(context.get(key) in values for key, values in condition.get("StringEquals", {}).items())
            held = held and all(
                context.get(key) not in values for key, values in condition.get("StringNotEquals", {}).items()
            )
            if meant and named_action and held:
                found[statement["Effect"]].add((caller, action, number))
    return found


@settings(quick, max_examples=250)
@given(documents(positive), documents(positive))
def test_cosmetic_is_said_exactly_when_no_request_can_tell_the_two_apart(a: Document, b: Document) -> None:
    level = compare(json.dumps(a), json.dumps(b), partition="aws").level

    assert (level in ("identical", "cosmetic")) == (_closed(a) == _closed(b))


def _closed(document: Document) -> Any:
    """The world has three actions and ECR more, so a wildcard that reaches beyond them is noticed here."""
    beyond = set()
    for statement in document["Statement"]:
        for pattern in {one for one in statement["Action"] if one in PATTERNS}:
            wide = {**statement, "Action": ["ecr:PutImage"]}
            requests = played({"Statement": [wide]})
            names = {"all"} if pattern != "ecr:Batch*" else set()
            for name in names | {"batch"}:
                beyond |= {(effect, name, request) for effect, some in requests.items() for request in some}
    return played(document), beyond


@given(documents(mixed), documents(mixed))
@quick
def test_two_policies_that_a_request_can_tell_apart_are_never_called_the_same(a: Document, b: Document) -> None:
    found = compare(json.dumps(a), json.dumps(b), partition="aws")
    before, after = played(a), played(b)

    if before != after:
        assert found.level == "access"
    if (after["Allow"] - before["Allow"]) or (before["Deny"] - after["Deny"]):
        assert found.gained
    if (before["Allow"] - after["Allow"]) or (after["Deny"] - before["Deny"]):
        assert found.lost


@given(documents(mixed), documents(mixed))
@quick
def test_what_is_reported_as_gained_one_way_is_lost_the_other_way(a: Document, b: Document) -> None:
    there = compare(json.dumps(a), json.dumps(b), partition="aws")
    back = compare(json.dumps(b), json.dumps(a), partition="aws")

    def plain(grants: Any) -> list[Any]:
        return sorted((one.principal, one.actions, json.dumps(one.condition), one.effect) for one in grants)

    assert plain(there.gained) == plain(back.lost)
    assert plain(there.lost) == plain(back.gained)


@given(documents(mixed), documents(mixed))
@quick
def test_granting_what_is_reported_as_gained_makes_up_the_difference(a: Document, b: Document) -> None:
    """A + gained ≡ A + B for the Allows: the report is neither short nor beside the point."""
    a, b = ({**one, "Statement": [s for s in one["Statement"] if s["Effect"] == "Allow"]} for one in (a, b))
    gained = compare(json.dumps(a), json.dumps(b), partition="aws").gained
    extra = []
    for grant in gained:
        kind, _, name = grant.principal.partition(":") if grant.principal.startswith("Service:") else ("AWS", "", "")
        statement = {"Effect": "Allow", "Principal": {kind: name or grant.principal}, "Action": list(grant.actions)}
        extra.append(statement | ({"Condition": grant.condition} if grant.condition else {}))
    with_gained = {**a, "Statement": a["Statement"] + extra}
    with_b = {**a, "Statement": a["Statement"] + b["Statement"]}

    assert compare(json.dumps(with_gained), json.dumps(with_b), partition="aws").level in ("identical", "cosmetic")


# ----------------------------------------------------------------------------------------- what never changes access


def rewritten(document: Document, chance: random.Random) -> str:
    """The same access in other words: shuffled, split, doubled, aliased, re-cased, wrapped, re-serialised."""
    statements = []
    for statement in document["Statement"]:
        parts = [statement]
        if chance.random() < 0.5 and len(statement["Action"]) > 1:
            parts = [{**statement, "Action": [action]} for action in statement["Action"]]
        named = statement["Principal"]
        if chance.random() < 0.5 and isinstance(named, dict) and isinstance(named.get("AWS"), list) and named["AWS"]:
            others = {kind: names for kind, names in named.items() if kind != "AWS"}
            split = [{"AWS": name} for name in named["AWS"]] + ([others] if others else [])
            parts = [{**part, "Principal": one} for part in parts for one in split]
        elif named == "*" and chance.random() < 0.5:
            parts = [{**part, "Principal": {"AWS": ["*", chance.choice(ROOTS)]}} for part in parts]
        for part in parts:
            block = part.get("Condition", {}).get("StringEquals", {})
            if block and chance.random() < 0.5:
                key = chance.choice(sorted(block))
                parts = [one for one in parts if one is not part] + [
                    {**part, "Condition": {**part["Condition"], "StringEquals": {**block, key: value}}}
                    for value in block[key]
                ]
        statements += parts
    statements += [one for one in statements if chance.random() < 0.2]
    chance.shuffle(statements)
    return json.dumps(
        {"Id": "x", "Version": document["Version"], "Statement": [_respelt(one, chance) for one in statements]},
        indent=chance.choice([None, 2]),
    )


def _respelt(statement: Document, chance: random.Random) -> Document:
    result = {**statement, "Sid": chance.choice(["", "a", "ü"])}
    names = list(statement["Action"])
    chance.shuffle(names)
    names = [chance.choice([name, name.lower(), name.upper()]) for name in names]
    result["Action"] = names[0] if len(names) == 1 and chance.random() < 0.5 else names + names[:1]
    if isinstance(statement["Principal"], dict):
        aliases = dict(zip(ACCOUNTS, ROOTS, strict=True)) | dict(zip(ROOTS, ACCOUNTS, strict=True))
        result["Principal"] = {
            kind: [
                chance.choice([name, aliases.get(name, name)])
                for name in ([names] if isinstance(names, str) else names)
            ]
            for kind, names in statement["Principal"].items()
        }
    if statement.get("Condition"):
        result["Condition"] = {
            operator: {
                chance.choice([key, key.upper()]): chance.sample(values, len(values))
                if isinstance(values, list)
                else values
                for key, values in block.items()
            }
            for operator, block in statement["Condition"].items()
        }
    elif chance.random() < 0.5:
        result["Condition"] = chance.choice([None, {}, []])
    items = list(result.items())
    chance.shuffle(items)
    return dict(items)


@settings(quick, max_examples=200)
@given(documents(mixed), st.randoms(use_true_random=False))
def test_a_policy_in_other_words_is_never_drift(document: Document, chance: random.Random) -> None:
    found = compare(json.dumps(document), rewritten(document, chance), partition="aws")

    assert found.level in ("identical", "cosmetic"), found


@given(documents(positive), st.sampled_from(["Allow", "Deny"]), st.sampled_from(sorted(NAMES.values())))
@quick
def test_one_atom_more_or_less_is_always_drift(document: Document, effect: str, action: str) -> None:
    extra = {"Effect": effect, "Principal": {"AWS": "999999999999"}, "Action": action}
    text, longer = json.dumps(document), json.dumps({**document, "Statement": [*document["Statement"], extra]})
    covered = any(
        statement["Effect"] == effect
        and not statement.get("Condition")
        and "*" in json.dumps(statement["Principal"])
        and compare(
            json.dumps({"Statement": {**statement, "Principal": "*"}}),
            json.dumps({"Statement": [{**statement, "Principal": "*"}, {**extra, "Principal": "*"}]}),
            partition="aws",
        ).level
        == "cosmetic"
        for statement in document["Statement"]
    )

    level = compare(text, longer, partition="aws").level
    if not covered:
        assert level == "access"
        assert compare(longer, text, partition="aws").level == "access"


@given(documents(mixed))
@quick
def test_every_policy_is_identical_to_itself(document: Document) -> None:
    text = json.dumps(document)

    assert compare(text, text, partition="aws").level == "identical"
    assert compare(text, text + " ", partition="aws").level == "cosmetic"


# ------------------------------------------------------------------------------------------------------ never a crash

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["Version", "Statement", "Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Condition", "AWS",
     "Resource", "StringEquals", "IpAddress", "ForAllValues:StringLike", "aws:SourceIp", "aws:PrincipalOrgID", "Null"]
)  # fmt: skip
leaves = st.sampled_from(
    [
        "*",
        "Allow",
        "Deny",
        "ecr:*",
        "ecr:BatchGetImage",
        "111111111111",
        "${a}",
        "o-1",
        "0.0.0.0/0",
        "true",
        "%s{x}",
        "2012-10-17",
    ]
)
policylike = st.recursive(
    leaves | st.none() | st.booleans() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)
statements = st.dictionaries(names, policylike, max_size=6)
texts = st.one_of(
    st.text(max_size=40),
    json_values.map(json.dumps),
    policylike.map(json.dumps),
    st.lists(statements, max_size=3).map(lambda some: json.dumps({"Statement": some})),
)


@settings(quick, max_examples=250)
@given(texts, texts)
def test_no_text_makes_the_engine_raise(a: str, b: str) -> None:
    compare(a, b, partition="aws")
    lint(a, partition="aws", consumer_accounts=["111111111111"])
    lint(b, partition=None)
    with contextlib.suppress(PolicyError):
        policy = parse(a)
        for caller in ("111111111111", "*", "lambda.amazonaws.com", "anything"):
            may(policy, caller, "ecr:*", {"aws:SourceIp": "10.0.0.1"}, partition="aws")


# --------------------------------------------------------------------------------------------------------- who may?


@settings(quick, max_examples=200)
@given(documents(mixed))
def test_may_agrees_with_playing_every_request(document: Document) -> None:
    policy = parse(json.dumps(document))
    world = played(document)
    for caller, action in itertools.product([ROOTS[0], ROOTS[1]], ACTIONS):
        verdicts = set()
        for number, context in enumerate(CONTEXTS):
            request = (caller, action, number)
            wanted = "yes" if request in world["Allow"] and request not in world["Deny"] else "no"
            known = {key: context.get(key) for key in KEYS}
            answer = may(policy, caller, action, known, partition="aws")
            role_denied = caller == ROOTS[0] and (ROLE, action, number) in world["Deny"]
            role_allowed = caller == ROOTS[0] and (ROLE, action, number) in world["Allow"]
            if answer.verdict == "depends":
                # Only ever because one role of the account is singled out.
                assert role_denied or role_allowed
            else:
                assert answer.verdict == wanted
            verdicts.add(wanted)
        blind = may(policy, caller, action, partition="aws").verdict
        # Not knowing the context may cost certainty; it never makes a wrong one.
        assert blind == "depends" or {blind} == verdicts
