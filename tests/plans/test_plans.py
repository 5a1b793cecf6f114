"""Every statement of every service, on a grown database, as its role: by an index, and no more rows than it gives.

A statement that is new is found here by itself, and needs sample values; a table that is new needs rows.
"""

import re
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import NamedTuple

import pytest

from causeloop_cli import services
from causeloop_common.rls import PERSON_SETTING, TENANT_SETTING
from causeloop_common.statements import Statement
from causeloop_dev.testing import Servers
from causeloop_vault.repository import secrets
from tests.plans import grown, platform, statements
from tests.plans.plan import reading
from tests.plans.samples import SAMPLES, VALUES, Sample

TIMES = 10
"""So many rows may be read for each that is returned or changed."""
SCHEMAS = {f"causeloop_{schema}": schema for schema in services.schemas()}
PLATFORM = {schema: platform.samples(schema) for schema in SCHEMAS.values()}
SAMPLED = {*SAMPLES, *(place for of_schema in PLATFORM.values() for place in of_schema)}
PLACES = [place for place in statements.places() if place in SAMPLED or not place.startswith(tuple(platform.ELSEWHERE))]
PLANS = ("force_custom_plan", "force_generic_plan")
"""A connection plans a statement for its values at first, later once for all."""


class Run(NamedTuple):
    """A statement with its values, as a role of a service runs it."""

    role: str
    sql: str
    values: list[object]
    sample: Sample
    settings: dict[str, str]


def runs(place: str) -> Iterator[Run]:
    """Every way to run the statements of a place. It fails without sample values."""
    package = place.partition(".")[0]
    for schema in [SCHEMAS[package]] if package in SCHEMAS else SCHEMAS.values():
        for sample in SAMPLES.get(place) or PLATFORM[schema].get(place, [Sample()]):
            sql, values = _filled(place, sample, schema)
            run = partial(Run, f"causeloop_{schema}{sample.role}", sql, values, sample)
            if sample.person:
                yield run({PERSON_SETTING: str(grown.person(0))})
            elif sample.tenant:
                yield from (run({TENANT_SETTING: str(tenant)}) for tenant in grown.TENANTS.values())
            else:
                yield run({})


def _filled(place: str, sample: Sample, schema: str) -> tuple[str, list[object]]:
    found = statements.at(place) if sample.statement is None else sample.statement
    if callable(found):
        found = found(schema)
    if isinstance(found, Statement):
        try:
            return found.sql, found.args(VALUES.get(schema, {}) | dict(sample.values))
        except KeyError as error:
            pytest.fail(f"{place} has no sample value for {error}: give it one in tests/plans/samples.py")
    sql = found.format(**platform.words(schema)) if "{schema}" in found else found
    if {*re.findall(r"\$\d+", sql)} != {f"${number}" for number in range(1, len(sample.values) + 1)}:
        pytest.fail(f"{place} has no sample values: give it some in tests/plans")
    return sql, list(sample.values)


@pytest.fixture(scope="module")
async def database(servers: Servers) -> AsyncIterator[grown.Grown]:
    async with grown.grown(servers) as database:
        yield database


@pytest.mark.parametrize("place", PLACES)
async def test_a_statement_reads_few_rows_for_those_that_it_gives(place: str, database: grown.Grown) -> None:
    tried = [*runs(place)]
    assert tried
    for run in tried:
        connection = await database.connection(run.role)
        for plan in PLANS:
            found = await reading(connection, run.sql, run.values, {"plan_cache_mode": plan} | run.settings)
            about = "\n".join((f"{run.role} {plan} {run.settings} {run.values}", run.sql, found.plan))
            if run.sample.most is None:
                continue
            assert run.sample.most or not found.whole, f"It reads all of {', '.join(found.whole)}: {about}"
            most = max(run.sample.most, TIMES * max(found.given, 1))
            assert found.read <= most, f"It reads {found.read} rows, and gives {found.given}: {about}"


async def test_a_secret_of_many_versions_is_revealed_as_one_of_a_single_version(database: grown.Grown) -> None:
    connection = await database.connection("causeloop_vault")
    for plan in PLANS:
        settings = {"plan_cache_mode": plan, TENANT_SETTING: str(grown.tenant(0))}
        many = await reading(connection, secrets._SEALED.sql, ["p1", None], settings)
        one = await reading(connection, secrets._SEALED.sql, ["p2", None], settings)
        assert (many.given, one.given) == (1, 1)
        assert many.pages <= 1.1 * one.pages


def test_each_sample_is_of_a_statement() -> None:
    assert SAMPLED - {*statements.places()} == set()


def test_each_reason_is_of_a_statement() -> None:
    places = statements.places()
    assert [begin for begin in platform.ELSEWHERE if not any(place.startswith(begin) for place in places)] == []


def test_each_table_has_rows() -> None:
    """A table that is new stands in `grown`: with how it is filled, or with the reason for which it does not grow."""
    for table in grown.declared():
        grown.growth_of(table)
