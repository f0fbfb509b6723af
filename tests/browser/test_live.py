"""Pages that renew themselves: without a reload, without taking anything from a reader, and not for ever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.looked_at import check, nodes
from tests.browser.served import Served

HIDE = """
hidden => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event('visibilitychange'));
}
"""


@pytest.fixture
def sweep(served: Served) -> Iterator[int]:
    """A running sweep of one repository, which waits for a worker."""
    name, repository = served.sql(
        "SELECT name, id FROM deployments_repository WHERE status = 'in_sync' ORDER BY id LIMIT 1"
    )[0]
    served.sql(
        "INSERT INTO deployments_sweep (trigger, requested_by, names, dry_run, adopt, status, started_at, listed_at, "
        "error, discovered, missing, calls, lease_owner, lease_epoch) VALUES ('person', 'mira', json_array(?), 0, 0, "
        "'running', datetime('now'), datetime('now'), '', 0, 0, '{}', '', 0)",
        name,
    )
    pk = served.sql("SELECT MAX(id) FROM deployments_sweep")[0][0]
    served.sql(
        "INSERT INTO deployments_sweepchunk (sweep_id, position, host, namespace, size, remaining, in_sync, healed, "
        "drifted, failed, calls, attempts, lease_owner, lease_epoch) VALUES "
        "(?, 0, 'h', 'n', 1, json_array(?), 0, 0, 0, 0, '{}', 0, '', 0)",
        pk, repository,
    )  # fmt: skip
    yield pk
    end(served, pk)


def end(served: Served, sweep: int) -> None:
    served.sql("UPDATE deployments_sweepchunk SET in_sync = 1, remaining = '[]' WHERE sweep_id = ?", sweep)
    served.sql("UPDATE deployments_sweep SET status = 'done', finished_at = datetime('now') WHERE id = ?", sweep)


def address_of(sweep: int) -> str:
    return f"/admin/deployments/sweep/{sweep}/change/"


@pytest.fixture
def polls(page: Page) -> list[str]:
    """The addresses of the polls of this page."""
    found: list[str] = []
    page.on("request", lambda request: found.append(request.url) if "x-live" in request.headers else None)
    return found


def after(page: Page, polls: list[str], number: int = 1) -> None:
    """Wait until so many more polls were answered."""
    for _ in range(number):
        with page.expect_response(lambda response: "x-live" in response.request.headers):
            pass


def test_the_page_of_a_sweep_moves_and_ends_without_a_reload(
    page: Page, served: Served, sweep: int, polls: list[str], axe: str
) -> None:
    page.goto(address_of(sweep))
    page.evaluate("window.notReloaded = true")
    expect(page.locator(".left li")).to_have_count(1)
    expect(page.get_by_text("Running for").locator("xpath=following-sibling::dd")).not_to_have_text("0s")
    served.sql(
        "UPDATE deployments_sweepchunk SET throttled = json_object('1', 3), healed = 7 WHERE sweep_id = ?", sweep
    )
    expect(page.locator(".healed-number")).to_have_text("7")
    assert page.locator("rect.healed").get_attribute("width") != "0.00"
    assert nodes(page, axe) == []

    end(served, sweep)

    expect(page.locator(".title .badge")).to_have_text("Done")
    expect(page.locator("#live [role=status]").first).to_contain_text("Done · Sweep")
    expect(page.locator(".left")).to_have_count(0)
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    assert page.evaluate("window.notReloaded")
    assert page.evaluate("window.violations") == []


def test_the_page_of_a_repository_shows_the_result_of_its_check_without_a_reload(
    page: Page, served: Served, sweep: int, polls: list[str]
) -> None:
    repository = served.sql("SELECT remaining FROM deployments_sweepchunk WHERE sweep_id = ?", sweep)[0][0].strip("[]")
    page.goto(f"/admin/deployments/repository/{repository}/change/")
    expect(page.locator("#check-title")).to_contain_text("Reconcile: queued")

    served.sql("UPDATE deployments_repository SET status = 'drifted' WHERE id = ?", repository)
    end(served, sweep)

    expect(page.locator("#check-title")).to_contain_text("Reconcile: done")
    expect(page.locator(".title .badge")).to_have_text("Drifted")
    served.sql("UPDATE deployments_repository SET status = 'in_sync' WHERE id = ?", repository)


def test_the_header_of_a_page_without_a_worker_pleases_axe_and_fits_a_phone(
    page: Page, served: Served, sweep: int, axe: str
) -> None:
    served.sql("UPDATE deployments_process SET beat_at = '2026-01-01 00:00:00'")
    page.goto(address_of(sweep))

    expect(page.locator(".running.stopped")).to_have_text("No worker is running")
    check(page, axe)
    page.locator(".running.stopped").click()
    page.wait_for_url("**/setup/")


def test_a_hidden_page_asks_nothing_and_asks_at_once_when_it_is_seen_again(
    page: Page, served: Served, sweep: int, polls: list[str]
) -> None:
    page.goto(address_of(sweep))
    after(page, polls)
    page.evaluate(HIDE, True)
    page.wait_for_timeout(300)
    asked = len(polls)
    served.sql("UPDATE deployments_sweepchunk SET healed = 5 WHERE sweep_id = ?", sweep)
    page.wait_for_timeout(5_000)
    assert len(polls) == asked

    page.evaluate(HIDE, False)

    expect(page.locator(".healed-number")).to_have_text("5")


def test_a_poll_takes_neither_focus_nor_selection_nor_open_details_nor_the_copy_button(
    page: Page, served: Served, sweep: int, polls: list[str]
) -> None:
    repository = served.sql(
        "SELECT repository_id FROM deployments_repositoryevent WHERE policy_before <> '' ORDER BY id LIMIT 1"
    )[0][0]
    page.goto(f"/admin/deployments/repository/{repository}/change/")
    summary = page.locator("summary", has_text="Policy before").first
    summary.focus()
    page.keyboard.press("Enter")
    said = page.locator(".events li", has=page.locator("details[open]")).inner_text()
    page.evaluate("getSelection().selectAllChildren(document.querySelector('h1 code'))")
    copies = page.locator(".copy-button").count()
    served.sql(
        "INSERT INTO deployments_repositoryevent (repository_id, kind, message, policy_before, cause, at) "
        "VALUES (?, 'changed', 'Somebody changed a tag.', '', '', datetime('now'))",
        repository,
    )  # fmt: skip

    page.evaluate(HIDE, False)

    expect(page.locator(".events li").first).to_contain_text("Somebody changed a tag.")
    assert page.evaluate("document.activeElement.textContent") == "Policy before"
    assert page.locator(".events li", has=page.locator("details[open]")).inner_text() == said
    assert page.evaluate("getSelection().toString()") == page.locator("h1 code").inner_text()
    assert page.locator(".copy-button").count() == copies > 0


def test_a_link_that_has_the_focus_never_becomes_another_link(
    page: Page, served: Served, sweep: int, polls: list[str]
) -> None:
    repository = served.sql("SELECT remaining FROM deployments_sweepchunk WHERE sweep_id = ?", sweep)[0][0].strip("[]")
    page.goto(f"/admin/deployments/repository/{repository}/change/")
    page.get_by_role("link", name=f"Sweep {sweep}").focus()
    columns = (
        "trigger, requested_by, names, dry_run, adopt, error, discovered, missing, calls, lease_owner, lease_epoch"
    )
    served.sql(
        f"INSERT INTO deployments_sweep ({columns}, status, started_at) "  # noqa: S608
        f"SELECT {columns}, 'running', datetime('now') FROM deployments_sweep WHERE id = ?",
        sweep,
    )
    newer = served.sql("SELECT MAX(id) FROM deployments_sweep")[0][0]

    page.evaluate(HIDE, False)

    expect(page.get_by_role("link", name=f"Sweep {newer}")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "content-start"
    end(served, newer)


def test_a_button_that_a_poll_brings_works(page: Page, served: Served, sweep: int, polls: list[str]) -> None:
    """The page has its token from before: a poll gets none."""
    served.sql("UPDATE deployments_sweep SET status = 'stopped' WHERE id = ?", sweep)
    page.goto(address_of(sweep))
    served.sql("UPDATE deployments_sweep SET status = 'running' WHERE id = ?", sweep)
    page.evaluate(HIDE, False)

    page.get_by_role("button", name="Stop").click()

    expect(page.locator(".messagelist")).to_contain_text("Calls already sent will finish.")


@pytest.mark.parametrize("status", [403, 503])
def test_a_page_says_that_it_no_longer_renews_itself_and_asks_no_more(
    status: int, page: Page, served: Served, sweep: int, polls: list[str]
) -> None:
    page.goto(address_of(sweep))
    page.route("**/change/", lambda route: route.fulfill(status=status))

    expect(page.locator("#live")).to_contain_text(f"The server answered {status}. This page no longer renews itself.")
    asked = len(polls)
    page.wait_for_timeout(5_000)
    assert len(polls) == asked
    page.unroute("**/change/")
    page.locator("#live a", has_text="Reload").click()
    expect(page.locator("#live")).not_to_contain_text("no longer")


def test_a_page_says_that_the_log_in_has_ended(page: Page, served: Served, sweep: int) -> None:
    page.goto(address_of(sweep))
    page.context.clear_cookies()

    expect(page.locator("#live")).to_contain_text("Your log-in has ended. This page no longer renews itself.")


def test_a_page_asks_less_often_while_the_server_is_away_and_goes_on_when_it_is_back(
    page: Page, served: Served, sweep: int
) -> None:
    polls: list[str] = []

    def away(route: Any) -> None:
        polls.append("")
        route.abort()

    page.route("**/change/", lambda route: away(route) if "x-live" in route.request.headers else route.continue_())
    page.goto(address_of(sweep))
    expect(page.locator("#live")).to_contain_text("The server does not answer.")
    page.wait_for_timeout(6_000)
    assert len(polls) <= 2  # after 2, 6 and 14 seconds

    page.unroute("**/change/")
    end(served, sweep)
    expect(page.locator(".title .badge")).to_have_text("Done", timeout=20_000)
    expect(page.locator("#live")).not_to_contain_text("does not answer")


def test_without_a_script_a_link_reloads_the_page(plain_page: Page, served: Served, sweep: int, axe: str) -> None:
    page = plain_page
    page.goto(address_of(sweep))
    end(served, sweep)

    page.get_by_role("link", name="Reload").click()

    expect(page.locator(".title .badge")).to_have_text("Done")
    expect(page.get_by_role("link", name="Reload")).to_have_count(0)
