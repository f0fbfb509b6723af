"""Lists as files, filters by time, the chart, and what another policy would do."""

from __future__ import annotations

import csv
import html
import io
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.html import escape

from deployments import config
from deployments.admin import chart
from deployments.aws import partitions
from deployments.deploys.projects import create_project
from deployments.models import ChangeFeed, Deployment, Project, Promotion, RegistryPolicyReading, Repository
from deployments.row_values import ConsumerPull, Difference, LogIn, Part, PreviewResult, ProvedPull, Receipt
from tests.admin.installation import CLUSTER, DESIRED, HOST, SECOND, STAGING, Installation, policy

DEPLOYMENTS, REPOSITORIES = "/admin/deployments/deployment/", "/admin/deployments/repository/"
WHAT_IF = f"{REPOSITORIES}what-if/"


def text_of(response: object) -> str:
    return b"".join(response.streaming_content).decode()  # type: ignore[attr-defined]


def test_a_list_is_taken_out_as_csv_with_the_filters_of_the_page(installation: Installation, operator: Client) -> None:
    response = operator.get(f"{DEPLOYMENTS}export.csv?status=DEPLOYED")
    rows = list(csv.DictReader(io.StringIO(text_of(response))))

    assert len(rows) == Deployment.objects.filter(status="DEPLOYED").count()
    assert {row["status"] for row in rows} == {"DEPLOYED"}
    assert "attachment" in response["Content-Disposition"]
    assert rows[0]["image_digest"].startswith("sha256:")


@pytest.mark.costly
def test_the_list_of_sweeps_says_what_scheduled_sweeps_read_and_why(
    installation: Installation, operator: Client
) -> None:
    def panel() -> str:
        text = operator.get("/admin/deployments/sweep/").content.decode()
        return " ".join(html.unescape(text.partition('id="reads-title"')[2].partition("</section>")[0]).split())

    assert "Not trusted</span> Every sweep reads every repository." in panel()
    assert "No event of an own read has come yet" in panel()

    now, registry = timezone.now(), partitions.registry_of(HOST)
    assert registry is not None
    times = {"proven_at": now, "arrived_at": now + timedelta(seconds=40), "unbroken_since": now - timedelta(hours=2)}
    where = {"account": registry.account, "region": registry.region}
    ChangeFeed.objects.create(**where, **times, first_proven_at=now)

    assert "Each repository is read once in 6 hours" in panel()
    assert "The last event took 40" in panel()


def test_and_as_json_lines(installation: Installation, operator: Client) -> None:
    rows = [json.loads(line) for line in text_of(operator.get(f"{REPOSITORIES}export.jsonl")).splitlines()]

    assert len(rows) == Repository.objects.count()
    assert {row["status"] for row in rows} >= {"in_sync", "drifted"}


@pytest.mark.costly
def test_a_file_takes_no_more_queries_with_more_rows(installation: Installation, operator: Client) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            text_of(operator.get(f"{DEPLOYMENTS}export.jsonl"))
        return len(captured)

    queries()
    few = queries()
    Installation(projects=3, repositories=3, deployments=200, seed=5)

    assert queries() == few


@pytest.mark.costly
def test_the_page_of_a_repository_offers_a_lifecycle_policy_that_keeps_its_images(
    installation: Installation, operator: Client
) -> None:
    row = Repository.objects.filter(status="drifted")[0]
    page = f"{REPOSITORIES}{row.pk}/change/"
    assert "A text that keeps these images" not in operator.get(page).content.decode()
    row.differences = [Difference(part=Part.LIFECYCLE, words="Version 1 would go.", fixable=True, waits=True)]
    row.lifecycle_previews = {
        "live": PreviewResult(text="1", images="2", at="x"),
        "settings": PreviewResult(text="1", images="2", at="x", words="x", suggestion='{"rules": "the safe ones"}'),
    }
    row.save()

    shown = operator.get(page).content.decode()

    assert "the safe ones" in shown
    assert "Version 1 would go." in shown
    assert "The next reconcile corrects it." not in shown


@pytest.mark.costly
@pytest.mark.parametrize(("retryable", "words"), [(True, "the next attempt tries again"), (False, "Not corrected: ")])
def test_a_page_does_not_promise_a_correction_after_an_error_that_needs_a_person(
    retryable: bool, words: str, installation: Installation, operator: Client
) -> None:
    row = Repository.objects.filter(status="failed")[0]
    row.differences = [Difference(part=Part.POLICY, words="The repository has no policy.", fixable=True)]
    row.last_error, row.last_error_heals = "Allow ecr:SetRepositoryPolicy.", retryable
    row.save()

    shown = operator.get(f"{REPOSITORIES}{row.pk}/change/").content.decode()

    assert words in shown
    assert ("Needs a person" in shown) == (not retryable)


def test_the_preview_of_a_policy_that_cannot_be_read_shows_no_zeros(
    installation: Installation, operator: Client
) -> None:
    page = operator.post(WHAT_IF, {"text": '{"Version": ', "registry": 0}).content.decode()

    assert "Registry Admin would not start with this policy" in page
    assert 'id="answer"' not in page
    assert "0 of 0" not in page
    assert 'aria-invalid="true"' in page


def test_a_cell_is_never_a_formula(installation: Installation, operator: Client) -> None:
    row = Deployment.objects.all()[0]
    row.git = {"commitMessage": '=HYPERLINK("https://evil.example")', "commitRef": "+1", "commitSha": "@x"}
    row.save()

    cells = text_of(operator.get(f"{DEPLOYMENTS}export.csv"))

    assert "'=HYPERLINK" in cells
    assert ",=HYPERLINK" not in cells
    assert ",'+1," in cells


def test_a_file_needs_the_right_to_look_and_knows_two_kinds(
    installation: Installation, operator: Client, person: Callable[..., Client]
) -> None:
    assert person("view_group").get(f"{DEPLOYMENTS}export.csv").status_code == 403
    assert operator.get(f"{DEPLOYMENTS}export.xlsx").status_code == 404


@pytest.mark.parametrize("span", ["1h", "24h", "7d", "30d"])
def test_a_time_range_shows_what_was_created_in_it(span: str, installation: Installation, operator: Client) -> None:
    hours = {"1h": 1, "24h": 24, "7d": 168, "30d": 720}[span]
    since = timezone.now() - timedelta(hours=hours)

    page = operator.get(DEPLOYMENTS, {"created_at": span})

    assert page.context["cl"].result_count == Deployment.objects.filter(created_at__gte=since).count()


def test_two_days_are_both_included_and_other_filters_stay(installation: Installation, operator: Client) -> None:
    newest = Deployment.objects.order_by("-created_at")[0].created_at.date()
    query = {"created_at_from": newest.isoformat(), "created_at_to": newest.isoformat(), "status": "DEPLOYED"}

    page = operator.get(DEPLOYMENTS, query)

    wanted = Deployment.objects.filter(created_at__date=newest, status="DEPLOYED").count()
    assert page.context["cl"].result_count == wanted
    assert '<input type="hidden" name="status" value="DEPLOYED">' in page.content.decode()


@pytest.mark.costly
@pytest.mark.parametrize("query", ["created_at=99y", "created_at_from=yesterday", "created_at_to=9999-12-31", "p=2"])
def test_a_time_that_makes_no_sense_filters_nothing(query: str, installation: Installation, operator: Client) -> None:
    assert operator.get(f"{DEPLOYMENTS}?{query}", follow=True).context["cl"].result_count == 40


@pytest.mark.costly
def test_a_word_is_looked_for_in_messages_branches_and_revisions(installation: Installation, operator: Client) -> None:
    row = Deployment.objects.all()[3]
    row.git = {"commitMessage": "Sing a Song of Sixpence", "commitRef": "feat/rye", "commitSha": "abcdef1234" * 4}
    row.save()

    for term in ("sixpence", "song sixpence", "feat/rye", "abcdef1234a", "rye song"):
        listed = operator.get(DEPLOYMENTS, {"q": term}).context["cl"].result_list
        assert [each.pk for each in listed] == [row.pk], term
    assert operator.get(DEPLOYMENTS, {"q": "sixpence barley"}).context["cl"].result_count == 0


@pytest.mark.costly
def test_a_word_is_looked_for_in_projects_people_and_errors(installation: Installation, operator: Client) -> None:
    row = Deployment.objects.filter(status="FAILED")[0]
    row.git = {"commitMessage": "Plain", "commitAuthorName": "Wilhelmina"}
    row.triggered_by, row.error = (
        "zoe@example.com",
        {"name": "BuildFailed", "message": "Out of cheese: redo from start"},
    )
    row.save()
    Project.objects.filter(pk=row.project_id).update(name="Usage metering")
    theirs = Deployment.objects.filter(project=row.project_id)

    for term in ("ZOE@", "wilhelm", "cheese", "buildfailed cheese", "usage zoe plain"):
        listed = operator.get(DEPLOYMENTS, {"q": term}).context["cl"].result_list
        assert [each.pk for each in listed] == [row.pk], term
    found = operator.get(DEPLOYMENTS, {"q": "usage metering"}).context["cl"]
    assert {each.pk for each in found.result_list} == set(theirs.values_list("pk", flat=True))
    assert operator.get(DEPLOYMENTS, {"q": "cheese jonas@"}).context["cl"].result_count == 0


@pytest.mark.costly
def test_the_subject_of_the_commit_is_the_headline_of_a_deployment(
    installation: Installation, operator: Client
) -> None:
    promotion = Promotion.objects.filter(label="current", environment__parent=None)[0]
    row = promotion.deployment
    row.git = {**row.git, "commitMessage": "Sing a Song\n\nOf sixpence.", "commitSha": "abcdef1234" * 4}
    row.created_at = timezone.now()
    row.save()
    pages = [
        "/admin/", f"{DEPLOYMENTS}?q={row.pk}", f"{DEPLOYMENTS}{row.pk}/promote/",
        f"/admin/deployments/project/{row.project_id}/change/",
        f"/admin/deployments/environment/{row.environment_id}/change/",
    ]  # fmt: skip

    for address in pages:
        page = operator.get(address).content.decode()
        assert "Sing a Song" in page, address
        assert str(row.version) in page, address
        assert "Of sixpence" not in page, address
    own = f"{DEPLOYMENTS}{row.pk}/change/"
    title = f'<h1 class="named"> Sing a Song <code>{row.version}</code> </h1>'
    assert title in " ".join(operator.get(own).content.decode().split())
    row.git = {}
    row.save()
    for address in pages:
        assert str(row.version) in operator.get(address).content.decode(), address
    assert f"<h1> <code>{row.version}</code> </h1>" in " ".join(operator.get(own).content.decode().split())


@pytest.mark.costly
def test_a_commit_is_linked_and_compared_with_the_current_one(installation: Installation, operator: Client) -> None:
    current = Promotion.objects.filter(label="current", environment__parent=None)[0].deployment
    older = Deployment.objects.filter(environment=current.environment, status="DEPLOYED").exclude(pk=current.pk)[0]
    old, new = "a" * 40, "b" * 40
    remote = "https://github.com/example/jobs"
    Deployment.objects.filter(pk=current.pk).update(git={"commitSha": new, "remoteUrl": f"{remote}.git"})
    git = {"commitSha": old, "remoteUrl": f"{remote}.git", "pullRequestNumber": 12}
    Deployment.objects.filter(pk=older.pk).update(git=git, triggered_via="cli:github_actions")

    for address in (f"{DEPLOYMENTS}{older.pk}/change/", f"{DEPLOYMENTS}{older.pk}/promote/"):
        page = operator.get(address).content.decode()
        assert f'href="{remote}/commit/{old}"' in page, address
        assert f'href="{remote}/compare/{old}...{new}"' in page, address  # the older first, also for a roll-back
    page = operator.get(f"{DEPLOYMENTS}{older.pk}/change/").content.decode()
    assert f'href="{remote}/pull/12"' in page
    assert f'href="{remote}/commit/{old}/checks"' in page
    assert f'href="{remote}/commit/{new}"' in operator.get(DEPLOYMENTS).content.decode()


@pytest.mark.costly
def test_the_digest_of_a_deployment_stands_once_on_its_page(installation: Installation, operator: Client) -> None:
    row = Deployment.objects.filter(status="DEPLOYED")[0]
    assert row.receipt is not None
    page = operator.get(f"{DEPLOYMENTS}{row.pk}/change/").content.decode()
    assert page.count(f">{row.image_digest}<") == 1
    assert "<dt>Digest</dt>" not in page.split('id="receipt-title"')[1]

    other = f"sha256:{'0' * 64}"
    row.receipt = replace(row.receipt, digest=other)
    row.save()

    page = operator.get(f"{DEPLOYMENTS}{row.pk}/change/").content.decode()
    assert other in page.split('id="receipt-title"')[1]


@pytest.mark.costly
def test_a_failed_build_shows_the_end_of_its_output_and_no_empty_card_of_tasks(
    installation: Installation, operator: Client
) -> None:
    row = Deployment.objects.filter(status="FAILED")[0]
    sha, remote = "a" * 40, "https://github.com/example/jobs"
    row.git, row.triggered_via = {"commitSha": sha, "remoteUrl": f"{remote}.git"}, "cli:github_actions"
    row.error = {"name": "BuildFailed", "message": "It failed.", "stderr": "\n".join(f"line {n};" for n in range(40))}
    row.save()
    page = operator.get(f"{DEPLOYMENTS}{row.pk}/change/").content.decode()
    alarm = page.split('id="error-title"')[1].split("</section>")[0]
    shown = alarm.split("<details>")[0]

    assert "line 39;" in shown
    assert "line 28;" in shown
    assert "line 27;" not in shown
    assert "line 0;" in alarm
    assert f'href="{remote}/commit/{sha}/checks"' in alarm
    assert 'id="tasks-title"' not in page
    running = Deployment.objects.filter(status="BUILDING")[0]
    assert 'id="tasks-title"' in operator.get(f"{DEPLOYMENTS}{running.pk}/change/").content.decode()


def test_the_chart_stacks_a_day_and_says_it_in_words() -> None:
    today = date(2026, 11, 24)

    drawn = chart.draw(
        today, {("2026-11-24", "DEPLOYED"): 6, ("2026-11-24", "FAILED"): 2, ("2026-11-20", "BUILDING"): 1}
    )

    last = drawn.days[-1]
    assert (last.good, last.bad, last.other) == (6, 2, 0)
    shown = [(bar.tone, bar.y, bar.height) for bar in last.bars]
    assert shown == [("ok", "25.00", "75.00"), ("bad", "0.00", "25.00")]
    assert last.words == "24 Nov: 6 deployed, 2 failed or timed out"
    assert (len(drawn.days), drawn.top, drawn.number) == (30, 8, 9)
    assert drawn.last(7)["success"] == "75.0 %"


def test_an_empty_chart_has_no_bars_and_no_rate() -> None:
    drawn = chart.draw(date(2026, 1, 1), {})

    assert [day.bars for day in drawn.days] == [()] * 30
    assert drawn.last(7)["success"] == "–"


@pytest.mark.costly
def test_each_bar_and_each_number_of_the_chart_leads_to_its_deployments(
    installation: Installation, operator: Client
) -> None:
    def listed(query: str) -> int:
        return int(operator.get(f"/admin/deployments/deployment/{query}").context["cl"].result_count)

    days = [day for day in chart.per_day().days if day.all]

    assert [listed(day.query) for day in days] == [day.all for day in days]
    parts = [part for day in days for part in day.parts if part[0]]
    assert [listed(query) for _, query in parts] == [number for number, _ in parts]
    assert {bar.query for day in days for bar in day.bars} == {query for _, query in parts}
    page = operator.get("/admin/").content.decode()
    assert all(page.count(f"deployment/{html.escape(query)}") == 2 for _, query in parts)  # the bar, and the table


@pytest.mark.costly
def test_the_dashboard_counts_by_the_days_of_utc(installation: Installation, operator: Client) -> None:
    drawn = operator.get("/admin/").context["chart"]
    first = timezone.now().date() - timedelta(days=29)

    assert drawn.number == Deployment.objects.filter(created_at__date__gte=first).count()


@pytest.mark.costly
def test_a_silent_worker_is_said_on_the_dashboard_with_the_next_command(
    installation: Installation, operator: Client
) -> None:
    from deployments.models import Process

    assert "No worker is running" not in operator.get("/admin/").content.decode()
    Process.objects.update(beat_at=timezone.now() - timedelta(minutes=20))

    page = operator.get("/admin/").content.decode()

    assert "No worker is running" in page
    assert "manage.py worker" in page


# ----------------------------------------------------------------------------------------------------------- what if


@pytest.mark.costly
def test_a_changed_policy_is_answered_with_who_loses_and_gains_and_nothing_is_written(
    installation: Installation, operator: Client
) -> None:
    before = list(Repository.objects.order_by("pk").values())

    page = operator.post(WHAT_IF, {"text": policy(CLUSTER, SECOND), "registry": 0})

    answer = page.context["answer"]
    assert (f"account {STAGING} loses pull") in dict(answer.losses)
    assert dict(answer.gains)[f"account {SECOND} gains pull"] == answer.changed == 2
    assert answer.changed + answer.unchanged + answer.unreadable + answer.unseen == answer.total
    assert list(Repository.objects.order_by("pk").values()) == before


def test_the_present_policy_changes_only_what_has_drifted_and_names_what_is_not_ours(
    installation: Installation, operator: Client
) -> None:
    ours, foreign = Repository.objects.filter(host=HOST)[:2]
    Repository.objects.filter(pk=foreign.pk).update(policy_text=policy(CLUSTER, roots=True, actions=["ecr:*"]))

    answer = operator.post(WHAT_IF, {"text": DESIRED, "registry": 0}).context["answer"]

    assert (answer.changed, answer.unchanged, answer.foreign) == (1, 1, 1)
    assert [group.names for group in answer.groups] == [[foreign.name]]
    assert ours.name not in str(answer.groups)
    assert any("every ECR action except pull" in words for group in answer.groups for words in group.effect.foreign)


def test_policies_with_one_effect_are_one_group_whatever_their_texts(
    installation: Installation, operator: Client
) -> None:
    rows = Repository.objects.filter(host=HOST, status__in=("in_sync", "drifted", "failed"))
    for number, row in enumerate(rows.order_by("pk")):
        row.policy_text = policy(CLUSTER, STAGING, Sid=f"Text{number}")
        row.save()
    never = Repository.objects.filter(host=HOST, status="in_sync")[0]
    Repository.objects.filter(pk=never.pk).update(last_checked_at=None)

    page = operator.post(WHAT_IF, {"text": policy(CLUSTER, SECOND), "registry": 0})

    answer, shown = page.context["answer"], page.content.decode()
    changed, unseen = answer.groups if answer.groups[0].effect.lost else answer.groups[::-1]
    assert changed.effect.lost == (f"account {STAGING} loses pull",)
    assert changed.effect.gained == (f"account {SECOND} gains pull",)
    assert changed.number == answer.changed == answer.total - 1
    assert (unseen.names, answer.unseen, answer.unknown, answer.unchanged) == ([never.name], 1, 1, 0)
    assert "Unknown: 1 repository" in " ".join(shown.split())
    for row in rows:
        assert f'href="{REPOSITORIES}{row.pk}/change/"' in shown


def _promoted(row: Repository, slug: str, name: str) -> Promotion:
    project = create_project(name=name)
    environment = project.environments.get(slug=slug)
    deployment = Deployment.objects.filter(status="DEPLOYED")[0]
    deployment.pk, deployment.project, deployment.environment = f"deployment_{name}", project, environment
    deployment.repository, deployment.short_code = row, f"x{len(name)}{slug[:2]}"
    deployment.save(force_insert=True)
    return Promotion.objects.create(environment=environment, deployment=deployment)


@pytest.mark.costly
def test_the_environments_that_lose_pull_are_named_production_first(
    installation: Installation, operator: Client
) -> None:
    Promotion.objects.all().delete()
    row, other = Repository.objects.filter(host=HOST, status="in_sync").order_by("pk")[:2]
    other.policy_text = policy(CLUSTER)  # loses nothing
    other.save()
    staging, production = _promoted(row, "staging", "Aardvark"), _promoted(row, "prod", "Zebra")
    archived = _promoted(row, "prod", "Archived one")
    archived.environment.archived_at = timezone.now()
    archived.environment.save()
    _promoted(other, "prod", "Bystander")

    page = operator.post(WHAT_IF, {"text": policy(CLUSTER), "registry": 0})

    answer, shown = page.context["answer"], " ".join(page.content.decode().split())
    assert [each.environment for each in answer.running] == [production.environment, staging.environment]
    assert (answer.production, answer.others) == (1, 1)
    assert "1 production environment and 1 other" in shown
    assert f'/environment/{production.environment_id}/change/">prod</a>' in shown
    assert f"account {STAGING} loses pull" in shown.split('id="running-title"')[1].split("</section>")[0]


def test_no_environment_loses_a_pull_that_the_registry_policy_allows_too(
    installation: Installation, operator: Client
) -> None:
    Promotion.objects.all().delete()
    row = Repository.objects.filter(host=HOST, status="in_sync")[0]
    _promoted(row, "prod", "Zebra")
    kept = policy(STAGING, Resource="*")
    RegistryPolicyReading.objects.filter(account=row.account, region=row.region).update(text=kept, scope="V2")

    page = operator.post(WHAT_IF, {"text": policy(CLUSTER), "registry": 0})

    assert page.context["answer"].losses
    assert page.context["answer"].running == []
    assert "No environment uses an image that somebody could no longer pull." in page.content.decode()


@pytest.mark.costly
def test_the_preview_counts_the_writes_of_the_next_sweep(installation: Installation, operator: Client) -> None:
    Repository.objects.filter(host=HOST, status="drifted").delete()
    rows = Repository.objects.filter(host=HOST, management__in=("adopted", "full"), last_checked_at__isnull=False)
    rows = rows.exclude(status="missing")
    text = {"text": policy(CLUSTER, SECOND), "registry": 0}
    answer = operator.post(WHAT_IF, text).context["answer"]
    assert (answer.writes, answer.reports) == (rows.count(), 0)

    one = rows[0]
    until = timezone.now() + timedelta(hours=1)
    Repository.objects.filter(pk=one.pk).update(mode="observe", mode_until=until, mode_reason="x")
    answer = operator.post(WHAT_IF, text).context["answer"]

    assert (answer.writes, answer.reports) == (rows.count() - 1, 1)


def test_the_preview_as_a_file_has_every_repository(installation: Installation, operator: Client) -> None:
    response = operator.post(WHAT_IF, {"text": policy(CLUSTER, SECOND), "registry": 0, "as": "csv"})
    rows = {row["repository"]: row for row in csv.DictReader(io.StringIO(text_of(response)))}
    known = Repository.objects.filter(host=HOST).exclude(status__in=("unmanaged", "missing"))

    assert set(rows) == set(known.values_list("name", flat=True))
    in_sync = rows[known.filter(status="in_sync")[0].name]
    assert in_sync["effect"] == "changes"
    assert in_sync["loses"] == f"account {STAGING} loses pull"
    assert in_sync["next_sweep"] == "write"


@pytest.mark.costly
def test_the_line_of_the_setting_is_read_alike_by_a_shell_and_by_the_env_file(
    installation: Installation, operator: Client, tmp_path: Path
) -> None:
    sid = 'It\'s # ${aws:PrincipalTag/team} "and" \\n'
    text = policy(CLUSTER, STAGING, Condition={"StringEquals": {"aws:PrincipalTag/team": sid}})
    page = operator.post(WHAT_IF, {"text": json.dumps(json.loads(text), indent=4), "registry": 0})
    line = page.context["setting_line"]
    name = "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY"
    file = tmp_path / ".env"
    file.write_text(f"{line}\n")

    (values, problems), shell = config.read_env_file(file, named=True), ["sh", "-c", f'{line}; printf %s "${name}"']
    read = subprocess.run(shell, capture_output=True, text=True, check=True).stdout

    assert "\n" not in line
    assert problems == ()
    assert values[name] == read
    assert json.loads(read) == json.loads(text)
    assert f"{escape(line)}</code>" in page.content.decode()


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("{", "E101"),
        (policy(*[f"{n:012}" for n in range(700)]), "E102"),
        (policy("*"), "E110"),
        ("{}", "E113"),
        (policy("111111111111", actions=["ecr:Set*"], Effect="Deny"), "E115"),
    ],
)
def test_a_text_that_would_be_refused_says_so(text: str, id: str, installation: Installation, operator: Client) -> None:
    page = operator.post(WHAT_IF, {"text": text, "registry": 0})

    assert ("answer" in page.context) == (id != "E101")
    assert any(f"deployments.{id}" in error for error in page.context["form"].errors["text"])
    assert "Registry Admin would not start with this policy." in page.content.decode()


@pytest.mark.costly
def test_what_another_policy_lets_the_consumers_do_is_answered_with_the_registry_policy_and_its_age(
    installation: Installation, operator: Client
) -> None:
    def asked() -> tuple[list[tuple[str, str, int]], str]:
        page = operator.post(WHAT_IF, {"text": DESIRED, "registry": 0})
        pulls = [(pull.account, pull.verdict, pull.number) for pull in page.context["answer"].pulls]
        return pulls, " ".join(page.content.decode().split())

    rows = Repository.objects.filter(host=HOST).exclude(status__in=("unmanaged", "missing"))
    closed = rows.order_by("pk")[0]
    others = rows.count() - 1
    about = {"account": closed.account, "region": closed.region}
    RegistryPolicyReading.objects.filter(**about).delete()
    pulls, page = asked()
    assert pulls == [(CLUSTER, "unknown", others + 1), (STAGING, "unknown", others + 1)]
    assert "The registry policy was not read." in page

    arn = f"arn:aws:ecr:{closed.region}:{closed.account}:repository/{closed.name}"
    text = policy(CLUSTER, Effect="Deny", Sid="Closed", Resource=arn)
    read_at = timezone.now() - timedelta(hours=2)
    RegistryPolicyReading.objects.create(**about, text=text, scope="V2", read_at=read_at)
    pulls, page = asked()
    assert pulls == [(CLUSTER, "no", 1), (CLUSTER, "yes", others), (STAGING, "yes", others + 1)]
    assert "Closed of the registry policy denies it" in page
    assert closed.name in page
    assert "The registry policy was evaluated too (scope V2)." in page
    assert "Policies of an AWS organisation" in page
    assert "The registry policy was last read" in page

    RegistryPolicyReading.objects.update(error="AWS refused GetRegistryPolicy.")
    pulls, page = asked()
    assert {verdict for _, verdict, _ in pulls} == {"unknown"}
    assert "AWS refused GetRegistryPolicy." in page

    rows.delete()
    RegistryPolicyReading.objects.update(text="", error="")
    pulls, page = asked()
    assert pulls == [(CLUSTER, "yes", 0), (STAGING, "yes", 0)]
    assert "a new repository:" in page


@pytest.mark.slow
def test_ten_thousand_repositories_take_no_more_queries_and_little_time(
    installation: Installation, operator: Client
) -> None:
    template = Repository.objects.filter(host=HOST, status="in_sync")[0]
    texts = [policy(CLUSTER, STAGING, Sid=f"S{number % 200}") for number in range(200)]
    Repository.objects.bulk_create(
        Repository(
            account=template.account, region=template.region, host=HOST, name=f"trigger/proj_{number:05}",
            status="in_sync", origin="created", management="full", policy_text=texts[number % 200],
            last_checked_at=timezone.now(),
        )
        for number in range(10_000)
    )  # fmt: skip
    operator.get("/admin/")

    with CaptureQueriesContext(connection) as captured:
        page = operator.post(WHAT_IF, {"text": policy(CLUSTER), "registry": 0})

    answer = page.context["answer"]
    assert answer.total > 10_000
    assert dict(answer.losses)[f"account {STAGING} loses pull"] >= 10_000
    assert answer.groups[0].number >= 10_000  # 200 texts with one effect
    assert len(answer.groups[0].shown) <= 400
    assert len(page.content) < 100_000
    assert len(captured) < 12


@pytest.mark.costly
def test_the_page_needs_only_the_right_to_look(installation: Installation, person: Callable[..., Client]) -> None:
    assert person("view_repository").get(WHAT_IF).status_code == 200
    assert person("view_group").post(WHAT_IF, {"text": "{}"}).status_code == 302


@pytest.mark.costly
def test_the_preview_is_reached_from_the_repositories_and_from_the_health_page(
    installation: Installation, operator: Client
) -> None:
    for address in (REPOSITORIES, "/admin/setup/"):
        assert f'href="{WHAT_IF}"' in operator.get(address).content.decode(), address


@pytest.mark.costly
def test_the_emergency_stop_is_a_page_below_the_health_page(installation: Installation, operator: Client) -> None:
    page = " ".join(operator.get("/admin/setup/writes/").content.decode().split())
    above = " ".join(operator.get("/admin/setup/").content.decode().split())

    path = page.split('<nav class="path"')[1].split("</nav>")[0]
    assert '<a href="/admin/setup/">Health</a>' in path
    assert 'href="/admin/setup/" aria-current="true"' in page
    assert 'href="/admin/setup/" aria-current="page"' in above


# ------------------------------------------------------------------------------------------------------ who can pull


def _page(operator: Client, row: Repository) -> str:
    return " ".join(operator.get(f"{REPOSITORIES}{row.pk}/change/").content.decode().split())


@pytest.mark.costly
def test_a_repositorys_page_says_who_can_pull_by_both_policies_and_on_what_that_rests(
    installation: Installation, operator: Client
) -> None:
    row = Repository.objects.filter(status="in_sync", account=HOST[:12], region="us-east-1")[0]
    row.policy_text = policy(CLUSTER, SECOND)
    row.consumers = {CLUSTER: ConsumerPull(verdict="unknown", words="By the repository policy, yes.")}
    row.save()
    closed = {"Sid": "Closed", "Effect": "Deny", "Principal": {"AWS": SECOND}, "Action": "ecr:*", "Resource": "*"}
    RegistryPolicyReading.objects.update(text=json.dumps({"Statement": [closed]}), scope="V2")

    page = _page(operator, row)

    assert "Not seen" in page
    assert f"account {SECOND} may not pull: Closed of the registry policy denies it." in page
    assert "The registry policy was evaluated too (scope V2)." in page
    assert "Policies of an AWS organisation" in page
    assert "The registry policy was last read" in page

    RegistryPolicyReading.objects.update(error="AWS refused GetRegistryPolicy.")
    page = _page(operator, row)
    assert "The registry policy was not read." in page
    assert "AWS refused GetRegistryPolicy." in page
    assert "May pull" not in page


def test_a_receipt_shows_for_each_account_what_was_seen(installation: Installation, operator: Client) -> None:
    row = Deployment.objects.filter(status="DEPLOYED")[0]
    row.receipt = Receipt(
        at="2026-11-26T00:00:00+00:00",
        digest="sha256:1",
        pullers={
            CLUSTER: ProvedPull(how="policy", words="It may."),
            STAGING: ProvedPull(
                how="policy", words="A condition.", verdict="depends", basis="This rests on one policy."
            ),
            SECOND: ProvedPull(how="policy", words="By the repository policy, yes.", verdict="unknown"),
        },
    )
    row.save()

    page = " ".join(operator.get(f"{DEPLOYMENTS}{row.pk}/change/").content.decode().split())

    assert f'ok">Can pull</span> account {CLUSTER}: by the policies.' in page
    assert f'warn">It depends</span> account {STAGING}' in page
    assert "A condition. This rests on one policy." in page
    assert f'warn">Not seen</span> account {SECOND}' in page


def test_the_page_of_a_deployment_says_which_repositories_its_log_in_opens_and_until_when(
    installation: Installation, operator: Client
) -> None:
    row = Deployment.objects.exclude(log_in=None).first()
    assert row is not None
    assert row.log_in is not None

    page = operator.get(f"{DEPLOYMENTS}{row.pk}/change/").content.decode()

    assert "Its push log-in opens" in page
    assert f"{row.log_in.push[0]}</code> to push and pull" in page
    assert "platform/*</code> to pull" in page
    assert f'datetime="{row.log_in.expires_at}"' in page
    assert "do not open every repository" not in page


def test_what_did_not_fit_into_a_log_in_is_named_on_the_page_of_its_deployment(
    installation: Installation, operator: Client
) -> None:
    row = Deployment.objects.exclude(log_in=None).first()
    assert row is not None
    left_out = LogIn(push=("trigger/a",), left_out=("platform/zero",), expires_at=timezone.now().isoformat())
    Deployment.objects.filter(pk=row.pk).update(log_in=left_out)

    page = operator.get(f"{DEPLOYMENTS}{row.pk}/change/").content.decode()

    assert "The registry credentials do not open every repository" in page
    assert "The log-in does not open platform/zero" in page
