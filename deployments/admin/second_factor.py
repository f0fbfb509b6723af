"""The pages of the second factor: the step of the log-in that asks for one, and each person's own (“Your log-in”).

The session holds what is under way: a log-in after the right password (PENDING), the key of a new app (encrypted), and
the challenge of a passkey. Nobody sees anything about second factors before the right password. Without a script a
person can use codes and recovery codes; passkeys need one (`static/admin_theme/passkey.js`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.request import split_domain_port
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.crypto import constant_time_compare
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache

from deployments.access import log_in_throttle, second_factor, sessions, single_sign_on
from deployments.access.audit import Actor, Trail
from deployments.access.single_sign_on import passwords_are_off
from deployments.access.vault import Unreadable, Vault
from deployments.errors import Refusal, refusal
from deployments.models import SecondFactor

#: Keys of the session: the log-in after the right password, the encrypted key of a new app, the challenge of a passkey.
PENDING, SEED, CHALLENGE = "log_in_pending", "second_factor_seed", "passkey_challenge"
PENDING_SECONDS = 10 * 60
MAX_WRONG = 5  # second factors of one log-in; then the password is asked for again

View = Callable[..., HttpResponse]


class CodeForm(forms.Form):
    """A code that somebody types."""

    code = forms.CharField(
        label="Code",
        max_length=40,
        widget=forms.TextInput(attrs={"autocomplete": "one-time-code", "autofocus": True, "spellcheck": "false"}),
    )


class NewAppForm(forms.Form):
    """The name of a new app, and the code that it shows."""

    name = forms.CharField(
        label="Name", required=False, max_length=100, help_text="To tell it apart, such as “Phone”. May be empty."
    )
    code = forms.CharField(
        label="Code of the app",
        max_length=40,
        widget=forms.TextInput(attrs={"autocomplete": "one-time-code", "inputmode": "numeric", "spellcheck": "false"}),
    )


# ------------------------------------------------------------------------------------------------------- the log-in


def begin_or_ask(request: HttpRequest, person: Any, *, following: str) -> HttpResponse:
    """Log in a person with the right password, or ask for the second factor first. `following`: the page after it."""
    request.session.pop(PENDING, None)  # of another person who has left it in this browser
    if not second_factor.of(person).exists() and not settings.CONFIGURATION.second_factor_required:
        sessions.begin(request, person, by=sessions.PASSWORD)
        return HttpResponseRedirect(following)
    request.session.cycle_key()  # nobody who knows the session from before the password gets past it
    request.session[PENDING] = {
        "user": person.pk, "at": time.time(), "next": following, "hash": person.get_session_auth_hash(), "wrong": 0,
    }  # fmt: skip
    return HttpResponseRedirect(reverse("admin:second_factor"))


def _pending(request: HttpRequest) -> User | None:
    """The person of the log-in that waits for its second factor; None if there is none, or it has ended.

    It ends after PENDING_SECONDS, and when the password is changed, the account may no longer use the console, or
    passwords are switched off.
    """
    stored = request.session.get(PENDING)
    if (
        stored is None
        or passwords_are_off(settings.CONFIGURATION)
        or not sessions.is_within(stored["at"], PENDING_SECONDS)
    ):
        return None
    person = User.objects.filter(pk=stored["user"], is_active=True, is_staff=True).first()
    if person is None or not constant_time_compare(stored["hash"], person.get_session_auth_hash()):
        return None
    return person


def _begin_again(request: HttpRequest, words: str) -> HttpResponse:
    """Back to the form for the password."""
    stored = request.session.pop(PENDING, {})
    if words and stored:
        messages.warning(request, words)
    login = reverse("admin:login")
    return HttpResponseRedirect(f"{login}?{urlencode({'next': stored['next']})}" if stored else login)


@never_cache
@login_not_required
def ask(request: HttpRequest) -> HttpResponse:
    """The second step of the log-in: GET asks for a code or a passkey, POST looks at it."""
    person = _pending(request)
    if person is None:
        return _begin_again(request, "This log-in has ended. Begin again.")
    if not second_factor.of(person).exists():
        return HttpResponseRedirect(reverse("admin:second_factor_set_up"))
    error = ""
    if request.method == "POST":
        kind = "passkey" if "credential" in request.POST else "code"
        if not log_in_throttle.may_try_second_factor(request, person, kind=kind):
            return HttpResponse()  # the middleware answers
        challenge, following = request.session.pop(CHALLENGE, None), request.session[PENDING]["next"]
        try:
            with transaction.atomic():
                by = _accept(request, person, challenge)
                request.session.pop(PENDING)
                sessions.begin(request, person, by=by)
            return HttpResponseRedirect(following)
        except Refusal as refused:
            error = refused.sentence
            _failed(request, person, kind, refused)
        if request.session[PENDING]["wrong"] >= MAX_WRONG:
            return _begin_again(request, f"{MAX_WRONG} wrong codes: log in with the password again.")
    return _ask_page(request, person, error)


def _accept(request: HttpRequest, person: User, challenge: Any) -> str:
    """How the person logs in. Raises Refusal."""
    code = request.POST.get("code", "")[:40]
    if "credential" in request.POST:
        second_factor.accept_passkey(
            person=person, origin=_origin(), challenge=challenge, credential=request.POST["credential"]
        )
        return sessions.WITH_PASSKEY
    if len(code.replace(" ", "")) <= second_factor.CODE_DIGITS:
        second_factor.accept_code(person=person, code=code, vault=Vault(settings.ENCRYPTION_KEYS))
        return sessions.WITH_CODE
    second_factor.accept_recovery_code(person=person, code=code, trail=_trail(request, person))
    return sessions.WITH_RECOVERY_CODE


def _failed(request: HttpRequest, person: User, kind: str, refused: Refusal) -> None:
    """Count a wrong second factor, in this log-in and for all processes."""
    request.session[PENDING] = {**request.session[PENDING], "wrong": request.session[PENDING]["wrong"] + 1}
    if refused.code == second_factor.COUNT_WENT_BACK:
        with transaction.atomic():
            _trail(request, person).record("use.second_factor", person, outcome=refused.sentence)
    log_in_throttle.second_factor_failed(request, person, kind=kind)


def _ask_page(request: HttpRequest, person: User, error: str) -> HttpResponse:
    kinds = set(second_factor.of(person).values_list("kind", flat=True))
    obstacle = _obstacle(request)
    options = ""
    if "passkey" in kinds and not obstacle:
        options, request.session[CHALLENGE] = second_factor.ask_for_passkey(person=person, origin=_origin())
    form = CodeForm()
    form.fields["code"].label = "Code of your app, or a recovery code" if "totp" in kinds else "Recovery code"
    context = {
        **admin.site.each_context(request), "title": "Second factor", "form": form, "error": error, "options": options,
        "obstacle": obstacle if "passkey" in kinds else "",
    }  # fmt: skip
    return TemplateResponse(request, "registry_admin/second_factor.html", context)


@never_cache
@login_not_required
def set_up(request: HttpRequest) -> HttpResponse:
    """A step of the log-in where SECOND_FACTOR_REQUIRED is on: GET offers an app and a passkey, POST adds one."""
    person = _pending(request)
    if person is None or not settings.CONFIGURATION.second_factor_required:
        return _begin_again(request, "This log-in has ended. Begin again.")
    if second_factor.of(person).exists():
        return HttpResponseRedirect(reverse("admin:second_factor"))
    if request.method != "POST":
        return _add_page(request, person, "", required=True)
    following = request.session[PENDING]["next"]
    try:
        with transaction.atomic():
            by, codes = _add(request, person, as_first=True)
            request.session.pop(PENDING)
            sessions.begin(request, person, by=by)
    except Refusal as refused:
        return _add_page(request, person, refused.sentence, required=True)
    return _codes_page(request, codes, following)


# -------------------------------------------------------------------------------------------------------- your log-in


def recent(view: View) -> View:
    """For a view that changes how somebody logs in: asks for a new log-in if the last one is not recent."""

    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if sessions.is_recent(request):
            return view(request, *args, **kwargs)
        back = f"{reverse('admin:login')}?{urlencode({'next': request.path})}"
        context = {
            **_context(request), "title": "Log in again", "next": back, "above": _above(),
            "sentence": refusal("log_in_again").sentence,
        }  # fmt: skip
        return TemplateResponse(request, "registry_admin/log_in_again.html", context, status=403)

    return checked


def your_log_in(request: HttpRequest) -> HttpResponse:
    """How the person logs in."""
    left = second_factor.recovery_codes_left(request.user)
    context = {
        **_context(request),
        "title": "Your log-in",
        "factors": second_factor.of(request.user),
        "most": second_factor.MAX_FACTORS,
        "left": left,
        "few": left <= second_factor.FEW_RECOVERY_CODES,
        "required": settings.CONFIGURATION.second_factor_required,
        "single_sign_on": single_sign_on.is_on(settings.CONFIGURATION) and settings.CONFIGURATION.sso_name,
        "identity": single_sign_on.identity_of(request.user, settings.CONFIGURATION),
    }
    return TemplateResponse(request, "registry_admin/your_log_in.html", context)


@recent
def add(request: HttpRequest) -> HttpResponse:
    """GET offers an app and a passkey, POST adds one."""
    person = _me(request)
    if request.method != "POST":
        return _add_page(request, person, "", required=False)
    try:
        _, codes = _add(request, person, as_first=False)
    except Refusal as refused:
        return _add_page(request, person, refused.sentence, required=False)
    messages.success(request, "The second factor was added. The next log-in asks for it.")
    home = reverse("admin:your_log_in")
    return _codes_page(request, codes, home) if codes else HttpResponseRedirect(home)


@recent
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    """GET asks, POST removes one of the person's second factors."""
    person = _me(request)
    factor = get_object_or_404(SecondFactor, pk=pk, user=person)
    if request.method == "POST":
        second_factor.remove(factor=factor, trail=Trail.of(request))
        messages.success(request, f"{factor} was removed.")
        return HttpResponseRedirect(reverse("admin:your_log_in"))
    context = {
        **_context(request), "title": f"Remove {factor}?", "above": _above(), "factor": factor,
        "is_last": second_factor.of(person).count() == 1, "required": settings.CONFIGURATION.second_factor_required,
    }  # fmt: skip
    return TemplateResponse(request, "registry_admin/second_factor_remove.html", context)


@recent
def recovery_codes(request: HttpRequest) -> HttpResponse:
    """GET asks, POST makes new recovery codes and shows them once."""
    person, home = _me(request), reverse("admin:your_log_in")
    if not second_factor.of(person).exists():
        return HttpResponseRedirect(home)
    if request.method == "POST":
        return _codes_page(request, second_factor.make_recovery_codes(person=person, trail=Trail.of(request)), home)
    left = second_factor.recovery_codes_left(person)
    context = {**_context(request), "title": "New recovery codes?", "above": _above(), "left": left}
    return TemplateResponse(request, "registry_admin/recovery_codes_new.html", context)


# ------------------------------------------------------------------------------------------------- what both have


def _add(request: HttpRequest, person: User, *, as_first: bool) -> tuple[str, list[str]]:
    """Add the app or passkey of the form. Returns how it logs in, and the new recovery codes. Raises Refusal."""
    trail, name = _trail(request, person), request.POST.get("name", "").replace("\0", "").strip()[:100]
    if "credential" in request.POST:
        codes = second_factor.add_passkey(
            person=person, origin=_origin(), challenge=request.session.pop(CHALLENGE, None),
            credential=request.POST["credential"], name=name, trail=trail, as_first=as_first,
        )  # fmt: skip
        return sessions.WITH_PASSKEY, codes
    codes = second_factor.add_app(
        person=person, seed=_seed(request, person), code=request.POST.get("code", "")[:40], name=name,
        vault=Vault(settings.ENCRYPTION_KEYS), trail=trail, as_first=as_first,
    )  # fmt: skip
    request.session.pop(SEED, None)
    return sessions.WITH_CODE, codes


def _seed(request: HttpRequest, person: User) -> str:
    """The key of the app that is being added: the same one until it was confirmed by a code."""
    vault, context = Vault(settings.ENCRYPTION_KEYS), f"new second factor of user {person.pk}"
    try:
        return vault.decrypt(request.session.get(SEED, ""), context=context)
    except Unreadable:
        seed = second_factor.new_seed()
        request.session[SEED] = vault.encrypt(seed, context=context)
        return seed


def _add_page(request: HttpRequest, person: User, error: str, *, required: bool) -> HttpResponse:
    seed, obstacle, options = _seed(request, person), _obstacle(request), ""
    if not obstacle:
        options, request.session[CHALLENGE] = second_factor.begin_passkey(person=person, origin=_origin())
    address = second_factor.seed_address(seed, person, origin=_origin())
    context = {
        **_context(request),
        "title": "Set up a second factor" if required else "Add a second factor",
        "above": None if required else _above(),
        "required": required,
        "error": error,
        "form": NewAppForm(),
        "seed": " ".join(seed[place : place + 4] for place in range(0, len(seed), 4)),
        "picture": second_factor.picture(address),
        "obstacle": obstacle,
        "options": options,
    }
    return TemplateResponse(request, "registry_admin/second_factor_add.html", context)


def _codes_page(request: HttpRequest, codes: list[str], following: str) -> HttpResponse:
    """The page with new recovery codes. They are shown once, so it is the answer to the POST that made them."""
    context = {**_context(request), "title": "Your recovery codes", "codes": codes, "following": following}
    return TemplateResponse(request, "registry_admin/recovery_codes.html", context)


def _context(request: HttpRequest) -> dict[str, Any]:
    return admin.site.each_context(request)


def _above() -> tuple[str, str]:
    """The breadcrumb of the pages below “Your log-in”."""
    return reverse("admin:your_log_in"), "Your log-in"


def _me(request: HttpRequest) -> User:
    return get_object_or_404(User, pk=request.user.pk or 0)


def _trail(request: HttpRequest, person: User) -> Trail:
    """The trail of a person who is perhaps not logged in yet."""
    return Trail(actor=Actor.person(person), request=request)


def _origin() -> str:
    return str(settings.CONFIGURATION.app_origin)


def _obstacle(request: HttpRequest) -> str:
    """Why the browser makes and uses no passkey on this page, in a sentence; empty if it does.

    Ports are not compared: a proxy need not pass them on in the Host header.
    """
    origin = _origin()
    if found := second_factor.passkey_obstacle(origin):
        return found
    here, _ = split_domain_port(request.get_host())
    return "" if here == urlsplit(origin).hostname else f"Passkeys work only at {origin}."


LOG_IN_URLS = [
    path("login/second-factor/", ask, name="second_factor"),
    path("login/second-factor/set-up/", set_up, name="second_factor_set_up"),
]


def urls(site: admin.AdminSite) -> list[Any]:
    """The addresses of the site."""
    own: tuple[tuple[str, View, str], ...] = (
        ("", your_log_in, "your_log_in"),
        ("add/", add, "your_log_in_add"),
        ("<int:pk>/remove/", remove, "your_log_in_remove"),
        ("recovery-codes/", recovery_codes, "your_log_in_recovery_codes"),
    )
    return LOG_IN_URLS + [path(f"your-log-in/{end}", site.admin_view(view), name=name) for end, view, name in own]
