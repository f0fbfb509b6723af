"""Notification channels in the admin: secrets shown once or never, a right for each button, a log of what was sent."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import Group, Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments.access.vault import Vault
from deployments.models import (
    AuditEntry,
    Deployment,
    Environment,
    NotificationChannel,
    NotificationDelivery,
    Project,
    PromotionEvent,
)
from deployments.notify import channels
from tests.admin.markup import read

CHANNELS, DELIVERIES = "/admin/deployments/notificationchannel/", "/admin/deployments/notificationdelivery/"
SLACK = "https://hooks.slack.com/services/T000/B000/verysecret"


@pytest.fixture
def admin(transactional_db: None) -> Client:
    """Somebody of the group admin, outside any transaction: what is sent is sent from none."""
    return browser_of("admin")


def browser_of(group: str) -> Client:
    user = User.objects.create(username=group, email=f"{group}@example.com", is_staff=True)
    user.groups.add(Group.objects.get(name=group))
    client = Client()
    client.force_login(user)
    return client


def form(**values: Any) -> dict[str, Any]:
    return {"name": "ops", "kind": "webhook", "address": "https://hooks.example.com/x", "enabled": "on", **values}


def page_of(channel: NotificationChannel, *more: str) -> str:
    return "/".join([f"{CHANNELS}{channel.pk}", *(more or ("change",)), ""])


def failed_deployment(environment: Environment) -> Deployment:
    return Deployment.objects.create(
        project=environment.project, environment=environment, content_hash="c", image_ref="h/one:t",
        version_day="20261126", version_number=1, status="FAILED", failed_at=timezone.now(),
        error={"message": "npm ci failed"},
    )  # fmt: skip


@pytest.mark.costly
def test_a_new_webhooks_secret_is_shown_once_and_signs(admin: Client) -> None:
    made = admin.post(f"{CHANNELS}add/", form(address="https://hooks.example.com/x?token=hunter2"))

    channel = NotificationChannel.objects.get()
    secret = Vault(django_settings.ENCRYPTION_KEYS).decrypt(
        channel.secret, context=channels.encryption_context(channel)
    )
    assert secret in made.content.decode()
    assert "no-store" in made["Cache-Control"]
    for address in (CHANNELS, page_of(channel), page_of(channel, "edit"), "/admin/deployments/auditentry/"):
        html = admin.get(address).content.decode()
        assert secret not in html
        assert channel.secret not in html
    assert "hunter2" not in admin.get(CHANNELS).content.decode() + admin.get(page_of(channel)).content.decode()
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.actor) == ("add.channel", "admin@example.com")
    assert "hunter2" not in json.dumps(entry.after)


@pytest.mark.costly
def test_a_slack_address_is_never_shown_again_and_kept_when_the_field_is_left_empty(admin: Client) -> None:
    admin.post(f"{CHANNELS}add/", form(kind="slack", address=SLACK))
    channel = NotificationChannel.objects.get()
    sealed = channel.secret

    admin.post(page_of(channel, "edit"), {"name": "chat", "address": "", "enabled": "on"})

    channel.refresh_from_db()
    assert (channel.name, channel.secret) == ("chat", sealed)
    assert Vault(django_settings.ENCRYPTION_KEYS).decrypt(sealed, context=channels.encryption_context(channel)) == SLACK
    for address in (CHANNELS, page_of(channel), page_of(channel, "edit")):
        assert "verysecret" not in admin.get(address).content.decode()
    assert not [entry for entry in AuditEntry.objects.all() if "verysecret" in json.dumps([entry.before, entry.after])]


def test_a_new_secret_is_made_when_it_is_asked_for_and_only_then(admin: Client) -> None:
    admin.post(f"{CHANNELS}add/", form())
    channel = NotificationChannel.objects.get()
    first = channel.secret

    admin.post(page_of(channel, "edit"), form(enabled=""))
    channel.refresh_from_db()
    assert (channel.secret, channel.enabled) == (first, False)

    shown = admin.post(page_of(channel, "edit"), form(new_secret="on"))
    channel.refresh_from_db()
    assert channel.secret != first
    assert "whsec_" in shown.content.decode()


def test_events_and_projects_are_ticked(admin: Client) -> None:
    project = Project.objects.create(name="Billing")
    Project.objects.create(name="Other")

    admin.post(f"{CHANNELS}add/", form(events=["deployment.failed", "worker.silent"], projects=[project.pk]))

    channel = NotificationChannel.objects.get()
    assert channel.events == ["deployment.failed", "worker.silent"]
    assert list(channel.projects.all()) == [project]
    html = admin.get(page_of(channel)).content.decode()
    assert "A deployment failed, A worker stopped responding" in html
    assert admin.get(page_of(channel, "edit")).content.decode().count(" checked") == 4  # two, a project, enabled


@pytest.mark.costly
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"address": "https://169.254.169.254/"}, "link-local"),
        ({"address": "https://10.0.0.1/"}, "private network"),
        ({"address": "http://hooks.example.com/"}, "https://"),
        ({"address": ""}, "is empty"),
        ({"kind": "slack", "address": "https://hooks.example.com/"}, "hooks.slack.com"),
        ({"kind": "mail", "address": "nobody"}, "mail addresses"),
        ({"kind": "pigeon"}, "Where do the messages go?"),
        ({"kind": "pagerduty", "integration_key": ""}, "Enter the integration key"),
        ({"kind": "pagerduty", "integration_key": "k" * 31}, "32 letters and digits"),
        ({"kind": "teams", "address": "https://10.0.0.1/"}, "private network"),
        ({"events": ["nothing.happened"]}, "valid choice"),
        ({"name": "taken"}, "There is a channel with this name"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_typed(values: dict[str, Any], words: str, admin: Client) -> None:
    NotificationChannel.objects.create(name="taken", kind="mail", address="mira@example.com")

    response = admin.post(f"{CHANNELS}add/", form(**values))

    assert response.status_code == 200
    assert any(part in response.content.decode() for part in words.split("|"))
    assert NotificationChannel.objects.count() == 1


def test_the_test_button_sends_one_message_and_says_the_result(
    admin: Client, mailoutbox: list[Any], settings: Any
) -> None:
    settings.MAIL_IS_CONFIGURED = True
    channel = NotificationChannel.objects.create(name="people", kind="mail", address="mira@example.com")

    page = admin.post(page_of(channel, "test"), follow=True).content.decode()

    assert "accepted by the mail server" in page
    assert len(mailoutbox) == 1
    assert "admin@example.com" in mailoutbox[0].body
    settings.MAIL_IS_CONFIGURED = False
    assert "EMAIL_URL" in admin.post(page_of(channel, "test"), follow=True).content.decode()
    outcomes = AuditEntry.objects.filter(action="test.channel").order_by("pk").values_list("outcome", flat=True)
    assert [outcome[:4] for outcome in outcomes] == ["begu", "done", "begu", "No m"]
    assert admin.get(page_of(channel, "test")).status_code == 405


@pytest.mark.costly
def test_a_new_channel_is_saved_and_tested_by_one_button_if_its_maker_may_send_tests(
    admin: Client, mailoutbox: list[Any], settings: Any
) -> None:
    settings.MAIL_IS_CONFIGURED = True
    mail = {"kind": "mail", "address": "mira@example.com"}
    assert f'href="{CHANNELS}add/?kind=mail"' in admin.get(CHANNELS).content.decode()
    assert "Save and send a test" in admin.get(f"{CHANNELS}add/?kind=mail").content.decode()

    said = admin.post(f"{CHANNELS}add/", form(**mail, test="1"), follow=True).content.decode()
    admin.post(f"{CHANNELS}add/", form(**mail, name="untested"))

    assert "accepted by the mail server" in said
    assert [each.channel.name for each in NotificationDelivery.objects.select_related("channel")] == ["ops"]
    User.objects.get().groups.clear()
    User.objects.get().user_permissions.add(Permission.objects.get(codename="add_notificationchannel"))
    assert "Save and send a test" not in admin.get(f"{CHANNELS}add/?kind=mail").content.decode()
    admin.post(f"{CHANNELS}add/", form(**mail, name="third", test="1"))
    assert (NotificationChannel.objects.count(), len(mailoutbox)) == (3, 1)


@pytest.mark.costly
@pytest.mark.parametrize("kind", ["webhook", "slack", "teams", "discord", "mattermost", "pagerduty", "mail"])
def test_each_kind_has_a_form_with_its_own_fields_and_a_preview_of_what_it_gets(
    kind: str, admin: Client, environment: Environment
) -> None:
    html = admin.get(f"{CHANNELS}add/?kind={kind}").content.decode()
    fields = {control.get("name") for control in read(html).controls}
    assert ("integration_key" in fields, "new_secret" in fields) == (kind == "pagerduty", False)
    address = {"slack": SLACK, "mail": "mira@example.com"}.get(kind, "https://hooks.example.com/one/two?key=hunter2")
    admin.post(f"{CHANNELS}add/", form(kind=kind, address=address, integration_key="K" * 32))
    channel = NotificationChannel.objects.get()
    assert channel.kind == kind

    nothing_yet = admin.get(page_of(channel, "preview")).content.decode()
    assert "this is the test message" in nothing_yet
    failed_deployment(environment)
    shown = admin.get(page_of(channel, "preview")).content.decode()

    assert "npm ci failed" in shown
    assert "deployment.failed" in shown
    assert not any(each in shown for each in ("K" * 32, "hunter2", "verysecret", "whsec_"))
    assert not NotificationDelivery.objects.exists()


@pytest.mark.costly
def test_a_preview_takes_the_same_queries_for_ten_promotions_as_for_one(operator: Client, installation: Any) -> None:
    deployed = list(Deployment.objects.filter(status="DEPLOYED")[:10])
    channel = NotificationChannel.objects.create(name="All", kind="webhook", address="https://hooks.example.com/one")

    def queries(rows: list[Deployment]) -> int:
        for row in rows:
            PromotionEvent.objects.create(environment=row.environment, deployment=row)
        with CaptureQueriesContext(connection) as captured:
            assert operator.get(page_of(channel, "preview")).status_code == 200
        return len(captured)

    queries([])
    assert queries(deployed[:1]) == queries(deployed[1:])


def test_pagerdutys_key_is_encrypted_and_kept_when_the_field_is_left_empty(admin: Client) -> None:
    admin.post(f"{CHANNELS}add/", form(kind="pagerduty", integration_key="K" * 32))
    channel = NotificationChannel.objects.get()
    context = channels.encryption_context(channel)
    vault = Vault(django_settings.ENCRYPTION_KEYS)
    assert vault.decrypt(channel.secret, context=context) == "K" * 32

    admin.post(page_of(channel, "edit"), form(address="", integration_key=""))
    channel.refresh_from_db()
    assert vault.decrypt(channel.secret, context=context) == "K" * 32

    admin.post(page_of(channel, "edit"), form(address="", integration_key="L" * 32))
    channel.refresh_from_db()
    assert vault.decrypt(channel.secret, context=context) == "L" * 32
    entries = [each.after or {} for each in AuditEntry.objects.all()]
    assert [each.get("new_integration_key") for each in entries] == [True, None, None]
    assert "LLLL" not in json.dumps(entries)


@pytest.mark.costly
def test_a_channel_for_mails_says_that_none_is_sent_without_a_mail_server(admin: Client, settings: Any) -> None:
    settings.MAIL_IS_CONFIGURED = False
    assert "EMAIL_URL" in admin.get(f"{CHANNELS}add/?kind=mail").content.decode()
    channel = NotificationChannel.objects.create(name="people", kind="mail", address="mira@example.com")
    assert "EMAIL_URL" in admin.get(page_of(channel)).content.decode()

    settings.MAIL_IS_CONFIGURED = True
    assert "EMAIL_URL" not in admin.get(f"{CHANNELS}add/?kind=mail").content.decode()
    assert "EMAIL_URL" not in admin.get(page_of(channel)).content.decode()


@pytest.mark.costly
def test_a_failed_message_is_sent_again_by_a_button_and_a_sent_one_is_not(admin: Client) -> None:
    channel = NotificationChannel.objects.create(name="people", kind="mail", address="mira@example.com")
    row = NotificationDelivery.objects.create(
        channel=channel, event="sweep.failed", subject="Sweeps fail", key="k", status="failed", attempts=4, answer="500"
    )
    again = f"{DELIVERIES}{row.pk}/again/"
    assert again in admin.get(f"{DELIVERIES}{row.pk}/change/").content.decode()

    assert admin.post(again).status_code == 302
    row.refresh_from_db()
    assert (row.status, row.attempts, row.answer) == ("waiting", 0, "")
    assert again not in admin.get(f"{DELIVERIES}{row.pk}/change/").content.decode()

    refused = admin.post(again, follow=True)
    assert "not failed any more" in refused.content.decode()
    outcomes = [(each.action, each.outcome == "done") for each in AuditEntry.objects.all()]
    assert outcomes == [("resend.delivery", False), ("resend.delivery", True)]
    assert browser_of("viewer").post(again).status_code == 403


def test_a_page_says_whether_a_message_that_did_not_arrive_is_sent_again(admin: Client) -> None:
    channel = NotificationChannel.objects.create(name="people", kind="slack", last_error="Answered 500.")
    assert "It is not retried automatically." in admin.get(page_of(channel)).content.decode()

    NotificationDelivery.objects.create(channel=channel, event="sweep.failed", subject="s", key="k", attempts=1)
    assert "after 1, 5 and 30 minutes" in admin.get(page_of(channel)).content.decode()


def test_deleting_takes_the_log_with_it_and_asks_first(admin: Client) -> None:
    channel = NotificationChannel.objects.create(name="people", kind="mail", address="mira@example.com")
    NotificationDelivery.objects.create(channel=channel, event="test", key="1")

    assert "Its log of 1 message is deleted too" in admin.get(page_of(channel, "delete")).content.decode()
    assert NotificationChannel.objects.exists()
    admin.post(page_of(channel, "delete"))

    assert not NotificationDelivery.objects.exists()
    assert AuditEntry.objects.get().action == "delete.channel"
    assert admin.post(f"{CHANNELS}nonsense/delete/").status_code == 403


@pytest.mark.costly
@pytest.mark.parametrize("group", ["viewer", "operator"])
def test_who_is_no_admin_sees_channels_and_changes_none(group: str, transactional_db: None) -> None:
    channel = NotificationChannel.objects.create(name="people", kind="mail", address="mira@example.com")
    client = browser_of(group)

    assert client.get(CHANNELS).status_code == 200
    html = client.get(page_of(channel)).content.decode()
    assert "Send test" not in html
    assert "/edit/" not in html
    for address in (f"{CHANNELS}add/", page_of(channel, "edit"), page_of(channel, "delete"), page_of(channel, "test")):
        assert client.post(address, form()).status_code == 403
    assert NotificationChannel.objects.count() == 1


def test_a_button_needs_a_token(admin: Client) -> None:
    channel = NotificationChannel.objects.create(name="people", kind="mail", address="mira@example.com")
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(username="admin"))

    for action in ("test", "edit", "delete"):
        assert strict.post(page_of(channel, action), form()).status_code == 403


@pytest.mark.costly
def test_the_delivery_log_shows_each_message_and_its_answer(admin: Client) -> None:
    channel = NotificationChannel.objects.create(name="ops", kind="webhook", address="https://hooks.example.com/")
    NotificationDelivery.objects.create(
        channel=channel, event="deployment.failed", key="1", subject="Billing failed", status="waiting", attempts=2,
        answer="Answered 503.", body={"text": "npm ci failed"},
    )  # fmt: skip

    listed = admin.get(DELIVERIES).content.decode()
    one = NotificationDelivery.objects.get()
    page = admin.get(f"{DELIVERIES}{one.pk}/change/").content.decode()

    assert "Billing failed" in listed
    assert "Answered 503." in listed
    assert "npm ci failed" in page
    assert admin.get(f"{DELIVERIES}?channel__name=nobody").context["cl"].result_count == 0
    assert admin.post(f"{DELIVERIES}{one.pk}/delete/").status_code == 403


@pytest.mark.costly
def test_the_pages_hold_to_the_consoles_rules(admin: Client) -> None:
    channel = NotificationChannel.objects.create(name="ops", kind="webhook", address="https://hooks.example.com/")
    delivery = NotificationDelivery.objects.create(channel=channel, event="test", key="1", subject="A test")
    for address in (
        CHANNELS,
        f"{CHANNELS}add/",
        page_of(channel),
        page_of(channel, "edit"),
        page_of(channel, "delete"),
        DELIVERIES,
        f"{DELIVERIES}{delivery.pk}/change/",
        "/admin/setup/",
        "/admin/deployments/auditentry/",
    ):
        seen = read(admin.get(address).content.decode())
        content = seen.headings[seen.headings.index(1) :]
        assert (address, seen.inline, seen.headings.count(1)) == (address, [], 1)
        assert all(after - before <= 1 for before, after in pairwise(content)), address
        assert len(seen.ids) == len(set(seen.ids)), address
        assert seen.tokens == len([each for each in seen.forms if each.get("method") == "post"]), address
        assert [
            each
            for each in seen.controls
            if not (each["inside"] or each.get("aria-label") or each.get("id") in seen.labels or each.get("title"))
        ] == [], address


@pytest.mark.costly
@pytest.mark.parametrize("address", [CHANNELS, DELIVERIES])
def test_a_list_takes_no_more_queries_with_more_rows(address: str, admin: Client) -> None:
    def rows(start: int, count: int) -> None:
        for number in range(start, start + count):
            channel = NotificationChannel.objects.create(name=f"c{number}", kind="mail", address="mira@example.com")
            channel.projects.add(Project.objects.create(name=f"p{number}"))
            NotificationDelivery.objects.create(channel=channel, event="test", key="1", subject="A test")

    def queries() -> int:
        admin.get(address)
        with CaptureQueriesContext(connection) as captured:
            admin.get(address)
        return len(captured)

    rows(0, 2)
    few = queries()
    rows(2, 20)
    assert queries() == few <= 16
