"""The wiring: settings, URLs, WSGI. `VERSION` is the one place of the version; pyproject.toml reads it."""

VERSION = "0.3.0"
