"""The installation's root secret, and the database's address for each of our roles."""

from collections.abc import Mapping

from causeloop_common.database_url import DatabaseUrl
from causeloop_common.keys import derive, repeats
from causeloop_common.settings.values import SettingsError

DEVELOPMENT_SECRET = "causeloop-development-secret-never-use-it-in-production"  # noqa: S105  refused there
SHORTEST_SECRET = 32


def role_password(secret: bytes, role: str) -> str:
    """The password of a database role, derived from the installation's secret; `causeloop migrate` sets it."""
    return derive(secret, f"pg/v1/{role}").hex()


def with_role(url: str, role: str, password: str) -> str:
    """The same database address for another role."""
    return DatabaseUrl.read(url).with_role(role, password).text()


def role_url(url: str, role: str, secret: bytes) -> str:
    """The database address of one of our roles, with its derived password. SettingsError if others could guess it."""
    if is_guessable(secret.decode()):
        raise SettingsError(
            f"JWT_SECRET is missing, shorter than {SHORTEST_SECRET} characters or guessable, and others could guess "
            "the passwords of the database's roles, which are derived from it: set it to the installation's secret, "
            "such as the output of `openssl rand -base64 48`."
        )
    return with_role(url, role, role_password(secret, role))


def is_guessable(secret: str) -> bool:
    """Whether a root secret is the published one of development, too short, or something short again and again."""
    return len(secret.strip()) < SHORTEST_SECRET or DEVELOPMENT_SECRET in secret or repeats(secret.encode())


def migrator_url(environ: Mapping[str, str]) -> DatabaseUrl:
    """The migrator's address, under the rules that services have; SettingsError names what to set."""
    url = environ.get("DATABASE_URL", "")
    if not url.strip():
        raise SettingsError(
            "Set DATABASE_URL to the migrator's address on a PostgreSQL 16 database, such as "
            "postgresql://migrator:…@db.example.com/causeloop?sslmode=verify-full."
        )
    try:
        read = DatabaseUrl.read(url)
    except ValueError as error:
        raise SettingsError(f"DATABASE_URL {error}.") from None
    if environ.get("CAUSELOOP_ENV") == "production" and not is_protected(read):
        raise SettingsError(leaves_without_tls("DATABASE_URL"))
    return read


def leaves_without_tls(variable: str) -> str:
    """The refusal of a database's address that production does not use."""
    return f"{variable} leaves this host without TLS: add sslmode=verify-full to it."


def is_protected(url: DatabaseUrl) -> bool:
    """Whether a database's address stays on this host or verifies TLS."""
    return url.is_local or url.is_verified
