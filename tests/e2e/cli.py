"""The real `trigger.dev` CLI from npm: installed once per version, run as a user with an empty home would run it.

    with cli.project("4.8.3") as folder:
        result = cli.run("4.8.3", "deploy", cwd=folder, env={"TRIGGER_API_URL": …, "SANDBOX_URL": …, …})

`docker` is the stand-in of sandbox/bin. Installing takes the network, and a quarter of a gigabyte per version; running
takes neither. `python -m tests.e2e.cli 4.8.3 4.4.6` installs ahead of the tests. What this will not do: change the CLI,
or know anything of the server it talks to.

E2E_CACHE names the folder of the installations (default: .cache/e2e of this repository).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = Path(__file__).with_name("project")
OFFLINE = Path(__file__).with_name("offline.cjs")
STAND_IN = ROOT / "sandbox" / "bin"

# A first installation on a slow line, and one deploy on a busy machine, in seconds.
INSTALL_LIMIT = 300
RUN_LIMIT = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a program ended: its exit status, and what it said on both streams, without the colours and spinners."""

    status: int
    output: str
    seconds: float


def missing() -> str:
    """Why the CLI cannot be installed here, for a test's skip reason; empty if it can."""
    absent = [program for program in ("node", "npm") if shutil.which(program) is None]
    return f"{' and '.join(absent)} not on PATH" if absent else ""


def install(version: str) -> Path:
    """The folder whose node_modules hold this version of the CLI and of the SDK. Fast if it is there already.

    Raises RuntimeError with npm's words if npm fails, subprocess.TimeoutExpired if it takes longer than INSTALL_LIMIT.
    """
    cache = Path(os.environ.get("E2E_CACHE", ROOT / ".cache" / "e2e"))
    cache.mkdir(parents=True, exist_ok=True)
    package = json.loads((FIXTURE / "package.json").read_text())
    package["dependencies"]["@trigger.dev/sdk"] = package["devDependencies"]["trigger.dev"] = version
    wanted = json.dumps(package, indent=2)
    target = cache / version
    with (cache / f"{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits, and finds the work done
        if (target / "installed.json").exists() and (target / "installed.json").read_text() == wanted:
            return target
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        (target / "package.json").write_text(wanted)
        # Without the packages' install scripts: foreign code, and the CLI works without.
        npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error"]
        done = subprocess.run(npm, cwd=target, capture_output=True, text=True, timeout=INSTALL_LIMIT)
        if done.returncode:
            raise RuntimeError(f"npm install of trigger.dev@{version}: {done.stderr or done.stdout}")
        (target / "installed.json").write_text(wanted)  # last, so that a torn installation is not taken for a whole one
    return target


@contextmanager
def project(version: str, files: Mapping[str, str] | None = None) -> Iterator[Path]:
    """A fresh copy of the fixture project, with `files` (path: text) put over it; gone afterwards.

    It lies below the installation, so that node and the CLI find the packages by walking up, as in any monorepo.
    """
    installation = install(version)
    with tempfile.TemporaryDirectory(prefix="project-", dir=installation, ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) / "project"
        shutil.copytree(FIXTURE, folder)
        for name in ("package.json", "package-lock.json"):  # the CLI deploys nothing without a lock file
            shutil.copy(installation / name, folder)
        # The next folder with a .git/config is the workspace to the CLI, and its last commit is sent to the server.
        # That must not be this repository. An empty one is no work tree to git itself; `git init` makes it one.
        for path, text in ({".git/config": ""} | dict(files or {})).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        yield folder


def run(
    version: str,
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str],
    timeout: float = RUN_LIMIT,
    offline: bool = True,
) -> Result:
    """`trigger.dev ARGUMENTS` in `cwd`, with `env` on top of a nearly empty environment.

    The home folder, with its docker logins, is `home` beside `cwd` unless `env` has a HOME. `offline=False` lets the
    CLI try to reach the outside, which costs 8 seconds where there is none. Raises TimeoutError with the output so far.
    """
    program = install(version) / "node_modules" / ".bin" / "trigger"
    if arguments and arguments[0] == "deploy":
        arguments = (*arguments, "--skip-update-check")  # it asks npm's registry
    quick = {"NODE_OPTIONS": f"--require={OFFLINE}"} if offline else {}
    return _execute([str(program), *arguments], cwd=cwd, env=quick | dict(env), stdin="", timeout=timeout)


def interrupt(version: str, *arguments: str, cwd: Path, env: Mapping[str, str], when: Callable[[], bool]) -> Result:
    """As `run`, but SIGINT is sent to the CLI and its children, as Ctrl-C does, when `when` is true."""
    command = [str(install(version) / "node_modules" / ".bin" / "trigger"), *arguments, "--skip-update-check"]
    return _execute(
        command, cwd=cwd, env={"NODE_OPTIONS": f"--require={OFFLINE}", **env}, stdin="", timeout=RUN_LIMIT, when=when
    )


def docker(*arguments: str, cwd: Path, env: Mapping[str, str], stdin: str = "", timeout: float = 30) -> Result:
    """The stand-in, as the CLI in `cwd` sees it: for the `docker login` of a user, say."""
    return _execute([str(STAND_IN / "docker"), *arguments], cwd=cwd, env=env, stdin=stdin, timeout=timeout)


def _execute(
    command: list[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdin: str,
    timeout: float,
    when: Callable[[], bool] | None = None,
) -> Result:
    home = cwd.parent / "home"
    home.mkdir(exist_ok=True)
    # Where there is no .venv, the stand-in takes the first python3: the one that runs the tests has what it needs.
    path = [str(STAND_IN), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {
        "PATH": os.pathsep.join(path),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(Path(env.get("HOME", home)) / ".config"),
        "CI": "1",  # asks nothing, and says everything
        "TRIGGER_TELEMETRY_DISABLED": "1",
        "GIT_CEILING_DIRECTORIES": str(cwd.parent),  # git, too, is not to find this repository
        **env,
    }
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, errors="replace",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,  # so that its children (docker, the indexer) can be ended with it
    )  # fmt: skip
    try:
        while when is not None and process.poll() is None and time.monotonic() - started < timeout:
            if when():
                os.killpg(process.pid, signal.SIGINT)
                break
            time.sleep(0.1)
        output, _ = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise TimeoutError(f"{command} took more than {timeout} s and said:\n{_plain(output)}") from None
    return Result(status=process.returncode, output=_plain(output), seconds=time.monotonic() - started)


def _plain(output: str) -> str:
    """Without terminal control, and of a spinner only its last line."""
    last_frames = re.sub(r"[^\n]*\x1b\[J", "", output)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last_frames)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(f"trigger.dev {each}: {install(each)}", flush=True)
