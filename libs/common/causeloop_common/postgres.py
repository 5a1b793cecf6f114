"""Connections to PostgreSQL: the one way to make them, and a sentence for each way in which that can fail.

A pooler may stand in between if it keeps what our statements need: a session for each connection, or prepared
statements across sessions (PgBouncer 1.21 with `max_prepared_statements`). This is found out when the first connection
is made, by two of them: while the second holds a transaction, the first has to be served by another session, in which
its statement is known or not.
"""

import asyncio
import socket
import ssl
from typing import Any

import asyncpg

from causeloop_common import wire
from causeloop_common.database_url import DatabaseUrl
from causeloop_common.settings import SettingsError

OLDEST = 16
"""The first major version of PostgreSQL with all that we need."""
_MENDED = {16: 10, 17: 6}
"""The first minor version of each major one whose statistics show no row past row security (CVE-2025-8713)."""
_PID = "SELECT pg_backend_pid()"
_UNFIT = (
    "A pooler between here and the database gives each transaction another session, and its prepared statements do not "
    "follow: use its session mode, PgBouncer 1.21 or later with max_prepared_statements=200, or the server itself."
)

CONNECTING_FAULTS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""The faults of making a connection; `reason` has a sentence for each."""


class Way:
    """A role's way to its database. The way is examined when it is first used."""

    def __init__(self, url: str | DatabaseUrl, name: str, **options: Any) -> None:
        try:
            self.url = DatabaseUrl.read(url) if isinstance(url, str) else url
        except ValueError as error:
            raise SettingsError(f"The database's address {error}.") from None
        self._name = name
        self._options = options
        self._is_proven = False

    async def connect(self) -> Any:
        """A new connection. SettingsError if server, pooler or a file of the address are not fit; else the fault."""
        connection = await self._connect()
        try:
            await self._examine(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _connect(self) -> Any:
        try:
            arguments = self.url.arguments(self._name)
        except ValueError as error:
            raise SettingsError(f"The database's address {error}.") from None
        return await wire.connect(**arguments, **self._options)

    async def _examine(self, connection: Any) -> None:
        if (major := connection.get_server_version().major) < OLDEST:
            raise SettingsError(f"The database server is PostgreSQL {major}: version {OLDEST} or later is needed.")
        if self._is_proven or await connection.fetchval(_PID, timeout=2) == connection.get_server_pid():
            return
        other = await self._connect()
        try:
            await other.execute(f"BEGIN; {_PID}", timeout=2)
            await connection.fetchval(_PID, timeout=2)
        except TimeoutError:
            raise SettingsError("A pooler in between gives this role one connection: give it more.") from None
        except asyncpg.PostgresError as error:
            raise SettingsError(_UNFIT) from error
        finally:
            other.terminate()
        self._is_proven = True


def outdated(connection: Any) -> str | None:
    """The sentence about a server whose version has a known hole, or None."""
    version = connection.get_server_version()  # the number after the point is `micro`
    if version.micro < _MENDED.get(version.major, 0):
        least = f"{version.major}.{_MENDED[version.major]}"
        return (
            f"The database server is PostgreSQL {version.major}.{version.micro}, whose statistics can show rows past "
            f"row security (CVE-2025-8713): update it to {least} or later."
        )
    return None


def reason(error: BaseException) -> str:
    """Why a connection was not made, as a sentence for the operator. No password is in it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if "mismatch" in error.verify_message or "not valid for" in error.verify_message:
            return "Its certificate is for another host: connect by a name that is in the certificate."
        return (
            "Its certificate is not of an authority that is trusted here: name the authority's file in sslrootcert "
            f"({error.verify_message})."
        )
    if isinstance(error, asyncpg.ProtocolViolationError):
        return f"The server, or a pooler in between, refuses the session: {_printable(error.args[0])}."
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return "The server offers no TLS, which sslmode asks for: turn it on there."
    for kind, sentence in _REASONS.items():
        if isinstance(error, kind):
            return sentence
    if isinstance(error, asyncpg.PostgresError):
        return f"The server refuses: {_printable(str(error))}."
    return f"It cannot be reached: {type(error).__name__}."


_REASONS: dict[type[BaseException], str] = {
    asyncpg.InvalidPasswordError: "The server refuses the password.",
    asyncpg.InvalidAuthorizationSpecificationError: (
        "The server's pg_hba.conf does not let this role in from here or without TLS, or it is not there, or locked."
    ),
    asyncpg.InvalidCatalogNameError: "The server has no database of this name.",
    asyncpg.InsufficientPrivilegeError: "The role may not connect to this database.",
    asyncpg.TooManyConnectionsError: "The server, or the role, has no connection left.",
    asyncpg.CannotConnectNowError: "The server is starting, stopping or recovering.",
    asyncpg.TargetServerAttributeNotMatched: "None of its hosts accepts writes.",
    ssl.SSLError: "TLS fails between here and the server.",
    ConnectionRefusedError: "Nothing listens at its address.",
    FileNotFoundError: "There is no server's socket in its folder.",
    socket.gaierror: "The name of its host cannot be resolved.",
    TimeoutError: "It does not answer in time.",
    asyncio.IncompleteReadError: "It closed the connection.",
    asyncpg.ConnectionDoesNotExistError: "It closed the connection.",
}


def _printable(text: str) -> str:
    return "".join(filter(str.isprintable, text))[:200].rstrip(".")
