"""`make image-check`: build the image of the Dockerfile, run each of its processes confined, and end them.

As root on Debian, with its packages buildah, podman, runc and debootstrap: no Docker engine is needed. By default
debootstrap makes a base image from Debian's packages; BASE names another one. It takes minutes, so no test runs it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("buildah", "podman", "runc", "debootstrap")
IMAGE = "localhost/registry-admin-check"
USER = 10001
#: A container as the chart and compose.yaml start it, but with the host's network.
CONFINED = [
    *("--network", "host", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--no-healthcheck"),  # noqa: S108
    *("--security-opt", "no-new-privileges", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"),
]
#: What pip in the build may need of this machine.
OF_THIS_MACHINE = ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")


class Check:
    """One run, with images and containers in a folder that is removed at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        stores = ["--root", f"{folder}/images", "--runroot", f"{folder}/run", "--storage-driver", "overlay"]
        self.buildah = ["buildah", *stores]
        self.podman = ["podman", *stores, "--runtime", "runc", "--cgroup-manager", "cgroupfs"]

    def base(self) -> str:
        """An image of Debian with Python, where none can be pulled."""
        system = self.folder / "debian"
        packages = "--include=python3,python3-venv,ca-certificates"
        command("debootstrap", "--variant=minbase", packages, "bookworm", str(system))
        container = command(*self.buildah, "from", "scratch")
        command(*self.buildah, "add", container, str(system), "/")
        command(*self.buildah, "commit", "--quiet", container, f"{IMAGE}-base")
        command(*self.buildah, "rm", container)
        shutil.rmtree(system)
        return f"{IMAGE}-base"

    def build(self, base: str) -> None:
        mounts = [f"--volume={path}:{path}:ro" for path in OF_THIS_MACHINE if Path(path).exists()]
        options = ["--isolation", "chroot", "--format", "docker", "--quiet", f"--build-arg=BASE={base}", "--tag", IMAGE]
        command(*self.buildah, "build", *options, *mounts, ".")

    def run(self) -> None:
        config = json.loads(command(*self.buildah, "inspect", "--type", "image", IMAGE))["Docker"]["config"]
        say(f"built: user {config['User']}, entry point {config['Entrypoint']}, labels {config['Labels']}")
        state = self.folder / "state"
        state.mkdir(mode=0o700)
        os.chown(state, USER, USER)
        options = [*CONFINED, f"--volume={state}:/var/lib/registry-admin", "--env=BIND=127.0.0.1:8000"]

        say(command(*self.podman, "run", "--rm", *options, IMAGE, "version"))
        command(*self.podman, "run", "--rm", *options, IMAGE, "migrate", "--verbosity", "0")
        say(f"migrate: {', '.join(sorted(path.name for path in state.iterdir()))} of {state.stat().st_uid}")
        probes = {"web": config["Healthcheck"]["Test"][1:], "worker": ["registry-admin", "worker", "--check"]}
        try:
            for role in probes:
                command(*self.podman, "run", "--detach", f"--name={role}", *options, IMAGE, role)
            for role, probe in probes.items():
                wait_for(lambda role=role, probe=probe: not self.inside(role, *probe).returncode, seconds=90)  # type: ignore[misc]
                say(f"{role}: its health check succeeds")
            say(f"web: touch /app/new: {self.inside('web', 'touch', '/app/new').stderr.rpartition(': ')[2].strip()}")
            for role in probes:
                began = time.monotonic()
                command(*self.podman, "stop", "--time", "40", role)
                status = command(*self.podman, "inspect", "--format", "{{.State.ExitCode}}", role)
                say(f"{role}: status {status}, {time.monotonic() - began:.0f} seconds after SIGTERM")
        finally:
            for role in probes:
                log = subprocess.run([*self.podman, "logs", role], capture_output=True, text=True)
                say(f"--- the last lines of {role} ---\n" + "\n".join((log.stdout + log.stderr).splitlines()[-3:]))
            command(*self.podman, "rm", "--force", "--all")

    def inside(self, role: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.podman, "exec", role, *arguments], capture_output=True, text=True, timeout=60)


def command(*arguments: str) -> str:
    done = subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: status {done.returncode}\n{done.stdout}")
    return done.stdout.strip()


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise SystemExit(f"As root: apt-get install --no-install-recommends {' '.join(absent)}")
    with tempfile.TemporaryDirectory(prefix="image-check-") as folder:
        check = Check(Path(folder))
        base = os.environ.get("BASE", "debootstrap")
        check.build(check.base() if base == "debootstrap" else base)
        check.run()


if __name__ == "__main__":
    main()
