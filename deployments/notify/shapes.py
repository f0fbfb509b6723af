"""The bodies of messages, as the receivers document them. Pure: values in, values out.

The text of a message contains names and error texts of other people, so no markup in it may count as markup, and no
name in it may notify people of a chat.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from deployments.models import ChannelKind

Severity = Literal["info", "warning", "error"]

#: Events that only inform, and events after which something does not work. All others are warnings.
_INFORMATION = frozenset({
    "test", "deployment.promoted", "repository.comparable", "repository.healed", "configuration.changed",
    "policy.rolled_out", "policy.undone",
})  # fmt: skip
_ERRORS = frozenset({
    "deployment.failed", "deployment.timed_out", "repository.failed", "repository.missing", "sweep.failed",
    "worker.silent",
})  # fmt: skip


def severity(event: str) -> Severity:
    """How severe an event is."""
    return "info" if event in _INFORMATION else "error" if event in _ERRORS else "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. `key` identifies the change of state that it is about: a repeated message has the same key."""

    event: str
    key: str
    at: str  # ISO 8601
    subject: str
    text: str
    link: str
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def severity(self) -> Severity:
        """How severe the message's event is."""
        return severity(self.event)


def slack(message: Message, key: str) -> dict[str, Any]:
    """Slack's incoming webhooks. Source: docs.slack.dev, “Sending messages using incoming webhooks”, “Formatting”."""
    text = f"*{_entities(message.subject)}*\n{_entities(message.text)}\n<{message.link}|Open in Registry Admin>"
    return {"text": text[:3000], "unfurl_links": False}


def teams(message: Message, key: str) -> dict[str, Any]:
    """A workflow of Microsoft Teams that posts when a webhook request is received: an Adaptive Card.

    Source: learn.microsoft.com, “Create incoming webhooks with Workflows” and the schema of Adaptive Cards 1.4. A
    RichTextBlock has no markup. A card may have 28 KB.
    """
    colors = {"info": "good", "warning": "warning", "error": "attention"}
    title = {
        "type": "TextRun",
        "text": message.subject,
        "weight": "bolder",
        "size": "medium",
        "color": colors[message.severity],
    }
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [
            {"type": "RichTextBlock", "inlines": [title]},
            {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": message.text[:4000] or " "}]},
        ],
        "actions": [{"type": "Action.OpenUrl", "title": "Open in Registry Admin", "url": message.link}],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def discord(message: Message, key: str) -> dict[str, Any]:
    """Discord's webhooks: one embed. Source: docs.discord.com, “Execute Webhook”, “Embed Limits”, “Allowed Mentions”.

    An embed never notifies people who are named in it.
    """
    colors = {"info": 0x2E7D32, "warning": 0xB26A00, "error": 0xC62828}
    embed = {
        "title": _cut(_markdown(message.subject, "<|"), 256),
        "description": _cut(_markdown(message.text, "<|"), 4096),
        "url": message.link,
        "color": colors[message.severity],
        "timestamp": message.at,
    }
    return {"embeds": [embed], "allowed_mentions": {"parse": []}}


def mattermost(message: Message, key: str) -> dict[str, Any]:
    """Mattermost's incoming webhooks. Source: developers.mattermost.com, “Incoming webhooks”: text is Markdown, and
    @channel in it notifies a channel.
    """
    title, text = (_markdown(each).replace("@", "@\u200b") for each in (message.subject, message.text))
    return {"text": f"**{_cut(title, 600)}**\n{_cut(text, 10_000)}\n[Open in Registry Admin]({message.link})"}


def pagerduty(message: Message, key: str) -> dict[str, Any]:
    """PagerDuty's Events API v2: an alert, in the service that the integration key belongs to.

    Source: developer.pagerduty.com, “Send an Alert Event”: summary of at most 1,024 characters, dedup_key of at most
    255. A repeated message changes the alert of the first one.
    """
    return {
        "routing_key": key,
        "event_action": "trigger",
        "dedup_key": message.key[:255],
        "payload": {
            "summary": _cut(message.subject, 1024),
            "source": urlsplit(message.link).hostname or "registry-admin",
            "severity": message.severity,
            "timestamp": message.at,
            "component": "registry-admin",
            "class": message.event,
            "custom_details": {"text": message.text, **message.data},
        },
        "links": [{"href": message.link, "text": "Open in Registry Admin"}],
        "client": "Registry Admin",
        "client_url": message.link,
    }


#: Kind of a channel → the body of a message to it, given the message and the channel's key (PagerDuty's only).
SHAPES: dict[str, Callable[[Message, str], dict[str, Any]]] = {
    ChannelKind.SLACK: slack,
    ChannelKind.TEAMS: teams,
    ChannelKind.DISCORD: discord,
    ChannelKind.MATTERMOST: mattermost,
    ChannelKind.PAGERDUTY: pagerduty,
}


def _entities(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown(text: str, more: str = "") -> str:
    """The text with a backslash before each character that Markdown may read as markup, also at the start of a line."""
    text = re.sub(rf"([\\`*_~>\[\]()#{more}])", r"\\\1", text)
    return re.sub(r"(?m)^(\s*)([-+=])", r"\1\\\2", text)


def _cut(text: str, length: int) -> str:
    """At most `length` characters; a backslash is never left without the character behind it."""
    if len(text) <= length:
        return text
    cut = text[: length - 1]
    odd = (len(cut) - len(cut.rstrip("\\"))) % 2
    return cut[: len(cut) - odd] + "…"
