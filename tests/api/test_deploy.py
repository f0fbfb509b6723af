"""A deploy, request by request: what is answered, what is absent, which status."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from django.test.utils import CaptureQueriesContext

from deployments.access import keys
from deployments.api.bodies import MIB, parse, rule
from deployments.models import AuditEntry, BackgroundWorker, Deployment, Environment, Project
from tests.support.cli import DIGEST, HASH, WORKER, Cli

pytestmark = pytest.mark.django_db


def test_a_deployment_begins_with_an_image_ref_and_without_anything_the_cli_must_not_see(
    cli: Cli, project: Project
) -> None:
    answer = cli.deploy(runtime="node-22", isNativeBuild=False, userId="1", fieldOfTomorrow={"a": 1})

    assert answer.status == 200
    assert set(answer.body) == {"id", "contentHash", "shortCode", "version", "imageTag", "imagePlatform", "outcome"}
    assert answer.body["outcome"] == "created"
    assert re.fullmatch(r"deployment_[1-9a-km-z]{21}", answer.body["id"])
    assert re.fullmatch(r"\d{8}\.1", answer.body["version"])
    assert answer.body["imageTag"] == (
        f"localhost:5000/trigger/{project.ref}:{answer.body['version']}.production.{answer.body['shortCode']}"
    )
    assert answer.body["imagePlatform"] == "linux/amd64"
    assert Deployment.objects.get().status == "BUILDING"


def test_a_deployment_is_shown_without_a_worker_until_it_was_indexed(cli: Cli) -> None:
    deployment_id = cli.deploy(gitMeta={"commitSha": "abc123"}).body["id"]

    shown = cli.get(f"/api/v1/deployments/{deployment_id}").body

    assert set(shown) == {
        "id", "status", "contentHash", "shortCode", "version", "imageReference", "imagePlatform", "commitSHA"
    }  # fmt: skip
    assert shown["status"] == "BUILDING"
    assert shown["commitSHA"] == "abc123"


def test_the_indexer_s_report_makes_it_deploying_with_a_worker(cli: Cli) -> None:
    deployment_id = cli.deploy().body["id"]

    answer = cli.post(f"/api/v1/deployments/{deployment_id}/background-workers", WORKER)
    shown = cli.get(f"/api/v1/deployments/{deployment_id}").body

    assert answer.status == 200
    assert set(answer.body) == {"id", "version", "contentHash"}
    assert shown["status"] == "DEPLOYING"
    assert shown["worker"]["id"] == answer.body["id"]
    assert shown["worker"]["version"] == shown["version"]
    [task] = shown["worker"]["tasks"]
    assert task == {
        "id": task["id"],
        "slug": "hello",
        "filePath": "src/trigger/hello.ts",
        "exportName": "hello",
    }
    assert BackgroundWorker.objects.get().metadata["queues"] == [{"name": "mail", "concurrencyLimit": 2}]


def test_the_report_of_an_old_cli_is_enough(cli: Cli) -> None:
    deployment_id = cli.deploy(type=None).body["id"]
    report = {"metadata": {"contentHash": HASH, "packageVersion": "3.3.17", "tasks": [{"id": "a", "filePath": "a.ts"}]}}

    assert cli.post(f"/api/v1/deployments/{deployment_id}/background-workers", report).status == 200
    assert "exportName" not in cli.get(f"/api/v1/deployments/{deployment_id}").body["worker"]["tasks"][0]


def test_a_repeated_report_answers_with_the_same_worker(cli: Cli) -> None:
    deployment_id = cli.deploying()

    first = BackgroundWorker.objects.get()
    again = cli.post(f"/api/v1/deployments/{deployment_id}/background-workers", WORKER)

    assert (again.status, again.body["id"]) == (200, first.id)


def test_a_report_of_other_content_fails_the_deployment_with_a_reason_to_show(cli: Cli) -> None:
    deployment_id = cli.deploying()
    other = WORKER | {"metadata": WORKER["metadata"] | {"contentHash": "other"}}  # type: ignore[operator]

    answer = cli.post(f"/api/v1/deployments/{deployment_id}/background-workers", other)

    assert answer.status == 409
    assert answer.headers["x-should-retry"] == "false"
    shown = cli.get(f"/api/v1/deployments/{deployment_id}").body
    assert shown["status"] == "FAILED"
    assert shown["errorData"]["message"] == answer.error


def test_a_report_that_cannot_be_read_fails_the_deployment_with_a_reason_to_show(cli: Cli) -> None:
    deployment_id = cli.deploy().body["id"]

    answer = cli.post(f"/api/v1/deployments/{deployment_id}/background-workers", {"metadata": {"tasks": "none"}})

    assert answer.status == 422
    shown = cli.get(f"/api/v1/deployments/{deployment_id}").body
    assert shown["status"] == "FAILED"
    assert shown["errorData"] == {"name": "TaskMetadataParseError", "message": answer.error}


def test_only_the_first_platform_is_indexed(cli: Cli, configure: Callable[..., Any]) -> None:
    configure(DEPLOY_IMAGE_PLATFORM="linux/arm64,linux/amd64")
    deployment_id = cli.deploy().body["id"]

    answer = cli.post(f"/api/v1/deployments/{deployment_id}/background-workers", WORKER)

    assert answer.status == 400
    assert cli.get(f"/api/v1/deployments/{deployment_id}").body["status"] == "BUILDING"


def test_a_report_of_many_megabytes_is_taken(cli: Cli) -> None:
    deployment_id = cli.deploy().body["id"]
    sources = [{"filePath": "a.ts", "contents": "e" * 5_000_000, "contentHash": "1", "taskIds": []}]
    report = WORKER | {"metadata": WORKER["metadata"] | {"sourceFiles": sources}}  # type: ignore[operator]

    assert cli.post(f"/api/v1/deployments/{deployment_id}/background-workers", report).status == 200


def test_source_files_are_let_go_of_while_the_report_is_read() -> None:
    size = 8 * MIB
    sources = [{"filePath": f"{number}.ts", "contents": "e" * (size // 64), "taskIds": []} for number in range(64)]
    body = json.dumps(WORKER | {"metadata": WORKER["metadata"] | {"sourceFiles": sources}}).encode()  # type: ignore[operator]
    path = "/api/v1/deployments/deployment_x/background-workers"
    tracemalloc.start()
    try:
        found = parse(body, rule(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1.3 * size  # the text, beside the body
    assert "contents" not in str(found)
    assert found["metadata"]["tasks"][0]["machine"] == {"cpu": 1}


def test_a_failure_is_stored_and_shown(cli: Cli) -> None:
    deployment_id = cli.deploy().body["id"]
    error = {"name": "BuildError", "message": "npm said no", "stderr": "E404\0", "stack": '[{"message":"x"}]'}

    answer = cli.post(f"/api/v1/deployments/{deployment_id}/fail", {"error": error})

    assert (answer.status, answer.body) == (200, {"id": deployment_id})
    shown = cli.get(f"/api/v1/deployments/{deployment_id}").body
    assert shown["status"] == "FAILED"
    assert shown["errorData"] == error | {"stderr": "E404\N{REPLACEMENT CHARACTER}"}


def test_a_failure_without_stack_is_shown_without_stack(cli: Cli) -> None:
    deployment_id = cli.deploy().body["id"]
    cli.post(f"/api/v1/deployments/{deployment_id}/fail", {"error": {"name": "BuildError", "message": "no"}})

    assert set(cli.get(f"/api/v1/deployments/{deployment_id}").body["errorData"]) == {"name", "message"}


def test_failing_an_unknown_or_ended_deployment_changes_nothing_and_is_200(cli: Cli) -> None:
    deployment_id = cli.deploy().body["id"]
    first, second = ({"error": {"name": "A", "message": text}} for text in ("first", "second"))
    cli.post(f"/api/v1/deployments/{deployment_id}/fail", first)

    assert cli.post(f"/api/v1/deployments/{deployment_id}/fail", second).status == 200
    assert cli.post("/api/v1/deployments/deployment_unknown/fail", second).status == 200
    assert Deployment.objects.get().error == {"name": "A", "message": "first"}


def test_a_3_x_cli_gets_host_and_name_apart(cli: Cli, project: Project) -> None:
    body = cli.deploy(type=None, selfHosted=True, registryHost="", namespace="").body

    assert body["registryHost"] == "localhost:5000"
    assert body["imageTag"].startswith(f"trigger/{project.ref}:")


def test_a_3_x_cli_is_asked_to_upgrade_where_that_is_wanted(cli: Cli, configure: Callable[..., Any]) -> None:
    configure(DEPRECATE_V3_CLI_DEPLOYS_ENABLED="1")

    answer = cli.deploy(type=None)

    assert answer.status == 400
    assert "upgrade" in answer.error
    assert cli.deploy().status == 200


def test_the_remote_url_is_stored_without_its_credentials(cli: Cli) -> None:
    cli.deploy(gitMeta={"remoteUrl": "https://ada:ghp_secret@github.com/acme/app.git?x=1", "provider": "github"})

    assert Deployment.objects.get().git == {"remoteUrl": "https://github.com/acme/app.git", "provider": "github"}


def test_a_repeated_request_makes_no_second_deployment(cli: Cli) -> None:
    key = {"x_trigger_request_idempotency_key": "8e5f6a0c-0000-4000-8000-000000000001"}
    body = {"contentHash": HASH, "type": "MANAGED"}

    first = cli.post("/api/v1/deployments", body, **key)
    again = cli.post("/api/v1/deployments", body, **key)

    assert again.body == first.body
    assert Deployment.objects.count() == 1


def test_an_idempotency_key_belongs_to_one_body(cli: Cli) -> None:
    key = {"x_trigger_request_idempotency_key": "one"}
    cli.post("/api/v1/deployments", {"contentHash": HASH, "type": "MANAGED"}, **key)

    answer = cli.post("/api/v1/deployments", {"contentHash": "other", "type": "MANAGED"}, **key)

    assert answer.status == 422
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("key", ["x" * 201, "tab\there"])
def test_an_idempotency_key_that_cannot_be_stored_is_refused(cli: Cli, key: str) -> None:
    body = {"contentHash": HASH, "type": "MANAGED"}

    assert cli.post("/api/v1/deployments", body, x_trigger_request_idempotency_key=key).status == 400


def test_an_external_id_in_progress_is_a_409_that_is_not_retried(cli: Cli) -> None:
    version = cli.deploy(externalId=" release-1 ").body["version"]

    answer = cli.deploy(externalId="release-1")

    assert answer.status == 409
    assert version in answer.error
    assert "--force" in answer.error
    assert answer.headers["x-should-retry"] == "false"


def test_a_forced_external_id_cancels_what_is_running(cli: Cli) -> None:
    first = cli.deploy(externalId="release-1").body

    second = cli.deploy(externalId="release-1", force=True).body

    assert second["externalId"] == "release-1"
    assert second["outcome"] == "created"
    assert second["canceledDeployments"] == [{"version": first["version"], "shortCode": first["shortCode"]}]
    shown = cli.get(f"/api/v1/deployments/{first['id']}").body
    assert shown["status"] == "CANCELED"
    assert "release-1" in shown["canceledReason"]


def test_a_repeated_force_says_again_what_it_canceled_and_cancels_nothing_more(cli: Cli) -> None:
    body = {"contentHash": HASH, "type": "MANAGED", "externalId": "release-1", "force": True}
    cli.deploy(externalId="release-2")
    older = cli.deploy(externalId="release-1").body
    cli.post("/api/v1/deployments", body)  # cancels the older one, which the next one must not claim
    first = cli.post("/api/v1/deployments", body, x_trigger_request_idempotency_key="one")

    again = cli.post("/api/v1/deployments", body, x_trigger_request_idempotency_key="one")

    assert [each["version"] for each in first.body["canceledDeployments"]] != [older["version"]]
    assert len(first.body["canceledDeployments"]) == 1
    assert again.body == first.body
    assert sorted(Deployment.objects.values_list("status", flat=True)) == [
        "BUILDING",
        "BUILDING",
        "CANCELED",
        "CANCELED",
    ]


def test_the_first_force_of_an_id_claims_nothing(cli: Cli) -> None:
    assert "canceledDeployments" not in cli.deploy(externalId="release-1", force=True).body


@pytest.mark.parametrize("fields", [{"force": True}, {"externalId": "x" * 129}])
def test_what_is_wrong_with_an_external_id_is_a_400(cli: Cli, fields: dict[str, Any]) -> None:
    assert cli.deploy(**fields).status == 400


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)
def test_an_external_id_that_is_deployed_builds_nothing(cli: Cli) -> None:
    deployment_id = cli.deploying(externalId="release-1")
    cli.finalize(deployment_id)

    body = cli.deploy(externalId="release-1").body

    assert (body["id"], body["outcome"], body["isPromoted"]) == (deployment_id, "existing", True)
    assert body["imageTag"].endswith(f"@{DIGEST}")


def test_a_deployment_can_be_canceled_once(cli: Cli) -> None:
    deployment_id = cli.deploy().body["id"]

    answer = cli.post(f"/api/v1/deployments/{deployment_id}/cancel", {"reason": "wrong branch"})

    assert (answer.status, answer.body) == (204, "")
    assert cli.get(f"/api/v1/deployments/{deployment_id}").body["canceledReason"] == "wrong branch"
    [told] = AuditEntry.objects.all()
    assert (told.action, told.object_id, told.after) == ("cancel.deployment", deployment_id, {"status": "CANCELED"})
    again = cli.post(f"/api/v1/deployments/{deployment_id}/cancel")
    assert (again.status, again.headers["x-should-retry"]) == (409, "false")
    assert cli.post("/api/v1/deployments/nothing/cancel").status == 404
    assert cli.post(f"/api/v1/deployments/{deployment_id}/cancel", {"reason": "x" * 201}).status == 422


def test_credentials_of_another_registry_are_the_configured_ones(cli: Cli, configure: Callable[..., Any]) -> None:
    configure(DEPLOY_REGISTRY_USERNAME="ci", DEPLOY_REGISTRY_PASSWORD="hunter2")
    deployment = cli.deploy().body

    answer = cli.post(f"/api/v1/deployments/{deployment['id']}/generate-registry-credentials", {})

    assert answer.status == 200
    assert set(answer.body) == {"username", "password", "expiresAt", "repositoryUri"}
    assert (answer.body["username"], answer.body["password"]) == ("ci", "hunter2")
    assert answer.body["repositoryUri"] == deployment["imageTag"].rpartition(":")[0]
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_reason_for_no_credentials_is_answered_and_stored(cli: Cli) -> None:
    deployment_id = cli.deploy().body["id"]

    answer = cli.post(f"/api/v1/deployments/{deployment_id}/generate-registry-credentials", {})

    assert answer.status == 422
    assert answer.headers["x-should-retry"] == "false"
    assert "DEPLOY_REGISTRY_USERNAME" in answer.error
    assert Deployment.objects.get().credentials_error == answer.error


FOREIGN = [
    ("GET", "/api/v1/deployments/{id}"),
    ("POST", "/api/v1/deployments/{id}/background-workers"),
    ("POST", "/api/v1/deployments/{id}/generate-registry-credentials"),
    ("POST", "/api/v1/deployments/{id}/cancel"),
    ("POST", "/api/v2/deployments/{id}/finalize"),
    ("POST", "/api/v1/deployments/{version}/promote"),
]


@pytest.mark.parametrize(("method", "path"), FOREIGN)
def test_another_project_s_deployment_is_as_absent_as_one_that_never_was(
    cli: Cli, stranger: Cli, method: str, path: str
) -> None:
    theirs = cli.deploy().body

    foreign = stranger.send(method, path.format(**theirs), "{}", headers={})
    missing = stranger.send(method, path.format(id="deployment_x", version="20200101.1"), "{}", headers={})

    assert foreign.status == missing.status == 404
    assert foreign.error.replace(theirs["version"], "20200101.1") == missing.error
    assert Deployment.objects.get().status == "BUILDING"


def test_a_warm_deploy_takes_few_queries(cli: Cli, django_assert_max_num_queries: Any) -> None:
    cli.deploy()  # notes the use of the key, which happens at most once a minute

    captured: CaptureQueriesContext
    with django_assert_max_num_queries(7) as captured:  # one of them locks the project, against an archive
        assert cli.deploy().status == 200

    # Of these, one is ours: the key with its user, environment and project.
    assert sum("accesskey" in query["sql"] for query in captured.captured_queries) == 1


def test_who_deployed_stands_on_the_deployment(cli: Cli, user_cli: Cli, production: Environment) -> None:
    cli.deploy()
    assert cli.key.startswith(Deployment.objects.get().triggered_by.rstrip("…"))
    Deployment.objects.all().delete()
    key = user_cli.get(f"/api/v1/projects/{production.project.ref}/prod").body["apiKey"]

    Cli(cli.client, key).deploy(triggeredVia="cli:" + "x" * 100)

    assert Deployment.objects.get().triggered_by == "ada@example.com"
    assert keys.authenticate(key) is not None
