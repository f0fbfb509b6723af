"""The bodies of messages: as their receivers document them, and with no markup or mention of others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deployments.notify import shapes
from deployments.notify.news import EVENTS

HOSTILE = "@channel **bold** [a](https://evil.example) <@123> `x` \\ # h\n- item\n= x"
KINDS = sorted(shapes.SHAPES)


def message(**changed: Any) -> shapes.Message:
    values = {
        "event": "deployment.failed",
        "key": "deployment.failed:deployment_1",
        "at": "2026-11-26T10:00:00+00:00",
        "subject": "Billing 20261126.1 failed in prod",
        "text": "npm ci failed",
        "link": "https://deploy.example.com/admin/deployments/deployment/1/change/",
        **changed,
    }
    return shapes.Message(**values)


def test_teams_gets_an_adaptive_card_whose_texts_have_no_markup() -> None:
    body = shapes.teams(message(subject=HOSTILE, text=HOSTILE), "")

    (attachment,) = body["attachments"]
    assert (body["type"], attachment["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert [block["type"] for block in card["body"]] == ["RichTextBlock", "RichTextBlock"]  # which reads no Markdown
    assert [block["inlines"][0]["text"] for block in card["body"]] == [HOSTILE, HOSTILE]
    assert card["actions"][0]["url"].startswith("https://deploy.example.com/")


def test_discord_gets_one_embed_within_its_limits_that_notifies_nobody() -> None:
    body = shapes.discord(message(subject="_" * 300, text="*" * 5000), "")

    (embed,) = body["embeds"]
    assert body["allowed_mentions"] == {"parse": []}
    assert (len(embed["title"]), len(embed["description"])) == (255, 4095)
    assert not embed["title"].endswith("\\…")  # the backslash would stand for the sign of the cut
    assert embed["timestamp"] == "2026-11-26T10:00:00+00:00"


def test_markup_of_others_is_escaped_in_markdown() -> None:
    (embed,) = shapes.discord(message(text=HOSTILE), "")["embeds"]
    assert embed["description"] == (
        "@channel \\*\\*bold\\*\\* \\[a\\]\\(https://evil.example\\) \\<@123\\> \\`x\\` \\\\ \\# h\n\\- item\n\\= x"
    )
    text = shapes.mattermost(message(text=HOSTILE), "")["text"]
    assert "@channel" not in text
    assert "[a](" not in text
    assert text.endswith("[Open in Registry Admin](https://deploy.example.com/admin/deployments/deployment/1/change/)")


def test_pagerduty_gets_an_alert_that_a_repeated_message_does_not_double() -> None:
    body = shapes.pagerduty(message(subject="s" * 2000, key="k" * 300, data={"version": "20261126.1"}), "the-key")

    assert (body["routing_key"], body["event_action"], body["dedup_key"]) == ("the-key", "trigger", "k" * 255)
    payload = body["payload"]
    assert (len(payload["summary"]), payload["severity"], payload["source"]) == (1024, "error", "deploy.example.com")
    assert payload["custom_details"] == {"text": "npm ci failed", "version": "20261126.1"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_of_a_channel_is_in_no_body_but_pagerdutys(kind: str) -> None:
    assert ("the-key" in json.dumps(shapes.SHAPES[kind](message(), "the-key"))) == (kind == "pagerduty")


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_of_the_greatest_size_stays_within_the_receivers_limit(kind: str) -> None:
    largest = message(subject="😀" * 300, text="😀*" * 10_000, data={"subjects": ["😀" * 300] * 100})

    body = json.dumps(shapes.SHAPES[kind](largest, "k"), ensure_ascii=False).encode()

    assert len(body) < (28 if kind == "teams" else 512) * 1024


def test_each_severe_or_informing_event_is_an_event() -> None:
    assert (shapes._INFORMATION | shapes._ERRORS) - {"test"} <= set(EVENTS)
    assert not shapes._INFORMATION & shapes._ERRORS
