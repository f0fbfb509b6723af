"""Every page of the admin: what it asks of the database, what it asks of the browser, and how it reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.conf import settings
from django.contrib import admin
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from deployments import tasks
from deployments.models import ImageState, NotificationChannel, Process, Project, Repository
from tests.admin.installation import Installation, address
from tests.admin.markup import Page, read

LISTS = {
    "deployments/deployment": 9,
    "deployments/repository": 11,
    "deployments/sweep": 11,
    "deployments/policyversion": 7,
    "deployments/project": 7,
    "deployments/environment": 8,
    "deployments/accesskey": 6,
    "deployments/trustpolicy": 7,
    "auth/user": 10,
    "auth/group": 6,
    "pulls": 11,
}


CHANNEL = "admin:deployments_notificationchannel"
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

    # As cards with labels; two policies side by side have a form of their own.
    assert [each for each in tables if not re.search(r'class="(cards|compare)\b', each)] == []


@pytest.mark.wide
@pytest.mark.parametrize("page", PAGES)
def test_every_form_that_changes_something_is_a_post_with_a_token(page: str, seen: Page) -> None:
    posts = [form for form in seen.forms if form.get("method", "get").lower() == "post"]
    assert seen.tokens == len(posts)
    assert all(form.get("role") == "search" for form in seen.forms if form not in posts)


@pytest.mark.costly
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
            "NotificationChannel", "NotificationDelivery", "PolicyVersion", "TrustPolicy",
        },
        "auth": {"User", "Group"},
    }  # fmt: skip

    for model in admin.site._registry:
        assert model.__name__ in chosen[model._meta.app_label]


@pytest.mark.costly
def test_an_empty_installation_names_the_next_steps_that_a_person_may_take(
    operator: Client, person: Callable[..., Client]
) -> None:
    command = "trigger.dev@latest deploy --local-build"
    page = operator.get("/admin/")
    links = read(page.content.decode().split("Next steps")[1].split("</section>")[0]).links

    assert f"TRIGGER_API_URL={settings.CONFIGURATION.api_origin} npx {command}" in page.content.decode()
    assert links == [reverse("admin:setup"), *map(reverse, ("admin:deployments_project_add", f"{CHANNEL}_add"))]
    viewer = person("view_deployment").get("/admin/").content.decode()
    assert command in viewer
    assert read(viewer.split("Next steps")[1].split("</section>")[0]).links == []
    assert command in operator.get("/admin/deployments/deployment/").content.decode()
    assert "manage.py bootstrap" in operator.get("/admin/deployments/project/").content.decode()


@pytest.mark.costly
def test_an_installation_with_a_deployment_shows_no_next_steps(installation: Installation, operator: Client) -> None:
    assert "Next steps" not in operator.get("/admin/").content.decode()


@pytest.mark.costly
def test_live_versions_begin_with_the_projects_in_trouble_and_say_how_many_are_not_shown(
    installation: Installation, operator: Client
) -> None:
    Repository.objects.update(status="in_sync")
    ImageState.objects.update(state="runnable")
    names = sorted((project.name for project in installation.projects), key=str.lower)
    grid = operator.get("/admin/").context["grid"]
    assert [row.project.name for row in grid] == names

    last, before = (next(each for each in installation.projects if each.name == name) for name in names[:-3:-1])
    Repository.objects.filter(project=last).update(status="drifted")
    ImageState.objects.filter(deployment__promotions__label="current", deployment__project=before).update(
        state="missing"
    )
    Project.objects.bulk_create(Project(name=f"Another {number}", ref=f"proj_more{number}") for number in range(20))
    response = operator.get("/admin/")

    grid = response.context["grid"]
    assert [row.project.name for row in grid[:2]] == sorted([last.name, before.name])
    assert response.context["more_projects"] == len(names) + 20 - 20
    page = " ".join(response.content.decode().split())
    assert f"{len(names)} more projects" in page
    assert "a current image cannot be pulled" in page
    troubled = next(row for row in grid if row.project == last)
    listed = operator.get(troubled.alarms).context["cl"].result_list
    assert {row.project_id for row in listed} == {last.pk}


@pytest.mark.costly
def test_a_day_of_the_chart_leads_to_its_deployments(installation: Installation, operator: Client) -> None:
    response = operator.get("/admin/")
    day = response.context["chart"].days[-1]

    address = f"/admin/deployments/deployment/?created_at_from={day.day}&created_at_to={day.day}"
    assert address in read(response.content.decode()).links
    assert operator.get(address).context["cl"].result_count == day.all


def test_a_stranger_is_asked_to_log_in_and_sees_nothing_of_the_registry(installation: Installation) -> None:
    client = Client()
    for page in PAGES:
        response = client.get(address(page))
        assert response.status_code == 302
    login = client.get("/admin/login/").content.decode()
    assert read(login).inline == []
    assert installation.projects[0].name not in login
    assert "dkr.ecr" not in login


def a_process(role: str, **values: Any) -> Process:
    return Process.objects.create(role=role, host="here", pid=7, **values)


def an_overdue_schedule() -> None:
    tasks.ensure_schedules()
    tasks.overdue(-9e9).update(next_run=timezone.now() - LONG_AGO)


LONG_AGO = timedelta(minutes=5)
CLOCK = "This host's clock is +70.0 seconds from the database's: set it (NTP)."
PROBLEMS: dict[str, tuple[int, Callable[[], object]]] = {
    "a worker runs": (0, lambda: a_process("worker")),
    "no worker": (1, lambda: None),
    "a worker that sends no heartbeat": (1, lambda: a_process("worker", beat_at=timezone.now() - LONG_AGO)),
    "a consumer of change events was killed": (
        1,
        lambda: (a_process("worker"), a_process("events", beat_at=timezone.now() - LONG_AGO)),
    ),
    "a clock is wrong": (1, lambda: a_process("worker", clock_offset=70, trouble=CLOCK)),
    "a channel for mails, and no mail server": (
        1,
        lambda: (a_process("worker"), NotificationChannel.objects.create(name="m", kind="mail", address="a@b.example")),
    ),
    "a schedule is overdue": (
        1,
        lambda: (a_process("worker", started_at=timezone.now() - LONG_AGO), an_overdue_schedule()),  # type: ignore[func-returns-value]
    ),
    "a schedule is overdue after a stop": (
        0,
        lambda: (a_process("worker"), an_overdue_schedule()),  # type: ignore[func-returns-value]
    ),
}


@pytest.mark.costly
@pytest.mark.parametrize("what", PROBLEMS)
def test_every_page_counts_the_problems_that_the_health_page_lists_and_says_that_no_worker_runs(
    what: str, installation: Installation, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "MAIL_IS_CONFIGURED", False)
    Process.objects.all().delete()
    number, happens = PROBLEMS[what]
    happens()

    page = operator.get("/admin/deployments/project/").content.decode()
    entry = page.split('<nav id="sections"')[1].split('href="/admin/setup/"')[1].split("</a>")[0]
    health = operator.get("/admin/setup/").context["report"]

    assert health.summary["fail"] == number
    words = f'{number}<span class="visually-hidden"> problem{" needs" if number == 1 else "s need"} attention'
    assert (words in entry) == bool(number)
    assert ("No worker is running" in entry) == ("worker" in what and what != "a worker runs")


@pytest.mark.costly
def test_the_navigation_has_the_names_of_the_lists_and_deliveries_are_reached_from_the_channels(
    installation: Installation, operator: Client, person: Callable[..., Client]
) -> None:
    page = read(operator.get("/admin/deployments/notificationchannel/").content.decode())
    sections = operator.get("/admin/").context["available_apps"]

    names = [model["name"] for model in sections[-1]["models"]]
    assert names == ["Audit log", "Notification channels", "Health"]
    deliveries = "/admin/deployments/notificationdelivery/"
    assert deliveries in page.links
    listed = operator.get(deliveries).content.decode()
    assert "<h1>Deliveries</h1>" in listed
    assert 'href="/admin/deployments/notificationchannel/" aria-current="true"' in " ".join(listed.split())
    only = person("view_notificationdelivery").get("/admin/").context["available_apps"]
    assert [model["name"] for each in only for model in each["models"]] == ["Deliveries"]


@pytest.mark.costly
def test_the_navigation_counts_what_is_under_way_and_what_needs_attention(
    installation: Installation, operator: Client, person: Callable[..., Client]
) -> None:
    attention = Repository.objects.filter(status__in=("drifted", "failed", "missing")).count()

    page = operator.get("/admin/").content.decode()

    assert f'{attention}<span class="visually-hidden"> need attention' in page
    assert '3<span class="visually-hidden"> in progress' in page
    assert "need attention" not in person("view_group").get("/admin/").content.decode()
