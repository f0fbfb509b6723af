"""Sessions, clients and threads for calls to AWS, shared by the process; and the translation of boto3's exceptions.

Each exception becomes a `RegistryError` with a sentence of the catalogue. The error says whether it is retryable and
whether it concerns one repository or the whole installation.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import boto3
import botocore.session
from botocore import exceptions as aws
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from django.db import connection

from deployments import measure
from deployments.aws.values import Session
from deployments.catalogue import UNKNOWN
from deployments.config import Access
from deployments.errors import RegistryError, aws_error, registry_error
from deployments.log import get_logger

log = get_logger(__name__)

CONNECT_SECONDS = 3
READ_SECONDS = 10
ATTEMPTS_PER_CALL = 3
CALLS_IN_FLIGHT = 32  # calls in flight from one process; also the size of each client's connection pool
ROLE_SESSION_SECONDS = 3600
USER_AGENT = "registry-admin"  # part of each call's user agent: marks this program's calls in CloudTrail's events

#: The endpoint prefixes of the services that are called (`endpointPrefix` in their models).
_PREFIXES = frozenset({"api.ecr", "sts", "sqs"})

_lock = threading.Lock()

_clients: dict[tuple[int, str, str, Access, int, int], Any] = {}

_executors: dict[int, ThreadPoolExecutor] = {}


def _config(attempts: int, waits: int = 0) -> Config:
    """`waits`: the longest time in seconds that a call lets AWS wait before AWS answers. The read timeout is longer
    than this time, as AWS requires (SQS API, ReceiveMessage, WaitTimeSeconds).
    """
    return Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=waits + READ_SECONDS,
        max_pool_connections=CALLS_IN_FLIGHT,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        user_agent_extra=USER_AGENT,
    )


def client_of(service: str, region: str, access: Access, attempts: int, waits: int = 0) -> Any:
    """The process's client for this service, region and access. A new client costs a connection, a TLS handshake and
    20 ms of CPU time.

    `attempts`: how often botocore tries a call. `waits`: as in `_config`. The process id is part of the key, because
    a forked worker must not use its parent's connections.
    """
    key = (os.getpid(), service, region, access, attempts, waits)
    client = _clients.get(key)
    if client is None:
        with _lock:
            client = _clients.get(key)
            if client is None:
                session: Any = _session(region, access)  # Any: the type stubs have an overload per AWS service
                try:
                    client = session.client(service, region_name=region, config=_config(attempts, waits))
                except ValueError:  # it quotes AWS_ENDPOINT_URL, which may contain a password
                    raise aws.InvalidEndpointConfigurationError(msg="ValueError") from None
                client.meta.events.register("before-send", _before_send)
                _clients[key] = client
    return client


def setup_error(region: str) -> tuple[str, str] | None:
    """Why boto3 makes no client with its variables and the files that they name: (variable, sentence); None if it makes
    one. Makes no call, and looks for no credentials.
    """
    try:
        session: Any = _new_session()
        for service in ("ecr", "sts"):
            keys = {"aws_access_key_id": "-", "aws_secret_access_key": "-"}
            session.client(service, region_name=region, config=_config(1), **keys)
    except aws.ProfileNotFound:
        return "AWS_PROFILE", "there is no such profile in the files of the AWS CLI that this user can read"
    except (aws.BotoCoreError, ValueError) as error:  # its text may quote a value
        if str(error).startswith("Invalid endpoint"):
            return "AWS_ENDPOINT_URL", "it, or AWS_ENDPOINT_URL_ECR or AWS_ENDPOINT_URL_STS, is not a URL"
        return "AWS_…", f"boto3 cannot read one of these variables, or a file that they name ({type(error).__name__})"
    return None


#: A function that runs before each HTTP request of the current call of this thread. It may raise to stop the request.
before_attempt: ContextVar[Callable[[], None]] = ContextVar("before_attempt", default=lambda: None)


def _before_send(**_: Any) -> None:
    before_attempt.get()()


def _new_session(region: str | None = None) -> boto3.session.Session:
    """A session that reads the data of all sessions of this process: with data of its own it would take 9 MB more."""
    core = botocore.session.Session()
    core.register_component("data_loader", _data())
    return boto3.session.Session(botocore_session=core, region_name=region)


@functools.cache
def _data() -> Any:
    """botocore's data: the models of the services, and of the legacy endpoints only those of our services, because all
    together take 7 MB.
    """
    loader: Any = botocore.session.Session().get_component("data_loader")  # it looks in AWS_DATA_PATH too
    for partition in loader.load_data("endpoints")["partitions"]:
        partition["services"] = {name: each for name, each in partition["services"].items() if name in _PREFIXES}
    return loader


def _session(region: str, access: Access) -> boto3.session.Session:
    session = _new_session(region)
    core: Any = session._session
    # STS in the registry's own region: the global endpoint serves one partition only, and some networks block it.
    core.set_config_variable("sts_regional_endpoints", "regional")
    if access.role_arn is None:
        return session
    # botocore's own assume-role credentials: fetched at first use; one thread refreshes them well before they expire
    # while the other threads continue. Without a role this line is not reached: AssumeRole with a null ARN was a bug
    # of trigger.dev (issues 2291 and 3364).
    source = session.get_credentials()
    if source is None:
        raise aws.NoCredentialsError()
    extra: dict[str, Any] = {"RoleSessionName": "registry-admin", "DurationSeconds": ROLE_SESSION_SECONDS}
    if access.external_id:
        extra["ExternalId"] = access.external_id
    fetcher = AssumeRoleCredentialFetcher(
        client_creator=functools.partial(core.create_client, region_name=region, config=_config(ATTEMPTS_PER_CALL)),
        source_credentials=source,
        role_arn=access.role_arn,
        extra_args=extra,
    )
    core._credentials = DeferredRefreshableCredentials(method="assume-role", refresh_using=fetcher.fetch_credentials)
    return session


def session_client(region: str, session: Session) -> Any:
    """An ECR client with the credentials of this session. Not cached, because each session is used once."""
    with _lock:
        parent: Any = _one_off_session()  # shared, because it has loaded the service model of ECR
        return parent.client(
            "ecr",
            region_name=region,
            config=_config(ATTEMPTS_PER_CALL),
            aws_access_key_id=session.access_key,
            aws_secret_access_key=session.secret,
            aws_session_token=session.token,
        )


@functools.cache
def _one_off_session() -> boto3.session.Session:
    return _new_session()


def forget_clients(access: Access | None = None) -> None:
    """Remove the cached clients (of this access, or all), so that the next call looks up its credentials again."""
    with _lock:
        for key in [key for key in _clients if access is None or key[3] == access]:
            del _clients[key]


def executor() -> ThreadPoolExecutor:
    """The process's threads for parallel calls, at most CALLS_IN_FLIGHT at once."""
    process = os.getpid()
    executor = _executors.get(process)
    if executor is None:
        with _lock:
            executor = _executors.setdefault(
                process, ThreadPoolExecutor(max_workers=CALLS_IN_FLIGHT, thread_name_prefix="ecr")
            )
    return executor


def no_open_transaction() -> None:
    """Raise RuntimeError if a database transaction is open: it would stay open for the whole call to AWS."""
    if connection.in_atomic_block:
        raise RuntimeError("AWS must not be called while a database transaction is open")


#: The operations that change something in ECR: one line each.
WRITES = frozenset(
    {
        "CreateRepository",
        "SetRepositoryPolicy",
        "PutLifecyclePolicy",
        "PutImageTagMutability",
        "TagResource",
        "UpdateImageStorageClass",
    }
)


WORDS_LOGGED = 300  # characters of what AWS says about a refused call; the repository's row has all of it


def record_call(
    operation: str, started: float, outcome: Any, *, expected: bool = False, probe: bool = False, **about: str
) -> None:
    """Count one call to AWS, and write its line: INFO for a write, WARNING for one that was refused, DEBUG for a read
    and for a `probe`, which only asks whether AWS allows the call.

    `outcome` is AWS's answer, its ClientError, or the RegistryError of a call without an answer; `expected`: its code
    is no failure. `started` is by `time.monotonic`. `about` names the repository or the queue.
    """
    if isinstance(outcome, RegistryError):
        code, aws_request_id, words = outcome.code, outcome.aws_request_id, outcome.sentence
    else:
        answer = outcome.response if isinstance(outcome, aws.ClientError) else outcome
        code, words = answer.get("Error", {}).get("Code", ""), answer.get("Error", {}).get("Message", "")
        aws_request_id = answer.get("ResponseMetadata", {}).get("RequestId", "")
    is_write, seconds = operation in WRITES, time.monotonic() - started
    measure.aws_call(operation=operation, outcome=code or "ok", seconds=seconds, is_write=is_write)
    write = log.debug if probe or not is_write else log.info if expected or not code else log.warning
    write(
        "aws.write" if is_write else "aws.read",
        operation=operation,
        **about,
        outcome=code or "ok",
        **({"error": words[:WORDS_LOGGED]} if code else {}),
        aws_request_id=aws_request_id,
        duration_ms=round(seconds * 1000),
    )


EXPIRED = frozenset({"ExpiredTokenException", "ExpiredToken", "RequestExpired"})


_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.TokenRetrievalError,
    aws.ProfileNotFound,
    aws.InvalidConfigError,
    aws.SSOError,
    aws.UnauthorizedSSOTokenError,
)


def translated(error: Exception, operation: str, name: str, access: Access, *, setting: str = "") -> RegistryError:
    """boto3's exception as a `RegistryError`. `operation` and `name` (of the repository or queue) go into the sentence,
    and so does `setting`, the variable that the request's text comes from.

    Only this function reads the exceptions of boto3; `deployments.catalogue` has the sentences.
    """
    if isinstance(error, aws.ClientError):
        body = error.response.get("Error", {})
        meta = error.response.get("ResponseMetadata", {})
        if error.operation_name == "AssumeRole":  # botocore assumed the role before the call itself
            operation, name = "AssumeRole", access.role_arn or name
        if operation == "AssumeRole":
            setting = access.setting
        return aws_error(
            operation,
            name,
            body.get("Code", UNKNOWN),
            body.get("Message", ""),
            permission=permission_of(operation),
            setting=setting,
            aws_request_id=meta.get("RequestId", ""),
            status=meta.get("HTTPStatusCode", 0),
        )
    if isinstance(error, _NO_CREDENTIALS):
        code = "NoCredentials"
    elif isinstance(error, aws.ParamValidationError):
        code = "ParamValidation"
    else:
        code = "Timeout" if isinstance(error, aws.ReadTimeoutError) else "Unreachable"
    return registry_error(code, operation=operation, name=name)


def permission_of(operation: str) -> str:
    """The IAM action that an operation needs. A batch operation of SQS needs the action of the single operation."""
    if operation in ("AssumeRole", "GetFederationToken", "GetCallerIdentity"):
        return f"sts:{operation}"
    return f"sqs:{operation.removesuffix('Batch')}" if "Message" in operation else f"ecr:{operation}"
