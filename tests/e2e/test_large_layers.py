"""Debian's skopeo pushes a layer of 200 MB to the sandbox and pulls it, with and without TLS."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import images
from sandbox.control import Sandbox

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs Debian's skopeo"),
]
LAYER_BYTES = 200 * 1000 * 1000
COMMAND_SECONDS = 60


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder with an image in OCI's layout, and the digest of its one layer."""
    folder = tmp_path_factory.mktemp("image")
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def keep(media_type: str, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    tar = os.urandom(LAYER_BYTES)  # skopeo does not look into it
    layer = keep(images.GZIP_LAYER, gzip.compress(tar, 0))
    root = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]}
    config = keep(images.CONFIG, json.dumps({"os": "linux", "architecture": "amd64", "rootfs": root}).encode())
    manifest = {"schemaVersion": 2, "mediaType": images.MANIFEST, "config": config, "layers": [layer]}
    index = {"schemaVersion": 2, "manifests": [keep(images.MANIFEST, json.dumps(manifest).encode())]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    yield folder, str(layer["digest"])
    shutil.rmtree(folder)


@pytest.fixture(params=["http", "https"])
def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox.start(tls=tmp_path / "tls" if request.param == "https" else None) as sandbox:
        yield sandbox


def test_skopeo_pushes_and_pulls_a_large_layer_and_the_sandbox_needs_no_memory_for_it(
    sandbox: Sandbox, image: tuple[Path, str], tmp_path: Path
) -> None:
    folder, digest = image
    sandbox.client("ecr").create_repository(repositoryName="trigger/shop")
    there = f"docker://127.0.0.1:{sandbox.port}/trigger/shop:v1"

    def copy(side: str, source: str, target: str) -> None:
        trust = f"--{side}-cert-dir={sandbox.authority.parent}" if sandbox.authority else f"--{side}-tls-verify=false"
        credentials = f"--{side}-creds={':'.join(sandbox.login())}"
        command = ["skopeo", "copy", "--insecure-policy", trust, credentials, source, target]
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=COMMAND_SECONDS)
        assert done.returncode == 0, done.stderr

    copy("dest", f"oci:{folder}", there)
    copy("src", there, f"dir:{tmp_path}/pulled")

    # skopeo checks the digest of what it pulls, and names the file after it.
    pulled = tmp_path / "pulled" / digest.removeprefix("sha256:")
    assert pulled.stat().st_size > LAYER_BYTES
    pulled.unlink()
    assert sandbox.process is not None
    status = Path(f"/proc/{sandbox.process.pid}/status").read_text()
    assert int(status.partition("VmHWM:")[2].split()[0]) * 1024 < LAYER_BYTES / 2
