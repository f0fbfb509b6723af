"""Django's settings: the only reader of the process's environment.

A fresh clone runs with an empty environment: SQLite, a secret key that the first start makes, a registry at
localhost:5000. `deployments.settings_table` explains the variables. The system checks (`deployments.checks`) report an
invalid variable with its name and an example. Only an invalid database URL or secret key stops the import here, because
Django cannot start without them.
"""

import os
import secrets
import sys
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from deployments import config
from deployments.service_urls import Database
from deployments.settings_table import SECRETS
from registry_admin import state

BASE_DIR = Path(__file__).resolve().parent.parent
IN_CHECKOUT = (BASE_DIR / "manage.py").exists()  # else the program is installed as a package
#: Where the folders templates, static and docs are (setup.py).
_FOLDERS = BASE_DIR if IN_CHECKOUT else BASE_DIR / "registry_admin"
DOCS = _FOLDERS / "docs"
#: The start of a command line that runs this program again.
PROGRAM = [sys.executable, str(BASE_DIR / "manage.py")] if IN_CHECKOUT else [sys.executable, "-m", "registry_admin"]
#: The same, as a person types it.
COMMAND = "python manage.py" if IN_CHECKOUT else "registry-admin"
# .env is optional, and a variable of the environment overrides it. An installed package reads only a named file.
ENV_FILE = Path(os.environ.get("ENV_FILE") or (BASE_DIR / ".env" if IN_CHECKOUT else os.devnull))
_VARIABLES, _PROBLEMS = config.read_env_file(ENV_FILE, named=bool(os.environ.get("ENV_FILE")))
for _name, _value in _VARIABLES.items():  # boto3 reads its AWS_… variables there
    os.environ.setdefault(_name, _value)

CONFIGURATION = config.load(os.environ, found=_PROBLEMS)
# Without these Django cannot start, or would start with another database, so no system check could report them.
for _name in ("DATABASE_URL", "SECRET_KEY", "STATE_DIR"):
    if _problem := CONFIGURATION.problem_of(_name):
        raise ImproperlyConfigured(str(_problem))
DEFAULT_EXCEPTION_REPORTER_FILTER = "registry_admin.security.SecretsFilter"

DEBUG = CONFIGURATION.debug


#: SQLite gives the file -wal back to this size after a checkpoint that could write all of it (pragma.html,
#: journal_size_limit). Without a limit the file keeps its largest size until the last connection closes.
WAL_BYTES_KEPT = 64 * 2**20


# These commands open no database and decrypt nothing: the build of an image, which runs one, must leave no key in it.
_WITHOUT_STATE = sys.argv[1:2] in (["collectstatic"], ["env_example"], ["errors"])
_GIVEN_STATE = Path(CONFIGURATION.state_dir) if CONFIGURATION.state_dir else None
_DEFAULT_STATE = state.default_folder(BASE_DIR, in_checkout=IN_CHECKOUT, environment=os.environ)
STATE_DIR = _GIVEN_STATE or _DEFAULT_STATE
_MADE = {
    state.DATABASE: CONFIGURATION.database is None,
    state.KEY: CONFIGURATION.database is None and CONFIGURATION.secret_key is None,
}
try:
    _STATE = state.locate(
        [_name for _name, _made in _MADE.items() if _made and not _WITHOUT_STATE],
        given=_GIVEN_STATE,
        default=_DEFAULT_STATE,
        former=[BASE_DIR] if IN_CHECKOUT else [],
    )
    for _file in _STATE.values():
        state.make_folder(_file.parent)
except state.StateRefused as _refused:
    raise ImproperlyConfigured(str(_refused)) from None


def _database(given: Database | None) -> dict[str, object]:
    if given is None or given.engine == "sqlite":
        return {
            "ENGINE": "registry_admin.sqlite",
            "NAME": given.name if given else str(_STATE.get(state.DATABASE, ":memory:")),
            # WAL lets readers continue while another connection writes. IMMEDIATE takes the write lock at BEGIN: a
            # deferred transaction that becomes a writer fails at once with “database is locked”, however long the
            # timeout.
            "OPTIONS": {
                "timeout": 20,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; "
                f"PRAGMA journal_size_limit={WAL_BYTES_KEPT};",
            },
            "CONN_MAX_AGE": None,
        }
    return {
        "ENGINE": "registry_admin.postgresql",
        "NAME": given.name,
        "USER": given.user,
        "PASSWORD": given.password,
        "HOST": given.host,
        "PORT": given.port,
        # Only cursors that bind on the server prepare: `registry_admin.postgresql`. A pooler between may not keep them.
        "OPTIONS": {"prepare_threshold": 5 if given.server_side_cursors else None, **dict(given.options)},
        "DISABLE_SERVER_SIDE_CURSORS": not given.server_side_cursors,
        "CONN_MAX_AGE": 600 if given.conn_max_age is None else given.conn_max_age,
        "CONN_HEALTH_CHECKS": True,
    }


# ATOMIC_REQUESTS stays off: no transaction may be open during a call to AWS.
DATABASES = {"default": _database(CONFIGURATION.database)}


def _secret_key() -> str:
    if CONFIGURATION.secret_key:
        return CONFIGURATION.secret_key
    if _WITHOUT_STATE:
        return secrets.token_urlsafe(50)
    if CONFIGURATION.database is not None:
        # A database that was moved from the SQLite default has secrets that this key encrypted.
        earlier = next((path for path in _KEY_FILES if os.path.exists(path)), None)
        hint = f" If the database was moved from SQLite, set SECRET_KEY_FILE={earlier}: that key encrypted its secrets."
        raise ImproperlyConfigured(
            "SECRET_KEY: required if DATABASE_URL is set, and the same on every host. "
            "Make one: python -c 'import secrets; print(secrets.token_urlsafe(50))'." + hint * (earlier is not None)
        )
    try:
        return state.key_in(_STATE[state.KEY])
    except state.StateRefused as refused:
        raise ImproperlyConfigured(str(refused)) from None


_KEY_FILES = [folder / state.KEY for folder in (STATE_DIR, BASE_DIR) if folder is not None]
SECRET_KEY = _secret_key()
SECRET_KEY_FALLBACKS = list(CONFIGURATION.secret_key_fallbacks)
ENCRYPTION_KEYS = CONFIGURATION.vault_secrets(SECRET_KEY)

_ORIGIN_HOSTS = [urlsplit(origin).hostname for origin in (CONFIGURATION.app_origin, CONFIGURATION.api_origin)]
ALLOWED_HOSTS = sorted(
    {host for host in _ORIGIN_HOSTS if host}
    | set(CONFIGURATION.allowed_hosts)
    # The CLI's builds, which run in a container, reach a server on localhost as host.docker.internal.
    | ({"localhost", "127.0.0.1", "[::1]", "host.docker.internal"} if "localhost" in _ORIGIN_HOSTS else set())
)
CSRF_TRUSTED_ORIGINS = [CONFIGURATION.app_origin]

INSTALLED_APPS = [
    "deployments",
    "registry_admin.apps.RegistryAdminConfig",  # replaces django.contrib.admin
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_q",
    "axes",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "registry_admin.security.redirect_to_https",
    "registry_admin.security.content_security_policy",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "deployments.api.middleware.RequestMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "registry_admin.urls"
WSGI_APPLICATION = "registry_admin.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [_FOLDERS / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "libraries": {"console": "deployments.admin.display"},
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
] + [{"NAME": "deployments.access.hashing.MaximumLengthValidator"}]
PASSWORD_HASHERS = ["deployments.access.hashing.Hasher"]
# The first backend asks the throttle and knows no users; the second hashes the password.
# `deployments.access.log_in_throttle` has the rule.
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_HANDLER = "deployments.access.log_in_throttle.Throttle"
AXES_CLIENT_IP_CALLABLE = "deployments.access.log_in_throttle.address_of"
AXES_LOCKOUT_PARAMETERS = "deployments.access.log_in_throttle.counted_by"
AXES_LOCKOUT_CALLABLE = "deployments.views.log_in_throttled"
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False  # or an attacker could keep an address locked with each request
# Of a form, not stored in plain text.
AXES_SENSITIVE_PARAMETERS = ["username", "ip_address", "csrfmiddlewaretoken", "code", "credential"]
AXES_ENABLE_ADMIN = AXES_VERBOSE = False


# A malformed EMAIL_URL means no mail; the check deployments.E015 reports it.
_MAIL = CONFIGURATION.mail
MAIL_IS_CONFIGURED = _MAIL is not None
EMAIL_BACKEND = f"django.core.mail.backends.{'smtp' if _MAIL else 'dummy'}.EmailBackend"
EMAIL_HOST = _MAIL.host if _MAIL else ""
EMAIL_PORT = _MAIL.port if _MAIL else 25
EMAIL_USE_TLS, EMAIL_USE_SSL = (_MAIL.tls, _MAIL.ssl) if _MAIL else (False, False)
EMAIL_HOST_USER = _MAIL.user if _MAIL else ""
EMAIL_HOST_PASSWORD = _MAIL.password if _MAIL else ""
EMAIL_TIMEOUT = 5
DEFAULT_FROM_EMAIL = CONFIGURATION.email_from
# Webhooks and Slack: see deployments.outbound_http.
NOTIFY_ALLOW_PRIVATE = CONFIGURATION.notify_allow_private
METRICS_KEY = CONFIGURATION.metrics_key or ""
# prometheus_client's own variable, which gunicorn.conf.py sets: where the processes of a host count together.
COUNTERS_DIRECTORY = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

STATIC_URL = "static/"
# No state directory: nothing can be collected.
_STATIC_BESIDE = BASE_DIR / "staticfiles" if IN_CHECKOUT else (STATE_DIR or Path(os.devnull)) / "static"
STATIC_ROOT = Path(CONFIGURATION.static_root or _STATIC_BESIDE)
# django-ninja is no app of INSTALLED_APPS, because a worker would load it too. Its files are those of the API's page.
_NINJA = find_spec("ninja")
STATICFILES_DIRS = [
    _FOLDERS / "static",
    *(Path(_folder) / "static" for _folder in (_NINJA.submodule_search_locations if _NINJA else None) or ()),
]
# After collectstatic, WhiteNoise serves the collected files, compressed and with names that browsers may cache for
# ever. Without collectstatic (a fresh clone), it serves the files from their source folders.
_COLLECTED = (STATIC_ROOT / "staticfiles.json").exists()
WHITENOISE_USE_FINDERS = not _COLLECTED
_STATIC_STORAGE = (
    "whitenoise.storage.CompressedManifestStaticFilesStorage"
    if _COLLECTED or "collectstatic" in sys.argv or sys.argv[1:2] == ["web"]  # `web` collects them
    else "django.contrib.staticfiles.storage.StaticFilesStorage"
)
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": _STATIC_STORAGE},
}

# The body of background-workers contains every source file of a project. `deployments.api.bodies` limits every other
# path to less.
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024 * 1024

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
_HTTPS = CONFIGURATION.app_origin.startswith("https://")
_SCHEME_HEADER = CONFIGURATION.proxy_scheme_header
SECURE_PROXY_SSL_HEADER = (f"HTTP_{_SCHEME_HEADER.upper().replace('-', '_')}", "https") if _SCHEME_HEADER else None
# Django sends it on https answers only. Without includeSubDomains and preload: other hosts of the domain are not ours.
SECURE_HSTS_SECONDS = 30 * 24 * 60 * 60 if _HTTPS else 0
SILENCED_SYSTEM_CHECKS = [
    "security.W005",  # includeSubDomains: D-hsts
    "security.W021",  # preload: D-hsts
    "security.W008",  # the redirect: of the proxy, or by HTTPS_REDIRECT (registry_admin.security)
    "security.W009",  # a weak SECRET_KEY: W010 says it, with the order of the steps
]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _HTTPS
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_AGE = 8 * 60 * 60
SESSION_SAVE_EVERY_REQUEST = False
LOGIN_URL, LOGIN_REDIRECT_URL = "admin:login", "admin:index"
PASSWORD_RESET_TIMEOUT = 60 * 60
CSRF_FAILURE_VIEW = "deployments.views.csrf_failed"

# The queue only carries wake-up tasks: the tables of `deployments` contain the work, so a lost or repeated message does
# no harm. `retry` counts from the time at which a message is fetched, so it must be longer than the time in which the
# messages before it may run: timeout × (1 + ceil((queue_limit + bulk) / workers)) + 30. django-q2 subtracts guard_cycle
# as float32 and compares the result with exactly 0; with other values than 0.5 and 1 it never kills a hung task.
_WORKERS, _TIMEOUT = 2, 60
Q_CLUSTER: dict[str, Any] = {
    "name": "registry_admin",
    "orm": "default",
    "broker_class": "deployments.tasks.Queue",
    "workers": _WORKERS,
    "queue_limit": _WORKERS,
    "bulk": 1,
    "timeout": _TIMEOUT,
    "retry": _TIMEOUT * 3 + 30,
    "guard_cycle": 0.5,
    "ack_failures": True,
    "max_attempts": 1,
    "catch_up": False,
    "save_limit": -1,
    "poll": 1,
    # No recycling: deployments.worker reads the end of a process as a crash. The memory of the processes does not grow.
    "recycle": 1_000_000_000,
    "time_zone": "UTC",
}

# The supervisor sets it for its cluster: a pipe to which a byte is written when a task begins or ends.
WORKER_PULSE_PIPE = os.environ.get("WORKER_PULSE_PIPE", "")
# The files that contain keys, with what each one is; they may be missing. The check W013 looks at their modes.
SECRET_FILES: dict[str, Path] = {
    "ENV_FILE": ENV_FILE,
    "secret_key": _STATE.get(state.KEY, _KEY_FILES[0] if _KEY_FILES else Path(os.devnull)),
    **{f"{_name}_FILE": Path(_path) for _name in SECRETS if (_path := os.environ.get(f"{_name}_FILE", "").strip())},
}
CHILD_ENVIRONMENT = dict(os.environ)  # the supervisor starts its cluster with it

# A line on a terminal is for a person; one that goes elsewhere is collected (D-log-format).
_LOG_FORMAT = CONFIGURATION.log_format
_LOG_AS_JSON = _LOG_FORMAT == "json" or (_LOG_FORMAT == "auto" and not sys.stderr.isatty())
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "deployments.log.Formatter", "as_json": _LOG_AS_JSON}},
    "handlers": {"stderr": {"class": "deployments.outage.OneLineHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "deployments": {"level": CONFIGURATION.log_level},
        # Handlers of their own would write each line twice, or in another form.
        "django": {"handlers": [], "level": "INFO"},
        "gunicorn.error": {"handlers": [], "propagate": True},
        # Each request has one line already (deployments.api.middleware), without its path and query string.
        "django.request": {"level": "CRITICAL", "propagate": False},
        # The same for a Host header that is not ours and a form without its token: the request's line has the reason.
        "django.security": {"level": "CRITICAL", "propagate": False},
        "django.server": {"handlers": [], "level": "ERROR", "propagate": True},
        # At INFO it writes two lines for each task, with a name of four random words.
        "django-q": {"level": "INFO" if CONFIGURATION.log_level == "DEBUG" else "WARNING"},
        # At WARNING it writes a line for each wrong password.
        "axes": {"level": "ERROR"},
        # At INFO it writes the id of each passkey that is used.
        "fido2": {"level": "WARNING"},
        # At DEBUG these write tokens and signatures into the log, at INFO where they found their credentials.
        "boto3": {"level": "WARNING"},
        "botocore": {"level": "WARNING"},
        "urllib3": {"level": "INFO"},
        "s3transfer": {"level": "INFO"},
    },
}
