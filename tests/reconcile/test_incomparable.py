"""A live policy that cannot be compared: never in sync, notified once, never written by itself, and taken over by a
person who saw both texts. Against a real socket, with every call counted.
"""

from __future__ import annotations

import csv
import html
import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from deployments import metrics
from deployments.config import Configuration
from deployments.errors import Refusal, RegistryError
from deployments.models import (
    AuditEntry,
    Environment,
    EventKind,
    Project,
    Repository,
    RepositoryStatus,
    SweepFinding,
    WritesPause,
)
from deployments.notify import news
from deployments.reconcile import change_events, put_back, repositories
from sandbox.control import Sandbox
from tests.support.change_events import event, message
from tests.support.constants import A_MOMENT, CLUSTER, HOST, POLICY, PULL, TRAIL
from tests.support.deploys import deploying, ensure, finalize, push
from tests.support.registry import delete_repository, new_calls
from tests.support.sweeps import sweep_all

Configure = Callable[..., Configuration]
LOOK = {"GetRepositoryPolicy": 1}
STATEMENT = {"Effect": "Allow", "Principal": {"AWS": CLUSTER}, "Action": PULL}
DENY = {"Effect": "Deny", "Principal": "*", "Action": "ecr:PutImage", "Novelty": 1}


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


UNKNOWN = policy({**STATEMENT, "Novelty": 1})
OTHER = policy({**STATEMENT, "Novelty": 2})
#: It cannot be compared and is closed all the same: only its Deny has a part that is not understood.
CLOSED = policy(STATEMENT, DENY)


def write(sandbox: Sandbox, text: str) -> None:
    """Somebody writes this policy past Registry Admin, to an AWS that knows more than it does."""
    sandbox.fault("newer_policies", times=1)
    name = Repository.objects.get().name
    sandbox.client("ecr").set_repository_policy(repositoryName=name, policyText=text)
    sandbox.reset_calls()


def live(sandbox: Sandbox) -> Any:
    name = Repository.objects.get().name
    return json.loads(sandbox.client("ecr").get_repository_policy(repositoryName=name)["policyText"])


@pytest.fixture
def row(project: Project, ecr_configuration: Configuration, sandbox: Sandbox) -> Repository:
    """A repository that was in sync, and whose live policy has an element that this program does not know."""
    ensure(project, ecr_configuration)
    write(sandbox, UNKNOWN)
    ensure(project, ecr_configuration, freshness=timedelta(0))
    sandbox.reset_calls()
    return Repository.objects.get()


def told() -> list[str]:
    return sorted(each.event for each in news.current_news(timezone.now()))


def take_over(row: Repository, configuration: Configuration, *, live: str = "", default: str = POLICY) -> None:
    shown = put_back.seen(live=live or row.policy_text, default=default)
    put_back.take_over(row=row, shown=shown, configuration=configuration, by="ada@example.com", trail=TRAIL)


# ------------------------------------------------------------------------------------------------- never in sync


def test_after_a_deploy_it_is_drifted_with_the_reason_and_nothing_was_written(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    ensure(project, ecr_configuration)
    write(sandbox, UNKNOWN)

    row = ensure(project, ecr_configuration, freshness=A_MOMENT)

    assert new_calls(sandbox) == LOOK
    assert (row.status, row.incomparable_since is not None) == (RepositoryStatus.DRIFTED, True)
    assert row.differences[0].words == (
        "The live policy has a part that is not understood: Statement[0]: unknown element “Novelty”. So the live "
        "policy cannot be compared with the default policy, and nothing is written to it. It cannot be shown closed, "
        "so it may be open to the whole world. Take the policy over on the page of the repository: then the default "
        "policy replaces it."
    )
    assert live(sandbox) == json.loads(UNKNOWN)


@pytest.mark.costly
def test_a_sweep_counts_it_as_drifted_each_time_and_writes_nothing(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    events = row.events.count()
    for _ in range(2):
        sweep = sweep_all(ecr_configuration)

        chunk = sweep.chunks.get()
        assert (chunk.in_sync, chunk.drifted) == (0, 1)
    assert "Novelty" in SweepFinding.objects.get().words  # found once
    assert "ecr:SetRepositoryPolicy" not in sandbox.calls()
    assert sandbox.calls()["ecr:GetRepositoryPolicy"] == 2
    assert Repository.objects.get().status == RepositoryStatus.DRIFTED
    assert row.events.count() == events


@pytest.mark.costly
def test_a_dry_run_and_the_command_do_not_call_it_in_sync(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    chunk = sweep_all(ecr_configuration, dry_run=True).chunks.get()
    assert (chunk.in_sync, chunk.drifted) == (0, 1)

    with pytest.raises((CommandError, SystemExit)):
        call_command("reconcile", row.name)
    assert "ecr:SetRepositoryPolicy" not in sandbox.calls()


def test_a_change_event_finds_it(project: Project, ecr_configuration: Configuration, sandbox: Sandbox) -> None:
    row = ensure(project, ecr_configuration)
    write(sandbox, UNKNOWN)
    body = event("SetRepositoryPolicy", row.name, eventTime=(timezone.now() + timedelta(minutes=1)).isoformat())

    change_events.handle(configuration=ecr_configuration, messages=[message(body)])

    row.refresh_from_db()
    assert (row.status, row.incomparable_since is not None) == (RepositoryStatus.DRIFTED, True)
    assert new_calls(sandbox) == LOOK


@pytest.mark.costly
def test_a_text_that_an_older_version_called_in_sync_is_compared_again_by_the_next_sweep(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    Repository.objects.update(
        status=RepositoryStatus.IN_SYNC, differences=[], drifted_since=None, incomparable_since=None
    )

    sweep_all(ecr_configuration)

    row = Repository.objects.get()
    assert (row.status, row.incomparable_since is not None) == (RepositoryStatus.DRIFTED, True)


@pytest.mark.costly
def test_the_mark_does_not_outlast_a_repair_that_version_0_1_0_recorded(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    write(sandbox, POLICY)
    sweep_all(ecr_configuration)
    Repository.objects.update(incomparable_since=timezone.now())  # that version does not know the column

    sweep_all(ecr_configuration)

    row = Repository.objects.get()
    assert (row.status, row.incomparable_since) == (RepositoryStatus.IN_SYNC, None)


def test_a_deploy_to_a_repository_that_never_had_the_policy_is_refused_with_the_reason_and_the_next_step(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    name = f"trigger/{project.ref}"
    sandbox.client("ecr").create_repository(repositoryName=name)
    sandbox.fault("newer_policies", times=1)
    sandbox.client("ecr").set_repository_policy(repositoryName=name, policyText=UNKNOWN)

    with pytest.raises(RegistryError) as refused:
        ensure(project, ecr_configuration)

    assert refused.value.code == "PolicyNotApplied"
    assert "“Novelty”" in str(refused.value)
    assert "Take the policy over" in str(refused.value)
    assert "ecr:SetRepositoryPolicy" not in list(sandbox.calls())[2:]
    assert Repository.objects.get().status == RepositoryStatus.DRIFTED


def test_a_deploy_to_one_that_had_the_policy_goes_on_and_its_end_says_so(
    environment: Environment, configure: Configure, sandbox: Sandbox
) -> None:
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_IMAGE_VERIFICATION_ENABLED="0",
    )
    deployment = deploying(environment, configuration)
    push(sandbox, deployment)
    write(sandbox, CLOSED)
    ensure(environment.project, configuration, freshness=timedelta(0))
    deployment.refresh_from_db()

    said = finalize(deployment, configuration)

    [note] = [each for each in said if each.startswith("Note: ")]
    assert "cannot be compared" in note
    assert "may be open" not in note
    assert said[-1].endswith("is deployed and current.")


# ------------------------------------------------------------------------------------------------ notified once


@pytest.mark.costly
def test_its_begin_and_its_end_are_news_once_each_also_with_a_failure_in_between(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    assert told() == ["repository.incomparable"]
    since = row.incomparable_since
    sandbox.fault("error", "ecr:GetRepositoryPolicy", code="AccessDeniedException", times=1)
    sweep_all(ecr_configuration)
    assert Repository.objects.get().status == RepositoryStatus.FAILED
    for _ in range(2):
        sweep_all(ecr_configuration)
    assert told() == ["repository.incomparable"]
    assert Repository.objects.get().incomparable_since == since

    write(sandbox, POLICY)
    for _ in range(2):
        sweep_all(ecr_configuration)

    assert told() == ["repository.comparable", "repository.incomparable"]
    row = Repository.objects.get()
    assert (row.status, row.incomparable_since) == (RepositoryStatus.IN_SYNC, None)
    [begun] = [each for each in news.current_news(timezone.now()) if each.event == "repository.incomparable"]
    assert begun.subject == f"{row.project}: The repository policy cannot be compared"
    assert "Novelty" in begun.text


@pytest.mark.costly
def test_where_nothing_is_corrected_drift_before_and_after_it_are_news_of_their_own(
    project: Project, configure: Configure, sandbox: Sandbox
) -> None:
    observing = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_POLICY_MODE="observe",
    )
    ensure(project, observing)
    drifted = POLICY.replace(CLUSTER, "999999999999")
    expected: list[str] = []
    for text, new in (
        (drifted, ["repository.drifted"]),
        (UNKNOWN, ["repository.incomparable"]),
        (drifted, ["repository.comparable", "repository.drifted"]),
        (POLICY, []),
    ):
        write(sandbox, text)
        for _ in range(2):
            sweep_all(observing)
        expected += new

        assert told() == sorted(expected)


@pytest.mark.costly
def test_its_begin_and_its_end_are_a_line_of_the_log_also_where_the_status_stays(
    project: Project, configure: Configure, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    observing = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_POLICY_MODE="observe",
    )
    ensure(project, observing)
    drifted = POLICY.replace(CLUSTER, "999999999999")
    lines = []
    for text in (drifted, UNKNOWN, drifted):
        write(sandbox, text)
        for _ in range(2):
            sweep_all(observing)
        lines.append(sum(record.getMessage().startswith("repository.drifted") for record in caplog.records))
        caplog.clear()

    assert lines == [1, 1, 1]


@pytest.mark.costly
def test_a_refused_write_of_another_part_does_not_hide_it(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    Repository.objects.update(incomparable_since=None, details_checked_at=None)
    sandbox.client("ecr").delete_lifecycle_policy(repositoryName=row.name)
    sandbox.fault("error", "ecr:PutLifecyclePolicy", code="AccessDeniedException", times=1)

    sweep_all(ecr_configuration)

    row = Repository.objects.get()
    assert (row.status, row.incomparable_since is not None) == (RepositoryStatus.FAILED, True)


@pytest.mark.costly
def test_a_repository_that_is_gone_is_not_incomparable(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    delete_repository(sandbox, row.name)

    sweep_all(ecr_configuration)

    row = Repository.objects.get()
    assert (row.status, row.incomparable_since) == (RepositoryStatus.MISSING, None)


# ----------------------------------------------------------------------------------------------------- take over


@pytest.mark.costly
def test_taking_over_reads_writes_and_keeps_the_replaced_text(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    replaced = row.policy_text

    take_over(row, ecr_configuration)

    assert new_calls(sandbox) == {"GetRepositoryPolicy": 1, "SetRepositoryPolicy": 1}
    assert CLUSTER in str(live(sandbox))
    assert "Novelty" not in str(live(sandbox))
    row = Repository.objects.get()
    assert (row.status, row.differences, row.incomparable_since) == (RepositoryStatus.IN_SYNC, [], None)
    assert row.lease_until is None
    kept = row.events.filter(kind=EventKind.POLICY_APPLIED).latest("pk")
    assert (kept.policy_before, kept.cause) == (replaced, "ada@example.com")
    assert told() == ["repository.comparable", "repository.incomparable"]
    sandbox.reset_calls()
    sweep_all(ecr_configuration)
    assert "ecr:SetRepositoryPolicy" not in sandbox.calls()
    assert Repository.objects.get().status == RepositoryStatus.IN_SYNC


@pytest.mark.costly
def test_the_log_has_both_texts_before_the_write_and_the_result_with_the_row(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_over(row, ecr_configuration)

    lines = AuditEntry.objects.order_by("id")
    assert [(line.action, line.outcome) for line in lines] == [
        ("take_over_policy.repository", "begun"),
        ("take_over_policy.repository", "done"),
    ]
    assert "Novelty" in str(lines[1].before)
    assert CLUSTER in str(lines[1].after)


@pytest.mark.costly
def test_a_process_that_dies_after_the_write_leaves_the_line_the_text_and_a_repository_that_the_next_sweep_finishes(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(repositories.RepositoryLease, "finish", die)
        with pytest.raises(KeyboardInterrupt):
            take_over(row, ecr_configuration)

    assert AuditEntry.objects.get().outcome == "begun"
    assert "Novelty" in row.events.filter(kind=EventKind.POLICY_APPLIED).latest("pk").policy_before
    Repository.objects.update(lease_until=None)
    sweep_all(ecr_configuration)
    assert Repository.objects.get().status == RepositoryStatus.IN_SYNC
    assert told() == ["repository.comparable", "repository.incomparable"]


@pytest.mark.costly
def test_a_text_that_changed_since_the_page_was_shown_is_not_replaced_and_stands_on_the_row(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    write(sandbox, OTHER)

    with pytest.raises(Refusal) as refused:
        take_over(row, ecr_configuration)

    assert refused.value.code == "policy_changed"
    assert new_calls(sandbox) == LOOK
    assert live(sandbox) == json.loads(OTHER)
    assert json.loads(row.policy_text) == json.loads(OTHER)
    assert (row.status, row.lease_until) == (RepositoryStatus.DRIFTED, None)
    assert [line.outcome for line in AuditEntry.objects.all()] == [refused.value.sentence]
    take_over(row, ecr_configuration)  # after a second look
    assert "Novelty" not in str(live(sandbox))


@pytest.mark.costly
def test_a_default_policy_that_changed_since_the_page_was_shown_is_not_written(
    row: Repository, ecr_configuration: Configuration, configure: Configure, sandbox: Sandbox
) -> None:
    other = POLICY.replace(CLUSTER, "333333333333")
    changed = configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=other)

    with pytest.raises(Refusal) as refused:
        take_over(row, changed)

    assert refused.value.code == "policy_changed"
    assert new_calls(sandbox) == {}


def test_a_policy_that_can_be_compared_is_left_to_the_next_check(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    text = POLICY.replace(CLUSTER, "999999999999")
    write(sandbox, text)
    row.policy_text = text  # as an older version has left it, which could not compare this text

    with pytest.raises(Refusal) as refused:
        take_over(row, ecr_configuration)

    assert refused.value.code == "nothing_to_take_over"
    assert new_calls(sandbox) == {}


def test_without_a_default_policy_there_is_nothing_to_take_over(
    row: Repository, configure: Configure, sandbox: Sandbox
) -> None:
    for settings in ({"DEPLOY_REGISTRY_HOST": HOST}, {"DEPLOY_REGISTRY_HOST": HOST.replace("us-", "eu-")}):
        with pytest.raises(Refusal) as refused:
            take_over(row, configure(**settings))
        assert refused.value.code == "nothing_to_take_over"
    assert new_calls(sandbox) == {}


@pytest.mark.costly
def test_while_writes_are_paused_or_another_process_works_on_it_nothing_is_taken_over(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    pause = WritesPause.objects.create(paused_by="me", reason="a look")
    with pytest.raises(Refusal, match="paused by me"):
        take_over(row, ecr_configuration)
    pause.delete()
    assert repositories.claim(row) is not None
    with pytest.raises(Refusal, match="Another process is changing"):
        take_over(row, ecr_configuration)

    assert new_calls(sandbox) == LOOK


def test_a_failed_repository_stays_failed_and_is_not_incomparable_any_more(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    Repository.objects.update(status=RepositoryStatus.FAILED, last_error="AWS refused something.")

    take_over(row, ecr_configuration)

    row = Repository.objects.get()
    assert (row.status, row.incomparable_since) == (RepositoryStatus.FAILED, None)


@pytest.mark.costly
def test_a_replaced_text_is_put_back_unless_it_cannot_be_shown_closed(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    take_over(row, ecr_configuration)
    kept = row.events.filter(kind=EventKind.POLICY_APPLIED).latest("pk")
    with pytest.raises(Refusal, match="cannot be shown to be closed to the world") as refused:
        put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)
    assert refused.value.code == "policy_may_be_open"

    kept.policy_before = CLOSED
    sandbox.fault("newer_policies", times=1)
    put_back.put_back(event=kept, configuration=ecr_configuration, by="x", trail=TRAIL)

    assert live(sandbox) == json.loads(CLOSED)
    assert Repository.objects.get().incomparable_since is not None


# --------------------------------------------------------------------------------------------------------- pages


def person(*rights: str) -> Client:
    user = User.objects.create(username="-".join(rights) or "nobody", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=("view_repository", *rights)))
    client = Client()
    client.force_login(user)
    return client


def text_of(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return html.unescape(response.content.decode())


REPOSITORIES = "/admin/deployments/repository/"


@pytest.mark.costly
def test_the_pages_say_that_it_cannot_be_compared_and_may_be_open_and_offer_to_take_it_over(
    row: Repository, ecr_configuration: Configuration
) -> None:
    client = person("take_over_policy_repository")

    page = text_of(client, f"{REPOSITORIES}{row.pk}/change/")
    assert "policy cannot be compared" in page
    assert "The live policy cannot be shown closed, so it may be open to everyone." in " ".join(page.split())
    assert f'href="{REPOSITORIES}{row.pk}/take-over/"' in page
    assert "Differs in what it allows" not in page
    assert "In sync" not in page.replace("Last in sync", "")
    listed = text_of(client, f"{REPOSITORIES}?comparison=incomparable")
    assert row.name in listed
    assert "cannot be compared" in listed
    assert row.name not in text_of(client, f"{REPOSITORIES}?status=in_sync")
    [line] = csv.DictReader(b"".join(client.get(f"{REPOSITORIES}export.csv")).decode().splitlines())
    assert (line["status"], bool(line["incomparable_since"])) == ("drifted", True)
    assert "Novelty" in line["reason"]
    assert "Novelty" in text_of(client, "/admin/")
    [number] = [each.value for each in metrics.samples() if each.name == "policies_incomparable"]
    assert number == 1


@pytest.mark.costly
def test_a_closed_text_is_not_called_open(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox, project: Project
) -> None:
    write(sandbox, CLOSED)
    ensure(project, ecr_configuration, freshness=timedelta(0))

    page = text_of(person(), f"{REPOSITORIES}{row.pk}/change/")

    assert "policy cannot be compared" in page
    assert "cannot be shown closed, so it may be open to everyone" not in " ".join(page.split())
    assert "may be open" not in Repository.objects.get().differences[0].words
    assert "take-over" not in page


@pytest.mark.costly
def test_the_page_shows_both_texts_and_its_button_replaces_the_one_by_the_other(
    row: Repository, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    client = person("take_over_policy_repository")
    address = f"{REPOSITORIES}{row.pk}/take-over/"

    page = text_of(client, address)
    assert re.search(r'class="live">.*"Novelty": 1', page)
    assert re.search(rf'class="desired">.*{CLUSTER}:root', page)
    assert "Registry Admin will not restore it" in page
    assert new_calls(sandbox) == {}
    [shown] = re.findall(r'name="shown" value="([0-9a-f]{64})"', page)
    write(sandbox, OTHER)
    again = html.unescape(client.post(address, {"shown": shown}).content.decode())
    assert "is not the text that the page showed" in again
    assert '"Novelty": 2' in again
    assert live(sandbox) == json.loads(OTHER)
    [shown] = re.findall(r'name="shown" value="([0-9a-f]{64})"', again)
    assert client.post(address).status_code == 200  # without the texts that were shown nothing is written
    assert live(sandbox) == json.loads(OTHER)

    answer = client.post(address, {"shown": shown}, follow=True)

    assert answer.redirect_chain[-1][0] == f"{REPOSITORIES}{row.pk}/change/"
    assert "The default policy has replaced the policy." in answer.content.decode()
    assert "Novelty" not in str(live(sandbox))
    assert client.get(address).status_code == 302


@pytest.mark.costly
def test_taking_over_needs_its_own_right(row: Repository, ecr_configuration: Configuration, sandbox: Sandbox) -> None:
    client = person("adopt_repository", "restore_policy_repository", "reconcile_repository", "except_repository")
    address = f"{REPOSITORIES}{row.pk}/take-over/"
    shown = put_back.seen(live=row.policy_text, default=POLICY)

    assert client.get(address).status_code == 403
    assert client.post(address, {"shown": shown}).status_code == 403

    assert new_calls(sandbox) == {}
    assert not AuditEntry.objects.exists()
    assert "take-over" not in text_of(client, f"{REPOSITORIES}{row.pk}/change/")
