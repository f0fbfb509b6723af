"""Log-ins for clusters outside AWS: what they open over HTTP, until when, and who gets none."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from deployments import config
from deployments.access import keys
from deployments.aws import clients
from deployments.deploys import projects, push_credentials
from deployments.models import AuditEntry, Deployment, Environment, EnvironmentType, Project, Repository
from deployments.row_values import ConsumerPull
from sandbox import images
from sandbox.control import Sandbox
from tests.support.cli import Cli
from tests.support.constants import CLUSTER, HOST, OWNER
from tests.support.deploys import trust

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ecr_configuration")]

Configure = Callable[..., config.Configuration]


@pytest.fixture(autouse=True)
def _nothing_is_remembered_of_another_test() -> None:
    push_credentials._not_allowed.clear()


@pytest.fixture
def cluster(client: Client, production: Environment) -> Cli:
    """Holds a key of production that is limited to pulls."""
    return Cli(client, keys.make_environment_key(production, scopes=[keys.PULL])[1])


def path(project: Project, slug: str = "prod") -> str:
    return f"/api/v1/projects/{project.ref}/{slug}/pull-credentials"


def pushed(cli: Cli, sandbox: Sandbox, text: str = "hello\n") -> str:
    """Deploy as far as the push. Returns the name of the repository; the image has the tag v1."""
    name = str(cli.deploy().body["imageTag"]).rpartition(":")[0].partition("/")[2]
    images.push(images.build(text), sandbox.url, *sandbox.login(), name, "v1", registry=HOST)
    return name


def pull(sandbox: Sandbox, answer: Any, name: str) -> images.Image:
    return images.pull(sandbox.url, answer["username"], answer["password"], name, "v1", registry=HOST)


@pytest.mark.costly
def test_a_pull_log_in_pulls_from_its_one_repository_pushes_to_none_and_ends_with_its_session(
    cli: Cli, cluster: Cli, stranger: Cli, project: Project, sandbox: Sandbox
) -> None:
    own, other = pushed(cli, sandbox), pushed(stranger, sandbox)

    answer = cluster.post(path(project))

    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    assert set(answer.body) == {"username", "password", "expiresAt", "repositoryUri", "proxyEndpoint", "message"}
    assert answer.body["repositoryUri"] == f"{HOST}/{own}"
    ends = datetime.fromisoformat(answer.body["expiresAt"])
    assert timedelta(minutes=59) < ends - timezone.now() <= timedelta(hours=1)
    assert f"ends at {ends.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, and cannot be" in answer.body["message"]
    assert pull(sandbox, answer.body, own)
    with pytest.raises(images.RegistryError) as refused:
        pull(sandbox, answer.body, other)
    assert refused.value.status == 403
    login = (answer.body["username"], answer.body["password"])
    with pytest.raises(images.RegistryError) as refused:
        images.push(images.build("evil\n"), sandbox.url, *login, own, "v2", registry=HOST)
    assert refused.value.status == 403
    sandbox.advance(3601)
    with pytest.raises(images.RegistryError) as refused:
        pull(sandbox, answer.body, own)
    assert refused.value.status == 403


@pytest.mark.costly
def test_as_a_secret_it_is_the_body_of_a_merge_patch(
    cli: Cli, cluster: Cli, project: Project, sandbox: Sandbox
) -> None:
    own = pushed(cli, sandbox)

    secret = cluster.post(f"{path(project)}?format=dockerconfigjson").body

    assert set(secret) == {"apiVersion", "kind", "type", "metadata", "data"}
    assert (secret["kind"], secret["type"]) == ("Secret", "kubernetes.io/dockerconfigjson")
    assert datetime.fromisoformat(secret["metadata"]["annotations"]["registry-admin/expires-at"]) > timezone.now()
    [(where, found)] = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))["auths"].items()
    assert where == f"{HOST}/{own}"
    username, _, password = base64.b64decode(found["auth"]).decode().partition(":")
    assert pull(sandbox, {"username": username, "password": password}, own)
    assert cluster.post(f"{path(project)}?format=yaml").status == 422


@pytest.mark.costly
def test_it_is_written_in_the_audit_log_and_the_secret_is_nowhere(
    cli: Cli, cluster: Cli, project: Project, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    own = pushed(cli, sandbox)

    answer = cluster.post(path(project)).body

    line = AuditEntry.objects.get(action="issue.pull_log_in")
    assert (line.outcome, line.actor_kind, line.after["repository"]) == ("done", "key", f"{HOST}/{own}")  # type: ignore[index]
    assert answer["password"] not in caplog.text + str(list(AuditEntry.objects.values()))
    made = [each["caller"] for each in sandbox.journal() if each["operation"] == "GetAuthorizationToken"][-1]
    assert "federated-user/pull_" in made


def test_before_the_first_deploy_it_is_for_the_repository_that_a_deploy_will_get(
    cluster: Cli, project: Project, sandbox: Sandbox
) -> None:
    assert cluster.post(path(project)).body["repositoryUri"] == f"{HOST}/trigger/{project.ref}"


@pytest.mark.costly
def test_it_is_for_the_repository_of_the_current_image_and_not_of_a_newer_deployment(
    cli: Cli, cluster: Cli, project: Project, configure: Configure
) -> None:
    current = cli.deploying()
    configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_NAMESPACE="moved")
    Deployment.objects.filter(pk=current).update(status="DEPLOYED", deployed_at=timezone.now(), deadline=None)
    deployment = Deployment.objects.get(pk=current)
    deployment.promotions.create(environment=deployment.environment, label="current")
    cli.deploy()

    assert cluster.post(path(project)).body["repositoryUri"] == f"{HOST}/trigger/{project.ref}"


@pytest.mark.costly
def test_a_preview_log_in_opens_the_previews_repository_with_and_without_a_branch(
    client: Client, project: Project, user_cli: Cli, sandbox: Sandbox, configure: Configure
) -> None:
    configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_PREVIEW_REPOSITORIES="1")
    preview = project.environments.get(slug="preview", parent=None)
    user_cli.post(f"/api/v1/projects/{project.ref}/branches", {"env": "preview", "branch": "blue"})
    own = pushed(BranchCli(client, keys.make_environment_key(preview)[1]), sandbox)
    cluster = Cli(client, keys.make_environment_key(preview, scopes=[keys.PULL])[1])

    for headers in ({}, {"x_trigger_branch": "blue"}):
        answer = cluster.post(path(project, "preview"), **headers).body
        assert answer["repositoryUri"] == f"{HOST}/{own}"
        assert own.endswith("-preview")
        assert pull(sandbox, answer, own)
    assert cluster.post(path(project, "preview"), x_trigger_branch="red").status == 404


@pytest.mark.costly
def test_a_preview_that_is_older_than_the_previews_repository_does_not_open_the_one_of_production(
    client: Client, project: Project, user_cli: Cli, configure: Configure
) -> None:
    configure(DEPLOY_REGISTRY_HOST=HOST)
    preview = project.environments.get(slug="preview", parent=None)
    user_cli.post(f"/api/v1/projects/{project.ref}/branches", {"env": "preview", "branch": "blue"})
    blue = BranchCli(client, keys.make_environment_key(preview)[1])
    old = Deployment.objects.get(pk=blue.deploying())
    Deployment.objects.filter(pk=old.pk).update(status="DEPLOYED", deployed_at=timezone.now(), deadline=None)
    old.promotions.create(environment=old.environment, label="current")
    assert blue.post(path(project, "preview")).body["repositoryUri"] == f"{HOST}/trigger/{project.ref}"

    configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_PREVIEW_REPOSITORIES="1")

    for headers in ({}, {"x_trigger_branch": ""}):
        answer = blue.post(path(project, "preview"), **headers)
        assert answer.body["repositoryUri"] == f"{HOST}/trigger/{project.ref}-preview"


def test_a_key_of_the_development_environment_gets_none_because_it_cannot_deploy_either(
    client: Client, project: Project, sandbox: Sandbox
) -> None:
    development = Environment.objects.create(project=project, type=EnvironmentType.DEVELOPMENT, slug="dev")
    for scopes in ([], [keys.PULL]):
        answer = Cli(client, keys.make_environment_key(development, scopes=scopes)[1]).post(path(project, "dev"))
        assert (answer.status, "no deployments" in answer.error) == (400, True)
    assert sandbox.calls() == {}


class BranchCli(Cli):
    def post(self, path: str, body: object = None, **headers: str) -> Any:
        return super().post(path, body, **{"x_trigger_branch": "blue", **headers})


@pytest.mark.parametrize("scope", [keys.READ, keys.DEPLOY, keys.CREDENTIALS])
def test_a_key_with_another_scope_gets_none_and_a_pull_key_does_nothing_else(
    client: Client, cluster: Cli, production: Environment, project: Project, scope: str
) -> None:
    other = Cli(client, keys.make_environment_key(production, scopes=[scope])[1])

    assert other.post(path(project)).body["code"] == "scope_missing"
    assert cluster.deploy().body["code"] == "scope_missing"
    assert cluster.get("/api/v1/deployments").body["code"] == "scope_missing"


@pytest.mark.costly
def test_a_key_without_scopes_gets_one_and_a_key_of_another_project_or_environment_does_not(
    cli: Cli, stranger: Cli, user_cli: Cli, project: Project, sandbox: Sandbox
) -> None:
    assert cli.post(path(project)).status == 200
    assert cli.post(path(project, "production")).status == 200
    elsewhere = projects.create_project(name="Elsewhere")

    for answer in (
        stranger.post(path(project)),
        cli.post(path(elsewhere)),
        cli.post(path(project, "staging")),
        cli.post("/api/v1/projects/proj_invented/prod/pull-credentials"),
    ):
        assert (answer.status, answer.error) == (
            400, "This key belongs to another project or environment than the address.",
        )  # fmt: skip
    assert user_cli.post(path(project)).status == 403
    assert sandbox.calls().get("ecr:GetAuthorizationToken") == 2


@pytest.mark.costly
def test_the_cluster_of_an_archived_project_goes_on_pulling(
    cli: Cli, cluster: Cli, project: Project, sandbox: Sandbox
) -> None:
    own = pushed(cli, sandbox)
    Project.objects.filter(pk=project.pk).update(archived_at=timezone.now())

    assert pull(sandbox, cluster.post(path(project)).body, own)


def test_where_aws_makes_no_session_for_one_repository_there_is_no_log_in_and_no_wider_one(
    cluster: Cli, project: Project, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    iam = sandbox.client("iam")
    iam.create_role(RoleName="instance", AssumeRolePolicyDocument=trust())
    iam.attach_role_policy(RoleName="instance", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    role = f"arn:aws:iam::{OWNER}:role/instance"
    made = sandbox.client("sts").assume_role(RoleArn=role, RoleSessionName="instance")["Credentials"]
    for name, value in (
        ("AWS_ACCESS_KEY_ID", made["AccessKeyId"]),
        ("AWS_SECRET_ACCESS_KEY", made["SecretAccessKey"]),
        ("AWS_SESSION_TOKEN", made["SessionToken"]),
    ):
        monkeypatch.setenv(name, value)
    clients.forget_clients()
    sandbox.reset_calls()

    answer = cluster.post(path(project))

    assert (answer.status, answer.body["code"]) == (422, "pull_not_narrowable")
    assert "DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN" in answer.error
    assert sandbox.calls() == {}
    assert AuditEntry.objects.get(action="issue.pull_log_in").outcome == answer.error


def test_a_password_of_another_registry_is_not_handed_to_a_cluster(
    cluster: Cli, project: Project, configure: Configure
) -> None:
    configure(
        DEPLOY_REGISTRY_HOST="registry.example.com",
        DEPLOY_REGISTRY_USERNAME="robot",
        DEPLOY_REGISTRY_PASSWORD="canary-password",
    )

    answer = cluster.post(path(project))

    assert (answer.status, answer.body["code"]) == (422, "pull_not_ecr")
    assert "account in that registry that only pulls" in answer.error
    assert "canary" not in answer.error


@pytest.mark.costly
def test_nodes_that_were_seen_to_pull_by_themselves_are_told_that_they_need_no_log_in(
    cli: Cli, cluster: Cli, project: Project, sandbox: Sandbox
) -> None:
    pushed(cli, sandbox)
    assert CLUSTER not in cluster.post(path(project)).body["message"]
    Repository.objects.update(
        consumers={
            CLUSTER: ConsumerPull(verdict="yes", words="…"),
            "333333333333": ConsumerPull(verdict="unknown", words="…"),
        }
    )

    message = cluster.post(path(project)).body["message"]

    looked = Repository.objects.get().last_checked_at
    assert looked
    assert (
        f"Nodes with an AWS role in account {CLUSTER} need no log-in: their account could pull when this server last "
        f"looked, at {looked:%Y-%m-%d %H:%M:%S} UTC." in message
    )
    assert "333333333333" not in message


@pytest.mark.costly
def test_more_than_thirty_log_ins_in_a_minute_are_too_many_for_one_key(
    cli: Cli, cluster: Cli, project: Project, configure: Configure
) -> None:
    configure(DEPLOY_REGISTRY_HOST="registry.example.com")  # each is refused, and counts
    for _ in range(30):
        assert cluster.post(path(project)).status == 422

    answer = cluster.post(path(project))

    assert (answer.status, "Retry-After" in answer.headers) == (429, True)
    assert cli.post(path(project)).status == 422
