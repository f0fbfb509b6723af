"""How a repository differs from the configuration, and which differences we may correct."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from deployments import config
from deployments.aws.values import Details
from deployments.policy import RegistryPolicy, Trust
from deployments.reconcile import desired
from deployments.row_values import ConsumerPull, Difference, Part

TRUST = Trust(owner="111111111111")
REGISTRY = config.load({"DEPLOY_REGISTRY_ECR_TAGS": "team=platform"}).v4
RIGHT = Details(
    created_at=datetime(2026, 11, 24, tzinfo=UTC),
    mutability="IMMUTABLE_WITH_EXCLUSION",
    exclusions=("cache",),
    encryption="AES256",
    kms_key=None,
    lifecycle=REGISTRY.lifecycle_policy,
    tags={"team": "platform", "made-by": "somebody"},
)


def found(details: Details, *, management: str = "full", lifecycle_is_ours: bool = False) -> dict[Part, bool]:
    differences = desired.detail_differences(
        REGISTRY, details, management=management, lifecycle_is_ours=lifecycle_is_ours
    )
    return {difference.part: difference.fixable for difference in differences}


def policy(account: str) -> str:
    actions = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    statement = {"Effect": "Allow", "Principal": {"AWS": account}, "Action": actions}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def test_a_repository_that_is_right_differs_in_nothing_and_tags_of_others_stay() -> None:
    assert found(RIGHT) == {}


def test_a_missing_lifecycle_policy_is_ours_to_put_even_on_an_adopted_repository() -> None:
    assert found(replace(RIGHT, lifecycle=None), management="adopted") == {Part.LIFECYCLE: True}


def test_somebody_elses_lifecycle_policy_is_only_reported_and_an_older_one_of_ours_is_corrected() -> None:
    other = replace(RIGHT, lifecycle=REGISTRY.lifecycle_policy.replace("3", "9"))

    assert found(other, management="adopted") == {Part.LIFECYCLE: False}
    assert found(other, management="adopted", lifecycle_is_ours=True) == {Part.LIFECYCLE: True}
    assert found(other) == {Part.LIFECYCLE: True}


def test_a_lifecycle_policy_that_came_back_reformatted_is_the_same() -> None:
    document = json.loads(REGISTRY.lifecycle_policy)
    document["rules"][0].pop("description")

    assert found(replace(RIGHT, lifecycle=json.dumps(document, indent=2, sort_keys=True))) == {}


def test_mutable_tags_on_an_adopted_repository_are_reported_and_plain_immutable_is_changed() -> None:
    assert found(replace(RIGHT, mutability="MUTABLE", exclusions=()), management="adopted") == {Part.MUTABILITY: False}
    assert found(replace(RIGHT, mutability="IMMUTABLE", exclusions=()), management="adopted") == {Part.MUTABILITY: True}
    assert found(replace(RIGHT, mutability="MUTABLE", exclusions=())) == {Part.MUTABILITY: True}


def test_another_encryption_is_shown_but_never_ours_because_aws_fixes_it_at_creation() -> None:
    assert found(replace(RIGHT, encryption="KMS", kms_key="arn:aws:kms:…")) == {Part.ENCRYPTION: False}


def test_a_missing_aws_tag_is_ours() -> None:
    assert found(replace(RIGHT, tags={}), management="adopted") == {Part.TAGS: True}


def test_a_write_is_said_from_the_readers_side() -> None:
    def words(before: str, after: str) -> str:
        return desired.written_words(before, after, partition="aws")

    assert words(policy("222222222222"), policy("333333333333")) == (
        "Account 333333333333 gains pull; account 222222222222 loses pull."
    )
    assert words("", policy("333333333333")) == "The repository had no policy."
    assert words("not JSON", policy("333333333333")) == "The policy before it cannot be compared with it."


def test_no_policy_setting_has_no_opinion_about_a_policy() -> None:
    assert desired.policy_differences(None, policy("222222222222"), partition="aws", trust=TRUST) == []


def test_a_policy_that_came_back_rewritten_is_the_same() -> None:
    stored = policy("arn:aws:iam::222222222222:root")

    assert desired.policy_differences(policy("222222222222"), stored, partition="aws", trust=TRUST) == []


def test_a_difference_in_access_says_who_lost_and_who_gained_what() -> None:
    [difference] = desired.policy_differences(
        policy("222222222222"), policy("999999999999"), partition="aws", trust=TRUST
    )

    assert difference.fixable
    assert "account 222222222222 loses pull" in difference.words
    assert "account 999999999999 gains pull" in difference.words


def test_a_policy_that_is_not_understood_is_left_alone() -> None:
    unknown = policy("222222222222").replace('"Effect"', '"Novelty": 1, "Effect"')

    [difference] = desired.policy_differences(policy("222222222222"), unknown, partition="aws", trust=TRUST)

    assert not difference.fixable
    assert "nothing is written to it" in difference.words


def pullers(text: str) -> dict[str, ConsumerPull]:
    none, arn = RegistryPolicy(text=""), "arn:aws:ecr:us-east-1:111111111111:repository/trigger/shop"
    return desired.pullers(text, none, ["222222222222"], arn=arn, partition="aws")


@pytest.mark.parametrize("text", ["not json", "[]", '{"Statement": '])
def test_a_policy_that_cannot_be_read_is_never_shown_as_one_that_lets_somebody_pull(text: str) -> None:
    assert pullers(text)["222222222222"].verdict == "depends"


def test_without_a_policy_nobody_can_pull() -> None:
    assert pullers("")["222222222222"].verdict == "no"


KEY_ID = "11111111-2222-3333-4444-555555555555"
KEY_ARN = f"arn:aws:kms:us-east-1:111111111111:key/{KEY_ID}"


@pytest.mark.parametrize("wanted", [KEY_ARN, KEY_ID, "alias/registry", "arn:aws:kms:us-east-1:111111111111:alias/x"])
def test_a_kms_key_is_recognised_by_its_arn_its_id_or_its_alias(wanted: str) -> None:
    encrypted = replace(RIGHT, encryption="KMS", kms_key=KEY_ARN)
    registry = replace(REGISTRY, kms_key=wanted)

    assert not desired.detail_differences(registry, encrypted, management="full", lifecycle_is_ours=False)


@pytest.mark.parametrize("wanted", [KEY_ARN.replace("5555", "6666"), KEY_ID.replace("5555", "6666"), KEY_ID[1:]])
def test_another_kms_key_is_a_difference(wanted: str) -> None:
    assert not desired.same_key(wanted, KEY_ARN)
    assert not desired.same_key(KEY_ID, None)


def test_an_aws_tag_with_another_value_is_a_difference_and_ours() -> None:
    assert found(replace(RIGHT, tags={"team": "other"}), management="adopted") == {Part.TAGS: True}


def lifecycle(*prefixes: str) -> str:
    selection = {"tagStatus": "tagged", "tagPrefixList": prefixes, "countType": "imageCountMoreThan", "countNumber": 5}
    return json.dumps({"rules": [{"rulePriority": 1, "selection": selection, "action": {"type": "expire"}}]})


def test_the_order_of_a_rules_list_is_no_difference_and_another_list_is_one() -> None:
    assert desired.same_lifecycle(lifecycle("a", "b"), lifecycle("b", "a"))
    assert not desired.same_lifecycle(lifecycle("a", "b"), lifecycle("a", "c"))


def difference(part: Part, *, fixable: bool, words: str = "") -> Difference:
    return Difference(part=part, words=words or f"{part} differs.", fixable=fixable)


def test_a_repository_is_drifted_by_what_is_fixable_and_by_any_difference_of_its_policy() -> None:
    assert desired.verdict([difference(Part.LIFECYCLE, fixable=True)]).drifted
    assert desired.verdict([difference(Part.POLICY, fixable=True)]).drifted
    assert desired.verdict([difference(Part.POLICY, fixable=False)]).drifted


def test_a_repository_is_in_sync_with_nothing_but_differences_that_are_only_shown() -> None:
    shown = [difference(part, fixable=False) for part in Part if part is not Part.POLICY]

    assert desired.verdict([]) == desired.verdict(shown) == desired.Verdict(drifted=False, words="")


def test_the_words_of_a_verdict_are_those_of_the_differences_that_make_it_drifted() -> None:
    found = [
        difference(Part.POLICY, fixable=False, words="No pull."),
        difference(Part.ENCRYPTION, fixable=False, words="Another key."),
        difference(Part.TAGS, fixable=True, words="A tag."),
    ]

    assert desired.verdict(found).words == "No pull. A tag."


def test_a_difference_is_read_from_a_row_as_it_was_written_to_it() -> None:
    for fixable in (False, True):
        written = difference(Part.TAGS, fixable=fixable)
        assert Difference.from_row(written.as_row()) == written
