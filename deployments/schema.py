"""The database's schema: whether it has what this version's models use, and how a migration changes tables in use.

`migrate` believes its own list of what was applied. A database whose tables differ from that list (a migration file
that was edited after it had run, a table that somebody changed by hand) fails in each request that needs the column.

One query, which waits for no lock on a table. Types, indexes and constraints are not compared. What a newer version
has added is no complaint: the code may be one version behind its database, never before it.
"""

from __future__ import annotations

import time
from typing import Any

from django.apps import apps
from django.db import OperationalError, connection, migrations, transaction

LOCK_SECONDS = 60.0  # how long a migration tries to get the tables that it changes
NEXT_STEP = "See “A table or column is missing” in docs/upgrading.md."
_COLUMNS = {
    "postgresql": "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE "
    "a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid)",
    "sqlite": "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'",
}


def missing() -> list[str]:
    """What is not there: `table`, or `table.column`, in the models' order. Raises DatabaseError."""
    present: dict[str, set[str]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_COLUMNS[connection.vendor])
        for table, column in cursor.fetchall():
            present.setdefault(table, set()).add(column)
    found: list[str] = []
    for model in apps.get_app_config("deployments").get_models(include_auto_created=True):
        table = model._meta.db_table
        if table not in present:
            found.append(table)
            continue
        columns = [field.column for field in model._meta.concrete_fields if field.column is not None]
        found += [f"{table}.{column}" for column in columns if column not in present[table]]
    return found


def complaint() -> str:
    """The first thing that is missing, in a sentence that says how many more are; empty when all is there."""
    found = missing()
    if not found:
        return ""
    what = "Column" if "." in found[0] else "Table"
    more = f", and so {'is 1 more' if len(found) == 2 else f'are {len(found) - 1} more'}" if len(found) > 1 else ""
    return f"{what} {found[0]} is missing{more}."


def lock_tables(*names: str) -> migrations.RunPython:
    """A migration's first operation, where it changes more than one table that a running process uses.

    It gets all the tables or none, again and again, and never waits while it holds one: a migration that did, and
    a deploy that has the tables in another order, would wait for each other until PostgreSQL ends one of them. Raises
    OperationalError after LOCK_SECONDS. SQLite has one writer at a time, so there is nothing to do.
    """

    def lock(_apps: Any, editor: Any) -> None:
        if editor.connection.vendor != "postgresql":
            return
        tables = ", ".join(editor.quote_name(name) for name in names)
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                with transaction.atomic(using=editor.connection.alias), editor.connection.cursor() as cursor:
                    cursor.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE NOWAIT")
                return
            except OperationalError as error:
                if time.monotonic() > until:
                    raise OperationalError(
                        f"One of {tables} was in use for {LOCK_SECONDS:.0f} seconds (a backup, a long query?), so this "
                        "migration was not begun. Run migrate again when that has ended."
                    ) from error
            time.sleep(0.05)

    return migrations.RunPython(lock, migrations.RunPython.noop)
