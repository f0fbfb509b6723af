"""The script of deploy/kubernetes/follow-current.yaml, with a web server, and a kubectl that writes down its call."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.access import keys
from deployments.config import Configuration
from deployments.deploys import promotions
from deployments.models import Deployment, Environment
from tests.support import deploys
from tests.support.constants import TRAIL

MANIFEST = Path(__file__).resolve().parents[2] / "deploy/kubernetes/follow-current.yaml"
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all(MANIFEST.read_text()))
POD: dict[str, Any] = next(each for each in OBJECTS if each["kind"] == "Deployment")["spec"]["template"]["spec"]
CONTAINER: dict[str, Any] = POD["containers"][0]
ROUND_SECONDS = 30

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(any(shutil.which(name) is None for name in ("curl", "jq")), reason="needs curl and jq"),
]


@dataclass(frozen=True, slots=True)
class Follower:
    folder: Path
    server: str

    @property
    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def round(self, *, kubectl: int = 0) -> str:
        """One round of the script: the sleep after it ends it. What it said. `kubectl`: the exit status of kubectl."""
        commands = self.folder / "bin"
        commands.mkdir(exist_ok=True)
        (commands / "sleep").write_text("#!/bin/sh\nexit 1\n")
        (commands / "kubectl").write_text(f'#!/bin/sh\necho "$*" >> {self.folder}/calls\nexit {kubectl}\n')
        for path in commands.iterdir():
            path.chmod(0o755)
        given = {each["name"]: each["value"] for each in CONTAINER["env"]}
        assert set(given) == {"SERVER", "NAMESPACE", "DEPLOYMENT", "CONTAINER", "KEY", "WORK", "HOME"}
        here = {
            "SERVER": self.server, "KEY": str(self.folder / "header"), "WORK": str(self.folder),
            "HOME": str(self.folder), "PATH": f"{commands}:{os.environ['PATH']}",
        }  # fmt: skip
        done = subprocess.run(
            [*CONTAINER["command"], *CONTAINER["args"]], env=given | here, capture_output=True, text=True,
            timeout=ROUND_SECONDS,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr  # of the sleep: the script itself goes on
        return done.stdout + done.stderr


@pytest.fixture
def follower(environment: Environment, live_server: Any, tmp_path: Path) -> Follower:
    _, text = keys.make_environment_key(environment, "follow-current", scopes=[keys.READ])
    (tmp_path / "header").write_text(f"Authorization: Bearer {text}")
    return Follower(tmp_path, str(live_server.url))


def deployed(environment: Environment, configuration: Configuration, sandbox: Any) -> Deployment:
    made = deploys.deploying(environment, configuration)
    deploys.finalize(made, configuration, deploys.push(sandbox, made))
    made.refresh_from_db()
    return made


@pytest.mark.costly
def test_the_deployment_gets_the_current_image_once_and_the_next_one_after_a_promotion_or_a_roll_back(
    follower: Follower, environment: Environment, ecr_configuration: Configuration, sandbox: Any
) -> None:
    assert "No version is current yet" in follower.round()
    assert follower.calls == []

    first = deployed(environment, ecr_configuration, sandbox)
    assert first.image_reference in follower.round()
    follower.round()

    set_first = f"-n jobs set image deployment/tasks worker={first.image_reference}"
    assert follower.calls == [set_first]

    second = deployed(environment, ecr_configuration, sandbox)
    follower.round()
    promotions.promote(
        environment=environment, version=str(first.version), by="ada", allow_rollbacks=True,
        configuration=ecr_configuration, trail=TRAIL,
    )  # fmt: skip
    follower.round()
    assert follower.calls[1:] == [f"-n jobs set image deployment/tasks worker={second.image_reference}", set_first]


@pytest.mark.costly
def test_what_kubernetes_refused_is_tried_again(
    follower: Follower, environment: Environment, ecr_configuration: Configuration, sandbox: Any
) -> None:
    deployed(environment, ecr_configuration, sandbox)

    assert "Tried again" in follower.round(kubectl=1)
    follower.round()
    follower.round()

    assert len(follower.calls) == 2


@pytest.mark.costly
def test_a_refused_key_is_said_with_the_servers_words(follower: Follower) -> None:
    (follower.folder / "header").write_text("Authorization: Bearer tr_prod_of_somebody_else")

    assert "answered 401" in follower.round()
    assert follower.calls == []


def test_the_manifest_may_change_one_deployment_and_read_no_secret() -> None:
    role = next(each for each in OBJECTS if each["kind"] == "Role")
    namespaces = {each["metadata"]["namespace"] for each in OBJECTS}
    names = {each["metadata"]["name"] for each in OBJECTS}

    assert role["rules"] == [
        {"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["tasks"], "verbs": ["get", "patch"]}
    ]
    assert (namespaces, names) == ({"jobs"}, {"follow-current"})
    assert POD["serviceAccountName"] == "follow-current"
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
