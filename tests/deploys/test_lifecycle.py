"""A deployment's life against the clock, a second caller, and a newer deploy: every step is a compare-and-set."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, connection, connections, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from deployments import clock, images
from deployments.config import Configuration
from deployments.deploys import image_proof, lifecycle, promotions
from deployments.errors import Refusal, RegistryError
from deployments.models import (
    AuditEntry,
    BackgroundWorker,
    Deployment,
    Environment,
    Promotion,
    PromotionEvent,
    Repository,
)
from deployments.reconcile import repositories
from deployments.row_values import Receipt
from sandbox.control import Sandbox
from tests.support.constants import TRAIL
from tests.support.deploys import deploying, finalize, push
from tests.support.waiting import before_the_first

Configure = Callable[..., Configuration]


@pytest.fixture
def anywhere(configure: Configure) -> Configuration:
    """A registry that is not ECR and does not answer: nothing but our own rows is in play."""
    return configure(DEPLOY_REGISTRY_HOST="127.0.0.1:1")


def status(deployment: Deployment) -> str:
    deployment.refresh_from_db()
    return deployment.status


def current(environment: Environment) -> str:
    promotion = promotions.current_promotion(environment=environment)
    return str(promotion.deployment.version) if promotion else ""


# ------------------------------------------------------------------------------------------------------- finalize


@pytest.mark.costly
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

    def cancel() -> None:
        lifecycle.cancel(deployment=Deployment.objects.get(id=deployment.id), trail=TRAIL, reason="Wrong branch")

    with pytest.raises(Refusal, match="canceled: Wrong branch"):
        finalize(deployment, ecr_configuration, meanwhile=cancel)

    assert status(deployment) == "CANCELED"
    assert not Promotion.objects.exists()


@pytest.mark.costly
def test_a_refused_proof_leaves_the_deployment_to_be_finalized_once_the_image_is_there(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_proof, "RETRY_PAUSES_SECONDS", ())
    deployment = deploying(environment, ecr_configuration)
    with pytest.raises(Refusal):
        finalize(deployment, ecr_configuration)
    push(sandbox, deployment)

    finalize(deployment, ecr_configuration)

    assert status(deployment) == "DEPLOYED"
    assert deployment.receipt
    assert deployment.receipt.is_proved


def test_a_deploy_overtaken_by_a_newer_one_ends_well_and_is_not_promoted(
    environment: Environment, anywhere: Configuration
) -> None:
    slow, fast = deploying(environment, anywhere), deploying(environment, anywhere)
    finalize(fast, anywhere)

    said = finalize(slow, anywhere)

    assert "A newer version is current" in said[-1]
    assert status(slow) == "DEPLOYED"
    assert current(environment) == str(fast.version)


@pytest.mark.costly
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
    seen = promotions.current_promotion

    def promoted_in_between(*, environment: Environment) -> Promotion | None:
        """What is current, as it was seen before another promotion."""
        found = seen(environment=environment)
        Promotion.objects.update(deployment=fast)
        return found

    monkeypatch.setattr(promotions, "current_promotion", promoted_in_between)
    with transaction.atomic():
        promoted = promotions._make_current(slow, by="", newer_only=True)

    assert (promoted.made, promoted.is_current, promoted.before) == (False, False, fast)
    monkeypatch.undo()
    assert current(environment) == str(fast.version)
    assert PromotionEvent.objects.count() == 1


# -------------------------------------------------------------------------------------- finalize: one commit, one wish


def finalize_with(deployment: Deployment, configuration: Configuration, *, skip: bool) -> str:
    row = Deployment.objects.get(id=deployment.id)
    return finalize(row, configuration, skip=skip)[-1]


#: The second and the third write of a finalize.
SECOND_WRITES = ["deployments.models.Promotion.objects.create", "deployments.models.PromotionEvent.objects.create"]


def gone(*_: object, **__: object) -> None:
    raise OperationalError("server closed the connection unexpectedly")


@pytest.mark.parametrize("write", SECOND_WRITES)
def test_a_finalize_that_dies_between_its_writes_has_done_nothing_and_the_next_one_does_it_all(
    environment: Environment, anywhere: Configuration, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    deployment = deploying(environment, anywhere)
    with monkeypatch.context() as patch:
        patch.setattr(write, gone)
        with pytest.raises(OperationalError):
            finalize(deployment, anywhere)
    assert (status(deployment), deployment.promotion_wanted) == ("DEPLOYING", None)
    assert not Promotion.objects.exists()

    assert finalize_with(deployment, anywhere, skip=False) == f"Version {deployment.version} is deployed and current."

    assert status(deployment) == "DEPLOYED"
    assert current(environment) == str(deployment.version)


def test_every_promotion_is_an_event_once(environment: Environment, anywhere: Configuration) -> None:
    old, new = deploying(environment, anywhere), deploying(environment, anywhere)
    for _ in range(2):
        finalize_with(old, anywhere, skip=False)
        finalize_with(new, anywhere, skip=False)
    promote(old, anywhere, allow_rollbacks=True)
    with pytest.raises(Refusal):
        promote(old, anywhere)

    events = PromotionEvent.objects.order_by("id").values_list("deployment", "rolled_back_from", "by")
    assert list(events) == [(old.id, None, ""), (new.id, None, ""), (old.id, new.id, "ada@example.com")]


def test_a_repeated_finalize_brings_to_its_end_what_the_first_one_wanted(
    environment: Environment, anywhere: Configuration
) -> None:
    before, deployment = deploying(environment, anywhere), deploying(environment, anywhere)
    finalize(before, anywhere)
    Deployment.objects.filter(id=deployment.id).update(status="DEPLOYED", deployed_at=Now(), promotion_wanted=True)

    said = finalize_with(deployment, anywhere, skip=False)

    assert said == f"Version {deployment.version} was deployed already, but not promoted; it is current now."
    assert current(environment) == str(deployment.version)
    again = f"Version {deployment.version} is deployed already and current."
    assert finalize_with(deployment, anywhere, skip=False) == again
    assert PromotionEvent.objects.filter(deployment=deployment).count() == 1


@pytest.mark.parametrize("first_skips", [True, False])
def test_another_wish_changes_nothing_and_is_answered_with_what_holds(
    environment: Environment, anywhere: Configuration, first_skips: bool
) -> None:
    deployment = deploying(environment, anywhere)
    finalize_with(deployment, anywhere, skip=first_skips)
    was = current(environment)

    said = finalize_with(deployment, anywhere, skip=not first_skips)

    assert current(environment) == was == ("" if first_skips else str(deployment.version))
    assert ("not promoted" if first_skips else "deployed already and current") in said
    assert ("requested no promotion" if first_skips else "requested a promotion") in said
    assert Deployment.objects.get().promotion_wanted is (not first_skips)


def test_a_late_finalize_does_not_undo_a_roll_back(environment: Environment, anywhere: Configuration) -> None:
    old, overtaken, new = (deploying(environment, anywhere) for _ in range(3))
    finalize(old, anywhere)
    finalize(new, anywhere)
    finalize(overtaken, anywhere)
    promote(old, anywhere, allow_rollbacks=True)

    for each in (overtaken, new):
        said = finalize_with(each, anywhere, skip=False)
        assert said == f"Version {each.version} is deployed already and not current; version {old.version} is."
    promote(overtaken, anywhere)  # forward again, so that what is current was not rolled back to
    finalize_with(new, anywhere, skip=False)
    assert current(environment) == str(overtaken.version)


def test_what_version_0_1_0_deployed_is_not_promoted_by_a_repeat_because_its_wish_is_unknown(
    environment: Environment, anywhere: Configuration
) -> None:
    deployment = deploying(environment, anywhere)
    Deployment.objects.update(status="DEPLOYED", deployed_at=Now())

    said = finalize_with(deployment, anywhere, skip=False)

    assert said == f"Version {deployment.version} is deployed already and not current; no version is."
    assert not Promotion.objects.exists()


def test_a_roll_back_of_version_0_1_0_which_left_no_event_is_not_undone_either(
    environment: Environment, anywhere: Configuration
) -> None:
    old, new = deploying(environment, anywhere), deploying(environment, anywhere)
    finalize(old, anywhere)
    finalize(new, anywhere)
    promote(old, anywhere, allow_rollbacks=True)
    PromotionEvent.objects.all().delete()

    finalize_with(new, anywhere, skip=False)

    assert current(environment) == str(old.version)


def test_of_two_finalizes_at_once_with_other_wishes_one_decides_and_both_say_what_holds(
    environment: Environment, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    deployment = deploying(environment, ecr_configuration)
    push(sandbox, deployment)
    first = Deployment.objects.get(id=deployment.id)

    *_, said = finalize(first, ecr_configuration, skip=True, meanwhile=lambda: finalize(deployment, ecr_configuration))

    assert "is deployed already and current. The finalize that deployed it requested a promotion" in said
    assert current(environment) == str(deployment.version)


# ------------------------------------------------------------------------------------------------------- promote


def promote(deployment: Deployment, configuration: Configuration, **values: Any) -> Deployment:
    return promotions.promote(
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
        promotions.promote(environment=environment, version=version, by="", configuration=anywhere, trail=TRAIL)


def test_another_that_became_current_while_the_image_was_proved_is_not_replaced(
    environment: Environment, anywhere: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, agreed, meanwhile = (deploying(environment, anywhere) for _ in range(3))
    finalize(old, anywhere)
    finalize(agreed, anywhere)
    monkeypatch.setattr(promotions, "_prove_again", lambda *_: finalize(meanwhile, anywhere))

    with pytest.raises(Refusal) as caught:
        promote(old, anywhere, allow_rollbacks=True, instead_of=agreed.id)

    assert caught.value.code == "current_has_changed"
    assert current(environment) == str(meanwhile.version)
    told = AuditEntry.objects.get(action="rollback.deployment")
    assert (told.outcome, told.after) == (caught.value.sentence, None)


def test_no_argument_left_out_promotes_an_image_that_is_not_proved() -> None:
    assert inspect.signature(promotions.promote).parameters["configuration"].default is inspect.Parameter.empty


def test_what_was_never_deployed_cannot_be_promoted(environment: Environment, anywhere: Configuration) -> None:
    deployment = deploying(environment, anywhere)

    with pytest.raises(Refusal) as caught:
        promote(deployment, anywhere)

    assert caught.value.code == "not_deployed"


# ------------------------------------------------------------------------------------------------- index, and ends


def index(deployment: Deployment, configuration: Configuration, **values: Any) -> BackgroundWorker:
    settings = {"content_hash": "abc", "tasks": [], "metadata": {}, "timeout": configuration.deploy_timeout}
    return lifecycle.index(deployment=deployment, **{**settings, **values})


def test_indexing_gives_the_push_a_time_of_its_own(environment: Environment, anywhere: Configuration) -> None:
    deployment = create(environment, anywhere).deployment

    index(deployment, anywhere, timeout=timedelta(hours=1))

    deployment.refresh_from_db()
    assert deployment.deadline is not None
    assert deployment.deadline > clock.now() + timedelta(minutes=50)


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


@pytest.fixture(params=[timedelta(minutes=-10), timedelta(minutes=10)], ids=["behind", "ahead"])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's clock, not the database's, is ten minutes off."""
    now = timezone.now
    monkeypatch.setattr("django.utils.timezone.now", lambda: now() + request.param)


def test_a_host_whose_clock_is_wrong_gives_every_step_its_time_and_times_out_what_is_overdue_alone(
    environment: Environment, anywhere: Configuration, wrong_clock: None
) -> None:
    created = create(environment, anywhere).deployment
    started, began = deploying(environment, anywhere), deploying(environment, anywhere)
    now = clock.now()
    for each in (created, started, began):
        each.refresh_from_db()
        assert each.deadline is not None
        assert abs(each.deadline - now - anywhere.deploy_timeout) < timedelta(seconds=20)
        assert abs(each.created_at - now) < timedelta(seconds=20)
    assert lifecycle.time_out_overdue() == 0
    Deployment.objects.filter(id=began.id).update(deadline=Now() - timedelta(seconds=1))

    assert lifecycle.time_out_overdue() == 1

    assert [status(each) for each in (created, started, began)] == ["BUILDING", "DEPLOYING", "TIMED_OUT"]
    assert began.failed_at is not None
    assert abs(began.failed_at - now) < timedelta(seconds=20)


def test_a_host_whose_clock_is_wrong_writes_no_wrong_time_at_all(
    environment: Environment, anywhere: Configuration, wrong_clock: None
) -> None:
    one, two, three = (deploying(environment, anywhere) for _ in range(3))
    finalize(one, anywhere)
    lifecycle.cancel(deployment=two, trail=TRAIL)
    lifecycle.fail(environment=environment, deployment_id=three.id, error={"name": "Late"})

    now = clock.now()
    names = ("created_at", "started_at", "built_at", "deployed_at", "canceled_at", "failed_at")
    rows: list[dict[str, Any]] = list(Deployment.objects.values(*names))
    moments = [moment for row in rows for moment in row.values() if moment is not None]
    moments += [
        *Promotion.objects.values_list("promoted_at", flat=True),
        *AuditEntry.objects.values_list("at", flat=True),
    ]
    assert len(moments) == 9 + 3 + 1 + 1
    assert [moment for moment in moments if abs(moment - now) > timedelta(seconds=20)] == []


def test_a_host_of_tomorrow_makes_versions_of_today(
    environment: Environment, anywhere: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = timezone.now
    monkeypatch.setattr("django.utils.timezone.now", lambda: now() + timedelta(days=2))

    deployment = create(environment, anywhere).deployment

    assert deployment.version_day == images.version_day(clock.now().date())


def test_what_moves_on_between_the_look_and_the_change_is_not_timed_out(
    environment: Environment, anywhere: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = deploying(environment, anywhere)
    Deployment.objects.update(deadline=Now() - timedelta(seconds=1))
    update = QuerySet.update

    def late(rows: Any, **values: Any) -> int:
        if values.get("status") == "TIMED_OUT":
            update(Deployment.objects.filter(id=deployment.id), deadline=Now() + timedelta(minutes=8))
        return update(rows, **values)

    monkeypatch.setattr(QuerySet, "update", late)

    assert lifecycle.time_out_overdue() == 0
    assert status(deployment) == "DEPLOYING"


def test_what_has_ended_stays_as_it_ended(environment: Environment, anywhere: Configuration) -> None:
    deployment = deploying(environment, anywhere)
    finalize(deployment, anywhere)

    lifecycle.fail(environment=environment, deployment_id=deployment.id, error={"name": "Late"})
    with pytest.raises(Refusal) as caught:
        lifecycle.cancel(deployment=deployment, trail=TRAIL)

    assert caught.value.code == "already_final"
    assert (status(deployment), deployment.error) == ("DEPLOYED", None)


# ------------------------------------------------------------------------------------------------------ external ids


def create(environment: Environment, configuration: Configuration, **values: Any) -> lifecycle.CreatedDeployment:
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


@pytest.mark.costly
def test_a_force_whose_repository_cannot_be_made_right_cancels_nothing(
    environment: Environment, ecr_configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = create(environment, ecr_configuration, external_id="pr-1").deployment

    def unreachable(**_: object) -> None:
        raise RegistryError(operation="", code="Unreachable", sentence="AWS does not answer.", retryable=True)

    monkeypatch.setattr(repositories, "ensure_repository", unreachable)

    with pytest.raises(Refusal):
        create(environment, ecr_configuration, external_id="pr-1", force=True)

    assert status(first) == "BUILDING"
    assert not AuditEntry.objects.exists()


def test_a_force_that_dies_between_its_writes_has_done_none_of_them(
    environment: Environment, anywhere: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = create(environment, anywhere, external_id="pr-1").deployment
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "_end", gone)
        with pytest.raises(OperationalError):
            create(environment, anywhere, external_id="pr-1", force=True)
    assert Deployment.objects.count() == 1

    forced = create(environment, anywhere, external_id="pr-1", force=True).deployment

    assert (status(first), first.replaced_by_id) == ("CANCELED", forced.id)
    assert forced.version.number == first.version.number + 1  # what was rolled back took no version
    told = AuditEntry.objects.get()
    assert (told.action, told.object_id) == ("cancel.deployment", first.id)
    assert told.after == {"status": "CANCELED", "replaced_by": str(forced.version)}


def test_what_a_force_canceled_is_known_by_what_is_stored_and_not_by_the_words(
    environment: Environment, anywhere: Configuration
) -> None:
    first = create(environment, anywhere, external_id="pr-1").deployment
    by_hand = create(environment, anywhere, external_id="pr-1", force=True).deployment
    lifecycle.cancel(deployment=by_hand, trail=TRAIL, reason="Another deploy of external id pr-1 was forced.")
    wanted = {"external_id": "pr-1", "force": True, "idempotency_key": "k"}
    create(environment, anywhere, external_id="pr-1")
    made = create(environment, anywhere, **wanted)
    Deployment.objects.filter(status="CANCELED").update(canceled_reason="reworded")

    again = create(environment, anywhere, **wanted)

    assert again.deployment == made.deployment
    assert again.canceled == made.canceled
    assert [each.version.number for each in again.canceled] == [3]
    assert first not in again.canceled


def test_of_two_deploys_of_one_external_id_at_once_only_one_is_made(
    environment: Environment, ecr_configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = []
    ensure = repositories.ensure_repository

    def meanwhile(**values: Any) -> Any:
        """AWS is asked, and another deploy of the id comes to its end."""
        monkeypatch.setattr(repositories, "ensure_repository", ensure)
        inner.append(create(environment, ecr_configuration, external_id="pr-1").deployment)
        return ensure(**values)

    monkeypatch.setattr(repositories, "ensure_repository", meanwhile)

    with pytest.raises(Refusal) as caught:
        create(environment, ecr_configuration, external_id="pr-1")

    assert caught.value.code == "external_id_in_progress"
    assert list(Deployment.objects.all()) == inner


# ---------------------------------------------------------------------------------------------- what comes in between


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


def test_a_deployment_whose_cli_calls_while_the_overdue_ones_are_looked_for_is_not_timed_out(
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


def test_a_proof_that_fails_late_does_not_replace_the_receipt_of_one_that_succeeded(
    environment: Environment, ecr_configuration: Configuration, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    monkeypatch.setattr(image_proof, "RETRY_PAUSES_SECONDS", ())
    deployment = deploying(environment, ecr_configuration)
    good = Receipt(at="2026-11-26T00:00:00+00:00", digest="sha256:1")

    def finalized_by_another_request() -> None:
        Deployment.objects.update(status="DEPLOYED", deployed_at=Now(), receipt=good)

    with pytest.raises(Refusal):
        finalize(deployment, ecr_configuration, skip=True, meanwhile=finalized_by_another_request)

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
    insert = lifecycle._inserted.run
    failed: list[int] = []

    def once(row: Deployment) -> None:
        if not failed:
            failed.append(row.version_number)
            raise IntegrityError("the short code is taken")
        insert(row)

    monkeypatch.setattr(lifecycle._inserted, "run", once)

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
