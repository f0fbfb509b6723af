"""Every route × bodies that are too large, too deep, too wide, not JSON, or of another shape: a refusal, no change."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deployments.access import keys
from deployments.api.bodies import MAX_VALUES, rule
from tests.attack.attacker import Attacker
from tests.attack.operations import BODIES, BODY, OPERATIONS, Operation, Request
from tests.attack.projects import Place, Side, rows_by_owner

KIND = "hostile bodies"
pytestmark = pytest.mark.django_db(transaction=True)
JSON = "application/json"
#: No route takes one of these.
NOT_TAKEN: dict[str, bytes] = {
    "spaces": b" " * 1000,
    "not JSON": b"{a: 1}",
    "two documents": b"{}{}",
    "half of a document": b'{"contentHash": "a',
    "an array": b"[]",
    "a text": b'"a"',
    "a number": b"1",
    "null": b"null",
    "NaN": b'{"x": NaN}',
    "Infinity": b'{"x": -Infinity}',
    "a number above every float": b'{"x": 1e999}',
    "a number of 5,000 digits": b'{"x": %s}' % (b"9" * 5000),
    "not UTF-8": b'{"x": "\xff\xfe"}',
    "UTF-16": '{"x": 1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a raw NUL": b'{"x": "\0"}',
    "a key twice": b'{"x": 1, "x": 2}',
    "a key twice, deep": b'{"x": [{"y": 1, "y": 2}]}',
    "arrays, 200 deep": b'{"x": %s%s}' % (b"[" * 200, b"]" * 200),
    "objects, 200 deep": b'{"x": ' * 200 + b"1" + b"}" * 200,
    "arrays, 100,000 deep": b'{"x": %s%s}' % (b"[" * 100_000, b"]" * 100_000),
    "objects, 40,000 deep": b'{"x": ' * 40_000 + b"1" + b"}" * 40_000,
    "arrays that do not end": b'{"x": %s' % (b"[" * 100_000),
    "a form": b"contentHash=a&type=MANAGED",
    "XML": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
    "one value too many": b'{"x": [%s1]}' % (b"1," * MAX_VALUES),
}
#: A route takes these if its fields may be absent, if it ignores unknown ones, or repairs characters.
STRANGE: dict[str, bytes] = {
    "nothing": b"",
    "an escaped NUL": b'{"x": "\\u0000"}',
    "half of a surrogate pair": b'{"x": "\\ud800"}',
    "20,000 keys": b"{%s}" % b",".join(b'"%x":1' % number for number in range(20_000)),
    "__proto__ and __class__": b'{"__proto__": {"a": 1}, "__class__": "x", "constructor": {"prototype": {}}}',
}
#: Values that no field takes, or that no field should keep whole.
WRONG: tuple[Any, ...] = (
    None, True, -1, 2**64, 1.5, "", " ", "x" * 20_000, "\u202e\u0007\x1b[31m", "../../etc/passwd", "${jndi:ldap://x}",
    "' OR 1=1 --", "{{7*7}}", "<script>alert(1)</script>", "=cmd|' /C calc'!A0", [], [[]], {}, {"$ne": ""},
    ["x"] * 1000,
)  # fmt: skip
#: A report that cannot be read fails its deployment: its reason is shown to the person who deploys.
REPORT = "POST /api/v1/deployments/{deployment_id}/background-workers"
#: A root environment is not archived.
ROOT = "PUT /api/v1/manage/projects/{ref}/environments/{environment}"
#: The right body is refused: its verifier or token is wrong on purpose, an unreadable report has failed the deployment,
#: no version of a policy waits, and no AWS is there to ask.
VERSIONS = {
    f"POST /api/v1/manage/policy-versions/{{version_id}}/{act}" for act in ("start", "pause", "resume", "rollback")
}
NEEDS_AWS = "POST /api/v1/projects/{ref}/{env}/pull-credentials"
NOT_FINISHED = {"POST /api/v1/token", "POST /api/v1/auth/oidc", REPORT, ROOT, NEEDS_AWS} | VERSIONS
REFUSED = {400, 403, 404, 409, 411, 413, 415, 422}


def _key(operation: Operation, side: Side) -> str:
    if operation.auth == "ManagementToken":
        return keys.make_user_token(side.person, for_management=True)[1]
    if operation.auth in ("UserToken", "AnyKey"):
        return keys.make_user_token(side.person)[1]
    return keys.make_environment_key(side.places["prod"].environment)[1]


def _send(client: Attacker, key: str, request: Request, body: bytes, **more: str) -> int:
    content_type = more.pop("content_type", JSON)
    headers = {"Authorization": f"Bearer {key}"}
    answer = client.generic(request.method, request.path, body, content_type=content_type, headers=headers, **more)  # type: ignore[arg-type]
    answer.getvalue()
    return int(answer.status_code)


def _added(right: str, hostile: bytes) -> bytes:
    """The hostile field in a body that is right otherwise; a body that is no object stays as it is."""
    if not hostile.startswith(b'{"x"') or right == "{}":
        return hostile
    return right.encode()[:-1] + b", " + hostile[1:]


WITH_BODY = {name: operation for name, operation in OPERATIONS.items() if operation.method in BODIES}


@pytest.mark.costly
@pytest.mark.attack(sample=3)
@pytest.mark.parametrize("name", WITH_BODY)
def test_no_hostile_body_is_taken_or_changes_anything(
    name: str, sides: tuple[Side, Side], attacker: Callable[..., Attacker]
) -> None:
    operation, (own, _) = WITH_BODY[name], sides
    client, key = attacker(), _key(operation, own)
    requests = {request.path: request for request in operation.requests(own, own.places["prod"])}
    before = rows_by_owner()

    for path, request in requests.items():
        for kind, hostile in NOT_TAKEN.items():
            status = _send(client, key, request, _added(request.body, hostile))
            assert status in REFUSED or not operation.fields, f"{path}: {kind}: {status}"
        if operation.fields:
            for length in (rule(path).limit + 1, 2**31, 2**63):
                assert _send(client, key, request, b"{}", CONTENT_LENGTH=str(length)) == 413, f"{path}: {length} bytes"
            assert _send(client, key, request, b"{}", HTTP_CONTENT_ENCODING="gzip") == 415
    if operation.fields:
        assert name == REPORT or rows_by_owner() == before
    # Else the bodies above would be refused for another reason.
    if name not in NOT_FINISHED:
        assert any(_send(client, key, each, each.body.encode()) in (200, 201, 204) for each in requests.values())


@pytest.mark.costly
@pytest.mark.attack(sample=3)
@pytest.mark.parametrize("name", [name for name, operation in WITH_BODY.items() if operation.fields])
def test_no_value_of_a_field_is_a_500_or_reaches_anything_else(
    name: str, sides: tuple[Side, Side], attacker: Callable[..., Attacker]
) -> None:
    """Each field of a body that is right otherwise gets each wrong value; then strange bodies."""
    operation, (own, other) = WITH_BODY[name], sides
    client, key, place = attacker(), _key(operation, own), own.places["prod"]
    request = next(operation.requests(own, place))
    theirs = _rows_of(other)

    for body in (*_wrong_bodies(operation, own, place), *STRANGE.values()):
        _send(client, key, request, body)

    assert _rows_of(other) == theirs


def _wrong_bodies(operation: Operation, side: Side, place: Place) -> Iterator[bytes]:
    right = {name: BODY[name](side, place) for name in operation.fields}
    for field in operation.fields:
        for value in WRONG:
            yield json.dumps(right | {field: value}).encode()
        for inner in right[field] if isinstance(right[field], dict) else ():
            for value in WRONG:
                yield json.dumps(right | {field: right[field] | {inner: value}}).encode()


def _rows_of(side: Side) -> list[Any]:
    owners = {place.environment.pk for place in side.places.values()} | {f"project {side.project.pk}"}
    return [rows for owner, rows in rows_by_owner().items() if owner in owners]
