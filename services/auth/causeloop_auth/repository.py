"""All SQL of auth. Row security binds every statement to the transaction's tenant."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, select, update

from causeloop_auth.domain.rotation import Family
from causeloop_auth.models import sessions, tokens
from causeloop_common import ids
from causeloop_common.contracts.auth import ApiTokenView
from causeloop_common.database import Reading, Transaction
from causeloop_common.statements import Statement


@dataclass(frozen=True, slots=True)
class Session:
    """A person's session. `entered` is the workspace it is in, None in the realm."""

    id: str
    family: Family
    entered: str | None
    created_at: datetime


_ADD_SESSION = Statement.insert(sessions, "id", "current", "rotated_at", "entered", "created_at", "expires_at")
_FIND_SESSION = select(sessions).where(sessions.c.id == bindparam("id"))
_SESSION = Statement.of(_FIND_SESSION)
_LOCK_SESSION = Statement.of(_FIND_SESSION.with_for_update())
_ROTATE = Statement.of(
    update(sessions)
    .where(sessions.c.id == bindparam("session"))
    .values(
        current=bindparam("new"),
        siblings=bindparam("newer"),
        previous=bindparam("old"),
        spent=bindparam("older"),
        rotated_at=bindparam("at"),
        entered=bindparam("workspace"),
    )
)
_END_SESSION = Statement.of(
    update(sessions)
    .where(sessions.c.id == bindparam("session"), sessions.c.ended_at.is_(None))
    .values(ended_at=bindparam("at"))
)

_TOKEN_COLUMNS = (
    tokens.c.id, tokens.c.owner, tokens.c.name, tokens.c.scopes, tokens.c.created_at, tokens.c.expires_at,
    tokens.c.revoked_at,
)  # fmt: skip
_ADD_TOKEN = Statement.insert(tokens, "id", "owner", "name", "scopes", "digest", "created_at", "expires_at")
_TOKEN = Statement.of(select(*_TOKEN_COLUMNS).where(tokens.c.id == bindparam("id")))
_TOKEN_BY_DIGEST = Statement.of(select(*_TOKEN_COLUMNS).where(tokens.c.digest == bindparam("digest")))
_OWN_TOKENS = Statement.of(
    select(*_TOKEN_COLUMNS)
    .where(tokens.c.owner == bindparam("owner"), tokens.c.id < bindparam("before"))
    .order_by(tokens.c.id.desc())
    .limit(bindparam("limit"))
)
_REVOKE_TOKEN = Statement.of(
    update(tokens)
    .where(tokens.c.id == bindparam("token"), tokens.c.revoked_at.is_(None))
    .values(revoked_at=bindparam("at"))
)


def add_session(tx: Transaction, session: str, family: Family, entered: str | None, now: datetime) -> None:
    """Store a new session of the realm."""
    tx.later(
        _ADD_SESSION,
        id=ids.decode(session, "ses"),
        current=family.newest[0],
        rotated_at=family.rotated_at,
        entered=_workspace(entered),
        created_at=now,
        expires_at=family.expires_at,
    )


async def session(tx: Reading, session_id: str, *, lock: bool = False) -> Session | None:
    """A session of the realm, locked until the end of the transaction if asked."""
    row = await tx.fetchrow(_LOCK_SESSION if lock else _SESSION, id=ids.decode(session_id, "ses"))
    if row is None:
        return None
    newest = (row["current"], *row["siblings"])
    predecessors = () if row["previous"] is None else (row["previous"], *row["spent"])
    family = Family(newest, predecessors, row["rotated_at"], row["expires_at"], ended=row["ended_at"] is not None)
    entered = None if row["entered"] is None else ids.tenant_id(row["entered"])
    return Session(session_id, family, entered, row["created_at"])


def rotate(tx: Transaction, session_id: str, family: Family, entered: str | None) -> None:
    """Store the family's new state and where the session is now."""
    tx.later(
        _ROTATE,
        session=ids.decode(session_id, "ses"),
        new=family.newest[0],
        newer=list(family.newest[1:]),
        old=family.predecessors[0],
        older=list(family.predecessors[1:]),
        at=family.rotated_at,
        workspace=_workspace(entered),
    )


async def end_session(tx: Transaction, session_id: str, now: datetime) -> bool:
    """End a session; False when it is over already."""
    return await tx.execute(_END_SESSION, session=ids.decode(session_id, "ses"), at=now) == 1


def add_token(tx: Transaction, token: ApiTokenView, digest: bytes) -> None:
    """Store a personal access token."""
    tx.later(
        _ADD_TOKEN,
        id=ids.decode(token.id, "tok"),
        owner=ids.decode(token.owner, "usr"),
        name=token.name,
        scopes=token.scopes,
        digest=digest,
        created_at=token.created_at,
        expires_at=token.expires_at,
    )


async def token(tx: Transaction, token_id: str) -> ApiTokenView | None:
    """A personal access token by id."""
    row = await tx.fetchrow(_TOKEN, id=ids.decode(token_id, "tok"))
    return None if row is None else _token(row)


async def token_by_digest(tx: Reading, digest: bytes) -> ApiTokenView | None:
    """A personal access token by the digest of its handle."""
    row = await tx.fetchrow(_TOKEN_BY_DIGEST, digest=digest)
    return None if row is None else _token(row)


async def own_tokens_before(tx: Reading, owner: str, before: str | None, limit: int) -> list[ApiTokenView]:
    """A person's tokens in the workspace, newest first, older than the given one."""
    border = ids.MAX if before is None else ids.decode(before, "tok")
    rows = await tx.fetch(_OWN_TOKENS, owner=ids.decode(owner, "usr"), before=border, limit=limit)
    return [_token(row) for row in rows]


async def revoke_token(tx: Transaction, token_id: str, now: datetime) -> bool:
    """Revoke a token; False when it was revoked before."""
    return await tx.execute(_REVOKE_TOKEN, token=ids.decode(token_id, "tok"), at=now) == 1


def _workspace(entered: str | None) -> Any:
    return None if entered is None else ids.tenant_uuid(entered)


def _token(row: Any) -> ApiTokenView:
    return ApiTokenView(**{**row, "id": ids.encode("tok", row["id"]), "owner": ids.encode("usr", row["owner"])})
