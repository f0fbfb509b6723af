"""The registry policy is read once by each sweep, watched by events, and decides on every row who can pull."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from deployments.config import Configuration
from deployments.models import RegistryPolicyReading, Repository
from deployments.policy import RegistryPolicy
from deployments.reconcile import change_events, registry_policies, targets, why
from deployments.row_values import ConsumerPull
from sandbox.control import Sandbox
from tests.support.change_events import event, message
from tests.support.constants import CLUSTER, HOST, OWNER, POLICY
from tests.support.pull_messages import MESSAGES, NAME, NODE, RESOURCE
from tests.support.registry import calls, fill
from tests.support.sweeps import sweep_all

pytestmark = pytest.mark.django_db(transaction=True)


def deny(sandbox: Sandbox, resource: str = "*", sid: str = "Closed") -> None:
    statement = {"Sid": sid, "Effect": "Deny", "Principal": {"AWS": CLUSTER}, "Action": "ecr:*", "Resource": resource}
    text = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    sandbox.client("ecr").put_registry_policy(policyText=text)
    sandbox.reset_calls()


def verdicts() -> dict[str, tuple[str, str, str]]:
    """Repository → verdict, layer and statement for the cluster's account, as the rows have them."""
    found = {row.name: row.consumers[CLUSTER] for row in Repository.objects.all() if row.consumers}
    return {name: (each.verdict, each.layer, each.statement) for name, each in found.items()}


def seen() -> RegistryPolicy | None:
    return registry_policies.seen(account=OWNER, region="us-east-1")


def look(configuration: Configuration) -> registry_policies.Look:
    return registry_policies.look(targets.configured(configuration)[0].ecr())


def about_registry(operation: str, **detail: Any) -> str:
    parameters = {"name": "REGISTRY_POLICY_SCOPE"} if operation == "PutAccountSetting" else None
    return event(operation, "", **{"requestParameters": parameters, **detail})


# ----------------------------------------------------------------------------------------------------------- sweeps


@pytest.mark.costly
def test_a_sweep_reads_the_registry_policy_with_one_call_and_the_scope_only_where_there_is_one(
    consumers: Configuration, sandbox: Sandbox
) -> None:
    fill(sandbox, consumers, 20)

    sweep_all(consumers)
    assert calls(sandbox) == {"DescribeRepositories": 1, "GetRegistryPolicy": 1, "GetRepositoryPolicy": 20}
    assert set(verdicts().values()) == {("yes", "repository policy", "Statement[0]")}

    deny(sandbox)
    sweep_all(consumers)
    assert calls(sandbox) == {
        "DescribeRepositories": 1,
        "GetAccountSetting": 1,
        "GetRegistryPolicy": 1,
        "GetRepositoryPolicy": 20,
    }
    assert set(verdicts().values()) == {("no", "registry policy", "Closed")}
    row = RegistryPolicyReading.objects.get()
    assert (row.account, row.region, row.scope, row.error) == (OWNER, "us-east-1", "V2", "")
    assert row.read_at is not None


@pytest.mark.slow
def test_a_sweep_over_a_thousand_repositories_costs_one_call_more(consumers: Configuration, sandbox: Sandbox) -> None:
    fill(sandbox, consumers, 1000)

    sweep_all(consumers)

    assert calls(sandbox) == {"DescribeRepositories": 1, "GetRegistryPolicy": 1, "GetRepositoryPolicy": 1000}


def test_two_namespaces_of_one_registry_cost_one_call(
    configure: Callable[..., Configuration], sandbox: Sandbox
) -> None:
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_NAMESPACE="one",
        V4_DEPLOY_REGISTRY_HOST=HOST,
        V4_DEPLOY_REGISTRY_NAMESPACE="two",
    )
    assert len(targets.configured(configuration)) == 2

    sweep_all(configuration)

    assert calls(sandbox) == {"DescribeRepositories": 2, "GetRegistryPolicy": 1}


@pytest.mark.costly
def test_a_refresh_reads_it_too(consumers: Configuration, sandbox: Sandbox) -> None:
    fill(sandbox, consumers, 1)
    deny(sandbox)

    sweep_all(consumers, dry_run=True)

    assert calls(sandbox)["GetRegistryPolicy"] == 1
    assert set(verdicts().values()) == {("no", "registry policy", "Closed")}


@pytest.mark.costly
def test_a_statement_about_one_repository_changes_the_answer_of_that_one(
    consumers: Configuration, sandbox: Sandbox
) -> None:
    names = fill(sandbox, consumers, 3)
    deny(sandbox, f"arn:aws:ecr:us-east-1:{OWNER}:repository/{names[1]}")

    sweep_all(consumers)

    assert {name: verdict for name, (verdict, _, _) in verdicts().items()} == {
        names[0]: "yes",
        names[1]: "no",
        names[2]: "yes",
    }


@pytest.mark.costly
def test_a_sweep_corrects_an_answer_that_a_slower_process_wrote_by_an_older_reading(
    consumers: Configuration, sandbox: Sandbox
) -> None:
    fill(sandbox, consumers, 2)
    deny(sandbox)
    sweep_all(consumers)
    Repository.objects.update(consumers={CLUSTER: ConsumerPull(verdict="yes", words="By an older reading.")})

    sweep_all(consumers)

    assert {verdict for verdict, _, _ in verdicts().values()} == {"no"}


@pytest.mark.costly
def test_no_permission_to_read_it_makes_the_answer_unknown_and_the_sweep_ends_well(
    consumers: Configuration, sandbox: Sandbox
) -> None:
    fill(sandbox, consumers, 2)
    sweep_all(consumers)
    sandbox.fault("error", "ecr:GetRegistryPolicy", code="AccessDeniedException")

    sweep = sweep_all(consumers)

    assert sweep.status == "done"
    assert {verdict for verdict, _, _ in verdicts().values()} == {"unknown"}
    assert "ecr:GetRegistryPolicy" in RegistryPolicyReading.objects.get().error
    sandbox.clear_faults()
    sweep_all(consumers)
    assert {verdict for verdict, _, _ in verdicts().values()} == {"yes"}
    assert RegistryPolicyReading.objects.get().error == ""


def test_aws_not_answering_leaves_what_was_read_before(
    consumers: Configuration, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    deny(sandbox)
    before = look(consumers).policy
    sandbox.fault("error", "ecr:GetRegistryPolicy", code="ServerException")

    found = look(consumers)

    assert (found.policy, seen()) == (None, before)
    assert found.error is not None
    assert found.error.retryable


@pytest.mark.costly
def test_a_scope_that_may_not_be_read_leaves_a_deny_undecided(consumers: Configuration, sandbox: Sandbox) -> None:
    fill(sandbox, consumers, 1)
    deny(sandbox)
    sandbox.fault("error", "ecr:GetAccountSetting", code="AccessDeniedException")

    sweep_all(consumers)

    assert [*verdicts().values()] == [("depends", "registry policy", "Closed")]


def test_an_answer_about_another_accounts_registry_is_no_reading(
    consumers: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in sandbox.environment("cluster").items():
        monkeypatch.setenv(name, value)

    without = look(consumers)  # the cluster's own registry has no policy
    statement = {"Effect": "Allow", "Principal": {"AWS": OWNER}, "Action": "ecr:*", "Resource": "*"}
    sandbox.client("ecr", "cluster").put_registry_policy(policyText=json.dumps({"Statement": [statement]}))
    with_one = look(consumers)

    assert without.error is not None
    assert with_one.error is not None
    assert without.error.code == with_one.error.code == "ForeignRegistryPolicy"
    assert seen() is None


def test_an_older_reading_does_not_overwrite_a_newer_one(consumers: Configuration, sandbox: Sandbox) -> None:
    look(consumers)
    RegistryPolicyReading.objects.update(read_at=Now() + timedelta(minutes=1))
    deny(sandbox)

    look(consumers)

    assert seen() == RegistryPolicy(text="")


# ----------------------------------------------------------------------------------------------------------- events


@pytest.mark.costly
@pytest.mark.parametrize("operation", ["PutRegistryPolicy", "DeleteRegistryPolicy", "PutAccountSetting"])
def test_an_event_about_the_registry_evaluates_every_row_again_without_a_call_for_each(
    consumers: Configuration, sandbox: Sandbox, operation: str
) -> None:
    fill(sandbox, consumers, 5)
    client = sandbox.client("ecr")
    if operation != "PutRegistryPolicy":
        deny(sandbox)
    sweep_all(consumers)
    before = verdicts()
    if operation == "PutRegistryPolicy":
        deny(sandbox)
    elif operation == "DeleteRegistryPolicy":
        client.delete_registry_policy()
    else:
        client.put_account_setting(name="REGISTRY_POLICY_SCOPE", value="V1")
    sandbox.reset_calls()

    done = change_events.handle(configuration=consumers, messages=[message(about_registry(operation))])

    assert len(done) == 1
    assert set(calls(sandbox)) <= {"GetRegistryPolicy", "GetAccountSetting"}
    assert sum(calls(sandbox).values()) <= 2
    expected = "no" if operation == "PutRegistryPolicy" else "yes"
    assert {verdict for verdict, _, _ in verdicts().values()} == {expected}
    assert before != verdicts()


def test_an_event_is_tried_again_while_aws_does_not_answer(consumers: Configuration, sandbox: Sandbox) -> None:
    sandbox.fault("error", "ecr:GetRegistryPolicy", code="ServerException")
    told = [message(about_registry("PutRegistryPolicy"))]

    assert change_events.handle(configuration=consumers, messages=told) == []
    sandbox.clear_faults()
    assert change_events.handle(configuration=consumers, messages=told) == told


@pytest.mark.parametrize(
    "detail", [{"awsRegion": "eu-west-1"}, {"eventTime": "2020-01-01T00:00:00Z"}], ids=["another region", "older"]
)
def test_an_event_of_another_registry_or_from_before_the_reading_costs_no_call(
    consumers: Configuration, sandbox: Sandbox, detail: dict[str, Any]
) -> None:
    look(consumers)
    sandbox.reset_calls()
    told = [message(about_registry("PutRegistryPolicy", **detail))]

    assert change_events.handle(configuration=consumers, messages=told) == told

    assert calls(sandbox) == {}


def test_nothing_is_written_to_the_registry(consumers: Configuration, sandbox: Sandbox) -> None:
    deny(sandbox)

    look(consumers)

    assert set(calls(sandbox)) == {"GetRegistryPolicy", "GetAccountSetting"}


def test_a_change_is_one_line_of_the_log(
    consumers: Configuration, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    look(consumers)
    deny(sandbox)
    caplog.clear()
    caplog.set_level(logging.INFO)

    look(consumers)
    look(consumers)

    assert sum("registry_policy.changed" in record.getMessage() for record in caplog.records) == 1


# ------------------------------------------------------------------------------------------------- why a pull failed

NO_KIND = f"denied: User: {NODE} is not authorized to perform: ecr:BatchGetImage on resource: {RESOURCE}"
DENIED = next(each.text for each in MESSAGES if each.name == "explicit deny in a resource-based policy")


@pytest.mark.parametrize("text", [DENIED, NO_KIND], ids=["explicit deny", "no kind of policy"])
def test_a_deny_of_the_registry_policy_that_was_read_is_why_a_pull_failed_with_its_statement(
    text: str, consumers: Configuration, sandbox: Sandbox
) -> None:
    Repository.objects.create(
        account=OWNER, region="us-east-1", host=HOST, name=NAME, policy_text=POLICY, last_checked_at=Now()
    )
    deny(sandbox)
    look(consumers)

    answer = why.explain(text=text, configuration=consumers)

    assert (answer.layer, answer.certain) == (why.Layer.REGISTRY_POLICY, True)
    assert any("Closed of the registry policy denies it" in fact for fact in answer.facts)
    assert any("get-registry-policy" in step.command for step in answer.steps)
    assert any("the registry policy as read " in fact for fact in answer.facts)
    RegistryPolicyReading.objects.update(scope="V1")
    assert not why.explain(text=text, configuration=consumers).certain
    RegistryPolicyReading.objects.update(scope="V2", error="AWS does not show it.")
    unread = why.explain(text=text, configuration=consumers)
    assert not unread.certain
    assert f"The registry policy of account {OWNER} was not read." in unread.not_known
