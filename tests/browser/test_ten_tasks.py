"""The ten tasks of an operator: each from the dashboard, in a counted number of clicks, until its answer is read."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from sandbox.control import Sandbox
from tests.admin.installation import CLUSTER, STAGING, policy
from tests.browser.clicks import Visitor
from tests.browser.drifted import THIRD
from tests.browser.served import Served

MAKE = """
import json, sys, django
django.setup()
from tests.browser import drifted
json.dump(drifted.make(), sys.stdout)
"""
WORK_OFF = """
import sys, django
django.setup()
from django.conf import settings
from deployments.models import Sweep
from tests.support.sweeps import work_off
work_off(settings.CONFIGURATION, Sweep.objects.get(pk=int(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def drifted(served: Served) -> dict[str, str]:
    """Project → the name of its repository, which somebody has changed in AWS."""
    made: dict[str, str] = json.loads(served.run("-c", MAKE))
    return made


@pytest.fixture
def aws(served: Served) -> Sandbox:
    return Sandbox(served.more["AWS_ENDPOINT_URL"])


@pytest.fixture(autouse=True)
def a_worker(served: Served) -> None:
    """The rows say that a worker runs. The tests themselves do its work."""
    served.sql("UPDATE deployments_process SET beat_at = datetime('now')")


def section(page: Page, heading: str | re.Pattern[str]) -> Locator:
    return page.locator("section.panel", has=page.get_by_role("heading", name=heading))


def at_repository_of(page: Page, project: str, *, most: int) -> Visitor:
    """At the page of the repository of a project that needs attention, one click from the dashboard."""
    at = Visitor.at_dashboard(page, most=most)
    at.click(section(page, "Needs attention").get_by_role("link", name=project))
    return at


def policy_in_aws(aws: Sandbox, name: str) -> Any:
    return json.loads(aws.client("ecr").get_repository_policy(repositoryName=name)["policyText"])


def may_pull(document: Any) -> set[str]:
    """The accounts that the only statement of a policy names."""
    [statement] = document["Statement"]
    return {match for each in statement["Principal"]["AWS"] for match in re.findall(r"\d{12}", each)}


def test_task_1_the_repositories_that_an_account_cannot_pull_are_on_one_screen_each_with_its_reason(
    page: Page, served: Served, drifted: dict[str, str]
) -> None:
    at = Visitor.at_dashboard(page, most=2)
    at.click(page.get_by_role("link", name="which, and why"))
    summary = page.locator(".summary dl > div", has_text=STAGING)
    number = re.search(r"\d+$", summary.get_by_role("link", name="Does not pull").inner_text().strip())
    at.click(summary.get_by_role("link", name="Does not pull"))

    rows = page.locator("#result_list tbody tr")
    assert number is not None
    expect(rows).to_have_count(min(int(number[0]), 25))
    for cell in rows.locator("td.field-pull").all():
        expect(cell).to_contain_text("Does not pull")
        expect(cell).to_contain_text(re.compile("no statement allows it|gone|policy"))
    unmanaged = served.sql("SELECT name FROM deployments_repository WHERE name = 'trigger/reports-of-old'")[0][0]
    for name in (drifted["Late shift"], unmanaged):
        expect(rows.filter(has_text=name)).to_contain_text("no statement allows it")


def test_task_2_a_drifted_repository_is_corrected_and_its_page_says_so_by_itself(
    page: Page, served: Served, drifted: dict[str, str], aws: Sandbox
) -> None:
    at = at_repository_of(page, "Night shift", most=2)
    expect(page.locator(".title .badge")).to_have_text("Drifted")
    at.click(page.get_by_role("button", name="Reconcile now"))
    expect(page.locator("#check-title")).to_contain_text("Reconcile: queued")
    page.evaluate("window.notReloaded = true")

    served.run("-c", WORK_OFF, str(served.sql("SELECT MAX(id) FROM deployments_sweep")[0][0]))

    expect(page.locator("#check-title")).to_contain_text("Reconcile: healed")
    expect(page.locator(".title .badge")).to_have_text("In sync")
    assert page.evaluate("window.notReloaded")
    assert page.get_by_role("heading", name=re.compile("differs")).count() == 0
    assert may_pull(policy_in_aws(aws, drifted["Night shift"])) == {CLUSTER, STAGING}


def test_task_3_another_default_policy_is_previewed_with_who_loses_what_and_how_to_apply_it(page: Page) -> None:
    at = Visitor.at_dashboard(page, most=2)
    at.click(page.get_by_role("link", name="Preview a policy change"))
    page.get_by_label("Default repository policy").fill(policy(CLUSTER, THIRD))
    at.click(page.get_by_role("button", name="Preview", exact=True))

    answer = page.locator("#answer")
    expect(answer).to_contain_text(re.compile(rf"{STAGING} loses pull"))
    expect(answer).to_contain_text(re.compile(rf"{THIRD} gains pull"))
    expect(answer).to_contain_text(
        re.compile(r"[1-9]\d* production environments?\s+and \d+ others?\s+use an image that somebody")
    )
    expect(page.get_by_label("Default repository policy")).to_have_value(re.compile(THIRD))
    editor, result = page.locator("#proposal").bounding_box(), answer.bounding_box()
    assert editor is not None
    assert result is not None
    assert editor["y"] < result["y"]
    apply = section(page, "To apply the proposed policy")
    expect(apply).to_contain_text("DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=")
    expect(apply).to_contain_text(re.compile(r"writes\s+the policy of [1-9]\d* repositories"))


def test_task_4_an_earlier_policy_is_restored_and_the_difference_is_left_as_it_is(
    page: Page, served: Served, drifted: dict[str, str], aws: Sandbox
) -> None:
    at = at_repository_of(page, "Day shift", most=4)
    at.click(page.locator("summary", has_text="Policy before").first)
    at.click(page.get_by_role("link", name="Restore this policy").first)
    expect(page.locator("#what-title")).to_contain_text("What changes if the policy from before")
    expect(page.locator(".effects")).to_contain_text(f"{STAGING} gains pull")
    page.get_by_label("Reason").fill("The night build needs it")
    at.click(page.get_by_role("button", name="Restore", exact=True))

    expect(page.locator(".messagelist")).to_contain_text("was restored")
    assert may_pull(policy_in_aws(aws, drifted["Day shift"])) == {CLUSTER, STAGING, THIRD}
    exception = page.locator("section", has=page.locator("#exception-title"))
    expect(exception).to_contain_text("only observed until")
    expect(exception).to_contain_text("The night build needs it")
    page.goto("/admin/")
    attention = section(page, "Needs attention").locator("li", has_text="Day shift")
    expect(attention).to_contain_text("differs, and is left as it is until")


def test_task_5_production_is_rolled_back_from_the_page_of_its_project(page: Page, served: Served) -> None:
    taken = served.pages["promote"].split("/")[-3]
    project, environment, current = served.sql(
        "SELECT p.name, e.id, d.id FROM deployments_promotion m JOIN deployments_environment e ON e.id = "
        "m.environment_id JOIN deployments_project p ON p.id = e.project_id JOIN deployments_deployment d ON d.id = "
        "m.deployment_id WHERE e.slug = 'prod' AND m.rolled_back_from_id IS NULL AND e.id NOT IN (SELECT "
        "environment_id FROM deployments_deployment WHERE id = ?) AND 1 < (SELECT COUNT(*) FROM "
        "deployments_deployment o WHERE o.environment_id = e.id AND o.status = 'DEPLOYED') ORDER BY e.id",
        taken,
    )[0]
    at = Visitor.at_dashboard(page, most=3)
    at.click(section(page, "Live versions").get_by_role("link", name=project, exact=True))
    target = page.get_by_role("link", name=re.compile("Roll prod.* back to")).first
    version = target.inner_text().strip("… \n")
    at.click(target)
    expect(page.locator("#change-title")).to_have_text("What will change")
    at.click(page.get_by_role("button", name=f"Roll back to {version}"))

    expect(page.locator(".messagelist")).to_contain_text(f"{version} is current in")
    promoted = served.sql(
        "SELECT d.version_day || '.' || d.version_number, m.rolled_back_from_id FROM deployments_promotion m JOIN "
        "deployments_deployment d ON d.id = m.deployment_id WHERE m.environment_id = ? AND m.label = 'current'",
        environment,
    )[0]
    assert promoted == (version, current)


def test_task_6_why_the_deploy_of_a_commit_failed_is_found_by_its_commit_its_project_and_its_error(
    page: Page, served: Served
) -> None:
    sha, message, project = served.sql(
        "SELECT json_extract(d.git, '$.commitSha'), json_extract(d.error, '$.message'), p.name FROM "
        "deployments_deployment d JOIN deployments_project p ON p.id = d.project_id WHERE d.status = 'FAILED' "
        "ORDER BY d.created_at LIMIT 1"
    )[0]
    at = Visitor.at_dashboard(page, most=2)
    at.click(page.get_by_role("navigation", name="Sections").get_by_role("link", name="Deployments"))
    rows = page.locator("#result_list tbody tr")
    for words in (project, message.split(":")[0], sha[:7]):
        page.get_by_role("searchbox").fill(words)
        page.keyboard.press("Enter")
        expect(page.locator("#searchbar")).to_have_value(words)
        expect(rows.first).to_contain_text("Failed" if words == sha[:7] else re.compile("."))
    expect(rows).to_have_count(1)
    at.click(rows.locator("th a"))

    expect(page.locator("#error-title").locator("xpath=..")).to_contain_text(message)
    link = page.get_by_role("link", name="Open the commit")
    expect(link).to_have_attribute("href", f"https://github.com/example/jobs/commit/{sha}")


def test_task_7_a_key_is_made_replaced_and_revoked_and_the_old_ones_client_is_named(page: Page, served: Served) -> None:
    first = _make_a_key(page, served)
    assert _use(served, first, "jenkins/1.0") == 200

    at = Visitor.at_dashboard(page, most=3)
    at.click(page.get_by_role("navigation", name="Sections").get_by_role("link", name="Access keys"))
    at.click(page.locator("#result_list tbody tr").filter(has_text="Of task 7").get_by_role("link", name="Rotate"))
    at.click(page.get_by_role("button", name="Make the new key"))
    second = _made(page)
    assert second != first
    for key, client in ((second, "jenkins/2.0"), (first, "nightly-cron/7")):
        assert _use(served, key, client) == 200

    page.locator("main").get_by_role("link", name=first[: first.rindex("_") + 5]).click()
    successor = page.locator("section", has=page.locator("#successor-title"))
    expect(successor).to_contain_text("Since the new key was made, this key was used by: nightly-cron/7")
    assert "jenkins" not in successor.inner_text()
    expect(page.locator(".title .badge")).to_contain_text("Replaced")
    at = Visitor(page=page, most=2)
    at.click(page.get_by_role("link", name="Revoke…"))
    expect(page.locator("#what-title")).to_have_text("Clients of this key stop working at once")
    at.click(page.get_by_role("button", name="Revoke"))
    expect(page.locator(".messagelist")).to_contain_text("no longer works")
    assert (_use(served, first, "nightly-cron/7"), _use(served, second, "jenkins/2.0")) == (401, 200)


def _make_a_key(page: Page, served: Served) -> str:
    at = Visitor.at_dashboard(page, most=4)
    project = served.sql(
        "SELECT p.name FROM deployments_promotion m JOIN deployments_environment e ON e.id = m.environment_id JOIN "
        "deployments_project p ON p.id = e.project_id WHERE e.slug = 'prod' ORDER BY e.id"
    )[0][0]
    at.click(section(page, "Live versions").get_by_role("link", name=project, exact=True))
    at.click(page.get_by_role("link", name="Make a key"))
    page.get_by_label("Name").fill("Of task 7")
    at.made += 1  # the choice of an environment
    page.get_by_label("Environment", exact=True).select_option(label=f"{project} / prod")
    at.click(page.get_by_role("button", name="Make the key"))
    return _made(page)


def _made(page: Page) -> str:
    """The key that the page shows once, from the line for a shell."""
    found = re.search(r"^export TRIGGER_SECRET_KEY=(tr_\S+)$", page.locator("main pre").inner_text(), re.M)
    assert found is not None
    return found[1]


def _use(served: Served, key: str, client: str) -> int:
    """The status of a request with the key."""
    headers = {"Authorization": f"Bearer {key}", "User-Agent": client}
    request = urllib.request.Request(f"{served.origin}/api/v1/deployments/current", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(URL, what was posted there)."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", posted
        finally:
            server.shutdown()
            thread.join(10)


def test_task_8_a_notification_channel_is_made_and_tested(page: Page, served: Served) -> None:
    with receiver() as (address, posted):
        at = Visitor.at_dashboard(page, most=3)
        at.click(page.get_by_role("navigation", name="Sections").get_by_role("link", name="Channels"))
        at.click(page.get_by_role("navigation", name="New channel").get_by_role("link", name="Webhook"))
        page.get_by_label("Name").fill("Of task 8")
        page.get_by_label("Address").fill(address)
        at.click(page.get_by_role("button", name="Save and send a test"))

        expect(page.locator(".messagelist")).to_contain_text("The test message was sent. Answer: 200.")
        assert [each["event"] for each in posted] == ["test"]
    expect(page.locator(".secret")).to_contain_text("whsec_")
    deliveries = served.sql(
        "SELECT d.status, d.attempts FROM deployments_notificationdelivery d JOIN deployments_notificationchannel c "
        "ON c.id = d.channel_id WHERE c.name = 'Of task 8'"
    )
    assert deliveries == [("sent", 1)]


def test_task_9_a_sweep_is_started_watched_and_stopped(page: Page, served: Served) -> None:
    at = Visitor.at_dashboard(page, most=2)
    at.click(page.get_by_role("link", name="Start a sweep"))
    at.click(page.get_by_role("button", name="Start", exact=True))
    pk, repository = int(page.url.split("/")[-3]), served.sql("SELECT MIN(id), name FROM deployments_repository")[0]
    page.evaluate("window.notReloaded = true")
    elapsed = page.get_by_text("Running for").locator("xpath=following-sibling::dd")
    expect(elapsed).to_have_text(re.compile("[1-9]"))

    served.sql(
        "INSERT INTO deployments_sweepchunk (sweep_id, position, host, namespace, size, remaining, in_sync, healed, "
        "drifted, failed, calls, attempts, lease_owner, lease_epoch, throttled) VALUES "
        "(?, 0, 'h', 'n', 9, json_array(?), 8, 0, 0, 0, '{}', 0, '', 0, json_object(?, 3))",
        pk, repository[0], str(repository[0]),
    )  # fmt: skip

    expect(page.locator(".in_sync-number")).to_have_text("8")
    expect(section(page, "What is left")).to_contain_text(repository[1])
    expect(section(page, "What is left")).to_contain_text(re.compile("throttl"))
    assert page.evaluate("window.notReloaded")
    at = Visitor(page=page, most=1)
    at.click(page.get_by_role("button", name="Stop"))
    expect(page.locator(".title .badge")).to_have_text("Stopped")
    expect(page.locator(".messagelist")).to_contain_text(f"Sweep {pk} is stopped. Calls already sent will finish.")


def test_task_10_a_worker_that_is_gone_and_a_permission_that_is_missing_are_said_with_the_statement_to_add(
    page: Page, served: Served, aws: Sandbox
) -> None:
    served.sql("UPDATE deployments_process SET beat_at = '2026-01-01 00:00:00'")
    kept = aws.faults()
    for operation in ("GetLifecyclePolicy", "SetRepositoryPolicy"):
        aws.fault("error", f"ecr:{operation}", code="AccessDeniedException")
    try:
        at = Visitor.at_dashboard(page, most=2)
        expect(page.get_by_role("heading", name="No worker is running")).to_be_visible()
        at.click(page.locator("header .running.stopped"))
        expect(page.locator("main")).to_contain_text("python manage.py worker")
        at.click(page.get_by_role("button", name="Check now"))

        missing = page.locator("li", has_text="Missing permissions in us-east-1")
        expect(missing).to_contain_text(re.compile("AWS refused .*ecr:GetLifecyclePolicy, .*ecr:SetRepositoryPolicy"))
        statement = json.loads(missing.locator("code.copy").inner_text())
        assert {"ecr:GetLifecyclePolicy", "ecr:SetRepositoryPolicy"} <= set(statement["Action"])
    finally:
        aws.clear_faults()
        for fault in kept:
            aws.fault("error", fault["match"], code=fault["code"])


def test_task_10_the_page_of_a_repository_has_the_statement_for_the_action_that_aws_denied(
    page: Page, served: Served
) -> None:
    at = Visitor.at_dashboard(page, most=1)
    alarm = page.locator("li", has=page.get_by_role("link", name="ecr:SetRepositoryPolicy is denied"))
    at.click(alarm.locator("p").first.get_by_role("link").first)

    failed = page.locator("section", has=page.locator("#error-title"))
    expect(failed).to_contain_text("Add this statement to the policy of the identity that Registry Admin runs as:")
    assert json.loads(failed.locator("code.copy").inner_text())["Action"] == ["ecr:SetRepositoryPolicy"]
