"""The wiring: settings, urls, wsgi. `VERSION` is the program's own, told on pages, in answers and in process rows."""

VERSION = "0.2.0"
