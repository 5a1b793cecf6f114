"""Statements: compiled once, with their values in order."""

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, bindparam, select
from sqlalchemy.dialects.postgresql import insert

from causeloop_common.statements import Statement

THINGS = Table("things", MetaData(schema="probe"), Column("name", Text), Column("size", Integer))


class TestStatement:
    def test_has_the_drivers_parameters_and_the_values_in_their_order(self) -> None:
        found = Statement.of(
            select(THINGS.c.name).where(THINGS.c.size > bindparam("least"), THINGS.c.name == bindparam("name"))
        )

        assert "$1" in found.sql
        assert "$2" in found.sql
        assert found.args({"name": "a", "least": 3}) == [3, "a"]

    def test_an_insert_fills_only_the_named_columns(self) -> None:
        made = Statement.insert(THINGS, "name")

        assert "size" not in made.sql
        assert made.args({"name": "a"}) == ["a"]

    def test_keeps_the_values_that_the_statement_has_itself(self) -> None:
        made = Statement.of(insert(THINGS).values(name=bindparam("name"), size=7))

        assert sorted(map(str, made.args({"name": "a"}))) == ["7", "a"]

    def test_says_what_is_missing(self) -> None:
        with pytest.raises(KeyError, match="name"):
            Statement.insert(THINGS, "name").args({})

    def test_takes_sql_as_written(self) -> None:
        raw = Statement.raw("SELECT $1, $2", "b", "a")

        assert (raw.sql, raw.args({"a": 1, "b": 2})) == ("SELECT $1, $2", [2, 1])

    def test_no_value_is_ever_part_of_the_text(self) -> None:
        hostile = "'; DROP TABLE probe.things; --"
        made = Statement.of(select(THINGS).where(THINGS.c.name == hostile))

        assert hostile not in made.sql
        assert made.args({}) == [hostile]
