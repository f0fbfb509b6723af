"""Every page, in light and dark, on a desk and on a phone: what a strict policy, axe and a narrow window say of it."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.looked_at import COLOURS, check, nodes
from tests.browser.pages import CAREFUL
from tests.browser.served import PHONE, Served, new_context

FIRST_VISIT = 130 * 1024  # bytes over the wire, of the deployments list with all that it needs


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", NAMES)


def _names() -> list[str]:
    """The names of the pages, read from their list without a database: tests are collected before there is one."""
    import ast
    from pathlib import Path

    tree = ast.parse((Path(__file__).parent / "pages.py").read_text())
    [addresses] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "addresses"]
    return [
        key.value
        for node in ast.walk(addresses)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    ]


NAMES = _names()


def test_a_page_keeps_the_policy_pleases_axe_in_both_schemes_fits_a_phone_and_is_reached_by_keyboard(
    name: str, page: Page, served: Served, axe: str
) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))

    answer = page.goto(served.pages[name])

    assert answer is not None
    assert answer.status == (404 if name == "not-found" else 200)
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    # Before axe: what it puts into a page to measure it is its own, and is stopped as well.
    assert page.evaluate("window.violations") == []
    assert said == ([] if name != "not-found" else said)
    check(page, axe)


def test_each_page_of_the_second_factor_pleases_axe_and_fits_a_phone(
    browser: Browser, served: Served, axe: str
) -> None:
    context = new_context(browser, served)
    page = context.new_page()
    page.goto("/admin/login/")
    page.fill("#id_username", CAREFUL)
    page.fill("#id_password", served.password)
    page.press("#id_password", "Enter")
    page.wait_for_url("**/second-factor/")
    check(page, axe)
    page.fill("#id_code", "000 000")
    page.press("#id_code", "Enter")
    page.locator("[role=alert]").wait_for()
    check(page, axe)
    page.fill("#id_code", served.codes.pop())
    page.press("#id_code", "Enter")
    page.wait_for_url("**/admin/")
    page.get_by_role("link", name="Your log-in").click()
    check(page, axe)
    page.get_by_role("link", name="Remove").first.click()
    check(page, axe)
    page.goto("/admin/your-log-in/recovery-codes/")
    check(page, axe)
    page.get_by_role("button", name="Make new recovery codes").click()
    served.codes = page.locator(".recovery-codes code").all_inner_texts()
    assert len(served.codes) == 10
    check(page, axe)
    context.close()


def test_lists_that_are_not_named_are_looked_at_too(page: Page, served: Served, axe: str) -> None:
    for name, address in served.pages.items():
        if name in NAMES:
            continue
        page.emulate_media(color_scheme="light")
        page.goto(address)
        assert (name, page.evaluate("window.violations")) == (name, [])
        assert (name, nodes(page, axe)) == (name, [])
        page.emulate_media(color_scheme="dark")
        assert (name, nodes(page, axe, COLOURS)) == (name, [])


@pytest.mark.parametrize("menu", ["Status", "Created"])
def test_an_open_menu_pleases_axe_and_fits_a_phone(menu: str, page: Page, axe: str) -> None:
    page.goto("/admin/deployments/deployment/")
    page.locator("summary", has_text=menu).click()
    assert nodes(page, axe) == []
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_the_answer_to_a_changed_policy_pleases_axe(page: Page, axe: str) -> None:
    page.goto("/admin/deployments/repository/what-if/")
    page.fill("textarea", page.input_value("textarea").replace("333333333333", "444444444444"))
    page.get_by_role("button", name="Preview").click()
    page.locator("#answer-title").wait_for()
    check(page, axe)


def test_a_stranger_sees_a_log_in_page_that_pleases_axe(browser: Browser, served: Served, axe: str) -> None:
    context = new_context(browser, served)
    page = context.new_page()
    page.goto("/admin/deployments/deployment/")
    assert nodes(page, axe) == []
    context.close()


@pytest.mark.parametrize("address", ["/admin/deployments/deployment/", "/admin/pulls/"])
def test_the_first_visit_of_a_list_is_light(address: str, browser: Browser, served: Served, session: Any) -> None:
    context = new_context(browser, served, storage_state=session)
    page = context.new_page()
    network = context.new_cdp_session(page)
    sizes: dict[str, int] = {}
    names: dict[str, str] = {}
    network.on("Network.responseReceived", lambda event: names.update({event["requestId"]: event["response"]["url"]}))
    network.on("Network.loadingFinished", lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]}))
    network.send("Network.enable")

    page.goto(address, wait_until="networkidle")

    table = {names.get(key, key): size for key, size in sizes.items()}
    assert sum(sizes.values()) <= FIRST_VISIT, table
    print(f"first visit of {address}: {sum(sizes.values()) / 1024:.0f} KiB in {len(sizes)} answers")
    context.close()
