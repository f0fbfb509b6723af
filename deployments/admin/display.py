"""How values are displayed: badges, times, durations, JSON. Also a template library (`console`).

All pages use it, so a status has the same colour and shape in every list, page and counter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import unescape
from math import ceil, floor
from typing import Any
from urllib.parse import urlsplit

from django import template
from django.template import Context, Node, NodeList
from django.template.base import Parser, Token
from django.utils import timezone
from django.utils.html import format_html, strip_tags
from django.utils.safestring import SafeString
from django.utils.text import Truncator, capfirst
from django.utils.timesince import timesince

from deployments.access import audit
from deployments.admin import commits
from deployments.admin.sidebyside import DiffLine
from deployments.models import (
    AccessKey,
    AuditEntry,
    Deployment,
    DeploymentStatus,
    EventKind,
    ImageState,
    ImageStatus,
    PolicyStep,
    PolicyVersion,
    Repository,
    RepositoryEvent,
    RepositoryStatus,
    StepState,
    Sweep,
    SweepFinding,
    SweepStatus,
    VersionState,
)
from deployments.policy import Finding

register = template.Library()

#: Status → tone. The style sheet gives each tone a colour and a shape: ok a disc, run a half disc, warn a diamond, bad
#: a square, idle a ring.
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
    ImageStatus.RUNNABLE: "ok",
    ImageStatus.ARCHIVED: "bad",
    ImageStatus.NOT_PULLABLE: "bad",
    ImageStatus.UNKNOWN: "warn",
}
#: The tones of roll-outs, apart because a stopped sweep has another tone. A state that is not here is idle.
_ROLL_OUT_TONES: Mapping[str, str] = {
    VersionState.WAITING: "warn",
    VersionState.CANARIES: "run",
    VersionState.WATCHING: "run",
    VersionState.BATCHES: "run",
    VersionState.STOPPED: "bad",
    VersionState.ACTIVE: "ok",
    VersionState.UNDOING: "run",
    StepState.OPEN: "run",
    StepState.WRITTEN: "ok",
    StepState.UNCHANGED: "ok",
    StepState.LEFT: "warn",
    StepState.KEPT: "warn",
}


#: Model → the name of its list, where that is not the plural of the model's name.
PLURALS = {"AuditEntry": "Audit log", "NotificationDelivery": "Deliveries"}


@register.filter
def plural(opts: Any) -> str:
    """The name of a model's list. `opts`: the model's `_meta`."""
    return PLURALS.get(opts.object_name) or str(capfirst(opts.verbose_name_plural))


def mark(tone: str, word: str) -> SafeString:
    """A badge: a word with the colour and shape of a tone."""
    return format_html('<span class="badge {}">{}</span>', tone, word)


@register.filter
def badge(
    row: Deployment
    | Repository
    | RepositoryEvent
    | AccessKey
    | Sweep
    | SweepFinding
    | ImageState
    | PolicyVersion
    | PolicyStep
    | Finding,
) -> SafeString:
    """A badge with the status of a row; for an event its kind, for a finding its outcome or level."""
    if isinstance(row, Finding):
        return mark("bad" if row.level == "error" else "warn", row.level.capitalize())
    if isinstance(row, AccessKey):
        if row.revoked_at:
            return mark("bad", "Revoked")
        if getattr(row, "state", "") == "unseen":
            return mark("warn", "Log-in needed")
        if getattr(row, "state", "") == "replaced":
            return mark("warn", "Replaced")
        return mark("ok", "Live") if row.is_live else mark("idle", "Expired")
    if isinstance(row, RepositoryEvent):
        return mark(TONES[row.kind], row.get_kind_display())
    if isinstance(row, SweepFinding):
        return mark(TONES[row.outcome], row.get_outcome_display())
    if isinstance(row, ImageState):
        return mark(TONES[row.state], row.get_state_display())
    if isinstance(row, PolicyVersion | PolicyStep):
        return mark(_ROLL_OUT_TONES.get(row.state, "idle"), row.get_state_display())
    return mark(TONES[row.status], row.get_status_display())


@register.filter
def tags(row: Any) -> SafeString:
    """The tag of a deployment that comes from `listed`: current, rolled back, or nothing."""
    if row.is_current:
        return SafeString('<span class="tag current">current</span>')
    return SafeString('<span class="tag back">rolled back</span>') if row.is_rolled_back else SafeString("")


@register.filter
def subject(row: Deployment) -> str:
    """The subject of a deployment's commit; empty if the CLI sent no message."""
    return commits.subject(row.git)


@register.filter
def headline(row: Deployment) -> str:
    """The title of a deployment in a list: the subject of its commit; its version if the CLI sent no message."""
    return subject(row) or str(row.version)


@register.filter
def live_headline(promotion: Any) -> str:
    """The `headline` of a promotion's deployment, from the annotation `message` (`dashboard.commit_message`)."""
    return commits.first_line(promotion.message) or str(promotion.deployment.version)


LINE_CHARACTERS = 200  # of `one_line`
_CELL = re.compile(r"<(tr|td|th)\b([^>]*)>")
_HEADER = re.compile(r"<th\b[^>]*>(.*?)</th>", re.DOTALL)
_HEADER_OF_LIST = re.compile(r'<div class="text">(.*?)</div>', re.DOTALL)


@register.tag
def cards(parser: Parser, token: Token) -> Node:
    """`{% cards %}<table>…</table>{% endcards %}`: on a phone each row of the table is a card with labels.

    One table with a `thead`. The labels are its headers, so that no template writes them twice.
    """
    inside = parser.parse(("endcards",))
    parser.delete_first_token()
    return _Cards(inside)


class _Cards(Node):
    def __init__(self, inside: NodeList) -> None:
        self.nodelist = inside

    def render(self, context: Context) -> SafeString:
        return with_labels(self.nodelist.render(context))


def with_labels(table: str) -> SafeString:
    """The HTML of a table, each cell with the text of its column's header as `data-label`.

    A cell with colspan, and one below a header that is only for screen readers, has no label.
    """
    head, end, body = table.partition("</thead>")
    shown = ["" if "visually-hidden" in cell else cell for cell in _HEADER.findall(head)]
    labels = [(_HEADER_OF_LIST.findall(cell) or [cell])[0] for cell in shown]
    words = [" ".join(unescape(strip_tags(label)).split()) for label in labels]
    column = 0

    def labelled(match: re.Match[str]) -> str:
        nonlocal column
        name, attributes = match.groups()
        column = 0 if name == "tr" else column + 1
        if name != "td" or "colspan" in attributes or not (label := "".join(words[column - 1 : column])):
            return match[0]
        return format_html('<td data-label="{}"{}>', label, SafeString(attributes))

    head = re.sub(r'<table(?: class="([^"]*)")?', _as_cards, head, count=1)
    return SafeString(head + end + _CELL.sub(labelled, body))


def _as_cards(table: re.Match[str]) -> str:
    return f'<table class="{" ".join(filter(None, ("cards", table[1])))}"'


@register.filter
def chosen(choices: list[dict[str, Any]]) -> str:
    """What a filter's menu says is chosen: the word of the choice, or the number of chosen ones; empty for none."""
    words = [str(each["display"]) for each in choices[1:] if each["selected"]]
    return words[0] if len(words) == 1 else f"{len(words)} chosen" if words else ""


@register.filter
def named(row: Repository) -> str:
    """A repository as a person knows it: its project's name; the repository's name if it has no project."""
    return str(row.project or row.name)


@register.filter
def problem(entry: AuditEntry) -> str:
    """Why the action of an audit entry was not done; empty if it was done."""
    return "" if entry.outcome == audit.DONE else entry.outcome


@register.filter
def pull(verdict: str) -> SafeString:
    """A badge for a verdict of `policy.effective` (yes, no, depends, unknown) about pulling."""
    if verdict == "yes":
        return mark("ok", "May pull")
    if verdict == "unknown":
        return mark("warn", "Not seen")
    return mark("bad", "May not pull") if verdict == "no" else mark("warn", "It depends")


@register.filter
def proof(verdict: str) -> SafeString:
    """A badge for the verdict of a receipt about a consumer account: of an image, not only of policies."""
    return mark("ok", "Can pull") if verdict == "yes" else pull(verdict)


@register.filter
def storage(status: str) -> SafeString:
    """A badge for AWS's status of an image: active, archived, or being restored from the archive."""
    words = {"ACTIVE": ("ok", "Active"), "ARCHIVED": ("warn", "Archived"), "ACTIVATING": ("run", "Restoring")}
    return mark(*words.get(status, ("idle", status.capitalize())))


@register.filter
def tone(status: str) -> str:
    """The tone of a status."""
    return TONES[status]


@register.filter
def ago(moment: datetime | None, otherwise: str = "–") -> str:
    """“3 hours ago” with the exact time in UTC on hover; the date after 30 days; `otherwise` for None."""
    if moment is None:
        return otherwise
    age = timezone.now() - moment
    if age < timedelta(minutes=1):
        words = "just now"  # also for a time slightly in the future (clocks differ)
    elif age < timedelta(days=30):
        words = f"{timesince(moment, depth=1)} ago"
    else:
        words = f"{moment.day} {moment:%b %Y}"
    return _time(moment, words, "ago")


@register.filter
def until(moment: datetime | None, otherwise: str = "–") -> str:
    """“in 3 hours” for a time in the future, with the exact time in UTC on hover, else like `ago`."""
    if moment is None or moment <= timezone.now():
        return ago(moment, otherwise)
    return _time(moment, f"in {_ahead(moment - timezone.now())}", "until")


def _ahead(left: timedelta) -> str:
    """The time that is left, to the nearest day, hour or full minute: an hour after “for 1 day” it is 23 hours.

    `live.js` writes the same. Days are not summed up to months: a key for 90 days ends “in 90 days”.
    """
    seconds = left.total_seconds()
    number, unit = max(1, floor(seconds / 86400 + 0.5)), "day"
    if (hours := floor(seconds / 3600 + 0.5)) < 24:
        number, unit = hours, "hour"
    if (minutes := ceil(seconds / 60)) < 60:
        number, unit = minutes, "minute"
    return f"{number}\xa0{unit}{'' if number == 1 else 's'}"


@register.filter
def since(moment: datetime) -> str:
    """The time that has passed, as `took` writes it. It runs while the page renews itself."""
    return _time(moment, took(timezone.now() - moment), "since")


@register.filter
def at(moment: datetime) -> str:
    """“14:02” of today in UTC, “26 Nov, 14:02” of another day."""
    today = moment.date() == timezone.now().date()
    return _time(moment, f"{moment:%H:%M}" if today else f"{moment.day} {moment:%b, %H:%M}")


@register.filter
def clock(moment: datetime | None) -> str:
    """The time of day in UTC, for tables of times."""
    return _time(moment, f"{moment:%H:%M:%S}") if moment else "–"


def _time(moment: datetime, words: str, kind: str = "") -> SafeString:
    """`kind`: how `live.js` renews the words (ago, until, since); empty: it leaves them."""
    renewed = format_html(' data-live="{}"', kind) if kind else ""
    at, exactly = moment.isoformat(), f"{moment:%d %b %Y, %H:%M:%S} UTC"
    return format_html('<time datetime="{}" title="{}"{}>{}</time>', at, exactly, renewed, words)


@register.filter
def took(duration: timedelta | None) -> str:
    """“42s”, “3m 05s”, “2h 10m”."""
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
    """A value, or a text that is JSON, as indented JSON. A text that is not JSON stays unchanged."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return str(value)
    return json.dumps(value, indent=2, ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A value of a JSON object as text. `long`: it needs a line of its own; `block`: it has several lines."""

    text: str
    long: bool = False
    block: bool = False


@register.filter
def members(value: Any, without: str = "") -> list[tuple[str, Member]]:
    """(name, value) of each member of a JSON object: texts unchanged, lists joined by commas, other values as JSON.

    `without`: names to leave out, separated by spaces.
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
def names(lines: list[DiffLine]) -> bool:
    """Whether two texts side by side differ in the name of a statement."""
    return any(line.is_name for line in lines)


@register.filter
def code(text: str) -> str:
    """A text that people copy. Without a script, a click selects all of it."""
    return format_html('<code class="copy">{}</code>', text) if text else "–"


@register.filter
def short_code(text: str) -> str:
    """As `code`, on one line: the end of a long text is hidden, and copied with the rest."""
    return format_html('<code class="copy short" title="{0}">{0}</code>', text) if text else "–"


@register.filter
def web_address(text: Any) -> str:
    """A URL from data that a CLI sent if it is https, else empty, so that no `javascript:` URL becomes a link."""
    try:
        return str(text) if urlsplit(str(text)).scheme == "https" else ""
    except ValueError:
        return ""


@register.filter
def link(address: str, words: object) -> SafeString:
    """A link to another site; only the words if there is no address. The address comes from `commits`."""
    return format_html('<a href="{}" rel="noreferrer">{}</a>' if address else "{1}", address, words)


@register.filter("commit")
def commit_cell(row: Deployment) -> SafeString:
    """A cell with the commit, as a link where the remote is known, and the branch. The CLI sent the values."""
    dirty = SafeString(' <span class="tag">dirty</span>') if row.git.get("dirty") is True else ""
    sha = format_html("<code>{}</code>", str(row.git.get("commitSha") or "–")[:7])
    commit = link(commits.links(row.git).commit, sha)
    return format_html('{}{}<span class="under">{}</span>', commit, dirty, row.git.get("commitRef") or "–")


_DIGEST = re.compile(r"\b(sha256:[0-9a-f]{12})[0-9a-f]{52}\b")


def short(text: str) -> str:
    """A text for a list: the first twelve characters of a digest name it. The row's page has the whole text."""
    return _DIGEST.sub(r"\1…", text)


def one_line(text: object) -> str:
    """The beginning of a reason for a cell of a list, whose line the style sheet cuts: its whole can have 16 KB."""
    return Truncator(str(text)).chars(LINE_CHARACTERS)


def two_lines(first: object, second: object) -> SafeString:
    """A table cell with a second, less visible line."""
    return format_html('{}<span class="under">{}</span>', first, second)
