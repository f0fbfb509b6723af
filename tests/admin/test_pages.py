"""Every page of the admin: what it asks of the database, what it asks of the browser, and how it reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from django.contrib import admin
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from deployments.models import Repository
from tests.admin.installation import Installation, address
from tests.admin.markup import Page, read

LISTS = {
    "deployments/deployment": 9,
    "deployments/repository": 12,
    "deployments/sweep": 7,
    "deployments/project": 7,
    "deployments/environment": 8,
    "deployments/accesskey": 6,
    "auth/user": 10,
    "auth/group": 6,
    "pulls": 11,
}


PAGES = [
    "",
    *LISTS,
    *[f"{each}/one" for each in LISTS if each not in ("auth/group", "pulls")],
    "deployments/project/add",
    "deployments/accesskey/add",
    "auth/user/add",
    "auth/group/add",
    "password_change",
]


_seen: dict[str, Page] = {}


@pytest.fixture
def seen(page: str, request: pytest.FixtureRequest) -> Page:
    """The page as its reader sees it, asked for once for all the tests that only look at it."""
    if page not in _seen:
        request.getfixturevalue("installation")
        _seen[page] = read(request.getfixturevalue("operator").get(address(page)).content.decode())
    return _seen[page]


def queries(client: Client, page: str) -> int:
    client.get(address(page))  # what a process learns once (content types) is nobody's page
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert client.get(address(page)).status_code == 200
    return len(captured)


@pytest.mark.wide
@pytest.mark.parametrize("page", LISTS)
def test_a_list_takes_a_known_number_of_queries_and_no_more_with_ten_times_the_rows(
    page: str, installation: Installation, operator: Client
) -> None:
    assert queries(operator, page) == LISTS[page]

    Installation(projects=18, repositories=120, deployments=360, seed=8)

    assert queries(operator, page) == LISTS[page]


@pytest.mark.wide
@pytest.mark.parametrize("page", ["", *[each for each in PAGES if each.endswith("/one") and each[0] == "d"]])
def test_a_page_takes_at_most_twenty_queries_and_no_more_with_ten_times_the_rows(
    page: str, installation: Installation, operator: Client
) -> None:
    few = queries(operator, page)

    Installation(projects=18, repositories=120, deployments=360, seed=8)

    # A row that has a repository, a worker, an error or an owner needs a look-up more than one that has not.
    assert queries(operator, page) <= max(few, 16) <= 20


@pytest.mark.wide
@pytest.mark.parametrize("page", PAGES)
def test_a_page_needs_no_inline_style_or_script_and_nothing_from_elsewhere(page: str, seen: Page) -> None:
    assert seen.inline == []
    assert [each for each in seen.assets if not each.startswith(("/static/", "/admin/jsi18n/"))] == []
    assert [link for link in seen.links if link.lower().startswith(("javascript:", "data:"))] == []


@pytest.mark.wide
@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_one_title_headings_in_order_and_a_label_for_every_field(page: str, seen: Page) -> None:
    # The sections' own headings stand before the title, as the navigation does.
    in_content = seen.headings[seen.headings.index(1) :]
    assert seen.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(in_content))
    assert [
        each
        for each in seen.controls
        if not (each["inside"] or each.get("aria-label") or each.get("id") in seen.labels or each.get("title"))
    ] == []
    assert seen.images_without_text == 0
    assert len(seen.ids) == len(set(seen.ids))


@pytest.mark.wide
@pytest.mark.parametrize("page", PAGES)
def test_every_table_reads_on_a_phone(page: str, installation: Installation, operator: Client) -> None:
    tables = re.findall(r"<table[^>]*>", operator.get(address(page)).content.decode())

    # As cards with labels; versions in a grid and two policies side by side have forms of their own.
    assert [each for each in tables if not re.search(r'class="(cards|grid|compare)\b', each)] == []


@pytest.mark.wide
@pytest.mark.parametrize("page", PAGES)
def test_every_form_that_changes_something_is_a_post_with_a_token(page: str, seen: Page) -> None:
    posts = [form for form in seen.forms if form.get("method", "get").lower() == "post"]
    assert seen.tokens == len(posts)
    assert all(form.get("role") == "search" for form in seen.forms if form not in posts)


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("", "Dashboard"),
        ("deployments/deployment", "Deployments"),
        ("deployments/repository", "Repositories"),
        ("pulls", "Who can pull"),
        ("deployments/accesskey", "Access keys"),
        ("auth/user", "Users"),
        ("deployments/project/add", "New project"),
    ],
)
def test_a_page_is_called_what_it_shows(page: str, title: str, installation: Installation, operator: Client) -> None:
    assert f"<h1>{title}</h1>" in operator.get(address(page)).content.decode()


@pytest.mark.parametrize("model", ["task", "success", "failure", "schedule", "ormq"])
def test_the_queue_has_no_pages_not_even_for_a_superuser(model: str, operator: Client) -> None:
    for path in (f"/admin/django_q/{model}/", f"/admin/django_q/{model}/add/", "/admin/django_q/"):
        assert operator.get(path, follow=True).redirect_chain in ([], [("/admin/", 302)])
    assert operator.get(f"/admin/django_q/{model}/").status_code == 404


def test_only_models_that_we_chose_have_pages() -> None:
    chosen = {
        "deployments": {
            "Deployment", "Repository", "Sweep", "Project", "Environment", "AccessKey", "AuditEntry",
            "NotificationChannel", "NotificationDelivery",
        },
        "auth": {"User", "Group"},
    }  # fmt: skip

    for model in admin.site._registry:
        assert model.__name__ in chosen[model._meta.app_label]


def test_an_empty_installation_names_the_next_command(operator: Client) -> None:
    assert "trigger.dev@4.8.3 deploy" in operator.get("/admin/").content.decode()
    assert "trigger.dev@4.8.3 deploy" in operator.get("/admin/deployments/deployment/").content.decode()
    assert "manage.py bootstrap" in operator.get("/admin/deployments/project/").content.decode()


def test_a_stranger_is_asked_to_log_in_and_sees_nothing_of_the_registry(installation: Installation) -> None:
    client = Client()
    for page in PAGES:
        response = client.get(address(page))
        assert response.status_code == 302
    login = client.get("/admin/login/").content.decode()
    assert read(login).inline == []
    assert installation.projects[0].name not in login
    assert "dkr.ecr" not in login


def test_the_navigation_counts_what_is_under_way_and_what_needs_attention(
    installation: Installation, operator: Client, person: Callable[..., Client]
) -> None:
    attention = Repository.objects.filter(status__in=("drifted", "failed", "missing")).count()

    page = operator.get("/admin/").content.decode()

    assert f'{attention}<span class="visually-hidden"> need attention' in page
    assert '3<span class="visually-hidden"> in progress' in page
    assert "need attention" not in person("view_group").get("/admin/").content.decode()
