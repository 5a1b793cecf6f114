"""A database as a managed PostgreSQL would give it: with a migrator that owns it and is no superuser."""

import re

import asyncpg

from causeloop_cli.embedded.process import ServerFailed


async def prepare(superuser_url: str, database: str, migrator: str, password: str) -> None:
    """Make both, or set them right; PUBLIC loses every right on the database."""
    for name in (database, migrator):
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name):
            raise ServerFailed(f"{name!r} is no name for a role or database here. Use a-z, 0-9 and _.")
    connection = await asyncpg.connect(superuser_url)
    try:
        known = await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", migrator)
        statement = await connection.fetchval(
            "SELECT format('%s ROLE %I LOGIN NOSUPERUSER CREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS "
            "PASSWORD %L', $1::text, $2::text, $3::text)",
            "ALTER" if known else "CREATE",
            migrator,
            password,
        )
        await connection.execute(statement)
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", database):
            await connection.execute(f'CREATE DATABASE "{database}" OWNER "{migrator}"')
        await connection.execute(f'REVOKE ALL ON DATABASE "{database}" FROM PUBLIC')
    finally:
        await connection.close()
