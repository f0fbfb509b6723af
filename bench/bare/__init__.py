"""The reference of the deploys: a Django project with one bare view, served by the same gunicorn worker.

`urls` has the view, `settings` differs from the program's by what is left out: no middleware, no ninja, Django's own
backend for SQLite.
"""
