"""The stand-in for docker by itself: without npm, and mostly with a registry of forty lines."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import shutil
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sandbox import docker as stand_in
from sandbox.control import Sandbox
from tests.e2e import cli

ECR = "111111111111.dkr.ecr.us-east-1.amazonaws.com"
PASSWORD = "swordfish-2"

Docker = Callable[..., tuple[int, str]]


class StubRegistry(ThreadingHTTPServer):
    """Registry v2, as far as a push goes. Asks for Basic, or sends for a Bearer token first; keeps all in memory."""

    def __init__(self, *, bearer: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), StubHandler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.bearer = bearer
        self.blobs: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.hosts_seen: set[str] = set()
        self.immutable = False

    def manifest(self, name: str) -> Any:
        return json.loads(self.blobs[self.tags[name]])


class StubHandler(BaseHTTPRequestHandler):
    server: StubRegistry

    def log_message(self, *arguments: Any) -> None:
        pass

    def do(self) -> None:
        self.server.hosts_seen.add(self.headers["Host"])
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, _, query = self.path.partition("?")
        basic = "Basic " + base64.b64encode(f"AWS:{PASSWORD}".encode()).decode()
        given = self.headers.get("Authorization")
        if path == "/token":
            self.answer(200 if given == basic else 401, b'{"token": "abc"}')
        elif given != ("Bearer abc" if self.server.bearer else basic):
            challenge = f'Bearer realm="http://{self.server.host}/token"' if self.server.bearer else "Basic"
            self.answer(401, b'{"errors": [{"code": "UNAUTHORIZED", "message": "who?"}]}', WWW_Authenticate=challenge)
        elif self.command == "POST":
            self.answer(202, Location=f"{path}1")
        elif self.command == "PUT" and "/uploads/" in path:
            self.server.blobs[query.removeprefix("digest=").replace("%3A", ":")] = body
            self.answer(201)
        elif self.command == "PUT" and self.server.immutable:
            self.answer(400, b'{"errors": [{"code": "TAG_INVALID", "message": "the tag exists and is immutable"}]}')
        elif self.command == "PUT":
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            self.server.blobs[digest] = body
            self.server.tags[path.removeprefix("/v2/")] = digest
            self.answer(201)
        else:
            self.answer(200 if path == "/v2/" or path.rpartition("/")[2] in self.server.blobs else 404)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do


def serving(registry: StubRegistry) -> Iterator[StubRegistry]:
    thread = threading.Thread(target=registry.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield registry
    registry.shutdown()
    thread.join()
    registry.server_close()


@pytest.fixture
def registry() -> Iterator[StubRegistry]:
    yield from serving(StubRegistry())


@pytest.fixture
def bearer_registry() -> Iterator[StubRegistry]:
    yield from serving(StubRegistry(bearer=True))


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Docker:
    """Calls the stand-in in this process, in an empty folder; gives its status and all that it said."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.delenv("SANDBOX_URL", raising=False)

    def call(*arguments: str, stdin: str = "") -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        status = stand_in.main(arguments)
        said = capfd.readouterr()
        return status, said.out + said.err

    return call


def log_in(docker: Docker, host: str, password: str = PASSWORD) -> tuple[int, str]:
    return docker("login", "--username", "AWS", "--password-stdin", host, stdin=f"{password}\n")


def write_context(*steps: str) -> None:
    """In the current folder, what the CLI's build output amounts to, its indexer replaced by `steps`."""
    Path("package.json").write_text('{"dependencies": {}}')
    Path("build.json").write_text('{"entry": "/app/task.mjs"}')
    Path("task.mjs").write_text("// a task")
    lines = "\n".join(steps or ['RUN [ "sh", "-c", "cp build.json index.json" ]'])
    Path("Containerfile").write_text(f"""\
# syntax=docker/dockerfile:1
FROM example AS base
RUN this-would-fail outside-of-app && \\
  so-it-is-not-run
FROM base AS build
WORKDIR /app
COPY --chown=node:node . .
FROM scratch AS code
COPY --from=build /app /app
FROM build AS indexer
ARG TRIGGER_SECRET_KEY
ARG TARGETPLATFORM
ENV TRIGGER_SECRET_KEY=${{TRIGGER_SECRET_KEY}}     NODE_OPTIONS="--max_old_space_size=8192" T=$TARGETPLATFORM
{lines}
FROM base AS final
USER node
WORKDIR /app
ENV NODE_ENV=production CERTS=${{CERTS:-/etc/certs}}
ENTRYPOINT [ "dumb-init", "node", "/app/controller.mjs" ]
CMD []
""")


def build(docker: Docker, *arguments: str) -> tuple[int, str]:
    key = "TRIGGER_SECRET_KEY=tr_prod_hush"
    return docker("buildx", "build", "-f", "Containerfile", "--build-arg", key, *arguments, ".")


# --- login ----------------------------------------------------------------------------------------------------------


def test_a_login_is_kept_in_a_file_for_its_owner_only_and_the_password_is_not_shown(
    docker: Docker, registry: StubRegistry, tmp_path: Path
) -> None:
    status, said = log_in(docker, registry.host)

    assert (status, said) == (0, "Login Succeeded\n")
    file = tmp_path / "docker" / "config.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    auth = json.loads(file.read_text())["auths"][registry.host]["auth"]
    assert base64.b64decode(auth).decode() == f"AWS:{PASSWORD}"


def test_a_login_leaves_alone_what_others_keep_in_that_file(
    docker: Docker, registry: StubRegistry, tmp_path: Path
) -> None:
    file = tmp_path / "docker" / "config.json"
    file.parent.mkdir()
    file.write_text('{"auths": {"other.example": {"auth": "eDp5"}}, "credsStore": "pass"}')

    log_in(docker, registry.host)
    docker("logout", registry.host)

    assert json.loads(file.read_text()) == {"auths": {"other.example": {"auth": "eDp5"}}, "credsStore": "pass"}


def test_a_wrong_password_is_refused_by_the_registry_and_not_kept(
    docker: Docker, registry: StubRegistry, tmp_path: Path
) -> None:
    status, said = log_in(docker, registry.host, "swordfish-3")

    assert status == 1
    assert "401 UNAUTHORIZED: who?" in said
    assert "swordfish" not in said
    assert not (tmp_path / "docker" / "config.json").exists()


def test_a_password_on_the_command_line_is_refused_and_not_repeated(docker: Docker) -> None:
    for arguments in (["-p", PASSWORD], [f"--password={PASSWORD}"], [f"-p{PASSWORD}"]):
        status, said = docker("login", "-u", "AWS", *arguments, ECR)
        assert status == 1
        assert "--password-stdin" in said
        assert PASSWORD not in said


def test_a_registry_that_hands_out_tokens_is_understood_too(docker: Docker, bearer_registry: StubRegistry) -> None:
    write_context()
    assert log_in(docker, bearer_registry.host)[0] == 0
    assert build(docker, "-t", f"{bearer_registry.host}/a/b:1", "--push")[0] == 0
    assert "a/b/manifests/1" in bearer_registry.tags


# --- build and push -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asking",
    [["--output", "type=image,oci-mediatypes=true,name=REF,push=true,compression=zstd"], ["-t", "REF", "--push"]],
)
def test_a_build_pushes_a_real_image_and_its_digest_is_in_the_metadata_file(
    docker: Docker, registry: StubRegistry, asking: list[str]
) -> None:
    write_context()
    log_in(docker, registry.host)
    ref = f"{registry.host}/trigger/proj_x:20260101.1"

    status, said = build(
        docker,
        *(word.replace("REF", ref) for word in asking),
        "--metadata-file",
        "metadata.json",
        "--progress",
        "plain",
    )

    assert status == 0
    digest = json.loads(Path("metadata.json").read_text())["containerimage.digest"]
    assert registry.tags == {"trigger/proj_x/manifests/20260101.1": digest}
    # The old CLI has no metadata file and looks for this line.
    assert re.search(rf"pushing manifest for .+{digest}", said)
    manifest = registry.manifest("trigger/proj_x/manifests/20260101.1")
    config = json.loads(registry.blobs[manifest["config"]["digest"]])
    assert config["config"] == {
        "User": "node",
        "Env": ["NODE_ENV=production", "CERTS=/etc/certs"],
        "Entrypoint": ["dumb-init", "node", "/app/controller.mjs"],
        "Cmd": [],
        "WorkingDir": "/app",
    }
    layer = gzip.decompress(registry.blobs[manifest["layers"][0]["digest"]])
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert {"app/task.mjs", "app/build.json", "app/index.json"} <= set(tar.getnames())
        index = tar.extractfile("app/index.json")
        assert index is not None
        assert json.load(index) == {"entry": "/app/task.mjs"}  # as the indexer wrote it, but for our path


def test_the_same_build_gives_the_same_digest(docker: Docker) -> None:
    write_context()
    digests = set()
    for _ in range(2):
        build(docker, "--output", "type=image,name=localhost:5000/a:1", "--metadata-file", "../metadata.json")
        digests.add(json.loads(Path("../metadata.json").read_text())["containerimage.digest"])
    assert len(digests) == 1


def test_several_platforms_are_indexed_one_by_one_and_pushed_as_one(docker: Docker, registry: StubRegistry) -> None:
    write_context('RUN echo "I am $T" && echo {} > index.json')
    log_in(docker, registry.host)

    status, said = build(docker, "-t", f"{registry.host}/a:1", "--push", "--platform", "linux/amd64,linux/arm64/v8")

    assert status == 0
    assert re.findall(r"I am linux.*", said) == ["I am linux/amd64", "I am linux/arm64/v8"]
    platforms = [child["platform"] for child in registry.manifest("a/manifests/1")["manifests"]]
    assert platforms == [
        {"os": "linux", "architecture": "amd64"},
        {"os": "linux", "architecture": "arm64", "variant": "v8"},
    ]
    assert all(child["digest"] in registry.blobs for child in registry.manifest("a/manifests/1")["manifests"])


def test_the_steps_see_the_build_arguments_and_nothing_of_the_callers_environment(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIGGER_ACCESS_TOKEN", "tr_pat_secret")
    write_context("RUN env && pwd")

    status, said = build(docker, "--platform", "linux/amd64", "--output", "type=docker,name=localhost:5000/a:1")

    assert status == 0
    assert "T=linux/amd64" in said
    assert "TRIGGER_SECRET_KEY=tr_prod_hush" in said
    assert "tr_pat_secret" not in said


def test_a_failing_step_ends_the_build_with_its_output_and_without_an_image(
    docker: Docker, registry: StubRegistry
) -> None:
    write_context('RUN [ "sh", "-c", "echo no such task; exit 3" ]')

    status, said = build(docker, "-t", f"{registry.host}/a:1", "--push", "--metadata-file", "metadata.json")

    assert status == 1
    assert "\nno such task\n" in said
    assert "exit code: 3" in said
    assert "tr_prod_hush" not in said
    assert not registry.tags
    assert not Path("metadata.json").exists()


def test_a_refused_push_tells_the_registrys_reason(docker: Docker, registry: StubRegistry) -> None:
    write_context()
    log_in(docker, registry.host)
    registry.immutable = True

    status, said = build(docker, "-t", f"{registry.host}/a:1", "--push")

    assert status == 1
    assert f"ERROR: failed to push {registry.host}/a:1" in said
    assert "TAG_INVALID: the tag exists and is immutable" in said


def test_a_push_without_a_login_is_refused(docker: Docker, registry: StubRegistry) -> None:
    write_context()
    status, said = build(docker, "-t", f"{registry.host}/a:1", "--push")
    assert status == 1
    assert "no basic auth credentials" in said


def test_an_ecr_name_leads_to_the_sandbox_which_gets_the_registry(
    docker: Docker, registry: StubRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_context()
    monkeypatch.setenv("SANDBOX_URL", f"http://{registry.host}")
    log_in(docker, ECR)

    assert build(docker, "-t", f"{ECR}/trigger/proj_x:1", "--push")[0] == 0

    assert list(registry.tags) == [f"{ECR}/trigger/proj_x/manifests/1"]


def test_what_is_pushed_to_the_sandbox_is_an_image_in_ecr(
    docker: Docker, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_context()
    monkeypatch.setenv("SANDBOX_URL", sandbox.url)
    ecr = sandbox.client("ecr")
    ecr.create_repository(repositoryName="trigger/proj_x")
    username, password = sandbox.login("owner")
    docker("login", "--username", username, "--password-stdin", ECR, stdin=password)

    build(docker, "-t", f"{ECR}/trigger/proj_x:1", "--push", "--metadata-file", "metadata.json")

    (image,) = ecr.describe_images(repositoryName="trigger/proj_x")["imageDetails"]
    assert image["imageDigest"] == json.loads(Path("metadata.json").read_text())["containerimage.digest"]


@pytest.mark.parametrize(
    "host",
    [
        ECR,
        "111111111111.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
        "111111111111.dkr.ecr.cn-north-1.amazonaws.com.cn",
        "111111111111.dkr-ecr.eu-west-1.on.aws",
    ],
)
def test_aws_itself_is_never_asked(docker: Docker, host: str) -> None:
    status, said = log_in(docker, host)
    assert status == 1
    assert "SANDBOX_URL" in said


def test_a_built_image_can_be_inspected_and_pushed_later(docker: Docker, registry: StubRegistry) -> None:
    write_context()
    log_in(docker, registry.host)
    ref = f"{registry.host}/a:1"

    assert docker("image", "inspect", ref, "--format={{.Size}}")[0] == 1
    assert docker("build", "-f", "Containerfile", "-t", ref, ".")[0] == 0
    status, size = docker("image", "inspect", ref, "--format={{.Size}}")
    assert (status, size.strip().isdigit()) == (0, True)
    assert not registry.tags
    assert docker("push", ref)[0] == 0

    assert list(registry.tags) == ["a/manifests/1"]


def test_the_registry_cache_is_pushed_under_its_own_tag(docker: Docker, registry: StubRegistry) -> None:
    write_context()
    log_in(docker, registry.host)

    build(docker, "-t", f"{registry.host}/a:1", "--push", "--cache-to", f"type=registry,ref={registry.host}/a:cache")

    assert list(registry.tags) == ["a/manifests/1", "a/manifests/cache"]


# --- what a container would have ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("installed", "how"), [("1.2.3", "linked"), ("1.2.4", "npm was run: i --no-save")])
def test_dependencies_are_linked_where_the_project_has_them_else_the_containerfiles_npm_runs(
    docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str, how: str
) -> None:
    package = tmp_path / "node_modules" / "@scope" / "dep"
    package.mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"version": installed}))
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text('#!/bin/sh\necho "npm was run: $*"')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
    write_context("RUN npm i --no-save", "RUN ls node_modules/@scope/dep/package.json || true")
    Path("package.json").write_text('{"dependencies": {"@scope/dep": "1.2.3"}}')

    _, said = build(docker, "--output", "type=docker,name=localhost:5000/a:1")

    assert how in said
    assert ("\n#3 node_modules/@scope/dep/package.json\n" in said) == (installed == "1.2.3")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not on PATH")
def test_host_docker_internal_is_this_machine_and_the_server_sees_that_name(
    docker: Docker, registry: StubRegistry
) -> None:
    host = f"host.docker.internal:{registry.server_port}"
    write_context(f"""RUN [ "node", "-e", "fetch('http://{host}/v2/').then(r => console.log('status', r.status))" ]""")

    _, said = build(
        docker, "--add-host=host.docker.internal:192.0.2.2", "--output", "type=docker,name=localhost:5000/a:1"
    )

    assert "status 401" in said
    assert registry.hosts_seen == {host}


# --- the rest -------------------------------------------------------------------------------------------------------


def test_builders_are_remembered_with_their_network(docker: Docker) -> None:
    assert docker("buildx", "version")[0] == 0
    assert docker("buildx", "ls", "--format", "{{.Name}}") == (0, "default\n")
    create = ("buildx", "create", "--name", "trigger", "--driver", "docker-container", "--driver-opt=network=host")
    assert docker(*create)[0] == 0
    assert docker("buildx", "ls", "--format", "{{.Name}}") == (0, "default\ntrigger\n")
    # The CLI's own pattern.
    assert re.search(r'Driver Options:\s+network="host"', docker("buildx", "inspect", "trigger")[1])
    assert docker("buildx", "rm", "trigger")[0] == 0
    assert docker("buildx", "inspect", "trigger")[0] == 1


@pytest.mark.parametrize("command", ["ps -a", "buildx bake", "image ls", "build --squash .", "run alpine", "push"])
def test_what_it_does_not_know_ends_with_status_1_and_a_word_about_it(docker: Docker, command: str) -> None:
    status, said = docker(*command.split())
    assert status == 1
    assert "stand-in" in said


def test_it_is_found_as_docker_and_runs_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the build context was imported')")
    (tmp_path / "docker").symlink_to(cli.STAND_IN / "docker")

    done = subprocess.run([tmp_path / "docker", "buildx", "version"], cwd=tmp_path, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_that_takes_too_long_is_ended_with_its_children_and_its_output_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.setattr(cli, "STAND_IN", tmp_path)
    (tmp_path / "docker").write_text("#!/bin/sh\necho still here\n(sleep 30)")
    (tmp_path / "docker").chmod(0o755)

    with pytest.raises(TimeoutError, match="still here"):
        cli.docker("build", cwd=project, env={}, timeout=0.3)


def test_output_is_shown_without_colours_and_with_the_last_frame_of_a_spinner() -> None:
    frames = ["\x1b[35m◒\x1b[39m  Building", "\x1b[35m◐\x1b[39m  Building.", "\x1b[32m◇\x1b[39m  Built"]
    spinner = "\x1b[999D\x1b[J".join(frames)
    assert cli._plain(f"first\n{spinner}\nlast\n") == "first\n◇  Built\nlast\n"
