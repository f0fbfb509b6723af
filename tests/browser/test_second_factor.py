"""Journeys with a second factor: a passkey of the browser, and an app and recovery codes without a script."""

from __future__ import annotations

import re

import pyotp
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.looked_at import check
from tests.browser.served import Served, new_context
from tests.support import prepared

MAKE_PERSON = """
import sys, django
django.setup()
from django.contrib.auth.models import User
User.objects.create_superuser(sys.argv[1], password=sys.argv[2])
"""
#: What a laptop with a fingerprint reader does (Chrome DevTools Protocol, WebAuthn).
AUTHENTICATOR = {
    "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
    "isUserVerified": True, "automaticPresenceSimulation": True,
}  # fmt: skip


def with_password(page: Page, served: Served, name: str) -> None:
    page.goto("/admin/login/?next=/admin/deployments/project/")
    page.fill("#id_username", name)
    page.fill("#id_password", served.password)
    page.press("#id_password", "Enter")


def to_new_factor(page: Page) -> None:
    page.get_by_role("link", name="Your log-in").click()
    page.get_by_role("link", name="Add a second factor").click()


def test_a_passkey_is_registered_and_logs_in(browser: Browser, served: Served) -> None:
    served.run("-c", MAKE_PERSON, "lin", served.password)
    context = new_context(browser, served)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    device = context.new_cdp_session(page)
    device.send("WebAuthn.enable")
    authenticator = device.send("WebAuthn.addVirtualAuthenticator", {"options": AUTHENTICATOR})["authenticatorId"]
    with_password(page, served, "lin")
    page.wait_for_url("**/project/")
    to_new_factor(page)
    page.fill("#id_passkey_name", "Laptop")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.locator(".recovery-codes li")).to_have_count(10)
    page.get_by_role("link", name="I have saved them").click()
    expect(page.locator("dl.facts")).to_contain_text("Laptop")
    to_new_factor(page)
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.locator("[data-said]")).to_contain_text("has a passkey for this account already")
    page.get_by_role("button", name="Log out").click()

    with_password(page, served, "lin")
    page.wait_for_url("**/second-factor/")
    page.get_by_role("button", name="Use a passkey").click()

    page.wait_for_url("**/project/")
    assert said == []  # the content policy has stopped nothing
    [credential] = device.send("WebAuthn.getCredentials", {"authenticatorId": authenticator})["credentials"]
    assert (
        credential["signCount"]
        == served.sql(
            "SELECT f.sign_count FROM deployments_secondfactor f JOIN auth_user u ON u.id = f.user_id "
            "WHERE u.username = 'lin' AND f.last_used_at IS NOT NULL"
        )[0][0]
    )
    page.get_by_role("button", name="Log out").click()
    device.send("WebAuthn.setUserVerified", {"authenticatorId": authenticator, "isUserVerified": False})
    with_password(page, served, "lin")
    page.get_by_role("button", name="Use a passkey").click()
    expect(page.locator("[data-said]")).to_contain_text("did not use a passkey")
    context.close()


def test_an_app_and_a_recovery_code_log_in_without_a_script(browser: Browser, served: Served) -> None:
    served.run("-c", MAKE_PERSON, "noa", served.password)
    context = new_context(browser, served, java_script_enabled=False)
    page = context.new_page()
    with_password(page, served, "noa")
    page.wait_for_url("**/project/")
    to_new_factor(page)
    expect(page.locator("[data-said]")).to_contain_text("Passkeys need JavaScript")
    assert page.get_by_role("button", name="Add a passkey").is_disabled()
    app = pyotp.TOTP(page.locator(".secret code").inner_text().replace(" ", ""))
    page.fill("#id_code", app.now())
    page.get_by_role("button", name="Add the app").click()
    expect(page.locator(".recovery-codes li")).to_have_count(10)
    codes = page.locator(".recovery-codes code").all_inner_texts()
    page.get_by_role("link", name="I have saved them").click()
    page.get_by_role("button", name="Log out").click()

    with_password(page, served, "noa")
    page.fill("#id_code", codes[0].lower())
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/project/")
    page.get_by_role("link", name="Your log-in").click()
    expect(page.locator("main")).to_contain_text("9 left")
    page.get_by_role("button", name="Log out").click()

    # The present code has confirmed the app, and the next one is up to 30 seconds away.
    served.sql("UPDATE deployments_secondfactor SET last_step = 0")
    with_password(page, served, "noa")
    code = app.now()
    page.fill("#id_code", code)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/project/")
    page.get_by_role("button", name="Log out").click()
    with_password(page, served, "noa")
    page.fill("#id_code", code)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text(re.compile("was used before"))
    context.close()


def test_where_required_an_app_is_set_up_during_the_log_in(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory, axe: str
) -> None:
    made = Served(folder=tmp_path_factory.mktemp("required"), password="a-password-of-nobody")
    made.more = {"SECOND_FACTOR_REQUIRED": "1"}
    prepared.migrate(made.folder / "db.sqlite3")
    made.run("-c", MAKE_PERSON, "ola", made.password)
    with made.serving():
        context = new_context(browser, made)
        page = context.new_page()
        with_password(page, made, "ola")
        page.wait_for_url("**/second-factor/set-up/")
        expect(page.locator("#sections")).to_have_count(0)  # nobody is logged in yet
        check(page, axe)
        page.fill("#id_code", pyotp.TOTP(page.locator(".secret code").inner_text().replace(" ", "")).now())
        page.get_by_role("button", name="Add the app").click()
        expect(page.locator(".recovery-codes li")).to_have_count(10)
        check(page, axe)
        page.get_by_role("link", name="I have saved them").click()
        page.wait_for_url("**/project/")
        context.close()
