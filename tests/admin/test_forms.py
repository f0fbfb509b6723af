"""Forms of ours: where an error stands, and which fields a form has."""

from __future__ import annotations

import re

import pytest
from django.test import Client

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
