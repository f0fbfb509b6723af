"""The URL of a webhook is a secret: it is stored encrypted and shown without its secret path."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from deployments import tasks
from deployments.access.vault import Unreadable, Vault
from deployments.models import AuditEntry, NotificationChannel
from deployments.notify import channels

VAULT = Vault(django_settings.ENCRYPTION_KEYS)
CHANNELS = "/admin/deployments/notificationchannel/"
DISCORD = "https://discord.example/api/webhooks/1/canary-Kx8mQ2"
SHOWN = "https://discord.example/api/…"


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        (DISCORD, SHOWN),
        ("https://acme.webhook.office.com/webhookb2/abc@def/IncomingWebhook/x/y", "https://acme.webhook.office.com/webhookb2/…"),
        ("https://chat.example:8443/hooks/xyz", "https://chat.example:8443/hooks/…"),
        ("https://hooks.slack.com/services/T0/B0/x", "https://hooks.slack.com/services/…"),
        ("https://hooks.slack.com/…cret", "https://hooks.slack.com/…"),
        ("https://hook.example/onlypart", "https://hook.example/…"),
        ("https://hook.example/?token=x", "https://hook.example/…"),
        ("https://hook.example/api?token=a/b", "https://hook.example/…"),
        ("https://hook.example/9f8a7b6c/notify", "https://hook.example/…"),
        ("https://hook.example//x/y", "https://hook.example/x/…"),
        ("https://ada:word@hook.example/x", "https://hook.example/…"),
        (SHOWN, SHOWN),
        ("https://hook.example/…", "https://hook.example/…"),
    ],
)  # fmt: skip
def test_of_a_url_its_host_and_at_most_the_first_part_of_its_path_are_shown(address: str, seen: str) -> None:
    assert channels.shown(address) == seen


def stored(**values: Any) -> NotificationChannel:
    """A channel as version 0.1.0 stores it."""
    values = {"name": "ops", "kind": "webhook", "address": DISCORD} | values
    return NotificationChannel.objects.create(**values)


@pytest.fixture
def admin(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("admin", "admin@example.com"))
    return client


def everything(client: Client) -> str:
    """All rows of all tables, and each page that shows a channel."""
    tables = [model._default_manager.values_list() for model in apps.get_models()]
    rows = str([list(table) for table in tables])
    pk = NotificationChannel.objects.get().pk
    pages = [CHANNELS, *(f"{CHANNELS}{pk}/{page}/" for page in ("change", "edit", "delete"))]
    pages += ["/admin/deployments/auditentry/", "/admin/deployments/auditentry/export/", "/admin/"]
    return rows + "".join(client.get(page, follow=True).content.decode() for page in pages)


@pytest.mark.costly
def test_a_new_url_is_in_no_row_and_on_no_page(admin: Client, caplog: pytest.LogCaptureFixture) -> None:
    admin.post(f"{CHANNELS}add/", {"name": "ops", "kind": "webhook", "address": DISCORD, "enabled": "on"})

    channel = NotificationChannel.objects.get()
    found = everything(admin) + caplog.text
    assert "canary" not in found
    assert "Kx8mQ2" not in found
    assert SHOWN in found
    assert channels.url_of(channel, vault=VAULT) == DISCORD
    entry = AuditEntry.objects.get()
    assert (entry.after or {})["to"] == SHOWN


def test_a_webhooks_url_is_kept_when_the_field_is_left_empty_and_a_new_one_is_on_record(admin: Client) -> None:
    admin.post(f"{CHANNELS}add/", {"name": "ops", "kind": "webhook", "address": DISCORD, "enabled": "on"})
    page = f"{CHANNELS}{NotificationChannel.objects.get().pk}/edit/"

    admin.post(page, {"name": "chat", "address": "", "enabled": "on"})
    assert channels.url_of(NotificationChannel.objects.get(name="chat"), vault=VAULT) == DISCORD

    admin.post(page, {"name": "chat", "address": f"{DISCORD}-2", "enabled": "on"})
    assert channels.url_of(NotificationChannel.objects.get(), vault=VAULT) == f"{DISCORD}-2"
    entry = AuditEntry.objects.first()
    assert entry is not None
    assert (entry.after or {})["new_address"] is True
    assert "canary" not in json.dumps([entry.before, entry.after])


@pytest.mark.costly
def test_the_url_of_version_0_1_0_is_used_and_then_encrypted(admin: Client) -> None:
    channel = stored()
    slack = stored(name="chat", kind="slack", address="https://hooks.slack.com/…cret")
    mail = stored(name="people", kind="mail", address="mira@example.com")
    assert channels.url_of(channel, vault=VAULT) == DISCORD
    for page in (CHANNELS, f"{CHANNELS}{channel.pk}/edit/", f"{CHANNELS}{channel.pk}/change/"):
        assert "canary" not in admin.get(page).content.decode()

    tasks.STEPS["encrypting the addresses of webhooks"]()

    for row in (channel, slack, mail):
        row.refresh_from_db()
    assert (channel.address, slack.address, mail.address) == (SHOWN, "https://hooks.slack.com/…", "mira@example.com")
    assert channels.url_of(channel, vault=VAULT) == DISCORD
    assert "canary" not in str(list(NotificationChannel.objects.values_list()))
    assert channels.encrypt_addresses(vault=VAULT) == 0


@pytest.mark.django_db
def test_a_url_stays_readable_while_a_worker_of_version_0_1_0_sends() -> None:
    stored()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO deployments_workerheartbeat (host, pid, started_at, beat_at, clock_offset, restarts, trouble)"
            " VALUES ('old', 1, %(now)s, %(now)s, 0, 0, '')",
            {"now": connection.ops.adapt_datetimefield_value(timezone.now())},
        )
    assert channels.encrypt_addresses(vault=VAULT) == 0
    assert NotificationChannel.objects.get().address == DISCORD

    with connection.cursor() as cursor:
        long_ago = connection.ops.adapt_datetimefield_value(timezone.now() - timedelta(minutes=3))
        cursor.execute("UPDATE deployments_workerheartbeat SET beat_at = %s", [long_ago])
    assert channels.encrypt_addresses(vault=VAULT) == 1
    assert NotificationChannel.objects.get().address == SHOWN


@pytest.mark.django_db
def test_a_url_that_was_set_while_it_was_encrypted_is_the_one_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = stored()
    encrypt = Vault.encrypt

    def slow(self: Vault, text: str, *, context: str) -> str:
        NotificationChannel.objects.update(address=f"{DISCORD}-2")
        return encrypt(self, text, context=context)

    with monkeypatch.context() as patched:
        patched.setattr(Vault, "encrypt", slow)
        assert channels.encrypt_addresses(vault=VAULT) == 0
    assert channels.encrypt_addresses(vault=VAULT) == 1
    channel.refresh_from_db()
    assert channels.url_of(channel, vault=VAULT) == f"{DISCORD}-2"


@pytest.mark.django_db
def test_the_url_of_another_channel_cannot_be_used() -> None:
    stored()
    stored(name="other", address=f"{DISCORD}-2")
    channels.encrypt_addresses(vault=VAULT)
    ops, other = NotificationChannel.objects.order_by("pk")
    ops.encrypted_address = other.encrypted_address

    with pytest.raises(Unreadable):
        channels.url_of(ops, vault=VAULT)


@pytest.mark.django_db
def test_a_url_is_encrypted_again_with_another_key() -> None:
    channel = stored()
    channels.encrypt_addresses(vault=VAULT)
    newer = Vault(["another-key-of-the-tests-0123456789", *django_settings.ENCRYPTION_KEYS])

    assert channels.reencrypt(vault=newer) == (1, [])
    channel.refresh_from_db()
    assert channels.url_of(channel, vault=Vault(["another-key-of-the-tests-0123456789"])) == DISCORD
    assert channels.reencrypt(vault=Vault(["a key that opens nothing"])) == (0, [channel])
