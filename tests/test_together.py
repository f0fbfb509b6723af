"""A change and its line of the audit log are one transaction, in every route, button and command that changes a row.

The process dies (here: the database goes away) in the second of the two writes. Then neither is there, and asking again
does both. Which ways in there are is read from the program, so a new one is missed by the tables below.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.auth.models import Group, User
from django.contrib.auth.tokens import default_token_generator
from django.contrib.sessions.models import Session
from django.core.management import call_command, get_commands
from django.core.management.base import CommandError
from django.db import OperationalError, connection, connections
from django.db.models.functions import Now
from django.test import Client, override_settings
from django.urls import get_resolver
from django.utils.http import urlsafe_base64_encode

from deployments import clock
from deployments.access import audit, break_glass, cli_login, keys, second_factor, sessions
from deployments.access.sessions import LOG_IN_AT
from deployments.access.vault import Vault
from deployments.api import api
from deployments.config import Configuration
from deployments.deploys import environment_variables, projects, promotions
from deployments.models import (
    AccessKey,
    AuditEntry,
    BackgroundWorker,
    ConfigurationGeneration,
    Deployment,
    Environment,
    EnvironmentVariable,
    Identity,
    NotificationChannel,
    NotificationDelivery,
    PolicyVersion,
    Project,
    Promotion,
    PromotionEvent,
    Repository,
    SecondFactor,
    Sweep,
    SweepTrigger,
    TrustPolicy,
    VersionState,
)
from deployments.reconcile import adopted_statements, policy_versions, sweep_record, targets, writes_pause
from tests.support import ci_tokens
from tests.support.cli import DIGEST, HASH
from tests.support.constants import HOST, OWNER, POLICY, TRAIL
from tests.support.second_factors import code_of, with_app
from tests.support.service_statements import ADDED, bare

pytestmark = pytest.mark.django_db(transaction=True)

#: What is written beside a change, by any request: sessions, the use of a key, the queue's wake-up tasks.
ASIDE = {"auditentry", "keyclient", "session", "logentry", "ormq", "task", "success", "failure", "schedule"}
ROLES = {"viewer", "operator", "admin"}
PASSWORD = "a-long-enough-1"


@dataclass(kw_only=True)
class World:
    """One of everything that can be acted on."""

    configuration: Configuration
    project: Project
    environment: Environment
    preview: Environment
    old: Deployment
    new: Deployment
    building: Deployment
    key: AccessKey
    text: str
    user_text: str
    managing: str  # a management token
    browser: Client
    person: User
    group: Group

    def api(self, path: str, body: object = None, *, key: str = "") -> Any:
        headers = {"Authorization": f"Bearer {key or self.text}"}
        return self.browser.generic(
            "POST", f"/api/{path}", json.dumps(body or {}), content_type="application/json", headers=headers
        )

    def manage(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Authorization": f"Bearer {self.managing}"}
        text = "" if body is None else json.dumps(body)
        return self.browser.generic(
            method, f"/api/v1/manage/projects{path}", text, content_type="application/json", headers=headers
        )

    def post(self, path: str, data: dict[str, Any] | None = None) -> Any:
        return self.browser.post(f"/admin/{path}", data or {})

    def ask(self, name: str, **data: Any) -> Any:
        return self.post(f"deployments/repository/ask/?look={name}", data)

    def observe(self, name: str) -> Any:
        row = Repository.objects.get(name=f"trigger/{self.project.ref}")
        return self.post(f"deployments/repository/{row.pk}/look/{name}/")


def _branch(world: World) -> str:
    """The address of the preview branch in the management API."""
    return f"/{world.project.ref}/environments/{Environment.objects.get(branch='old').pk}"


def _statement(world: World, **data: str) -> Any:
    """Adopt the statement of a service, which `_with_statement` has put there; or end that."""
    row = Repository.objects.get(name=f"trigger/{world.project.ref}")
    [target] = targets.configured(world.configuration)
    found = [each.statement.text for each in adopted_statements.offers(row, target, [])]
    key = adopted_statements.key_of(found[0] if found else row.adopted_statements[0].statement)
    data = {"shown": adopted_statements.seen(row, key), "reason": "OPS-1", **data}
    return world.post(f"deployments/repository/{row.pk}/statement/?statement={key}", data)


def _refused_statement(world: World, **data: str) -> Any:
    """Refuse the statement of a service, which is kept; or end that."""
    row = Repository.objects.get(name=f"trigger/{world.project.ref}")
    [target] = targets.configured(world.configuration)
    key = adopted_statements.key_of(adopted_statements.live(row, target)[0].text)
    data = {"shown": adopted_statements.seen(row, key), "reason": "OPS-1", **data}
    return world.post(f"deployments/repository/{row.pk}/statement/refuse/?statement={key}", data)


def _with_kept(world: World) -> None:
    _with_statement(world, bare())


def _with_refusal(world: World) -> None:
    _with_kept(world)
    _refused_statement(world)


def _with_statement(world: World, statement: dict[str, Any] = ADDED) -> None:
    text = json.dumps({**json.loads(POLICY), "Statement": [*json.loads(POLICY)["Statement"], statement]})
    Repository.objects.filter(name=f"trigger/{world.project.ref}").update(policy_text=text)


def _with_adoption(world: World) -> None:
    _with_statement(world)
    _statement(world)


#: What is done with a version of the default policy → the action of its line, its state before, and its command.
VERSION_ACTS = {
    "start": ("start.version", VersionState.WAITING, ("start",)),
    "now": ("start.version", VersionState.WAITING, ("start", "--now")),
    "pause": ("pause.version", VersionState.BATCHES, ("pause",)),
    "resume": ("resume.version", VersionState.STOPPED, ("resume",)),
    "undo": ("rollback.version", VersionState.STOPPED, ("rollback",)),
}


def _with_versions(state: VersionState) -> None:
    """An active version, and one in this state."""
    place = {"account": OWNER, "region": "us-east-1", "namespace": "trigger", "text": policy_versions.text_row(POLICY)}
    active = PolicyVersion.objects.create(**place, number=1, state=VersionState.ACTIVE)
    PolicyVersion.objects.create(**place, number=2, state=state, follows=active)


def _ask_for_version(world: World, verb: str) -> Any:
    """By the management API, whose routes are named as the verbs of the command."""
    headers = {"Authorization": f"Bearer {world.managing}"}
    path = f"/api/v1/manage/policy-versions/{PolicyVersion.objects.get(number=2).pk}/{verb}"
    return world.browser.generic("POST", path, "{}", content_type="application/json", headers=headers)


def _act_on_version(world: World, act: str) -> Any:
    return world.post(f"deployments/policyversion/{PolicyVersion.objects.get(number=2).pk}/{act}/")


def _deployment(environment: Environment, number: int, status: str, **values: Any) -> Deployment:
    row = Deployment.objects.create(
        project_id=environment.project_id,
        environment=environment,
        version_day="20260101",
        version_number=number,
        status=status,
        content_hash=HASH,
        image_ref=f"{HOST}/trigger/x:{number}",
        image_platform="linux/amd64",
        deployed_at=Now() if status == "DEPLOYED" else None,
        **values,
    )
    if status != "BUILDING":
        BackgroundWorker.objects.create(deployment=row, content_hash=HASH)
    row.refresh_from_db()
    return row


@pytest.fixture
def world(transactional_db: None, configure: Callable[..., Configuration], settings: Any) -> Iterator[World]:
    configuration = configure(
        DEPLOY_REGISTRY_HOST=HOST,
        DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY=POLICY,
        DEPLOY_IMAGE_VERIFICATION_ENABLED="0",
        V4_DEPLOY_REGISTRY_HOST="127.0.0.1:1",  # a deploy asks nobody for a repository
        SSO_ISSUER="https://id.example.com",
        SSO_CLIENT_ID="registry-admin",
    )
    settings.MAIL_IS_CONFIGURED = False
    project = projects.create_project(name="Billing")
    environment = Environment.objects.select_related("project").get(project=project, slug="prod")
    old, new = _deployment(environment, 1, "DEPLOYED"), _deployment(environment, 2, "DEPLOYED")
    promotions.promote(
        environment=environment, version=str(new.version), by="", configuration=configuration, trail=TRAIL
    )
    building = _deployment(environment, 3, "BUILDING", external_id="pr-1")
    for name, status, origin, management in (
        (project.ref, "in_sync", "created", "full"),
        ("b", "in_sync", "adopted", "adopted"),
        ("c", "unmanaged", "", "unmanaged"),
    ):
        Repository.objects.create(
            account=OWNER, region="us-east-1", host=HOST, name=f"trigger/{name}", status=status, origin=origin,
            management=management, mode="observe" if origin == "created" else "", mode_reason="x",
            mode_until=Now() + timedelta(hours=1),
        )  # fmt: skip
    vault = Vault(settings.ENCRYPTION_KEYS)
    environment_variables.store(environment=environment, variables={"TOKEN": "1"}, vault=vault)
    EnvironmentVariable.objects.create(
        environment=environment,
        name="SEALED_BEFORE",
        value=Vault(["an older key " * 3]).encrypt("x", context=f"environment {environment.pk} variable SEALED_BEFORE"),
    )
    operator = User.objects.create_superuser("ada@example.com", "ada@example.com", PASSWORD)
    browser = Client(raise_request_exception=False)
    browser.force_login(operator)
    session = browser.session
    session[sessions.LOG_IN_AT] = time.time()
    session.save()
    key, text = keys.make_environment_key(environment)
    _, user_text = keys.make_user_token(operator)
    NotificationChannel.objects.create(name="people", kind="mail", address="mira@example.com")
    Environment.objects.create(
        project=project, type="PREVIEW", slug="preview", branch="old", parent=project.environments.get(slug="preview")
    )
    person = User.objects.create(username="mira")
    group = Group.objects.create(name="Builders")
    AuditEntry.objects.all().delete()
    yield World(
        configuration=configuration, project=project, environment=environment, old=old, new=new, building=building,
        preview=project.environments.get(slug="preview", parent=None), key=key, text=text, user_text=user_text,
        managing=keys.make_user_token(operator, for_management=True)[1],
        browser=browser, person=person, group=group,
    )  # fmt: skip
    Group.objects.exclude(name__in=ROLES).delete()  # groups outlast a test


def _log_in(world: World) -> Any:
    answer = Client(raise_request_exception=False).post(
        "/admin/login/", {"username": "ada@example.com", "password": PASSWORD}
    )
    assert answer.status_code in (302, 503)
    return answer


def _password_of(name: str) -> Client:
    """A browser in which the right password was given, and no second factor yet."""
    browser = Client(raise_request_exception=False)
    browser.post("/admin/login/", {"username": name, "password": PASSWORD})
    return browser


def _with_app(person: User) -> None:
    with_app(person, at=clock.now())


def _second_factor(world: World) -> Any:
    row = SecondFactor.objects.get(user__username="ada@example.com")
    vault = Vault(django_settings.ENCRYPTION_KEYS)
    seed = vault.decrypt(row.secret, context=second_factor.encryption_context(row))
    return _password_of("ada@example.com").post("/admin/login/second-factor/", {"code": code_of(seed, clock.now())})


def _add_app(browser: Client, path: str) -> Any:
    seed = browser.get(path).context["seed"].replace(" ", "")
    return browser.post(path, {"code": code_of(seed, clock.now())})


def _set_up(world: World) -> Any:
    with override_settings(CONFIGURATION=replace(world.configuration, second_factor_required=True)):
        return _add_app(_password_of("ada@example.com"), "/admin/login/second-factor/set-up/")


def _forgotten(world: World, path: str, **data: str) -> Any:
    with override_settings(MAIL_IS_CONFIGURED=True):
        return world.post(path, data)


def _link(world: World) -> str:
    """Opens the link of a mail. Returns the address of its form."""
    ada = User.objects.get(username="ada@example.com")
    number = urlsafe_base64_encode(str(ada.pk).encode())
    with override_settings(MAIL_IS_CONFIGURED=True):
        answer = world.browser.get(f"/admin/forgotten/{number}/{default_token_generator.make_token(ada)}/")
    return str(answer["Location"]).removeprefix("/admin/")


def _confirm_link(world: World) -> Any:
    """Presses the button of the question that comes after the provider's answer."""
    session = world.browser.session
    session["link_pending"] = {"issuer": "https://id.example.com", "subject": "1", "name": "ada"}
    session[LOG_IN_AT] = time.time()
    session.save()
    return world.post("your-log-in/link/confirm/")


def _unlink(world: World) -> Any:
    identity = Identity.objects.get(user=world.person)
    return world.post(f"auth/user/{world.person.pk}/single-sign-on/", {"unlink": str(identity.pk)})


def _follow_link(world: World) -> Any:
    token = break_glass.make(User.objects.get(username="ada@example.com"))
    return Client().post(f"/admin/break-glass/{token}/")


def _change_password(world: World) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("getpass.getpass", lambda *_: f"another-{PASSWORD}")
        _command("changepassword", "mira")


def _variable(world: World, path: str, **data: str) -> Any:
    return world.post(f"deployments/environment/{world.environment.pk}/variable/{path}", data)


def _expired_key(world: World) -> None:
    keys.make_environment_key(world.environment, "dead", expires_at=world.key.created_at)


def _delete_key(world: World) -> Any:
    return world.post(f"deployments/accesskey/{AccessKey.objects.get(name='dead').pk}/delete/", {"post": "yes"})


def _token(world: World) -> Any:
    begun = cli_login.begin()
    found = cli_login.find(handle=begun.handle)
    assert found is not None
    cli_login.approve(login=found.login, user=User.objects.get(username="ada@example.com"))
    return world.api("v1/token", {"authorizationCode": begun.code})


POLICY_FORM = {
    "kind": "github", "name": "releases", "issuer": "https://token.actions.githubusercontent.com", "claim_0": "1",
    "claim_1": "2", "claim_2": "refs/tags/v*", "enabled": "on",
}  # fmt: skip


def _with_trust_policy(world: World) -> None:
    ci_tokens.pasted_policy(world.environment)


def _policy(world: World) -> str:
    """The address of the trust policy in the management API."""
    return f"/{world.project.ref}/trust-policies/{TrustPolicy.objects.get().pk}"


def _exchange(world: World) -> Any:
    issuer = ci_tokens.silent_issuer()
    return world.api("v1/auth/oidc", {"token": ci_tokens.signed(issuer, ci_tokens.github(issuer))})


def _decide(world: World, **data: str) -> Any:
    return world.browser.post(f"/account/login/{cli_login.begin().handle}", data)


def _command(name: str, *arguments: str) -> None:
    with suppress(CommandError, SystemExit):  # that a test message was not sent is an exit status, too
        call_command(name, *arguments, stdout=io.StringIO(), stderr=io.StringIO())


CHANNEL = {"name": "ops", "kind": "mail", "address": "ops@example.com", "enabled": "on"}
MODE = {"mode": "enforce", "hours": "1", "reason": "because"}
Act = Callable[[World], Any]
#: Way in → the action that its line has, and how it is done. A way in is a route of the API, the name of an address of
#: the console (and what is pressed there), or a command.
ACTS: dict[str, tuple[str, Act]] = {
    "POST /api/v1/deployments/{version}/promote": (
        "rollback.deployment", lambda w: w.api(f"v1/deployments/{w.old.version}/promote?allowRollbacks=true")),
    "POST /api/v1/deployments/{deployment_id}/cancel": (
        "cancel.deployment", lambda w: w.api(f"v1/deployments/{w.building.id}/cancel")),
    "POST /api/v1/deployments": (
        "cancel.deployment",
        lambda w: w.api(
            "v1/deployments", {"contentHash": HASH, "type": "MANAGED", "externalId": "pr-1", "force": True})),
    "POST /api/v1/projects/{ref}/envvars/{env}/import": (
        "set.variable",
        lambda w: w.api(f"v1/projects/{w.project.ref}/envvars/prod/import", {"variables": {"NEW": "1"}})),
    "POST /api/v1/projects/{ref}/branches": (
        "add.environment",
        lambda w: w.api(f"v1/projects/{w.project.ref}/branches", {"env": "preview", "branch": "new"}, key=w.user_text)),
    "POST /api/v1/projects/{ref}/branches/archive": (
        "archive.environment",
        lambda w: w.api(f"v1/projects/{w.project.ref}/branches/archive", {"branch": "old"}, key=w.user_text)),
    "POST /api/v1/token": ("make.key", _token),
    "POST /api/v1/manage/projects": ("add.project", lambda w: w.manage("POST", "", {"name": "Second"})),
    "PUT /api/v1/manage/projects/{ref}": (
        "change.project", lambda w: w.manage("PUT", f"/{w.project.ref}", {"name": "Renamed"})),
    "PUT /api/v1/manage/projects/{ref} makes": (
        "add.project", lambda w: w.manage("PUT", "/proj_second", {"name": "Second"})),
    "PUT /api/v1/manage/projects/{ref} archives": (
        "archive.project", lambda w: w.manage("PUT", f"/{w.project.ref}", {"archived": True})),
    "PUT /api/v1/manage/projects/{ref} restores": (
        "restore.project", lambda w: w.manage("PUT", f"/{w.project.ref}", {"archived": False})),
    "DELETE /api/v1/manage/projects/{ref}": (
        "delete.project", lambda w: w.manage("DELETE", f"/{w.project.ref}?name=Billing")),
    "POST /api/v1/manage/projects/{ref}/environments": (
        "add.environment", lambda w: w.manage("POST", f"/{w.project.ref}/environments", {"branch": "new"})),
    "PUT /api/v1/manage/projects/{ref}/environments/{environment}": (
        "archive.environment", lambda w: w.manage("PUT", _branch(w), {"archived": True})),
    "DELETE /api/v1/manage/projects/{ref}/environments/{environment}": (
        "archive.environment", lambda w: w.manage("DELETE", _branch(w))),
    "POST /api/v1/manage/projects/{ref}/keys": (
        "make.key",
        lambda w: w.manage("POST", f"/{w.project.ref}/keys", {"environment": "prod", "name": "terraform"})),
    "POST /api/v1/manage/projects/{ref}/keys/{key_id}/rotate": (
        "rotate.key", lambda w: w.manage("POST", f"/{w.project.ref}/keys/{w.key.pk}/rotate", {})),
    "DELETE /api/v1/manage/projects/{ref}/keys/{key_id}": (
        "revoke.key", lambda w: w.manage("DELETE", f"/{w.project.ref}/keys/{w.key.pk}")),
    "POST /api/v1/manage/projects/{ref}/trust-policies": (
        "add.trust_policy",
        lambda w: w.manage(
            "POST", f"/{w.project.ref}/trust-policies",
            {"environment": "prod", "name": "releases", "kind": "github", "claims": ci_tokens.GITHUB})),
    "PUT /api/v1/manage/projects/{ref}/trust-policies/{policy_id}": (
        "change.trust_policy", lambda w: w.manage("PUT", _policy(w), {"enabled": False})),
    "DELETE /api/v1/manage/projects/{ref}/trust-policies/{policy_id}": (
        "delete.trust_policy", lambda w: w.manage("DELETE", _policy(w))),
    "POST /api/v1/auth/oidc": ("exchange.trust_policy", _exchange),
    "GET /api/v1/projects/{ref}/{env}": (
        "make.key",
        lambda w: w.browser.get(
            f"/api/v1/projects/{w.project.ref}/prod", headers={"Authorization": f"Bearer {w.user_text}"})),
    "login": ("log_in.user", _log_in),
    "second_factor": ("log_in.user", _second_factor),
    "second_factor_set_up": ("add.second_factor", _set_up),
    "your_log_in_add": ("add.second_factor", lambda w: _add_app(w.browser, "/admin/your-log-in/add/")),
    "your_log_in_remove": (
        "remove.second_factor", lambda w: w.post(f"your-log-in/{SecondFactor.objects.get().pk}/remove/")),
    "your_log_in_recovery_codes": ("make.recovery_codes", lambda w: w.post("your-log-in/recovery-codes/")),
    "auth_user_second_factors": (
        "remove.second_factor", lambda w: w.post(f"auth/user/{w.person.pk}/second-factors/")),
    "forgotten": ("ask.password", lambda w: _forgotten(w, "forgotten/", email="ada@example.com")),
    "forgotten_link": (
        "change.user",
        lambda w: _forgotten(
            w, _link(w), new_password1="another-" + PASSWORD, new_password2="another-" + PASSWORD)),
    "break_glass": ("log_in.user", _follow_link),
    "single_sign_on_link": ("link.identity", _confirm_link),
    "single_sign_on_links": (
        "link.identity", lambda w: w.post(f"auth/user/{w.person.pk}/single-sign-on/", {"subject": "1"})),
    "single_sign_on_links unlink": ("unlink.identity", _unlink),
    "logout": ("log_out.user", lambda w: w.post("logout/")),
    "login-approve": ("approve.login", lambda w: _decide(w, approve="1")),
    "login-approve decline": ("decline.login", lambda w: _decide(w)),
    "writes": ("pause.writes", lambda w: w.post("setup/writes/", {"reason": "a look at it"})),
    "writes resume": ("resume.writes", lambda w: w.post("setup/writes/", {"resume": "1"})),
    "setup": ("check.setup", lambda w: w.post("setup/")),
    "password_change": (
        "change.user",
        lambda w: w.post(
            "password_change/", {"old_password": PASSWORD, "new_password1": "another-" + PASSWORD,
                                 "new_password2": "another-" + PASSWORD})),
    "deployments_deployment_promote": (
        "rollback.deployment",
        lambda w: w.post(f"deployments/deployment/{w.old.pk}/promote/", {"instead_of": w.new.pk})),
    "deployments_deployment_cancel": (
        "cancel.deployment", lambda w: w.post(f"deployments/deployment/{w.building.pk}/cancel/")),
    "deployments_accesskey_add": (
        "make.key",
        lambda w: w.post("deployments/accesskey/add/", {"kind": "environment", "environment": w.environment.pk})),
    "deployments_accesskey_revoke": ("revoke.key", lambda w: w.post(f"deployments/accesskey/{w.key.pk}/revoke/")),
    "deployments_accesskey_rotate": (
        "rotate.key", lambda w: w.post(f"deployments/accesskey/{w.key.pk}/rotate/", {"hours": "0"})),
    "deployments_accesskey_delete": ("delete.key", _delete_key),
    "deployments_environment_variable": ("set.variable", lambda w: _variable(w, "", name="NEW", value="1")),
    "deployments_environment_variable_delete": ("delete.variable", lambda w: _variable(w, "delete/?name=TOKEN")),
    "deployments_repository_look reconcile": ("reconcile.repository", lambda w: w.observe("reconcile")),
    "deployments_repository_look preview": ("preview.repository", lambda w: w.observe("preview")),
    "deployments_repository_look end": ("end.repository", lambda w: w.observe("end")),
    "deployments_repository_ask": ("except.repository", lambda w: w.ask("except", **MODE)),
    "deployments_repository_ask adopt": ("adopt.repository", lambda w: w.ask("adopt")),
    "deployments_repository_ask take": ("take.repository", lambda w: w.ask("take")),
    "pulls": ("start.sweep", lambda w: w.post("pulls/")),
    "deployments_repository_statement": ("adopt_statement.repository", _statement),
    "deployments_repository_statement ends": ("release_statement.repository", lambda w: _statement(w, ends="1")),
    "deployments_repository_refuse_statement": ("refuse_statement.repository", _refused_statement),
    "deployments_repository_refuse_statement ends": (
        "allow_statement.repository", lambda w: _refused_statement(w, ends="1")),
    "deployments_sweep_start": ("start.sweep", lambda w: w.post("deployments/sweep/start/")),
    "deployments_sweep_stop": ("stop.sweep", lambda w: w.post(f"deployments/sweep/{Sweep.objects.get().pk}/stop/")),
    "deployments_project_add": ("add.project", lambda w: w.post("deployments/project/add/", {"name": "Second"})),
    "deployments_project_archive": (
        "archive.project", lambda w: w.post(f"deployments/project/{w.project.pk}/archive/")),
    "deployments_project_restore": (
        "restore.project", lambda w: w.post(f"deployments/project/{w.project.pk}/restore/")),
    "deployments_project_delete": (
        "delete.project", lambda w: w.post(f"deployments/project/{w.project.pk}/delete/", {"name": "Billing"})),
    "manage.py projects archive": (
        "archive.project", lambda w: _command("projects", "archive", w.project.ref, "--yes")),
    "manage.py projects restore": ("restore.project", lambda w: _command("projects", "restore", w.project.ref)),
    "manage.py projects delete": (
        "delete.project", lambda w: _command("projects", "delete", w.project.ref, "--name", "Billing")),
    "deployments_project_name": (
        "change.project", lambda w: w.post(f"deployments/project/{w.project.pk}/name/", {"name": "Renamed"})),
    "deployments_trustpolicy_add": (
        "add.trust_policy",
        lambda w: w.post("deployments/trustpolicy/add/", {**POLICY_FORM, "environment": w.environment.pk})),
    "deployments_trustpolicy_edit": (
        "change.trust_policy",
        lambda w: w.post(f"deployments/trustpolicy/{TrustPolicy.objects.get().pk}/edit/", POLICY_FORM)),
    "deployments_trustpolicy_switch": (
        "change.trust_policy",
        lambda w: w.post(f"deployments/trustpolicy/{TrustPolicy.objects.get().pk}/switch/?on=0")),
    "deployments_trustpolicy_delete": (
        "delete.trust_policy",
        lambda w: w.post(f"deployments/trustpolicy/{TrustPolicy.objects.get().pk}/delete/")),
    "deployments_notificationchannel_add": (
        "add.channel", lambda w: w.post("deployments/notificationchannel/add/", CHANNEL)),
    "deployments_notificationchannel_edit": (
        "change.channel",
        lambda w: w.post(
            f"deployments/notificationchannel/{NotificationChannel.objects.get().pk}/edit/", {**CHANNEL, "name": "n"})),
    "deployments_notificationchannel_delete": (
        "delete.channel",
        lambda w: w.post(f"deployments/notificationchannel/{NotificationChannel.objects.get().pk}/delete/")),
    "deployments_notificationchannel_test": (
        "test.channel",
        lambda w: w.post(f"deployments/notificationchannel/{NotificationChannel.objects.get().pk}/test/")),
    "deployments_notificationdelivery_again": (
        "resend.delivery",
        lambda w: w.post(f"deployments/notificationdelivery/{NotificationDelivery.objects.get().pk}/again/")),
    "auth_user_add": (
        "add.user",
        lambda w: w.post("auth/user/add/", {
            "username": "kim", "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD})),
    "auth_user_change": (
        "change.user",
        lambda w: w.post(f"auth/user/{w.person.pk}/change/", {"username": "mira", "is_superuser": "on"})),
    "auth_user_password_change": (
        "change.user",
        lambda w: w.post(f"auth/user/{w.person.pk}/password/", {
            "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD, "set-password": "1"})),
    "auth_user_revoke_keys": ("revoke.key", lambda w: w.post(f"auth/user/{w.person.pk}/revoke-keys/")),
    "auth_user_delete": ("delete.user", lambda w: w.post(f"auth/user/{w.person.pk}/delete/", {"post": "yes"})),
    "auth_user_changelist": (
        "delete.user",
        lambda w: w.post("auth/user/", {
            "action": "delete_selected", "_selected_action": str(w.person.pk), "post": "yes"})),
    "auth_group_add": ("add.group", lambda w: w.post("auth/group/add/", {"name": "Others"})),
    "auth_group_change": (
        "change.group", lambda w: w.post(f"auth/group/{w.group.pk}/change/", {"name": "Renamed"})),
    "auth_group_delete": ("delete.group", lambda w: w.post(f"auth/group/{w.group.pk}/delete/", {"post": "yes"})),
    "auth_group_changelist": (
        "delete.group",
        lambda w: w.post("auth/group/", {
            "action": "delete_selected", "_selected_action": str(w.group.pk), "post": "yes"})),
    "manage.py keys create": (
        "make.key", lambda w: _command("keys", "create", "--project", w.project.ref, "--env", "prod")),
    "manage.py keys rotate": ("rotate.key", lambda w: _command("keys", "rotate", w.key.prefix)),
    "manage.py keys revoke": ("revoke.key", lambda w: _command("keys", "revoke", w.key.prefix)),
    "manage.py bootstrap": (
        "bootstrap.project", lambda w: _command("bootstrap", "--email", "kim@example.com", "--project", "Third")),
    "manage.py createsuperuser": (
        "add.user",
        lambda w: _command("createsuperuser", "--noinput", "--username", "kim", "--email", "kim@example.com")),
    "manage.py changepassword": ("change.user", _change_password),
    "manage.py break_glass": ("make.log_in_link", lambda w: _command("break_glass", "ada@example.com", "--activate")),
    "manage.py notify": ("test.channel", lambda w: _command("notify", "test", "people")),
    "manage.py reencrypt": ("reencrypt.secrets", lambda w: _command("reencrypt")),
    "manage.py writes": ("pause.writes", lambda w: _command("writes", "pause", "--reason", "a look at it")),
    "manage.py writes resume": ("resume.writes", lambda w: _command("writes", "resume")),
    "manage.py configuration": ("activate.configuration", lambda w: _command("configuration", "activate", "ab" * 6)),
    **{
        f"deployments_policyversion_{act}": (action, lambda w, act=act: _act_on_version(w, act))  # type: ignore[misc]
        for act, (action, _, _) in VERSION_ACTS.items()
    },
    **{
        f"POST /api/v1/manage/policy-versions/{{version_id}}/{words[0]}": (
            action, lambda w, verb=words[0]: _ask_for_version(w, verb))  # type: ignore[misc]
        for action, _, words in VERSION_ACTS.values()
    },
    **{
        f"manage.py policy {' '.join(words)}": (
            action, lambda w, words=words: _command("policy", words[0], "2", *words[1:]))  # type: ignore[misc]
        for action, _, words in VERSION_ACTS.values()
    },
}  # fmt: skip
#: What has to be there before.
FIRST: dict[str, Act] = {
    **{
        name: _with_trust_policy
        for name in (
            "POST /api/v1/auth/oidc",
            "deployments_trustpolicy_edit",
            "deployments_trustpolicy_switch",
            "deployments_trustpolicy_delete",
            "PUT /api/v1/manage/projects/{ref}/trust-policies/{policy_id}",
            "DELETE /api/v1/manage/projects/{ref}/trust-policies/{policy_id}",
        )
    },
    **{
        name: lambda _: _with_app(User.objects.get(username="ada@example.com"))
        for name in ("second_factor", "your_log_in_remove", "your_log_in_recovery_codes")
    },
    "auth_user_second_factors": lambda w: _with_app(w.person),
    **{
        name: lambda w: Project.objects.update(archived_at=Now())
        for name in (
            "deployments_project_restore",
            "deployments_project_delete",
            "manage.py projects restore",
            "manage.py projects delete",
            "PUT /api/v1/manage/projects/{ref} restores",
            "DELETE /api/v1/manage/projects/{ref}",
        )
    },
    "deployments_accesskey_delete": _expired_key,
    "auth_user_revoke_keys": lambda w: keys.make_user_token(w.person),
    "single_sign_on_links unlink": lambda w: Identity.objects.create(
        user=w.person, issuer="https://id.example.com", subject="1", made_by="test"
    ),
    "manage.py break_glass": lambda _: User.objects.filter(username="ada@example.com").update(is_active=False),
    "deployments_repository_statement": _with_statement,
    "deployments_repository_statement ends": _with_adoption,
    "deployments_repository_refuse_statement": _with_kept,
    "deployments_repository_refuse_statement ends": _with_refusal,
    "deployments_sweep_stop": lambda _: sweep_record.start(trigger=SweepTrigger.PERSON),
    "deployments_notificationdelivery_again": lambda _: NotificationDelivery.objects.create(
        channel=NotificationChannel.objects.get(), event="sweep.failed", subject="s", key="k", status="failed"
    ),
    "writes resume": lambda _: writes_pause.pause(trail=TRAIL, reason="a look at it"),
    "manage.py writes resume": lambda _: writes_pause.pause(trail=TRAIL, reason="a look at it"),
    "manage.py configuration": lambda _: ConfigurationGeneration.objects.create(digest="ab" * 32, version="0.1.1"),
    **{
        name: lambda _, state=state: _with_versions(state)  # type: ignore[misc]
        for act, (_, state, words) in VERSION_ACTS.items()
        for name in (
            f"deployments_policyversion_{act}",
            f"manage.py policy {' '.join(words)}",
            f"POST /api/v1/manage/policy-versions/{{version_id}}/{words[0]}",
        )
    },
}
#: Ways in that have no line, and why.
WITHOUT = {
    "POST /api/v1/deployments/{deployment_id}/generate-registry-credentials": "its kind and time are on the deployment",
    "POST /api/v1/projects/{ref}/{env}/pull-credentials": "asks AWS: tests/api/test_pull_log_ins.py",
    "POST /api/v1/deployments/{deployment_id}/background-workers": "a deployment's own step",
    "POST /api/v1/deployments/{deployment_id}/fail": "a deployment's own step",
    "POST /api/v3/deployments/{deployment_id}/finalize": "a deployment's own step; a promotion has its PromotionEvent",
    "POST /api/v2/deployments/{deployment_id}/finalize": "the same",
    "POST /api/v1/deployments/{deployment_id}/finalize": "the same",
    "POST /api/v1/authorization-code": "nothing is allowed yet",
    "single_sign_on": "writes nothing",
    "single_sign_on_begin_link": "writes nothing",
    "single_sign_on_back": "asks the OpenID provider: tests/access/test_single_sign_on.py",
    "deployments_repository_restore": "asks AWS: tests/reconcile/test_put_back.py",
    "deployments_repository_take_over": "asks AWS: tests/reconcile/test_incomparable.py",
    "deployments_repository_restore_image": "asks AWS: tests/reconcile/test_repository_images.py",
    "deployments_repository_what_if": "writes nothing",
    "why": "writes nothing",
    "manage.py reconcile": "asks AWS: tests/access/test_audit.py",
    "manage.py worker": "works off what others asked for",
    "manage.py web": "answers requests, which have lines of their own",
    "manage.py prune": "has many transactions, each with its line where records go: tests/test_retention.py",
    "manage.py events": "repositories have their own history",
}
#: Addresses that only read, or that Django has and ours refuse (tests/admin/test_rights.py).
READ = {
    "forgotten_sent", "forgotten_done", "your_log_in",
    "healthz", "readyz", "metrics", "status", "api-docs", "openapi-json", "api-root", "index", "password_change_done",
    "autocomplete", "jsi18n", "view_on_site", "app_list", "home", "tokens", "project",
    "deployment", "deployments", "deployments_notificationchannel_preview",
    "deployments_repository_images",
    "GET /api/v1/deployments", "GET /api/v1/deployments/{deployment_id}", "GET /api/v1/deployments/latest",
    "GET /api/v1/deployments/current", "GET /api/v2/whoami", "GET /api/v1/projects/runtimes", "GET /api/v1/projects",
    "GET /api/v1/projects/{ref}", "GET /api/v1/orgs", "GET /api/v1/projects/{ref}/envvars",
    "GET /api/v1/projects/{ref}/branches", "GET /api/v1/projects/{ref}/{env}/deploy-settings",
    "GET /api/v1/remote-build-provider-status", "GET /api/v1/platform-notifications",
    "GET /api/v1/manage/projects", "GET /api/v1/manage/projects/{ref}",
    "GET /api/v1/manage/projects/{ref}/environments",
    "GET /api/v1/manage/projects/{ref}/environments/{environment}",
    "GET /api/v1/manage/projects/{ref}/keys", "GET /api/v1/manage/projects/{ref}/keys/{key_id}",
    "GET /api/v1/manage/projects/{ref}/trust-policies",
    "GET /api/v1/manage/projects/{ref}/trust-policies/{policy_id}",
    "GET /api/v1/manage/policy-versions", "GET /api/v1/manage/policy-versions/{version_id}",
    "GET /api/v1/manage/policy-versions/{version_id}/preview",
}  # fmt: skip
READING_COMMANDS = {f"manage.py {name}" for name in ("deployments", "doctor", "env_example", "errors", "why")}
_REFUSED = {"add", "delete", "change"}  # of rows that only the program writes
_READING = {"history", "changelist", "export"}


def _ways_in() -> Iterator[str]:
    for path, operations in api.get_openapi_schema()["paths"].items():
        yield from (f"{method.upper()} {path}" for method in operations)

    def names(patterns: Any) -> Iterator[str]:
        for each in patterns:
            if hasattr(each, "url_patterns"):
                if str(each.pattern) != "api/":
                    yield from names(each.url_patterns)
            elif each.name:
                yield each.name

    yield from names(get_resolver().url_patterns)
    yield from (f"manage.py {name}" for name, app in get_commands().items() if app == "deployments")


def test_every_way_in_is_known_to_change_something_or_not() -> None:
    words = {name: 2 if name.startswith(("GET ", "POST ", "PUT ", "DELETE ", "manage.py ")) else 1 for name in ACTS}
    known = {" ".join(name.split(" ")[:count]) for name, count in words.items()}
    known |= WITHOUT.keys() | READ | READING_COMMANDS

    def is_known(name: str) -> bool:
        model, _, what = name.rpartition("_")
        if name in known or what in _READING:
            return True
        # Rows that only the program writes: Django's addresses are there, and answer 403.
        program = {"auditentry", "deployment", "notificationdelivery", "environment", "repository", "sweep",
                   "policyversion"}  # fmt: skip
        only_reads = model.rpartition("_")[2] in program and what in _REFUSED
        return only_reads or name in {
            "deployments_accesskey_change", "deployments_notificationchannel_change",
            "deployments_trustpolicy_change",
            "deployments_project_change",
        }  # fmt: skip

    assert sorted({name for name in _ways_in() if not is_known(name)}) == []


def _everything() -> dict[str, list[dict[str, Any]]]:
    """All rows but those that are written aside."""
    found = {}
    for model in apps.get_models(include_auto_created=True):
        if model._meta.model_name in ASIDE or model._meta.app_label in ("axes", "contenttypes"):
            continue
        rows = list(model._base_manager.order_by("pk").values())
        for row in rows:
            for aside in ("last_used_at", "last_used_by", "last_login"):
                row.pop(aside, None)
        found[model._meta.label] = rows
    return found


def _sessions() -> list[str]:
    """The users of all sessions; a session without a user is not listed."""
    found = [row.get_decoded().get("_auth_user_id") for row in Session.objects.all()]
    return sorted(user for user in found if user)


@contextmanager
def dying() -> Iterator[None]:
    """The process loses its database in the statement that writes a line of the audit log."""

    def die(*_: object, **__: object) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AuditEntry, "save", die)
        yield


@pytest.mark.wide
@pytest.mark.parametrize("way", ACTS)
def test_a_change_without_its_line_is_no_change_and_asking_again_does_both(
    way: str, world: World, settings: Any
) -> None:
    if way == "manage.py reencrypt":
        settings.ENCRYPTION_KEYS = [*settings.ENCRYPTION_KEYS, "an older key " * 3]
    action, act = ACTS[way]
    if way in FIRST:
        FIRST[way](world)
    AuditEntry.objects.all().delete()
    logins = action in ("approve.login", "decline.login") or way == "POST /api/v1/token"
    before, logged_in = _everything(), _sessions()

    with dying(), suppress(OperationalError):
        act(world)

    after = _everything()
    assert _sessions() == logged_in
    if logins:  # that it was begun, and for the token approved, came before
        [row] = after.pop("deployments.LoginRequest")
        before.pop("deployments.LoginRequest")
        assert (row["approved_at"] is None) is (way != "POST /api/v1/token")
        assert row["collected_at"] is None
    assert after == before
    assert not AuditEntry.objects.exists()

    act(world)

    told = AuditEntry.objects.filter(action=action).first()
    assert told is not None, [entry.action for entry in AuditEntry.objects.all()]
    assert told.outcome == audit.DONE or action == "test.channel"  # no mail server: it was not sent, and says so
    if action in ("log_in.user", "log_out.user"):
        assert _sessions() != logged_in
    elif action not in ("check.setup", "ask.password"):
        assert _everything() != before


# ----------------------------------------------------------------------------- the same with a connection that is cut


@contextmanager
def held(table: str) -> Iterator[Callable[[], None]]:
    """Another connection locks a table. Yields what cuts the connection that waits for it."""
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")

    def cut() -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with connection.cursor() as cursor:
                # Only in this database: the server has those of the other test processes too.
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON pg_database.oid = database "
                    "WHERE NOT granted AND datname = current_database()"
                )
                if cursor.fetchall():
                    return
            time.sleep(0.02)
        raise AssertionError("nobody waits for the table")

    try:
        yield cut
    finally:
        other.close()


def elsewhere(ask: Callable[[], Any]) -> Any:
    """In a thread, with the connections that are its own."""
    try:
        return ask()
    finally:
        connections.close_all()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no connection that could be cut")
@pytest.mark.parametrize("table", ["deployments_promotion", "deployments_promotionevent"])
def test_a_finalize_whose_connection_is_cut_between_its_writes_has_done_nothing(table: str, world: World) -> None:
    deployment = _deployment(world.environment, 4, "DEPLOYING")

    def finalize() -> str:
        answer = world.api(f"v3/deployments/{deployment.id}/finalize", {"imageDigest": DIGEST})
        return str(answer.getvalue().decode())

    with held(table) as cut, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(elsewhere, finalize)
        cut()
        assert "event: error" in answer.result(20)

    deployment.refresh_from_db()
    assert (deployment.status, deployment.promotion_wanted) == ("DEPLOYING", None)
    assert "is deployed and current" in finalize()
    assert Promotion.objects.get().deployment_id == deployment.id
    assert PromotionEvent.objects.filter(deployment=deployment).count() == 1


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no connection that could be cut")
@pytest.mark.parametrize("way", ["promote", "cancel"])
def test_a_change_whose_connection_is_cut_before_its_line_is_no_change(way: str, world: World) -> None:
    act = next(act for name, (_, act) in ACTS.items() if name.startswith("POST") and name.endswith(way))
    before = _everything()

    with held("deployments_auditentry") as cut, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(elsewhere, lambda: act(world))
        cut()
        assert answer.result(20).status_code == 503

    assert _everything() == before
    assert act(world).status_code in (200, 204)
    assert AuditEntry.objects.get().outcome == audit.DONE
