"""The operations O1 to O11 of the matrix, each as something that can be begun, interrupted, and completed.

`perform` does it once, as its user does (a CLI, an operator, the schedule), and may fail. `finish` is what they
do next: ask again until it is right, for a bounded time; it raises Stuck or AssertionError when that does not help.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

from sandbox.images import Image
from tests.faults.audit import meaning
from tests.faults.installation import Answer, Installation, Project, Service, Stuck, completed, policy, wait_for

FINISH_SECONDS = 200.0  # a lease, two ticks, and what the machine needs
_keys = itertools.count(1)


def new_key() -> str:
    return f"case-{next(_keys)}"


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Do all of it at once, each in a thread; raises the first failure."""
    results: list[Any] = [None] * len(calls)
    failures: list[BaseException] = []

    def run(index: int, call: Callable[[], Any]) -> None:
        try:
            results[index] = call()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FINISH_SECONDS + 60)
    if failures:
        raise failures[0]
    return results


class Work:
    """One performance of an operation."""

    id: ClassVar[str]
    name: ClassVar[str]
    calls: ClassVar[tuple[str, ...]] = ()  # the calls to AWS that it cannot do without, in their order
    tables: ClassVar[tuple[str, ...]] = ()  # that the request writes to
    by: ClassVar[str] = "web"  # which process does it
    targeted: ClassVar[bool] = True  # its calls name a repository of its own
    alone: ClassVar[bool] = False  # two of them at once would meet

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.disturbed = False  # somebody else has changed the repository meanwhile
        self.project: Project = installation.bootstrap()
        self.recovered = 0.0
        self.prepare()

    @property
    def repository(self) -> str:
        return self.project.repository

    def prepare(self) -> None:
        """What was there before."""

    def perform(self) -> bool:
        """Once; whether it was answered as done."""
        raise NotImplementedError

    def until_done(self) -> bool:
        """As `perform`, and wait for the process that does it later."""
        return self.perform()

    def again(self) -> bool:
        """Once more, after it was broken off; whether it is right now."""
        return self.perform()

    def finish(self, seconds: float = FINISH_SECONDS) -> None:
        began = time.monotonic()
        wait_for(self.again, seconds, f"{self.name} of {self.repository}")
        self.recovered = time.monotonic() - began
        self.verify()

    def verify(self) -> None:
        """What this operation promises, beyond the invariants."""

    # -- of use to several --

    def deployed(self) -> None:
        """A first deploy that succeeded."""
        answer = self.installation.deploy(self.project, key=new_key())
        assert answer.status == 200, answer

    def carries_policy(self) -> bool:
        return bool(meaning(self.installation.live_policy(self.repository)) == meaning(self.installation.policy))

    def remove_policy(self) -> None:
        self.installation.ecr.delete_repository_policy(repositoryName=self.repository)

    def deployments_of(self, key: str) -> int:
        return int(
            self.installation.database.value(
                "SELECT count(*) FROM deployments_deployment WHERE idempotency_key = ?", key
            )
        )


DEPLOY_TABLES = (
    "deployments_environment",
    "deployments_deployment",
    "deployments_repository",
    "deployments_repositoryevent",
)


class FirstDeploy(Work):
    id, name = "O1", "first deploy"
    calls = ("ecr:CreateRepository", "ecr:PutLifecyclePolicy", "ecr:SetRepositoryPolicy")
    tables = DEPLOY_TABLES

    def prepare(self) -> None:
        self.key = new_key()

    def perform(self) -> bool:
        return self.installation.deploy(self.project, key=self.key).status == 200

    def verify(self) -> None:
        assert self.deployments_of(self.key) == 1
        assert self.carries_policy(), self.installation.live_policy(self.repository)


class RepeatDeploy(Work):
    """A deploy to a repository that is there, and whose policy somebody has deleted since."""

    id, name = "O2", "repeat deploy"
    calls = ("ecr:GetRepositoryPolicy", "ecr:SetRepositoryPolicy")
    tables = DEPLOY_TABLES

    def prepare(self) -> None:
        self.deployed()
        self.remove_policy()
        self.key = new_key()

    def perform(self) -> bool:
        return self.installation.deploy(self.project, key=self.key).status == 200

    def again(self) -> bool:
        # One that was right before lets a deploy go on when AWS refuses; then the next deploy corrects it.
        if not self.perform():
            return False
        return self.carries_policy() or (
            self.installation.deploy(self.project, key=new_key()).status == 200 and self.carries_policy()
        )

    def verify(self) -> None:
        assert self.deployments_of(self.key) == 1


class FourAtOnce(Work):
    id, name = "O3", "four deploys at once"
    calls = FirstDeploy.calls
    tables = DEPLOY_TABLES

    def prepare(self) -> None:
        self.keys = [new_key() for _ in range(4)]

    def perform(self) -> bool:
        def one(key: str) -> Callable[[], Answer]:
            return lambda: self.installation.deploy(self.project, key=key)

        return all(answer.status == 200 for answer in together(*map(one, self.keys)))

    def verify(self) -> None:
        assert [self.deployments_of(key) for key in self.keys] == [1] * 4
        assert self.carries_policy()


class PolicyChange(Work):
    """The web process and the worker are replaced by ones with another policy while a first deploy is going on."""

    id, name = "O4", "desired policy changes mid-flight"
    calls = ("ecr:SetRepositoryPolicy",)
    tables = DEPLOY_TABLES
    alone = True

    def prepare(self) -> None:
        self.other = self.installation.bootstrap()
        assert self.installation.deploy(self.other, key=new_key()).status == 200
        self.key = new_key()
        self.old: list[Service] = []
        self.new: list[Service] = []

    def configure(self) -> None:
        """Another policy, for the processes that are started from now on."""
        installation = self.installation
        installation.generation += 1
        installation.policy = policy("222222222222", f"{333300000000 + installation.generation}")
        installation.policies.append(installation.policy)
        installation.end_commander()

    def change(self) -> None:
        self.old = self.installation.running("web") + self.installation.running("worker")
        self.configure()
        self.replace()

    def replace(self) -> None:
        """Start what has the new policy, then end what has the old one. Again, where that was broken off."""
        workers = [service for service in self.old if service.name == "worker"]
        if not self.new:
            self.new.append(self.installation.start_web())
        for service in self.old:
            service.terminate()
        if workers and len(self.new) == 1:
            self.new.append(self.installation.start_worker())
        for service in self.old:
            service.stop(40)
        self.old = []

    def deploy(self) -> bool:
        return self.installation.deploy(self.project, key=self.key).status == 200

    def perform(self) -> bool:
        return bool(together(self.deploy, self.change)[0])

    def again(self) -> bool:
        if self.old:
            self.replace()
        if not self.deploy():
            return False
        status, _, _ = self.installation.command("reconcile", "--all", "--json")
        return status == 0 and self.carries_policy()

    def verify(self) -> None:
        live = self.installation.live_policy(self.other.repository)
        assert meaning(live) == meaning(self.installation.policy), live


class SweepRepairs(Work):
    """An operator has one repository looked at whose policy somebody has deleted; the worker does it."""

    id, name = "O5", "sweep repairs"
    calls = ("ecr:GetRepositoryPolicy", "ecr:SetRepositoryPolicy")
    tables = ("deployments_repository", "deployments_repositoryevent")
    by = "worker"
    wait_seconds = 40.0

    def prepare(self) -> None:
        self.deployed()
        self.row = self.installation.database.value(
            "SELECT id FROM deployments_repository WHERE name = ?", self.repository
        )
        self.remove_policy()

    def start(self) -> bool:
        path = f"/admin/deployments/repository/{self.row}/look/reconcile/"
        return self.installation.console("POST", path, {}).status in (200, 302)

    def perform(self) -> bool:
        if not self.start():
            return False
        try:
            wait_for(self.carries_policy, self.wait_seconds, "the repair")
        except Stuck:
            return False
        return True

    def again(self) -> bool:
        """A begun sweep ends by itself; only one that ended without the repair is started again."""
        if self.carries_policy():
            return True
        running = self.installation.database.value("SELECT count(*) FROM deployments_sweep WHERE status = 'running'")
        if not running:
            self.start()
        time.sleep(0.5)
        return False


class Import(Work):
    """A first deploy to a repository that another user has made before, with a policy of their own."""

    id, name = "O6", "import"
    calls = ("ecr:DescribeRepositories", "ecr:GetRepositoryPolicy", "ecr:SetRepositoryPolicy")
    tables = DEPLOY_TABLES

    def prepare(self) -> None:
        self.key = new_key()
        self.theirs = policy("444444444444")
        ecr = self.installation.ecr
        ecr.create_repository(repositoryName=self.repository)
        ecr.set_repository_policy(repositoryName=self.repository, policyText=self.theirs)

    def perform(self) -> bool:
        return self.installation.deploy(self.project, key=self.key).status == 200

    def verify(self) -> None:
        assert self.carries_policy()
        if self.disturbed:
            return  # perhaps it was deleted, and is ours now
        database = self.installation.database
        assert database.value("SELECT origin FROM deployments_repository WHERE name = ?", self.repository) == "adopted"
        kept = database.query(
            "SELECT policy_before FROM deployments_repositoryevent WHERE repository_id = "
            "(SELECT id FROM deployments_repository WHERE name = ?)",
            self.repository,
        )
        texts = [row["policy_before"] for row in kept if row["policy_before"]]
        assert any(meaning(text) == meaning(self.theirs) for text in texts), "their policy is lost"


class Retire(Work):
    """A preview branch is archived. Registry Admin deletes no repository: nothing else is ever retired."""

    id, name = "O7", "retire"
    tables = ("deployments_environment", "deployments_auditentry")

    def prepare(self) -> None:
        path = f"/api/v1/projects/{self.project.ref}/branches"
        body = {"env": "preview", "branch": "feat/a"}
        assert self.installation.post(path, body, key=self.project.keys["preview"]).status == 200

    def perform(self) -> bool:
        path = f"/api/v1/projects/{self.project.ref}/branches/archive"
        return self.installation.post(path, {"branch": "feat/a"}, key=self.project.keys["preview"]).status == 200

    def again(self) -> bool:
        listed = self.installation.get(
            f"/api/v1/projects/{self.project.ref}/branches", key=self.project.keys["preview"]
        )
        if listed.status != 200:
            return False
        return listed.body["branches"] == [] or self.perform()


class Credentials(Work):
    """The rest of a deploy: its log-in, the push that it is for, the report of its tasks, and finalize."""

    id, name = "O8", "credentials, push, finalize"
    calls = ("sts:GetFederationToken", "ecr:GetAuthorizationToken", "ecr:BatchGetImage")
    tables = (
        "deployments_deployment",
        "deployments_backgroundworker",
        "deployments_promotion",
        "deployments_promotionevent",
    )
    targeted = False

    def prepare(self) -> None:
        self.deployment = self.installation.deploy(self.project, key=new_key()).body
        self.image: Image | None = None

    def perform(self) -> bool:
        installation, project, deployment = self.installation, self.project, self.deployment["id"]
        if self.image is None:
            answer = installation.credentials(project, deployment)
            if answer.status != 200:
                return False
            self.image = installation.push(project, self.deployment, answer.body)
        if installation.index(project, deployment).status != 200:
            return False
        return completed(installation.finalize(project, deployment, self.image.digest))

    def verify(self) -> None:
        current = self.installation.get("/api/v1/deployments/current", key=self.project.keys["prod"])
        assert self.deployment["version"] in current.text, current


class Keys(Work):
    """A key is rotated and then revoked, in the console."""

    id, name = "O9", "key create, rotate, revoke"
    tables = ("deployments_accesskey", "deployments_auditentry")

    def _works(self) -> list[dict[str, Any]]:
        return self.installation.database.query(
            "SELECT id, replaces_id FROM deployments_accesskey WHERE revoked_at IS NULL AND environment_id = "
            "(SELECT environment_id FROM deployments_accesskey WHERE id = ?) ORDER BY id",
            self.row,
        )

    def prepare(self) -> None:
        self.row = self.installation.database.value(
            "SELECT accesskey.id FROM deployments_accesskey accesskey JOIN deployments_environment environment "
            "ON environment.id = accesskey.environment_id JOIN deployments_project project "
            "ON project.id = environment.project_id WHERE project.ref = ? AND environment.slug = 'staging'",
            self.project.ref,
        )

    def perform(self) -> bool:
        successor = next((row["id"] for row in self._works() if row["replaces_id"] == self.row), None)
        page = f"/admin/deployments/accesskey/{self.row}"
        if successor is None:
            made = self.installation.console("POST", f"{page}/rotate/", {"hours": "24"})
            if made.status != 200:
                return False
            self.installation.secrets.update(re.findall(r"tr_stg_\w{16,}", made.text))
        return self.installation.console("POST", f"{page}/revoke/", {}).status == 302

    def again(self) -> bool:
        works = self._works()
        if len(works) == 1 and works[0]["replaces_id"] == self.row:
            return True
        return self.perform()

    def verify(self) -> None:
        lines = self.installation.database.query(
            "SELECT action FROM deployments_auditentry WHERE object_type = ? AND object_id = ? AND outcome = 'done' "
            "ORDER BY action",
            "accesskey", str(self.row),
        )  # fmt: skip
        assert [row["action"] for row in lines] == ["revoke.key", "rotate.key"], f"I8: {lines}"


class ScheduleFires(Work):
    """The minute's tick ends a deployment whose deadline is over, and no other."""

    id, name = "O10", "schedule fires"
    tables = ("deployments_deployment",)
    by = "worker"

    def prepare(self) -> None:
        answers = [self.installation.deploy(self.project, key=new_key()) for _ in range(2)]
        self.overdue, self.live = (answer.body["id"] for answer in answers)

    def status(self, deployment: str) -> str:
        return str(
            self.installation.database.value("SELECT status FROM deployments_deployment WHERE id = ?", deployment)
        )

    def perform(self) -> bool:
        database = self.installation.database
        past = "now() - interval '1 minute'" if database.vendor == "postgresql" else (
            "strftime('%Y-%m-%d %H:%M:%f', 'now', '-1 minute')"
        )  # fmt: skip
        database.query(f"UPDATE deployments_deployment SET deadline = {past} WHERE id = ?", self.overdue)
        # The next tick is due now; a cluster looks at its schedules each half minute.
        database.query(f"UPDATE django_q_schedule SET next_run = {past}")
        return self._happened()

    def until_done(self) -> bool:
        self.perform()
        return self._happened(45.0)  # a cluster looks at its schedules each half minute

    def _happened(self, seconds: float = 5.0) -> bool:
        try:
            wait_for(lambda: self.status(self.overdue) == "TIMED_OUT", seconds, "the time-out")
        except Stuck:
            return False
        return True

    def again(self) -> bool:
        return self._happened()

    def verify(self) -> None:
        assert self.status(self.live) == "BUILDING", f"a deployment with time left is {self.status(self.live)}"
        names = self.installation.database.query("SELECT name FROM django_q_schedule ORDER BY name")
        assert [row["name"] for row in names if "registry-admin" in row["name"]].count("registry-admin: tick") == 1


OPERATIONS: tuple[type[Work], ...] = (
    FirstDeploy, RepeatDeploy, FourAtOnce, PolicyChange, SweepRepairs, Import, Retire, Credentials, Keys, ScheduleFires,
)  # fmt: skip
