"""The statements of others in repository policies stay or go by the setting, at every write."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from deployments.config import Configuration
from deployments.errors import Refusal
from deployments.models import (
    AuditEntry,
    EventKind,
    ProcessRole,
    Project,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    Sweep,
)
from deployments.policy import MAX_CHARACTERS
from deployments.reconcile import adopted_statements, change_events, generation, put_back, targets, what_if
from deployments.row_values import AdoptedStatement
from sandbox.control import Sandbox
from tests.support import deploys
from tests.support.change_events import event, message
from tests.support.constants import CLUSTER, HOST, OWNER, POLICY, PULL, TRAIL
from tests.support.registry import new_calls
from tests.support.service_statements import add, bare, live, sids
from tests.support.sweeps import sweep_all, work_off

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


@pytest.mark.costly
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


# ------------------------------------------------------------------------------- since when, by whom, and refused

WHO = f"arn:aws:sts::{OWNER}:assumed-role/ops/ada"


def look_for(own: Configuration, row: Repository, **detail: Any) -> Repository:
    at = (timezone.now() + timedelta(minutes=1)).isoformat()
    body = event("SetRepositoryPolicy", row.name, eventTime=at, **detail)
    change_events.handle(configuration=own, messages=[message(body)])
    return Repository.objects.get()


@pytest.mark.costly
def test_a_statement_is_listed_with_the_time_of_the_first_look_and_with_the_caller_that_the_event_names(
    project: Project, keep: Callable[..., Configuration], sandbox: Sandbox, admin_client: Client
) -> None:
    own = keep()
    row = ensure(project, own)
    add(sandbox, FOREIGN)

    row = look_for(own, row, userIdentity={"type": "AssumedRole", "arn": WHO, "invokedBy": "lambda.amazonaws.com"})
    [seen] = row.foreign_statements
    add(sandbox, bare())
    row = sweep(own)

    assert (seen.name, seen.by, seen.kept) == ("Partner", f"{WHO} by lambda.amazonaws.com", True)
    assert (row.foreign_statements[0], row.foreign_statements[1].by) == (seen, "")
    page = " ".join(admin_client.get(f"/admin/deployments/repository/{row.pk}/change/").content.decode().split())
    assert "with 2 statements of others" in page
    assert f"SetRepositoryPolicy was called by <code>{WHO} by lambda.amazonaws.com</code>." in page
    assert "with 2 statements of others" in admin_client.get("/admin/deployments/repository/").content.decode()
    add(sandbox, json.loads(POLICY)["Statement"][0], instead=True)
    assert sweep(own).foreign_statements == []


@pytest.mark.parametrize(
    ("identity", "by"),
    [
        ({"type": "AWSService", "invokedBy": "lambda.amazonaws.com"}, "lambda.amazonaws.com"),
        ({"type": "Unknown"}, ""),
        ({"arn": "a" * 601}, ""),
        ({"arn": "arn:\x00"}, ""),
        (None, ""),
    ],
)
def test_the_caller_of_an_event_is_a_text_of_aws_or_empty(identity: Any, by: str) -> None:
    change = change_events.parse(event("SetRepositoryPolicy", "trigger/a", userIdentity=identity))

    assert change is not None
    assert change.by == by


def refuse(own: Configuration, **changes: str) -> Sweep:
    counting, row = generation.in_force(own), Repository.objects.get()
    [target] = targets.configured(counting)
    key = adopted_statements.key_of(adopted_statements.live(row, target)[0].text)
    given = {"key": key, "shown": adopted_statements.seen(row, key), "reason": "OPS-2", **changes}
    return adopted_statements.refuse(row=row, configuration=counting, by="ada@example.com", trail=TRAIL, **given)


@pytest.mark.costly
def test_a_refused_statement_goes_with_the_next_check_and_whenever_it_comes_again_until_the_refusal_ends(
    project: Project, keep: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    own = keep()
    ensure(project, own)
    add(sandbox, FOREIGN)
    since = sweep(own).foreign_statements[0].first_seen

    work_off(own, refuse(own))
    assert sids(sandbox) == [""]
    add(sandbox, FOREIGN)
    row = sweep(own)

    assert sids(sandbox) == [""]
    [refused] = row.foreign_statements
    assert (refused.first_seen, refused.refused_by, refused.reason, refused.kept) == (
        since, "ada@example.com", "OPS-2", False,
    )  # fmt: skip
    assert "Partner" in str(AuditEntry.objects.get(action="refuse_statement.repository").after)
    assert row.events.filter(message__startswith="Refused: the next check removes the statement Partner").exists()
    [target] = targets.configured(generation.in_force(own))
    assert adopted_statements.offers(row, target, row.events.all()) == []
    key = adopted_statements.key_of(refused.statement)
    work_off(own, adopted_statements.allow(row=row, key=key, by="ada@example.com", trail=TRAIL))
    add(sandbox, FOREIGN)
    assert sweep(own).foreign_statements[0].kept
    assert sids(sandbox) == ["", "Partner"]
    assert "OPS-2" in str(AuditEntry.objects.get(action="allow_statement.repository").before)


@pytest.mark.costly
def test_nothing_is_refused_without_a_reason_from_an_old_page_or_if_it_is_adopted_or_not_kept(
    project: Project, keep: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    own = keep()
    row = ensure(project, own)
    add(sandbox, FOREIGN)
    row = sweep(own)
    codes = []
    for changes in ({"reason": " "}, {"shown": "old"}, {"key": "other"}):
        with pytest.raises(Refusal) as refused:
            refuse(own, **changes)
        codes.append(refused.value.code)
    text = row.foreign_statements[0].statement
    adopted = AdoptedStatement(statement=text, reason="r", by="b", at=timezone.now().isoformat())
    Repository.objects.update(adopted_statements=[adopted])
    with pytest.raises(Refusal) as refused:
        refuse(own)
    with pytest.raises(Refusal) as nothing:
        adopted_statements.allow(row=row, key=adopted_statements.key_of(text), by="x", trail=TRAIL)

    assert codes == ["statement_without_reason", "policy_changed", "no_such_statement"]
    assert (refused.value.code, nothing.value.code) == ("no_such_statement", "no_such_statement")
    found = Repository.objects.get()
    assert not any(each.refused_by for each in found.foreign_statements)
    assert found.lease_until is None


@pytest.mark.costly
def test_the_console_refuses_a_statement_and_ends_that(
    project: Project, keep: Callable[..., Configuration], sandbox: Sandbox, admin_client: Client
) -> None:
    own = keep()
    ensure(project, own)
    add(sandbox, FOREIGN)
    row = sweep(own)
    page = f"/admin/deployments/repository/{row.pk}/change/"
    key = adopted_statements.key_of(row.foreign_statements[0].statement)
    address = f"/admin/deployments/repository/{row.pk}/statement/refuse/?statement={key}"

    def text(path: str) -> str:
        return " ".join(admin_client.get(path, follow=True).content.decode().split())

    assert "Refuse the statement…" in text(page)
    question = text(address)
    assert "Refuse this statement?" in question
    assert "The next check writes the policy without the statement. It stays refused until you end that." in question
    shown = adopted_statements.seen(row, key)
    assert "This field is required." in admin_client.post(address, {"shown": shown}).content.decode()

    admin_client.post(address, {"shown": shown, "reason": "OPS-3"})
    work_off(own, Sweep.objects.latest("pk"))

    assert sids(sandbox) == [""]
    after = text(page)
    assert "Stop refusing the statement…" in after
    assert "OPS-3" in after
    assert "The settings decide again whether it stays." in text(address)
    admin_client.post(address, {"ends": "1"})
    assert Repository.objects.get().foreign_statements == []
    assert "Stop refusing" not in text(page)
