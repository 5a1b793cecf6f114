"""The claim of a bearer token: the tenant and the person that its text names, read without any key.

Only auth makes and checks tokens. By its claim the gateway can ask about a token's person before auth has answered, and
must not use what it gets unless auth then names the same tenant and person.
"""

import base64
import re
from typing import NamedTuple

import orjson

from causeloop_common import ids

_SESSION = re.compile(r"[\w-]+\.([\w-]+)\.[\w-]+", re.ASCII)
_HANDLE = re.compile(rf"clp_pat_(ws_{ids.SUFFIX})_({ids.SUFFIX}){ids.SUFFIX}[a-z2-7]{{52}}_[0-9a-f]{{8}}")


class Claim(NamedTuple):
    """The tenant that a token is for, and the person that it stands for."""

    tenant: str
    person: str


def claimed(token: str) -> Claim | None:
    """The claim of an access token or a personal access token; None where the text has none that could be true."""
    try:
        claim = _of_handle(token) or _of_session(token)
        if claim is not None:
            ids.tenant_uuid(claim.tenant)
            ids.decode(claim.person, "usr")
            ids.tenant_uuid(claim.person)
        return claim
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _of_handle(token: str) -> Claim | None:
    """`clp_pat_<workspace>_<owner><id><secret>_<checksum>`."""
    found = _HANDLE.fullmatch(token)
    return None if found is None else Claim(found[1], f"usr_{found[2]}")


def _of_session(token: str) -> Claim | None:
    """A JWT with the tenant in `ten` and the person in `sub`."""
    found = _SESSION.fullmatch(token)
    if found is None:
        return None
    claims = orjson.loads(base64.urlsafe_b64decode(found[1] + "=="))
    return Claim(claims["ten"], claims["sub"])
