"""A small registry v2 client, and small real OCI images to push with it. Uses only the standard library.

For the demo and the tests, which need HTTP statuses instead of a container runtime's messages. It computes every digest
and checks it after a pull. It does not resume or retry, and holds each image in memory.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
# Some builders write this type for zstd with docker media types; no runtime can pull it.
DOCKER_ZSTD_LAYER = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT = ", ".join((MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST))


class RegistryError(Exception):
    """The registry refused a request: the HTTP ``status``, and the registry's ``code`` (``DENIED``)."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    media_type: str
    content: bytes

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.content).hexdigest()

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.content)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A manifest with its blobs, or an index with its images."""

    manifest: Blob
    blobs: tuple[Blob, ...] = ()
    images: tuple[Image, ...] = ()

    @property
    def digest(self) -> str:
        return self.manifest.digest


def build(
    text: str = "hello from the sandbox\n", *, platform: str = "linux/amd64", layer_type: str = GZIP_LAYER
) -> Image:
    """A real image with one layer: a file ``hello.txt`` with this text. The same arguments give the same digest."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo("hello.txt")
        entry.size = len(text.encode())
        archive.addfile(entry, io.BytesIO(text.encode()))
    layer = Blob(media_type=layer_type, content=gzip.compress(tar.getvalue(), mtime=0))
    system, _, architecture = platform.partition("/")
    config = Blob(
        media_type=CONFIG,
        content=_json(
            {
                "os": system,
                "architecture": architecture,
                "config": {"Cmd": ["cat", "/hello.txt"]},
                "rootfs": {
                    "type": "layers",
                    "diff_ids": ["sha256:" + hashlib.sha256(tar.getvalue()).hexdigest()],
                },
                "history": [{"created_by": "sandbox.images"}],
            }
        ),
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor,
        "layers": [layer.descriptor],
    }
    return Image(manifest=Blob(media_type=MANIFEST, content=_json(manifest)), blobs=(config, layer))


def build_index(
    text: str = "hello from the sandbox\n", platforms: Sequence[str] = ("linux/amd64", "linux/arm64")
) -> Image:
    """A multi-platform image: an index with an image for each platform."""
    images = tuple(build(text, platform=platform) for platform in platforms)
    entries = []
    for platform, image in zip(platforms, images, strict=True):
        system, _, architecture = platform.partition("/")
        entries.append({**image.manifest.descriptor, "platform": {"os": system, "architecture": architecture}})
    manifest = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    return Image(manifest=Blob(media_type=INDEX, content=_json(manifest)), images=images)


def build_docker_zstd(text: str = "hello from the sandbox\n") -> Image:
    """An image whose layer has docker's zstd type, which no runtime can pull (the bytes are gzip)."""
    return build(text, layer_type=DOCKER_ZSTD_LAYER)


def _json(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":"), sort_keys=True).encode()


class RegistryClient:
    """One connection to a registry. ``registry``: the ECR host, if it is not the host of the token.

    With TLS, the authorities of SSL_CERT_FILE count, as everywhere in Python.
    """

    def __init__(self, endpoint: str, username: str, password: str, *, registry: str | None = None) -> None:
        parts = urlsplit(endpoint)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=30)
        self._headers = {"Authorization": "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()}
        self._prefix = f"/v2/{registry}" if registry else "/v2"

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request. Returns status, headers (lower case) and body; raises RegistryError from status 400 on.

        Follows ECR's redirect to a layer, without the log-in, on the same connection: no other host is asked.
        """
        self._connection.request(method, path, body, {**self._headers, **(headers or {})})
        response = self._connection.getresponse()
        content = response.read()
        if response.status == 307 and (location := response.getheader("Location", "")).startswith("/"):
            self._connection.request(method, location, headers=headers or {})
            response = self._connection.getresponse()
            content = response.read()
        if response.status >= 400:
            try:
                error = json.loads(content)["errors"][0]
            except (ValueError, KeyError, IndexError, TypeError):
                error = {}
            raise RegistryError(response.status, error.get("code", ""), error.get("message", response.reason))
        return response.status, {name.lower(): value for name, value in response.getheaders()}, content

    def push(self, image: Image, repository: str, tag: str | None = None) -> str:
        """Pushes the missing parts, children first; returns the manifest's digest."""
        for child in image.images:
            self.push(child, repository)
        for blob in image.blobs:
            self.push_blob(blob, repository)
        path = f"{self._prefix}/{repository}/manifests/{tag or image.digest}"
        self.request("PUT", path, image.manifest.content, {"Content-Type": image.manifest.media_type})
        return image.digest

    def push_blob(self, blob: Blob, repository: str) -> None:
        try:
            self.request("HEAD", f"{self._prefix}/{repository}/blobs/{blob.digest}")
        except RegistryError as error:
            if error.status != 404:
                raise
        else:
            return
        _, headers, _ = self.request("POST", f"{self._prefix}/{repository}/blobs/uploads/")
        where = urlsplit(headers["location"])
        query = f"{where.query}&" if where.query else ""
        path = f"{where.path}?{query}digest={quote(blob.digest)}"
        self.request("PUT", path, blob.content, {"Content-Type": "application/octet-stream"})

    def pull(self, repository: str, reference: str) -> Image:
        """Pulls the whole image. Raises ValueError if content and digest differ."""
        path = f"{self._prefix}/{repository}/manifests/{reference}"
        self.request("HEAD", path, headers={"Accept": ACCEPT})  # the first request of a node
        _, headers, content = self.request("GET", path, headers={"Accept": ACCEPT})
        manifest = Blob(media_type=headers["content-type"], content=content)
        if manifest.digest != headers.get("docker-content-digest", manifest.digest):
            raise ValueError(f"{reference} is not what its digest says")
        if ":" in reference and manifest.digest != reference:
            raise ValueError(f"asked for {reference}, got {manifest.digest}")
        document = json.loads(content)
        images = tuple(self.pull(repository, each["digest"]) for each in document.get("manifests", []))
        layers = [*([document["config"]] if "config" in document else []), *document.get("layers", [])]
        return Image(manifest=manifest, images=images, blobs=tuple(self._blob(repository, each) for each in layers))

    def _blob(self, repository: str, descriptor: Mapping[str, Any]) -> Blob:
        _, _, content = self.request("GET", f"{self._prefix}/{repository}/blobs/{descriptor['digest']}")
        blob = Blob(media_type=descriptor["mediaType"], content=content)
        if blob.digest != descriptor["digest"] or len(content) != descriptor["size"]:
            raise ValueError(f"layer {descriptor['digest']} is not what its digest says")
        return blob


def push(
    image: Image,
    endpoint: str,
    username: str,
    password: str,
    repository: str,
    tag: str | None = None,
    *,
    registry: str | None = None,
) -> str:
    """Pushes a whole image and returns its digest. Raises RegistryError."""
    with RegistryClient(endpoint, username, password, registry=registry) as client:
        return client.push(image, repository, tag)


def pull(
    endpoint: str, username: str, password: str, repository: str, reference: str, *, registry: str | None = None
) -> Image:
    """Pulls manifest, config and every layer, and checks all digests. ``reference``: a tag or a digest."""
    with RegistryClient(endpoint, username, password, registry=registry) as client:
        return client.pull(repository, reference)
