"""The management API: the console's use cases and rights for a management token, and requests that can be repeated."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.utils import timezone

from deployments.access import keys
from deployments.access.audit import Trail
from deployments.access.groups import ADMIN, VIEWER
from deployments.api import branches
from deployments.deploys import projects
from deployments.models import AccessKey, AuditEntry, Environment, Project, TrustPolicy
from tests.support.ci_tokens import GITHUB, github, pasted_policy, signed, silent_issuer
from tests.support.cli import Answer, Cli

pytestmark = pytest.mark.django_db

PROJECTS = "/api/v1/manage/projects"
POLICY: dict[str, Any] = {"environment": "prod", "name": "releases", "kind": "github", "claims": GITHUB}


@dataclass(frozen=True, slots=True)
class Manager:
    """Sends requests to the management API with one token."""

    cli: Cli

    def __call__(self, method: str, path: str = "", body: object = None) -> Answer:
        text = None if body is None else json.dumps(body)
        return self.cli.send(method, f"{PROJECTS}{path}", text, headers={})


@pytest.fixture
def manager(client: Client, operator: User) -> Manager:
    return Manager(Cli(client, keys.make_user_token(operator, "terraform", for_management=True)[1]))


def person(*rights: str, groups: tuple[str, ...] = ()) -> User:
    made = User.objects.create(username=f"robot-{User.objects.count()}", is_staff=True)
    made.user_permissions.set(Permission.objects.filter(content_type__app_label="deployments", codename__in=rights))
    made.groups.set(Group.objects.filter(name__in=groups))
    return made


def managed_by(client: Client, user: User) -> Manager:
    return Manager(Cli(client, keys.make_user_token(user, for_management=True)[1]))


# ------------------------------------------------------------------------------------------------------------ projects


def test_a_project_is_made_once_and_the_same_request_again_is_answered_with_it(manager: Manager) -> None:
    wanted = {"name": "Billing", "ref": "proj_billing"}

    made, again = manager("POST", "", wanted), manager("POST", "", wanted)

    assert (made.status, again.status) == (201, 200)
    assert again.body == made.body == {
        "id": "proj_billing", "ref": "proj_billing", "name": "Billing", "archived": False,
        "createdAt": made.body["createdAt"],
    }  # fmt: skip
    assert set(Environment.objects.values_list("slug", flat=True)) == {"prod", "staging", "preview"}
    assert [entry.action for entry in AuditEntry.objects.all()] == ["add.project"]


def test_without_a_ref_the_name_decides_and_a_ref_is_made(manager: Manager) -> None:
    made = manager("POST", "", {"name": " Billing "})

    assert re.fullmatch(r"proj_[a-z]{20}", made.body["ref"])
    assert manager("POST", "", {"name": "Billing"}).body == made.body


@pytest.mark.parametrize("name", ["Billing\nBcc: all", "Billing\u202eexe", "Bil\u200bling", "\x07"])
def test_a_name_is_one_line_of_visible_characters(manager: Manager, project: Project, name: str) -> None:
    assert manager("POST", "", {"name": name}).status == 422
    assert manager("PUT", f"/{project.ref}", {"name": name}).status == 422
    assert manager("POST", f"/{project.ref}/keys", {"name": name, "environment": "prod"}).status == 422


def test_a_project_that_exists_with_other_values_is_a_409_and_stays(manager: Manager, project: Project) -> None:
    other = manager("POST", "", {"name": "Shop", "ref": project.ref})
    assert (other.status, other.body["code"]) == (409, "exists_with_others")
    assert "name" in other.error

    Project.objects.create(name="Billing")
    twice = manager("POST", "", {"name": "Billing"})
    assert (twice.status, twice.body["code"]) == (409, "project_name_not_unique")

    manager("PUT", f"/{project.ref}", {"archived": True})
    archived = manager("POST", "", {"name": "Billing", "ref": project.ref})
    assert (archived.status, archived.body["code"]) == (409, "exists_archived")
    moved = manager("PUT", f"/{project.ref}", {"ref": "proj_other"})
    assert (moved.status, moved.body["code"]) == (409, "exists_with_others")
    assert manager("POST", "", {"name": "x", "ref": "Billing"}).status == 422


def test_a_put_makes_renames_archives_and_restores_and_says_nothing_twice(manager: Manager) -> None:
    def put(**values: object) -> tuple[int, str, bool]:
        answer = manager("PUT", "/proj_billing", values)
        return answer.status, answer.body["name"], answer.body["archived"]

    assert manager("PUT", "/proj_billing", {}).status == 404
    assert manager("PUT", "/Billing", {"name": "Billing"}).status == 400
    assert put(name="Billing") == (201, "Billing", False)
    assert put(name="Shop", ref="proj_billing") == (200, "Shop", False)
    assert put(archived=True) == put(archived=True) == (200, "Shop", True)
    assert put(name="Shop", archived=False) == put(name="Shop", archived=False) == (200, "Shop", False)

    said = list(AuditEntry.objects.order_by("pk").values_list("action", flat=True))
    assert said == ["add.project", "change.project", "archive.project", "restore.project"]


def test_a_put_that_is_refused_has_made_nothing(client: Client) -> None:
    makes = managed_by(client, person("view_project", "add_project"))

    refused = makes("PUT", "/proj_billing", {"name": "Billing", "archived": True})

    assert (refused.status, refused.body["code"]) == (403, "right_missing")
    assert not Project.objects.exists()
    assert makes("PUT", "/proj_billing", {"name": "Billing", "archived": False}).status == 201


def test_a_put_sets_what_it_names_in_a_project_that_another_request_makes_meanwhile(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure = projects.ensure

    def meanwhile(**values: Any) -> tuple[Project, bool]:
        made = projects.create_project(name="Other", ref="proj_billing")
        projects.archive(project=made, trail=Trail.of_command("test"))
        return ensure(**values)

    monkeypatch.setattr(projects, "ensure", meanwhile)

    answer = manager("PUT", "/proj_billing", {"name": "Billing", "archived": False})

    assert (answer.status, answer.body["name"], answer.body["archived"]) == (200, "Billing", False)


def test_a_project_is_deleted_only_if_it_is_archived_and_by_its_name(manager: Manager, project: Project) -> None:
    path = f"/{project.ref}?name="
    assert manager("DELETE", f"{path}Billing").body["code"] == "project_not_archived"
    manager("PUT", f"/{project.ref}", {"archived": True})
    assert manager("DELETE", f"/{project.ref}").status == 422
    wrong = manager("DELETE", f"{path}Shop")
    assert (wrong.status, wrong.body["code"]) == (409, "project_name_differs")

    assert manager("DELETE", f"{path}Billing").status == 204
    assert manager("DELETE", f"{path}Billing").status == 404
    assert manager("GET", f"/{project.ref}").status == 404


def _all(manager: Manager, path: str, size: int = 2) -> list[dict[str, Any]]:
    """Every row of a list, page by page."""
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        answer = manager("GET", f"{path}?page[size]={size}{after}")
        assert answer.status == 200, answer.body
        assert len(answer.body["data"]) <= size
        found += answer.body["data"]
        if "next" not in answer.body["pagination"]:
            return found
        after = f"&page[after]={answer.body['pagination']['next']}"


@pytest.mark.costly
def test_lists_are_paged_by_what_stays(manager: Manager, project: Project, production: Environment) -> None:
    refs = sorted([project.ref, *(f"proj_{letter * 3}" for letter in "abcd")])
    for ref in refs:
        manager("PUT", f"/{ref}", {"name": ref if ref != project.ref else "Billing"})
    manager("PUT", "/proj_aaa", {"archived": True})
    for branch in ("a", "b"):
        manager("POST", f"/{project.ref}/environments", {"branch": branch})
    for name in ("one", "two", "three"):
        keys.make_environment_key(production, name)
        manager("POST", f"/{project.ref}/trust-policies", POLICY | {"name": name})
    keys.make_deploy_key(production)

    assert [row["ref"] for row in _all(manager, "")] == refs
    assert [row["ref"] for row in manager("GET", "?archived=true").body["data"]] == ["proj_aaa"]
    assert [row["ref"] for row in manager("GET", "?name=Billing").body["data"]] == [project.ref]
    environments = _all(manager, f"/{project.ref}/environments")
    assert [each.get("branch") for each in environments] == [None, None, None, "a", "b"]
    assert {each["id"] for each in environments[:3]} == {"prod", "staging", "preview"}
    assert [each["name"] for each in _all(manager, f"/{project.ref}/keys")] == ["one", "two", "three"]
    assert [each["name"] for each in _all(manager, f"/{project.ref}/trust-policies")] == ["one", "two", "three"]
    [found] = manager("GET", f"/{project.ref}/keys?name=two&environment=prod").body["data"]
    assert found["name"] == "two"
    assert manager("GET", f"/{project.ref}/keys?environment=staging").body == {"data": [], "pagination": {}}


# -------------------------------------------------------------------------------------------------------- environments


def test_a_preview_branch_is_made_archived_and_restored_and_a_root_environment_stays(
    manager: Manager, project: Project
) -> None:
    path = f"/{project.ref}/environments"
    made = manager("POST", path, {"branch": "feat/x"})
    assert (made.status, manager("POST", path, {"branch": "refs/heads/feat/x"}).status) == (201, 200)
    branch = f"{path}/{made.body['id']}"

    assert manager("DELETE", branch).status == manager("DELETE", branch).status == 204
    assert manager("GET", branch).body["archived"] is True
    assert manager("PUT", branch, {"archived": False}).body == made.body
    assert manager("PUT", branch, {"archived": True}).body["archived"] is True
    assert manager("POST", path, {"branch": "feat/x"}).status == 201  # restored

    root = manager("DELETE", f"{path}/prod")
    assert (root.status, root.body["code"]) == (409, "root_environment")
    assert manager("PUT", f"{path}/prod", {"archived": False}).body["id"] == "prod"
    assert manager("GET", f"{path}/production").body["id"] == "prod"
    assert manager("GET", f"{path}/dev").status == 404
    assert manager("POST", path, {"branch": "a..b"}).status == 400


# ---------------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(("method", "body", "status"), [("DELETE", None, 204), ("PUT", {"archived": True}, 200)])
def test_a_branch_that_another_request_archives_meanwhile_is_archived(
    manager: Manager, project: Project, monkeypatch: pytest.MonkeyPatch, method: str, body: object, status: int
) -> None:
    branch = manager("POST", f"/{project.ref}/environments", {"branch": "x"}).body["id"]
    archive = branches.archive

    def twice(*args: Any) -> Environment:
        archive(*args)
        return archive(*args)

    monkeypatch.setattr(branches, "archive", twice)

    assert manager(method, f"/{project.ref}/environments/{branch}", body).status == status
    assert Environment.objects.get(pk=branch).archived_at is not None
    assert AuditEntry.objects.filter(action="archive.environment", outcome="done").count() == 1


def test_the_text_of_a_key_is_in_the_answer_that_made_it_and_in_no_other(manager: Manager, project: Project) -> None:
    path, wanted = f"/{project.ref}/keys", {"environment": "production", "name": "ci", "scopes": ["deploy", "read"]}

    made, again = manager("POST", path, wanted), manager("POST", path, wanted)

    text = made.body.pop("key")
    found = keys.authenticate(text)
    assert found is not None
    assert (made.status, again.status) == (201, 200)
    assert made.headers["Cache-Control"] == "no-store"
    assert again.body == made.body
    assert (found.name, found.scopes, str(found.environment)) == ("ci", ["deploy", "read"], "prod")
    assert made.body["prefix"] == found.prefix
    assert text not in json.dumps([again.body, manager("GET", path).body, manager("GET", f"{path}/{found.pk}").body])
    entry = AuditEntry.objects.get(action="make.key")
    assert text not in json.dumps(entry.after)
    assert entry.actor.endswith("… (ada@example.com)")
    assert entry.actor_kind == "key"


def test_a_key_with_other_scopes_or_another_end_is_a_409(manager: Manager, project: Project) -> None:
    path, wanted = f"/{project.ref}/keys", {"environment": "prod", "name": "ci"}
    manager("POST", path, wanted)

    for other in ({"scopes": ["read"]}, {"expiresAt": (timezone.now() + timedelta(days=1)).isoformat()}):
        answer = manager("POST", path, wanted | other)
        assert (answer.status, answer.body["code"]) == (409, "exists_with_others")
        assert next(iter(other)) in answer.error
    assert AccessKey.objects.filter(name="ci").count() == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": ["admin"]},
        {"scopes": ["push"]},
        {"expiresAt": "2020-01-01T00:00:00Z"},
        {"expiresAt": "9999-12-31T00:00:00Z"},
        {"expiresAt": "2030-01-01T00:00:00"},
        {"environment": "dev"},
        {"name": ""},
    ],
)
def test_a_key_that_cannot_be_is_refused(manager: Manager, project: Project, wrong: dict[str, object]) -> None:
    answer = manager("POST", f"/{project.ref}/keys", {"environment": "prod", "name": "ci"} | wrong)

    assert answer.status in (400, 404, 422), answer.body
    assert not AccessKey.objects.filter(kind="environment").exists()


@pytest.mark.costly
def test_a_key_is_rotated_and_revoked(manager: Manager, project: Project) -> None:
    path = f"/{project.ref}/keys"
    first = manager("POST", path, {"environment": "prod", "name": "ci"}).body

    second = manager("POST", f"{path}/{first['id']}/rotate", {"graceHours": 1})
    assert second.status == 201
    assert keys.authenticate(first["key"]) is not None
    assert keys.authenticate(second.body["key"]) is not None
    again = manager("POST", f"{path}/{first['id']}/rotate", {})
    assert (again.status, again.body["code"]) == (409, "key_not_rotatable")
    assert manager("POST", path, {"environment": "prod", "name": "ci"}).body["id"] == second.body["id"]

    revoked = f"{path}/{second.body['id']}"
    assert manager("DELETE", revoked).status == manager("DELETE", revoked).status == 204
    assert keys.authenticate(second.body["key"]) is None
    assert manager("GET", revoked).status == 404
    third = manager("POST", path, {"environment": "prod", "name": "ci"})
    assert (third.status, third.body["id"]) == (201, str(AccessKey.objects.latest("pk").pk))
    said = list(AuditEntry.objects.filter(outcome="done").order_by("pk").values_list("action", flat=True))
    assert said == ["make.key", "rotate.key", "revoke.key", "make.key"]


@pytest.mark.costly
def test_only_environment_keys_of_the_named_project_are_found(
    manager: Manager, project: Project, production: Environment, operator: User
) -> None:
    other = manager("POST", "", {"name": "Other"}).body["ref"]
    ours, _ = keys.make_environment_key(production, "ci")
    deploy, _ = keys.make_deploy_key(production)
    token, _ = keys.make_user_token(operator)

    for ref, key in ((other, ours), (project.ref, deploy), (project.ref, token)):
        path = f"/{ref}/keys/{key.pk}"
        answers = [manager("GET", path), manager("DELETE", path), manager("POST", f"{path}/rotate", {})]
        assert [answer.status for answer in answers] == [404, 404, 404]
    assert {key.pk for key in AccessKey.objects.filter(keys.live())} >= {ours.pk, deploy.pk, token.pk}


def test_an_archived_project_gets_no_keys_and_no_branches(manager: Manager, project: Project) -> None:
    manager("PUT", f"/{project.ref}", {"archived": True})

    for path, body in (("keys", {"environment": "prod", "name": "ci"}), ("environments", {"branch": "x"})):
        answer = manager("POST", f"/{project.ref}/{path}", body)
        assert (answer.status, answer.body["code"]) == (403, "project_archived")


# ------------------------------------------------------------------------------------------------------ trust policies


@pytest.mark.costly
def test_a_trust_policy_is_made_once_changed_and_deleted(manager: Manager, project: Project) -> None:
    path = f"/{project.ref}/trust-policies"

    made, again = manager("POST", path, POLICY), manager("POST", path, POLICY)

    assert (made.status, again.status) == (201, 200)
    assert again.body == made.body
    assert made.body | POLICY == made.body
    assert made.body["issuer"] == "https://token.actions.githubusercontent.com"
    assert TrustPolicy.objects.get().created_by.endswith("… (ada@example.com)")
    one = f"{path}/{made.body['id']}"
    assert manager("GET", one).body == made.body
    other = manager("POST", path, POLICY | {"claims": GITHUB | {"ref": "refs/heads/next"}})
    assert (other.status, other.body["code"]) == (409, "exists_with_others")
    assert "claims" in other.error

    assert manager("PUT", one, POLICY).body == made.body
    assert manager("PUT", one, {"enabled": False}).body == made.body | {"enabled": False}
    moved = manager("PUT", one, {"environment": "staging", "kind": "gitlab"})
    assert (moved.status, moved.body["code"]) == (409, "exists_with_others")
    assert manager("DELETE", one).status == 204
    assert manager("DELETE", one).status == manager("GET", one).status == 404
    said = list(AuditEntry.objects.filter(outcome="done").order_by("pk").values_list("action", flat=True))
    assert said == ["add.trust_policy", "change.trust_policy", "delete.trust_policy"]


def test_a_token_of_a_ci_is_exchanged_by_a_policy_of_the_management_api(
    client: Client, manager: Manager, project: Project
) -> None:
    issuer = silent_issuer()
    values = {"issuer": issuer.issuer, "jwks": json.dumps({"keys": [issuer.key.as_dict(private=False)]})}
    assert manager("POST", f"/{project.ref}/trust-policies", POLICY | values).status == 201

    answer = Cli(client, "").post("/api/v1/auth/oidc", {"token": signed(issuer, github(issuer))})

    assert answer.status == 200, answer.body


@pytest.mark.parametrize(
    ("wrong", "status", "code"),
    [
        ({"claims": {"ref": "refs/heads/main"}}, 422, "trust_policy_refused"),
        ({"kind": "mars"}, 422, None),
        ({"environment": "dev"}, 404, None),
        ({"name": " "}, 422, None),
        ({"claims": {"repository_id": 1}}, 422, None),
    ],
)
def test_a_trust_policy_that_cannot_be_is_refused(
    manager: Manager, project: Project, wrong: dict[str, Any], status: int, code: str | None
) -> None:
    answer = manager("POST", f"/{project.ref}/trust-policies", POLICY | wrong)

    assert (answer.status, answer.body.get("code")) == (status, code)
    assert not TrustPolicy.objects.exists()


def test_a_private_issuer_needs_one_more_right(client: Client, production: Environment) -> None:
    path = f"/{production.project.ref}/trust-policies"
    rights = ("view_project", "add_trustpolicy", "change_trustpolicy")
    private = POLICY | {"issuer": "https://10.0.0.1", "allowPrivate": True}
    without, within = (managed_by(client, person(*rights, *more)) for more in ((), ("trust_private_issuer",)))

    refused = without("POST", path, private)
    assert (refused.status, refused.body["code"]) == (403, "trust_needs_administrator")
    made = within("POST", path, private)
    assert made.status == 201
    changed = without("PUT", f"{path}/{made.body['id']}", {"issuer": "https://10.0.0.2"})
    assert (changed.status, changed.body["code"]) == (403, "trust_needs_administrator")


def test_a_trust_policy_of_another_project_is_not_found(manager: Manager, production: Environment) -> None:
    other = manager("POST", "", {"name": "Other"}).body["ref"]
    policy = pasted_policy(production)

    for method, body in (("GET", None), ("PUT", {"enabled": False}), ("DELETE", None)):
        assert manager(method, f"/{other}/trust-policies/{policy.pk}", body).status == 404
    policy.refresh_from_db()
    assert policy.enabled
    [listed] = manager("GET", f"/{production.project.ref}/trust-policies?environment=prod").body["data"]
    assert (listed["name"], listed.get("jwks")) == (policy.name, None)
    assert manager("GET", f"/{other}/trust-policies").body["data"] == []


# --------------------------------------------------------------------------------------------------------- who may ask

#: Each route, a right body, and the right that it needs.
ROUTES = [
    ("GET", "", None, "view_project"),
    ("POST", "", {"name": "New"}, "add_project"),
    ("GET", "/{ref}", None, "view_project"),
    ("PUT", "/proj_new", {"name": "New"}, "add_project"),
    ("PUT", "/{ref}", {"name": "New"}, "change_project"),
    ("PUT", "/{ref}", {"archived": True}, "archive_project"),
    ("DELETE", "/{ref}?name=Billing", None, "delete_project"),
    ("GET", "/{ref}/environments", None, "view_environment"),
    ("POST", "/{ref}/environments", {"branch": "x"}, "add_environment"),
    ("GET", "/{ref}/environments/prod", None, "view_environment"),
    ("PUT", "/{ref}/environments/prod", {"archived": False}, "change_environment"),
    ("DELETE", "/{ref}/environments/prod", None, "change_environment"),
    ("GET", "/{ref}/keys", None, "view_accesskey"),
    ("POST", "/{ref}/keys", {"environment": "prod", "name": "ci"}, "add_accesskey"),
    ("GET", "/{ref}/keys/{key}", None, "view_accesskey"),
    ("POST", "/{ref}/keys/{key}/rotate", {}, "rotate_accesskey"),
    ("DELETE", "/{ref}/keys/{key}", None, "revoke_accesskey"),
    ("GET", "/{ref}/trust-policies", None, "view_trustpolicy"),
    ("POST", "/{ref}/trust-policies", POLICY, "add_trustpolicy"),
    ("GET", "/{ref}/trust-policies/{policy}", None, "view_trustpolicy"),
    ("PUT", "/{ref}/trust-policies/{policy}", {"enabled": False}, "change_trustpolicy"),
    ("DELETE", "/{ref}/trust-policies/{policy}", None, "delete_trustpolicy"),
]


@pytest.mark.parametrize(("method", "path", "body", "right"), ROUTES)
def test_a_request_needs_the_right_that_the_console_asks_for(
    client: Client, production: Environment, method: str, path: str, body: object, right: str
) -> None:
    key, _ = keys.make_environment_key(production, "ci")
    policy = pasted_policy(production)
    named = path.format(ref=production.project.ref, key=key.pk, policy=policy.pk)
    others = {each for _, _, _, each in ROUTES} - {right}

    enough_to_ask = "view_project" if right != "view_project" else "add_accesskey"

    refused = managed_by(client, person(*others, enough_to_ask))(method, named, body)

    assert (refused.status, refused.body["code"]) == (403, "right_missing")
    assert Permission.objects.get(codename=right, content_type__app_label="deployments").name in refused.error
    allowed = managed_by(client, person(right, "view_project"))(method, named, body)
    assert allowed.status < 300 or allowed.body["code"] in ("project_not_archived", "root_environment")


def test_the_routes_above_are_all_of_them(client: Client) -> None:
    paths = client.get("/api/openapi.json").json()["paths"]
    names = {"ref": "{ref}", "environment": "prod", "key_id": "{key}", "policy_id": "{policy}"}
    found = {
        (method.upper(), path.removeprefix(PROJECTS).format(**names))
        for path, methods in paths.items()
        for method in methods
        if path.startswith("/api/v1/manage/projects")
    }

    assert found == {(method, path.partition("?")[0]) for method, path, *_ in ROUTES} - {("PUT", "/proj_new")}


@pytest.mark.costly
def test_a_key_without_the_scope_admin_manages_nothing(
    client: Client, operator: User, user_cli: Cli, cli: Cli, production: Environment
) -> None:
    deploy = Cli(client, user_cli.get(f"/api/v1/projects/{production.project.ref}/prod").body["apiKey"])

    for caller in (user_cli, cli, deploy):
        for method, path, body, _ in ROUTES:
            answer = Manager(caller)(method, path.format(ref=production.project.ref, key=1, policy=1), body)
            assert (answer.status, answer.body["code"]) == (403, "not_a_management_token")


def test_a_management_token_deploys_nothing(manager: Manager, project: Project) -> None:
    answer = manager.cli.get(f"/api/v1/projects/{project.ref}/prod")

    assert (answer.status, answer.body["code"]) == (403, "scope_missing")
    assert manager.cli.deploy().status == 403


def test_a_right_that_is_lost_counts_from_the_next_request_on(client: Client, project: Project) -> None:
    owner = person(groups=(ADMIN,))
    manager = managed_by(client, owner)
    assert manager("PUT", f"/{project.ref}", {"name": "Shop"}).status == 200

    owner.groups.set(owner.groups.model.objects.filter(name=VIEWER))
    assert manager("PUT", f"/{project.ref}", {"name": "Billing"}).body["code"] == "right_missing"
    assert manager("GET", f"/{project.ref}").body["name"] == "Shop"
    User.objects.filter(pk=owner.pk).update(is_staff=False)
    assert manager("GET", f"/{project.ref}").status == 403
    assert not keys.owner_has(AccessKey.objects.get(user=owner), "view_project")
    User.objects.filter(pk=owner.pk).update(is_staff=True, is_active=False)
    assert manager("GET", f"/{project.ref}").status == 401


def test_revoking_a_management_token_leaves_the_deploys_of_its_owner(operator: User, production: Environment) -> None:
    token, _ = keys.make_user_token(operator)
    _, deploy = keys.make_deploy_key(production, token)
    managing, text = keys.make_user_token(operator, for_management=True)

    keys.revoke(managing)

    assert keys.authenticate(text) is None
    assert keys.authenticate(deploy) is not None


@pytest.mark.costly
def test_the_console_makes_a_management_token_and_says_if_it_can_do_nothing(client: Client, operator: User) -> None:
    owner = person("view_project")
    client.force_login(operator)

    page = client.post("/admin/deployments/accesskey/add/", {"kind": "management", "user": owner.pk}).content.decode()

    found = re.search(r"REGISTRY_ADMIN_TOKEN=(tr_pat_\w+)", page)
    assert found is not None
    key = keys.authenticate(found[1])
    assert key is not None
    assert (key.user, key.scopes) == (owner, [keys.ADMIN])
    place = f"/admin/deployments/accesskey/{key.pk}/change/"
    assert "nothing now" not in client.get(place).content.decode()
    owner.user_permissions.clear()
    assert "This token can do nothing now" in client.get(place).content.decode()


def test_a_rotated_management_token_is_one_again(operator: User) -> None:
    old, _ = keys.make_user_token(operator, "terraform", for_management=True)

    new, text = keys.rotate(old)

    assert new.scopes == [keys.ADMIN]
    assert keys.authenticate(text) == new


# --------------------------------------------------------------------------------------------------------- Terraform


def _is_held(data: dict[str, object], answer: Answer) -> bool:
    """Whether the provider sees no difference, with `ignore_server_additions`."""
    return answer.status == 200 and all(answer.body.get(name) == value for name, value in data.items())


@pytest.mark.costly
def test_terraform_holds_a_project_a_branch_and_a_key_as_the_document_says(manager: Manager) -> None:
    """The requests of Mastercard/restapi 3, `internal/apiclient/object.go`: create, then read at each plan, update with
    the whole data, destroy; a 404 of a read makes the object again.
    """
    data: dict[str, object] = {"ref": "proj_billing", "name": "Billing", "archived": False}
    assert manager("PUT", "/proj_billing", data).body["ref"] == "proj_billing"
    assert _is_held(data, manager("GET", "/proj_billing"))
    data["name"] = "Shop"
    assert not _is_held(data, manager("GET", "/proj_billing"))
    assert _is_held(data, manager("PUT", "/proj_billing", data))

    branch: dict[str, object] = {"branch": "feat/invoices", "archived": False}
    place = f"/proj_billing/environments/{manager('POST', '/proj_billing/environments', branch).body['id']}"
    assert _is_held(branch, manager("GET", place))
    Environment.objects.filter(branch="feat/invoices").update(archived_at=timezone.now())
    assert not _is_held(branch, manager("GET", place))
    assert _is_held(branch, manager("PUT", place, branch))
    renamed = manager("PUT", place, {"branch": "feat/others", "archived": True})
    assert (renamed.status, renamed.body["code"]) == (409, "exists_with_others")
    assert _is_held(branch, manager("GET", place))

    policy: dict[str, object] = {**POLICY, "enabled": True}
    trusts = f"/proj_billing/trust-policies/{manager('POST', '/proj_billing/trust-policies', policy).body['id']}"
    TrustPolicy.objects.update(enabled=False)
    assert not _is_held(policy, manager("GET", trusts))
    assert _is_held(policy, manager("PUT", trusts, policy))
    assert manager("DELETE", trusts).status == 204
    assert manager("GET", trusts).status == 404
    key: dict[str, object] = {"environment": "prod", "name": "ci", "scopes": ["credentials", "deploy"]}
    made = manager("POST", "/proj_billing/keys", key)
    assert keys.authenticate(made.body["key"]) is not None
    assert _is_held(key, manager("GET", f"/proj_billing/keys/{made.body['id']}"))
    keys.revoke(AccessKey.objects.get(pk=made.body["id"]))
    assert manager("GET", f"/proj_billing/keys/{made.body['id']}").status == 404
    again = manager("POST", "/proj_billing/keys", key)
    assert again.body["id"] != made.body["id"]

    assert manager("DELETE", f"/proj_billing/keys/{again.body['id']}").status == 204
    assert manager("DELETE", place).status == 204
    assert manager("PUT", "/proj_billing", {"archived": True}).status == 200
    assert _is_held(data, manager("PUT", "/proj_billing", data))  # the next apply restores it


# --------------------------------------------------------------------------------------------------- sixteen at once


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("path", "body", "rows"),
    [
        ("", {"name": "Shop"}, lambda: Project.objects.filter(name="Shop")),
        ("", {"name": "Shop", "ref": "proj_shop"}, lambda: Project.objects.filter(ref="proj_shop")),
        ("/{ref}/environments", {"branch": "x"}, lambda: Environment.objects.filter(branch="x")),
        ("/{ref}/keys", {"environment": "prod", "name": "ci"}, lambda: AccessKey.objects.filter(name="ci")),
        ("/{ref}/trust-policies", POLICY, lambda: TrustPolicy.objects.all()),
    ],
    ids=["name", "ref", "branch", "key", "trust policy"],
)
def test_of_sixteen_requests_at_once_one_makes_it(
    live_server: Any, manager: Manager, project: Project, path: str, body: dict[str, str], rows: Callable[[], Any]
) -> None:
    address = urlsplit(live_server.url)
    headers = {"Authorization": f"Bearer {manager.cli.key}", "Content-Type": "application/json"}

    def ask(_: int) -> tuple[int, dict[str, Any]]:
        with closing(http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)) as connection:
            connection.request("POST", PROJECTS + path.format(ref=project.ref), json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))

    assert sorted(status for status, _ in answers) == [200] * 15 + [201], answers
    assert len({answer["id"] for _, answer in answers}) == 1
    assert rows().count() == 1
    assert sum("key" in answer for _, answer in answers) == (path == "/{ref}/keys")
