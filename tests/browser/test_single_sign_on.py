"""Journeys with single sign-on: a provider on loopback, a browser, and an installation that knows both."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.looked_at import check
from tests.browser.served import Served, new_context
from tests.support import prepared
from tests.support.openid_provider import CLIENT_ID, CLIENT_SECRET, Provider, running

MAKE_PERSON = """
import sys, django
django.setup()
from django.contrib.auth.models import User
User.objects.create_superuser("root", "root@example.com", sys.argv[1])
"""
PASSWORD = "correct-horse-battery-1"
LOG_IN = "Log in with Company log-in"  # SSO_NAME of SIGN_ON


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running() as started:
        started.people = {
            "ada": {"preferred_username": "ada", "email": "ada@example.com", "name": "Ada", "groups": ["staff"]},
            "guest": {"preferred_username": "guest", "groups": []},
            "root-of-the-company": {"preferred_username": "grace", "name": "Grace", "groups": ["admins"]},
        }
        yield started


@pytest.fixture(scope="module")
def signed_on(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An installation whose people come from the provider, and a superuser with a password."""
    made = Served(folder=tmp_path_factory.mktemp("signed-on"))
    made.more = {
        "SSO_ISSUER": provider.issuer,
        "SSO_CLIENT_ID": CLIENT_ID,
        "SSO_CLIENT_SECRET": CLIENT_SECRET,
        "SSO_GROUPS": '{"staff": "viewer", "admins": "admin"}',
        "PASSWORD_LOG_IN": "0",
    }
    prepared.migrate(made.folder / "db.sqlite3")
    made.run("-c", MAKE_PERSON, PASSWORD)
    with made.serving():
        provider.redirect_to = f"{made.origin}/admin/single-sign-on/back/"
        yield made


@pytest.fixture(params=[True, False], ids=["with scripts", "without scripts"])
def visitor(request: pytest.FixtureRequest, browser: Browser, signed_on: Served) -> Iterator[Page]:
    """Somebody who is not logged in."""
    context = new_context(browser, signed_on, java_script_enabled=request.param)
    yield context.new_page()
    context.close()


def sign_on(page: Page, subject: str, *, at: str = "/admin/login/") -> None:
    page.goto(at)
    page.get_by_role("link", name=LOG_IN).click()
    page.get_by_label("Person").select_option(subject)
    page.get_by_role("button", name="Continue").click()


def test_a_person_logs_in_with_the_company_and_comes_to_the_page_that_was_asked_for(
    visitor: Page, signed_on: Served
) -> None:
    sign_on(visitor, "ada", at="/admin/deployments/project/")

    visitor.wait_for_url("**/admin/deployments/project/")
    expect(visitor.locator(".me")).to_have_text("Ada")
    assert visitor.get_by_role("link", name="Add project").count() == 0  # a viewer
    visitor.get_by_role("button", name="Log out").click()
    visitor.goto("/admin/")
    visitor.wait_for_url("**/admin/login/**")


def test_who_is_in_no_group_reads_why_and_whom_to_ask(visitor: Page, signed_on: Served) -> None:
    sign_on(visitor, "guest")

    expect(visitor.locator("[role=alert]")).to_contain_text("None of your groups")
    expect(visitor.locator("[role=alert]")).to_contain_text("Ask an administrator")


def test_an_operator_links_the_account_switches_passwords_off_and_breaks_the_glass(
    browser: Browser, signed_on: Served, axe: str
) -> None:
    context = new_context(browser, signed_on)
    page = context.new_page()
    page.goto("/admin/login/")
    check(page, axe)
    page.fill("#id_username", "root")  # PASSWORD_LOG_IN=0 has no effect before an administrator's single sign-on
    page.fill("#id_password", PASSWORD)
    page.press("#id_password", "Enter")
    page.get_by_role("link", name="Your log-in").click()
    page.get_by_role("link", name="Link it…").click()
    page.get_by_label("Person").select_option("root-of-the-company")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#link-title")).to_contain_text("says that you are grace")
    check(page, axe)
    page.get_by_role("button", name="Link it").click()
    expect(page.locator(".messagelist")).to_contain_text("You can log in with")
    check(page, axe)
    page.get_by_role("button", name="Log out").click()

    sign_on(page, "root-of-the-company")
    page.wait_for_url("**/admin/")
    expect(page.locator(".me")).to_have_text("Grace")
    page.get_by_role("button", name="Log out").click()
    page.goto("/admin/login/")
    assert page.locator("#id_password").count() == 0
    check(page, axe)

    address = signed_on.run("manage.py", "break_glass", "root").strip()
    page.goto(address)
    check(page, axe)
    page.get_by_role("button", name=re.compile("Log in as root")).click()
    page.wait_for_url("**/admin/")
    page.goto(address)
    expect(page.locator("[role=alert]")).to_contain_text("This link does not work")
    context.close()
