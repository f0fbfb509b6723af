"""A deployment's life against the clock, a second caller, and a newer deploy: every step is a compare-and-set."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, connection, connections, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from deployments import lifecycle, proof
from deployments.catalogue import Refusal
from deployments.config import Configuration
from deployments.models import BackgroundWorker, Deployment, Environment, Promotion, PromotionEvent, Repository
from sandbox.control import Sandbox
from tests.conftest import TRAIL
from tests.test_proof import deploying, finalize, push

Configure = Callable[..., Configuration]


@pytest.fixture
def anywhere(configure: Configure) -> Configuration:
    """A registry that is not ECR and does not answer: nothing but our own rows is in play."""
    return configure(DEPLOY_REGISTRY_HOST="127.0.0.1:1")


def status(deployment: Deployment) -> str:
    deployment.refresh_from_db()
    return deployment.status


def current(environment: Environment) -> str:
    promotion = lifecycle.current_promotion(environment=environment)
    return str(promotion.deployment.version) if promotion else ""


# ------------------------------------------------------------------------------------------------------- finalize


def test_finalizing_again_is_a_success_and_proves_nothing_again(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    deployment = deploying(environment, ecr_configuration)
    push(sandbox, deployment)
    finalize(deployment, ecr_configuration)
    sandbox.reset_calls()

    said = finalize(deployment, ecr_configuration)

    assert said == [f"Version {deployment.version} is deployed already and current."]
    assert sandbox.calls() == {}


def test_what_is_canceled_while_it_is_being_proved_is_not_promoted(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    deployment = deploying(environment, ecr_configuration)
    push(sandbox, deployment)
    steps = lifecycle.finalize(
        deployment=deployment, digest=None, skip_promotion=False, configuration=ecr_configuration
    )
    next(steps)
    lifecycle.cancel(deployment=Deployment.objects.get(id=deployment.id), trail=TRAIL, reason="Wrong branch")

    with pytest.raises(Refusal, match="canceled: Wrong branch"):
        list(steps)

    assert status(deployment) == "CANCELED"
    assert not Promotion.objects.exists()


def test_a_refused_proof_leaves_the_deployment_to_be_finalized_once_the_image_is_there(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "PAUSES", ())
    deployment = deploying(environment, ecr_configuration)
    with pytest.raises(Refusal):
        finalize(deployment, ecr_configuration)
    push(sandbox, deployment)

    finalize(deployment, ecr_configuration)

    assert status(deployment) == "DEPLOYED"
    assert deployment.receipt
    assert "unproved" not in deployment.receipt


def test_a_deploy_overtaken_by_a_newer_one_ends_well_and_is_not_promoted(
    environment: Environment, anywhere: Configuration
) -> None:
    slow, fast = deploying(environment, anywhere), deploying(environment, anywhere)
    finalize(fast, anywhere)

    said = finalize(slow, anywhere)

    assert "A newer version is current" in said[-1]
    assert status(slow) == "DEPLOYED"
    assert current(environment) == str(fast.version)


def test_of_many_promotions_at_once_the_newest_is_current_in_the_end(
    environment: Environment, anywhere: Configuration
) -> None:
    all_of_them = [deploying(environment, anywhere) for _ in range(6)]
    failures: list[BaseException] = []

    def run(deployment: Deployment) -> None:
        try:
            finalize(deployment, anywhere)
        except BaseException as error:
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(each,)) for each in all_of_them]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert current(environment) == str(all_of_them[-1].version)
    assert Promotion.objects.count() == 1


def test_a_promotion_that_lost_a_race_looks_again(
    environment: Environment, anywhere: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, slow, fast = (deploying(environment, anywhere) for _ in range(3))
    finalize(first, anywhere)
    seen = lifecycle.current_promotion

    def promoted_in_between(*, environment: Environment) -> Promotion | None:
        """What is current, as it was seen before somebody else's promotion."""
        found = seen(environment=environment)
        Promotion.objects.update(deployment=fast)
        return found

    monkeypatch.setattr(lifecycle, "current_promotion", promoted_in_between)
    with transaction.atomic():
        promoted = lifecycle._make_current(slow, by="", newer_only=True)

    assert (promoted.made, promoted.is_current, promoted.before) == (False, False, fast)
    monkeypatch.undo()
    assert current(environment) == str(fast.version)
    assert PromotionEvent.objects.count() == 1


# ------------------------------------------------------------------------------------------------------- promote


def promote(deployment: Deployment, configuration: Configuration, **values: Any) -> Deployment:
    return lifecycle.promote(
        environment=deployment.environment,
        version=str(deployment.version),
        by="ada@example.com",
        configuration=configuration,
        trail=TRAIL,
        **values,
    )


def test_rolling_back_is_asked_for_by_name(environment: Environment, anywhere: Configuration) -> None:
    old, new = deploying(environment, anywhere), deploying(environment, anywhere)
    finalize(old, anywhere)
    finalize(new, anywhere)

    with pytest.raises(Refusal) as caught:
        promote(old, anywhere)
    assert caught.value.code == "older_than_current"
    promote(old, anywhere, allow_rollbacks=True)

    assert current(environment) == str(old.version)


@pytest.mark.parametrize("version", ["20200101.1", "nonsense", "", "20200101.0", "２０２００１０１.1"])
def test_a_version_that_is_not_there_cannot_be_promoted(
    environment: Environment, anywhere: Configuration, version: str
) -> None:
    with pytest.raises(lifecycle.NotFound):
        lifecycle.promote(environment=environment, version=version, by="", configuration=anywhere, trail=TRAIL)


def test_what_was_never_deployed_cannot_be_promoted(environment: Environment, anywhere: Configuration) -> None:
    deployment = deploying(environment, anywhere)

    with pytest.raises(Refusal) as caught:
        promote(deployment, anywhere)

    assert caught.value.code == "not_deployed"


# ------------------------------------------------------------------------------------------------- index, and ends


def index(deployment: Deployment, configuration: Configuration, **values: Any) -> BackgroundWorker:
    settings = {"content_hash": "abc", "tasks": [], "metadata": {}, "timeout": configuration.deploy_timeout}
    return lifecycle.index(deployment=deployment, **{**settings, **values})


def test_an_index_that_is_sent_again_answers_with_the_same_worker(
    environment: Environment, anywhere: Configuration
) -> None:
    deployment = deploying(environment, anywhere)
    [worker] = BackgroundWorker.objects.all()
    stale = Deployment.objects.get(id=deployment.id)
    stale.status = "BUILDING"  # as it was read before the first one came in

    assert index(deployment, anywhere) == worker
    assert index(stale, anywhere) == worker


def test_other_content_than_was_announced_fails_the_deployment_with_the_reason(
    environment: Environment, anywhere: Configuration
) -> None:
    deployment = deploying(environment, anywhere)

    with pytest.raises(Refusal) as caught:
        index(deployment, anywhere, content_hash="another")

    assert status(deployment) == "FAILED"
    assert deployment.error == {"name": "ContentMismatch", "message": caught.value.sentence}


def test_a_deployment_that_says_nothing_is_timed_out_once(environment: Environment, anywhere: Configuration) -> None:
    silent, alive = deploying(environment, anywhere), deploying(environment, anywhere)
    Deployment.objects.filter(id=silent.id).update(deadline=timezone.now() - timedelta(seconds=1))

    assert lifecycle.time_out_overdue() == 1
    assert lifecycle.time_out_overdue() == 0

    assert (status(silent), status(alive)) == ("TIMED_OUT", "DEPLOYING")
    assert silent.error
    assert "it was DEPLOYING" in silent.error["message"]


def test_what_has_ended_stays_as_it_ended(environment: Environment, anywhere: Configuration) -> None:
    deployment = deploying(environment, anywhere)
    finalize(deployment, anywhere)

    lifecycle.fail(environment=environment, deployment_id=deployment.id, error={"name": "Late"})
    with pytest.raises(Refusal) as caught:
        lifecycle.cancel(deployment=deployment, trail=TRAIL)

    assert caught.value.code == "already_final"
    assert (status(deployment), deployment.error) == ("DEPLOYED", None)


# ------------------------------------------------------------------------------------------------------ external ids


def create(environment: Environment, configuration: Configuration, **values: Any) -> lifecycle.Creation:
    return lifecycle.create_deployment(
        environment=environment,
        configuration=configuration,
        trail=TRAIL,
        content_hash="abc",
        type="MANAGED",
        **values,
    )


def test_an_external_id_is_deployed_once_and_force_cancels_what_runs(
    environment: Environment, anywhere: Configuration
) -> None:
    first = create(environment, anywhere, external_id="pr-1").deployment

    with pytest.raises(Refusal) as caught:
        create(environment, anywhere, external_id="pr-1")
    forced = create(environment, anywhere, external_id="pr-1", force=True)

    assert str(first.version) in caught.value.sentence
    assert forced.canceled == (first,)
    assert status(first) == "CANCELED"


def test_an_idempotency_key_stands_for_one_request(environment: Environment, anywhere: Configuration) -> None:
    first = create(environment, anywhere, idempotency_key="k", request_digest="a")
    again = create(environment, anywhere, idempotency_key="k", request_digest="a")

    assert first.deployment == again.deployment
    with pytest.raises(Refusal) as caught:
        create(environment, anywhere, idempotency_key="k", request_digest="b")
    assert caught.value.code == "idempotency_key_reused"
    assert Deployment.objects.count() == 1


# ---------------------------------------------------------------------------------------------- what comes in between


def before_the_first(word: str, happens: Callable[[], object]) -> Any:
    """For `connection.execute_wrapper`: right before the first statement with this word something else happens."""
    done: list[str] = []

    def wrapper(execute: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        if word in sql and not done:
            done.append(sql)
            happens()
        return execute(sql, parameters, many, context)

    return wrapper


def test_a_deployment_that_moved_on_while_the_overdue_ones_were_looked_for_is_not_timed_out(
    environment: Environment, anywhere: Configuration
) -> None:
    deployment = deploying(environment, anywhere)
    Deployment.objects.update(deadline=Now() - timedelta(seconds=1))

    def finalized() -> None:
        Deployment.objects.filter(id=deployment.id).update(status="DEPLOYED", deployed_at=Now(), deadline=None)

    with connection.execute_wrapper(before_the_first("UPDATE", finalized)):
        assert lifecycle.time_out_overdue() == 0

    assert status(deployment) == "DEPLOYED"


def test_a_deployment_that_was_heard_of_while_the_overdue_ones_were_looked_for_is_not_timed_out(
    environment: Environment, anywhere: Configuration
) -> None:
    deployment = deploying(environment, anywhere)
    Deployment.objects.update(deadline=Now() - timedelta(seconds=1))

    def put_off() -> None:
        Deployment.objects.update(deadline=Now() + timedelta(minutes=8))

    with connection.execute_wrapper(before_the_first("UPDATE", put_off)):
        assert lifecycle.time_out_overdue() == 0

    assert status(deployment) == "DEPLOYING"


def test_indexing_puts_the_deadline_off_so_that_a_large_push_has_its_whole_time(
    environment: Environment, anywhere: Configuration
) -> None:
    deployment = create(environment, anywhere).deployment
    Deployment.objects.update(deadline=Now() + timedelta(seconds=1))

    index(deployment, anywhere, timeout=timedelta(hours=1))

    left = Deployment.objects.annotate(left=F("deadline") - Now()).values_list("left", flat=True).get()
    assert timedelta(minutes=59) < left <= timedelta(hours=1)


def test_a_deployment_has_its_time_from_the_moment_at_which_it_is_made(
    environment: Environment, anywhere: Configuration
) -> None:
    create(environment, anywhere)

    left = Deployment.objects.annotate(left=F("deadline") - Now()).values_list("left", flat=True).get()
    assert timedelta(minutes=7.9) < left <= timedelta(minutes=8)


def test_the_end_of_a_deployment_ends_its_deadline(environment: Environment, anywhere: Configuration) -> None:
    deployment = deploying(environment, anywhere)

    finalize(deployment, anywhere)

    assert Deployment.objects.get().deadline is None


def test_a_deployment_that_was_canceled_in_the_meantime_is_not_indexed(
    environment: Environment, anywhere: Configuration
) -> None:
    deployment = create(environment, anywhere).deployment
    Deployment.objects.update(status="CANCELED")  # after it was read

    with pytest.raises(Refusal) as caught:
        index(deployment, anywhere)

    assert caught.value.code == "wrong_status"
    assert (status(deployment), BackgroundWorker.objects.exists()) == ("CANCELED", False)


def test_a_deployment_that_ended_in_the_meantime_stays_as_it_ended(
    environment: Environment, anywhere: Configuration
) -> None:
    deployment = deploying(environment, anywhere)
    Deployment.objects.update(status="DEPLOYED", deployed_at=Now(), deadline=None)  # after it was read

    with pytest.raises(Refusal):
        lifecycle.cancel(deployment=deployment, trail=TRAIL)

    assert (status(deployment), deployment.canceled_at) == ("DEPLOYED", None)


def test_a_proof_that_fails_late_does_not_take_away_the_receipt_of_one_that_went_well(
    environment: Environment, ecr_configuration: Configuration, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    monkeypatch.setattr(proof, "PAUSES", ())
    deployment = deploying(environment, ecr_configuration)
    good = {"digest": "sha256:1", "pullers": {}}

    def finalized_by_another_request(seconds: float = 0) -> None:
        Deployment.objects.update(status="DEPLOYED", deployed_at=Now(), receipt=good)

    steps = lifecycle.finalize(deployment=deployment, digest=None, skip_promotion=True, configuration=ecr_configuration)
    next(steps)
    finalized_by_another_request()
    with pytest.raises(Refusal):
        list(steps)

    assert Deployment.objects.get().receipt == good


def test_the_cli_hears_of_a_repository_that_has_an_error_though_the_deploy_goes_on(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    deployment = deploying(environment, ecr_configuration)
    push(sandbox, deployment)
    Repository.objects.update(last_error="AWS refused SetRepositoryPolicy. Allow it.")

    said = finalize(Deployment.objects.get(), ecr_configuration)

    assert "Note: AWS refused SetRepositoryPolicy. Allow it." in said


def test_a_version_and_its_deployment_are_taken_together_or_not_at_all(
    environment: Environment, anywhere: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = Deployment.objects.create
    failed: list[int] = []

    def once(**values: Any) -> Deployment:
        if not failed:
            failed.append(values["version_number"])
            raise IntegrityError("the short code is taken")
        return insert(**values)

    monkeypatch.setattr(Deployment.objects, "create", once)

    assert create(environment, anywhere).deployment.version.number == 1
    assert failed == [1]


def test_a_retry_that_overtakes_its_first_request_gets_the_same_deployment(
    environment: Environment, anywhere: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, insert = threading.Barrier(2), lifecycle._insert
    results: list[Any] = []

    def at_once(**values: Any) -> Any:
        with suppress(threading.BrokenBarrierError):
            both.wait(10)  # neither has found a deployment of this key
        return insert(**values)

    def run() -> None:
        try:
            results.append(create(environment, anywhere, idempotency_key="k", request_digest="a").deployment.id)
        except Exception as error:
            results.append(error)
        finally:
            connections.close_all()

    monkeypatch.setattr(lifecycle, "_insert", at_once)
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    [row] = Deployment.objects.all()
    assert results == [row.id, row.id]


def test_a_deployment_whose_worker_could_not_be_stored_is_not_indexed(
    environment: Environment, anywhere: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = create(environment, anywhere).deployment

    def away(**values: Any) -> BackgroundWorker:
        raise OperationalError("the database went away")

    with monkeypatch.context() as patch:
        patch.setattr(BackgroundWorker.objects, "create", away)
        with pytest.raises(OperationalError):
            index(deployment, anywhere)

    assert status(deployment) == "BUILDING"
    assert index(deployment, anywhere).deployment_id == deployment.id
