"""The catalogue of errors: each error's code, sentence, cause, owner (who can correct it), and whether it is retryable.

The sentences stand here only, so that the CLI, the rows, the admin and `docs/errors.md` (`manage.py errors`) say the
same. A sentence says what happened and what to do next. It contains no traceback, no secret and no name from the code.
`deployments.errors` makes the two kinds of exceptions from it: `RegistryError` when AWS or another registry did not do
what was asked, `Refusal` when this program refuses.

Pure: it finds an entry and fills in its sentence. `deployments.aws.clients` reads the exceptions of boto3.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import StrEnum
from string import Formatter


class Owner(StrEnum):
    """Who can correct the cause of an error. The values are the words of `docs/errors.md`."""

    NOBODY = "nobody needs to"
    DEPLOYER = "the person who deploys"
    OPERATOR = "the operator of Registry Admin"
    CONSUMER = "the operator of the consumer account"
    DEVELOPERS = "the developers of Registry Admin"


class Retry(StrEnum):
    """Whether the same request can succeed later without a correction. The values are the words of `docs/errors.md`."""

    YES = "yes"
    BOUNDED = "for some minutes; after that, no"
    NO = "no"
    DEPENDS = "depends on the reason"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One kind of error. Its sentence is `says`, then `todo`; both may contain {placeholders}."""

    codes: tuple[str, ...]  # as stored on rows and given in answers of the API
    says: str
    todo: str = ""
    cause: str
    owner: Owner
    retryable: Retry = Retry.NO
    on: tuple[str, ...] = ()  # if given: only for these operations, AWS's or ours (“promote”)
    detail: str = ""  # if given: only if AWS's message contains this text (lower case)
    installation: bool = False  # no repository of the registry works until the cause is corrected
    shows_detail: bool = True  # whether the sentence may quote AWS's message

    @property
    def template(self) -> str:
        """The sentence with its {placeholders}."""
        return f"{self.says} {self.todo}".strip()

    @property
    def placeholders(self) -> set[str]:
        """The names of the values that the sentence needs."""
        return {name for _, name, _, _ in Formatter().parse(self.template) if name}


def find(code: str, *, operation: str = "", detail: str = "") -> Entry | None:
    """The entry of a code, or None. An entry for this AWS message or operation comes before the general entry."""
    known = [entry for entry in ENTRIES if code in entry.codes]
    narrow = [entry for entry in known if entry.detail and entry.detail in detail.lower()]
    narrow += [entry for entry in known if operation in entry.on]
    return next(iter([*narrow, *(entry for entry in known if not entry.on and not entry.detail)]), None)


def sentence(code: str, **values: object) -> str:
    """The sentence of the code with its placeholders filled in. Raises KeyError if the code or a value is missing.

    The value `operation` also chooses an entry that is only for this operation.
    """
    entry = find(code, operation=str(values.get("operation", "")))
    if entry is None:
        raise KeyError(code)
    return entry.template.format(**values).strip()


@functools.lru_cache(maxsize=1024)
def read_back(text: str, code: str = "") -> tuple[Entry, dict[str, str]] | None:
    """The entry whose sentence `text` is, and the values of its placeholders; None if no entry has this sentence.

    For rows and messages: they keep the sentence of an error and perhaps its code, but not its operation or permission.
    """
    for entry in ENTRIES:
        if code and not {code, SERVER, UNKNOWN}.intersection(entry.codes):
            continue
        if (found := _values(entry.template, text)) is not None:
            return entry, found
    return None


@functools.cache
def _parts(template: str) -> tuple[list[str], list[str]]:
    """The literal texts of a template, and the placeholders between them."""
    words, names = [""], []
    for literal, name, _, _ in Formatter().parse(template):
        words[-1] += literal
        if name:
            names.append(name)
            words.append("")
    return words, names


def _values(template: str, text: str) -> dict[str, str] | None:
    """The values that make `text` of the template; None if none do. In linear time, because AWS chooses the text."""
    words, names = _parts(template)
    if not names:
        return {} if text == words[0] else None
    at, end = len(words[0]), len(text) - len(words[-1])
    if at > end or not text.startswith(words[0]) or not text.endswith(words[-1]):
        return None
    found: dict[str, str] = {}
    for name, following in zip(names, [*words[1:-1], ""], strict=True):
        begin = text.find(following, at, end) if following else end
        if begin < 0 or found.setdefault(name, text[at:begin]) != text[at:begin]:
            return None
        at = begin + len(following)
    return found


# ---------------------------------------------------------------------------------------------------------- the page


def page() -> str:
    """The text of `docs/errors.md`."""
    text = (
        "# Errors\n\n"
        "`manage.py errors > docs/errors.md` makes this page from the program's catalogue of errors. The CLI and the\n"
        "admin show the same sentences. A word in CAPITALS stands for a value. The API's answers and the rows contain\n"
        "the code; a code stays the same when its sentence is improved. `manage.py errors CODE` explains one code.\n"
    )
    for title, entries in SECTIONS.items():
        text += f"\n## {title}\n" + "".join(f"\n{explained(entry)}" for entry in entries)
    return text


def explained(entry: Entry) -> str:
    """The section of `docs/errors.md` about this entry."""
    heading = ", ".join(f"`{code}`" for code in entry.codes)
    if entry.on:
        heading += f" ({', '.join(entry.on)})"
    if entry.detail:
        heading += f", “{entry.detail}”"
    shown = entry.template.format(**{name: name.upper().replace("_", " ") for name in entry.placeholders})
    lines = [f"### {heading}", "", f"> {shown}", "", entry.cause, ""]
    lines += [f"- Who can correct it: {entry.owner}.", f"- Retryable: {entry.retryable}."]
    if entry.installation:
        lines.append("- Affects every repository of the registry.")
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------------------------------------- the table

DENIED = ("AccessDeniedException", "AccessDenied")
THROTTLED = (
    "ThrottlingException",
    "ThrottleException",  # ECR sends this name with status 400; botocore does not know it
    "Throttling",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "RequestThrottled",
    "KmsThrottled",
    "OverLimit",
    "UpstreamTooManyRequests",
)
_AWS_SAID = "AWS refused {operation} on {name}: {reason}."
_REPORT_IT = "This is a fault in Registry Admin: report it with this text."
#: The entry for every answer with a status of 500 or more whose own code is unknown or not retryable.
SERVER = "ServerException"
UNKNOWN = "Unknown"

AWS: tuple[Entry, ...] = (
    Entry(
        codes=DENIED,
        says=_AWS_SAID,
        todo="Allow {permission} on this repository to the identity that Registry Admin runs as.",
        cause="The identity's own policy, the repository policy or an organisation policy does not allow the call.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("AccessDenied", "AccessDeniedException", "ValidationError"),
        on=("AssumeRole",),
        says=_AWS_SAID,
        todo="Check {setting}, that the role's trust policy names the identity of this server, and that "
        "DEPLOY_REGISTRY_ECR_ASSUME_ROLE_EXTERNAL_ID is the external id that the trust policy requires.",
        cause="The role does not exist, does not trust this server, or requires another external id. AWS does not say "
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
        cause="Without a push role, credentials for one repository come from a federated session of the server's own "
        "IAM user, and this user may not make a federated session.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("InvalidParameterException",),
        detail="principal not found",
        says=_AWS_SAID,
        todo="A role or user that the policy names does not exist (yet). AWS needs some minutes after a role is made; "
        "the next deploy tries again. If the error stays: correct the ARN in the policy setting.",
        cause="A repository policy names a role or user that IAM does not know, or does not know yet.",
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
        todo="Correct {setting}, then restart; the next deploy tries again.",
        cause="ECR does not accept the form of a policy, lifecycle policy, tag or name.",
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
        cause="AWS cannot use the KMS key that encrypts the repository or the queue.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=THROTTLED,
        says=_AWS_SAID,
        todo="AWS is limiting the rate of calls; trying again in a moment is enough.",
        cause="This account makes more calls in this region than AWS accepts.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=(SERVER, "InternalFailure", "InternalError", "ServiceUnavailable", "UpstreamUnavailable"),
        says=_AWS_SAID,
        todo="This is a fault on AWS's side; trying again in a moment is enough.",
        cause="AWS has an internal fault.",
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
        todo="The AWS credentials of this server are not valid. Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
        "AWS_SESSION_TOKEN, the profile, or the role of the machine.",
        cause="The keys are wrong, were deleted or have expired, or the clock of this server is wrong.",
        owner=Owner.OPERATOR,
        installation=True,
        shows_detail=False,  # AWS's message repeats the signed request, which contains the session token
    ),
    Entry(
        codes=("RepositoryNotFoundException",),
        says=_AWS_SAID,
        todo="The repository was deleted, or ECR does not show it yet. Try again; a deploy creates a deleted "
        "repository again.",
        cause="ECR shows a new repository after some seconds, or somebody deleted the repository since the last check.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("RepositoryNotEmptyException",),
        says=_AWS_SAID,
        todo="Delete its images first.",
        cause="ECR does not delete a repository that contains images.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("LayerInaccessibleException", "ImageInaccessible"),
        says=_AWS_SAID,
        todo="Restore the image if it is archived: Registry Admin's page of the repository leads to its images. Else "
        "deploy again, which pushes the image again.",
        cause="The image or the layer is archived, or ECR is about to delete it, so it cannot be downloaded.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("ImageStorageClassUpdateNotSupportedException",),
        says=_AWS_SAID,
        todo="Check the images of the repository again: the image may be restored by now.",
        cause="The image has the asked storage class, or AWS is moving it.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("UnableToGetUpstreamImageException", "UnableToGetUpstreamLayerException", "UpstreamAccessDenied"),
        says=_AWS_SAID,
        todo="Remove the repository's name from the pull-through cache rule, or set DEPLOY_REGISTRY_NAMESPACE to a "
        "namespace that no rule covers.",
        cause="A pull-through cache rule covers the repository, and its upstream does not have the image.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("RegionDisabledException",),
        says=_AWS_SAID,
        todo="Activate STS for this region in the account settings of IAM.",
        cause="Sessions are made in the registry's own region, and STS is not active there.",
        owner=Owner.OPERATOR,
        installation=True,
    ),
    Entry(
        codes=("PackedPolicyTooLarge",),
        says=_AWS_SAID,
        todo="Set DEPLOY_REGISTRY_NAMESPACE to a shorter name.",
        cause="The policy that limits a session to one repository contains the repository's name, and is larger than "
        "AWS accepts.",
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
        cause="The queue does not exist, or AWS does not let a program read it with these calls.",
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
        todo=_REPORT_IT,
        cause="Registry Admin sent a request that AWS cannot accept.",
        owner=Owner.DEVELOPERS,
    ),
    Entry(
        codes=(UNKNOWN,),
        says=_AWS_SAID,
        todo="See AWS's documentation of this error.",
        cause="AWS answered with an error that is not in this catalogue. The sentence contains AWS's own code.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("NoCredentials",),
        says="{operation} on {name} was not sent: this server has no AWS credentials that it can use.",
        todo="Give the server a role (instance, pod or task), AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY.",
        cause="Neither the environment nor the profile nor the machine's metadata gives credentials.",
        owner=Owner.OPERATOR,
        installation=True,
    ),
    Entry(
        codes=("ParamValidation",),
        says="{operation} on {name} was not sent: AWS does not accept the form of a value.",
        todo="Check the DEPLOY_REGISTRY_ECR settings.",
        cause="A setting has a value that AWS does not accept, so the request was stopped before it was sent.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("Timeout",),
        says="{operation} on {name}: AWS did not answer in time.",
        todo="Trying again in a moment may be enough; if not, check this server's network, DNS and AWS_ENDPOINT_URL.",
        cause="The connection was made, but AWS sent no answer.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("StorageUnreachable",),
        says="The image's configuration in {name} could not be read from S3, where ECR stores it.",
        todo="Trying again in a moment may be enough; if not, let this server reach S3 in the registry's region.",
        cause="The image's configuration contains its platform. ECR answers with an address in S3 for it, and this "
        "server could not read that address.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("Unreachable",),
        says="{operation} on {name}: AWS cannot be reached.",
        todo="Trying again in a moment may be enough; if not, check this server's network, DNS and AWS_ENDPOINT_URL.",
        cause="No connection could be made, or the connection broke.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
)

REPOSITORIES: tuple[Entry, ...] = (
    Entry(
        codes=("PolicyNotApplied",),
        says="{name} does not have the default repository policy.",
        todo="{words}",
        cause="The policy was not written, so the consumer accounts could not pull from the repository.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("Busy",),
        says="Another deploy has been setting up {name} for over {seconds} seconds.",
        todo="Try again.",
        cause="Only one deploy at a time sets up a repository, and this deploy reached its waiting limit.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("HolderWaits",),
        says="Another deploy is setting up {name} and waits for AWS, so this deploy stops waiting for it.",
        todo="Try again.",
        cause="AWS has not answered the other deploy for 3 seconds; if the other deploy is in another web process, it "
        "has held the repository's lease for 9 seconds. A request that waits would keep a thread of the server.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("server_waits_for_aws",),
        says="The limit of requests that wait for AWS at once is reached.",
        todo="Try again.",
        cause="At most half of a web process's threads may wait for AWS, so that the other threads can answer. The "
        "limit is free again when AWS answers. For more deploys at once, start more web processes or threads.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("too_many_large_bodies",),
        says="The server reads other large requests.",
        todo="Try again.",
        cause="A web process works on at most two bodies above 256 KiB at once, so that its memory is bounded. For "
        "more, start more web processes.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("Removed",),
        says="The row of {name} was deleted while this deploy was waiting for the repository.",
        todo="Try again.",
        cause="Somebody deleted the repository's row in the admin.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("OutOfTime",),
        says="Setting up {name} took too long and was stopped.",
        todo="Try again.",
        cause="AWS answered so slowly that the time limit for one repository was reached.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("TakenOver",),
        says="Another process has taken over the setting up of {name}.",
        todo="Try again.",
        cause="This process was suspended or slow until its lease on the repository expired, and another process "
        "claimed the lease.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("ForeignRegistryPolicy",),
        says="AWS answered {operation} for another registry than that of account {name}, so the registry policy is "
        "not known.",
        todo="Set DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN to a role of the registry's own account.",
        cause="The call takes no account: AWS answers for the account of the identity that asks. With the identity of "
        "another account the registry policy cannot be read.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("NotVisibleYet",),
        says="ECR does not show {name} yet.",
        todo="Try again in a moment.",
        cause="For some seconds after a repository is created, ECR may answer that it does not exist.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("Throttled",),
        says="AWS throttled {operation} on {name} on each of the sweep's {tries} tries, so the sweep ended without "
        "this repository.",
        todo="The next sweep or deploy tries again. If the error stays, look for other programs that call ECR in this "
        "account and region.",
        cause="A sweep tries each repository a limited number of times, so that a repository that AWS always throttles "
        "does not keep the sweep open.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("SweepThrottled",),
        says="AWS throttled {operation} for each repository that the sweep tried, {tries} times in a row, so the sweep "
        "ended.",
        todo="The next sweep tries again. If the error stays, look for other programs that call ECR in this account "
        "and region, or set RECONCILE_CALLS_PER_SECOND lower.",
        cause="The calls of Registry Admin or of other programs use up the account's limit. No repository is the "
        "cause.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("Unexpected",),
        says="Checking {name} failed unexpectedly ({reason}); see the log of the worker or of the events process.",
        todo=_REPORT_IT,
        cause="The program has a fault. The other repositories are still checked.",
        owner=Owner.DEVELOPERS,
    ),
    Entry(
        codes=("OutdatedConfiguration",),
        says="This process cannot use the configuration that counts. {reason}",
        todo="Try again to reach another process.",
        cause="All processes use one configuration, and this process's own version or settings do not allow that. The "
        "Health page and the doctor name the process.",
        owner=Owner.OPERATOR,
        retryable=Retry.DEPENDS,
    ),
    Entry(
        codes=("ConfigurationChanged",),
        says="The configuration that counts changed during this work.",
        todo="Try again.",
        cause="A process with newer settings started, or a person activated another configuration.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("WritesPaused",),
        says="Writes to AWS are paused {words}. So {name} was not set up.",
        todo="Try again after writes are allowed again.",
        cause="An operator stopped every write to AWS. Deploys to repositories that need no write still work.",
        owner=Owner.OPERATOR,
        retryable=Retry.DEPENDS,
    ),
    Entry(
        codes=("missing",),
        says="{name} was deleted from the registry.",
        todo="The next deploy recreates the repository.",
        cause="ECR has no repository with this name.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("nothing_to_put_back",),
        says="There is no earlier policy to restore: {reason}.",
        cause="A policy is restored from an event of the repository that contains the policy before the change.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("nothing_to_take_over",),
        says="{name} has no policy to take over: {reason}.",
        todo="Reconcile it instead.",
        cause="Only a live policy that cannot be compared with the default policy is taken over. A check corrects "
        "every other difference.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("nothing_to_restore",),
        says="No image of {name} is restored: {reason}.",
        cause="Only an image that AWS has archived is restored, in a repository that is managed here.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("policy_may_be_open",),
        says="This policy cannot be restored: it cannot be shown to be closed to the world, as a part of it is not "
        "understood.",
        todo="Write a policy without that part, or allow public policies by DEPLOY_REGISTRY_ECR_ALLOW_PUBLIC_POLICY=1.",
        cause="The policy was in force, and has an element or a condition operator that this release does not know.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("policy_changed",),
        says="The live policy of {name}, or the default policy, is not the text that the page showed, so nothing was "
        "written.",
        todo="Compare both texts again.",
        cause="Somebody changed the policy in AWS, or another configuration counts, after the page was shown.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("PolicyTooLong",),
        says="The policy of {name} was not written: with the statements of others that are kept in it, it would have "
        "{characters} characters, and ECR accepts {limit}.",
        todo="Shorten the text of {own} characters that was to be written, or remove one of these statements in AWS: "
        "{statements}.",
        cause="Statements that others have in a policy are kept beside the default policy, so both must fit.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("no_such_statement",),
        says="{name} has no such statement of others.",
        todo="Open its page again.",
        cause="The statement, or the adoption of it, was there when the page was shown, or the settings name another "
        "registry or no default policy now.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("statement_without_reason",),
        says="Keeping or refusing a statement of others needs a reason.",
        todo="Write who needs the statement, or why it has to go.",
        cause="The reason is shown with the statement, so that other operators know why it stays or goes.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("version_state",),
        says="{version} is {state}, so this cannot be done.",
        todo="Look at its page under Policy versions.",
        cause="A version can be started while it waits, paused while it is rolled out, resumed while it is stopped. It "
        "can be rolled back while it is rolled out, stopped or active, if a version was active before it.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("nothing_to_look_at",),
        says="None of these repositories can be checked: they are unmanaged or missing, no deploy to them has ended, "
        "or the settings name another registry.",
        cause="A sweep checks managed repositories of the configured registry to which a deploy has ended.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("too_many",),
        says="More than {limit} repositories are selected.",
        todo="Start a sweep over all repositories instead.",
        cause="A sweep stores the name of each selected repository, so the number of selected repositories is limited.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("exception_has_ended",),
        says="The end of an exception must be in the future.",
        todo="Choose a later end.",
        cause="The end is in the past by the clock of the database.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("exception_without_reason",),
        says="An exception needs a reason.",
        todo="Write why the repository gets an exception.",
        cause="The reason is shown with the exception, so that other operators know why it exists.",
        owner=Owner.OPERATOR,
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
        says="The server's database is read-only at the moment.",
        todo="Try again.",
        cause="PostgreSQL is a standby or is set to read-only; usually a failover to another server is under way.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("database_not_migrated",),
        says="The server's database lacks tables or columns of this version.",
        todo="Run the migrate command.",
        cause="The migrations of this version were not run, or DATABASE_URL names another database.",
        owner=Owner.OPERATOR,
    ),
)

DEPLOYMENTS: tuple[Entry, ...] = (
    Entry(
        codes=("not_found",),
        says="{what} not found",
        cause="The named object does not exist, or the key that was sent belongs to another environment.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("force_without_external_id",),
        says="force needs an external id.",
        cause="--force deploys again although the external id is deployed or being deployed.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("external_id_too_long",),
        says="An external id has at most 128 characters.",
        cause="The external id is longer than the API allows. The CLI has the same limit.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("external_id_in_progress",),
        says="External id {external_id} is being deployed already, as version {version}.",
        todo="Wait for that deploy, or use --force to cancel it and deploy again.",
        cause="Another deploy with the same external id has not ended.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("idempotency_key_reused",),
        says="This idempotency key was used for a request with another body.",
        todo="Send a new key with a new request.",
        cause="An idempotency key belongs to one request and to repetitions of this request.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("version_conflict",),
        says="No free version could be allocated.",
        todo="Try again.",
        cause="Other deploys took each version that this deploy tried.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("wrong_status",),
        says="The deployment is {status}, {wanted}.",
        cause="This step is not possible in this status: the deployment has ended, or an earlier step is missing.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("project_archived",),
        says="The project {project} is archived: it takes no deploys and no promotions, and gives no log-ins to push.",
        todo="Restore it on its page in Registry Admin, or with the command “projects restore {ref}” there.",
        cause="An operator has archived the project. Current versions stay current, and keys still read.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("project_not_archived",),
        says="The project {project} is not archived, so it cannot be deleted.",
        todo="Archive it first, so that no deploy runs while it is deleted.",
        cause="Only an archived project can be deleted.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("project_name_differs",),
        says="The name that was typed is not the name of the project, {project}.",
        todo="Type the name as it is written here.",
        cause="A deletion cannot be taken back, so it asks for the name of the project.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("already_final",),
        says="The deployment is already {status}.",
        cause="A deployment that has ended gets no push credentials and cannot be canceled.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("other_platform",),
        says="Only {first} is indexed; {target} needs no worker.",
        cause="A build for several platforms runs the indexer once for each platform; only the first report is used.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("report_unreadable",),
        says="The indexer's report cannot be read: {problems}.",
        todo="Deploy with a version of the CLI that this server knows.",
        cause="The report of the indexer does not have the form that this server knows. The deployment fails.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("content_mismatch",),
        says="The indexed image is not the image that the deploy announced (the content hash differs).",
        todo="Deploy again.",
        cause="The sources changed during the deploy, or two deploys use the same folder.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("TimeoutError",),
        says="The CLI sent nothing for this deployment in time; it was {status}.",
        cause="The CLI was ended or lost its connection, or one step takes longer than DEPLOY_TIMEOUT_MS.",
        owner=Owner.DEPLOYER,
        retryable=Retry.DEPENDS,
    ),
    Entry(
        codes=("not_deployed",),
        says="Version {version} is {status}, not DEPLOYED.",
        cause="Only a deployment with the status DEPLOYED can be promoted.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("already_current",),
        says="Version {version} is already current.",
        cause="Promoting the current version changes nothing.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("message_not_failed",),
        says="The message is not failed any more, so it is not sent again.",
        cause="Only failed messages are sent again; the worker or another person was faster.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("older_than_current",),
        says="Version {version} is older than the current version.",
        todo="To roll back, use the deployment's page in the admin, or ?allowRollbacks=true.",
        cause="A promotion only makes a newer version current, so that a slow deploy does not replace a newer deploy.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("current_has_changed",),
        says="Another deployment became current meanwhile: {version}.",
        todo="Check again what will change.",
        cause="Somebody promoted another deployment after the page was shown.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("busy",),
        says="Another process is changing {what}.",
        todo="Try again in a moment.",
        cause="Another process has the lease on the repository, or many promotions of one environment run at once.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
)

ACCESS: tuple[Entry, ...] = (
    Entry(
        codes=("key_revoked",),
        says="{key} has already been revoked.",
        cause="Somebody revoked the key, perhaps during this request.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("key_not_rotatable",),
        says="{key} cannot be rotated: {reason}.",
        cause="Only a key that works and has no replacement yet can be rotated. A deploy key expires by itself and is "
        "not rotated.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("scope_missing",),
        says="This access key is limited to {scopes}; this request needs {scope}.",
        todo="Use a key with this scope.",
        cause="The key was made with fewer scopes than the request needs.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("owner_without_right",),
        says="{owner}, the owner of this access key, may not {act}.",
        todo="An administrator can give {owner} the right “{right}” and, if it is missing, the staff status.",
        cause="A personal access token, and each deploy key that was made with it, allows only what its owner may do "
        "now: to see projects needs “Can view project” or “Can add access key”, to deploy needs “Can add access key”.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("not_a_management_token",),
        says="This request needs a management token: a personal access token with the scope admin.",
        todo="Make one in the console, or with the command “keys create --user NAME --scope admin”.",
        cause="The management API takes no other key: neither the key of an environment, nor a personal access token "
        "without scopes.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("right_missing",),
        says="{owner}, the owner of this management token, lacks the right “{right}”.",
        todo="An administrator can give {owner} the right in the console.",
        cause="A management token allows only what its owner may do in the console at the time of the request.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("exists_with_others",),
        says="{what} exists already, with another value of: {others}.",
        todo="Choose another name, or ask for the values that it has.",
        cause="A request to make something that exists is answered with what exists only if both are equal.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("exists_archived",),
        says="{what} exists already and is archived.",
        todo='Restore it with a PUT of {{"archived": false}}, or choose another one.',
        cause="A request to make something does not restore what is archived.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("project_name_not_unique",),
        says="Several projects are called {name}: {refs}.",
        todo="Name the project by its ref.",
        cause="Two projects may have the same name, but never the same ref.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("root_environment",),
        says="{environment} is a root environment of {project}: it can be neither archived nor deleted.",
        todo="Archive the project if it should take no deploys.",
        cause="A project has its root environments from its beginning to its end. Only preview branches are made and "
        "archived one by one.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("too_many_requests",),
        says="Too many {what} from this address.",
        todo="Try again in {seconds} seconds.",
        cause="The server limits how often one address sends an unknown key or begins a log-in. The CLI shows "
        "the answer (status 429) and does not retry.",
        owner=Owner.DEPLOYER,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("challenge_malformed",),
        says="The codeChallenge is not a SHA-256 in base64url.",
        todo="Upgrade the CLI (npx trigger.dev@latest login).",
        cause="The client that begins the log-in does not follow RFC 7636 (PKCE, method S256).",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("login_unbound",),
        says="This server refuses trigger.dev login of CLIs older than 4.8.",
        todo="Update the CLI, or ask an administrator for a token.",
        cause="An older CLI cannot prove that the browser which approves a log-in belongs to the person who began it. "
        "CLI_LOGIN_REFUSE_UNBOUND=1 refuses such log-ins.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("sso_unreachable",),
        says="The single sign-on server did not answer: {reason}.",
        todo="Try again; if the error stays, tell an administrator.",
        cause="The OpenID provider of SSO_ISSUER cannot be reached from this server, or answers with an error.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("sso_busy",),
        says="Too many log-ins wait for the single sign-on server at this moment.",
        todo="Try again in some seconds.",
        cause="In each process two log-ins ask the OpenID provider at one time, and two more wait for them. Others are "
        "refused.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("sso_not_trusted",),
        says="The answer of the single sign-on server cannot be trusted: {reason}.",
        todo="Begin again at the log-in page; if the error stays, tell an administrator.",
        cause="The id token has another issuer, audience or nonce than was asked for, is expired, or has no valid "
        "signature; or SSO_ISSUER is not what the provider calls itself; or the clocks differ by minutes.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("sso_denied",),
        says="The single sign-on server refused the log-in: {reason}.",
        todo="Begin again at the log-in page; if the error stays, tell an administrator.",
        cause="The OpenID provider refuses the person, or SSO_CLIENT_ID, SSO_CLIENT_SECRET, SSO_SCOPES or the redirect "
        "address.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("sso_begin_again",),
        says="This log-in was not begun in this browser, was begun more than ten minutes ago, or another one was begun "
        "after it.",
        todo="Begin again at the log-in page.",
        cause="The answer of the OpenID provider has another state than this browser's cookie, or there is no cookie. "
        "Or an account was to be linked, and another one is logged in now.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("sso_no_group",),
        says="None of your groups at the single sign-on server gives access here{missing}.",
        todo="Ask an administrator.",
        cause="No group in the claim of SSO_GROUPS_CLAIM is one of SSO_GROUPS, the provider sent no such claim, or the "
        "group that SSO_GROUPS gives does not exist here. The account, if there is one, is made inactive: its sessions "
        "end, and its keys do not work. The next single sign-on with such a group makes it active.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("sso_account_exists",),
        says="An account here already has the name or address {name}, and it is not linked to your single sign-on.",
        todo="Log in with the account's password and link it on the page “Your log-in”, or give an administrator your "
        "subject: {subject}.",
        cause="The issuer and the subject identify a person. A name or an address does not: providers let "
        "people choose them.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("sso_inactive",),
        says="Your account here is inactive.",
        todo="Ask an administrator.",
        cause="An administrator has made the account inactive.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("sso_linked",),
        says="The account, or the person at the single sign-on server, is linked already.",
        todo="An administrator can remove the other link on the person's page.",
        cause="An account has at most one link to an issuer, and a person at the issuer has at most one account.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("trust_token_malformed",),
        says="The token was not read: {reason}.",
        todo="Send the token of the CI job or of the service account as it is, and nothing else.",
        cause="The text is no signed token (a JSON Web Token in compact form), uses an algorithm that is not "
        "accepted, or its header names a key of its own.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("trust_no_policy",),
        says="No trust policy that is switched on accepts tokens of the issuer {issuer}{where}.",
        todo="Add a trust policy on the page of the project, or correct the project and environment of the request.",
        cause="The issuer of the token (its claim iss) is in no trust policy, the policy is switched off, or the "
        "request names a project or environment that has no such policy.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("trust_signature",),
        says="No key of the issuer {issuer} has signed this token (its key is {kid}, its algorithm {algorithm}).",
        todo="If the issuer has new keys, try again in a minute with a new token.",
        cause="The token was changed, or signed by somebody else, or the issuer does not publish this key. Keys that "
        "were pasted into a trust policy are changed by hand when the issuer changes its keys.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("trust_issuer_unreachable",),
        says="The keys of the token's issuer could not be read: {reason}.",
        todo="Try again in some seconds; if the error stays, paste the keys of the issuer into the trust policy.",
        cause="The issuer's document (.well-known/openid-configuration) or its key set cannot be reached from this "
        "server, is not valid, or is at an address that the trust policy does not allow.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("trust_busy",),
        says="Too many requests wait for the keys of issuers at this moment.",
        todo="Try again in some seconds.",
        cause="In each process two requests ask issuers at one time, and two more wait. Keys are kept for ten minutes.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("trust_claim",),
        says="The token is not accepted: its claim {claim} is {actual}, and it must be {expected}.",
        todo="Correct the CI job, or the trust policy if it asks for the wrong value.",
        cause="A claim that every token is checked for (aud, exp, iat, nbf), or that the trust policy names, has "
        "another value. The audience is the origin of this server (APP_ORIGIN). Texts are compared exactly.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("trust_claim_unnamed",),
        says="The token is not accepted: no trust policy for its issuer accepts its claim {claim}, which is {actual}.",
        todo="Name the project and the environment in the request: the answer then says what the claim must be.",
        cause="The token is from an issuer that many use, and is not from a repository or service account that a trust "
        "policy here names. What the policies expect is not shown to everybody who can get a token of this issuer.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("trust_ambiguous",),
        says="The token is accepted for more than one environment: {environments}.",
        todo="Name the project and the environment in the request (projectRef, environment).",
        cause="Trust policies of several environments accept this token.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("trust_token_used",),
        says="This token was exchanged before.",
        todo="Ask the CI system for a new token in the same job (a new request to ACTIONS_ID_TOKEN_REQUEST_URL, a "
        "retry of the GitLab job, kubectl create token) and exchange that one.",
        cause="A token is exchanged once, so that somebody who copies it from a log or a command line gets nothing.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("one_deployment_only",),
        says="This key is for one deployment and does not allow this request: {reason}.",
        todo="Exchange a new token of the CI job for each deployment. For other requests use a key that was made in "
        "the console.",
        cause="The key was exchanged for a token (POST /api/v1/auth/oidc). It may begin one deployment within ten "
        "minutes, and do what this deployment needs until the deployment ends.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("trust_policy_refused",),
        says="The trust policy was not saved. {reason}",
        cause="The policy would accept tokens of others, or its issuer, certificate or keys cannot be used.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("trust_needs_administrator",),
        says="Only an administrator can trust an issuer at a private address, with a certificate of its own or with "
        "pasted keys.",
        todo="Ask a person with the right “Can trust an issuer at a private address or by pasted keys”.",
        cause="Such a policy lets this server ask addresses that only it can reach, or believe keys that nobody "
        "publishes.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("trust_name_taken",),
        says="The environment has a trust policy called {name}.",
        todo="Choose another name.",
        cause="The name of a trust policy is unique in its environment.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("trust_too_many",),
        says="The environment has {most} trust policies, the most that it can have.",
        todo="Delete one that is not used.",
        cause="Each exchange of a token compares it with every policy for its issuer.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("password_log_in_off",),
        says="Log-ins with a password are switched off.",
        todo="Use single sign-on. If it does not work, somebody with a shell on the server makes a link for one "
        "log-in, with the management command break_glass.",
        cause="PASSWORD_LOG_IN=0.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("log_in_again",),
        says="This changes how an account logs in, and you logged in more than 15 minutes ago.",
        todo="Log in again; you come back to this page.",
        cause="Somebody who finds a session that was left open must not get lasting access through it.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("log_in_link_ended",),
        says="This link does not work: it was used, or is older than ten minutes.",
        todo="The management command break_glass makes a new one.",
        cause="A link of the management command break_glass is for one log-in, and ends with every later log-in of the "
        "account.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("log_in_throttled",),
        says="Too many wrong passwords or codes for this account or from this address.",
        todo="Wait {minutes} minutes, or log in from an address that you have logged in from before.",
        cause="Ten wrong passwords or second factors within 15 minutes stop log-ins to the console, before the next "
        "one is read. The management command axes_list_attempts lists them; axes_reset_username NAME and axes_reset_ip "
        "ADDRESS delete them.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("second_factor_wrong",),
        says="The code is wrong, has expired, or was used before.",
        todo="Wait for the next code of the app, or use a recovery code.",
        cause="A code of an app counts once, for 30 to 60 seconds, so the clocks of the phone and of the database must "
        "be right. A recovery code counts once.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("second_factor_unreadable",),
        says="The server cannot check codes of this app.",
        todo="Use a passkey or a recovery code, and tell an administrator.",
        cause="ENCRYPTION_KEY changed without the old key after the new key, or the stored key of the app was changed. "
        "The doctor says which.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("second_factors_too_many",),
        says="A person can have at most {most} second factors.",
        todo="Remove one that you no longer use.",
        cause="The person has apps and passkeys that are no longer used.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("second_factor_present",),
        says="This account has a second factor already.",
        todo="Log in with it.",
        cause="Somebody else set up the second factor of this account during this log-in.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("passkey_refused",),
        says="The passkey was refused: {reason}.",
        todo="Load the page again, and use the passkey again.",
        cause="The answer of the browser does not belong to this page, this account or APP_ORIGIN, or came after more "
        "than five minutes.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("passkey_count_back",),
        says="The passkey “{name}” was refused: it has counted fewer uses than before, so a copy of it may exist.",
        todo="Log in with another second factor or a recovery code, and remove this passkey.",
        cause="A security key counts its uses. A lower count than the stored one means that two devices have the key.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("log_ins_busy",),
        says="Too many people log in or change a password at this moment.",
        todo="Try again in some seconds.",
        cause="A web process hashes two passwords at one time. One of the two places is kept for signed-in people "
        "and for log-ins from an address from which somebody has logged in to the account within 30 days.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("verifier_wrong",),
        says="Another CLI began this log-in.",
        todo="Run trigger.dev login again.",
        cause="The PKCE verifier that the CLI sent does not belong to this log-in.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("approval_code_wrong",),
        says="The approval code is wrong",  # the CLI continues the sentence with a full stop
        cause="The code was mistyped, or it belongs to another log-in. The CLI asks for it again.",
        owner=Owner.DEPLOYER,
    ),
)

VARIABLES: tuple[Entry, ...] = (
    Entry(
        codes=("variables_rejected",),
        says="Nothing was stored, because of {names}: {problem}",
        cause="A name or value does not have the required form, the variable exists and override was not requested, or "
        "the environment would have too many variables.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("variable_unreadable",),
        says="The variable {name} cannot be decrypted. {reason}",
        todo="Add the key that encrypted it to ENCRYPTION_KEY, after the first key, or set the variable again.",
        cause="ENCRYPTION_KEY changed without the old key after the new key, or the stored value was changed.",
        owner=Owner.OPERATOR,
    ),
)

CREDENTIALS: tuple[Entry, ...] = (
    Entry(
        codes=("no_credentials",),
        says="There are no credentials for {host}: it is not ECR, and DEPLOY_REGISTRY_USERNAME and "
        "DEPLOY_REGISTRY_PASSWORD are not set.",
        todo="Set both, or run docker login before the deploy.",
        cause="Only ECR issues credentials to this server; for another registry the settings must contain them.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("registry_not_configured",),
        says="The image of this deployment is in the registry {host}, which the settings do not name any more.",
        todo="Deploy again.",
        cause="The registry's host in the settings was changed after this deployment was made. The settings have a "
        "log-in for the new registry only.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("push_role_refused",),
        says="No registry credentials were issued, because the push role cannot be used. {reason}",
        todo="While DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN is set, there is no fallback to broader credentials.",
        cause="AWS refused to assume the push role, or the push role may not call ecr:GetAuthorizationToken.",
        owner=Owner.OPERATOR,
        retryable=Retry.DEPENDS,
    ),
    Entry(
        codes=("credentials_wider",),
        says="The registry credentials of this deploy gave access to the whole registry instead of one repository. "
        "{reason}",
        cause="The server runs with the session of a role, which cannot be limited to one repository, or AWS does not "
        "allow the server to make a limited session.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("pull_not_ecr",),
        says="No log-in was issued for pulls: the registry {host} is not ECR, and a configured password of it can also "
        "push.",
        todo="Make an account in that registry that only pulls, and put its log-in into the cluster's Secret.",
        cause="Only in ECR this server can make a log-in that pulls from one repository.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("pull_not_narrowable",),
        says="No log-in was issued for pulls, because it would open the whole registry. {reason}",
        cause="AWS does not allow the server a session for one repository, and a cluster never gets a wider log-in.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("build_log_in_replaced",),
        says="The registry refused the log-in of this build.",
        todo="If another deploy ran on this machine at the same time, it replaced the log-in or logged out: give each "
        "deploy its own DOCKER_CONFIG (docs/builds.md), and deploy again.",
        cause="docker keeps one log-in for a registry in its configuration, and the CLI logs in before a build and out "
        "after it.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("build_failed_at_its_end",),
        says="The tasks had been indexed, so the build probably failed at its end, where the image is pushed. The "
        "CLI's output has the registry's reason.",
        todo="If that is a 401 or 403, and another deploy ran on this machine at the same time, give each deploy its "
        "own DOCKER_CONFIG (docs/builds.md), and deploy again.",
        cause="The CLI sends no reason with a failed build, but the indexer's report comes from the last steps of a "
        "build. The usual reasons are a log-in that another deploy replaced, and one that had ended.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("build_base_refused",),
        says="The log-in of this build does not open the repository {name}.",
        todo="If the build pulls a base image from it, add it to DEPLOY_REGISTRY_ECR_BASE_REPOSITORIES "
        "(docs/builds.md), and deploy again.",
        cause="The log-in of a deploy opens its own repository and the base repositories of the settings.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("build_log_in_ended",),
        says="The log-in of this build has ended.",
        todo="Deploy again. If builds need more time, raise DEPLOY_TIMEOUT_MS; a log-in lasts an hour at most "
        "(docs/builds.md).",
        cause="A log-in ends with its session, an hour after it was issued at the latest, or another program stored an "
        "older log-in in docker's configuration.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("log_in_incomplete",),
        says="The log-in does not open {names}: AWS limits the policy of a session in its size.",
        todo="Use patterns, such as platform/*, in DEPLOY_REGISTRY_ECR_BASE_REPOSITORIES, or deploy fewer projects at "
        "once.",
        cause="A session policy has at most 2,048 characters, and AWS's packed form of it has a limit of its own.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("credentials_not_narrowable",),
        says="This server runs with the session of a role, and such a session cannot be limited to one repository.",
        todo="Set DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN.",
        cause="AWS makes limited sessions of an assumed role and of an IAM user, but not of an existing session.",
        owner=Owner.OPERATOR,
    ),
)

IMAGES: tuple[Entry, ...] = (
    Entry(
        codes=("image_not_found",),
        says="The image is not in the registry: {where} has no {what}.",
        todo="Check that the image was pushed. An image whose name starts with localhost is pushed only with --push.",
        cause="The image was never pushed, was pushed to another registry, or was deleted or expired.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("image_not_found",),
        on=("promote",),
        says="Version {version} cannot be promoted, because its image was deleted or expired: {where} has no {what}.",
        todo="{then}",
        cause="The image was verified when the version was deployed. Since then somebody deleted it, or a lifecycle "
        "policy expired it.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("image_archived",),
        says="The image cannot be pulled, because it is archived: {where} has {what} in the archive storage class.",
        todo="Restore it on the page of the repository's images in Registry Admin; AWS needs up to 20 minutes.",
        cause="A lifecycle policy or a person moved the image to the archive storage class. AWS keeps the image, and "
        "answers 404 to pulls until it is restored.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("image_restoring",),
        says="The image cannot be pulled yet: AWS is restoring {what} of {where} from the archive storage class.",
        todo="Try again; AWS says that a restore takes up to 20 minutes.",
        cause="The image was archived, and somebody has asked for its restore.",
        owner=Owner.NOBODY,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("image_incomplete",),
        says="The image is incomplete: its index names {digest}, which is not in the registry.",
        todo="Deploy again.",
        cause="A part of the image was deleted, or a lifecycle policy expired it because it has no tag.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("manifest_unreadable",),
        says="The image's manifest in the registry cannot be read: {reason}.",
        todo="Deploy again.",
        cause="The pushed object is not an image, or has more levels or parts than the image of a deploy can have.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("layer_unpullable",),
        says="The image has a layer of the type {media_type}, which container runtimes cannot pull.",
        todo="Build the image with OCI media types (buildx: oci-mediatypes=true), or with gzip layers.",
        cause="buildx compressed with zstd and used Docker's media types; no container runtime knows Docker's type for "
        "zstd layers.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("platform_mismatch",),
        says="The image is for {found}, and this server deploys for {wanted}.",
        todo="Build the image for {wanted} (docker buildx build --platform), or correct DEPLOY_IMAGE_PLATFORM.",
        cause="The image was built for another platform than the platform that the tasks run on.",
        owner=Owner.DEPLOYER,
    ),
    Entry(
        codes=("consumer_cannot_pull",),
        says="Account {account} cannot pull the image from {name}: {words}",
        todo="Allow {permissions} to this account in the repository policy "
        "(DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY), then deploy again.",
        cause="The repository policy that AWS has now does not let a consumer account pull.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("registry_policy_denies",),
        says="Account {account} cannot pull the image from {name}: {words}",
        todo="Correct that statement of the registry policy (AWS console: ECR, Private registry, Permissions), or "
        "remove the account from DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS. Then deploy again.",
        cause="The registry policy counts for every repository of the registry, and its Deny is stronger than what a "
        "repository policy allows.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("consumer_undecided",),
        says="The policy alone does not show whether account {account} can pull the image from {name}: {words}",
        todo="Name a role of that account in DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS, with which this server tries a pull, "
        "or remove the account from DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS.",
        cause="A condition of the policy, for example on the organisation, decides, and only AWS can evaluate it. "
        "Receipts of version 0.1.0 have this code. Now such an image is promoted, and the receipt says so.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("trial_pull_refused",),
        says="Account {account} cannot pull the image: {role} tried, and AWS refused it ({reason}).",
        todo="Allow {permission} on {arn} to that role in the role's own account; if the account allows it, look for a "
        "Deny in the registry policy or the organisation's policies.",
        cause="Two policies must allow a pull: the repository policy, and the policy of the role that pulls.",
        owner=Owner.CONSUMER,
    ),
    Entry(
        codes=("image_undecided",),
        says="The image could not be checked before the deploy. {reason}",
        todo="(DEPLOY_IMAGE_VERIFICATION_ENABLED=0 switches this check off.)",
        cause="The registry did not answer, or a probe role could not be used.",
        owner=Owner.OPERATOR,
        retryable=Retry.DEPENDS,
    ),
)

REGISTRIES: tuple[Entry, ...] = (
    Entry(
        codes=("RegistryLogin",),
        says="The registry {host} refused the configured log-in ({reason}).",
        todo="Check DEPLOY_REGISTRY_USERNAME and DEPLOY_REGISTRY_PASSWORD, and that they may read {name}.",
        cause="A registry that is not ECR does not accept the user name and password, or the user may only push.",
        owner=Owner.OPERATOR,
    ),
    Entry(
        codes=("RegistryFault",),
        says="The registry {host} could not say whether it has {name} ({reason}).",
        todo="Trying again in a moment may be enough; if not, read the registry's own log.",
        cause="A registry that is not ECR answered with a server error, a rate limit, or an unreadable body.",
        owner=Owner.OPERATOR,
        retryable=Retry.YES,
    ),
    Entry(
        codes=("RegistrySilent",),
        says="The image was not checked: {host} does not answer as a registry does ({reason}).",
        cause="This server cannot reach the registry; it may run on a developer's machine. The deployment continues.",
        owner=Owner.NOBODY,
    ),
    Entry(
        codes=("RegistryClosed",),
        says="The image was not checked: {host} requires a log-in, and DEPLOY_REGISTRY_USERNAME and "
        "DEPLOY_REGISTRY_PASSWORD are not set.",
        cause="The registry is private, and this server does not have its password. The deployment continues.",
        owner=Owner.OPERATOR,
    ),
)

#: Section title → entries, in the order of `docs/errors.md`.
SECTIONS: dict[str, tuple[Entry, ...]] = {
    "What AWS answers": AWS,
    "Setting up a repository": REPOSITORIES,
    "The server's database": DATABASE,
    "Deployments": DEPLOYMENTS,
    "Access keys and log-in": ACCESS,
    "Environment variables": VARIABLES,
    "Registry credentials": CREDENTIALS,
    "Images": IMAGES,
    "Registries that are not ECR": REGISTRIES,
}
ENTRIES = tuple(entry for entries in SECTIONS.values() for entry in entries)
