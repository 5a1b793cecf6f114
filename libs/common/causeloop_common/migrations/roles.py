"""The roles and schemas of services, and what the database itself permits: statements that can be repeated."""

import base64
import hashlib
import hmac
import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import MetaData

from causeloop_common import rls
from causeloop_common.settings import role_password

_ITERATIONS = 4096


class Schema(NamedTuple):
    """A service's tables, as its models declare them, and the folder of its migrations."""

    tables: MetaData
    folder: Path

    @property
    def name(self) -> str:
        """The schema's name, which is the service's."""
        return str(self.tables.schema)

    @property
    def owner(self) -> str:
        """The role that owns the schema and all that is in it."""
        return f"causeloop_{self.name}_owner"


def database_ddl(database: str) -> Iterator[str]:
    """Take from PUBLIC the rights that only the services' roles have in this database."""
    quoted = database.replace('"', '""')
    yield f'REVOKE ALL ON DATABASE "{quoted}" FROM PUBLIC'
    yield (
        "DO $$ BEGIN IF to_regnamespace('public') IS NOT NULL THEN "
        "REVOKE ALL ON SCHEMA public FROM PUBLIC; END IF; END $$"
    )


def schema_ddl(schema: Schema, secret: bytes, renewed: Container[str]) -> Iterator[str]:
    """The owner, the login roles with settings and limits as declared, and the schema.

    A role is made with its password; one that is there gets it again only if it is among the `renewed`.
    """
    yield _create_role(schema.owner, "NOLOGIN")
    yield f"GRANT {schema.owner} TO CURRENT_USER WITH SET TRUE, INHERIT TRUE"
    yield f"CREATE SCHEMA IF NOT EXISTS {schema.name} AUTHORIZATION {schema.owner}"
    yield f"GRANT USAGE, CREATE ON SCHEMA migrations TO {schema.owner}"
    for role in rls.roles(schema.tables):
        password = f"PASSWORD '{scram_verifier(role_password(secret, role))}'"
        yield _create_role(role, f"LOGIN NOINHERIT {password}")
        if role in renewed:
            yield f"ALTER ROLE {role} {password}"
        yield f"ALTER ROLE {role} LOGIN VALID UNTIL 'infinity'"
        yield f"ALTER ROLE {role} RESET ALL"
        yield _here(f"ALTER ROLE {role} IN DATABASE %I RESET ALL")
        for name, value in rls.ROLE_SETTINGS.items():
            yield f"ALTER ROLE {role} SET {name} = '{value}'"
        yield (
            "DO $$ BEGIN EXECUTE format('ALTER ROLE "
            f"{role} CONNECTION LIMIT %s', greatest(current_setting('max_connections')::int / 2, 2)); END $$"
        )
        yield f"GRANT USAGE ON SCHEMA {schema.name} TO {role}"
        yield _here(f"GRANT CONNECT ON DATABASE %I TO {role}")


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """PostgreSQL's stored form of a password (SCRAM-SHA-256, RFC 5803)."""
    salt = salt or os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    parts = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return "SCRAM-SHA-256${}:{}${}:{}".format(_ITERATIONS, *parts)


def _create_role(role: str, options: str) -> str:
    exists = f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"  # noqa: S608  our own names
    return f"DO $$ BEGIN IF NOT EXISTS ({exists}) THEN CREATE ROLE {role} {options}; END IF; END $$"


def _here(statement: str) -> str:
    """The statement with this database's name in the place of %I."""
    return f"DO $$ BEGIN EXECUTE format('{statement}', current_database()); END $$"
