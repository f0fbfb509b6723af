"""Which statements of others stay in a live policy, by the setting, by what was written before, and by operators."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.policy import ForeignStatement, Keeps, Trust, compare, foreign_statements, grants_of, openness
from deployments.policy import with_statements as joined
from tests.policy.cases import PULL, PULL3, PUSH, cond, policy, stmt

OWNER, CONSUMER, FORMER, FOREIGN, OTHER = (12 * str(number) for number in (1, 2, 3, 9, 8))
DEFAULT = policy(stmt(CONSUMER))
EARLIER = policy(stmt([CONSUMER, FORMER], PULL3))
ROLE = f"arn:aws:iam::{FOREIGN}:role/puller"
DELETED = "AROAJQABLZS4A3QDU576Q"
BARE = stmt({"Service": "lambda.amazonaws.com"}, Sid="LambdaECRImageRetrievalPolicy")
NAMED = cond("StringEquals", "aws:PrincipalOrgID", "o-1234567890")


def found(*statements: Any, keeps: Keeps = "keep", earlier: str = EARLIER, **more: Any) -> tuple[ForeignStatement, ...]:
    trust = Trust(owner=OWNER, consumers=(CONSUMER,), keeps=keeps, written=grants_of(earlier, partition="aws"), **more)
    return foreign_statements(policy(stmt(CONSUMER), *statements), default=DEFAULT, partition="aws", trust=trust)


@pytest.mark.parametrize("statement", [stmt(FOREIGN), stmt(ROLE, PULL3), stmt([ROLE, f"arn:aws:iam::{OTHER}:user/u"])])
def test_a_pull_for_accounts_roles_and_users_that_are_named_stays_with_keep_only(statement: dict[str, Any]) -> None:
    kept = {keeps: found(statement, keeps=keeps)[0].kept for keeps in ("keep-services", "keep", "remove")}

    assert kept == {"keep-services": False, "keep": True, "remove": False}
    [one] = found(statement, keeps="remove")
    assert one.adoptable
    assert "keeps no such statement" in one.why
    assert found(statement, keeps="remove", adopted=frozenset({one.text}))[0].kept
    assert FOREIGN in one.says


def test_the_statement_of_a_service_stays_unless_none_shall_and_then_if_it_is_adopted() -> None:
    kept = {keeps: found(BARE, keeps=keeps)[0].kept for keeps in ("keep-services", "keep", "remove")}

    assert kept == {"keep-services": True, "keep": True, "remove": False}
    [one] = found(BARE, keeps="remove")
    assert one.says == "lambda.amazonaws.com may pull, without an account."
    assert found(BARE, keeps="remove", adopted=frozenset({one.text}))[0].kept


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        (stmt("*"), "It lets the whole world in."),
        (stmt("*", **cond("StringLike", "aws:PrincipalArn", "*")), "It lets the whole world in."),
        (stmt(FOREIGN, PUSH), "more than pull"),
        (stmt(FOREIGN, "ecr:*"), "more than pull"),
        (stmt(FOREIGN, [*PULL, "ecr:NewAction"]), "more than pull"),
        (stmt([OWNER, FOREIGN], PUSH), "more than pull"),
        (stmt("*", PUSH, **NAMED), "more than pull"),
        (stmt(CONSUMER, Effect="Deny"), "It is a Deny"),
        ({"Effect": "Allow", "NotPrincipal": {"AWS": FOREIGN}, "Action": PULL}, "except what it names"),
        ({"Effect": "Allow", "Principal": {"AWS": FOREIGN}, "NotAction": "ecr:PutImage"}, "except what it names"),
        (stmt({"Service": "lambda.amazonaws.com"}), "not in the form that may stay"),
        (stmt({"Service": "lambda.amazonaws.com", "AWS": FOREIGN}), "not in the form that may stay"),
        (stmt({"Federated": "accounts.example.com"}), "no account, role or user"),
        (stmt(DELETED), "was deleted"),
        (stmt(FOREIGN, **cond("StringEquals", "aws:PrincipalTag/team", "${aws:username}")), "policy variable"),
    ],
)
@pytest.mark.parametrize("keeps", ["keep-services", "keep", "remove"])
def test_what_opens_the_world_writes_denies_or_is_not_understood_never_stays(
    statement: dict[str, Any], why: str, keeps: Keeps
) -> None:
    [one] = found(statement, keeps=keeps)

    assert why in one.why
    assert (one.kept, one.adoptable) == (False, False)
    assert not found(statement, keeps=keeps, adopted=frozenset({one.text}))[0].kept


def test_in_the_registrys_own_account_more_than_a_pull_stays_but_not_the_right_to_change_the_policy() -> None:
    assert found(stmt(OWNER, PUSH))[0].kept

    [one] = found(stmt(OWNER, [*PUSH, "ecr:SetRepositoryPolicy"]))
    assert (one.kept, one.adoptable) == (False, True)
    assert "may change or delete the repository policy" in one.why


def test_a_pull_for_an_organisation_names_nobody_so_an_operator_decides() -> None:
    [one] = found(stmt("*", **NAMED))

    assert (one.kept, one.adoptable) == (False, True)
    assert found(stmt("*", **NAMED), adopted=frozenset({one.text}))[0].kept


def test_what_an_earlier_default_policy_gave_does_not_stay_in_any_spelling_and_also_for_a_part_of_a_statement() -> None:
    root = f"arn:aws:iam::{FORMER}:root"
    for ours in (stmt(FORMER), stmt([root, CONSUMER], [PULL[1], PULL[0].upper().replace("ECR:", "ecr:")])):
        [one] = found(ours)
        assert (one.kept, one.ours) == (False, True)
        assert "ends with that policy" in one.why

    [mixed] = found(stmt([CONSUMER, FORMER, FOREIGN], PULL3))  # somebody added an account to our statement
    assert mixed.kept
    assert json.loads(mixed.text)["Principal"] == {"AWS": f"arn:aws:iam::{FOREIGN}:root"}
    [more] = found(stmt(FORMER, [*PULL, "ecr:BatchCheckLayerAvailability"]), earlier=policy(stmt(FORMER)))
    assert more.ours  # the third action makes no pull of its own
    assert found(stmt(FORMER, **NAMED))[0].kept  # another condition, so somebody else wrote it


def test_a_service_statement_of_an_earlier_default_policy_stays_with_the_default_setting_as_before_the_setting() -> (
    None
):
    earlier = policy(stmt(CONSUMER), BARE)

    assert found(BARE, keeps="keep-services", earlier=earlier)[0].kept
    [one] = found(BARE, keeps="keep", earlier=earlier)
    assert (one.kept, one.ours, one.adoptable) == (False, True, True)
    assert found(BARE, keeps="keep", earlier=earlier, adopted=frozenset({one.text}))[0].kept


def test_a_refused_statement_does_not_stay_and_is_not_offered() -> None:
    [one] = found(stmt(FOREIGN))

    [refused] = found(stmt(f"arn:aws:iam::{FOREIGN}:root"), refused=frozenset({one.text}))
    assert (refused.kept, refused.adoptable, refused.why) == (False, False, "An operator has refused it.")


def test_the_id_of_a_deleted_role_is_left_out_because_aws_refuses_to_write_it() -> None:
    [one] = found(stmt([DELETED, FOREIGN]))

    assert one.kept
    assert DELETED not in one.text


def test_a_statement_with_the_sid_of_ours_or_that_adds_nothing_is_not_of_others() -> None:
    default = policy(stmt(CONSUMER, Sid="Ours"))
    trust = Trust(owner=OWNER, keeps="keep")

    for live in (policy(stmt(FOREIGN, Sid="Ours")), policy(stmt(CONSUMER, PULL[:1]))):
        assert foreign_statements(live, default=default, partition="aws", trust=trust) == ()


def test_two_statements_with_the_same_sid_are_judged_one_by_one() -> None:
    changes = {**BARE, "Action": [*PULL, "ecr:SetRepositoryPolicy"], **cond("StringEquals", "aws:SourceAccount", OWNER)}

    assert [one.kept for one in found(BARE, changes, stmt(FOREIGN, Sid=BARE["Sid"]))] == [True, False, True]


def test_beside_a_part_that_is_not_understood_nothing_is_judged() -> None:
    assert found(stmt(FOREIGN), {"Effect": "Allow", "Novelty": 1}) == ()
    assert foreign_statements("{", default=DEFAULT, partition="aws", trust=Trust(owner=OWNER)) == ()


PRINCIPALS = st.lists(
    st.sampled_from(["*", OWNER, CONSUMER, FORMER, FOREIGN, ROLE, DELETED, f"arn:aws:iam::{OWNER}:role/r"]), min_size=1
)
ACTIONS = st.lists(st.sampled_from([*PULL3, *PUSH, "ecr:*", "ecr:Batch*", "ecr:SetRepositoryPolicy"]), min_size=1)
CONDITIONS = st.sampled_from(
    [{}, NAMED, cond("StringLike", "aws:PrincipalArn", "*"), cond("IpAddress", "aws:SourceIp", "0.0.0.0/0")]
)


@pytest.mark.costly
@given(
    st.lists(st.builds(lambda who, what, when: stmt(who, what, **when), PRINCIPALS, ACTIONS, CONDITIONS), max_size=3)
)
def test_what_is_kept_is_closed_and_gives_nobody_outside_more_than_a_pull(statements: list[dict[str, Any]]) -> None:
    live = policy(stmt(CONSUMER), *statements)
    kept = [one for one in found(*statements) if one.kept]

    text = joined(DEFAULT, kept)
    assert openness(text, partition="aws") == "closed"
    for grant in compare(DEFAULT, text, partition="aws").gained:
        outside = OWNER not in grant.principal
        assert not outside or set(grant.actions) <= {*PULL3}
        assert FORMER not in grant.principal or grant.condition
    assert not compare(live, text, partition="aws").gained  # nothing that is not live
