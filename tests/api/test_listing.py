"""Deployments for other readers than the CLI: the list, the newest, the current one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from deployments.models import AccessKey, AuditEntry, Deployment, Environment
from tests.support.cli import DIGEST, Cli

pytestmark = pytest.mark.django_db


@pytest.fixture
def seven(production: Environment) -> list[str]:
    """The ids of seven deployments, newest first; two share a moment."""
    now = timezone.now()
    rows = [
        Deployment(
            project=production.project,
            environment=production,
            version_day="20260801",
            version_number=number,
            status="DEPLOYED" if number % 2 else "FAILED",
            deployed_at=now if number % 2 else None,
            created_at=now - timedelta(hours=max(number, 2)),
        )
        for number in range(1, 8)
    ]
    Deployment.objects.bulk_create(rows)
    return [row.id for row in Deployment.objects.order_by("-created_at", "-id")]


def ids(answer: Any) -> list[str]:
    assert answer.status == 200, answer.body
    return [item["id"] for item in answer.body["data"]]


def test_pages_follow_each_other_without_gaps(cli: Cli, seven: list[str], stranger: Cli) -> None:
    first = cli.get("/api/v1/deployments?page[size]=5")
    second = cli.get(f"/api/v1/deployments?page[size]=5&page[after]={first.body['pagination']['next']}")

    assert ids(first) + ids(second) == seven
    assert second.body["pagination"] == {}
    assert ids(stranger.get("/api/v1/deployments")) == []
    assert stranger.get(f"/api/v1/deployments?page[after]={seven[0]}").status == 404


def test_what_is_not_known_is_null_or_absent_as_the_contract_says(cli: Cli, seven: list[str]) -> None:
    failed = next(item for item in cli.get("/api/v1/deployments").body["data"] if item["status"] == "FAILED")

    assert set(failed) == {"id", "createdAt", "shortCode", "version", "runtime", "runtimeVersion", "status"}
    assert failed["runtime"] is failed["runtimeVersion"] is None


@pytest.mark.costly
def test_the_list_of_the_longest_accepted_failures_stays_small(cli: Cli, django_assert_num_queries: Any) -> None:
    wide = "\N{PILE OF POO}"  # 12 bytes in JSON
    git = dict.fromkeys(["source", "commitAuthorName", "commitMessage", "commitRef", "pullRequestTitle"], wide * 2_000)
    texts = {"stack": wide * 100_000, "stderr": wide * 100_000}
    deployment_id = cli.deploy(gitMeta=git | {"remoteUrl": f"https://example.com/{'r' * 100_000}"}).body["id"]
    cli.post(
        f"/api/v1/deployments/{deployment_id}/fail", {"error": {"name": wide * 200, "message": wide * 10_000} | texts}
    )
    row = Deployment.objects.get(id=deployment_id)
    for number in range(24):  # bulk_create would escape each text twice for PostgreSQL, in ten seconds
        Deployment.objects.create(
            project=row.project, environment=row.environment, version_day="20260801", version_number=number,
            status=row.status, git=row.git, error=row.error,
        )  # fmt: skip
    AccessKey.objects.update(last_used_at=Now())  # or, a minute later, the use is recorded by a third query

    with django_assert_num_queries(2):
        answer = cli.get("/api/v1/deployments?page[size]=25")

    assert len(ids(answer)) == 25
    newest = answer.body["data"][0]
    assert set(newest["error"]) == {"name", "message"}
    assert (len(newest["error"]["message"]), len(newest["git"]["commitMessage"])) == (1000, 256)
    assert int(answer.headers["Content-Length"]) < 25 * 50 * 2**10  # 50 KiB a deployment
    one = cli.get(f"/api/v1/deployments/{deployment_id}").body["errorData"]
    assert one["stderr"] == texts["stderr"]


def test_the_list_is_filtered(cli: Cli, seven: list[str]) -> None:
    def count(query: str) -> int:
        return len(ids(cli.get(f"/api/v1/deployments?{query}")))

    since = (timezone.now() - timedelta(hours=4.5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert count("status=FAILED") == 3
    assert count("status=failed,deployed") == 7
    assert count("period=150m") == 2
    assert count(f"from={since}") == 4
    assert count(f"to={since}") == 3
    assert count(f"from={int(timezone.now().timestamp() * 1000)}") == 0


@pytest.mark.parametrize(
    "query",
    [
        "status=GONE", "period=soon", "period=99999d", "from=yesterday", "to=99999999999999999",
        "from=0001-01-01T00:00:00%2B14:00", "page[size]=4", "page[size]=101", "page[size]=x",
    ],
)  # fmt: skip
def test_a_filter_that_means_nothing_is_a_sentence(cli: Cli, query: str) -> None:
    answer = cli.get(f"/api/v1/deployments?{query}")

    assert answer.status in {400, 422}
    assert answer.error.endswith(".")


def test_the_newest_deployment(cli: Cli, seven: list[str], stranger: Cli) -> None:
    assert cli.get("/api/v1/deployments/latest").body["id"] == seven[0]
    assert stranger.get("/api/v1/deployments/latest").status == 404


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)
def test_the_current_deployment_names_the_image_and_is_cheap_to_poll(cli: Cli, stranger: Cli) -> None:
    assert cli.get("/api/v1/deployments/current").status == 404
    deployment_id = cli.deploying()
    cli.finalize(deployment_id)

    answer = cli.get("/api/v1/deployments/current")

    assert answer.status == 200
    assert answer.body["id"] == deployment_id
    assert answer.body["imageReference"].endswith(f"@{DIGEST}")
    unchanged = cli.get("/api/v1/deployments/current", if_none_match=answer.headers["ETag"])
    assert (unchanged.status, unchanged.body) == (304, "")
    assert unchanged.headers["ETag"] == answer.headers["ETag"]
    cli.finalize(cli.deploying())
    assert cli.get("/api/v1/deployments/current", if_none_match=answer.headers["ETag"]).status == 200
    assert stranger.get("/api/v1/deployments/current").status == 404


@pytest.mark.django_db(transaction=True)
def test_polling_costs_a_look_at_the_key_and_one_at_the_promotion(cli: Cli, django_assert_num_queries: Any) -> None:
    cli.finalize(cli.deploying())
    etag = cli.get("/api/v1/deployments/current").headers["ETag"]

    with django_assert_num_queries(2):
        assert cli.get("/api/v1/deployments/current", if_none_match=etag).status == 304
    with django_assert_num_queries(2):
        assert cli.get("/api/v1/deployments/current", if_none_match='W/"old", "older"').status == 200


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)
def test_what_is_polled_for_is_what_was_rolled_back_to(cli: Cli) -> None:
    older, newer = (cli.deploying(externalId=name) for name in ("one", "two"))
    versions = [str(Deployment.objects.get(id=each).version) for each in (older, newer)]
    for each in (older, newer):
        cli.finalize(each)
    etag = cli.get("/api/v1/deployments/current").headers["ETag"]

    refused = cli.post(f"/api/v1/deployments/{versions[0]}/promote")
    done = cli.post(f"/api/v1/deployments/{versions[0]}/promote?allowRollbacks=true")

    assert refused.status == 400
    assert (done.status, done.body["version"]) == (200, versions[0])
    current = cli.get("/api/v1/deployments/current", if_none_match=etag)
    assert (current.status, current.body["id"]) == (200, older)
    assert cli.get("/api/v1/deployments/latest").body["id"] == newer
    told, tried = AuditEntry.objects.all()
    assert (tried.action, tried.outcome) == ("rollback.deployment", refused.error)
    assert (told.action, told.before, told.after) == (
        "rollback.deployment",
        {"current": versions[1]},
        {"current": versions[0]},
    )
    assert told.actor.rstrip("…") in cli.key
