"""The program's settings for its database and models, without its middleware and URLs."""

from registry_admin.settings import *  # noqa: F403
from registry_admin.settings import DATABASES

MIDDLEWARE = []
ROOT_URLCONF = "bench.bare.urls"
DEBUG_PROPAGATE_EXCEPTIONS = True  # so that gunicorn logs an error
if DATABASES["default"]["ENGINE"] == "registry_admin.sqlite":
    DATABASES["default"]["ENGINE"] = "django.db.backends.sqlite3"
