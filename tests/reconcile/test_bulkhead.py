"""At most half of a web process's threads wait for AWS, and of these at most half for another request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.db.models.functions import Now
from django.test import Client

from deployments.config import Configuration
from deployments.deploys import lifecycle, promotions
from deployments.errors import Refusal, RegistryError
from deployments.models import (
    BackgroundWorker,
    Deployment,
    DeploymentStatus,
    Environment,
    EventKind,
    ProcessRole,
    Project,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
)
from deployments.reconcile import bulkhead, processes, put_back, repositories
from sandbox.control import Sandbox
from tests.support.constants import A_MOMENT, POLICY, TRAIL
from tests.support.deploys import ensure, finalize
from tests.support.registry import new_calls

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def eight_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkhead, "_threads", 8)


@pytest.fixture
def full(eight_threads: None) -> Iterator[None]:
    """Other requests wait for AWS, as many as may."""
    with others(4):
        yield


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """How long requests would wait for a place. Here each wait ends at once without one."""
    seconds: list[float | None] = []

    class Line(threading.Condition):
        def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
            seconds.append(timeout)
            return False

    monkeypatch.setattr(bulkhead, "_free", Line())
    return seconds


def others(count: int) -> ExitStack:
    """So many places held by other threads, until the end of the block."""
    stack, leave = ExitStack(), threading.Event()

    def hold(entered: threading.Event) -> None:
        with bulkhead.place():
            entered.set()
            leave.wait(30)

    for _ in range(count):
        entered = threading.Event()
        thread = threading.Thread(target=hold, args=(entered,))
        thread.start()
        assert entered.wait(5)
        stack.callback(thread.join, 10)
    stack.callback(leave.set)
    return stack


@pytest.mark.parametrize(("threads", "places"), [(1, 1), (2, 1), (8, 4), (9, 4), (32, 16)])
def test_half_of_the_threads_may_wait_for_aws(threads: int, places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkhead, "_threads", None)
    bulkhead.limit(threads)

    with others(places), pytest.raises(Refusal) as refused, bulkhead.place():
        pass

    assert (refused.value.code, refused.value.retryable) == ("server_waits_for_aws", True)
    with bulkhead.place():  # they have left
        pass


def test_a_request_that_has_a_place_needs_no_second_one(eight_threads: None) -> None:
    with others(3), bulkhead.place(), bulkhead.place():
        pass
    with others(4):
        pass


def test_a_process_without_a_limit_refuses_nobody() -> None:
    with others(40), bulkhead.place(), bulkhead.waiting():
        pass


def test_who_waits_in_line_gets_the_next_place(eight_threads: None) -> None:
    def enter() -> bool:
        with bulkhead.place(in_line=True):
            return True

    with ThreadPoolExecutor(1) as pool:
        with others(4):
            waits = pool.submit(enter)
            time.sleep(0.2)
            assert not waits.done()
        assert waits.result(5)


def test_the_line_is_a_quarter_of_the_threads_and_has_a_longest_wait(
    full: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulkhead, "LINE_SECONDS", 0.5)

    def enter() -> float:
        began = time.monotonic()
        with pytest.raises(Refusal), bulkhead.place(in_line=True):
            pass
        return time.monotonic() - began

    with ThreadPoolExecutor(3) as pool:
        took = sorted(pool.map(lambda _: enter(), range(3)))

    assert took[0] < 0.3
    assert all(0.4 < each < 5 for each in took[1:])


def enter_in_turn(stack: ExitStack, count: int) -> list[Any]:
    """So many requests that come one after another while no place is free; each is waiting when the next one comes."""
    pool = stack.enter_context(ThreadPoolExecutor(count))

    def enter() -> str:
        try:
            with bulkhead.place():
                return "a place"
        except Refusal as refused:
            return refused.code

    found = []
    for _ in range(count):
        found.append(pool.submit(enter))
        time.sleep(0.05)
    return found


def test_while_aws_answers_a_request_waits_a_moment_for_a_place(
    eight_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulkhead, "MOMENT_SECONDS", 10.0)
    monkeypatch.setattr(bulkhead, "_left_at", float("-inf"))
    with bulkhead.place():
        pass
    with ExitStack() as stack:
        with others(4):
            (waits,) = enter_in_turn(stack, 1)
            assert not waits.done()
        assert waits.result(5) == "a place"


def test_one_thread_does_not_wait_even_for_a_moment(full: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkhead, "MOMENT_SECONDS", 2.0)
    monkeypatch.setattr(bulkhead, "_left_at", time.monotonic())

    with ExitStack() as stack:
        *waiting, last = enter_in_turn(stack, 4)
        assert last.result(1) == "server_waits_for_aws"
        assert not any(each.done() for each in waiting)
        assert {each.result(5) for each in waiting} == {"server_waits_for_aws"}


@pytest.mark.parametrize("ago", [0.0, 0.3])
def test_nothing_is_waited_for_when_no_place_has_become_free_lately(
    ago: float, full: None, waited: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS hangs: to wait would only take one more thread."""
    monkeypatch.setattr(bulkhead, "_left_at", time.monotonic() - ago)

    with pytest.raises(Refusal), bulkhead.place():
        pass

    assert waited == ([] if ago else [0.25])


def test_a_place_in_line_is_waited_for_for_twenty_seconds(full: None, waited: list[float | None]) -> None:
    for _ in range(3):  # two may be in line at once
        with pytest.raises(Refusal), bulkhead.place(in_line=True):
            pass

    assert waited == [20.0] * 3


@pytest.mark.parametrize(("threads", "waiters"), [(1, 1), (2, 1), (8, 2)])
def test_a_quarter_of_the_threads_and_at_least_one_wait_for_another_request(
    threads: int, waiters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulkhead, "_threads", threads)
    for _ in range(2):  # what was taken is given back
        with ExitStack() as stack:
            for _ in range(waiters):
                stack.enter_context(bulkhead.waiting())
            with pytest.raises(Refusal):
                stack.enter_context(bulkhead.waiting())


# ------------------------------------------------------------------------------------------- who needs a place


@pytest.mark.costly
def test_a_deploy_that_must_ask_aws_is_refused_and_one_that_need_not_goes_on(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, eight_threads: None
) -> None:
    ensure(project, ecr_configuration)
    sandbox.reset_calls()
    with others(4):
        with pytest.raises(Refusal) as refused:
            ensure(project, ecr_configuration, freshness=A_MOMENT)
        assert refused.value.code == "server_waits_for_aws"

        ensure(project, ecr_configuration)

    assert new_calls(sandbox) == {}
    ensure(project, ecr_configuration, freshness=A_MOMENT)
    assert new_calls(sandbox) == {"GetRepositoryPolicy": 1}


@pytest.fixture
def deployment(environment: Environment, ecr_configuration: Configuration) -> Deployment:
    created = lifecycle.create_deployment(
        environment=environment, configuration=ecr_configuration, trail=TRAIL, content_hash="1", type="MANAGED"
    ).deployment
    BackgroundWorker.objects.create(deployment=created, content_hash="1")
    Deployment.objects.update(status=DeploymentStatus.DEPLOYING)
    created.refresh_from_db()
    return created


def test_a_log_in_for_the_push_needs_a_place(
    deployment: Deployment, ecr_configuration: Configuration, full: None
) -> None:
    with pytest.raises(Refusal) as refused:
        lifecycle.registry_credentials(deployment=deployment, configuration=ecr_configuration)

    assert refused.value.code == "server_waits_for_aws"


def test_a_finalize_waits_in_line_and_leaves_no_receipt_when_it_gets_no_place(
    deployment: Deployment, ecr_configuration: Configuration, full: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulkhead, "LINE_SECONDS", 0.3)
    began = time.monotonic()

    with pytest.raises(Refusal) as refused:
        finalize(deployment, ecr_configuration)

    assert refused.value.code == "server_waits_for_aws"
    assert time.monotonic() - began >= 0.3
    deployment.refresh_from_db()
    assert (deployment.status, deployment.receipt) == (DeploymentStatus.DEPLOYING, None)


@pytest.mark.parametrize("proved", [True, False])
def test_a_roll_back_to_an_image_that_was_proved_does_not_wait_for_a_place(
    deployment: Deployment, ecr_configuration: Configuration, full: None, proved: bool
) -> None:
    Deployment.objects.update(
        status=DeploymentStatus.DEPLOYED, deployed_at=Now(), receipt={"digest": "x"} if proved else None
    )

    def promote() -> Deployment:
        return promotions.promote(
            environment=deployment.environment,
            version=str(deployment.version),
            by="x",
            configuration=ecr_configuration,
            trail=TRAIL,
        )

    if proved:
        assert promote() == deployment
    else:
        with pytest.raises(Refusal) as refused:
            promote()
        assert refused.value.code == "server_waits_for_aws"


@pytest.mark.costly
def test_putting_a_policy_back_needs_a_place(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, eight_threads: None
) -> None:
    row = ensure(project, ecr_configuration)
    kept = RepositoryEvent.objects.create(repository=row, kind=EventKind.HEALED, policy_before=POLICY)

    with others(4), pytest.raises(Refusal) as refused:
        put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    assert refused.value.code == "server_waits_for_aws"


@pytest.mark.costly
def test_the_set_up_page_asks_aws_only_with_a_place_and_says_so(
    ecr_configuration: Configuration, sandbox: Sandbox, full: None
) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))

    page = client.post("/admin/setup/", follow=True)

    assert "The limit of requests that wait for AWS at once is reached." in page.content.decode()
    assert new_calls(sandbox) == {}


# ------------------------------------------------------------------------------------------------- who is waited for


def wait_until(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def stuck(project: Project, ecr_configuration: Configuration, sandbox: Sandbox) -> Iterator[None]:
    """A first deploy of this process is inside CreateRepository, which AWS does not answer."""
    processes.start(ProcessRole.WEB)
    sandbox.fault("latency", "ecr:CreateRepository", seconds=5)

    def deploy() -> None:
        try:
            ensure(project, ecr_configuration)
        finally:
            connections.close_all()

    holder = threading.Thread(target=deploy)
    holder.start()
    try:
        wait_until(Repository.objects.filter(creating_since__isnull=False).exists)
        yield
    finally:
        holder.join(30)
    assert Repository.objects.get().status == RepositoryStatus.IN_SYNC


@pytest.mark.costly
def test_nobody_waits_longer_than_three_seconds_for_a_holder_that_waits_for_one_call(
    stuck: None, project: Project, ecr_configuration: Configuration
) -> None:
    began = time.monotonic()
    with pytest.raises(RegistryError) as refused:
        ensure(project, ecr_configuration)
    assert (refused.value.code, refused.value.retryable) == ("HolderWaits", True)
    assert 2 < time.monotonic() - began < 4.5

    began = time.monotonic()
    with pytest.raises(RegistryError):
        ensure(project, ecr_configuration)
    assert time.monotonic() - began < 1


@pytest.mark.costly
def test_two_of_eight_threads_wait_for_another_deploy_and_the_third_is_refused_at_once(
    stuck: None, project: Project, ecr_configuration: Configuration, eight_threads: None
) -> None:
    refusals: list[tuple[str, float]] = []

    def wait() -> None:
        began = time.monotonic()
        try:
            ensure(project, ecr_configuration)
        except (Refusal, RegistryError) as refused:
            refusals.append((refused.code, time.monotonic() - began))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert [code for code, _ in refusals] == ["server_waits_for_aws", "HolderWaits", "HolderWaits"]
    assert refusals[0][1] < 1
    with others(4):  # all have given their places back, but for the holder, which never asked for one here
        pass


@pytest.mark.parametrize(("age", "code"), [(5, "Busy"), (10, "HolderWaits")])
def test_a_holder_in_another_process_is_waited_for_nine_seconds_at_most(
    age: int,
    code: str,
    project: Project,
    ecr_configuration: Configuration,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ensure(project, ecr_configuration)
    taken = Now() - timedelta(seconds=age)
    Repository.objects.update(lease_owner="other", lease_until=taken + repositories.REPOSITORY_LEASE)
    monkeypatch.setattr(repositories, "LEASE_WAIT_SECONDS", 0.5)

    with pytest.raises(RegistryError) as refused:
        ensure(project, ecr_configuration, freshness=timedelta(0))

    assert refused.value.code == code
