"""Pages that are not the API: health, the addresses that the CLI prints, errors, and the API's own documentation."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.db import DatabaseError
from django.test import Client

from deployments import views
from deployments.api import api
from deployments.models import Deployment, Environment

pytestmark = pytest.mark.django_db


@pytest.fixture
def signed_in(client: Client, operator: User) -> Client:
    client.force_login(operator)
    return client


@pytest.fixture
def deployment(production: Environment) -> Deployment:
    return Deployment.objects.create(
        project=production.project, environment=production, version_day="20260801", version_number=1, status="BUILDING"
    )


# ---- Health


def test_the_process_is_healthy_without_a_database_and_under_any_host(
    client: Client, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0):
        response = client.get("/healthz", headers={"Host": "10.0.0.7:8000"})

    assert (response.status_code, response.json()) == (200, {"ok": True})


def test_the_process_is_ready_when_the_database_has_its_tables(client: Client) -> None:
    for _ in range(2):  # the second time it is known that nothing is missing
        response = client.get("/readyz", headers={"Host": "10.0.0.7"})
        assert (response.status_code, response.json()) == (200, {"ready": True})


def test_it_is_not_ready_with_missing_migrations(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_migrated", False)
    monkeypatch.setattr("deployments.views.MigrationExecutor.migration_plan", lambda *_: ["one"])

    response = client.get("/readyz")

    assert (response.status_code, response.json()["ready"]) == (503, False)


def test_it_is_not_ready_without_a_database_and_tells_no_details(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> None:
        raise DatabaseError("password=hunter2")

    monkeypatch.setattr(views, "_migrated", False)
    monkeypatch.setattr("deployments.views.MigrationExecutor", down)
    monkeypatch.setattr("django.db.connection.close", lambda: None)

    response = client.get("/readyz")

    assert response.status_code == 503
    assert "hunter2" not in response.content.decode()


# ---- The addresses that the CLI prints


def test_the_link_of_a_deploy_leads_to_its_page(signed_in: Client, deployment: Deployment) -> None:
    response = signed_in.get(f"/projects/v3/{deployment.project.ref}/deployments/{deployment.short_code}")

    assert response.status_code == 302
    assert response["Location"] == f"/admin/deployments/deployment/{deployment.id}/change/"


@pytest.mark.parametrize("name", ["prod", "production"])
def test_the_link_to_test_leads_to_the_environment_s_deployments(
    signed_in: Client, production: Environment, name: str
) -> None:
    response = signed_in.get(f"/projects/v3/{production.project.ref}/test?environment={name}")

    assert response["Location"] == (
        "/admin/deployments/deployment/"
        f"?project__id__exact={production.project_id}&environment__id__exact={production.pk}"
    )
    assert signed_in.get(response["Location"]).status_code == 200


def test_other_links_lead_somewhere(signed_in: Client, production: Environment) -> None:
    project = production.project
    assert signed_in.get("/")["Location"] == "/admin/"
    assert signed_in.get("/account/tokens")["Location"] == "/admin/deployments/accesskey/"
    page = signed_in.get(f"/projects/v3/{project.ref}")["Location"]
    assert page == f"/admin/deployments/project/{project.pk}/change/"
    for unknown in ("/projects/v3/proj_no", "/projects/v3/proj_no/test", f"/projects/v3/{project.ref}/deployments/x"):
        assert signed_in.get(unknown).status_code == 404


def test_who_is_not_signed_in_learns_nothing(client: Client, deployment: Deployment) -> None:
    ref = deployment.project.ref
    for path in (
        f"/projects/v3/{ref}",
        "/projects/v3/proj_no",
        f"/projects/v3/{ref}/deployments/{deployment.short_code}",
        f"/projects/v3/{ref}/deployments/nothing0",
        f"/projects/v3/{ref}/test",
        "/account/tokens",
    ):
        assert client.get(path)["Location"] == f"/admin/login/?next={path}"


# ---- Errors


def test_a_page_that_is_not_there_has_a_request_id_and_needs_no_database(
    client: Client, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0):
        response = client.get("/nowhere")

    assert response.status_code == 404
    assert response["Content-Type"].startswith("text/html")
    assert response["X-Request-ID"] in response.content.decode()


def test_an_error_page_has_a_request_id_and_no_traceback(
    client: Client, monkeypatch: pytest.MonkeyPatch, signed_in: Client
) -> None:
    def broken(ref: str) -> None:
        raise KeyError("internal-name")

    monkeypatch.setattr(views, "_project", broken)
    signed_in.raise_request_exception = False

    response = signed_in.get("/projects/v3/proj_x")

    assert response.status_code == 500
    assert response["X-Request-ID"] in response.content.decode()
    assert "internal-name" not in response.content.decode()


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_error_pages_have_no_script_and_nothing_from_elsewhere(rf: Any, status: int) -> None:
    page = views._page(rf.get("/"), status).content.decode()

    assert "<h1>" in page
    assert "<script" not in page
    assert "http" not in page


# ---- The API's own documentation


def test_the_docs_page_uses_only_files_of_ours_and_no_inline_script(client: Client) -> None:
    page = client.get("/api/docs").content.decode()

    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert all(source.startswith(("/static/", "/api/")) for source in sources)
    assert not re.search(r"<script[^>]*>[^<]", page)
    for source in sources:
        if source.startswith("/static/"):
            assert finders.find(source.removeprefix("/static/"))


@pytest.fixture
def schema(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(client.get("/api/openapi.json").content)
    return found


#: What is asked before there is a key.
PUBLIC = {"/api/v1/remote-build-provider-status", "/api/v1/authorization-code", "/api/v1/token", "/api/v1/auth/oidc"}


def test_every_route_is_documented(schema: dict[str, Any]) -> None:
    operations = [
        (path, method, operation) for path, item in schema["paths"].items() for method, operation in item.items()
    ]
    assert len(operations) > 25
    for path, method, operation in operations:
        where = f"{method} {path}"
        assert operation["summary"], where
        assert set(operation["responses"]) & {"200", "201", "204"}, where
        errors = {status: answer for status, answer in operation["responses"].items() if status >= "4"}
        shapes = {answer["content"]["application/json"]["schema"]["$ref"] for answer in errors.values()}
        assert {shape.rpartition("/")[2] for shape in shapes} <= {"Error", "VariablesError"}, where
        assert {"400", "413", "429", "500", "503"} <= set(errors), where
        public = path in PUBLIC
        assert public or "401" in errors, where
        assert public or operation["security"], where


def test_no_route_has_a_class_for_an_error_because_hundreds_take_a_fifth_of_a_second_of_each_start() -> None:
    """Each status of each route would be a class. The description adds their body."""
    operations = [
        operation
        for _, router in api._routers
        for view in router.path_operations.values()
        for operation in view.operations
    ]

    assert len(operations) > 25
    made = {status for each in operations for status, model in each.response_models.items() if model}
    assert made <= {200, 201}


def test_the_description_is_made_once_because_anybody_may_ask_for_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = client.get("/api/openapi.json").content

    def again(**_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("ninja.main.get_schema", again)

    assert client.get("/api/openapi.json").content == first


def test_keys_are_documented_as_bearer_tokens(schema: dict[str, Any]) -> None:
    schemes = schema["components"]["securitySchemes"]

    assert set(schemes) == {"AnyKey", "UserToken", "EnvironmentKey", "ManagementToken"}
    assert {(scheme["type"], scheme["scheme"]) for scheme in schemes.values()} == {("http", "bearer")}


def test_the_indexer_s_report_is_documented_though_the_route_reads_it_itself(schema: dict[str, Any]) -> None:
    operation = schema["paths"]["/api/v1/deployments/{deployment_id}/background-workers"]["post"]

    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    body = schema["components"]["schemas"][reference.rpartition("/")[2]]
    assert "metadata" in body["required"]
