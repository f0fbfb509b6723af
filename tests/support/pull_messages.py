"""Messages of failed pulls as programs printed them, from public reports.

Accounts, hosts, names of repositories and of roles are replaced, so that all messages are about one repository; the
rest is as printed. `source`: the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.pull_failures import Cause

OWNER, CLUSTER = "111111111111", "222222222222"
REGION = "us-east-1"
HOST = f"{OWNER}.dkr.ecr.{REGION}.amazonaws.com"
NAME = "trigger/proj_abcdefghijklmnopqrst"
TAG = "20261126.1.production.abcd1234"
DIGEST = f"sha256:{'7031c1b2' * 8}"
IMAGE = f"{HOST}/{NAME}"
RESOURCE = f"arn:aws:ecr:{REGION}:{OWNER}:repository/{NAME}"
NODE = f"arn:aws:sts::{CLUSTER}:assumed-role/eks-node-group/i-03543d3e416f0f883"
BUCKET = f"https://prod-{REGION}-starport-layer-bucket.s3.{REGION}.amazonaws.com"
_GITHUB = "https://github.com/"
_OURS = {"account": OWNER, "region": REGION, "repository": NAME}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message, and what it says by itself: `cause` and `names`, fields of `PullFailure`."""

    name: str
    text: str
    source: str
    cause: Cause
    names: Mapping[str, str] = field(default_factory=dict)


MESSAGES = (
    Message(
        name="docker, no resource-based policy allows",
        text=f"denied: User: {NODE} is not authorized to perform: ecr:BatchGetImage on resource: {RESOURCE} because no "
        "resource-based policy allows the ecr:BatchGetImage action",
        source=f"{_GITHUB}aws-actions/amazon-ecr-login/issues/232",
        cause=Cause.GRANTED_BY_NO_RESOURCE_POLICY,
        names={**_OURS, "principal": NODE, "caller": CLUSTER, "action": "ecr:BatchGetImage", "partition": "aws"},
    ),
    Message(
        name="explicit deny in a resource-based policy",
        text=f"Error response from daemon: pull access denied for {IMAGE}, repository does not exist or may require "
        f"'docker login': denied: User: {NODE} is not authorized to perform: ecr:BatchGetImage on resource: {RESOURCE} "
        "with an explicit deny in a resource-based policy",
        source="https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html",
        cause=Cause.DENIED_BY_RESOURCE_POLICY,
        names={**_OURS, "host": HOST, "caller": CLUSTER, "action": "ecr:BatchGetImage"},
    ),
    Message(
        name="CodeBuild, no identity-based policy allows",
        text=f"Error response from daemon: pull access denied for {IMAGE}, repository does not exist or may require "
        f"'docker login': denied: User: arn:aws:sts::{OWNER}:assumed-role/Docker-Builder-CodeBuild-Role/"
        "AWSCodeBuild-749228d3-4d07-4037-bd81-b631b0a0460e is not authorized to perform: ecr:BatchGetImage on "
        f"resource: {RESOURCE} because no identity-based policy allows the ecr:BatchGetImage action",
        source=f"{_GITHUB}everything2/everything2/issues/2562",
        cause=Cause.IDENTITY,
        names={**_OURS, "caller": OWNER, "action": "ecr:BatchGetImage"},
    ),
    Message(
        name="docker before AWS named the kind of policy",
        text='Dec 28 23:57:02 ip-10-0-1-124 dockerd[487]: time="2017-12-28T23:57:02.236510887Z" level=error msg="Not '
        f"continuing with pull after error: denied: User: {NODE} is not authorized to perform: ecr:BatchGetImage on "
        f'resource: {RESOURCE}"',
        source=f"{_GITHUB}awslabs/amazon-ecr-credential-helper/issues/88",
        cause=Cause.REFUSED,
        names={**_OURS, "caller": CLUSTER, "principal": NODE},
    ),
    Message(
        name="GetAuthorizationToken",
        text="An error occurred (AccessDeniedException) when calling the GetAuthorizationToken operation: User: "
        f"{NODE} is not authorized to perform: ecr:GetAuthorizationToken on resource: *",
        source=f"{_GITHUB}buildkite/elastic-ci-stack-for-aws/issues/193",
        cause=Cause.IDENTITY,
        names={"caller": CLUSTER, "action": "ecr:GetAuthorizationToken", "repository": ""},
    ),
    Message(
        name="ECS, 403 from a manifest",
        text=f"CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref {IMAGE}:"
        f"latest: pulling from host {HOST} failed with status code [manifests latest]: 403 Forbidden",
        source=f"{_GITHUB}aws/aws-cdk/issues/29876",
        cause=Cause.REFUSED,
        names={**_OURS, "host": HOST, "tag": "latest", "caller": ""},
    ),
    Message(
        name="ECS, 403 from a blob",
        text=f"CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref {IMAGE}:"
        f"latest@{DIGEST}: unexpected status from HEAD request to https://{HOST}/v2/{NAME}/blobs/{DIGEST}: 403 "
        "Forbidden",
        source=f"{_GITHUB}aws/containers-roadmap/issues/2493",
        cause=Cause.REFUSED,
        names={**_OURS, "tag": "latest", "digest": DIGEST},
    ),
    Message(
        name="kubelet, no basic auth credentials",
        text="Aug 20 05:41:26 i-0b9bd5da0497cb428 kubelet[3267]: E0820 05:41:26.086957 3267 remote_runtime.go:193] "
        '"RunPodSandbox from runtime service failed" err="rpc error: code = Unknown desc = failed to get sandbox image '
        rf"\"{IMAGE}:3.9@{DIGEST}\": failed to pull image \"{IMAGE}:3.9@{DIGEST}\": failed to pull and unpack image "
        rf"\"{IMAGE}@{DIGEST}\": failed to resolve reference \"{IMAGE}@{DIGEST}\": pull access denied, repository does "
        'not exist or may require authorization: authorization failed: no basic auth credentials"',
        source=f"{_GITHUB}kubernetes/kops/issues/16762",
        cause=Cause.NO_LOG_IN,
        names={**_OURS, "tag": "3.9", "digest": DIGEST},
    ),
    Message(
        name="docker, the token has expired",
        text='time="2018-10-23T18:02:42.616639182-03:00" level=error msg="Not continuing with pull after error: '
        "denied: Your Authorization Token has expired. Please run 'aws ecr get-login --no-include-email' to fetch a "
        'new one."\n'
        f'time="2018-10-23T18:02:42.616707624-03:00" level=error msg="pulling image failed" error="pull access denied '
        f"for {IMAGE}, repository does not exist or may require 'docker login'\" module=node/agent/taskmanager",
        source=f"{_GITHUB}awslabs/amazon-ecr-credential-helper/issues/118",
        cause=Cause.LOG_IN_EXPIRED,
        names=_OURS,
    ),
    Message(
        name="401 of a cache",
        text=f"GET https://{HOST}/v2/{NAME}/manifests/latest: unexpected status code 401 Unauthorized: Not Authorized",
        source=f"{_GITHUB}enix/kube-image-keeper/issues/172",
        cause=Cause.NO_LOG_IN,
        names={**_OURS, "tag": "latest"},
    ),
    Message(
        name="docker, manifest not found",
        text=f"Error response from daemon: manifest for {IMAGE}@{DIGEST} not found: manifest unknown: Requested image "
        "not found",
        source=f"{_GITHUB}concourse/docker-image-resource/issues/293",
        cause=Cause.NO_IMAGE,
        names={**_OURS, "digest": DIGEST},
    ),
    Message(
        name="ECS, digest not found",
        text=f"CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref {IMAGE}:"
        f"{TAG}@{DIGEST}: not found",
        source=f"{_GITHUB}aws/containers-roadmap/issues/2687",
        cause=Cause.NO_IMAGE,
        names={**_OURS, "tag": TAG, "digest": DIGEST},
    ),
    Message(
        name="the repository does not exist",
        text=f"name unknown: The repository with name '{NAME}' does not exist in the registry with id '{OWNER}'",
        source=f"{_GITHUB}aws-actions/amazon-ecr-login/issues/166",
        cause=Cause.NO_REPOSITORY,
        names={"account": OWNER, "repository": NAME, "region": ""},
    ),
    Message(
        name="containerd, no match for platform",
        text=f'Failed to pull image "{IMAGE}:{TAG}": rpc error: code = NotFound desc = failed to pull and unpack image '
        f'"{IMAGE}:{TAG}": no match for platform in manifest: not found',
        source=f"{_GITHUB}aws/aws-node-termination-handler/issues/1048",
        cause=Cause.PLATFORM,
        names={**_OURS, "tag": TAG},
    ),
    Message(
        name="Fargate, no descriptor for the platform",
        text="CannotPullContainerError: failed to find a descriptor for platform {linux/amd64}",
        source=f"{_GITHUB}aws/containers-roadmap/issues/1120",
        cause=Cause.PLATFORM,
        names={"platform": "linux/amd64", "host": ""},
    ),
    Message(
        name="ECS, i/o timeout at the API",
        text="ResourceInitializationError: unable to pull secrets or registry auth: The task cannot pull registry auth "
        "from Amazon ECR: There is a connection issue between the task and Amazon ECR. Check your task network "
        'configuration. RequestError: send request failed caused by: Post "https://api.ecr.us-east-1.amazonaws.com/": '
        "dial tcp 172.40.1.94:443: i/o timeout",
        source=f"{_GITHUB}aws/copilot-cli/issues/5927",
        cause=Cause.NETWORK,
        names={"host": "", "region": REGION},
    ),
    Message(
        name="kubelet, i/o timeout at the layer storage",
        text=f'Warning  Failed  10m  kubelet, ip-10-0-154-77.ec2.internal  Failed to pull image "{IMAGE}:{TAG}": rpc '
        f"error: code = Unknown desc = error pulling image configuration: Get {BUCKET}/1111-2222/abc?X-Amz-Algorithm="
        "AWS4-HMAC-SHA256&X-Amz-Signature=4c1d0e: dial tcp: i/o timeout",
        source=f"{_GITHUB}aws-quickstart/quickstart-amazon-eks/pull/52",
        cause=Cause.NETWORK,
        names={**_OURS, "tag": TAG},
    ),
    Message(
        name="docker, no such host",
        text=f"Error response from daemon: Get https://{HOST}/v2/: dial tcp: lookup {HOST} on 10.5.0.2:53: no such "
        "host",
        source=f"{_GITHUB}docker/for-linux/issues/371",
        cause=Cause.NO_HOST,
        names={"host": HOST, "account": OWNER, "repository": ""},
    ),
    Message(
        name="docker, a host that AWS does not have",
        text=f"Get https://{OWNER}.dkr.ecr.us-west-2.amazon.aws.com/v2/: dial tcp: lookup "
        f"{OWNER}.dkr.ecr.us-west-2.amazon.aws.com on 172.31.0.2:53: no such host",
        source=f"{_GITHUB}aws-samples/aws-modern-application-workshop/issues/197",
        cause=Cause.NO_HOST,
        names={"host": f"{OWNER}.dkr.ecr.us-west-2.amazon.aws.com", "partition": ""},
    ),
    Message(
        name="kaniko, unknown certificate authority",
        text=f'creating push check transport for {HOST} failed: Get "https://{HOST}/v2/": x509: certificate signed by '
        "unknown authority",
        source=f"{_GITHUB}GoogleContainerTools/kaniko/issues/2281",
        cause=Cause.CERTIFICATE,
        names={"host": HOST, "account": OWNER},
    ),
    Message(
        name="docker, throttled",
        text="Error response from daemon: toomanyrequests: Rate exceeded",
        source=f"{_GITHUB}mitogen-hq/mitogen/pull/790",
        cause=Cause.THROTTLED,
    ),
    Message(
        name="docker, S3 refuses the layer",
        text="error pulling image configuration: error parsing HTTP 403 response body: invalid character '<' looking "
        r"""for beginning of value: "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code>"""
        '<Message>Access Denied</Message><RequestId>835EB39A43ACC922</RequestId></Error>"',
        source=f"{_GITHUB}moby/moby/issues/34185",
        cause=Cause.LAYER_STORAGE,
    ),
    Message(
        name="buildx, another registry",
        text="ERROR: failed to solve: registry.example.com/shelf/libreoffice-base:7.4-node16-x86_64: unexpected "
        "status from HEAD request to https://registry.example.com/v2/shelf/libreoffice-base/manifests/7.4-node16-x86_64"
        ": 403 Forbidden",
        source=f"{_GITHUB}shelfio/libreoffice-lambda-base-image/issues/25",
        cause=Cause.REFUSED,
        names={"host": "registry.example.com", "repository": "shelf/libreoffice-base", "partition": ""},
    ),
)
