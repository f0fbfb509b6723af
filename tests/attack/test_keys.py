"""Every operation of the API × keys that do not belong there × another project's things.

The rows of everybody but the key's own environment are the same before and after, in every byte, and no text of theirs
is in an answer. The answer about another project's thing is the answer about a thing that does not exist.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now

from deployments.access import keys
from deployments.models import AccessKey, Deployment, Environment, Project, TrustPolicy
from tests.attack.attacker import Attacker
from tests.attack.operations import BODY, INVENTED, OPERATIONS, PARAMETERS, Request
from tests.attack.projects import Place, Side, rows_by_owner

KIND = "keys × operations × foreign ids"
CANARY = re.compile(r"canary-[a-z]+-[a-z]+")
NOT_THERE = re.compile(r"deployment_\w+|proj_\w+|2026\d{4}\.\d+|20250101\.99")
Sides = tuple[Side, Side]
#: Operations that answer the same about every project, whether it exists or not.
WHATEVER_THE_PROJECT = {"GET /api/v1/projects/{ref}/{env}/deploy-settings"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of the attacker. `owns`: the ids of the environments that it may change."""

    name: str
    text: str
    owns: frozenset[int] = frozenset()
    branch: str = ""

    def headers(self, idempotency_key: str = "") -> dict[str, str]:
        sent = {"Authorization": f"Bearer {self.text}"} if self.text else {}
        sent |= {"x-trigger-branch": self.branch} if self.branch else {}
        return sent | ({"x-trigger-request-idempotency-key": idempotency_key} if idempotency_key else {})


def send(attacker: Attacker, request: Request, key: Key, idempotency_key: str = "") -> tuple[int, str]:
    """The status and the whole answer, with its headers."""
    response = attacker.generic(
        request.method, request.path, request.body, content_type="application/json",
        headers=key.headers(idempotency_key),
    )  # fmt: skip
    left_out = ("X-Request-ID", "Content-Length")
    head = [f"{name}: {value}" for name, value in response.items() if name not in left_out]
    return response.status_code, "\n".join([*head, "", response.getvalue().decode()])


def _environment_keys(own: Side, other: Side) -> Iterator[Key]:
    """Keys that work, of some environments of one project."""
    production, staging = (own.places[name].environment for name in ("prod", "staging"))
    for scopes in ((), (keys.READ,), (keys.DEPLOY,), (keys.CREDENTIALS,), (keys.PULL,)):
        _, text = keys.make_environment_key(production, scopes=scopes)
        yield Key(name=f"production, {scopes or 'all scopes'}", text=text, owns=frozenset({production.pk}))
    _, text = keys.make_environment_key(staging)
    yield Key(name="staging", text=text, owns=frozenset({staging.pk}))
    _, text = keys.make_environment_key(own.preview)
    branches = frozenset(own.preview.branches.values_list("pk", flat=True)) | {own.preview.pk}
    for branch in ("", own.branch, other.branch):
        yield Key(name=f"preview, branch {branch or 'not named'}", text=text, owns=branches, branch=branch)
    token, _ = keys.make_user_token(own.person)
    _, text = keys.make_deploy_key(production, token)
    yield Key(name="deploy key of production", text=text, owns=frozenset({production.pk}))
    policy = TrustPolicy.objects.create(environment=production, name="ci", kind="github")
    _, text = keys.make_one_deployment_key(policy, branch="", name="ci")
    yield Key(name="key for one deployment to production", text=text, owns=frozenset({production.pk}))


def _strangers(key: Key, sides: Sides) -> Iterator[tuple[Side, Place]]:
    """The places that are not the key's."""
    for side in sides:
        for place in side.places.values():
            if place.environment.pk not in key.owns:
                yield side, place


def _rows_of_others(key: Key) -> dict[object, Any]:
    """The rows that this key must not touch."""
    return {owner: rows for owner, rows in rows_by_owner().items() if owner not in key.owns}


@pytest.mark.attack
def test_the_suite_has_a_value_for_every_parameter_and_field_of_the_api() -> None:
    unknown = {
        str(operation): sorted((operation.names() - PARAMETERS.keys()) | (set(operation.fields) - BODY.keys()))
        for operation in OPERATIONS.values()
    }

    assert {name: found for name, found in unknown.items() if found} == {}


@pytest.mark.costly
@pytest.mark.attack(sample=3)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_key_reaches_nothing_beyond_its_environment(
    name: str, sides: Sides, attacker: Callable[..., Attacker]
) -> None:
    operation, client, own_ref = OPERATIONS[name], attacker(), sides[0].project.ref
    for key in _environment_keys(*sides):
        own = {place.canary for side in sides for place in side.places.values() if place.environment.pk in key.owns}
        # An answer may name the project of the key.
        own |= {sides[0].project.name, sides[0].person.username}
        for side, place in _strangers(key, sides):
            before = _rows_of_others(key)
            for number, request in enumerate(operation.requests(side, place)):
                # As a repeated request: with the idempotency key and the body of the request that made theirs.
                theirs = place.deployments[number % len(place.deployments)]
                digest = hashlib.sha256(request.body.encode()).hexdigest()
                Deployment.objects.filter(pk=theirs.pk).update(request_digest=digest)
                case = f"{request.method} {request.path} with the key of {key.name}, about {place.canary}"
                status, answer = send(client, request, key, theirs.idempotency_key)
                assert set(CANARY.findall(answer)) <= own, case
                if dict(request.names).get("ref", own_ref) != own_ref and name not in WHATEVER_THE_PROJECT:
                    assert status >= 400, case
                if (invented := operation.invented(request)) is not None and _is_foreign(request, key, side, sides):
                    wanted = send(client, invented, key, f"invented-{theirs.idempotency_key}")
                    assert status == wanted[0], case
                    if dict(request.names).keys() & INVENTED.keys():  # else something was made, with a name of its own
                        assert NOT_THERE.sub("…", answer) == NOT_THERE.sub("…", wanted[1]), case
            after = _rows_of_others(key)
            assert after == before, f"{name} with the key of {key.name}, about {place.canary}"


#: What a key that only pulls may do in its own environment.
PULLS = {"POST /api/v1/projects/{ref}/{env}/pull-credentials", "GET /api/v1/projects/{ref}/{env}/deploy-settings"}


@pytest.mark.attack
@pytest.mark.parametrize("name", [name for name, each in OPERATIONS.items() if each.auth and name not in PULLS])
def test_a_key_that_only_pulls_is_refused_by_every_other_operation_also_about_its_own_environment(
    name: str, sides: Sides, attacker: Callable[..., Attacker]
) -> None:
    own, client = sides[0], attacker()
    production = own.places["prod"]
    for place, environment in ((production, production.environment), (own.places["branch"], own.preview)):
        _, text = keys.make_environment_key(environment, scopes=(keys.PULL,))
        key = Key(name="pulls", text=text, branch=own.branch if environment == own.preview else "")
        for request in OPERATIONS[name].requests(own, place):
            assert send(client, request, key)[0] in (400, 403), request


def _is_foreign(request: Request, key: Key, side: Side, sides: Sides) -> bool:
    """Whether what the address names belongs to somebody else: an address of the key's own project may be known."""
    return side is not sides[0] or not dict(request.names).keys() & {"ref", "projectRef"}


# ----------------------------------------------------------------------------------------------- keys that do not work


def _revoked(key: AccessKey) -> None:
    keys.revoke(key)


def _expired(key: AccessKey) -> None:
    AccessKey.objects.filter(pk=key.pk).update(expires_at=Now() - timedelta(seconds=1))


def _rotated(key: AccessKey) -> None:
    keys.rotate(key)


def _rotated_and_after_its_grace(key: AccessKey) -> None:
    keys.rotate(key, timedelta(hours=1))
    _expired(key)


MALFORMED = (
    "", " ", "tr_prod_", "tr_pat_unknown0000", "tr_prod_\u00e9\u00e9", "x" * 5000, "Bearer tr_prod_x", "' OR 1=1 --",
    "tr_prod_x\ttr_pat_y", "null",
)  # fmt: skip


def _dead_keys(own: Side) -> Iterator[Key]:
    for text in MALFORMED:
        yield Key(name=f"malformed: {text[:20]!r}", text=text)
    production = own.places["prod"].environment
    for end in (_revoked, _expired, _rotated, _rotated_and_after_its_grace):
        for key, text in (keys.make_environment_key(production), keys.make_user_token(own.person)):
            end(key)
            yield Key(name=f"{end.__name__} {key.kind}", text=text)
    token, _ = keys.make_user_token(own.person)
    _, text = keys.make_deploy_key(production, token)
    keys.revoke(token)
    yield Key(name="deploy key whose token is revoked", text=text)
    gone = User.objects.create_superuser("gone", "gone@example.com")
    token, text = keys.make_user_token(gone)
    _, deploy = keys.make_deploy_key(production, token)
    User.objects.filter(pk=gone.pk).update(is_active=False)
    yield Key(name="token of a person who is not active", text=text)
    yield Key(name="deploy key of a person who is not active", text=deploy)


CLOSED = {name: operation for name, operation in OPERATIONS.items() if operation.auth}


@pytest.mark.costly
@pytest.mark.attack(sample=2)
@pytest.mark.parametrize("name", CLOSED)
def test_a_key_that_does_not_work_is_a_401_for_every_thing(
    name: str, sides: Sides, attacker: Callable[..., Attacker]
) -> None:
    """Also in a browser where a superuser is logged in: the API knows no cookies."""
    operation, client = CLOSED[name], attacker()
    client.force_login(sides[0].person)
    dead = list(_dead_keys(sides[0]))
    before = rows_by_owner()

    answers: dict[str, str] = {}
    for key in dead:
        for side in sides:
            for request in operation.requests(side, side.places["prod"]):
                status, answer = send(client, request, key)
                assert status == 401, f"{request.method} {request.path} with {key.name}: {answer}"
                answers[answer] = key.name

    assert len(answers) == 2, answers  # with an unknown key, and without one
    assert not CANARY.search("".join(answers))
    assert rows_by_owner() == before


@pytest.mark.costly
@pytest.mark.attack(sample=1)
@pytest.mark.parametrize("name", CLOSED)
def test_the_token_of_a_person_without_rights_is_a_403_for_every_thing(
    name: str, sides: Sides, attacker: Callable[..., Attacker]
) -> None:
    operation, client = CLOSED[name], attacker()
    production = sides[0].places["prod"].environment
    people = [User.objects.create(username="staff", is_staff=True), User.objects.create(username="nobody")]
    made = [keys.make_user_token(person) for person in people]
    worthless = [Key(name="token", text=text) for _, text in made]
    worthless += [Key(name="deploy key", text=keys.make_deploy_key(production, token)[1]) for token, _ in made]
    managing = [keys.make_user_token(person, for_management=True)[1] for person in people]
    worthless += [Key(name="management token", text=text) for text in managing]
    before = rows_by_owner()

    for key in worthless:
        for side in sides:
            for request in operation.requests(side, side.places["prod"]):
                status, answer = send(client, request, key)
                assert status == 403, f"{request.method} {request.path} with a {key.name}"
                assert not CANARY.search(answer)

    assert rows_by_owner() == before


# ----------------------------------------------------------------------------------------------- that an attack is one

#: Operations that need an archived project.
ARCHIVED_FIRST = {"DELETE /api/v1/manage/projects/{ref}"}
_SUCCESS = (200, 201, 204)


@pytest.mark.costly
@pytest.mark.attack(sample=3)
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_same_requests_of_the_owner_succeed(name: str, sides: Sides, attacker: Callable[..., Attacker]) -> None:
    """Else the attacks above would be refused for another reason than the key."""
    operation, (own, _) = OPERATIONS[name], sides
    production = own.places["prod"].environment
    owners = [
        Key(name="token", text=keys.make_user_token(own.person)[1]),
        Key(name="production", text=keys.make_environment_key(production)[1]),
        Key(name="preview", text=keys.make_environment_key(own.preview)[1], branch=own.branch),
        Key(name="management", text=keys.make_user_token(own.person, for_management=True)[1]),
    ]
    if name in ARCHIVED_FIRST:
        Project.objects.filter(pk=own.project.pk).update(archived_at=Now())

    answers = [
        send(attacker(), request, key)
        for key in owners
        for place in own.places.values()
        for request in operation.requests(own, place)
    ]

    if name in ("POST /api/v1/token", "POST /api/v1/auth/oidc"):  # their verifier and token are wrong on purpose
        assert {status for status, _ in answers} == {403}
    else:
        assert any(status in _SUCCESS and "event: error" not in answer for status, answer in answers), answers[:3]


@pytest.mark.attack
def test_the_environment_of_a_row_is_known(sides: Sides) -> None:
    """Else the comparison of rows would leave a table out."""
    own = {place.environment.pk for side in sides for place in side.places.values()}
    labels = {label for owner, rows in rows_by_owner().items() if owner in own for label, _ in rows}

    assert labels >= {
        f"deployments.{model.__name__}" for model in (AccessKey, Environment)
    } | {
        "deployments.Deployment", "deployments.BackgroundWorker", "deployments.Promotion",
        "deployments.PromotionEvent", "deployments.EnvironmentVariable",
    }  # fmt: skip
