"""The API in front of ECR: what the CLI hears when AWS says no, and what it is given when AWS says yes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections
from django.test import Client

from deployments import config
from deployments.deploys import projects
from deployments.models import Deployment, Project
from sandbox import images
from sandbox.control import Sandbox
from tests.support.cli import Cli
from tests.support.constants import HOST

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ecr_configuration")]


@pytest.mark.costly
def test_credentials_of_ecr_are_its_token_with_the_endpoint_to_connect_to(cli: Cli, sandbox: Sandbox) -> None:
    deployment = cli.deploy().body

    answer = cli.post(f"/api/v1/deployments/{deployment['id']}/generate-registry-credentials", {})

    assert answer.status == 200
    assert set(answer.body) == {
        "username", "password", "expiresAt", "repositoryUri", "proxyEndpoint", "opens", "message",
    }  # fmt: skip
    assert answer.body["username"] == "AWS"
    assert answer.body["repositoryUri"] == deployment["imageTag"].rpartition(":")[0]
    assert answer.body["repositoryUri"].startswith(f"{HOST}/trigger/proj_")
    assert answer.body["proxyEndpoint"].startswith("http")


@pytest.mark.costly
def test_what_a_log_in_opens_is_in_its_answer_and_on_the_deployment(
    cli: Cli, sandbox: Sandbox, configure: Callable[..., config.Configuration]
) -> None:
    configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_BASE_REPOSITORIES="platform/*")
    deployment = cli.deploy().body
    path = f"/api/v1/deployments/{deployment['id']}"
    assert "registryLogIn" not in cli.get(path).body

    issued = cli.post(f"{path}/generate-registry-credentials", {}).body

    repository = issued["repositoryUri"].partition("/")[2]
    opens = {"push": [repository], "pull": ["platform/*"], "leftOut": [], "expiresAt": issued["expiresAt"]}
    assert issued["opens"] == cli.get(path).body["registryLogIn"] == opens
    assert "cannot be changed or taken back" in issued["message"]


@pytest.mark.costly
def test_two_deploys_of_one_person_are_opened_by_the_newer_log_in_and_those_of_an_environment_key_are_not(
    client: Client, cli: Cli, user_cli: Cli, sandbox: Sandbox
) -> None:
    other = projects.create_project(name="Other")
    theirs = Cli(client, user_cli.get(f"/api/v1/projects/{other.ref}/prod").body["apiKey"])
    of_a_person = theirs.deploy().body["imageTag"].rpartition(":")[0].partition("/")[2]
    ours = Cli(client, user_cli.get(f"/api/v1/projects/{Project.objects.get(name='Billing').ref}/prod").body["apiKey"])
    deployment = f"/api/v1/deployments/{ours.deploy().body['id']}"
    path = f"{deployment}/generate-registry-credentials"

    by_person = ours.post(path, {}).body
    shown = [each.get(deployment).body["registryLogIn"]["push"] for each in (ours, cli)]
    by_environment_key = cli.post(path, {}).body

    own = by_person["repositoryUri"].partition("/")[2]
    assert by_person["opens"]["push"] == [own, of_a_person]
    assert by_environment_key["opens"]["push"] == [own]
    assert shown == [[own, of_a_person], [own]]  # the key of an environment reads nothing about another project
    login = (by_person["username"], by_person["password"])
    for name in (own, of_a_person):
        assert images.push(images.build(), sandbox.url, *login, name, "v1", registry=HOST)
    login = (by_environment_key["username"], by_environment_key["password"])
    with pytest.raises(images.RegistryError) as refused:
        images.push(images.build(), sandbox.url, *login, of_a_person, "v2", registry=HOST)
    assert refused.value.status == 403


@pytest.mark.costly
@pytest.mark.parametrize(
    ("code", "status"), [("AccessDeniedException", 422), ("ThrottlingException", 503), ("ServerException", 503)]
)
def test_what_aws_refuses_is_one_sentence_and_no_deployment(cli: Cli, sandbox: Sandbox, code: str, status: int) -> None:
    sandbox.fault("error", "ecr:CreateRepository", code=code)

    answer = cli.deploy()

    assert answer.status == status
    assert answer.body["code"] == code
    assert ("x-should-retry" in answer.headers) == (status == 422)
    assert not Deployment.objects.exists()
    sandbox.clear_faults()
    assert cli.deploy().status == 200


def test_a_policy_that_ecr_refuses_is_reported_with_its_code(
    cli: Cli, sandbox: Sandbox, configure: Callable[..., config.Configuration]
) -> None:
    policy = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow",'
        '"Principal":{"AWS":"222222222222"},"Action":"ecr:BatchGetImage","Resource":"*"}]}'
    )
    configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=policy)

    answer = cli.deploy()

    assert (answer.status, answer.body["code"]) == (422, "InvalidParameterException")
    assert not Deployment.objects.exists()


@pytest.mark.slow
def test_an_image_that_was_never_pushed_is_refused_in_an_event(cli: Cli, sandbox: Sandbox) -> None:
    deployment_id = cli.deploying()

    found = cli.finalize(deployment_id)

    assert found[-1][0] == "error"
    assert "not in the registry" in found[-1][1]["error"]
    assert Deployment.objects.get().status == "DEPLOYING"


def test_a_warm_deploy_asks_the_database_little_and_aws_nothing(
    cli: Cli, sandbox: Sandbox, django_assert_max_num_queries: Any
) -> None:
    cli.deploy()
    sandbox.reset_calls()

    with django_assert_max_num_queries(8):  # one asks which configuration counts, one locks the project
        assert cli.deploy().status == 200

    assert sandbox.calls() == {}


@pytest.mark.costly
def test_sixteen_first_deploys_at_once_get_sixteen_versions(cli: Cli, sandbox: Sandbox) -> None:
    def deploy(_: int) -> tuple[int, Any]:
        try:
            answer = Cli(Client(), cli.key).deploy()
            return answer.status, answer.body
        finally:
            connections.close_all()

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(deploy, range(16)))

    assert {status for status, _ in answers} == {200}, answers
    numbers = sorted(int(body["version"].partition(".")[2]) for _, body in answers)
    assert numbers == list(range(1, 17))
