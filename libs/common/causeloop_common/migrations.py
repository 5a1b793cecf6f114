"""How the database becomes what the services expect: roles, schemas, then each service's Alembic migrations.

Runs as the migrator, an ordinary role with CREATEROLE that owns the database, as a managed PostgreSQL gives one:
no superuser is needed. One at a time (advisory lock), each service in one transaction as its owner role. Passwords
are sent as SCRAM verifiers (RFC 5802), so that no server log can hold one.
"""

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from causeloop_common import rls
from causeloop_common.settings import role_password

_LOCK = 0x0_CA05E_0000
_ITERATIONS = 4096


class Schema(NamedTuple):
    """A service's tables, as its models declare them, and the folder of its migrations."""

    tables: MetaData
    folder: Path

    @property
    def name(self) -> str:
        """The schema's name, which is the service's."""
        return str(self.tables.schema)


async def migrate(url: str, secret: bytes, schemas: Iterable[Schema]) -> None:
    """Bring the roles, schemas and tables of services up to date."""
    schemas = tuple(schemas)
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"), poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK})")
            for statement in _database_ddl(str(make_url(url).database)):
                await connection.exec_driver_sql(statement)
            for schema in schemas:
                for statement in _schema_ddl(schema, secret):
                    await connection.exec_driver_sql(statement)
            await connection.commit()
            for schema in schemas:
                await connection.run_sync(_upgrade, schema.folder)
                await connection.commit()
    finally:
        await engine.dispose()


def run(context: Any, metadata: MetaData) -> None:
    """The body of a service's `migrations/env.py`: upgrade on the connection that `migrate` gave."""
    schema = str(metadata.schema)
    connection: Connection = context.config.attributes["connection"]
    connection.exec_driver_sql(f"SET ROLE causeloop_{schema}_owner")
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=schema,
        version_table_schema="migrations",
        include_schemas=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.exec_driver_sql("RESET ROLE")


def _upgrade(connection: Connection, folder: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _database_ddl(database: str) -> Iterator[str]:
    """Take from PUBLIC the rights that only the services' roles have in this database."""
    quoted = database.replace('"', '""')
    yield f'REVOKE ALL ON DATABASE "{quoted}" FROM PUBLIC'
    yield "REVOKE ALL ON SCHEMA public FROM PUBLIC"
    yield "CREATE SCHEMA IF NOT EXISTS migrations"


def _schema_ddl(schema: Schema, secret: bytes) -> Iterator[str]:
    """The owner, the login roles with their passwords, and the schema."""
    owner = f"causeloop_{schema.name}_owner"
    yield _create_role(owner, "NOLOGIN")
    yield f"GRANT {owner} TO CURRENT_USER WITH SET TRUE, INHERIT TRUE"
    yield f"CREATE SCHEMA IF NOT EXISTS {schema.name} AUTHORIZATION {owner}"
    yield f"GRANT USAGE, CREATE ON SCHEMA migrations TO {owner}"
    for role in rls.roles(schema.tables):
        yield _create_role(role, "LOGIN NOINHERIT")
        yield f"ALTER ROLE {role} PASSWORD '{scram_verifier(role_password(secret, role))}'"
        yield f"GRANT USAGE ON SCHEMA {schema.name} TO {role}"
        yield f"DO $$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO {role}', current_database()); END $$"


def _create_role(role: str, options: str) -> str:
    exists = f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"  # noqa: S608  our own names
    return f"DO $$ BEGIN IF NOT EXISTS ({exists}) THEN CREATE ROLE {role} {options}; END IF; END $$"


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """PostgreSQL's stored form of a password (SCRAM-SHA-256, RFC 5803)."""
    salt = salt or os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    parts = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return "SCRAM-SHA-256${}:{}${}:{}".format(_ITERATIONS, *parts)
