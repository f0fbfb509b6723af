"""Sends one delivery by signed webhook, Slack or mail; `Undeliverable` with the reason where the receiver refuses."""

from __future__ import annotations

import hashlib
import hmac
import json
import smtplib
import time
from dataclasses import dataclass, field
from typing import Any

from django.core.mail import EmailMessage
from django.db import connection

from deployments.access.vault import Unreadable, Vault
from deployments.models import (
    ChannelKind,
    NotificationChannel,
    NotificationDelivery,
)
from deployments.notify import outbound_http
from deployments.notify.channels import _mail_addresses, encryption_context
from deployments.notify.outbound_http import Undeliverable

SIGNATURE_HEADER, TIMESTAMP_HEADER = "X-Registry-Admin-Signature", "X-Registry-Admin-Timestamp"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """What sending needs of the installation."""

    vault: Vault = field(repr=False)
    allow_private: bool = False
    mail: bool = False  # a mail server is configured

    @classmethod
    def of(cls, settings: Any) -> DeliverySettings:
        """Those of Django's settings."""
        return cls(
            vault=Vault(settings.ENCRYPTION_KEYS),
            allow_private=settings.NOTIFY_ALLOW_PRIVATE,
            mail=settings.MAIL_IS_CONFIGURED,
        )


def send(row: NotificationDelivery, means: DeliverySettings) -> str:
    """Send to the channel and return the answer in a word. Raises Undeliverable."""
    if connection.in_atomic_block:
        raise RuntimeError("Nothing is sent while a database transaction is open")
    match row.channel.kind:
        case ChannelKind.MAIL:
            return _send_mail(row, means)
        case ChannelKind.SLACK:
            return _send_slack(row, means)
        case _:
            return _send_webhook(row, means)


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """What the receiver of a webhook computes too: HMAC-SHA256 over the timestamp, a dot and the body."""
    mac = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"v1={mac.hexdigest()}"


def _send_webhook(row: NotificationDelivery, means: DeliverySettings) -> str:
    body = json.dumps({"id": f"delivery_{row.pk}", **row.body}, ensure_ascii=False, separators=(",", ":")).encode()
    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "registry-admin",
        "X-Registry-Admin-Event": row.event,
        "X-Registry-Admin-Delivery": f"delivery_{row.pk}",
        TIMESTAMP_HEADER: timestamp,
        SIGNATURE_HEADER: sign(_open(row.channel, means), timestamp, body),
    }
    return _answered(outbound_http.post(row.channel.address, body, headers, allow_private=means.allow_private))


def _send_slack(row: NotificationDelivery, means: DeliverySettings) -> str:
    said = row.body
    text = f"*{_slack(row.subject)}*\n{_slack(said.get('text', ''))}\n<{said.get('link', '')}|Open in Registry Admin>"
    body = json.dumps({"text": text[:3000], "unfurl_links": False}).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "registry-admin"}
    address = _open(row.channel, means)
    return _answered(outbound_http.post(address, body, headers, allow_private=means.allow_private))


def _slack(text: object) -> str:
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _answered(status: int) -> str:
    if 200 <= status < 300:
        return str(status)
    if 300 <= status < 400:
        raise Undeliverable(
            reason=f"Answered {status}, a redirect, which is not followed.", permanent=True, answered=True
        )
    raise Undeliverable(reason=f"Answered {status}.", permanent=status == 410, answered=True)


#: The mail server refused one message; it was reachable and accepted the log-in.
_REFUSED = (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused, smtplib.SMTPDataError)


def _send_mail(row: NotificationDelivery, means: DeliverySettings) -> str:
    if not means.mail:
        raise Undeliverable(reason="No mail server is configured (EMAIL_URL).", permanent=True)
    text = f"{row.body.get('text', '')}\n\n{row.body.get('link', '')}\n"
    message = EmailMessage(f"[Registry Admin] {row.subject}", text, to=_mail_addresses(row.channel.address))
    try:
        message.send()
    except (smtplib.SMTPException, OSError) as error:
        # Their words may hold what we logged in with.
        raise Undeliverable(
            reason=f"The mail server did not take it ({type(error).__name__}).", answered=isinstance(error, _REFUSED)
        ) from None
    return "taken by the mail server"


def _open(channel: NotificationChannel, means: DeliverySettings) -> str:
    try:
        return means.vault.decrypt(channel.secret, context=encryption_context(channel))
    except Unreadable:
        raise Undeliverable(
            reason="The channel's secret cannot be decrypted: set it again, or bring back its ENCRYPTION_KEY.",
            permanent=True,
        ) from None
