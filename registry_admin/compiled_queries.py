"""Statements that every deploy runs, compiled once in each process instead of at each call.

Django's ORM compiles a query to SQL at each call, which took two thirds of a deploy's CPU time: 0.3 to 1.2 ms a query,
while SQLite answers in 0.05 ms. `Compiled`, `CompiledInsert` and `CompiledUpdate` keep the SQL and send it again with
other parameters.

Not for statements whose SQL depends on a value (a list, None in a condition), or whose constants change while the
process runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db import connection
from django.db.models import AutoField, Model, QuerySet
from django.db.models import query as querysets
from django.db.models.sql import InsertQuery, UpdateQuery

Row = TypeVar("Row")
Value = str | int | None


def prepared_cursor() -> Any:
    """A cursor for a statement that is sent over and over: PostgreSQL prepares it, SQLite keeps all anyway."""
    make: Callable[[], Any] = getattr(connection, "prepared_cursor", connection.cursor)
    return make()


def _marks(types: Sequence[type]) -> list[str | int]:
    """Values that stand for those of the callers while a statement is compiled: no parameter is equal by chance."""
    return [f"\x01{number}" if each is str else -(10**15) - number for number, each in enumerate(types)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Statement:
    sql: str
    parameters: tuple[Any, ...]
    places: tuple[tuple[int, int], ...]  # (position in the parameters, number of the caller's value)

    @classmethod
    def of(cls, compiler: Any, marks: list[str | int]) -> _Statement:
        sql, parameters = compiler.as_sql()
        places = tuple((place, marks.index(each)) for place, each in enumerate(parameters) if each in marks)
        if {number for _, number in places} != set(range(len(marks))):
            raise TypeError("a value of this statement is no parameter of its SQL")
        return cls(sql=sql, parameters=tuple(parameters), places=places)

    def filled(self, values: Sequence[Value]) -> list[Any]:
        parameters = list(self.parameters)
        for place, number in self.places:
            parameters[place] = values[number]
        return parameters


class Compiled(Generic[Row]):
    """A query for at most one row of a model, with its `select_related`, `only` and annotations.

    `rows` makes the query from one value for each of `types` (str or int). It is called once in each process, with
    values that stand for those of the callers.
    """

    def __init__(self, rows: Callable[..., QuerySet[Any]], *types: type) -> None:
        self._rows, self._marks = rows, _marks(types)
        self._made: dict[str, tuple[_Statement, Callable[[list[Any]], Row]]] = {}  # by database vendor

    def first(self, *values: Value) -> Row | None:
        """The row for these values; None if there is none. One query.

        A query with `select_for_update` needs an open transaction, as with the ORM.
        """
        if connection.vendor not in self._made:
            compiler: Any = self._rows(*self._marks)[:1].query.get_compiler(connection=connection)
            self._made[connection.vendor] = _Statement.of(compiler, self._marks), _instances(compiler)
        statement, instance = self._made[connection.vendor]
        with prepared_cursor() as cursor:
            cursor.execute(statement.sql, statement.filled(values))
            found = cursor.fetchone()
        return None if found is None else instance(list(found))


class CompiledInsert:
    """The INSERT of a row of a model without parent, of which the database makes no column: no `db_default`, no number.

    Raises TypeError for another model.
    """

    def __init__(self, model: type[Model]) -> None:
        self._fields = model._meta.local_concrete_fields
        made = [
            each.name for each in self._fields if each.has_db_default() or each.generated or isinstance(each, AutoField)
        ]
        if made or model._meta.parents:
            raise TypeError(f"the database makes columns of {model.__name__}: {', '.join(made) or 'its parent'}")
        self._model = model
        self._made: dict[str, str] = {}  # by database vendor

    def run(self, row: Model) -> None:
        """Insert the row, as `save(force_insert=True)` without signals. Raises IntegrityError."""
        if connection.vendor not in self._made:
            query: Any = InsertQuery(self._model)
            query.insert_values(self._fields, [row])
            [(self._made[connection.vendor], _)] = query.get_compiler(connection=connection).as_sql()
        values = [each.get_db_prep_save(each.pre_save(row, add=True), connection) for each in self._fields]
        with prepared_cursor() as cursor:
            cursor.execute(self._made[connection.vendor], values)
        row._state.adding, row._state.db = False, connection.alias


class CompiledUpdate:
    """An UPDATE. `change` makes (the rows, {column: value or expression}) from one value for each of `types`."""

    def __init__(self, change: Callable[..., tuple[QuerySet[Any], dict[str, Any]]], *types: type) -> None:
        self._change, self._marks = change, _marks(types)
        self._made: dict[str, _Statement] = {}  # by database vendor

    def run(self, *values: Value) -> int:
        """Change the rows for these values. Returns their number."""
        if connection.vendor not in self._made:
            rows, columns = self._change(*self._marks)
            query: Any = rows.query.chain(UpdateQuery)
            query.add_update_values(columns)
            query.annotations = {}
            self._made[connection.vendor] = _Statement.of(query.get_compiler(connection=connection), self._marks)
        statement = self._made[connection.vendor]
        with prepared_cursor() as cursor:
            cursor.execute(statement.sql, statement.filled(values))
            return int(cursor.rowcount)


def _instances(compiler: Any) -> Callable[[list[Any]], Any]:
    """What makes the model instance of a row, as `django.db.models.query.ModelIterable` does."""
    populators: Any = querysets.get_related_populators  # the stubs are of a newer Django
    info, alias = compiler.klass_info, connection.alias
    columns = compiler.get_converters([each[0] for each in compiler.select[: compiler.col_count]])
    converters = [(column, converter, about) for column, (found, about) in columns.items() for converter in found]
    start, end = info["select_fields"][0], info["select_fields"][-1] + 1
    names = [each[0].target.attname for each in compiler.select[start:end]]
    related = populators(info, compiler.select, alias)
    annotations = list(compiler.annotation_col_map.items())

    def instance(row: list[Any]) -> Any:
        for column, converter, about in converters:
            row[column] = converter(row[column], about, connection)
        made = info["model"].from_db(alias, names, row[start:end])
        for each in related:
            each.populate(row, made)
        for name, column in annotations:
            setattr(made, name, row[column])
        return made

    return instance
