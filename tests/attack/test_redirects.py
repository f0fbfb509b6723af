"""Where an answer sends a browser: never to another site, whatever the address, the form or the Host header says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import pytest

from tests.attack.attacker import Attacker, copied
from tests.attack.console import CALLS, PASSWORD, ROUTES, Console, Form, writes

KIND = "redirects and hosts"
pytestmark = pytest.mark.django_db
ELSEWHERE = (
    "https://evil.example/", "http://evil.example", "//evil.example", "///evil.example", "////evil.example//",
    "/\\evil.example", "\\\\evil.example", "https:evil.example", "https:///evil.example", "http:\\\\evil.example",
    "/\t/evil.example", "\t//evil.example", "/%2f%2fevil.example", "javascript:alert(1)", "data:text/html,evil",
    "https://testserver@evil.example/", "https://testserver.evil.example/", "/..//evil.example",
)  # fmt: skip
HOSTS = (
    "evil.example", "evil.example:80", "testserver.evil.example", "testserver@evil.example", "evil.example#testserver",
    "testserver:80@evil.example", "[::1].evil.example", "testserver, evil.example", "testserver/evil.example", "",
    "127.0.0.1.evil.example", "TESTSERVER.evil.example", "..", "*",
)  # fmt: skip
FORWARDED = {
    "HTTP_X_FORWARDED_HOST": "evil.example", "HTTP_FORWARDED": "host=evil.example;proto=https",
    "HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_FORWARDED_PORT": "4444", "HTTP_X_HOST": "evil.example",
    "HTTP_X_ORIGINAL_URL": "/admin/auth/user/", "HTTP_X_REWRITE_URL": "/admin/auth/user/",
    "HTTP_X_FORWARDED_PREFIX": "//evil.example", "HTTP_X_HTTP_METHOD_OVERRIDE": "DELETE",
}  # fmt: skip
#: Any host is answered there, with nothing that depends on it.
ANY_HOST = {"healthz", "readyz"}


def goes_elsewhere(response: Any) -> bool:
    """Whether a browser would leave the site, as browsers read a Location: a backslash is a slash, and tabs go."""
    places = [response.headers.get("Location", ""), response.headers.get("Refresh", "").partition("url=")[2]]
    cleaned = ["".join(place.replace("\\", "/").split()) for place in places]
    return any(urlsplit(urljoin("http://testserver/x", place)).netloc != "testserver" for place in cleaned)


def test_what_a_browser_would_follow_is_recognized() -> None:
    for place in ("//evil.example", "/\\evil.example", "https://evil.example/", "https://testserver.evil.example/"):
        assert goes_elsewhere(type("Answer", (), {"headers": {"Location": place}}))
    for place in ("/admin/", "http://testserver/admin/", "?a=//evil.example"):
        assert not goes_elsewhere(type("Answer", (), {"headers": {"Location": place}}))


@pytest.mark.costly
@pytest.mark.attack(sample=6)
@pytest.mark.parametrize("name", ROUTES)
def test_no_address_sends_a_browser_elsewhere(name: str, console: Console, attacker: Callable[..., Attacker]) -> None:
    path = console.paths[name][0] if console.paths[name] else ""
    stranger, client = attacker(), attacker()
    cookies = client.log_in(console.superuser)
    for place in ELSEWHERE if path else ():
        query = urlencode({"next": place, "_popup": place, "return_to": place})
        for each in (stranger, client):
            client.cookies = copied(cookies)
            with writes():
                assert not goes_elsewhere(each.get(f"{path}?{query}")), f"{path} with {place!r}"
            if each is stranger or ROUTES[name].name not in CALLS:
                with writes():
                    assert not goes_elsewhere(each.post(f"{path}?{query}", {"next": place})), f"{path} with {place!r}"


@pytest.mark.attack(sample=0)
@pytest.mark.parametrize("place", ELSEWHERE)
def test_no_form_sends_a_browser_elsewhere(place: str, console: Console, attacker: Callable[..., Attacker]) -> None:
    """Each form of the console that has the page to return to."""
    client = attacker()
    cookies = client.log_in(console.superuser)
    forms = [form for found in console.forms.values() for form in found if "next" in dict(form.fields)]
    for form in forms:
        client.cookies = copied(cookies)
        with writes():
            response = client.post(form.path, _with_next(form, place))
        assert not goes_elsewhere(response), f"{form.path} with {place!r}"


@pytest.mark.attack(sample=6)
@pytest.mark.parametrize("place", ELSEWHERE)
def test_the_right_password_sends_nobody_elsewhere(
    place: str, console: Console, attacker: Callable[..., Attacker]
) -> None:
    form = {"username": "role-operator", "password": PASSWORD, "next": place}
    for path in ("/admin/login/", f"/admin/login/?{urlencode({'next': place})}"):
        with writes():
            answer = attacker().post(path, form)
        assert answer.status_code == 302
        assert not goes_elsewhere(answer), f"{path} with {place!r}"


def _with_next(form: Form, place: str) -> dict[str, list[str]]:
    return next(form.variants()) | {"next": [place]}


@pytest.mark.costly
@pytest.mark.attack(sample=6)
@pytest.mark.parametrize("name", ROUTES)
def test_a_host_that_is_not_ours_is_a_400_and_no_header_names_another_host_or_path(
    name: str, console: Console, attacker: Callable[..., Attacker], settings: Any
) -> None:
    settings.ALLOWED_HOSTS = ["testserver"]
    client = attacker()
    cookies = client.log_in(console.superuser)
    for path in console.paths[name][:1]:
        client.cookies = copied(cookies)
        with writes():
            plain = client.get(path)
        for host in HOSTS:
            client.cookies = copied(cookies)
            with writes():
                answer = client.get(path, HTTP_HOST=host)
            wanted = {plain.status_code} if ROUTES[name].name in ANY_HOST else {400}
            assert answer.status_code in wanted, f"{path} with Host: {host!r}"
            assert b"evil.example" not in answer.getvalue()
        for header, value in FORWARDED.items():
            client.cookies = copied(cookies)
            with writes():
                answer = client.get(path, **{header: value})  # type: ignore[arg-type]
            assert answer.status_code == plain.status_code, f"{path} with {header}"
            assert not goes_elsewhere(answer), f"{path} with {header}"
            assert "evil.example" not in answer.getvalue().decode(errors="replace") + str(answer.headers)
