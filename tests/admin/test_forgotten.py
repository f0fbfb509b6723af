"""A forgotten password: by mail where mail is configured, else the log-in page says who can help. And the way in."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.test import Client

from deployments.config import Configuration
from deployments.models import AuditEntry
from tests.support.waiting import wait_for

PASSWORD, NEW = "correct-horse-battery-1", "another-horse-battery-2"


@pytest.fixture
def ada(db: None, settings: Any, configure: Any) -> User:
    settings.MAIL_IS_CONFIGURED = True
    configuration: Configuration = configure(APP_ORIGIN="https://deploy.example.com")
    assert configuration.app_origin == "https://deploy.example.com"
    return User.objects.create_superuser("ada", "ada@example.com", PASSWORD)


def ask(address: str) -> Any:
    return Client().post("/admin/forgotten/", {"email": address}, follow=True)


def link() -> str:
    message = wait_for(lambda: mail.outbox and mail.outbox[-1])
    [found] = re.findall(r"https://deploy\.example\.com(/admin/forgotten/\S+)", message.body)
    return str(found)


def test_a_mail_has_a_link_with_which_a_password_is_set_once(ada: User) -> None:
    Client().force_login(ada)  # a session that ends
    assert "a mail with a link is on its way" in ask("ADA@example.com").content.decode()
    path, browser = link(), Client()

    form = browser.get(path, follow=True)
    done = browser.post(form.redirect_chain[-1][0], {"new_password1": NEW, "new_password2": NEW}, follow=True)

    ada.refresh_from_db()
    assert "You can log in with it" in done.content.decode()
    assert ada.check_password(NEW)
    assert "This link does not work" in Client().get(path, follow=True).content.decode()
    lines = [(line.action, line.actor, line.object_id) for line in AuditEntry.objects.all()]
    assert lines == [
        ("change.user", "ada@example.com", str(ada.pk)),
        ("end_sessions.user", "ada@example.com", str(ada.pk)),
        ("ask.password", "unknown", str(ada.pk)),
    ]
    kept = json.dumps(list(AuditEntry.objects.values_list("before", "after", "object_label")))
    assert NEW not in kept
    assert ada.password not in kept


@pytest.mark.parametrize("fields", [{"email": "other@example.com"}, {"is_active": False}, {"password": "!"}])
def test_an_address_without_an_account_gets_the_same_answer_and_no_mail(fields: dict[str, Any], ada: User) -> None:
    known = ask("ada@example.com").content
    wait_for(lambda: mail.outbox)
    mail.outbox.clear()
    User.objects.update(**fields)

    assert ask("ada@example.com").content == known
    assert mail.outbox == []
    assert AuditEntry.objects.count() == 1


def test_an_account_gets_three_mails_in_an_hour(ada: User) -> None:
    for _ in range(5):
        ask("ada@example.com")

    wait_for(lambda: len(mail.outbox) == 3)
    assert AuditEntry.objects.filter(action="ask.password").count() == 3


def test_the_link_leads_to_our_origin_whatever_the_host_header_says(ada: User, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["*"]

    Client().post("/admin/forgotten/", {"email": "ada@example.com"}, headers={"host": "evil.example"})

    assert link().startswith("/admin/forgotten/")
    assert "evil" not in mail.outbox[-1].body


def test_the_pages_have_no_navigation_for_somebody_who_is_logged_in(ada: User) -> None:
    browser = Client()
    browser.force_login(ada)

    for path in ("", "sent/", "done/", "MQ/abc-def/"):
        assert 'id="sections"' not in browser.get(f"/admin/forgotten/{path}").content.decode()


def test_a_mail_server_that_refuses_is_a_line_of_the_log(
    ada: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("connection refused")

    monkeypatch.setattr(mail.EmailMessage, "send", refuse)

    assert ask("ada@example.com").status_code == 200

    wait_for(lambda: [record for record in caplog.records if "password_mail.failed" in record.getMessage()])


def test_with_mail_the_log_in_page_offers_a_link_and_without_it_says_who_can_help(ada: User, settings: Any) -> None:
    assert 'href="/admin/forgotten/"' in Client().get("/admin/login/").content.decode()

    settings.MAIL_IS_CONFIGURED = False

    page = Client().get("/admin/login/").content.decode()
    assert "manage.py changepassword NAME" in page
    assert "/admin/forgotten/" not in page
    for path in ("", "sent/", "done/", "MQ/abc-def/"):
        assert Client().get(f"/admin/forgotten/{path}").status_code == 404


@pytest.mark.parametrize(
    "following",
    [None, "", "https://evil.example/", "//evil.example", "javascript:alert(1)", "http:///evil.example", "\\\\evil"],
)
def test_a_log_in_without_a_next_page_of_ours_leads_to_the_console(following: str | None, ada: User) -> None:
    data = {"username": "ada", "password": PASSWORD} | ({} if following is None else {"next": following})

    for path in ("/admin/login/", f"/admin/login/?next={following or ''}"):
        answer = Client().post(path, data)
        assert (answer.status_code, answer["Location"]) == (302, "/admin/")
