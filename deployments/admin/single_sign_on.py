"""The pages of single sign-on: the way to the provider and back, links of accounts, and the link of `break_glass`.

What is remembered between the way there and back is in a signed cookie of ten minutes, not in a session: anybody can
begin a log-in, and a session would be a row for each.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache

from deployments.access import break_glass, openid, people, sessions, single_sign_on
from deployments.access.audit import Trail
from deployments.admin.second_factor import recent
from deployments.config import Configuration
from deployments.errors import Refusal, refusal
from deployments.models import Identity

COOKIE = "single_sign_on"
MAX_AGE = 10 * 60  # seconds
MAX_NEXT = 1_500  # characters of JSON; browsers drop a cookie of more than 4,096 bytes
#: In the session: the person that its owner was asked to confirm. Django empties a session if another person logs in.
_PENDING = "link_pending"

_View = Callable[..., HttpResponse]


def _explained(view: _View) -> _View:
    """A view whose refusals are a page."""

    @wraps(view)
    def run(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method not in ("GET", "HEAD", "POST"):
            return HttpResponseNotAllowed(("GET", "HEAD", "POST"))
        request.current_app = admin.site.name
        try:
            return view(request, *args, **kwargs)
        except Refusal as refused:
            return _refused(request, refused)

    return never_cache(run)


def _refused(request: HttpRequest, refused: Refusal) -> HttpResponse:
    context = {**admin.site.each_context(request), "title": "Not done", "sentence": refused.sentence}
    status = HTTPStatus.SERVICE_UNAVAILABLE if refused.retryable else HTTPStatus.FORBIDDEN
    return TemplateResponse(request, "registry_admin/log_in_refused.html", context, status=status)


def _configuration() -> Configuration:
    configuration: Configuration = settings.CONFIGURATION
    if not single_sign_on.is_on(configuration):
        raise Http404
    return configuration


def redirect_address() -> str:
    """The address that an operator registers at the provider."""
    return settings.CONFIGURATION.app_origin + reverse("admin:single_sign_on_back")


@_explained
def begin(request: HttpRequest) -> HttpResponse:
    """Send the browser to the provider for a log-in. `next`: where it goes afterwards, if the cookie can hold it."""
    following = request.GET.get("next", "")
    return _to_provider({"next": following if len(json.dumps(following)) <= MAX_NEXT else "", "link": None})


@recent
@_explained
def begin_link(request: HttpRequest) -> HttpResponse:
    """Send the browser of a person who is logged in to the provider, to link the account."""
    return _to_provider({"next": "", "link": request.user.pk})


def _to_provider(kept: dict[str, Any]) -> HttpResponse:
    begun = openid.begin(_configuration(), redirect_address())
    kept |= {"state": begun.state, "nonce": begun.nonce, "verifier": begun.verifier}
    response = HttpResponseRedirect(begun.address)
    response.set_cookie(
        COOKIE,
        signing.dumps(kept, salt=COOKIE),
        max_age=MAX_AGE,
        path=reverse("admin:single_sign_on_back"),
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",  # the provider's redirect is a navigation from another site
    )
    return response


@_explained
def back(request: HttpRequest) -> HttpResponse:
    """The provider's answer. The cookie is for one answer: it is deleted, also after a refusal, but not by an answer to
    another log-in, such as one that was begun before in another tab.
    """
    configuration = _configuration()
    try:
        kept = signing.loads(request.COOKIES.get(COOKIE, ""), salt=COOKIE, max_age=MAX_AGE)
    except signing.BadSignature:
        raise refusal("sso_begin_again") from None
    begun = openid.Begun(address="", state=kept["state"], nonce=kept["nonce"], verifier=kept["verifier"])
    try:
        person = openid.finish(configuration, redirect_address(), begun, request.GET.dict())
        if kept["link"] is not None:
            response = _ask_for_link(request, person, kept["link"])
        else:
            single_sign_on.log_in(person, configuration=configuration, request=request)
            response = HttpResponseRedirect(_target(request, kept["next"]))
    except Refusal as refused:
        if refused.code == openid.OTHER_STATE:
            raise
        response = _refused(request, refused)
    response.delete_cookie(COOKIE, path=reverse("admin:single_sign_on_back"), samesite="Lax")
    return response


def _target(request: HttpRequest, target: str) -> str:
    ours = url_has_allowed_host_and_scheme(target, {request.get_host()}, require_https=request.is_secure())
    return target if target and ours else reverse("admin:index")


# ------------------------------------------------------------------------------------------------------------- links


def _ask_for_link(request: HttpRequest, person: openid.Person, pk: int) -> HttpResponse:
    """Ask the owner of the account, because a foreign site could have led the browser here with another log-in."""
    if request.user.pk != pk:
        raise refusal("sso_begin_again")
    request.session[_PENDING] = {
        "issuer": person.issuer,
        "subject": person.subject,
        "name": person.email or person.username,
    }
    return HttpResponseRedirect(reverse("admin:single_sign_on_link"))


@recent
@_explained
def link(request: HttpRequest) -> HttpResponse:
    """GET asks whether the person at the provider is the owner of the account, POST links them."""
    configuration = _configuration()
    pending = request.session.get(_PENDING)
    if not pending:
        raise refusal("sso_begin_again")
    if request.method == "POST":
        del request.session[_PENDING]
        user: Any = request.user
        single_sign_on.link(user, issuer=pending["issuer"], subject=pending["subject"], trail=Trail.of(request))
        messages.success(request, f"You can log in with {configuration.sso_name}.")
        return HttpResponseRedirect(reverse("admin:your_log_in"))
    context = {
        **admin.site.each_context(request),
        "title": "Link your account?",
        "pending": pending,
        "above": (reverse("admin:your_log_in"), "Your log-in"),
        "name": configuration.sso_name,
    }
    return TemplateResponse(request, "registry_admin/single_sign_on_link.html", context)


class SubjectForm(forms.Form):
    """The subject of a person at the issuer of SSO_ISSUER."""

    subject = forms.CharField(
        max_length=255, help_text="As the OpenID provider names the person in the claim sub. Not an e-mail address."
    )


@recent
@_explained
def links_of(request: HttpRequest, pk: int) -> HttpResponse:
    """An administrator links an account to a person at the provider, or removes its links.

    Like setting a password, it gives the account to somebody: the same rule decides who may (`access.people`).
    """
    person = get_object_or_404(User, pk=pk)
    if not (request.user.has_perm("auth.change_user") and people.may_change_person(request.user, person)):
        raise PermissionDenied
    configuration: Configuration = settings.CONFIGURATION
    can_link = single_sign_on.is_on(configuration) and single_sign_on.identity_of(person, configuration) is None
    form = SubjectForm(request.POST if "subject" in request.POST else None)
    here = reverse("admin:single_sign_on_links", args=[pk])
    if request.method == "POST" and "unlink" in request.POST:
        pk_of_link = request.POST["unlink"]
        identity = get_object_or_404(Identity, pk=pk_of_link if pk_of_link.isdecimal() else 0, user=person)
        if single_sign_on.unlink(identity, trail=Trail.of(request)):
            messages.success(request, f"{identity} no longer logs in as {person}.")
        return HttpResponseRedirect(here)
    if request.method == "POST" and single_sign_on.is_on(configuration) and form.is_valid():
        try:
            single_sign_on.link(
                person,
                issuer=single_sign_on.issuer_of(configuration),
                subject=form.cleaned_data["subject"],
                trail=Trail.of(request),
            )
        except Refusal as refused:
            form.add_error("subject", refused.sentence)
        else:
            messages.success(request, f"This person of {configuration.sso_name} logs in as {person}.")
            return HttpResponseRedirect(here)
    context = {
        **admin.site.each_context(request),
        "title": f"Single sign-on of {person}",
        "opts": User._meta,
        "original": person,
        "form": form if can_link or form.errors else None,
        "issuer": single_sign_on.issuer_of(configuration),
        "identities": person.identities.order_by("pk"),
        "days": configuration.sso_token_lifetime.days,
    }
    return TemplateResponse(request, "registry_admin/single_sign_on_links.html", context)


# ------------------------------------------------------------------------------------------------------- break glass


@_explained
def emergency(request: HttpRequest, token: str) -> HttpResponse:
    """The link of `manage.py break_glass`. GET asks, so that a preview of the link does not use it; POST logs in."""
    if request.method == "POST":
        with transaction.atomic():  # a link without its session would be lost
            sessions.begin(request, break_glass.use(token), by=break_glass.BY)
        return HttpResponseRedirect(reverse("admin:index"))
    context = {
        **admin.site.each_context(request),
        "title": "Log in with a link",
        "person": break_glass.read(token),
    }
    return TemplateResponse(request, "registry_admin/break_glass.html", context)


def urls(site: admin.AdminSite) -> list[Any]:
    """The addresses of the site."""
    return [
        path("single-sign-on/", begin, name="single_sign_on"),
        path("single-sign-on/back/", back, name="single_sign_on_back"),
        path("your-log-in/link/", site.admin_view(begin_link), name="single_sign_on_begin_link"),
        path("your-log-in/link/confirm/", site.admin_view(link), name="single_sign_on_link"),
        path("auth/user/<int:pk>/single-sign-on/", site.admin_view(links_of), name="single_sign_on_links"),
        path("break-glass/<str:token>/", emergency, name="break_glass"),
    ]
