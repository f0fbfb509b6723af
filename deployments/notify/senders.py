"""Send one delivery by signed webhook, Slack or mail. Raises `Undeliverable` with the reason of a failure."""

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
from deployments.models import ChannelKind, NotificationChannel, NotificationDelivery
from deployments.notify import outbound_http
from deployments.notify.channels import encryption_context, mail_addresses, url_of
from deployments.notify.outbound_http import Undeliverable

SIGNATURE_HEADER, TIMESTAMP_HEADER = "X-Registry-Admin-Signature", "X-Registry-Admin-Timestamp"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """The settings that `send` needs."""

    vault: Vault = field(repr=False)
    allow_private: bool = False
    mail: bool = False  # whether a mail server is configured

    @classmethod
    def of(cls, settings: Any) -> DeliverySettings:
        """From Django's settings."""
        return cls(
            vault=Vault(settings.ENCRYPTION_KEYS),
            allow_private=settings.NOTIFY_ALLOW_PRIVATE,
            mail=settings.MAIL_IS_CONFIGURED,
        )


def send(row: NotificationDelivery, delivery_settings: DeliverySettings) -> str:
    """Send the delivery to its channel and return the answer in a few words. Raises Undeliverable.

    Raises RuntimeError inside a transaction, which would stay open for the whole call.
    """
    if connection.in_atomic_block:
        raise RuntimeError("No message is sent while a database transaction is open")
    match row.channel.kind:
        case ChannelKind.MAIL:
            return _send_mail(row, delivery_settings)
        case ChannelKind.SLACK:
            return _send_slack(row, delivery_settings)
        case _:
            return _send_webhook(row, delivery_settings)


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """The signature of a webhook: HMAC-SHA256 of the timestamp, a dot and the body. The receiver computes it too."""
    mac = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"v1={mac.hexdigest()}"


def _send_webhook(row: NotificationDelivery, delivery_settings: DeliverySettings) -> str:
    body = json.dumps({"id": f"delivery_{row.pk}", **row.body}, ensure_ascii=False, separators=(",", ":")).encode()
    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "registry-admin",
        "X-Registry-Admin-Event": row.event,
        "X-Registry-Admin-Delivery": f"delivery_{row.pk}",
        TIMESTAMP_HEADER: timestamp,
        SIGNATURE_HEADER: sign(_secret(row.channel, delivery_settings), timestamp, body),
    }
    address = _url(row.channel, delivery_settings)
    return _answered(outbound_http.post(address, body, headers, allow_private=delivery_settings.allow_private))


def _send_slack(row: NotificationDelivery, delivery_settings: DeliverySettings) -> str:
    said = row.body
    text = f"*{_slack(row.subject)}*\n{_slack(said.get('text', ''))}\n<{said.get('link', '')}|Open in Registry Admin>"
    body = json.dumps({"text": text[:3000], "unfurl_links": False}).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "registry-admin"}
    address = _url(row.channel, delivery_settings)
    return _answered(outbound_http.post(address, body, headers, allow_private=delivery_settings.allow_private))


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


#: The mail server refused one message: the server was reachable and accepted the log-in.
_REFUSED = (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused, smtplib.SMTPDataError)


def _send_mail(row: NotificationDelivery, delivery_settings: DeliverySettings) -> str:
    if not delivery_settings.mail:
        raise Undeliverable(reason="No mail server is configured (EMAIL_URL).", permanent=True)
    text = f"{row.body.get('text', '')}\n\n{row.body.get('link', '')}\n"
    message = EmailMessage(f"[Registry Admin] {row.subject}", text, to=mail_addresses(row.channel.address))
    try:
        message.send()
    except (smtplib.SMTPException, OSError) as error:
        # The text of the error may contain the user name and password.
        raise Undeliverable(
            reason=f"The mail server did not accept the message ({type(error).__name__}).",
            answered=isinstance(error, _REFUSED),
        ) from None
    return "accepted by the mail server"


def _url(channel: NotificationChannel, delivery_settings: DeliverySettings) -> str:
    try:
        return url_of(channel, vault=delivery_settings.vault)
    except Unreadable:
        raise Undeliverable(
            reason="The channel's address cannot be decrypted: set the address again, or restore its ENCRYPTION_KEY.",
            permanent=True,
        ) from None


def _secret(channel: NotificationChannel, delivery_settings: DeliverySettings) -> str:
    try:
        return delivery_settings.vault.decrypt(channel.secret, context=encryption_context(channel))
    except Unreadable:
        raise Undeliverable(
            reason="The channel's secret cannot be decrypted: set the secret again, or restore its ENCRYPTION_KEY.",
            permanent=True,
        ) from None
