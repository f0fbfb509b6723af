"""Notification channels: their addresses and secrets, which are stored encrypted and never shown whole."""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from deployments.access.vault import Unreadable, Vault
from deployments.models import ChannelKind, NotificationChannel
from deployments.notify import outbound_http
from deployments.notify.outbound_http import Undeliverable

SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")


def encryption_context(channel: NotificationChannel) -> str:
    """The context for which the channel's secret is encrypted."""
    return f"notification channel {channel.pk}"


def new_secret() -> str:
    """A new random secret for the signatures of a webhook."""
    return f"whsec_{secrets.token_urlsafe(32)}"


def shown(address: str) -> str:
    """A secret address, shortened so that nobody can use it: scheme, host and the last four characters."""
    target = urlsplit(address)
    return f"{target.scheme}://{target.hostname}/…{target.path[-4:]}"


def set_address(channel: NotificationChannel, address: str, *, vault: Vault) -> None:
    """Set the address of a saved channel. An address of Slack is a secret: it is encrypted, and shown shortened."""
    if channel.kind == ChannelKind.SLACK:
        channel.secret = vault.encrypt(address, context=encryption_context(channel))
        address = shown(address)
    channel.address = address


def set_secret(channel: NotificationChannel, secret: str, *, vault: Vault) -> None:
    """Set the secret that signs the messages of a saved webhook."""
    channel.secret = vault.encrypt(secret, context=encryption_context(channel))


def problem_of(kind: str, address: str, *, allow_private: bool) -> str:
    """Why this address is not valid, as a sentence; empty if it is valid. The host name is not resolved."""
    if kind == ChannelKind.MAIL:
        addresses = mail_addresses(address)
        try:
            for each in addresses:
                validate_email(each)
        except ValidationError:
            return "Enter one or more mail addresses, separated by commas."
        return "" if addresses else "Enter one or more mail addresses, separated by commas."
    try:
        target = outbound_http.parse(address, allow_private=allow_private)
    except Undeliverable as error:
        return str(error)
    if kind == ChannelKind.SLACK and target.host not in SLACK_HOSTS and not allow_private:
        return "Slack's incoming webhooks begin with https://hooks.slack.com/services/."
    return ""


def mail_addresses(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def reencrypt(*, vault: Vault) -> tuple[int, list[NotificationChannel]]:
    """Encrypt every channel's secret with the vault's first key.

    Returns how many secrets were encrypted again, and the channels whose secret cannot be decrypted.
    """
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
