"""The second factor over HTTP: the step of the log-in, and each person's page “Your log-in”."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.contrib.auth.models import Group, Permission, User
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.db import connection, connections
from django.db.models import F
from django.test import Client

from deployments import clock
from deployments.access import second_factor, sessions
from deployments.models import AuditEntry, RecoveryCode, SecondFactor
from tests import databases
from tests.support.constants import TRAIL
from tests.support.second_factors import NOON, WRONG, SoftPasskey, code_of, with_app
from tests.support.waiting import before_the_first, wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
PASSWORD = "a-long-enough-1"
LOG_IN, STEP, SET_UP = "/admin/login/", "/admin/login/second-factor/", "/admin/login/second-factor/set-up/"
MINE, ADD, CODES = "/admin/your-log-in/", "/admin/your-log-in/add/", "/admin/your-log-in/recovery-codes/"
PROJECTS = "/admin/deployments/project/"
HOME, ELSEWHERE = "203.0.113.1", "198.51.100.7"


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOON)


@pytest.fixture
def ada(db: None, stopped: None) -> User:
    return User.objects.create_superuser("ada", "ada@example.com", PASSWORD)


@pytest.fixture
def app(ada: User) -> tuple[str, list[str]]:
    """The key of Ada's app, and her recovery codes."""
    return with_app(ada)


@pytest.fixture
def required(configure: Callable[..., Any]) -> None:
    configure(SECOND_FACTOR_REQUIRED="1")


def with_password(name: str = "ada", *, address: str = HOME, following: str = PROJECTS) -> Client:
    """A browser in which the right password was given. Its Host header is that of APP_ORIGIN."""
    client = Client(REMOTE_ADDR=address, headers={"host": "localhost:8000"})
    answer = client.post(LOG_IN, {"username": name, "password": PASSWORD, "next": following})
    assert answer.status_code == 302, answer.content
    return client


def text(answer: Any) -> str:
    return str(answer.content.decode())


def is_in(client: Client) -> bool:
    return "_auth_user_id" in client.session


def in_console(name: str = "ada") -> Client:
    """A browser in which somebody without a second factor has just logged in."""
    client = with_password(name)
    assert is_in(client)
    return client


def step_with_code(code: str, client: Client | None = None) -> Any:
    return (client or with_password()).post(STEP, {"code": code})


def make_passkey(client: Client, page: str = ADD, **passkey: Any) -> SoftPasskey:
    made = SoftPasskey(**passkey)
    answer = client.post(page, {"name": "Laptop", "credential": made.make(client.get(page).context["options"])})
    assert answer.status_code in (200, 302)
    return made


def log_in_lines() -> list[tuple[str, Any, str]]:
    return list(AuditEntry.objects.filter(action="log_in.user").order_by("pk").values_list("actor", "after", "outcome"))


# -------------------------------------------------------------------------------------------------------- the log-in


def test_who_has_no_second_factor_logs_in_with_the_password(ada: User) -> None:
    assert is_in(with_password())
    assert log_in_lines() == [("ada@example.com", {"by": "password"}, "done")]


def test_the_password_alone_logs_nobody_in_who_has_a_second_factor(app: Any) -> None:
    client = with_password()

    assert not is_in(client)
    assert client.get("/admin/").status_code == 302
    assert client.get(MINE).status_code == 302
    page = client.get(STEP)
    assert "Code of your app, or a recovery code" in text(page)
    assert "no-store" in page["Cache-Control"]
    assert log_in_lines() == []


def test_a_code_after_the_password_logs_in_and_leads_to_the_page_that_was_asked_for(app: Any) -> None:
    client = with_password()

    answer = step_with_code(code_of(app[0]), client)

    assert (answer.status_code, answer["Location"]) == (302, PROJECTS)
    assert is_in(client)
    assert sessions.LOG_IN_AT in client.session
    assert "log_in_pending" not in client.session
    assert log_in_lines() == [("ada@example.com", {"by": "password and code"}, "done")]


def test_a_recovery_code_after_the_password_logs_in_once(app: Any) -> None:
    assert step_with_code(app[1][0]).status_code == 302

    assert step_with_code(app[1][0]).status_code == 200
    assert [line[1]["by"] for line in log_in_lines()[:1]] == ["password and recovery code"]
    [line] = AuditEntry.objects.filter(action="use.recovery_code")
    assert (line.actor, line.before, line.after) == ("ada@example.com", {"left": 10}, {"left": 9})


@pytest.mark.costly
def test_a_passkey_after_the_password_logs_in_and_its_answer_does_so_once(ada: User) -> None:
    passkey = make_passkey(in_console(), counts=False)
    client, thief = with_password(), with_password()
    answer = passkey.use(client.get(STEP).context["options"])
    thief.get(STEP)

    assert "The passkey was refused: Wrong challenge" in text(thief.post(STEP, {"credential": answer}))
    assert client.post(STEP, {"credential": answer})["Location"] == PROJECTS
    assert is_in(client)
    assert "passkey_challenge" not in client.session
    assert not is_in(thief)
    client.post("/admin/logout/")
    client.post(LOG_IN, {"username": "ada", "password": PASSWORD})
    assert "refused" in text(client.post(STEP, {"credential": answer}))
    assert [line[1] for line in log_in_lines() if line[2] == "done"][-1] == {"by": "password and passkey"}


@pytest.mark.costly
def test_a_refused_answer_of_a_passkey_uses_up_its_challenge(ada: User) -> None:
    passkey = make_passkey(in_console())
    client = with_password()
    options = client.get(STEP).context["options"]

    client.post(STEP, {"credential": "{}"})

    assert "refused" in text(client.post(STEP, {"credential": passkey.use(options)}))
    assert not is_in(client)


@pytest.mark.costly
def test_a_passkey_that_counts_back_has_a_line_of_its_own(ada: User) -> None:
    passkey = make_passkey(in_console(), uses=5)
    client, passkey.uses = with_password(), 0

    page = client.post(STEP, {"credential": passkey.use(client.get(STEP).context["options"])})

    assert "a copy of it may exist" in text(page)
    line = AuditEntry.objects.get(action="use.second_factor")
    assert (line.actor, "a copy of it may exist" in line.outcome) == ("ada@example.com", True)
    assert not is_in(client)


def test_nothing_about_second_factors_is_shown_before_the_right_password(app: Any) -> None:
    User.objects.create_superuser("kim", password=PASSWORD)
    pages = []
    for name in ("ada", "kim"):
        client = Client(REMOTE_ADDR=HOME)
        answer = client.post(LOG_IN, {"username": name, "password": "wrong"})
        pages.append(text(answer).replace(name, "").replace(str(answer.context["csrf_token"]), ""))
        assert client.get(STEP)["Location"] == LOG_IN
        assert client.get(SET_UP)["Location"] == LOG_IN
        assert client.post(STEP, {"code": code_of(app[0])})["Location"] == LOG_IN
        assert not is_in(client)
    assert pages[0] == pages[1]


def _later(client: Client, seconds: int) -> None:
    session = client.session
    session["log_in_pending"] = {**session["log_in_pending"], "at": time.time() - seconds}
    session.save()


def test_a_log_in_waits_ten_minutes_for_its_second_factor(app: Any) -> None:
    in_time, late = with_password(), with_password()
    _later(in_time, 590)
    _later(late, 610)

    answer = late.post(STEP, {"code": code_of(app[0])}, follow=True)

    assert answer.redirect_chain == [(f"{LOG_IN}?next=%2Fadmin%2Fdeployments%2Fproject%2F", 302)]
    assert "This log-in has ended" in text(answer)
    assert step_with_code(code_of(app[0]), in_time).status_code == 302
    assert (is_in(late), is_in(in_time)) == (False, True)


def test_a_log_in_goes_on_at_a_web_process_whose_clock_is_behind(app: Any) -> None:
    client = with_password()
    _later(client, -5)

    assert step_with_code(code_of(app[0]), client).status_code == 302
    assert is_in(client)
    session = client.session
    session[sessions.LOG_IN_AT] = time.time() + 5
    session.save()
    assert client.get(ADD).status_code == 200


@pytest.mark.parametrize("fields", [{"is_active": False}, {"is_staff": False}])
def test_a_log_in_that_waits_ends_when_the_account_may_not_use_the_console(fields: Any, app: Any) -> None:
    client = with_password()
    User.objects.update(**fields)

    assert step_with_code(code_of(app[0]), client).status_code == 302
    assert not is_in(client)


def test_a_log_in_that_waits_ends_when_the_password_is_changed(ada: User, app: Any) -> None:
    client = with_password()
    ada.set_password("another-" + PASSWORD)
    ada.save()

    step_with_code(code_of(app[0]), client)

    assert not is_in(client)


def test_a_log_in_that_waits_does_not_begin_when_the_second_factors_were_removed(ada: User, app: Any) -> None:
    client = with_password()
    second_factor.remove_all(person=ada, trail=TRAIL)

    assert client.get(STEP)["Location"] == SET_UP
    assert client.get(SET_UP)["Location"].startswith(LOG_IN)
    assert client.post(SET_UP, {"code": WRONG})["Location"] == LOG_IN
    assert not is_in(client)


def test_a_log_in_that_waits_does_not_outlast_the_log_in_of_another_person(app: Any) -> None:
    User.objects.create_superuser("kim", password=PASSWORD)
    client = with_password()

    client.post(LOG_IN, {"username": "kim", "password": PASSWORD})

    assert client.post(STEP, {"code": code_of(app[0])})["Location"] == LOG_IN
    assert client.session["_auth_user_id"] == str(User.objects.get(username="kim").pk)


def test_the_session_gets_a_new_key_with_the_right_password_and_with_the_second_factor(app: Any) -> None:
    client = Client(REMOTE_ADDR=HOME)
    client.get(LOG_IN)
    session = client.session
    session["from"] = "before"
    session.save()
    client.cookies["sessionid"] = session.session_key or ""
    client.post(LOG_IN, {"username": "ada", "password": PASSWORD})
    waiting = client.session.session_key
    step_with_code(code_of(app[0]), client)

    assert len({session.session_key, waiting, client.session.session_key}) == 3
    assert not Session.objects.filter(session_key__in=[session.session_key, waiting]).exists()


# ------------------------------------------------------------------------------------------------------ wrong codes


@pytest.mark.costly
def test_after_five_wrong_codes_the_password_is_asked_for_again(app: Any) -> None:
    client = with_password()

    answers = [step_with_code(WRONG, client) for _ in range(5)]

    assert [answer.status_code for answer in answers] == [200] * 4 + [302]
    assert "wrong, has expired, or was used before" in text(answers[0])
    assert answers[4]["Location"].startswith(LOG_IN)
    assert "5 wrong codes" in text(client.get(LOG_IN))
    step_with_code(code_of(app[0]), client)
    assert not is_in(client)


@pytest.mark.costly
def test_ten_wrong_codes_stop_log_ins_before_the_next_code_is_looked_at(app: Any) -> None:
    for _ in range(9):
        assert step_with_code(WRONG, with_password(address=ELSEWHERE)).status_code == 200
    waiting = with_password(address=ELSEWHERE)
    tenth = step_with_code(WRONG, with_password(address=ELSEWHERE))

    refused = step_with_code(code_of(app[0]), waiting)
    by_recovery_code = step_with_code(app[1][0], waiting)

    for answer in (tenth, refused, by_recovery_code):
        assert (answer.status_code, answer["Retry-After"]) == (429, "900")
        assert "Too many wrong passwords or codes" in text(answer)
    assert not is_in(waiting)
    assert second_factor.recovery_codes_left(User.objects.get()) == 10
    assert Client(REMOTE_ADDR=ELSEWHERE).post(LOG_IN, {"username": "ada", "password": PASSWORD}).status_code == 429
    AccessAttempt.objects.update(attempt_time=F("attempt_time") - timedelta(minutes=16))
    assert step_with_code(code_of(app[0]), waiting).status_code == 302
    assert is_in(waiting)


@pytest.mark.costly
def test_wrong_codes_and_wrong_passwords_are_one_count(app: Any) -> None:
    for _ in range(5):
        Client(REMOTE_ADDR=ELSEWHERE).post(LOG_IN, {"username": "ada", "password": "wrong"})
    answers = [step_with_code(WRONG, with_password(address=ELSEWHERE)).status_code for _ in range(5)]

    assert answers == [200] * 4 + [429]


@pytest.mark.costly
def test_wrong_codes_from_elsewhere_do_not_stop_the_usual_address(app: Any) -> None:
    assert step_with_code(app[1][0]).status_code == 302
    for _ in range(9):
        step_with_code(WRONG, with_password(address=ELSEWHERE))
    step_with_code(WRONG, with_password(address=ELSEWHERE))

    assert step_with_code(code_of(app[0])).status_code == 302


def test_the_lines_of_a_wrong_code_say_that_the_password_was_right(app: Any) -> None:
    step_with_code(WRONG)
    client = with_password()
    client.post(STEP, {"credential": "{}"})

    assert log_in_lines() == [
        ("unknown", {"account": True, "second_factor": kind}, sessions.FAILED_SECOND_FACTOR)
        for kind in ("code", "passkey")
    ]
    assert {line.object_label for line in AuditEntry.objects.filter(action="log_in.user")} == {"ada"}


def test_no_row_and_no_line_has_a_code_that_was_typed(app: Any, caplog: pytest.LogCaptureFixture) -> None:
    client, almost = with_password(), app[1][0][:-1] + ("B" if app[1][0][-1] == "A" else "A")

    for code in (WRONG, almost):
        step_with_code(code, client)
    client.post(STEP, {"credential": '{"id": "canary"}'})

    kept = json.dumps(list(AccessAttempt.objects.values_list("post_data", "get_data")))
    kept += json.dumps(list(AuditEntry.objects.values_list("after", "before", "outcome"))) + caplog.text
    assert AccessAttempt.objects.get().failures_since_start == 3
    for secret in (WRONG, almost, "canary", app[0]):
        assert secret not in kept


def test_the_code_is_used_and_the_log_in_is_written_together_or_not_at_all(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = with_password()
    client.raise_request_exception = False
    with monkeypatch.context() as patch:
        patch.setattr(AuditEntry, "save", lambda *_, **__: 1 / 0)
        assert step_with_code(code_of(app[0]), client).status_code == 500
        assert step_with_code(app[1][0], client).status_code == 500
    assert not is_in(client)

    assert step_with_code(code_of(app[0]), client).status_code == 302
    assert second_factor.recovery_codes_left(User.objects.get()) == 10


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("which", ["app", "recovery code"])
def test_of_two_log_ins_at_once_with_one_code_one_works(which: str, stopped: None, transactional_db: None) -> None:
    ada = User.objects.create_superuser("ada", "ada@example.com", PASSWORD)
    for _ in range(3):
        second_factor.remove_all(person=ada, trail=TRAIL)
        seed, codes = with_app(ada)
        code, together = code_of(seed) if which == "app" else codes[0], Barrier(2)
        clients = [with_password(), with_password()]

        def log_in(client: Client, code: str = code, together: Barrier = together) -> int:
            try:
                together.wait(20)
                return int(step_with_code(code, client).status_code)
            finally:
                connections.close_all()

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(log_in, clients)) == [200, 302]
        assert sorted(is_in(client) for client in clients) == [False, True]


#: Five log-ins with the right password and a wrong code, from the address of the arguments.
GUESSES = """
import sys, django
django.setup()
from django.conf import settings
from django.test import Client
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
for _ in range(5):
    client = Client(REMOTE_ADDR=sys.argv[1], headers={"host": "localhost:8000"})
    client.post("/admin/login/", {"username": "ada", "password": sys.argv[2]})
    print(client.post("/admin/login/second-factor/", {"code": sys.argv[3]}).status_code)
"""


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_the_wrong_codes_of_all_processes_are_one_count(stopped: None, transactional_db: None) -> None:
    with_app(User.objects.create_superuser("ada", "ada@example.com", PASSWORD))
    url = databases.url_of(str(connection.settings_dict["NAME"]))
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "registry_admin.settings", "DATABASE_URL": url}

    other = subprocess.run(
        [sys.executable, "-c", GUESSES, ELSEWHERE, PASSWORD, WRONG],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    here = [step_with_code(WRONG, with_password(address=ELSEWHERE)).status_code for _ in range(5)]

    assert other.stdout.split() == ["200"] * 5, other.stderr
    assert here == [200] * 4 + [429]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time")
@pytest.mark.django_db(transaction=True)
def test_two_new_sets_of_recovery_codes_at_once_leave_one(stopped: None, transactional_db: None) -> None:
    ada = User.objects.create_superuser("ada", "ada@example.com", PASSWORD)
    with_app(ada)

    def make() -> list[str]:
        try:
            return second_factor.make_recovery_codes(person=ada, trail=TRAIL)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        other: list[Future[list[str]]] = []

        def meanwhile() -> None:
            other.append(pool.submit(make))
            wait_for(lambda: other[0].done() or _somebody_waits())

        with connection.execute_wrapper(before_the_first('INSERT INTO "deployments_recoverycode"', meanwhile)):
            second_factor.make_recovery_codes(person=ada, trail=TRAIL)
        other[0].result(20)

    assert second_factor.recovery_codes_left(ada) == 10


def _somebody_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted")
        return cursor.fetchone() is not None


# ------------------------------------------------------------------------------------------------------ where required


@pytest.mark.costly
def test_where_required_the_session_begins_after_a_second_factor_was_set_up(ada: User, required: None) -> None:
    client = with_password()
    assert not is_in(client)
    page = client.get(STEP, follow=True)
    assert page.redirect_chain == [(SET_UP, 302)]
    assert "Set one up now" in text(page)
    seed = page.context["seed"].replace(" ", "")
    assert "wrong, has expired" in text(client.post(SET_UP, {"code": WRONG, "name": "Phone"}))
    assert client.get(SET_UP).context["seed"].replace(" ", "") == seed  # the app has it already

    done = client.post(SET_UP, {"code": code_of(seed), "name": "Phone"})

    assert is_in(client)
    assert "no-store" in done["Cache-Control"]
    assert len(done.context["codes"]) == 10
    assert f'href="{PROJECTS}"' in text(done)
    assert log_in_lines() == [("ada@example.com", {"by": "password and code"}, "done")]
    added = AuditEntry.objects.get(action="add.second_factor")
    assert (added.actor, added.after) == ("ada@example.com", {"kind": "totp", "name": "Phone"})
    assert step_with_code(done.context["codes"][0]).status_code == 302


def test_where_required_a_passkey_can_be_set_up(ada: User, required: None) -> None:
    client = with_password()

    make_passkey(client, SET_UP)

    assert is_in(client)
    assert log_in_lines() == [("ada@example.com", {"by": "password and passkey"}, "done")]


def test_who_has_a_second_factor_sets_up_none_during_the_log_in(app: Any, required: None) -> None:
    client = with_password()

    assert client.get(SET_UP)["Location"] == STEP
    assert client.post(SET_UP, {"code": code_of(app[0])})["Location"] == STEP
    assert not is_in(client)
    assert SecondFactor.objects.count() == 1


def test_a_second_factor_that_appears_during_the_set_up_is_not_passed_by(
    ada: User, required: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = with_password()
    options = client.get(SET_UP).context["options"]
    add: Callable[..., Any] = second_factor.add_passkey

    def somebody_else_first(**arguments: Any) -> Any:
        with_app(ada)
        return add(**arguments)

    monkeypatch.setattr(second_factor, "add_passkey", somebody_else_first)

    page = client.post(SET_UP, {"credential": SoftPasskey().make(options)})

    assert "has a second factor already" in text(page)
    assert not is_in(client)


# --------------------------------------------------------------------------------------------------------- your log-in


def add_app(client: Client, name: str = "Phone") -> Any:
    seed = client.get(ADD).context["seed"].replace(" ", "")
    return client.post(ADD, {"code": code_of(seed), "name": name})


@pytest.mark.costly
def test_an_app_is_added_with_a_picture_a_key_and_a_code(ada: User) -> None:
    client = in_console()
    assert "You have none" in text(client.get(MINE))
    page = client.get(ADD)
    assert 'src="data:image/svg+xml' in text(page)
    assert "no-store" in page["Cache-Control"]
    assert page.context["seed"] in text(page)
    assert not SecondFactor.objects.exists()

    done = add_app(client)

    for code in done.context["codes"]:
        assert code in text(done)
    assert "no-store" in done["Cache-Control"]
    mine = text(client.get(MINE))
    assert "Phone" in mine
    assert "10 left" in mine
    assert done.context["codes"][0] not in mine
    assert add_app(client, "Tablet")["Location"] == MINE  # no new codes


def test_the_key_of_an_app_that_is_being_added_is_encrypted_in_the_session(ada: User) -> None:
    client = in_console()

    seed = client.get(ADD).context["seed"].replace(" ", "")

    kept = json.dumps([row.get_decoded() for row in Session.objects.all()])
    assert "second_factor_seed" in kept
    assert seed not in kept


@pytest.mark.costly
def test_a_passkey_is_added_and_removed_with_lines(ada: User) -> None:
    client = in_console()
    make_passkey(client)
    row = SecondFactor.objects.get()
    ask = f"{MINE}{row.pk}/remove/"

    assert "your password alone is enough" in text(client.get(ask))
    assert SecondFactor.objects.exists()
    assert "Passkey “Laptop” was removed" in text(client.post(ask, follow=True))

    assert not SecondFactor.objects.exists()
    lines = AuditEntry.objects.filter(action__endswith=".second_factor").order_by("pk")
    assert [(line.action, line.actor, line.before, line.after) for line in lines] == [
        ("add.second_factor", "ada@example.com", None, {"kind": "passkey", "name": "Laptop"}),
        ("remove.second_factor", "ada@example.com", {"kind": "passkey", "name": "Laptop"}, None),
    ]


@pytest.mark.costly
def test_new_recovery_codes_are_shown_once_and_few_are_warned_of(ada: User) -> None:
    client = in_console()
    assert client.get(CODES)["Location"] == MINE  # there is no second factor yet
    codes = add_app(client).context["codes"]
    for used, warns in ((0, False), (7, False), (8, True)):
        first = list(RecoveryCode.objects.order_by("pk").values_list("pk", flat=True))[:used]
        RecoveryCode.objects.filter(pk__in=first).update(used_at=NOON)
        mine = text(client.get(MINE))
        assert (f"{10 - used} left" in mine, "alarm warn" in mine) == (True, warns)
    assert "2 of them were not used" in text(client.get(CODES))
    assert second_factor.recovery_codes_left(ada) == 2

    new = client.post(CODES)

    assert set(new.context["codes"]).isdisjoint(codes)
    assert new.context["codes"][0] in text(new)
    line = AuditEntry.objects.filter(action="make.recovery_codes")[0]
    assert (line.before, line.after) == ({"left": 2}, {"left": 10})


def test_a_stranger_to_a_second_factor_cannot_remove_it(ada: User) -> None:
    kim = User.objects.create_superuser("kim", password=PASSWORD)
    client = in_console("kim")
    with_app(ada)
    row = SecondFactor.objects.get()

    assert client.get(f"{MINE}{row.pk}/remove/").status_code == 404
    assert client.post(f"{MINE}{row.pk}/remove/").status_code == 404
    assert second_factor.of(ada).exists()
    assert not second_factor.of(kim).exists()


@pytest.mark.parametrize(
    ("page", "form"),
    [
        ("single-sign-on", {"subject": "mallory"}),
        ("password", {"password1": "of-mallory-12", "password2": "of-mallory-12", "usable_password": "true"}),
        ("change", {"username": "ada", "email": "mallory@example.com", "is_active": "on", "is_staff": "on"}),
    ],
)
def test_a_browser_that_was_left_open_gives_no_account_away_after_fifteen_minutes(
    page: str, form: dict[str, str], ada: User, configure: Callable[..., Any]
) -> None:
    configure(SSO_ISSUER="https://id.example.com", SSO_CLIENT_ID="here", SSO_GROUPS='{"staff":"viewer"}')
    client = in_console()
    session = client.session
    session[sessions.LOG_IN_AT] = time.time() - 901
    session.save()

    answer = client.post(f"/admin/auth/user/{ada.pk}/{page}/", form)

    assert answer.status_code == 403
    assert "Log in again" in text(answer)
    ada.refresh_from_db()
    assert (ada.email, ada.check_password(PASSWORD)) == ("ada@example.com", True)
    assert not ada.identities.exists()


@pytest.mark.costly
@pytest.mark.parametrize("what", ["add", "remove", "recovery codes", "of another"])
def test_a_log_in_of_more_than_fifteen_minutes_ago_changes_nothing(what: str, ada: User) -> None:
    client, kim = in_console(), User.objects.create_user("kim", password=PASSWORD)
    passkey, options = SoftPasskey(), client.get(ADD).context["options"]
    for person in (ada, kim):
        with_app(person)
    row = second_factor.of(ada).get()
    address = {
        "add": ADD, "remove": f"{MINE}{row.pk}/remove/", "recovery codes": CODES,
        "of another": f"/admin/auth/user/{kim.pk}/second-factors/",
    }[what]  # fmt: skip
    before = list(SecondFactor.objects.values()), second_factor.recovery_codes_left(ada)
    session = client.session
    session[sessions.LOG_IN_AT] = time.time() - 901
    session.save()

    for page in (client.get(address), client.post(address, {"credential": passkey.make(options)})):
        assert page.status_code == 403
        assert "Log in again" in text(page)
    assert (list(SecondFactor.objects.values()), second_factor.recovery_codes_left(ada)) == before
    out = client.post("/admin/logout/", {"next": page.context["next"]})
    assert out["Location"] == f"{LOG_IN}?next={address.replace('/', '%2F')}"
    assert not is_in(client)


@pytest.mark.costly
def test_the_page_says_why_no_passkey_is_offered(ada: User, configure: Callable[..., Any]) -> None:
    client = in_console()
    assert 'data-passkey="make"' in text(client.get(ADD))
    assert 'data-passkey="make"' in text(client.get(ADD, headers={"host": "localhost"}))  # a proxy without the port

    for origin, words in (
        ("http://deploy.example.com", "only over https"),
        ("https://deploy.example.com", "Passkeys work only at https://deploy.example.com."),
    ):
        configure(APP_ORIGIN=origin)
        page = text(client.get(ADD))
        assert words in page
        assert "data-passkey" not in page
        assert "passkey.js" not in page


def test_the_page_of_somebody_without_a_password_says_that_none_is_asked_for(ada: User) -> None:
    client = in_console()
    ada.set_unusable_password()
    ada.save()
    client.force_login(ada)

    assert "You have no password" in text(client.get(MINE))


def test_every_page_of_the_console_leads_to_your_log_in(ada: User) -> None:
    assert f'href="{MINE}"' in text(in_console().get("/admin/"))


# -------------------------------------------------------------------------------------------------- an administrator


def keeper(*codenames: str) -> Client:
    user = User.objects.create_user("keeper", password=PASSWORD, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return in_console("keeper")


@pytest.mark.costly
def test_an_administrator_sees_and_removes_the_second_factors_of_a_person(ada: User) -> None:
    kim = User.objects.create_superuser("kim", "kim@example.com", PASSWORD)
    client = in_console("kim")
    with_app(ada)
    person, ask = f"/admin/auth/user/{ada.pk}/change/", f"/admin/auth/user/{ada.pk}/second-factors/"

    page = text(client.get(person))
    assert "Code from an app “Phone”, last used never" in page
    assert ask in page
    assert "the password alone is enough to log in as ada" in text(client.get(ask))
    assert second_factor.of(ada).exists()
    assert "Removed second factors of ada: 1" in text(client.post(ask, follow=True))

    assert not second_factor.of(ada).exists()
    line = AuditEntry.objects.get(action="remove.second_factor")
    assert (line.actor, line.object_id) == ("kim@example.com", str(ada.pk))
    assert "Remove their second factors" not in text(client.get(person))
    assert is_in(with_password())
    assert kim.pk != ada.pk


@pytest.mark.costly
def test_nobody_removes_the_second_factors_of_a_person_with_more_rights(ada: User) -> None:
    client = keeper("view_user", "change_user")
    with_app(ada)
    strong = User.objects.create_user("strong")
    strong.groups.add(Group.objects.create(name="Strong"))
    strong.groups.get().permissions.add(Permission.objects.get(codename="pause_writes"))
    peer = User.objects.create_user("peer")
    for person in (strong, peer):
        with_app(person)

    for person in (ada, strong):
        ask = f"/admin/auth/user/{person.pk}/second-factors/"
        assert client.get(ask).status_code == 403
        assert client.post(ask).status_code == 403
        assert ask not in text(client.get(f"/admin/auth/user/{person.pk}/change/"))
        assert second_factor.of(person).exists()
    assert client.post(f"/admin/auth/user/{peer.pk}/second-factors/").status_code == 302
    assert not second_factor.of(peer).exists()


@pytest.mark.costly
def test_who_may_only_look_at_people_removes_no_second_factor(ada: User) -> None:
    client, peer = keeper("view_user"), User.objects.create_user("peer")
    with_app(peer)

    assert client.post(f"/admin/auth/user/{peer.pk}/second-factors/").status_code == 403

    assert second_factor.of(peer).exists()
    assert "Phone" in text(client.get(f"/admin/auth/user/{peer.pk}/change/"))


def test_the_line_of_a_changed_person_counts_the_second_factors(ada: User, app: Any) -> None:
    client = Client()
    client.force_login(ada)

    client.post(f"/admin/auth/user/{ada.pk}/change/", {"username": "ada", "email": "a@example.com", "is_staff": "on"})

    assert AuditEntry.objects.get(action="change.user").after["second_factors"] == 1  # type: ignore[index]


@pytest.mark.costly
def test_the_commands_of_the_throttle_end_a_stop_by_wrong_codes(app: Any) -> None:
    for _ in range(10):
        step_with_code(WRONG, with_password(address=ELSEWHERE))
    call_command("axes_reset_username", "ada")

    assert step_with_code(code_of(app[0]), with_password(address=ELSEWHERE)).status_code == 302
