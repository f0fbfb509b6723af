"""The layer at fault of a failed pull: what the rows add to a message, since when, and what a look at AWS adds."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments.config import Configuration
from deployments.models import (
    Deployment,
    Environment,
    EventKind,
    Project,
    Promotion,
    RegistryPolicyReading,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
)
from deployments.pull_failures import MAX_BYTES, Cause
from deployments.reconcile import why
from deployments.reconcile.why import Layer, Why
from sandbox.control import Sandbox
from tests.support.constants import CLUSTER, HOST, OWNER, POLICY
from tests.support.pull_messages import DIGEST, IMAGE, MESSAGES, NAME, NODE, RESOURCE, TAG

SEEN = timezone.now() - timedelta(minutes=5)
NO_POLICY = next(each.text for each in MESSAGES if each.name == "docker, no resource-based policy allows")
DENIED = next(each.text for each in MESSAGES if each.name == "explicit deny in a resource-based policy")
FORBIDDEN = next(each.text for each in MESSAGES if each.name == "ECS, 403 from a manifest")
NOT_FOUND = next(each.text for each in MESSAGES if each.name == "ECS, digest not found")
UNNAMED = f"denied: User: {NODE} is not authorized to perform: ecr:BatchGetImage on resource: {RESOURCE}"


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def statement(account: str, effect: str = "Allow") -> dict[str, Any]:
    actions = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    return {"Effect": effect, "Principal": {"AWS": f"arn:aws:iam::{account}:root"}, "Action": actions}


OTHERS = policy(statement("333333333333"))
DENIES = policy(statement(CLUSTER), statement(CLUSTER, "Deny"))


@pytest.fixture
def installation(db: None, configure: Callable[..., Configuration]) -> Configuration:
    return configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=CLUSTER,
    )


def repository(text: str = POLICY, **values: Any) -> Repository:
    given: dict[str, Any] = {
        "account": OWNER, "region": "us-east-1", "host": HOST, "name": NAME, "policy_text": text, "management": "full",
        "status": RepositoryStatus.IN_SYNC, "last_checked_at": SEEN,
    }  # fmt: skip
    return Repository.objects.create(**given | values)


def kept(row: Repository, text: str, *, days: int, kind: str = EventKind.HEALED, **values: Any) -> RepositoryEvent:
    return RepositoryEvent.objects.create(
        repository=row, kind=kind, at=SEEN - timedelta(days=days), policy_before=text,
        **{"message": "The default repository policy was written again.", "cause": "sweep"} | values,
    )  # fmt: skip


def explain(text: str, configuration: Configuration, **options: Any) -> Why:
    return why.explain(text=text, configuration=configuration, **options)


#: Message → (layer, certain) where the repository is ours, in sync, and its policy lets the cluster pull.
ANSWERS = {
    "docker, no resource-based policy allows": (Layer.REPOSITORY_POLICY, True),
    "explicit deny in a resource-based policy": (Layer.REGISTRY_POLICY, False),
    "CodeBuild, no identity-based policy allows": (Layer.IDENTITY, True),
    "docker before AWS named the kind of policy": (Layer.UNKNOWN, False),
    "GetAuthorizationToken": (Layer.IDENTITY, True),
    "ECS, 403 from a manifest": (Layer.UNKNOWN, False),
    "ECS, 403 from a blob": (Layer.UNKNOWN, False),
    "kubelet, no basic auth credentials": (Layer.LOG_IN, False),
    "docker, the token has expired": (Layer.LOG_IN, True),
    "401 of a cache": (Layer.LOG_IN, False),
    "docker, manifest not found": (Layer.NO_IMAGE, False),
    "ECS, digest not found": (Layer.NO_IMAGE, False),
    "the repository does not exist": (Layer.NO_IMAGE, True),
    "containerd, no match for platform": (Layer.PLATFORM, True),
    "Fargate, no descriptor for the platform": (Layer.PLATFORM, True),
    "ECS, i/o timeout at the API": (Layer.NETWORK, True),
    "kubelet, i/o timeout at the layer storage": (Layer.NETWORK, True),
    "docker, no such host": (Layer.NETWORK, True),
    "docker, a host that AWS does not have": (Layer.WRONG_HOST, True),
    "kaniko, unknown certificate authority": (Layer.NETWORK, True),
    "docker, throttled": (Layer.THROTTLED, True),
    "docker, S3 refuses the layer": (Layer.NETWORK, True),
    "buildx, another registry": (Layer.NOT_OURS, True),
}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
def test_each_real_message_leads_to_its_layer_or_to_an_honest_unknown(
    message: Any, installation: Configuration
) -> None:
    repository()

    answer = explain(message.text, installation)

    assert (answer.layer, answer.certain) == ANSWERS[message.name]
    assert answer.steps
    assert answer.possible or answer.certain


def test_every_layer_has_words_and_every_cause_an_answer() -> None:
    assert all(layer.words for layer in Layer)
    assert set(why._ANSWERS) == set(Cause)


# ------------------------------------------------------------------------------------------------ the repository policy


@pytest.mark.parametrize("text", [NO_POLICY, FORBIDDEN, UNNAMED])
def test_a_policy_that_does_not_name_the_cluster_is_the_layer(text: str, installation: Configuration) -> None:
    row = repository(OTHERS, status=RepositoryStatus.DRIFTED, drifted_since=SEEN - timedelta(hours=2))

    answer = explain(text, installation)

    assert answer.layer is Layer.REPOSITORY_POLICY
    assert answer.repository == row
    assert any(CLUSTER in fact and "By the repository policy as seen" in fact for fact in answer.facts)
    assert f"python manage.py reconcile {NAME}" in [step.command for step in answer.steps]
    assert answer.since == row.drifted_since
    assert any("registry policy" in words for words in answer.not_known)


def test_since_when_comes_from_the_newest_policy_that_allowed_the_pull(installation: Configuration) -> None:
    row = repository(OTHERS)
    kept(row, POLICY, days=9)
    wanted = kept(row, POLICY, days=3, message="Somebody put another policy back.", cause="mira@example.com")
    kept(row, OTHERS, days=1)

    answer = explain(NO_POLICY, installation)

    assert answer.since == wanted.at
    assert answer.since_words == (
        "A write replaced a policy that allowed it (mira@example.com): Somebody put another policy back."
    )


def test_a_drift_that_was_only_found_says_then_or_later(installation: Configuration) -> None:
    row = repository(OTHERS)
    found = kept(row, POLICY, days=2, kind=EventKind.DRIFT_FOUND)

    answer = explain(NO_POLICY, installation)

    assert (answer.since, answer.since_words) == (
        found.at, "The policy of that time allowed it; it was changed then or later.",
    )  # fmt: skip


def test_without_a_history_it_is_said_that_the_beginning_is_not_known(installation: Configuration) -> None:
    repository(OTHERS)

    answer = explain(NO_POLICY, installation)

    assert (answer.since, answer.since_words) == (
        None, "The history of the repository has no policy that allowed it.",
    )  # fmt: skip


def test_a_policy_that_was_corrected_since_is_said_with_the_time(installation: Configuration) -> None:
    event = kept(repository(), OTHERS, days=1)

    answer = explain(NO_POLICY, installation)

    assert answer.since == event.at
    assert "another policy was in force when the node asked" in answer.says
    assert answer.steps[0].words == "Let the node try again."


@pytest.mark.parametrize(("account", "words"), [(CLUSTER, "allows it"), ("555555555555", "does not allow it either")])
def test_the_next_step_says_whether_the_default_policy_would_help(
    account: str, words: str, installation: Configuration
) -> None:
    repository(OTHERS)

    answer = explain(NO_POLICY.replace(CLUSTER, account), installation)

    assert words in answer.steps[0].words
    assert answer.steps[0].command == f"python manage.py reconcile {NAME}"


def test_a_deny_of_the_repository_policy_is_told_from_one_of_the_registry_policy(installation: Configuration) -> None:
    row = repository(DENIES)
    assert (explain(DENIED, installation).layer, explain(DENIED, installation).certain) == (
        Layer.REPOSITORY_POLICY, True,
    )  # fmt: skip

    row.policy_text = POLICY
    row.save()
    answer = explain(DENIED, installation)

    assert (answer.layer, answer.possible) == (Layer.REGISTRY_POLICY, (Layer.REPOSITORY_POLICY,))
    assert any("get-registry-policy" in step.command for step in answer.steps)


def test_a_deny_that_no_statement_of_the_policy_makes_is_in_the_registry_policy(installation: Configuration) -> None:
    repository(OTHERS)

    assert explain(DENIED, installation).layer is Layer.REGISTRY_POLICY


def test_an_allow_that_does_not_apply_is_not_taken_for_the_deny_that_aws_names(installation: Configuration) -> None:
    repository(policy({**statement(CLUSTER), "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}))

    answer = explain(DENIED, installation)

    assert (answer.layer, answer.certain) == (Layer.REGISTRY_POLICY, False)


def test_a_403_that_the_repository_policy_does_not_explain_names_what_remains(installation: Configuration) -> None:
    repository()

    answer = explain(UNNAMED, installation)

    assert answer.layer is Layer.UNKNOWN
    assert Layer.REPOSITORY_POLICY not in answer.possible
    assert {Layer.REGISTRY_POLICY, Layer.IDENTITY} <= set(answer.possible)
    assert "another layer" in answer.says.lower()


def test_a_node_of_the_registrys_own_account_needs_its_own_iam_policy(installation: Configuration) -> None:
    repository()

    answer = explain(UNNAMED.replace(CLUSTER, OWNER), installation)

    assert answer.layer is Layer.IDENTITY


def test_a_policy_that_cannot_be_understood_gives_no_verdict(installation: Configuration) -> None:
    repository("not a policy")

    answer = explain(UNNAMED, installation)

    assert answer.layer is Layer.UNKNOWN
    assert Layer.REPOSITORY_POLICY in answer.possible


def test_a_repository_that_was_never_checked_gives_no_verdict(installation: Configuration) -> None:
    repository("", last_checked_at=None)

    assert explain(UNNAMED, installation).layer is Layer.UNKNOWN


# -------------------------------------------------------------------------------------------------- the registry policy


def registry(effect: str, scope: str = "V2") -> RegistryPolicyReading:
    text = policy({**statement(CLUSTER, effect), "Resource": f"arn:aws:ecr:us-east-1:{OWNER}:repository/*"})
    return RegistryPolicyReading.objects.create(account=OWNER, region="us-east-1", text=text, scope=scope, read_at=SEEN)


@pytest.mark.parametrize("text", [DENIED, UNNAMED])
def test_a_registry_policy_that_denies_is_the_layer_also_where_the_message_does_not_name_it(
    text: str, installation: Configuration
) -> None:
    repository()
    registry("Deny")

    answer = explain(text, installation)

    assert (answer.layer, answer.certain, answer.possible) == (Layer.REGISTRY_POLICY, True, ())
    assert any(
        "By both policies (the registry policy as read " in fact and "registry policy" in fact for fact in answer.facts
    )
    assert not any("was not read" in words for words in answer.not_known)


def test_a_registry_policy_of_a_scope_that_is_about_no_pull_is_not_blamed(installation: Configuration) -> None:
    repository()
    registry("Deny", scope="V1")

    answer = explain(UNNAMED, installation)

    assert answer.layer is Layer.UNKNOWN
    assert not {Layer.REGISTRY_POLICY, Layer.REPOSITORY_POLICY} & set(answer.possible)


def test_a_registry_policy_that_allows_the_pull_takes_the_blame_from_the_repository_policy(
    installation: Configuration,
) -> None:
    repository(OTHERS)
    registry("Allow")

    answer = explain(UNNAMED, installation)

    assert answer.layer is Layer.UNKNOWN
    assert "the repository policy and the registry policy let" in answer.says


# --------------------------------------------------------------------------------------------- other places, and images


def test_a_repository_of_this_name_in_another_region_is_named(installation: Configuration) -> None:
    repository(region="eu-central-1", host=f"{OWNER}.dkr.ecr.eu-central-1.amazonaws.com")
    image = IMAGE.replace("us-east-1", "us-west-2")

    answer = explain(f"failed to resolve ref {image}:1: not found", installation)

    assert answer.layer is Layer.WRONG_HOST
    assert "eu-central-1" in answer.says


def test_another_account_is_not_ours(installation: Configuration) -> None:
    repository(name="trigger/other")

    answer = explain(FORBIDDEN.replace(OWNER, "444444444444"), installation)

    assert (answer.layer, answer.repository, answer.can_look) == (Layer.NOT_OURS, None, False)


@pytest.mark.parametrize(
    ("reason", "layer"),
    [("not found", Layer.NO_IMAGE), ("403 Forbidden", Layer.LOG_IN), ("401 Unauthorized", Layer.LOG_IN)],
)
def test_of_a_configured_registry_that_is_not_ecr_no_command_of_aws_is_given(
    reason: str, layer: Layer, db: None, configure: Callable[..., Configuration]
) -> None:
    configuration = configure(DEPLOY_REGISTRY_HOST="registry.example.com")

    answer = explain(f"failed to resolve ref registry.example.com/trigger/a:1: {reason}", configuration)

    assert answer.layer is layer
    assert not any("aws " in step.command for step in answer.steps)


@pytest.mark.parametrize("status", [RepositoryStatus.UNMANAGED, RepositoryStatus.MISSING])
def test_a_policy_that_was_never_read_is_not_taken_for_no_policy(status: str, installation: Configuration) -> None:
    looked_at = {"last_checked_at": None} if status == RepositoryStatus.UNMANAGED else {}
    repository("", status=status, management="", **looked_at)

    assert explain(UNNAMED, installation).layer is Layer.UNKNOWN


def test_a_missing_repository_says_since_when(installation: Configuration) -> None:
    row = repository(status=RepositoryStatus.MISSING, management="")
    event = kept(row, "", days=1, kind=EventKind.MISSING, message="It is gone.")

    answer = explain(
        f"name unknown: The repository with name '{NAME}' does not exist in the registry with id '{OWNER}'",
        installation,
    )

    assert (answer.layer, answer.since) == (Layer.NO_IMAGE, event.at)


def test_the_deployment_of_a_digest_is_named_and_whether_it_is_current(
    installation: Configuration, project: Project, environment: Environment
) -> None:
    row = repository(project=project)
    deployment = Deployment.objects.create(
        project=project, environment=environment, repository=row, version_day="20261126", version_number=1,
        status="DEPLOYED", content_hash="x", image_ref=f"{IMAGE}:{TAG}", image_digest=DIGEST,
        image_platform="linux/amd64", deployed_at=SEEN, short_code="abcd1234",
    )  # fmt: skip
    Promotion.objects.create(environment=environment, deployment=deployment)

    by_digest = explain(NOT_FOUND, installation)
    by_tag = explain(f"failed to resolve ref {IMAGE}:{TAG}: not found", installation)

    for answer in (by_digest, by_tag):
        assert answer.deployments == (deployment,)
        assert any("20261126.1 of Billing/prod; it is current there since" in fact for fact in answer.facts)
    platform = explain(
        f'Failed to pull image "{IMAGE}:{TAG}": no match for platform in manifest: not found', installation
    )
    assert "Deployment 20261126.1 was built for linux/amd64." in platform.facts


# ------------------------------------------------------------------------------------------------------ the look at AWS


@pytest.fixture
def live(ecr_configuration: Configuration, project: Project, sandbox: Sandbox) -> Any:
    """The repository exists in the sandbox, with the policy and an image; the row says the opposite of the policy."""
    client = sandbox.client("ecr")
    client.create_repository(repositoryName=NAME)
    client.set_repository_policy(repositoryName=NAME, policyText=OTHERS)
    manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": []})
    client.put_image(repositoryName=NAME, imageManifest=manifest, imageTag="there")
    repository(POLICY)
    sandbox.reset_calls()
    return client


def test_a_look_asks_three_questions_and_its_policy_counts(
    live: Any, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    assert explain(UNNAMED, ecr_configuration).layer is Layer.UNKNOWN
    assert sandbox.calls() == {}

    answer = explain(f"{UNNAMED} {IMAGE}:there", ecr_configuration, look=True)

    assert (answer.layer, answer.certain) == (Layer.REPOSITORY_POLICY, True)
    assert sandbox.calls() == {"ecr:DescribeImages": 1, "ecr:GetRegistryPolicy": 1, "ecr:GetRepositoryPolicy": 1}
    assert answer.as_document()["looked"]["calls"] == {
        "DescribeImages": 1, "GetRegistryPolicy": 1, "GetRepositoryPolicy": 1,
    }  # fmt: skip


def test_a_look_at_a_repository_that_exists_again_says_so(live: Any, ecr_configuration: Configuration) -> None:
    text = f"name unknown: The repository with name '{NAME}' does not exist in the registry with id '{OWNER}'"

    answer = explain(text, ecr_configuration, look=True)

    assert answer.layer is Layer.UNKNOWN
    assert "has the repository" in answer.says


def test_the_policy_of_a_row_is_not_said_to_be_that_of_now_where_aws_has_no_repository(
    live: Any, ecr_configuration: Configuration
) -> None:
    live.delete_repository(repositoryName=NAME, force=True)

    answer = explain(UNNAMED, ecr_configuration, look=True)

    assert answer.layer is Layer.UNKNOWN
    assert "AWS says that the repository does not exist." in answer.facts
    assert not any("as seen" in fact for fact in answer.facts)
    assert "another layer" not in answer.says.lower()


@pytest.mark.costly
@pytest.mark.parametrize(("tag", "layer"), [("there", Layer.UNKNOWN), ("gone", Layer.NO_IMAGE)])
def test_a_look_says_whether_the_image_exists(
    tag: str, layer: Layer, live: Any, ecr_configuration: Configuration
) -> None:
    answer = explain(f"failed to resolve ref {IMAGE}:{tag}: not found", ecr_configuration, look=True)

    assert answer.layer is layer
    assert answer.certain is (layer is Layer.NO_IMAGE)


@pytest.mark.parametrize("restored", [False, True])
def test_a_look_tells_an_archived_image_from_one_that_is_not_there(
    restored: bool, live: Any, ecr_configuration: Configuration
) -> None:
    def move(target: str) -> None:
        live.update_image_storage_class(repositoryName=NAME, imageId={"imageTag": "there"}, targetStorageClass=target)

    move("ARCHIVE")
    if restored:
        move("STANDARD")  # the image is not active at once

    answer = explain(f"failed to resolve ref {IMAGE}:there: not found", ecr_configuration, look=True)

    assert (answer.layer, answer.certain, answer.possible) == (Layer.ARCHIVED, True, ())
    if restored:
        assert "is being restored" in answer.says
    else:
        assert answer.since is not None
        assert "update-image-storage-class" in answer.steps[0].command


def test_a_look_that_aws_refuses_is_a_fact_and_not_an_answer(
    live: Any, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.fault("error", "ecr:DescribeImages", code="AccessDeniedException")

    answer = explain(f"failed to resolve ref {IMAGE}:gone: not found", ecr_configuration, look=True)

    assert (answer.layer, answer.certain, answer.possible) == (Layer.NO_IMAGE, False, (Layer.ARCHIVED,))
    assert any("AWS did not say whether the image exists" in fact for fact in answer.facts)


def test_a_look_reads_the_registry_policy_too(live: Any, ecr_configuration: Configuration, sandbox: Sandbox) -> None:
    live.set_repository_policy(repositoryName=NAME, policyText=POLICY)
    resource = f"arn:aws:ecr:us-east-1:{OWNER}:repository/*"
    live.put_registry_policy(policyText=policy({**statement(CLUSTER, "Deny"), "Resource": resource}))

    answer = explain(UNNAMED, ecr_configuration, look=True)

    assert (answer.layer, answer.certain) == (Layer.REGISTRY_POLICY, True)


@pytest.mark.parametrize(
    ("repositorys", "registrys", "layer"),
    [
        (OTHERS, None, Layer.REPOSITORY_POLICY),
        (DENIES, None, Layer.REPOSITORY_POLICY),
        (POLICY, "Deny", Layer.REGISTRY_POLICY),
    ],
)
def test_the_message_of_a_refused_pull_in_the_sandbox_leads_to_the_policy_that_refused_it(
    repositorys: str, registrys: str | None, layer: Layer, live: Any, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    live.set_repository_policy(repositoryName=NAME, policyText=repositorys)
    if registrys:
        resource = f"arn:aws:ecr:us-east-1:{OWNER}:repository/*"
        live.put_registry_policy(policyText=policy({**statement(CLUSTER, registrys), "Resource": resource}))
    with pytest.raises(ClientError) as refused:
        sandbox.client("ecr", "cluster").batch_get_image(
            registryId=OWNER, repositoryName=NAME, imageIds=[{"imageTag": "there"}]
        )

    answer = explain(str(refused.value), ecr_configuration, look=True)

    assert (answer.layer, answer.certain) == (layer, True)


def test_nothing_is_asked_about_a_repository_of_another_registry(
    live: Any, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    explain(FORBIDDEN.replace(OWNER, "444444444444"), ecr_configuration, look=True)

    assert sandbox.calls() == {}


# ---------------------------------------------------------------------------------------------------------- the command


def command(text: str | bytes, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    data = text.encode() if isinstance(text, str) else text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    out = io.StringIO()
    try:
        call_command("why", "-", *arguments, stdout=out)
    except SystemExit as end:
        return int(str(end.code)), out.getvalue()
    except CommandError as error:
        return error.returncode, str(error)
    return 0, out.getvalue()


def test_the_command_says_the_layer_the_reason_and_the_next_command(
    installation: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(OTHERS)

    status, out = command(NO_POLICY, monkeypatch=monkeypatch)

    assert status == 0
    assert out.startswith("The repository policy.\nAWS says that no resource policy allows ")
    assert f"      python manage.py reconcile {NAME}\n" in out


def test_the_commands_json_has_these_keys(installation: Configuration, monkeypatch: pytest.MonkeyPatch) -> None:
    row = repository(OTHERS)

    status, out = command(NO_POLICY, "--json", monkeypatch=monkeypatch)
    document = json.loads(out)

    assert status == 0
    assert set(document) == {
        "layer", "certain", "possible", "says", "since", "since_words", "facts", "not_known", "next", "message",
        "repository", "deployments", "looked",
    }  # fmt: skip
    assert document["layer"] == "repository_policy"
    assert document["repository"] == {"id": row.pk, "name": NAME, "status": "in_sync"}
    assert document["message"]["caller"] == CLUSTER
    assert document["message"]["source"].startswith("https://")
    assert document["looked"] is None


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("hello", 1),
        (FORBIDDEN, 1),
        ("x" * (MAX_BYTES + 1), 2),
        (" \n", 2),
        (b"\xff\xfe toomanyrequests: Rate exceeded", 0),
    ],
)
def test_the_exit_status_tells_a_layer_from_not_known_from_wrong_usage(
    text: str | bytes, status: int, installation: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(text, monkeypatch=monkeypatch)[0] == status


def test_a_text_writes_no_row_and_no_line_of_the_log_and_its_secrets_are_nowhere(
    installation: Configuration, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    repository(OTHERS)
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    caplog.set_level(logging.DEBUG)

    with CaptureQueriesContext(connection) as captured:
        _, out = command(f"{NO_POLICY} AWS_SECRET_ACCESS_KEY={secret}", "--json", monkeypatch=monkeypatch)

    assert all(query["sql"].startswith("SELECT") for query in captured)
    assert secret not in out + caplog.text
    assert "not authorized" not in caplog.text
