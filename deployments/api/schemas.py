"""The fields of requests and answers, with the names of trigger.dev's API (camelCase).

Unknown fields of a request are ignored, because each new CLI adds fields. Empty fields of an answer are left out,
because the CLI distinguishes null from an absent field. The fields without a default may be null.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    Field,
    GetJsonSchemaHandler,
    RootModel,
    StringConstraints,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from deployments import images


def _cut(length: int) -> AfterValidator:
    return AfterValidator(lambda text: text[:length])


def _last(length: int) -> AfterValidator:
    return AfterValidator(lambda text: text[-length:])


Short = Annotated[str, _cut(64)]  # cut, not refused: information of the CLI about itself
Text = Annotated[str, _cut(10_000)]
ContentHash = Annotated[str, Field(min_length=1, max_length=200)]


def without_credentials(url: str) -> str | None:
    """A git remote without user, password, query and fragment; None if the parts of the URL are ambiguous.

    The CLI sends the URL of origin unchanged, and CI systems put tokens into it.
    """
    if "://" not in url:  # git@host:path has a user but no password; other forms are dropped
        return url if url.partition("@")[0].isalnum() and "?" not in url else None
    try:
        parts = urlsplit(url)
        host = parts.hostname
        port = (
            f":{parts.port}" if parts.port else ""
        )  # raises ValueError for user:pa/ss@host, where urlsplit ends the host at the slash
    except ValueError:
        return None
    if not host or "@" in parts.path.partition("/")[0]:
        return None
    name = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, name + port, parts.path, "", ""))


def _ref(text: str) -> str:
    if not images.is_project_ref(text):
        raise ValueError("a ref is proj_ followed by lower case letters and digits, at most 64 characters")
    return text


class Error(BaseModel):
    error: str = Field(description="One sentence: what is wrong and what to do. The CLI shows it.")
    code: str | None = Field(None, description="A stable word for programs.")


# ---- Requests


class GitMeta(BaseModel):
    provider: Text | None = None
    source: Text | None = None
    ghUsername: Text | None = None
    ghUserAvatarUrl: Text | None = None
    commitAuthorName: Text | None = None
    commitMessage: Text | None = None
    commitRef: Text | None = None
    commitSha: Text | None = None
    dirty: bool | None = None
    remoteUrl: Annotated[str, AfterValidator(without_credentials)] | None = None
    pullRequestNumber: int | None = Field(None, ge=0, lt=2**53)
    pullRequestTitle: Text | None = None
    pullRequestState: Text | None = None


class NewDeployment(BaseModel):
    contentHash: ContentHash
    type: Literal["MANAGED", "UNMANAGED", "V1"] | None = Field(None, description="Absent: a 3.x CLI.")
    runtime: Short | None = None
    gitMeta: GitMeta | None = None
    triggeredVia: Short | None = None
    externalId: str | None = Field(None, description="At most 128 characters.")
    force: bool = False


MAX_TASKS = 10_000  # of a deployment; also of an answer, because older rows may have more


class IndexedTask(BaseModel):
    id: Annotated[str, Field(max_length=500)]
    filePath: Annotated[str, Field(max_length=4096)]  # PATH_MAX
    exportName: Annotated[str, Field(max_length=500)] | None = None


class WorkerMetadata(BaseModel):
    contentHash: ContentHash
    packageVersion: Short
    cliPackageVersion: Short | None = None
    runtime: Short | None = None
    runtimeVersion: Short | None = None
    tasks: list[IndexedTask] = Field(max_length=MAX_TASKS)
    queues: list[dict[str, Any]] | None = Field(None, max_length=MAX_TASKS)


class NewWorker(BaseModel):
    engine: Annotated[str, _cut(8)] | None = None
    buildPlatform: Short | None = None
    targetPlatform: Short | None = None
    metadata: WorkerMetadata


class NewWorkerUnread(RootModel[dict[str, Any]]):
    """A NewWorker that the route validates itself, because it must store the reason if the body cannot be read."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(NewWorker.__pydantic_core_schema__)


class DeploymentError(BaseModel):
    name: Annotated[str, _cut(200)] = "DeploymentError"
    message: Text = "The deployment failed."
    stack: Annotated[str, _cut(200_000)] | None = None
    stderr: Annotated[str, _last(200_000)] | None = None  # the end of a build's log has the reason


class Failure(BaseModel):
    error: DeploymentError


class Finalize(BaseModel):
    imageDigest: Any = Field(None, description="`sha256:…`; anything else is ignored.")
    skipPromotion: bool | None = None


class Cancel(BaseModel):
    reason: str | None = Field(None, max_length=200)


class ImportedVariables(BaseModel):
    variables: dict[str, str]
    parentVariables: dict[str, str] | None = None
    override: bool | None = None
    isSecret: bool | None = None


class NewLogin(BaseModel):
    codeChallenge: str = Field(
        description="PKCE: the SHA-256 of a verifier, in base64url.", min_length=43, max_length=43
    )
    codeChallengeMethod: Literal["S256"]
    callbackPort: int | None = Field(
        None, ge=1024, le=65535, description="The port on 127.0.0.1 where the CLI listens."
    )


class LoginProof(BaseModel):
    authorizationCode: Annotated[str, Field(max_length=200)]
    codeVerifier: Annotated[str, Field(max_length=200)] | None = None
    approvalCode: Annotated[str, Field(max_length=200)] | None = None


class CiToken(BaseModel):
    token: str = Field(description="The signed token of the CI job or the service account, with this server as `aud`.")
    projectRef: str = Field("", max_length=64, description="The project to deploy; empty: the token alone decides.")
    environment: str = Field("", max_length=16, description="`prod`, `staging` or `preview`; empty: the token decides.")


class NewBranch(BaseModel):
    branch: str
    env: Literal["preview", "development"] = "preview"
    git: GitMeta | None = None


class ArchivedBranch(BaseModel):
    branch: str
    env: Literal["preview"] = "preview"


def _visible(name: str) -> str:
    if not name.isprintable():
        raise ValueError("write one line of visible characters")
    return name


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_visible)]
Ref = Annotated[str, AfterValidator(_ref), Field(description="`proj_` and lower case letters and digits.")]


class NewProject(BaseModel):
    name: Name
    ref: Ref | None = Field(None, description="The project of a `trigger.config`. Absent: the name decides.")


class ProjectValues(BaseModel):
    name: Name | None = Field(None, description="Needed for a project that does not exist.")
    ref: str | None = Field(None, description="The ref of the address: a ref never changes.")
    archived: bool | None = None


class NewEnvironment(BaseModel):
    branch: str


class EnvironmentValues(BaseModel):
    archived: bool
    branch: str | None = Field(None, description="As it is: a branch keeps its name.")


class NewKey(BaseModel):
    environment: str = Field(description="`prod`, `staging` or `preview`.")
    name: Name = Field(description="Where the key is used. The environment has one key with this name.")
    scopes: list[str] = Field([], max_length=20, description="Absent or empty: every scope of an environment key.")
    expiresAt: AwareDatetime | None = None


class NewTrustPolicy(BaseModel):
    environment: str = Field(description="`prod`, `staging` or `preview`.")
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    kind: Literal["github", "gitlab", "kubernetes", "other"]
    claims: dict[str, str] = Field(max_length=100, description="Claim → what it must be, as text.")
    issuer: str = Field("", description="Absent: the issuer of the kind.")
    branchClaim: str = Field("", description="Only for `preview`. Absent: the claim of the kind.")
    enabled: bool = True
    allowPrivate: bool = Field(False, description="Whether the issuer may have a private address.")
    ca: str = Field("", description="PEM: the only CA that is trusted for the issuer.")
    jwks: str = Field("", description="The issuer's key set as JSON; then the issuer is never asked.")


class TrustPolicyValues(BaseModel):
    environment: str | None = Field(None, description="As it is: a trust policy stays in its environment.")
    kind: str | None = Field(None, description="As it is.")
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)] | None = None
    claims: dict[str, str] | None = Field(None, max_length=100)
    issuer: str | None = None
    branchClaim: str | None = None
    enabled: bool | None = None
    allowPrivate: bool | None = None
    ca: str | None = None
    jwks: str | None = None


class Rotation(BaseModel):
    graceHours: int = Field(24, ge=0, le=168, description="How long the old key works; 0: it is revoked now.")


class Page(BaseModel):
    size: int = Field(50, alias="page[size]", ge=1, le=100)
    after: str | None = Field(None, alias="page[after]", description="The id of the last row of the previous page.")


class ProjectFilters(Page):
    name: str | None = None
    archived: bool | None = None


class NameFilters(Page):
    name: str | None = None
    environment: str | None = None


class DeploymentFilters(BaseModel):
    status: str | None = Field(None, description="One status, or several statuses separated by commas.")
    period: str | None = Field(None, description="Created within this time: `12h`, `7d`, `4w`.")
    since: str | None = Field(None, alias="from", description="Created at this time or later.")
    until: str | None = Field(None, alias="to", description="Created at this time or earlier.")
    size: int = Field(20, alias="page[size]", ge=5, le=100)
    after: str | None = Field(
        None, alias="page[after]", description="The id of the last deployment of the previous page."
    )


# ---- Answers


class WhoamiProject(BaseModel):
    name: str
    url: str
    orgTitle: str


class Whoami(BaseModel):
    userId: str
    email: str = Field(description="Always a mail address with a dot in its host: the CLI rejects others.")
    dashboardUrl: str
    project: WhoamiProject | None = Field(None, description="If `projectRef` names one.")


class AuthorizationCode(BaseModel):
    authorizationCode: str
    url: str
    approval: Literal["callback", "paste"] | None = None


class GivenToken(BaseModel):
    token: str
    obfuscatedToken: str


class ExchangedKey(BaseModel):
    key: str = Field(description="TRIGGER_ACCESS_TOKEN for one `trigger.dev deploy`. It is not shown again.")
    expiresAt: datetime = Field(description="Until then the key may begin its deployment.")
    projectRef: str
    environment: str
    branch: str | None = Field(None, description="The only preview branch that the key may deploy to.")
    apiUrl: str = Field(description="TRIGGER_API_URL for the deploy.")


class LoginToken(BaseModel):
    token: GivenToken | None


class ProjectEnvironment(BaseModel):
    apiKey: str = Field(description="A key for this environment. A new key expires after some hours.")
    name: str
    apiUrl: str
    projectId: str


class DeploySettings(BaseModel):
    build_path: Literal["depot"] = "depot"


class Variables(BaseModel):
    variables: dict[str, str]
    allowEmptyEnvironmentVariableValues: bool = True


class Success(BaseModel):
    success: Literal[True] = True


class VariableError(BaseModel):
    key: str
    error: str = Field(description="Why the variable was rejected. Does not contain the value.")


class VariablesError(Error):
    variableErrors: list[VariableError] | None = None


class Organization(BaseModel):
    id: str
    title: str
    slug: str
    createdAt: datetime


class Project(BaseModel):
    id: str
    externalRef: str
    name: str
    slug: str
    createdAt: datetime
    organization: Organization


class RuntimeOrganization(BaseModel):
    title: str
    slug: str


class RuntimeProject(BaseModel):
    name: str
    slug: str
    externalRef: str


class RuntimeEnvironment(BaseModel):
    slug: str


class RuntimeDeployment(BaseModel):
    runtime: str | None
    runtimeVersion: str | None
    nodeMajor: int | None
    deployedAt: datetime | None
    shortCode: str


class Runtime(BaseModel):
    organization: RuntimeOrganization
    project: RuntimeProject
    environment: RuntimeEnvironment
    deployment: RuntimeDeployment | None


class CanceledDeployment(BaseModel):
    version: str
    shortCode: str


class CreatedDeployment(BaseModel):
    id: str
    contentHash: str
    shortCode: str
    version: str
    imageTag: str = Field(description="The full image ref. For a 3.x CLI without the registry host.")
    imagePlatform: str
    registryHost: str | None = Field(None, description="For a 3.x CLI only.")
    externalId: str | None = None
    outcome: Literal["created", "existing"]
    isPromoted: bool | None = Field(None, description="Whether an existing deployment is current.")
    canceledDeployments: list[CanceledDeployment] | None = None


class Task(BaseModel):
    id: str
    slug: str
    filePath: str
    exportName: str | None = None


class Worker(BaseModel):
    id: str
    version: str
    tasks: list[Task]


class ErrorData(BaseModel):
    name: str
    message: str
    stack: str | None = None
    stderr: str | None = None


class LogIn(BaseModel):
    push: list[str] = Field(description="Repositories to push to and to pull from; `*`: every one of the registry.")
    pull: list[str] = Field(description="Repositories to pull from: names, and patterns with `*`.")
    leftOut: list[str] = Field(description="What did not fit into the log-in.")
    expiresAt: datetime | None


class Deployment(BaseModel):
    id: str
    status: str
    contentHash: str
    shortCode: str
    version: str
    imageReference: str
    imagePlatform: str
    commitSHA: str | None = None
    canceledReason: str | None = None
    errorData: ErrorData | None = None
    externalId: str | None = None
    registryLogIn: LogIn | None = Field(
        None,
        description="What the last log-in for its push opens, in ECR. With a key that belongs to no person, `push` "
        "names no repository of another deployment, and `leftOut` is empty.",
    )
    worker: Worker | None = Field(None, description="Absent until the image is indexed.")


class CreatedWorker(BaseModel):
    id: str
    version: str
    contentHash: str


class Id(BaseModel):
    id: str


class Promoted(BaseModel):
    id: str
    version: str
    shortCode: str


class RegistryCredentials(BaseModel):
    username: str
    password: str
    expiresAt: datetime
    repositoryUri: str
    proxyEndpoint: str | None = Field(None, description="The registry's endpoint, if ECR names it.")
    opens: LogIn | None = Field(None, description="What the log-in opens, in ECR.")
    message: str | None = Field(None, description="When it ends, and what it does not open, in sentences.")


class PullCredentials(BaseModel):
    username: str
    password: str
    expiresAt: datetime = Field(description="When the log-in really ends: AWS ends it with its session.")
    repositoryUri: str = Field(description="The one repository that it pulls from, with the registry's host.")
    proxyEndpoint: str | None = Field(None, description="The registry's endpoint, if ECR names it.")
    message: str = Field(description="When it ends, and which nodes were seen to need none, in sentences.")


class PullSecret(BaseModel):
    """A Secret without a name, as the body of a merge patch."""

    apiVersion: Literal["v1"] = "v1"
    kind: Literal["Secret"] = "Secret"
    type: Literal["kubernetes.io/dockerconfigjson"] = "kubernetes.io/dockerconfigjson"
    metadata: dict[str, dict[str, str]] = Field(description="Annotations: when the log-in ends.")
    data: dict[str, str] = Field(description="`.dockerconfigjson`, in Base64.")


class Branch(BaseModel):
    id: str
    name: str
    createdAt: datetime
    updatedAt: datetime
    git: dict[str, Any] | None = None
    isPaused: bool = False


class Branches(BaseModel):
    branches: list[Branch]


class ArchivedBranchAnswer(BaseModel):
    branch: Id


class ProviderStatus(BaseModel):
    status: Literal["operational", "degraded", "unknown"]
    message: str


class Notification(BaseModel):
    notification: None


class ListedDeployment(BaseModel):
    id: str
    createdAt: datetime
    shortCode: str
    version: str
    runtime: str | None
    runtimeVersion: str | None
    status: str
    deployedAt: datetime | None = None
    git: dict[str, Any] | None = None
    error: ErrorData | None = None
    externalId: str | None = None


class CurrentDeployment(ListedDeployment):
    imageReference: str = Field(description="The image to run, with its digest.")
    imagePlatform: str


class Pagination(BaseModel):
    next: str | None = None


class ManagedProject(BaseModel):
    id: str = Field(description="The ref.")
    ref: str
    name: str
    archived: bool
    createdAt: datetime


class ManagedProjects(BaseModel):
    data: list[ManagedProject]
    pagination: Pagination


class ManagedEnvironment(BaseModel):
    id: str = Field(description="The slug of a root environment; a number for a preview branch.")
    project: str
    slug: str
    branch: str | None = None
    archived: bool
    createdAt: datetime


class ManagedEnvironments(BaseModel):
    data: list[ManagedEnvironment]
    pagination: Pagination


class ManagedKey(BaseModel):
    id: str
    project: str
    environment: str
    name: str
    scopes: list[str]
    prefix: str = Field(description="The first characters of the key.")
    createdAt: datetime
    expiresAt: datetime | None = None
    lastUsedAt: datetime | None = None
    lastUsedBy: str | None = None


class ManagedTrustPolicy(BaseModel):
    id: str
    project: str
    environment: str
    name: str
    kind: str
    issuer: str
    claims: dict[str, str]
    branchClaim: str = Field(description="Empty but for `preview`.")
    enabled: bool
    allowPrivate: bool
    ca: str | None = Field(None, description="Absent in a list.")
    jwks: str | None = Field(None, description="Absent in a list.")
    createdAt: datetime
    lastUsedAt: datetime | None = None
    lastError: str | None = Field(None, description="Why a token that the policy is meant for was last refused.")


class ManagedTrustPolicies(BaseModel):
    data: list[ManagedTrustPolicy]
    pagination: Pagination


class StartedVersion(BaseModel):
    atOnce: bool = Field(False, description="Everywhere, without stages.")


class PausedVersion(BaseModel):
    reason: Annotated[str, StringConstraints(strip_whitespace=True, max_length=300)] = ""


class PolicyVersion(BaseModel):
    id: str
    version: int = Field(description="Counts from 1 for each registry.")
    registry: str = Field(description="ACCOUNT/REGION/NAMESPACE")
    state: str = Field(description="waiting, canaries, watching, batches, stopped, active, undoing, undone, superseded")
    digest: str = Field(description="Hex SHA-256 of the text.")
    proposedAt: datetime
    proposedBy: str
    why: str = Field(description="Why it waits for a person, or started by itself.")
    startedAt: datetime | None = None
    startedBy: str
    stage: int = Field(description="0: the canaries; then the batches.")
    reason: str = Field(description="Why it was stopped, undone or superseded; else empty.")
    changedAt: datetime
    changedBy: str
    repositories: dict[str, int] = Field(
        description="Repositories of the roll-out: planned, open, written, unchanged, left, undone, kept."
    )


class VersionStep(BaseModel):
    repository: str
    stage: int
    state: str
    words: str = Field(description="Why nothing was written or put back; else empty.")


class WholePolicyVersion(PolicyVersion):
    policy: str
    differences: list[str] = Field(description="What it gives (+) and takes (-), against the version before it.")
    steps: list[VersionStep]


class PolicyEffect(BaseModel):
    words: str
    repositories: int


class AffectedEnvironment(BaseModel):
    project: str
    environment: str
    repository: str


class PolicyVersionPreview(BaseModel):
    repositories: int
    changed: int
    unknown: int = Field(description="Repositories that were not checked yet, or whose policy cannot be compared.")
    gains: list[PolicyEffect]
    losses: list[PolicyEffect]
    environments: list[AffectedEnvironment] = Field(description="They run an image that somebody could not pull.")


class PolicyVersions(BaseModel):
    data: list[PolicyVersion]
    pagination: Pagination


class NewManagedKey(ManagedKey):
    key: str = Field(description="The text of the key, which no other answer has.")


class ManagedKeys(BaseModel):
    data: list[ManagedKey]
    pagination: Pagination


class Deployments(BaseModel):
    data: list[ListedDeployment]
    pagination: Pagination


def refusals(*statuses: int) -> dict[int, None]:
    """A route's error answers, for the description of the API. `deployments.api.Api` adds their body, `Error`.

    Includes the statuses that every route has: a NUL in the address or a malformed header (400), a body without a
    length (411) or that is too large (413), too many unknown keys (429), and faults of the server (500, 503).
    """
    return dict.fromkeys(sorted({*statuses, 400, 411, 413, 429, 500, 503}))
