"""Django's settings: the only reader of the process's environment.

A fresh clone runs with an empty environment: SQLite, a secret key that the first start makes, a registry at
localhost:5000. `deployments.config.SETTINGS` explains the variables. The system checks (`deployments.checks`) report an
invalid variable with its name and an example. Only an invalid database URL or secret key stops the import here, because
Django cannot start without them.
"""

import os
import secrets
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured
from environ.fileaware_mapping import FileAwareMapping

from deployments import config

BASE_DIR = Path(__file__).resolve().parent.parent
# .env is optional, and a variable of the environment overrides it. The mapping below also reads NAME_FILE for NAME.
# environ's own casts are not used: they look up $NAME in values, and print parts of secrets that begin with a dollar.
ENV_FILE = Path(os.environ.get("ENV_FILE") or BASE_DIR / ".env")
_ENV_PROBLEMS = config.env_file_problems(ENV_FILE, named=bool(os.environ.get("ENV_FILE")))
if not _ENV_PROBLEMS:  # environ would skip and print a line that it cannot read, even if the line contains a secret
    environ.Env.read_env(str(ENV_FILE))
ENVIRONMENT = FileAwareMapping(env=os.environ)

CONFIGURATION = config.load(ENVIRONMENT, found=_ENV_PROBLEMS)


def _text(name: str) -> str:
    try:
        return (ENVIRONMENT.get(name) or "").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ImproperlyConfigured(
            f"{name}_FILE: the file cannot be read as text. Set the path of a readable file."
        ) from (error if isinstance(error, OSError) else None)


DEBUG = CONFIGURATION.debug


def _database() -> dict[str, object]:
    url = _text("DATABASE_URL") or f"sqlite:///{BASE_DIR / 'db.sqlite3'}"
    try:
        database = dict(environ.Env.db_url_config(url))
    except Exception:
        # The URL contains a password, so neither the URL nor the parser's message is shown.
        database = {}
    engine = database.get("ENGINE")
    if engine == "django.db.backends.sqlite3" and database.get("NAME"):
        # WAL lets readers continue while another connection writes. IMMEDIATE takes the write lock at BEGIN: a deferred
        # transaction that becomes a writer fails at once with “database is locked”, however long the timeout.
        database["OPTIONS"] = {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
        database["CONN_MAX_AGE"] = None
    elif engine == "django.db.backends.postgresql" and database.get("NAME"):
        database["CONN_MAX_AGE"] = 600
        database["CONN_HEALTH_CHECKS"] = True
    else:
        raise ImproperlyConfigured(
            "DATABASE_URL: not a usable database URL. For example "
            "DATABASE_URL=postgres://user:password@host:5432/registry_admin or DATABASE_URL=sqlite:////data/db.sqlite3."
        )
    return database


# ATOMIC_REQUESTS stays off: no transaction may be open during a call to AWS.
DATABASES = {"default": _database()}


def _secret_key() -> str:
    given = _text("SECRET_KEY")
    if given:
        return given
    if _text("DATABASE_URL"):
        raise ImproperlyConfigured(
            "SECRET_KEY: required if DATABASE_URL is set, and the same on every host. "
            "Make one: python -c 'import secrets; print(secrets.token_urlsafe(50))'."
        )
    path = BASE_DIR / "secret_key"
    try:
        # Two processes may start at once: the first process creates the link, the second process reads the file. The
        # link appears only when the file is complete.
        draft = path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(50))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return path.read_text().strip()
    except OSError as error:
        raise ImproperlyConfigured(
            f"SECRET_KEY: not set, and {path} cannot be written: {error.strerror}. Set SECRET_KEY or SECRET_KEY_FILE."
        ) from None


SECRET_KEY = _secret_key()
# The secrets of `deployments.access.vault`: the first encrypts, each decrypts. SECRET_KEY is the first without
# ENCRYPTION_KEY, and stays the last with it, so that values that it encrypted can be decrypted. With ENCRYPTION_KEY,
# SECRET_KEY may change without a loss.
ENCRYPTION_KEYS: tuple[str, ...] = (*CONFIGURATION.encryption_keys, SECRET_KEY)

_ORIGIN_HOSTS = [urlsplit(origin).hostname for origin in (CONFIGURATION.app_origin, CONFIGURATION.api_origin)]
ALLOWED_HOSTS = sorted(
    {host for host in _ORIGIN_HOSTS if host}
    | {part.strip() for part in _text("ALLOWED_HOSTS").split(",") if part.strip()}
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
    "ninja",
    "django_q",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "registry_admin.security.content_security_policy",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "deployments.api.middleware.ApiMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "registry_admin.urls"
WSGI_APPLICATION = "registry_admin.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
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
]


_NO_MAIL: dict[str, Any] = {"EMAIL_BACKEND": "django.core.mail.backends.dummy.EmailBackend"}


def _mail() -> dict[str, Any]:
    """EMAIL_URL as Django's settings. An unusable URL means no mail; the check deployments.E015 reports it."""
    try:
        # smtps means TLS from the first byte, but environ reads it as STARTTLS.
        found = environ.Env.email_url_config(_text("EMAIL_URL").replace("smtps://", "smtp+ssl://", 1))
    except Exception:
        return _NO_MAIL  # the URL and the parser's message contain a password, so neither is shown
    return dict(found) if found.get("EMAIL_HOST") and found["EMAIL_BACKEND"].endswith("smtp.EmailBackend") else _NO_MAIL


_MAIL = _mail() if _text("EMAIL_URL") else _NO_MAIL
MAIL_IS_CONFIGURED = _MAIL is not _NO_MAIL
MAIL_IS_MALFORMED = bool(_text("EMAIL_URL")) and not MAIL_IS_CONFIGURED
EMAIL_BACKEND = _MAIL["EMAIL_BACKEND"]
EMAIL_HOST = _MAIL.get("EMAIL_HOST") or ""
EMAIL_USE_TLS, EMAIL_USE_SSL = bool(_MAIL.get("EMAIL_USE_TLS")), bool(_MAIL.get("EMAIL_USE_SSL"))
EMAIL_PORT = _MAIL.get("EMAIL_PORT") or (465 if EMAIL_USE_SSL else 587 if EMAIL_USE_TLS else 25)
EMAIL_HOST_USER = _MAIL.get("EMAIL_HOST_USER") or ""
EMAIL_HOST_PASSWORD = _MAIL.get("EMAIL_HOST_PASSWORD") or ""
EMAIL_TIMEOUT = 5
DEFAULT_FROM_EMAIL = _text("EMAIL_FROM") or "registry-admin@localhost"
# Webhooks and Slack: see deployments.notify.outbound_http.
NOTIFY_ALLOW_PRIVATE = CONFIGURATION.notify_allow_private
METRICS_KEY = _text("METRICS_KEY")
# prometheus_client's own variable, which gunicorn.conf.py sets: where the processes of a host count together.
COUNTERS_DIRECTORY = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

STATIC_URL = "static/"
STATIC_ROOT = Path(_text("STATIC_ROOT") or BASE_DIR / "staticfiles")
STATICFILES_DIRS = [BASE_DIR / "static"]
# After collectstatic, WhiteNoise serves the collected files, compressed and with names that browsers may cache for
# ever. Without collectstatic (a fresh clone), it serves the files from their source folders.
_COLLECTED = (STATIC_ROOT / "staticfiles.json").exists()
WHITENOISE_USE_FINDERS = not _COLLECTED
_STATIC_STORAGE = (
    "whitenoise.storage.CompressedManifestStaticFilesStorage"
    if _COLLECTED or "collectstatic" in sys.argv
    else "django.contrib.staticfiles.storage.StaticFilesStorage"
)
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": _STATIC_STORAGE},
}

# The body of background-workers contains every source file of a project. The API's middleware limits each other route
# to less.
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024 * 1024

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
_HTTPS = CONFIGURATION.app_origin.startswith("https://")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _HTTPS
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_AGE = 8 * 60 * 60
SESSION_SAVE_EVERY_REQUEST = False

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
        "django.server": {"handlers": [], "level": "ERROR", "propagate": True},
        # At INFO it writes two lines for each task, with a name of four random words.
        "django-q": {"level": "INFO" if CONFIGURATION.log_level == "DEBUG" else "WARNING"},
        # At DEBUG these write tokens and signatures into the log, at INFO where they found their credentials.
        "boto3": {"level": "WARNING"},
        "botocore": {"level": "WARNING"},
        "urllib3": {"level": "INFO"},
        "s3transfer": {"level": "INFO"},
    },
}
