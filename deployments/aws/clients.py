"""Sessions, clients and threads for calls to AWS, shared by the process; and the one reader of boto3's errors.

An error becomes `RegistryError`, whose sentence is the catalogue's. It says whether another try can succeed, whether
a person must act, and whether the repository or the whole installation is concerned.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import boto3
from botocore import exceptions as aws
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from django.db import connection

from deployments.aws.values import (
    Access,
    Session,
)
from deployments.catalogue import UNKNOWN
from deployments.errors import RegistryError, aws_error, registry_error

CONNECT_SECONDS = 3

READ_SECONDS = 10

ATTEMPTS_PER_CALL = 3

CALLS_IN_FLIGHT = 32  # calls in flight from one process; also the size of each client's connection pool

ROLE_SESSION_SECONDS = 3600

USER_AGENT = "registry-admin"  # in our calls' user agent, so that CloudTrail's events tell which ones are ours

_lock = threading.Lock()

_clients: dict[tuple[int, str, str, Access, int, int], Any] = {}

_executors: dict[int, ThreadPoolExecutor] = {}


def _config(attempts: int, waits: int = 0) -> Config:
    """`waits`: for how many seconds a call may ask AWS to wait before it answers. The read timeout is longer by that,
    as AWS asks for (SQS, ReceiveMessage: WaitTimeSeconds)."""
    return Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=waits + READ_SECONDS,
        max_pool_connections=CALLS_IN_FLIGHT,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        user_agent_extra=USER_AGENT,
    )


def client_of(service: str, region: str, access: Access, attempts: int, waits: int = 0) -> Any:
    """One client per service, region, access and process: a new one costs a connection, a handshake and 20 ms of CPU.

    Keyed by the process id, because a client's connections must not be shared with a forked worker.
    """
    key = (os.getpid(), service, region, access, attempts, waits)
    client = _clients.get(key)
    if client is None:
        with _lock:
            client = _clients.get(key)
            if client is None:
                session: Any = _session(region, access)  # its overloads name every service of AWS
                client = session.client(service, region_name=region, config=_config(attempts, waits))
                client.meta.events.register("before-send", _before_send)
                _clients[key] = client
    return client


#: What is asked before each HTTP request of the call that this thread is making.
before_attempt: ContextVar[Callable[[], None]] = ContextVar("before_attempt", default=lambda: None)


def _before_send(**_: Any) -> None:
    before_attempt.get()()


def _session(region: str, access: Access) -> boto3.session.Session:
    session = boto3.session.Session(region_name=region)
    core: Any = session._session
    # STS in the registry's own region: the global one cannot be reached from everywhere, and knows one partition.
    core.set_config_variable("sts_regional_endpoints", "regional")
    if access.role_arn is None:
        return session
    # botocore's own assume-role credentials: fetched at first use, refreshed well before they expire by one thread
    # while the others go on. An unset role must never come here: AssumeRole with a null ARN is the seed's bug
    # (trigger.dev issues 2291 and 3364).
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
    """A client for one call with a session's own credentials. Not kept: each session is used once."""
    with _lock:
        parent: Any = _one_off_session()  # it has read the service's model already
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
    return boto3.session.Session()


def forget_clients(access: Access | None = None) -> None:
    """Drop the cached clients (of one access), so that the next call finds its credentials anew."""
    with _lock:
        for key in [key for key in _clients if access is None or key[3] == access]:
            del _clients[key]


def executor() -> ThreadPoolExecutor:
    process = os.getpid()
    executor = _executors.get(process)
    if executor is None:
        with _lock:
            executor = _executors.setdefault(
                process, ThreadPoolExecutor(max_workers=CALLS_IN_FLIGHT, thread_name_prefix="ecr")
            )
    return executor


def no_open_transaction() -> None:
    if connection.in_atomic_block:
        raise RuntimeError("AWS must not be asked while a database transaction is open")


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


def translated(error: Exception, operation: str, name: str, access: Access) -> RegistryError:
    """Say once, in words, what boto3 raised. Only here is an AWS error looked at; the words are the catalogue's."""
    if isinstance(error, aws.ClientError):
        body = error.response.get("Error", {})
        meta = error.response.get("ResponseMetadata", {})
        if error.operation_name == "AssumeRole":  # botocore's own, on the way to what was asked
            operation, name = "AssumeRole", access.role_arn or name
        return aws_error(
            operation,
            name,
            body.get("Code", UNKNOWN),
            body.get("Message", ""),
            permission=_permission(operation),
            setting=access.setting,
            request_id=meta.get("RequestId", ""),
            status=meta.get("HTTPStatusCode", 0),
        )
    if isinstance(error, _NO_CREDENTIALS):
        code = "NoCredentials"
    elif isinstance(error, aws.ParamValidationError):
        code = "ParamValidation"
    else:
        code = "Timeout" if isinstance(error, aws.ReadTimeoutError) else "Unreachable"
    return registry_error(code, operation=operation, name=name)


def _permission(operation: str) -> str:
    """The IAM action behind an operation. SQS's batch operations need the permission of the single one."""
    if operation in ("AssumeRole", "GetFederationToken", "GetCallerIdentity"):
        return f"sts:{operation}"
    return f"sqs:{operation.removesuffix('Batch')}" if "Message" in operation else f"ecr:{operation}"
