"""Faults on purpose, each as a client really meets it."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError, ReadTimeoutError

from sandbox import images
from sandbox.control import Sandbox, SandboxError
from tests.sandbox.asking import policy, refused, statement


def names(ecr: Any) -> list[str]:
    return [each["repositoryName"] for each in ecr.describe_repositories()["repositories"]]


def test_an_answer_that_is_lost_has_made_its_change(sandbox: Sandbox, ecr: Any) -> None:
    sandbox.fault("lost", "ecr:CreateRepository", times=1)

    with pytest.raises(ConnectionClosedError):
        ecr.create_repository(repositoryName="shop")

    assert names(ecr) == ["shop"]
    assert [each["outcome"] for each in sandbox.journal()] == ["lost", "ok"]


def test_botocores_own_retry_turns_a_lost_success_into_already_exists(sandbox: Sandbox) -> None:
    sandbox.fault("lost", "ecr:CreateRepository", times=1)
    ecr = sandbox.client("ecr", retries={"total_max_attempts": 3, "mode": "standard"})

    with refused("RepositoryAlreadyExistsException"):
        ecr.create_repository(repositoryName="shop")

    assert sandbox.calls()["ecr:CreateRepository"] == 2


def test_a_connection_that_is_reset_has_changed_nothing(sandbox: Sandbox, ecr: Any) -> None:
    sandbox.fault("reset", "ecr:Create*", times=1)

    with pytest.raises(ConnectionClosedError):
        ecr.create_repository(repositoryName="shop")

    assert names(ecr) == []


def test_a_hanging_call_ends_with_the_clients_patience_and_changes_nothing(sandbox: Sandbox, ecr: Any) -> None:
    sandbox.fault("hang", "ecr:CreateRepository", times=1)

    with pytest.raises(ReadTimeoutError):
        sandbox.client("ecr", read_timeout=0.2).create_repository(repositoryName="shop")

    assert names(ecr) == []


def test_an_error_has_the_code_the_status_and_the_words_that_were_asked_for(
    sandbox: Sandbox, ecr: Any, repository: str
) -> None:
    sandbox.fault("error", "ecr:*", code="KmsException", message="the key is gone", status=400, times=1)

    with refused("KmsException") as refusal:
        ecr.describe_repositories()
    assert (refusal.message, refusal.status) == ("the key is gone", 400)
    assert names(ecr) == [repository]

    sandbox.fault("error", "sts:AssumeRole", code="AccessDenied", status=403)
    with refused("AccessDenied"):
        sandbox.client("sts").assume_role(RoleArn="arn:aws:iam::111111111111:role/any", RoleSessionName="me")
    sandbox.client("sts").get_caller_identity()


def test_a_fault_lets_some_calls_pass_and_is_over_after_some(sandbox: Sandbox, ecr: Any) -> None:
    sandbox.fault("error", "ecr:DescribeRepositories", skip=1, times=2)

    outcomes = []
    for _ in range(5):
        try:
            ecr.describe_repositories()
            outcomes.append("ok")
        except ecr.exceptions.ServerException:
            outcomes.append("error")

    assert outcomes == ["ok", "error", "error", "ok", "ok"]
    assert (sandbox.faults()[0]["seen"], sandbox.faults()[0]["struck"]) == (3, 2)


def test_a_fault_can_strike_every_third_call(sandbox: Sandbox, ecr: Any) -> None:
    sandbox.fault("error", "ecr:DescribeRepositories", every=3)

    outcomes = []
    for _ in range(6):
        try:
            ecr.describe_repositories()
            outcomes.append("ok")
        except ecr.exceptions.ServerException:
            outcomes.append("error")

    assert outcomes == ["error", "ok", "ok", "error", "ok", "ok"]


def test_a_call_that_is_never_answered_has_made_its_change(sandbox: Sandbox, ecr: Any) -> None:
    sandbox.fault("unanswered", "ecr:CreateRepository", times=1)

    with pytest.raises(ReadTimeoutError):
        sandbox.client("ecr", read_timeout=0.3).create_repository(repositoryName="shop")

    assert names(ecr) == ["shop"]
    assert next(each["outcome"] for each in sandbox.journal()) == "unanswered"


def test_a_fault_can_be_for_some_repositories_only(sandbox: Sandbox, ecr: Any) -> None:
    sandbox.fault("error", "*", repository="trigger/bad*")

    ecr.create_repository(repositoryName="trigger/good")
    with refused("ServerException") as refusal:
        ecr.create_repository(repositoryName="trigger/bad-1")
    assert refusal.status == 500


@pytest.mark.costly
def test_a_fault_can_spare_a_caller(sandbox: Sandbox, ecr: Any) -> None:
    sandbox.fault("error", "ecr:*", spare="*:user/admin")
    other = sandbox.client("iam")
    other.create_user(UserName="server")
    other.attach_user_policy(
        UserName="server", PolicyArn="arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryFullAccess"
    )
    key = other.create_access_key(UserName="server")["AccessKey"]

    ecr.create_repository(repositoryName="shop")
    with refused("ServerException"):
        sandbox.client("ecr", (key["AccessKeyId"], key["SecretAccessKey"])).describe_repositories()


def test_a_bucket_lets_its_burst_pass_and_throttles_the_rest(sandbox: Sandbox, ecr: Any) -> None:
    sandbox.fault("throttle", "ecr:Describe*", rate=0, burst=3)

    for _ in range(3):
        ecr.describe_repositories()
    with refused("ThrottlingException") as refusal:
        ecr.describe_repositories()

    assert (refusal.message, refusal.status) == ("Rate exceeded", 400)
    ecr.create_repository(repositoryName="shop")
    sandbox.clear_faults()
    assert names(ecr) == ["shop"]


def test_a_slow_call_has_not_made_its_change_at_once(sandbox: Sandbox, ecr: Any) -> None:
    sandbox.fault("latency", "ecr:CreateRepository", seconds=20)

    with pytest.raises(ReadTimeoutError):
        sandbox.client("ecr", read_timeout=0.2).create_repository(repositoryName="shop")

    assert names(ecr) == []


def test_a_slow_call_makes_its_change_in_the_middle(sandbox: Sandbox, ecr: Any) -> None:
    """Half before, half after: two slow creations at once meet, as they do at AWS."""
    sandbox.fault("latency", "ecr:CreateRepository", seconds=0.3)
    outcomes: list[str] = []

    def create() -> None:
        try:
            sandbox.client("ecr").create_repository(repositoryName="shop")
            outcomes.append("made")
        except ecr.exceptions.RepositoryAlreadyExistsException:
            outcomes.append("exists")

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert sorted(outcomes) == ["exists", "made"]


def test_a_new_repository_is_not_found_for_a_while(sandbox: Sandbox, ecr: Any) -> None:
    sandbox.fault("not_found_after_create", seconds=10)
    ecr.create_repository(repositoryName="shop")

    with refused("RepositoryNotFoundException"):
        ecr.describe_repositories(repositoryNames=["shop"])
    with refused("RepositoryNotFoundException"):
        ecr.set_repository_policy(repositoryName="shop", policyText=policy())
    assert names(ecr) == []
    with refused("RepositoryAlreadyExistsException"):
        ecr.create_repository(repositoryName="shop")

    sandbox.advance(11)
    ecr.set_repository_policy(repositoryName="shop", policyText=policy())
    assert names(ecr) == ["shop"]


def test_a_principal_is_not_found_for_a_while(sandbox: Sandbox, ecr: Any, repository: str) -> None:
    sandbox.fault("principal_not_found", repository="trigger/*", times=2)

    for _ in range(2):
        with refused("InvalidParameterException") as refusal:
            ecr.set_repository_policy(repositoryName=repository, policyText=policy())
        assert "Principal not found" in refusal.message
    ecr.set_repository_policy(repositoryName=repository, policyText=policy())


def test_a_newer_aws_accepts_a_policy_that_the_sandbox_does_not_know(
    sandbox: Sandbox, ecr: Any, repository: str
) -> None:
    text = policy({**statement(), "Foo": 1})
    sandbox.fault("newer_policies", repository="trigger/*", times=1)

    ecr.set_repository_policy(repositoryName=repository, policyText=text)

    assert json.loads(ecr.get_repository_policy(repositoryName=repository)["policyText"]) == json.loads(text)
    with refused("InvalidParameterException"):
        ecr.set_repository_policy(repositoryName=repository, policyText=text)


def test_the_data_plane_has_faults_too(sandbox: Sandbox, repository: str) -> None:
    login = sandbox.login()
    sandbox.fault("error", "v2:PutManifest", status=503, times=1)

    with pytest.raises(images.RegistryError) as caught:
        images.push(images.build(), sandbox.url, *login, repository, "v1")
    assert caught.value.status == 503

    images.push(images.build(), sandbox.url, *login, repository, "v1")


def test_a_fault_that_makes_no_sense_is_refused(sandbox: Sandbox) -> None:
    for wrong in ({"kind": "earthquake"}, {"kind": "error", "tims": 1}, {"kind": "error", "times": "many"}):
        with pytest.raises(SandboxError):
            sandbox.fault(**wrong)
    assert sandbox.faults() == []
