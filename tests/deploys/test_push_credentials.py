"""Registry credentials open one repository: proved by real pushes against a sandbox that enforces session policies."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.api import branches
from deployments.aws import clients, ecr, partitions, values
from deployments.config import Access, Configuration
from deployments.deploys import lifecycle, projects, promotions, push_credentials
from deployments.errors import Refusal
from deployments.images import EcrRegistry
from deployments.models import Deployment, DeploymentStatus, Environment, ProcessRole, Project
from deployments.reconcile import generation
from deployments.row_values import LogIn
from sandbox import images, policy
from sandbox.control import Sandbox
from tests.support.constants import CLUSTER, HOST, OWNER, POLICY, TRAIL
from tests.support.deploys import deploying, finalize, trust

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


@pytest.mark.costly
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


@pytest.mark.costly
@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("federated", [True, False])
def test_the_session_behind_the_credentials_deletes_nothing_and_changes_nothing(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox, federated: bool
) -> None:
    name = repository(deployed(environment, ecr_configuration))
    door = ecr.ecr_of(ecr_configuration.registry("MANAGED"), HOST)
    assert door is not None
    policy = push_credentials.session_policy(door.registry, LogIn(push=(name,), pull=("platform/*",)))
    limits: Any = {"label": "deploy", "policy": policy, "seconds": 900}
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

    text = push_credentials.session_policy(registry, LogIn(push=("a" * 256,)))

    assert len(text) <= 2048
    assert [statement["Resource"] for statement in json.loads(text)["Statement"]] == [
        "*",
        f"arn:aws-iso-b:ecr:ap-southeast-5:{OWNER}:repository/{'a' * 256}",
    ]


_NAMES = st.sampled_from(
    [
        "trigger/proj_a",
        "trigger/proj_a-preview",
        "trigger/proj_ab",
        "platform",
        "platform/a",
        "platform/a/b",
        "platforms/a",
    ]
)
_PATTERNS = st.sampled_from(["platform/*", "platform/a", "platform*", "p*/a", "platform/*/b", "hub.io/a_b"])
_REGISTRIES = st.builds(
    EcrRegistry,
    account=st.sampled_from([OWNER, CLUSTER]),
    region=st.sampled_from(["us-east-1", "cn-north-1"]),
    partition=st.sampled_from(["aws", "aws-cn", "aws-us-gov"]),
)
_NEVER = (
    "ecr:BatchDeleteImage",
    "ecr:SetRepositoryPolicy",
    "ecr:DescribeImages",
    "ecr:CreateRepository",
    "ecr:ListImages",
)


@pytest.mark.costly
@settings(deadline=None, max_examples=200)
@given(
    opened=st.builds(
        LogIn,
        push=st.lists(_NAMES, max_size=3, unique=True).map(tuple),
        pull=st.lists(_PATTERNS, max_size=3, unique=True).map(tuple),
        left_out=st.lists(_PATTERNS, max_size=3, unique=True).map(tuple),
    ),
    registry=_REGISTRIES,
    asked_in=_REGISTRIES,
    name=_NAMES,
)
def test_a_session_holds_what_the_deployment_says_that_its_log_in_opens_and_nothing_else(
    opened: LogIn, registry: EcrRegistry, asked_in: EcrRegistry, name: str
) -> None:
    session = policy.parse(push_credentials.session_policy(registry, opened))
    everything = policy.parse('{"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}')
    caller = policy.Principal(account=OWNER, arn=f"arn:aws:iam::{OWNER}:user/server", names=frozenset())

    def holds(action: str) -> bool:
        ask = policy.Ask(principal=caller, action=action, resource=asked_in.repository_arn(name), owner=OWNER)
        return policy.decide(ask, identity=[everything], session=[session]).allowed

    pushes = registry == asked_in and name in opened.push
    pulls = pushes or (registry == asked_in and any(fnmatchcase(name, each) for each in opened.pull))
    for action in {*push_credentials.PUSH_AND_PULL, *_NEVER}:
        wanted = pulls if action in push_credentials.PULL else pushes and action not in _NEVER
        assert holds(action) is wanted, action


@pytest.mark.costly
@pytest.mark.parametrize(
    ("timeout", "session"),
    [
        ("60000", timedelta(minutes=15)),  # AWS makes no shorter one
        ("600000", timedelta(minutes=25)),  # the build's time, the push's, and five minutes for a worker that is late
        ("7200000", timedelta(hours=1)),
    ],
)
def test_a_log_in_ends_when_its_push_could_not_be_finished_any_more(
    environment: Environment, configure: Configure, sandbox: Sandbox, timeout: str, session: timedelta
) -> None:
    configuration = configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_TIMEOUT_MS=timeout)
    deployment = deployed(environment, configuration)

    issued = issue(deployment, configuration)

    assert session - timedelta(minutes=1) < issued.expires_at - timezone.now() <= session
    assert f"ends at {issued.expires_at:%Y-%m-%d %H:%M:%S} UTC, and cannot be changed or taken back" in issued.message
    assert deployment.log_in
    assert deployment.log_in.expires_at == issued.expires_at.isoformat()
    sandbox.advance(session.total_seconds() + 60)
    with pytest.raises(images.RegistryError) as late:
        push(sandbox, issued, repository(deployment))
    assert late.value.status == 403


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


# ---------------------------------------------------------------------------------------------- base repositories

BASE = "DEPLOY_REGISTRY_ECR_BASE_REPOSITORIES"


def base_image(sandbox: Sandbox, name: str) -> str:
    sandbox.client("ecr").create_repository(repositoryName=name)
    return images.push(images.build(name), sandbox.url, *sandbox.login(), name, "v1", registry=HOST)


@pytest.mark.costly
@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("way", WAYS)
def test_a_log_in_pulls_from_the_base_repositories_and_pushes_to_none_of_them(
    environment: Environment, configure: Configure, sandbox: Sandbox, way: str
) -> None:
    for name in ("platform/node", "platform/os/slim", "hub/python", "private/secrets"):
        base_image(sandbox, name)
    configuration = configure(DEPLOY_REGISTRY_HOST=HOST, **{BASE: "platform/*, hub/python"}, **WAYS[way])
    deployment = deployed(environment, configuration)

    issued = issue(deployment, configuration)

    login = (issued.username, issued.password)
    for name in ("platform/node", "platform/os/slim", "hub/python"):
        assert images.pull(sandbox.url, *login, name, "v1", registry=HOST)
        with pytest.raises(images.RegistryError) as pushed:
            push(sandbox, issued, name)
        assert pushed.value.status == 403
    with pytest.raises(images.RegistryError) as pulled:
        images.pull(sandbox.url, *login, "private/secrets", "v1", registry=HOST)
    assert pulled.value.status == 403
    assert push(sandbox, issued, repository(deployment))
    assert deployment.log_in
    assert (deployment.log_in.push, deployment.log_in.pull) == (
        (repository(deployment),),
        ("platform/*", "hub/python"),
    )
    assert deployment.credentials_error == ""


@pytest.mark.costly
def test_the_documented_statement_is_enough_for_base_repositories(
    environment: Environment, configure: Configure, sandbox: Sandbox, become: Callable[..., None]
) -> None:
    base_image(sandbox, "platform/node")
    text = (IAM_POLICY.parent / "builds.md").read_text()
    [statement] = re.findall(r"\n    \{\n.*?\n    \}\n", text, re.DOTALL)
    policy = json.loads(IAM_POLICY.read_text())
    configuration = configure(DEPLOY_REGISTRY_HOST=HOST, **{BASE: "platform/*"})

    def pull() -> images.Image:
        issued = issue(deployed(environment, configuration), configuration)
        return images.pull(sandbox.url, issued.username, issued.password, "platform/node", "v1", registry=HOST)

    become(json.dumps(policy))
    with pytest.raises(images.RegistryError) as refused:
        pull()
    assert refused.value.status == 403
    policy["Statement"].append(json.loads(statement))
    sandbox.client("iam", "owner").put_user_policy(
        UserName="server", PolicyName="all", PolicyDocument=json.dumps(policy)
    )
    assert pull()


def test_a_layer_of_a_base_image_is_mounted_and_not_uploaded(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    sandbox.client("ecr").put_account_setting(name="BLOB_MOUNTING", value="ENABLED")
    base_image(sandbox, "platform/node")
    layer = images.build("platform/node").blobs[0]
    configuration = configure(DEPLOY_REGISTRY_HOST=HOST, **{BASE: "platform/node"})
    deployment = deployed(environment, configuration)

    issued = issue(deployment, configuration)

    with images.RegistryClient(sandbox.url, issued.username, issued.password) as client:
        path = f"/v2/{HOST}/{repository(deployment)}/blobs/"
        assert client.request("POST", f"{path}uploads/?mount={layer.digest}&from={HOST}/platform/node")[0] == 201
        assert client.request("GET", path + layer.digest)[2] == layer.content


@pytest.mark.parametrize(("count", "fitting"), [(1, 1), (5, 5), (40, 23)])
def test_what_fits_into_the_session_policy_goes_in_and_what_does_not_is_named(
    environment: Environment, configure: Configure, sandbox: Sandbox, count: int, fitting: int
) -> None:
    names = [f"platform/base-{number}" for number in range(count)]
    configuration = configure(DEPLOY_REGISTRY_HOST=HOST, **{BASE: ",".join(names)})
    deployment = deployed(environment, configuration)

    issued = issue(deployment, configuration)

    registry = partitions.registry_of(HOST)
    assert registry is not None
    assert deployment.log_in
    opened = deployment.log_in
    assert [*opened.pull, *opened.left_out] == names
    assert len(opened.pull) == fitting
    policy = push_credentials.session_policy(registry, opened)
    assert len(policy) <= 2048
    if opened.left_out:
        one_more = LogIn(push=opened.push, pull=tuple(names[: fitting + 1]))
        assert len(push_credentials.session_policy(registry, one_more)) > 2048
    assert all(name in issued.message for name in opened.left_out)
    assert ("does not open" in issued.message) is bool(opened.left_out)
    assert (deployment.credentials_kind, deployment.credentials_error) == ("session", "")
    assert of_sts(sandbox) == {"sts:GetFederationToken": 1}


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("way", WAYS)
def test_where_the_packed_policy_is_too_large_the_log_in_opens_as_many_as_aws_takes(
    environment: Environment, configure: Configure, sandbox: Sandbox, way: str
) -> None:
    names = [f"b{hashlib.sha256(str(number).encode()).hexdigest()[:40]}" for number in range(12)]
    configuration = configure(DEPLOY_REGISTRY_HOST=HOST, **{BASE: ",".join(names)}, **WAYS[way])
    deployment = deployed(environment, configuration)

    issue(deployment, configuration)

    assert deployment.log_in
    opened = deployment.log_in
    assert [*opened.pull, *opened.left_out] == names
    assert 0 < len(opened.pull) < len(names)
    registry = partitions.registry_of(HOST)
    assert registry is not None
    sts = sandbox.client("sts")
    one_more = LogIn(push=opened.push, pull=tuple(names[: len(opened.pull) + 1]))
    with pytest.raises(sts.exceptions.ClientError, match="PackedPolicyTooLarge"):
        sts.get_federation_token(Name="deploy", Policy=push_credentials.session_policy(registry, one_more))
    asked = of_sts(sandbox)
    assert 2 <= asked.get("sts:GetFederationToken", 0) + asked.get("sts:AssumeRole", 0) <= 8


def test_a_search_for_the_packed_size_that_aws_throttles_ends_with_the_session_that_it_has(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    names = [f"b{hashlib.sha256(str(number).encode()).hexdigest()[:40]}" for number in range(12)]
    configuration = configure(DEPLOY_REGISTRY_HOST=HOST, **{BASE: ",".join(names)})
    deployment = deployed(environment, configuration)
    sandbox.fault("error", "sts:GetFederationToken", code="Throttling", status=400, skip=2)  # one too large, one made

    issue(deployment, configuration)

    assert deployment.log_in
    assert 0 < len(deployment.log_in.pull) < len(names)
    assert [*deployment.log_in.pull, *deployment.log_in.left_out] == names
    assert deployment.credentials_kind == "session"


@pytest.mark.costly
def test_a_denied_session_is_asked_for_once_and_not_again_with_fewer_repositories(
    environment: Environment, configure: Configure, sandbox: Sandbox, become: Callable[..., None]
) -> None:
    become(json.dumps({"Statement": [{"Effect": "Allow", "Action": "ecr:*", "Resource": "*"}]}))
    configuration = configure(DEPLOY_REGISTRY_HOST=HOST, **{BASE: "platform/a,platform/b"})
    deployment = deployed(environment, configuration)

    issue(deployment, configuration)

    assert of_sts(sandbox) == {"sts:GetFederationToken": 1}
    assert deployment.log_in
    assert (deployment.credentials_kind, deployment.log_in.push) == ("token", ("*",))


def test_a_repository_of_ones_own_that_does_not_fit_alone_is_refused_and_no_wider_log_in_is_given(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    deployment = deployed(environment, configure(DEPLOY_REGISTRY_HOST=HOST))
    sandbox.fault("error", "sts:GetFederationToken", code="PackedPolicyTooLarge", status=400)

    refusal = refused(deployment, configure(DEPLOY_REGISTRY_HOST=HOST, **{BASE: "platform/a,platform/b"}))

    assert (refusal.code, refusal.retryable) == ("PackedPolicyTooLarge", False)
    assert "ecr:GetAuthorizationToken" not in sandbox.calls()


# ---------------------------------------------------------------------------------------- several deploys of a person


def begun(environment: Environment, configuration: Configuration, person: User | None) -> Deployment:
    return lifecycle.create_deployment(
        environment=environment,
        configuration=configuration,
        trail=TRAIL,
        content_hash="abc",
        type="MANAGED",
        begun_by=person.pk if person else None,
    ).deployment


def environment_of(name: str, slug: str = "prod", branch: str = "") -> Environment:
    project = Project.objects.filter(name=name).first() or projects.create_project(name=name)
    root = Environment.objects.get(project=project, slug=slug, parent=None)
    return branches.upsert(root, branch, {})[0] if branch else root


def log_in_of(deployment: Deployment, configuration: Configuration, person: User | None) -> LogIn:
    lifecycle.registry_credentials(
        deployment=deployment, configuration=configuration, person=person.pk if person else None
    )
    deployment.refresh_from_db()
    assert deployment.log_in
    return deployment.log_in


@pytest.fixture
def people(transactional_db: None) -> tuple[User, User]:
    return User.objects.create_user("ada"), User.objects.create_user("bob")


@pytest.mark.costly
def test_the_second_log_in_of_a_person_also_opens_the_first_deploy_until_that_has_ended(
    ecr_configuration: Configuration, sandbox: Sandbox, people: tuple[User, User]
) -> None:
    ada, _ = people
    first = begun(environment_of("One"), ecr_configuration, ada)
    second = begun(environment_of("Two", "staging"), ecr_configuration, ada)

    issued = lifecycle.registry_credentials(deployment=second, configuration=ecr_configuration, person=ada.pk)

    assert push(sandbox, issued, repository(first))
    assert push(sandbox, issued, repository(second))
    assert issued.opens
    assert issued.opens.push == (repository(second), repository(first))
    lifecycle.cancel(deployment=first, trail=TRAIL)
    assert log_in_of(second, ecr_configuration, ada).push == (repository(second),)


def test_a_deployment_whose_deadline_has_passed_is_not_in_progress(
    ecr_configuration: Configuration, people: tuple[User, User]
) -> None:
    ada, _ = people
    first = begun(environment_of("One"), ecr_configuration, ada)
    second = begun(environment_of("Two"), ecr_configuration, ada)
    Deployment.objects.filter(pk=first.pk).update(deadline=timezone.now() - timedelta(seconds=1))

    assert log_in_of(second, ecr_configuration, ada).push == (repository(second),)


@pytest.mark.costly
@pytest.mark.parametrize("who", ["an environment key", "another person", "of an environment key's deployment"])
def test_a_log_in_opens_only_what_the_same_person_has_begun(
    ecr_configuration: Configuration, people: tuple[User, User], who: str
) -> None:
    ada, bob = people
    begun(environment_of("One"), ecr_configuration, None if who.startswith("of") else ada)
    second = begun(environment_of("Two"), ecr_configuration, ada)

    asks = {"an environment key": None, "another person": bob}.get(who, ada)

    assert log_in_of(second, ecr_configuration, asks).push == (repository(second),)


@pytest.mark.costly
@pytest.mark.parametrize("own_repositories", ["0", "1"])
def test_no_log_in_reaches_across_a_preview_and_another_environment(
    configure: Configure, sandbox: Sandbox, people: tuple[User, User], own_repositories: str
) -> None:
    configuration = configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_PREVIEW_REPOSITORIES=own_repositories)
    ada, _ = people
    running = {
        name: begun(environment_of(project, slug, branch), configuration, ada)
        for name, project, slug, branch in (
            ("production", "One", "prod", ""),
            ("preview", "Two", "preview", "blue"),
            ("another preview", "Three", "preview", "green"),
        )
    }

    for deployment in running.values():
        assert log_in_of(deployment, configuration, ada).push == (repository(deployment),)


def test_a_deployment_in_another_registry_is_not_opened(
    configure: Configure, sandbox: Sandbox, people: tuple[User, User]
) -> None:
    ada, _ = people
    begun(environment_of("One"), configure(DEPLOY_REGISTRY_HOST=ELSEWHERE), ada)
    configuration = configure(DEPLOY_REGISTRY_HOST=HOST)
    second = begun(environment_of("Two"), configuration, ada)

    assert log_in_of(second, configuration, ada).push == (repository(second),)


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


@pytest.mark.costly
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


@pytest.mark.costly
def test_a_pull_log_in_that_aws_does_not_allow_makes_no_log_in_of_a_deploy_wider(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox, become: Callable[..., None]
) -> None:
    """The IAM policy of version 0.1.0 allows sessions that are named after a deployment only."""
    text = IAM_POLICY.read_text().replace("federated-user/pull_*", "federated-user/deployment_of_nobody")
    become(text)
    deployment = deployed(environment, ecr_configuration)
    name = repository(deployment)
    config = ecr_configuration.registry("MANAGED")

    with pytest.raises(Refusal) as pulls:
        push_credentials.issue_pull(host=HOST, name=name, label="pull_1_proj", config=config)
    issue(deployment, ecr_configuration)

    assert pulls.value.code == "pull_not_narrowable"
    assert (deployment.credentials_kind, deployment.credentials_error) == ("session", "")


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


@pytest.mark.costly
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


@pytest.mark.costly
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


@pytest.mark.costly
def test_a_refused_request_does_not_hide_an_earlier_log_in_which_still_pushes(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox, admin_client: Client
) -> None:
    deployment = deployed(environment, ecr_configuration)
    issued = issue(deployment, ecr_configuration)
    lifecycle.cancel(deployment=deployment, trail=TRAIL)

    refusal = refused(deployment, ecr_configuration)

    assert push(sandbox, issued, repository(deployment))
    assert deployment.log_in
    assert deployment.log_in.push == (repository(deployment),)
    page = admin_client.get(f"/admin/deployments/deployment/{deployment.pk}/change/").content.decode()
    assert "No registry credentials were issued" not in page
    assert "The last request for registry credentials was refused" in page
    assert refusal.sentence in page


@pytest.mark.costly
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


# --------------------------------------------------------------------------------------- when a build is refused

NOT_AUTHORIZED = (
    "ERROR: failed to push {host}/{name}:v1: unexpected status from POST request to https://{host}/v2/{name}/blobs/"
    "uploads/: 403 Forbidden: denied: User: arn:aws:sts::111111111111:federated-user/deployment_2 is not authorized to "
    "perform: ecr:InitiateLayerUpload on resource: arn:aws:ecr:us-east-1:111111111111:repository/{name} because no "
    "session policy allows the ecr:InitiateLayerUpload action"
)
PULL_REFUSED = (
    "ERROR: failed to solve: {host}/platform/node:22: failed to resolve source metadata for {host}/platform/node:22: "
    "denied: User: arn:aws:sts::111111111111:federated-user/deployment_1 is not authorized to perform: "
    "ecr:BatchGetImage on resource: arn:aws:ecr:us-east-1:111111111111:repository/platform/node because no session "
    "policy allows the ecr:BatchGetImage action"
)


@pytest.mark.parametrize(
    ("log", "advice"),
    [
        (NOT_AUTHORIZED, "its own DOCKER_CONFIG"),
        ("ERROR: failed to push {host}/{name}:v1: authorization failed: no basic auth credentials", "DOCKER_CONFIG"),
        ("failed to push {host}/{name}:v1: unexpected status from HEAD request: 403 Forbidden", "DOCKER_CONFIG"),
        (PULL_REFUSED, "repository platform/node. If the build pulls a base image from it, add it to DEPLOY_REGISTRY"),
        (
            "ERROR: failed to push {host}/{name}:v1: denied: Your authorization token has expired. Reauthenticate and "
            "try again.",
            "raise DEPLOY_TIMEOUT_MS",
        ),
        ("ERROR: failed to push {host}/{name}:v1: 500 Internal Server Error", ""),
        ("ERROR: pull access denied for library/nothing, docker.io/library/nothing: 403 Forbidden", ""),
        ("ERROR: failed to resolve source metadata for ghcr.io/a/b:1: 403 Forbidden", ""),
        (PULL_REFUSED.replace("111111111111", "999999999999").replace("{host}", "ghcr.io"), ""),
        ("npm ERR! 403 Forbidden", ""),
    ],
)
def test_a_build_that_the_registry_refused_says_what_helps(
    environment: Environment, ecr_configuration: Configuration, log: str, advice: str
) -> None:
    deployment = deployed(environment, ecr_configuration)
    stderr = "#1 building\n" + log.format(host=HOST, name=repository(deployment)) + "\n#2 done"

    lifecycle.fail(
        environment=environment,
        deployment_id=deployment.id,
        error={"name": "BuildError", "message": "Error building image", "stderr": stderr},
    )

    deployment.refresh_from_db()
    assert deployment.error
    assert deployment.error["message"].startswith("Error building image")
    assert (advice in deployment.error["message"]) if advice else deployment.error["message"] == "Error building image"
    assert deployment.error["stderr"] == stderr


def test_a_build_whose_log_in_had_ended_says_so(environment: Environment, ecr_configuration: Configuration) -> None:
    deployment = deploying(environment, ecr_configuration)
    ended = LogIn(push=(repository(deployment),), expires_at=(timezone.now() - timedelta(seconds=1)).isoformat())
    Deployment.objects.filter(pk=deployment.pk).update(log_in=ended)

    lifecycle.fail(
        environment=environment,
        deployment_id=deployment.id,
        error={"name": "BuildError", "message": "Error building image"},
    )

    deployment.refresh_from_db()
    assert deployment.error
    assert deployment.error["message"].startswith("Error building image. The log-in of this build has ended.")


@pytest.mark.parametrize(
    ("indexed", "message", "advice"),
    [
        (True, "Error building image", True),
        (False, "Error building image", False),
        (True, "Build succeeded with critical warnings", False),
    ],
)
def test_a_build_that_failed_after_its_tasks_were_indexed_probably_failed_at_the_push_and_says_so(
    environment: Environment, ecr_configuration: Configuration, indexed: bool, message: str, advice: bool
) -> None:
    deployment = deploying(environment, ecr_configuration) if indexed else deployed(environment, ecr_configuration)

    lifecycle.fail(
        environment=environment,
        deployment_id=deployment.id,
        error={"name": "BuildError", "message": message},  # all that the CLI sends
    )

    deployment.refresh_from_db()
    assert deployment.error
    assert ("its own DOCKER_CONFIG (docs/builds.md)" in deployment.error["message"]) is advice
    assert deployment.error["message"].startswith(message)
