"""Registry credentials open one repository: proved by real pushes against a sandbox that enforces session policies."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from deployments.aws import clients, ecr, partitions, values
from deployments.config import Access, Configuration
from deployments.deploys import lifecycle, projects, promotions, push_credentials
from deployments.errors import Refusal
from deployments.images import EcrRegistry
from deployments.models import Deployment, DeploymentStatus, Environment, ProcessRole
from deployments.reconcile import generation
from sandbox import images
from sandbox.control import Sandbox
from tests.support.constants import CLUSTER, HOST, OWNER, POLICY, TRAIL
from tests.support.deploys import finalize, trust

Configure = Callable[..., Configuration]

ELSEWHERE = f"{OWNER}.dkr.ecr.eu-west-1.amazonaws.com"
PUSH_ROLE = f"arn:aws:iam::{OWNER}:role/push"
ECR_ROLE = f"arn:aws:iam::{OWNER}:role/registry-admin"
IAM_POLICY = Path(__file__).resolve().parent.parent.parent / "docs/iam-policy.json"
EVERYTHING = "AdministratorAccess"
#: How one repository's credentials can come about → the settings, and roles that have to be there.
WAYS: dict[str, dict[str, str]] = {
    "the IAM user's federated session": {},
    "the configured ECR role": {"DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN": ECR_ROLE},
    "a push role": {"DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN": PUSH_ROLE},
    "a push role beside the ECR role": {
        "DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN": ECR_ROLE,
        "DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN": PUSH_ROLE,
    },
}


def role(sandbox: Sandbox, arn: str, **condition: Any) -> None:
    iam = sandbox.client("iam", "owner")
    name = arn.rpartition("/")[2]
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust(**condition))
    iam.attach_role_policy(RoleName=name, PolicyArn=f"arn:aws:iam::aws:policy/{EVERYTHING}")


@pytest.fixture(autouse=True)
def _nothing_is_remembered_of_another_test() -> None:
    push_credentials._not_allowed.clear()


@pytest.fixture
def roles(sandbox: Sandbox) -> None:
    for arn in (PUSH_ROLE, ECR_ROLE):
        role(sandbox, arn)


@pytest.fixture
def become(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run as an IAM user with this policy instead of the owner's admin, or as a session of the push role."""

    def change(policy: str | None = None, *, session: bool = False) -> None:
        if session:
            made = sandbox.client("sts").assume_role(RoleArn=PUSH_ROLE, RoleSessionName="instance")["Credentials"]
            monkeypatch.setenv("AWS_SESSION_TOKEN", made["SessionToken"])
        else:
            iam = sandbox.client("iam")
            iam.create_user(UserName="server")
            iam.put_user_policy(UserName="server", PolicyName="all", PolicyDocument=policy)
            made = iam.create_access_key(UserName="server")["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", made["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", made["SecretAccessKey"])
        clients.forget_clients()

    return change


def deployed(environment: Environment, configuration: Configuration) -> Deployment:
    return lifecycle.create_deployment(
        environment=environment, configuration=configuration, trail=TRAIL, content_hash="abc", type="MANAGED"
    ).deployment


def issue(deployment: Deployment, configuration: Configuration) -> push_credentials.Credentials:
    issued = lifecycle.registry_credentials(deployment=deployment, configuration=configuration)
    deployment.refresh_from_db()
    return issued


def refused(deployment: Deployment, configuration: Configuration) -> Refusal:
    with pytest.raises(Refusal) as caught:
        lifecycle.registry_credentials(deployment=deployment, configuration=configuration)
    deployment.refresh_from_db()
    return caught.value


def repository(deployment: Deployment) -> str:
    return deployment.image_ref.rpartition(":")[0].partition("/")[2]


def push(sandbox: Sandbox, issued: push_credentials.Credentials, name: str, host: str = HOST) -> str:
    assert issued.endpoint == sandbox.url
    return images.push(images.build(), sandbox.url, issued.username, issued.password, name, "v1", registry=host)


def of_sts(sandbox: Sandbox) -> dict[str, int]:
    return {name: count for name, count in sandbox.calls().items() if name.startswith("sts:")}


# ------------------------------------------------------------------------------------------------- one repository


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("way", WAYS)
def test_the_credentials_of_one_deployment_push_to_its_repository_and_to_no_other(
    environment: Environment, configure: Configure, sandbox: Sandbox, way: str
) -> None:
    configuration = configure(DEPLOY_REGISTRY_HOST=HOST, **WAYS[way])
    ours = deployed(environment, configuration)
    project = projects.create_project(name="Another")
    theirs = deployed(Environment.objects.get(project=project, slug="prod"), configuration)

    issued = issue(ours, configuration)

    digest = push(sandbox, issued, repository(ours))
    pulled = images.pull(sandbox.url, issued.username, issued.password, repository(ours), "v1", registry=HOST)
    assert pulled.digest == digest
    with pytest.raises(images.RegistryError) as pushed:
        push(sandbox, issued, repository(theirs))
    assert pushed.value.status == 403
    assert not sandbox.client("ecr").list_images(repositoryName=repository(theirs))["imageIds"]
    assert (ours.credentials_kind, ours.credentials_error) == ("session", "")


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("federated", [True, False])
def test_the_session_behind_the_credentials_deletes_nothing_and_changes_nothing(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox, federated: bool
) -> None:
    name = repository(deployed(environment, ecr_configuration))
    door = ecr.ecr_of(ecr_configuration.registry("MANAGED"), HOST)
    assert door is not None
    limits: Any = {"label": "deploy", "policy": push_credentials.session_policy(door.registry, name), "seconds": 900}
    session = door.federate(**limits) if federated else door.assume(Access(role_arn=PUSH_ROLE), **limits)
    client = sandbox.client("ecr", (session.access_key, session.secret, session.token))

    calls: tuple[Callable[[], object], ...] = (
        lambda: client.batch_delete_image(repositoryName=name, imageIds=[{"imageTag": "v1"}]),
        lambda: client.set_repository_policy(repositoryName=name, policyText=POLICY),
        lambda: client.delete_repository(repositoryName=name, force=True),
        lambda: client.create_repository(repositoryName="trigger/other"),
        lambda: client.describe_repositories(),
    )
    for call in calls:
        with pytest.raises(client.exceptions.ClientError, match="no session policy allows"):
            call()


@pytest.mark.parametrize(
    "host", ["111111111111.dkr.ecr.cn-north-1.amazonaws.com.cn", "111111111111.dkr-ecr.us-gov-west-1.on.aws"]
)
def test_any_region_and_any_partition_will_do(
    environment: Environment, configure: Configure, sandbox: Sandbox, host: str
) -> None:
    configuration = configure(DEPLOY_REGISTRY_HOST=host)
    deployment = deployed(environment, configuration)
    registry = partitions.registry_of(host)
    assert registry is not None

    issued = issue(deployment, configuration)

    plain = f"{OWNER}.dkr.ecr.{registry.region}.amazonaws.com" + (".cn" if registry.partition == "aws-cn" else "")
    assert push(sandbox, issued, repository(deployment), plain)
    assert deployment.credentials_kind == "session"


def test_the_session_policy_fits_into_what_sts_takes_whatever_the_name() -> None:
    registry = EcrRegistry(account=OWNER, region="ap-southeast-5", partition="aws-iso-b")

    text = push_credentials.session_policy(registry, "a" * 256)

    assert len(text) <= 2048
    assert [statement["Resource"] for statement in json.loads(text)["Statement"]] == [
        f"arn:aws-iso-b:ecr:ap-southeast-5:{OWNER}:repository/{'a' * 256}",
        "*",
    ]


def test_the_expiry_is_the_sessions_and_not_the_tokens(
    environment: Environment, ecr_configuration: Configuration
) -> None:
    issued = issue(deployed(environment, ecr_configuration), ecr_configuration)

    assert timedelta(minutes=58) < issued.expires_at - timezone.now() <= timedelta(hours=1)


def test_cloudtrail_can_tell_which_deployment_a_session_was_made_for(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    deployment = deployed(environment, ecr_configuration)

    issue(deployment, ecr_configuration)

    [token] = [entry for entry in sandbox.journal() if entry["operation"] == "GetAuthorizationToken"]
    assert token["caller"].endswith(f"federated-user/{deployment.id}")


def test_no_secret_is_shown_by_anything_that_holds_one(
    environment: Environment, ecr_configuration: Configuration, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = deployed(environment, ecr_configuration)

    issued = issue(deployment, ecr_configuration)

    assert issued.password not in repr(issued)
    assert issued.password not in caplog.text
    row = Deployment.objects.filter(id=deployment.id).values().get()
    assert issued.password not in str(row)
    session = values.Session(access_key="ASIA", secret="canary-1", token="canary-2", expires_at=timezone.now())
    assert "canary" not in repr(session)


# ------------------------------------------------------------------------------------------------ when it is wider


@pytest.mark.usefixtures("roles")
def test_a_servers_own_session_cannot_be_narrowed_and_nobody_is_asked_in_vain(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox, become: Callable[..., None]
) -> None:
    become(session=True)
    deployment = deployed(environment, ecr_configuration)
    sandbox.reset_calls()

    issued = issue(deployment, ecr_configuration)

    assert sandbox.calls() == {"ecr:GetAuthorizationToken": 1}
    assert push(sandbox, issued, repository(deployment))
    assert deployment.credentials_kind == "token"
    assert "the whole registry" in deployment.credentials_error
    assert "DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN" in deployment.credentials_error
    assert issued.expires_at - timezone.now() > timedelta(hours=11)


def test_where_aws_does_not_allow_a_session_the_log_in_is_wider_and_aws_is_not_asked_at_every_deploy(
    environment: Environment,
    ecr_configuration: Configuration,
    sandbox: Sandbox,
    become: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    become(json.dumps({"Statement": [{"Effect": "Allow", "Action": "ecr:*", "Resource": "*"}]}))
    first, second = deployed(environment, ecr_configuration), deployed(environment, ecr_configuration)

    issue(first, ecr_configuration)
    issue(second, ecr_configuration)

    assert of_sts(sandbox) == {"sts:GetFederationToken": 1}
    for deployment in (first, second):
        assert deployment.credentials_kind == "token"
        assert "Allow sts:GetFederationToken to the IAM user" in deployment.credentials_error
    started = time.monotonic()
    for minutes, asked in ((9, 1), (11, 2)):
        later = started + minutes * 60
        monkeypatch.setattr("deployments.deploys.push_credentials.time.monotonic", lambda later=later: later)
        issue(second, ecr_configuration)
        assert of_sts(sandbox) == {"sts:GetFederationToken": asked}


def test_a_refusal_for_one_role_is_not_held_against_another(
    environment: Environment, configure: Configure, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    # Their trust policies let the server in for ECR, and refuse it a session that is named after a deployment.
    name = {"StringEquals": {"sts:RoleSessionName": "registry-admin"}}
    role(sandbox, ECR_ROLE, Condition=name)
    role(sandbox, PUSH_ROLE, Condition=name)

    for arn, refusals in ((ECR_ROLE, 1), (ECR_ROLE, 1), (PUSH_ROLE, 2)):
        configuration = configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN=arn)
        deployment = deployed(environment, configuration)
        issue(deployment, configuration)
        assert caplog.text.count("credentials.not_narrowed") == refusals
        assert deployment.credentials_kind == "token"
        assert arn in deployment.credentials_error


@pytest.mark.slow
def test_a_fault_that_may_pass_is_no_reason_to_hand_out_more(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    deployment = deployed(environment, ecr_configuration)
    sandbox.fault("error", "sts:GetFederationToken", code="Throttling", status=400)

    refusal = refused(deployment, ecr_configuration)

    assert refusal.retryable
    assert "ecr:GetAuthorizationToken" not in sandbox.calls()
    assert (deployment.credentials_kind, deployment.credentials_error) == ("", refusal.sentence)
    sandbox.clear_faults()
    issue(deployment, ecr_configuration)
    assert (deployment.credentials_kind, deployment.credentials_error) == ("session", "")


@pytest.mark.parametrize("there", [False, True])
def test_a_push_role_that_cannot_be_used_is_refused_because_it_was_asked_for(
    environment: Environment, configure: Configure, sandbox: Sandbox, there: bool
) -> None:
    configuration = configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN=PUSH_ROLE)
    if there:  # may be assumed, and may do nothing
        sandbox.client("iam").create_role(RoleName="push", AssumeRolePolicyDocument=trust())
    deployment = deployed(environment, configuration)

    refusal = refused(deployment, configuration)

    assert (refusal.code, refusal.retryable) == ("push_role_refused", False)
    assert ("GetAuthorizationToken" if there else "AssumeRole") in refusal.sentence
    assert "DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN" in refusal.sentence
    assert deployment.credentials_error == refusal.sentence


def test_a_push_role_is_given_the_external_id_that_it_asks_for(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    role(sandbox, PUSH_ROLE, Condition={"StringEquals": {"sts:ExternalId": "right"}})
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN=PUSH_ROLE,
        DEPLOY_REGISTRY_ECR_ASSUME_ROLE_EXTERNAL_ID="right",
    )
    deployment = deployed(environment, configuration)

    issue(deployment, configuration)

    assert deployment.credentials_kind == "session"


# ------------------------------------------------------------------------------------------- other registries, ends


def test_another_registrys_log_in_is_the_configured_one(environment: Environment, configure: Configure) -> None:
    configuration = configure(
        DEPLOY_REGISTRY_HOST="registry.example.com",
        DEPLOY_REGISTRY_USERNAME="robot",
        DEPLOY_REGISTRY_PASSWORD="canary",
    )
    deployment = deployed(environment, configuration)

    issued = issue(deployment, configuration)

    assert (issued.username, issued.password) == ("robot", "canary")
    assert issued.repository_uri == deployment.image_ref.rpartition(":")[0]
    assert deployment.credentials_kind == "password"


def test_without_a_password_the_reason_is_stored(environment: Environment, configure: Configure) -> None:
    configuration = configure(DEPLOY_REGISTRY_HOST="registry.example.com")
    deployment = deployed(environment, configuration)

    refusal = refused(deployment, configuration)

    assert refusal.code == "no_credentials"
    assert deployment.credentials_error == refusal.sentence


def test_a_deployment_gets_credentials_of_the_registry_that_its_image_ref_names(
    environment: Environment, configure: Configure, sandbox: Sandbox, roles: None
) -> None:
    deployment = deployed(environment, configure(DEPLOY_REGISTRY_HOST=HOST))
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN=PUSH_ROLE,
        V4_DEPLOY_REGISTRY_HOST=ELSEWHERE,
        V4_DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN=f"{PUSH_ROLE}-elsewhere",
    )

    issued = issue(deployment, configuration)

    assert issued.repository_uri == deployment.image_ref.rpartition(":")[0]
    push(sandbox, issued, repository(deployment))


def test_another_host_of_the_same_registry_is_the_same_registry(
    environment: Environment, ecr_configuration: Configuration, configure: Configure, sandbox: Sandbox
) -> None:
    deployment = deployed(environment, ecr_configuration)

    issued = issue(deployment, configure(DEPLOY_REGISTRY_HOST=f"{OWNER}.dkr-ecr.us-east-1.on.aws"))

    push(sandbox, issued, repository(deployment))


@pytest.mark.parametrize("host", [HOST, "old.example.com"])
def test_after_a_change_of_hosts_an_older_deployment_gets_no_log_in_of_the_new_registry(
    environment: Environment, configure: Configure, sandbox: Sandbox, host: str
) -> None:
    deployment = deployed(environment, configure(DEPLOY_REGISTRY_HOST=host))
    configuration = configure(
        DEPLOY_REGISTRY_HOST="new.example.com", DEPLOY_REGISTRY_USERNAME="robot", DEPLOY_REGISTRY_PASSWORD="canary"
    )

    refusal = refused(deployment, configuration)

    assert (refusal.code, refusal.retryable) == ("registry_not_configured", False)
    assert host in refusal.sentence
    assert deployment.credentials_error == refusal.sentence


def test_the_configuration_that_counts_says_which_registries_there_are(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    own = configure(DEPLOY_REGISTRY_HOST=HOST, V4_DEPLOY_REGISTRY_HOST=ELSEWHERE)
    deployment = deployed(environment, configure(DEPLOY_REGISTRY_HOST=HOST))
    generation.register(configure(DEPLOY_REGISTRY_HOST=ELSEWHERE), role=ProcessRole.WEB)

    assert refused(deployment, own).code == "registry_not_configured"


def test_after_a_change_of_hosts_an_image_in_the_earlier_registry_is_not_looked_for_in_the_new_one(
    environment: Environment, ecr_configuration: Configuration, configure: Configure, sandbox: Sandbox
) -> None:
    deployment = deployed(environment, ecr_configuration)
    lifecycle.index(deployment=deployment, content_hash="abc", tasks=[], metadata={}, timeout=timedelta(hours=1))
    sandbox.reset_calls()

    configuration = configure(DEPLOY_REGISTRY_HOST=ELSEWHERE)
    with pytest.raises(Refusal, match="do not name any more"):
        finalize(deployment, configuration, f"sha256:{'0' * 64}")

    assert sandbox.calls() == {}
    # A version that was proved earlier can be promoted all the same.
    Deployment.objects.update(
        status=DeploymentStatus.DEPLOYED, deployed_at=timezone.now(), deadline=None, receipt={"digest": "sha256:0"}
    )
    promotions.promote(
        environment=environment, version=str(deployment.version), by="me", configuration=configuration, trail=TRAIL
    )


def test_what_has_ended_gets_no_credentials(environment: Environment, ecr_configuration: Configuration) -> None:
    deployment = deployed(environment, ecr_configuration)
    lifecycle.cancel(deployment=deployment, trail=TRAIL)

    assert refused(deployment, ecr_configuration).code == "already_final"


def test_the_documented_iam_policy_is_enough_from_the_first_deploy_to_the_promotion(
    environment: Environment, configure: Configure, sandbox: Sandbox, become: Callable[..., None]
) -> None:
    become(IAM_POLICY.read_text())
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=CLUSTER,
        DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS=f"arn:aws:iam::{CLUSTER}:role/registry-admin-probe",
    )
    iam = sandbox.client("iam", "cluster")
    iam.create_role(RoleName="registry-admin-probe", AssumeRolePolicyDocument=trust())
    iam.attach_role_policy(
        RoleName="registry-admin-probe", PolicyArn="arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"
    )
    deployment = deployed(environment, configuration)
    lifecycle.index(
        deployment=deployment, content_hash="abc", tasks=[], metadata={}, timeout=configuration.deploy_timeout
    )

    issued = issue(deployment, configuration)
    digest = push(sandbox, issued, repository(deployment))
    finalize(deployment, configuration, digest)

    assert deployment.credentials_kind == "session"
    assert deployment.receipt
    assert deployment.receipt.pullers[CLUSTER].how == "trial"
