"""The wiring: settings, urls, wsgi. `VERSION` is the program's own; pages, answers and process rows show it."""

VERSION = "0.2.0"
