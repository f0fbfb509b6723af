"""A replacement for `docker` on machines without a docker engine: the commands of the `trigger.dev` CLI (3.3 to 4.8).

What it does: `login` checks the credentials at the registry and stores them like docker. A build runs the steps of the
CLI's Containerfile at /app, including the indexer, which imports the user's tasks and posts them to the server. The
result is a real OCI image, and a push is a real push (PyPI `oras`).

What it does not do: isolate (build steps run on this machine, in a temporary folder), install system packages, or pull
base images (the image contains only /app, so it cannot be started). A command or an option that it does not know ends
with status 1, so that a missing feature is visible.

Environment: SANDBOX_URL is the URL of the sandbox. Images with an ECR name are pushed to the sandbox instead of AWS;
other registries are called directly, over HTTP if they are on this machine. DOCKER_CONFIG is docker's own variable.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import gzip
import hashlib
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, unquote, urlsplit

Json = dict[str, Any]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
# The CLI requests zstd, which Python has only from 3.14 on. Every runtime can also pull gzip.
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

# Plain, FIPS and dual-stack host names of ECR, of every partition: no request may go to AWS by accident.
ECR_HOST = re.compile(r"\d{12}\.dkr[.-]ecr[.-]")


class HttpRefusal(Exception):
    """The error that docker would print before it exits with status 1."""


def say(line: str) -> None:
    """Print progress to standard error, like BuildKit."""
    print(line, file=sys.stderr, flush=True)


# --- State: where docker keeps it -----------------------------------------------------------------------------------


def home() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


@contextmanager
def stored_logins() -> Iterator[dict[str, Json]]:
    """The `auths` of config.json, to read or to change. The other keys of the file are kept.

    The file is locked, because two deploys may log in at the same time. It is replaced in one step, because other
    programs read it without a lock. Its mode is 0600 from the first byte, because base64 protects nothing.
    """
    folder = home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / ".stand-in.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = folder / "config.json"
        before = file.read_text() if file.exists() else "{}"
        config: Json = json.loads(before)
        auths: dict[str, Json] = config.setdefault("auths", {})
        yield auths
        if config != json.loads(before):
            descriptor, name = tempfile.mkstemp(dir=folder)  # mkstemp makes it 0600
            with os.fdopen(descriptor, "w") as new:
                json.dump(config, new, indent=2)
            os.replace(name, file)


def login_for(host: str) -> tuple[str, str] | None:
    with stored_logins() as auths:
        stored = auths.get(host, {}).get("auth")
    if not stored:
        return None
    username, _, password = base64.b64decode(stored).decode().partition(":")
    return username, password


def builder_file(name: str) -> Path:
    return home() / "stand-in" / "builders" / quote(name, safe="")


def loaded(ref: str) -> Image:
    """The image that a build stored on this machine."""
    image = Image(home() / "stand-in" / "images" / quote(ref, safe=""))
    if not image.root.exists():
        raise HttpRefusal(f"Error response from daemon: No such image: {ref}")
    return image


def load(image: Image, ref: str) -> None:
    folder = home() / "stand-in" / "images" / quote(ref, safe="")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(image.root, folder)


# --- The Containerfile ----------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Stage:
    """The result of a stage's instructions so far. A stage that is built on another stage starts as a copy of it."""

    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = ""
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    # RUN and COPY at /app, each with its environment. Steps in other folders prepare the operating system of
    # a base image (apt-get, certificates), and no base image exists here.
    steps: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def copy(self) -> Stage:
        return Stage(environment=dict(self.environment), workdir=self.workdir, user=self.user, steps=list(self.steps))


def read_containerfile(text: str, arguments: Mapping[str, str]) -> dict[str, Stage]:
    """The stages by name. Reads the instructions that the CLI writes; skips those without effect (EXPOSE, SHELL, …)."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    stages: dict[str, Stage] = {}
    stage, given = Stage(), dict[str, str]()
    for line in re.sub(r"\\\n", "", text).splitlines():
        keyword, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        match keyword.upper():
            case "FROM":
                base, *alias = (word for word in rest.split() if word.upper() != "AS" and not word.startswith("--"))
                stage, given = stages[base].copy() if base in stages else Stage(), {}
                stages[alias[0] if alias else base] = stage
            case "ARG":
                name, _, default = rest.partition("=")
                given[name] = arguments.get(name, default)
            case "ENV":
                known = given | stage.environment
                pairs = (word.partition("=") for word in shlex.split(rest))
                stage.environment |= {name: _expand(value, known) for name, _, value in pairs}
            case "WORKDIR":
                stage.workdir = rest
            case "USER":
                stage.user = rest
            case "ENTRYPOINT":
                stage.entrypoint = json.loads(rest)
            case "CMD":
                stage.command = json.loads(rest)
            case "RUN" | "COPY" if stage.workdir == "/app" and "--from=" not in rest:
                stage.steps.append((keyword.upper(), rest, given | stage.environment))
    return stages


def _expand(value: str, known: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        return known.get(match["name"] or match["bare"]) or match["default"] or ""

    return re.sub(r"\$(?:\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}|(?P<bare>\w+))", replace, value)


# --- Build ----------------------------------------------------------------------------------------------------------

# The CLI replaces `localhost` in the API's URL by host.docker.internal, for which docker has --add-host. Here the
# container is this machine, so this script resolves the name. It does so below fetch, and the server gets the same Host
# header as from a container; a rewritten URL would be simpler but would hide a server that refuses this host name.
HOSTS_FILE = """
const dns = require("node:dns");
const { lookup } = dns;
dns.lookup = (name, ...rest) => lookup.call(dns, name === "host.docker.internal" ? "127.0.0.1" : name, ...rest);
"""


def run_indexer(context: Path, stage: Stage, work: Path) -> None:
    """Run the steps of the indexer's stage, and of the stage that it is built on, in a folder that replaces /app.

    A real /app would require root and allow only one build at a time. So commands and build.json get the path of the
    folder instead. The entry points that the indexer posts contain this path; the server does not use them.
    """
    app = work / "app"
    app.mkdir(parents=True)
    hosts = work / "hosts.cjs"
    hosts.write_text(HOSTS_FILE)
    for number, (keyword, rest, environment) in enumerate(stage.steps, start=1):
        label = f"[indexer {number}/{len(stage.steps)}] {keyword} {rest}"
        say(f"#{number} {label}")
        if keyword == "COPY":
            for source in [word for word in rest.split() if not word.startswith("--")][:-1]:
                if (context / source).is_dir():
                    shutil.copytree(context / source, app, dirs_exist_ok=True)
                else:
                    shutil.copy(context / source, app)
            _replace(app / "build.json", '"/app/', f'"{app}/')
        elif re.match(r"(npm i|bun install)\b", rest) and link_dependencies(context, app):
            say(f"#{number} DONE, linked from the project's node_modules")
        else:
            # As in a container, the user's code gets no variable of the caller's environment, which contains tokens.
            environment = {"PATH": os.environ["PATH"], "HOME": str(work)} | environment
            environment["NODE_OPTIONS"] = f"{environment.get('NODE_OPTIONS', '')} --require={hosts}"
            text = re.sub(r"(?<![\w./-])/app\b", str(app), rest)
            command: list[str] = json.loads(text) if text.startswith("[") else ["/bin/sh", "-c", text]
            _run(command, cwd=app, environment=environment, number=number, label=label)
    _replace(app / "index.json", f'"{app}/', '"/app/')
    _replace(app / "build.json", f'"{app}/', '"/app/')


def link_dependencies(context: Path, app: Path) -> bool:
    """Give /app the packages outside the bundle, without the network. False if a package is not installed.

    The CLI writes its build output below the user's project, and package.json has the exact versions that are installed
    in the project. A link to the installed folder replaces `npm i`: node resolves the link and finds the dependencies
    of the package from there. If a version differs, the caller runs the npm of the Containerfile.
    """
    wanted: dict[str, str] = json.loads((app / "package.json").read_text()).get("dependencies", {})
    found: dict[str, Path] = {}
    for name, version in wanted.items():
        for folder in (parent / "node_modules" / name for parent in context.resolve().parents):
            manifest = folder / "package.json"
            if manifest.exists() and json.loads(manifest.read_text()).get("version") == version:
                found[name] = folder
                break
        else:
            return False
    for name, folder in found.items():
        link = app / "node_modules" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder.resolve())
    return True


def _run(command: list[str], *, cwd: Path, environment: Mapping[str, str], number: int, label: str) -> None:
    """Run one RUN step and print its output line by line. A failing step ends the build with BuildKit's message."""
    lines: list[str] = []
    try:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise HttpRefusal(f"ERROR: failed to solve: {label}: {error.strerror}: {command[0]}") from None
    with process:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            say(f"#{number} {lines[-1]}")
    if status := process.returncode:
        said = "\n".join(lines[-20:])
        process_said = f"process {json.dumps(' '.join(command))} did not complete successfully: exit code: {status}"
        raise HttpRefusal(f"------\n > {label}:\n{said}\n------\nERROR: failed to solve: {process_said}")


def _replace(file: Path, old: str, new: str) -> None:
    if file.exists():
        file.write_text(file.read_text().replace(old, new))


def build(options: argparse.Namespace) -> None:
    """`docker build` and `docker buildx build`."""
    context = Path(options.context)
    arguments = dict(pair.partition("=")[::2] for pair in options.build_arg)
    outputs = [dict(pair.partition("=")[::2] for pair in output.split(",")) for output in options.output]
    refs = [*options.tag, *(output["name"] for output in outputs if "name" in output)]
    push_it = options.push or any(output.get("push") == "true" for output in outputs)
    load_it = options.load or any(output.get("type") == "docker" for output in outputs)
    containerfile = Path(options.file).read_text()
    platforms = (options.platform or this_platform()).split(",")

    with tempfile.TemporaryDirectory(prefix="docker-stand-in-") as temporary:
        image = Image(Path(temporary) / "image")
        manifests = []
        for target in platforms:
            own = {"BUILDPLATFORM": this_platform(), "TARGETPLATFORM": target}
            stages = read_containerfile(containerfile, arguments | own)
            if not {"indexer", "final"} <= stages.keys():
                raise HttpRefusal(f"ERROR: the stand-in knows the CLI's Containerfile only, not this {options.file}")
            work = Path(temporary) / target.replace("/", "-")
            run_indexer(context, stages["indexer"], work)
            manifests.append(image.add_manifest(work / "app", stages["final"], target))
        image.finish(manifests)
        say(f"#99 exporting manifest {image.top['digest']} done")
        if load_it:
            for ref in refs:
                load(image, ref)
        if push_it:
            # Only its config distinguishes a cache from an image. Here it matters that the tag of the cache is mutable.
            caches = [dict(pair.partition("=")[::2] for pair in cache.split(",")) for cache in options.cache_to]
            for ref in [*refs, *(cache["ref"] for cache in caches if "ref" in cache)]:
                push(image, ref)
        if options.metadata_file:
            metadata = {
                "containerimage.config.digest": image.read(manifests[0])["config"]["digest"],
                "containerimage.descriptor": image.top,
                "containerimage.digest": image.top["digest"],
                "image.name": ",".join(refs),
            }
            # Relative to the working directory of the docker call, as in buildx.
            Path(options.metadata_file).write_text(json.dumps(metadata, indent=2))


def this_platform() -> str:
    machine = platform.machine().lower()
    return "linux/" + {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


# --- The image ------------------------------------------------------------------------------------------------------


class Image:
    """An OCI image layout folder with one image: a manifest, or an index with a manifest for each platform."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def top(self) -> Json:
        """The descriptor that a tag points to."""
        descriptor: Json = json.loads((self.root / "index.json").read_text())["manifests"][0]
        return descriptor

    @property
    def size(self) -> int:
        return sum(blob.stat().st_size for blob in (self.root / "blobs" / "sha256").iterdir())

    def blob(self, digest: str) -> Path:
        return self.root / "blobs" / digest.replace(":", "/")

    def read(self, descriptor: Json) -> Json:
        content: Json = json.loads(self.blob(descriptor["digest"]).read_bytes())
        return content

    def add(self, content: bytes | Json, media_type: str) -> Json:
        if isinstance(content, dict):
            content = json.dumps(content).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blob(digest).parent.mkdir(parents=True, exist_ok=True)
        self.blob(digest).write_bytes(content)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def add_manifest(self, app: Path, stage: Stage, target: str) -> Json:
        """The final stage as one layer. The same build gives the same digest, as with SOURCE_DATE_EPOCH=0."""
        layer = _tar(app)
        system, architecture, *variant = target.split("/")
        about = {"os": system, "architecture": architecture} | ({"variant": variant[0]} if variant else {})
        epoch = "1970-01-01T00:00:00Z"
        config = {
            **about,
            "created": epoch,
            "config": {
                "User": stage.user,
                "Env": [f"{name}={value}" for name, value in stage.environment.items()],
                "Entrypoint": stage.entrypoint,
                "Cmd": stage.command,
                "WorkingDir": stage.workdir,
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            "history": [{"created": epoch, "created_by": "COPY /app ./ # the stand-in for docker"}],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.add(config, CONFIG),
            "layers": [self.add(gzip.compress(layer, compresslevel=1, mtime=0), LAYER)],
        }
        return self.add(manifest, MANIFEST) | {"platform": about}

    def finish(self, manifests: Sequence[Json]) -> None:
        top = manifests[0]
        if len(manifests) > 1:
            top = self.add({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}, INDEX)
        (self.root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (self.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))


def _tar(app: Path) -> bytes:
    """A tar of the build output below /app, without the links of link_dependencies()."""

    def owned_by_node(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        entry.uid = entry.gid = 1000
        entry.uname = entry.gname = ""
        entry.mtime = 0
        return None if entry.issym() and entry.linkname.startswith("/") else entry

    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.add(app, "app", filter=owned_by_node)  # tarfile adds the files in the order of their names
    return content.getvalue()


# --- The registry ---------------------------------------------------------------------------------------------------


def split_ref(ref: str) -> tuple[str, str]:
    """Registry host, and repository with tag."""
    host, slash, rest = ref.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        raise HttpRefusal(f"{ref} names no registry host, and the stand-in knows no default one")
    return host, rest


class Registry:
    """One registry, with one login."""

    def __init__(self, host: str, login: tuple[str, str] | None) -> None:
        # Imported here, because all other commands work without oras.
        from oras.auth import get_auth_backend
        from oras.container import Container
        from oras.provider import Registry as Client

        address, self.prefix, plain = host, "", urlsplit(f"//{host}").hostname in ("localhost", "127.0.0.1", "::1")
        if ECR_HOST.match(host):
            sandbox = urlsplit(os.environ.get("SANDBOX_URL", ""))
            if not sandbox.netloc:
                raise HttpRefusal(f"{host} is AWS, and the stand-in goes to a sandbox only: set SANDBOX_URL")
            # The sandbox serves every registry, so the path contains the name of the registry.
            address, self.prefix, plain = sandbox.netloc, f"{host}/", sandbox.scheme == "http"
        self.url = f"{'http' if plain else 'https'}://{address}"
        self.container = Container
        self.login = login
        self.client = Client(address, insecure=plain, auth_backend="token")
        self.client.session.trust_env = not plain  # no proxy for connections to this machine
        self.client.do_request = self._send
        # Other registries give their clients a token first; ECR and the sandbox require the login on every request.
        try:
            challenge = self.client.session.get(f"{self.url}/v2/", timeout=10).headers.get("WWW-Authenticate", "")
        except OSError as error:  # the exceptions of requests are OSErrors
            raise HttpRefusal(f"no answer from {self.url}: {type(error).__name__}") from None
        if challenge.lower().startswith("basic"):
            self.client.session.auth = login
            self.client.auth = get_auth_backend("basic", self.client.session, plain)
        self.client.auth.set_basic_auth(*(login or ("", "")))

    def close(self) -> None:
        self.client.session.close()

    def check_login(self) -> None:
        self._send(f"{self.url}/v2/")

    def push(self, image: Image, name: str) -> None:
        target = self.container(f"{self.client.hostname}/{self.prefix}{name}")
        children = image.read(image.top).get("manifests", [])
        for descriptor in children or [image.top]:
            manifest = image.read(descriptor)
            for blob in [manifest["config"], *manifest["layers"]]:
                self.client.upload_blob(str(image.blob(blob["digest"])), target, blob)
        # Bytes, not oras' upload_manifest, which serialises the manifest again and so changes its digest.
        for descriptor, reference in [*((child, child["digest"]) for child in children), (image.top, target.tag)]:
            self._send(
                f"{self.client.prefix}://{target.manifest_url(reference)}",
                "PUT",
                data=image.blob(descriptor["digest"]).read_bytes(),
                headers={"Content-Type": descriptor["mediaType"]},
            )

    def _send(self, url: str, method: str = "GET", **options: Any) -> Any:
        """Send a request with oras, but without its retries, which also repeat a refused request for two minutes.

        Raises Refused at the first refusal: oras would continue and fail later with a less exact error.
        """
        try:
            answer = type(self.client).do_request.__wrapped__(self.client, url, method, **options)
        except (OSError, ValueError) as error:  # ValueError: oras cannot read the challenge
            raise HttpRefusal(f"{method} {url}: {type(error).__name__}: {error}") from None
        if answer.ok or method == "HEAD":  # a missing blob is not a refusal
            return answer
        if answer.status_code == 401 and self.login is None:
            raise HttpRefusal("no basic auth credentials")
        try:
            said = "; ".join(f"{error['code']}: {error['message']}" for error in answer.json()["errors"])
        except (ValueError, KeyError, TypeError):
            said = answer.reason
        raise HttpRefusal(f"unexpected status from {method} request to {url}: {answer.status_code} {said}")


def push(image: Image, ref: str) -> None:
    try:
        host, name = split_ref(ref)
        with closing(Registry(host, login_for(host))) as registry:
            registry.push(image, name)
    except HttpRefusal as refusal:
        raise HttpRefusal(f"ERROR: failed to push {ref}: {refusal}") from None
    say(f"#99 pushing manifest for {ref}@{image.top['digest']} done")  # CLI 3.x reads the digest from this line


# --- The commands ---------------------------------------------------------------------------------------------------


def log_in(options: argparse.Namespace) -> None:
    if options.password is not None or not options.password_stdin:
        raise HttpRefusal("Error: the stand-in takes a password from standard input only: --password-stdin")
    password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    try:
        with closing(Registry(options.host, (options.username, password))) as registry:
            registry.check_login()
    except HttpRefusal as refusal:
        raise HttpRefusal(f"Error response from daemon: login to {options.host} failed: {refusal}") from None
    with stored_logins() as auths:
        auths[options.host] = {"auth": base64.b64encode(f"{options.username}:{password}".encode()).decode()}
    print("Login Succeeded")


def log_out(options: argparse.Namespace) -> None:
    with stored_logins() as auths:
        known = auths.pop(options.host, None)
    print(f"Removing login credentials for {options.host}" if known else f"Not logged in to {options.host}")


def push_loaded(options: argparse.Namespace) -> None:
    image = loaded(options.ref)
    push(image, options.ref)
    print(f"{options.ref.rpartition(':')[2]}: digest: {image.top['digest']} size: {image.top['size']}")


def inspect_image(options: argparse.Namespace) -> None:
    image = loaded(options.ref)
    about = {"Id": image.top["digest"], "RepoTags": [options.ref], "Size": image.size}
    print(image.size if options.format == "{{.Size}}" else json.dumps([about], indent=2))


def list_builders(options: argparse.Namespace) -> None:
    print("\n".join(["default", *sorted(unquote(file.name) for file in builder_file("default").parent.glob("*"))]))


def create_builder(options: argparse.Namespace) -> None:
    builder_file(options.name).parent.mkdir(parents=True, exist_ok=True)
    network = [value.removeprefix("network=") for value in options.driver_opt if value.startswith("network=")]
    builder_file(options.name).write_text("".join(network))
    print(options.name)


def inspect_builder(options: argparse.Namespace) -> None:
    if not builder_file(options.name).exists():
        raise HttpRefusal(f'ERROR: no builder "{options.name}" found')
    print(f"Name:          {options.name}\nDriver:        docker-container")
    if network := builder_file(options.name).read_text():
        print(f'Driver Options:     network="{network}"')  # the CLI compares this line with its --network


def remove_builder(options: argparse.Namespace) -> None:
    builder_file(options.name).unlink(missing_ok=True)
    print(f"{options.name} removed")


def buildx_version(options: argparse.Namespace) -> None:
    print("github.com/docker/buildx v0.0.0 (the stand-in of Registry Admin)")


def run_container(options: argparse.Namespace) -> None:
    # The CLI registers emulators before a build for several platforms. The indexer is the same on every platform.
    if "multiarch/qemu-user-static" not in options.arguments:
        raise HttpRefusal("docker: the stand-in cannot run containers")


class Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise HttpRefusal(f"{self.prog}: the stand-in for docker does not know this: {message}")


def parser() -> Parser:
    docker = Parser(prog="docker", description="A stand-in for docker: what the trigger.dev CLI calls, and no more.")
    commands = docker.add_subparsers(required=True, metavar="COMMAND")

    login = commands.add_parser("login")
    login.add_argument("--username", "-u", required=True)
    login.add_argument("--password", "-p", help="refused: it would be seen by everyone on this machine")
    login.add_argument("--password-stdin", action="store_true")
    login.add_argument("host")
    login.set_defaults(command=log_in)

    logout = commands.add_parser("logout")
    logout.add_argument("host")
    logout.set_defaults(command=log_out)

    push_command = commands.add_parser("push")
    push_command.add_argument("ref")
    push_command.set_defaults(command=push_loaded)

    run = commands.add_parser("run")
    run.add_argument("arguments", nargs=argparse.REMAINDER)
    run.set_defaults(command=run_container)

    inspect = commands.add_parser("image").add_subparsers(required=True, metavar="COMMAND").add_parser("inspect")
    inspect.add_argument("--format")
    inspect.add_argument("ref")
    inspect.set_defaults(command=inspect_image)

    buildx = commands.add_parser("buildx").add_subparsers(required=True, metavar="COMMAND")
    buildx.add_parser("version").set_defaults(command=buildx_version)
    ls = buildx.add_parser("ls")
    ls.add_argument("--format", choices=["{{.Name}}"])
    ls.set_defaults(command=list_builders)
    create = buildx.add_parser("create")
    create.add_argument("--name", required=True)
    create.add_argument("--driver", choices=["docker-container"])
    create.add_argument("--driver-opt", action="append", default=[])
    create.set_defaults(command=create_builder)
    for name, command in (("inspect", inspect_builder), ("rm", remove_builder)):
        one = buildx.add_parser(name)
        one.add_argument("name")
        one.set_defaults(command=command)

    # `docker build` always stores the image on this machine, `docker buildx build` only on request.
    for parent, loads in ((commands, True), (buildx, False)):
        one = parent.add_parser("build")
        one.add_argument("--file", "-f", default="Dockerfile")
        one.add_argument("--tag", "-t", action="append", default=[])
        one.add_argument("--output", "-o", action="append", default=[], help="type=image|docker[,name=REF][,push=true]")
        one.add_argument("--push", action="store_true")
        one.add_argument("--load", action="store_true", default=loads)
        one.add_argument("--platform")
        one.add_argument("--build-arg", action="append", default=[])
        one.add_argument("--metadata-file")
        one.add_argument("--cache-to", action="append", default=[])
        # Known options without effect here: nothing is cached, isolated or attested.
        for option in ("--builder", "--cache-from", "--add-host", "--network", "--provenance", "--progress"):
            one.add_argument(option, action="append")
        one.add_argument("--no-cache", action="store_true")
        one.add_argument("context")
        one.set_defaults(command=build)
    return docker


def main(arguments: Sequence[str]) -> int:
    try:
        options = parser().parse_args(arguments)
        options.command(options)
    except HttpRefusal as refusal:
        say(str(refusal))
        return 1
    except ImportError as error:
        say(f"docker: the stand-in needs {error.name}: pip install --require-hashes -r requirements-sandbox.txt")
        return 1
    except OSError as error:
        say(f"docker: the stand-in failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
