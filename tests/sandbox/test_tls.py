"""A sandbox with TLS: its certificate, and the URLs that it returns."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from sandbox import images
from sandbox.control import Sandbox
from tests.sandbox.asking import OWNER

pytestmark = pytest.mark.costly


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox.start(tls=tmp_path_factory.mktemp("sandbox") / "tls") as sandbox:
        yield sandbox


def context(sandbox: Sandbox) -> ssl.SSLContext:
    """What a strict client trusts: only the authority of the sandbox."""
    made = ssl.create_default_context(cafile=sandbox.authority)
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    return made


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_client_that_trusts_the_authority_trusts_the_sandbox(sandbox: Sandbox, name: str) -> None:
    url = f"https://{name}:{sandbox.port}/_sandbox/health"

    with urllib.request.urlopen(url, timeout=5, context=context(sandbox)) as answer:
        assert answer.status == 200
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(url, timeout=5, context=ssl.create_default_context())


def test_a_certificate_is_for_no_other_name(sandbox: Sandbox) -> None:
    with (
        socket.create_connection(("127.0.0.1", sandbox.port), timeout=5) as plain,
        pytest.raises(ssl.SSLCertVerificationError, match="not valid for"),
    ):
        context(sandbox).wrap_socket(plain, server_hostname="ecr.example.com")


def test_the_folder_of_the_authority_holds_no_key(sandbox: Sandbox) -> None:
    assert sandbox.authority is not None
    [file] = sandbox.authority.parent.iterdir()
    assert file == sandbox.authority
    assert b"PRIVATE" not in file.read_bytes()


def test_every_url_that_the_sandbox_returns_is_https(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(sandbox.authority))
    ecr, sqs = sandbox.client("ecr"), sandbox.client("sqs")
    ecr.create_repository(repositoryName="trigger/shop")
    image = images.build()
    endpoint = ecr.get_authorization_token()["authorizationData"][0]["proxyEndpoint"]

    images.push(image, endpoint, *sandbox.login(), "trigger/shop", "v1")
    layer = ecr.get_download_url_for_layer(repositoryName="trigger/shop", layerDigest=image.blobs[0].digest)

    assert images.pull(endpoint, *sandbox.login(), "trigger/shop", "v1") == image
    for url in (endpoint, layer["downloadUrl"], sqs.create_queue(QueueName="changes")["QueueUrl"]):
        assert url.startswith(f"{sandbox.url}/") or url == sandbox.url
    assert sandbox.events_to("changes").startswith("https://")


def test_a_large_layer_goes_through_tls(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(sandbox.authority))
    sandbox.client("ecr").create_repository(repositoryName="trigger/large")
    layer = images.Blob(media_type=images.GZIP_LAYER, content=os.urandom(3 * 1024 * 1024))

    with images.RegistryClient(sandbox.url, *sandbox.login()) as client:
        client.push_blob(layer, "trigger/large")
        assert client.request("GET", f"/v2/trigger/large/blobs/{layer.digest}")[2] == layer.content


def test_the_environment_of_a_sandbox_lets_a_new_session_trust_it(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in sandbox.environment("owner").items():
        monkeypatch.setenv(name, value)

    assert boto3.session.Session().client("sts").get_caller_identity()["Account"] == OWNER


def test_a_client_without_tls_is_sent_away_at_once(sandbox: Sandbox) -> None:
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=5) as connection:
        connection.sendall(b"GET /_sandbox/health HTTP/1.1\r\nHost: localhost\r\n\r\n")

        while connection.recv(100):
            pass


def test_a_folder_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("a file, not a folder")

    ended = subprocess.run(
        [sys.executable, "-m", "sandbox", "--port", "0", "--tls", str(tmp_path / "tls")],
        cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, timeout=10, check=False,
    )  # fmt: skip

    assert ended.returncode == 1
    assert ended.stderr.startswith(f"sandbox: cannot write {tmp_path / 'tls'}/ca.crt: ")
