"""What a message of a failed pull says by itself, and that no credential of a pasted text is left in what is read."""

from __future__ import annotations

import re
import shlex

import pytest

from deployments import pull_failures
from deployments.aws.partitions import partitions
from deployments.pull_failures import MASK, MAX_BYTES, SHAPES, Cause, PullFailure, excerpt, masked
from tests.support.pull_messages import BUCKET, CLUSTER, DIGEST, HOST, IMAGE, MESSAGES, NAME, OWNER, RESOURCE, Message

ECR_TOKEN = "eyJwYXlsb2FkIjoieXRSVW5JMzkwRlVneitXNnpPNnJGOGRqYU9yZ0tRbEFIdkF0aGprMjlNTU1JWWdQd095QlJsQ01FUmRCWFVj"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # AWS's example of a secret access key
#: (text around a credential, the credential).
CREDENTIALS = (
    ("Authorization: Bearer {}", "dGhlIHNlY3JldA-of_a.bearer"),
    ("request.header.authorization=Basic {}", "QVdTOnBhc3N3b3Jk"),
    ("crictl pull --creds AWS:{} image", ECR_TOKEN),
    ('crictl pull --creds "AWS:{}" image', "short-but-secret"),
    ("docker login -u AWS -p {} host", ECR_TOKEN),
    ("docker login --username AWS --password={} host", "correct-horse-battery"),
    ("token {} was refused", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"),
    ("aws_access_key_id {}", "AKIAIOSFODNN7EXAMPLE"),
    ("Credential={}/20260101/us-east-1", "ASIAIOSFODNN7EXAMPLE"),
    ("the key is {} here", SECRET),
    ("AWS_SECRET_ACCESS_KEY={}", SECRET),
    ('"secret": "{}"', "only-small-letters"),
    (BUCKET + "/1111-2222/abc?X-Amz-Signature={}: 403", "4c1d0e9f00aa"),
    (BUCKET + r"/1111-2222/abc?X-Amz-Expires=3600\u0026X-Amz-Security-Token={}\" ok", "IQoJb3JpZ2luX2Vj"),
    ("X-Amz-Signature={}&next=1", "0123456789abcdef"),
    ("https://someone:{}@registry.example.com/v2/", "p4ssw0rd"),
    ("TRIGGER_ACCESS_TOKEN is {}", "tr_pat_abcdefghijkmnopqrstuvwxyz123456789abcdef"),
)


def read(text: str) -> PullFailure:
    return pull_failures.read(text, partitions())


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
def test_each_real_message_is_read_as_what_it_says(message: Message) -> None:
    found = read(message.text)

    assert found.cause == message.cause
    assert {name: getattr(found, name) for name in message.names} == message.names


def test_every_cause_has_a_form_and_every_form_its_public_source() -> None:
    assert {shape.cause for shape in SHAPES} == set(Cause)
    assert all(shape.source.startswith("https://") for shape in SHAPES)
    assert len({shape.name for shape in SHAPES}) == len(SHAPES)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("identity-based policy", Cause.IDENTITY),
        ("permissions boundary", Cause.IDENTITY),
        ("session policy", Cause.IDENTITY),
        ("service control policy", Cause.ORGANIZATION),
        ("resource control policy", Cause.ORGANIZATION),
        ("VPC endpoint policy", Cause.ENDPOINT_POLICY),
        ("resource-based policy", Cause.DENIED_BY_RESOURCE_POLICY),
    ],
)
def test_the_kind_of_policy_that_aws_names_decides(kind: str, cause: Cause) -> None:
    text = (
        f"User: arn:aws:iam::{CLUSTER}:user/ci is not authorized to perform: ecr:BatchGetImage on resource: {RESOURCE}"
    )

    assert read(f"{text} with an explicit deny in a {kind}").cause == cause


def test_a_text_of_another_kind_has_no_form() -> None:
    found = read("Back-off pulling image\nthe sun shines")

    assert (found.shape, found.cause, found.host) == (None, None, "")


def test_the_line_with_the_reason_names_the_image_and_other_lines_complete_it() -> None:
    found = read(
        f'Normal  Pulling  kubelet  Pulling image "registry.example.com/other:1"\n'
        f'Warning Failed   kubelet  Failed to pull image "{IMAGE}:5": no match for platform in manifest: not found\n'
        "Warning Failed   kubelet  Error: ErrImagePull, node linux/arm64"
    )

    assert (found.host, found.repository, found.tag, found.platform) == (HOST, NAME, "5", "linux/arm64")


@pytest.mark.parametrize(
    ("host", "partition", "region"),
    [
        (f"{OWNER}.dkr.ecr.cn-north-1.amazonaws.com.cn", "aws-cn", "cn-north-1"),
        (f"{OWNER}.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "aws-us-gov", "us-gov-west-1"),
        (f"{OWNER}.dkr-ecr.eu-central-1.on.aws", "aws", "eu-central-1"),
        ("127.0.0.1:5000", "", ""),
    ],
)
def test_the_registry_is_read_from_the_host_in_every_partition(host: str, partition: str, region: str) -> None:
    found = read(f'Failed to pull image "{host}/{NAME}:1": 403 Forbidden')

    assert (found.host, found.partition, found.region, found.repository) == (host, partition, region, NAME)


@pytest.mark.parametrize("name", ["a;reboot", "Big/Name", "a/$(id)", "-rf", "a/../b"])
def test_a_name_that_ecr_would_refuse_is_not_taken(name: str) -> None:
    found = read(f"The repository with name '{name}' does not exist in the registry with id '{OWNER}'")
    assert found.repository == ""

    found = read(f'Failed to pull image "{HOST}/{name}:1;reboot": 403 Forbidden')
    assert all(shlex.quote(text) == text for text in (found.host, found.repository, found.tag) if text)


# ------------------------------------------------------------------------------------------------------------ masking


@pytest.mark.parametrize(("around", "credential"), CREDENTIALS)
def test_a_credential_in_a_text_is_masked(around: str, credential: str) -> None:
    text = masked(around.format(credential))

    assert credential not in text
    assert MASK in text


@pytest.mark.parametrize(("around", "credential"), CREDENTIALS)
def test_no_credential_is_in_what_was_read(around: str, credential: str) -> None:
    found = read(f"{around.format(credential)} {IMAGE}:latest: 403 Forbidden User: arn:aws:iam::{CLUSTER}:user/a")

    assert credential not in repr(found)


def test_a_name_that_holds_a_credential_is_read_without_it() -> None:
    found = read(
        f"User: arn:aws:sts::{CLUSTER}:assumed-role/ci/AKIAIOSFODNN7EXAMPLE is not authorized to perform: ecr:X"
    )

    assert found.caller == CLUSTER
    assert "AKIA" not in found.principal


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
def test_masking_leaves_what_the_answer_needs(message: Message) -> None:
    text = masked(message.text)

    assert all(name in text for name in (HOST, NAME, DIGEST, RESOURCE) if name in message.text)
    assert masked(text) == text


# ------------------------------------------------------------------------------------------------------------- excerpt


def test_of_the_output_of_a_build_the_line_that_can_be_explained_is_taken() -> None:
    reason = f"ERROR: failed to solve: {IMAGE}:1: unexpected status: 403 Forbidden"

    assert excerpt("#1 DONE 0.1s\n" * 3000 + reason + "\n#2 CANCELED") == reason
    assert excerpt("npm ERR! missing script: build") == ""


def test_a_build_that_did_not_reach_another_server_is_not_taken_for_a_pull() -> None:
    assert excerpt("npm ERR! request to https://packages.example.com/left-pad failed: i/o timeout") == ""
    assert excerpt(f'Get "https://{HOST}/v2/": dial tcp: i/o timeout') != ""


def test_an_excerpt_is_never_longer_than_what_may_be_pasted() -> None:
    text = excerpt("manifest " + "é" * MAX_BYTES + "no basic auth credentials" + "é" * MAX_BYTES)

    assert "no basic auth credentials" in text
    assert len(text.encode()) <= MAX_BYTES


@pytest.mark.parametrize(
    "part", ["a/", "sha256:", "eyJ", "arn:aws:ecr:", "https://", "User: arn:aws:sts::", "a.b/", "\\"]
)
def test_a_text_of_one_repeated_part_is_read_to_its_end(part: str) -> None:
    """A pattern with quadratic or worse work on such a text would not come back from it (the tests' time limit)."""
    text = part * (MAX_BYTES // len(part))

    assert read(text).repository == "" or re.fullmatch(r"[a-z0-9._/-]+", read(text).repository)
