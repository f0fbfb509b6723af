"""An installation for a page: a checkout of its own, its `.env`, its processes, the sandbox in the place of AWS.

The lines of a page run in one shell, in order, each within LINE_SECONDS. Nothing of the developer's environment reaches
them but PATH. The names that a page uses for an installation stand for the real addresses: see `Scene.real`.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox.control import CLUSTER_ACCOUNT, Sandbox
from sandbox.installation import HOST, POLICY, REF
from tests.docs.pages import ROOT, TERMINALS, Block, statements
from tests.support import prepared

#: In seconds: a line of a page; a command that prepares the scene.
LINE_SECONDS, COMMAND_SECONDS = 90, 120
_COMMENT = re.compile(r"\s+#.*")
EMAIL = "you@example.com"
CODE = ("deployments", "registry_admin", "sandbox", "static", "templates", "docs", "deploy")


def checkout(folder: Path) -> None:
    """A copy of the code as `git clone` gives it, with its compiled modules and the files that a first start of `web`
    collects, so that no process makes them again."""
    folder.mkdir()
    for name in CODE:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("screens"))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith(("db.sqlite3", "secret_key")) and path.name != ".env":
            shutil.copy2(path, folder)
    shutil.copytree(prepared.static_root(), folder / "staticfiles")
    (folder / ".venv").symlink_to(sys.prefix)


@dataclass(kw_only=True)
class Scene:
    """What a page finds when its first line runs. `variables`: what its reader has in the shell already."""

    folder: Path
    sandbox: Sandbox
    postgres: dict[str, str] = field(default_factory=dict)  # PGHOST …, for psql and pg_dump without an address
    variables: dict[str, str] = field(default_factory=dict)
    origin: str = ""
    #: Of the sandbox that a page starts itself.
    sandbox_port: int = 0

    def __post_init__(self) -> None:
        (self.folder / "pids").mkdir(parents=True)
        (self.folder / "home").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.origin = f"http://localhost:{listener.getsockname()[1]}"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.sandbox_port = listener.getsockname()[1]
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.docs.processes", "keep"], cwd=ROOT, stdin=subprocess.PIPE,
            env=os.environ | {"PAGE_FOLDER": str(self.folder)}, start_new_session=True,
        )  # fmt: skip
        commands = self.folder / "bin"
        commands.mkdir()
        ours = f"exec {shlex.quote(sys.executable)} -m tests.docs.processes"
        for name, line in {
            "systemctl": f'{ours} systemctl "$@"',
            "terminal": f'{ours} terminal "$@"',
            "npx": f'{ours} npx "$@"',
            "sudo": 'exec "$@"',
            "gh": "cat > /dev/null",
        }.items():
            (commands / name).write_text(f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} {line}\n")
            (commands / name).chmod(0o755)

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    @property
    def state(self) -> Path:
        """Its state directory."""
        return self.checkout / "state" if (self.checkout / "state").exists() else self.checkout

    @property
    def environment(self) -> dict[str, str]:
        """Of the page's shell. The web process takes a free port instead of 8000."""
        return {
            "PATH": f"{self.folder / 'bin'}:{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "LANG": "C.UTF-8",
            "BIND": f"127.0.0.1:{self.origin.rpartition(':')[2]}",
            "WEB_CONCURRENCY": "1",
            "PAGE_FOLDER": str(self.folder),
            "PAGE_ORIGIN": self.origin,
            "SANDBOX_URL": self.sandbox.url,
            **self.postgres,
            **self.variables,
        }

    def settings(self) -> dict[str, str]:
        return {
            "APP_ORIGIN": self.origin,
            "DEPLOY_REGISTRY_HOST": HOST,
            "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": json.dumps(POLICY),
            "DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS": CLUSTER_ACCOUNT,
            "METRICS_KEY": "kept-by-the-monitoring-of-this-scene-0123456789",
            "RECONCILE_FRESHNESS_SECONDS": "0",  # each deploy reads its repository again
            **self.sandbox.environment("owner"),
        }

    def write_env(self, **more: str) -> None:
        lines = [f"{name}={value}\n" for name, value in (self.settings() | more).items()]
        (self.checkout / ".env").write_text("".join(lines))
        (self.checkout / ".env").chmod(0o600)

    def manage(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments], cwd=self.checkout, env=self.environment, capture_output=True,
            text=True, timeout=COMMAND_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"manage.py {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def install(self) -> None:
        """Migrate, and make the first project. Its token and keys become the shell's variables."""
        self.manage("migrate", "--verbosity", "0")
        made = json.loads(self.manage("bootstrap", "--email", EMAIL, "--project", "Demo", "--ref", REF, "--json"))
        self.variables |= {
            "TRIGGER_API_URL": self.origin,
            "TRIGGER_ACCESS_TOKEN": made["token"],
            "TRIGGER_PROJECT_REF": REF,
            "TRIGGER_SECRET_KEY": made["keys"]["prod"],
        }

    def command(self, line: str) -> None:
        """A line that prepares the scene, in the page's shell and with its commands."""
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.checkout, env=self.environment, capture_output=True, text=True,
            timeout=COMMAND_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"

    def real(self, text: str) -> str:
        """The text of a page with the addresses of this scene."""
        for name, value in {
            "https://deploy.example.com": self.origin,
            "http://127.0.0.1:8000": self.origin,
            "http://localhost:8000": self.origin,
            "localhost:4566": f"localhost:{self.sandbox_port}",
            "127.0.0.1:4566": f"127.0.0.1:{self.sandbox_port}",
            "--port 4566": f"--port {self.sandbox_port}",
            "@db.example.com:5432/registry_admin": f"@/registry_admin?host={self.postgres.get('PGHOST', '')}",
        }.items():
            text = text.replace(name, value)
        return text

    def run(self, blocks: list[Block]) -> str:
        """Run the blocks' statements in one shell; what they printed. Fails at the first that ends otherwise than the
        page says, with its place in the page and the output."""
        shell = self.folder / "page.sh"
        shell.write_text("".join(map(self._script, blocks)))
        reached = "the start"
        with (self.folder / "output").open("w+") as output:
            reader, writer = os.pipe()
            process = subprocess.Popen(
                ["bash", shell], cwd=self.checkout, env=self.environment | {"PAGE_MARKS": str(writer)},
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, pass_fds=[writer],
                start_new_session=True,
            )  # fmt: skip
            os.close(writer)
            try:
                late = ""
                with os.fdopen(reader) as marks, selectors.DefaultSelector() as wait:
                    wait.register(marks, selectors.EVENT_READ)
                    until = time.monotonic() + LINE_SECONDS
                    while process.poll() is None and not late:
                        if wait.select(0.5):
                            if line := marks.readline():
                                reached, until = line.strip(), time.monotonic() + LINE_SECONDS
                        elif time.monotonic() > until:
                            late = f" did not end within {LINE_SECONDS} seconds"
                    if not late:
                        reached = [reached, *marks.read().split("\n")[:-1]][-1]
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            said = output.read()
        logs = "".join(f"\n--- {log.name}\n{log.read_text()[-1500:]}" for log in self.folder.glob("*.log"))
        ended = late or process.returncode
        assert ended == 0, f"{reached}{late}\n{said[-8000:]}{logs}"
        return said

    def _script(self, block: Block) -> str:
        parts = []
        for each in statements(block):
            text = self.real(each.text)
            if block.mark == TERMINALS:
                text = f"terminal {shlex.quote(_COMMENT.sub('', text))}"
            parts.append(
                f"echo {shlex.quote(f'{block.page}:{each.line}: {each.text.splitlines()[0]}')} >&$PAGE_MARKS\n"
                f'echo "$EPOCHREALTIME" {shlex.quote(f"+ {each.text}")}\n'
                f"{text}\n"
                f"page_status=$?; [ $page_status -eq {each.status} ] || "
                '{ echo "exit status $page_status"; exit 1; }\n'
            )
        return "".join(parts)

    def api(self, method: str, path: str, body: object = None) -> Any:
        """The JSON of the answer to a request with the key of production. Raises HTTPError."""
        request = urllib.request.Request(
            f"{self.origin}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.variables['TRIGGER_SECRET_KEY']}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=COMMAND_SECONDS) as answer:
            return json.loads(answer.read())

    def end(self) -> None:
        """End its processes; the keeper does it if the test process is killed before."""
        self._keeper.communicate(timeout=COMMAND_SECONDS)
