"""Which statements of AWS services stay in a live policy: none gives more than a pull for our accounts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.policy import MAX_CHARACTERS, ServiceStatement, Trust, compare, openness, service_statements
from deployments.policy import with_statements as joined
from deployments.policy.service_statements import LAMBDA, LAMBDA_SID
from tests.policy.cases import PULL, PULL3, PUSH, cond, policy, stmt
from tests.policy.plain_iam import BY_NAME, Guess, decide, listed

OWNER, CONSUMER, FOREIGN = "111111111111", "222222222222", "999999999999"
DEFAULT = policy(stmt(CONSUMER))
TRUST = Trust(owner=OWNER, consumers=(CONSUMER,))
FUNCTIONS = "arn:aws:lambda:us-east-1:{}:function:*"
#: What Lambda adds beside the two pull actions where it writes the statement itself.
OF_POLICY = ["ecr:SetRepositoryPolicy", "ecr:DeleteRepositoryPolicy", "ecr:GetRepositoryPolicy"]


def service(name: Any = LAMBDA, action: Any = PULL, **more: Any) -> dict[str, Any]:
    return stmt({"Service": name}, action, **more)


def of(account: str, **more: Any) -> dict[str, Any]:
    """Lambda's statement for the functions of one account, as Lambda and AWS's pages write it."""
    return service(**cond("StringLike", "aws:sourceArn", FUNCTIONS.format(account)), **more)


#: The three forms of AWS's pages: of the same account, of another account, and as Lambda adds it.
BARE = service(Sid=LAMBDA_SID)
CROSS = of(CONSUMER, Sid="LambdaECRImageCrossAccountRetrievalPolicy")
ADDED = of(OWNER, Sid=LAMBDA_SID) | {"Action": PULL + OF_POLICY}


def found(*statements: Any, default: str = DEFAULT, trust: Trust = TRUST, **more: Any) -> tuple[ServiceStatement, ...]:
    live = policy(stmt(CONSUMER), *statements, **more)
    return service_statements(live, default=default, partition="aws", trust=trust)


def kept(*statements: Any, **more: Any) -> list[str]:
    return [each.name for each in found(*statements, **more) if each.kept]


def test_the_documented_statement_of_another_account_is_kept_with_its_name_service_and_account() -> None:
    [one] = found(CROSS)

    assert (one.name, one.services, one.accounts) == (CROSS["Sid"], (LAMBDA,), (CONSUMER,))
    assert (one.kept, one.warning, one.allows) == (True, "", "pull")


def test_the_documented_statement_without_a_condition_is_kept_with_a_warning() -> None:
    [one] = found(BARE)

    assert (one.kept, one.accounts) == (True, ())
    assert "names no account" in one.warning


def test_the_form_that_lambda_adds_may_change_the_policy_and_is_kept_once_it_is_adopted() -> None:
    [one] = found(ADDED)
    assert (one.kept, one.accounts) == (False, (OWNER,))
    assert "change or delete the repository policy" in one.warning

    adopting = Trust(owner=OWNER, consumers=(CONSUMER,), adopted=frozenset({one.text}))
    assert kept(ADDED, trust=adopting) == [LAMBDA_SID]
    wider = ADDED | cond("StringLike", "aws:sourceArn", [FUNCTIONS.format(OWNER), FUNCTIONS.format(CONSUMER)])
    assert kept(wider, trust=adopting) == []  # another statement, so it needs an adoption of its own


def test_an_adopted_statement_is_the_same_in_each_order_and_spelling() -> None:
    other = {**ADDED, "Action": [each.upper().replace("ECR:", "ecr:") for each in reversed(ADDED["Action"])]}

    assert found(ADDED)[0].text == found(other)[0].text


@pytest.mark.parametrize("version", ["2008-10-17", "2012-10-17"])
@pytest.mark.parametrize(
    "statement",
    [
        of(OWNER),
        of(OWNER, Sid="x") | {"Action": PULL3},
        of(OWNER) | {"Action": "ecr:batchgetimage"},
        service(**cond("StringLike", "aws:SourceARN", f"arn:aws:lambda:*:{CONSUMER}:function:*")),  # any region
        service(**cond("ArnLike", "aws:SourceArn", f"arn:aws:lambda:*:{CONSUMER}:*")),
        service(**cond("ArnLike", "aws:SourceArn", [FUNCTIONS.format(OWNER), FUNCTIONS.format(CONSUMER)])),
        service(**cond("StringEquals", "aws:SourceAccount", [OWNER, CONSUMER])),
        service("codebuild.amazonaws.com", **cond("StringEquals", "aws:sourceaccount", OWNER)),
        service(["codebuild.amazonaws.com", LAMBDA], **cond("StringEquals", "aws:SourceAccount", OWNER)),
        service(
            Condition={
                "StringEquals": {"aws:SourceAccount": OWNER},
                "ArnLike": {"aws:SourceArn": f"arn:aws:codebuild:us-east-1:{OWNER}:project/*"},
            }
        ),
        service(
            Condition={
                "StringEquals": {"aws:SourceAccount": OWNER},
                "ArnLike": {"aws:SourceArn": "arn:aws:s3:::a-bucket"},  # this ARN names no account
            }
        ),
    ],
)
def test_a_service_that_pulls_for_our_accounts_is_kept(statement: dict[str, Any], version: str) -> None:
    assert len(kept(statement, version=version)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        of(FOREIGN),
        service(),  # no condition, and not the Sid of AWS's page
        service("codebuild.amazonaws.com", Sid=LAMBDA_SID),
        service([LAMBDA, "codebuild.amazonaws.com"], Sid=LAMBDA_SID),
        service(Sid=LAMBDA_SID.lower()),
        BARE | {"Action": PULL + OF_POLICY},  # it would let Lambda change the policy for every account
        BARE | {"Action": [*PULL, "ecr:DescribeImages"]},
        of(OWNER) | {"Action": PUSH},
        of(OWNER) | {"Action": "ecr:*"},
        of(OWNER) | {"Action": "ecr:Batch*"},
        of(OWNER) | {"Action": "ecr:GetDownloadUrlForLayer*"},
        of(OWNER) | {"Effect": "Deny"},
        of(OWNER) | {"Principal": {"Service": LAMBDA, "AWS": OWNER}},
        of(OWNER) | {"Principal": "*"},
        of(OWNER) | {"Principal": {"Service": "*"}},
        of(OWNER) | {"Principal": {"Service": "lambda.example.com"}},
        of(OWNER) | {"Principal": {"Service": "lambda.amazonaws.com.example.com"}},
        {key: value for key, value in of(OWNER).items() if key != "Principal"} | {"NotPrincipal": {"Service": LAMBDA}},
        {key: value for key, value in of(OWNER).items() if key != "Action"} | {"NotAction": PUSH},
        of(OWNER) | {"Resource": "*"},
        of(OWNER) | {"NotResource": "*"},
        service(**cond("StringEquals", "aws:SourceAccount", [OWNER, FOREIGN])),
        service(**cond("StringLike", "aws:SourceAccount", "1111*")),
        service(**cond("StringEquals", "aws:SourceAccount", [])),
        service(**cond("StringNotEquals", "aws:SourceAccount", OWNER)),
        service(**cond("StringEqualsIfExists", "aws:SourceAccount", OWNER)),
        service(**cond("ForAllValues:StringEquals", "aws:SourceAccount", OWNER)),
        service(**cond("ForAnyValue:StringEquals", "aws:SourceAccount", OWNER)),
        service(**cond("StringEquals", "aws:PrincipalAccount", OWNER)),
        service(**cond("StringEquals", "aws:SourceOrgID", "o-1")),
        service(**cond("StringEquals", "aws:SourceAccount", "${aws:ResourceAccount}")),
        service(**cond("Null", "aws:SourceArn", "false")),
        service(**cond("ArnLike", "aws:SourceArn", "arn:aws:lambda:us-east-1:*:function:*")),
        service(**cond("ArnLike", "aws:SourceArn", [FUNCTIONS.format(OWNER), FUNCTIONS.format("*")])),
        service(**cond("ArnLike", "aws:SourceArn", f"arn:*:lambda:us-east-1:{OWNER}:function:*")),
        service(**cond("ArnLike", "aws:SourceArn", f"arn:aws-cn:lambda:us-east-1:{OWNER}:function:*")),
        service(**cond("ArnLike", "aws:SourceArn", f"arn:aws:*:us-east-1:{OWNER}:function:*")),
        service(**cond("ArnLike", "aws:SourceArn", f"arn:aws:lambda:us-east-1:{OWNER}")),
        service(**cond("ArnLike", "aws:SourceArn", "arn:aws:s3:::a-bucket")),  # anybody's bucket
        service(**cond("ArnLike", "aws:SourceArn", FUNCTIONS.format("${aws:ResourceAccount}"))),
        service(**cond("StringLike", "aws:SourceArn", "*")),
        # Under StringLike a star also matches colons: this one may stand for a log group of another account.
        service(**cond("StringLike", "aws:SourceArn", f"arn:aws:logs:*:{OWNER}:log-group:*")),
        service(**cond("StringLike", "aws:SourceArn", f"arn:aws:lambda:*:{OWNER}:*")),
        service(Condition={"StringEquals": {"aws:SourceAccount": OWNER}, "Bool": {"aws:SecureTransport": "true"}}),
        service(Condition={"StringEquals": {"aws:SourceAccount": OWNER, "aws:SourceArn": FUNCTIONS.format(CONSUMER)}}),
    ],
)  # fmt: skip
def test_everything_else_is_judged_like_any_other_statement(statement: dict[str, Any]) -> None:
    assert kept(statement) == []


def test_beside_a_part_that_is_not_understood_nothing_is_kept() -> None:
    assert found(CROSS, stmt(FOREIGN, Novelty=1)) == ()
    assert found(CROSS, default="{") == ()
    assert found(CROSS, default=policy(stmt(CONSUMER, Novelty=1))) == ()
    assert service_statements('{"Service"', default=DEFAULT, partition="aws", trust=TRUST) == ()


def test_a_statement_of_the_default_policy_is_ours_by_what_it_allows_and_by_its_name() -> None:
    mine = policy(stmt(CONSUMER), {**CROSS, "Sid": "Ours"})
    assert kept(CROSS, default=mine) == []  # it adds nothing
    assert kept(of(CONSUMER, Sid="Ours"), of(OWNER, Sid="Ours"), default=mine) == []
    assert kept(of(OWNER, Sid="Theirs"), default=mine) == ["Theirs"]


def test_the_text_that_is_written_is_the_default_policy_with_the_kept_statements_and_nothing_else() -> None:
    strange = DEFAULT.replace('"Statement"', '"Id": "ours", "Statement"')
    written = joined(strange, found(CROSS, BARE))

    document = json.loads(written)
    assert document["Statement"][0] == json.loads(DEFAULT)["Statement"][0]
    assert [each["Sid"] for each in document["Statement"][1:]] == [CROSS["Sid"], LAMBDA_SID]
    assert document["Id"] == "ours"
    assert compare(written, policy(stmt(CONSUMER), BARE, CROSS), partition="aws").level == "cosmetic"
    assert found(*document["Statement"][1:]) == found(CROSS, BARE)  # the next look finds the same ones
    assert joined(DEFAULT, []) is DEFAULT
    alone = json.dumps({"Version": "2012-10-17", "Statement": stmt(CONSUMER)})
    assert len(json.loads(joined(alone, found(CROSS)))["Statement"]) == 2


# ---------------------------------------------------------------------------------------------- every made-up statement


def _mostly(usual: list[Any], odd: list[Any]) -> st.SearchStrategy[Any]:
    """The usual values more often: a statement of odd parts only is never kept, so that it shows nothing."""
    return st.one_of(*[st.sampled_from(usual)] * 3, st.sampled_from(odd))


_arns = st.builds(
    "arn:{}:{}:{}:{}:{}".format,
    _mostly(["aws"], ["*"]),
    _mostly(["lambda", "codebuild"], ["*"]),
    _mostly(["us-east-1", "*"], ["", "us-*-1"]),
    _mostly([OWNER, CONSUMER], [FOREIGN, "*", ""]),
    _mostly(["function:f", "function:*", f"function:{OWNER}:function:f"], ["*", "project/x", "f:live"]),
)
_values = st.lists(_arns, min_size=1, max_size=2)
_accounts = st.lists(
    _mostly([OWNER, CONSUMER], [FOREIGN, "*", "1111*", "${aws:ResourceAccount}"]), min_size=1, max_size=2
)
_blocks = st.one_of(
    st.fixed_dictionaries({"aws:SourceArn": _values}),
    st.fixed_dictionaries({"aws:SourceAccount": _accounts}),
    st.fixed_dictionaries({"aws:sourceARN": _values, "aws:sourceaccount": _accounts}),
)
_operators = _mostly(
    ["StringEquals", "StringLike", "ArnLike"],
    ["ArnEquals", "StringNotEquals", "StringLikeIfExists", "ForAnyValue:StringLike", "ForAllValues:ArnLike"],
)
_conditions = st.dictionaries(_operators, _blocks, min_size=1, max_size=2)
_principals = _mostly(
    [{"Service": LAMBDA}, {"Service": [LAMBDA, "codebuild.amazonaws.com"]}],
    ["*", {"AWS": "*"}, {"AWS": FOREIGN, "Service": LAMBDA}, {"Service": []}, {"Service": "*"}],
)
_actions = st.one_of(
    st.just(PULL),
    st.lists(_mostly(PULL3, [*OF_POLICY, "ecr:PutImage", "ecr:*", "ecr:Batch*"]), min_size=1, max_size=4),
)
_statements = st.fixed_dictionaries(
    {"Effect": _mostly(["Allow"], ["Deny"]), "Principal": _principals, "Action": _actions},
    optional={"Condition": _conditions, "Sid": st.sampled_from([LAMBDA_SID, "Other"])},
)

_CALLERS = [f"Service:{LAMBDA}", "Service:codebuild.amazonaws.com", f"arn:aws:iam::{FOREIGN}:role/r",
            f"arn:aws:iam::{OWNER}:role/r"]  # fmt: skip


def _requests() -> Iterator[tuple[str | None, dict[str, Any]]]:
    """The account that a service acts for, and the context of its request: an ARN as AWS forms one, or none."""
    yield None, {}
    for account in (OWNER, CONSUMER, FOREIGN):
        yield account, {"aws:sourceaccount": account}
        for rest in ("function:f", f"function:{OWNER}", f"function:{OWNER}:function", f"function:f:{OWNER}"):
            arn = f"arn:aws:lambda:us-east-1:{account}:{rest}"
            yield account, {"aws:sourcearn": arn}
            yield account, {"aws:sourcearn": arn, "aws:sourceaccount": account}
        # The name of a log group may hold colons, and so may an account's id.
        arn = f"arn:aws:codebuild:us-east-1:{account}:project/x:{OWNER}:function:f"
        yield account, {"aws:sourcearn": arn, "aws:sourceaccount": account}
    yield FOREIGN, {"aws:sourcearn": "arn:aws:s3:::a-bucket"}


_REQUESTS = list(_requests())


@pytest.mark.costly
@settings(deadline=None, max_examples=400)
@example([of(CONSUMER) | cond("StringLike", "aws:SourceArn", f"arn:aws:lambda:*:{CONSUMER}:function:*")])
@example([service(Condition={"StringEquals": {"aws:SourceAccount": OWNER, "aws:SourceArn": "arn:aws:s3:::a-bucket"}})])
@example([service("codebuild.amazonaws.com", **cond("StringLike", "aws:SourceArn", f"arn:aws:codebuild:*:{OWNER}:*"))])
@example([of(FOREIGN)])
@given(st.lists(_statements, min_size=1, max_size=2))
def test_what_is_kept_gives_an_aws_service_that_acts_for_our_accounts_a_pull_and_nobody_anything_else(
    statements: list[dict[str, Any]],
) -> None:
    everything = found(*statements)
    document = {"Version": "2012-10-17", "Statement": [json.loads(each.text) for each in everything if each.kept]}
    bare = [each for each in everything if each.kept and not each.accounts]
    assert all(json.loads(each.text) == BARE | {"Action": json.loads(each.text)["Action"]} for each in bare)
    certain = [each for each in document["Statement"] if each not in [json.loads(one.text) for one in bare]]
    for caller, action in itertools.product(_CALLERS, [*PULL3, *OF_POLICY, *PUSH, "ecr:BatchDeleteImage"]):
        for account, context in _REQUESTS:
            allowed = decide({**document, "Statement": certain}, caller, action, context, Guess(0)) == BY_NAME
            assert not allowed or (
                caller.startswith("Service:") and action in PULL3 and account in (OWNER, CONSUMER)
            ), (certain, caller, action, context)
            if (
                decide({"Statement": [json.loads(one.text) for one in bare]}, caller, action, context, Guess(0))
                == BY_NAME
            ):
                assert caller == f"Service:{LAMBDA}"
                assert action in PULL3
    assert not document["Statement"] or openness(json.dumps(document), partition="aws") == "closed"
    whole = joined(DEFAULT, [each for each in everything if each.kept])
    assert len(listed(json.loads(whole)["Statement"])) == 1 + len(document["Statement"])
    assert len(whole) < MAX_CHARACTERS
