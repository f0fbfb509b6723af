"""Single sign-on against a real OpenID provider over HTTP: who gets in, as whom, with which rights; who does not."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models.functions import Now
from django.test import Client

from deployments import checks, config
from deployments.access import break_glass, keys, openid, sessions, single_sign_on
from deployments.access.audit import Trail
from deployments.config import Configuration
from deployments.errors import Refusal
from deployments.models import AuditEntry, Identity
from tests.support.certificates import certificate
from tests.support.openid_provider import CLIENT_ID, CLIENT_SECRET, Provider, running

ORIGIN = "http://localhost:8000"
BACK = "/admin/single-sign-on/back/"
PASSWORD = "correct-horse-battery-1"
GROUPS = {"staff": "viewer", "platform": "operator", "platform-admins": "admin"}
ADA = {
    "preferred_username": "ada",
    "email": "ada@example.com",
    "given_name": "Ada",
    "family_name": "Lovelace",
    "groups": ["staff", "chess"],
}


@pytest.fixture(scope="module")
def server() -> Iterator[Provider]:
    with running() as provider:
        yield provider


@pytest.fixture
def provider(server: Provider) -> Iterator[Provider]:
    server.redirect_to = ORIGIN + BACK
    server.people = {"248289761001": dict(ADA)}
    server.faults = set()
    server.instead, server.more = {}, {}
    server.groups_in_userinfo = False
    server.calls.clear()
    server.hang.clear()
    openid._kept.clear()
    yield server
    server.hang.set()


Configure = Callable[..., Configuration]


@pytest.fixture
def sso(provider: Provider, configure: Configure, db: None) -> Configure:
    """Single sign-on with the provider; called with more settings, it replaces them."""

    def make(**more: str) -> Configuration:
        given = {
            "APP_ORIGIN": ORIGIN,
            "SSO_ISSUER": provider.issuer,
            "SSO_CLIENT_ID": CLIENT_ID,
            "SSO_CLIENT_SECRET": CLIENT_SECRET,
            "SSO_NAME": "Company log-in",
            "SSO_GROUPS": json.dumps(GROUPS),
        }
        return configure(**(given | more))

    make()
    return make


def sign_on(provider: Provider, subject: str = "248289761001", *, browser: Client | None = None, to: str = "") -> Any:
    """A whole log-in in a browser. Returns the answer of our address for the provider's answer."""
    browser = browser or Client()
    begun = browser.get("/admin/single-sign-on/", {"next": to} if to else {})
    assert begun.status_code == 302, begun.content.decode()
    back = provider.approve(begun["Location"], subject)
    return browser.get(back.removeprefix(ORIGIN))


def person(subject: str = "248289761001") -> User:
    return User.objects.get(identities__subject=subject)


def groups_of(user: User) -> list[str]:
    return sorted(user.groups.values_list("name", flat=True))


def lines(action: str) -> list[Any]:
    return list(AuditEntry.objects.filter(action=action).order_by("pk"))


# ---------------------------------------------------------------------------------------------------------- the way in


def test_a_first_log_in_makes_an_account_with_the_groups_of_the_claim(provider: Provider, sso: Configure) -> None:
    browser = Client()

    answer = sign_on(provider, browser=browser, to="/admin/deployments/project/")

    assert (answer.status_code, answer["Location"]) == (302, "/admin/deployments/project/")
    ada = person()
    assert (ada.username, ada.email, ada.first_name, ada.last_name) == ("ada", "ada@example.com", "Ada", "Lovelace")
    assert (ada.is_active, ada.is_staff, ada.is_superuser) == (True, True, False)
    assert groups_of(ada) == ["viewer"]
    assert not ada.has_usable_password()
    assert browser.get("/admin/deployments/project/").status_code == 200
    [made], [logged_in] = lines("add.user"), lines("log_in.user")
    assert made.after["subject"] == "248289761001"
    assert (logged_in.actor, logged_in.after) == ("ada@example.com", {"by": "single sign-on"})


def test_the_log_in_page_offers_single_sign_on_and_keeps_the_page_that_was_asked_for(sso: Configure) -> None:
    page = Client().get("/admin/login/?next=/admin/deployments/project/").content.decode()

    assert 'href="/admin/single-sign-on/?next=%2Fadmin%2Fdeployments%2Fproject%2F"' in page
    assert "Log in with Company log-in" in page
    assert 'name="password"' in page


@pytest.mark.costly
def test_without_the_settings_there_is_no_single_sign_on(db: None) -> None:
    assert "single-sign-on" not in Client().get("/admin/login/").content.decode()
    assert Client().get("/admin/single-sign-on/").status_code == 404
    assert Client().get(BACK).status_code == 404


def test_the_provider_is_asked_for_a_code_with_pkce_state_and_nonce(provider: Provider, sso: Configure) -> None:
    begun = Client().get("/admin/single-sign-on/")

    query = {name: values[0] for name, values in parse_qs(urlsplit(begun["Location"]).query).items()}
    assert query["scope"] == "openid profile email"
    assert query["code_challenge_method"] == "S256"
    assert len(query["state"]) >= 20
    assert len(query["nonce"]) >= 20
    cookie = begun.cookies["single_sign_on"]
    assert (cookie["path"], cookie["httponly"], cookie["samesite"], cookie["max-age"]) == (BACK, True, "Lax", 600)
    assert CLIENT_SECRET not in begun["Location"] + cookie.value


def test_beginning_a_log_in_writes_no_row(provider: Provider, sso: Configure, django_assert_num_queries: Any) -> None:
    Client().get("/admin/single-sign-on/")

    with django_assert_num_queries(0):
        Client().get("/admin/single-sign-on/")


@pytest.mark.parametrize("target", ["https://evil.example.com/", "//evil.example.com", "/\\evil.example.com", ""])
def test_a_log_in_leads_to_no_other_site(target: str, provider: Provider, sso: Configure) -> None:
    assert sign_on(provider, to=target)["Location"] == "/admin/"


def test_groups_may_come_from_the_userinfo_endpoint_and_from_inside_an_object(
    provider: Provider, sso: Configure
) -> None:
    provider.groups_in_userinfo = True
    sign_on(provider)
    assert groups_of(person()) == ["viewer"]

    sso(SSO_GROUPS_CLAIM="realm_access.roles")
    provider.people["248289761001"]["realm_access"] = {"roles": ["platform"]}
    sign_on(provider)
    assert groups_of(person()) == ["operator"]


@pytest.mark.parametrize("secret", [CLIENT_SECRET, "wrong"])
@pytest.mark.parametrize("faults", [set(), {"post_only"}])
def test_the_client_secret_is_sent_as_the_provider_asks_for_it(
    secret: str, faults: set[str], provider: Provider, sso: Configure
) -> None:
    provider.faults = faults
    sso(SSO_CLIENT_SECRET=secret)

    answer = sign_on(provider)

    if secret == CLIENT_SECRET:
        assert answer.status_code == 302
    else:
        assert answer.status_code == 403
        assert "refused the log-in: invalid_client" in answer.content.decode()


# ------------------------------------------------------------------------------------- answers that are not believed


NOT_TRUSTED = {
    "wrong_issuer", "wrong_audience", "wrong_nonce", "no_nonce", "expired", "foreign_key", "not_signed",
    "signed_with_secret", "no_id_token", "audience_of_another_for_us", "other_issuer_in_answer",
}  # fmt: skip


@pytest.mark.parametrize("fault", sorted(NOT_TRUSTED))
def test_an_answer_that_is_not_the_providers_own_lets_nobody_in(
    fault: str, provider: Provider, sso: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    provider.faults = {fault}
    browser = Client()

    answer = sign_on(provider, browser=browser)

    assert answer.status_code == 403
    assert "cannot be trusted" in answer.content.decode()
    assert "_auth_user_id" not in browser.session
    assert not User.objects.exists()
    assert CLIENT_SECRET not in answer.content.decode() + caplog.text


def test_userinfo_about_another_person_is_not_believed(provider: Provider, sso: Configure) -> None:
    provider.groups_in_userinfo = True
    provider.faults = {"userinfo_of_another"}

    assert "about another person" in sign_on(provider).content.decode()
    assert not User.objects.exists()


def test_a_document_of_another_issuer_is_not_believed(provider: Provider, sso: Configure) -> None:
    provider.faults = {"wrong_document"}

    answer = Client().get("/admin/single-sign-on/")

    assert answer.status_code == 403
    assert "calls itself another issuer" in answer.content.decode()


@pytest.mark.costly
def test_a_new_key_of_the_provider_is_found_without_a_restart(provider: Provider, sso: Configure) -> None:
    assert sign_on(provider).status_code == 302

    provider.rotate_key()

    assert sign_on(provider).status_code == 302


@pytest.mark.parametrize("fault", ["error_500", "not_json"])
def test_a_provider_that_does_not_work_is_named_with_the_next_step(
    fault: str, provider: Provider, sso: Configure
) -> None:
    provider.faults = {fault}

    answer = Client().get("/admin/single-sign-on/")

    assert answer.status_code == 503
    assert "did not answer: it" in answer.content.decode()
    assert "Try again" in answer.content.decode()


def test_a_provider_that_hangs_holds_two_threads_at_most(
    provider: Provider, sso: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.faults = {"hang"}
    monkeypatch.setattr(openid, "TIMEOUT", 1.0)
    answers: list[Any] = []

    def begin() -> None:
        try:
            answers.append(Client().get("/admin/single-sign-on/"))
        finally:
            connection.close()

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    sentences = [answer.content.decode() for answer in answers]
    assert [answer.status_code for answer in answers] == [503] * 6
    assert sum("Too many log-ins wait" in sentence for sentence in sentences) >= 2
    assert provider.calls["openid-configuration"] <= 4


HEARD_OUT: list[str] = []


def _drips(handler: Any, first: bytes) -> None:
    """Never silent for long. Goes on until the client hangs up; ten seconds are too long."""
    handler.wfile.write(first)
    for _ in range(200):
        handler.wfile.write(b"x")
        time.sleep(0.05)
    HEARD_OUT.append(handler.path)


def _redirects(handler: Any) -> None:
    handler.send_response(302)
    handler.send_header("Location", "/internal")
    handler.end_headers()


def _answers(handler: Any, content: bytes, **headers: str) -> None:
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda handler: _drips(handler, b"HTTP/1.1 200 OK\r\nA: "), "no answer within 1 seconds"),
        (
            lambda handler: _drips(handler, b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"),
            "no answer within 1 seconds",
        ),
        (lambda handler: _answers(handler, b"x" * 3_000_000), "longer than 1 MiB"),
        (lambda handler: _answers(handler, b"x", Content_Encoding="gzip"), "compressed"),
        (_redirects, "it redirects to another address"),
    ],
    ids=["drips in the headers", "drips in the body", "long", "compressed", "redirects"],
)
@pytest.mark.parametrize("where", ["openid-configuration", "token", "keys"])
def test_a_provider_holds_a_thread_for_a_short_time_and_leads_it_nowhere(
    where: str, answer: Any, reason: str, provider: Provider, sso: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openid, "TIMEOUT", 1.0)
    HEARD_OUT.clear()
    provider.instead = {where: answer}
    browser = Client()

    page = browser.get("/admin/single-sign-on/")
    if where != "openid-configuration":
        page = browser.get(provider.approve(page["Location"], "248289761001").removeprefix(ORIGIN))

    assert page.status_code == 503
    assert reason in page.content.decode()
    assert provider.calls["internal"] == 0
    assert not HEARD_OUT
    assert not User.objects.exists()


@pytest.mark.costly
def test_over_tls_the_limits_hold_and_only_a_trusted_certificate_counts(
    tmp_path: Path, sso: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = certificate(tmp_path, "localhost")
    with running(pair) as provider:
        configuration = sso(SSO_ISSUER=provider.issuer)
        with pytest.raises(Refusal, match="no connection"):
            openid.reach(configuration)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pair[0]))
        assert openid.reach(configuration) == provider.issuer
        monkeypatch.setattr(openid, "TIMEOUT", 1.0)
        provider.instead["keys"] = lambda handler: _drips(handler, b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        with pytest.raises(Refusal, match="no answer within 1 seconds"):
            openid.reach(configuration)


def test_at_most_two_more_log_ins_wait_for_their_place(sso: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openid, "TIMEOUT", 120.0)
    refused = []

    def begin() -> None:
        try:
            with openid._explained():
                pass
        except Refusal as refusal:
            refused.append(refusal.code)

    with openid._explained(), openid._explained():
        waiting = [threading.Thread(target=begin) for _ in range(3)]
        for thread in waiting:
            thread.start()
        until = time.monotonic() + 20
        while not refused and time.monotonic() < until:
            time.sleep(0.01)
        assert refused == ["sso_busy"]  # at once: the other two still wait
        assert sum(thread.is_alive() for thread in waiting) == 2
    for thread in waiting:
        thread.join(20)
    assert refused == ["sso_busy"]


def test_the_providers_document_sets_nothing_but_addresses_and_algorithms(provider: Provider, sso: Configure) -> None:
    provider.more = {
        "verify": False, "default_timeout": None, "code_challenge_method": "plain", "client_id": "x", "scope": 5,
        "jwks": {"keys": []}, "leeway": 9999, "update_token": 1,
    }  # fmt: skip

    assert sign_on(provider).status_code == 302  # the provider's `authorize` asks for S256
    assert not openid._app(sso()).server_metadata.keys() & (provider.more.keys() - {"jwks"})


@pytest.mark.parametrize("value", [5, None, [], "javascript:alert(1)", "/authorize", "ftp://127.0.0.1/"])
@pytest.mark.parametrize("name", openid.ENDPOINTS)
def test_an_address_of_the_document_that_is_none_is_refused(
    name: str, value: Any, provider: Provider, sso: Configure
) -> None:
    provider.more = {name: value}

    answer = Client().get("/admin/single-sign-on/")

    assert answer.status_code == 403
    assert "has an address that is not https" in answer.content.decode()


def test_a_person_who_refuses_gets_a_sentence_without_the_providers_text(provider: Provider, sso: Configure) -> None:
    page = sign_on(provider, "refuse").content.decode()

    assert "refused the log-in: access_denied" in page
    assert "<b>no</b>" not in page


def test_an_answer_needs_the_cookie_of_this_browser_and_its_state(provider: Provider, sso: Configure) -> None:
    mine, other = Client(), Client()
    back = provider.approve(mine.get("/admin/single-sign-on/")["Location"], "248289761001").removeprefix(ORIGIN)

    assert "was not begun in this browser" in Client().get(back).content.decode()  # no cookie
    other.get("/admin/single-sign-on/")
    assert "was not begun in this browser" in other.get(back).content.decode()  # another state
    assert mine.get(back).status_code == 302
    assert "was not begun in this browser" in mine.get(back).content.decode()  # the cookie is for one answer


def test_of_two_log_ins_in_one_browser_the_one_that_was_begun_last_works(provider: Provider, sso: Configure) -> None:
    browser = Client()
    first, last = (browser.get("/admin/single-sign-on/")["Location"] for _ in range(2))

    refused = browser.get(provider.approve(first, "248289761001").removeprefix(ORIGIN))

    assert "another one was begun after it" in refused.content.decode()
    assert browser.get(provider.approve(last, "248289761001").removeprefix(ORIGIN)).status_code == 302


def test_a_long_address_does_not_make_a_cookie_that_browsers_drop(provider: Provider, sso: Configure) -> None:
    browser = Client()
    for target in ("/admin/?q=" + "x" * 900, "/admin/?q=" + "\u00e9" * 900, "/admin/?q=" + "x" * 9_000):
        cookie = browser.get("/admin/single-sign-on/", {"next": target}).cookies["single_sign_on"]
        assert len(cookie.OutputString()) < 4_096
    assert sign_on(provider, to="/admin/?q=" + "x" * 9_000)["Location"] == "/admin/"


# ------------------------------------------------------------------------------------------------------ who somebody is


def test_an_account_with_the_same_name_or_address_is_never_taken_over(provider: Provider, sso: Configure) -> None:
    User.objects.create_superuser("root", "ada@example.com", PASSWORD)

    page = sign_on(provider).content.decode()

    assert "already has the name or address ada@example.com" in page
    assert "248289761001" in page  # what an administrator needs to link it
    assert not Identity.objects.exists()
    assert User.objects.count() == 1


@pytest.mark.costly
def test_a_person_keeps_the_account_when_name_and_address_change(provider: Provider, sso: Configure) -> None:
    sign_on(provider)
    provider.people["248289761001"] |= {"preferred_username": "root", "email": "countess@example.com"}
    User.objects.create(username="taken", email="other@example.com")

    sign_on(provider)
    assert (person().username, person().email) == ("ada", "countess@example.com")

    provider.people["248289761001"]["email"] = "other@example.com"  # of another account
    sign_on(provider)
    assert person().email == "countess@example.com"


def test_the_same_subject_at_another_issuer_is_another_person(provider: Provider, sso: Configure, db: None) -> None:
    other = User.objects.create(username="other", is_staff=True)
    Identity.objects.create(user=other, issuer="https://old.example.com", subject="248289761001", made_by="test")

    sign_on(provider)

    assert User.objects.get(identities__issuer=provider.issuer).username == "ada"


def test_an_address_that_the_provider_calls_unverified_is_not_stored(provider: Provider, sso: Configure) -> None:
    provider.people["248289761001"]["email_verified"] = False

    sign_on(provider)

    assert person().email == ""


@pytest.mark.parametrize("subject", [5, None, [], "", "x" * 256, "a\0", "\ud800", "\u202e"])
def test_a_subject_is_a_text_of_visible_characters(subject: Any, sso: Configure) -> None:
    with pytest.raises(Refusal, match="subject is not a text of at most 255 visible characters"):
        openid._person({"sub": subject}, sso())


def test_what_no_row_can_hold_and_nobody_can_see_is_left_out_of_names(provider: Provider, sso: Configure) -> None:
    claims = ADA | {
        "given_name": "A\ud800d\u202ea\0",
        "email": "ada\u202e@example.com",
        "preferred_username": "\ud800ada",
    }
    provider.people["248289761001"] = {}
    provider.instead["userinfo"] = lambda handler: _answers(
        handler, json.dumps(claims | {"sub": "248289761001", "groups": ["staff", "\ud800"]}).encode()
    )

    assert sign_on(provider).status_code == 302

    assert (person().username, person().email, person().first_name) == ("ada", "", "Ada")
    assert Identity.objects.get().groups == ["staff"]


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)
def test_two_first_log_ins_of_one_person_at_once_make_one_account(provider: Provider, sso: Configure) -> None:
    both, answers = threading.Barrier(2), []
    original = single_sign_on._make_account

    def together(person: openid.Person) -> Identity:
        try:
            both.wait(2)
        except threading.BrokenBarrierError:
            pass  # the second try of the request that came later
        return original(person)

    def log_in() -> None:
        try:
            answers.append(sign_on(provider).status_code)
        finally:
            connection.close()

    threads = [threading.Thread(target=log_in) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single_sign_on, "_make_account", together)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    assert answers == [302, 302]
    assert User.objects.count() == Identity.objects.count() == 1
    assert Identity.objects.get().log_ins == 2


def test_without_its_line_a_log_in_makes_neither_account_nor_session(
    provider: Provider, sso: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, original = Client(raise_request_exception=False), Trail.record

    def dies(trail: Trail, action: str, *args: Any, **kwargs: Any) -> None:
        if action == sessions.ACTION:
            raise RuntimeError("the process dies here")
        original(trail, action, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trail, "record", dies)
        assert sign_on(provider, browser=browser).status_code == 500

    assert not User.objects.exists()
    assert not Identity.objects.exists()
    assert "_auth_user_id" not in browser.session
    assert sign_on(provider, browser=browser).status_code == 302


# ------------------------------------------------------------------------------------------------------------ rights


def test_groups_follow_the_claim_at_every_log_in_and_others_stay(provider: Provider, sso: Configure) -> None:
    sign_on(provider)
    ada = person()
    ada.groups.add(Group.objects.create(name="auditors"))  # by an administrator
    provider.people["248289761001"]["groups"] = ["platform-admins"]

    sign_on(provider)

    assert groups_of(ada) == ["admin", "auditors"]
    [change] = lines("change.user")
    assert (change.before["groups"], change.after["groups"]) == (["auditors", "viewer"], ["admin", "auditors"])
    assert change.after["by"] == "single sign-on"


def test_a_group_gives_admin_only_where_the_setting_names_it(provider: Provider, sso: Configure) -> None:
    provider.people["248289761001"]["groups"] = ["admin", "superuser", "staff"]

    sign_on(provider)

    assert groups_of(person()) == ["viewer"]
    assert not person().is_superuser


def test_the_group_that_counts_may_come_after_thousands_of_others(provider: Provider, sso: Configure) -> None:
    provider.people["248289761001"]["groups"] = [*(f"group {number}" for number in range(5_000)), "platform"]

    sign_on(provider)

    assert groups_of(person()) == ["operator"]
    assert len(Identity.objects.get().groups) == 200


@pytest.mark.parametrize("groups", [[], ["chess"], None, ["platform-\0admins", "platform\u200b"]])
def test_without_one_of_our_groups_there_is_no_account(
    groups: list[str] | None, provider: Provider, sso: Configure
) -> None:
    provider.people["248289761001"]["groups"] = groups
    if groups is None:
        del provider.people["248289761001"]["groups"]

    answer = sign_on(provider)

    assert answer.status_code == 403
    assert "None of your groups" in answer.content.decode()
    assert ("it sent no claim groups" in answer.content.decode()) == (groups is None)
    assert not User.objects.exists()
    [line] = lines("log_in.user")
    assert line.outcome.startswith("None of your groups")


@pytest.mark.costly
def test_who_has_lost_every_group_loses_sessions_and_keys_and_gets_them_back_with_a_group(
    provider: Provider, sso: Configure
) -> None:
    elsewhere = Client()
    sign_on(provider, browser=elsewhere)
    ada = person()
    ada.groups.add(Group.objects.get(name="admin"))  # by hand: it does not keep the access
    _, token = keys.make_user_token(ada)
    provider.people["248289761001"]["groups"] = []

    assert sign_on(provider).status_code == 403

    ada.refresh_from_db()
    assert not ada.is_active
    assert elsewhere.get("/admin/").status_code == 302
    assert keys.authenticate(token) is None
    [ended] = lines("change.user")
    assert (ended.before["active"], ended.after["active"]) == (True, False)
    assert [line.after for line in lines("end_sessions.user")] == [{"sessions": 1}]

    provider.people["248289761001"]["groups"] = ["staff"]
    assert sign_on(provider).status_code == 302
    assert keys.authenticate(token) is not None
    assert elsewhere.get("/admin/").status_code == 302


def test_an_account_that_an_administrator_made_inactive_stays_inactive(provider: Provider, sso: Configure) -> None:
    sign_on(provider)
    User.objects.update(is_active=False)

    answer = sign_on(provider)

    assert "Your account here is inactive" in answer.content.decode()
    assert not person().is_active


def set_active(user: User, active: bool, browser: Client) -> None:
    fields = {"username": user.username, "email": user.email, "is_staff": "on"} | (
        {"is_active": "on"} if active else {}
    )
    assert browser.post(f"/admin/auth/user/{user.pk}/change/", fields).status_code == 302


@pytest.mark.costly
@pytest.mark.parametrize("by", ["administrator", "break_glass"])
def test_an_account_that_lost_its_groups_once_stays_inactive_if_an_administrator_decides_so_later(
    by: str, provider: Provider, sso: Configure, root: User, capsys: pytest.CaptureFixture[str]
) -> None:
    sign_on(provider)
    provider.people["248289761001"]["groups"] = []
    sign_on(provider)
    browser = logged_in(root)
    if by == "administrator":
        set_active(person(), True, browser)
    else:
        link_for("ada", capsys, "--activate")
    set_active(person(), False, browser)
    provider.people["248289761001"]["groups"] = ["staff"]

    answer = sign_on(provider)

    assert "Your account here is inactive" in answer.content.decode()
    assert not person().is_active


@pytest.mark.costly
@pytest.mark.django_db(transaction=True)
def test_a_log_in_does_not_undo_what_an_administrator_does_at_the_same_moment(
    provider: Provider, sso: Configure
) -> None:
    sign_on(provider)
    rights, threads = single_sign_on._rights, list[threading.Thread]()

    def make_inactive() -> None:
        User.objects.filter(username="ada").update(is_active=False)
        connection.close()

    def meanwhile(user: User) -> dict[str, Any]:
        if not threads:
            threads.append(threading.Thread(target=make_inactive))
            threads[0].start()
            threads[0].join(1)  # the change waits for the log-in
        return rights(user)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single_sign_on, "_rights", meanwhile)
        sign_on(provider)
    threads[0].join(30)

    assert not person().is_active


def test_a_log_in_without_a_group_ends_the_session_of_its_own_browser_for_good(
    provider: Provider, sso: Configure
) -> None:
    browser = Client()
    sign_on(provider, browser=browser)
    provider.people["248289761001"]["groups"] = []

    assert sign_on(provider, browser=browser).status_code == 403

    User.objects.update(is_active=True)
    assert browser.get("/admin/").status_code == 302
    assert [line.after for line in lines("end_sessions.user")] == [{"sessions": 1}]


def test_a_group_of_the_setting_that_does_not_exist_gives_nothing(
    provider: Provider, sso: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    sso(SSO_GROUPS='{"staff": "viewers"}')

    with caplog.at_level(logging.WARNING):
        answer = sign_on(provider)

    assert answer.status_code == 403
    assert "SSO_GROUPS names viewers, and there is no such group here" in answer.content.decode()
    assert "sso.group_missing" in caplog.text


@pytest.mark.costly
def test_a_personal_token_ends_thirty_days_after_the_last_log_in(provider: Provider, sso: Configure) -> None:
    sign_on(provider)
    ada, root = person(), User.objects.create_superuser("root", "", PASSWORD)
    _, hers = keys.make_user_token(ada)
    _, of_root = keys.make_user_token(root)

    def days_ago(days: int) -> None:
        Identity.objects.update(seen_at=Now() - timedelta(days=days))

    days_ago(29)
    assert keys.authenticate(hers) is not None
    days_ago(31)
    assert keys.authenticate(hers) is None
    assert keys.authenticate(of_root) is not None  # no single sign-on, no such end

    operator = Client()
    operator.force_login(root)
    assert "Log-in needed" in operator.get("/admin/deployments/accesskey/").content.decode()
    page = operator.get(f"/admin/deployments/accesskey/{ada.accesskey_set.get().pk}/change/").content.decode()
    assert "does not work until its owner logs in" in page

    sso(SSO_TOKEN_DAYS="60")
    assert keys.authenticate(hers) is not None
    sso()
    sign_on(provider)
    assert keys.authenticate(hers) is not None


# ------------------------------------------------------------------------------------------------------------- links


@pytest.fixture
def root(db: None) -> User:
    return User.objects.create_superuser("root", "root@example.com", PASSWORD)


def logged_in(user: User) -> Client:
    browser = Client()
    browser.post("/admin/login/", {"username": user.username, "password": PASSWORD})
    return browser


def begin_link(provider: Provider, browser: Client, subject: str = "248289761001") -> Any:
    begun = browser.get("/admin/your-log-in/link/")
    return browser.get(provider.approve(begun["Location"], subject).removeprefix(ORIGIN), follow=True)


@pytest.mark.costly
def test_the_owner_links_the_account_after_a_question(provider: Provider, sso: Configure, root: User) -> None:
    provider.people["248289761001"]["groups"] = ["platform-admins"]
    browser = logged_in(root)

    assert 'href="/admin/your-log-in/link/"' in browser.get("/admin/your-log-in/").content.decode()
    question = begin_link(provider, browser).content.decode()
    assert "says that you are ada@example.com" in question
    assert not Identity.objects.exists()  # a foreign site may have led the browser there

    browser.post("/admin/your-log-in/link/confirm/")
    assert person() == root
    assert "is linked to <code>248289761001</code>" in browser.get("/admin/your-log-in/").content.decode()
    [line] = lines("link.identity")
    assert (line.actor, line.after["subject"]) == ("root@example.com", "248289761001")

    again = Client()
    assert sign_on(provider, browser=again).status_code == 302
    assert again.session["_auth_user_id"] == str(root.pk)
    root.refresh_from_db()
    assert root.is_superuser  # an administrator gave it, not the claim


@pytest.mark.costly
def test_a_link_needs_a_recent_log_in_of_the_same_account(provider: Provider, sso: Configure, root: User) -> None:
    browser = logged_in(root)
    session = browser.session
    session[sessions.LOG_IN_AT] -= 16 * 60
    session.save()
    assert "Log in again" in browser.get("/admin/your-log-in/link/").content.decode()

    browser = logged_in(root)
    begun = browser.get("/admin/your-log-in/link/")
    browser.post("/admin/logout/")  # the cookie of the way to the provider stays
    other = User.objects.create_superuser("other", "", PASSWORD)
    browser.post("/admin/login/", {"username": other.username, "password": PASSWORD})
    back = provider.approve(begun["Location"], "248289761001").removeprefix(ORIGIN)
    assert "was not begun in this browser" in browser.get(back, follow=True).content.decode()
    assert Client().get("/admin/your-log-in/link/")["Location"].startswith("/admin/login/")


@pytest.mark.costly
def test_a_person_that_has_an_account_cannot_be_linked_to_another(
    provider: Provider, sso: Configure, root: User
) -> None:
    sign_on(provider)
    browser = logged_in(root)
    begin_link(provider, browser)

    answer = browser.post("/admin/your-log-in/link/confirm/")

    assert "is linked already" in answer.content.decode()
    assert person().username == "ada"
    [line] = lines("link.identity")
    assert "is linked already" in line.outcome


@pytest.mark.costly
def test_an_administrator_links_and_unlinks_with_the_rule_of_passwords(
    provider: Provider, sso: Configure, root: User
) -> None:
    grace = User.objects.create_user("grace", password=PASSWORD, is_staff=True)
    grace.groups.add(Group.objects.get(name="admin"))
    path = f"/admin/auth/user/{grace.pk}/single-sign-on/"
    browser = logged_in(root)

    assert f'href="{path}"' in browser.get(f"/admin/auth/user/{grace.pk}/change/").content.decode()
    of_root = f"/admin/auth/user/{root.pk}/single-sign-on/"
    assert logged_in(grace).get(of_root).status_code == 403  # it would give the superuser's account away
    assert logged_in(grace).post(of_root, {"subject": "mallory"}).status_code == 403
    assert not Identity.objects.exists()

    browser.post(path, {"subject": "248289761001"})
    assert sign_on(provider).status_code == 302
    assert person() == grace

    browser.post(path, {"unlink": str(Identity.objects.get().pk)})
    assert not Identity.objects.exists()
    assert [line.action for line in AuditEntry.objects.filter(action__endswith=".identity")] == [
        "unlink.identity", "link.identity",
    ]  # fmt: skip


def test_a_removed_link_ends_the_sessions_and_brings_no_ended_token_back(
    provider: Provider, sso: Configure, root: User
) -> None:
    browser = Client()
    sign_on(provider, browser=browser)
    ada = person()
    _, ended = keys.make_user_token(ada)
    Identity.objects.update(seen_at=Now() - timedelta(days=31))
    path, of_root = f"/admin/auth/user/{ada.pk}/single-sign-on/", logged_in(root)
    assert of_root.post(path, {"unlink": "everything"}).status_code == 404

    of_root.post(path, {"unlink": str(Identity.objects.get().pk)})

    assert not Identity.objects.exists()
    assert keys.authenticate(ended) is None
    assert browser.get("/admin/").status_code == 302
    assert [line.actor for line in lines("revoke.key") + lines("end_sessions.user")] == ["root@example.com"] * 2


def test_a_removed_link_leaves_the_tokens_that_work(provider: Provider, sso: Configure, root: User) -> None:
    sign_on(provider)
    _, works = keys.make_user_token(person())

    logged_in(root).post(f"/admin/auth/user/{person().pk}/single-sign-on/", {"unlink": str(Identity.objects.get().pk)})

    assert keys.authenticate(works) is not None


def test_an_account_with_a_link_to_an_earlier_issuer_can_be_linked(
    provider: Provider, sso: Configure, root: User
) -> None:
    grace = User.objects.create_user("grace", password=PASSWORD, is_staff=True)
    Identity.objects.create(user=grace, issuer="https://old.example.com", subject="1", made_by="test")
    path, browser = f"/admin/auth/user/{grace.pk}/single-sign-on/", logged_in(root)

    assert 'name="subject"' in browser.get(path).content.decode()
    browser.post(path, {"subject": "248289761001"})
    assert person() == grace
    assert 'name="subject"' not in browser.get(path).content.decode()


# ------------------------------------------------------------------------------------------- passwords switched off


@pytest.mark.costly
def test_passwords_stay_until_an_administrator_has_logged_in_by_single_sign_on(
    provider: Provider, sso: Configure, root: User
) -> None:
    sso(PASSWORD_LOG_IN="0")
    assert logged_in(root).session.get("_auth_user_id") == str(root.pk)
    sign_on(provider)  # a viewer
    assert 'name="password"' in Client().get("/admin/login/").content.decode()

    provider.people["248289761001"]["groups"] = ["platform-admins"]
    sign_on(provider)

    page = Client().get("/admin/login/").content.decode()
    assert 'name="password"' not in page
    assert "manage.py break_glass NAME" in page
    refused = Client().post("/admin/login/", {"username": "root", "password": PASSWORD})
    assert refused.status_code == 403
    assert "switched off" in refused.content.decode()
    assert Client().get("/admin/forgotten/").status_code == 404
    assert sign_on(provider).status_code == 302

    sso(PASSWORD_LOG_IN="1")
    assert logged_in(root).session.get("_auth_user_id") == str(root.pk)


def test_an_administrator_of_another_issuer_does_not_switch_passwords_off(
    provider: Provider, sso: Configure, root: User
) -> None:
    Identity.objects.create(
        user=root, issuer="https://old.example.com", subject="1", made_by="test", administrator_at=Now()
    )
    sso(PASSWORD_LOG_IN="0")

    assert logged_in(root).session.get("_auth_user_id") == str(root.pk)


# ------------------------------------------------------------------------------------------------------- break glass


def link_for(name: str, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    call_command("break_glass", name, *options)
    return capsys.readouterr().out.strip().removeprefix(ORIGIN)


def test_break_glass_makes_a_link_for_one_log_in(
    provider: Provider, sso: Configure, root: User, capsys: pytest.CaptureFixture[str]
) -> None:
    Identity.objects.create(user=root, issuer=provider.issuer, subject="1", made_by="test", administrator_at=Now())
    sso(PASSWORD_LOG_IN="0")
    path, browser = link_for("root", capsys), Client()

    assert "Log in as root" in Client().get(path).content.decode()  # a preview of the link does not use it
    assert browser.post(path).status_code == 302
    assert browser.session["_auth_user_id"] == str(root.pk)
    assert "This link does not work" in Client().post(path).content.decode()
    assert "This link does not work" in Client().get(path).content.decode()
    [made], [used] = lines("make.log_in_link"), lines("log_in.user")
    assert made.actor.startswith("break_glass (")
    assert used.after == {"by": "a link of break_glass"}


@pytest.mark.costly
def test_a_link_ends_with_a_log_in_after_ten_minutes_and_with_the_account(
    sso: Configure, root: User, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_log_in = link_for("root", capsys)
    logged_in(root)
    assert "This link does not work" in Client().post(by_log_in).content.decode()

    inactive = link_for("root", capsys)
    User.objects.update(is_active=False)
    assert "This link does not work" in Client().post(inactive).content.decode()
    with pytest.raises(CommandError, match="root is inactive"):
        link_for("root", capsys)
    old = link_for("root", capsys, "--activate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", lambda: 601 + __import__("datetime").datetime.now().timestamp())
        assert "This link does not work" in Client().post(old).content.decode()
    assert Client().post(old).status_code == 302
    assert "This link does not work" in Client().post(old[:-8] + "AAAAAAA/").content.decode()


def test_of_two_requests_with_one_link_one_logs_in(root: User, monkeypatch: pytest.MonkeyPatch) -> None:
    token = break_glass.make(root)
    both_read = [break_glass.read(token), break_glass.read(token)]
    monkeypatch.setattr(break_glass, "read", lambda _: both_read.pop())

    break_glass.use(token)
    with pytest.raises(Refusal, match="This link does not work"):
        break_glass.use(token)


def test_break_glass_names_the_superusers_if_the_account_does_not_exist(root: User, db: None) -> None:
    with pytest.raises(CommandError, match=r"There is no account nobody\. Superusers: root"):
        call_command("break_glass", "nobody")


def test_the_link_of_break_glass_is_in_no_log_line(
    sso: Configure, root: User, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        path = link_for("root", capsys)
        Client().post(path)

    token = path.rstrip("/").rpartition("/")[2]
    assert len(token) > 30
    assert token not in caplog.text


# ---------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("issuer", "sentence"),
    [
        ("https://id.example.com/realms/company", ""),
        ("https://id.example.com/", ""),
        ("http://localhost:8080/realms/company", ""),
        ("http://id.example.com", "must be https"),
        ("id.example.com", "is not an issuer"),
        ("https://id.example.com?realm=a", "is not an issuer"),
        ("https://user:secret@id.example.com", "is not an issuer"),
        ("https://id.example.com/.well-known/openid-configuration", "not the issuer itself"),
    ],
)
def test_an_issuer_is_an_https_address(issuer: str, sentence: str) -> None:
    found = "\n".join(str(problem) for problem in config.load({"SSO_ISSUER": issuer}).problems)

    assert sentence in found
    assert bool(found) == bool(sentence)
    assert "secret" not in found


@pytest.mark.parametrize("groups", ["staff=viewer", '["staff"]', '{"staff": ["viewer"]}', '{"staff": 1}'])
def test_groups_are_an_object_of_texts(groups: str) -> None:
    assert config.load({"SSO_GROUPS": groups}).problem_of("SSO_GROUPS")


COMPLETE = {"SSO_ISSUER": "https://id.example.com", "SSO_CLIENT_ID": "a", "SSO_GROUPS": '{"a": "viewer"}'}


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, []),
        ({"SSO_CLIENT_ID": ""}, ["deployments.E016"]),
        ({"SSO_GROUPS": ""}, ["deployments.W015"]),
        ({"PASSWORD_LOG_IN": "0"}, []),
        ({"PASSWORD_LOG_IN": "0", "SSO_ISSUER": ""}, ["deployments.W016"]),
        ({"SSO_GROUPS": "nonsense"}, []),  # E001 says it
    ],
)
def test_half_a_single_sign_on_is_named_at_the_start(changed: dict[str, str], found: list[str], settings: Any) -> None:
    settings.CONFIGURATION = config.load(COMPLETE | changed)

    assert [message.id for message in checks.single_sign_on_is_complete(app_configs=None)] == found
