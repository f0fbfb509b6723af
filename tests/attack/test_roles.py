"""Every address that is not of the API × every role × GET, POST, and each form that a page has for it.

REACHES, CHANGES and SEES say what a role may do; everything else is a hole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User

from deployments.models import AccessKey, Identity, RecoveryCode, SecondFactor, Sweep
from tests.attack.attacker import Attacker, copied
from tests.attack.console import CALLS, ROUTES, Console, Route, writes

KIND = "roles × addresses of the console"
pytestmark = pytest.mark.django_db

_MODELS = (
    "accesskey", "deployment", "environment", "notificationchannel", "notificationdelivery", "policyversion", "project",
    "repository", "sweep", "trustpolicy",
)  # fmt: skip
#: Role → the addresses that do not refuse it. A refusal is a 400, 403, 404, 405, or the way to the log-in.
REACHES: dict[str, set[str]] = {}
REACHES["anonymous"] = REACHES["not staff"] = {
    "healthz", "readyz", "api-docs", "openapi-json", "home", "login", "logout",
    "forgotten", "forgotten_sent", "forgotten_done", "forgotten_link", "single_sign_on",
}  # fmt: skip
REACHES["without rights"] = (
    REACHES["anonymous"]
    | {"index", "app_list", "jsi18n", "password_change", "password_change_done"}
    | {"your_log_in", "your_log_in_add", "your_log_in_recovery_codes", "single_sign_on_begin_link"}
    | {"tokens", "project", "deployment", "deployments"}  # lead to pages that ask for the right
    | {route.name for route in ROUTES.values() if route.name.endswith("/<path:object_id>/")}  # the same
    | {"deployments_repository_ask", "deployments_repository_what_if"}  # back to the dashboard
)
REACHES["viewer"] = (
    REACHES["without rights"]
    | {f"deployments_{model}_{page}" for model in _MODELS for page in ("changelist", "change", "history")}
    | {"deployments_deployment_export", "deployments_repository_export", "why"}
    | {"deployments_repository_images", "pulls", "pulls_export", "deployments_notificationchannel_preview"}
)
REACHES["operator"] = (
    REACHES["viewer"]
    | {f"deployments_auditentry_{page}" for page in ("changelist", "change", "history", "export")}
    | {"deployments_deployment_promote", "deployments_deployment_cancel", "deployments_repository_look"}
    | {
        "deployments_repository_take_over",
        "deployments_repository_restore_image",
        "deployments_repository_statement",
        "deployments_repository_refuse_statement",
        "deployments_sweep_start",
        "deployments_sweep_stop",
        *(f"deployments_policyversion_{act}" for act in ("start", "now", "pause", "resume", "undo")),
        "setup",
        "writes",
    }
)
REACHES["key maker"] = REACHES["without rights"] | {"deployments_accesskey_add", "login-approve"}
REACHES["few rights"] = (
    REACHES["without rights"]
    | {f"deployments_accesskey_{page}" for page in ("changelist", "change", "history", "rotate")}
    | {"deployments_sweep_start", "pulls"}  # who may start a sweep may ask for a refresh
)
REACHES["people manager"] = (
    REACHES["without rights"]
    | {
        f"auth_{model}_{page}"
        for model in ("user", "group")
        for page in ("changelist", "add", "change", "delete", "history")
    }
    | {"auth_user_password_change", "auth_user_second_factors", "single_sign_on_links"}
)

_OWN = {"password_change": {"auth_user", "auditentry"}, "logout": {"auditentry"}, "login-approve": {"loginrequest"}}
_SWEEP = {"sweep", "django_q_ormq", "auditentry"}
_VERSION = {"policyversion", "configurationactivation", "django_q_ormq", "auditentry"}
_AUTH = {"auditentry", "django_admin_log"}
_USER = {"secondfactor", "auth_user", "auth_user_groups", "auth_user_user_permissions", *_AUTH}
_GROUP = {"auth_group", "auth_group_permissions", "auth_user_groups", *_AUTH}
#: Role → address → the tables of which it may write rows there.
CHANGES: dict[str, dict[str, set[str]]] = {
    "anonymous": {},
    "not staff": {"logout": {"auditentry"}},
    "without rights": _OWN,
    "viewer": _OWN,
    "operator": _OWN | {
        "deployments_deployment_promote": {"promotion", "promotionevent", "auditentry"},
        "deployments_deployment_cancel": {"deployment", "auditentry"},
        "deployments_repository_look": {"repository", "repositoryevent"} | _SWEEP,
        "deployments_repository_ask": {"repository", "repositoryevent"} | _SWEEP,
        "deployments_repository_take_over": {"auditentry"},  # that it was refused
        "deployments_repository_restore_image": {"repository", "auditentry"},  # the lease, and that it was refused
        "deployments_repository_statement": {"auditentry"},  # the same
        "deployments_repository_refuse_statement": {"auditentry"},
        "deployments_sweep_start": _SWEEP,
        "pulls": _SWEEP,
        "deployments_sweep_stop": {"sweep", "auditentry"},
        **dict.fromkeys(
            (f"deployments_policyversion_{act}" for act in ("start", "now", "pause", "resume", "undo")), _VERSION
        ),
        "setup": {"auditentry"},
        "writes": {"writespause", "auditentry"},
    },
    "key maker": _OWN | {
        "deployments_accesskey_add": {"accesskey", "auditentry"},
        "login-approve": {"loginrequest", "auditentry"},
    },
    "few rights": _OWN | {
        "deployments_accesskey_rotate": {"accesskey", "auditentry"},
        "pulls": _SWEEP,
        "deployments_sweep_start": _SWEEP,
    },
    "people manager": _OWN | {
        "single_sign_on_links": {"identity", "auditentry"},
        "auth_user_second_factors": {"secondfactor", "recoverycode", "auditentry"},
        "auth_user_changelist": _USER, "auth_user_add": _USER, "auth_user_change": _USER, "auth_user_delete": _USER,
        "auth_user_password_change": _USER,
        "auth_group_changelist": _GROUP, "auth_group_add": _GROUP, "auth_group_change": _GROUP,
        "auth_group_delete": _GROUP,
    },
}  # fmt: skip

_SEEN_BY_VIEWERS = {
    "canary-channel", "canary-delivery", "canary-deployment", "canary-event", "canary-key", "canary-project",
    "canary-policy", "canary-repository", "canary-sweep", "canary-task", "canary-version",
}  # fmt: skip
#: Role → the texts of rows that it may see. Nobody sees a text that begins with `hidden-`.
SEES: dict[str, set[str]] = {
    "anonymous": set(),
    "not staff": set(),
    "without rights": set(),
    "viewer": _SEEN_BY_VIEWERS,
    "operator": _SEEN_BY_VIEWERS | {"canary-audit", "canary-variable"},
    "key maker": {"canary-project"},  # the environments that it can choose
    "few rights": {"canary-key", "canary-project"},
    "people manager": {"canary-user", "canary-group", "canary-factor"},
}
EVERYTHING = SEES["operator"] | SEES["people manager"] | {"canary-subject"}
#: Addresses where the forms of a superuser change no row, and why.
NOTHING = {
    "why": "writes nothing",
    "deployments_repository_what_if": "writes nothing",
    "deployments_repository_restore": "calls AWS, which no test does in a transaction",
    "deployments_repository_restore_image": "the same",
    "deployments_notificationchannel_test": "connects, which no test does in a transaction",
    "deployments_notificationchannel_add": "the same, for its button that sends a test message",
    "deployments_notificationchannel_edit": "the same",
    "deployments_project_name": "its form has the present name",
    "deployments_project_restore": "the project is not archived",
    "deployments_repository_change": "its buttons send the form to other addresses",
    "deployments_trustpolicy_change": "its buttons send the form to other addresses",
    "deployments_sweep_change": "its buttons send the form to other addresses",
    "login": "a superuser is logged in",
    "your_log_in_add": "the code is wrong",
    "forgotten": "the address is nobody's",
}


def requests(console: Console, route: Route) -> Iterator[tuple[str, str, dict[str, list[str]]]]:
    """(method, path, form) of every request to a route."""
    for path in console.paths[str(route)]:
        yield "GET", path, {}
        yield "POST", path, {}
        yield "POST", path, {"post": ["yes"]}
    for form in console.forms.get(str(route), []):
        for data in form.variants():
            yield "POST", form.path, data


def _texts(text: str) -> set[str]:
    return set(re.findall(r"(?:canary|hidden)-[a-z]+", text))


def _is_refused(response: Any) -> bool:
    return response.status_code in (400, 403, 404, 405) or response.headers.get("Location", "").startswith(
        "/admin/login/"
    )


def _not_to_be_touched(role: str, person: User | None) -> list[Any]:
    """Superusers and how they log in; personal tokens of others; sweeps that adopt, for which there is a right."""
    rows = (
        User.objects.filter(is_superuser=True),
        Identity.objects.filter(user__is_superuser=True),
        SecondFactor.objects.filter(user__is_superuser=True),
        RecoveryCode.objects.filter(user__is_superuser=True),
        AccessKey.objects.filter(user__isnull=False).exclude(user=person),
        Sweep.objects.filter(adopt=True) if role != "operator" else Sweep.objects.none(),
    )
    return [list(each.order_by("pk").values()) for each in rows]


def _rights(person: User | None) -> set[str]:
    found = User.objects.filter(pk=person.pk).first() if person is not None else None
    return found.get_all_permissions() if found is not None else set()


@pytest.mark.costly
@pytest.mark.attack(sample=4)
@pytest.mark.parametrize("name", ROUTES)
def test_a_role_reaches_changes_and_sees_only_what_the_tables_say(
    name: str, console: Console, attacker: Callable[..., Attacker]
) -> None:
    route = ROUTES[name]
    for role, person in console.people.items():
        client = attacker()
        cookies = client.log_in(person) if person is not None else client.cookies
        untouched, rights = _not_to_be_touched(role, person), _rights(person)
        for method, path, data in requests(console, route):
            client.cookies = copied(cookies)
            with writes() as written:
                response = client.get(path) if method == "GET" else client.post(path, data)
                text = response.getvalue().decode(errors="replace") + str(response.headers)
                if written:
                    assert _not_to_be_touched(role, person) == untouched, f"{role}: {method} {path} {data}"
                    assert _rights(person) <= rights, f"{role}: {method} {path} {data}"
            case = f"{role}: {method} {path} {data}: {response.status_code}"
            assert _is_refused(response) or route.name in REACHES[role], case
            assert written <= CHANGES[role].get(route.name, set()), case
            assert _texts(text) - _texts(path + str(data)) <= SEES[role], case


@pytest.mark.attack
def test_the_tables_name_only_roles_and_addresses_that_exist(console: Console) -> None:
    names = {route.name for route in ROUTES.values()}

    assert console.people.keys() == REACHES.keys() == CHANGES.keys() == SEES.keys()
    assert set.union(*REACHES.values(), *(set(found) for found in CHANGES.values()), set(NOTHING)) <= names


@pytest.mark.attack(sample=0)
@pytest.mark.parametrize("name", ROUTES)
def test_a_superuser_changes_something_with_the_forms_of_an_address(
    name: str, console: Console, attacker: Callable[..., Attacker]
) -> None:
    """Else the forms above would change nothing, no matter who sends them."""
    client, route = attacker(), ROUTES[name]
    cookies = client.log_in(console.superuser)
    changed: set[str] = set()
    for method, path, data in requests(console, route):
        if method == "POST" and route.name not in CALLS:
            client.cookies = copied(cookies)
            with writes() as written:
                client.post(path, data)
            changed |= written

    known = route.name in NOTHING or route.name.endswith("_changelist")
    assert changed or known or not console.forms.get(name)


@pytest.mark.attack(sample=0)
def test_a_superuser_sees_each_text_that_is_not_hidden(console: Console, attacker: Callable[..., Attacker]) -> None:
    """Else a role could not see too much."""
    client, seen = attacker(), set[str]()
    cookies = client.log_in(console.superuser)
    for paths in console.paths.values():
        for path in paths:
            client.cookies = copied(cookies)
            with writes():
                seen |= _texts(client.get(path).getvalue().decode(errors="replace"))

    assert seen >= EVERYTHING
    assert not {text for text in seen if text.startswith("hidden-")}
