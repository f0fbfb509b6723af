"""What is assumed of ECR's log-ins and of the registry's own API (/v2/), with which images are pushed and pulled."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from conformance.account import EMPTY_LAYER, LAYER, MANIFEST, Account, Answer, Clients, document, on, shown
from conformance.assumptions import NotRun, assumed, expect

PULL = ("ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability")
PUSH_ACTIONS = (*PULL, "ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload", "ecr:PutImage")


def error(answer: Answer) -> tuple[int, str, str]:
    """Status, code and message of an error of the registry."""
    try:
        first = json.loads(answer.body)["errors"][0]
    except (ValueError, LookupError):
        return answer.status, "", ""
    return answer.status, str(first.get("code")), str(first.get("message"))


def manifest(aws: Account, log_in: tuple[str, str], reference: str, name: str = "") -> Answer:
    """The registry's answer to a pull of a manifest."""
    return aws.ask(log_in, "GET", f"{name or aws.name}/manifests/{reference}", Accept=MANIFEST)


@assumed("log-in-twelve-hours", "api:AuthorizationData", "aws/ecr.py authorization", makes="")
def log_in_twelve_hours(aws: Account) -> None:
    """A log-in is for the user AWS, ends after twelve hours, and its proxyEndpoint is an address without a path."""
    answer = aws.ecr.get_authorization_token(registryIds=[aws.account])["authorizationData"]
    user, _, password = base64.b64decode(answer[0]["authorizationToken"]).decode().partition(":")
    left = answer[0]["expiresAt"] - datetime.now(UTC)
    expect(len(answer) == 1 and user == "AWS" and password, f"{len(answer)} log-ins, for the user {user}")
    expect(abs(left - timedelta(hours=12)) < timedelta(minutes=5), f"a log-in that ends in {left}")
    url = urlsplit(answer[0]["proxyEndpoint"])
    expect(url.scheme.startswith("http") and url.netloc and not url.path, answer[0]["proxyEndpoint"])


@assumed(
    "registry-not-found",
    "seen:aws-actions/amazon-ecr-login/issues/166",
    "sandbox/registry.py NAME_UNKNOWN; pull_failures.py manifest unknown",
)
def registry_not_found(aws: Account) -> None:
    """A pull from a missing repository is 404 NAME_UNKNOWN, of a missing image 404 MANIFEST_UNKNOWN “Requested image
    not found”.
    """
    log_in = aws.log_in()
    aws.repository()
    missing = error(manifest(aws, log_in, "v1", f"{aws.name}-missing"))
    expect(missing[:2] == (404, "NAME_UNKNOWN") and "does not exist in the registry with id" in missing[2], missing)
    saw = error(manifest(aws, log_in, "v1"))
    expect(saw == (404, "MANIFEST_UNKNOWN", "Requested image not found"), saw)


@assumed(
    "registry-log-in-missing",
    "guide:registry_auth; the status is not documented",
    "sandbox/registry.py UNAUTHORIZED; pull_failures.py 401 Unauthorized",
    makes="",
)
def registry_log_in_missing(aws: Account) -> None:
    """A request to the registry without a log-in is 401."""
    address, _ = aws.log_in()
    saw = aws.ask((address, ""), "GET", f"{aws.name}/manifests/v1").status
    expect(saw == 401, saw)


@assumed("registry-immutable-tag", "seen:moby/buildkit/issues/3776", "sandbox/registry.py TAG_INVALID")
def registry_immutable_tag(aws: Account) -> None:
    """The registry refuses also the same manifest under an immutable tag, with 400 TAG_INVALID."""
    name, log_in = aws.repository(imageTagMutability="IMMUTABLE"), aws.log_in()
    aws.push(name, "v1")
    body = manifest(aws, log_in, "v1").body
    saw = error(aws.ask(log_in, "PUT", f"{name}/manifests/v1", body, **{"Content-Type": MANIFEST}))
    expect(saw[:2] == (400, "TAG_INVALID"), saw)


@assumed(
    "registry-refuses",
    "seen:oras-project/oras-py/issues/54; seen:google/go-containerregistry/issues/681; the 404 is not documented",
    "sandbox/registry.py BLOB_UPLOAD_UNKNOWN; sandbox/registry.py MAX_TAGS_IN_A_PAGE",
)
def registry_refuses(aws: Account) -> None:
    """The registry refuses a manifest whose layer is missing with 404 BLOB_UPLOAD_UNKNOWN, and a list of more than
    1,000 tags with 405 UNSUPPORTED.
    """
    name, log_in = aws.repository(), aws.log_in()
    missing = {"mediaType": LAYER, "digest": "sha256:" + 64 * "0", "size": 1}
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": missing, "layers": [missing]}).encode()
    saw = error(aws.ask(log_in, "PUT", f"{name}/manifests/v1", body, **{"Content-Type": MANIFEST}))
    expect(saw[:2] == (404, "BLOB_UPLOAD_UNKNOWN"), saw)
    saw = error(aws.ask(log_in, "GET", f"{name}/tags/list?n=1001"))
    expect(saw[:2] == (405, "UNSUPPORTED"), saw)


@assumed(
    "registry-blob",
    "not documented; each client follows a redirect to the layer's storage",
    "sandbox/registry.py _get_blob",
)
def registry_blob(aws: Account) -> None:
    """A layer is given by the registry itself (200), or by a redirect (307) to an address that needs no log-in."""
    name, log_in = aws.repository(), aws.log_in()
    aws.push(name, "v1")
    digest, size = aws.layer(name, EMPTY_LAYER)  # is there by now
    answer = aws.ask(log_in, "GET", f"{name}/blobs/{digest}")
    expect(
        (answer.status == 200 and len(answer.body) == size) or (answer.status == 307 and answer.headers["Location"]),
        answer.status,
    )


@assumed(
    "registry-mount",
    "guide:blob-mounting",
    "sandbox/registry.py BLOB_MOUNTING; deploys/push_credentials.py mount of a layer",
    makes="repository-source repository-target",
)
def registry_mount(aws: Account) -> None:
    """Where the account setting BLOB_MOUNTING is not ENABLED, a mount of an image's layer from another repository
    begins an upload (202).
    """
    if aws.ecr.get_account_setting(name="BLOB_MOUNTING")["value"] == "ENABLED":
        raise NotRun("a registry whose setting BLOB_MOUNTING is not ENABLED")
    expect(mount(aws) == 202, "another status")


def mount(aws: Account) -> int:
    """The registry's status to a mount of an image's layer into another repository."""
    source, target = aws.repository("-source"), aws.repository("-target")
    aws.push(source, "v1")
    digest, _ = aws.layer(source, EMPTY_LAYER)  # is there by now
    return aws.ask(aws.log_in(), "POST", f"{target}/blobs/uploads/?mount={digest}&from={source}").status


@assumed(
    "mount-when-enabled",
    "guide:blob-mounting",
    "sandbox/registry.py BLOB_MOUNTING",
    makes="repository-source repository-target BLOB_MOUNTING",
    registry_wide=True,
)
def mount_when_enabled(aws: Account) -> None:
    """Where the account setting BLOB_MOUNTING is ENABLED, a layer of an image in another repository of the registry is
    mounted (201).
    """
    aws.set("BLOB_MOUNTING", "ENABLED")
    saw = mount(aws)
    expect(saw == 201, f"status {saw}")


def narrow(aws: Account, *names: str) -> Clients:
    """A session that may push to these repositories of this run, of a role that may push to all of them.

    Returns it as soon as the role's policy counts.
    """
    role = aws.role(*PUSH_ACTIONS)
    arns = [f"arn:{aws.partition}:ecr:{aws.region}:{aws.account}:repository/{name}" for name in names]
    policy = document(
        {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
        {"Effect": "Allow", "Action": list(PUSH_ACTIONS), "Resource": arns},
    )
    session = aws.assume(role, Policy=policy)
    image = {"imageIds": [{"imageTag": "none"}]}
    ready = aws.until(
        lambda: aws.answers("AccessDeniedException", lambda: session("ecr").batch_get_image(**on(names[0]), **image)),
        seconds=60,
    )
    if ready is None:
        raise NotRun("a role whose policy counts within a minute")
    return session


@assumed(
    "narrow-log-in",
    "iam:access_policies; api:GetAuthorizationToken",
    "deploys/push_credentials.py session_policy; sandbox/registry.py authenticate",
    makes="repository repository-other role",
)
def narrow_log_in(aws: Account) -> None:
    """A log-in that was fetched with a session has the session's rights: it pulls from and pushes to the one repository
    that the session policy names, and for another repository the registry says 403 DENIED, and ECR “because no session
    policy allows”.
    """
    name, other = aws.repository(), aws.repository("-other")
    digest = aws.push(name, "v1")
    aws.push(other, "v1")
    session = narrow(aws, name)
    log_in = aws.log_in(session)
    allowed = manifest(aws, log_in, digest)
    expect(allowed.status == 200, f"status {allowed.status} to a pull that the session allows")
    pushed = aws.ask(log_in, "PUT", f"{name}/manifests/v2", allowed.body, **{"Content-Type": MANIFEST}).status
    expect(pushed == 201, f"status {pushed} to a push that the session allows")
    saw = error(manifest(aws, log_in, digest, other))
    expect(saw[:2] == (403, "DENIED") and "is not authorized to perform: ecr:BatchGetImage on resource:" in saw[2], saw)
    image = {**on(other), "imageIds": [{"imageTag": "v1"}]}
    message = aws.refused("AccessDeniedException", lambda: session("ecr").batch_get_image(**image))
    expect("because no session policy allows the ecr:BatchGetImage action" in message, message)


@assumed(
    "log-in-ends-with-session",
    "not documented for ECR; iam:id_credentials_temp; the words: seen:awslabs/amazon-ecr-credential-helper/issues/118",
    "deploys/push_credentials.py It ends with the session",
    "sandbox/registry.py expires",
    "pull_failures.py authorization token has expired",
    makes="repository role",
    minutes=16,
)
def log_in_ends_with_session(aws: Account) -> None:
    """A log-in that was fetched with a session ends with the session, although its expiresAt is twelve hours away: the
    registry says 403 “Your authorization token has expired”, and ECR ExpiredTokenException.
    """
    name = aws.repository()
    digest = aws.push(name, "v1")
    session = narrow(aws, name)
    log_in = aws.log_in(session)
    expect(manifest(aws, log_in, digest).status == 200, "another status than 200 before the session's end")
    aws.wait(930)
    aws.refused("ExpiredTokenException", lambda: session("ecr").get_authorization_token())
    answer = manifest(aws, log_in, digest)
    saw = error(answer)
    expect(saw[0] == 403 and "authorization token has expired" in saw[2].lower(), f"{saw} {shown(answer.body)}")
