"""Who logged in, who tried to, and who logged out stands in the audit log, bounded and without what was typed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone

from deployments.access import audit, sessions
from deployments.admin.people import rights
from deployments.models import AuditEntry

PASSWORD = "correct-horse-battery-1"
LOG_IN = "/admin/login/"


@pytest.fixture
def ada(db: None) -> User:
    return User.objects.create_superuser("ada", "ada@example.com", PASSWORD)


def attempt(name: str, password: str, *, address: str = "192.0.2.7") -> Client:
    client = Client(REMOTE_ADDR=address)
    client.post(LOG_IN, {"username": name, "password": password})
    return client


def failures() -> list[AuditEntry]:
    return list(AuditEntry.objects.filter(action="log_in.user", outcome=sessions.FAILED).order_by("pk"))


def written() -> str:
    rows = AuditEntry.objects.values_list("actor", "object_label", "before", "after", "outcome")
    return json.dumps(list(rows))


def test_a_log_in_and_a_log_out_have_a_line_each_with_person_and_address(ada: User) -> None:
    client = attempt("ada", PASSWORD)
    client.post("/admin/logout/")

    lines = [(line.action, line.actor, line.object_id, line.address, line.outcome) for line in AuditEntry.objects.all()]
    assert lines == [
        (action, "ada@example.com", str(ada.pk), address, "done")
        for action, address in (("log_out.user", "192.0.2.7"), ("log_in.user", "192.0.2.7"))
    ]


@pytest.mark.costly
def test_a_session_ends_eight_hours_after_its_log_in_whatever_its_person_changes(
    ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = attempt("ada", PASSWORD)
    end = Session.objects.get().expire_date
    assert abs(end - timezone.now() - timedelta(hours=8)) < timedelta(minutes=1)
    seven_hours_later = timezone.now() + timedelta(hours=7)

    with monkeypatch.context() as patch:
        patch.setattr(timezone, "now", lambda: seven_hours_later)
        passwords = {"new_password1": "another-horse-2", "new_password2": "another-horse-2"}
        answer = client.post("/admin/password_change/", {"old_password": PASSWORD, **passwords})

    assert answer.status_code == 302
    assert Session.objects.get(pk=client.session.session_key).expire_date == end
    assert 0 < answer.cookies["sessionid"]["max-age"] <= 60 * 60


def test_a_log_out_without_a_session_leaves_no_line(db: None) -> None:
    Client().post("/admin/logout/")

    assert not AuditEntry.objects.exists()


@pytest.mark.costly
def test_forty_wrong_passwords_and_then_the_right_one_leave_thirty_lines_and_one(ada: User) -> None:
    for _ in range(40):
        sessions.log_in_failed(None, {"username": "ada"})
    attempt("ada", "wrong")
    attempt("ada", PASSWORD)

    assert len(failures()) == 30
    assert "none until 10 minutes" in failures()[-1].after["further_lines"]  # type: ignore[index]
    assert {line.object_id for line in failures()} == {str(ada.pk)}
    assert AuditEntry.objects.filter(action="log_in.user", outcome=audit.DONE).count() == 1


def test_the_lines_of_failed_log_ins_go_on_when_the_window_has_passed(ada: User) -> None:
    for _ in range(31):
        sessions.log_in_failed(None, {"username": "ada"})
    AuditEntry.objects.update(at=Now() - timedelta(minutes=11))

    sessions.log_in_failed(None, {"username": "ada"})

    assert len(failures()) == 31


@pytest.mark.costly
def test_failures_with_other_names_hide_no_failure_of_an_account(ada: User) -> None:
    for number in range(100):
        sessions.log_in_failed(None, {"username": f"nobody-{number}"})

    sessions.log_in_failed(None, {"username": "ada"})

    assert [line.object_id for line in failures()] == ["" for _ in range(30)] + [str(ada.pk)]


def test_a_line_has_neither_the_password_nor_what_was_typed_for_a_name(ada: User) -> None:
    attempt("my-secret-in-the-wrong-field", "x")
    attempt("ada", "my-secret-of-another-site")
    attempt("ada", PASSWORD)

    assert "my-secret" not in written()
    assert PASSWORD not in written()
    assert len(failures()) == 2


@pytest.mark.parametrize("fields", [{"is_staff": False}, {"is_active": False}])
def test_the_right_password_of_an_account_that_may_not_use_the_console_is_a_failed_log_in(
    fields: dict[str, bool], ada: User
) -> None:
    User.objects.update(**fields)

    attempt("ada", PASSWORD)

    assert [line.object_id for line in failures()] == [str(ada.pk)]


def test_a_name_that_no_database_stores_is_a_failed_log_in(db: None) -> None:
    sessions.log_in_failed(None, {"username": "a\0b"})

    assert len(failures()) == 1


def test_a_failed_log_in_is_one_line_of_the_log_without_the_name(ada: User, caplog: pytest.LogCaptureFixture) -> None:
    attempt("ada", "wrong")

    [line] = [record.getMessage() for record in caplog.records if "login.failed" in record.getMessage()]
    assert "address=192.0.2.7" in line
    assert "ada" not in line.partition(" request_id=")[0]  # a random hex text may have it


# ------------------------------------------------------------------------------------------------------------- people


def test_the_line_of_a_changed_group_has_every_right_before_and_after(ada: User) -> None:
    client, group = Client(), Group.objects.create(name="Builders")
    client.force_login(ada)
    chosen = list(rights())
    group.permissions.set(chosen)

    client.post(f"/admin/auth/group/{group.pk}/change/", {"name": "Builders", "permissions": [chosen[0].pk]})

    line = AuditEntry.objects.get(action="change.group")
    assert line.before["rights"] == sorted(right.codename for right in chosen)  # type: ignore[index]
    assert line.after["rights"] == [chosen[0].codename]  # type: ignore[index]
    assert len(chosen) < audit.MAX_VALUES_LISTED


def test_no_group_has_more_rights_than_a_line_keeps(db: None) -> None:
    assert Permission.objects.filter(content_type__app_label__in=("auth", "deployments")).count() < (
        audit.MAX_VALUES_LISTED
    )


def test_the_line_of_a_changed_person_has_address_and_rights_before_and_after(ada: User) -> None:
    client, mira = Client(), User.objects.create_user("mira", "mira@example.com", PASSWORD)
    client.force_login(ada)

    client.post(f"/admin/auth/user/{mira.pk}/change/", {"username": "mira", "email": "m@example.com", "is_staff": "on"})

    line = AuditEntry.objects.get(action="change.user")
    assert (line.before["email"], line.after["email"]) == ("mira@example.com", "m@example.com")  # type: ignore[index]
    assert (line.before["active"], line.after["active"]) == (True, False)  # type: ignore[index]
    assert (line.before["staff"], line.after["staff"]) == (False, True)  # type: ignore[index]


@pytest.mark.parametrize("button", ["set-password", "unset-password"])
def test_the_line_of_a_password_says_whether_there_is_one_and_not_what_it_is(button: str, ada: User) -> None:
    client, mira = Client(), User.objects.create_user("mira", password="old-" + PASSWORD)
    client.force_login(ada)
    usable = str(button == "set-password").lower()

    client.post(
        f"/admin/auth/user/{mira.pk}/password/",
        {"usable_password": usable, "password1": PASSWORD, "password2": PASSWORD, button: "1"},
    )

    mira.refresh_from_db()
    line = AuditEntry.objects.get(action="change.user")
    assert line.after["has_password"] is (button == "set-password")  # type: ignore[index]
    assert PASSWORD not in written()
    assert mira.password not in written()


NEW = {"new_password1": "new-" + PASSWORD, "new_password2": "new-" + PASSWORD, "old_password": PASSWORD}
SET = {"usable_password": "true", "password1": "new-" + PASSWORD, "password2": "new-" + PASSWORD, "set-password": "1"}


def logged_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.costly
def test_the_sessions_that_a_new_password_ends_are_gone_and_have_one_line_with_their_number(ada: User) -> None:
    mira = User.objects.create_superuser("mira", "mira@example.com", PASSWORD)
    here, *elsewhere = (logged_in(ada) for _ in range(3))
    of_mira = logged_in(mira)

    here.post("/admin/password_change/", NEW)

    line = AuditEntry.objects.get(action="end_sessions.user")
    assert (line.actor, line.object_id, line.after) == ("ada@example.com", str(ada.pk), {"sessions": 2})
    assert [client.get("/admin/").status_code for client in (here, *elsewhere, of_mira)] == [200, 302, 302, 200]
    assert Session.objects.count() == 2
    of_mira.post(f"/admin/auth/user/{ada.pk}/password/", SET)
    line = AuditEntry.objects.filter(action="end_sessions.user").latest("pk")
    assert (line.actor, line.object_id, line.after) == ("mira@example.com", str(ada.pk), {"sessions": 1})
    assert here.get("/admin/").status_code == 302


@pytest.mark.costly
def test_a_password_that_is_not_changed_ends_no_session(ada: User) -> None:
    here, elsewhere = logged_in(ada), logged_in(ada)

    here.get("/admin/password_change/")
    here.post("/admin/password_change/", NEW | {"old_password": "wrong"})
    here.post(f"/admin/auth/user/{ada.pk}/password/", SET | {"password2": "other"})

    assert elsewhere.get("/admin/").status_code == 200
    assert not AuditEntry.objects.filter(action="end_sessions.user").exists()


@pytest.mark.costly
@pytest.mark.parametrize("left", [{"is_active": "on"}, {"is_staff": "on"}])
def test_the_sessions_of_a_person_who_may_not_use_the_console_do_not_work_again_when_the_person_may(
    left: dict[str, str], ada: User
) -> None:
    mira = User.objects.create_user("mira", "mira@example.com", PASSWORD, is_staff=True)
    here, elsewhere = logged_in(ada), logged_in(mira)

    for fields in (left, {"is_active": "on", "is_staff": "on"}):
        here.post(f"/admin/auth/user/{mira.pk}/change/", {"username": "mira", "email": mira.email} | fields)

    mira.refresh_from_db()
    assert (mira.is_active, mira.is_staff) == (True, True)
    assert elsewhere.get("/admin/").status_code == 302
    line = AuditEntry.objects.get(action="end_sessions.user")
    assert (line.actor, line.object_id, line.after) == ("ada@example.com", str(mira.pk), {"sessions": 1})


@pytest.mark.costly
def test_a_new_password_whose_line_cannot_be_written_ends_no_session(
    ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = logged_in(ada), logged_in(ada)
    write = audit.record

    def broken(**values: Any) -> None:
        if values["action"] == "end_sessions.user":
            raise RuntimeError("no disk")
        write(**values)

    monkeypatch.setattr(audit, "record", broken)
    with pytest.raises(RuntimeError):
        here.post("/admin/password_change/", NEW)

    assert elsewhere.get("/admin/").status_code == 200
    ada.refresh_from_db()
    assert ada.check_password(PASSWORD)


# ----------------------------------------------------------------------------------------------------------- commands


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What is typed for passwords, one after the other."""

    def type_(*texts: str) -> None:
        left = list(texts)
        monkeypatch.setattr("getpass.getpass", lambda *_: left.pop(0))

    return type_


def test_changepassword_sets_the_password_that_was_typed_twice(ada: User, typed: Callable[..., None]) -> None:
    typed("one", "two", "12345678", "12345678", "new-" + PASSWORD, "new-" + PASSWORD)
    logged_in(ada)

    call_command("changepassword", "ada", stdout=io.StringIO(), stderr=io.StringIO())

    ada.refresh_from_db()
    assert ada.check_password("new-" + PASSWORD)
    lines = AuditEntry.objects.filter(actor_kind="command").values_list("action", "object_label")
    assert list(lines) == [("change.user", "ada"), ("end_sessions.user", "ada")]
    assert not Session.objects.exists()
    assert ada.password not in written()


def test_changepassword_changes_nothing_after_three_tries_and_for_nobody(ada: User, typed: Callable[..., None]) -> None:
    typed(*["one", "two"] * 3)

    for name in ("ada", "nobody"):
        with pytest.raises(CommandError):
            call_command("changepassword", name, stdout=io.StringIO(), stderr=io.StringIO())

    assert not AuditEntry.objects.exists()
    assert User.objects.get().password == ada.password


def test_createsuperuser_has_a_line_and_refuses_a_name_that_exists(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", PASSWORD)

    def make() -> None:
        call_command("createsuperuser", "--noinput", "--username=kim", "--email=", stdout=io.StringIO())

    make()
    with pytest.raises(CommandError, match="already taken"):
        make()

    assert User.objects.get().check_password(PASSWORD)
    line = AuditEntry.objects.get()
    assert (line.action, line.after) == ("add.user", {"username": "kim", "staff": True, "superuser": True})


def test_the_list_shows_a_failed_log_in(ada: User) -> None:
    attempt("ada", "wrong")
    client = Client()
    client.force_login(ada)

    assert "The log-in failed" in client.get("/admin/deployments/auditentry/").content.decode()
