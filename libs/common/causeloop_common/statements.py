"""Statements: described with SQLAlchemy Core, compiled once, executed by asyncpg.

Tables and statements stay code that tools can read, without the price of building SQL for every call (an async
engine costs three times the work of asyncpg alone). Statements name no tenant: row security binds them to one.
"""

import re
from collections.abc import Mapping
from typing import Any, Self

from sqlalchemy import ClauseElement, Table
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.dialects.postgresql.asyncpg import dialect

_DIALECT = dialect()  # type: ignore[no-untyped-call]
_WITHOUT_ROWS = re.compile(r"\s*(INSERT|UPDATE|DELETE)\b(?!.*\bRETURNING\b)", re.DOTALL)


class Statement:
    """SQL text with `$n` parameters, and the names of the values in that order."""

    __slots__ = ("_fixed", "has_rows", "names", "sql")

    def __init__(self, sql: str, names: tuple[str, ...], fixed: Mapping[str, Any]) -> None:
        self.sql = sql
        self.names = names
        self._fixed = fixed
        self.has_rows = _WITHOUT_ROWS.match(sql) is None
        """Whether it may be answered with rows."""

    @classmethod
    def of(cls, clause: ClauseElement, *columns: str) -> Self:
        """Compile a Core statement; `columns` are those an INSERT without `values()` fills."""
        compiled = clause.compile(dialect=_DIALECT, column_keys=list(columns) or None)
        names = tuple(compiled.positiontup or ())  # type: ignore[attr-defined]
        binds = compiled.binds  # type: ignore[attr-defined]
        fixed = {name: binds[name].effective_value for name in names if not binds[name].required}
        return cls(str(compiled), names, fixed)

    @classmethod
    def insert(cls, table: Table, *columns: str) -> Self:
        """INSERT of the named columns, which returns no row; the tenant is the column's default."""
        return cls.of(insert(table).inline(), *columns)

    @classmethod
    def raw(cls, sql: str, *names: str) -> Self:
        """SQL as written, for what Core would only obscure; `names` are the values of its parameters in order."""
        return cls(sql, names, {})

    def args(self, values: Mapping[str, Any]) -> list[Any]:
        """The values in order; KeyError names a missing one."""
        fixed = self._fixed
        return [values[name] if name in values else fixed[name] for name in self.names]
