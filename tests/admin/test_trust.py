"""Trust policies in the console: made by kind, changed, switched off, deleted, each with a right of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.db.models.functions import Now
from django.test import Client

from deployments.access import keys, trust
from deployments.access.audit import Trail
from deployments.admin.ci_files import ci_file
from deployments.deploys import projects
from deployments.models import Deployment, Environment, TrustKind, TrustPolicy
from tests.support import ci_tokens

pytestmark = pytest.mark.django_db
LIST = "/admin/deployments/trustpolicy/"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "ci.md"
GITHUB = {"kind": "github", "name": "main branch", "issuer": trust.GITHUB_ISSUER, "enabled": "on", "claim_0": "1",
          "claim_1": "2", "claim_2": "refs/heads/main"}  # fmt: skip


@pytest.fixture
def production(db: None) -> Environment:
    project = projects.create_project(name="Billing")
    return Environment.objects.select_related("project").get(project=project, slug="prod")


def page_of(policy: TrustPolicy) -> str:
    return f"{LIST}{policy.pk}/change/"


@pytest.mark.costly
def test_a_policy_is_made_by_its_kind_for_an_environment(operator: Client, production: Environment) -> None:
    kinds = operator.get(f"{LIST}add/?environment={production.pk}").content.decode()
    for kind in TrustKind:
        assert f"?kind={kind}&amp;environment={production.pk}" in kinds
    form = operator.get(f"{LIST}add/?kind=github&environment={production.pk}").content.decode()
    assert f'<option value="{production.pk}" selected' in form

    made = operator.post(f"{LIST}add/", {**GITHUB, "environment": production.pk, "more": "environment = production"})

    policy = TrustPolicy.objects.get()
    assert made.headers["Location"] == page_of(policy)
    assert policy.claims == {
        "repository_id": "1", "repository_owner_id": "2", "ref": "refs/heads/main", "environment": "production",
    }  # fmt: skip
    assert policy.created_by == "operator"
    page = operator.get(page_of(policy)).content.decode()
    for words in (
        "refs/heads/main",
        trust.GITHUB_ISSUER,
        settings.CONFIGURATION.app_origin,
        "id-token: write",
        production.project.ref,
    ):
        assert words in page


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"claim_0": ""}, "must bind the claim repository_id"),
        ({"claim_0": "billing"}, "is a number"),
        ({"more": "no sign"}, "NAME = VALUE"),
        ({"more": "ref = refs/heads/x"}, "has a field of its own"),
        ({"issuer": "http://x"}, "begins with https://"),
        ({"name": ""}, "required"),
        ({"environment": "0"}, "Select a valid choice"),
        ({"branch_claim": "ref"}, "Only a policy of preview"),
    ],
)
def test_a_wrong_form_is_shown_again_with_the_reason(
    operator: Client, production: Environment, changed: dict[str, str], words: str
) -> None:
    answer = operator.post(f"{LIST}add/", {**GITHUB, "environment": production.pk, **changed})

    assert answer.status_code == 200
    assert words in answer.content.decode()
    assert not TrustPolicy.objects.exists()


@pytest.mark.costly
def test_a_policy_is_changed_switched_off_and_on_and_deleted(operator: Client, production: Environment) -> None:
    policy = ci_tokens.pasted_policy(production)
    form = operator.get(f"{LIST}{policy.pk}/edit/").content.decode()
    assert ci_tokens.REPOSITORY_ID in form

    values = {**GITHUB, "issuer": policy.issuer, "jwks": policy.jwks, "name": "renamed", "claim_2": "refs/tags/v*"}
    assert operator.post(f"{LIST}{policy.pk}/edit/", values).status_code == 302
    policy.refresh_from_db()
    assert (policy.name, policy.claims["ref"]) == ("renamed", "refs/tags/v*")
    operator.post(f"{LIST}{policy.pk}/switch/?on=0")
    assert "This policy is off" in operator.get(page_of(policy)).content.decode()
    operator.post(f"{LIST}{policy.pk}/switch/?on=1")
    policy.refresh_from_db()
    assert policy.enabled
    assert "is revoked" in operator.get(f"{LIST}{policy.pk}/delete/").content.decode()
    assert TrustPolicy.objects.exists()
    operator.post(f"{LIST}{policy.pk}/delete/")
    assert not TrustPolicy.objects.exists()


@pytest.mark.parametrize("act", ["edit/", "switch/?on=0", "delete/"])
def test_a_policy_that_another_person_deletes_at_the_same_time_is_said_to_be_gone(
    operator: Client, production: Environment, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    policy = ci_tokens.pasted_policy(production)
    locked = trust._locked

    def gone(row: TrustPolicy) -> TrustPolicy:
        TrustPolicy.objects.all().delete()
        return locked(row)

    monkeypatch.setattr(trust, "_locked", gone)

    answer = operator.post(f"{LIST}{policy.pk}/{act}", GITHUB, follow=True)

    assert "The trust policy does not exist any more." in answer.content.decode()
    assert [status for _, status in answer.redirect_chain] == [302]
    assert answer.request["PATH_INFO"] == LIST


@pytest.mark.costly
def test_each_act_needs_its_right(person: Callable[..., Client], production: Environment) -> None:
    policy = ci_tokens.pasted_policy(production)
    acts = {"add": "add_trustpolicy", f"{policy.pk}/edit": "change_trustpolicy",
    f"{policy.pk}/delete": "delete_trustpolicy",
            f"{policy.pk}/switch": "change_trustpolicy"}  # fmt: skip
    viewer = person("view_trustpolicy")
    assert viewer.get(page_of(policy)).status_code == 200
    for path in acts:
        assert viewer.post(f"{LIST}{path}/").status_code == 403
    page = viewer.get(page_of(policy)).content.decode()
    for word in (">Change<", ">Switch off<", ">Delete…<"):
        assert word not in page
    assert person("view_project").get(page_of(policy)).status_code == 403
    assert TrustPolicy.objects.get() == policy


@pytest.mark.costly
def test_only_the_right_of_its_own_shows_and_keeps_what_is_private(
    person: Callable[..., Client], production: Environment
) -> None:
    editor = person("view_trustpolicy", "change_trustpolicy", "add_trustpolicy")
    assert "jwks" not in editor.get(f"{LIST}add/?kind=kubernetes").content.decode()
    forged = {**GITHUB, "environment": production.pk, "issuer": "https://10.0.0.1", "allow_private": "on"}
    assert "an administrator can allow it" in editor.post(f"{LIST}add/", forged).content.decode()
    assert not TrustPolicy.objects.exists()
    policy = ci_tokens.pasted_policy(production)
    answer = editor.post(f"{LIST}{policy.pk}/edit/", {**GITHUB, "issuer": "https://localhost:443/other"})
    assert "Only an administrator" in answer.content.decode()
    editor.post(f"{LIST}{policy.pk}/edit/", {**GITHUB, "issuer": policy.issuer})
    policy.refresh_from_db()
    assert policy.jwks
    assert policy.claims["repository_id"] == "1"


@pytest.mark.costly
def test_the_last_refusal_is_on_the_row_until_a_token_is_accepted(operator: Client, production: Environment) -> None:
    policy = ci_tokens.pasted_policy(production)
    refused = "its claim ref is “x”"
    TrustPolicy.objects.update(last_error=refused, last_error_at=Now())
    for address in (LIST, page_of(policy)):
        assert refused in operator.get(address).content.decode()
    assert "Last token refused" in operator.get(LIST).content.decode()

    TrustPolicy.objects.update(last_used_at=Now())

    assert "Last token refused" not in operator.get(LIST).content.decode()
    assert refused in operator.get(page_of(policy)).content.decode()


@pytest.mark.costly
def test_the_page_of_a_key_says_by_which_policy_and_for_which_deployment_it_is(
    operator: Client, production: Environment
) -> None:
    policy = ci_tokens.pasted_policy(production)
    key, _ = keys.make_one_deployment_key(policy, branch="", name="main: repo:octo-org/billing")
    place = f"/admin/deployments/accesskey/{key.pk}/change/"
    assert page_of(policy) in operator.get(place).content.decode()
    deployment = Deployment.objects.create(
        project=production.project, environment=production, version_day="20261126", version_number=7, status="BUILDING",
        content_hash="1", image_ref="x", image_platform="linux/amd64",
    )  # fmt: skip

    keys.begin_deployment(key, deployment)

    for page in (place, page_of(policy)):
        assert f"/admin/deployments/deployment/{deployment.pk}/change/" in operator.get(page).content.decode()


@pytest.mark.costly
def test_the_page_of_a_project_lists_its_policies(operator: Client, production: Environment) -> None:
    project = f"/admin/deployments/project/{production.project_id}/change/"
    assert "Add a trust policy" in operator.get(project).content.decode()
    policy = ci_tokens.pasted_policy(production)

    assert page_of(policy) in operator.get(project).content.decode()
    projects.archive(project=production.project, trail=Trail.of_command("test"))
    assert "Add a trust policy" not in operator.get(project).content.decode()
    assert "The project is archived" in operator.get(page_of(policy)).content.decode()


def test_only_administrators_have_the_rights_by_default(db: None) -> None:
    holders: dict[str, Any] = {
        codename: set(Permission.objects.get(codename=codename).group_set.values_list("name", flat=True))
        for codename in ("add_trustpolicy", "change_trustpolicy", "delete_trustpolicy", "trust_private_issuer")
    }
    assert all(found == {"admin"} for found in holders.values()), holders
    assert not User.objects.exists()


@pytest.mark.parametrize("kind", TrustKind.values)
def test_the_documents_show_the_file_that_the_page_shows(kind: str) -> None:
    server = "https://deploy.example.com"

    made = ci_file(kind, server=server, api=server, ref="proj_abcdefghijklmnopqrst", environment="prod")

    assert made in DOCS.read_text()


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("node")), reason="the file needs curl and node")
def test_the_file_reads_the_answer_of_its_last_attempt() -> None:
    answers = [(503, '{"error": "Too many requests wait.}{"}'), (200, '{"key": "tr_prod_x", "environment": "prod"}')]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, text = answers.pop(0)
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        origin = f"http://127.0.0.1:{server.server_port}"
        file = ci_file("other", server=origin, api=origin, ref="proj_abcdefghijklmnopqrst", environment="prod")
        shell = ["sh", "-ec", file.partition("npx ")[0] + 'printf %s "$TRIGGER_ACCESS_TOKEN"']
        done = subprocess.run(shell, env={"PATH": os.environ["PATH"], "token": "x"}, capture_output=True, timeout=60)
        server.shutdown()

    assert (done.stdout, done.returncode) == (b"tr_prod_x", 0), done.stderr
