"""Real clients with the log-ins that we issue: buildah builds from a base image, skopeo pulls, curl renews a Secret.

Debian's buildah and skopeo, and curl, against a sandbox on a real socket. They name the registry in the path, which any
plain client can (sandbox/registry.py). Nothing is run in a container: no instruction of the builds needs that.
"""

from __future__ import annotations

import base64
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_django.live_server_helper import LiveServer

from deployments.access import keys
from deployments.api import limits
from deployments.config import Configuration
from deployments.deploys import projects
from deployments.models import Environment
from sandbox import images
from sandbox.control import Sandbox
from tests.e2e.installation import request
from tests.support.cli import HASH
from tests.support.constants import HOST

MANIFEST = Path(__file__).resolve().parents[2] / "docs" / "pull-log-ins.yaml"
COMMAND_SECONDS = 60
EXPIRED = "Your authorization token has expired. Reauthenticate and try again."


def needs(*programs: str) -> pytest.MarkDecorator:
    absent = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(absent), reason=f"needs Debian's {' and '.join(absent)}")


pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The programs, in a folder of their own."""

    folder: Path
    sandbox: Sandbox

    def at(self, name: str) -> str:
        """The name of an image for these programs: the sandbox, with the registry in the path."""
        return f"127.0.0.1:{self.sandbox.port}/{HOST}/{name}"

    def run(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "TMPDIR": str(self.folder)}
        return subprocess.run(
            arguments, cwd=cwd or self.folder, env=environment, capture_output=True, text=True, timeout=COMMAND_SECONDS
        )

    def buildah(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        places = ("--root", f"{self.folder}/root", "--runroot", f"{self.folder}/runroot", "--storage-driver", "vfs")
        return self.run("buildah", *places, *arguments, cwd=cwd)

    def skopeo(self, login: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
        """`skopeo inspect`, or with two arguments `skopeo copy`, with this log-in."""
        credentials = f"{login['username']}:{login['password']}"
        if len(arguments) == 1:
            return self.run("skopeo", "inspect", "--tls-verify=false", "--creds", credentials, *arguments)
        plain = ("--src-tls-verify=false", "--dest-tls-verify=false", "--insecure-policy")
        side = "--dest-creds" if arguments[1].startswith("docker:") else "--src-creds"
        return self.run("skopeo", "copy", *plain[2:], *plain[:2], side, credentials, *arguments)


@pytest.fixture
def tools(tmp_path: Path, sandbox: Sandbox) -> Tools:
    return Tools(folder=tmp_path, sandbox=sandbox)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of an environment, over HTTP."""

    origin: str
    key: str = field(repr=False)

    def post(self, path: str, body: object = None) -> dict[str, Any]:
        status, answer = request("POST", f"{self.origin}{path}", body or {}, Authorization=f"Bearer {self.key}")
        assert status == 200, answer
        found: dict[str, Any] = json.loads(answer)
        return found

    def log_in(self) -> tuple[str, dict[str, Any]]:
        """(repository, log-in to push to it) of a new deployment."""
        begun = self.post("/api/v1/deployments", {"contentHash": HASH, "type": "MANAGED"})
        name = begun["imageTag"].rpartition(":")[0].partition("/")[2]
        return name, self.post(f"/api/v1/deployments/{begun['id']}/generate-registry-credentials")


@pytest.fixture
def production(environment: Environment) -> Environment:
    limits.pull_log_ins.clear()
    return environment


@pytest.fixture
def deployer(live_server: LiveServer, production: Environment, base: Configuration) -> Key:
    return Key(origin=live_server.url, key=keys.make_environment_key(production)[1])


@pytest.fixture
def base(sandbox: Sandbox, configure: Callable[..., Configuration]) -> Configuration:
    """A base image `platform/base:1`, from which builds may pull, and one `private/base:1`, from which they may not."""
    sandbox.client("ecr").put_account_setting(name="BLOB_MOUNTING", value="ENABLED")
    for name in ("platform/base", "private/base"):
        sandbox.client("ecr").create_repository(repositoryName=name)
        images.push(images.build(f"{name}\n"), sandbox.url, *sandbox.login(), name, "1", registry=HOST)
    return configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_BASE_REPOSITORIES="platform/*")


@needs("buildah")
def test_a_build_from_a_base_image_of_the_registry_is_built_and_pushed_with_the_issued_log_in(
    tools: Tools, sandbox: Sandbox, deployer: Key
) -> None:
    name, login = deployer.log_in()
    logged_in = tools.buildah(
        "login", "--tls-verify=false", "--username", login["username"], "--password", login["password"],
        f"127.0.0.1:{sandbox.port}",
    )  # fmt: skip
    assert logged_in.returncode == 0, logged_in.stderr
    (tools.folder / "Containerfile").write_text(f"FROM {tools.at('platform/base:1')}\nCOPY app.txt /app.txt\n")
    (tools.folder / "app.txt").write_text("ours\n")

    built = tools.buildah("bud", "--tls-verify=false", "--isolation", "chroot", "-t", tools.at(f"{name}:v1"), ".")
    assert built.returncode == 0, built.stderr
    pushed = tools.buildah("push", "--tls-verify=false", tools.at(f"{name}:v1"))
    assert pushed.returncode == 0, pushed.stderr

    image = images.pull(sandbox.url, *sandbox.login(), name, "v1", registry=HOST)
    assert len(json.loads(image.manifest.content)["layers"]) == 2
    refused = tools.buildah(
        "push", "--tls-verify=false", tools.at(f"{name}:v1"), f"docker://{tools.at('platform/base:2')}"
    )
    assert refused.returncode != 0
    assert "not authorized to perform: ecr:InitiateLayerUpload" in refused.stderr
    (tools.folder / "Containerfile").write_text(f"FROM {tools.at('private/base:1')}\n")
    refused = tools.buildah("bud", "--tls-verify=false", "--isolation", "chroot", ".")
    assert refused.returncode != 0
    assert "not authorized to perform: ecr:BatchGetImage" in refused.stderr


@needs("skopeo")
def test_a_pull_log_in_lets_skopeo_pull_one_repository_and_push_to_none_until_it_ends(
    tools: Tools, sandbox: Sandbox, deployer: Key, production: Environment
) -> None:
    name, login = deployer.log_in()
    images.push(images.build(), sandbox.url, login["username"], login["password"], name, "v1", registry=HOST)
    cluster = Key(origin=deployer.origin, key=keys.make_environment_key(production, scopes=[keys.PULL])[1])

    pull = cluster.post(f"/api/v1/projects/{production.project.ref}/prod/pull-credentials")

    own = f"docker://{tools.at(f'{name}:v1')}"
    copied = tools.skopeo(pull, own, "oci:copied")
    assert copied.returncode == 0, copied.stderr
    for other in ("platform/base:1", "private/base:1"):
        refused = tools.skopeo(pull, f"docker://{tools.at(other)}")
        assert refused.returncode != 0
        assert "ecr:BatchGetImage" in refused.stderr
    refused = tools.skopeo(pull, "oci:copied", f"docker://{tools.at(f'{name}:v2')}")
    assert refused.returncode != 0
    assert "not authorized to perform: ecr:" in refused.stderr
    sandbox.advance(3601)
    refused = tools.skopeo(pull, own)
    assert refused.returncode != 0
    assert EXPIRED in refused.stderr


class Kubernetes(http.server.BaseHTTPRequestHandler):
    """Stands for the API of a cluster: keeps the patches of a Secret."""

    patches: list[tuple[str, str, str, Any]]

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind, bearer = self.headers["Content-Type"], self.headers["Authorization"]
        self.patches.append((self.path, kind, bearer, body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing to the tests' output."""


@pytest.fixture
def kubernetes() -> Iterator[str]:
    Kubernetes.patches = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kubernetes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@needs("curl", "skopeo")
def test_the_manifest_of_the_documentation_renews_the_one_secret_that_its_role_may_patch(
    tools: Tools, sandbox: Sandbox, deployer: Key, production: Environment, kubernetes: str
) -> None:
    name, login = deployer.log_in()
    images.push(images.build(), sandbox.url, login["username"], login["password"], name, "v1", registry=HOST)
    objects = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(MANIFEST.read_text())}
    assert objects["Role", "ecr-pull"]["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["ecr-pull"], "verbs": ["patch"]}
    ]
    [container] = objects["CronJob", "ecr-pull"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    documented = {each["name"]: each["value"] for each in container["env"]}
    assert documented["SECRET"].endswith("/api/v1/namespaces/jobs/secrets/ecr-pull")
    text = keys.make_environment_key(production, scopes=[keys.PULL])[1]
    (tools.folder / "header").write_text(
        objects["Secret", "registry-admin-key"]["stringData"]["header"].replace("tr_prod_REPLACE", text)
    )
    (tools.folder / "token").write_text("token-of-the-account")
    path = (
        documented["LOG_IN"].removeprefix("https://deploy.example.com").replace("proj_REPLACE", production.project.ref)
    )

    def renew(ref: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "LOG_IN": f"{deployer.origin}{path}".replace(production.project.ref, ref),
            "SECRET": documented["SECRET"].replace("https://kubernetes.default.svc", kubernetes),
            "KEY": f"{tools.folder}/header",
            "ACCOUNT": str(tools.folder),
            "ANSWER": f"{tools.folder}/answer.json",
        }
        assert environment.keys() == documented.keys()
        variables = (f"{name}={value}" for name, value in environment.items())
        return tools.run("env", *variables, *container["command"], *container["args"])

    renewed = renew(production.project.ref)

    assert renewed.returncode == 0, renewed.stderr
    [(where, kind, bearer, secret)] = Kubernetes.patches
    assert where == "/api/v1/namespaces/jobs/secrets/ecr-pull"
    assert (kind, bearer) == ("application/merge-patch+json", "Bearer token-of-the-account")
    stored = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))
    [(repository, found)] = stored["auths"].items()
    assert repository == f"{HOST}/{name}"
    username, _, password = base64.b64decode(found["auth"]).decode().partition(":")
    pulled = tools.skopeo({"username": username, "password": password}, f"docker://{tools.at(f'{name}:v1')}")
    assert pulled.returncode == 0, pulled.stderr

    refused = renew(projects.create_project(name="Another").ref)

    assert refused.returncode != 0
    assert "This key belongs to another project" in refused.stderr
    assert len(Kubernetes.patches) == 1
    assert text not in refused.stderr + renewed.stderr + renewed.stdout
