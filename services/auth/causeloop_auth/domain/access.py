"""Access tokens: JWTs (HS256, RFC 9068 in spirit) that only auth can make or check.

`sub` is the person, `sid` the session, `ten` where it is valid: a workspace, or the person's own realm.
"""

from datetime import UTC, datetime
from typing import NamedTuple

import jwt

from causeloop_common import ids

_TYPE = "at+jwt"
_ISSUER = "causeloop/auth"
_REQUIRED = ["iss", "sub", "sid", "ten", "iat", "exp"]


class AccessClaims(NamedTuple):
    """The claims of an access token."""

    person: str
    session: str
    tenant: str
    expires_at: datetime


def make(key: bytes, person: str, session: str, tenant: str, *, now: datetime, seconds: int) -> str:
    """An access token that is good for `seconds` from `now`."""
    issued = int(now.timestamp())
    claims = {"iss": _ISSUER, "sub": person, "sid": session, "ten": tenant, "iat": issued, "exp": issued + seconds}
    return jwt.encode(claims, key, algorithm="HS256", headers={"typ": _TYPE})


def read(key: bytes, token: str, *, now: datetime) -> AccessClaims | None:
    """The claims, or None when the token is forged, expired, or not an access token."""
    try:
        if jwt.get_unverified_header(token).get("typ") != _TYPE:
            return None
        data = jwt.decode(
            token,
            key,
            algorithms=["HS256"],
            issuer=_ISSUER,
            options={"require": _REQUIRED, "verify_exp": False, "verify_iat": False, "verify_aud": False},
        )
        ids.decode(data["sub"], "usr")
        ids.decode(data["sid"], "ses")
        ids.tenant_uuid(data["ten"])
        expires_at = datetime.fromtimestamp(data["exp"], UTC)
    except (jwt.InvalidTokenError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    if now >= expires_at:
        return None
    return AccessClaims(data["sub"], data["sid"], data["ten"], expires_at)
