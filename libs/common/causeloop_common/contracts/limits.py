"""Limits of rate, declared in a command's class line: `limit=Limit(10, per=MINUTE, by=PRINCIPAL)`.

The gateway checks them before any work is done for a request, `EVERYWHERE` for every command of a signed-in caller and
the command's own one besides. Each gateway process counts for itself.
"""

from typing import Literal, NamedTuple

By = Literal["principal", "workspace", "address"]
PRINCIPAL: By = "principal"
"""The person or service account, with whichever session or token."""
WORKSPACE: By = "workspace"
"""The tenant of the token: a workspace, or a person's realm."""
ADDRESS: By = "address"
"""The client's address; of IPv6 its network of 64 bits, which one client has to itself."""

SECOND = 1
MINUTE = 60


class Limit(NamedTuple):
    """At most `requests` at once; each one used comes back evenly within `per` seconds."""

    requests: int
    per: int
    by: By


EVERYWHERE: tuple[Limit, ...] = (Limit(300, per=SECOND, by=PRINCIPAL), Limit(1000, per=SECOND, by=WORKSPACE))
"""The limits of all commands of signed-in callers together."""
