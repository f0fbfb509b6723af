"""Control a sandbox from outside: start it, call it, set faults, stop it. For tests, the demo and benchmarks.

``Sandbox.start()`` starts a sandbox process on a free port; ``Sandbox(url)`` attaches to a running sandbox. boto3 is
imported only when `client` is called. `stop` ends only the process that `start` made.
"""

from __future__ import annotations

import base64
import functools
import http.client
import json
import os
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

Account = Literal["owner", "cluster"] | tuple[str, str] | tuple[str, str, str]

OWNER_ACCOUNT = "111111111111"
CLUSTER_ACCOUNT = "222222222222"
# Repeated here, so that a program that only calls a sandbox does not import the sandbox.
KEYS: dict[str, tuple[str, str]] = {
    "owner": ("AKIAOWNER1111EXAMPLE", "sandbox/owner/111111111111/EXAMPLESECRET"),
    "cluster": ("AKIACLUST2222EXAMPLE", "sandbox/cluster/222222222222/EXAMPLEKEY0"),
}


class SandboxError(RuntimeError):
    """The sandbox did not start, or refused a call of its control API."""


_LOCK = threading.Lock()


@functools.cache
def _session() -> Any:
    """One session for all clients, because each session reads the service models again."""
    import boto3

    return boto3.session.Session()


def _close(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


class Sandbox:
    """A running sandbox."""

    def __init__(
        self, url: str, process: subprocess.Popen[str] | None = None, *, authority: Path | None = None
    ) -> None:
        """``authority``: the certificate of the authority of a sandbox with TLS."""
        self.url = url.rstrip("/")
        self.process = process
        self.authority = authority
        parts = urlsplit(self.url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80

    @classmethod
    def start(cls, port: int = 0, *, timeout: float = 20.0, tls: Path | None = None) -> Self:
        """Starts a sandbox process and returns when it is ready. Raises SandboxError after ``timeout`` seconds.

        ``tls``: with TLS, and this folder for the certificate of its authority.
        """
        root = Path(__file__).resolve().parent.parent
        path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, "-m", "sandbox", "--port", str(port), "--stop-with-stdin"]
            + (["--tls", str(tls)] if tls else []),
            stdin=subprocess.PIPE,  # closes when this process ends, even by SIGKILL; then the sandbox ends too
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            # Ctrl-C goes to the whole process group, but the starting process decides when the sandbox ends.
            start_new_session=True,
        )
        said = process.stdout
        if said is None:  # only for mypy: the process has a pipe
            raise SandboxError("the sandbox has no standard output")
        overdue = threading.Timer(timeout, process.kill)
        overdue.start()
        try:
            line = said.readline().strip()
        finally:
            overdue.cancel()
        if "ready at " not in line:
            process.kill()
            process.wait(timeout=5)
            _close(process)
            raise SandboxError(f"the sandbox did not start: {line or 'it said nothing'}")
        return cls(line.rpartition("ready at ")[2], process, authority=tls / "ca.crt" if tls else None)

    def stop(self, timeout: float = 5.0) -> None:
        """Ends the process that ``start`` made, and waits for its end. Does nothing to an attached sandbox."""
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout)
        _close(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- AWS --

    def client(self, service: str, account: Account = "owner", region: str = "us-east-1", **config: Any) -> Any:
        """A boto3 client for this sandbox. ``config`` is passed to botocore's Config; the default tries a call once."""
        from botocore.config import Config

        key, secret, *token = KEYS[account] if isinstance(account, str) else account
        settings: dict[str, Any] = {
            "connect_timeout": 5,
            "read_timeout": 30,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            **config,
        }
        with _LOCK:  # making a client is not thread-safe, using one is
            return _session().client(
                service,
                region_name=region,
                endpoint_url=self.url,
                aws_access_key_id=key,
                aws_secret_access_key=secret,
                aws_session_token=token[0] if token else None,
                config=Config(**settings),
                verify=str(self.authority) if self.authority else None,
            )

    def environment(self, account: Account = "owner", region: str = "us-east-1") -> dict[str, str]:
        """Environment variables that make a subprocess's AWS clients call this sandbox; merge into ``os.environ``."""
        key, secret, *token = KEYS[account] if isinstance(account, str) else account
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            **({"AWS_SESSION_TOKEN": token[0]} if token else {}),
            **({"AWS_CA_BUNDLE": str(self.authority)} if self.authority else {}),
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            # Without the operator's own AWS configuration, and without a search for an instance's role.
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def login(self, account: Account = "owner", region: str = "us-east-1") -> tuple[str, str]:
        """User name and password for the registry, from GetAuthorizationToken."""
        data = self.client("ecr", account, region).get_authorization_token()["authorizationData"][0]
        user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
        return user, password

    # -- control --

    def calls(self) -> dict[str, int]:
        """How often each operation was called, for example ``{"ecr:CreateRepository": 3}``."""
        counts: dict[str, int] = self._control("GET", "calls")
        return counts

    def reset_calls(self) -> None:
        """Sets the counts of `calls` to zero; the journal stays."""
        self._control("POST", "calls/reset")

    def journal(self) -> list[dict[str, Any]]:
        """The last calls, oldest first."""
        entries: list[dict[str, Any]] = self._control("GET", "journal")
        return entries

    def fault(self, kind: str, match: str = "*", **settings: Any) -> dict[str, Any]:
        """Sets a fault. The README explains the kinds and their settings."""
        fault: dict[str, Any] = self._control("POST", "faults", {"kind": kind, "match": match, **settings})
        return fault

    def faults(self) -> list[dict[str, Any]]:
        """The faults, with how many calls each fault has matched and how often it has struck."""
        faults: list[dict[str, Any]] = self._control("GET", "faults")
        return faults

    def clear_faults(self) -> None:
        self._control("DELETE", "faults")

    def reset(self) -> None:
        """Resets the sandbox: no repositories, two accounts, no faults, counts at zero."""
        self._control("POST", "reset")

    def add_account(self, account: str) -> tuple[str, str]:
        """Adds an account with an admin user; returns the admin's access key and secret."""
        made = self._control("POST", "accounts", {"account": account})
        return made["access_key_id"], made["secret_access_key"]

    def advance(self, seconds: float) -> None:
        """Moves the sandbox's clock forward: tokens and sessions expire sooner, repositories become older.

        Runs the lifecycle policies that were then not evaluated for 24 hours.
        """
        self._control("POST", "clock", {"advance": seconds})

    def run_lifecycle(self, repository: str = "*") -> int:
        """Runs the lifecycle policies of the repositories with these names (a glob) now. Returns how many."""
        return int(self._control("POST", "lifecycle", {"repository": repository})["evaluated"])

    def events_to(self, queue: str, *, account: str = OWNER_ACCOUNT, **settings: Any) -> str:
        """Sends the account's change events to an SQS queue (made if it is missing). Returns the queue's URL."""
        made = self._control("POST", "events", {"queue": queue, "account": account, **settings})
        return str(made["queue_url"])

    def _control(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        if self.authority:
            context = ssl.create_default_context(cafile=self.authority)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self.host, self.port, timeout=10, context=context
            )
        else:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        try:
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, f"/_sandbox/{path}", content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise SandboxError(f"{method} {path}: {answer.get('error')}")
        return answer
