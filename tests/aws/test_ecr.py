"""The door to AWS and the catalogue behind it: every error has an entry, every sentence helps, none holds a secret."""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
)
from django.core.management import CommandError, call_command
from django.db import transaction

from deployments import catalogue
from deployments.aws import clients, ecr, sqs, values
from deployments.catalogue import Retry
from deployments.config import Access, Configuration
from deployments.errors import RegistryError
from deployments.reconcile import lease, repositories
from sandbox.control import Sandbox
from tests.support.constants import HOST, OWNER

ROOT = Path(__file__).resolve().parent.parent.parent
#: Operations that the door calls, and answers of theirs that it takes for values.
CALLS = {
    "ecr": """BatchGetImage CreateRepository DescribeImages DescribeRepositories GetAuthorizationToken
        GetDownloadUrlForLayer GetLifecyclePolicy GetLifecyclePolicyPreview GetRepositoryPolicy ListImages
        ListTagsForResource PutImageTagMutability PutLifecyclePolicy SetRepositoryPolicy StartLifecyclePolicyPreview
        TagResource UpdateImageStorageClass""",
    "sts": "AssumeRole GetFederationToken",
    "sqs": "ReceiveMessage DeleteMessageBatch",
}
VALUES = {
    "ImageNotFoundException",
    "LayersNotFoundException",
    "LifecyclePolicyNotFoundException",
    "LifecyclePolicyPreviewInProgressException",
    "LifecyclePolicyPreviewNotFoundException",
    "RepositoryAlreadyExistsException",
    "RepositoryPolicyNotFoundException",
}


def errors_of_aws() -> Iterator[tuple[str, str]]:
    """(operation, code) of every error that AWS's own service models say our calls can answer with."""
    session = boto3.session.Session()._session
    for service, operations in CALLS.items():
        model = session.get_service_model(service)
        for operation in operations.split():
            for shape in model.operation_model(operation).error_shapes:
                yield operation, shape.metadata.get("error", {}).get("code", shape.name)
        if service == "ecr":
            failures: Any = model.shape_for("ImageFailureCode")
            for code in failures.enum:
                yield "BatchGetImage", code


def client_error(operation: str, code: str, message: str = "said", status: int = 400) -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {
                "HTTPStatusCode": status,
                "RequestId": "request-1",
                "HTTPHeaders": {},
                "RetryAttempts": 0,
                "HostId": "",
            },
        },
        operation,
    )


def translated(error: Exception, operation: str = "SetRepositoryPolicy", access: Access | None = None) -> RegistryError:
    return clients.translated(error, operation, "trigger/shop", access or Access())


# ------------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize(("operation", "code"), sorted(set(errors_of_aws())))
def test_every_error_of_awss_own_models_is_in_the_catalogue(operation: str, code: str) -> None:
    expected = VALUES | {"ImageNotFound", "InvalidImageDigest", "InvalidImageTag", "ImageReferencedByManifestList"}

    entry = catalogue.find(code, operation=operation)

    assert entry is not None or code in expected
    if entry is not None:
        error = translated(client_error(operation, code), operation)
        assert code in error.sentence
        assert "See AWS's documentation" not in error.sentence
        assert error.retryable == (entry.retryable in (Retry.YES, Retry.BOUNDED))


@functools.cache
def calls_with_a_code() -> list[tuple[str, str, ast.Call]]:
    """(file and line, code, call) of each call in `deployments` that gives an error's code as a literal."""
    found = []
    for path in sorted((ROOT / "deployments").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "id", "") or getattr(node.func, "attr", "")
            codes = [each.value for each in node.keywords if each.arg == "code" and called != "Alarm"]
            if called in ("refusal", "registry_error", "sentence"):
                codes += node.args[:1]
            elif called == "refused":
                codes += node.args[1:2]
            for code in codes:
                if isinstance(code, ast.Constant) and code.value:
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", str(code.value), node))
    return found


@pytest.mark.costly
def test_every_code_that_the_program_gives_out_is_in_the_catalogue() -> None:
    found = calls_with_a_code()

    assert len(found) > 50
    assert [(where, code) for where, code, _ in found if catalogue.find(code) is None] == []


@pytest.mark.costly
def test_a_sentence_with_a_code_stands_in_the_catalogue_only() -> None:
    """`Refusal("…", code="x")` would be a second sentence for x. NotFound has a code for all of its sentences."""
    written = [
        where
        for where, code, call in calls_with_a_code()
        if code != "not_found" and any(isinstance(value, ast.JoinedStr) or _is_sentence(value) for value in call.args)
    ]

    assert written == []


def _is_sentence(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and " " in str(value.value)


def test_no_two_entries_claim_the_same_error() -> None:
    claims = [(code, entry.on, entry.detail) for entry in catalogue.ENTRIES for code in entry.codes]

    assert len(claims) == len(set(claims))


@pytest.mark.parametrize("entry", catalogue.ENTRIES, ids=lambda entry: str(entry.codes[0]))
def test_every_sentence_is_one_that_a_person_can_act_on(entry: catalogue.Entry) -> None:
    text = f"{entry.template} {entry.cause}"

    assert entry.says[0].isupper() or entry.says[0] in "{f"
    assert entry.cause.endswith(".")
    assert not re.search(r"Traceback|Exception\b|boto|django|\bself\b|RegistryError|\.py\b|[a-z]+_[a-z]+\(", text)
    if entry.owner is catalogue.Owner.OPERATOR and entry.retryable is Retry.NO:
        assert entry.todo or "{reason}" in entry.says or entry in catalogue.REGISTRIES


def test_the_page_is_made_from_the_catalogue() -> None:
    out = StringIO()
    call_command("errors", stdout=out)

    assert (ROOT / "docs/errors.md").read_text() == out.getvalue()
    for entry in catalogue.ENTRIES:
        assert entry.cause in out.getvalue()


def test_one_code_can_be_looked_up_alone() -> None:
    out = StringIO()
    call_command("errors", "AccessDenied", stdout=out)

    assert out.getvalue().count("### ") == 3  # in general, of AssumeRole, of GetFederationToken
    with pytest.raises(CommandError, match="no error with the code nonsense"):
        call_command("errors", "nonsense")


# ------------------------------------------------------------------------------------------------------- the words


def test_a_refused_call_names_the_permission() -> None:
    error = translated(client_error("SetRepositoryPolicy", "AccessDeniedException"))

    assert "Allow ecr:SetRepositoryPolicy on this repository" in error.sentence
    assert (error.retryable, error.installation, error.denied) == (False, False, True)
    assert "Allow sqs:DeleteMessage" in translated(client_error("x", "AccessDenied"), "DeleteMessageBatch").sentence


@pytest.mark.parametrize("setting", ["DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN", "DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS"])
def test_a_refused_role_names_the_setting_that_it_comes_from(setting: str) -> None:
    access = Access(role_arn=f"arn:aws:iam::{OWNER}:role/r", external_id="canary", setting=setting)

    error = translated(client_error("AssumeRole", "AccessDenied"), "BatchGetImage", access)

    assert error.operation == "AssumeRole"
    assert f"Check {setting}" in error.sentence
    assert f"arn:aws:iam::{OWNER}:role/r" in error.sentence
    assert "canary" not in error.sentence
    assert error.installation


def test_whatever_stops_a_role_from_being_assumed_is_a_fault_of_the_installation() -> None:
    error = translated(client_error("AssumeRole", "Throttling"))

    assert (error.retryable, error.installation, error.throttled) == (True, True, True)


@pytest.mark.parametrize(("status", "retryable"), [(400, False), (500, True), (503, True)])
def test_a_code_that_nobody_knows_is_retryable_when_the_fault_is_awss(status: int, retryable: bool) -> None:
    error = translated(client_error("SetRepositoryPolicy", "BrandNewException", status=status))

    assert error.retryable is retryable
    assert "BrandNewException: said" in error.sentence


def test_what_was_signed_is_not_repeated_because_a_sessions_token_is_part_of_it() -> None:
    message = "The Canonical String should have been 'POST\nx-amz-security-token:canary'"

    error = translated(client_error("SetRepositoryPolicy", "SignatureDoesNotMatch", message))

    assert "canary" not in str(error)
    assert error.installation


def test_awss_words_become_one_line_without_what_only_awss_own_people_can_read() -> None:
    message = "Not allowed.\n  Ask. Encoded authorization failure message: AAAA" + "B" * 2000

    error = translated(client_error("SetRepositoryPolicy", "AccessDeniedException", message))

    assert "AccessDeniedException: Not allowed. Ask. Allow ecr:" in error.sentence
    assert len(translated(client_error("X", "InvalidParameterException", "y" * 5000)).sentence) < 900


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (ReadTimeoutError(endpoint_url="https://ecr"), "Timeout", True),
        (ConnectTimeoutError(endpoint_url="https://ecr"), "Unreachable", True),
        (EndpointConnectionError(endpoint_url="https://ecr"), "Unreachable", True),
        (OSError("boom"), "Unreachable", True),
        (NoCredentialsError(), "NoCredentials", False),
        (ParamValidationError(report="canary"), "ParamValidation", False),
    ],
)
def test_what_never_reached_aws_is_reported_without_names_of_libraries(
    error: Exception, code: str, retryable: bool
) -> None:
    found = translated(error)

    assert (found.code, found.retryable) == (code, retryable)
    assert "SetRepositoryPolicy on trigger/shop" in found.sentence
    assert not re.search(r"Error\b|canary|boom|https://", found.sentence)


# ------------------------------------------------------------------------------------------------------- the door


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-east-1", "sts.us-east-1.amazonaws.com"),
        ("ap-southeast-3", "sts.ap-southeast-3.amazonaws.com"),
        ("cn-north-1", "sts.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "sts.us-gov-west-1.amazonaws.com"),
    ],
)
def test_sts_is_asked_in_the_registrys_own_region(monkeypatch: pytest.MonkeyPatch, region: str, host: str) -> None:
    monkeypatch.setenv("AWS_STS_REGIONAL_ENDPOINTS", "legacy")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOWNER1111EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    clients.forget_clients()

    client = clients.client_of("sts", region, Access(), 1)

    assert client.meta.endpoint_url == f"https://{host}"
    clients.forget_clients()


def door(configure: Callable[..., Configuration], **settings: str) -> ecr.Ecr:
    found = ecr.ecr_of(configure(DEPLOY_REGISTRY_HOST=HOST, **settings).registry("MANAGED"), HOST)
    assert found is not None
    return found


def test_images_that_are_not_there_are_left_out(configure: Callable[..., Configuration], sandbox: Sandbox) -> None:
    ours = door(configure)
    sandbox.client("ecr").create_repository(repositoryName="shop")

    assert ours.manifests("shop", digests=["sha256:" + "0" * 64]) == {}
    assert ours.manifests("shop", tag="v1") == {}
    assert ours.manifests("nowhere", tag="v1") == {}
    assert ours.download_url("shop", "sha256:" + "0" * 64) is None
    assert ours.download_url("nowhere", "sha256:" + "0" * 64) is None


def test_sessions_are_made_again_with_fresh_credentials_when_the_old_ones_have_expired(
    configure: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    ours = door(configure)
    policy = json.dumps({"Statement": [{"Effect": "Allow", "Action": "ecr:*", "Resource": "*"}]})
    sandbox.fault("error", "sts:GetFederationToken", code="ExpiredToken", status=403, times=1)

    assert ours.federate(label="deploy", policy=policy, seconds=900).access_key
    assert sandbox.calls()["sts:GetFederationToken"] == 2


def test_whose_credentials_these_are_is_known_without_asking_aws(
    configure: Callable[..., Configuration], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = door(configure)

    assert ours.ambient() == values.Ambient(access_key="AKIAOWNER1111EXAMPLE", long_lived=True)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "x")
    clients.forget_clients()
    assert not ours.ambient().long_lived
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    clients.forget_clients()
    with pytest.raises(RegistryError, match="no AWS credentials"):
        ours.ambient()
    assert sandbox.calls() == {}


@pytest.mark.django_db(transaction=True)
def test_sts_too_is_never_asked_inside_a_transaction(configure: Callable[..., Configuration], sandbox: Sandbox) -> None:
    ours = door(configure)

    with transaction.atomic(), pytest.raises(RuntimeError, match="transaction"):
        ours.federate(label="deploy", policy="{}", seconds=900)
    assert sandbox.calls() == {}


def test_expired_credentials_are_renewed_once_and_the_call_is_repeated(
    configure: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    ours = door(configure)
    sandbox.client("ecr").create_repository(repositoryName="shop")
    sandbox.reset_calls()
    sandbox.fault("error", "ecr:GetRepositoryPolicy", code="ExpiredTokenException", times=1)

    assert ours.observe("shop", details=False).exists
    assert sandbox.calls()["ecr:GetRepositoryPolicy"] == 2


def test_credentials_that_stay_expired_are_an_error_after_one_repetition(
    configure: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    ours = door(configure)
    sandbox.fault("error", "ecr:GetRepositoryPolicy", code="ExpiredTokenException")

    with pytest.raises(RegistryError, match="ExpiredToken"):
        ours.observe("shop", details=False)
    assert sandbox.calls()["ecr:GetRepositoryPolicy"] == 2


def test_clients_and_threads_are_not_shared_with_a_forked_process(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, executor = clients.client_of("ecr", "us-east-1", Access(), 1), clients.executor()
    assert clients.client_of("ecr", "us-east-1", Access(), 1) is client
    assert clients.executor() is executor

    with monkeypatch.context() as forked:
        forked.setattr("deployments.aws.clients.os.getpid", lambda: 1)
        assert clients.client_of("ecr", "us-east-1", Access(), 1) is not client
        other = clients._executors.pop(1, None) or clients.executor()
        assert other is not executor
        clients._executors.pop(1, None)
    other.shutdown()


def test_a_call_that_may_still_be_started_ends_within_its_lease() -> None:
    settings: Any = clients._config(clients.ATTEMPTS_PER_CALL)

    assert (settings.connect_timeout, settings.read_timeout) == (3, 10)
    assert settings.retries == {"total_max_attempts": 3, "mode": "standard"}
    longest = clients.ATTEMPTS_PER_CALL * (clients.CONNECT_SECONDS + clients.READ_SECONDS)
    assert longest < repositories.REPOSITORY_LEASE.total_seconds() * (1 - lease.CALLS_END_SHARE_OF_LEASE)


@pytest.mark.django_db(transaction=True)
def test_the_event_queue_is_never_asked_inside_a_transaction(sandbox: Sandbox) -> None:
    queue = sqs.EventQueue(url=sandbox.events_to("q"), region="us-east-1", access=Access(), seconds=1)
    sandbox.reset_calls()

    with transaction.atomic(), pytest.raises(RuntimeError, match="transaction"):
        queue.receive()
    assert sandbox.calls() == {}
