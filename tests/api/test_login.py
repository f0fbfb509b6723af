"""`trigger.dev login`: the CLI begins, a person decides in the browser, the CLI fetches a token, once."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone

from deployments import clock
from deployments.access import cli_login, keys
from deployments.config import Configuration
from deployments.errors import NotFound
from deployments.models import AccessKey, AuditEntry, LoginRequest
from tests.admin import markup
from tests.support.cli import Answer, Cli

pytestmark = pytest.mark.django_db

VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
BOUND = {"codeChallenge": CHALLENGE, "codeChallengeMethod": "S256"}


@pytest.fixture
def anyone(client: Client) -> Cli:
    return Cli(client, "")


@pytest.fixture
def browser(operator: User) -> Client:
    browser = Client(enforce_csrf_checks=False)
    browser.force_login(operator)
    return browser


def begin(anyone: Cli, body: object = None, **headers: str) -> Any:
    answer = anyone.post("/api/v1/authorization-code", body, **headers)
    assert answer.status == 200, answer.body
    return answer.body


def path_of(begun: Any) -> str:
    url = str(begun["url"])
    assert url.startswith("http://localhost:8000/account/login/")
    return url.removeprefix("http://localhost:8000")


def ask(anyone: Cli, begun: Any, **proof: str) -> Answer:
    """As every CLI asks: JSON that says it is text."""
    response = anyone.client.generic(
        "POST",
        "/api/v1/token",
        json.dumps({"authorizationCode": begun["authorizationCode"]} | proof),
        content_type="text/plain;charset=UTF-8",
    )
    return Answer(response.status_code, response.json(), response.headers)


def approve(browser: Client, begun: Any) -> str:
    response = browser.post(path_of(begun), {"approve": "1"})
    assert response.status_code == 200
    return response.content.decode()


def code_in(page: str) -> str:
    found = re.search(r"\b([A-Z2-9]{4}-[A-Z2-9]{4}-[A-Z2-9]{4})\b", page)
    assert found, page
    return found[1]


# ---- CLIs before 4.8


def test_an_older_cli_sends_no_body_and_asks_until_somebody_approved(
    anyone: Cli, browser: Client, operator: User
) -> None:
    begun = begin(anyone)
    assert set(begun) == {"authorizationCode", "url"}
    waiting = ask(anyone, begun)
    assert (waiting.status, waiting.body) == (200, {"token": None})

    assert "Go back to your terminal" in approve(browser, begun)
    answer = ask(anyone, begun)

    assert answer.status == 200
    token = answer.body["token"]
    assert set(token) == {"token", "obfuscatedToken"}
    assert token["token"] not in token["obfuscatedToken"]
    assert Cli(anyone.client, token["token"]).get("/api/v2/whoami").body["email"] == operator.email
    key = keys.authenticate(token["token"])
    assert key is not None
    assert (key.user, key.name) == (operator, "trigger.dev login")


def test_a_body_without_a_content_type_begins_a_login_too(anyone: Cli) -> None:
    response = anyone.client.generic("POST", "/api/v1/authorization-code", b"", content_type="")

    assert response.status_code == 200


def test_a_token_is_given_out_once(anyone: Cli, browser: Client) -> None:
    begun = begin(anyone)
    approve(browser, begun)

    assert ask(anyone, begun).body["token"]
    again = ask(anyone, begun)

    assert again.status == 404
    assert again.headers["x-should-retry"] == "false"
    assert AccessKey.objects.count() == 1


def test_the_link_does_not_hold_what_the_token_is_fetched_with(anyone: Cli, browser: Client) -> None:
    begun = begin(anyone)
    browser.get(path_of(begun))

    with pytest.raises(NotFound):
        cli_login.collect(code=path_of(begun).rpartition("/")[2])
    assert begun["authorizationCode"] not in begun["url"]
    assert begun["authorizationCode"] not in str(LoginRequest.objects.values().get())


# ---- CLIs from 4.8 on


def test_a_bound_login_needs_the_verifier_and_the_code_of_the_browser(anyone: Cli, browser: Client) -> None:
    begun = begin(anyone, BOUND)
    assert begun["approval"] == "paste"
    assert ask(anyone, begun, codeVerifier=VERIFIER, approvalCode="x").body == {"token": None}

    code = code_in(approve(browser, begun))

    assert ask(anyone, begun, codeVerifier="other", approvalCode=code).status == 403
    assert ask(anyone, begun, approvalCode=code).status == 403
    assert ask(anyone, begun).status == 403
    wrong = ask(anyone, begun, codeVerifier=VERIFIER, approvalCode="AAAA-AAAA-AAAA")
    assert (wrong.status, wrong.body["code"]) == (400, "approval_code_wrong")  # for which the CLI asks again
    assert ask(anyone, begun, codeVerifier=VERIFIER).status == 400
    assert not AccessKey.objects.exists()
    assert ask(anyone, begun, codeVerifier=VERIFIER, approvalCode=f" {code.lower().replace('-', '')} ").body["token"]


def test_a_cli_that_listens_gets_the_code_from_the_browser_itself(anyone: Cli, browser: Client) -> None:
    begun = begin(anyone, BOUND | {"callbackPort": 43210})
    assert begun["approval"] == "callback"

    response = browser.post(path_of(begun), {"approve": "1"})

    back = response["Refresh"].removeprefix("0;url=")
    assert back.startswith("http://127.0.0.1:43210/callback?approval_code=")
    assert f'href="{back}"' in response.content.decode()
    code = back.partition("=")[2]
    assert ask(anyone, begun, codeVerifier=VERIFIER, approvalCode=code).body["token"]


def test_an_approval_code_is_not_stored_and_is_good_for_its_own_login_only(anyone: Cli, browser: Client) -> None:
    first, second = begin(anyone, BOUND), begin(anyone, BOUND)
    code = code_in(approve(browser, first))
    approve(browser, second)

    assert code not in str(list(LoginRequest.objects.values()))
    assert ask(anyone, second, codeVerifier=VERIFIER, approvalCode=code).status == 400


@pytest.mark.parametrize(
    "body",
    [
        {"codeChallenge": "short", "codeChallengeMethod": "S256"},
        {"codeChallenge": "!" * 43, "codeChallengeMethod": "S256"},
        {"codeChallenge": CHALLENGE, "codeChallengeMethod": "plain"},
        {"codeChallenge": CHALLENGE},
        BOUND | {"callbackPort": 22},
        BOUND | {"callbackPort": 65_536},
    ],
)
def test_what_binds_nothing_is_refused(anyone: Cli, body: dict[str, Any]) -> None:
    assert anyone.post("/api/v1/authorization-code", body).status == 422
    assert not LoginRequest.objects.exists()


# ---- The page


def test_the_page_says_what_asks_and_from_where_and_warns_of_another_address(anyone: Cli, browser: Client) -> None:
    begun = begin(anyone, user_agent="trigger.dev <b>4.4</b>")

    page = browser.get(path_of(begun) + "?email=ada@example.com").content.decode()
    elsewhere = browser.get(path_of(begun), REMOTE_ADDR="203.0.113.7").content.decode()

    assert "trigger.dev &lt;b&gt;4.4&lt;/b&gt;" in page
    assert "127.0.0.1" in page
    assert "ada@example.com" in page
    assert "not your present address" not in page
    assert "not your present address" in elsewhere
    assert "the person who began the login gets your token" in page
    assert "the person who began the login" not in browser.get(path_of(begin(anyone, BOUND))).content.decode()


@pytest.mark.costly
def test_no_state_of_the_page_needs_a_script_or_a_style_of_its_own(anyone: Cli, browser: Client) -> None:
    begun, listening = begin(anyone, BOUND), begin(anyone, BOUND | {"callbackPort": 43210})
    pages = [browser.get(path_of(begun)), browser.get("/account/login/nothing")]
    pages += [browser.post(path_of(each), {"approve": "1"}) for each in (begun, listening, begin(anyone))]
    pages += [browser.post(path_of(begin(anyone)), {"decline": "1"})]

    for page in (markup.read(response.content.decode()) for response in pages):
        assert page.inline == []
        assert page.headings.count(1) == 1
        assert len(page.ids) == len(set(page.ids))
        assert len([form for form in page.forms if form.get("method") == "post"]) == page.tokens


def test_looking_at_the_page_approves_nothing(anyone: Cli, browser: Client) -> None:
    begun = begin(anyone)

    browser.get(path_of(begun) + "?approve=1")

    assert ask(anyone, begun).body == {"token": None}


def test_approving_takes_a_csrf_token(anyone: Cli, operator: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(operator)
    begun = begin(anyone)

    assert strict.post(path_of(begun), {"approve": "1"}).status_code == 403
    assert ask(anyone, begun).body == {"token": None}


def test_who_is_not_signed_in_is_asked_to(anyone: Cli, client: Client) -> None:
    begun = begin(anyone)

    response = client.post(path_of(begun), {"approve": "1"})

    assert response["Location"].startswith("/admin/login/?next=/account/login/")
    assert ask(anyone, begun).body == {"token": None}


def test_who_may_not_make_keys_cannot_approve_and_who_may_can(anyone: Cli, db: None) -> None:
    viewer = User.objects.create_user("eve@example.com", "eve@example.com", is_staff=True)
    browser = Client()
    browser.force_login(viewer)
    begun = begin(anyone)

    assert browser.get(path_of(begun)).status_code == 403
    refused = browser.post(path_of(begun), {"approve": "1"})
    assert refused.status_code == 403
    assert "may not make keys" in refused.content.decode()
    assert ask(anyone, begun).body == {"token": None}
    viewer.user_permissions.add(Permission.objects.get(codename="add_accesskey"))
    approve(browser, begun)
    assert ask(anyone, begun).body["token"]


def test_a_declined_login_is_over_for_the_cli_at_once(anyone: Cli, browser: Client) -> None:
    begun = begin(anyone)

    page = browser.post(path_of(begun), {"decline": "1"}).content.decode()

    assert "Declined" in page
    assert ask(anyone, begun).status == 404
    assert browser.get(path_of(begun)).status_code == 404
    assert browser.post(path_of(begun), {"approve": "1"}).status_code == 404


def test_a_login_is_approved_once(anyone: Cli, browser: Client) -> None:
    begun = begin(anyone, BOUND)
    code = code_in(approve(browser, begun))

    assert browser.post(path_of(begun), {"approve": "1"}).status_code == 404
    assert ask(anyone, begun, codeVerifier=VERIFIER, approvalCode=code).body["token"]


def test_of_two_who_approve_at_once_one_does(anyone: Cli, operator: User) -> None:
    begun = begin(anyone, BOUND)
    found = cli_login.find(handle=path_of(begun).rpartition("/")[2])
    assert found is not None
    assert cli_login.approve(login=found.login, user=operator)

    with pytest.raises(NotFound):
        cli_login.approve(login=found.login, user=operator)


def test_the_page_with_the_code_is_not_kept(anyone: Cli, browser: Client) -> None:
    response = browser.post(path_of(begin(anyone, BOUND)), {"approve": "1"})

    assert "no-store" in response["Cache-Control"]


@pytest.mark.parametrize("change", [lambda path: path[:-3] + "abc", lambda path: "/account/login/nothing"])
def test_a_link_that_was_changed_is_no_link(anyone: Cli, browser: Client, change: Any) -> None:
    response = browser.get(change(path_of(begin(anyone))))

    assert response.status_code == 404
    assert "not valid" in response.content.decode()


def test_who_approved_stands_in_the_audit_log_without_a_code(anyone: Cli, browser: Client) -> None:
    begun = begin(anyone, BOUND)
    code = code_in(approve(browser, begun))
    token = ask(anyone, begun, codeVerifier=VERIFIER, approvalCode=code).body["token"]["token"]

    told = list(AuditEntry.objects.order_by("id").values())
    assert [entry["action"] for entry in told] == ["approve.login", "make.key"]
    assert told[0]["actor"] == "ada@example.com"
    assert not [secret for secret in (code, token, begun["authorizationCode"]) if secret in str(told)]


# ---- The end


@pytest.mark.costly
def test_a_login_ends_after_ten_minutes(anyone: Cli, browser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, opened, approved = begin(anyone), begin(anyone), begin(anyone)
    browser.get(path_of(opened))
    approve(browser, approved)
    LoginRequest.objects.update(expires_at=Now() - timedelta(seconds=1))
    now = clock.now
    monkeypatch.setattr(clock, "now", lambda: now() + timedelta(minutes=10))

    assert ask(anyone, begun).status == 404
    assert ask(anyone, opened).status == 404
    assert ask(anyone, approved).status == 404
    assert browser.get(path_of(begun)).status_code == 404  # nobody is asked for what cannot be approved
    assert browser.post(path_of(begun), {"approve": "1"}).status_code == 404
    assert not AccessKey.objects.exists()


def test_a_user_who_was_switched_off_gets_no_token(anyone: Cli, browser: Client, operator: User) -> None:
    begun = begin(anyone)
    approve(browser, begun)
    operator.is_active = False
    operator.save()

    assert ask(anyone, begun).status == 404


def test_a_login_that_was_approved_gives_no_token_after_all_keys_of_the_user_were_revoked(
    anyone: Cli, browser: Client, operator: User
) -> None:
    begun = begin(anyone)
    approve(browser, begun)

    browser.post(f"/admin/auth/user/{operator.pk}/revoke-keys/")

    assert ask(anyone, begun).status == 404
    assert not AccessKey.objects.exists()


def test_dead_logins_are_cleared_away_when_another_one_is_opened(anyone: Cli, browser: Client) -> None:
    browser.get(path_of(begin(anyone)))
    LoginRequest.objects.update(expires_at=timezone.now() - timedelta(minutes=11))
    browser.get(path_of(begin(anyone)))

    assert LoginRequest.objects.count() == 1


# ---- Limits


@pytest.mark.costly
def test_who_begins_logins_in_a_loop_keeps_nobody_from_a_login_and_fills_no_table(anyone: Cli, browser: Client) -> None:
    for _ in range(1_100):
        begin(anyone)
    assert not LoginRequest.objects.exists()

    begun = begin(anyone, BOUND)  # of another person, behind the same address
    code = code_in(approve(browser, begun))
    assert ask(anyone, begun, codeVerifier=VERIFIER, approvalCode=code).body["token"]
    assert LoginRequest.objects.count() == 1


def test_who_is_not_signed_in_makes_no_row(anyone: Cli, client: Client) -> None:
    begun = begin(anyone)
    client.get(path_of(begun))
    client.post(path_of(begun), {"approve": "1"})
    ask(anyone, begun)

    assert not LoginRequest.objects.exists()


def test_logins_that_are_not_bound_can_be_refused(anyone: Cli, configure: Callable[..., Configuration]) -> None:
    configure(CLI_LOGIN_REFUSE_UNBOUND="1")

    refused = anyone.post("/api/v1/authorization-code")

    assert (refused.status, refused.body["code"]) == (422, "login_unbound")
    assert refused.headers["x-should-retry"] == "false"
    assert begin(anyone, BOUND)["approval"] == "paste"


def test_one_address_fails_so_often_and_no_more(anyone: Cli) -> None:
    nothing = {"authorizationCode": "nothing"}

    assert {ask(anyone, nothing).status for _ in range(60)} == {404}
    assert ask(anyone, nothing).status == 429
    assert ask(anyone, begin(anyone)).status == 200  # who asks for what is there is not held up


@pytest.mark.parametrize("code", ["", "ü", "x" * 201, "\\u0000", "' OR 1=1 --"])
def test_no_code_is_strange_enough_for_a_500(anyone: Cli, code: str) -> None:
    assert ask(anyone, {"authorizationCode": code}).status in {404, 422}


# ---- The guards of the use case itself: the page has some of them too


def begun(**more: Any) -> LoginRequest:
    """The row of a new login whose link was opened."""
    found = cli_login.find(handle=cli_login.begin(**more).handle)
    assert found is not None
    return found.login


def test_a_login_that_was_declined_in_another_tab_cannot_be_approved(operator: User) -> None:
    waiting = begun()
    assert cli_login.decline(login=waiting)

    with pytest.raises(NotFound):
        cli_login.approve(login=waiting, user=operator)
    assert LoginRequest.objects.get().approved_at is None


def test_a_login_that_has_expired_cannot_be_approved(operator: User) -> None:
    waiting = begun()
    LoginRequest.objects.update(expires_at=timezone.now() - timedelta(seconds=1))

    with pytest.raises(NotFound):
        cli_login.approve(login=waiting, user=operator)
    assert not cli_login.decline(login=waiting)


def test_an_approved_login_cannot_be_declined_from_another_tab(operator: User) -> None:
    waiting = begun()
    cli_login.approve(login=waiting, user=operator)

    assert not cli_login.decline(login=waiting)
    assert LoginRequest.objects.get().expires_at == waiting.expires_at


@pytest.mark.parametrize(("minutes", "works"), [(9, True), (11, False)])
def test_a_link_and_a_code_work_for_ten_minutes(
    operator: User, monkeypatch: pytest.MonkeyPatch, minutes: int, works: bool
) -> None:
    now = clock.now
    with monkeypatch.context() as patch:
        patch.setattr(clock, "now", lambda: now() - timedelta(minutes=minutes))
        begun = cli_login.begin()

    if works:
        assert cli_login.collect(code=begun.code) is None
        assert cli_login.find(handle=begun.handle) is not None
    else:
        with pytest.raises(NotFound):
            cli_login.collect(code=begun.code)
        assert cli_login.find(handle=begun.handle) is None
        assert not LoginRequest.objects.exists()


def test_a_link_that_is_opened_late_gives_no_more_time(operator: User, monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.now
    with monkeypatch.context() as patch:
        patch.setattr(clock, "now", lambda: now() - timedelta(minutes=9))
        begun = cli_login.begin()
    found = cli_login.find(handle=begun.handle)

    assert found is not None
    assert abs(found.login.expires_at - timezone.now() - timedelta(minutes=1)) < timedelta(seconds=5)


def test_a_login_is_approvable_for_ten_minutes(operator: User) -> None:
    assert abs(begun().expires_at - timezone.now() - timedelta(minutes=10)) < timedelta(seconds=5)


def test_a_login_that_is_not_bound_has_no_port_that_a_code_is_sent_to(operator: User) -> None:
    assert begun(callback_port=43210).callback_port is None
    assert begun(callback_port=43210, challenge=CHALLENGE).callback_port == 43210


def test_of_two_who_collect_at_once_one_gets_the_token(operator: User, monkeypatch: pytest.MonkeyPatch) -> None:
    started = cli_login.begin()
    found = cli_login.find(handle=started.handle)
    assert found is not None
    cli_login.approve(login=found.login, user=operator)
    code, make = started.code, keys.make_user_token

    def slowly(*arguments: Any, **options: Any) -> Any:
        with pytest.raises(NotFound):  # the other one, which read the row before ours was stamped
            cli_login.collect(code=code)
        return make(*arguments, **options)

    monkeypatch.setattr(keys, "make_user_token", slowly)

    assert cli_login.collect(code=code)
    assert AccessKey.objects.count() == 1


@pytest.mark.costly
@pytest.mark.parametrize("minutes", [-30, 30], ids=["behind", "ahead"])
def test_a_host_whose_clock_is_wrong_ends_no_login_early_and_lets_none_go_on(
    anyone: Cli, browser: Client, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    waiting, late = begin(anyone), begin(anyone)
    now, seconds = timezone.now, time.time
    monkeypatch.setattr("django.utils.timezone.now", lambda: now() + timedelta(minutes=minutes))
    monkeypatch.setattr("django.core.signing.time.time", lambda: seconds() + minutes * 60)
    browser.get(path_of(late))
    browser.get(path_of(begin(anyone)))  # clears away what is dead, and nothing else

    assert browser.post(path_of(waiting), {"approve": "1"}).status_code == 200
    assert ask(anyone, waiting).body["token"] is not None
    LoginRequest.objects.filter(approved_at=None).update(expires_at=Now() - timedelta(seconds=1))
    assert browser.post(path_of(late), {"approve": "1"}).status_code == 404
    assert ask(anyone, late).status == 404


def test_a_login_that_was_declined_or_has_expired_meanwhile_is_not_approved(operator: User) -> None:
    declined, expired = (cli_login.find(handle=cli_login.begin().handle) for _ in range(2))
    assert declined is not None
    assert expired is not None
    cli_login.decline(login=declined.login)
    LoginRequest.objects.filter(pk=expired.login.pk).update(expires_at=Now() - timedelta(seconds=1))

    for found in (declined, expired):
        with pytest.raises(NotFound):
            cli_login.approve(login=found.login, user=operator)
    assert not LoginRequest.objects.exclude(approved_at=None).exists()
