"""One repository is made what the configuration says, and stays so. Against a real socket, with every call counted."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connections
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from deployments.aws import clients, ecr, partitions
from deployments.config import Access, Configuration
from deployments.errors import RegistryError, registry_error
from deployments.models import (
    EventKind,
    ProcessRole,
    Project,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    SweepTrigger,
    WritesPause,
)
from deployments.reconcile import (
    generation,
    ownership,
    processes,
    registry_policies,
    repositories,
    sweep_record,
    sweeps,
    targets,
)
from sandbox.control import Sandbox
from tests.support.constants import A_MOMENT, CLUSTER, HOST, OWNER, POLICY
from tests.support.deploys import ensure
from tests.support.registry import delete_repository, new_calls

Configure = Callable[..., Configuration]


def made_by_hand(sandbox: Sandbox, name: str, **settings: Any) -> Any:
    client = sandbox.client("ecr")
    client.create_repository(repositoryName=name, **settings)
    sandbox.reset_calls()
    return client


def kinds(repository: Repository) -> list[str]:
    return list(RepositoryEvent.objects.filter(repository=repository).order_by("id").values_list("kind", flat=True))


# ------------------------------------------------------------------------------------------------------- creation


def test_a_first_deploy_takes_three_calls_and_leaves_everything_set_up(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    repository = ensure(project, ecr_configuration)

    assert new_calls(sandbox) == {"CreateRepository": 1, "PutLifecyclePolicy": 1, "SetRepositoryPolicy": 1}
    assert (repository.status, repository.origin) == (RepositoryStatus.IN_SYNC, "created")
    client = sandbox.client("ecr")
    [made] = client.describe_repositories(repositoryNames=[repository.name])["repositories"]
    assert made["imageTagMutability"] == "IMMUTABLE_WITH_EXCLUSION"
    assert made["imageTagMutabilityExclusionFilters"] == [{"filterType": "WILDCARD", "filter": "cache"}]
    assert made["encryptionConfiguration"]["encryptionType"] == "AES256"
    lifecycle = json.loads(client.get_lifecycle_policy(repositoryName=repository.name)["lifecyclePolicyText"])
    assert lifecycle["rules"][0]["selection"]["tagStatus"] == "untagged"
    assert lifecycle["rules"][0]["selection"]["countNumber"] == 3
    assert CLUSTER in client.get_repository_policy(repositoryName=repository.name)["policyText"]


def test_tags_and_a_kms_key_are_given_at_creation(project: Project, configure: Configure, sandbox: Sandbox) -> None:
    key = f"arn:aws:kms:us-east-1:{OWNER}:key/11111111-2222-3333-4444-555555555555"
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_TAGS="team=platform,bare",
        DEPLOY_REGISTRY_ECR_KMS_KEY=key,
    )

    repository = ensure(project, configuration)

    [made] = sandbox.client("ecr").describe_repositories(repositoryNames=[repository.name])["repositories"]
    tags = sandbox.client("ecr").list_tags_for_resource(resourceArn=made["repositoryArn"])["tags"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"team": "platform", "bare": ""}
    assert made["encryptionConfiguration"]["encryptionType"] == "KMS"


def test_without_a_policy_setting_nobody_gets_a_policy_and_the_repository_is_in_sync(
    project: Project, configure: Configure, sandbox: Sandbox
) -> None:
    repository = ensure(project, configure(DEPLOY_REGISTRY_HOST=HOST))

    assert new_calls(sandbox) == {"CreateRepository": 1, "PutLifecyclePolicy": 1}
    assert repository.status == RepositoryStatus.IN_SYNC


def test_a_repository_that_ecr_does_not_show_yet_is_waited_for(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.fault("not_found_after_create", "ecr:*", seconds=0.5)

    repository = ensure(project, ecr_configuration)

    assert repository.status == RepositoryStatus.IN_SYNC
    assert repository.policy_applied_at is not None


# ------------------------------------------------------------------------------------------------------- at rest


def test_a_verified_repository_is_not_asked_about_again_while_it_is_fresh(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, django_assert_num_queries: Any
) -> None:
    ensure(project, ecr_configuration)
    sandbox.reset_calls()

    with django_assert_num_queries(1):
        ensure(project, ecr_configuration)

    assert new_calls(sandbox) == {}


@pytest.mark.costly
def test_a_repository_that_is_not_fresh_costs_one_read_and_no_write(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    ensure(project, ecr_configuration)
    sandbox.reset_calls()

    repository = ensure(project, ecr_configuration, freshness=A_MOMENT)

    assert new_calls(sandbox) == {"GetRepositoryPolicy": 1}
    assert repository.status == RepositoryStatus.IN_SYNC


def test_details_are_looked_at_again_after_a_day(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    repository = ensure(project, ecr_configuration)
    Repository.objects.update(details_checked_at=Now() - timedelta(hours=25))
    sandbox.client("ecr").delete_lifecycle_policy(repositoryName=repository.name)
    sandbox.reset_calls()

    ensure(project, ecr_configuration, freshness=timedelta(0))

    assert new_calls(sandbox) == {
        "GetRepositoryPolicy": 1,
        "DescribeRepositories": 1,
        "GetLifecyclePolicy": 1,
        "ListTagsForResource": 1,
        "PutLifecyclePolicy": 1,
    }


def test_a_changed_setting_is_brought_to_an_existing_repository_at_the_next_deploy(
    project: Project, ecr_configuration: Configuration, configure: Configure, sandbox: Sandbox
) -> None:
    ensure(project, ecr_configuration)
    other = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY.replace(CLUSTER, "333333333333"),
        DEPLOY_REGISTRY_ECR_TAGS="team=platform",
    )
    sandbox.reset_calls()

    repository = ensure(project, other)

    made = new_calls(sandbox)
    assert (made["SetRepositoryPolicy"], made["TagResource"]) == (1, 1)
    assert "PutLifecyclePolicy" not in made
    assert repository.status == RepositoryStatus.IN_SYNC
    assert kinds(repository)[-3:] == [EventKind.DRIFT_FOUND, EventKind.HEALED, EventKind.CHANGED]


def test_a_setting_that_was_removed_deletes_nobodys_policy(
    project: Project, ecr_configuration: Configuration, configure: Configure, sandbox: Sandbox
) -> None:
    ensure(project, ecr_configuration)
    sandbox.reset_calls()

    repository = ensure(project, configure(DEPLOY_REGISTRY_HOST=HOST))

    assert not {"SetRepositoryPolicy", "DeleteRepositoryPolicy"} & set(new_calls(sandbox))
    assert CLUSTER in sandbox.client("ecr").get_repository_policy(repositoryName=repository.name)["policyText"]


@pytest.mark.costly
def test_a_policy_changed_behind_our_back_is_corrected_and_the_text_that_was_there_is_kept(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    repository = ensure(project, ecr_configuration)
    theirs = POLICY.replace(CLUSTER, "999999999999")
    sandbox.client("ecr").set_repository_policy(repositoryName=repository.name, policyText=theirs)
    sandbox.reset_calls()

    ensure(project, ecr_configuration, freshness=A_MOMENT)

    assert new_calls(sandbox) == {"GetRepositoryPolicy": 1, "SetRepositoryPolicy": 1}
    found, healed = RepositoryEvent.objects.filter(repository=repository).order_by("-id")[:2][::-1]
    assert (found.kind, healed.kind) == (EventKind.DRIFT_FOUND, EventKind.HEALED)
    assert "999999999999" in found.policy_before
    assert f"account {CLUSTER} loses pull" in found.message


def test_a_policy_that_only_reads_differently_is_never_written(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    repository = ensure(project, ecr_configuration)
    split = json.loads(POLICY)
    [statement] = split["Statement"]
    split["Statement"] = [{**statement, "Sid": action[4:], "Action": action} for action in statement["Action"]]
    sandbox.client("ecr").set_repository_policy(repositoryName=repository.name, policyText=json.dumps(split))
    sandbox.reset_calls()

    ensure(project, ecr_configuration, freshness=A_MOMENT)

    assert new_calls(sandbox) == {"GetRepositoryPolicy": 1}


# ------------------------------------------------------------------------------------------------------- adoption


def test_a_repository_that_exists_is_adopted_and_gets_what_it_lacks(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    made_by_hand(sandbox, f"trigger/{project.ref}", imageTagMutability="IMMUTABLE")

    repository = ensure(project, ecr_configuration)

    made = new_calls(sandbox)
    assert made["SetRepositoryPolicy"] == made["PutLifecyclePolicy"] == made["PutImageTagMutability"] == 1
    assert (repository.origin, repository.status) == ("adopted", RepositoryStatus.IN_SYNC)
    assert kinds(repository)[0] == EventKind.ADOPTED


def test_what_somebody_else_chose_on_an_adopted_repository_is_reported_and_left(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    client = made_by_hand(sandbox, f"trigger/{project.ref}", imageTagMutability="MUTABLE")
    theirs = ecr_configuration.v4.lifecycle_policy.replace('"countNumber": 3', '"countNumber": 30')
    client.put_lifecycle_policy(repositoryName=f"trigger/{project.ref}", lifecyclePolicyText=theirs)
    sandbox.reset_calls()

    repository = ensure(project, ecr_configuration)

    assert not {"PutLifecyclePolicy", "PutImageTagMutability"} & set(new_calls(sandbox))
    assert repository.status == RepositoryStatus.IN_SYNC
    assert {each.part: each.fixable for each in repository.differences} == {
        "lifecycle": False,
        "mutability": False,
    }


def test_an_operators_click_brings_an_adopted_repository_in_line_altogether(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    made_by_hand(sandbox, f"trigger/{project.ref}", imageTagMutability="MUTABLE")
    repository = ensure(project, ecr_configuration)

    assert ownership.take_over(row=repository, by="ada@example.com")
    assert not ownership.take_over(row=repository, by="ada@example.com")
    repository = ensure(project, ecr_configuration, freshness=timedelta(0))

    assert repository.mutability.mode == "IMMUTABLE_WITH_EXCLUSION"
    assert repository.differences == []


def test_a_repository_that_was_deleted_is_made_again_by_the_next_deploy(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    repository = ensure(project, ecr_configuration)
    delete_repository(sandbox, repository.name)

    repository = ensure(project, ecr_configuration, freshness=timedelta(0))

    assert repository.status == RepositoryStatus.IN_SYNC
    assert kinds(repository)[-4:-2] == [EventKind.MISSING, EventKind.CREATED]
    assert CLUSTER in sandbox.client("ecr").get_repository_policy(repositoryName=repository.name)["policyText"]


def test_a_create_whose_answer_was_lost_is_found_to_be_ours(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.fault("lost", "ecr:CreateRepository", times=1)

    repository = ensure(project, ecr_configuration)

    assert (repository.origin, repository.status) == ("created", RepositoryStatus.IN_SYNC)
    assert repository.policy_applied_at is not None


# -------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("match", "fault", "code", "retryable"),
    [
        ("ecr:CreateRepository", {"code": "AccessDeniedException"}, "AccessDeniedException", False),
        ("ecr:CreateRepository", {"code": "LimitExceededException"}, "LimitExceededException", False),
        ("ecr:SetRepositoryPolicy", {"code": "AccessDeniedException"}, "AccessDeniedException", False),
        ("ecr:PutLifecyclePolicy", {"code": "ServerException", "status": 500}, "ServerException", True),
        ("ecr:*", {"code": "ThrottlingException"}, "ThrottlingException", True),
        ("ecr:*", {"code": "ThrottleException"}, "ThrottleException", True),
        ("ecr:*", {"code": "UnrecognizedClientException"}, "UnrecognizedClientException", False),
    ],
)
def test_a_first_deploy_that_aws_refuses_ends_in_words_on_the_row_and_the_next_one_corrects_it(
    match: str,
    fault: dict[str, Any],
    code: str,
    retryable: bool,
    project: Project,
    ecr_configuration: Configuration,
    sandbox: Sandbox,
) -> None:
    sandbox.fault("error", match, **fault)

    with pytest.raises(RegistryError) as raised:
        ensure(project, ecr_configuration)

    row = Repository.objects.get()
    assert (raised.value.code, raised.value.retryable) == (code, retryable)
    assert (row.status, row.last_error_code, row.last_error_heals) == (RepositoryStatus.FAILED, code, retryable)
    assert row.last_error == str(raised.value)
    assert row.lease_until is None
    assert kinds(row)[-1] == EventKind.ERROR

    sandbox.clear_faults()
    row = ensure(project, ecr_configuration)

    assert (row.status, row.last_error) == (RepositoryStatus.IN_SYNC, "")
    client = sandbox.client("ecr")
    assert client.get_lifecycle_policy(repositoryName=row.name)
    assert CLUSTER in client.get_repository_policy(repositoryName=row.name)["policyText"]


def with_a_deny(**deny: Any) -> str:
    """The policy of the tests and a Deny of everything on policies."""
    document = json.loads(POLICY)
    document["Statement"].append({"Sid": "freeze", "Effect": "Deny", "Action": "ecr:*RepositoryPolicy"} | deny)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("prefix", "deny", "words"),
    [
        ("", {"Principal": "*"}, "denies ecr:SetRepositoryPolicy to this identity."),
        ("V4_", {"Principal": "*"}, "denies ecr:SetRepositoryPolicy to this identity."),
        (
            "",
            {"Principal": "*", "Condition": {"StringNotEquals": {"aws:SourceVpce": "vpce-12345678"}}},
            "may deny ecr:SetRepositoryPolicy to this identity",
        ),
    ],
)
def test_a_refused_policy_names_its_variable_and_the_statement_that_keeps_us_out(
    prefix: str, deny: dict[str, Any], words: str, project: Project, configure: Configure, sandbox: Sandbox
) -> None:
    name = f"{prefix}DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY"
    other = {"V4_DEPLOY_REGISTRY_NAMESPACE": "v4"} if prefix else {}
    refused = configure(DEPLOY_REGISTRY_HOST=HOST, **{name: with_a_deny(**deny)}, **other)

    with pytest.raises(RegistryError) as raised:
        ensure(project, refused)

    assert f"Correct {name}, then restart" in raised.value.sentence
    assert f"Statement “freeze” of that policy {words}" in raised.value.sentence
    assert Repository.objects.get().last_error == raised.value.sentence


def test_a_write_that_the_live_policy_denies_names_the_statement_of_the_live_policy(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    row = ensure(project, ecr_configuration)
    live = with_a_deny(Principal="*", Action="ecr:SetRepositoryPolicy")
    sandbox.client("ecr").set_repository_policy(repositoryName=row.name, policyText=live, force=True)

    row = ensure(project, ecr_configuration, freshness=timedelta(0))

    assert (row.status, row.last_error_code) == (RepositoryStatus.FAILED, "AccessDeniedException")
    assert "Statement “freeze” of the repository's present policy denies ecr:SetRepositoryPolicy" in row.last_error


@pytest.mark.parametrize(
    ("operation", "code", "variable"),
    [
        ("PutLifecyclePolicy", "InvalidParameterException", "DEPLOY_REGISTRY_ECR_LIFECYCLE_POLICY"),
        ("CreateRepository", "InvalidTagParameterException", "DEPLOY_REGISTRY_ECR_TAGS"),
        ("CreateRepository", "TooManyTagsException", "DEPLOY_REGISTRY_ECR_TAGS"),
        ("CreateRepository", "InvalidParameterException", "DEPLOY_REGISTRY_NAMESPACE"),
    ],
)
def test_an_error_about_a_text_names_the_variable_that_the_text_comes_from(
    operation: str, code: str, variable: str, project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.fault("error", f"ecr:{operation}", code=code, status=400)

    with pytest.raises(RegistryError, match=f"Correct {variable}, then restart"):
        ensure(project, ecr_configuration)


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        (POLICY.replace(f'"{CLUSTER}"', f'"arn:aws:iam::{CLUSTER}:role/not-there"'), RepositoryStatus.FAILED),
        (POLICY.replace('"Effect"', '"Resource": "*", "Effect"'), RepositoryStatus.DRIFTED),
        (
            POLICY.replace(f'"{CLUSTER}"', json.dumps([f"arn:aws:iam::{333333333000 + n}:root" for n in range(320)])),
            RepositoryStatus.FAILED,
        ),
    ],
    ids=["unknown role", "Resource", "too long"],
)
def test_a_policy_that_ecr_refuses_fails_the_first_deploy_and_later_only_marks_the_row(
    policy: str,
    left: str,
    project: Project,
    ecr_configuration: Configuration,
    configure: Configure,
    sandbox: Sandbox,
) -> None:
    refused = configure(DEPLOY_REGISTRY_HOST=HOST, DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=policy)

    with pytest.raises(RegistryError, match=r"SetRepositoryPolicy.*InvalidParameterException"):
        ensure(project, refused)

    assert Repository.objects.get().policy_applied_at is None
    ensure(project, ecr_configuration)
    repository = ensure(project, refused)  # it had a policy of ours before, so the deploy goes on

    assert repository.status == left
    if left == RepositoryStatus.FAILED:
        assert "InvalidParameterException" in repository.last_error
    else:  # a default policy that is not understood is never written over one that works
        assert repository.last_error == ""
        assert "not understood" in repository.differences[0].words
    assert CLUSTER in sandbox.client("ecr").get_repository_policy(repositoryName=repository.name)["policyText"]


@pytest.mark.parametrize("operation", ["GetRepositoryPolicy", "SetRepositoryPolicy"])
def test_a_failing_policy_call_on_a_repository_that_was_right_is_recorded_and_the_deploy_goes_on(
    operation: str, project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    repository = ensure(project, ecr_configuration)
    sandbox.client("ecr").delete_repository_policy(repositoryName=repository.name)
    sandbox.fault("error", f"ecr:{operation}", code="AccessDeniedException")

    repository = ensure(project, ecr_configuration, freshness=timedelta(0))

    assert repository.status == RepositoryStatus.FAILED
    assert f"Allow ecr:{operation}" in repository.last_error


@pytest.mark.costly
def test_a_wrong_external_id_is_a_fault_of_the_installation_and_says_which_settings_to_check(
    project: Project, configure: Configure, sandbox: Sandbox
) -> None:
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": OWNER},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"sts:ExternalId": "right"}},
            }
        ],
    }
    iam = sandbox.client("iam")
    iam.create_role(RoleName="registry", AssumeRolePolicyDocument=json.dumps(trust))
    allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ecr:*", "Resource": "*"}]}
    iam.put_role_policy(RoleName="registry", PolicyName="ecr", PolicyDocument=json.dumps(allow))
    variables = {
        "DEPLOY_REGISTRY_HOST": HOST,
        "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
        "DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN": f"arn:aws:iam::{OWNER}:role/registry",
    }

    with pytest.raises(RegistryError, match="EXTERNAL_ID") as raised:
        ensure(project, configure(**variables, DEPLOY_REGISTRY_ECR_ASSUME_ROLE_EXTERNAL_ID="wrong"))
    assert raised.value.installation
    assert "wrong" not in str(raised.value)

    sandbox.reset_calls()
    right = configure(**variables, DEPLOY_REGISTRY_ECR_ASSUME_ROLE_EXTERNAL_ID="right")
    ensure(project, right)
    ensure(project, right, freshness=timedelta(0))
    assert sandbox.calls()["sts:AssumeRole"] == 1


def test_no_credentials_are_a_fault_of_the_installation(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    clients.forget_clients()

    with pytest.raises(RegistryError, match="no AWS credentials") as raised:
        ensure(project, ecr_configuration)

    assert raised.value.installation
    assert Repository.objects.get().last_error_code == "NoCredentials"


def test_an_ecr_that_cannot_be_reached_is_said_and_heals(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    clients.forget_clients()

    with pytest.raises(RegistryError, match="cannot be reached") as raised:
        ensure(project, ecr_configuration)

    assert raised.value.retryable
    clients.forget_clients()


# ---------------------------------------------------------------------------------------------------- concurrency


def at_once(count: int, work: Callable[[], Any]) -> list[Any]:
    """Run `work` in threads that start together; the results, or what was raised."""
    results: list[Any] = []
    barrier = threading.Barrier(count)

    def run() -> None:
        try:
            barrier.wait(10)
            results.append(work())
        except Exception as error:
            results.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


@pytest.mark.costly
def test_sixteen_first_deploys_at_once_make_one_repository_with_three_calls(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.fault("latency", "ecr:*", seconds=0.02)

    results = at_once(16, lambda: ensure(project, ecr_configuration))

    assert [type(result) for result in results] == [Repository] * 16
    assert new_calls(sandbox) == {"CreateRepository": 1, "PutLifecyclePolicy": 1, "SetRepositoryPolicy": 1}


@pytest.mark.costly
def test_those_who_wait_for_a_deploy_that_fails_share_its_error_instead_of_trying_one_by_one(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.fault("latency", "ecr:*", seconds=0.2)
    sandbox.fault("error", "ecr:CreateRepository", code="AccessDeniedException")

    results = at_once(8, lambda: ensure(project, ecr_configuration))

    assert [type(result) for result in results] == [RegistryError] * 8
    assert new_calls(sandbox)["CreateRepository"] <= 2


def test_a_lease_left_by_a_dead_process_is_taken_over_when_it_has_run_out(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    repository = ensure(project, ecr_configuration)
    Repository.objects.update(lease_owner="dead", lease_until=Now() - timedelta(seconds=1), lease_epoch=41)

    repository = ensure(project, ecr_configuration, freshness=timedelta(0))

    assert (repository.lease_epoch, repository.status) == (42, RepositoryStatus.IN_SYNC)


def test_a_result_found_under_a_lease_that_was_taken_over_is_dropped(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    repository = ensure(project, ecr_configuration)
    lease = repositories.claim(repository)
    assert lease is not None
    Repository.objects.update(lease_epoch=lease.epoch + 1)  # another process holds it now

    assert not lease.finish({"status": RepositoryStatus.MISSING}, [])
    assert Repository.objects.get().status == RepositoryStatus.IN_SYNC


def test_no_call_is_made_late_in_the_lease(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(project, ecr_configuration)
    start = processes.clock()
    ticks = iter([start, start, start + 200])  # arrival, claim, first call: the machine was asleep
    monkeypatch.setattr(processes, "clock", lambda: next(ticks, start + 200))
    sandbox.reset_calls()

    repository = ensure(project, ecr_configuration, freshness=timedelta(0))

    assert new_calls(sandbox) == {}
    assert repository.last_error_code == "OutOfTime"


def test_aws_is_never_asked_while_a_transaction_is_open(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    from django.db import transaction

    with pytest.raises(RuntimeError, match="transaction is open"), transaction.atomic():
        ensure(project, ecr_configuration)

    assert new_calls(sandbox) == {}


# ------------------------------------------------------------------------------------------------------ observing


def test_observe_mode_never_changes_an_existing_repository_and_the_deploy_goes_on(
    project: Project, configure: Configure, sandbox: Sandbox
) -> None:
    made_by_hand(sandbox, f"trigger/{project.ref}")
    observing = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_POLICY_MODE="observe",
    )

    repository = ensure(project, observing)

    assert not {"SetRepositoryPolicy", "PutLifecyclePolicy", "TagResource"} & set(new_calls(sandbox))
    assert repository.status == RepositoryStatus.DRIFTED
    assert repository.drifted_since is not None


@pytest.mark.costly
def test_observe_mode_still_sets_up_what_it_creates_even_after_a_first_try_that_died_half_way(
    project: Project, configure: Configure, sandbox: Sandbox
) -> None:
    observing = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_POLICY_MODE="observe",
    )
    sandbox.fault("error", "ecr:SetRepositoryPolicy", code="ThrottlingException", times=3)
    with pytest.raises(RegistryError):
        ensure(project, observing)

    repository = ensure(project, observing)

    assert repository.status == RepositoryStatus.IN_SYNC


# ------------------------------------------------------------------------------------- consumers, exceptions, patience


def test_whether_the_consumer_accounts_may_pull_is_on_the_row_at_every_look(
    project: Project, configure: Configure, sandbox: Sandbox
) -> None:
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=f"{CLUSTER}, 333333333333",
    )
    registry_policies.look(targets.configured(configuration)[0].ecr())

    repository = ensure(project, configuration)
    assert {account: answer.verdict for account, answer in repository.consumers.items()} == {
        CLUSTER: "yes",
        "333333333333": "no",
    }

    Repository.objects.update(mode="observe", mode_until=Now() + timedelta(hours=1), mode_reason="being looked into")
    sandbox.client("ecr").delete_repository_policy(repositoryName=repository.name)
    repository = ensure(project, configuration, freshness=timedelta(0))
    assert repository.consumers[CLUSTER].verdict == "no"


def test_an_exception_for_one_repository_counts_until_it_ends(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    repository = ensure(project, ecr_configuration)
    sandbox.client("ecr").delete_repository_policy(repositoryName=repository.name)
    Repository.objects.update(mode="observe", mode_until=Now() + timedelta(hours=1), mode_reason="being looked into")
    sandbox.reset_calls()

    assert ensure(project, ecr_configuration, freshness=timedelta(0)).status == RepositoryStatus.DRIFTED
    assert "SetRepositoryPolicy" not in new_calls(sandbox)

    Repository.objects.update(mode_until=Now() - timedelta(seconds=1))
    assert ensure(project, ecr_configuration, freshness=timedelta(0)).status == RepositoryStatus.IN_SYNC


def test_an_exception_counts_by_the_databases_clock_also_where_a_deploy_decides_whether_it_goes_on(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = ensure(project, ecr_configuration)
    sandbox.client("ecr").delete_repository_policy(repositoryName=repository.name)
    exception = {"mode": "observe", "mode_until": Now() + timedelta(hours=1), "mode_reason": "being looked into"}
    Repository.objects.update(origin="adopted", policy_applied_at=None, **exception)
    ahead = datetime.now(UTC) + timedelta(hours=2)
    monkeypatch.setattr("django.utils.timezone.now", lambda: ahead)

    assert ensure(project, ecr_configuration, freshness=timedelta(0)).status == RepositoryStatus.DRIFTED


def test_a_principal_that_is_not_found_is_retryable_for_some_minutes_and_then_needs_somebody(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.fault("principal_not_found", times=3)

    with pytest.raises(RegistryError) as first:
        ensure(project, ecr_configuration)
    Repository.objects.update(error_since=Now() - timedelta(minutes=6))
    with pytest.raises(RegistryError) as second:
        ensure(project, ecr_configuration)

    assert (first.value.retryable, second.value.retryable) == (True, False)
    sandbox.clear_faults()
    assert ensure(project, ecr_configuration).error_since is None


# -------------------------------------------------------------------------------------------- repositories that vanish


@pytest.mark.slow
@pytest.mark.parametrize("code", ["LimitExceededException", "ThrottlingException"])
def test_a_repository_that_vanished_and_cannot_be_made_again_fails_the_deploy(
    code: str, project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    repository = ensure(project, ecr_configuration)
    delete_repository(sandbox, repository.name)
    sandbox.fault("error", "ecr:CreateRepository", code=code)

    with pytest.raises(RegistryError, match=code):
        ensure(project, ecr_configuration, freshness=timedelta(0))

    row = Repository.objects.get()
    assert (row.last_in_sync_at, row.policy_applied_at) == (None, None)
    sandbox.clear_faults()
    assert ensure(project, ecr_configuration).status == RepositoryStatus.IN_SYNC


@pytest.mark.costly
def test_the_policy_of_a_repository_that_vanished_is_kept_in_its_history(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    repository = ensure(project, ecr_configuration)
    theirs = POLICY.replace(CLUSTER, "999999999999")
    sandbox.client("ecr").set_repository_policy(repositoryName=repository.name, policyText=theirs)
    Repository.objects.update(policy_text=theirs)
    delete_repository(sandbox, repository.name)

    ensure(project, ecr_configuration, freshness=timedelta(0))

    gone = RepositoryEvent.objects.get(kind=EventKind.MISSING)
    assert "999999999999" in gone.policy_before


@pytest.mark.costly
@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_a_making_again_that_was_killed_in_the_middle_is_finished_by_the_next_deploy(
    mode: str, project: Project, configure: Configure, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_POLICY_MODE=mode,
    )
    repository = ensure(project, configuration)
    delete_repository(sandbox, repository.name)

    def die(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(repositories, "_write", die)  # right after CreateRepository was answered
        killed.setattr(repositories.RepositoryLease, "give_up", lambda lease: None)
        with pytest.raises(KeyboardInterrupt):
            ensure(project, configuration, freshness=timedelta(0))
    Repository.objects.update(lease_until=Now() - timedelta(seconds=1))  # the dead process's lease has run out

    repository = ensure(project, configuration, freshness=timedelta(0))

    assert (repository.status, repository.origin) == (RepositoryStatus.IN_SYNC, "created")
    assert CLUSTER in sandbox.client("ecr").get_repository_policy(repositoryName=repository.name)["policyText"]


@pytest.mark.costly
def test_in_observe_mode_a_repository_made_by_hand_after_our_create_was_refused_is_not_taken_for_ours(
    project: Project, configure: Configure, sandbox: Sandbox
) -> None:
    observing = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_POLICY_MODE="observe",
    )
    sandbox.fault("error", "ecr:CreateRepository", code="AccessDeniedException", times=1)
    with pytest.raises(RegistryError):
        ensure(project, observing)
    made_by_hand(
        sandbox,
        f"trigger/{project.ref}",
        imageTagMutability="IMMUTABLE_WITH_EXCLUSION",
        imageTagMutabilityExclusionFilters=[{"filterType": "WILDCARD", "filter": "cache"}],
    )

    repository = ensure(project, observing)

    assert repository.origin == "adopted"
    assert not {"SetRepositoryPolicy", "PutLifecyclePolicy"} & set(new_calls(sandbox))


@pytest.mark.costly
def test_a_policy_text_is_kept_even_where_the_row_had_failed_for_another_reason(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    repository = ensure(project, ecr_configuration)
    theirs = POLICY.replace(CLUSTER, "999999999999")
    sandbox.client("ecr").set_repository_policy(repositoryName=repository.name, policyText=theirs)
    stored = sandbox.client("ecr").get_repository_policy(repositoryName=repository.name)["policyText"]
    Repository.objects.update(status=RepositoryStatus.FAILED, policy_text=stored, last_error="another reason")

    ensure(project, ecr_configuration, freshness=timedelta(0))

    found = RepositoryEvent.objects.get(kind=EventKind.DRIFT_FOUND)
    assert "999999999999" in found.policy_before


@pytest.mark.costly
def test_a_discovered_repository_belongs_to_its_project_from_the_first_deploy_on(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    made_by_hand(sandbox, f"trigger/{project.ref}")
    Repository.objects.create(
        account=OWNER, region="us-east-1", name=f"trigger/{project.ref}", host=HOST, status=RepositoryStatus.UNMANAGED
    )

    ensure(project, ecr_configuration)

    assert Repository.objects.get().project == project


# ------------------------------------------------------------------------------------------------- the lease's guards


def row_of(project: Project, **values: Any) -> Repository:
    fields = {"account": OWNER, "region": "us-east-1", "name": f"trigger/{project.ref}", "host": HOST}
    row = Repository.objects.create(**fields, project=project)
    Repository.objects.filter(pk=row.pk).update(**values)
    row.refresh_from_db()
    return row


def test_a_lease_is_held_by_one_for_ninety_seconds(project: Project) -> None:
    row = row_of(project)

    assert repositories.claim(row) is not None
    assert repositories.claim(row) is None
    left = Repository.objects.annotate(left=F("lease_until") - Now()).values_list("left", flat=True).get()
    assert timedelta(seconds=85) < left <= timedelta(seconds=90)


def test_a_lease_whose_row_could_not_be_read_is_given_back(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_of(project)

    def broken(*arguments: Any, **options: Any) -> Any:
        raise OperationalError("the database went away")

    with monkeypatch.context() as away:
        away.setattr("registry_admin.compiled_queries.Compiled.first", broken)
        with pytest.raises(OperationalError):
            repositories.claim(row)

    assert Repository.objects.get().lease_until is None
    assert repositories.claim(row) is not None


def test_who_lost_a_lease_neither_gives_it_back_nor_notes_anything_under_it(project: Project) -> None:
    row = row_of(project)
    lease = repositories.claim(row)
    assert lease is not None
    Repository.objects.update(lease_epoch=lease.epoch + 1)  # another process holds it now
    held = Repository.objects.get().lease_until

    lease.give_up()
    with pytest.raises(RegistryError) as raised:
        lease.note({"creating_since": Now()}, RepositoryEvent(repository=row, kind=EventKind.MISSING, message="x"))

    assert raised.value.code == "TakenOver"
    after = Repository.objects.get()
    assert (after.lease_until, after.creating_since) == (held, None)
    assert not RepositoryEvent.objects.exists()


@pytest.mark.parametrize(("seconds", "late"), [(44, False), (46, True)])
def test_no_call_starts_in_the_second_half_of_a_lease(
    project: Project, monkeypatch: pytest.MonkeyPatch, seconds: int, late: bool
) -> None:
    lease = repositories.claim(row_of(project))
    assert lease is not None
    monkeypatch.setattr(processes, "clock", lambda: lease.taken + seconds)

    if late:
        with pytest.raises(RegistryError) as raised:
            lease.require_time()
        assert (raised.value.code, raised.value.retryable) == ("OutOfTime", True)
    else:
        lease.require_time()


def test_the_leases_time_is_looked_at_after_a_sweeps_call_has_waited_for_its_turn(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ensure(project, ecr_configuration)
    sandbox.reset_calls()
    start = processes.clock()

    def turn() -> None:
        monkeypatch.setattr(processes, "clock", lambda: start + 50)

    result = repositories.reconcile(row=row, **looking(ecr_configuration, before_call=turn))

    assert result is not None
    assert result.error is not None
    assert (result.error.code, new_calls(sandbox)) == ("OutOfTime", {})


def looking(configuration: Configuration, **hooks: Any) -> dict[str, Any]:
    """The arguments of reconcile for a sweep or an event, without the row."""
    registry = partitions.registry_of(HOST)
    assert registry is not None
    return {
        "ecr": ecr.Ecr(registry=registry, access=Access(), **hooks),
        "config": configuration.v4,
        "desired_digest": configuration.desired_digest,
        "cause": "sweep",
        "enforce": configuration.enforce,
    }


def test_whatever_happens_in_a_look_the_lease_is_given_back(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(project, ecr_configuration)

    def die(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ecr.Ecr, "observe", die)
    with pytest.raises(KeyboardInterrupt):
        ensure(project, ecr_configuration, freshness=timedelta(0))

    assert Repository.objects.get().lease_until is None


@pytest.mark.parametrize("worked_on", [False, True])
def test_a_look_counts_only_while_nobody_has_worked_on_the_row_since(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, worked_on: bool
) -> None:
    row = ensure(project, ecr_configuration)
    told = looking(ecr_configuration)
    sandbox.client("ecr").delete_repository_policy(repositoryName=row.name)
    observation = told["ecr"].observe(row.name, details=False)
    if worked_on:  # a deploy corrects it between the sweep's look and the sweep's lease
        ensure(project, ecr_configuration, freshness=timedelta(0))
    sandbox.reset_calls()

    result = repositories.reconcile(row=row, observation=observation, **told)

    assert result is not None
    assert result.error is None
    assert new_calls(sandbox) == ({"GetRepositoryPolicy": 1} if worked_on else {"SetRepositoryPolicy": 1})


def test_a_result_that_came_too_late_is_answered_with_the_newer_one(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    row = ensure(project, ecr_configuration)

    def somebody_takes_over() -> None:
        Repository.objects.update(lease_epoch=F("lease_epoch") + 1, mode_reason="newer")

    result = repositories.reconcile(row=row, **looking(ecr_configuration, before_call=somebody_takes_over))

    assert result is not None
    assert result.repository.mode_reason == "newer"
    assert Repository.objects.get().last_checked_at == row.last_checked_at


# ------------------------------------------------------------------------------------------- what the row must not lose


def test_a_foreign_policy_is_in_the_history_before_it_is_overwritten(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ensure(project, ecr_configuration)
    theirs = POLICY.replace(CLUSTER, "999999999999")
    sandbox.client("ecr").set_repository_policy(repositoryName=row.name, policyText=theirs)

    def die(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ecr.Ecr, "set_policy", die)
    with pytest.raises(KeyboardInterrupt):
        ensure(project, ecr_configuration, freshness=timedelta(0))

    assert "999999999999" in RepositoryEvent.objects.latest("pk").policy_before


@pytest.mark.parametrize("operation", ["GetRepositoryPolicy", "SetRepositoryPolicy"])
def test_a_fault_of_the_whole_installation_stops_the_deploy_also_where_the_repository_was_right(
    operation: str, project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    row = ensure(project, ecr_configuration)
    sandbox.client("ecr").delete_repository_policy(repositoryName=row.name)
    sandbox.fault("error", f"ecr:{operation}", code="UnrecognizedClientException")

    with pytest.raises(RegistryError) as raised:
        ensure(project, ecr_configuration, freshness=timedelta(0))

    assert raised.value.installation


ADOPTABLE = {
    "imageTagMutability": "IMMUTABLE_WITH_EXCLUSION",
    "imageTagMutabilityExclusionFilters": [{"filterType": "WILDCARD", "filter": "cache"}],
}
TAGS = [{"Key": "team", "Value": "platform"}]


@pytest.mark.parametrize(
    ("choices", "began", "origin"),
    [
        ({"tags": TAGS}, 0, "created"),
        ({"tags": TAGS}, 50, "created"),  # AWS's clock may be a minute behind ours
        ({"tags": TAGS}, 70, "adopted"),  # it was there before our CreateRepository began
        ({}, 0, "adopted"),  # we would have tagged it
        ({"tags": [{"Key": "team", "Value": "other"}]}, 0, "adopted"),
        ({"tags": TAGS, "imageTagMutability": "IMMUTABLE"}, 0, "adopted"),
    ],
)
def test_a_repository_is_taken_for_ours_after_a_lost_answer_only_if_it_is_as_we_would_have_made_it_then(
    choices: dict[str, Any], began: int, origin: str, project: Project, configure: Configure, sandbox: Sandbox
) -> None:
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_TAGS="team=platform",
    )
    made = {**ADOPTABLE, **choices}
    if made["imageTagMutability"] == "IMMUTABLE":
        made.pop("imageTagMutabilityExclusionFilters")
    made_by_hand(sandbox, f"trigger/{project.ref}", **made)
    row_of(project, creating_since=Now() + timedelta(seconds=began))

    row = ensure(project, configuration)

    assert (row.origin, row.creating_since) == (origin, None)


def test_what_is_there_though_no_answer_of_ours_was_lost_is_somebody_elses(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    made_by_hand(sandbox, f"trigger/{project.ref}", **ADOPTABLE)

    assert ensure(project, ecr_configuration).origin == "adopted"


#: What a row says of the repository itself: nothing of it is true of another one of the same name.
OF_THE_OLD_ONE = (
    "origin", "management", "taken_over_at", "last_checked_at", "last_in_sync_at", "policy_applied_at",
    "policy_text", "lifecycle_is_ours", "lifecycle_previews", "details_checked_at", "consumers", "differences",
)  # fmt: skip


@pytest.mark.costly
@pytest.mark.parametrize("seen_by", ["a look", "a deploy that cannot make it again"])
def test_nothing_that_was_true_of_a_repository_that_is_gone_stays_on_its_row(
    seen_by: str, project: Project, configure: Configure, sandbox: Sandbox
) -> None:
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=CLUSTER,
    )
    row = ensure(project, configuration)
    Repository.objects.update(
        origin="adopted",
        taken_over_at=Now(),
        management="full",
        differences=[{"what": "tags", "words": "x"}],
        lifecycle_previews={"live": {"text": "x"}},
    )
    delete_repository(sandbox, row.name)
    row.refresh_from_db()
    assert all(getattr(row, name) for name in OF_THE_OLD_ONE)

    if seen_by == "a look":
        repositories.reconcile(row=row, **looking(configuration))
    else:
        sandbox.fault("error", "ecr:CreateRepository", code="LimitExceededException")
        with pytest.raises(RegistryError):
            ensure(project, configuration, freshness=timedelta(0))

    after = Repository.objects.get()
    kept = {name for name in OF_THE_OLD_ONE if getattr(after, name)}
    assert kept <= {"last_checked_at"}  # a look knows when it saw that it is gone
    assert after.status in (RepositoryStatus.MISSING, RepositoryStatus.FAILED)


# --------------------------------------------------------------------------------------------------------- said once


def test_a_correction_that_fails_again_and_again_adds_one_line_of_history_and_one_error(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    row = ensure(project, ecr_configuration)
    theirs = POLICY.replace(CLUSTER, "999999999999")
    sandbox.client("ecr").set_repository_policy(repositoryName=row.name, policyText=theirs)
    sandbox.fault("error", "ecr:SetRepositoryPolicy", code="AccessDeniedException")
    RepositoryEvent.objects.all().delete()

    for _ in range(3):
        ensure(project, ecr_configuration, freshness=timedelta(0))

    assert kinds(row) == [EventKind.DRIFT_FOUND, EventKind.ERROR]


def test_the_same_error_at_each_look_is_one_line_and_its_beginning_stays(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    row = ensure(project, ecr_configuration)
    sandbox.fault("error", "ecr:GetRepositoryPolicy", code="AccessDeniedException")
    RepositoryEvent.objects.all().delete()
    began = set()

    for _ in range(3):
        began.add(ensure(project, ecr_configuration, freshness=timedelta(0)).error_since)

    assert kinds(row) == [EventKind.ERROR]
    assert len(began) == 1
    sandbox.clear_faults()
    sandbox.fault("error", "ecr:GetRepositoryPolicy", code="InvalidParameterException")
    assert ensure(project, ecr_configuration, freshness=timedelta(0)).error_since not in began


@pytest.mark.costly
def test_drift_that_is_only_observed_is_one_line_however_often_it_is_looked_at_and_as_old_as_it_is(
    project: Project, configure: Configure, sandbox: Sandbox
) -> None:
    observing = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_POLICY_MODE="observe",
    )
    row = ensure(project, observing)
    client = sandbox.client("ecr")
    client.delete_repository_policy(repositoryName=row.name)
    RepositoryEvent.objects.all().delete()

    since = {ensure(project, observing, freshness=timedelta(0)).drifted_since for _ in range(3)}

    assert kinds(row) == [EventKind.DRIFT_FOUND]
    assert len(since) == 1
    client.set_repository_policy(repositoryName=row.name, policyText=POLICY.replace(CLUSTER, "999999999999"))
    assert ensure(project, observing, freshness=timedelta(0)).drifted_since in since
    assert kinds(row) == [EventKind.DRIFT_FOUND] * 2  # another drift is news


# ------------------------------------------------------------------------------------------------------------ limits


@pytest.mark.costly
@pytest.mark.parametrize(("minutes", "retryable"), [(4, True), (6, False)])
def test_an_error_that_is_retryable_for_a_while_has_five_minutes(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, minutes: int, retryable: bool
) -> None:
    sandbox.fault("principal_not_found", times=2)
    with pytest.raises(RegistryError):
        ensure(project, ecr_configuration)
    Repository.objects.update(error_since=Now() - timedelta(minutes=minutes))

    with pytest.raises(RegistryError) as raised:
        ensure(project, ecr_configuration)

    assert raised.value.retryable is retryable


@pytest.mark.parametrize(("hours", "looked_at"), [(1.4, False), (5.7, True)])
def test_every_part_is_looked_at_once_in_a_full_pass(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, hours: float, looked_at: bool
) -> None:
    ensure(project, ecr_configuration)
    Repository.objects.update(details_checked_at=Now() - timedelta(hours=hours))
    sandbox.reset_calls()

    ensure(project, ecr_configuration, freshness=A_MOMENT)

    assert ("GetLifecyclePolicy" in new_calls(sandbox)) is looked_at


@pytest.mark.costly
def test_repositories_that_were_read_together_are_due_one_after_the_other(ecr_configuration: Configuration) -> None:
    read_at, digest = timezone.now(), ecr_configuration.desired_digest
    rows = [Repository(pk=pk, details_checked_at=read_at, checked_digest=digest) for pk in range(1, 801)]

    def due(hours: float) -> int:
        now = read_at + timedelta(hours=hours)
        return sum(
            repositories.details_due(row, config=ecr_configuration.v4, desired_digest=digest, now=now) for row in rows
        )

    assert [due(hours) for hours in (1.4, 5.63)] == [0, 800]
    shares = [due(1.5 + minutes / 60) - due(1.5 + (minutes - 10) / 60) for minutes in range(10, 240, 10)]
    assert min(shares) >= 20, shares  # of 24 in ten minutes
    assert max(shares) <= 52, shares  # with those whose turn came soon after they were read


def test_a_deploy_that_always_wants_a_look_looks_at_everything(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    row = ensure(project, ecr_configuration)
    sandbox.client("ecr").delete_lifecycle_policy(repositoryName=row.name)

    ensure(project, ecr_configuration, freshness=timedelta(0))

    assert sandbox.client("ecr").get_lifecycle_policy(repositoryName=row.name)["lifecyclePolicyText"]


@pytest.mark.parametrize(("seconds", "found"), [(19, True), (60, False)])
def test_a_new_repository_has_twenty_seconds_to_be_seen(
    monkeypatch: pytest.MonkeyPatch, seconds: float, found: bool
) -> None:
    now = [1000.0]
    monkeypatch.setattr(processes, "clock", lambda: now[0])
    monkeypatch.setattr(
        "deployments.reconcile.repositories.time.sleep", lambda pause: now.__setitem__(0, now[0] + pause)
    )

    def call() -> str | RegistryError:
        if now[0] - 1000 >= seconds:
            return "seen"
        return registry_error("NotVisibleYet", operation="DescribeRepositories", name="x")

    assert (repositories._retry_while_not_found(call) == "seen") is found
    assert now[0] - 1000 <= 20


def test_a_drift_that_comes_back_is_in_the_history_again(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    row = ensure(project, ecr_configuration)
    theirs = POLICY.replace(CLUSTER, "999999999999")
    RepositoryEvent.objects.all().delete()

    for _ in range(2):
        sandbox.client("ecr").set_repository_policy(repositoryName=row.name, policyText=theirs)
        ensure(project, ecr_configuration, freshness=timedelta(0))

    assert kinds(row) == [EventKind.DRIFT_FOUND, EventKind.HEALED] * 2


def test_that_a_repository_is_gone_is_one_line_however_often_it_is_looked_for(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    row = ensure(project, ecr_configuration)
    delete_repository(sandbox, row.name)
    RepositoryEvent.objects.all().delete()

    for _ in range(3):
        row.refresh_from_db()
        repositories.reconcile(row=row, **looking(ecr_configuration))

    assert kinds(row) == [EventKind.MISSING]


def test_a_create_that_was_killed_before_its_answer_is_found_to_be_ours(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = ecr.Ecr.create

    def die(*arguments: Any, **options: Any) -> None:
        create(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(ecr.Ecr, "create", die)
        with pytest.raises(KeyboardInterrupt):
            ensure(project, ecr_configuration)

    assert ensure(project, ecr_configuration).origin == "created"


@pytest.mark.parametrize(("code", "remembered"), [("ServerException", True), ("LimitExceededException", False)])
def test_a_create_whose_error_may_have_hidden_a_success_is_remembered(
    code: str, remembered: bool, project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.fault("error", "ecr:CreateRepository", code=code, status=500 if remembered else 400)

    with pytest.raises(RegistryError):
        ensure(project, ecr_configuration)

    assert (Repository.objects.get().creating_since is not None) is remembered


# --------------------------------------------------------------------------------- not visible yet, so not missing


def stored(row: Repository) -> dict[str, Any]:
    """The row without its lease, which every look takes and returns."""
    found = Repository.objects.get(pk=row.pk)
    return {each.attname: getattr(found, each.attname) for each in found._meta.fields if "lease_" not in each.attname}


def test_a_look_at_a_new_repository_that_ecr_does_not_show_yet_observes_nothing_and_records_nothing(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    row = ensure(project, ecr_configuration)
    before, history = stored(row), kinds(row)
    sandbox.fault("not_found_after_create", seconds=60)

    result = repositories.reconcile(row=row, **looking(ecr_configuration))

    assert result is not None
    assert result.error is not None
    assert (result.error.code, result.error.retryable) == ("NotVisibleYet", True)
    assert (stored(row), kinds(row)) == (before, history)
    assert Repository.objects.get().lease_until is None


@pytest.mark.parametrize(("age", "status"), [(15, RepositoryStatus.IN_SYNC), (25, RepositoryStatus.MISSING)])
def test_a_repository_that_ecr_does_not_find_counts_as_missing_when_our_last_write_is_twenty_seconds_old(
    age: int, status: RepositoryStatus, project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    row = ensure(project, ecr_configuration)
    delete_repository(sandbox, row.name)
    Repository.objects.update(written_at=Now() - timedelta(seconds=age))
    row.refresh_from_db()

    repositories.reconcile(row=row, **looking(ecr_configuration))

    assert Repository.objects.get().status == status


def test_a_repository_of_somebody_else_that_is_deleted_right_after_our_write_is_missing_at_once(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    client = made_by_hand(sandbox, f"trigger/{project.ref}")
    row = ensure(project, ecr_configuration)
    row.refresh_from_db()
    assert (row.origin, row.written_at is not None) == ("adopted", True)
    client.delete_repository(repositoryName=row.name, force=True)
    row.refresh_from_db()

    repositories.reconcile(row=row, **looking(ecr_configuration))

    assert Repository.objects.get().status == RepositoryStatus.MISSING


def test_a_second_deploy_waits_until_ecr_shows_the_new_repository_and_does_not_adopt_it_as_somebody_elses(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    row = ensure(project, ecr_configuration)
    history = kinds(row)
    sandbox.fault("not_found_after_create", seconds=3600, times=3)
    sandbox.reset_calls()

    again = ensure(project, ecr_configuration, freshness=timedelta(0))

    assert (again.status, again.origin, kinds(again)) == (RepositoryStatus.IN_SYNC, "created", history)
    assert not {"CreateRepository", "SetRepositoryPolicy"} & new_calls(sandbox).keys()


@pytest.mark.costly
def test_a_deploy_that_reads_a_new_repository_and_cannot_write_to_it_yet_writes_when_it_can(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ensure(project, ecr_configuration)
    sandbox.client("ecr").delete_repository_policy(repositoryName=row.name)
    set_policy, hidden = ecr.Ecr.set_policy, iter([True])

    def write(door: ecr.Ecr, name: str, text: str) -> None:
        if next(hidden, False):
            sandbox.fault("not_found_after_create", seconds=3600, times=1)
        set_policy(door, name, text)

    monkeypatch.setattr(ecr.Ecr, "set_policy", write)

    again = ensure(project, ecr_configuration, freshness=timedelta(0))

    assert (again.status, again.origin) == (RepositoryStatus.IN_SYNC, "created")
    assert CLUSTER in sandbox.client("ecr").get_repository_policy(repositoryName=row.name)["policyText"]
    assert EventKind.MISSING not in kinds(row)


def pause_writes(configuration: Configuration) -> None:
    WritesPause.objects.create(paused_by="somebody", reason="the policy names the wrong account")


def register_another(configuration: Configuration) -> None:
    generation.register(configuration, role=ProcessRole.WEB)


def lose_the_lease(configuration: Configuration) -> None:
    Repository.objects.update(lease_epoch=F("lease_epoch") + 1)


@pytest.mark.parametrize(
    ("happens", "code"),
    [(pause_writes, "WritesPaused"), (register_another, "ConfigurationChanged"), (lose_the_lease, "TakenOver")],
)
def test_what_stops_writes_between_two_tries_at_a_new_repository_stops_the_second_try(
    happens: Callable[[Configuration], None],
    code: str,
    project: Project,
    ecr_configuration: Configuration,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sandbox.fault("not_found_after_create", seconds=60)
    retry = repositories._retry_while_not_found

    def interrupted(call: Callable[[], Any]) -> Any:
        first = iter([happens])

        def attempt() -> Any:
            result = call()
            for each in first:
                each(ecr_configuration)
                sandbox.clear_faults()
            return result

        return retry(attempt)

    monkeypatch.setattr(repositories, "_retry_while_not_found", interrupted)

    with pytest.raises(RegistryError) as raised:
        ensure(project, ecr_configuration)

    assert raised.value.code == code
    assert new_calls(sandbox) == {"CreateRepository": 1, "PutLifecyclePolicy": 1, "SetRepositoryPolicy": 1}


# ------------------------------------------------------------------------------------- deleted between look and write


@pytest.fixture
def deleted_before_the_write(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Repository:
    """In sync; then somebody changes its policy, and deletes it when our look has seen that and our write has not come.

    The first write only: what is made again stays.
    """
    row = ensure(project, ecr_configuration)
    client, set_policy = sandbox.client("ecr"), ecr.Ecr.set_policy
    theirs = POLICY.replace(CLUSTER, "999999999999")
    client.set_repository_policy(repositoryName=row.name, policyText=theirs)
    deleted: list[str] = []

    def write(door: ecr.Ecr, name: str, text: str) -> None:
        if not deleted:
            delete_repository(sandbox, name)
            deleted.append(name)
        set_policy(door, name, text)

    monkeypatch.setattr(ecr.Ecr, "set_policy", write)
    sandbox.reset_calls()
    return row


@pytest.mark.costly
def test_a_deploy_makes_a_repository_again_that_was_deleted_before_its_write(
    deleted_before_the_write: Repository, project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    repository = ensure(project, ecr_configuration, freshness=timedelta(0))

    assert (repository.status, repository.origin, repository.last_error) == (RepositoryStatus.IN_SYNC, "created", "")
    client = sandbox.client("ecr")
    assert CLUSTER in client.get_repository_policy(repositoryName=repository.name)["policyText"]
    assert new_calls(sandbox)["CreateRepository"] == 1
    assert set(kinds(repository)[-5:]) == {"drift_found", "missing", "created", "changed", "policy_applied"}
    gone = RepositoryEvent.objects.get(kind=EventKind.MISSING)
    assert "999999999999" in gone.policy_before


def test_a_deploy_whose_repository_is_gone_and_cannot_be_made_again_is_refused(
    deleted_before_the_write: Repository, project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.fault("error", "ecr:CreateRepository", code="AccessDeniedException")

    with pytest.raises(RegistryError, match="CreateRepository"):
        ensure(project, ecr_configuration, freshness=timedelta(0))

    assert Repository.objects.get().last_in_sync_at is None


@pytest.mark.costly
def test_what_a_sweep_writes_to_a_repository_that_was_just_deleted_makes_it_missing_not_failed(
    deleted_before_the_write: Repository, project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON, names=[deleted_before_the_write.name])
    assert sweep is not None

    sweeps.work(configuration=ecr_configuration, seconds=10, sweep_id=sweep.pk)

    repository = Repository.objects.get()
    assert (repository.status, repository.last_error) == (RepositoryStatus.MISSING, "")
    finding = sweep.findings.get()
    words = "The repository was deleted from the registry. The next deploy recreates the repository."
    assert (finding.outcome, finding.words) == ("missing", words)
    assert "CreateRepository" not in new_calls(sandbox)


@pytest.mark.costly
@pytest.mark.parametrize("by_name", [True, False])
def test_a_repository_that_is_gone_keeps_the_history_that_the_next_one_does_not_inherit(
    by_name: bool, project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    before = ensure(project, ecr_configuration)
    Repository.objects.update(last_checked_at=Now() - timedelta(hours=1))
    delete_repository(sandbox, before.name)
    sweep = sweep_record.start(trigger=SweepTrigger.PERSON, names=[before.name] if by_name else [])
    assert sweep is not None

    sweeps.work(configuration=ecr_configuration, seconds=10, sweep_id=sweep.pk)

    row = Repository.objects.get()
    assert (row.status, row.origin, row.last_in_sync_at, row.policy_applied_at, row.lifecycle_is_ours) == (
        RepositoryStatus.MISSING,
        "",
        None,
        None,
        False,
    )
    assert row.last_checked_at is not None
    assert before.last_checked_at is not None
    assert row.last_checked_at >= before.last_checked_at  # it was looked for, and not found
    said = RepositoryEvent.objects.get(kind=EventKind.MISSING).message
    assert "created by Registry Admin" in said
    assert f"last in sync {before.last_in_sync_at:%d %b %Y, %H:%M} UTC" in said
    assert f"policy last verified {before.policy_applied_at:%d %b %Y, %H:%M} UTC" in said

    sandbox.reset_calls()
    assert ensure(project, ecr_configuration).status == RepositoryStatus.IN_SYNC
    assert new_calls(sandbox) == {"CreateRepository": 1, "PutLifecyclePolicy": 1, "SetRepositoryPolicy": 1}


def test_a_look_by_a_configuration_that_does_not_count_any_more_is_not_begun(
    project: Project, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    row = ensure(project, ecr_configuration)
    sandbox.reset_calls()

    assert repositories.reconcile(row=row, **{**looking(ecr_configuration), "activation": 99}) is None

    assert new_calls(sandbox) == {}
    assert Repository.objects.get().lease_until is None
