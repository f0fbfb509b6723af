"""The token of a CI job over HTTP: a key for one deploy from its first to its last request, and for nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client

from deployments import config
from deployments.access import keys, openid, trust
from deployments.access.audit import Trail
from deployments.api import limits
from deployments.models import AccessKey, AuditEntry, Deployment, Environment, Project, TrustPolicy
from tests.support import ci_tokens
from tests.support.certificates import certificate
from tests.support.ci_tokens import GITHUB, github, signed
from tests.support.cli import HASH, WORKER, Answer, Cli
from tests.support.openid_provider import Provider, running

pytestmark = pytest.mark.django_db
ORIGIN, API = "https://deploy.example.com", "https://api.example.com"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate(tmp_path_factory.mktemp("issuer"), "localhost")


@pytest.fixture(scope="module")
def issuer(pem: tuple[Path, Path]) -> Iterator[Provider]:
    openid._published.clear()
    with running(pem) as provider:
        yield provider


@pytest.fixture(autouse=True)
def configuration(configure: Callable[..., config.Configuration]) -> config.Configuration:
    return configure(APP_ORIGIN=ORIGIN, API_ORIGIN=API)


@pytest.fixture
def policy(issuer: Provider, production: Environment, pem: tuple[Path, Path]) -> TrustPolicy:
    return ci_tokens.policy(issuer, production, pem[0])


@pytest.fixture
def preview_policy(issuer: Provider, project: Project, pem: tuple[Path, Path]) -> TrustPolicy:
    preview = Environment.objects.select_related("project").get(project=project, slug="preview")
    claims = {name: GITHUB[name] for name in ("repository_id", "repository_owner_id")}
    return ci_tokens.policy(issuer, preview, pem[0], claims=claims)


def ask(client: Client, body: Any) -> Answer:
    return Cli(client, "").post("/api/v1/auth/oidc", body)


@pytest.fixture
def ci(client: Client, issuer: Provider, policy: TrustPolicy) -> Cli:
    """Holds a key that was exchanged for a token."""
    return Cli(client, ask(client, {"token": signed(issuer, github(issuer))}).body["key"])


# -------------------------------------------------------------------------------------------------------- the exchange


def test_the_answer_has_all_that_a_deploy_needs(client: Client, issuer: Provider, policy: TrustPolicy) -> None:
    answer = ask(client, {"token": signed(issuer, github(issuer))})

    assert answer.status == 200
    assert set(answer.body) == {"key", "expiresAt", "projectRef", "environment", "apiUrl"}
    assert answer.body["projectRef"] == policy.environment.project.ref
    assert (answer.body["environment"], answer.body["apiUrl"]) == ("prod", API)
    assert answer.headers["Cache-Control"] == "no-store"
    assert AccessKey.objects.get().digest == keys.digest(answer.body["key"])


def test_a_refusal_is_a_403_with_a_code_and_does_not_repeat_the_token(
    client: Client, issuer: Provider, policy: TrustPolicy
) -> None:
    token = signed(issuer, github(issuer, ref="refs/heads/x"))
    answer = ask(client, {"token": token})

    assert (answer.status, answer.body["code"]) == (403, "trust_claim")
    assert answer.headers["x-should-retry"] == "false"
    assert token.split(".")[1][:30] not in str(answer)
    for row in AuditEntry.objects.values():
        assert token.split(".")[1][:30] not in str(row)


@pytest.mark.costly
def test_an_issuer_that_does_not_answer_is_a_503(client: Client, issuer: Provider, policy: TrustPolicy) -> None:
    TrustPolicy.objects.update(allow_private=False)

    answer = ask(client, {"token": signed(issuer, github(issuer))})

    assert (answer.status, answer.body["code"]) == (503, "trust_issuer_unreachable")


@pytest.mark.parametrize("body", [{}, {"token": 1}, {"token": None}, {"token": ["x"]}, {"token": {}}, []])
def test_a_body_without_a_token_is_a_422(client: Client, body: Any) -> None:
    assert ask(client, body).status == 422


def test_a_body_has_at_most_64_kib(client: Client) -> None:
    assert ask(client, {"token": "x" * 65_536}).status == 413
    assert ask(client, {"token": "x" * 60_000}).status == 403


@pytest.mark.costly
def test_after_sixty_refused_tokens_an_address_has_to_wait_with_the_next_one(
    client: Client, issuer: Provider, policy: TrustPolicy
) -> None:
    wrong = signed(issuer, github(issuer, ref="refs/heads/x"))
    for _ in range(60):
        assert ask(client, {"token": wrong}).status == 403
    lines = AuditEntry.objects.count()

    answer = ask(client, {"token": wrong})

    assert (answer.status, answer.body["code"]) == (429, "too_many_requests")
    assert int(answer.headers["Retry-After"]) > 0
    assert AuditEntry.objects.count() == lines
    # Other jobs may have the same address: one that asks again and again does not stop them.
    assert ask(client, {"token": signed(issuer, github(issuer))}).status == 200
    limits.failed_exchanges.clear()
    assert ask(client, {"token": wrong}).status == 403


# ------------------------------------------------------------------------------------------------ a deploy with the key


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)  # finalize runs in a thread of its own
def test_a_github_token_deploys_from_the_first_to_the_last_request(ci: Cli, project: Project) -> None:
    ref = project.ref
    environment = ci.get(f"/api/v1/projects/{ref}/prod")
    assert environment.body["apiKey"] == ci.key
    assert ci.get(f"/api/v1/projects/{ref}/prod/deploy-settings").status == 200
    assert ci.get(f"/api/v1/projects/{ref}/envvars").status == 200
    made = ci.deploy(gitMeta={"commitSha": "5c1a7f3"})
    assert made.status == 200
    synced = {"variables": {"A": "1"}, "override": True}
    assert ci.post(f"/api/v1/projects/{ref}/envvars/prod/import", synced).status == 200
    place = f"/api/v1/deployments/{made.body['id']}"
    assert ci.post(f"{place}/generate-registry-credentials", {}).body.get("code") != "one_deployment_only"
    assert ci.get(f"/api/v1/projects/{ref}/envvars").body["variables"] == {"A": "1"}
    assert ci.post(f"{place}/background-workers", WORKER).status == 200
    assert ci.get(place).body["status"] == "DEPLOYING"
    assert ci.finalize(made.body["id"])[-1][0] == "complete"

    row = Deployment.objects.get()
    assert row.triggered_by == "main branch: repo:octo-org/billing:ref:refs/heads/main"
    assert AccessKey.objects.get().deployment == row
    assert ci.get(place).body["status"] == "DEPLOYED"
    assert ci.finalize(made.body["id"])[-1][0] == "complete"  # the answer was lost


def test_a_preview_key_deploys_its_branch_and_no_other(
    client: Client, issuer: Provider, preview_policy: TrustPolicy, project: Project
) -> None:
    answer = ask(client, {"token": signed(issuer, github(issuer, event_name="pull_request", head_ref="feature/x"))})
    assert answer.body["branch"] == "feature/x"
    ci = Cli(client, answer.body["key"])
    branches = f"/api/v1/projects/{project.ref}/branches"

    for branch in ("feature/y", "Feature/x", "feature/x/y", ""):
        refused = ci.post(branches, {"branch": branch, "env": "preview"})
        assert (refused.status, refused.body.get("code")) == (403, "one_deployment_only"), branch
    assert ci.post(branches, {"branch": "refs/heads/feature/x", "env": "preview"}).status == 200
    preview = Environment.objects.get(project=project, slug="preview", parent=None)
    Environment.objects.create(project=project, slug="preview", type="PREVIEW", parent=preview, branch="feature/y")
    assert (
        ci.post("/api/v1/deployments", {"contentHash": HASH, "type": "MANAGED"}, x_trigger_branch="feature/y").status
        == 403
    )
    made = ci.post("/api/v1/deployments", {"contentHash": HASH, "type": "MANAGED"}, x_trigger_branch="feature/x")
    assert made.status == 200
    assert Deployment.objects.get().environment.branch == "feature/x"


def refused(answer: Answer) -> str:
    assert (answer.status, answer.body.get("code")) == (403, "one_deployment_only"), answer
    return answer.error


def test_a_key_begins_one_deployment(ci: Cli) -> None:
    assert ci.deploy().status == 200

    assert "has begun a deployment before" in refused(ci.deploy())
    assert Deployment.objects.count() == 1


def test_a_repeated_request_gets_the_same_deployment_and_not_that_of_another_key(
    ci: Cli, cli: Cli, client: Client, issuer: Provider
) -> None:
    body, header = {"contentHash": HASH, "type": "MANAGED"}, {"x_trigger_request_idempotency_key": "first"}
    first = ci.post("/api/v1/deployments", body, **header)
    again = ci.post("/api/v1/deployments", body, **header)
    assert (first.status, again.status) == (200, 200)
    assert again.body["id"] == first.body["id"]
    Deployment.objects.update(status="FAILED", failed_at=Now(), deadline=None)
    assert ci.post("/api/v1/deployments", body, **header).body["id"] == first.body["id"]

    other = Cli(client, ask(client, {"token": signed(issuer, github(issuer))}).body["key"])
    assert "another key" in refused(other.post("/api/v1/deployments", body, **header))
    refused(ci.post("/api/v1/deployments", body, x_trigger_request_idempotency_key="second"))
    assert Deployment.objects.count() == 1


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)
def test_of_eight_deploys_at_once_with_one_key_one_begins(ci: Cli) -> None:
    start, statuses = threading.Barrier(8), []

    def one() -> None:
        start.wait(10)
        try:
            statuses.append(Cli(Client(), ci.key).deploy().status)
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(statuses) == [200] + [403] * 7
    assert Deployment.objects.count() == 1


def test_a_key_ends_with_its_ten_minutes_and_with_its_deployment(ci: Cli, project: Project) -> None:
    AccessKey.objects.update(expires_at=Now() - timedelta(seconds=1))
    assert ci.deploy().status == 401
    AccessKey.objects.update(expires_at=Now() + timedelta(minutes=1))
    place = f"/api/v1/deployments/{ci.deploy().body['id']}"
    variables = f"/api/v1/projects/{project.ref}/envvars"

    assert ci.post(f"{place}/fail", {"error": {"name": "BuildError", "message": "x"}}).status == 200

    assert ci.get(place).body["status"] == "FAILED"  # the CLI shows why
    assert ci.post(f"{place}/fail", {"error": {"name": "BuildError", "message": "x"}}).status == 200
    for answer in (
        ci.get(variables),
        ci.post(f"{variables}/prod/import", {"variables": {"A": "1"}}),
        ci.post(f"{place}/generate-registry-credentials", {}),
        ci.post(f"{place}/background-workers", WORKER),
        ci.get(f"/api/v1/projects/{project.ref}/prod"),
    ):
        assert "its deployment has ended" in refused(answer)
    Deployment.objects.update(failed_at=Now() - timedelta(minutes=11))
    assert "its deployment has ended" in refused(ci.get(place))


def test_a_deadline_ends_the_key_before_a_worker_has_seen_it(ci: Cli, project: Project) -> None:
    made = ci.deploy()
    Deployment.objects.update(deadline=Now() - timedelta(seconds=1))

    refused(ci.get(f"/api/v1/projects/{project.ref}/envvars"))
    refused(ci.post(f"/api/v1/deployments/{made.body['id']}/background-workers", WORKER))
    assert ci.get(f"/api/v1/deployments/{made.body['id']}").status == 200


@pytest.mark.django_db(transaction=True)  # finalize runs in a thread of its own
@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_after_its_deadline_a_key_ends_no_deployment(ci: Cli, version: str) -> None:
    made = ci.deploying()
    Deployment.objects.update(deadline=Now() - timedelta(seconds=1))

    assert "deadline has passed" in refused(ci.post(f"/api/{version}/deployments/{made}/finalize", {}))
    failed = {"error": {"name": "BuildError", "message": "x"}}
    assert "deadline has passed" in refused(ci.post(f"/api/v1/deployments/{made}/fail", failed))
    assert ci.get(f"/api/v1/deployments/{made}").body["status"] == "DEPLOYING"


@pytest.mark.costly
def test_before_its_deployment_a_key_changes_nothing(ci: Cli, cli: Cli, project: Project) -> None:
    theirs = cli.deploy().body["id"]

    for answer in (
        ci.post(f"/api/v1/projects/{project.ref}/envvars/prod/import", {"variables": {"A": "1"}}),
        ci.get(f"/api/v1/deployments/{theirs}"),
        ci.post(f"/api/v1/deployments/{theirs}/fail", {"error": {"name": "x", "message": "x"}}),
        ci.post(f"/api/v3/deployments/{theirs}/finalize", {}),
        ci.post(f"/api/v1/deployments/{theirs}/generate-registry-credentials", {}),
    ):
        assert "has not begun its deployment" in refused(answer)


@pytest.mark.costly
def test_a_key_does_nothing_that_its_deploy_does_not_need(ci: Cli, cli: Cli, stranger: Cli, project: Project) -> None:
    theirs = cli.deploying()
    own = ci.deploy().body["id"]

    for method, path in (
        ("GET", "/api/v1/deployments"),
        ("GET", "/api/v1/deployments/latest"),
        ("GET", "/api/v1/deployments/current"),
        ("POST", "/api/v1/deployments/20260101.1/promote"),
        ("POST", f"/api/v1/deployments/{own}/cancel"),
        ("POST", f"/api/v1/deployments/{theirs}/cancel"),
        ("GET", f"/api/v1/projects/{project.ref}/branches"),
        ("POST", f"/api/v1/projects/{project.ref}/branches/archive"),
        ("GET", "/api/v2/whoami"),
        ("GET", "/api/v1/projects"),
        ("GET", f"/api/v1/projects/{project.ref}"),
        ("GET", "/api/v1/projects/runtimes"),
        ("GET", "/api/v1/orgs"),
    ):
        answer = ci.send(method, path, '{"branch": "x"}' if method == "POST" else None, headers={})
        assert "no deploy needs it" in refused(answer), path
    for path in (f"/api/v1/deployments/{theirs}", f"/api/v1/deployments/{theirs}/fail",
                 f"/api/v1/deployments/{theirs}/background-workers", f"/api/v3/deployments/{theirs}/finalize",
                 f"/api/v2/deployments/{theirs}/finalize",
                 f"/api/v1/deployments/{theirs}/generate-registry-credentials"):  # fmt: skip
        method = "GET" if path.endswith(theirs) else "POST"
        assert "another deployment" in refused(ci.send(method, path, "{}", headers={})), path
    other = stranger.deploy().body["id"]
    refused(ci.get(f"/api/v1/deployments/{other}"))
    assert ci.get(f"/api/v1/projects/{project.ref}/staging").status == 400
    assert ci.post(f"/api/v1/projects/{project.ref}/envvars/staging/import", {"variables": {}}).status == 400
    assert Deployment.objects.get(pk=theirs).status == "DEPLOYING"


def test_a_key_of_a_disabled_policy_stops_at_once(ci: Cli, policy: TrustPolicy) -> None:
    made = ci.deploy()
    assert made.status == 200
    trust.change(policy=policy, enabled=False, trail=Trail.of_command("test"))

    assert ci.get(f"/api/v1/deployments/{made.body['id']}").status == 401


def test_the_version_before_refuses_such_a_key(ci: Cli) -> None:
    # Version 0.1.0 compares the scope that a route needs with the scopes of the key.
    scopes = AccessKey.objects.get().scopes
    assert scopes
    assert not set(scopes) & {"deploy", "read", "credentials"}
