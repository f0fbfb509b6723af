"""The wiring: settings, URLs, WSGI. `VERSION` is the one place of the version; pyproject.toml reads it."""

import platform

import django

VERSION = "0.3.0"


def versions() -> dict[str, str]:
    """The versions that an answer to “what runs here?” needs: of this program, of Python and of Django."""
    return {"version": VERSION, "python": platform.python_version(), "django": django.get_version()}
