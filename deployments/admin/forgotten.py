"""A forgotten password, where mail is configured: ask for a link by mail, and set a password with the link.

Django's views and tokens, with our pages, a limit, and lines of the audit log. A thread sends the mail, so the answer
and its time are the same whether the address has an account or not. Without mail the log-in page says who can help, and
these pages do not exist.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib import admin
from django.contrib.auth import views
from django.contrib.auth.forms import PasswordResetForm
from django.core.mail import EmailMessage
from django.db import transaction
from django.db.models.functions import Now
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.template.loader import render_to_string
from django.urls import path, reverse_lazy

from deployments.access import sessions
from deployments.access.audit import Actor, Trail, history
from deployments.access.single_sign_on import passwords_are_off
from deployments.log import carried, get_logger
from deployments.models import ActorKind

log = get_logger(__name__)

ACTION = "ask.password"
TEMPLATE = "registry_admin/forgotten.html"
#: The most mails to one account in WINDOW.
MAX_MAILS = 3
WINDOW = timedelta(hours=1)
SENT = (
    "If this is the address of an account with a password, a mail with a link is on its way. The link works for "
    "an hour. An account gets at most three mails in an hour."
)


class AskForm(PasswordResetForm):
    """The address. `request` is the request, for the line of the audit log."""

    request: HttpRequest

    def send_mail(self, *args: Any, **kwargs: Any) -> None:
        """Send one mail to one account, unless it got MAX_MAILS in WINDOW."""
        context: dict[str, Any] = args[2]
        user = context["user"]
        if history(user).filter(action=ACTION, at__gt=Now() - WINDOW).count() >= MAX_MAILS:
            return
        with transaction.atomic():
            actor = Actor(kind=ActorKind.SYSTEM, name="unknown")
            Trail(actor=actor, request=self.request).record(ACTION, user)
        text = render_to_string("registry_admin/forgotten_mail.txt", context)
        headers = {"Auto-Submitted": "auto-generated"}  # RFC 3834: no automatic reply is wanted
        mail = EmailMessage("A new password for Registry Admin", text, to=[context["email"]], headers=headers)
        threading.Thread(target=carried(_send), args=(mail,), daemon=True).start()


def _send(mail: EmailMessage) -> None:
    try:
        mail.send()
    except Exception as error:  # a mail server raises errors of many kinds; the person can ask again
        log.warning("password_mail.failed", error=str(error))


class _Page:
    """What the pages have in common: they exist only where mail is configured and people log in with passwords, and
    no cache keeps them.
    """

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not settings.MAIL_IS_CONFIGURED or passwords_are_off(settings.CONFIGURATION):
            raise Http404
        response: HttpResponseBase = super().dispatch(request, *args, **kwargs)  # type: ignore[misc]
        response["Cache-Control"] = "no-store"
        return response

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        request: HttpRequest = self.request  # type: ignore[attr-defined]
        return {**admin.site.each_context(request), **super().get_context_data(**kwargs)}  # type: ignore[misc]


class Ask(_Page, views.PasswordResetView):
    """The form for the address."""

    template_name = TEMPLATE
    form_class = AskForm
    success_url = reverse_lazy("admin:forgotten_sent")
    extra_context = {"title": "Forgotten password", "word": "Send a link"}

    def form_valid(self, form: Any) -> HttpResponse:
        form.request = self.request
        origin = urlsplit(settings.CONFIGURATION.app_origin)  # not the request's Host header, which a client chooses
        self.extra_email_context = {"protocol": origin.scheme, "domain": origin.netloc}
        return super().form_valid(form)


class Sent(_Page, views.PasswordResetDoneView):
    """The answer to every address."""

    template_name = TEMPLATE
    extra_context = {"title": "Check your mail", "sentence": SENT}


class Link(_Page, views.PasswordResetConfirmView):
    """The form for the new password, behind the link of the mail."""

    template_name = TEMPLATE
    success_url = reverse_lazy("admin:forgotten_done")
    extra_context = {"title": "New password", "word": "Set the password"}

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context: dict[str, Any] = super().get_context_data(**kwargs)
        if not self.validlink:
            sentence = (
                "This link does not work: it was used, is older than an hour, or is not complete. Ask for a new one."
            )
            context |= {"title": "New password", "sentence": sentence}
        return context

    def form_valid(self, form: Any) -> HttpResponse:
        user: Any = self.user
        trail = Trail(actor=Actor(kind=ActorKind.PERSON, name=user.email), request=self.request)
        with trail.change("change.user", user, after={"changed": ["password"], "by": "a link that was sent by mail"}):
            response = super().form_valid(form)
            sessions.end_others(user, trail)
        return response


class Done(_Page, views.PasswordResetCompleteView):
    """The end."""

    template_name = TEMPLATE
    extra_context = {
        "title": "The password is set",
        "sentence": "You can log in with it. Your other sessions have ended.",
    }


URLS = [
    path("forgotten/", Ask.as_view(), name="forgotten"),
    path("forgotten/sent/", Sent.as_view(), name="forgotten_sent"),
    path("forgotten/done/", Done.as_view(), name="forgotten_done"),
    path("forgotten/<uidb64>/<token>/", Link.as_view(), name="forgotten_link"),
]
