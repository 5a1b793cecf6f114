"""How the database becomes what the services expect: roles, schemas, then each service's Alembic migrations.

Runs as the migrator, an ordinary role with CREATEROLE that owns the database, as a managed PostgreSQL gives one:
no superuser is needed. `preflight` looks first at all that could stop it. `verify` has each role log in and makes
the start-up proof, as the services will. Passwords are sent as SCRAM verifiers (RFC 5802), so that no
server log can hold one.

One at a time: each transaction, one for the roles and one for each service as its owner role, begins with the same
lock, on a table that the migrator alone may lock. It ends with the transaction, so no pooler can keep it, and it is not
waited for without end.

The passwords of roles that are there are those of another root secret if it opens none of them: then nothing is
changed, unless `replace_passwords` asks for it.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import MetaData
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from causeloop_common import rls
from causeloop_common.migrations.passwords import Passwords
from causeloop_common.migrations.preflight import preflight
from causeloop_common.migrations.roles import Schema, database_ddl, schema_ddl, scram_verifier
from causeloop_common.postgres import CONNECTING_FAULTS, Way, reason
from causeloop_common.settings import SettingsError, role_url

__all__ = ["TURN", "Schema", "migrate", "run", "scram_verifier", "verify"]

TURN = "migrations.turn"
"""The empty table whose lock is a run's turn. An advisory lock could be held by any role of the server."""
TURN_SECONDS = 60
"""So long another run is waited for."""
LOCK_SECONDS = 12
"""So long a table's lock is waited for: longer than any statement of a service. Others on the table wait meanwhile."""


async def migrate(url: str, secret: bytes, schemas: Iterable[Schema], *, replace_passwords: bool = False) -> None:
    """Bring the roles, schemas and tables of services up to date. SettingsError or IsolationError is one sentence."""
    schemas = tuple(schemas)
    for schema in schemas:
        role_url(url, f"causeloop_{schema.name}", secret)  # refused before anything is changed
    way = Way(url, "causeloop-migrate")
    try:
        await _migrate(way, secret, schemas, replace_passwords)
    except DBAPIError as error:
        raise _refusal(error) from error
    except CommandError as error:
        raise SettingsError(f"The migrations cannot be applied: {error}.") from error
    except CONNECTING_FAULTS as error:
        raise SettingsError(f"DATABASE_URL does not let the migrator in. {reason(error)}") from error


async def _migrate(way: Way, secret: bytes, schemas: tuple[Schema, ...], replace_passwords: bool) -> None:
    connection = await way.connect()
    try:
        passwords = Passwords(way.url, secret, replace_passwords)
        if findings := await preflight(connection, passwords, schemas):
            raise SettingsError(" ".join(findings))
    finally:
        connection.terminate()
    engine = create_async_engine("postgresql+asyncpg://", async_creator=way.connect, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await _make_turn(connection)
            await _take_turn(connection)
            for statement in database_ddl(way.url.database):
                await connection.exec_driver_sql(statement)
            for schema in schemas:
                for statement in schema_ddl(schema, secret, passwords.renewed):
                    await connection.exec_driver_sql(statement)
            await connection.commit()
            for schema in schemas:
                await _take_turn(connection)
                await connection.run_sync(_upgrade, schema)
                await connection.exec_driver_sql(f"SET LOCAL ROLE {schema.owner}")
                await connection.exec_driver_sql(rls.note(schema.name))
                await connection.commit()
    finally:
        await engine.dispose()


async def _make_turn(connection: AsyncConnection) -> None:
    """Make the table of turns, unless another run makes it at this moment."""
    try:
        await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{TURN_SECONDS}s'")
        await connection.exec_driver_sql("CREATE SCHEMA IF NOT EXISTS migrations")
        await connection.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS {TURN} ()")
        await connection.commit()
    except DBAPIError as error:
        if not isinstance(_cause(error), asyncpg.UniqueViolationError | asyncpg.DuplicateTableError):
            raise
        await connection.rollback()


async def _take_turn(connection: AsyncConnection) -> None:
    """Begin a transaction that no other run is in."""
    await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{TURN_SECONDS}s'")
    try:
        await connection.exec_driver_sql(f"LOCK TABLE {TURN} IN EXCLUSIVE MODE")
    except DBAPIError as error:
        if isinstance(_cause(error), asyncpg.LockNotAvailableError):
            raise SettingsError(
                f"Another `causeloop migrate` has been at work for {TURN_SECONDS} seconds: wait for its end."
            ) from error
        raise
    await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")


def run(context: Any, metadata: MetaData) -> None:
    """The body of a service's `migrations/env.py`: upgrade on the connection that `migrate` gave."""
    schema = str(metadata.schema)
    connection: Connection = context.config.attributes["connection"]
    connection.exec_driver_sql(f"SET LOCAL ROLE causeloop_{schema}_owner")
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=schema,
        version_table_schema="migrations",
        include_schemas=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _upgrade(connection: Connection, schema: Schema) -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.folder))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def verify(url: str, secret: bytes, schemas: Iterable[Schema]) -> None:
    """Log in as each role, and prove the isolation as each service's own; SettingsError or IsolationError."""
    await asyncio.gather(*(_verify(url, secret, schema) for schema in schemas))


async def _verify(url: str, secret: bytes, schema: Schema) -> None:
    own, *others = rls.roles(schema.tables)
    for role in (own, *others):
        try:
            connection = await Way(role_url(url, role, secret), "causeloop-migrate").connect()
            try:
                findings = await rls.prove(connection, schema.name, schema.tables) if role == own else []
            finally:
                connection.terminate()
        except CONNECTING_FAULTS as error:
            raise SettingsError(f"All is migrated, and yet {role} cannot log in. {reason(error)}") from error
        if findings:
            raise rls.IsolationError(schema.name, findings)


def _cause(error: DBAPIError) -> BaseException | None:
    """The driver's own error."""
    return error.orig.__cause__ if error.orig is not None else None


def _refusal(error: DBAPIError) -> SettingsError:
    cause = _cause(error)
    if isinstance(cause, asyncpg.LockNotAvailableError):
        return SettingsError(
            f"Somebody's transaction has held a lock that the migration needs for {LOCK_SECONDS} seconds: end it, and "
            "try again. Nothing of this step was done."
        )
    return SettingsError(f"The migration stopped, and nothing of this step was done. {reason(cause or error)}")
