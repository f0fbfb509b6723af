"""The wiring: settings, URLs, WSGI. Pages, answers and the rows of processes show `VERSION`."""

VERSION = "0.2.0"
