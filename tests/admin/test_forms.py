"""Forms of ours: where an error stands, and which fields a form has."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client

from deployments.models import AccessKey, Environment
from tests.admin.installation import Installation

NEW_KEY = "/admin/deployments/accesskey/add/"


def main(html: str) -> str:
    return html.partition("<main")[2]


def test_an_error_stands_under_its_field_and_in_a_summary_that_leads_to_the_field(
    installation: Installation, operator: Client
) -> None:
    page = main(operator.post(NEW_KEY, {"kind": "environment", "scopes": ["nothing"]}).content.decode())

    summary, _, fields = page.partition('<div class="form-row')
    assert 'role="alert" tabindex="-1" autofocus' in summary
    assert '<a href="#id_environment">Environment</a>: Choose the environment that the key is for.' in summary
    assert '<a href="#id_scopes">Scopes</a>: ' in summary
    assert fields.index("<select") < fields.index('id="id_environment_error"') < fields.index('id="id_name"')
    assert re.search(r'<select[^>]* aria-invalid="true"[^>]* aria-describedby="id_environment_error"', fields)
    assert '<fieldset aria-describedby="id_scopes_helptext id_scopes_error">' in fields
    assert 'id="id_scopes"' in fields


FORMS = {
    "/admin/deployments/accesskey/add/": {"kind": "environment", "scopes": ["nothing"]},
    "/admin/deployments/project/add/": {"name": ""},
    "/admin/deployments/notificationchannel/add/?kind=webhook": {"kind": "webhook", "name": ""},
    "/admin/auth/user/add/": {"username": ""},
    "/admin/auth/user/{user}/change/": {"username": ""},
    "/admin/auth/user/{user}/password/": {"password1": "", "password2": "", "set-password": "1"},
    "/admin/auth/group/add/": {"name": ""},
    "/admin/password_change/": {"old_password": "wrong", "new_password1": "a", "new_password2": "b"},
    "/admin/deployments/repository/what-if/": {"text": "", "registry": "0"},
}


@pytest.mark.parametrize("address", FORMS)
def test_every_form_has_a_summary_of_its_errors_that_takes_the_focus_and_each_error_below_its_field(
    address: str, installation: Installation, operator: Client
) -> None:
    other = User.objects.create_user("other", password="a-password-of-nobody")
    answer = operator.post(address.format(user=other.pk), FORMS[address]).content.decode()
    page = main(answer)

    assert re.search(r"<title>\s*Error: ", answer)
    assert "Error: Error" not in answer
    assert page.count('role="alert" tabindex="-1" autofocus') == 1
    assert "errornote" not in page
    summary, _, fields = page.partition('<div class="form-row')
    names = re.findall(r'<a href="#id_(\w+)">', summary)
    assert names
    for name in names:
        field = fields.index(f'id="id_{name}"')
        assert f'id="id_{name}_error"' in fields[field:], f"the error of {name} stands below it"


def test_a_log_in_that_fails_says_so_in_the_summary_of_the_form(db: None) -> None:
    answer = Client().post("/admin/login/", {"username": "nobody", "password": ""}).content.decode()

    assert "<title>Error: Log in · Registry Admin</title>" in answer
    assert '<a href="#id_password">Password</a>: This field is required.' in answer
    assert answer.index("form-errors") < answer.index('id="id_password"') < answer.index('id="id_password_error"')
    wrong = Client().post("/admin/login/", {"username": "nobody", "password": "wrong"}).content.decode()
    assert 'role="alert" tabindex="-1" autofocus' in wrong
    assert "Please enter the correct username and password" in wrong


@pytest.mark.costly
def test_the_buttons_of_another_person_s_password_say_whether_there_is_to_be_one(operator: Client) -> None:
    other = User.objects.create_user("other", password="a-password-of-nobody")
    address = f"/admin/auth/user/{other.pk}/password/"
    page = main(operator.get(address).content.decode())
    assert "usable_password" not in page
    assert "<h1>Password of other</h1>" in page

    assert operator.post(address, {"unset-password": "1"}).status_code == 302
    other.refresh_from_db()
    assert not other.has_usable_password()
    assert "unset-password" not in operator.get(address).content.decode()

    both = {"password1": "of-somebody-12", "password2": "of-somebody-12", "set-password": "1"}
    assert operator.post(address, both).status_code == 302
    other.refresh_from_db()
    assert other.check_password("of-somebody-12")


def test_a_form_without_an_error_has_no_summary(installation: Installation, operator: Client) -> None:
    page = main(operator.get(f"{NEW_KEY}?kind=environment").content.decode())

    assert 'role="alert"' not in page
    assert "errorlist" not in page


@pytest.mark.parametrize(
    ("query", "has", "lacks"),
    [
        ("?kind=environment", ["environment", "scopes", "name", "days"], ["user"]),
        ("?environment=1", ["environment", "scopes", "name", "days"], ["user"]),
        ("?kind=user", ["user", "name", "days"], ["environment", "scopes"]),
        ("?kind=management", ["user", "name", "days"], ["environment", "scopes"]),
    ],
)
def test_the_form_of_a_key_has_the_fields_of_its_kind(
    query: str, has: list[str], lacks: list[str], installation: Installation, operator: Client
) -> None:
    page = main(operator.get(NEW_KEY + query).content.decode())

    assert all(f'name="{field}"' in page for field in has)
    assert not any(f'name="{field}"' in page for field in lacks)


@pytest.mark.parametrize("query", ["", "?kind=deploy", "?kind="])
def test_a_new_key_begins_with_its_kind(query: str, installation: Installation, operator: Client) -> None:
    page = main(operator.get(NEW_KEY + query).content.decode())

    assert '<a href="?kind=environment">Environment key</a>' in page
    assert '<a href="?kind=user">Personal access token</a>' in page
    assert '<a href="?kind=management">Management token</a>' in page
    assert "<select" not in page


@pytest.mark.costly
def test_the_form_of_a_key_lists_no_branches_but_takes_the_one_whose_page_led_to_it(
    installation: Installation, operator: Client
) -> None:
    branch = Environment.objects.exclude(parent=None)[0]
    form = {"kind": "environment", "name": "CI", "days": "", "environment": branch.pk}

    assert f"{branch.project} / {branch}" not in operator.get(f"{NEW_KEY}?kind=environment").content.decode()
    assert f'value="{branch.pk}" selected' in operator.get(f"{NEW_KEY}?environment={branch.pk}").content.decode()
    assert operator.get(f"{NEW_KEY}?environment=nonsense").status_code == 200
    operator.post(NEW_KEY, form)
    assert AccessKey.objects.get(name="CI", environment=branch)
