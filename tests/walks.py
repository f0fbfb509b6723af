"""`make walks`: through how many modules of the program does one call go? (`python -m tests.walks`)

It makes three calls against a sandbox, on their successful paths: the POST of a first deploy, the finalize of a pushed
image, and a sweep that finds one repository without its policy. For each it prints the modules below `deployments/`
whose functions run, in the order in which the call first enters them, in any of its threads. Every module is imported
before, so that only what runs is counted. It ends with status 1 if a call enters more modules than `MOST` (D-walks).
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import pkgutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from sandbox import images
from sandbox.control import CLUSTER_ACCOUNT, OWNER_ACCOUNT, Sandbox
from tests import databases  # first: it removes every variable that the program reads

ROOT = Path(__file__).resolve().parent.parent / "deployments"
HOST = f"{OWNER_ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
HASH = "4f2b" * 16
PULL = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
STATEMENT = {"Effect": "Allow", "Principal": {"AWS": CLUSTER_ACCOUNT}, "Action": PULL}
SETTINGS = {
    "DJANGO_SETTINGS_MODULE": "registry_admin.settings",
    "DATABASE_URL": f"sqlite:///{databases.DIRECTORY / 'walks.sqlite3'}",
    "DEPLOY_REGISTRY_HOST": HOST,
    "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": json.dumps({"Version": "2012-10-17", "Statement": [STATEMENT]}),
    "RECONCILE_FRESHNESS_SECONDS": "0",
}

MOST = {
    "POST /api/v1/deployments, the first deploy": 25,
    "Finalize": 22,
    # Two more than before the standing proof: `kept_images` (which images must stay, asked by three features) and
    # `image_states` (their looks and rows), because the repository of this walk has a current image.
    # One more than before the steady state: `change_feed` (whether change events are proven complete).
    "A sweep that repairs one repository": 25,
}

_entered: dict[str, None] = {}
_too_many: list[str] = []


def _profile(frame: FrameType, event: str, argument: object) -> None:
    path = frame.f_code.co_filename
    if event == "call" and path.startswith(str(ROOT)) and frame.f_code.co_name != "<module>":
        _entered.setdefault(str(Path(path).relative_to(ROOT)))


def walk(name: str, call: Callable[[], Any]) -> Any:
    """The answer of the call; its modules are printed."""
    _entered.clear()
    sys.setprofile(_profile)
    threading.setprofile(_profile)
    try:
        return call()
    finally:
        sys.setprofile(None)
        print(f"\n{name}: {len(_entered)} modules\n  " + "\n  ".join(_entered))
        if len(_entered) > MOST[name]:
            _too_many.append(name)


def main(sandbox: Sandbox) -> None:
    os.environ.update(SETTINGS, **sandbox.environment("owner"))
    import django

    django.setup()
    from django.core.management import call_command
    from django.test import Client
    from django.urls import reverse

    import deployments

    logging.disable(logging.CRITICAL)
    for module in pkgutil.walk_packages(deployments.__path__, "deployments."):
        importlib.import_module(module.name)
    reverse("admin:index")  # the first request of a process makes the table of URLs, which is no part of a walk
    call_command("migrate", verbosity=0)
    key = _key()
    client = Client(SERVER_NAME="localhost", headers={"Authorization": f"Bearer {key}"})

    def post(path: str, body: dict[str, Any]) -> bytes:
        response = client.post(path, json.dumps(body), content_type="application/json")
        assert response.status_code == 200, response.getvalue()
        return bytes(response.getvalue())

    fields = {"contentHash": HASH, "type": "MANAGED"}
    made = json.loads(walk("POST /api/v1/deployments, the first deploy", lambda: post("/api/v1/deployments", fields)))
    path = f"deployments/{made['id']}"
    given = json.loads(post(f"/api/v1/{path}/generate-registry-credentials", {}))
    repository, _, tag = made["imageTag"].removeprefix(f"{HOST}/").rpartition(":")
    login = (given["proxyEndpoint"], given["username"], given["password"], repository, tag)
    digest = images.push(images.build("walk\n"), *login, registry=HOST)
    report = {"contentHash": HASH, "packageVersion": "4.8.3", "tasks": []}
    post(f"/api/v1/{path}/background-workers", {"localOnly": True, "engine": "V2", "metadata": report})

    finalize = f"/api/v3/{path}/finalize"
    ended = walk("Finalize", lambda: post(finalize, {"imageDigest": digest}))
    assert b"event: complete" in ended, ended

    ecr = sandbox.client("ecr")
    ecr.delete_repository_policy(repositoryName=repository)
    walk("A sweep that repairs one repository", _sweep)
    assert ecr.get_repository_policy(repositoryName=repository)["policyText"]


def _key() -> str:
    """A key of the production environment of a new project."""
    from io import StringIO

    from django.core.management import call_command

    said = StringIO()
    arguments = {"email": "ada@example.com", "project": "Walks", "json": True}
    call_command("bootstrap", **arguments, stdout=said, stderr=StringIO())
    return str(json.loads(said.getvalue())["keys"]["prod"])


def _sweep() -> None:
    from deployments import tasks

    tasks.sweep()
    tasks.drain()


if __name__ == "__main__":
    with Sandbox.start() as started:
        main(started)
    if _too_many:
        sys.exit(f"More modules than CONTRIBUTING.md allows: {'; '.join(_too_many)}")
