"""Who may do what: yes, no, or it depends, and which statement decides."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.policy import can_pull, compare, holders, may, parse
from tests.policy.cases import ONE, ORG, PULL, PULL3, R1, ROLE, TWO, cond, policy, stmt, without

IMAGE = "ecr:BatchGetImage"
ROLE2 = f"arn:aws:iam::{ONE}:role/team/r"
SESSION = f"arn:aws:sts::{ONE}:assumed-role/r/somebody"


def verdict(text: str, who: str = ONE, action: str = IMAGE, partition: str = "aws", **context: Any) -> str:
    named = {key.replace("__", ":").replace("_", "/"): value for key, value in context.items()}
    return may(parse(text), who, action, named, partition=partition).verdict


def held(operator: str, values: Any, given: Any = "unknown", *, effect: str = "Allow") -> str:
    """The verdict for account 1 where the policy tests the key `k` and the request carries this for it."""
    statements = [stmt("*", effect=effect, **cond(operator, "k", values))]
    if effect == "Deny":
        statements.append(stmt("*"))
    context = {} if given == "unknown" else {"K": given}
    return may(parse(policy(*statements)), ONE, IMAGE, context, partition="aws").verdict


@pytest.mark.parametrize(
    ("principal", "who", "expected"),
    [
        (ONE, ONE, "yes"),
        (ONE, R1, "yes"),
        (ONE, TWO, "no"),
        (ONE, ROLE, "yes"),
        (ONE, SESSION, "yes"),
        (ONE, f"arn:aws-cn:iam::{ONE}:role/r", "no"),
        (f"arn:aws-cn:iam::{ONE}:root", ONE, "no"),
        (ROLE, ROLE, "yes"),
        (ROLE, SESSION, "yes"),
        (ROLE2, SESSION, "yes"),
        (ROLE, f"arn:aws:sts::{ONE}:assumed-role/other/somebody", "no"),
        (SESSION, ROLE, "depends"),
        (SESSION, f"arn:aws:iam::{ONE}:role/x", "no"),
        (ROLE, ONE, "depends"),
        (ROLE, TWO, "no"),
        (ROLE, f"arn:aws:iam::{ONE}:role/R", "no"),
        ("*", ONE, "yes"),
        ("*", "*", "yes"),
        (ONE, "*", "no"),
        ({"Service": "lambda.amazonaws.com"}, "lambda.amazonaws.com", "yes"),
        ({"Service": "lambda.amazonaws.com"}, ONE, "no"),
        ({"AWS": "lambda.amazonaws.com"}, "lambda.amazonaws.com", "no"),
        ("AROAEXAMPLE1234567890", ROLE, "no"),
        ("AROAEXAMPLE1234567890", "AROAEXAMPLE1234567890", "yes"),
        ("arn:aws:iam::*:root", ONE, "depends"),
        (f"arn:aws:iam::{TWO}:*", ONE, "no"),
        ([], ONE, "no"),
    ],
)
def test_whom_a_principal_means(principal: Any, who: str, expected: str) -> None:
    assert verdict(policy(stmt(principal)), who) == expected


@pytest.mark.parametrize(
    ("action", "asked", "expected"),
    [
        (PULL, "ECR:batchgetimage", "yes"),
        ("ecr:Batch*", IMAGE, "yes"),
        ("*", IMAGE, "yes"),
        (PULL, "ecr:PutImage", "no"),
        ("ecr:*", "ecr:NotYetKnown", "yes"),
        ([], IMAGE, "no"),
        (PULL, "ecr:*", "no"),
        ("ecr:*", "ecr:Batch*", "yes"),
    ],
)
def test_what_an_action_means(action: Any, asked: str, expected: str) -> None:
    assert verdict(policy(stmt(action=action)), action=asked) == expected


def test_not_action_means_all_the_others() -> None:
    text = policy(without("Action", NotAction="ecr:Put*"))

    assert verdict(text) == "yes"
    assert verdict(text, action="ecr:PutImage") == "no"


def test_a_deny_beats_any_allow_wherever_it_stands() -> None:
    for statements in ([stmt(), stmt("*", effect="Deny")], [stmt("*", effect="Deny"), stmt()]):
        assert verdict(policy(*statements)) == "no"
    answer = may(parse(policy(stmt(), stmt(Sid="No", effect="Deny"))), ONE, IMAGE, partition="aws")
    assert (answer.statement, answer.words) == (
        "No",
        f"account {ONE} may not use {IMAGE} (pull): No denies it.",
    )


def test_a_deny_for_another_or_of_another_action_takes_nothing() -> None:
    assert verdict(policy(stmt(), stmt(TWO, effect="Deny"))) == "yes"
    assert verdict(policy(stmt(), stmt(action="ecr:PutImage", effect="Deny"))) == "yes"


def test_a_deny_of_one_role_makes_its_account_depend() -> None:
    text = policy(stmt(), stmt(ROLE, effect="Deny"))

    assert verdict(text) == "depends"
    assert verdict(text, ROLE) == "no"
    assert verdict(text, f"arn:aws:iam::{ONE}:role/other") == "yes"


def test_a_deny_under_an_unknown_condition_makes_it_depend_and_an_unallowed_one_stays_no() -> None:
    denied = stmt("*", effect="Deny", **cond("StringNotEquals", "aws:PrincipalOrgID", "o-1"))

    assert verdict(policy(stmt(), denied)) == "depends"
    assert verdict(policy(denied)) == "no"
    assert verdict(policy(stmt(), denied), aws__PrincipalOrgID="o-1") == "yes"
    assert verdict(policy(stmt(), denied), aws__PrincipalOrgID=None) == "no"


def test_not_principal_with_deny_spares_only_whom_it_names() -> None:
    text = policy(stmt("*"), without("Principal", stmt(effect="Deny"), NotPrincipal={"AWS": ONE}))

    assert verdict(text, ONE) == "depends"  # a principal of the account, that AWS wants named as well
    assert verdict(text, TWO) == "no"
    assert verdict(text, ROLE) == "depends"
    both = policy(stmt("*"), without("Principal", stmt(effect="Deny"), NotPrincipal={"AWS": [ONE, ROLE]}))
    assert verdict(both, ROLE) == "depends"  # AWS may validate the session too, and no name of one is in the list
    assert verdict(both, SESSION) == "depends"
    session = policy(stmt("*"), without("Principal", stmt(effect="Deny"), NotPrincipal={"AWS": [ONE, SESSION]}))
    assert verdict(session, SESSION) == "depends"
    all_three = policy(stmt("*"), without("Principal", stmt(effect="Deny"), NotPrincipal={"AWS": [ONE, ROLE, SESSION]}))
    assert verdict(all_three, SESSION) == "yes"
    user = f"arn:aws:iam::{ONE}:user/u"
    assert (
        verdict(policy(stmt("*"), without("Principal", stmt(effect="Deny"), NotPrincipal={"AWS": [ONE, user]})), user)
        == "yes"
    )
    lone = policy(stmt("*"), without("Principal", stmt(effect="Deny"), NotPrincipal={"AWS": ROLE}))
    assert verdict(lone, ROLE) == "depends"
    assert verdict(lone, ONE) == "depends"


def test_not_principal_with_allow_lets_in_everyone_else() -> None:
    text = policy(without("Principal", NotPrincipal={"AWS": ONE}))

    assert (verdict(text, ONE), verdict(text, ROLE), verdict(text, TWO)) == ("no", "no", "yes")


# -------------------------------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("operator", "values", "given", "expected"),
    [
        ("StringEquals", ["a", "b"], "b", "yes"),
        ("StringEquals", "a", "A", "no"),
        ("StringEquals", "a*", "ab", "no"),
        ("StringEquals", "a", None, "no"),
        ("StringEquals", "a", ["a", "b"], "depends"),
        ("StringNotEquals", ["a", "b"], "b", "no"),
        ("StringNotEquals", ["a", "b"], "c", "yes"),
        ("StringNotEquals", "a", None, "yes"),
        ("StringEqualsIgnoreCase", "AbC", "aBc", "yes"),
        ("StringNotEqualsIgnoreCase", "a", "A", "no"),
        ("StringLike", "a*d?", "abcde", "yes"),
        ("StringLike", "a*", "b", "no"),
        ("StringNotLike", "a*", "abc", "no"),
        ("StringEqualsIfExists", "a", None, "yes"),
        ("StringEqualsIfExists", "a", "b", "no"),
        ("StringNotEqualsIfExists", "a", None, "yes"),
        ("NumericEquals", "1", "1.0", "yes"),
        ("NumericNotEquals", "1", 2, "yes"),
        ("NumericLessThan", "10", 9, "yes"),
        ("NumericLessThan", "10", "10", "no"),
        ("NumericLessThanEquals", "10", "10", "yes"),
        ("NumericGreaterThan", "10", "9", "no"),
        ("NumericGreaterThanEquals", "10", "10", "yes"),
        ("NumericEquals", "ten", "10", "depends"),
        ("NumericLessThan", "1_0", "5", "depends"),
        ("NumericLessThan", "１０", "5", "depends"),
        ("NumericLessThan", " 10", "5", "depends"),
        ("NumericLessThan", "Infinity", "5", "depends"),
        ("NumericNotEquals", "NaN", "5", "depends"),
        ("DateLessThan", "2027-W01-1", "2026-01-01", "depends"),
        ("DateLessThan", "20270101", "2026-01-01", "depends"),
        ("DateLessThan", "2027", "2026-01-01", "depends"),
        ("DateLessThan", "２０２７-01-01", "2026-01-01", "depends"),
        ("DateLessThan", "2027-01-01T00:00:00", "2026-01-01", "depends"),
        ("DateLessThan", "0001-01-01", "2026-01-01", "depends"),
        ("IpAddress", "10.0.0.0/255.0.0.0", "10.0.0.1", "depends"),
        ("IpAddress", "10.1.2.3/8", "10.0.0.1", "depends"),
        ("IpAddress", "10.0.0.0/08", "10.0.0.1", "depends"),
        ("IpAddress", "*", "10.0.0.1", "depends"),
        ("NotIpAddress", "fe80::1%eth0", "10.0.0.1", "depends"),
        ("Bool", "True", True, "depends"),
        ("Null", "TRUE", None, "depends"),
        ("DateEquals", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", "yes"),
        ("DateLessThan", "2026-01-01T00:00:00Z", "2025-12-31", "yes"),
        ("DateGreaterThan", "1767225600", "2026-01-01T00:00:01Z", "yes"),
        ("DateGreaterThanEquals", "2026-01-01", "2025-01-01", "no"),
        ("DateLessThanEquals", "2026-01-01", "2026-01-01", "yes"),
        ("DateNotEquals", "2026-01-01", "2026-01-02", "yes"),
        ("DateEquals", "2026-01", "2026-01-01T00:00:00Z", "yes"),
        ("DateLessThan", "2026-01T00:00Z", "2025-01-01", "depends"),
        ("DateLessThan", "2026-01-01T00:00:00+0100", "2025-01-01", "depends"),
        ("DateLessThan", "2026-01-01T00:00:00+25:00", "2025-01-01", "depends"),
        ("DateEquals", "soon", "2026-01-02", "depends"),
        ("Bool", True, True, "yes"),
        ("Bool", "false", True, "no"),
        ("Bool", "yes", True, "depends"),
        ("BinaryEquals", "QQ==", "QQ==", "yes"),
        ("IpAddress", ["10.0.0.0/8", "192.0.2.1"], "192.0.2.1", "yes"),
        ("IpAddress", "10.0.0.0/8", "11.0.0.1", "no"),
        ("IpAddress", "0.0.0.0/0", "2001:db8::1", "no"),
        ("IpAddress", "2001:db8::/32", "2001:db8::1", "yes"),
        ("IpAddress", "everywhere", "10.0.0.1", "depends"),
        ("NotIpAddress", "10.0.0.0/8", "10.0.0.1", "no"),
        ("NotIpAddress", "10.0.0.0/8", "11.0.0.1", "yes"),
        ("ArnEquals", "arn:aws:iam::*:role/x*", "arn:aws:iam::1:role/xy", "yes"),
        ("ArnLike", "arn:aws:*:role/x", "arn:aws:iam::1:role/x", "depends"),
        ("ArnLike", "arn:*:*:*:*:role/x", "arn:aws:iam::1:role/x", "yes"),
        ("ArnNotLike", "arn:aws:iam::1:*", "arn:aws:iam::2:role/x", "yes"),
        ("ArnNotEquals", "arn:aws:iam::1:*", "arn:aws:iam::1:role/x", "no"),
        ("Null", "true", None, "yes"),
        ("Null", "true", "a", "no"),
        ("Null", False, "a", "yes"),
        ("Null", "maybe", "a", "depends"),
        ("Null", "false", "", "depends"),
        ("ForAllValues:StringEquals", ["a", "b"], ["a", "b"], "yes"),
        ("ForAllValues:StringEquals", ["a", "b"], ["a", "c"], "no"),
        ("ForAllValues:StringEquals", "a", None, "yes"),
        ("ForAllValues:StringEquals", "a", [], "yes"),
        ("ForAllValues:StringEquals", "a", "", "yes"),
        ("ForAllValues:StringEquals", "a", ["", "b"], "no"),
        ("ForAllValues:StringNotEquals", "a", ["b", "a"], "no"),
        ("ForAnyValue:StringEquals", ["a", "b"], ["c", "b"], "yes"),
        ("ForAnyValue:StringEquals", "a", ["c"], "no"),
        ("ForAnyValue:StringEquals", "a", None, "no"),
        ("ForAnyValue:StringEqualsIfExists", "a", None, "no"),
        ("ForAnyValue:StringEqualsIfExists", "a", [], "no"),
        ("ForAnyValue:StringNotEqualsIfExists", "a", None, "no"),
        ("ForAllValues:StringEqualsIfExists", "a", None, "yes"),
        ("ForAllValues:StringNotEquals", "a", None, "yes"),
        ("ForAnyValue:StringNotEquals", "a", ["a", "b"], "yes"),
        ("ForAnyValue:StringNotLike", "a", None, "no"),
        ("StringFoo", "a", "a", "depends"),
        ("stringEquals", "a", "a", "depends"),
        ("NullIfExists", "true", None, "depends"),
        ("ForNoValue:StringEquals", "a", "a", "depends"),
        ("StringEquals", [], "a", "depends"),
        ("StringEquals", "a", "unknown", "depends"),
        ("ForAllValues:StringEquals", "a", "unknown", "depends"),
    ],
)
def test_an_operator_holds_or_not(operator: str, values: Any, given: Any, expected: str) -> None:
    assert held(operator, values, given) == expected
    opposite = {"yes": "no", "no": "yes", "depends": "depends"}
    assert held(operator, values, given, effect="Deny") == opposite[expected]


def test_all_keys_and_operators_must_hold() -> None:
    text = policy(stmt(Condition={"StringEquals": {"a": "1", "b": "2"}, "Bool": {"c": "true"}}))

    assert verdict(text, a="1", b="2", c=True) == "yes"
    assert verdict(text, a="1", b="3") == "no"
    assert verdict(text, a="1", b="2") == "depends"


def test_what_the_caller_is_answers_for_itself() -> None:
    assert verdict(policy(stmt("*", **cond("StringEquals", "aws:PrincipalAccount", [ONE])))) == "yes"
    assert verdict(policy(stmt("*", **cond("StringEquals", "aws:PrincipalAccount", [TWO])))) == "no"
    likes = policy(stmt("*", **cond("ArnLike", "aws:PrincipalArn", f"arn:aws:iam::{ONE}:role/r*")))
    assert (verdict(likes, ROLE), verdict(likes, ONE), verdict(likes, TWO)) == ("yes", "depends", "no")
    unlike = policy(stmt(), stmt("*", effect="Deny", **cond("ArnNotLike", "aws:PrincipalArn", f"arn:aws:iam::{TWO}:*")))
    assert verdict(unlike) == "no"
    assert verdict(policy(stmt("*", **cond("Bool", "aws:PrincipalIsAWSService", "true")))) == "no"


def test_variables_are_filled_in_only_where_they_are_known() -> None:
    text = policy(stmt(**cond("StringEquals", "aws:PrincipalTag/t", "${aws:ResourceTag/t}-${$}{x}")))

    assert verdict(text, aws__PrincipalTag_t="red-${x}", aws__ResourceTag_t="red") == "yes"
    assert verdict(text, aws__PrincipalTag_t="red", aws__ResourceTag_t="red") == "no"
    assert verdict(text, aws__PrincipalTag_t="red") == "depends"
    old = policy(stmt(**cond("StringEquals", "k", "${v}")), version=None)
    assert (verdict(old, k="${v}"), verdict(old, k="x", v="x")) == ("yes", "no")


def test_a_variable_that_could_be_taken_for_a_wildcard_makes_it_depend() -> None:
    text = policy(stmt(**cond("StringLike", "k", "${aws:PrincipalTag/t}")))

    assert verdict(text, k="x", aws__PrincipalTag_t="x") == "yes"
    assert verdict(text, k="x", aws__PrincipalTag_t="*") == "depends"
    assert verdict(text, k="x", aws__PrincipalTag_t=["x", "y"]) == "depends"
    assert verdict(text, k="x", aws__PrincipalTag_t=None) == "depends"


def test_no_repository_policy_allows_an_action_of_another_service() -> None:
    answer = may(parse(policy(stmt("*", "*"))), ONE, "s3:GetObject", partition="aws")

    assert (answer.verdict, answer.statement) == ("no", None)
    assert "not an ECR action" in answer.words


ANYWHERE = ["0.0.0.0/0", "::/0"]


@pytest.mark.parametrize(
    ("operator", "values", "expected"),
    [
        # A request through a VPC endpoint has no aws:SourceIp, so no range is sure to let it in.
        ("IpAddress", "0.0.0.0/0", "depends"),
        ("IpAddress", "::/0", "depends"),
        ("IpAddress", ANYWHERE, "depends"),
        ("IpAddressIfExists", ANYWHERE, "yes"),
        ("IpAddressIfExists", ["0.0.0.0/1", "128.0.0.0/1", "::/0"], "yes"),
        ("IpAddressIfExists", "0.0.0.0/0", "depends"),
        ("NotIpAddress", ANYWHERE, "depends"),
        ("IpAddress", "203.0.113.0/24", "depends"),
        ("NotIpAddress", "8.8.8.8", "depends"),
        # No request has a private address.
        ("IpAddress", "10.0.0.0/8", "no"),
        ("IpAddress", ["192.168.1.0/24", "fd00::/8", "172.16.0.1"], "no"),
        ("IpAddress", ["10.0.0.0/8", "203.0.113.0/24"], "depends"),
        ("IpAddress", ["10.0.0.0/8", "garbage"], "depends"),
        ("IpAddressIfExists", "10.0.0.0/8", "depends"),
        ("NotIpAddress", "10.0.0.0/8", "yes"),
        ("NotIpAddress", ["192.168.0.0/16", "fc00::/7"], "yes"),
        ("NotIpAddressIfExists", "10.0.0.0/8", "yes"),
    ],
)
def test_an_address_that_is_not_known_is_missing_or_public(operator: str, values: Any, expected: str) -> None:
    test = cond(operator, "aws:SourceIp", values)
    opposite = {"yes": "no", "no": "yes", "depends": "depends"}

    assert verdict(policy(stmt("*", **test))) == expected
    assert verdict(policy(stmt("*"), stmt("*", effect="Deny", **test))) == opposite[expected]


def test_the_answer_names_the_private_addresses_that_keep_everybody_out() -> None:
    text = policy(stmt(Sid="Office", **cond("IpAddress", "aws:SourceIp", "10.0.0.0/8")))
    answer = can_pull(parse(text), ONE, partition="aws")

    assert (answer.verdict, answer.statement) == ("no", "Office")
    assert answer.words == (
        f"account {ONE} may not pull: Office allows it only when aws:SourceIp is in 10.0.0.0/8, and no request to ECR"
        " has a private address."
    )


def test_no_repository_policy_allows_an_action_on_the_whole_account() -> None:
    text = parse(policy(stmt(action="ecr:*", Sid="All")))
    answer = may(text, ONE, "ecr:GetAuthorizationToken", partition="aws")

    assert (answer.verdict, answer.statement) == ("no", None)
    assert answer.words == (
        f"account {ONE} may not use ecr:GetAuthorizationToken by this policy: it acts on the whole account, so no"
        " repository policy allows it. The caller's identity policy must."
    )
    assert may(text, ONE, "ecr:GetAuth*", partition="aws").verdict == "no"
    assert may(text, ONE, "ecr:Get*", partition="aws").verdict == "yes"
    assert [one.answer.verdict for one in holders(text, ["ecr:PutRegistryPolicy"], partition="aws")] == ["no"]


FEDERATED = f"arn:aws:sts::{ONE}:federated-user/bob"
GONE = "AROAEXAMPLE1234567890"


@pytest.mark.parametrize(
    ("statements", "who", "expected"),
    [
        ([stmt("*"), stmt(ONE, effect="Deny")], GONE, "depends"),
        ([stmt("*"), stmt(ROLE, effect="Deny")], GONE, "depends"),
        ([stmt("*")], GONE, "yes"),
        ([stmt(ONE)], GONE, "depends"),
        ([stmt(GONE)], f"{GONE}:session", "depends"),
        ([stmt(GONE)], "AROAEXAMPLE1234567891", "no"),
        ([stmt(f"arn:aws:iam::{ONE}:user/bob")], FEDERATED, "depends"),
        ([stmt("*"), stmt(f"arn:aws:iam::{ONE}:user/bob", effect="Deny")], FEDERATED, "depends"),
        ([stmt("*"), stmt(f"arn:aws:iam::{TWO}:user/bob", effect="Deny")], FEDERATED, "yes"),
        ([stmt() | {"Principal": R1}], ONE, "depends"),
        ([stmt("*"), stmt(effect="Deny") | {"Principal": R1}], ONE, "depends"),
        ([stmt("*"), stmt(ONE, effect="Deny")], "lambda.amazonaws.com", "yes"),
    ],
)
def test_a_caller_whose_account_is_not_in_its_name_makes_it_depend(statements: Any, who: str, expected: str) -> None:
    assert verdict(policy(*statements), who) == expected


@pytest.mark.parametrize(
    "name",
    ["arn:aws:iam::*:root", f"arn:aws:iam::{ONE}:role/*", f"arn:aws:iam::{ONE}:group/g", "11111111111", "me@x.org"],
)
def test_a_name_that_no_principal_has_is_never_a_yes(name: str) -> None:
    (holder,) = holders(parse(policy(stmt(name))), partition="aws")

    assert holder.answer.verdict == "no"
    assert holder.answer.words.endswith("is not an AWS principal, so no request is made under this name.")
    assert verdict(policy(stmt("*")), name) == "no"


def test_everyone_takes_in_services_in_who_and_in_compare() -> None:
    assert verdict(policy(stmt("*")), "lambda.amazonaws.com") == "yes"
    with_service = policy(stmt("*"), stmt({"Service": "lambda.amazonaws.com"}))
    assert compare(policy(stmt("*")), with_service, partition="aws").level == "cosmetic"


@pytest.mark.parametrize(
    ("operator", "value", "given", "expected"),
    [
        ("StringEquals", "a${*}", "a*", "yes"),
        ("StringEquals", "a${*}", "ab", "no"),
        ("StringLike", "a${*}", "ab", "no"),
        ("StringLike", "a${?}*", "a?b", "yes"),
        ("StringLike", "${$}{x}", "${x}", "yes"),
        ("StringEquals", "${AWS:UserName}", "bob", "yes"),
        ("StringEquals", "${aws:PrincipalTag/none, 'red'}", "red", "yes"),
        ("StringEquals", "${aws:PrincipalTag/none, 'red'}", "Red", "no"),
        ("StringEquals", "${aws:PrincipalTag/none,'red'}", "red", "depends"),
        ("StringNotEquals", "${aws:PrincipalTag/none}", None, "depends"),
        ("StringNotEquals", "${aws:PrincipalTag/none, 'red'}", None, "yes"),
        ("StringEquals", "${aws:username, 'red'}", "bob", "yes"),
        ("StringEquals", "${aws:username, 'red'}", "red", "no"),
        ("StringEquals", "${aws:PrincipalTag/none}", "red", "depends"),
        ("StringEquals", "${aws:PrincipalTag/unknown, 'red'}", "red", "depends"),
        ("NumericEquals", "${aws:username}", "1", "depends"),
        ("ArnLike", "arn:aws:iam::*:user/${aws:username}", f"arn:aws:iam::{ONE}:user/bob", "yes"),
        ("ArnLike", "arn:aws:iam::*:user/${aws:username}", f"arn:aws:iam::{ONE}:user/eve", "no"),
    ],
)
def test_policy_variables_have_defaults_and_their_names_no_case(
    operator: str, value: str, given: str | None, expected: str
) -> None:
    text = policy(stmt(**cond(operator, "k", value)))
    context = {"k": given, "aws:username": "bob", "aws:PrincipalTag/none": None}

    assert may(parse(text), ONE, IMAGE, context, partition="aws").verdict == expected


def test_what_is_not_understood_is_never_a_yes() -> None:
    for odd in (stmt(TWO, Foo=1), stmt(effect="allow"), stmt(Resource="*"), "text"):
        answer = may(parse(policy(stmt(), odd)), ONE, IMAGE, partition="aws")
        assert answer.verdict == "depends"
        assert answer.words.startswith(f"It cannot be said whether account {ONE} may use {IMAGE} (pull): ")
    assert may(parse("[]"), ONE, IMAGE, partition="aws").verdict == "depends"


# ----------------------------------------------------------------------------------------------------------- pulling


def test_a_pull_takes_both_actions() -> None:
    answer = can_pull(parse(policy(stmt(action=PULL[0]))), ONE, partition="aws")

    assert answer.verdict == "no"
    assert answer.words == f"account {ONE} may not pull: no statement allows ecr:GetDownloadUrlForLayer."
    assert can_pull(parse(policy(stmt(action=PULL[0]), stmt("*", PULL[1]))), ONE, partition="aws").verdict == "yes"
    half = policy(stmt(action=PULL[0]), stmt(action=PULL[1], Condition=ORG))
    assert can_pull(parse(half), ONE, partition="aws").verdict == "depends"


def test_an_account_means_the_partition_of_the_registry() -> None:
    text = policy(stmt(f"arn:aws-cn:iam::{ONE}:root"))

    assert can_pull(parse(text), ONE, partition="aws-cn").verdict == "yes"
    assert can_pull(parse(text), ONE, partition="aws").verdict == "no"


def test_words_name_the_statement_and_the_condition() -> None:
    answer = can_pull(parse(policy(stmt("*", PULL3, Sid="Org", Condition=ORG))), ONE, partition="aws")

    assert (answer.verdict, answer.statement) == ("depends", "Org")
    assert (
        answer.words == f"It depends whether account {ONE} may pull: Org allows it only when aws:PrincipalOrgID is o-1."
    )


def test_holders_lists_the_principals_that_are_named_and_what_they_may() -> None:
    text = policy(
        stmt([ONE, ROLE], PULL3),
        stmt("*", PULL, Condition=ORG),
        stmt(TWO, PULL[0]),
        stmt({"Service": "lambda.amazonaws.com"}, "ecr:PutImage"),
        stmt(ROLE, effect="Deny"),
    )

    assert [(one.name, one.answer.verdict) for one in holders(parse(text), partition="aws")] == [
        (f"account {ONE}", "depends"),
        (f"account {TWO}", "depends"),
        ("everyone", "depends"),
        (f"role r of account {ONE}", "no"),
    ]
    assert [one.principal for one in holders(parse(text), ["ecr:PutImage"], partition="aws")] == [
        "Service:lambda.amazonaws.com"
    ]
    assert holders(parse(policy()), partition="aws") == ()


def test_a_percent_sign_in_a_name_is_only_a_character() -> None:
    text = policy(stmt("arn:aws:iam::111111111111:role/100%s%d"))

    assert "100%s%d" in holders(parse(text), partition="aws")[0].answer.words
