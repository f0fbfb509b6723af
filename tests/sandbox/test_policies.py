"""Repository policies and registry policies: what is refused, what comes back, and who is let in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox import images
from sandbox.control import Sandbox
from tests.sandbox.asking import CLUSTER, HOST, OWNER, PULL, keys, policy, refused, session_policy, statement


def stored(ecr: Any, repository: str) -> Any:
    return json.loads(ecr.get_repository_policy(repositoryName=repository)["policyText"])


def test_no_policy_is_an_error_and_not_an_empty_text(ecr: Any, repository: str) -> None:
    with refused("RepositoryPolicyNotFoundException") as refusal:
        ecr.get_repository_policy(repositoryName=repository)
    assert repository in refusal.message
    with refused("RepositoryPolicyNotFoundException"):
        ecr.delete_repository_policy(repositoryName=repository)


@pytest.mark.parametrize(
    ("region", "partition"), [("us-east-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-east-1", "aws-us-gov")]
)
def test_a_policy_with_a_bare_account_id_comes_back_as_its_root_arn(
    sandbox: Sandbox, region: str, partition: str
) -> None:
    ecr = sandbox.client("ecr", region=region)
    ecr.create_repository(repositoryName="shop")

    ecr.set_repository_policy(repositoryName="shop", policyText=policy(statement("012345678901")))

    assert stored(ecr, "shop")["Statement"][0]["Principal"] == {"AWS": f"arn:{partition}:iam::012345678901:root"}


def test_lists_come_back_in_another_order_and_lists_of_one_as_scalars(ecr: Any, repository: str) -> None:
    accounts = ["333333333333", "222222222222", "444444444444"]
    sent = [statement(accounts, ["ecr:BatchGetImage"]), statement("555555555555", tuple(sorted(PULL)))]

    ecr.set_repository_policy(repositoryName=repository, policyText=policy(*sent))

    first, second = stored(ecr, repository)["Statement"]
    assert sorted(first["Principal"]["AWS"]) == [f"arn:aws:iam::{each}:root" for each in sorted(accounts)]
    assert first["Principal"]["AWS"] != [f"arn:aws:iam::{each}:root" for each in accounts]
    assert first["Action"] == "ecr:BatchGetImage"
    assert second["Action"] == sorted(PULL, reverse=True)


def test_setting_a_policy_replaces_the_whole(ecr: Any, repository: str) -> None:
    ecr.set_repository_policy(repositoryName=repository, policyText=policy(statement("333333333333")))
    answer = ecr.set_repository_policy(repositoryName=repository, policyText=policy(statement("444444444444")))

    assert "333333333333" not in json.dumps(stored(ecr, repository))
    assert json.loads(answer["policyText"]) == stored(ecr, repository)


def _text(**changes: Any) -> str:
    return policy({**statement(), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "not json",
        "[]",
        '{"Version":"2012-10-17","Statement":[]}',
        '{"Version":"2020-01-01","Statement":[' + json.dumps(statement()) + "]}",
        '{"Version":"2012-10-17","Version":"2012-10-17","Statement":[' + json.dumps(statement()) + "]}",
        '{"Version":"2012-10-17","Surprise":1,"Statement":[' + json.dumps(statement()) + "]}",
        "[" * 5000,
        _text(Resource="*"),
        _text(Effect="allow"),
        _text(Action="s3:GetObject"),
        _text(Action="ecr:Nothing"),
        _text(Action=[]),
        _text(Principal={"AWS": "22222222222"}),
        _text(Principal={"AWS": f"arn:aws:iam::{CLUSTER}:*"}),
        _text(Principal={"AWS": f"arn:aws-cn:iam::{CLUSTER}:root"}),
        _text(Principal={"AWS": 222222222222}),
        _text(Principal={"aws": CLUSTER}),
        _text(Principal=CLUSTER),
        _text(Principal={}),
        _text(NotPrincipal="*"),
        _text(Condition={"StringMatches": {"aws:SourceIp": "x"}}),
        policy({"Effect": "Allow", "Action": "ecr:BatchGetImage"}),
    ],
)
def test_a_policy_that_ecr_does_not_take_is_refused(ecr: Any, repository: str, text: str) -> None:
    with refused("InvalidParameterException") as refusal:
        ecr.set_repository_policy(repositoryName=repository, policyText=text)

    assert refusal.message == (
        "Invalid parameter at 'PolicyText' failed to satisfy constraint: 'Invalid repository policy provided'"
    )
    with refused("RepositoryPolicyNotFoundException"):
        ecr.get_repository_policy(repositoryName=repository)


@pytest.mark.parametrize(
    "text",
    [
        _text(Principal="*"),
        _text(Principal={"AWS": "*"}),
        _text(Principal={"Service": "lambda.amazonaws.com"}, Sid="LambdaECRImageRetrievalPolicy"),
        _text(Action="ECR:batch*"),
        _text(Action="ecr:*"),
        _text(
            Condition={"StringEquals": {"aws:PrincipalOrgID": "o-1234567890"}, "Bool": {"aws:SecureTransport": True}}
        ),
        json.dumps({"Id": "mine", "Statement": statement()}),
    ],
)
def test_a_policy_that_ecr_takes_is_taken(ecr: Any, repository: str, text: str) -> None:
    ecr.set_repository_policy(repositoryName=repository, policyText=text)

    assert stored(ecr, repository)["Statement"]


def test_a_policy_has_10240_characters_at_most(ecr: Any, repository: str) -> None:
    ecr.set_repository_policy(repositoryName=repository, policyText=policy().ljust(10240))

    with refused("InvalidParameterException"):
        ecr.set_repository_policy(repositoryName=repository, policyText=policy().ljust(10241))


@pytest.mark.costly
def test_a_policy_for_nobody_known_is_refused_until_the_role_is_there(
    sandbox: Sandbox, ecr: Any, repository: str
) -> None:
    text = policy(statement(f"arn:aws:iam::{CLUSTER}:role/node"))

    with refused("InvalidParameterException") as refusal:
        ecr.set_repository_policy(repositoryName=repository, policyText=text)
    assert "Principal not found" in refusal.message
    sandbox.client("iam", "cluster").create_role(
        RoleName="node", AssumeRolePolicyDocument=policy(statement(CLUSTER, "sts:AssumeRole"))
    )

    ecr.set_repository_policy(repositoryName=repository, policyText=text)
    assert stored(ecr, repository)["Statement"][0]["Principal"] == {"AWS": f"arn:aws:iam::{CLUSTER}:role/node"}


def test_a_deleted_role_shows_as_its_id_and_its_namesake_is_not_let_in(
    sandbox: Sandbox, ecr: Any, repository: str
) -> None:
    iam = sandbox.client("iam", "cluster")
    trust = policy(statement(CLUSTER, "sts:AssumeRole"))
    arn = iam.create_role(RoleName="node", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    text = policy(statement(arn, "ecr:ListImages"))
    ecr.set_repository_policy(repositoryName=repository, policyText=text)

    def list_images() -> None:
        iam.attach_role_policy(RoleName="node", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
        session = sandbox.client("sts", "cluster").assume_role(RoleArn=arn, RoleSessionName="node-1")
        sandbox.client("ecr", keys(session)).list_images(registryId=OWNER, repositoryName=repository)
        iam.detach_role_policy(RoleName="node", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")

    list_images()
    iam.delete_role(RoleName="node")
    assert stored(ecr, repository)["Statement"][0]["Principal"]["AWS"].startswith("AROA")

    iam.create_role(RoleName="node", AssumeRolePolicyDocument=trust)
    with refused("AccessDeniedException"):
        list_images()
    assert stored(ecr, repository)["Statement"][0]["Principal"]["AWS"].startswith("AROA")
    with refused("InvalidParameterException") as refusal:
        ecr.set_repository_policy(repositoryName=repository, policyText=json.dumps(stored(ecr, repository)))
    assert "Principal not found" in refusal.message

    ecr.set_repository_policy(repositoryName=repository, policyText=text)
    iam.detach_role_policy(RoleName="node", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    list_images()


def test_a_policy_that_locks_its_own_caller_out_needs_force(ecr: Any, repository: str) -> None:
    text = policy(statement(OWNER, "ecr:SetRepositoryPolicy", "Deny"))

    with refused("InvalidParameterException"):
        ecr.set_repository_policy(repositoryName=repository, policyText=text)
    ecr.set_repository_policy(repositoryName=repository, policyText=text, force=True)

    with refused("AccessDeniedException") as refusal:
        ecr.set_repository_policy(repositoryName=repository, policyText=policy())
    assert refusal.message.endswith("with an explicit deny in a resource-based policy")


def test_a_deny_in_the_registry_policy_beats_the_repositorys_allow(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")
    ecr.set_repository_policy(repositoryName=repository, policyText=policy())
    login = sandbox.login("cluster")
    images.pull(sandbox.url, *login, repository, "v1", registry=HOST)

    ecr.put_registry_policy(
        policyText=policy(
            statement(
                CLUSTER, "ecr:BatchGetImage", "Deny", Resource=f"arn:aws:ecr:us-east-1:{OWNER}:repository/trigger/*"
            )
        )
    )

    with pytest.raises(images.RegistryError) as caught:
        images.pull(sandbox.url, *login, repository, "v1", registry=HOST)
    assert caught.value.status == 403
    ecr.delete_registry_policy()
    images.pull(sandbox.url, *login, repository, "v1", registry=HOST)


def test_a_registry_policy_can_open_every_repository(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    cluster = sandbox.client("ecr", "cluster")
    with refused("RegistryPolicyNotFoundException"):
        ecr.get_registry_policy()

    ecr.put_registry_policy(policyText=policy(statement(action="ecr:ListImages", Resource="*")))

    assert cluster.list_images(registryId=OWNER, repositoryName=repository)["imageIds"] == []
    with refused("InvalidParameterException"):
        ecr.put_registry_policy(policyText=policy(statement(action="ecr:ListImages")))


def test_under_scope_v1_the_registry_policy_does_not_decide_about_pulls(
    sandbox: Sandbox, ecr: Any, repository: str
) -> None:
    images.push(images.build(), sandbox.url, *sandbox.login(), repository, "v1")
    ecr.set_repository_policy(repositoryName=repository, policyText=policy())
    ecr.put_registry_policy(policyText=policy(statement(action=tuple(PULL), effect="Deny", Resource="*")))
    cluster, login = sandbox.client("ecr", "cluster"), sandbox.login("cluster")
    assert ecr.get_account_setting(name="REGISTRY_POLICY_SCOPE")["value"] == "V2"
    with refused("AccessDeniedException"):
        cluster.batch_get_image(registryId=OWNER, repositoryName=repository, imageIds=[{"imageTag": "v1"}])

    ecr.put_account_setting(name="REGISTRY_POLICY_SCOPE", value="V1")

    assert ecr.get_account_setting(name="REGISTRY_POLICY_SCOPE")["value"] == "V1"
    assert images.pull(sandbox.url, *login, repository, "v1", registry=HOST) == images.build()
    # Another region has its own setting.
    elsewhere = sandbox.client("ecr", region="eu-west-1")
    assert elsewhere.get_account_setting(name="REGISTRY_POLICY_SCOPE")["value"] == "V2"


def test_scope_v1_still_decides_who_may_create_repositories(sandbox: Sandbox, ecr: Any) -> None:
    ecr.put_account_setting(name="REGISTRY_POLICY_SCOPE", value="V1")
    cluster = sandbox.client("ecr", "cluster")
    with refused("AccessDeniedException"):
        cluster.create_repository(registryId=OWNER, repositoryName="theirs")

    ecr.put_registry_policy(policyText=policy(statement(action="ecr:CreateRepository", Resource="*")))
    cluster.create_repository(registryId=OWNER, repositoryName="theirs")

    with refused("InvalidParameterException"):
        ecr.put_registry_policy(policyText=policy(statement(action="ecr:BatchGetImage", Resource="*")))


def test_account_settings_have_known_names_and_values_and_need_permission(sandbox: Sandbox, ecr: Any) -> None:
    with refused("InvalidParameterException"):
        ecr.get_account_setting(name="NO_SUCH_SETTING")
    with refused("InvalidParameterException"):
        ecr.put_account_setting(name="REGISTRY_POLICY_SCOPE", value="V3")
    token = sandbox.client("sts").get_federation_token(Name="reader", Policy=session_policy("ecr:GetAccountSetting"))
    narrow = sandbox.client("ecr", keys(token))

    narrow.get_account_setting(name="REGISTRY_POLICY_SCOPE")
    with refused("AccessDeniedException"):
        narrow.put_account_setting(name="REGISTRY_POLICY_SCOPE", value="V1")


@pytest.mark.parametrize(
    ("condition", "open_"),
    [
        ({"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}, True),
        ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, False),
        ({"StringEquals": {"aws:PrincipalOrgID": "o-1234567890"}}, False),
        ({"StringEqualsIfExists": {"aws:PrincipalOrgID": "o-1234567890"}}, True),
        ({"StringLike": {"aws:PrincipalArn": f"arn:aws:iam::{CLUSTER}:user/*"}}, True),
        ({"StringEquals": {"aws:ResourceTag/team": "shop"}}, False),
        ({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, True),
        ({"StringEquals": {"aws:RequestedRegion": "us-east-1"}}, True),
    ],
)
def test_a_condition_is_asked(
    sandbox: Sandbox, ecr: Any, repository: str, condition: dict[str, Any], open_: bool
) -> None:
    ecr.set_repository_policy(
        repositoryName=repository, policyText=policy(statement("*", "ecr:ListImages", Condition=condition))
    )
    cluster = sandbox.client("ecr", "cluster")

    if open_:
        cluster.list_images(registryId=OWNER, repositoryName=repository)
    else:
        with refused("AccessDeniedException"):
            cluster.list_images(registryId=OWNER, repositoryName=repository)
