"""Whether the database has the tables and columns that this version's models use: the schema, not django_migrations.

`migrate` believes its own list of what was applied. A database whose tables differ from that list (a migration file
that was edited after it had run, a table that somebody changed by hand) fails in each request that needs the column.

One query, which waits for no lock on a table. Types, indexes and constraints are not compared. What a newer version
has added is no complaint: the code may be one version behind its database, never before it.
"""

from __future__ import annotations

from django.apps import apps
from django.db import connection

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
