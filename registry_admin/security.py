"""What no answer may have: a header that lets foreign scripts run, a secret on one of Django's error pages."""

import re
from collections.abc import Callable, ItemsView
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.views.debug import SafeExceptionReporterFilter

from deployments.config import Configuration
from deployments.settings_table import SECRETS

POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def content_security_policy(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """The middleware that sets Content-Security-Policy. A view that sets the header itself keeps its own policy.

    The middleware of Django 6 will replace it.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    return middleware


_NOT_REDIRECTED = re.compile(r"/api(/.*)?|/healthz|/readyz|/metrics|/status\.json", re.DOTALL)


def redirect_to_https(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """The middleware of HTTPS_REDIRECT. Django's own redirect knows no host that is exempt.

    Probes and scrapes come over http inside a private network, and so may the image build to API_ORIGIN. A client of
    the API has sent its key already, and would repeat a POST as a GET.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        configuration: Configuration = settings.CONFIGURATION
        origin, api = configuration.app_origin, configuration.api_origin
        to_api = api != origin and request.META.get("HTTP_HOST", "").lower() == urlsplit(api).netloc
        wanted = configuration.https_redirect and origin.startswith("https://") and not request.is_secure()
        if not wanted or to_api or _NOT_REDIRECTED.fullmatch(request.path_info):
            return get_response(request)
        return HttpResponseRedirect(origin + request.get_full_path())  # 302: a browser keeps no wrong redirect

    return middleware


class SecretsFilter(SafeExceptionReporterFilter):
    """Django's filter of what its error page shows with DEBUG.

    Django hides settings whose names contain words such as KEY and PASS. This filter also hides the secret settings of
    our table, such as DATABASE_URL, every address with a password in it, and every local variable that contains the
    value of a secret setting, such as psycopg's connection string.
    """

    hidden_settings = re.compile(
        "|".join((SafeExceptionReporterFilter.hidden_settings.pattern, *SECRETS)), re.IGNORECASE
    )

    def cleanse_setting(self, key: Any, value: Any) -> Any:
        """The value, or stars. Any variable may have an address with a log-in, such as HTTPS_PROXY."""
        has_login = isinstance(value, str) and re.search(r"://[^/\s]*:[^/\s]*@", str(value))  # it may be lazy
        return self.cleansed_substitute if has_login else super().cleanse_setting(key, value)

    def get_traceback_frame_variables(self, request: HttpRequest | None, tb_frame: FrameType) -> ItemsView[str, Any]:
        """The names and values of the local variables of one frame."""
        found = super().get_traceback_frame_variables(request, tb_frame)
        return {name: self.cleansed_substitute if _has_secret(value) else value for name, value in found}.items()


def _has_secret(value: object) -> bool:
    configuration: Configuration = settings.CONFIGURATION
    logins = (configuration.database, configuration.mail, *configuration.registries)
    secrets = {
        settings.SECRET_KEY,
        configuration.metrics_key,
        configuration.sso_client_secret,
        *configuration.encryption_keys,
        *configuration.secret_key_fallbacks,
        *(login.password for login in logins if login),
        *(registry.assume_role_external_id for registry in configuration.registries),
        *(settings.CHILD_ENVIRONMENT.get(name) for name in SECRETS),
    }
    if configuration.database:  # sslpassword, oauth_client_secret, scram_client_key
        options = configuration.database.options
        secrets |= {str(option) for name, option in options if re.search("password|secret|_key", name)}
    try:
        shown = repr(value)
    except Exception:
        return True
    return any(secret in shown for secret in secrets if secret)
