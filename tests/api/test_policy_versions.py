"""Roll-outs by the management API and by `manage.py policy`: each has the rights, the refusals and the audit lines."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.test import Client

from deployments.access import keys
from deployments.config import Configuration
from deployments.models import AuditEntry, PolicyVersion, Project, VersionState
from tests.support.cli import Answer, Cli
from tests.support.rollouts import ONE, THREE, TWO, allowing, newest, repositories_in_sync, started_with, work_off

pytestmark = pytest.mark.django_db(transaction=True)
ADDRESS = "/api/v1/manage/policy-versions"


def asked(client: Client, *rights: str) -> Any:
    user = User.objects.create(username=f"robot-{User.objects.count()}", is_staff=True)
    rights = ("view_project", *rights)  # without it, a management token reads nothing at all
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="deployments", codename__in=rights))
    cli = Cli(client, keys.make_user_token(user, for_management=True)[1])

    def send(method: str, path: str = "", body: object = None) -> Answer:
        return cli.send(method, ADDRESS + path, json.dumps(body if body is not None else {}), headers={})

    return send


def said(*arguments: str) -> str:
    out = StringIO()
    call_command("policy", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def waiting(ecr_configuration: Configuration, project: Project, settings: Any) -> PolicyVersion:
    """A version that takes the pull of an account away from two repositories."""
    own = started_with(ecr_configuration, allowing(ONE, TWO))
    repositories_in_sync(own, project, 2)
    settings.CONFIGURATION = started_with(ecr_configuration, allowing(ONE))
    return newest()


@pytest.mark.costly
def test_the_list_has_pages_and_a_version_has_its_text_its_differences_and_its_repositories(
    client: Client, waiting: PolicyVersion, settings: Any
) -> None:
    send = asked(client, "view_policyversion")

    first = send("GET", "?page[size]=1").body
    second = send("GET", f"?page[size]=1&page[after]={first['pagination']['next']}").body
    whole = send("GET", f"/{waiting.pk}").body

    assert [each["version"] for each in (*first["data"], *second["data"])] == [2, 1]
    assert second["pagination"] == {}
    assert (whole["state"], whole["steps"]) == ("waiting", [])
    assert whole["differences"] == [f"- account {TWO} loses pull"]
    assert json.loads(whole["policy"]) == json.loads(allowing(ONE))
    preview = send("GET", f"/{waiting.pk}/preview").body
    assert (preview["repositories"], preview["changed"], preview["unknown"]) == (2, 2, 0)
    assert preview["losses"] == [{"words": f"account {TWO} loses pull", "repositories": 2}]
    assert (preview["gains"], preview["environments"]) == ([], [])
    assert send("GET", "/987654321").status == send("GET", "/x").status == 404


@pytest.mark.costly
def test_a_roll_out_is_started_stopped_resumed_and_rolled_back(
    client: Client, waiting: PolicyVersion, settings: Any
) -> None:
    send = asked(client, "view_policyversion", "roll_out_policyversion", "undo_policyversion")

    def post(what: str, body: object = None) -> tuple[int, str]:
        answer = send("POST", f"/{waiting.pk}/{what}", body)
        return answer.status, answer.body.get("state", answer.body.get("code", ""))

    assert post("pause") == post("resume") == post("rollback") == (409, "version_state")
    assert post("start", {"atOnce": False}) == (200, "canaries")
    assert post("start") == (409, "version_state")
    assert post("pause", {"reason": "Not now."}) == (200, "stopped")
    assert post("resume") == (200, "canaries")
    assert work_off(settings.CONFIGURATION).state == VersionState.STOPPED
    assert post("rollback") == (200, "undoing")
    assert work_off(settings.CONFIGURATION).state == VersionState.UNDONE
    steps = send("GET", f"/{waiting.pk}").body["steps"]
    assert [step["state"] for step in steps] == ["undone"]
    lines = AuditEntry.objects.filter(outcome="done").order_by("pk").values_list("action", flat=True)
    assert list(lines) == ["start.version", "pause.version", "resume.version", "rollback.version"]


@pytest.mark.costly
@pytest.mark.parametrize(
    ("what", "right"),
    [
        ("", "view_policyversion"),
        ("/preview", "view_policyversion"),
        ("/start", "roll_out_policyversion"),
        ("/pause", "roll_out_policyversion"),
        ("/resume", "roll_out_policyversion"),
        ("/rollback", "undo_policyversion"),
    ],
)
def test_each_route_asks_for_its_right(client: Client, waiting: PolicyVersion, what: str, right: str) -> None:
    others = {"view_policyversion", "roll_out_policyversion", "undo_policyversion"} - {right}

    method = "GET" if what in ("", "/preview") else "POST"
    refused = asked(client, *others)(method, f"/{waiting.pk}{what}")
    allowed = asked(client, right)(method, f"/{waiting.pk}{what}")

    assert (refused.status, refused.body["code"]) == (403, "right_missing")
    assert allowed.status == 200 or allowed.body["code"] == "version_state"


@pytest.mark.costly
def test_the_commands_do_the_same(waiting: PolicyVersion, settings: Any) -> None:
    assert "manage.py policy start 2 [--now]" in said("versions")
    assert "Of 2 repositories, 2 would change" in said("preview", "2")
    assert f"- account {TWO} loses pull" in said("show", "2")
    said("start", "2")
    work_off(settings.CONFIGURATION)
    shown = said("show", "2")
    assert "stopped" in shown
    assert f"Account {TWO} could pull" in shown
    said("resume", "2")
    assert work_off(settings.CONFIGURATION).state == VersionState.ACTIVE
    said("rollback", "2")
    assert work_off(settings.CONFIGURATION).state == VersionState.UNDONE
    found = json.loads(said("versions", "--json"))
    assert [(each["version"], each["state"]) for each in found] == [(2, "undone"), (1, "active")]
    assert json.loads(said("show", "2", "--json"))["repositories"] == {"undone": 2}


@pytest.mark.costly
def test_a_command_ends_in_a_sentence(waiting: PolicyVersion) -> None:
    with pytest.raises(CommandError, match="There is no version 7"):
        said("start", "7")
    with pytest.raises(CommandError, match="is waiting for a person"):
        said("resume", "2")
    other = PolicyVersion(account="444444444444", region="eu-west-1", namespace="trigger", number=2)
    PolicyVersion.objects.create(
        account=other.account, region=other.region, namespace=other.namespace, number=2, text=waiting.text,
        state=VersionState.ACTIVE,
    )  # fmt: skip
    with pytest.raises(CommandError, match="--registry: 444444444444/eu-west-1/trigger, 111111111111/us-east-1/"):
        said("show", "2")
    assert "waits" in said("show", "2", "--registry", waiting.place)


@pytest.mark.costly
def test_the_start_of_a_process_the_doctor_and_the_metrics_say_that_a_version_waits(
    waiting: PolicyVersion, settings: Any, caplog: pytest.LogCaptureFixture, ecr_configuration: Configuration
) -> None:
    from deployments import doctor, metrics

    started_with(ecr_configuration, allowing(ONE))

    assert any("policy_version.needs_a_person" in record.getMessage() for record in caplog.records)
    lines = [line for line in doctor._which_counts(settings.CONFIGURATION) if line.what == "Default policy"]
    assert [line.then for line in lines] == ["manage.py policy start 2 [--now]"]
    samples = list(metrics.samples())
    numbers = {(each.labels["state"], each.value) for each in samples if each.name == "policy_version"}
    assert numbers == {("waiting", 2), ("active", 1)}
    stages = [
        (each.labels["version"], each.labels["state"], each.value) for each in samples if each.name == "rollout_stage"
    ]
    assert stages == [("2", "waiting", 0)]
    assert THREE not in lines[0].says
