"""Every address that is not of the API × forms that are too large, have too many fields, or are malformed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deployments.api.bodies import KIB, MIB
from tests.attack.attacker import Attacker, copied
from tests.attack.console import ROUTES, Console, writes

KIND = "hostile forms"
pytestmark = pytest.mark.django_db
ANSWERED_BEFORE = {"healthz", "readyz"}  # without a look at the body
FORM = "application/x-www-form-urlencoded"
TYPES = (FORM, "multipart/form-data; boundary=x", "text/plain", "application/json")
TOO_MANY = "&".join(f"field{number}=1" for number in range(1001)).encode()  # Django takes 1,000
MALFORMED = (
    b'--x\r\nContent-Disposition: form-data; name="a"', b"--x--", b"\x00\xff%00", b"%" * 999, b"a=%ff%fe", b"&" * 999,
)  # fmt: skip
TOKEN = "a" * 32


@pytest.mark.attack(sample=6)
@pytest.mark.parametrize("name", ROUTES)
def test_a_form_that_is_too_large_is_a_413_and_a_malformed_one_changes_nothing(
    name: str, console: Console, attacker: Callable[..., Attacker]
) -> None:
    route, client = ROUTES[name], attacker(enforce_csrf_checks=True)
    client.log_in(console.superuser)
    client.cookies["csrftoken"] = TOKEN
    cookies = copied(client.cookies)

    def post(body: bytes, content_type: str, **headers: str) -> int:
        client.cookies = copied(cookies)
        with writes() as written:
            answer = client.generic("POST", path, body, content_type=content_type, **headers)  # type: ignore[arg-type]
        assert written == set(), f"{path}: {content_type}: {body[:60]!r}"
        return int(answer.status_code)

    for path in console.paths[name][:1]:
        for content_type in TYPES:
            for length in (256 * KIB + 1, 64 * MIB, 2**40):
                status = post(b"a=1", content_type, CONTENT_LENGTH=str(length))
                assert status == 413 or route.name in ANSWERED_BEFORE, f"{path}: {length} bytes of {content_type}"
            for body in MALFORMED:
                post(body, content_type)
        many = post(TOO_MANY, FORM, HTTP_X_CSRFTOKEN=TOKEN)
        assert many == 400 or route.name in ANSWERED_BEFORE | {"api"}, f"{path}: {many}"
