"""How values look: badges with a word and a shape, times, durations, JSON. A template library too (`console`).

One place, so that a status has the same colour and shape in every list, page and counter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from deployments.access import audit
from deployments.models import (
    AccessKey,
    AuditEntry,
    Deployment,
    DeploymentStatus,
    EventKind,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    Sweep,
    SweepFinding,
    SweepStatus,
)
from deployments.policy import Finding

register = template.Library()

#: Status → tone. The style sheet gives each tone a colour and a shape of its own: ok a disc, run a half disc,
#: warn a diamond, bad a square, idle a ring.
TONES: Mapping[str, str] = {
    DeploymentStatus.BUILDING: "run",
    DeploymentStatus.DEPLOYING: "run",
    DeploymentStatus.DEPLOYED: "ok",
    DeploymentStatus.FAILED: "bad",
    DeploymentStatus.CANCELED: "idle",
    DeploymentStatus.TIMED_OUT: "bad",
    RepositoryStatus.PENDING: "idle",
    RepositoryStatus.IN_SYNC: "ok",
    RepositoryStatus.DRIFTED: "warn",
    RepositoryStatus.FAILED: "bad",
    RepositoryStatus.MISSING: "bad",
    RepositoryStatus.UNMANAGED: "idle",
    EventKind.CREATED: "ok",
    EventKind.ADOPTED: "idle",
    EventKind.POLICY_APPLIED: "ok",
    EventKind.DRIFT_FOUND: "warn",
    EventKind.HEALED: "ok",
    EventKind.CHANGED: "run",
    EventKind.ERROR: "bad",
    SweepStatus.RUNNING: "run",
    SweepStatus.DONE: "ok",
    SweepStatus.STOPPED: "idle",
    SweepFinding.Outcome.DISCOVERED: "idle",
}


def mark(tone: str, word: str) -> SafeString:
    return format_html('<span class="badge {}">{}</span>', tone, word)


@register.filter
def badge(row: Deployment | Repository | RepositoryEvent | AccessKey | Sweep | SweepFinding | Finding) -> SafeString:
    """The status of a row (the kind of an event, the outcome or the level of a finding) as a word with a shape."""
    if isinstance(row, Finding):
        return mark("bad" if row.level == "error" else "warn", row.level.capitalize())
    if isinstance(row, AccessKey):
        if row.revoked_at:
            return mark("bad", "Revoked")
        return mark("ok", "Live") if row.is_live else mark("idle", "Expired")
    if isinstance(row, RepositoryEvent):
        return mark(TONES[row.kind], row.get_kind_display())
    if isinstance(row, SweepFinding):
        return mark(TONES[row.outcome], row.get_outcome_display())
    return mark(TONES[row.status], row.get_status_display())


@register.filter
def tags(row: Any) -> SafeString:
    """The marks of a deployment that was `listed`: current, or rolled back from."""
    if row.is_current:
        return SafeString('<span class="tag current">current</span>')
    return SafeString('<span class="tag back">rolled back</span>') if row.is_rolled_back else SafeString("")


@register.filter
def problem(entry: AuditEntry) -> str:
    """Why what an audit entry tells of was not done; empty when it was."""
    return "" if entry.outcome == audit.DONE else entry.outcome


@register.filter
def pull(verdict: str) -> SafeString:
    """Whether an account may pull, in the words of `policy.evaluate`: yes, no, or depends."""
    if verdict == "yes":
        return mark("ok", "May pull")
    return mark("bad", "May not pull") if verdict == "no" else mark("warn", "It depends")


@register.filter
def tone(status: str) -> str:
    return TONES[status]


@register.filter
def ago(moment: datetime | None, otherwise: str = "–") -> str:
    """“3 hours ago”, with the exact time in UTC on hover; the date alone once it is a month old."""
    if moment is None:
        return otherwise
    age = timezone.now() - moment
    if age < timedelta(minutes=1):
        words = "just now"  # a clock that is a little ahead is no news either
    elif age < timedelta(days=30):
        words = f"{timesince(moment, depth=1)} ago"
    else:
        words = f"{moment.day} {moment:%b %Y}"
    return _time(moment, words)


@register.filter
def until(moment: datetime | None, otherwise: str = "–") -> str:
    """“in 3 hours”, for times that lie ahead; like `ago` for those that do not."""
    if moment is None or moment <= timezone.now():
        return ago(moment, otherwise)
    return _time(moment, f"in {timesince(timezone.now(), moment, depth=1)}")


@register.filter
def clock(moment: datetime | None) -> str:
    """The time of day in UTC, for moments that stand side by side."""
    return _time(moment, f"{moment:%H:%M:%S}") if moment else "–"


def _time(moment: datetime, words: str) -> SafeString:
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', moment.isoformat(), f"{moment:%d %b %Y, %H:%M:%S} UTC", words
    )


@register.filter
def took(duration: timedelta | None) -> str:
    if duration is None:
        return "–"
    seconds = max(0, round(duration.total_seconds()))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60:02}s"
    return f"{seconds // 3600}h {seconds % 3600 // 60:02}m"


@register.filter
def pretty(value: Any) -> str:
    """JSON, given as a value or as a text, one member a line. A text that is not JSON stays as it is."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return str(value)
    return json.dumps(value, indent=2, ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A value of a small JSON object, as it stands on a page."""

    text: str
    long: bool = False
    block: bool = False


@register.filter
def members(value: Any, without: str = "") -> list[tuple[str, Member]]:
    """The members of a JSON object for a list of facts: texts as they are, lists in a row, deeper ones as JSON.

    `without`: names to leave out, because they stand elsewhere.
    """
    found = []
    for key, each in value.items() if isinstance(value, dict) else [("", value)]:
        if key in without.split() or each in ("", [], {}):
            continue
        name = str(key).replace("_", " ").capitalize()
        if isinstance(each, list) and all(isinstance(part, str | int) for part in each):
            each = ", ".join(map(str, each))
        if isinstance(each, dict | list):
            found.append((name, Member(text=pretty(each), long=True, block=True)))
        else:
            text = "–" if each is None else ("yes" if each else "no") if isinstance(each, bool) else str(each)
            found.append((name, Member(text=text, long=len(text) > 40)))
    return found


@register.filter
def code(text: str) -> str:
    """Something that people copy, in one piece: without a script a click selects it whole."""
    return format_html('<code class="copy">{}</code>', text) if text else "–"


@register.filter
def web_address(text: Any) -> str:
    """A link's target from data that a CLI sent: https or nothing, so that no `javascript:` gets near an href."""
    try:
        return str(text) if urlsplit(str(text)).scheme == "https" else ""
    except ValueError:
        return ""


def two_lines(first: object, second: object) -> SafeString:
    """A cell with a quiet second line."""
    return format_html('{}<span class="under">{}</span>', first, second)
