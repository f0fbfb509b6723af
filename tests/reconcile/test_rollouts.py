"""A changed default policy is rolled out in stages, stops by itself, and is put back. AWS calls are counted."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.models import Count
from django.utils import timezone

from deployments import policy
from deployments.config import Configuration
from deployments.errors import Refusal, RegistryError
from deployments.models import (
    PolicyStep,
    PolicyVersion,
    Project,
    Repository,
    StepState,
    Sweep,
    SweepChunk,
    VersionState,
)
from deployments.reconcile import (
    generation,
    ownership,
    policy_versions,
    requests,
    rollouts,
    sweeps,
    targets,
    writes_pause,
)
from sandbox.control import Sandbox
from tests.support.constants import TRAIL
from tests.support.rollouts import (
    ONE,
    THREE,
    TWO,
    allowing,
    deploy,
    newest,
    repositories_in_sync,
    started_with,
    work_off,
    written_long_ago,
)
from tests.support.sweeps import sweep_all

pytestmark = pytest.mark.django_db(transaction=True)

LAMBDA = {
    "Sid": "LambdaECRImageRetrievalPolicy",
    "Effect": "Allow",
    "Principal": {"Service": "lambda.amazonaws.com"},
    "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
}
PUSHES = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ONE}:root"}, "Action": "ecr:PutImage"}

DENIES = {"Effect": "Deny", "Principal": "*", "Action": "ecr:BatchGetImage"}


def same(a: str, b: str) -> bool:
    """Whether two policies are the same: ECR puts the parts of a text in another order each time."""
    return policy.compare(a, b, partition="aws").level in ("identical", "cosmetic")


def live(sandbox: Sandbox, name: str) -> str:
    return str(sandbox.client("ecr").get_repository_policy(repositoryName=name)["policyText"])


def writes(sandbox: Sandbox) -> int:
    return sandbox.calls().get("ecr:SetRepositoryPolicy", 0)


@pytest.mark.costly
def test_a_version_that_drops_an_account_is_written_to_the_canaries_only_and_put_back(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE, TWO))
    rows = repositories_in_sync(own, project, 40)
    own = started_with(ecr_configuration, allowing(ONE))
    version = newest()
    assert (version.number, version.state) == (2, VersionState.WAITING)
    assert "333333333333" in version.why
    sandbox.reset_calls()
    assert work_off(own).state == VersionState.WAITING
    assert writes(sandbox) == 0

    rollouts.start(version=version, at_once=False, by="ann", trail=TRAIL)
    version = work_off(own)

    assert version.state == VersionState.STOPPED
    assert f"Account {TWO} could pull" in version.reason
    assert writes(sandbox) == 2
    sandbox.reset_calls()
    rollouts.rollback(version=version, by="ann", trail=TRAIL)
    version = work_off(own)
    assert version.state == VersionState.UNDONE
    assert writes(sandbox) == 2
    assert all(TWO in live(sandbox, row.name) for row in rows)
    assert not Repository.objects.exclude(policy_version=None).exists()


@pytest.mark.costly
def test_a_version_that_adds_an_account_reaches_every_repository_once(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    rows = repositories_in_sync(own, project, 40)
    sandbox.reset_calls()
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    assert newest().state == VersionState.CANARIES

    version = work_off(own)

    assert version.state == VersionState.ACTIVE, version.reason
    assert writes(sandbox) == 40
    assert all(THREE in live(sandbox, row.name) for row in rows)
    assert PolicyVersion.objects.get(number=1).state == VersionState.SUPERSEDED
    sizes = dict(version.steps.values_list("stage").annotate(Count("pk")))
    assert sizes == {0: 2, 1: 4, 2: 8, 3: 16, 4: 10}
    assert set(version.steps.values_list("state", flat=True)) == {StepState.WRITTEN}
    assert not Repository.objects.exclude(policy_version=None).exists()


@pytest.mark.costly
def test_a_person_stops_a_roll_out_and_lets_it_go_on(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    repositories_in_sync(own, project, 6)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    rollouts.pause(version=newest(), reason="Not on a Friday.", by="ann", trail=TRAIL)
    sandbox.reset_calls()
    assert (work_off(own).state, newest().reason) == (VersionState.STOPPED, "Not on a Friday.")
    assert writes(sandbox) == 0

    rollouts.resume(version=newest(), configuration=own, by="ann", trail=TRAIL)

    assert work_off(own).state == VersionState.ACTIVE
    assert writes(sandbox) == 6


@pytest.mark.costly
def test_an_account_whose_lost_pull_a_person_accepts_does_not_stop_the_roll_out_again(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE, TWO))
    rows = repositories_in_sync(own, project, 6)
    own = started_with(ecr_configuration, allowing(ONE))
    rollouts.start(version=newest(), at_once=False, by="ann", trail=TRAIL)
    assert work_off(own).state == VersionState.STOPPED

    rollouts.resume(version=newest(), configuration=own, by="ann", trail=TRAIL)

    assert newest().accepted == [TWO]
    assert work_off(own).state == VersionState.ACTIVE
    assert not any(TWO in live(sandbox, row.name) for row in rows)


@pytest.mark.costly
def test_now_takes_access_away_everywhere_without_canaries(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE, TWO))
    rows = repositories_in_sync(own, project, 12)
    own = started_with(ecr_configuration, allowing(ONE))
    sandbox.reset_calls()

    rollouts.start(version=newest(), at_once=True, by="ann", trail=TRAIL)

    assert work_off(own).state == VersionState.ACTIVE
    assert writes(sandbox) == 12
    assert not any(TWO in live(sandbox, row.name) for row in rows)


@pytest.mark.costly
def test_a_write_that_aws_refuses_stops_the_roll_out_with_awss_words(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    repositories_in_sync(own, project, 6)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    sandbox.fault("error", "ecr:SetRepositoryPolicy", code="AccessDeniedException", status=403)

    version = work_off(own)

    assert version.state == VersionState.STOPPED
    assert "SetRepositoryPolicy" in version.reason
    sandbox.clear_faults()
    sandbox.reset_calls()
    rollouts.resume(version=version, configuration=own, by="ann", trail=TRAIL)
    assert work_off(own).state == VersionState.ACTIVE
    assert writes(sandbox) == 6


@pytest.mark.costly
def test_a_trial_pull_that_fails_stops_the_roll_out_after_the_canaries(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    rows = repositories_in_sync(own, project, 6)
    own = started_with(ecr_configuration, allowing(ONE, THREE), canaries=(rows[2].name, rows[4].name))
    sandbox.reset_calls()

    version = work_off(own, trial=lambda row, target: "The role probe cannot pull it." * (row == rows[4]))

    assert version.state == VersionState.STOPPED
    assert version.reason == f"{rows[4].name}: The role probe cannot pull it."
    assert writes(sandbox) == 2


@pytest.mark.costly
@pytest.mark.costly
@pytest.mark.parametrize("retryable", [True, False])
def test_a_trial_pull_without_an_answer_is_tried_again_or_stops_the_roll_out_and_the_row_says_why(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project, retryable: bool
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    repositories_in_sync(own, project, 2)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    error = RegistryError(operation="AssumeRole", code="X", sentence="The role did not answer.", retryable=retryable)

    def fails(*_: object) -> str:
        raise error

    version = work_off(own, trial=fails)

    assert version.state == (VersionState.WATCHING if retryable else VersionState.STOPPED)
    assert "The role did not answer." in version.reason
    if retryable:
        assert work_off(own).state == VersionState.ACTIVE
        assert newest().reason == ""


@pytest.mark.costly
def test_an_active_version_is_not_undone_while_a_newer_one_is_rolled_out(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    repositories_in_sync(own, project, 2)
    own = started_with(ecr_configuration, allowing(ONE, TWO))
    second = work_off(own)
    started_with(ecr_configuration, allowing(ONE, TWO, THREE))
    assert newest().state == VersionState.CANARIES

    with pytest.raises(Refusal, match="version 3 is at its canaries: roll that one back first"):
        rollouts.rollback(version=second, by="ann", trail=TRAIL)

    second.refresh_from_db()
    assert second.state == VersionState.ACTIVE


@pytest.mark.costly
def test_an_undo_that_aws_refuses_for_one_repository_goes_on_with_the_others_and_is_tried_again(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    rows = repositories_in_sync(own, project, 3)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    version = work_off(own)
    sandbox.fault("error", "ecr:SetRepositoryPolicy", code="AccessDeniedException", status=403, times=1)

    rollouts.rollback(version=version, by="ann", trail=TRAIL)
    rollouts.advance(configuration=own)

    states = sorted(version.steps.values_list("state", flat=True))
    assert states == [StepState.UNDONE, StepState.UNDONE, StepState.WRITTEN]
    assert "SetRepositoryPolicy" in version.steps.get(state=StepState.WRITTEN).words
    assert work_off(own).state == VersionState.UNDONE
    assert not any(THREE in live(sandbox, row.name) for row in rows)


@pytest.mark.costly
def test_an_active_version_is_put_back_text_by_text_and_what_was_changed_since_is_left(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    rows = repositories_in_sync(own, project, 6)
    texts = {row.name: live(sandbox, row.name) for row in rows}
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    assert work_off(own).state == VersionState.ACTIVE
    changed = rows[3].name
    sandbox.client("ecr").set_repository_policy(repositoryName=changed, policyText=allowing(TWO))
    sandbox.reset_calls()

    rollouts.rollback(version=newest(), by="ann", trail=TRAIL)
    version = work_off(own)

    assert version.state == VersionState.UNDONE
    assert writes(sandbox) == 5
    assert all(same(live(sandbox, name), text) for name, text in texts.items() if name != changed)
    kept = version.steps.get(state=StepState.KEPT)
    assert (kept.repository.name, TWO in live(sandbox, changed)) == (changed, True)
    assert "changed since" in kept.words
    assert PolicyVersion.objects.get(number=1).state == VersionState.ACTIVE
    # The next sweep corrects the changed one to the version before, and writes nothing else.
    sandbox.reset_calls()
    sweep_all(own)
    assert writes(sandbox) == 1
    assert same(live(sandbox, changed), texts[changed])


@pytest.mark.costly
def test_a_start_with_the_settings_of_an_undone_version_does_not_start_it_again(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    repositories_in_sync(own, project, 2)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    work_off(own)
    rollouts.rollback(version=newest(), by="ann", trail=TRAIL)
    work_off(own)
    sandbox.reset_calls()

    own = started_with(ecr_configuration, allowing(ONE, THREE))
    generation.propose_again()
    started_with(ecr_configuration, allowing(ONE, THREE), preview_repositories=True)
    work_off(own)
    sweep_all(own)

    assert (newest().number, newest().state) == (2, VersionState.UNDONE)
    assert writes(sandbox) == 0


@pytest.mark.costly
def test_a_sweep_and_16_deploys_in_the_middle_write_what_each_repository_shall_have_and_no_more(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    rows = repositories_in_sync(own, project, 30)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    early = deploy(own, project, "trigger/before-the-canaries")
    assert THREE not in live(sandbox, early.name)
    sandbox.reset_calls()
    while newest().stage < 2:  # the canaries have passed, and one batch
        if not sweeps.work(configuration=own, seconds=30):
            rollouts.advance(configuration=own)
    rollouts.advance(configuration=own)
    rollouts.advance(configuration=own)  # the second batch shall have the version, and nobody looked at it

    def one(number: int) -> str:
        try:
            name = rows[number].name if number < 12 else f"trigger/in-the-middle-{number}"
            return deploy(own, project, name).name
        finally:
            connections.close_all()

    with ThreadPoolExecutor(max_workers=16) as pool:
        deployed = list(pool.map(one, range(16)))
    sweep_all(own)

    assert work_off(own).state == VersionState.ACTIVE, newest().reason
    assert all(THREE in live(sandbox, name) for name in (*deployed, early.name, *(row.name for row in rows)))
    assert writes(sandbox) == 30 + 1 + 4


@pytest.mark.costly
def test_an_observed_repository_is_left_as_it_is_and_listed(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    rows = repositories_in_sync(own, project, 4)
    until = timezone.now() + timedelta(hours=1)
    requests.set_override(rows=[rows[1]], mode="observe", until=until, reason="An experiment.", by="ann")
    own = started_with(ecr_configuration, allowing(ONE, THREE))

    version = work_off(own)

    assert version.state == VersionState.ACTIVE
    left = version.steps.get(state=StepState.LEFT)
    assert (left.repository.name, THREE in live(sandbox, rows[1].name)) == (rows[1].name, False)
    assert "only observed" in left.words


@pytest.mark.costly
def test_the_statement_of_lambda_survives_a_version_and_the_way_back(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    [row] = repositories_in_sync(own, project, 1)
    both = allowing(ONE, more=[LAMBDA])
    sandbox.client("ecr").set_repository_policy(repositoryName=row.name, policyText=both)
    own = started_with(ecr_configuration, allowing(ONE, THREE))

    assert work_off(own).state == VersionState.ACTIVE
    text = live(sandbox, row.name)
    assert "lambda.amazonaws.com" in text
    assert THREE in text
    rollouts.rollback(version=newest(), by="ann", trail=TRAIL)
    assert work_off(own).state == VersionState.UNDONE
    assert same(live(sandbox, row.name), both)


@pytest.mark.costly
def test_the_setting_of_the_active_version_ends_a_version_that_waits(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE, TWO))
    repositories_in_sync(own, project, 2)
    started_with(ecr_configuration, allowing(ONE))
    waiting = newest()
    own = started_with(ecr_configuration, allowing(ONE, TWO), preview_repositories=True)

    waiting.refresh_from_db()
    assert (newest().number, waiting.state) == (2, VersionState.SUPERSEDED)
    assert "version 1" in waiting.reason
    sandbox.reset_calls()
    sweep_all(own)
    assert writes(sandbox) == 0


@pytest.mark.costly
def test_a_setting_that_changes_in_the_middle_makes_a_version_for_all_that_was_written(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    rows = repositories_in_sync(own, project, 10)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    while newest().state != VersionState.BATCHES:
        if not sweeps.work(configuration=own, seconds=30):
            rollouts.advance(configuration=own)

    own = started_with(ecr_configuration, allowing(ONE, TWO))

    version = newest()
    assert (version.number, version.state) == (3, VersionState.WAITING)  # it takes access from the canaries
    assert THREE in version.why
    assert PolicyVersion.objects.get(number=2).state == VersionState.SUPERSEDED
    rollouts.start(version=version, at_once=True, by="ann", trail=TRAIL)
    assert work_off(own).state == VersionState.ACTIVE
    assert not any(THREE in live(sandbox, row.name) for row in rows)
    assert all(TWO in live(sandbox, row.name) for row in rows)


@pytest.mark.costly
def test_without_stages_each_text_is_a_version_and_is_active_at_once(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE, TWO), staged=False)
    rows = repositories_in_sync(own, project, 3)
    own = started_with(ecr_configuration, allowing(ONE), staged=False)
    sandbox.reset_calls()

    sweep_all(own)

    assert writes(sandbox) == 3
    assert not any(TWO in live(sandbox, row.name) for row in rows)
    states = list(PolicyVersion.objects.order_by("number").values_list("number", "state"))
    assert states == [(1, VersionState.SUPERSEDED), (2, VersionState.ACTIVE)]
    assert not PolicyStep.objects.exists()


@pytest.mark.costly
def test_the_texts_of_before_are_versions_when_stages_are_turned_on(ecr_configuration: Configuration) -> None:
    for text in (allowing(ONE), allowing(TWO), allowing(ONE, TWO)):
        started_with(ecr_configuration, text, staged=False)
    PolicyVersion.objects.update(follows=None)
    PolicyVersion.objects.all().delete()  # as a version of this program without roll-outs left the database

    started_with(ecr_configuration, allowing(ONE))

    states = list(PolicyVersion.objects.order_by("number").values_list("number", "state"))
    assert [state for _, state in states] == [
        VersionState.SUPERSEDED,
        VersionState.SUPERSEDED,
        VersionState.ACTIVE,
        VersionState.WAITING,
    ]


@pytest.mark.costly
@pytest.mark.parametrize("call", range(1, 60, 4))
def test_a_worker_that_dies_on_any_statement_is_followed_by_another_one(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project, call: int
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    repositories_in_sync(own, project, 5)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    sandbox.reset_calls()
    left = [call]

    def die(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        left[0] -= sql.startswith(("UPDATE", "INSERT"))
        if left[0] == 0:
            raise KeyboardInterrupt
        return execute(sql, params, many, context)

    with contextlib.suppress(KeyboardInterrupt), connection.execute_wrapper(die):
        while rollouts.advance(configuration=own):
            sweeps.work(configuration=own, seconds=30)
    connection.close()
    Repository.objects.update(lease_until=None)
    Sweep.objects.update(lease_until=None)
    SweepChunk.objects.update(lease_until=None)

    version = work_off(own)

    assert version.state == VersionState.ACTIVE
    assert writes(sandbox) == 5


@pytest.mark.parametrize(
    ("before", "after", "starts", "at_once"),
    [
        (allowing(ONE), allowing(ONE, THREE), True, False),
        (allowing(ONE), allowing(ONE, more=[DENIES]), False, False),
        (allowing(ONE, TWO), allowing(ONE), False, False),
        (allowing(ONE), allowing(ONE, more=[LAMBDA]), False, False),
        (allowing(ONE), allowing(ONE, more=[PUSHES]), False, False),
        (allowing(THREE), allowing(ONE), True, True),
        (allowing(ONE), json.dumps(json.loads(allowing(ONE)), indent=1), True, False),
        (allowing(ONE), "no policy", False, False),
    ],
)  # fmt: skip
def test_a_version_starts_by_itself_only_if_it_adds_a_pull_or_repairs(
    before: str, after: str, starts: bool, at_once: bool
) -> None:
    judged = policy_versions.judge([before], after, partition="aws", consumers=(ONE, TWO))

    assert (judged.starts, judged.at_once, bool(judged.why)) == (starts, at_once, True)


def one_step(own: Configuration) -> bool:
    return sweeps.work(configuration=own, seconds=30) or rollouts.advance(configuration=own)


@pytest.mark.costly
@pytest.mark.parametrize("ending", ["pause", "rollback", "setting"])
def test_a_repository_whose_turn_had_come_does_not_get_a_version_that_does_not_go_on(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project, ending: str
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    rows = repositories_in_sync(own, project, 6)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    while not newest().steps.filter(state=StepState.OPEN, stage=1).exists():
        one_step(own)
    [canary] = newest().steps.filter(stage=0)
    sandbox.reset_calls()

    if ending == "setting":
        own = started_with(ecr_configuration, allowing(ONE, THREE, TWO))
        rollouts.pause(version=newest(), reason="", by="ann", trail=TRAIL)
    else:
        getattr(rollouts, ending)(
            version=newest(), by="ann", trail=TRAIL, **({"reason": ""} if ending == "pause" else {})
        )
    for row in rows:
        deploy(own, project, row.name)
    work_off(own)
    sweep_all(own)

    have_it = {row.name for row in rows if THREE in live(sandbox, row.name)}
    assert have_it == (set() if ending == "rollback" else {canary.repository.name})
    assert writes(sandbox) == (ending == "rollback")


@pytest.mark.costly
@pytest.mark.parametrize("ending", ["pause", "rollback"])
def test_a_worker_that_gives_a_stage_its_version_ends_when_a_person_stops_the_roll_out(
    ecr_configuration: Configuration, project: Project, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    repositories_in_sync(own, project, 6)
    own = started_with(
        ecr_configuration, allowing(ONE, THREE), canaries=tuple(row.name for row in Repository.objects.all())
    )
    rollouts.advance(configuration=own)
    assert newest().steps.filter(state=StepState.PLANNED).count() == 6
    has, asked = targets.Target.has, []

    def stopped_meanwhile(target: targets.Target, row: Repository) -> bool:
        asked.append(row)
        if len(asked) == 3:
            more = {"reason": ""} if ending == "pause" else {}
            getattr(rollouts, ending)(version=newest(), by="ann", trail=TRAIL, **more)
        return has(target, row)

    monkeypatch.setattr(targets.Target, "has", stopped_meanwhile)
    rollouts.advance(configuration=own)

    assert not Repository.objects.exclude(policy_version=None).exists()
    assert work_off(own).state == (VersionState.STOPPED if ending == "pause" else VersionState.UNDONE)


@pytest.mark.costly
def test_a_version_that_is_proposed_after_an_undo_is_written(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    rows = repositories_in_sync(own, project, 3)
    own = started_with(ecr_configuration, allowing(ONE, TWO))
    work_off(own)
    rollouts.rollback(version=newest(), by="ann", trail=TRAIL)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    assert (newest().number, work_off(own).state) == (2, VersionState.UNDONE)
    sandbox.reset_calls()

    generation.propose_again()

    assert (work_off(own).number, newest().state) == (3, VersionState.ACTIVE), newest().reason
    assert {step.state for step in newest().steps.all()} == {StepState.WRITTEN}
    assert all(THREE in live(sandbox, row.name) for row in rows)
    assert writes(sandbox) == 3


@pytest.mark.costly
def test_the_way_back_writes_nothing_to_a_repository_that_is_released_or_gone(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    released, gone, noticed, other = repositories_in_sync(own, project, 4)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    work_off(own)
    with transaction.atomic():
        ownership.release(rows=[Repository.objects.get(pk=released.pk)], by="ann")
    written_long_ago()
    sandbox.client("ecr").delete_repository(repositoryName=noticed.name)
    sweep_all(own)
    sandbox.client("ecr").delete_repository(repositoryName=gone.name)
    before = {row.pk: row.status for row in Repository.objects.all()}
    sandbox.reset_calls()

    rollouts.rollback(version=newest(), by="ann", trail=TRAIL)
    version = work_off(own)

    assert version.state == VersionState.UNDONE
    assert writes(sandbox) == 1
    assert THREE in live(sandbox, released.name)
    assert set(version.steps.filter(state=StepState.KEPT).values_list("repository", flat=True)) == {
        released.pk,
        gone.pk,
        noticed.pk,
    }
    assert {row.pk: row.status for row in Repository.objects.all()} == before
    assert THREE not in live(sandbox, other.name)


@pytest.mark.costly
def test_a_repository_that_is_deleted_in_the_middle_does_not_stop_the_roll_out(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    repositories_in_sync(own, project, 8)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    while newest().stage < 1:
        one_step(own)
    written_long_ago()
    sandbox.client("ecr").delete_repository(repositoryName=newest().steps.get(stage=0).repository.name)
    sweep_all(own)

    assert work_off(own).state == VersionState.ACTIVE, newest().reason


@pytest.mark.costly
def test_what_is_corrected_on_a_repository_that_had_the_version_already_is_no_way_back(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    repositories_in_sync(own, project, 8)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    while newest().state != VersionState.BATCHES:
        one_step(own)
    new = deploy(own, project, "trigger/0-new")
    Repository.objects.exclude(pk=new.pk).filter(policy_version=None).update(
        management=""
    )  # the next batch is the new one
    while not newest().steps.filter(repository=new, state=StepState.UNCHANGED).exists():
        one_step(own)
    rollouts.pause(version=newest(), reason="", by="ann", trail=TRAIL)
    work_off(own)
    sandbox.client("ecr").set_repository_policy(repositoryName=new.name, policyText=allowing("555555555555"))
    sweep_all(own)
    assert THREE in live(sandbox, new.name)

    rollouts.rollback(version=newest(), by="ann", trail=TRAIL)
    work_off(own)

    assert "555555555555" not in live(sandbox, new.name)


@pytest.mark.costly
def test_an_undo_without_stages_is_refused_and_ends_when_stages_are_turned_off(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    rows = repositories_in_sync(own, project, 3)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    work_off(own)
    rollouts.rollback(version=newest(), by="ann", trail=TRAIL)
    sandbox.reset_calls()

    own = started_with(ecr_configuration, allowing(ONE, THREE), staged=False)
    version = work_off(own)
    sweep_all(own)

    assert (version.number, version.state) == (3, VersionState.ACTIVE)
    assert writes(sandbox) == 0
    assert all(THREE in live(sandbox, row.name) for row in rows)
    PolicyVersion.objects.filter(number=3).delete()
    PolicyVersion.objects.filter(number=2).update(state=VersionState.ACTIVE)
    with pytest.raises(Refusal, match="at-once"):
        rollouts.rollback(version=newest(), by="ann", trail=TRAIL)


@pytest.mark.costly
def test_an_active_version_can_be_undone_while_another_one_waits(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    rows = repositories_in_sync(own, project, 2)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    active = work_off(own)
    own = started_with(ecr_configuration, allowing(TWO))
    assert newest().state == VersionState.WAITING

    rollouts.rollback(version=active, by="ann", trail=TRAIL)
    work_off(own)
    generation.propose_again()

    assert not any(THREE in live(sandbox, row.name) for row in rows)
    states = list(PolicyVersion.objects.order_by("number").values_list("state", flat=True))
    assert states == [VersionState.ACTIVE, VersionState.UNDONE, VersionState.SUPERSEDED, VersionState.WAITING]
    rollouts.start(version=newest(), at_once=False, by="ann", trail=TRAIL)
    started_with(ecr_configuration, allowing(TWO))


@pytest.mark.costly
def test_a_pause_while_the_canaries_are_watched_does_not_shorten_the_watch(
    ecr_configuration: Configuration, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE, TWO))
    repositories_in_sync(own, project, 2)
    own = started_with(ecr_configuration, allowing(ONE, more=[LAMBDA]), watch=timedelta(hours=1))
    rollouts.start(version=newest(), at_once=False, by="ann", trail=TRAIL)
    PolicyVersion.objects.update(accepted=[TWO])
    assert work_off(own).state == VersionState.WATCHING
    rollouts.pause(version=newest(), reason="", by="ann", trail=TRAIL)

    rollouts.resume(version=newest(), configuration=own, by="ann", trail=TRAIL)

    assert work_off(own).state == VersionState.WATCHING


@pytest.mark.costly
def test_a_roll_out_waits_while_writes_are_paused_and_goes_on_afterwards(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    repositories_in_sync(own, project, 6)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    while newest().sweep is None:
        one_step(own)
    sandbox.reset_calls()
    writes_pause.pause(trail=TRAIL, reason="An emergency.")
    assert work_off(own).state == VersionState.CANARIES, newest().reason
    assert writes(sandbox) == 0

    writes_pause.resume(trail=TRAIL)

    assert work_off(own).state == VersionState.ACTIVE, newest().reason
    assert writes(sandbox) == 6


@pytest.mark.costly
def test_a_policy_that_lets_everybody_in_is_not_put_back(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    [row] = repositories_in_sync(own, project, 1)
    world = {"Sid": "World", "Effect": "Allow", "Principal": "*", "Action": "ecr:BatchGetImage"}
    sandbox.client("ecr").set_repository_policy(repositoryName=row.name, policyText=allowing(ONE, more=[world]))
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    assert work_off(own).state == VersionState.ACTIVE, newest().reason

    rollouts.rollback(version=newest(), by="ann", trail=TRAIL)
    version = work_off(own)

    assert version.state == VersionState.UNDONE
    assert "lets everybody in" in version.steps.get(state=StepState.KEPT).words
    assert "World" not in live(sandbox, row.name)
    sweep_all(own)
    assert same(live(sandbox, row.name), allowing(ONE))


def test_a_version_for_other_consumers_is_no_repair_and_waits(ecr_configuration: Configuration) -> None:
    started_with(ecr_configuration, allowing(ONE, TWO))

    started_with(ecr_configuration, allowing(THREE), consumers=(THREE,))

    assert newest().state == VersionState.WAITING
    assert ONE in newest().why


@pytest.mark.costly
def test_what_was_there_before_is_not_put_back_on_another_repository_of_the_same_name(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    rows = repositories_in_sync(own, project, 4)
    by_hand = rows[0].name
    sandbox.client("ecr").set_repository_policy(repositoryName=by_hand, policyText=allowing(ONE, TWO))
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    assert work_off(own).state == VersionState.ACTIVE, newest().reason
    written_long_ago()
    sandbox.client("ecr").delete_repository(repositoryName=by_hand)
    sweep_all(own)
    deploy(own, project, by_hand)

    rollouts.rollback(version=newest(), by="ann", trail=TRAIL)
    version = work_off(own)

    assert version.state == VersionState.UNDONE
    assert not same(live(sandbox, by_hand), allowing(ONE, TWO))
    assert "created again" in version.steps.get(state=StepState.KEPT).words


@pytest.mark.costly
def test_a_canary_that_is_created_again_does_not_count_as_written(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    [row] = repositories_in_sync(own, project, 1)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    while not newest().steps.filter(state=StepState.OPEN).exists():
        one_step(own)
    written_long_ago()
    sandbox.client("ecr").delete_repository(repositoryName=row.name)
    sweep_all(own)
    deploy(own, project, row.name)
    assert THREE not in live(sandbox, row.name)

    assert work_off(own).state == VersionState.ACTIVE, newest().reason

    assert newest().steps.get().state == StepState.LEFT


@pytest.mark.costly
def test_an_undo_that_aws_refuses_is_named_until_it_is_done(
    ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    own = started_with(ecr_configuration, allowing(ONE))
    [row] = repositories_in_sync(own, project, 1)
    own = started_with(ecr_configuration, allowing(ONE, THREE))
    work_off(own)
    sandbox.fault("error", "ecr:SetRepositoryPolicy", code="AccessDeniedException", status=403)
    rollouts.rollback(version=newest(), by="ann", trail=TRAIL)
    assert work_off(own).state == VersionState.UNDOING

    [found] = policy_versions.attention()

    assert row.name in found.words
    assert "SetRepositoryPolicy" in found.words
    sandbox.clear_faults()
    assert work_off(own).state == VersionState.UNDONE
    assert policy_versions.attention() == []
