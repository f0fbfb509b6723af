"""Journeys: by keyboard alone, without a script, and with live numbers while a sweep runs."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.browser.served import Served, wait_until

STARTED = re.compile(r"/admin/deployments/sweep/\d+/change/")


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the control of this name has the focus, and see that the focus shows."""
    for _ in range(120):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "() => [document.activeElement.getAttribute('aria-label') || document.activeElement.textContent.trim(),"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        if focused[0] == name:
            assert focused[1] != "none", f"nobody sees that {name} has the focus"
            return
    raise AssertionError(f"{name} cannot be reached by Tab")


def test_a_sweep_is_started_and_stopped_by_keyboard_alone(page: Page, served: Served) -> None:
    page.goto("/admin/deployments/sweep/")
    tab_to(page, "Start a sweep")
    page.keyboard.press("Enter")
    page.wait_for_url("**/start/")
    page.keyboard.press("Tab")
    tab_to(page, "Start")
    page.keyboard.press("Enter")
    page.wait_for_url(STARTED)
    tab_to(page, "Stop")
    page.keyboard.press("Enter")

    expect(page.locator(".title .badge")).to_have_text("Stopped")


def test_one_repository_is_reconciled_from_the_list_by_keyboard_and_the_filters_stay(
    page: Page, served: Served
) -> None:
    name = served.sql("SELECT name FROM deployments_repository WHERE status = 'drifted' ORDER BY name, id")[0][0]
    before = served.sql("SELECT COUNT(*) FROM deployments_sweep")[0][0]
    address = "/admin/deployments/repository/?status=drifted&account=111111111111&region=us-east-1"
    page.goto(address)
    tab_to(page, f"Reconcile {name} now")
    page.keyboard.press("Enter")

    expect(page.locator(".messagelist")).to_contain_text("queued for the repository")
    assert page.url.endswith(address)
    assert served.sql("SELECT COUNT(*) FROM deployments_sweep")[0][0] == before + 1


def test_a_menu_opens_and_closes_by_keyboard_and_gives_the_focus_back(page: Page) -> None:
    page.goto("/admin/deployments/deployment/")
    page.locator("summary", has_text="Status").focus()
    page.keyboard.press("Enter")
    expect(page.locator("details.filter[open]")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator("details.filter[open]")).to_have_count(0)
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_a_roll_back_works_without_a_script(plain_page: Page, served: Served) -> None:
    page = plain_page
    page.goto(served.pages["promote"])
    page.get_by_role("button", name=re.compile("Roll back to|Promote to")).click()

    expect(page.locator(".messagelist")).to_contain_text("is current in")
    assert page.locator(".tag.current").first.is_visible()


def test_some_repositories_are_chosen_and_refreshed_without_a_script(plain_page: Page, served: Served) -> None:
    page = plain_page
    page.goto("/admin/deployments/repository/?status=in_sync&account=111111111111&region=us-east-1")
    boxes = page.locator("input.action-select")
    boxes.nth(0).check()
    boxes.nth(1).check()
    page.select_option("select[name=action]", label="Refresh")
    page.get_by_role("button", name="Go").click()
    expect(page.locator("#what-title")).to_have_text("2 repositories")
    page.get_by_role("button", name="Refresh").click()

    page.wait_for_url(STARTED)
    expect(page.locator(".title")).to_contain_text("refresh")
    expect(page.locator("[data-static]")).to_contain_text("Reload")


def test_all_that_a_filter_leaves_are_excepted_without_a_script(plain_page: Page, served: Served) -> None:
    page = plain_page
    page.goto("/admin/deployments/repository/?status=failed")
    page.get_by_role("link", name=re.compile("Act on all")).click()
    page.get_by_role("link", name="Make an exception").click()
    page.fill("input[name=reason]", "A freeze until the audit is over")
    page.get_by_role("button", name="Make an exception").click()

    expect(page.locator(".messagelist")).to_contain_text("excepted")
    count = served.sql("SELECT COUNT(*) FROM deployments_repository WHERE mode_reason LIKE 'A freeze%'")[0][0]
    assert count == served.sql("SELECT COUNT(*) FROM deployments_repository WHERE status = 'failed'")[0][0]


def test_the_numbers_of_a_running_sweep_move_by_themselves_and_the_page_ends_with_it(
    page: Page, served: Served
) -> None:
    polls: list[float] = []
    page.on("request", lambda request: polls.append(0) if "/progress/" in request.url else None)
    sweep = int(re.findall(r"\d+", served.pages["sweep-running"])[0])
    page.goto(served.pages["sweep-running"])
    before = page.locator("[data-number=in_sync]").inner_text()

    served.sql("UPDATE deployments_sweepchunk SET in_sync = in_sync + 7 WHERE sweep_id = ?", sweep)

    expect(page.locator("[data-number=in_sync]")).to_have_text(str(int(before) + 7), timeout=5000)
    assert page.locator("[data-part=in_sync]").get_attribute("width") != "0.00"
    served.sql("UPDATE deployments_sweep SET status = 'done', finished_at = started_at WHERE id = ?", sweep)
    expect(page.locator(".title .badge")).to_have_text("Done", timeout=5000)
    asked = len(polls)
    page.wait_for_timeout(1500)
    assert len(polls) == asked  # it has ended, so nobody asks any more


def test_a_page_that_watches_a_sweep_asks_less_often_while_the_server_is_away(page: Page, served: Served) -> None:
    # A sweep of its own: the other tests' may have ended.
    served.sql(
        "INSERT INTO deployments_sweep (trigger, requested_by, names, dry_run, adopt, status, started_at, error, "
        "discovered, missing, calls, lease_owner, lease_epoch) VALUES "
        "('command', '', '[]', 0, 0, 'running', '2026-11-24 00:00:00', '', 0, 0, '{}', '', 0)"
    )
    sweep = served.sql("SELECT MAX(id) FROM deployments_sweep")[0][0]
    polls: list[str] = []

    def away(route: object) -> None:
        polls.append("")
        route.abort()  # type: ignore[attr-defined]

    page.route("**/progress/", away)
    page.goto(f"/admin/deployments/sweep/{sweep}/change/")
    page.wait_for_timeout(8_000)
    assert 2 <= len(polls) <= 4  # after 1, 3 and 7 seconds

    page.unroute("**/progress/")
    served.sql("UPDATE deployments_sweep SET status = 'done', finished_at = started_at WHERE id = ?", sweep)
    expect(page.locator(".title .badge")).to_have_text("Done", timeout=6000)


def test_a_copied_digest_is_the_digest(page: Page, served: Served) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(served.pages["deployment"])
    button = page.locator("code.copy", has_text="sha256:").locator("xpath=following-sibling::button").first
    button.click()
    expect(button).to_have_text("Copied")
    wait_until(lambda: page.evaluate("navigator.clipboard.readText()").startswith("sha256:"))
