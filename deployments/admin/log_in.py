"""The log-in page of the console.

A person with the right password is logged in by `access.sessions.begin`, perhaps after a second factor
(`admin.second_factor`). The other ways to log in end there too.
"""

from __future__ import annotations

from typing import Any

from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth import signals
from django.contrib.auth.views import LoginView
from django.core.exceptions import ValidationError
from django.core.validators import MaxLengthValidator
from django.http import HttpResponse

from deployments.access.hashing import MAX_PASSWORD_CHARACTERS
from deployments.admin import second_factor


class LogInForm(AdminAuthenticationForm):
    """Django's form. An account with the right password that may not use the console counts as a failed log-in. A
    password that is too long for an account is refused before it is looked at.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["password"].validators.append(MaxLengthValidator(MAX_PASSWORD_CHARACTERS))

    def confirm_login_allowed(self, user: Any) -> None:
        try:
            super().confirm_login_allowed(user)
        except ValidationError:
            failed = {"username": user.get_username()}
            signals.user_login_failed.send(sender=__name__, credentials=failed, request=self.request)
            raise


class LogIn(LoginView):
    """The form for a name and a password."""

    template_name = "admin/login.html"
    authentication_form = LogInForm

    def form_valid(self, form: Any) -> HttpResponse:
        return second_factor.begin_or_ask(self.request, form.get_user(), following=self.get_success_url())
