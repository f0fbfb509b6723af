"""Notification channels: their addresses and secrets, which are stored encrypted and never shown whole."""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from deployments.access.vault import Unreadable, Vault
from deployments.models import (
    ChannelKind,
    NotificationChannel,
)
from deployments.notify import outbound_http
from deployments.notify.outbound_http import Undeliverable

SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")


def encryption_context(channel: NotificationChannel) -> str:
    """What a channel's secret is sealed to."""
    return f"notification channel {channel.pk}"


def new_secret() -> str:
    """A secret for the signature of a webhook."""
    return f"whsec_{secrets.token_urlsafe(32)}"


def shown(address: str) -> str:
    """A secret address, short enough that nobody can use it."""
    target = urlsplit(address)
    return f"{target.scheme}://{target.hostname}/…{target.path[-4:]}"


def set_address(channel: NotificationChannel, address: str, *, vault: Vault) -> None:
    """Set where a saved channel sends to. Slack's is a secret: it is sealed, and shown short."""
    if channel.kind == ChannelKind.SLACK:
        channel.secret = vault.encrypt(address, context=encryption_context(channel))
        address = shown(address)
    channel.address = address


def set_secret(channel: NotificationChannel, secret: str, *, vault: Vault) -> None:
    """Set the secret that a saved webhook's messages are signed with."""
    channel.secret = vault.encrypt(secret, context=encryption_context(channel))


def problem_of(kind: str, address: str, *, allow_private: bool) -> str:
    """What is wrong with a new address, in a sentence; empty when nothing is. The host is not looked up."""
    if kind == ChannelKind.MAIL:
        addresses = _mail_addresses(address)
        try:
            for each in addresses:
                validate_email(each)
        except ValidationError:
            return "Write one or more mail addresses with commas between."
        return "" if addresses else "Write one or more mail addresses with commas between."
    try:
        target = outbound_http.parse(address, allow_private=allow_private)
    except Undeliverable as error:
        return str(error)
    if kind == ChannelKind.SLACK and target.host not in SLACK_HOSTS and not allow_private:
        return "Slack's incoming webhooks begin with https://hooks.slack.com/services/."
    return ""


def _mail_addresses(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def reencrypt(*, vault: Vault) -> tuple[int, list[NotificationChannel]]:
    """Seal every channel's secret with the vault's first key. Returns how many, and those that no key opens."""
    done, unreadable = 0, []
    for channel in NotificationChannel.objects.exclude(secret=""):
        if vault.is_current(channel.secret):
            continue
        try:
            secret = vault.decrypt(channel.secret, context=encryption_context(channel))
        except Unreadable:
            unreadable.append(channel)
            continue
        done += NotificationChannel.objects.filter(pk=channel.pk, secret=channel.secret).update(
            secret=vault.encrypt(secret, context=encryption_context(channel))
        )
    return done, unreadable
