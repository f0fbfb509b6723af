"""What holds for every policy, not only for those that somebody thought of.

The judge is independent of the engine: `plain_iam` takes the documents as they are and decides every request of a small
world, or of the requests that `made_up` makes of what two policies name. It shares no code with `deployments.policy`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.policy import PolicyError, compare, lint, may, parse
from deployments.policy.actions import NAMES, PURPOSES, Purpose
from tests.policy.made_up import judge, pair, requests
from tests.policy.plain_iam import BY_ACCOUNT, BY_NAME, DENIED, NOTHING, Guess, decide

quick = settings(deadline=None, max_examples=100)
pytestmark = pytest.mark.slow  # thousands of made-up policies

# ------------------------------------------------------------------------------------------------------ a small world

ACCOUNTS = ["111111111111", "012345678901"]
ROOTS = [f"arn:aws:iam::{account}:root" for account in ACCOUNTS]
ROLE = "arn:aws:iam::111111111111:role/r"
ACTIONS = ["ecr:BatchGetImage", "ecr:BatchDeleteImage", "ecr:PutImage"]
PATTERNS = ["ecr:Batch*", "ecr:*", "*"]
MORE = ["ecr:BatchCheckLayerAvailability", "ecr:ListImages"]  # what the patterns stand for besides
UNNAMED = [f"arn:aws:iam::{account}:role/unnamed" for account in ACCOUNTS]
CALLERS = [*UNNAMED, ROLE, "arn:aws:iam::444444444444:role/unnamed", "Service:lambda.amazonaws.com"]
KEYS = ["k", "j"]
CONTEXTS = [
    {key: value for key, value in zip(KEYS, values, strict=True) if value is not None}
    for values in itertools.product([None, "a", "b", "another"], repeat=len(KEYS))
]
RANKS = [DENIED, NOTHING, BY_ACCOUNT, BY_NAME]
GRANTABLE_NAMES = {name for action, name in NAMES.items() if PURPOSES[action] is not Purpose.ACCOUNT}
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


def decided(document: Document) -> dict[tuple[str, str, int], int]:
    """Every request of the world → how much the policy decides for it, from denied to allowed by name."""
    return {
        (caller, action, number): RANKS.index(decide(document, caller, action, context, Guess(0)))
        for caller, action, (number, context) in itertools.product(CALLERS, ACTIONS + MORE, enumerate(CONTEXTS))
    }


@settings(quick, max_examples=250)
@given(documents(mixed), documents(mixed))
def test_cosmetic_is_said_exactly_when_no_request_can_tell_the_two_apart(a: Document, b: Document) -> None:
    level = compare(json.dumps(a), json.dumps(b), partition="aws").level

    assert (level in ("identical", "cosmetic")) == (decided(a) == decided(b))


@given(documents(mixed), documents(mixed))
@quick
def test_gained_and_lost_are_reported_exactly_when_a_request_gains_or_loses(a: Document, b: Document) -> None:
    found = compare(json.dumps(a), json.dumps(b), partition="aws")
    before, after = decided(a), decided(b)

    assert bool(found.gained) == any(after[request] > before[request] for request in before)
    assert bool(found.lost) == any(after[request] < before[request] for request in before)


MADE_UP = 1_500  # pairs; `make bench-policies` tries 20,000


def test_no_difference_is_missed_and_none_is_invented_in_the_whole_grammar() -> None:
    judged = Counter(verdict for number in range(MADE_UP) if (verdict := judge(number).verdict))

    assert judged["missed"] == judged["invented"] == 0
    assert judged["incomparable"] <= MADE_UP // 100
    assert judged["same"] > MADE_UP // 4
    assert judged["different"] > MADE_UP // 4


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
    caller = "arn:aws:iam::999999999999:role/unnamed"
    differs = any(
        decide(json.loads(text), caller, action, context, Guess(0))
        != decide(json.loads(longer), caller, action, context, Guess(0))
        for context in CONTEXTS
    )
    if action in GRANTABLE_NAMES:
        assert compare(text, longer, partition="aws").level == ("access" if differs else "cosmetic")
        assert compare(longer, text, partition="aws").level == ("access" if differs else "cosmetic")
    else:
        assert compare(text, longer, partition="aws").level == "cosmetic"


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
    for account, action in itertools.product(ACCOUNTS, ACTIONS):
        verdicts = set()
        for context in CONTEXTS:
            caller = f"arn:aws:iam::{account}:role/unnamed"
            wanted = "yes" if decide(document, caller, action, context, Guess(0)) in (BY_ACCOUNT, BY_NAME) else "no"
            known = {key: context.get(key) for key in KEYS}
            answer = may(policy, account, action, known, partition="aws")
            if answer.verdict == "depends":
                # Only ever because one role of the account is singled out.
                assert account in ROLE
                assert ROLE in json.dumps(document)
            else:
                assert answer.verdict == wanted
            verdicts.add(wanted)
        blind = may(policy, account, action, partition="aws").verdict
        # Not knowing the context may cost certainty; it never makes a wrong one.
        assert blind == "depends" or {blind} == verdicts


def test_may_agrees_with_the_plain_evaluator_in_the_whole_grammar() -> None:
    settled = 0
    for number in range(300):
        document, _ = pair(number, seed=2)
        policy = parse(json.dumps(document))
        chance = random.Random(number)  # noqa: S311  # made-up requests
        for caller, action, context in requests(document, document, chance, 25):
            answer = may(policy, caller, action, context, partition="aws")
            decisions = {decide(document, caller, action, context, Guess(guess)) for guess in range(8)}
            if answer.verdict != "depends":
                settled += 1
                assert {decision in (BY_ACCOUNT, BY_NAME) for decision in decisions} == {answer.verdict == "yes"}

    assert settled > 300 * 20
