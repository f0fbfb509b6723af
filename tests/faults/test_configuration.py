"""Which configuration counts, with real processes that are started with different settings, killed and restarted.

The rules themselves are tested in tests/reconcile/test_generation.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.cleaning import clean
from tests.faults.installation import CANARIES, Installation, Postgresql, Service, policy, send, wait_for
from tests.faults.operations import new_key

OLD, OTHER = "222222222222", "333333333333"
NARROW = {"DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": policy(OLD), "CONFIGURATION_GENERATION": ""}
WIDE = {"DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": policy(OLD, OTHER), "CONFIGURATION_GENERATION": ""}
CONFIGURATION_TABLES = (
    "deployments_configurationactivation", "deployments_process", "deployments_configurationgeneration",
    "deployments_policyversion", "deployments_policytext", "deployments_desiredstate",
)  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def started(installation_of: Callable[[str], Installation]) -> Iterator[Callable[[str], Installation]]:
    """An installation of which no process was ever started; all of them end with the test."""
    used: list[Installation] = []

    def of(vendor: str) -> Installation:
        installation = installation_of(vendor)
        end(installation)
        clean(installation)
        for table in CONFIGURATION_TABLES:
            installation.database.query(f"DELETE FROM {table}")
        used.append(installation)
        return installation

    yield of
    for installation in used:
        end(installation)
        for table in CONFIGURATION_TABLES:
            installation.database.query(f"DELETE FROM {table}")


def web(installation: Installation, settings: dict[str, str], **more: str) -> Service:
    variables: Any = {**settings, **more}
    return installation.start_web(**variables)


def worker_of(installation: Installation, settings: dict[str, str]) -> Service:
    variables: Any = settings
    return installation.start_worker(**variables)


def fail_over(installation: Installation) -> None:
    """The database crashes, and is back after three seconds."""
    assert isinstance(installation.database, Postgresql)
    installation.database.server.crash(3.0)


def end(installation: Installation) -> None:
    for service in list(installation.services):
        if service.is_running:
            service.stop()


def counts(installation: Installation) -> str:
    """The policy text of the configuration that counts."""
    text = installation.database.value(
        "SELECT p.text FROM deployments_configurationactivation a "
        "JOIN deployments_configurationgeneration g ON g.id = a.configuration_id "
        "JOIN deployments_policytext p ON p.id = g.v4_policy_id ORDER BY a.id DESC LIMIT 1"
    )
    return str(text)


def activations(installation: Installation) -> int:
    return int(installation.database.value("SELECT count(*) FROM deployments_configurationactivation"))


def pullers(installation: Installation, name: str) -> set[str]:
    return set(re.findall(r"\d{12}", installation.live_policy(name) or ""))


def first_deploy(installation: Installation) -> set[str]:
    """A new project's first deploy; the accounts that its repository's policy names then."""
    project = installation.bootstrap()
    answer = installation.deploy(project, key=new_key())
    assert answer.status == 200, answer
    return pullers(installation, project.repository)


def sweep(installation: Installation) -> None:
    """A sweep over everything, by the worker; started in the console."""
    before = installation.database.value("SELECT count(*) FROM deployments_sweep")
    assert installation.console("POST", "/admin/deployments/sweep/start/").status == 302
    wait_for(
        lambda: installation.database.value("SELECT count(*) FROM deployments_sweep WHERE status = 'done'") > before,
        90, "the sweep's end",
    )  # fmt: skip


def writes(installation: Installation, since: float) -> Counter[str]:
    """SetRepositoryPolicy by repository."""
    calls = installation.journal(since)
    return Counter(str(call["repository"]) for call in calls if call["operation"] == "SetRepositoryPolicy")


def metric(installation: Installation, name: str) -> float:
    text = installation.request("GET", "/metrics", key=CANARIES["METRICS_KEY"]).text
    found = re.search(rf"^registry_admin_{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


def doctor(installation: Installation) -> str:
    return installation.command("doctor", "--offline")[1]


def test_an_old_pod_that_is_started_again_or_crashes_in_a_loop_changes_nothing(
    started: Callable[[str], Installation],
) -> None:
    installation = started("sqlite")
    old = web(installation, NARROW)
    web(installation, WIDE)
    old.stop()
    began = time.time()

    for _ in range(2):
        again = web(installation, NARROW)
        again.kill()
    lingering = web(installation, NARROW)
    time.sleep(5)
    found = {frozenset(first_deploy(installation)) for _ in range(6)}
    lingering.stop()

    assert counts(installation) == policy(OLD, OTHER)
    assert activations(installation) == 2
    assert found == {frozenset({OLD, OTHER})}
    assert set(writes(installation, began).values()) <= {1}
    assert installation.get("/readyz").status == 200


@pytest.mark.parametrize("trigger", ["a process of its cluster is killed", "the database fails over"])
def test_a_forgotten_worker_does_right_and_is_named(started: Callable[[str], Installation], trigger: str) -> None:
    installation = started("postgresql")
    worker = worker_of(installation, NARROW)
    old = web(installation, NARROW)
    project = installation.bootstrap()
    assert installation.deploy(project, key=new_key()).status == 200
    old.stop()
    web(installation, WIDE)
    before = worker.cluster()

    if trigger == "the database fails over":
        fail_over(installation)
        wait_for(lambda: installation.get("/readyz").status == 200, 60, "readiness")
    send(signal.SIGKILL, before[-1])
    wait_for(lambda: not set(before) & set(worker.cluster()) and len(worker.cluster()) >= 6, 90, "another cluster")
    sweep(installation)

    assert counts(installation) == policy(OLD, OTHER)
    assert activations(installation) == 2
    assert pullers(installation, project.repository) == {OLD, OTHER}
    assert first_deploy(installation) == {OLD, OTHER}
    page = installation.console("GET", "/admin/setup/").text
    for told in (doctor(installation), page):
        assert "Started with other settings" in told
        assert "worker on" in told
        assert f"account {OTHER} loses pull" in told
    assert metric(installation, 'configuration_alarms{code="other"}') == 1


def test_an_old_worker_that_runs_on_alone_after_the_only_newer_process_was_killed_changes_nothing(
    started: Callable[[str], Installation],
) -> None:
    installation = started("sqlite")
    worker_of(installation, NARROW)
    newer = web(installation, WIDE)
    assert first_deploy(installation) == {OLD, OTHER}

    newer.kill()
    installation.database.query(  # an hour later
        "UPDATE deployments_process SET beat_at = datetime(beat_at, '-1 hour'), "
        "started_at = datetime(started_at, '-1 hour') WHERE role = 'web'"
    )
    installation.database.query("UPDATE deployments_configurationactivation SET at = datetime(at, '-1 hour')")
    time.sleep(12)  # two beats of the worker

    assert counts(installation) == policy(OLD, OTHER)
    told = doctor(installation)
    assert "No process holds the configuration that counts" in told
    assert "manage.py configuration activate" in told


def test_an_old_process_that_is_the_first_to_answer_after_the_database_was_away_does_right(
    started: Callable[[str], Installation],
) -> None:
    installation = started("postgresql")
    web(installation, NARROW)
    newer = web(installation, WIDE)
    newer.kill()
    fail_over(installation)

    wait_for(lambda: installation.get("/readyz").status == 200, 60, "readiness")

    assert first_deploy(installation) == {OLD, OTHER}
    assert counts(installation) == policy(OLD, OTHER)


def test_of_two_hosts_that_differ_by_one_tag_one_counts_and_the_difference_is_reported(
    started: Callable[[str], Installation],
) -> None:
    installation = started("sqlite")
    web(installation, WIDE, DEPLOY_REGISTRY_ECR_TAGS="team=platform")
    web(installation, WIDE, DEPLOY_REGISTRY_ECR_TAGS="team=platfrom")

    for _ in range(6):
        first_deploy(installation)

    arns = [each["repositoryArn"] for each in installation.ecr.describe_repositories()["repositories"]]
    tags = {
        json.dumps(installation.ecr.list_tags_for_resource(resourceArn=arn)["tags"]) for arn in arns if "/proj_" in arn
    }
    assert len(tags) == 1
    assert "platfrom" in tags.pop()  # what was started last counts, for both
    wait_for(lambda: "DEPLOY_REGISTRY_ECR_TAGS: team=platform instead of team=platfrom." in doctor(installation),
             15, "the alarm")  # fmt: skip
    assert metric(installation, 'configuration_alarms{code="other"}') == 1


def test_the_whole_installation_goes_back_at_once_by_a_higher_generation_or_by_a_command(
    started: Callable[[str], Installation],
) -> None:
    installation = started("sqlite")
    first = web(installation, NARROW, CONFIGURATION_GENERATION="1")
    second = web(installation, WIDE, CONFIGURATION_GENERATION="2")
    first.stop()
    assert first_deploy(installation) == {OLD, OTHER}

    web(installation, NARROW, CONFIGURATION_GENERATION="3")
    assert first_deploy(installation) == {OLD}
    second.stop()

    digest = installation.database.value("SELECT digest FROM deployments_configurationgeneration WHERE generation = 2")
    installation.manage("configuration", "activate", str(digest)[:12], "--reason", "it was right after all")
    assert first_deploy(installation) == {OLD, OTHER}
    assert installation.get("/readyz").status == 200


def test_it_goes_back_by_itself_only_when_nothing_can_be_lost(started: Callable[[str], Installation]) -> None:
    installation = started("sqlite")

    def replaced(service: Service, settings: dict[str, str], **more: str) -> Service:
        service.stop()
        return web(installation, settings, **more)

    running = web(installation, NARROW)
    running = replaced(running, WIDE)
    running = replaced(running, NARROW)  # would take the other account's pull away
    wait_for(lambda: "would take access away" in doctor(installation), 60, "the alarm")
    assert counts(installation) == policy(OLD, OTHER)

    running = replaced(running, WIDE, DEPLOY_REGISTRY_ECR_TAGS="team=new")
    assert activations(installation) == 3
    replaced(running, WIDE)  # only the tags are the older ones

    wait_for(lambda: activations(installation) == 4, 60, "going back by itself")
    assert counts(installation) == policy(OLD, OTHER)


def test_four_web_processes_are_replaced_one_by_one_under_load_without_a_failed_deploy_or_a_second_write(
    started: Callable[[str], Installation],
) -> None:
    installation = started("postgresql")
    old = [web(installation, NARROW) for _ in range(4)]
    projects = [installation.bootstrap() for _ in range(60)]
    queue, answers, unready, over = list(projects), [], [], threading.Event()
    began = time.time()

    def load() -> None:
        while queue and not over.is_set():
            with contextlib.suppress(IndexError):
                answers.append(installation.deploy(queue.pop(), key=new_key()))
            time.sleep(0.4)

    def watch() -> None:
        while not over.is_set():
            answer = installation.get("/readyz")
            if answer.status == 503:
                unready.append(answer)
            time.sleep(0.2)

    threads = [threading.Thread(target=load) for _ in range(3)] + [threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    try:
        for service in old:
            web(installation, WIDE)
            service.stop(35)
        for thread in threads[:3]:
            thread.join(120)
    finally:
        over.set()
        for thread in threads:
            thread.join(60)

    assert {answer.status for answer in answers} == {200}, [each for each in answers if each.status != 200]
    assert len(answers) == 60
    assert unready == []
    assert set(writes(installation, began).values()) == {1}
    assert first_deploy(installation) == {OLD, OTHER}
