"""The statements of others in repository policies stay or go by the setting, at every write."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from deployments.config import Configuration
from deployments.errors import Refusal
from deployments.models import EventKind, ProcessRole, Project, Repository, RepositoryEvent, RepositoryStatus
from deployments.policy import MAX_CHARACTERS
from deployments.reconcile import change_events, generation, put_back, targets, what_if
from sandbox.control import Sandbox
from tests.support import deploys
from tests.support.change_events import event, message
from tests.support.constants import CLUSTER, HOST, POLICY, PULL, TRAIL
from tests.support.registry import new_calls
from tests.support.service_statements import add, bare, live, sids
from tests.support.sweeps import sweep_all

STRANGER, ANOTHER = "999999999999", "333333333333"
LOOK = {"DescribeRepositories": 1, "GetRegistryPolicy": 1, "GetRepositoryPolicy": 1}
WRITE = LOOK | {"SetRepositoryPolicy": 1}
FOREIGN = {"Sid": "Partner", "Effect": "Allow", "Principal": {"AWS": STRANGER}, "Action": PULL}
WORLD = {"Sid": "World", "Effect": "Allow", "Principal": "*", "Action": PULL}
SETTINGS = {"DEPLOY_REGISTRY_HOST": HOST, "DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS": CLUSTER}

Configure = Callable[..., Configuration]


@pytest.fixture
def keep(configure: Configure, sandbox: Sandbox, db: None) -> Callable[..., Configuration]:
    """A configuration that keeps statements of others, and that counts."""

    def start(policy: str = POLICY, keeps: str = "keep", **more: str) -> Configuration:
        own = configure(
            **SETTINGS,
            **more,
            DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=policy,
            DEPLOY_REGISTRY_ECR_FOREIGN_STATEMENTS=keeps,
        )
        generation.register(own, role=ProcessRole.WEB)
        return own

    return start


def role(sandbox: Sandbox) -> str:
    """A role of the consumer account."""
    trust = {"Effect": "Allow", "Principal": {"AWS": CLUSTER}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    answer = sandbox.client("iam", "cluster").create_role(RoleName="node", AssumeRolePolicyDocument=document)
    return str(answer["Role"]["Arn"])


def ensure(project: Project, own: Configuration, **changes: Any) -> Repository:
    counting = generation.in_force(own)
    return deploys.ensure(project, counting, activation=counting.activation, **changes)


def sweep(own: Configuration) -> Repository:
    sweep_all(own)
    return Repository.objects.get()


def test_with_keep_a_pull_for_a_named_account_and_a_service_leave_the_repository_in_sync_with_no_write(
    project: Project, keep: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    own = keep()
    ensure(project, own)
    add(sandbox, FOREIGN, bare())

    for _ in range(2):
        row = sweep(own)
        assert new_calls(sandbox) == LOOK
        assert (row.status, row.differences) == (RepositoryStatus.IN_SYNC, [])
    assert sids(sandbox) == ["", "Partner", bare()["Sid"]]


@pytest.mark.costly
def test_a_changed_default_policy_keeps_what_others_wrote_and_removes_all_that_was_written_before(
    project: Project, keep: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    first = POLICY.replace(f'"{CLUSTER}"', f'["{CLUSTER}", "{ANOTHER}"]')
    ensure(project, keep(first))
    add(sandbox, FOREIGN, bare())
    own = keep(POLICY)

    row = sweep(own)

    assert new_calls(sandbox)["SetRepositoryPolicy"] == 1
    assert sids(sandbox) == ["", "Partner", bare()["Sid"]]
    assert ANOTHER not in str(live(sandbox))
    assert row.status == RepositoryStatus.IN_SYNC
    assert "Statements of others that are kept: Partner," in row.events.get(kind=EventKind.HEALED).message
    add(sandbox, {**FOREIGN, "Sid": "Old", "Principal": {"AWS": ANOTHER}})  # what the first version gave
    sweep(own)
    assert sids(sandbox) == ["", "Partner", bare()["Sid"]]


@pytest.mark.costly
@pytest.mark.parametrize("keeps", ["keep-services", "keep", "remove"])
def test_a_statement_that_opens_the_world_is_drift_under_every_setting(
    project: Project, keep: Callable[..., Configuration], sandbox: Sandbox, keeps: str
) -> None:
    own = keep(keeps=keeps)
    ensure(project, own)
    add(sandbox, WORLD, FOREIGN, bare())

    sweep(own)

    assert new_calls(sandbox)["SetRepositoryPolicy"] == 1
    left = {"keep-services": [bare()["Sid"]], "keep": ["Partner", bare()["Sid"]], "remove": []}
    assert sids(sandbox) == ["", *left[keeps]]
    assert sweep(own).status == RepositoryStatus.IN_SYNC


@pytest.mark.costly
def test_a_deploy_an_event_and_a_policy_that_is_put_back_keep_what_came_since_the_last_look(
    project: Project, keep: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    own = keep()
    row = ensure(project, own)
    earlier = RepositoryEvent.objects.create(
        repository=row, kind=EventKind.HEALED, message="Healed.", policy_before=POLICY.replace(CLUSTER, ANOTHER)
    )
    at = (timezone.now() + timedelta(minutes=1)).isoformat()
    writes: list[tuple[str, Callable[[], object]]] = [
        ("A", lambda: ensure(project, own, freshness=timedelta(0))),
        (
            "B",
            lambda: change_events.handle(
                configuration=own, messages=[message(event("SetRepositoryPolicy", row.name, eventTime=at))]
            ),
        ),
        ("C", lambda: put_back.put_back(event=earlier, configuration=own, by="x", trail=TRAIL)),
    ]
    for sid, write in writes:
        add(sandbox, {**FOREIGN, "Sid": sid}, instead=True)  # not seen before, and our own statement is gone

        write()

        assert sandbox.calls()["ecr:SetRepositoryPolicy"] == 1
        assert sids(sandbox) == ["", sid]


@pytest.mark.costly
def test_what_does_not_fit_beside_the_default_policy_is_not_written_and_the_row_names_it(
    project: Project, keep: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    own = keep(json.dumps({**json.loads(POLICY), "Id": "A" * (MAX_CHARACTERS - len(POLICY) - 100)}))
    ensure(project, own)
    add(sandbox, FOREIGN, instead=True)

    row = sweep(own)

    assert "ecr:SetRepositoryPolicy" not in sandbox.calls()
    assert (row.status, row.last_error_code) == (RepositoryStatus.FAILED, "PolicyTooLong")
    assert "Partner" in row.last_error
    event_before = row.events.exclude(policy_before="").get()
    event_before.policy_before = own.plain.default_repository_policy or ""
    with pytest.raises(Refusal) as refused:
        put_back.put_back(event=event_before, configuration=own, by="x", trail=TRAIL)
    assert refused.value.code == "PolicyTooLong"


@pytest.mark.costly
def test_what_a_version_that_is_still_rolled_out_will_give_is_not_taken_away_before(
    project: Project, keep: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    staged = {"DEPLOY_REGISTRY_ECR_ROLLOUT": "staged"}
    ensure(project, keep(POLICY, **staged))
    add(sandbox, {**FOREIGN, "Principal": {"AWS": ANOTHER}})
    own = keep(POLICY.replace(f'"{CLUSTER}"', f'["{CLUSTER}", "{ANOTHER}"]'), **staged)

    row = sweep(own)

    assert "SetRepositoryPolicy" not in new_calls(sandbox)
    assert (row.status, sids(sandbox)) == (RepositoryStatus.IN_SYNC, ["", "Partner"])


@pytest.mark.costly
def test_a_role_that_was_deleted_is_left_out_and_the_rest_of_its_statement_stays(
    project: Project, keep: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    own = keep()
    ensure(project, own)
    add(sandbox, {**FOREIGN, "Principal": {"AWS": [role(sandbox), STRANGER]}})
    sandbox.client("iam", "cluster").delete_role(RoleName="node")
    assert "AROA" in str(live(sandbox))

    row = sweep(own)

    assert row.status == RepositoryStatus.IN_SYNC
    assert live(sandbox)["Statement"][1]["Principal"] == {"AWS": f"arn:aws:iam::{STRANGER}:root"}


@pytest.mark.costly
def test_the_preview_of_another_default_policy_counts_what_stays_beside_it(
    project: Project, keep: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    own = keep()
    ensure(project, own)
    add(sandbox, FOREIGN, {**FOREIGN, "Sid": "Cluster", "Principal": {"AWS": role(sandbox)}})
    sweep(own)
    [target] = targets.configured(generation.in_force(own))

    assert what_if.rehearse(text=POLICY, target=target).unchanged == 1
    without = what_if.rehearse(text=POLICY.replace(CLUSTER, ANOTHER), target=target)

    assert not any(STRANGER in words for words, _ in without.losses)
    assert without.gains == [(f"account {ANOTHER} gains pull", 1)]
    assert "role node" in without.pulls[0].words


@pytest.mark.costly
def test_only_another_setting_than_the_default_is_in_the_configuration_row_and_going_back_would_take_access_away(
    keep: Callable[..., Configuration],
) -> None:
    default, other = (generation.register(keep(keeps=each), role=ProcessRole.WEB) for each in ("keep-services", "keep"))

    assert "foreign" not in str(default.content)
    assert other.content["plain"]["foreign"] == "keep"
    assert generation.in_force(keep(keeps="keep")).plain.foreign_statements == "keep"
    setting = "DEPLOY_REGISTRY_ECR_FOREIGN_STATEMENTS"
    assert generation.differences(default, other) == [f"{setting}: keep instead of keep-services."]
    assert any(setting in words for words in generation.taken_away(other, default))
    assert not any(setting in words for words in generation.taken_away(default, other))
