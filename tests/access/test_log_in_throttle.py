"""Log-ins to the console: how many wrong passwords stop which log-ins, and how many hashes run at one time."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from axes.models import AccessAttempt, AccessLog
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.hashers import PBKDF2PasswordHasher, check_password
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_login_failed
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext

from deployments import measure
from deployments.access import hashing
from deployments.access.hashing import Rank
from deployments.access.log_in_throttle import address_of
from deployments.errors import Refusal
from tests.support.waiting import wait_for

HOME, ELSEWHERE, THIRD = "203.0.113.1", "198.51.100.7", "192.0.2.9"
LIMIT = 10


@pytest.fixture
def ada(db: None) -> User:
    return User.objects.create_superuser("ada", "ada@example.com", "right password")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names whose passwords were looked at."""
    names: list[str] = []
    looks: Callable[..., Any] = ModelBackend.authenticate

    def authenticate(self: Any, request: Any, username: str = "", **credentials: Any) -> Any:
        names.append(username)
        return looks(self, request, username=username, **credentials)

    monkeypatch.setattr(ModelBackend, "authenticate", authenticate)
    return names


def log_in(password: str, *, name: str = "ada", address: str = HOME) -> Any:
    return Client(REMOTE_ADDR=address).post("/admin/login/", {"username": name, "password": password})


def fail(times: int = LIMIT, *, name: str = "ada", address: str = ELSEWHERE) -> list[int]:
    return [log_in("wrong", name=name, address=address).status_code for _ in range(times)]


def works(response: HttpResponse) -> bool:
    return response.status_code == 302


def pass_minutes(minutes: int) -> None:
    AccessAttempt.objects.update(attempt_time=F("attempt_time") - timedelta(minutes=minutes))


@pytest.mark.costly
def test_ten_wrong_passwords_stop_the_address_before_the_next_password_is_looked_at(
    ada: User, hashed: list[str]
) -> None:
    assert fail() == [200] * 9 + [429]
    hashed.clear()

    refused = log_in("right password", address=ELSEWHERE)
    other = log_in("wrong", name="eve", address=ELSEWHERE)

    assert (refused.status_code, other.status_code) == (429, 429)
    assert hashed == []
    assert refused["Retry-After"] == "900"
    assert "no-store" in refused["Cache-Control"]
    page = refused.content.decode()
    assert "Too many wrong passwords or codes for this account or from this address. Wait 15 minutes" in page
    assert 'id="site-name"' in page  # in the console's look


@pytest.mark.costly
def test_who_guesses_from_elsewhere_does_not_lock_a_person_out_of_the_usual_address(ada: User) -> None:
    assert works(log_in("right password"))
    for address in (ELSEWHERE, THIRD):
        fail(20, address=address)

    assert works(log_in("right password"))


@pytest.mark.costly
def test_who_guesses_at_one_account_from_many_addresses_is_stopped_at_each_of_them(ada: User) -> None:
    for number in range(LIMIT):
        fail(1, address=f"198.51.100.{number}")

    assert log_in("right password", address="198.51.100.99").status_code == 429
    assert log_in("wrong", name="eve", address="198.51.100.98").status_code == 200


@pytest.mark.costly
def test_wrong_passwords_of_others_at_the_usual_address_do_not_stop_a_person(ada: User) -> None:
    assert works(log_in("right password"))
    fail(20, name="eve", address=HOME)

    assert works(log_in("right password"))
    assert log_in("wrong", name="grace", address=HOME).status_code == 429


@pytest.mark.costly
def test_guessing_is_stopped_at_the_usual_address_too(ada: User) -> None:
    assert works(log_in("right password"))
    fail(address=HOME)

    assert log_in("right password").status_code == 429


@pytest.mark.costly
def test_an_address_is_usual_for_thirty_days(ada: User) -> None:
    assert works(log_in("right password"))
    AccessLog.objects.update(attempt_time=F("attempt_time") - timedelta(days=31))
    fail(address=ELSEWHERE)

    assert log_in("right password").status_code == 429
    pass_minutes(16)
    assert works(log_in("right password"))
    assert AccessLog.objects.count() == 1  # the old row is gone


@pytest.mark.parametrize("password", ["right password", "wrong"])
def test_a_log_in_asks_once_whether_its_address_is_usual(ada: User, password: str) -> None:
    with CaptureQueriesContext(connection) as queries:
        log_in(password)

    asked = [query["sql"] for query in queries if 'SELECT 1 AS "a" FROM "axes_accesslog"' in query["sql"]]
    assert len(asked) == 1


@pytest.mark.costly
def test_a_stop_ends_by_itself_however_often_somebody_tries_meanwhile(ada: User) -> None:
    fail()
    pass_minutes(14)
    assert fail(5) == [429] * 5
    pass_minutes(2)

    assert works(log_in("right password", address=ELSEWHERE))
    assert not AccessAttempt.objects.exists()


@pytest.mark.costly
@pytest.mark.parametrize("command", [("axes_reset",), ("axes_reset_username", "ada"), ("axes_reset_ip", ELSEWHERE)])
def test_a_command_ends_a_stop(ada: User, command: tuple[str, ...]) -> None:
    fail()
    call_command(*command)

    assert works(log_in("right password", address=ELSEWHERE))


@pytest.mark.costly
def test_a_log_in_does_not_clear_the_wrong_passwords_of_its_address_for_other_accounts(ada: User) -> None:
    fail(9, name="eve", address=ELSEWHERE)
    assert works(log_in("right password", address=ELSEWHERE))

    assert log_in("wrong", name="eve", address=ELSEWHERE).status_code == 429
    assert works(log_in("right password", address=ELSEWHERE))


@pytest.mark.costly
def test_a_failed_log_in_sends_one_signal_whether_it_was_throttled_or_not(ada: User) -> None:
    sent: list[bool] = []

    def count(request: Any, **_: Any) -> None:
        sent.append(request.axes_locked_out)

    user_login_failed.connect(count)
    try:
        fail(11)
    finally:
        user_login_failed.disconnect(count)

    assert len(sent) == 11


@pytest.mark.costly
def test_a_stop_is_one_line_of_the_log_and_each_log_in_is_counted(
    ada: User, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(measure, "log_in", counted.append)

    assert works(log_in("right password"))
    fail(12)

    assert counted == ["done"] + ["failed"] * 10 + ["throttled"] * 2
    lines = [record.getMessage() for record in caplog.records if "log_in.throttled" in record.getMessage()]
    assert len(lines) == 1
    assert ELSEWHERE in lines[0]


def test_nothing_that_was_typed_is_stored_but_the_name(ada: User) -> None:
    Client(REMOTE_ADDR=HOME).post(
        "/admin/login/", {"username": "ada", "password": "a-canary", "csrfmiddlewaretoken": "a-token"}
    )

    [row] = AccessAttempt.objects.values()
    assert row["username"] == "ada"
    assert not re.search("a-canary|a-token", str(row))


@pytest.mark.parametrize(
    ("given", "counted"),
    [
        ("203.0.113.1", "203.0.113.1"),
        ("::ffff:203.0.113.1", "203.0.113.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", None),  # gunicorn on a socket file
    ],
)
def test_an_ipv6_network_counts_as_one_address(given: str, counted: str | None) -> None:
    request = HttpRequest()
    request.META["REMOTE_ADDR"] = given

    assert address_of(request) == counted


@pytest.mark.costly
def test_wrong_passwords_without_an_address_are_counted_together(ada: User) -> None:
    assert fail(name="eve", address="") == [200] * 9 + [429]
    assert log_in("right password", address="").status_code == 429
    assert works(log_in("right password"))


# ---- The hash


@pytest.fixture
def slow_passwords(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["deployments.access.hashing.Hasher"]


@pytest.fixture
def no_place(slow_passwords: None, ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_places", hashing.Places(most=0, seconds=0))


def test_a_hash_is_stored_and_read_as_django_does_it(slow_passwords: None) -> None:
    hasher = hashing.Hasher()
    encoded = hasher.encode("a password", "salt", 1)

    assert encoded == PBKDF2PasswordHasher().encode("a password", "salt", 1)
    assert hasher.verify("a password", encoded)
    assert check_password("a password", encoded)
    assert not hasher.verify("another", encoded)


@pytest.mark.costly
def test_a_log_in_without_a_place_is_a_page_that_says_to_try_again(no_place: None) -> None:
    refused = log_in("right password")

    assert (refused.status_code, refused["Retry-After"]) == (503, "5")
    assert "Try again in some seconds." in refused.content.decode()
    assert not AccessAttempt.objects.exists()  # nothing is known about the password


@pytest.mark.costly
def test_a_password_change_without_a_place_changes_nothing(no_place: None, ada: User) -> None:
    browser = Client()
    browser.force_login(ada)
    body = {"old_password": "right password", "new_password1": "another pass", "new_password2": "another pass"}

    assert browser.post("/admin/password_change/", body).status_code == 503
    one_of_another = browser.post(
        f"/admin/auth/user/{ada.pk}/password/", {"password1": "another pass", "password2": "another pass"}
    )
    assert one_of_another.status_code == 503
    stored = ada.password
    ada.refresh_from_db()
    assert ada.password == stored


@pytest.mark.parametrize("name", ["ada", "nobody"])
def test_a_password_that_is_too_long_to_be_set_is_not_looked_at(ada: User, hashed: list[str], name: str) -> None:
    too_long = "x" * (hashing.MAX_PASSWORD_CHARACTERS + 1)

    assert log_in(too_long, name=name).status_code == 200
    assert hashed == []
    with pytest.raises(ValidationError):
        hashing.MaximumLengthValidator().validate(too_long)
    hashing.MaximumLengthValidator().validate(too_long[1:])


def test_a_password_that_is_too_long_has_no_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = hashing.Hasher().encode("a password", "salt", 1)
    monkeypatch.setattr(hashing, "_places", hashing.Places(most=0, seconds=0))

    assert not hashing.Hasher().verify("x" * (hashing.MAX_PASSWORD_CHARACTERS + 1), encoded)


@pytest.mark.costly
def test_a_usual_address_has_the_best_rank_and_one_that_has_failed_the_worst(
    ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[hashing.Rank] = []
    looks: Callable[..., Any] = ModelBackend.authenticate

    def authenticate(self: Any, request: Any, **credentials: Any) -> Any:
        known.append(hashing.rank.get())
        return looks(self, request, **credentials)

    monkeypatch.setattr(ModelBackend, "authenticate", authenticate)
    fail(2)
    log_in("right password")
    fail(1, name="eve", address=HOME)
    log_in("right password")  # from the usual address, where only another account had a wrong password
    fail(1)
    Client().get("/admin/login/")

    new, failed, usual = hashing.Rank.NEW, hashing.Rank.FAILED, hashing.Rank.KNOWN
    assert known == [new, failed, new, new, usual, failed]
    assert hashing.rank.get() is usual  # the next request of this thread begins anew


@pytest.fixture
def places() -> hashing.Places:
    return hashing.Places(most=2, seconds=30)


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def waiter(places: hashing.Places, rank: hashing.Rank, ran: list[str]) -> threading.Thread:
    def run() -> None:
        with places.one(rank):
            ran.append(rank.name)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_for(lambda: places._waiting[rank] == 1)
    return thread


def test_two_hashes_run_at_one_time_one_more_waits_and_the_next_is_refused(
    places: hashing.Places, held: ExitStack
) -> None:
    ran: list[str] = []
    first = ExitStack()
    first.enter_context(places.one(Rank.KNOWN))
    held.enter_context(places.one(Rank.KNOWN))
    third = waiter(places, Rank.KNOWN, ran)

    with pytest.raises(Refusal) as refused, places.one(Rank.KNOWN):
        pass
    assert (refused.value.code, refused.value.retryable) == ("log_ins_busy", True)
    assert ran == []
    first.close()
    third.join(30)
    assert ran == ["KNOWN"]


@pytest.mark.parametrize("rank", [Rank.NEW, Rank.FAILED])
def test_one_place_is_kept_for_signed_in_people_and_usual_addresses(
    places: hashing.Places, held: ExitStack, rank: hashing.Rank
) -> None:
    held.enter_context(places.one(rank))
    with pytest.raises(Refusal), places.one(Rank.FAILED):
        pass

    with places.one(Rank.KNOWN):
        pass


@pytest.mark.parametrize("rank", [Rank.NEW, Rank.FAILED])
def test_a_better_rank_gets_a_place_first(rank: hashing.Rank) -> None:
    places = hashing.Places(most=2, seconds=0)
    places._waiting[Rank.KNOWN] = 1  # a place is free, and the thread that waits for it has not run yet

    with pytest.raises(Refusal), places.one(rank):
        pass
    with places.one(Rank.KNOWN):
        pass


def test_who_waits_too_long_is_refused_and_leaves_the_line(held: ExitStack) -> None:
    places = hashing.Places(most=1, seconds=0)
    held.enter_context(places.one(Rank.KNOWN))
    for _ in range(2):
        with pytest.raises(Refusal), places.one(Rank.KNOWN):
            pass
    held.close()

    with places.one(Rank.KNOWN):
        pass
