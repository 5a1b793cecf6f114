"""What PostgreSQL does for a statement: the rows that it reads, and those that it returns or changes."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from tests.plans.grown import grows


class Reading(NamedTuple):
    """The rows of growing tables that a statement read, and those it returned or changed; the tables that it read from
    their beginning to their end.
    """

    read: int
    given: int
    whole: frozenset[str]
    pages: int
    plan: str


_FORGET = """
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'tried') THEN DEALLOCATE tried; END IF;
    END $$
"""


async def reading(
    connection: asyncpg.Connection, sql: str, values: Sequence[Any], settings: Mapping[str, str]
) -> Reading:
    """Run a statement with these settings, and undo it."""
    given = f"({', '.join(map(literal, values))})" if values else ""
    change = connection.transaction()
    await change.start()
    try:
        for name, value in settings.items():
            await connection.execute(f"SET LOCAL {name} = '{value}'")
        await connection.execute(f"PREPARE tried AS {sql}")
        text = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE tried{given}")
    finally:
        await change.rollback()
        await connection.execute(_FORGET)
    plan = orjson.loads(text)[0]["Plan"]
    steps = [*_steps(plan)]
    scans = [step for step in steps if _reads(step)]
    changed = [_rows(child) for step in steps if step["Node Type"] == "ModifyTable" for child in step.get("Plans", ())]
    return Reading(
        read=sum(_rows(step) + _removed(step) for step in scans),
        given=max(_rows(plan), sum(changed)),
        whole=frozenset(step["Relation Name"] for step in scans if step["Node Type"] == "Seq Scan"),
        pages=plan["Shared Hit Blocks"] + plan["Shared Read Blocks"],
        plan="\n".join(_lines(plan)),
    )


def literal(value: Any) -> str:
    """A value as SQL, its type left to its place."""
    if value is None:
        return "NULL"
    return "'" + _text(value).replace("'", "''") + "'"


def _text(value: Any) -> str:
    match value:
        case bytes():
            return rf"\x{value.hex()}"
        case list() | tuple():
            return "{" + ",".join(map(_element, value)) + "}"
        case datetime():
            return value.isoformat()
        case UUID() | str() | int() | float():
            return str(value)
        case _:
            raise TypeError(f"A sample value is of the type {type(value).__name__}.")


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    return '"' + _text(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _steps(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _steps(child)


def _reads(step: dict[str, Any]) -> bool:
    return (
        step["Node Type"].endswith("Scan")
        and "Relation Name" in step
        and grows(step["Relation Name"])
        and step["Actual Loops"] > 0
    )


def _rows(step: dict[str, Any]) -> int:
    return int(step["Actual Rows"] * step["Actual Loops"])


def _removed(step: dict[str, Any]) -> int:
    return int(sum(value for name, value in step.items() if name.startswith("Rows Removed")) * step["Actual Loops"])


_SHOWN = (
    "Relation Name",
    "Index Name",
    "Index Cond",
    "Filter",
    "Actual Rows",
    "Actual Loops",
    "Rows Removed by Filter",
)


def _lines(step: dict[str, Any], depth: int = 0) -> Iterator[str]:
    shown = " ".join(f"{name}={step[name]}" for name in _SHOWN if name in step)
    yield f"{'  ' * depth}{step['Node Type']} {shown}"
    for child in step.get("Plans", ()):
        yield from _lines(child, depth + 1)
