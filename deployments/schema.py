"""The database's schema: does it have the tables and columns of this version, and how does a migration lock tables?

`migrate` trusts its own list of applied migrations. If the tables differ from that list (a migration file was edited
after it had run, or somebody changed a table by hand), each request that needs the missing column fails.

The check is one query and waits for no table lock. It does not compare types, indexes and constraints. It ignores
tables and columns that a newer version has added: the code may be one version older than its database, but never newer.
"""

from __future__ import annotations

import time
from typing import Any

from django.apps import apps
from django.db import OperationalError, connection, migrations, transaction

LOCK_SECONDS = 60.0  # how long a migration tries to lock the tables that it changes
NEXT_STEP = "See “A table or column is missing” in docs/upgrading.md."
_COLUMNS = {
    "postgresql": "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE "
    "a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid)",
    "sqlite": "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'",
}


def missing() -> list[str]:
    """The missing tables and columns, as `table` or `table.column`, in the models' order. Raises DatabaseError."""
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
    """A sentence that names the first missing table or column and counts the others; empty if nothing is missing."""
    found = missing()
    if not found:
        return ""
    what = "Column" if "." in found[0] else "Table"
    more = f"; {len(found)} tables or columns are missing in all" if len(found) > 1 else ""
    return f"{what} {found[0]} is missing{more}."


def lock_tables(*names: str) -> migrations.RunPython:
    """The first operation of a migration that changes more than one table that running processes use.

    It locks all the tables or none, and tries again until it has them. It never waits while it holds a lock: otherwise
    the migration and a deploy that locks the tables in another order would wait for each other (a deadlock). Raises
    OperationalError after LOCK_SECONDS. On SQLite it does nothing, because SQLite has one writer at a time.
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
                        "migration did not start. Run migrate again when the table is free."
                    ) from error
            time.sleep(0.05)

    return migrations.RunPython(lock, migrations.RunPython.noop)


class AddIndexWhileServing(migrations.AddIndex):
    """AddIndex for a large table that is in use. Its migration has `atomic = False`.

    On PostgreSQL, CREATE INDEX CONCURRENTLY lets other sessions write while it reads the table twice
    (https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY); a build that fails
    leaves an invalid index behind. So an index of the same name is dropped first, and the migration can be run again.
    SQLite has one writer at a time, so other writers wait until the index is made.
    """

    def database_forwards(self, app_label: str, editor: Any, from_state: Any, to_state: Any) -> None:
        model = to_state.apps.get_model(app_label, self.model_name)
        if not self.allow_migrate_model(editor.connection.alias, model):
            return
        concurrently = editor.connection.vendor == "postgresql"
        drop = "DROP INDEX CONCURRENTLY IF EXISTS" if concurrently else "DROP INDEX IF EXISTS"
        editor.execute(f"{drop} {editor.quote_name(self.index.name)}")
        editor.add_index(model, self.index, **({"concurrently": True} if concurrently else {}))
