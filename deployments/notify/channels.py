"""Notification channels: their URLs and secrets, which are stored encrypted and never shown whole.

Who knows the URL of a webhook can send messages to it (Discord, Teams, Mattermost and Slack have no other check),
so a URL is a secret. `address` has only what is shown of it (`shown`). The whole URL is in `secret` for Slack, as in
version 0.1.0, and in `encrypted_address` for the other kinds, where `secret` signs the messages of a webhook or is the
integration key of PagerDuty.

Version 0.1.0 reads and writes the whole URL of a webhook in `address`. Such an address counts, and `encrypt_addresses`
encrypts it as soon as no worker of version 0.1.0 runs.
"""

from __future__ import annotations

import re
import secrets
from datetime import timedelta
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import connection

from deployments import clock, outbound_http
from deployments.access.vault import Unreadable, Vault
from deployments.models import ChannelKind, NotificationChannel
from deployments.outbound_http import Undeliverable

SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")
#: Where PagerDuty takes alerts; accounts of its European service region have events.eu.pagerduty.com.
PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"


def encryption_context(channel: NotificationChannel) -> str:
    """The context for which the channel's secret is encrypted."""
    return f"notification channel {channel.pk}"


def _address_context(channel: NotificationChannel) -> str:
    return f"address of notification channel {channel.pk}"


def new_secret() -> str:
    """A new random secret for the signatures of a webhook."""
    return f"whsec_{secrets.token_urlsafe(32)}"


#: The end of each shortened URL. No allowed URL has this character (`outbound_http.parse`), in 0.1.0 neither.
_REST = "/…"
_PLAIN_PART = re.compile(r"[a-z]{1,16}[0-9]{0,2}")  # as in /api/…, /services/… and /webhookb2/…


def shown(address: str) -> str:
    """What is shown of a webhook's URL: scheme, host, port, and the first part of the path if it is a plain word.

    A path of one part is not shown, because that part may be the secret. A shortened URL is returned as it is.
    """
    target = urlsplit(address)
    host = target.netloc.rpartition("@")[2]
    first, slash, rest = target.path.lstrip("/").partition("/")
    word = f"/{first}" if slash and rest and _PLAIN_PART.fullmatch(first) else ""
    return f"{target.scheme}://{host}{word}{_REST}"


def shown_of(channel: NotificationChannel) -> str:
    """What pages, commands and the audit log show of a channel's address."""
    return channel.address if channel.kind == ChannelKind.MAIL else shown(channel.address)


def set_address(channel: NotificationChannel, address: str, *, vault: Vault) -> None:
    """Set the address of a saved channel. A URL is encrypted, and `channel.address` gets what is shown of it."""
    match channel.kind:
        case ChannelKind.MAIL:
            channel.address = address
            return
        case ChannelKind.SLACK:
            channel.secret = vault.encrypt(address, context=encryption_context(channel))
        case _:
            channel.encrypted_address = vault.encrypt(address, context=_address_context(channel))
    channel.address = shown(address)


def url_of(channel: NotificationChannel, *, vault: Vault) -> str:
    """The whole URL of a webhook or of Slack. Raises Unreadable if no key decrypts it."""
    if channel.kind == ChannelKind.SLACK:
        return vault.decrypt(channel.secret, context=encryption_context(channel))
    if not channel.address.endswith(_REST):
        return channel.address  # version 0.1.0 wrote it
    return vault.decrypt(channel.encrypted_address, context=_address_context(channel))


def encrypt_addresses(*, vault: Vault) -> int:
    """Encrypt the URLs that version 0.1.0 has stored in `address`, and shorten Slack's shown URL. Returns their number.

    Called at the start of a web process and each minute by the worker. It changes nothing while a worker of version
    0.1.0 runs, which would send nothing to a shortened URL. A URL that is changed meanwhile is left as it is.
    """
    stored = NotificationChannel.objects.exclude(kind=ChannelKind.MAIL).exclude(address="")
    done = 0
    for channel in stored.exclude(address__endswith=_REST):
        if _first_version_works():
            return done
        before = channel.address
        if channel.kind == ChannelKind.SLACK:
            channel.address = shown(before)
        else:
            set_address(channel, before, vault=vault)
        done += NotificationChannel.objects.filter(pk=channel.pk, address=before).update(
            address=channel.address, encrypted_address=channel.encrypted_address
        )
    return done


_FIRST_VERSION_WAIT = timedelta(minutes=2)


def _first_version_works() -> bool:
    """Whether a worker of version 0.1.0 sent a heartbeat lately. Only that version writes this table."""
    since = connection.ops.adapt_datetimefield_value(clock.now() - _FIRST_VERSION_WAIT)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM deployments_workerheartbeat WHERE beat_at > %s LIMIT 1", [since])
        return cursor.fetchone() is not None


def set_secret(channel: NotificationChannel, secret: str, *, vault: Vault) -> None:
    """Set the secret of a saved webhook, which signs its messages, or the integration key of PagerDuty."""
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


def can_decrypt(vault: Vault) -> bool | None:
    """Whether the vault decrypts what the oldest and the newest channel have encrypted; None if there is nothing."""
    rows = NotificationChannel.objects.exclude(secret="", encrypted_address="").order_by("pk")
    stored = [(row, each) for row in (rows.first(), rows.last()) if row is not None for each in _encrypted(row)]
    try:
        for row, (name, context) in stored:
            vault.decrypt(getattr(row, name), context=context)
    except Unreadable:
        return False
    return True if stored else None


def reencrypt(*, vault: Vault) -> tuple[int, list[NotificationChannel]]:
    """Encrypt every channel's secret and URL with the vault's first key.

    Returns how many values were encrypted again, and the channels that have a value that cannot be decrypted.
    """
    done, unreadable = 0, []
    for channel in NotificationChannel.objects.all():
        try:
            for name, context in _encrypted(channel):
                stored = getattr(channel, name)
                if not vault.is_current(stored):
                    again = vault.encrypt_again(stored, context=context)
                    rows = NotificationChannel.objects.filter(pk=channel.pk, **{name: stored})
                    done += rows.update(**{name: again})
        except Unreadable:
            unreadable.append(channel)
    return done, unreadable


def _encrypted(channel: NotificationChannel) -> list[tuple[str, str]]:
    """The columns of this row that have an encrypted value, each with the context of its encryption."""
    columns = [("secret", encryption_context(channel)), ("encrypted_address", _address_context(channel))]
    return [(name, context) for name, context in columns if getattr(channel, name)]
