"""Requests that another site makes a logged-in browser send: none of them changes a row.

Every address that is not of the API gets a POST of a superuser's browser without the token of its form, with the token
of another browser, from a foreign origin, and from the origin `null`. (tests/attack/test_keys.py: the API knows no
cookies.)
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.attack.attacker import Attacker, copied
from tests.attack.console import ROUTES, Console, writes

KIND = "cross-site requests"
#: Addresses without a form: what answers a POST there, and how. They change nothing.
WITHOUT_TOKEN = {
    "healthz": 200,  # answered before any page
    "readyz": 200,
    "api": 404,
}
TOKEN = "a" * 32
FORGED = {
    "no token": {},
    "a token of another browser": {"token": "b" * 32},
    "a foreign origin": {"token": TOKEN, "HTTP_ORIGIN": "https://evil.example"},
    "a foreign origin with our name in it": {"token": TOKEN, "HTTP_ORIGIN": "http://testserver.evil.example"},
    "the origin null": {"token": TOKEN, "HTTP_ORIGIN": "null"},
    "the token in the address only": {"query": f"?csrfmiddlewaretoken={TOKEN}"},
}


def _send(client: Attacker, path: str, forged: dict[str, str], **data: str) -> int:
    more = {name: value for name, value in forged.items() if name.startswith("HTTP_")}
    data |= {"csrfmiddlewaretoken": forged["token"]} if "token" in forged else {}
    with writes() as written:
        response = client.post(path + forged.get("query", ""), data, **more)  # type: ignore[arg-type]
    assert written == set(), f"{path} {forged}"
    return int(response.status_code)


@pytest.mark.django_db
@pytest.mark.attack(sample=20)
@pytest.mark.parametrize("name", ROUTES)
def test_a_post_that_another_site_forged_is_a_403_and_changes_nothing(
    name: str, console: Console, attacker: Callable[..., Attacker]
) -> None:
    client = attacker(enforce_csrf_checks=True)
    client.log_in(console.superuser)
    client.cookies["csrftoken"] = TOKEN
    cookies = copied(client.cookies)
    for path in console.paths[name]:
        for kind, forged in FORGED.items():
            client.cookies = copied(cookies)
            wanted = WITHOUT_TOKEN.get(ROUTES[name].name, 403)
            assert _send(client, path, forged, post="yes") == wanted, f"{path} with {kind}"


@pytest.mark.django_db
@pytest.mark.attack
def test_the_same_post_with_its_own_token_is_taken(console: Console, attacker: Callable[..., Attacker]) -> None:
    """Else the posts above would be refused for another reason."""
    client = attacker(enforce_csrf_checks=True)
    client.log_in(console.superuser)
    client.cookies["csrftoken"] = TOKEN

    with writes() as written:
        response = client.post("/admin/setup/writes/", {"csrfmiddlewaretoken": TOKEN, "reason": "mine"})

    assert response.status_code == 302
    assert "writespause" in written
