"""No piece of a secret setting reaches an output, however the value is mangled (D-no-secret).

The settings module is executed as it stands, in this process, with an environment of the test's own.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.test import RequestFactory
from django.views.debug import technical_500_response
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deployments import config
from deployments.settings_table import SECRETS

SOURCE = Path(__file__).resolve().parent.parent / "registry_admin" / "settings.py"
CODE = compile(SOURCE.read_text(), str(SOURCE), "exec")
KEY = "only-for-the-tests-0123456789-0123456789-0123456789"
#: Pieces of secrets. No sentence of ours contains them, in any case of letters.
PIECES = ("QZJX", "VKWY", "XQGZ")


def outputs(environment: dict[str, str]) -> str:
    """Everything that the start with these variables writes, logs, warns of or would show on a page or in an error."""
    stream = io.StringIO()
    namespace: dict[str, object] = {"__file__": str(SOURCE), "__name__": "settings_of_a_test"}
    environment = {"ENV_FILE": os.devnull, "SECRET_KEY": KEY, **environment}
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        redirect_stderr(stream),
        redirect_stdout(stream),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        try:
            exec(CODE, namespace)  # noqa: S102
        except ImproperlyConfigured:
            stream.write(traceback.format_exc())
    said = [stream.getvalue(), *(str(warning.message) for warning in caught)]
    if "CONFIGURATION" in namespace:
        configuration = namespace["CONFIGURATION"]
        said += [repr(configuration), str(configuration.problems), str(configuration.warnings)]  # type: ignore[attr-defined]
    if "DATABASES" in namespace:  # what a driver prints when it cannot connect
        database = namespace["DATABASES"]["default"]  # type: ignore[index]
        said += [repr({name: value for name, value in database.items() if name != "PASSWORD"})]
        said += [f"{namespace.get(name)}" for name in ("EMAIL_HOST", "EMAIL_PORT", "ALLOWED_HOSTS")]
    return "\n".join(said).upper()


def leaked(environment: dict[str, str]) -> list[str]:
    said = outputs(environment)
    return [line for line in said.splitlines() if any(piece in line for piece in PIECES)]


separators = st.sampled_from([*"/?#@:%&=+$;,'\"\\[] ", "%2F", "://", ""])
passwords = st.builds(
    lambda first, one, second, two, third: f"{first}{one}{second}{two}{third}",
    st.sampled_from(PIECES), separators, st.sampled_from(PIECES), separators, st.sampled_from(PIECES),
)  # fmt: skip
queries = st.sampled_from(
    ["", "?schema=public", "?sslmode=require", "?connection_limit=1&x=y", "?foo=bar", "#x", " # prod", "?"]
)
URLS = (
    "postgres://user:{}@db:5432/app",
    "postgresql://user:{}@[::1]/app",
    "postgres://:{}@db/app",
    "postgres://db/app?user=u&password={}",
    "sqlite://user:{}@host/file",
    "smtp+tls://user:{}@mail:587",
    "mysql://user:{}@db/app",
    "jdbc:postgresql://db:5432/app?user=u&password={}",
    "host=db user=u password={} dbname=app",
    "psql -h db -U user --password={}",
    "PGPASSWORD={} psql postgres://user@db/app",
    "{}",
)
MANGLES = (
    "{value}", '"{value}"', "'{value}'", '"{value}" # prod', '"{value}', "“{value}”", "\ufeff{value}", "{name}={value}",
    "export {name}={value}", "psql {value}", "psql '{value}'", " {value} ", "{value}\nNEXT=1", "x\n{value}",
    "{value}\t", "postgres://user:{value}@db/x", "{value} {value}",
    "[{value}]", "<{value}>", '{{"url": "{value}"}}', "{value}\u2028x",
)  # fmt: skip
values = st.builds(lambda url, password, query: url.format(password) + query, st.sampled_from(URLS), passwords, queries)
mangles = st.sampled_from(MANGLES)


@pytest.mark.wide
@hypothesis_settings(max_examples=600, deadline=None)
@given(name=st.sampled_from(["DATABASE_URL", "EMAIL_URL"]), value=values, mangle=mangles)
def test_no_piece_of_the_password_in_a_mangled_url_is_in_an_output(name: str, value: str, mangle: str) -> None:
    assert leaked({name: mangle.format(name=name, value=value)}) == []


@pytest.mark.wide
@hypothesis_settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(SECRETS), value=passwords, mangle=mangles)
def test_no_piece_of_any_secret_setting_is_in_an_output(name: str, value: str, mangle: str) -> None:
    given = {"DEPLOY_REGISTRY_ECR_ASSUME_ROLE_ARN": "no role", name: mangle.format(name=name, value=value)}

    assert leaked(given) == []


@pytest.mark.wide
@hypothesis_settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(SECRETS), value=values, mangle=mangles)
def test_no_piece_of_a_secret_that_was_given_as_a_path_is_in_an_output(name: str, value: str, mangle: str) -> None:
    mangled = mangle.format(name=name, value=value)

    assert leaked({f"{name}_FILE": mangled}) == []
    assert leaked({"ENV_FILE": mangled}) == []


@pytest.mark.wide
@hypothesis_settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(SECRETS),
    value=values,
    mangle=mangles,
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"]),
    noise=st.sampled_from(["", "\0", "\x1b"]),
)
def test_no_piece_of_a_secret_in_a_file_of_any_encoding_is_in_an_output(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: str, mangle: str, encoding: str, noise: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "secret"
    file.write_bytes((mangle.format(name=name, value=value) + noise).encode(encoding))
    assert leaked({f"{name}_FILE": str(file)}) == []

    file.write_bytes(f"{name}={mangle.format(name=name, value=value)}{noise}\nDEBUG=1\n".encode(encoding))
    assert leaked({"ENV_FILE": str(file)}) == []


def test_the_outputs_of_this_module_do_contain_what_is_no_secret() -> None:
    """Else the tests above would hold by themselves."""
    assert leaked({"DATABASE_URL": "postgres://user:pw@QZJX/app"})
    assert leaked({"DEPLOY_REGISTRY_ECR_CONSUMER_ACCOUNTS": "QZJX"})
    assert "DOES NOT BEGIN WITH" in outputs({"DATABASE_URL": "nonsense"})


def test_no_system_check_shows_a_secret(settings: Any) -> None:
    settings.CONFIGURATION = config.load({name: f'"{"".join(PIECES)}' * 4 for name in SECRETS})

    said = "\n".join(f"{message.msg} {message.hint}" for message in run_checks())
    assert "begins with a quote mark" in said
    assert not [piece for piece in PIECES if piece in said.upper()]


def test_djangos_error_page_shows_no_secret_setting_and_no_local_variable_with_one(
    settings: Any, rf: RequestFactory
) -> None:
    secrets = {name: f"{PIECES[0]}-{name}" for name in SECRETS} | {
        "DATABASE_URL": f"postgres://u:{PIECES[1]}@db/app?sslpassword={PIECES[2]}x&oauth_client_secret={PIECES[2]}y",
        "EMAIL_URL": f"smtp://u:{PIECES[2]}@mail",
        "ENCRYPTION_KEY": PIECES[0] * 8,
    }
    settings.CONFIGURATION = config.load(secrets)
    secrets |= {
        "HTTPS_PROXY": f"http://user:{PIECES[0]}proxy@proxy:3128",
        "AWS_ENDPOINT_URL": f"http://u:{PIECES[0]}e@h",
    }
    from_file = secrets.pop("SSO_CLIENT_SECRET")  # SSO_CLIENT_SECRET_FILE: the environment does not have it
    settings.CHILD_ENVIRONMENT = secrets
    settings.DEBUG = True

    def connect(conninfo: str, client: str, log_in: tuple[str, ...]) -> None:
        raise RuntimeError("no connection")

    request = rf.get("/")
    request.META.update(secrets)

    try:
        options = f"sslpassword={PIECES[2]}x oauth_client_secret={PIECES[2]}y"
        connect(f"host=db password={PIECES[1]}", options, ("https://id.example.com", from_file))
    except RuntimeError:
        page = technical_500_response(request, *sys.exc_info()).content.decode()

    assert "conninfo" in page
    assert "CHILD_ENVIRONMENT" in page
    lines = [line for line in page.splitlines() if any(piece in line for piece in PIECES)]
    assert [line for line in lines if "PIECES" not in line] == []  # the source of this test is on the page too
