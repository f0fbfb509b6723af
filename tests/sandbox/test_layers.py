"""Layers of any size: how they arrive, where they are kept, how they are read."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sandbox import images, store
from sandbox.aws import AWSError
from sandbox.content import IN_MEMORY, Content
from sandbox.control import Sandbox
from sandbox.server import Handler, Request, Response, Server
from sandbox.store import Repository, Upload
from tests.sandbox.asking import refused

MIB = 1024 * 1024
T = TypeVar("T")
LARGE = images.Blob(media_type=images.GZIP_LAYER, content=os.urandom(IN_MEMORY) + b"and a byte more")


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[images.RegistryClient]:
    with images.RegistryClient(sandbox.url, *sandbox.login()) as client:
        yield client


def denied(status: int, client: images.RegistryClient, *request: Any) -> images.RegistryError:
    with pytest.raises(images.RegistryError) as caught:
        client.request(*request)
    assert caught.value.status == status, str(caught.value)
    return caught.value


def upload(client: images.RegistryClient, repository: str) -> str:
    return client.request("POST", f"/v2/{repository}/blobs/uploads/")[1]["location"]


def peak(sandbox: Sandbox, *, begin: bool = False) -> int:
    """The largest memory of the sandbox's process since `begin`, in bytes."""
    assert sandbox.process is not None
    process = Path("/proc") / str(sandbox.process.pid)
    if begin:
        (process / "clear_refs").write_text("5")
    return int((process / "status").read_text().partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.costly
def test_a_layer_takes_no_memory_on_its_way_in_and_out(
    sandbox: Sandbox, client: images.RegistryClient, repository: str
) -> None:
    piece, count = os.urandom(MIB), 48
    digest = "sha256:" + hashlib.sha256(piece * count).hexdigest()
    before = peak(sandbox, begin=True)

    where = upload(client, repository)
    client.request("PATCH", where, (piece for _ in range(count)))  # type: ignore[arg-type]  # http.client sends chunks
    client.request("PUT", f"{where}?digest={digest}")
    assert peak(sandbox) - before < 16 * MIB

    client._connection.request("GET", f"/v2/{repository}/blobs/{digest}", headers=client._headers)
    redirect = client._connection.getresponse()
    redirect.read()
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=10)
    connection.request("GET", redirect.headers["Location"])
    answer = connection.getresponse()
    assert answer.read(1) == piece[:1]  # the client reads no more, and the sandbox does not go on
    sandbox.calls()
    assert peak(sandbox) - before < 16 * MIB
    assert piece[:1] + answer.read() == piece * count
    connection.close()
    assert peak(sandbox) - before < 16 * MIB


def test_a_layer_can_come_in_chunks_and_ecr_reports_the_end_of_the_first_one_only(
    client: images.RegistryClient, repository: str
) -> None:
    first, second, last = b"1" * 5 * MIB, b"2" * 5 * MIB, b"3"
    digest = images.Blob(media_type="", content=first + second + last).digest
    where = upload(client, repository)

    sent = client.request("PATCH", where, first, {"Content-Range": f"0-{len(first) - 1}"})
    assert (sent[0], sent[1]["range"]) == (201, f"0-{len(first) - 1}")
    refusal = denied(416, client, "PATCH", where, b"late", {"Content-Range": "0-3"})
    assert refusal.code == "BLOB_UPLOAD_INVALID"
    assert refusal.message == f"First byte of the layer part is 0 instead of {len(first)}"
    assert client.request("PATCH", where, second)[1]["range"] == f"0-{len(first) - 1}"
    assert client.request("GET", where)[1]["range"] == f"0-{len(first + second) - 1}"
    assert client.request("PUT", f"{where}?digest={digest}", last)[0] == 201

    assert client.request("GET", f"/v2/{repository}/blobs/{digest}")[2] == first + second + last


def test_only_the_last_part_of_a_layer_may_be_small(ecr: Any, client: images.RegistryClient, repository: str) -> None:
    words = "All layer parts except the last part should be at least 5MB"
    digest = images.Blob(media_type="", content=b"ab").digest
    where = upload(client, repository)
    client.request("PATCH", where, b"a")
    client.request("PATCH", where, b"b")
    assert denied(400, client, "PUT", f"{where}?digest={digest}").message == words

    named = {"repositoryName": repository, "uploadId": ecr.initiate_layer_upload(repositoryName=repository)["uploadId"]}
    for place, part in enumerate((b"a", b"b")):
        ecr.upload_layer_part(**named, partFirstByte=place, partLastByte=place, layerPartBlob=part)
    with refused("LayerPartTooSmallException") as refusal:
        ecr.complete_layer_upload(**named, layerDigests=[digest])
    assert refusal.message == words


@pytest.mark.parametrize("layer", [LARGE, images.build().blobs[1]], ids=["large", "small"])
@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=10-19", 206, slice(10, 20)),
        ("bytes=10-", 206, slice(10, None)),
        ("bytes=-10", 206, slice(-10, None)),
        ("bytes=0-0,5-9", 200, slice(None)),
        ("bytes=999999999-", 416, slice(0)),
    ],
)
def test_a_part_of_a_layer_can_be_read(
    client: images.RegistryClient, repository: str, layer: images.Blob, asked: str, status: int, part: slice
) -> None:
    client.push_blob(layer, repository)
    path = f"/v2/{repository}/blobs/{layer.digest}"
    assert client.request("HEAD", path)[1]["content-length"] == str(len(layer.content))

    if status == 416:
        denied(416, client, "GET", path, b"", {"Range": asked})
        return
    found = client.request("GET", path, headers={"Range": asked})
    assert (found[0], found[2]) == (status, layer.content[part])
    start, stop, _ = part.indices(len(layer.content))
    whole = f"bytes {start}-{stop - 1}/{len(layer.content)}"
    assert found[1].get("content-range") == (whole if status == 206 else None)


def test_a_layer_is_somewhere_else_for_an_hour_and_for_get_only(
    sandbox: Sandbox, client: images.RegistryClient, repository: str
) -> None:
    """As at ECR, which redirects to a presigned URL of S3."""
    client.push_blob(LARGE, repository)
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=5)
    connection.request("GET", f"/v2/{repository}/blobs/{LARGE.digest}", headers=client._headers)
    redirect = connection.getresponse()
    redirect.read()
    assert redirect.status == 307

    def ask(method: str) -> int:
        connection.request(method, redirect.headers["Location"])
        answer = connection.getresponse()
        answer.read()
        return answer.status

    assert (ask("GET"), ask("HEAD")) == (200, 403)
    sandbox.advance(3601)
    assert ask("GET") == 403
    connection.close()


@pytest.mark.parametrize("what", ["uploads/", ""])
def test_ecr_has_no_way_to_delete_an_upload_or_a_layer(
    client: images.RegistryClient, repository: str, what: str
) -> None:
    client.push_blob(LARGE, repository)
    path = upload(client, repository) if what else f"/v2/{repository}/blobs/{LARGE.digest}"

    assert denied(405, client, "DELETE", path).code == "UNSUPPORTED"


def test_an_upload_that_gets_no_more_bytes_for_an_hour_is_gone(
    sandbox: Sandbox, client: images.RegistryClient, repository: str
) -> None:
    old = upload(client, repository)
    client.request("PATCH", old, LARGE.content)
    sandbox.advance(3000)
    new = upload(client, repository)
    sandbox.advance(601)

    assert denied(404, client, "GET", old).code == "BLOB_UPLOAD_UNKNOWN"
    assert client.request("GET", new)[0] == 204


def test_a_body_that_is_too_large_is_refused_in_the_registrys_form(
    client: images.RegistryClient, repository: str
) -> None:
    path = f"/v2/{repository}/manifests/v1"

    refusal = denied(413, client, "PUT", path, b" " * (4 * MIB + 1))

    assert (refusal.code, refusal.message) == ("SIZE_INVALID", f"Request must be smaller than {4 * MIB} bytes")
    assert client.request("GET", "/v2/")[0] == 200  # on the same connection


def test_a_layer_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_LAYER", 3)
    begun = Upload(Repository(account="111111111111", region="us-east-1", name="shop", created=0.0), 0.0)
    begun.add(Content(b"ab"), 0.0)

    with pytest.raises(AWSError, match="LimitExceededException"):
        begun.add(Content(b"cd"), 0.0)


def test_a_lost_answer_to_a_large_layer_is_in_the_journal_as_lost(
    sandbox: Sandbox, client: images.RegistryClient, repository: str
) -> None:
    sandbox.fault("lost", "v2:FinishUpload", times=1)

    with pytest.raises(ConnectionError):
        client.push_blob(LARGE, repository)

    assert sandbox.journal()[-1]["outcome"] == "lost"
    client.push_blob(LARGE, repository)


def serve(handler: Handler, ask: Callable[[int], T]) -> T:
    """What `ask` returns for the port of a server of this process, whose bodies end a byte above IN_MEMORY."""

    async def run() -> T:
        server = Server(handler, lambda path: IN_MEMORY + 1)
        port = await server.start("127.0.0.1", 0)
        try:
            return await asyncio.to_thread(ask, port)
        finally:
            await server.close()

    return asyncio.run(run())


def test_a_server_reads_a_body_beyond_its_limit_to_its_end_and_keeps_none_of_it() -> None:
    seen: list[tuple[bool, int]] = []

    def handle(request: Request) -> Response:
        seen.append((request.too_large, request.content.size))
        return Response(200, request.path.encode())

    def ask(port: int) -> list[bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        answers = []
        for path, size in (("/large", IN_MEMORY + 2), ("/right", IN_MEMORY + 1), ("/small", 5)):
            for body in (b"x" * size, iter([b"x" * 5] + [b"x" * (size - 5)] * (size > 5))):
                connection.request("POST", path, body)
                answers.append(connection.getresponse().read())
        connection.close()
        return answers

    assert serve(handle, ask) == [each for each in (b"/large", b"/right", b"/small") for _ in range(2)]
    assert seen == [(True, 0)] * 2 + [(False, IN_MEMORY + 1)] * 2 + [(False, 5)] * 2


def test_a_body_for_which_there_is_no_room_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/there-is-no-such-folder")

    def ask(port: int) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("POST", "/", b"x" * (IN_MEMORY + 1))
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    status, text = serve(lambda request: Response(), ask)

    assert status == 507
    assert text.startswith(b"cannot keep the body: ")


@pytest.mark.parametrize("size", ["x", "-5", "F" * 70_000])
def test_a_chunk_without_a_size_ends_the_connection(sandbox: Sandbox, size: str) -> None:
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=5) as connection:
        connection.sendall(f"PUT /v2/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\n".encode())

        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


def test_content_is_the_same_in_memory_and_in_a_file() -> None:
    whole = LARGE.content
    content = Content()
    for place in range(0, len(whole), 300_000):
        content.append(whole[place : place + 300_000])

    assert content.is_large
    assert (content.size, content.digest()) == (len(whole), LARGE.digest)
    assert content.read() == b"".join(content.pieces()) == whole
    small = Content(b"ab")
    small.append(b"cd")
    assert (small.is_large, small.read(), small.read(1, 3)) == (False, b"abcd", b"bc")
