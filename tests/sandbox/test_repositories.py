"""Repositories on the control plane: made once, listed in pages, refused when wrong."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sandbox import images
from sandbox.control import Sandbox
from tests.sandbox.asking import CLUSTER, HOST, OWNER, policy, refused, session_policy, statement

LIFECYCLE = {
    "rules": [
        {
            "rulePriority": 1,
            "description": "untagged images go after three days",
            "selection": {
                "tagStatus": "untagged",
                "countType": "sinceImagePushed",
                "countUnit": "days",
                "countNumber": 3,
            },
            "action": {"type": "expire"},
        }
    ]
}


def test_a_new_repository_is_described_as_aws_would(ecr: Any) -> None:
    made = ecr.create_repository(
        repositoryName="trigger/shop",
        imageTagMutability="IMMUTABLE_WITH_EXCLUSION",
        imageTagMutabilityExclusionFilters=[{"filterType": "WILDCARD", "filter": "cache"}],
        tags=[{"Key": "team", "Value": "shop"}],
    )["repository"]

    assert made["repositoryArn"] == f"arn:aws:ecr:us-east-1:{OWNER}:repository/trigger/shop"
    assert made["repositoryUri"] == f"{HOST}/trigger/shop"
    assert made["imageTagMutabilityExclusionFilters"] == [{"filterType": "WILDCARD", "filter": "cache"}]
    assert ecr.describe_repositories(repositoryNames=["trigger/shop"])["repositories"] == [made]
    assert ecr.list_tags_for_resource(resourceArn=made["repositoryArn"])["tags"] == [{"Key": "team", "Value": "shop"}]


@pytest.mark.parametrize(
    ("region", "arn", "suffix"),
    [
        ("eu-central-1", "arn:aws:ecr:eu-central-1:", "amazonaws.com"),
        ("cn-north-1", "arn:aws-cn:ecr:cn-north-1:", "amazonaws.com.cn"),
        ("us-gov-west-1", "arn:aws-us-gov:ecr:us-gov-west-1:", "amazonaws.com"),
    ],
)
def test_regions_are_apart_and_each_has_its_partition(sandbox: Sandbox, region: str, arn: str, suffix: str) -> None:
    made = sandbox.client("ecr", region=region).create_repository(repositoryName="shop")["repository"]

    assert made["repositoryArn"].startswith(arn)
    assert made["repositoryUri"] == f"{OWNER}.dkr.ecr.{region}.{suffix}/shop"
    assert sandbox.client("ecr").describe_repositories()["repositories"] == []


def test_sixteen_creations_at_once_make_one_repository(sandbox: Sandbox) -> None:
    client = sandbox.client("ecr", max_pool_connections=16)

    def create(_: int) -> str:
        try:
            client.create_repository(repositoryName="trigger/race")
        except client.exceptions.RepositoryAlreadyExistsException:
            return "exists"
        return "made"

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(create, range(16)))

    assert sorted(outcomes) == ["exists"] * 15 + ["made"]
    assert sandbox.calls() == {"ecr:CreateRepository": 16}


@pytest.mark.parametrize("name", ["A", "x", "Shop", "a//b", "-a", "a-", "9lives", "a" * 257, "a/_b"])
def test_a_name_that_ecr_does_not_take_is_refused(sandbox: Sandbox, name: str) -> None:
    ecr = sandbox.client("ecr", parameter_validation=False)
    with refused("InvalidParameterException") as refusal:
        ecr.create_repository(repositoryName=name)
    assert "repositoryName" in refusal.message


@pytest.mark.costly
def test_everything_is_listed_in_pages(sandbox: Sandbox, ecr: Any) -> None:
    names = [f"trigger/p{number:03}" for number in range(230)]
    for name in names:
        ecr.create_repository(repositoryName=name)
    sandbox.reset_calls()

    first = ecr.describe_repositories()
    assert len(first["repositories"]) == 100
    pages = ecr.get_paginator("describe_repositories").paginate(PaginationConfig={"PageSize": 90})
    listed = [each["repositoryName"] for page in pages for each in page["repositories"]]

    assert sorted(listed) == names
    assert sandbox.calls() == {"ecr:DescribeRepositories": 1 + 3}


def test_a_listing_survives_changes_between_its_pages(ecr: Any) -> None:
    for name in ("aa", "bb", "cc", "dd"):
        ecr.create_repository(repositoryName=name)
    first = ecr.describe_repositories(maxResults=2)
    ecr.delete_repository(repositoryName="bb")
    ecr.create_repository(repositoryName="ab")

    second = ecr.describe_repositories(maxResults=2, nextToken=first["nextToken"])

    assert [each["repositoryName"] for each in second["repositories"]] == ["cc", "dd"]
    assert "nextToken" not in second


def test_names_and_pages_do_not_go_together(ecr: Any, repository: str) -> None:
    with refused("InvalidParameterException"):
        ecr.describe_repositories(repositoryNames=[repository], maxResults=10)
    with refused("InvalidParameterException"):
        ecr.describe_repositories(maxResults=1001)
    with refused("InvalidParameterException"):
        ecr.describe_repositories(nextToken="made up")
    with refused("InvalidParameterException"):
        ecr.describe_repositories(repositoryNames=[f"r{number}" for number in range(101)])


def test_one_unknown_name_refuses_the_whole_description(ecr: Any, repository: str) -> None:
    with refused("RepositoryNotFoundException") as refusal:
        ecr.describe_repositories(repositoryNames=[repository, "nowhere"])

    assert refusal.status == 400
    assert refusal.message == f"The repository with name 'nowhere' does not exist in the registry with id '{OWNER}'"


@pytest.mark.costly
def test_an_operation_that_the_sandbox_does_not_do_is_refused_and_never_a_500(ecr: Any, sandbox: Sandbox) -> None:
    with refused("UnknownOperationException") as refusal:
        ecr.describe_pull_through_cache_rules()
    assert refusal.status == 400
    with refused("UnknownOperationException"):
        sandbox.client("kms").list_keys()


@pytest.mark.parametrize(
    ("mode", "filters"),
    [
        ("IMMUTABLE_WITH_EXCLUSION", None),
        ("IMMUTABLE", ["cache"]),
        ("MUTABLE_WITH_EXCLUSION", ["a", "b", "c", "d", "e", "f"]),
        ("MUTABLE_WITH_EXCLUSION", ["not/allowed"]),
        ("MUTABLE_WITH_EXCLUSION", ["*a*b*"]),
        ("SOMETIMES", None),
    ],
)
def test_a_mutability_that_makes_no_sense_is_refused(
    ecr: Any, repository: str, mode: str, filters: list[str] | None
) -> None:
    more = (
        {"imageTagMutabilityExclusionFilters": [{"filterType": "WILDCARD", "filter": each} for each in filters]}
        if filters
        else {}
    )

    with refused("InvalidParameterException"):
        ecr.put_image_tag_mutability(repositoryName=repository, imageTagMutability=mode, **more)


def test_aws_tags_have_limits(ecr: Any) -> None:
    arn = ecr.create_repository(repositoryName="shop", tags=[{"Key": "a", "Value": "1"}])["repository"]["repositoryArn"]

    with refused("InvalidTagParameterException"):
        ecr.tag_resource(resourceArn=arn, tags=[{"Key": "aws:mine", "Value": "x"}])
    with refused("TooManyTagsException"):
        ecr.tag_resource(resourceArn=arn, tags=[{"Key": f"k{number}", "Value": ""} for number in range(50)])
    ecr.tag_resource(resourceArn=arn, tags=[{"Key": "a", "Value": "2"}, {"Key": "b", "Value": "3"}])
    ecr.untag_resource(resourceArn=arn, tagKeys=["b", "never there"])

    assert ecr.list_tags_for_resource(resourceArn=arn)["tags"] == [{"Key": "a", "Value": "2"}]


def test_a_lifecycle_policy_is_kept_and_missed(ecr: Any, repository: str) -> None:
    with refused("LifecyclePolicyNotFoundException"):
        ecr.get_lifecycle_policy(repositoryName=repository)

    ecr.put_lifecycle_policy(repositoryName=repository, lifecyclePolicyText=json.dumps(LIFECYCLE, indent=4))

    kept = ecr.get_lifecycle_policy(repositoryName=repository)["lifecyclePolicyText"]
    assert json.loads(kept) == LIFECYCLE
    assert kept != json.dumps(LIFECYCLE, indent=4)


def _rule(**selection: Any) -> dict[str, Any]:
    return {"rulePriority": 1, "selection": selection, "action": {"type": "expire"}, "description": "x" * 100}


@pytest.mark.parametrize(
    "rules",
    [
        [],
        [_rule(tagStatus="tagged", countType="imageCountMoreThan", countNumber=1)],
        [_rule(tagStatus="untagged", tagPrefixList=["a"], countType="imageCountMoreThan", countNumber=1)],
        [_rule(tagStatus="untagged", countType="sinceImagePushed", countNumber=1)],
        [_rule(tagStatus="untagged", countType="imageCountMoreThan", countNumber=0)],
        [_rule(tagStatus="any", countType="imageCountMoreThan", countNumber=1)] * 2,
        [_rule(tagStatus="any", countType="imageCountMoreThan", countNumber=1) | {"surprise": 1}],
    ],
)
def test_a_lifecycle_policy_with_a_bad_rule_is_refused(ecr: Any, repository: str, rules: list[Any]) -> None:
    with refused("InvalidParameterException"):
        ecr.put_lifecycle_policy(repositoryName=repository, lifecyclePolicyText=json.dumps({"rules": rules}).ljust(100))


@pytest.mark.parametrize("length", [99, 30721])
def test_a_lifecycle_policy_has_a_length(sandbox: Sandbox, repository: str, length: int) -> None:
    client = sandbox.client("ecr", parameter_validation=False)

    with refused("InvalidParameterException"):
        client.put_lifecycle_policy(
            repositoryName=repository, lifecyclePolicyText=json.dumps(LIFECYCLE)[:90].ljust(length)
        )


def test_a_repository_with_images_goes_only_by_force(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")

    with refused("RepositoryNotEmptyException"):
        ecr.delete_repository(repositoryName=repository)
    ecr.delete_repository(repositoryName=repository, force=True)

    with refused("RepositoryNotFoundException"):
        ecr.get_repository_policy(repositoryName=repository)


# -- other accounts --------------------------------------------------------------------------------------------------


def test_a_foreign_registry_is_closed_until_its_policy_opens_it(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    cluster = sandbox.client("ecr", "cluster")

    with refused("AccessDeniedException") as refusal:
        cluster.describe_images(registryId=OWNER, repositoryName=repository)
    assert refusal.message == (
        f"User: arn:aws:iam::{CLUSTER}:user/admin is not authorized to perform: ecr:DescribeImages on resource: "
        f"arn:aws:ecr:us-east-1:{OWNER}:repository/{repository} because no resource-based policy allows the "
        "ecr:DescribeImages action"
    )
    ecr.set_repository_policy(repositoryName=repository, policyText=policy(statement(action="ecr:DescribeImages")))

    assert cluster.describe_images(registryId=OWNER, repositoryName=repository)["imageDetails"] == []


def test_a_stranger_does_not_learn_which_repositories_exist(sandbox: Sandbox, repository: str) -> None:
    cluster = sandbox.client("ecr", "cluster")

    for name in (repository, "nowhere"):
        with refused("AccessDeniedException"):
            cluster.describe_repositories(registryId=OWNER, repositoryNames=[name])
    with refused("RepositoryNotFoundException"):
        cluster.describe_repositories(repositoryNames=[repository])


# -- who is calling --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("account", "code"),
    [
        (("AKIANOBODY0000EXAMPLE", "x"), "UnrecognizedClientException"),
        (("AKIAOWNER1111EXAMPLE", "wrong"), "InvalidSignatureException"),
        (("AKIAOWNER1111EXAMPLE", "sandbox/owner/111111111111/EXAMPLESECRET", "token"), "UnrecognizedClientException"),
    ],
)
def test_a_call_that_is_not_signed_rightly_is_refused(sandbox: Sandbox, account: Any, code: str) -> None:
    with refused(code) as refusal:
        sandbox.client("ecr", account).describe_repositories()
    assert refusal.status == 400


def test_a_user_may_do_what_its_policy_says_and_nothing_else(sandbox: Sandbox, repository: str) -> None:
    iam = sandbox.client("iam")
    iam.create_user(UserName="reader")
    iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=session_policy(["ecr:Describe*"]))
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    reader = sandbox.client("ecr", (key["AccessKeyId"], key["SecretAccessKey"]))

    assert len(reader.describe_repositories()["repositories"]) == 1
    with refused("AccessDeniedException") as refusal:
        reader.create_repository(repositoryName="mine")
    assert refusal.message.endswith("because no identity-based policy allows the ecr:CreateRepository action")
    iam.put_user_policy(UserName="reader", PolicyName="no", PolicyDocument=session_policy("ecr:*", effect="Deny"))
    with refused("AccessDeniedException") as refusal:
        reader.describe_repositories()
    assert refusal.message.endswith("with an explicit deny in an identity-based policy")


def test_the_authorization_token_lasts_twelve_hours_and_leads_here(sandbox: Sandbox, ecr: Any) -> None:
    data = ecr.get_authorization_token()["authorizationData"][0]

    assert data["proxyEndpoint"] == sandbox.url
    assert 12 * 3600 - 60 < data["expiresAt"].timestamp() - time.time() <= 12 * 3600


def test_a_kms_key_of_another_region_or_partition_is_refused(ecr: Any) -> None:
    for place in ("aws:kms:eu-west-1", "aws-cn:kms:us-east-1"):
        key = f"arn:{place}:111111111111:key/11111111-2222-3333-4444-555555555555"
        with pytest.raises(ecr.exceptions.KmsException):
            ecr.create_repository(
                repositoryName="a/b", encryptionConfiguration={"encryptionType": "KMS", "kmsKey": key}
            )
