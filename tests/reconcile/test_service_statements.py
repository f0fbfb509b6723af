"""The statements that AWS services have in a repository policy stay there, and everything beside them is corrected."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from deployments.config import Configuration
from deployments.errors import Refusal
from deployments.models import (
    AuditEntry,
    EventKind,
    Project,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    Sweep,
    SweepTrigger,
)
from deployments.policy import MAX_CHARACTERS
from deployments.reconcile import adopted_statements, change_events, put_back, repositories, targets, what_if
from sandbox.control import Sandbox
from tests.support.change_events import event, message
from tests.support.constants import CLUSTER, HOST, OWNER, POLICY, PULL, TRAIL
from tests.support.deploys import ensure
from tests.support.registry import calls, delete_repository, new_calls
from tests.support.service_statements import ADDED, OF_POLICY, add, bare, function_of, live, sids
from tests.support.sweeps import sweep_all, work_off

STRANGER = "999999999999"
LOOK = {"DescribeRepositories": 1, "GetRegistryPolicy": 1, "GetRepositoryPolicy": 1}
WRITE = LOOK | {"SetRepositoryPolicy": 1}
CROSS = function_of(CLUSTER, "LambdaECRImageCrossAccountRetrievalPolicy")


@pytest.fixture
def configuration(configure: Callable[..., Configuration], sandbox: Sandbox) -> Configuration:
    return configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=CLUSTER,
    )


@pytest.fixture
def row(project: Project, configuration: Configuration, sandbox: Sandbox) -> Repository:
    """A repository in sync."""
    row = ensure(project, configuration)
    sandbox.reset_calls()
    return row


@pytest.mark.costly
@pytest.mark.parametrize("statement", [bare(), CROSS, function_of(OWNER)])
def test_a_statement_that_lambda_adds_leaves_the_repository_in_sync_with_no_write(
    row: Repository, configuration: Configuration, sandbox: Sandbox, statement: dict[str, Any]
) -> None:
    add(sandbox, statement)

    for _ in range(2):
        sweep_all(configuration)

        assert new_calls(sandbox) == LOOK
        row.refresh_from_db()
        assert (row.status, row.differences) == (RepositoryStatus.IN_SYNC, [])
    assert statement["Sid"] in row.policy_text
    assert statement["Sid"] in sids(sandbox)
    assert row.consumers[CLUSTER].verdict == "yes"


@pytest.mark.costly
def test_drift_beside_it_is_corrected_with_one_write_that_keeps_it(
    row: Repository, configuration: Configuration, sandbox: Sandbox
) -> None:
    foreign = {"Sid": "Open", "Effect": "Allow", "Principal": {"AWS": STRANGER}, "Action": PULL}
    add(sandbox, CROSS, bare(), foreign, instead=True)

    sweep_all(configuration)

    assert new_calls(sandbox) == WRITE
    assert sids(sandbox) == ["", CROSS["Sid"], bare()["Sid"]]
    row.refresh_from_db()
    assert (row.status, row.differences, row.consumers[CLUSTER].verdict) == (RepositoryStatus.IN_SYNC, [], "yes")
    healed = row.events.get(kind=EventKind.HEALED)
    assert f"account {STRANGER} loses pull" in healed.message
    assert CROSS["Sid"] in row.policy_text
    assert "lambda" not in healed.message
    assert healed.message.endswith(f"Statements of others that are kept: {CROSS['Sid']}, {bare()['Sid']}.")
    sandbox.reset_calls()
    sweep_all(configuration)
    assert calls(sandbox) == LOOK


@pytest.mark.costly
@pytest.mark.parametrize(
    "statement",
    [
        function_of(STRANGER),
        bare("Another"),  # open to Lambda of every account
        ADDED,
        function_of(OWNER, Effect="Deny"),
    ],
)
def test_a_statement_for_a_foreign_account_for_every_account_or_that_may_change_the_policy_is_drift(
    row: Repository, configuration: Configuration, sandbox: Sandbox, statement: dict[str, Any]
) -> None:
    add(sandbox, statement, CROSS)

    sweep_all(configuration)

    assert new_calls(sandbox) == WRITE
    assert sids(sandbox) == ["", CROSS["Sid"]]


@pytest.mark.costly
def test_where_only_is_observed_drift_beside_it_is_shown_without_it_and_nothing_is_written(
    row: Repository, configure: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    observing = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=CLUSTER,
        DEPLOY_REGISTRY_ECR_POLICY_MODE="observe",
    )
    add(sandbox, CROSS, instead=True)

    sweep_all(observing)

    assert "SetRepositoryPolicy" not in calls(sandbox)
    row.refresh_from_db()
    [difference] = row.differences
    assert f"account {CLUSTER} loses pull" in difference.words
    assert "service" not in difference.words
    assert row.consumers[CLUSTER].verdict == "no"  # by the policy as it is


def test_a_deploy_writes_the_default_policy_and_keeps_what_a_service_added_before_it(
    project: Project, configuration: Configuration, sandbox: Sandbox
) -> None:
    name = f"trigger/{project.ref}"
    sandbox.client("ecr").create_repository(repositoryName=name)
    document = {"Version": "2008-10-17", "Statement": [function_of(OWNER)]}
    sandbox.client("ecr").set_repository_policy(repositoryName=name, policyText=json.dumps(document))

    row = ensure(project, configuration)

    assert row.status == RepositoryStatus.IN_SYNC
    assert sids(sandbox) == ["", "LambdaECRImageRetrievalPolicy"]
    assert "that are kept: LambdaECRImageRetrievalPolicy." in row.events.get(kind=EventKind.POLICY_APPLIED).message


@pytest.mark.costly
def test_two_services_that_write_at_once_both_keep_their_statements(
    row: Repository, configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(sandbox, CROSS, instead=True)  # our own statement is gone, so the next look writes
    ensured = ensure(row.project, configuration, freshness=timedelta(0))  # type: ignore[arg-type]
    add(sandbox, function_of(OWNER), instead=False)
    add(sandbox, {**function_of(OWNER, "Build"), "Principal": {"Service": "codebuild.amazonaws.com"}})

    sweep_all(configuration)

    assert ensured.status == RepositoryStatus.IN_SYNC
    assert calls(sandbox) == LOOK
    assert sids(sandbox) == ["", CROSS["Sid"], "LambdaECRImageRetrievalPolicy", "Build"]


@pytest.mark.costly
def test_a_statement_that_came_between_two_looks_is_in_the_text_that_the_second_one_writes(
    row: Repository, configuration: Configuration, sandbox: Sandbox
) -> None:
    sweep_all(configuration)
    seen = Repository.objects.get().policy_text
    add(sandbox, CROSS, instead=True)
    assert "lambda" not in seen

    ensure(row.project, configuration, freshness=timedelta(0))  # type: ignore[arg-type]

    assert sids(sandbox) == ["", CROSS["Sid"]]


def test_the_change_event_of_what_lambda_wrote_leads_to_one_look_and_no_write(
    row: Repository, configuration: Configuration, sandbox: Sandbox
) -> None:
    add(sandbox, CROSS)
    at = (timezone.now() + timedelta(minutes=1)).isoformat()

    change_events.handle(
        configuration=configuration, messages=[message(event("SetRepositoryPolicy", row.name, eventTime=at))]
    )

    assert calls(sandbox) == {"GetRepositoryPolicy": 1}
    row.refresh_from_db()
    assert (row.status, CROSS["Sid"] in row.policy_text) == (RepositoryStatus.IN_SYNC, True)


@pytest.mark.costly
def test_what_does_not_fit_beside_the_default_policy_is_not_written_and_the_row_says_what(
    project: Project, configure: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    sid = "A" * (MAX_CHARACTERS - len(POLICY) - 300)
    default = json.dumps({**json.loads(POLICY), "Id": sid})
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=default,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=CLUSTER,
    )
    ensure(project, configuration)
    name = Repository.objects.get().name
    many = [function_of(CLUSTER, f"Function{number}") for number in range(2)]
    text = json.dumps({"Version": "2012-10-17", "Statement": many})
    sandbox.client("ecr").set_repository_policy(repositoryName=name, policyText=text)
    sandbox.reset_calls()

    for _ in range(2):
        sweep_all(configuration)

    assert "ecr:SetRepositoryPolicy" not in sandbox.calls()
    row = Repository.objects.get()
    assert (row.status, row.last_error_code, row.last_error_heals) == (RepositoryStatus.FAILED, "PolicyTooLong", False)
    assert "Function0, Function1" in row.last_error
    assert f"ECR accepts {MAX_CHARACTERS:,}" in row.last_error
    assert row.events.exclude(policy_before="").count() == 1
    event = row.events.exclude(policy_before="").get()
    event.policy_before = default
    with pytest.raises(Refusal) as refused:
        put_back.put_back(event=event, configuration=configuration, by="x", trail=TRAIL)
    assert refused.value.code == "PolicyTooLong"
    assert "ecr:SetRepositoryPolicy" not in sandbox.calls()


@pytest.mark.costly
def test_putting_an_earlier_policy_back_keeps_the_statements_that_are_live_and_names_them_in_the_log(
    row: Repository, configuration: Configuration, sandbox: Sandbox
) -> None:
    earlier = POLICY.replace(CLUSTER, "333333333333")
    event = RepositoryEvent.objects.create(
        repository=row, kind=EventKind.HEALED, message="Healed.", policy_before=earlier
    )
    add(sandbox, CROSS)

    put_back.put_back(event=event, configuration=configuration, by="x", trail=TRAIL)

    assert new_calls(sandbox) == {"GetRepositoryPolicy": 1, "SetRepositoryPolicy": 1}
    assert sids(sandbox) == ["", CROSS["Sid"]]
    assert "333333333333" in str(live(sandbox))
    row.refresh_from_db()
    assert CROSS["Sid"] in row.policy_text
    assert CROSS["Sid"] in str(AuditEntry.objects.latest("pk").after)


@pytest.mark.costly
def test_the_page_shows_what_is_kept_by_name_with_its_service_its_account_and_its_warning(
    row: Repository, configuration: Configuration, sandbox: Sandbox, admin_client: Client
) -> None:
    add(sandbox, CROSS, bare())
    sweep_all(configuration)

    shown = " ".join(admin_client.get(f"/admin/deployments/repository/{row.pk}/change/").content.decode().split())

    kept = shown[shown.index("Statements of others") :]
    assert f"<code>{CROSS['Sid']}</code>: lambda.amazonaws.com may pull, for account {CLUSTER}." in kept
    assert "<code>LambdaECRImageRetrievalPolicy</code>: lambda.amazonaws.com may pull, without an account." in kept
    assert "It names no account, so it does not say for whose functions Lambda may pull." in kept
    assert "The same in what it allows" in shown
    event = RepositoryEvent.objects.create(
        repository=row, kind=EventKind.HEALED, message="Healed.", policy_before=POLICY.replace(CLUSTER, "333333333333")
    )
    page = admin_client.get(f"/admin/deployments/repository/{row.pk}/restore/{event.pk}/").content.decode()
    assert "Live statements of others are kept beside it." in page
    assert "account 333333333333 gains pull" in page
    assert "loses pull only when aws:SourceArn" not in page


@pytest.mark.costly
def test_another_default_policy_is_compared_with_what_would_be_live_then(
    row: Repository, configuration: Configuration, sandbox: Sandbox
) -> None:
    add(sandbox, CROSS, bare())
    sweep_all(configuration)
    [target] = targets.configured(configuration)

    same = what_if.rehearse(text=POLICY, target=target)
    assert (same.unchanged, same.changed, same.foreign) == (1, 0, 0)
    wider = POLICY.replace(f'"{CLUSTER}"', f'["{CLUSTER}", "333333333333"]')
    changed = what_if.rehearse(text=wider, target=target)
    assert changed.gains == [("account 333333333333 gains pull", 1)]
    assert changed.losses == []


# ------------------------------------------------------------------------------------------------------- adoption


def offered(configuration: Configuration) -> list[adopted_statements.Offer]:
    row = Repository.objects.get()
    [target] = targets.configured(configuration)
    return adopted_statements.offers(row, target, row.events.all())


def adopt(configuration: Configuration, offer: adopted_statements.Offer, *, shown: str = "", reason: str = "") -> Sweep:
    row = Repository.objects.get()
    return adopted_statements.adopt(
        row=row,
        key=offer.key,
        shown=shown or adopted_statements.seen(row, offer.key),
        reason=reason or "Functions of team billing",
        configuration=configuration,
        by="ada@example.com",
        trail=TRAIL,
    )


@pytest.mark.costly
def test_a_statement_that_may_change_the_policy_is_written_away_until_it_is_adopted_and_stays_then(
    row: Repository, configuration: Configuration, sandbox: Sandbox
) -> None:
    add(sandbox, ADDED, CROSS)
    sweep_all(configuration)
    assert sids(sandbox) == ["", CROSS["Sid"]]

    [offer] = offered(configuration)
    assert not offer.live  # from the history
    assert offer.statement.says.endswith(f"for account {OWNER}.")
    sweep = adopt(configuration, offer)
    work_off(configuration, sweep)
    add(sandbox, ADDED)
    sweep_all(configuration)

    assert calls(sandbox) == LOOK
    assert sids(sandbox) == ["", CROSS["Sid"], ADDED["Sid"]]
    row.refresh_from_db()
    assert row.status == RepositoryStatus.IN_SYNC
    assert offered(configuration) == []
    line = AuditEntry.objects.get(action="adopt_statement.repository")
    assert line.outcome == "done"
    assert "Functions of team billing" in str(line.after)
    assert "ecr:SetRepositoryPolicy" in str(line.after)
    assert row.events.filter(message__startswith="Adopted: the statement LambdaECR", cause="ada@example.com").exists()
    [target] = targets.configured(configuration)
    assert what_if.rehearse(text=POLICY, target=target).unchanged == 1

    add(sandbox, {**ADDED, "Action": [*ADDED["Action"], "ecr:BatchCheckLayerAvailability"]}, instead=True)
    sweep_all(configuration)
    assert sids(sandbox) == [""]  # another statement


@pytest.mark.costly
def test_two_operators_who_adopt_two_statements_at_once_both_keep_theirs(
    row: Repository, configuration: Configuration, sandbox: Sandbox
) -> None:
    add(sandbox, ADDED, {**ADDED, "Sid": "Another", "Action": OF_POLICY})
    Repository.objects.update(policy_text=json.dumps(live(sandbox)))
    first, second = offered(configuration)
    shown = adopted_statements.seen(Repository.objects.get(), second.key)  # before the first one is adopted

    adopt(configuration, first)
    work_off(configuration, adopt(configuration, second, shown=shown))

    assert sids(sandbox) == ["", ADDED["Sid"], "Another"]


@pytest.mark.costly
def test_an_adoption_ends_and_the_statement_is_drift_again(
    row: Repository, configuration: Configuration, sandbox: Sandbox
) -> None:
    add(sandbox, ADDED)
    Repository.objects.update(policy_text=json.dumps(live(sandbox)))
    [offer] = offered(configuration)
    assert offer.live
    work_off(configuration, adopt(configuration, offer))
    assert sids(sandbox) == ["", ADDED["Sid"]]

    sweep = adopted_statements.release(row=row, key=offer.key, by="ada@example.com", trail=TRAIL)
    work_off(configuration, sweep)

    assert sids(sandbox) == [""]
    assert "team billing" in str(AuditEntry.objects.get(action="release_statement.repository").before)
    with pytest.raises(Refusal) as refused:
        adopted_statements.release(row=row, key=offer.key, by="ada@example.com", trail=TRAIL)
    assert refused.value.code == "no_such_statement"


def test_a_text_that_changed_since_the_page_was_shown_no_reason_and_a_check_under_way_adopt_nothing(
    row: Repository, configuration: Configuration, sandbox: Sandbox
) -> None:
    add(sandbox, ADDED)
    Repository.objects.update(policy_text=json.dumps(live(sandbox)))
    [offer] = offered(configuration)
    shown = adopted_statements.seen(Repository.objects.get(), offer.key)
    Repository.objects.update(policy_text=json.dumps(live(sandbox), indent=1))

    refusals = []
    for arguments in ({"shown": shown}, {"reason": " "}):
        with pytest.raises(Refusal) as refused:
            adopt(configuration, offer, **arguments)
        refusals.append(refused.value.code)
    lease = repositories.claim(Repository.objects.get())
    assert lease is not None
    with pytest.raises(Refusal) as refused:
        adopt(configuration, offer)
    lease.give_up()
    with pytest.raises(Refusal) as gone:
        adopt(configuration, adopted_statements.Offer(statement=replace(offer.statement, text="{}"), live=True))

    assert [*refusals, refused.value.code, gone.value.code] == [
        "policy_changed", "statement_without_reason", "busy", "no_such_statement",
    ]  # fmt: skip
    found = Repository.objects.get()
    assert (found.adopted_statements, found.lease_until) == ([], None)
    assert AuditEntry.objects.filter(action="adopt_statement.repository").count() == 4
    assert not Sweep.objects.exists()


@pytest.mark.costly
@pytest.mark.parametrize("by_an_older_process", [False, True])
def test_an_adoption_does_not_outlast_the_repository(
    row: Repository, configuration: Configuration, sandbox: Sandbox, by_an_older_process: bool
) -> None:
    add(sandbox, ADDED)
    Repository.objects.update(policy_text=json.dumps(live(sandbox)))
    work_off(configuration, adopt(configuration, offered(configuration)[0]))
    adopted = Repository.objects.get().adopted_statements
    delete_repository(sandbox, row.name)
    sweep_all(configuration)
    assert Repository.objects.get().adopted_statements == []
    if by_an_older_process:  # which does not know the column
        Repository.objects.update(adopted_statements=adopted)
    sandbox.client("ecr").create_repository(repositoryName=row.name)
    text = json.dumps({"Version": "2012-10-17", "Statement": [ADDED]})
    sandbox.client("ecr").set_repository_policy(repositoryName=row.name, policyText=text)

    found = ensure(row.project, configuration, freshness=timedelta(0))  # type: ignore[arg-type]

    assert (sids(sandbox), found.adopted_statements) == ([""], [])


@pytest.mark.costly
@pytest.mark.parametrize(
    "state",
    [
        {"status": RepositoryStatus.UNMANAGED, "management": "unmanaged", "origin": ""},
        {"status": RepositoryStatus.MISSING, "management": "", "origin": ""},
    ],
)
def test_nothing_is_offered_for_a_repository_that_nobody_manages_or_that_is_gone(
    row: Repository, configuration: Configuration, sandbox: Sandbox, admin_client: Client, state: dict[str, str]
) -> None:
    add(sandbox, ADDED, CROSS)
    Repository.objects.update(policy_text=json.dumps(live(sandbox)))
    [offer] = offered(configuration)
    Repository.objects.update(**state)

    assert offered(configuration) == []
    with pytest.raises(Refusal) as refused:
        adopt(configuration, offer)
    assert refused.value.code == "no_such_statement"
    page = admin_client.get(f"/admin/deployments/repository/{row.pk}/change/").content.decode()
    assert "Statements of others" not in page


@pytest.mark.costly
@pytest.mark.parametrize("by_name", [False, True])
def test_an_adoption_does_not_outlast_a_repository_that_was_deleted_and_created_again_between_two_looks(
    row: Repository, configuration: Configuration, sandbox: Sandbox, by_name: bool
) -> None:
    add(sandbox, ADDED)
    Repository.objects.update(policy_text=json.dumps(live(sandbox)))
    work_off(configuration, adopt(configuration, offered(configuration)[0]))
    [adopted] = Repository.objects.get().adopted_statements
    an_hour_ago = replace(adopted, at=(timezone.now() - timedelta(hours=1)).isoformat())
    Repository.objects.update(adopted_statements=[an_hour_ago])
    text = json.dumps(live(sandbox))
    delete_repository(sandbox, row.name)
    sandbox.client("ecr").create_repository(repositoryName=row.name)
    sandbox.client("ecr").set_repository_policy(repositoryName=row.name, policyText=text)

    sweep_all(configuration, trigger=SweepTrigger.PERSON, names=[row.name] if by_name else [])

    row.refresh_from_db()
    assert (sids(sandbox), row.adopted_statements) == ([""], [])
    assert row.events.filter(message__contains=f"are no longer kept: {ADDED['Sid']}.").count() == 1


@pytest.mark.costly
def test_the_page_does_not_say_that_an_adopted_statement_is_not_there_or_stays_where_neither_is_known(
    row: Repository, configuration: Configuration, configure: Callable[..., Configuration], sandbox: Sandbox,
    admin_client: Client,
) -> None:  # fmt: skip
    def text() -> str:
        page = admin_client.get(f"/admin/deployments/repository/{row.pk}/change/", follow=True).content.decode()
        return " ".join(page.split())

    for_cluster = {**CROSS, "Action": ADDED["Action"]}
    add(sandbox, for_cluster)
    Repository.objects.update(policy_text=json.dumps(live(sandbox)))
    work_off(configuration, adopt(configuration, offered(configuration)[0]))
    absent, no_effect = "The live policy does not contain the statement.", "The adoption has no effect now"
    assert absent not in text()

    novel = json.dumps({"Version": "2012-10-17", "Statement": [for_cluster, {"Effect": "Allow", "Novelty": 1}]})
    Repository.objects.update(policy_text=novel, incomparable_since=timezone.now())
    assert "it is not known whether the policy contains the statement" in text()
    assert absent not in text()

    configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY)
    assert no_effect in text()
    assert absent not in text()


@pytest.mark.costly
def test_the_console_asks_for_a_reason_lets_a_statement_stay_and_no_longer(
    row: Repository, configuration: Configuration, sandbox: Sandbox, admin_client: Client, admin_user: User
) -> None:
    add(sandbox, ADDED)
    Repository.objects.update(policy_text=json.dumps(live(sandbox)), status=RepositoryStatus.DRIFTED)
    [offer] = offered(configuration)
    page = f"/admin/deployments/repository/{row.pk}/"
    address = f"{page}statement/?statement={offer.key}"

    def text(path: str) -> str:
        return " ".join(admin_client.get(path, follow=True).content.decode().split())

    assert "Keep the statement…" in text(f"{page}change/")
    question = text(address)
    assert "It also lets the service read, change or delete the repository policy." in question
    shown = adopted_statements.seen(Repository.objects.get(), offer.key)
    assert f'value="{shown}"' in question
    assert "This field is required." in admin_client.post(address, {"shown": shown}).content.decode()
    assert Repository.objects.get().adopted_statements == []

    admin_client.post(address, {"shown": shown, "reason": "OPS-1"})

    [adopted] = Repository.objects.get().adopted_statements
    assert (adopted.reason, adopted.by, adopted.name) == ("OPS-1", admin_user.email, ADDED["Sid"])
    work_off(configuration, Sweep.objects.latest("pk"))
    kept = text(f"{page}change/")
    assert "Stop keeping the statement…" in kept
    assert "OPS-1" in kept
    assert "Keep the statement…" not in kept
    answer = admin_client.post(address, {"shown": shown, "reason": "twice"}, follow=True).content.decode()
    assert "has no such statement" in answer  # a page that was shown before somebody adopted it ends no adoption

    admin_client.post(address, {"ends": "1"})

    assert Repository.objects.get().adopted_statements == []
    Repository.objects.update(policy_text=POLICY, adopted_statements=[adopted])
    assert "The live policy does not contain the statement." in text(f"{page}change/")
    assert "Stop keeping this statement?" in text(address)
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename="view_repository"))
    admin_client.force_login(viewer)
    assert "Stop keeping the statement…" not in text(f"{page}change/")
