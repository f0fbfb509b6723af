"""Every address that is not of the API, with one of everything that the pages show, and the forms of all pages.

Addresses come from Django's resolver and forms from the pages themselves, as a superuser sees them. An argument of an
address that `_ARGUMENTS` does not have fails the suite.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from html.parser import HTMLParser
from random import Random
from typing import Any
from urllib.parse import urljoin

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction
from django.db.models.functions import Now
from django.urls import URLPattern, URLResolver, get_resolver, resolve
from django.urls.resolvers import RegexPattern

from deployments.access import cli_login, groups, keys
from deployments.access.vault import Vault
from deployments.admin.bulk_actions import BULK_ACTIONS
from deployments.deploys import environment_variables, projects, promotions
from deployments.models import (
    AuditEntry,
    BackgroundWorker,
    Deployment,
    Identity,
    NotificationChannel,
    NotificationDelivery,
    PolicyStep,
    PolicyVersion,
    Project,
    Repository,
    RepositoryEvent,
    SecondFactor,
    Sweep,
    SweepFinding,
    TrustPolicy,
)
from deployments.notify import channels
from deployments.reconcile import policy_versions
from tests.attack.attacker import Attacker, Sent, copied
from tests.support.cli import DIGEST, HASH
from tests.support.constants import HOST, OWNER, POLICY, TRAIL

#: An ECR registry, of which nothing is read for a promotion.
SETTINGS = {
    "DEPLOY_REGISTRY_HOST": HOST,
    "DEPLOY_REGISTRY_ECR_DEFAULT_REPOSITORY_POLICY": POLICY,
    "DEPLOY_IMAGE_VERIFICATION_ENABLED": "0",
    "SSO_ISSUER": "https://127.0.0.1:1",  # refuses every connection
    "SSO_CLIENT_ID": "registry-admin",
    "SSO_CLIENT_SECRET": "hidden-client-secret",
    "SSO_GROUPS": '{"people": "viewer"}',
}
#: Addresses whose POST, if it is allowed, calls AWS or connects, which no test does in a transaction.
CALLS = {
    "deployments_repository_restore",
    "deployments_repository_restore_image",
    "deployments_notificationchannel_test",
    "deployments_notificationchannel_add",
    "deployments_notificationchannel_edit",
}
MOST_VARIANTS = 24  # of one form
PASSWORD = "a-long-enough-1"
ROLES: dict[str, Callable[[], User | None]] = {
    "anonymous": lambda: None,
    "not staff": lambda: _person("not-staff", is_staff=False),
    "without rights": lambda: _person("without-rights"),
    "viewer": lambda: _person("viewer", group=groups.VIEWER),
    "operator": lambda: _person("operator", group=groups.OPERATOR),
    "key maker": lambda: _person("key-maker", "add_accesskey"),
    "few rights": lambda: _person("few-rights", "start_sweep", "rotate_accesskey"),
    "people manager": lambda: _person(
        "people-manager",
        *(f"{act}_{model}" for act in ("view", "add", "change", "delete") for model in ("user", "group")),
    ),
}


def _person(name: str, *rights: str, is_staff: bool = True, group: str = "") -> User:
    person = User.objects.create_user(f"role-{name}", password=PASSWORD, is_staff=is_staff)
    person.user_permissions.set(
        Permission.objects.filter(codename__in=rights, content_type__app_label__in=("auth", "deployments"))
    )
    person.groups.set(Group.objects.filter(name=group))
    return person


# ------------------------------------------------------------------------------------------------------------ addresses


@dataclass(frozen=True, slots=True)
class Route:
    """A pattern of the resolver: `admin/auth/user/<path:object_id>/change/`. `name`: its name, or else its text."""

    text: str
    name: str

    def __str__(self) -> str:
        return self.text or "/"

    @property
    def arguments(self) -> list[str]:
        return re.findall(r"<(?:\w+:)?(\w+)>", self.text)

    def path(self, values: dict[str, Any]) -> str:
        text = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: str(values[found[1]]), self.text)
        return f"/{text}"


def _routes(patterns: list[Any], before: str = "") -> Iterator[Route]:
    for each in patterns:
        text = str(each.pattern)
        if isinstance(each.pattern, RegexPattern):
            text = re.sub(r"\(\?P<(\w+)>[^()]*\)", r"<\1>", text)
            text = re.sub(r"\(\?:[^()]*\)\?|[\^$]", "", text)
        if isinstance(each, URLResolver):
            yield from _routes(each.url_patterns, before + text)
        elif isinstance(each, URLPattern):
            yield Route(before + text, each.name or before + text)


#: All addresses that are not the API's.
ROUTES = {str(route): route for route in _routes(get_resolver().url_patterns) if not route.text.startswith("api/v")}


def _rows_of(text: str, *, other: type[Any] = Project) -> list[Any]:
    """The keys of the rows of the model that an address of the admin is about."""
    found = re.match(r"admin/(deployments|auth)/(\w+)/", text)
    model = apps.get_model(found[1], found[2]) if found else other
    return list(model._base_manager.order_by("pk").values_list("pk", flat=True))[:12]


_ARGUMENTS: dict[str, Callable[[Route], list[Any]]] = {
    "object_id": lambda route: _rows_of(route.text),
    "pk": lambda route: _rows_of(route.text),
    "id": lambda route: _rows_of(route.text),
    "event": lambda route: list(RepositoryEvent.objects.exclude(policy_before="").values_list("pk", flat=True)),
    "name": lambda route: list(BULK_ACTIONS),
    "ending": lambda route: ["csv", "json"],
    "kind": lambda route: ["csv", "json"],
    "digest": lambda route: [DIGEST],
    "content_type_id": lambda route: [ContentType.objects.get_for_model(Project).pk],
    "app_label": lambda route: ["deployments", "auth"],
    "url": lambda route: ["nothing/here/"],
    "ref": lambda route: [Project.objects.get(name__contains="canary").ref],
    "short_code": lambda route: [Deployment.objects.all()[0].short_code],
    "handle": lambda route: [cli_login.begin(challenge="A" * 43).handle],
    "uidb64": lambda route: ["MQ"],
    "token": lambda route: ["set-password", "abc-0123456789abcdef"],
}


def paths(route: Route) -> list[str]:
    """The paths of a route for the rows that exist. Raises KeyError for an argument that nobody has decided about."""
    values = [_ARGUMENTS[name](route) for name in route.arguments]
    return [route.path(dict(zip(route.arguments, found, strict=True))) for found in itertools.product(*values)]


# ---------------------------------------------------------------------------------------------------------------- forms


@dataclass(slots=True)
class Form:
    """A form that posts: its path, and its fields as (name, values of which one is sent)."""

    path: str
    fields: list[tuple[str, list[str]]] = field(default_factory=list)
    boxes: list[tuple[str, str, bool]] = field(default_factory=list)  # (name, value, whether it is ticked)
    buttons: list[tuple[str, str]] = field(default_factory=list)

    def variants(self) -> Iterator[dict[str, list[str]]]:
        """What is sent: the first choice of each menu with each set of boxes; each other choice; some combinations."""
        menus = [[(name, value) for value in sorted(values, key=not_chosen)] for name, values in self.fields]
        menus += [list(self.buttons)] if self.buttons else []
        first, sets = [menu[0] for menu in menus], self._sets_of_boxes()
        random = Random(self.path)  # noqa: S311  # the same at each run
        chosen = [(first, boxes) for boxes in sets]
        for place, menu in enumerate(menus):
            chosen += [([*first[:place], pair, *first[place + 1 :]], random.choice(sets)) for pair in menu[1:]]
        while len(chosen) < MOST_VARIANTS:
            chosen.append(([random.choice(menu) for menu in menus], random.choice(sets)))
        known: list[dict[str, list[str]]] = []
        for pairs, boxes in chosen[:MOST_VARIANTS]:
            data: dict[str, list[str]] = {}
            for name, value in (*pairs, *boxes):
                data.setdefault(name, []).append(value)
            if data not in known:
                known.append(data)
        yield from known

    def _sets_of_boxes(self) -> list[list[tuple[str, str]]]:
        """The boxes as they are; one more of each name; all of them."""
        ticked = [(name, value) for name, value, is_ticked in self.boxes if is_ticked]
        more = {name: value for name, value, is_ticked in reversed(self.boxes) if not is_ticked}
        return [ticked, *([*ticked, pair] for pair in more.items()), [(name, value) for name, value, _ in self.boxes]]


def not_chosen(value: str) -> bool:
    """The choice of a menu that stands for none."""
    return value == ""


class _Reader(HTMLParser):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path, self.forms = path, list[Form]()
        self.links: list[str] = []
        self._open: Form | None = None
        self._named: dict[str, Form] = {}
        self._select = ""
        self._area = ""

    def handle_starttag(self, tag: str, pairs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in pairs}
        if tag == "a":
            self.links.append(values.get("href", ""))
        if tag == "form" and values.get("method", "").lower() == "post":
            self._open = Form(urljoin(self.path, values.get("action", "")))
            self._named[values.get("id", "")] = self._open
            self.forms.append(self._open)
        elif (form := self._named.get(values["form"]) if "form" in values else self._open) is not None:
            self._control(form, tag, values)

    def _control(self, form: Form, tag: str, values: dict[str, str]) -> None:
        name, kind, value = values.get("name", ""), values.get("type", "text"), values.get("value", "")
        if "formaction" in values:  # the button sends the fields of its form to another address
            self.forms.append(Form(urljoin(self.path, values["formaction"]), form.fields, form.boxes))
        elif tag == "select":
            self._select = name
        elif tag == "option" and self._select:
            _choice(form, self._select, value)
        elif tag == "textarea" and name:
            self._area = name
            form.fields.append((name, [""]))
        elif (tag == "button" or kind == "submit") and name:
            form.buttons.append((name, value))
        elif tag == "input" and name and name != "csrfmiddlewaretoken":
            if kind == "checkbox":
                form.boxes.append((name, value or "on", "checked" in values))
            elif kind == "radio":
                _choice(form, name, value)
            else:
                form.fields.append((name, [value or _text(name, kind)]))

    def handle_data(self, data: str) -> None:
        if self._area and self._open is not None:
            self._open.fields[-1] = (self._area, [data.strip() or _text(self._area, "textarea")])

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None
        if tag == "select":
            self._select = ""
        if tag == "textarea":
            self._area = ""


def _choice(form: Form, name: str, value: str) -> None:
    known = dict(form.fields)
    if name in known:
        known[name].append(value)
    else:
        form.fields.append((name, [value]))


def _text(name: str, kind: str) -> str:
    """What a person might write into an empty field."""
    if kind == "email" or "mail" in name or name == "address":
        return "attacker@example.com"
    if name == "ref":
        return "proj_attacker"
    if name in ("more", "ca", "jwks", "branch_claim"):  # of a trust policy: not any text is accepted
        return ""
    if kind == "password" or "password" in name:
        return PASSWORD
    return {"number": "1", "hidden": "", "file": ""}.get(kind, "attacker")


# --------------------------------------------------------------------------------------------------------------- writes

_WRITES = re.compile(r'^\s*(?:INSERT(?: OR \w+)? INTO|UPDATE|DELETE FROM)\s+"(\w+)"', re.IGNORECASE)
#: Written without a change: sessions, and what the throttle of the log-in counts.
_ASIDE = re.compile("django_session|axes_")


@contextmanager
def writes() -> Iterator[set[str]]:
    """The tables of which rows are written, without `deployments_`; all is undone at the end."""
    found: set[str] = set()

    def look(execute: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        result = execute(sql, parameters, many, context)
        match = _WRITES.match(sql)
        # How many rows an INSERT has written is not known when it returns them.
        if match and (context["cursor"].rowcount or sql.startswith("INSERT")) and not _ASIDE.match(match[1]):
            found.add(match[1].removeprefix("deployments_"))
        return result

    with transaction.atomic():
        with connection.execute_wrapper(look):
            yield found
        transaction.set_rollback(True)


# -------------------------------------------------------------------------------------------------------------- console


@dataclass(frozen=True, kw_only=True)
class Console:
    """People of every role, and the paths of each route."""

    people: dict[str, User | None]
    superuser: User
    paths: dict[str, list[str]]

    @cached_property
    def forms(self) -> dict[str, list[Form]]:
        """The forms that are posted to each route."""
        return _forms(self.superuser, self.paths)

    @classmethod
    def make(cls) -> Console:
        superuser = User.objects.create_superuser("role-superuser", "superuser@example.com", PASSWORD)
        _rows(superuser)
        people = {name: make() for name, make in ROLES.items()}
        found = {name: paths(route) for name, route in ROUTES.items()}
        return cls(people=people, superuser=superuser, paths=found)


def _forms(superuser: User, known: dict[str, list[str]]) -> dict[str, list[Form]]:
    """The forms of all pages, and of the pages to which a link with a query leads, but for the filters of lists."""
    client = Attacker(Sent(kind=""))
    cookies = client.log_in(superuser)
    forms: dict[str, list[Form]] = {}
    waiting, seen = list(itertools.chain.from_iterable(known.values())), set[str]()
    while waiting:
        path = waiting.pop()
        client.cookies = copied(cookies)
        with writes():
            response = client.get(path)
        if response.status_code != 200 or "html" not in response["Content-Type"]:
            continue
        reader = _Reader(path)
        reader.feed(response.getvalue().decode())
        for form in reader.forms:
            found = forms.setdefault(route_of(form.path), [])
            if form not in found:
                found.append(form)
        for link in reader.links:
            place, query, _ = link.partition("?")
            if query and place.startswith("/") and place not in seen and not route_of(place).endswith("changelist"):
                seen.add(place)
                waiting.append(link)
    return forms


def route_of(path: str) -> str:
    """The key of ROUTES for a path."""
    text = resolve(path.partition("?")[0]).route
    return next(str(route) for route in _routes_like(text))


def _routes_like(text: str) -> Iterator[Route]:
    plain = re.sub(r"\(\?P<(\w+)>[^()]*\)", r"<\1>", text)
    plain = re.sub(r"\(\?:[^()]*\)\?|[\^$]", "", plain)
    yield from (route for route in ROUTES.values() if route.text == plain)


def _rows(superuser: User) -> None:
    """One of everything. Each text names what it is the text of: canary-deployment."""
    project = projects.create_project(name="canary-project")
    environment = project.environments.get(slug="prod")
    repository = Repository.objects.create(
        account=OWNER, region="us-east-1", host=HOST, name="trigger/canary-repository", project=project,
        status="in_sync", origin="created", management="full", policy_text=POLICY, mode="observe",
        mode_reason="canary-repository", mode_until=Now() + timedelta(hours=1),
    )  # fmt: skip
    for management in ("adopted", "unmanaged"):
        Repository.objects.create(
            account=OWNER, region="us-east-1", host=HOST, name=f"trigger/{management}", status="in_sync",
            origin="adopted", management=management,
        )  # fmt: skip
    RepositoryEvent.objects.create(
        repository=repository, kind="policy_applied", message="canary-event", policy_before=POLICY
    )
    found = []
    for number, status in enumerate(("DEPLOYED", "DEPLOYED", "BUILDING", "FAILED"), 1):
        row = Deployment.objects.create(
            project=project, environment=environment, repository=repository, version_day="20260101",
            version_number=number, status=status, type="MANAGED", content_hash=HASH,
            image_ref=f"{HOST}/trigger/x:{number}", image_platform="linux/amd64", image_digest=DIGEST,
            git={"commitMessage": "canary-deployment"}, triggered_by="canary-deployment",
            error={"name": "Error", "message": "canary-deployment"} if status == "FAILED" else None,
            deployed_at=Now() if status == "DEPLOYED" else None, deadline=Now() + timedelta(hours=1),
        )  # fmt: skip
        BackgroundWorker.objects.create(
            deployment=row, content_hash=HASH, tasks=[{"id": "t", "slug": "canary-task", "filePath": "canary-task"}]
        )
        found.append(row)
    promotions.promote(
        environment=environment, version=str(found[1].version), by="canary-deployment",
        configuration=settings.CONFIGURATION, trail=TRAIL,
    )  # fmt: skip
    vault = Vault(settings.ENCRYPTION_KEYS)
    store = environment_variables.store
    store(environment=environment, variables={"PLAIN": "canary-variable"}, vault=vault, is_secret=False)
    store(environment=environment, variables={"SECRET": "hidden-variable"}, vault=vault, is_secret=True)
    person = User.objects.create_user("canary-user", "canary-user@example.com", PASSWORD)
    Group.objects.create(name="canary-group")
    for each in (superuser, person):
        SecondFactor.objects.create(user=each, kind="totp", name="canary-factor", secret="hidden-seed")
    Identity.objects.create(user=superuser, issuer=SETTINGS["SSO_ISSUER"], subject="canary-subject", made_by="somebody")
    keys.make_environment_key(environment, "canary-key")
    keys.make_user_token(superuser, "canary-key")
    keys.revoke(keys.make_environment_key(environment, "canary-key")[0])
    for kind, address in (
        ("webhook", "https://hooks.example.com/hidden-webhook"),
        ("mail", "canary-channel@example.com"),
    ):
        channel = NotificationChannel.objects.create(name=f"canary-channel-{kind}", kind=kind)
        channels.set_address(channel, address, vault=vault)
        if kind == "webhook":
            channels.set_secret(channel, "hidden-signing-secret", vault=vault)
        channel.save()
        NotificationDelivery.objects.create(channel=channel, event="deploy.failed", subject="canary-delivery", key=kind)
    TrustPolicy.objects.create(
        environment=environment, name="canary-policy", kind="github",
        issuer="https://token.actions.githubusercontent.com",
        claims={"repository_id": "1", "repository_owner_id": "2", "ref": "refs/heads/canary-policy"},
    )  # fmt: skip
    sweep = Sweep.objects.create(trigger="person", requested_by="canary-sweep", status="running")
    SweepFinding.objects.create(sweep=sweep, repository=repository, outcome="drifted", words="canary-sweep")
    before = None
    for number, state in enumerate(("active", "waiting", "batches", "stopped")):  # of an own namespace: one is open
        version = PolicyVersion.objects.create(
            account=OWNER, region="us-east-1", namespace=f"open-{number}", number=2, follows=before, state=state,
            text=policy_versions.text_row(POLICY), proposed_by="canary-version", why="canary-version",
        )  # fmt: skip
        PolicyStep.objects.create(version=version, repository=repository, stage=0, words="canary-version")
        before = before or version
    AuditEntry.objects.create(actor_kind="person", actor="canary-audit", action="promote.deployment")
