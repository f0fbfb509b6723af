"""A whole installation that may be broken: a database, a sandbox ECR, web, worker and events processes.

Everything is a real process, started as an operator starts it, and is broken from outside: by signals, by the sandbox's
faults, by the database's own means. Nothing of the product is patched. Rows are read by plain SQL, so that what judges
them shares no code with what wrote them. It ends only processes that it started, by their ids.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sandbox.control import OWNER_ACCOUNT, Sandbox
from sandbox.images import Image, build, push
from tests.postgresql import Server
from tests.support import prepared

ROOT = Path(__file__).resolve().parents[2]
#: Each installation has a registry of its own in the sandbox that they share.
REGIONS = itertools.cycle(
    ["us-east-1", "us-east-2", "us-west-1", "us-west-2", "eu-west-1", "eu-west-2", "eu-central-1"]
)
OPERATOR = "ada@example.com"
IDEMPOTENCY = "x-trigger-request-idempotency-key"
HASH = "4f2b" * 16
PULL = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
START_SECONDS, ANSWER_SECONDS, COMMAND_SECONDS, STOP_SECONDS = 60.0, 75.0, 150.0, 10.0
TAGS = "team=platform"
READER = "faults"  # what our own connections to PostgreSQL are called
#: Each has a text of its own that must be found nowhere (invariant I7).
CANARIES = {
    "SECRET_KEY": "canary-secret-key-0123456789-0123456789-0123456789-0123",
    "ENCRYPTION_KEY": "canary-encryption-key-0123456789-0123456789-01234567",
    "METRICS_KEY": "canary-metrics-key-0123456789-0123456789",
}


class Stuck(AssertionError):
    """A condition did not become true in its time."""


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """What the condition answers once that is true. Raises Stuck after so many seconds; a fault that makes asking
    itself fail (the database is away) counts as “not yet”."""
    until = time.monotonic() + seconds
    last: Exception | None = None
    while True:
        try:
            if found := condition():
                return found
            last = None
        except (OSError, http.client.HTTPException, DatabaseAway) as error:
            last = error
        if time.monotonic() > until:
            raise Stuck(f"{what}: not within {seconds:.0f} s{f' ({last})' if last else ''}")
        time.sleep(0.1)


def policy(*accounts: str) -> str:
    """A repository policy that lets these accounts pull."""
    principal = {"AWS": list(accounts)}
    return json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": principal, "Action": PULL}]}
    )


def members(session: int) -> list[int]:
    """The living processes of a session, in the order of their ids."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] not in "ZX":
                    found.append(int(entry.name))
    return sorted(found)


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def resident(pid: int) -> float:
    """Memory of one process in MB: what is its own, and its share of what it shares (PSS)."""
    with contextlib.suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


def send(number: signal.Signals, *pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


# ---------------------------------------------------------------------------------------------------------- databases


class DatabaseAway(Exception):
    """The database does not answer now."""


class Database:
    """Rows by plain SQL with `?` for values, each time over a new connection."""

    vendor = ""
    url = ""
    now = ""  # SQL: the database's clock, as the product's rows have it

    def query(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        raise NotImplementedError

    def value(self, sql: str, *values: Any) -> Any:
        rows = self.query(sql, *values)
        return next(iter(rows[0].values())) if rows else None

    def tables(self) -> set[str]:
        raise NotImplementedError


class Sqlite(Database):
    vendor = "sqlite"
    now = "strftime('%Y-%m-%d %H:%M:%f', 'now')"

    def __init__(self, path: Path) -> None:
        self.path, self.url = path, f"sqlite:///{path}"

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=20, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        return connection

    def query(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        try:
            with contextlib.closing(self.connect()) as connection:
                return [dict(row) for row in connection.execute(sql, values)]
        except sqlite3.OperationalError as error:
            raise DatabaseAway(str(error)) from None

    def tables(self) -> set[str]:
        return {row["name"] for row in self.query("SELECT name FROM sqlite_master WHERE type = 'table'")}


class Postgresql(Database):
    vendor = "postgresql"
    now = "now()"

    def __init__(self, server: Server, name: str) -> None:
        import psycopg

        self.server, self.name = server, name
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        base, mark, query = server.url.partition("?")
        self.url = f"{base.rpartition('/')[0]}/{name}{mark}{query}"

    def connect(self, **options: Any) -> Any:
        import psycopg
        from psycopg.rows import dict_row

        return psycopg.connect(
            self.url, autocommit=True, row_factory=dict_row, connect_timeout=5, application_name=READER, **options
        )

    def query(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        import psycopg

        try:
            with self.connect() as connection, connection.cursor() as cursor:
                cursor.execute("SET default_transaction_read_only = off")
                cursor.execute(sql.replace("%", "%%").replace("?", "%s"), values)
                return [dict(row) for row in cursor.fetchall()] if cursor.description else []
        except psycopg.OperationalError as error:
            raise DatabaseAway(str(error).partition("\n")[0]) from None

    def tables(self) -> set[str]:
        return {row["tablename"] for row in self.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}

    def cut(self) -> None:
        """End every connection to this database but ours."""
        self.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ? AND pid <> pg_backend_pid()",
            self.name,
        )


# ---------------------------------------------------------------------------------------------------------- processes


@dataclass(slots=True, kw_only=True)
class Service:
    """One of the installation's processes, a session of its own."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def sessions(self) -> list[int]:
        """Its own, and that of the cluster that a worker runs in one of its own."""
        return [self.pid, *(child for child in children(self.pid) if os.getsid(child) == child)]

    def all_members(self) -> list[int]:
        return [pid for session in self.sessions() for pid in members(session)]

    def cluster(self) -> list[int]:
        """Of a worker: main, sentinel, and the rest, in the order in which they were started."""
        return [pid for session in self.sessions()[1:] for pid in members(session)]

    def terminate(self) -> None:
        if self.is_running:
            self.process.terminate()

    def kill(self) -> None:
        """Kill all of it at once, as when its host loses power."""
        send(signal.SIGKILL, *self.all_members())
        self.process.wait(STOP_SECONDS)

    def stop(self, seconds: float = STOP_SECONDS) -> float:
        """SIGTERM, and SIGKILL for what is left after so many seconds. How long it took."""
        began, left = time.monotonic(), self.all_members()
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        took = time.monotonic() - began
        send(signal.SIGCONT, *left)
        for session in {self.pid, *(pid for pid in left if _leads(pid))}:
            send(signal.SIGKILL, *members(session))
        self.process.wait(STOP_SECONDS)
        return took


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The result of a request. Status 0: no answer, the connection was cut or its time was over."""

    status: int
    text: str = ""
    seconds: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> str:
        try:
            return str(self.body["error"])
        except (ValueError, KeyError, TypeError):
            return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request and its answer, for the audit."""

    method: str
    path: str
    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project with the keys that its developers were given."""

    ref: str
    keys: Mapping[str, str] = field(repr=False)

    @property
    def repository(self) -> str:
        return f"trigger/{self.ref}"


class Installation:
    """The processes and what an operator, a developer and an outsider can do."""

    def __init__(
        self, *, database: Database, sandbox: Sandbox, folder: Path, tell: Callable[[int], None] = lambda pid: None
    ) -> None:
        self.database, self.sandbox, self.folder, self._tell = database, sandbox, folder, tell
        self.secrets: set[str] = set(CANARIES.values())
        self.asked: list[Asked] = []
        self.services: list[Service] = []
        self.policy = policy("222222222222")
        self.policies = [self.policy]  # every one that was ever configured here
        self.read_logs: dict[str, int] = {}  # how far the audit has read
        self.generation = 1
        self.settings: dict[str, str] = {}  # of processes that are started from now on
        self.code = ROOT  # which release they run
        self.token = ""
        self._number = itertools.count(1)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        self.identity = self._make_identity()
        self._commander: subprocess.Popen[str] | None = None
        self._cookies: dict[str, str] = {}
        self._marks: dict[Path, int] = {}
        self._journal: dict[str, dict[str, Any]] = {}
        self._password = ""
        self.region = next(REGIONS)
        self.host = f"{OWNER_ACCOUNT}.dkr.ecr.{self.region}.amazonaws.com"
        self.ecr = sandbox.client("ecr", region=self.region)  # another user in the owner's account

    def _make_identity(self) -> tuple[str, str]:
        """The product's own user, so that the sandbox's journal shows which calls are its own."""
        iam = self.sandbox.client("iam")
        name = f"server-{self.database.vendor}-{self.port}"
        iam.create_user(UserName=name)
        document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=json.dumps(document))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        self.secrets.add(key["SecretAccessKey"])
        self.caller = f"arn:aws:iam::{OWNER_ACCOUNT}:user/{name}"
        return key["AccessKeyId"], key["SecretAccessKey"]

    # -- its processes --

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "ENV_FILE": os.devnull,
            "STATIC_ROOT": str(self.folder / "static"),
            "DATABASE_URL": self.database.url,
            **CANARIES,
            "APP_ORIGIN": f"http://localhost:{self.port}",
            "API_ORIGIN": f"http://localhost:{self.port}",
            "DEPLOY_REGISTRY_HOST": self.host,
            "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": self.policy,
            "DEPLOY_REGISTRY_ECR_TAGS": TAGS,
            "RECONCILE_CALLS_PER_SECOND": "100",
            "RECONCILE_INTERVAL_MINUTES": "0",
            "RECONCILE_FRESHNESS_SECONDS": "0",
            "CONFIGURATION_GENERATION": str(self.generation),
            **self.sandbox.environment(self.identity, self.region),
            **self.settings,
            **more,
        }

    def _start(self, name: str, *command: str, environment: Mapping[str, str]) -> Service:
        number = next(self._number)
        log = self.folder / f"{'' if self.code == ROOT else 'old-'}{name}-{number}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=self.code, env={**self.environment(), **environment},
                stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True,
                pass_fds=(self._listener.fileno(),),
            )  # fmt: skip
        self._tell(process.pid)
        service = Service(name=name, process=process, log=log)
        self.services.append(service)
        return service

    def start_web(self, *, wait: bool = True, **environment: str) -> Service:
        """gunicorn with the shipped gunicorn.conf.py. Each one of several accepts from the same socket, like hosts
        behind a load balancer: a request waits while none is up."""
        service = self._start(
            "web", "-m", "gunicorn", "-c", str(self.code / "gunicorn.conf.py"), "registry_admin.wsgi", "--bind",
            f"fd://{self._listener.fileno()}", environment=environment,
        )  # fmt: skip
        if wait:
            # Not by a request, which another one could answer.
            self._until(service, lambda: len(children(service.pid)) >= (os.cpu_count() or 1), "gunicorn's start")
            wait_for(lambda: self.get("/readyz").status == 200, START_SECONDS, "readiness")
        return service

    def start_worker(self, *, wait: bool = True, **environment: str) -> Service:
        service = self._start("worker", "manage.py", "worker", environment=environment)
        if wait:
            self._until(service, lambda: len(service.cluster()) >= 6, "the worker's cluster")
        return service

    def start_events(self, queue: str, **environment: str) -> Service:
        service = self._start(
            "events", "manage.py", "events", environment={"RECONCILE_EVENTS_QUEUE_URL": queue, **environment}
        )
        self._until(service, lambda: "Listening" in service.log.read_text(), "the events process")
        return service

    def _until(self, service: Service, ready: Callable[[], Any], what: str) -> None:
        def look() -> Any:
            if not service.is_running:
                raise Stuck(f"{what}: it ended with {service.process.returncode}: {service.log.read_text()[-2000:]}")
            return ready()

        wait_for(look, START_SECONDS, what)

    def running(self, name: str) -> list[Service]:
        return [service for service in self.services if service.name == name and service.is_running]

    def web_workers(self) -> list[int]:
        """gunicorn's worker processes, which answer the requests; their masters start new ones."""
        return [child for service in self.running("web") for child in children(service.pid)]

    def ensure(self, *, web: int = 0, worker: int = 0) -> None:
        """So many of each are running, whatever the last case has left behind, and the commander."""
        for name, wanted, start in (("web", web, self.start_web), ("worker", worker, self.start_worker)):
            running = self.running(name)
            for service in running[wanted:]:
                service.stop()
            for _ in range(wanted - len(running)):
                start()

    def stop(self) -> None:
        running = [service for service in self.services if service.is_running]
        for service in running:
            service.terminate()
        for service in running:
            service.stop()
        self.end_commander()
        self._listener.close()

    def mark_logs(self) -> None:
        self._marks = {path: path.stat().st_size for path in self.folder.glob("*.log")}
        self.read_logs = {path.name: size for path, size in self._marks.items()}

    def logged(self, lines: int = 30) -> str:
        """The last lines that each process has logged since `mark_logs`."""
        shown = []
        for path in sorted(self.folder.glob("*.log")):
            with path.open(errors="replace") as file:
                file.seek(self._marks.get(path, 0))
                shown += [f"--- {path.name}", *file.read().splitlines()[-lines:]]
        return "\n".join(shown)

    # -- commands --

    def end_commander(self) -> None:
        process, self._commander = self._commander, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def command(self, *arguments: str) -> tuple[int, str, str]:
        """A command of manage.py: its exit status and what it said on both streams."""
        with self._lock:
            if self._commander is None or self._commander.poll() is not None:
                with (self.folder / "commander.log").open("ab") as log:
                    self._commander = subprocess.Popen(
                        [sys.executable, str(Path(__file__).with_name("commander.py"))], cwd=self.code,
                        env=self.environment(PYTHONPATH=str(self.code)),
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
                    )  # fmt: skip
            process = self._commander
            assert process.stdin is not None
            assert process.stdout is not None
            overdue = threading.Timer(COMMAND_SECONDS, process.kill)
            overdue.start()
            try:
                process.stdin.write(json.dumps(arguments) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            finally:
                overdue.cancel()
        if not line:
            raise Stuck(f"manage.py {' '.join(arguments)}: no answer in {COMMAND_SECONDS:.0f} s")
        answer = json.loads(line)
        return answer["status"], answer["out"], answer["err"]

    def manage(self, *arguments: str) -> str:
        """A command that must succeed; what it said."""
        status, out, err = self.command(*arguments)
        if status:
            raise AssertionError(f"manage.py {' '.join(arguments)}: {status}: {err}{out}")
        return out

    def begin_command(self, *arguments: str) -> Service:
        """A command as a process of its own, to be killed."""
        return self._start("command", "manage.py", *arguments, environment={})

    def bootstrap(self, name: str = "") -> Project:
        name = name or f"Project {next(self._number)}"
        status, out, err = self.command("bootstrap", "--email", OPERATOR, "--project", name, "--json")
        if status:
            raise AssertionError(f"bootstrap: {err}")
        made = json.loads(out)
        if found := re.search(r"shown only once: (\S+)", err):
            self._password = found[1]
            self.secrets.add(found[1])
        if made["token"]:
            self.token = made["token"]
            self.secrets.add(made["token"])
        self.secrets.update(text for text in made["keys"].values() if text)
        return Project(ref=made["project_ref"], keys=made["keys"])

    def shift_clock(self, seconds: float) -> dict[str, str]:
        """The variables that start a process with a wall clock of its own, so far off; `set_clock` moves it later."""
        library = self.folder / "preload.so"
        if not library.exists():
            source = Path(__file__).with_name("preload.c")
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=60)
        self.set_clock(seconds)
        return {"LD_PRELOAD": str(library), "CLOCK_SHIFT_FILE": str(self.folder / "clock")}

    def set_clock(self, seconds: float) -> None:
        path = self.folder / "clock"
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.write(struct.pack("d", seconds))

    # -- requests --

    def request(
        self, method: str, path: str, body: object = None, *, key: str = "", timeout: float = ANSWER_SECONDS,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        if key:
            sent["Authorization"] = f"Bearer {key}"
        began = time.monotonic()
        connection = http.client.HTTPConnection("localhost", self.port, timeout=timeout)
        try:
            connection.request(method, path, content, sent)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
            got = {name.lower(): value for name, value in response.getheaders() if name.lower() != "set-cookie"}
            for value in response.headers.get_all("Set-Cookie") or ():
                name, _, rest = value.partition("=")
                self._cookies[name] = rest.partition(";")[0]
            answer = Answer(status=response.status, text=text, seconds=time.monotonic() - began, headers=got)
        except (OSError, http.client.HTTPException) as error:
            answer = Answer(status=0, text=f"{type(error).__name__}: {error}", seconds=time.monotonic() - began)
        finally:
            connection.close()
        self.asked.append(Asked(method=method, path=path, answer=answer))
        return answer

    def get(self, path: str, *, key: str = "", timeout: float = 20) -> Answer:
        return self.request("GET", path, key=key, timeout=timeout)

    def post(self, path: str, body: object = None, *, key: str, **headers: str) -> Answer:
        return self.request("POST", path, {} if body is None else body, key=key, headers=headers)

    def console(self, method: str, path: str, form: Mapping[str, str] | None = None) -> Answer:
        """A page of the console, or a form sent to it, as the operator."""
        if "sessionid" not in self._cookies:
            self.request("GET", "/admin/login/")
            self._form("/admin/login/", {"username": OPERATOR, "password": self._password, "next": "/admin/"})
        if method == "POST":
            return self._form(path, form or {})
        return self.request("GET", path, headers={"Cookie": self._cookie()})

    def _cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self._cookies.items())

    def _form(self, path: str, form: Mapping[str, str]) -> Answer:
        content = urlencode({**form, "csrfmiddlewaretoken": self._cookies.get("csrftoken", "")}).encode()
        headers = {"Cookie": self._cookie(), "Content-Type": "application/x-www-form-urlencoded"}
        return self.request("POST", path, content, headers=headers)

    # -- a deploy, as the CLI makes it --

    def deploy(self, project: Project, *, key: str, **fields: Any) -> Answer:
        body = {"contentHash": HASH, "type": "MANAGED", **fields}
        return self.post("/api/v1/deployments", body, key=project.keys["prod"], **{IDEMPOTENCY: key})

    def credentials(self, project: Project, deployment: str) -> Answer:
        answer = self.post(f"/api/v1/deployments/{deployment}/generate-registry-credentials", key=project.keys["prod"])
        if answer.status == 200:
            self.secrets.add(answer.body["password"])
        return answer

    def push(self, project: Project, deployment: Mapping[str, Any], given: Mapping[str, Any]) -> Image:
        """The deployment's image, pushed with the credentials that were given for it."""
        image = build(f"{deployment['id']}\n")
        tag = str(deployment["imageTag"]).rpartition(":")[2]
        login = (given["proxyEndpoint"], given["username"], given["password"])
        push(image, *login, project.repository, tag, registry=self.host)
        return image

    def index(self, project: Project, deployment: str) -> Answer:
        metadata = {
            "contentHash": HASH, "packageVersion": "4.8.3", "runtime": "node-22",
            "tasks": [{"id": "hello", "filePath": "src/hello.ts", "exportName": "hello"}],
        }  # fmt: skip
        report = {"localOnly": True, "engine": "V2", "metadata": metadata}
        return self.post(f"/api/v1/deployments/{deployment}/background-workers", report, key=project.keys["prod"])

    def finalize(self, project: Project, deployment: str, digest: str) -> Answer:
        """Its last event is in `text`'s last lines; use `completed`."""
        return self.post(
            f"/api/v3/deployments/{deployment}/finalize", {"imageDigest": digest}, key=project.keys["prod"]
        )

    def fault(self, kind: str, match: str = "*", **settings: Any) -> dict[str, Any]:
        """A fault of the sandbox for everybody but the outsider, whose calls judge."""
        spare = {} if kind in ("not_found_after_create", "principal_not_found") else {"spare": "*:user/admin"}
        return self.sandbox.fault(kind, match, **spare, **settings)

    def collect_journal(self) -> None:
        """Keep what the sandbox has written down: it forgets all but the last calls."""
        self._journal |= {each["request_id"]: each for each in self.sandbox.journal()}

    def journal(self, since: float) -> list[dict[str, Any]]:
        """The calls to AWS, of anybody, in their order."""
        self.collect_journal()
        found = [each for each in self._journal.values() if each["time"] >= since]
        return sorted(found, key=lambda each: float(each["time"]))

    def forget(self) -> None:
        """Forget what was asked and called: a new case begins."""
        self.asked.clear()
        self._journal.clear()

    def live_policy(self, name: str) -> str | None:
        try:
            return str(self.ecr.get_repository_policy(repositoryName=name)["policyText"])
        except (self.ecr.exceptions.RepositoryPolicyNotFoundException, self.ecr.exceptions.RepositoryNotFoundException):
            return None

    def live_names(self) -> set[str]:
        pages = self.ecr.get_paginator("describe_repositories").paginate()
        return {each["repositoryName"] for page in pages for each in page["repositories"]}


def completed(answer: Answer) -> bool:
    """Whether a finalize's stream ended with success."""
    return answer.status == 200 and "event: complete" in answer.text


def keep() -> None:
    """A process of its own: ends the processes that it was given (id and start) when the process that gave them ends,
    also by SIGKILL, and removes the folder. Each leads its session; an id that is another process's by now is left."""
    for line in [*sys.stdin]:
        pid, started = line.split()
        if started_at(int(pid)) == started:
            send(signal.SIGKILL, *members(int(pid)))
    shutil.rmtree(sys.argv[1], ignore_errors=True)


def started_at(pid: int) -> str:
    """When a process was started, as the kernel counts; empty when there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


@contextlib.contextmanager
def keeper(folder: Path) -> Iterator[Callable[[int], None]]:
    """Gives a function that has a process ended together with this one, and the folder removed."""
    with subprocess.Popen(
        [sys.executable, "-c", "from tests.faults.installation import keep; keep()", str(folder)], cwd=ROOT,
        stdin=subprocess.PIPE, start_new_session=True, text=True,
    ) as process:  # fmt: skip
        pipe = process.stdin
        assert pipe is not None

        def tell(pid: int) -> None:
            pipe.write(f"{pid} {started_at(pid)}\n")
            pipe.flush()

        yield tell


@contextlib.contextmanager
def installations(folder: Path) -> Iterator[Callable[..., Installation]]:
    """Makes an installation, by the kind of its database and its name, when it is first asked for; all share a sandbox,
    and those on PostgreSQL a server. `empty`: without tables. Ends everything."""
    made: dict[str, Installation] = {}
    with contextlib.ExitStack() as stack:
        tell = stack.enter_context(keeper(folder))
        sandbox = stack.enter_context(Sandbox.start())

        servers: list[Server] = []

        def of(vendor: str, name: str = "faults", *, empty: bool = False) -> Installation:
            key = f"{vendor}_{name}"
            if key not in made:
                own = folder / key
                own.mkdir()
                (own / "static").mkdir()
                database: Database = Sqlite(own / "db.sqlite3")
                if vendor == "postgresql":
                    if not servers:
                        servers.append(Server.start())
                        stack.callback(servers[0].stop)
                    database = Postgresql(servers[0], name)
                installation = Installation(database=database, sandbox=sandbox, folder=own, tell=tell)
                stack.callback(installation.stop)
                if not empty:
                    if isinstance(database, Sqlite):
                        prepared.migrate(own / "db.sqlite3")
                    else:
                        installation.manage("migrate", "--verbosity", "0")
                    installation.bootstrap("First")
                made[key] = installation
            return made[key]

        yield of
