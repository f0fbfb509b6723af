"""Send one delivery: by signed webhook, in the form of a chat or of PagerDuty (`shapes`), or by mail."""

from __future__ import annotations

import hashlib
import hmac
import json
import smtplib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from django.core.mail import EmailMessage
from django.db import connection

from deployments import outbound_http
from deployments.access.vault import Unreadable, Vault
from deployments.models import ChannelKind, NotificationChannel, NotificationDelivery
from deployments.notify import shapes
from deployments.notify.channels import encryption_context, mail_addresses, url_of
from deployments.outbound_http import Undeliverable

SIGNATURE_HEADER, TIMESTAMP_HEADER = "X-Registry-Admin-Signature", "X-Registry-Admin-Timestamp"
NO_MORE: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """The settings that `send` needs."""

    vault: Vault = field(repr=False)
    allow_private: bool = False
    mail: bool = False  # whether a mail server is configured
    host: str = "localhost"  # the host of this program's pages, for the List-Id of mails

    @classmethod
    def of(cls, settings: Any) -> DeliverySettings:
        """From Django's settings."""
        return cls(
            vault=Vault(settings.ENCRYPTION_KEYS),
            allow_private=settings.NOTIFY_ALLOW_PRIVATE,
            mail=settings.MAIL_IS_CONFIGURED,
            host=urlsplit(settings.CONFIGURATION.app_origin).hostname or "localhost",
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
        case ChannelKind.WEBHOOK:
            return _send_webhook(row, delivery_settings)
        case _:
            return _send_shaped(row, delivery_settings)


def preview(row: NotificationDelivery) -> str:
    """What `send` would send: the text of a mail, or the JSON body. Without the channel's key; nothing is decrypted."""
    match row.channel.kind:
        case ChannelKind.MAIL:
            return f"Subject: {_mail_subject(row)}\n\n{_mail_text(row)}"
        case ChannelKind.WEBHOOK:
            body = _webhook_body(row)
        case kind:
            body = shapes.SHAPES[kind](_message(row), "(the integration key)")
    return json.dumps(body, ensure_ascii=False, indent=2)


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """The signature of a webhook: HMAC-SHA256 of the timestamp, a dot and the body. The receiver computes it too."""
    mac = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"v1={mac.hexdigest()}"


def _webhook_body(row: NotificationDelivery) -> dict[str, Any]:
    return {"id": f"delivery_{row.pk}", **row.body}


def _send_webhook(row: NotificationDelivery, delivery_settings: DeliverySettings) -> str:
    body = json.dumps(_webhook_body(row), ensure_ascii=False, separators=(",", ":")).encode()
    timestamp = str(int(time.time()))
    headers = {
        "X-Registry-Admin-Event": row.event,
        "X-Registry-Admin-Delivery": f"delivery_{row.pk}",
        TIMESTAMP_HEADER: timestamp,
        SIGNATURE_HEADER: sign(_secret(row.channel, delivery_settings), timestamp, body),
    }
    return _post(row.channel, body, delivery_settings, headers)


def _send_shaped(row: NotificationDelivery, delivery_settings: DeliverySettings) -> str:
    key = _secret(row.channel, delivery_settings) if row.channel.kind == ChannelKind.PAGERDUTY else ""
    body = shapes.SHAPES[row.channel.kind](_message(row), key)
    return _post(row.channel, json.dumps(body, ensure_ascii=False).encode(), delivery_settings)


def _message(row: NotificationDelivery) -> shapes.Message:
    said = row.body
    return shapes.Message(
        event=row.event,
        key=row.key,
        at=said.get("at", ""),
        subject=row.subject,
        text=said.get("text", ""),
        link=said.get("link", ""),
        data=said.get("data", {}),
    )


def _post(
    channel: NotificationChannel, body: bytes, delivery_settings: DeliverySettings, headers: Mapping[str, str] = NO_MORE
) -> str:
    headers = {"Content-Type": "application/json", "User-Agent": "registry-admin", **headers}
    address = _url(channel, delivery_settings)
    return _answered(outbound_http.post(address, body, headers, allow_private=delivery_settings.allow_private))


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


def _mail_subject(row: NotificationDelivery) -> str:
    # One line: a subject begins with the name of a project, which a request can write with line breaks.
    return f"[Registry Admin] {' '.join(row.subject.split())}"


def _mail_text(row: NotificationDelivery) -> str:
    return f"{row.body.get('text', '')}\n\n{row.body.get('link', '')}\n"


def _send_mail(row: NotificationDelivery, delivery_settings: DeliverySettings) -> str:
    if not delivery_settings.mail:
        raise Undeliverable(reason="No mail server is configured (EMAIL_URL).", permanent=True)
    message = EmailMessage(
        _mail_subject(row),
        _mail_text(row),
        to=mail_addresses(row.channel.address),
        headers={
            "Auto-Submitted": "auto-generated",  # RFC 3834: no automatic reply is wanted
            "List-Id": f"<channel-{row.channel_id}.registry-admin.{delivery_settings.host}>",  # RFC 2919, for filters
        },
    )
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
