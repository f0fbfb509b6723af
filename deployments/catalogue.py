"""The catalogue of errors: each one's code, its sentence, its cause, who can mend it, and whether it heals by itself.

One place for the words, so that the CLI, the row, the admin and `docs/errors.md` (`manage.py errors`) say the same.
A sentence tells what happened and what to do; it holds no traceback, no secret and no name of our own code. Errors are
one of two kinds: AWS (or another registry) did not do what was asked, `RegistryError`; or we say no, `Refusal`.

Pure: it looks up and fills in. What boto3 raised is read in `deployments.aws`, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from string import Formatter


class Owner(StrEnum):
    NOBODY = "nobody has to"
    DEPLOYER = "whoever deploys"
    OPERATOR = "whoever runs Registry Admin"
    CONSUMER = "whoever runs the consumer account"
    MAKERS = "the makers of Registry Admin"


class Retry(StrEnum):
    YES = "yes, trying again is enough"
    BOUNDED = "for some minutes; if it stays, it does not"
    NO = "no"
    DEPENDS = "if its reason does"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One kind of error. `says` and `todo` make its sentence; both may hold {names} that are filled in."""

    codes: tuple[str, ...]  # as they stand on rows and in answers of the API
    says: str
    todo: str = ""
    cause: str
    owner: Owner
    retryable: Retry = Retry.NO
    on: tuple[str, ...] = ()  # only of these operations of AWS
    detail: str = ""  # only where AWS's message contains this
    installation: bool = False  # nothing of the registry can work until it is mended
    shows_detail: bool = True

    @property
    def template(self) -> str:
        return f"{self.says} {self.todo}".strip()

    @property
    def placeholders(self) -> set[str]:
        return {name for _, name, _, _ in Formatter().parse(self.template) if name}


def find(code: str, *, operation: str = "", detail: str = "") -> Entry | None:
    """The entry of a code, the one for this operation or message of AWS first."""
    known = [entry for entry in ENTRIES if code in entry.codes]
    narrow = [entry for entry in known if entry.detail and entry.detail in detail.lower()]
    narrow += [entry for entry in known if operation in entry.on]
    return next(iter([*narrow, *(entry for entry in known if not entry.on and not entry.detail)]), None)


def sentence(code: str, **values: object) -> str:
    """The sentence of an error of ours. Raises KeyError for a code or a value that is missing: a fault of ours."""
    entry = find(code)
    if entry is None:
        raise KeyError(code)
    return entry.template.format(**values).strip()


# ---------------------------------------------------------------------------------------------------------- the page


def page() -> str:
    """The text of `docs/errors.md`."""
    text = (
        "# Errors\n\n"
        "Made by `manage.py errors > docs/errors.md` from the program's own catalogue: the CLI, the admin and this\n"
        "page say the same sentence. Words in CAPITALS are filled in. A code stands in the API's answers and on the\n"
        "rows, and stays when its sentence is improved. `manage.py errors CODE` prints one.\n"
    )
    for title, entries in SECTIONS.items():
        text += f"\n## {title}\n" + "".join(f"\n{explained(entry)}" for entry in entries)
    return text


def explained(entry: Entry) -> str:
    """An entry's part of the page."""
    heading = ", ".join(f"`{code}`" for code in entry.codes)
    if entry.on:
        heading += f" of {', '.join(entry.on)}"
    if entry.detail:
        heading += f", “{entry.detail}”"
    shown = entry.template.format(**{name: name.upper().replace("_", " ") for name in entry.placeholders})
    lines = [f"### {heading}", "", f"> {shown}", "", entry.cause, ""]
    lines += [f"- Who can mend it: {entry.owner}.", f"- Heals by itself: {entry.retryable}."]
    if entry.installation:
        lines.append("- Every repository of the registry suffers from it.")
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------------------------------------- the table

_DENIED = ("AccessDeniedException", "AccessDenied")
_THROTTLED = (
    "ThrottlingException",
    "ThrottleException",  # an ECR name that botocore does not know with status 400
    "Throttling",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "RequestThrottled",
    "KmsThrottled",
    "OverLimit",
    "UpstreamTooManyRequests",
)
_AWS_SAID = "AWS refused {operation} on {name}: {reason}."
_FAULT_OF_OURS = "This is a fault of Registry Admin: report it with this text."
#: Known with any status from 500 on, whatever the code.
SERVER = "ServerException"
UNKNOWN = "Unknown"

AWS: tuple[Entry, ...] = (
    Entry(
        codes=_DENIED,
        says=_AWS_SAID,
        todo="Allow {permission} on this repository to the identity that Registry Admin runs as.",
        cause="The identity's own policy, the repository policy or one of the organisation does not allow the call.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("AccessDenied", "AccessDeniedException", "ValidationError"),
        on=("AssumeRole",),
        says=_AWS_SAID,
        todo="Check {setting}, that the role's trust policy names the identity of this server, and that "
        "DEPLOY_REGISTRY_ECR_ASSUME_ROLE_EXTERNAL_ID is the external id that it asks for.",
        cause="The role does not exist, does not trust this server, or asks for another external id; AWS does not say "
        "which of the three.",
        owner=Owner.OPERATOR,
        installation=True,
    ),
    Entry(
        codes=("AccessDenied", "AccessDeniedException"),
        on=("GetFederationToken",),
        says=_AWS_SAID,
        todo="Allow sts:GetFederationToken to the IAM user that Registry Admin runs as, or set "
        "DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN.",
        cause="Without a push role, credentials for one repository are a federated session of the server's own IAM "
        "user, and the user may not make one.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("InvalidParameterException",),
        detail="principal not found",
        says=_AWS_SAID,
        todo="A role or user that the policy names does not exist (yet). AWS needs some minutes after a role is made; "
        "the next deploy tries again. If it stays: correct the ARN in the policy setting.",
        cause="A repository policy names a role or user that IAM does not know, perhaps because it was made just now.",
        owner=Owner.OPERATOR,
        retryable=Retry.BOUNDED,
    ),
    Entry(
        codes=(
            "InvalidParameterException",
            "InvalidTagParameterException",
            "TooManyTagsException",
            "ValidationException",
        ),
        says=_AWS_SAID,
        todo="Correct the setting that this text comes from, then restart; the next deploy tries again.",
        cause="A policy, lifecycle policy, tag or name has a form that ECR does not take.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("LimitExceededException",),
        says=_AWS_SAID,
        todo="Ask AWS for a higher quota, or delete what is not needed.",
        cause="A quota of the AWS account is used up.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=(
            "KmsException",
            "KmsError",
            "KmsAccessDenied",
            "KmsDisabled",
            "KmsInvalidKeyUsage",
            "KmsInvalidState",
            "KmsNotFound",
            "KmsOptInRequired",
        ),
        says=_AWS_SAID,
        todo="Check that the KMS key exists, is enabled, and that this identity may use it.",
        cause="The key that the repository or the queue is encrypted with cannot be used.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=_THROTTLED,
        says=_AWS_SAID,
        todo="AWS is limiting the rate of calls; trying again in a moment is enough.",
        cause="More calls were made in this account and region than AWS accepts at once.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=(SERVER, "InternalFailure", "InternalError", "ServiceUnavailable", "UpstreamUnavailable"),
        says=_AWS_SAID,
        todo="This is a fault on AWS's side; trying again in a moment is enough.",
        cause="AWS answered with a fault of its own.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=(
            "UnrecognizedClientException",
            "InvalidClientTokenId",
            "InvalidSignatureException",
            "SignatureDoesNotMatch",
            "IncompleteSignature",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "AuthFailure",
            "InvalidSecurity",
            "ExpiredTokenException",
            "ExpiredToken",
            "RequestExpired",
        ),
        says=_AWS_SAID,
        todo="The AWS credentials of this server are not valid. Check AWS_ACCESS_KEY_ID and its companions, the "
        "profile, or the role of the machine.",
        cause="The keys are wrong, were deleted or have expired, or the clock of this server is wrong.",
        owner=Owner.OPERATOR,
        installation=True,
        shows_detail=False,  # AWS repeats what was signed, and a session's token is part of it
    ),
    Entry(
        codes=("RepositoryNotFoundException",),
        says=_AWS_SAID,
        todo="The repository was deleted, or ECR does not show it yet. Try again; a deploy makes one that is gone.",
        cause="ECR shows a new repository some seconds late, or somebody deleted it since it was last looked at.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("RepositoryNotEmptyException",),
        says=_AWS_SAID,
        todo="Delete its images first.",
        cause="A repository that holds images is not deleted.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("LayerInaccessibleException", "ImageInaccessible"),
        says=_AWS_SAID,
        todo="Deploy again, which pushes it anew.",
        cause="The image or the layer is archived or about to be cleaned up, and cannot be downloaded.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("UnableToGetUpstreamImageException", "UnableToGetUpstreamLayerException", "UpstreamAccessDenied"),
        says=_AWS_SAID,
        todo="Take the repository's name out of the pull-through cache rule, or set DEPLOY_REGISTRY_NAMESPACE to one "
        "that no rule covers.",
        cause="A pull-through cache rule covers the repository, and its upstream does not have the image.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("RegionDisabledException",),
        says=_AWS_SAID,
        todo="Activate STS for this region in the account settings of IAM.",
        cause="Sessions are made in the registry's own region, where STS is switched off.",
        owner=Owner.OPERATOR,
        installation=True,
    ),
    Entry(
        codes=("PackedPolicyTooLarge",),
        says=_AWS_SAID,
        todo="Set DEPLOY_REGISTRY_NAMESPACE to a shorter name.",
        cause="The policy that limits a session to one repository is too large for AWS, because the name is long.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=(
            "QueueDoesNotExist",
            "AWS.SimpleQueueService.NonExistentQueue",
            "InvalidAddress",
            "UnsupportedOperation",
        ),
        says=_AWS_SAID,
        todo="Check RECONCILE_EVENTS_QUEUE_URL.",
        cause="There is no such queue, or it cannot be read this way.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=(
            "MalformedPolicyDocument",
            "ImageTagDoesNotMatchDigest",
            "MissingDigestAndTag",
            "TooManyEntriesInBatchRequest",
            "EmptyBatchRequest",
            "BatchEntryIdsNotDistinct",
            "InvalidBatchEntryId",
        ),
        says=_AWS_SAID,
        todo=_FAULT_OF_OURS,
        cause="Registry Admin asked in a way that it never should.",
        owner=Owner.MAKERS,
    ),
    Entry(
        codes=(UNKNOWN,),
        says=_AWS_SAID,
        todo="See AWS's documentation of this error.",
        cause="An error of AWS that is not in this catalogue; its own code stands in the sentence.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("NoCredentials",),
        says="{operation} on {name} was not sent: this server has no AWS credentials that can be used.",
        todo="Give it a role (instance, pod or task), AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        cause="Nothing in the environment, the profile or the machine's metadata gives credentials.",
        owner=Owner.OPERATOR,
        installation=True,
    ),
    Entry(
        codes=("ParamValidation",),
        says="{operation} on {name} was not sent: a value has a form that AWS does not take.",
        todo="Check the DEPLOY_REGISTRY_ECR settings.",
        cause="A setting has a value that no repository can have.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("Timeout",),
        says="{operation} on {name}: AWS did not answer in time.",
        todo="Trying again in a moment may be enough; if not, check this server's network, DNS and AWS_ENDPOINT_URL.",
        cause="The connection stood, but no answer came.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("StorageUnreachable",),
        says="The image's configuration in {name} could not be read from S3, where ECR keeps it.",
        todo="Trying again in a moment may be enough; if not, let this server reach S3 in the registry's region.",
        cause="ECR gives out addresses of S3 for all but manifests, and the configuration says the platform.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("Unreachable",),
        says="{operation} on {name}: AWS cannot be reached.",
        todo="Trying again in a moment may be enough; if not, check this server's network, DNS and AWS_ENDPOINT_URL.",
        cause="No connection could be made, or it was cut.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
)

REPOSITORIES: tuple[Entry, ...] = (
    Entry(
        codes=("PolicyNotApplied",),
        says="{name} does not carry the default repository policy.",
        todo="{words}",
        cause="The repository was set up without its policy, so no other account could pull from it.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("Busy",),
        says="Another deploy has been setting up {name} for over {seconds} seconds.",
        todo="Try again.",
        cause="One at a time works on a repository, and this one waited long enough.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("HolderWaits",),
        says="The deploy that is setting up {name} waits for AWS, and this one does not wait for it.",
        todo="Try again.",
        cause="AWS has not answered that deploy for 3 seconds (in another web process: it has held the repository's "
        "lease for 9 seconds). Each request that waits holds a thread of the server.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("server_waits_for_aws",),
        says="The limit of requests that wait for AWS at once is reached.",
        todo="Try again.",
        cause="At most half of a web process's threads wait for AWS, so that the others can answer. It ends when AWS "
        "answers. For more deploys at once, start more web processes or threads.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("Removed",),
        says="The entry of {name} was removed while this deploy was waiting for it.",
        todo="Try again.",
        cause="Somebody deleted the repository's row in the admin.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("OutOfTime",),
        says="Setting up {name} took too long and was given up.",
        todo="Try again.",
        cause="AWS answered so slowly that the time for one repository was over.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("TakenOver",),
        says="Somebody else has taken over setting up {name}.",
        todo="Try again.",
        cause="This process was asleep or slow for longer than its right to work on the repository lasted.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("NotVisibleYet",),
        says="ECR does not show {name} yet.",
        todo="Try again in a moment.",
        cause="For some seconds after a repository was made ECR may not find it, although it exists.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("Throttled",),
        says="AWS throttled {operation} on {name} each time that a sweep tried it, {tries} times, so the sweep ended "
        "without it.",
        todo="The next sweep or deploy tries again. If it stays, look for what else calls ECR in this account and "
        "region.",
        cause="A sweep tries each repository a limited number of times, so that one that AWS always throttles does not "
        "keep the sweep open.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("SweepThrottled",),
        says="AWS throttled {operation} for each repository that the sweep tried, {tries} times in a row, so the sweep "
        "ended.",
        todo="The next sweep tries again. If it stays, look for what else calls ECR in this account and region, or set "
        "RECONCILE_CALLS_PER_SECOND lower.",
        cause="Other programs' calls or ours use up the account's limit. No repository is at fault.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("Unexpected",),
        says="Looking at {name} failed unexpectedly ({reason}); see the log of the worker or of the events process.",
        todo=_FAULT_OF_OURS,
        cause="The program has a fault. The other repositories are still compared.",
        owner=Owner.MAKERS,
    ),
    Entry(
        codes=("OutdatedConfiguration",),
        says="This process cannot use the configuration that counts. {reason}",
        todo="Try again to reach another process.",
        cause="All processes act on one configuration, and this process's own version or settings do not allow it. The "
        "set-up page and the doctor name the process.",
        owner=Owner.OPERATOR,
        retryable=Retry.DEPENDS,
    ),
    Entry(
        codes=("ConfigurationChanged",),
        says="The configuration that counts changed while it was being used.",
        todo="Try again.",
        cause="A process with newer settings was started, or a person activated another configuration.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("WritesPaused",),
        says="Writes to AWS are paused {words}. So {name} was not set up.",
        todo="Try again after writes are allowed again.",
        cause="An operator stopped every write to AWS. Deploys to repositories that are right go on.",
        owner=Owner.OPERATOR,
        retryable=Retry.DEPENDS,
    ),
)

DATABASE: tuple[Entry, ...] = (
    Entry(
        codes=("database_unreachable",),
        says="The server's database does not answer.",
        todo="Try again.",
        cause="PostgreSQL is down or cannot be reached, or SQLite's file was locked for too long.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("database_read_only",),
        says="The server's database takes no changes at the moment.",
        todo="Try again.",
        cause="PostgreSQL answers, but as a standby or read-only: as a rule another server is taking its place.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("database_not_migrated",),
        says="The server's database lacks tables or columns of this version.",
        todo="Run the migrate command.",
        cause="Migrations of this version were not run, or DATABASE_URL names another database.",
        owner=Owner.OPERATOR,
    ),
)

DEPLOYMENTS: tuple[Entry, ...] = (
    Entry(
        codes=("not_found",),
        says="Deployment not found",
        cause="There is no such thing in this environment, or the key belongs to another one.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("force_without_external_id",),
        says="force needs an external id.",
        cause="--force means: although this external id is deployed or being deployed.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("external_id_too_long",),
        says="An external id has at most 128 characters.",
        cause="The CLI checks the same.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("external_id_in_progress",),
        says="External id {external_id} is being deployed already, as version {version}.",
        todo="Wait for it, or use --force to cancel it and deploy again.",
        cause="Two deploys of one external id at once.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("idempotency_key_reused",),
        says="This idempotency key was used for a request with another body.",
        todo="Send a new key with a new request.",
        cause="A key stands for one request and its repetitions.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("version_conflict",),
        says="No free version could be allocated.",
        todo="Try again.",
        cause="Deploys came in faster than versions could be given out.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("wrong_status",),
        says="The deployment is {status}, {wanted}.",
        cause="The step does not follow the deployment's present status: it has ended, or has not come so far.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("already_final",),
        says="The deployment is {status} already.",
        cause="What has ended can neither be pushed for nor canceled.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("other_platform",),
        says="Only {first} is indexed; {target} needs no worker.",
        cause="A build for several platforms runs the indexer once for each; the first counts.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("content_mismatch",),
        says="The image that was indexed is not the one that was announced (its content hash differs).",
        todo="Deploy again.",
        cause="The sources changed while the deploy was running, or two deploys share a folder.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("not_deployed",),
        says="Version {version} is {status}, not DEPLOYED.",
        cause="Only what was deployed can be made current.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("already_current",),
        says="Version {version} is current already.",
        cause="There is nothing to promote.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("older_than_current",),
        says="Version {version} is older than the current one.",
        todo="Rolling back is done on its page in the admin, or with ?allowRollbacks=true.",
        cause="Promoting goes forward, so that a slow deploy does not replace a newer one.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("current_has_changed",),
        says="Meanwhile {version} became current.",
        todo="Check again what will change.",
        cause="Somebody promoted another deployment after the page was shown.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("busy",),
        says="Other promotions of this environment kept coming in between.",
        todo="Try again.",
        cause="Many promotions at once.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
)

CREDENTIALS: tuple[Entry, ...] = (
    Entry(
        codes=("no_credentials",),
        says="There are no credentials for {host}: it is not ECR, and DEPLOY_REGISTRY_USERNAME and "
        "DEPLOY_REGISTRY_PASSWORD are not set.",
        todo="Set them, or run docker login before the deploy.",
        cause="Only ECR gives out credentials of its own.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("push_role_refused",),
        says="No registry credentials were issued, because the push role cannot be used. {reason}",
        todo="Nothing wider is given out instead while DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN is set.",
        cause="The push role is not to be assumed, or may not fetch a log-in (ecr:GetAuthorizationToken).",
        owner=Owner.OPERATOR,
        retryable=Retry.DEPENDS,
    ),
    Entry(
        codes=("credentials_wider",),
        says="The registry credentials of this deploy opened the whole registry instead of one repository. {reason}",
        cause="The server runs with a role's own session, which cannot be narrowed, or AWS does not allow it to make a "
        "narrower one.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("credentials_not_narrowable",),
        says="This server runs with the session of a role, and such a session cannot be narrowed.",
        todo="Set DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN.",
        cause="AWS makes narrower sessions of a role that is assumed and of an IAM user, not of a session.",
        owner=Owner.OPERATOR,
    ),
)

IMAGES: tuple[Entry, ...] = (
    Entry(
        codes=("image_not_found",),
        says="The image is not in the registry: {where} has no {what}.",
        todo="Was it pushed? Images whose name starts with localhost are not, unless --push is given.",
        cause="It was never pushed, was pushed elsewhere, or was deleted or expired meanwhile.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("image_incomplete",),
        says="The image is not whole: its index names {digest}, which is not in the registry.",
        todo="Deploy again.",
        cause="A part of the image was deleted, or expired because it has no tag of its own.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("manifest_unreadable",),
        says="The image's manifest in the registry cannot be read: {reason}.",
        todo="Deploy again.",
        cause="What was pushed is no image, or is nested too deeply or too large to be one of a deploy.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("layer_unpullable",),
        says="The image has a layer of the type {media_type}, which container runtimes cannot pull.",
        todo="Build it with OCI media types (buildx: oci-mediatypes=true), or with gzip layers.",
        cause="buildx compresses with zstd, and with Docker's media types that makes a type that nothing understands.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("platform_mismatch",),
        says="The image is for {found}, and this server deploys for {wanted}.",
        todo="Build it for {wanted} (docker buildx build --platform), or correct DEPLOY_IMAGE_PLATFORM.",
        cause="The image was built for another kind of machine than the tasks run on.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("consumer_cannot_pull",),
        says="Account {account} cannot pull the image from {name}: {words}",
        todo="Allow {permissions} to it in the repository policy (DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY), then "
        "deploy again.",
        cause="The repository policy, as AWS has it now, does not let a consumer account pull.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("consumer_undecided",),
        says="Whether account {account} can pull the image from {name} cannot be told from the policy alone: {words}",
        todo="Name a role of that account in DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS to have a pull tried, or take the "
        "account off DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS.",
        cause="A condition of the policy, for example on the organisation, decides it, and only AWS knows the answer.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("trial_pull_refused",),
        says="Account {account} cannot pull the image: {role} tried, and AWS refused it ({reason}).",
        todo="Allow {permission} on {arn} to that role in its own account; if it is allowed there, look for a Deny in "
        "the registry policy or the organisation's policies.",
        cause="Both sides have to allow a pull: the repository policy, and the policy of whoever pulls.",
        owner=Owner.CONSUMER,
    ),
    Entry(
        codes=("image_undecided",),
        says="Whether the image can be deployed could not be found out. {reason}",
        todo="(DEPLOY_IMAGE_VERIFICATION_ENABLED=0 switches this check off.)",
        cause="The registry, or a role that is to try a pull, could not be asked.",
        owner=Owner.OPERATOR,
        retryable=Retry.DEPENDS,
    ),
)

REGISTRIES: tuple[Entry, ...] = (
    Entry(
        codes=("RegistryLogin",),
        says="The registry {host} refused the configured log-in ({reason}).",
        todo="Check DEPLOY_REGISTRY_USERNAME and DEPLOY_REGISTRY_PASSWORD, and that they may read {name}.",
        cause="A registry that is not ECR does not accept the user name and password, or they may only push.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("RegistryFault",),
        says="The registry {host} could not say whether it has {name} ({reason}).",
        todo="Trying again in a moment may be enough; if not, look at the registry's own log.",
        cause="A registry that is not ECR answered with a fault, a limit, or nonsense.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("RegistrySilent",),
        says="Nothing was proved of the image: {host} does not answer as a registry does ({reason}).",
        cause="This server does not reach the registry, perhaps a developer's own. The deployment goes on.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("RegistryClosed",),
        says="Nothing was proved of the image: {host} asks for a log-in, and DEPLOY_REGISTRY_USERNAME and "
        "DEPLOY_REGISTRY_PASSWORD are not set.",
        cause="The registry is private, and only the developer has its password. The deployment goes on.",
        owner=Owner.OPERATOR,
    ),
)

#: Title → entries, as `docs/errors.md` shows them.
SECTIONS: dict[str, tuple[Entry, ...]] = {
    "What AWS answers": AWS,
    "Setting up a repository": REPOSITORIES,
    "The server's database": DATABASE,
    "Deployments": DEPLOYMENTS,
    "Registry credentials": CREDENTIALS,
    "Images": IMAGES,
    "Registries that are not ECR": REGISTRIES,
}
ENTRIES = tuple(entry for entries in SECTIONS.values() for entry in entries)
