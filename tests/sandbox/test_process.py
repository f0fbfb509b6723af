"""The sandbox as a process: where it listens, how it ends, what its control API tells."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox.control import KEYS, Sandbox, SandboxError
from tests.sandbox.asking import OWNER

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sandbox", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10, check=False
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])  # noqa: S104 (that is the point)
def test_it_refuses_to_listen_beyond_loopback(host: str) -> None:
    ended = run("--port", "0", "--host", host)

    assert ended.returncode == 2
    assert "not a loopback address" in ended.stderr
    assert ended.stdout == ""


def test_it_says_so_when_the_port_is_taken(sandbox: Sandbox) -> None:
    ended = run("--port", str(sandbox.port))

    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{sandbox.port}" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_even_while_somebody_waits(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox", "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    sandbox = Sandbox(said.rpartition("ready at ")[2].strip())
    authorization = sandbox.client("ecr").get_authorization_token()["authorizationData"][0]["authorizationToken"]
    sandbox.fault("hang", "v2:*")
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=5)
    connection.request("GET", "/v2/", headers={"Authorization": f"Basic {authorization}"})

    until = time.monotonic() + 5
    while not sandbox.faults()[0]["struck"]:  # it waits for certain, and is not still on its way
        assert time.monotonic() < until
        time.sleep(0.02)

    os.kill(process.pid, number)
    out, errors = process.communicate(timeout=5)
    connection.close()

    assert (process.returncode, out, errors) == (0, "", "")
    assert said == f"sandbox ready at {sandbox.url}\n"


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import os; from sandbox.control import Sandbox; sandbox = Sandbox.start(); "
        "print(sandbox.process.pid, flush=True); os._exit(9)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
    )
    pid = int(ended.stdout)

    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.02)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_calls_are_counted_by_operation_and_kept_in_a_journal(sandbox: Sandbox) -> None:
    ecr = sandbox.client("ecr", "cluster", region="eu-west-1")
    ecr.create_repository(repositoryName="shop")
    with pytest.raises(ecr.exceptions.RepositoryPolicyNotFoundException):
        ecr.get_repository_policy(repositoryName="shop")

    assert sandbox.calls() == {"ecr:CreateRepository": 1, "ecr:GetRepositoryPolicy": 1}
    last = sandbox.journal()[-1]
    assert last["operation"] == "GetRepositoryPolicy"
    assert last["caller"] == "arn:aws:iam::222222222222:user/admin"
    assert (last["region"], last["repository"]) == ("eu-west-1", "shop")
    assert last["outcome"] == "RepositoryPolicyNotFoundException"
    sandbox.reset_calls()
    assert sandbox.calls() == {}


def test_another_account_can_be_added(sandbox: Sandbox) -> None:
    key = sandbox.add_account("333333333333")

    assert sandbox.client("sts", key).get_caller_identity()["Account"] == "333333333333"
    for wrong in ("333333333333", "12"):
        with pytest.raises(SandboxError):
            sandbox.add_account(wrong)


def test_a_subprocess_gets_to_the_sandbox_by_its_environment(sandbox: Sandbox) -> None:
    script = "import boto3, json; print(boto3.client('sts').get_caller_identity()['Account'])"
    environment = {"PATH": os.environ["PATH"], **sandbox.environment("owner")}

    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=20, check=True
    )

    assert ended.stdout.strip() == OWNER


def test_the_documented_keys_are_the_keys() -> None:
    readme = (ROOT / "sandbox" / "README.md").read_text()

    for key, secret in KEYS.values():
        assert key in readme
        assert secret in readme


def ask(sandbox: Sandbox, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=5)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def test_a_web_page_cannot_use_the_control_api(sandbox: Sandbox) -> None:
    assert ask(sandbox, "GET", "/_sandbox/health")[0] == 200
    assert ask(sandbox, "POST", "/_sandbox/reset", Origin="https://example.com")[0] == 403
    assert ask(sandbox, "GET", "/_sandbox/nothing")[0] == 404
    assert ask(sandbox, "POST", "/_sandbox/faults", b"[]")[0] == 400


def test_what_is_not_a_call_is_refused_and_never_a_500(sandbox: Sandbox) -> None:
    target = "AmazonEC2ContainerRegistry_V20150921.CreateRepository"
    assert ask(sandbox, "GET", "/")[0] == 403
    assert ask(sandbox, "POST", "/", b"Action=GetCallerIdentity")[0] == 403
    status, body = ask(sandbox, "POST", "/", b"{", **{"X-Amz-Target": target})
    assert (status, json.loads(body)["__type"]) == (403, "MissingAuthenticationTokenException")
    assert ask(sandbox, "DELETE", "/v2/a/manifests/b")[0] == 401
