"""Whether the roles that are there have the passwords of this root secret, and which of them get theirs again."""

from collections.abc import Sequence

import asyncpg

from causeloop_common.database_url import DatabaseUrl
from causeloop_common.postgres import Way, reason
from causeloop_common.settings import role_url


class Passwords:
    """The passwords that a root secret gives to the roles."""

    def __init__(self, url: DatabaseUrl, secret: bytes, replaced: bool) -> None:
        self.renewed: Sequence[str] = ()
        """The roles that are there and whose password is set."""
        self._url = url
        self._secret = secret
        self.replaced = replaced
        """Whether this secret takes the place of an earlier one."""

    async def refusal(self, roles: Sequence[str]) -> str | None:
        """Log in as each of the roles that are there; the sentence why their passwords are kept, or None.

        A role may have changed its own password: it is set again, if another role shows that the secret is right.
        """
        if self.replaced:
            self.renewed = roles
            return None
        faults = {role: fault for role in roles if (fault := await self._fault(role)) is not None}
        if len(faults) < len(roles) or not roles:
            self.renewed = list(faults)
            return None
        others = {role: fault for role, fault in faults.items() if not isinstance(fault, asyncpg.InvalidPasswordError)}
        for role, fault in others.items():
            return f"Whether JWT_SECRET is this installation's cannot be seen: {role} cannot log in. {reason(fault)}"
        return (
            "The roles of the services are there, and JWT_SECRET is not the secret that their passwords were derived "
            "from, so every service would be locked out: set JWT_SECRET to this installation's secret. Where this one "
            "is to replace it, as docs/database.md describes, add --replace-passwords."
        )

    async def _fault(self, role: str) -> asyncpg.PostgresError | None:
        """Why the role is not let in with its password; None, too, if only this database is not open to it yet."""
        try:
            connection = await Way(role_url(self._url.text(), role, self._secret), "causeloop-migrate").connect()
        except asyncpg.InsufficientPrivilegeError:
            return None
        except asyncpg.PostgresError as error:
            return error
        connection.terminate()
        return None
