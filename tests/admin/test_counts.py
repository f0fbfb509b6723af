"""Each number that leads to a list is the number of rows that the list then has."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from html.parser import HTMLParser
from urllib.parse import parse_qs, urljoin, urlparse

import pytest
from django.test import Client
from django.utils import timezone

from deployments.admin.attention import NAMED
from deployments.admin.pages import Console
from deployments.models import Project, Repository
from deployments.row_values import ConsumerPull, Difference, Part
from tests.admin.installation import CLUSTER, HOST, STAGING, Installation
from tests.admin.markup import VOID

DEPLOYMENTS, REPOSITORIES = "/admin/deployments/deployment/", "/admin/deployments/repository/"
LISTS = (DEPLOYMENTS, REPOSITORIES, f"{REPOSITORIES}ask/", "/admin/pulls/")
NUMBER = re.compile(r"(?<![\w.,:/-])\d{1,5}(?![\w.,:/-])")
PAGES = (
    "/admin/",
    "/admin/pulls/",
    "/admin/pulls/?state=no",
    f"/admin/pulls/?consumer={STAGING}",
    "/admin/pulls/?q=trigger",
    DEPLOYMENTS,
    f"{DEPLOYMENTS}?created_at=7d",
    f"{DEPLOYMENTS}?status=FAILED",
    f"{DEPLOYMENTS}?environment__slug=prod&q=a",
    REPOSITORIES,
    f"{REPOSITORIES}?status=attention",
    f"{REPOSITORIES}?q=trigger&o=1",
    f"{REPOSITORIES}?region=us-east-1&status=failed",
    f"{REPOSITORIES}?mode=observe",
    "/admin/deployments/environment/",
    "/admin/deployments/project/",
    "/admin/deployments/accesskey/",
    "/admin/deployments/trustpolicy/",
    "/admin/deployments/sweep/",
)


@dataclass
class Link:
    """A link, what it says, and what the tile says that it stands in."""

    address: str
    words: str = ""
    number: str = ""  # what is marked as the number of the link or of its tile
    is_chosen: bool = False


@dataclass
class _Reader(HTMLParser):
    links: list[Link] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.link: Link | None = None
        self.tile = ""

    def handle_starttag(self, tag: str, pairs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in pairs}
        if tag in VOID:
            return
        self.open.append((tag, values.get("class", "")))
        if tag == "li" and "tile" in values.get("class", "").split():
            self.tile = ""
        # The navigation says beside the name of a list what is in trouble, and leads to the whole list.
        if tag == "a" and not any(map(self._inside, ("svg", "nav", "th"))):
            self.link = Link(values.get("href", ""), number=self.tile, is_chosen="aria-current" in values)
            self.links.append(self.link)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass
        if tag == "a":
            self.link = None
        if tag == "li" and not self._inside("li", "tile"):
            self.tile = ""

    def handle_data(self, data: str) -> None:
        marked = self._inside("span", "number") or self._inside("b")
        if self._inside("li", "tile") and self._inside("b"):
            self.tile += data.strip()
        if self.link is not None and marked:
            self.link.number += data.strip()
        if self.link is not None:
            self.link.words += data

    def _inside(self, tag: str, name: str = "") -> bool:
        return any(each == tag and (not name or name in classes.split()) for each, classes in self.open)


def links(page: str) -> list[Link]:
    reader = _Reader()
    reader.feed(page)
    return reader.links


def counted(page: str, address: str) -> Iterator[tuple[str, int, str]]:
    """(what a link says, its number, where it leads) for each link of a page with a number to a list.

    Left out: a choice of a menu in which something is chosen. Its number is that of its own value, and its link adds
    the value to the chosen ones, or takes it away.
    """
    for link in links(page):
        # Python's urljoin keeps the query where a link has an empty one, and a browser drops it.
        target = urlparse(address).path if link.address == "?" else urljoin(address, link.address)
        words = " ".join(link.words.split())
        is_list = urlparse(target).path in LISTS or link.address.startswith("?")
        values = parse_qs(urlparse(target).query)
        adds = any(len(values.get(name, ())) > 1 for name in parse_qs(urlparse(address).query))
        if not is_list or link.is_chosen or adds or "created_at" in values or "p" in values:
            continue
        numbers = [] if words.endswith(", remove") else NUMBER.findall(link.number or words)
        if numbers and (link.number or words) != "who can pull":
            yield words, int(numbers[-1]) + (NAMED if words.endswith(" more") else 0), target


def drift(row: Repository, words: str, **values: object) -> None:
    difference = Difference(part=Part.POLICY, words=words, fixable=True)
    Repository.objects.filter(pk=row.pk).update(
        status="drifted", differences=[difference], drifted_since=timezone.now(), **values
    )


def every_state() -> None:
    """Repositories of the configured registry in each state, five of them with one cause, and two that are left."""
    now, until = timezone.now(), timezone.now() + timedelta(days=1)
    answers = [ConsumerPull(verdict=verdict, words=".") for verdict in ("yes", "no", "depends", "unknown")]
    hostile = '<b onclick="x">y</b> &quot; %s {name} \n' + "x " * 5_000
    known = Repository.objects.count()
    rows = [
        Repository.objects.create(
            account=HOST[:12], region="us-east-1", host=HOST, name=f"trigger/state_{known + number}", status="in_sync",
            last_checked_at=now, consumers={CLUSTER: answers[number % 4], STAGING: answers[number // 4 % 4]},
        )
        for number in range(24)
    ]  # fmt: skip
    for row in rows[:5]:
        drift(row, "Compared with the default policy, account 333333333333 loses pull.")
    for row in rows[5:7]:
        drift(row, "The repository has no policy.", mode="observe", mode_until=until, mode_reason="OPS-311")
    drift(
        rows[7],
        "The repository has no policy.",
        mode="observe",
        mode_until=now - timedelta(hours=1),
        mode_reason="Over",
    )
    failed = {"status": "failed", "last_error_at": now, "error_since": now}
    Repository.objects.filter(pk__in=[row.pk for row in rows[8:12]]).update(**failed, last_error=hostile)
    Repository.objects.filter(pk__in=[row.pk for row in rows[12:14]]).update(**failed, last_error="")
    Repository.objects.filter(pk__in=[row.pk for row in rows[14:16]]).update(status="missing")
    Repository.objects.filter(pk=rows[16].pk).update(status="pending", last_checked_at=None, consumers={})
    Repository.objects.filter(pk=rows[17].pk).update(status="unmanaged")
    Repository.objects.filter(pk=rows[18].pk).update(
        incomparable_since=now, mode="enforce", mode_until=until, mode_reason="OPS-312"
    )
    Project.objects.filter(pk=Project.objects.order_by("-pk")[0].pk).update(archived_at=now)


@pytest.mark.costly
@pytest.mark.parametrize("address", PAGES)
def test_a_number_that_leads_to_a_list_is_the_number_of_its_rows(
    address: str, installation: Installation, operator: Client
) -> None:
    every_state()
    response = operator.get(address)
    assert response.status_code == 200
    found = list(counted(response.content.decode(), address))
    wrong = []
    for words, number, target in found:
        answer = operator.get(target)
        rows = answer.context["cl"].result_count if answer.context.get("cl") else answer.context["number"]
        if rows != number:
            wrong.append((words, number, target, rows))
    assert not wrong, wrong


@pytest.mark.costly
@pytest.mark.parametrize(
    "address",
    [
        f"{REPOSITORIES}?status=attention",
        f"{REPOSITORIES}?status=attention&status=left&o=1",
        f"{REPOSITORIES}?status=drifted&mode=observe",
        f"{REPOSITORIES}?comparison=incomparable",
        f"{REPOSITORIES}?q=state&status=in_sync&o=-2.1",
        f"{REPOSITORIES}?q=%3Cb+onclick",
        f"{REPOSITORIES}?status=nonsense",
        f"{REPOSITORIES}?mode=nonsense&cause=nonsense",
        "/admin/pulls/?state=no&o=1",
        "/admin/pulls/?state=depends&state=unknown&q=state",
        f"/admin/pulls/?consumer={STAGING}&state=nonsense",
    ],
)
def test_a_file_has_the_rows_of_the_list_in_the_order_of_the_list(
    address: str, installation: Installation, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Console, "list_per_page", 7)
    every_state()
    path, _, query = address.partition("?")

    shown = operator.get(address).context["cl"]
    listed = [row.name for row in shown.result_list]
    for page in range(2, shown.paginator.num_pages + 1):
        listed += [row.name for row in operator.get(f"{address}&p={page}").context["cl"].result_list]
    file = operator.get(f"{path}export.csv?{query}").getvalue().decode()

    assert [line["name"] for line in csv.DictReader(io.StringIO(file, newline=""))] == listed
    assert len(listed) == shown.result_count
