"""Journeys: by keyboard alone, and without a script."""

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
    tab_to(page, f"Actions for {name}")
    page.keyboard.press("Enter")
    tab_to(page, f"Reconcile now {name}")
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
    page.goto("/admin/deployments/repository/?status=in_sync&account=111111111111&region=us-east-1&q=trigger/")
    boxes = page.locator("input.action-select")
    boxes.nth(0).check()
    boxes.nth(1).check()
    page.select_option("select[name=action]", label="Refresh (writes nothing)")
    page.get_by_role("button", name="Go").click()
    expect(page.locator("#what-title")).to_have_text("2 repositories")
    page.get_by_role("button", name="Refresh").click()

    page.wait_for_url(STARTED)
    expect(page.locator(".title")).to_contain_text("refresh")
    expect(page.get_by_role("link", name="Reload")).to_be_visible()


def test_all_that_a_filter_leaves_are_excepted_without_a_script(plain_page: Page, served: Served) -> None:
    page = plain_page
    page.goto("/admin/deployments/repository/?status=failed")
    page.get_by_role("link", name=re.compile("Act on all")).click()
    page.get_by_role("link", name="Make an exception").click()
    page.fill("input[name=reason]", "A freeze until the audit is over")
    page.get_by_role("button", name="Make an exception").click()

    expect(page.locator(".messagelist")).to_contain_text("exceptions were made")
    count = served.sql("SELECT COUNT(*) FROM deployments_repository WHERE mode_reason LIKE 'A freeze%'")[0][0]
    assert count == served.sql("SELECT COUNT(*) FROM deployments_repository WHERE status = 'failed'")[0][0]


def test_a_copied_digest_is_the_digest(page: Page, served: Served) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(served.pages["deployment"])
    button = page.locator("code.copy", has_text="sha256:").locator("xpath=following-sibling::button").first
    button.click()
    expect(button).to_have_text("Copied")
    wait_until(lambda: page.evaluate("navigator.clipboard.readText()").startswith("sha256:"))


def test_a_denied_action_is_one_alarm_with_its_statement_to_copy_and_one_click_to_its_repositories(
    page: Page, served: Served
) -> None:
    """Task 10 of an operator: which permission is missing, and what to add. No click, and one more for the list."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/admin/")
    alarm = page.locator("li", has=page.get_by_role("link", name="ecr:SetRepositoryPolicy is denied"))
    expect(alarm).to_contain_text("Allow ecr:SetRepositoryPolicy to Registry Admin.")
    alarm.get_by_role("button", name="Copy").click()
    wait_until(lambda: '"Action": ["ecr:SetRepositoryPolicy"]' in page.evaluate("navigator.clipboard.readText()"))

    alarm.get_by_role("link", name="ecr:SetRepositoryPolicy is denied").click()

    denied = served.sql("SELECT COUNT(*) FROM deployments_repository WHERE last_error_code = 'AccessDeniedException'")
    expect(page.locator("#result_list tbody tr")).to_have_count(denied[0][0])


def test_the_errors_of_a_form_get_the_focus_and_lead_to_their_fields_without_a_script(
    plain_page: Page,
) -> None:
    page = plain_page
    page.goto("/admin/deployments/accesskey/add/")
    page.get_by_role("link", name="Environment key").click()
    page.get_by_role("button", name="Make the key").click()

    summary = page.get_by_role("alert")
    expect(summary).to_be_focused()
    expect(summary).to_contain_text("Choose the environment that the key is for.")
    field = page.get_by_label("Environment", exact=True)
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.locator(f"#{field.get_attribute('aria-describedby')}")).to_have_text(
        "Choose the environment that the key is for."
    )
    summary.get_by_role("link", name="Environment").click()
    expect(field).to_be_focused()


def test_the_key_slash_goes_to_the_search_of_a_list_and_can_be_turned_off(page: Page) -> None:
    focused = "document.activeElement.id"
    page.goto("/admin/deployments/repository/")
    page.keyboard.press("/")
    assert page.evaluate(focused) == "searchbar"
    page.keyboard.press("/")
    assert page.input_value("#searchbar") == "/"  # in a field it is a character

    page.goto("/admin/your-log-in/")
    page.get_by_label("goes to the search of a list").uncheck()
    page.goto("/admin/deployments/repository/")
    page.keyboard.press("/")
    assert page.evaluate(focused) == ""
    assert page.get_attribute("#searchbar", "aria-keyshortcuts") is None

    page.goto("/admin/your-log-in/")
    page.get_by_label("goes to the search of a list").check()


def test_the_second_stop_of_a_list_leads_past_the_navigation_to_the_search(page: Page) -> None:
    page.goto("/admin/deployments/repository/")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    link = page.get_by_role("link", name="Skip to search")
    expect(link).to_be_focused()
    box = link.bounding_box()
    assert box is not None
    top = f"document.elementFromPoint({box['x'] + 5}, {box['y'] + 5}).textContent"
    assert page.evaluate(top) == "Skip to search"  # nothing lies over it
    page.keyboard.press("Enter")
    page.keyboard.type("trigger")
    assert page.input_value("#searchbar") == "trigger"


def test_several_values_are_chosen_and_removed_without_a_script(plain_page: Page, served: Served) -> None:
    page = plain_page
    number = served.sql("SELECT COUNT(*) FROM deployments_repository WHERE status IN ('failed', 'missing')")[0][0]
    page.goto("/admin/deployments/repository/")
    for tile in ("Failed", "Missing"):
        page.locator(".states a", has_text=tile).click()
    expect(page.locator("#result_list tbody tr")).to_have_count(number)
    expect(page.locator(".chips li")).to_have_count(3)  # and “Clear all”

    page.locator(".chips a", has_text="Failed").click()
    assert page.url.endswith("?status=missing")


def test_an_error_takes_the_focus_without_a_script(plain_page: Page) -> None:
    page = plain_page
    page.goto("/admin/auth/user/add/")
    page.locator("form.form, #user_form").get_by_role("button").first.click()

    expect(page.locator(".form-errors")).to_be_focused()
    page.locator(".form-errors a").first.click()
    assert "#id_" in page.url


def test_the_time_of_an_audit_entry_is_in_sight_whatever_its_outcome_says(page: Page, served: Served) -> None:
    served.sql(
        "UPDATE deployments_auditentry SET outcome = 'No such image: sha256:" + "0a" * 32 + " " + "x" * 200 + "' "
        "WHERE id = (SELECT MAX(id) FROM deployments_auditentry)"
    )
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto("/admin/deployments/auditentry/")
    box = page.locator("#result_list tbody .field-when").first.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= 1440
    assert page.evaluate("[...document.querySelectorAll('.results')].every(e => e.scrollWidth <= e.clientWidth)")
