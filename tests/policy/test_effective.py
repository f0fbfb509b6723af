"""The repository policy and the registry policy together: the verdict, the layer that decides, and what it rests on."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.policy import UNSEEN, RegistryPolicy, effective
from tests.policy.cases import ONE, ORG, PULL, TWO, policy, stmt

OWNER = "111111111111"
ARN = f"arn:aws:ecr:us-east-1:{OWNER}:repository/trigger/shop"
PULLS = policy(stmt(TWO, Sid="Pulls"))
NONE = RegistryPolicy(text="", scope="V2")


def registry(*statements: dict[str, Any], scope: str = "V2") -> RegistryPolicy:
    return RegistryPolicy(text=policy(*({"Resource": "*", **each} for each in statements)), scope=scope)


def asked(repository: str | None, of: RegistryPolicy | None, who: str = TWO) -> Any:
    return effective(repository, of, who, arn=ARN, partition="aws")


DENIES = registry(stmt(TWO, effect="Deny", Sid="Closed"))


def test_the_answer_names_the_layer_and_the_statement_that_decide() -> None:
    found = asked(PULLS, DENIES)

    assert (found.verdict, found.layer, found.statement) == ("no", "registry policy", "Closed")
    assert "Closed of the registry policy denies it" in found.words
    allowed = asked(PULLS, NONE)
    assert (allowed.verdict, allowed.layer, allowed.statement) == ("yes", "repository policy", "Pulls")
    assert "Pulls of the repository policy allows it" in allowed.words
    nobody = asked("", NONE)
    assert (nobody.verdict, nobody.layer, nobody.statement) == ("no", "", None)


def test_a_registry_policy_that_could_not_be_read_makes_every_answer_but_a_deny_unknown() -> None:
    found = asked(PULLS, None)

    assert found.verdict == "unknown"
    assert found.words.startswith(f"By the repository policy, account {TWO} may pull")
    assert found.words.endswith("The registry policy was not read.")
    assert asked("", None).verdict == "unknown"  # a registry policy can allow it
    assert asked(policy(stmt(TWO, effect="Deny")), None).verdict == "no"


def test_a_repository_policy_that_could_not_be_read_leaves_only_a_deny_of_the_registry() -> None:
    assert asked(None, DENIES).verdict == "no"
    assert asked(None, registry(stmt(TWO))).verdict == "unknown"
    assert asked(None, None).words == "Neither the repository policy nor the registry policy was read."


def test_a_condition_of_the_registry_policy_makes_it_depend() -> None:
    found = asked(PULLS, registry(stmt("*", effect="Deny", Sid="Outside", Condition=ORG)))

    assert (found.verdict, found.layer, found.statement) == ("depends", "registry policy", "Outside")


def test_an_unread_scope_leaves_a_deny_undecided_and_changes_nothing_where_both_scopes_agree() -> None:
    found = asked(PULLS, registry(stmt(TWO, effect="Deny"), scope=""))

    assert (found.verdict, found.layer) == ("depends", "registry policy")
    assert "the scope was not read" in found.words
    assert asked(PULLS, registry(stmt(TWO), scope="")).verdict == "yes"
    assert asked("", registry(stmt(TWO), scope="")).verdict == "depends"


def test_scope_v1_is_not_about_pulls() -> None:
    found = asked(PULLS, registry(stmt(TWO, effect="Deny"), scope="V1"))

    assert found.verdict == "yes"
    assert "scope of the registry policy is V1" in found.basis


@pytest.mark.parametrize(
    ("resource", "verdict"),
    [
        ("*", "no"),
        (ARN, "no"),
        ("arn:aws:ecr:*", "no"),  # a star at the end of a segment goes beyond the colon
        (f"arn:aws:ecr:us-east-?:{OWNER}:repository/trigger/s*p", "no"),
        (["arn:aws:ecr:us-east-1:333333333333:repository/*", ARN], "no"),
        (ARN.upper(), "yes"),
        (f"arn:aws:ecr:us-west-2:{OWNER}:repository/*", "yes"),
        (f"{ARN}/more", "yes"),
        ([], "yes"),
        ("arn:aws:ecr:us*shop", "depends"),  # it would match only across colons
        ("arn:aws:ecr:us-east-1:${aws:PrincipalAccount}:repository/*", "depends"),
        (7, "depends"),
        (None, "depends"),
    ],
)
def test_a_statement_of_the_registry_counts_for_the_repositories_that_its_resource_names(
    resource: Any, verdict: str
) -> None:
    of = RegistryPolicy(text=policy(stmt(TWO, effect="Deny", Resource=resource)), scope="V2")

    assert asked(PULLS, of).verdict == verdict


def test_a_registry_policy_that_is_not_understood_makes_it_depend_and_a_deny_of_the_repository_stays_certain() -> None:
    strange = RegistryPolicy(text="{", scope="V2")

    assert asked(PULLS, strange).verdict == "depends"
    assert asked(policy(stmt(TWO, effect="Deny")), strange).verdict == "no"
    surprise = RegistryPolicy(text=policy(stmt(TWO, Resource="*"), Surprise=1), scope="V2")
    assert asked(PULLS, surprise).verdict == "depends"
    assert asked("[]", DENIES).verdict == "no"
    elsewhere = registry(stmt(TWO, Surprise=1, Resource="arn:aws:ecr:us-west-2:*"))
    assert asked(PULLS, elsewhere).verdict == "yes"  # a statement about other repositories


def test_the_registrys_own_account_needs_no_allow_and_a_deny_counts() -> None:
    assert asked("", NONE, OWNER).verdict == "yes"
    assert asked("", registry(stmt(OWNER, effect="Deny")), OWNER).verdict == "no"
    assert asked(policy(stmt(OWNER, PULL[:1], "Deny")), NONE, OWNER).verdict == "no"


def test_a_role_is_asked_like_an_account() -> None:
    role = f"arn:aws:iam::{TWO}:role/node"

    assert asked(PULLS, NONE, role).verdict == "yes"
    assert asked(PULLS, registry(stmt(role, effect="Deny")), role).verdict == "no"
    assert asked(PULLS, registry(stmt(role, effect="Deny"))).verdict == "depends"  # other roles may pull


@pytest.mark.parametrize("of", [None, NONE, DENIES, registry(stmt(ONE, Resource="arn:aws:ecr:eu-west-1:*"))])
def test_every_answer_says_what_was_not_seen(of: RegistryPolicy | None) -> None:
    assert asked(PULLS, of).basis.endswith(UNSEEN)
