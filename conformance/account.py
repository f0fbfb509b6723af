"""What a probe gets: clients of one account and region, names of its own, and a journal of all that it creates."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from conformance.assumptions import Assumption, Differs, NotRun
from conformance.journal import MARK, Journal, code_of, sid

T = TypeVar("T")
Json = dict[str, Any]

USER_AGENT = "registry-admin-conformance"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY_LAYER = gzip.compress(bytes(1024), mtime=0)
#: New roles and their policies are known everywhere after some seconds (IAM User Guide, “Troubleshoot IAM: Changes that
#: I make are not always immediately visible”).
PROPAGATION_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the registry's own API."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Access keys; all empty: those of this process."""

    access_key: str | None = None
    secret: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


class Clients:
    """Clients of AWS with the same keys. Counts the requests. `endpoint`: empty for AWS."""

    def __init__(self, region: str, *, endpoint: str = "", keys: Keys | None = None, count: list[int] | None = None):
        self.region, self.endpoint, self._keys = region, endpoint, keys or Keys()
        self.count = count if count is not None else [0]

    @functools.cache  # noqa: B019  a run has few of these objects
    def __call__(self, service: str) -> Any:
        config = Config(
            retries={"total_max_attempts": 3, "mode": "standard"},
            connect_timeout=5,
            read_timeout=30,
            user_agent_extra=USER_AGENT,
            parameter_validation=False,  # AWS shall judge
            # AWS_ENDPOINT_URL of a rehearsal is not AWS.
            ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]  # the stub does not have it
        )
        client = _session().client(
            service,
            region_name=self.region,
            endpoint_url=self.endpoint or None,
            aws_access_key_id=self._keys.access_key,
            aws_secret_access_key=self._keys.secret,
            aws_session_token=self._keys.token,
            config=config,
        )
        client.meta.events.register("before-send", self._counted)
        return client

    def _counted(self, **_: object) -> None:
        self.count[0] += 1

    def other(self, keys: Keys) -> Clients:
        """Clients with other keys, counted together with these."""
        return Clients(self.region, endpoint=self.endpoint, keys=keys, count=self.count)


@functools.cache
def _session() -> Any:
    return boto3.session.Session()


class Account:
    """One probe's view of the account. Whatever it creates stands in the journal before, and is deleted by it."""

    def __init__(
        self, clients: Clients, journal: Journal, assumption: Assumption, *, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self.clients, self._journal, self._wait = clients, journal, wait
        self.account, self.region = journal.run["account"], clients.region
        self.partition, self.caller = journal.run["caller"].split(":")[1], journal.run["caller"]
        self._announced = assumption.names(journal.run["prefix"])
        self.name = f"{journal.run['prefix']}/{assumption.id}"
        self.short = self.name.replace("/", "-")  # where a name has no slash
        self.root = f"arn:{self.partition}:iam::{self.account}:root"
        self.arn = f"arn:{self.partition}:ecr:{self.region}:{self.account}:repository/{self.name}"
        self.ecr, self.sts = clients("ecr"), clients("sts")

    # -- what it creates --

    def repository(self, suffix: str = "", tags: dict[str, str] | None = None, **request: object) -> str:
        """Create a repository, wait until ECR finds it, and return its name."""
        name, arn = self.name + suffix, self.arn + suffix
        self._will("repository", name, arn=arn)
        marked = {MARK: self._journal.run["prefix"], **(tags or {})}
        pairs = [{"Key": key, "Value": value} for key, value in marked.items()]
        try:
            self.ecr.create_repository(repositoryName=name, tags=pairs, **request)
        except ClientError as error:  # the answer of botocore's first try may be lost
            if not error.response["ResponseMetadata"].get("RetryAttempts") or "Exists" not in code_of(error):
                raise
        self.until(lambda: self.answers("RepositoryNotFoundException", lambda: self.describe(name)), seconds=20)
        return name

    def describe(self, name: str) -> Json:
        """The answer of DescribeRepositories about one repository."""
        return dict(self.ecr.describe_repositories(repositoryNames=[name])["repositories"][0])

    def role(self, *actions: str, external_id: str = "") -> str:
        """Create a role that this account may assume, with these permissions on what the run creates. Gives its ARN."""
        name, iam = self.short, self.clients("iam")
        trust: Json = {"Effect": "Allow", "Principal": {"AWS": self.root}, "Action": "sts:AssumeRole"}
        if external_id:
            trust["Condition"] = {"StringEquals": {"sts:ExternalId": external_id}}
        self._will("role", name)
        path = f"/{self._journal.run['prefix']}/"
        made = iam.create_role(RoleName=name, Path=path, AssumeRolePolicyDocument=document(trust))
        if actions:
            ours = [self.arn.replace(self.name, f"{path.strip('/')}/*"), self.root.replace(":root", f":role{path}*")]
            anywhere = ["ecr:GetAuthorizationToken", "sts:GetFederationToken"]
            policy = document(
                {"Effect": "Allow", "Action": [*actions, "sts:AssumeRole"], "Resource": ours},
                {"Effect": "Allow", "Action": anywhere, "Resource": "*"},
            )
            iam.put_role_policy(RoleName=name, PolicyName="probe", PolicyDocument=policy)
        return str(made["Role"]["Arn"])

    def assume(self, role: str, **request: object) -> Clients:
        """Clients with a session of a role, as soon as STS knows the role."""
        request = {"RoleSessionName": "conformance", "DurationSeconds": 900, **request}

        def assumed() -> Json | None:
            return self.answers("AccessDenied", lambda: dict(self.sts.assume_role(RoleArn=role, **request)))

        found = self.until(assumed, seconds=PROPAGATION_SECONDS)
        if found is None:
            raise NotRun("a caller that may assume a role of its own account")
        return self.clients.other(keys_of(found))

    def queue(self) -> str:
        """Create a queue to which EventBridge may send, and return its URL."""
        self._will("queue", self.short)
        arn = f"arn:{self.partition}:sqs:{self.region}:{self.account}:{self.short}"
        allow = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage"}
        policy = document({**allow, "Resource": arn})
        return str(self.clients("sqs").create_queue(QueueName=self.short, Attributes={"Policy": policy})["QueueUrl"])

    def rule(self, pattern: Json, state: str) -> None:
        """Create a rule of EventBridge that sends what matches to the queue of this probe."""
        events = self.clients("events")
        self._will("rule", self.short)
        events.put_rule(Name=self.short, EventPattern=json.dumps(pattern), State=state)
        arn = f"arn:{self.partition}:sqs:{self.region}:{self.account}:{self.short}"
        events.put_targets(Rule=self.short, Targets=[{"Id": "queue", "Arn": arn}])

    def put_registry_policy(self, statement: Json) -> Json:
        """Give the registry a policy with this one statement. Returns ECR's answer."""
        self._change_registry("registry_policy", self.short)
        return dict(self.ecr.put_registry_policy(policyText=document({**statement, "Sid": sid(self.short)})))

    def exclude(self, role: str) -> None:
        """Register a role of this run as a pull time exclusion."""
        self._change_registry("exclusion", role)
        self.ecr.register_pull_time_update_exclusion(principalArn=role)

    def set(self, name: str, value: str) -> None:
        """Give an account setting a value."""
        before = self.ecr.get_account_setting(name=name)["value"]
        self._change_registry("setting", name, before=before, value=value)
        self.ecr.put_account_setting(name=name, value=value)

    def _will(self, kind: str, name: str, **detail: str) -> None:
        """To be called before each creation and change. Raises RuntimeError for one that was not announced."""
        own = name.rpartition("/")[2] if name.startswith("arn:") else name
        if (kind, own) not in self._announced:
            raise RuntimeError(f"{kind} {name} was not announced")
        self._journal.will(kind, name, **detail)

    def _change_registry(self, kind: str, name: str, **detail: str) -> None:
        if found := registry_has(self.clients):
            raise NotRun(f"a registry without {found}")
        self._will(kind, name, **detail)

    def push(self, name: str, tag: str | None = None, **manifest: object) -> str:
        """Push a small image and return its digest. `manifest`: further elements, which make it another image."""
        config = self.layer(name, b'{"architecture":"amd64","os":"linux"}')
        layer = self.layer(name, EMPTY_LAYER)
        content = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config[0], "size": config[1]},
            "layers": [{"mediaType": LAYER, "digest": layer[0], "size": layer[1]}],
            **manifest,
        }
        return self.put(name, content, tag)

    def put(self, name: str, content: Json, tag: str | None = None) -> str:
        """Push a manifest and return its digest."""
        text = json.dumps(content)
        more = {"imageTag": tag} if tag else {}
        kind = content["mediaType"]
        answer = self.ecr.put_image(repositoryName=name, imageManifest=text, imageManifestMediaType=kind, **more)
        return str(answer["image"]["imageId"]["imageDigest"])

    def layer(self, name: str, content: bytes) -> tuple[str, int]:
        """Upload a blob. Returns its digest and its size in bytes."""
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        there = self.ecr.batch_check_layer_availability(repositoryName=name, layerDigests=[digest])["layers"]
        if there[0]["layerAvailability"] != "AVAILABLE":
            upload = self.ecr.initiate_layer_upload(repositoryName=name)["uploadId"]
            part = {"partFirstByte": 0, "partLastByte": len(content) - 1, "layerPartBlob": content}
            self.ecr.upload_layer_part(repositoryName=name, uploadId=upload, **part)
            whole = {"repositoryName": name, "uploadId": upload, "layerDigests": [digest]}
            # A layer of archived images only is not available, and may be there.
            self.answers("LayerAlreadyExistsException", lambda: self.ecr.complete_layer_upload(**whole))
        return digest, len(content)

    # -- how it looks --

    def refused(self, code: str, call: Callable[[], object]) -> str:
        """AWS's message. Raises Differs unless AWS refuses the call with this error code."""
        try:
            answer = call()
        except ClientError as error:
            if code_of(error) != code:
                raise
            return str(error.response["Error"].get("Message", ""))
        raise Differs(f"AWS accepted it instead of {code}: {shown(answer)}")

    def answers(self, code: str, call: Callable[[], T]) -> T | None:
        """The answer; None if AWS refuses with this error code."""
        try:
            return call()
        except ClientError as error:
            if code_of(error) == code:
                return None
            raise

    def until(self, look: Callable[[], T | None], *, seconds: float, every: float = 2) -> T | None:
        """The first answer of `look` that is true; the last one after this time."""
        waited, found = 0.0, look()
        while not found and waited < seconds:
            self.wait(every)
            waited, found = waited + every, look()
        return found

    def wait(self, seconds: float) -> None:
        """Wait. In a rehearsal, the clock of the sandbox moves instead."""
        self._wait(seconds)

    def image(self, name: str, digest: str, **request: object) -> Json:
        """The answer of DescribeImages about one image."""
        found = self.ecr.describe_images(repositoryName=name, imageIds=[{"imageDigest": digest}], **request)
        return dict(found["imageDetails"][0])

    def log_in(self, clients: Clients | None = None) -> tuple[str, str]:
        """The registry's address and the value of the header Authorization, of these clients or of the caller."""
        data = (clients or self.clients)("ecr").get_authorization_token()["authorizationData"][0]
        return data["proxyEndpoint"], "Basic " + data["authorizationToken"]

    def ask(self, log_in: tuple[str, str], method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """One request to the registry's own API; redirects are not followed."""
        address, authorization = log_in
        url = urlsplit(address)
        kind = http.client.HTTPConnection if url.scheme == "http" else http.client.HTTPSConnection
        connection = kind(url.netloc, timeout=30)
        self.clients.count[0] += 1
        try:
            sent = {"Content-Length": str(len(body)), **headers}
            if authorization:
                sent["Authorization"] = authorization
            connection.request(method, "/v2/" + path, body or None, sent)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()


def keys_of(answer: Json) -> Keys:
    """The keys in an answer of STS."""
    found = answer["Credentials"]
    return Keys(access_key=found["AccessKeyId"], secret=found["SecretAccessKey"], token=found["SessionToken"])


def registry_has(clients: Clients) -> str:
    """What of the registry's own this account has set: then no probe changes it. Empty: nothing."""
    ecr = clients("ecr")
    try:
        ecr.get_registry_policy()
        return "a registry policy"
    except ClientError as error:
        if code_of(error) != "RegistryPolicyNotFoundException":
            raise
    if ecr.list_pull_time_update_exclusions()["pullTimeUpdateExclusions"]:
        return "pull time exclusions"
    for name, value in (("REGISTRY_POLICY_SCOPE", "V2"), ("BLOB_MOUNTING", "DISABLED")):
        if ecr.get_account_setting(name=name)["value"] != value:
            return f"the setting {name}"
    return ""


def document(*statements: Json) -> str:
    """The text of a policy."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(principal: object, *actions: str, **more: object) -> Json:
    """A statement of a repository policy that allows; without actions, the two of a pull."""
    who = principal if principal == "*" else {"AWS": principal}
    pull = ("ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
    return {"Effect": "Allow", "Principal": who, "Action": list(actions or pull), **more}


def shown(answer: object) -> str:
    """An answer for the report, without what every answer has."""
    if isinstance(answer, dict):
        answer = {key: value for key, value in answer.items() if key != "ResponseMetadata"}
    return " ".join(str(answer).split())[:300]


def on(name: str) -> dict[str, str]:
    """The parameter that names a repository."""
    return {"repositoryName": name}
