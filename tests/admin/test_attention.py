"""One alarm per cause: on the dashboard and in the list of repositories."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments import errors
from deployments.admin import attention
from deployments.admin.pages import MAX_MENU_CHOICES
from deployments.models import Repository
from deployments.row_values import Difference, Part
from tests.admin.installation import Installation

REPOSITORIES = "/admin/deployments/repository/"
DENIED = "ecr:SetRepositoryPolicy is denied"
EXCEPTION = {"mode": "observe", "mode_reason": "OPS-311"}
WORDS = "Compared with the default policy, account 333333333333 cannot pull."


def quiet() -> None:
    Repository.objects.update(
        status="in_sync",
        last_error="",
        last_error_code="",
        differences=[],
        drifted_since=None,
        mode="",
        mode_until=None,
    )


def fail(rows: list[Repository], operation: str, code: str, message: str) -> None:
    for row in rows:
        error = errors.aws_error(operation, row.name, code, message.format(row.name), permission=f"ecr:{operation}")
        row.status, row.last_error, row.last_error_code = "failed", str(error), code
        row.error_since = row.last_error_at = timezone.now() - timedelta(hours=2)
        row.save()


def drift(row: Repository, **values: object) -> Repository:
    difference = Difference(part=Part.POLICY, words=WORDS, fixable=True)
    Repository.objects.filter(pk=row.pk).update(
        status="drifted", differences=[difference], drifted_since=timezone.now(), **values
    )
    return row


def repositories(number: int) -> list[Repository]:
    """New repositories of the registry that is configured."""
    host, known = "111111111111.dkr.ecr.us-east-1.amazonaws.com", Repository.objects.count()
    return [
        Repository.objects.create(account=host[:12], region="us-east-1", host=host, name=f"trigger/proj_{known + each}")
        for each in range(number)
    ]


@pytest.fixture
def twelve(installation: Installation) -> list[Repository]:
    """12 repositories with one denied action, and one that is throttled."""
    quiet()
    rows = repositories(13)
    fail(rows[:12], "SetRepositoryPolicy", "AccessDeniedException", "User: arn:aws:iam::1:user/a may not: {}")
    fail(rows[12:], "GetRepositoryPolicy", "ThrottlingException", "Rate exceeded")
    return rows


@pytest.mark.costly
def test_twelve_denied_repositories_and_a_throttled_one_are_two_alarms(
    twelve: list[Repository], operator: Client
) -> None:
    response = operator.get("/admin/")

    found = response.context["attention"]
    assert [(alarm.cause.title, len(alarm.rows)) for alarm in found.alarms] == [
        (DENIED, 12),
        ("GetRepositoryPolicy is throttled", 1),
    ]
    page = " ".join(response.content.decode().split())
    assert page.count(DENIED) == 1
    assert "12 repositories, since" in page
    assert "9 more" in page


@pytest.mark.costly
def test_an_alarm_says_the_next_step_first_then_the_statement_to_copy_then_the_words_of_aws(
    twelve: list[Repository], operator: Client
) -> None:
    page = operator.get("/admin/").content.decode()

    statement = "{&quot;Effect&quot;: &quot;Allow&quot;, &quot;Action&quot;: [&quot;ecr:SetRepositoryPolicy&quot;]"
    order = [
        page.index(each)
        for each in (
            "Allow ecr:SetRepositoryPolicy to Registry Admin.",
            f'<code class="copy">{statement}',
            "user/a may not",
        )
    ]
    assert order == sorted(order)


@pytest.mark.costly
def test_the_page_of_a_denied_repository_has_the_statement_that_its_alarm_has(
    twelve: list[Repository], operator: Client
) -> None:
    alarms = operator.get("/admin/").context["attention"].alarms

    denied, throttled = (operator.get(f"{REPOSITORIES}{row.pk}/change/") for row in (twelve[0], twelve[12]))

    assert denied.context["statements"] == alarms[0].statements != []
    assert '<code class="copy">{&quot;Effect&quot;: &quot;Allow&quot;' in denied.content.decode()
    assert throttled.context["statements"] == []


@pytest.mark.costly
def test_the_link_of_an_alarm_lists_exactly_its_repositories(twelve: list[Repository], operator: Client) -> None:
    alarm = operator.get("/admin/").context["attention"].alarms[0]

    response = operator.get(alarm.address)

    assert {row.pk for row in response.context["cl"].result_list} == {row.pk for row in twelve[:12]}
    assert "Allow ecr:SetRepositoryPolicy to Registry Admin." in response.content.decode()


@pytest.mark.costly
def test_the_link_of_a_cause_that_no_repository_has_any_more_lists_nothing(
    twelve: list[Repository], operator: Client
) -> None:
    address = operator.get("/admin/").context["attention"].alarms[0].address
    quiet()

    assert "Nothing matches." in operator.get(address).content.decode()


@pytest.mark.costly
def test_the_list_names_the_causes_that_several_repositories_have(twelve: list[Repository], operator: Client) -> None:
    page = operator.get(REPOSITORIES)

    assert [alarm.cause.title for alarm in page.context["shared"]] == [DENIED]
    assert not operator.get(REPOSITORIES + "?status=failed").context["shared"]


@pytest.mark.costly
def test_a_drift_that_a_person_left_as_it_is_does_not_alarm_until_its_exception_ends(
    installation: Installation, operator: Client
) -> None:
    quiet()
    row = drift(
        repositories(1)[0], mode="observe", mode_reason="OPS-311", mode_until=timezone.now() + timedelta(days=1)
    )

    response = operator.get("/admin/")
    page = " ".join(response.content.decode().split())
    assert response.context["attention_number"] == 0
    assert response.context["attention"].alarms == []
    assert "1 with an exception" in page
    assert "differs, and is left as it is until" in page
    assert "OPS-311" in page
    assert "need attention" not in page  # the counter of the navigation
    listed = operator.get(response.context["left_address"]).context["cl"].result_list
    assert [each.pk for each in listed] == [row.pk]

    Repository.objects.filter(pk=row.pk).update(mode_until=timezone.now() - timedelta(minutes=1))
    assert operator.get("/admin/").context["attention_number"] == 1


@pytest.mark.costly
@pytest.mark.parametrize(
    "values", [{"status": "missing"}, {"status": "failed", "last_error": "It failed."}, {"mode": "enforce"}]
)
def test_an_exception_is_no_answer_to_a_failure_a_deletion_or_a_drift_that_is_to_be_repaired(
    values: dict[str, str], installation: Installation, operator: Client
) -> None:
    quiet()
    row = drift(
        repositories(1)[0], mode="observe", mode_reason="OPS-311", mode_until=timezone.now() + timedelta(days=1)
    )
    Repository.objects.filter(pk=row.pk).update(**values)

    assert operator.get("/admin/").context["attention_number"] == 1


@pytest.mark.costly
def test_the_tile_links_to_all_that_need_attention(twelve: list[Repository], operator: Client) -> None:
    address = operator.get("/admin/").context["attention_address"]

    assert {row.pk for row in operator.get(address).context["cl"].result_list} == {row.pk for row in twelve}


@pytest.mark.costly
def test_more_repositories_need_no_more_queries_and_beyond_the_bound_the_page_says_so(
    twelve: list[Repository], operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.get("/admin/")
    with CaptureQueriesContext(connection) as few:
        operator.get("/admin/")
    fail(repositories(27), "SetRepositoryPolicy", "AccessDeniedException", "{}")
    with CaptureQueriesContext(connection) as many:
        operator.get("/admin/")
    assert len(many) == len(few) <= 20

    monkeypatch.setattr(attention, "MAX_GROUPED", 12)
    page = " ".join(operator.get("/admin/").content.decode().split())
    assert "Grouped are the first 12 repositories" in page


@pytest.mark.costly
def test_who_may_not_reconcile_gets_no_link_to_the_actions(
    installation: Installation, operator: Client, person: object
) -> None:
    quiet()
    drift(repositories(1)[0])

    assert "Choose what to do with it" in operator.get("/admin/").content.decode()
    assert "Choose what to do" not in person("view_repository").get("/admin/").content.decode()  # type: ignore[operator]


@pytest.mark.costly
def test_many_causes_with_long_words_leave_the_pages_small_and_the_pages_say_what_is_not_shown(
    installation: Installation, operator: Client
) -> None:
    quiet()
    rows = repositories(attention.ALARMS_SHOWN + 100)
    for number, row in enumerate(rows):
        row.status, row.last_error, row.last_error_code = "failed", f"Unheard of {number}: <b>{'x ' * 5_000}", "Novel"
        row.last_error_at = row.error_since = timezone.now()
    Repository.objects.bulk_update(rows, ["status", "last_error", "last_error_code", "last_error_at", "error_since"])

    dashboard, listed = operator.get("/admin/"), operator.get(REPOSITORIES)

    page = " ".join(dashboard.content.decode().split())
    assert page.count('data-key="cause-') == attention.ALARMS_SHOWN
    assert "100 more causes." in page
    assert len(page) < 130 * 1024
    assert len(listed.content) < 260 * 1024  # 50 rows; before compression
    [menu] = [choices for spec, choices in listed.context["cl"].menus if spec.title == "Cause"]
    assert len(menu) == 1 + MAX_MENU_CHOICES
    last = dashboard.context["attention"].alarms[-1]
    assert [row.pk for row in operator.get(last.address).context["cl"].result_list] == [last.rows[0].pk]


@pytest.mark.costly
def test_a_list_of_a_cause_says_that_not_all_repositories_were_grouped(
    twelve: list[Repository], operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MAX_GROUPED", 11)
    alarm = operator.get("/admin/").context["attention"].alarms[0]

    page = " ".join(operator.get(alarm.address).content.decode().split())
    whole = " ".join(operator.get(REPOSITORIES).content.decode().split())

    assert "11 repositories, since" in page
    assert "Grouped are the first 11 repositories that need attention, so more may have these causes." in page
    assert "Among the first 11 repositories that need attention." in whole
