"""The package as `pip install .` installs it: in a virtual environment of its own, far from any checkout.

The packages it needs are those of the running environment (a .pth file), and the build uses its setuptools, so nothing
is fetched. `pip install .` with an index installs the same versions, which the metadata name.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry_admin import VERSION

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Installed:
    command: Path
    packages: Path  # site-packages
    state: Path

    def environment(self, **more: str) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "STATE_DIR": str(self.state), **more}

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.command, *arguments], cwd="/", env=self.environment(**more), capture_output=True, text=True,
            timeout=START_SECONDS,
        )  # fmt: skip

    def files(self) -> set[Path]:
        return {path for path in self.packages.rglob("*") if "__pycache__" not in path.parts}

    @contextmanager
    def running(self, *arguments: str, log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        with log.open("w") as output:
            process = subprocess.Popen(
                [self.command, *arguments], cwd="/", env=self.environment(**more), stdout=output, stderr=output
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if name.startswith(("deployments/", "registry_admin/", "templates/", "static/", "docs/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    left = source / "build/lib/deployments/gone.py"  # by `pip install .` of an earlier version, which had the module
    left.parent.mkdir(parents=True)
    left.touch()
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index",
         "--no-build-isolation", "--wheel-dir", built, source], check=True, timeout=START_SECONDS,
    )  # fmt: skip
    [made] = built.iterdir()
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True, timeout=START_SECONDS)
    [packages] = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "running.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", folder / "venv/bin/python", "install", "--quiet", "--no-deps",
         "--disable-pip-version-check", "--no-index", wheel], check=True, timeout=START_SECONDS,
    )  # fmt: skip
    for path in (packages / "registry_admin", packages / "deployments"):  # as in an image with a read-only root
        for each in [path, *path.rglob("*")]:
            each.chmod(each.stat().st_mode & ~0o222)
    return Installed(command=folder / "venv/bin/registry-admin", packages=packages, state=folder / "state")


def test_the_wheel_has_every_file_of_the_program_and_no_other(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    beside = ("templates/", "static/", "docs/iam-policy.json")

    assert names == {
        f"registry_admin/{name}" if name.startswith(beside) else name
        for name in listed
        if name.startswith(("deployments/", "registry_admin/", *beside)) and not name.endswith((".md", "/.gitkeep"))
    }


def test_the_wheel_demands_the_pinned_versions(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
    pins = [line for line in (ROOT / "requirements.in").read_text().splitlines() if line and line[0] != "#"]

    assert re.findall(r"^Version: (.*)$", metadata, re.MULTILINE) == [VERSION]
    assert re.findall(r"^License-Expression: (.*)$", metadata, re.MULTILINE) == ["MIT"]
    assert re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE) == pins


def test_the_command_tells_its_version_without_any_setting(installed: Installed) -> None:
    django = importlib.metadata.version("django")
    python = ".".join(map(str, sys.version_info[:3]))

    done = installed.run("version", DATABASE_URL="rubbish")

    assert done.stdout == f"registry-admin {VERSION} (Python {python}, Django {django})\n"
    assert installed.run("--version").stdout == done.stdout


def test_migrate_web_worker_and_doctor_work_far_from_a_checkout(installed: Installed, tmp_path: Path) -> None:
    before = installed.files()
    migrated = installed.run("migrate", "--verbosity", "0")
    assert (migrated.returncode, migrated.stderr) == (0, "")
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in installed.state.iterdir()} == {
        "db.sqlite3": "0o600",
        "secret_key": "0o600",
    }
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    more = {"BIND": f"127.0.0.1:{port}", "WEB_CONCURRENCY": "1", "WEB_THREADS": "4"}
    web, worker = tmp_path / "web.log", tmp_path / "worker.log"

    with installed.running("web", log=web, **more) as server, installed.running("worker", log=worker):
        origin = f"http://127.0.0.1:{port}"
        assert answer(f"{origin}/readyz", log=web)
        page = answer(f"{origin}/admin/login/", log=web)
        [style] = re.findall(r'href="(/static/admin_theme/theme\.[0-9a-f]{12}\.css)"', page)
        assert answer(f"{origin}{style}", log=web)
        wait_until(lambda: installed.run("worker", "--check").returncode == 0, log=worker)
        examined = installed.run("doctor", "--offline")
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: "with the code and the settings of the start" in web.read_text(), log=web)
        assert answer(f"{origin}/readyz", log=web)

    assert "Traceback" not in web.read_text() + worker.read_text()
    assert (examined.returncode, examined.stderr) == (0, "")
    assert "0 failed" in examined.stdout
    assert installed.files() == before  # nothing was written into the installation


def test_a_folder_of_static_files_that_nobody_can_write_is_served_as_it_is(
    installed: Installed, tmp_path: Path
) -> None:
    """As in an image whose build has run collectstatic; and as without it, from the package."""
    assert installed.run("migrate", "--verbosity", "0").returncode == 0
    for root in ("/proc/no-folder", str(tmp_path / "collected")):
        more = {"STATIC_ROOT": root, "WEB_CONCURRENCY": "1"}
        if not root.startswith("/proc"):
            assert installed.run("collectstatic", "--noinput", STATIC_ROOT=root).returncode == 0
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        log = tmp_path / "web.log"
        with installed.running("web", log=log, BIND=f"127.0.0.1:{port}", **more):
            page = answer(f"http://127.0.0.1:{port}/admin/login/", log=log)
            [style] = re.findall(r'href="(/static/admin_theme/theme\.\S*css)"', page)
            assert answer(f"http://127.0.0.1:{port}{style}", log=log)
        assert ("no static files were copied into /proc/no-folder" in log.read_text()) is root.startswith("/proc")


def test_without_the_setting_the_state_is_in_the_home_of_the_user(installed: Installed, tmp_path: Path) -> None:
    done = subprocess.run(
        [installed.command, "migrate", "--verbosity", "0"], cwd="/", capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)}, timeout=START_SECONDS,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".local/state/registry-admin/db.sqlite3").exists()


def answer(address: str, *, log: Path) -> str:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as response:
                return response.read().decode()  # type: ignore[no-any-return]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{address}: {error.code}\n{log.read_text()}") from None
        except OSError:
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)


def wait_until(true: object, *, log: Path) -> None:
    assert callable(true)
    until = time.monotonic() + START_SECONDS
    while not true():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.5)
