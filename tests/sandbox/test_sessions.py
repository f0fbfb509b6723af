"""STS: roles with trust and external id, federated users, and sessions that may do less than their owner."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from botocore.exceptions import ParamValidationError

from sandbox import images
from sandbox.control import Sandbox
from tests.sandbox.asking import CLUSTER, OWNER, keys, policy, refused, session_policy, statement


def test_a_caller_learns_who_it_is(sandbox: Sandbox) -> None:
    owner = sandbox.client("sts").get_caller_identity()
    cluster = sandbox.client("sts", "cluster", region="cn-north-1").get_caller_identity()

    assert (owner["Account"], owner["Arn"]) == (OWNER, f"arn:aws:iam::{OWNER}:user/admin")
    assert cluster["Arn"] == f"arn:aws-cn:iam::{CLUSTER}:user/admin"


def test_an_assumed_role_is_somebody_else(sandbox: Sandbox, role: str) -> None:
    session = sandbox.client("sts").assume_role(RoleArn=role, RoleSessionName="deploy-1")

    who = sandbox.client("sts", keys(session)).get_caller_identity()

    assert who["Arn"] == f"arn:aws:sts::{OWNER}:assumed-role/deployer/deploy-1"
    assert who["UserId"].startswith("AROA")
    assert who["UserId"].endswith(":deploy-1")


@pytest.mark.parametrize("external_id", [None, "wrong", "right"])
def test_a_role_for_another_account_asks_for_its_external_id(sandbox: Sandbox, external_id: str | None) -> None:
    trust = statement(OWNER, "sts:AssumeRole", Condition={"StringEquals": {"sts:ExternalId": "right"}})
    arn = sandbox.client("iam", "cluster").create_role(RoleName="probe", AssumeRolePolicyDocument=policy(trust))[
        "Role"
    ]["Arn"]
    given = {"ExternalId": external_id} if external_id else {}
    sts = sandbox.client("sts")

    if external_id == "right":
        assert sts.assume_role(RoleArn=arn, RoleSessionName="probe", **given)["Credentials"]
        return
    with refused("AccessDenied") as refusal:
        sts.assume_role(RoleArn=arn, RoleSessionName="probe", **given)
    assert refusal.status == 403
    assert refusal.message == (
        f"User: arn:aws:iam::{OWNER}:user/admin is not authorized to perform: sts:AssumeRole on resource: {arn}"
    )


def test_a_role_that_does_not_trust_the_caller_and_one_that_is_not_there_read_the_same(
    sandbox: Sandbox, role: str
) -> None:
    sts = sandbox.client("sts", "cluster")

    for arn in (role, f"arn:aws:iam::{OWNER}:role/nobody"):
        with refused("AccessDenied") as refusal:
            sts.assume_role(RoleArn=arn, RoleSessionName="probe")
        assert refusal.message.endswith(f"is not authorized to perform: sts:AssumeRole on resource: {arn}")


def test_a_roles_own_account_needs_its_trust_too(sandbox: Sandbox) -> None:
    trust = policy(statement(CLUSTER, "sts:AssumeRole"))
    arn = sandbox.client("iam").create_role(RoleName="theirs", AssumeRolePolicyDocument=trust)["Role"]["Arn"]

    with refused("AccessDenied"):
        sandbox.client("sts").assume_role(RoleArn=arn, RoleSessionName="probe")
    assert sandbox.client("sts", "cluster").assume_role(RoleArn=arn, RoleSessionName="probe")["Credentials"]


def test_a_role_arn_that_was_never_set_is_a_validation_error(sandbox: Sandbox) -> None:
    with pytest.raises(ParamValidationError):
        sandbox.client("sts").assume_role(RoleArn=None, RoleSessionName="probe")
    with refused("ValidationError"):
        sandbox.client("sts", parameter_validation=False).assume_role(RoleArn="", RoleSessionName="probe")


@pytest.mark.parametrize("seconds", [899, 3601, 43201])
def test_a_session_has_a_shortest_and_a_longest_life(sandbox: Sandbox, role: str, seconds: int) -> None:
    with refused("ValidationError"):
        sandbox.client("sts", parameter_validation=False).assume_role(
            RoleArn=role, RoleSessionName="deploy", DurationSeconds=seconds
        )


def test_a_session_that_is_over_is_refused_as_expired(sandbox: Sandbox, role: str) -> None:
    session = sandbox.client("sts").assume_role(RoleArn=role, RoleSessionName="deploy", DurationSeconds=900)
    ecr = sandbox.client("ecr", keys(session))
    ecr.describe_repositories()

    sandbox.advance(901)

    with refused("ExpiredTokenException"):
        ecr.describe_repositories()
    with refused("ExpiredToken"):
        sandbox.client("sts", keys(session)).get_caller_identity()


def test_a_session_with_a_made_up_token_is_nobody(sandbox: Sandbox, role: str) -> None:
    key, secret, _ = keys(sandbox.client("sts").assume_role(RoleArn=role, RoleSessionName="deploy"))

    with refused("UnrecognizedClientException"):
        sandbox.client("ecr", (key, secret)).describe_repositories()
    with refused("UnrecognizedClientException"):
        sandbox.client("ecr", (key, secret, "made up")).describe_repositories()


def test_a_session_policy_takes_away_and_never_gives(sandbox: Sandbox, role: str, repository: str) -> None:
    limits = session_policy(["ecr:ListImages", "sqs:*"], f"arn:aws:ecr:us-east-1:{OWNER}:repository/{repository}")
    session = keys(sandbox.client("sts").assume_role(RoleArn=role, RoleSessionName="deploy", Policy=limits))
    ecr = sandbox.client("ecr", session)

    ecr.list_images(repositoryName=repository)

    with refused("AccessDeniedException") as refusal:
        ecr.describe_images(repositoryName=repository)
    assert refusal.message.endswith("because no session policy allows the ecr:DescribeImages action")
    with refused("AccessDeniedException"):
        ecr.list_images(repositoryName="trigger/other")
    with refused("AccessDenied"):
        sandbox.client("sqs", session).list_queues()


PUSH = [
    "ecr:BatchCheckLayerAvailability",
    "ecr:InitiateLayerUpload",
    "ecr:UploadLayerPart",
    "ecr:CompleteLayerUpload",
    "ecr:PutImage",
]


def push_only(repository: str) -> str:
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
                {"Effect": "Allow", "Action": PUSH, "Resource": f"arn:aws:ecr:*:{OWNER}:repository/{repository}"},
            ],
        }
    )


@pytest.mark.parametrize("way", ["assume_role", "get_federation_token"])
def test_the_token_of_a_limited_session_pushes_to_its_one_repository_only(
    sandbox: Sandbox, ecr: Any, role: str, repository: str, way: str
) -> None:
    ecr.create_repository(repositoryName="trigger/other")
    sts = sandbox.client("sts")
    if way == "assume_role":
        session = sts.assume_role(RoleArn=role, RoleSessionName="deploy", Policy=push_only(repository))
    else:
        session = sts.get_federation_token(Name="deploy", Policy=push_only(repository))
    login = sandbox.login(keys(session))

    images.push(images.build(), sandbox.url, *login, repository, "v1")

    with pytest.raises(images.RegistryError) as caught:
        images.push(images.build(), sandbox.url, *login, "trigger/other", "v1")
    assert caught.value.status == 403
    with pytest.raises(images.RegistryError) as caught:
        images.pull(sandbox.url, *login, repository, "v1")
    assert caught.value.status == 403


def test_a_federated_user_without_a_policy_may_do_nothing(sandbox: Sandbox) -> None:
    session = keys(sandbox.client("sts").get_federation_token(Name="deploy"))

    with refused("AccessDeniedException"):
        sandbox.client("ecr", session).describe_repositories()
    with refused("AccessDenied"):
        sandbox.client("sts", session).get_federation_token(Name="again")


@pytest.mark.parametrize("text", ["nonsense", "x" * 2049, policy(statement())])
def test_a_bad_session_policy_is_refused(sandbox: Sandbox, role: str, text: str) -> None:
    with refused("ValidationError" if len(text) > 2048 else "MalformedPolicyDocument"):
        sandbox.client("sts").assume_role(RoleArn=role, RoleSessionName="deploy", Policy=text)


def test_a_session_loses_its_rights_with_its_role(sandbox: Sandbox, role: str) -> None:
    ecr = sandbox.client("ecr", keys(sandbox.client("sts").assume_role(RoleArn=role, RoleSessionName="deploy")))
    ecr.describe_repositories()

    sandbox.client("iam").detach_role_policy(
        RoleName="deployer", PolicyArn="arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryFullAccess"
    )

    with refused("AccessDeniedException"):
        ecr.describe_repositories()


def test_a_role_in_anothers_trust_needs_its_own_accounts_leave_too(sandbox: Sandbox) -> None:
    """Across accounts both sides must agree: the trust policy and the caller's own policies."""
    arn = sandbox.client("iam", "cluster").create_role(
        RoleName="probe", AssumeRolePolicyDocument=policy(statement(OWNER, "sts:AssumeRole"))
    )["Role"]["Arn"]
    iam = sandbox.client("iam")
    iam.create_user(UserName="nobody")
    key = iam.create_access_key(UserName="nobody")["AccessKey"]

    with refused("AccessDenied") as refusal:
        sandbox.client("sts", (key["AccessKeyId"], key["SecretAccessKey"])).assume_role(
            RoleArn=arn, RoleSessionName="probe"
        )
    assert "no identity-based policy allows the sts:AssumeRole action" in refusal.message


def pull_of(names: list[str]) -> str:
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": "ecr:BatchGetImage",
                    "Resource": [f"arn:aws:ecr:us-east-1:{OWNER}:repository/{name}" for name in names],
                }
            ],
        },
        separators=(",", ":"),
    )


def test_a_session_policy_whose_packed_form_is_too_large_is_refused_although_it_is_short_enough(
    sandbox: Sandbox, role: str
) -> None:
    sts = sandbox.client("sts")
    similar = pull_of([f"platform/base-{number}" for number in range(25)])
    random = pull_of([hashlib.sha256(str(number).encode()).hexdigest()[:28] for number in range(25)])
    assert len(random) <= 2048

    packed = sts.assume_role(RoleArn=role, RoleSessionName="deploy", Policy=similar)["PackedPolicySize"]

    assert 0 < packed <= 100
    with refused("PackedPolicyTooLarge") as refusal:
        sts.assume_role(RoleArn=role, RoleSessionName="deploy", Policy=random)
    assert (refusal.status, "%" in refusal.message) == (400, True)
    with refused("PackedPolicyTooLarge"):
        sts.get_federation_token(Name="deploy", Policy=random)


def test_a_log_in_ends_with_the_session_that_fetched_it(sandbox: Sandbox, role: str, repository: str) -> None:
    session = sandbox.client("sts").assume_role(RoleArn=role, RoleSessionName="deploy", DurationSeconds=900)
    login = sandbox.login(keys(session))
    images.push(images.build(), sandbox.url, *login, repository, "v1")

    sandbox.advance(901)

    with images.RegistryClient(sandbox.url, *login) as client, pytest.raises(images.RegistryError) as caught:
        client.request("GET", f"/v2/{repository}/manifests/v1")
    assert (caught.value.status, caught.value.code) == (403, "DENIED")
    assert caught.value.message == "Your authorization token has expired. Reauthenticate and try again."
