"""The doctor: each thing that can be wrong is found, named, and comes with the next step."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.test import Client
from django.utils import timezone

from deployments import config, doctor
from deployments.aws.values import Identity
from deployments.config import Configuration
from deployments.doctor import Level, Report, ReportLine
from deployments.models import AuditEntry, NotificationChannel, Process, ProcessRole
from deployments.reconcile import generation, targets, writes_pause
from sandbox.control import Sandbox
from tests.admin.markup import read
from tests.support import openid_provider
from tests.support.constants import CLUSTER, HOST, OWNER, POLICY, TRAIL

SETUP = "/admin/setup/"


def line(report: Report, what: str) -> ReportLine:
    found = [each for each in report.lines if each.what.startswith(what)]
    assert len(found) == 1, [each.what for each in report.lines]
    return found[0]


def failures(report: Report) -> list[str]:
    return [each.what for each in report.lines if each.level is Level.FAIL]


@pytest.fixture
def beating(transactional_db: None) -> Process:
    """A worker that is well."""
    return Process.objects.create(role=ProcessRole.WORKER, host="worker-1", pid=1)


@pytest.fixture
def plain(configure: Callable[..., Configuration]) -> Configuration:
    """An installation without ECR."""
    return configure()


# ---------------------------------------------------------------------------------------------------- on this machine


def test_a_sound_installation_has_nothing_to_complain_of(plain: Configuration, beating: Process) -> None:
    report = doctor.examine(configuration=plain)

    assert (failures(report), report.worst) == ([], Level.OK)
    assert "is not ECR" in line(report, "Registry").says
    assert line(report, "Worker on worker-1").level is Level.OK


@pytest.mark.costly
def test_without_a_worker_it_says_what_does_not_happen_and_which_command_helps(
    plain: Configuration, transactional_db: None
) -> None:
    found = line(doctor.examine(configuration=plain), "Heartbeat")

    assert found.level is Level.FAIL
    assert found.then == "python manage.py worker"


def test_a_worker_that_is_silent_is_no_worker(plain: Configuration, beating: Process) -> None:
    Process.objects.update(beat_at=timezone.now() - timedelta(minutes=10))

    assert failures(doctor.examine(configuration=plain)) == ["Heartbeat"]


def test_a_worker_that_was_started_again_is_a_warning_with_the_reason(plain: Configuration, beating: Process) -> None:
    Process.objects.update(restarts=3, trouble="2 of the cluster's processes died")

    report = doctor.examine(configuration=plain)

    assert report.worst is Level.WARN
    assert "restarted its cluster 3 times." in line(report, "Worker on worker-1").says
    assert "processes died" in line(report, "Worker on worker-1").says


def test_each_process_has_one_line_with_what_it_holds_and_its_last_heartbeat(
    plain: Configuration, beating: Process
) -> None:
    row = generation.register(plain, role=ProcessRole.WORKER)
    Process.objects.update(configuration=row, beat_at=timezone.now() - timedelta(seconds=40))
    Process.objects.create(role=ProcessRole.WEB, host="worker-1", pid=2, trouble="it died")
    Process.objects.create(role=ProcessRole.TASK, host="worker-1", pid=3)
    killed = Process.objects.create(role=ProcessRole.WEB, host="worker-1", pid=4)
    Process.objects.filter(pk=killed.pk).update(beat_at=timezone.now() - timedelta(minutes=59))
    older = Process.objects.create(role=ProcessRole.WEB, host="worker-1", pid=5)
    Process.objects.filter(pk=older.pk).update(beat_at=timezone.now() - timedelta(minutes=61))

    report = doctor.examine(configuration=plain)

    listed = {each.what: each for each in report.lines if "worker-1" in each.what + each.says}
    assert {what: each.level for what, each in listed.items()} == {
        "Web on worker-1, process 2": Level.WARN,
        "Worker on worker-1, process 1": Level.OK,
        "Web on worker-1, process 4": Level.WARN,
    }
    assert f"holds {row}" in listed["Worker on worker-1, process 1"].says
    assert "last heartbeat 4" in listed["Worker on worker-1, process 1"].says
    assert "without SIGTERM" in listed["Web on worker-1, process 4"].says


def test_a_message_that_waits_too_long_is_a_warning(
    plain: Configuration, beating: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.tasks.oldest_waiting", lambda: 600.0)

    assert line(doctor.examine(configuration=plain), "Queue").level is Level.WARN


def test_missing_migrations_are_named_and_the_rest_is_not_asked_of_such_a_database(
    plain: Configuration, transactional_db: None
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'deployments'")
    try:
        report = doctor.examine(configuration=plain)
    finally:
        call_command("migrate", fake=True, verbosity=0)

    assert line(report, "Migrations").then == "python manage.py migrate"
    assert "deployments.0001_initial" in line(report, "Migrations").says
    assert not [each for each in report.lines if each.part == "Worker"]


def test_a_database_that_does_not_answer_is_one_line_and_no_traceback(
    plain: Configuration, transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise DatabaseError("password=hunter2")

    with monkeypatch.context() as patch:  # the fixtures need the database again
        patch.setattr(connection, "ensure_connection", refuse)
        report = doctor.examine(configuration=plain)

    found = line(report, "Connection")
    assert found.level is Level.FAIL
    assert "DATABASE_URL" in found.then
    assert "hunter2" not in str(report)


@pytest.mark.costly
def test_a_clock_that_differs_from_the_databases_is_seen(
    plain: Configuration, beating: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    for offset, level in ((0.5, Level.OK), (5.0, Level.OK), (5.1, Level.WARN), (-60.0, Level.FAIL)):
        monkeypatch.setattr("deployments.reconcile.processes.clock_offset", lambda offset=offset: offset)
        found = [each for each in doctor.examine(configuration=plain).lines if each.what == "Clock"]
        assert [each.level for each in found] == [level]


def test_a_broken_policy_setting_is_a_line_with_its_example(beating: Process, settings: Any) -> None:
    settings.CONFIGURATION = config.load(
        {"DEPLOY_REGISTRY_HOST": HOST, "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": "{"}
    )

    report = doctor.examine(configuration=settings.CONFIGURATION)

    assert failures(report) == ["deployments.E001"]
    assert "Not JSON" in line(report, "deployments.E001").says
    assert "For example" in line(report, "deployments.E001").then
    assert line(report, "Registry").level is Level.SKIPPED


@pytest.mark.costly
def test_the_static_files_are_judged_by_who_comes(
    plain: Configuration,
    configure: Callable[..., Configuration],
    beating: Process,
    settings: Any,
    tmp_path: Path,
) -> None:
    settings.STATIC_ROOT = tmp_path
    assert line(doctor.examine(configuration=plain), "Static files").level is Level.OK
    public = configure(APP_ORIGIN="https://deploy.example.com")
    assert line(doctor.examine(configuration=public), "Static files").level is Level.WARN
    (tmp_path / "staticfiles.json").write_text("{")
    assert line(doctor.examine(configuration=public), "Static files").level is Level.FAIL
    (tmp_path / "staticfiles.json").write_text("{}")
    assert line(doctor.examine(configuration=public), "Static files").level is Level.OK


def test_a_part_that_breaks_is_a_line_of_its_own(
    plain: Configuration, beating: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> float:
        raise RuntimeError("tr_pat_secret")

    monkeypatch.setattr("deployments.tasks.oldest_waiting", broken)
    report = doctor.examine(configuration=plain)

    assert failures(report) == ["Worker"]
    assert "tr_pat_secret" not in str(report)
    assert line(report, "Registry").level is Level.OK


#: The writes that cannot create a repository.
WRITES = (
    "ecr:PutImageTagMutability", "ecr:PutLifecyclePolicy", "ecr:SetRepositoryPolicy", "ecr:StartLifecyclePolicyPreview",
    "ecr:TagResource",
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- at AWS


@pytest.mark.costly
def test_with_all_rights_every_read_is_allowed_and_nothing_is_written(
    ecr_configuration: Configuration, beating: Process, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        report = doctor.examine(configuration=ecr_configuration)

    assert "RepositoryNotFoundException" not in caplog.text  # it is what the doctor wants to be told
    assert failures(report) == []
    assert OWNER in line(report, "Identity").says
    for permission in ("ecr:GetRepositoryPolicy", "ecr:GetLifecyclePolicy", "ecr:BatchGetImage", *WRITES):
        assert line(report, f"{permission} ").level is Level.OK
    assert line(report, "Registry-wide policy").says == "The registry has no policy."
    assert "ecr:CreateRepository" in line(report, "Permissions to write").says
    tried = {call.partition(":")[2] for call in sandbox.calls()}
    assert {each for each in tried if each[:3] not in ("Get", "Des", "Bat", "Lis")} == {each[4:] for each in WRITES}
    assert sandbox.client("ecr").describe_repositories()["repositories"] == []


@pytest.mark.costly
def test_a_missing_permission_to_write_is_found_with_the_statement_to_add(
    ecr_configuration: Configuration, beating: Process, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for action in ("ecr:SetRepositoryPolicy", "ecr:GetLifecyclePolicy"):
        sandbox.fault("error", action, code="AccessDeniedException")

    report = doctor.examine(configuration=ecr_configuration)

    assert line(report, "ecr:SetRepositoryPolicy ").level is Level.FAIL
    assert line(report, "ecr:TagResource ").level is Level.OK
    assert json.loads(line(report, "Missing permissions").copy) == {
        "Effect": "Allow",
        "Action": ["ecr:GetLifecyclePolicy", "ecr:SetRepositoryPolicy"],
        "Resource": f"arn:aws:ecr:us-east-1:{OWNER}:repository/trigger/*",
    }


@pytest.mark.costly
def test_another_answer_to_a_tried_write_says_nothing_about_the_permission(
    ecr_configuration: Configuration, beating: Process, sandbox: Sandbox
) -> None:
    sandbox.fault("error", "ecr:PutLifecyclePolicy", code="InvalidParameterException")

    report = doctor.examine(configuration=ecr_configuration)

    found = line(report, "ecr:PutLifecyclePolicy ")
    assert (found.level, found.says.startswith("Not seen.")) == (Level.SKIPPED, True)
    assert not [each for each in report.lines if each.what.startswith("Missing permissions")]


@pytest.mark.costly
def test_no_write_is_tried_on_a_repository_that_exists_or_while_writes_are_paused(
    ecr_configuration: Configuration, beating: Process, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{ecr_configuration.v4.namespace}/taken"
    sandbox.client("ecr").create_repository(repositoryName=name)
    sandbox.reset_calls()

    with monkeypatch.context() as patch:
        patch.setattr(doctor, "_unused_name", lambda target: name)
        report = doctor.examine(configuration=ecr_configuration)

    assert line(report, "ecr:SetRepositoryPolicy ").level is Level.SKIPPED
    assert not {f"ecr:{each[4:]}" for each in WRITES} & set(sandbox.calls())

    writes_pause.pause(trail=TRAIL, reason="an incident")
    sandbox.reset_calls()
    report = doctor.examine(configuration=ecr_configuration)

    assert "paused" in line(report, "Permissions to write").says
    assert not {f"ecr:{each[4:]}" for each in WRITES} & set(sandbox.calls())


def test_a_clock_that_differs_from_awss_is_seen(ecr_configuration: Configuration) -> None:
    target = targets.configured(ecr_configuration)[0]
    for seconds, level in ((1, Level.OK), (60, Level.WARN), (-290, Level.FAIL)):
        identity = Identity(account=OWNER, arn="arn", at=timezone.now() - timedelta(seconds=seconds))
        assert [each.level for each in doctor._identity(target, "Identity", identity)] == [Level.OK, level]


def test_offline_asks_nobody(ecr_configuration: Configuration, beating: Process, sandbox: Sandbox) -> None:
    sandbox.reset_calls()

    report = doctor.examine(configuration=ecr_configuration, offline=True)

    assert sandbox.calls() == {}
    assert line(report, "AWS").level is Level.SKIPPED


def limited(sandbox: Sandbox, *actions: str) -> dict[str, str]:
    """The environment of a user of the owner's account who may do only this."""
    iam = sandbox.client("iam")
    iam.create_user(UserName="limited")
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": list(actions), "Resource": "*"}]}
    iam.put_user_policy(UserName="limited", PolicyName="some", PolicyDocument=json.dumps(document))
    key = iam.create_access_key(UserName="limited")["AccessKey"]
    return sandbox.environment((key["AccessKeyId"], key["SecretAccessKey"]))


@pytest.mark.costly
def test_each_right_that_is_missing_is_named_by_its_own_line(
    ecr_configuration: Configuration, beating: Process, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in limited(sandbox, "ecr:DescribeRepositories", "ecr:GetAuthorizationToken").items():
        monkeypatch.setenv(name, value)

    report = doctor.examine(configuration=ecr_configuration)

    assert sorted(each.partition(" ")[0] for each in failures(report) if each.startswith("ecr:")) == [
        "ecr:BatchGetImage",
        "ecr:DescribeImages",
        "ecr:GetLifecyclePolicy",
        "ecr:GetLifecyclePolicyPreview",
        "ecr:GetRepositoryPolicy",
        "ecr:ListImages",
        "ecr:ListTagsForResource",
        *WRITES,
    ]
    assert "user/limited" in line(report, "Identity").says
    assert "Allow ecr:GetRepositoryPolicy" in line(report, "ecr:GetRepositoryPolicy").says
    unread = line(report, "Registry-wide policy")
    assert unread.level is Level.WARN
    assert "Allow ecr:GetRegistryPolicy" in unread.then


PROBE = f"arn:aws:iam::{CLUSTER}:role/probe"


def probing(configure: Callable[..., Configuration], **more: str) -> Configuration:
    return configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_PROBE_ROLE_ARNS=PROBE,
        **more,
    )


def recorded(configuration: Configuration) -> ReportLine:
    return line(doctor.examine(configuration=configuration), "Recorded pulls")


@pytest.mark.costly
@pytest.mark.parametrize("by_pull_time", [False, True])
def test_a_probe_role_whose_pulls_are_recorded_is_named_with_the_command_that_excludes_it(
    configure: Callable[..., Configuration], beating: Process, sandbox: Sandbox, by_pull_time: bool
) -> None:
    archiving = {
        "rulePriority": 1,
        "selection": {"tagStatus": "any", "countType": "sinceImagePulled", "countUnit": "days", "countNumber": 90},
        "action": {"type": "transition", "targetStorageClass": "archive"},
    }
    lifecycle = {"DEPLOY_REGISTRY_ECR_LIFECYCLE_POLICY": json.dumps({"rules": [archiving]})} if by_pull_time else {}
    configuration = probing(configure, **lifecycle)
    sandbox.reset_calls()

    found = recorded(configuration)

    assert found.level is (Level.WARN if by_pull_time else Level.OK)
    assert PROBE in found.says
    assert found.then.endswith(
        f"aws ecr register-pull-time-update-exclusion --principal-arn {PROBE} --region us-east-1"
    )
    assert "ecr:RegisterPullTimeUpdateExclusion" not in sandbox.calls()

    sandbox.client("ecr").register_pull_time_update_exclusion(principalArn=PROBE)
    found = recorded(configuration)
    assert (found.level, found.then) == (Level.OK, "")


@pytest.mark.costly
def test_exclusions_that_may_not_be_read_are_not_seen(
    configure: Callable[..., Configuration], beating: Process, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in limited(sandbox, "ecr:DescribeRepositories").items():
        monkeypatch.setenv(name, value)

    found = recorded(probing(configure))

    assert found.level is Level.WARN
    assert "not seen" in found.says
    assert "ecr:ListPullTimeUpdateExclusions" in found.then


@pytest.mark.costly
def test_exclusions_of_another_accounts_registry_are_not_seen(
    configure: Callable[..., Configuration], beating: Process, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in sandbox.environment("cluster").items():
        monkeypatch.setenv(name, value)

    found = recorded(probing(configure))

    assert (found.level, found.says.startswith("Not seen")) == (Level.SKIPPED, True)


@pytest.mark.costly
def test_without_a_probe_role_the_doctor_does_not_ask_for_exclusions(
    ecr_configuration: Configuration, beating: Process, sandbox: Sandbox
) -> None:
    report = doctor.examine(configuration=ecr_configuration)

    assert not [each for each in report.lines if each.what.startswith("Recorded pulls")]
    assert "ecr:ListPullTimeUpdateExclusions" not in sandbox.calls()


@pytest.mark.costly
def test_credentials_that_aws_does_not_know_are_one_failure_and_not_ten(
    ecr_configuration: Configuration, beating: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN0EXAMPLE0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-secret-key")

    report = doctor.examine(configuration=ecr_configuration)

    assert failures(report) == [f"Identity for {OWNER}"]
    assert "hunter2" not in str(report)


@pytest.mark.costly
def test_an_account_that_is_not_the_registrys_is_a_warning(
    ecr_configuration: Configuration, beating: Process, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in sandbox.environment("cluster").items():
        monkeypatch.setenv(name, value)

    found = line(doctor.examine(configuration=ecr_configuration), "Identity")

    assert found.level is Level.WARN
    assert "ASSUME_ROLE_ARN" in found.then


@pytest.mark.costly
@pytest.mark.parametrize(
    ("effect", "scope", "resource", "level", "words"),
    [
        ("Deny", "V2", "*", Level.FAIL, "No of the registry policy denies it"),
        ("Deny", "V2", f"arn:aws:ecr:us-east-1:{OWNER}:repository/another/*", Level.OK, "does not decide"),
        ("Deny", "V1", "*", Level.OK, "does not decide"),
        ("Allow", "V2", "*", Level.OK, "does not decide"),
    ],
)
def test_what_the_registry_policy_does_to_the_consumers_pulls_is_evaluated(
    configure: Callable[..., Configuration],
    beating: Process,
    sandbox: Sandbox,
    effect: str,
    scope: str,
    resource: str,
    level: Level,
    words: str,
) -> None:
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=CLUSTER,
    )
    statement = {"Sid": "No", "Effect": effect, "Principal": {"AWS": CLUSTER}, "Action": "ecr:*", "Resource": resource}
    client = sandbox.client("ecr")
    client.put_registry_policy(policyText=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    client.put_account_setting(name="REGISTRY_POLICY_SCOPE", value=scope)

    found = line(doctor.examine(configuration=configuration), "Registry-wide policy")

    assert found.level is level
    assert f"scope {scope}" in found.says
    assert words in found.says


def test_consumers_are_held_against_the_policy_without_asking_aws(
    configure: Callable[..., Configuration], beating: Process
) -> None:
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS=f"{CLUSTER},333333333333",
    )

    report = doctor.examine(configuration=configuration, offline=True)

    assert line(report, f"Account {CLUSTER}").level is Level.OK
    assert line(report, "Account 333333333333").level is Level.FAIL
    assert "policy who" in line(report, "Account 333333333333").then


@pytest.mark.costly
def test_the_events_queue_is_asked_without_taking_a_message(
    configure: Callable[..., Configuration], beating: Process, sandbox: Sandbox
) -> None:
    url = sandbox.client("sqs").create_queue(QueueName="registry-admin")["QueueUrl"]
    sandbox.client("sqs").send_message(QueueUrl=url, MessageBody="{}")
    here = configure(DEPLOY_REGISTRY_HOST=HOST, RECONCILE_EVENTS_QUEUE_URL=url)
    gone = configure(DEPLOY_REGISTRY_HOST=HOST, RECONCILE_EVENTS_QUEUE_URL=f"{url}-gone")

    assert line(doctor.examine(configuration=here), "Events queue").level is Level.OK
    assert line(doctor.examine(configuration=gone), "Events queue").level is Level.FAIL
    left = sandbox.client("sqs").receive_message(QueueUrl=url, MessageSystemAttributeNames=["ApproximateReceiveCount"])
    assert left["Messages"][0]["Attributes"]["ApproximateReceiveCount"] == "1"


@pytest.mark.slow
def test_nobody_waits_for_an_aws_that_does_not_answer(
    ecr_configuration: Configuration, beating: Process, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor.examine(configuration=ecr_configuration)  # the clients are made now, which takes a busy machine long
    monkeypatch.setattr(doctor, "AWS_SECONDS", 1.5)
    sandbox.fault("latency", "ecr:GetLifecyclePolicy", seconds=6)
    began = time.monotonic()

    report = doctor.examine(configuration=ecr_configuration)

    assert time.monotonic() - began < 5
    assert line(report, "ecr:GetLifecyclePolicy ").level is Level.WARN
    assert line(report, "ecr:GetRepositoryPolicy ").level is Level.OK


# ------------------------------------------------------------------------------------------------------------ and mail


def test_mail_is_asked_for_only_where_a_channel_needs_it(plain: Configuration, beating: Process) -> None:
    assert line(doctor.examine(configuration=plain), "Mail server").level is Level.OK

    NotificationChannel.objects.create(name="people", kind="mail", address="mira@example.com")

    assert "EMAIL_URL" in line(doctor.examine(configuration=plain), "Mail server").then


def test_nothing_more_is_said_of_the_mail_server_when_its_url_is_malformed(beating: Process, settings: Any) -> None:
    NotificationChannel.objects.create(name="people", kind="mail", address="mira@example.com")
    settings.CONFIGURATION = config.load({"EMAIL_URL": "mail.example.com"})
    settings.MAIL_IS_CONFIGURED = False

    found = line(doctor.examine(configuration=settings.CONFIGURATION), "Mail server")

    assert (found.level, found.then) == (Level.SKIPPED, "Correct EMAIL_URL first.")


@pytest.mark.costly
def test_a_mail_server_that_is_not_there_is_a_failure(plain: Configuration, beating: Process, settings: Any) -> None:
    settings.MAIL_IS_CONFIGURED = True
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT, settings.EMAIL_HOST_PASSWORD = "127.0.0.1", 1, "hunter2"

    report = doctor.examine(configuration=plain)

    assert line(report, "Mail server").level is Level.FAIL
    assert "hunter2" not in str(report)
    assert line(doctor.examine(configuration=plain, offline=True), "Mail server").level is Level.SKIPPED


# ------------------------------------------------------------------------------------------------- the policy to paste


def test_the_policy_to_paste_is_the_documented_one_with_this_installations_names(
    configure: Callable[..., Configuration],
) -> None:
    configuration = configure(
        DEPLOY_REGISTRY_HOST="444444444444.dkr.ecr.cn-north-1.amazonaws.com.cn",
        DEPLOY_REGISTRY_NAMESPACE="deploys",
        RECONCILE_EVENTS_QUEUE_URL="https://sqs.cn-north-1.amazonaws.com.cn/444444444444/changes",
    )

    text = doctor.operator_policy(configuration)

    assert "111111111111" not in text
    assert "arn:aws-cn:ecr:cn-north-1:444444444444:repository/deploys/*" in text
    assert "arn:aws-cn:sqs:cn-north-1:444444444444:changes" in text
    assert "arn:aws-cn:sts::444444444444:federated-user/deployment_*" in text
    assert "ecr:SetRepositoryPolicy" in text


def test_the_policy_to_paste_names_the_roles_of_the_settings(configure: Callable[..., Configuration]) -> None:
    text = doctor.operator_policy(
        configure(
            DEPLOY_REGISTRY_HOST=HOST,
            DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN="arn:aws:iam::111111111111:role/ours",
            DEPLOY_REGISTRY_ECR_PUSH_ROLE_ARN="arn:aws:iam::111111111111:role/pusher",
        )
    )

    assert "role/ours" in text
    assert "role/pusher" in text
    assert "role/registry-admin" not in text
    assert "federated-user" not in text


def test_the_policy_to_paste_leaves_out_what_is_not_used_and_has_both_registries(
    configure: Callable[..., Configuration],
) -> None:
    other = HOST.replace("us-east-1", "eu-west-1")
    document = json.loads(doctor.operator_policy(configure(DEPLOY_REGISTRY_HOST=HOST, V4_DEPLOY_REGISTRY_HOST=other)))

    assert "ChangeEvents" not in {statement["Sid"] for statement in document["Statement"]}
    assert set(document["Statement"][0]["Resource"]) == {
        f"arn:aws:ecr:us-east-1:{OWNER}:repository/trigger/*",
        f"arn:aws:ecr:eu-west-1:{OWNER}:repository/trigger/*",
    }
    assert doctor.operator_policy(configure()) == ""


# -------------------------------------------------------------------------------------------------------- the command


def run(*arguments: str) -> tuple[str, int]:
    out = StringIO()
    try:
        call_command("doctor", *arguments, stdout=out, stderr=StringIO(), no_color=True)
    except SystemExit as end:
        return out.getvalue(), int(end.code or 0)
    return out.getvalue(), 0


@pytest.mark.costly
def test_the_command_ends_with_0_1_or_2(plain: Configuration, beating: Process) -> None:
    text, status = run("--offline")
    assert (status, "  ok    Worker on worker-1, process 1: Version" in text) == (0, True)

    Process.objects.update(trouble="it died", restarts=1)
    assert run("--offline")[1] == 0
    assert run("--offline", "--strict")[1] == 1

    Process.objects.all().delete()
    text, status = run("--offline")
    assert status == 2
    assert "→ python manage.py worker" in text


def test_the_command_speaks_json(plain: Configuration, beating: Process) -> None:
    told = json.loads(run("--offline", "--json")[0])

    assert told["fail"] == 0
    assert {"part", "what", "level", "says", "then", "copy"} == set(told["lines"][0])


def test_the_command_prints_the_policy_alone(ecr_configuration: Configuration) -> None:
    text, status = run("--iam-policy")

    assert (status, json.loads(text)["Version"]) == (0, "2012-10-17")


def test_without_ecr_there_is_no_policy_to_print(plain: Configuration) -> None:
    assert run("--iam-policy") == ("", 2)


# ----------------------------------------------------------------------------------------------------------- the page


@pytest.fixture
def browser(beating: Process) -> Client:
    user = User.objects.create(username="mira", email="mira@example.com", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_setup"))
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.costly
def test_looking_at_the_page_asks_aws_nothing_and_writes_nothing(
    browser: Client, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    sandbox.reset_calls()

    page = browser.get(SETUP)

    assert page.status_code == 200
    assert sandbox.calls() == {}
    assert not AuditEntry.objects.exists()
    html = page.content.decode()
    assert "The checks of settings, database and worker passed" in html
    assert "ecr:SetRepositoryPolicy" in html
    assert read(html).inline == []
    assert read(html).tokens == len([form for form in read(html).forms if form.get("method") == "post"])


@pytest.mark.costly
def test_the_button_asks_aws_and_the_audit_log_knows_who_pressed_it(
    browser: Client, ecr_configuration: Configuration, sandbox: Sandbox
) -> None:
    html = browser.post(SETUP).content.decode()

    assert "Every check that could be made passed" in html
    assert "ecr:GetRepositoryPolicy" in sandbox.calls()
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, (entry.after or {})["fail"]) == ("mira@example.com", "check.setup", 0)
    assert "by mira@example.com: 0 failed" in browser.get(SETUP).content.decode()


def test_the_page_is_in_the_navigation_of_those_who_may_see_it(browser: Client, plain: Configuration) -> None:
    assert SETUP in browser.get("/admin/").content.decode()
    nobody = Client()
    nobody.force_login(User.objects.create(username="nobody", is_staff=True))
    assert SETUP not in nobody.get("/admin/").content.decode()
    assert nobody.get(SETUP).status_code == 403
    assert nobody.post(SETUP).status_code == 403


def test_the_button_needs_a_token(browser: Client, plain: Configuration) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(username="mira"))

    assert strict.post(SETUP).status_code == 403
    assert browser.put(SETUP).status_code == 405


# ----------------------------------------------------------------------------------------------------- single sign-on


@pytest.mark.costly
def test_the_doctor_asks_the_provider_and_names_the_redirect_address(
    configure: Callable[..., Configuration], db: None
) -> None:
    with openid_provider.running() as provider:
        configuration = configure(
            APP_ORIGIN="https://deploy.example.com",
            SSO_ISSUER=provider.issuer,
            SSO_CLIENT_ID="registry-admin",
            SSO_GROUPS='{"staff": "viewer", "all": "viewers"}',
            PASSWORD_LOG_IN="0",
        )
        report = doctor.examine(configuration=configuration)
        assert line(report, "Provider").level is Level.OK
        assert "https://deploy.example.com/admin/single-sign-on/back/" in line(report, "Provider").says
        assert line(report, "Groups").says == "SSO_GROUPS gives groups that do not exist here: viewers."
        assert line(report, "Administrator").level is Level.WARN
        calls = provider.calls.total()

        assert line(doctor.examine(configuration=configuration, offline=True), "Provider").level is Level.SKIPPED
        assert provider.calls.total() == calls

    report = doctor.examine(configuration=configuration)
    assert line(report, "Provider").level is Level.FAIL
    assert "did not answer: no connection" in line(report, "Provider").says
