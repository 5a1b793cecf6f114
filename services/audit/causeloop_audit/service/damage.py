"""Refusals of a log that somebody changed behind our back: each is logged as critical, counted, and names the place."""

import logging
from datetime import datetime
from typing import Any

import orjson

from causeloop_audit.repository import StoredEntry, StoredLeaf
from causeloop_common.context import AuthContext
from causeloop_common.errors import Conflict
from causeloop_common.telemetry import metrics
from causeloop_log.tlog.merkle import leaf_hash

_log = logging.getLogger(__name__)


def broken(ctx: AuthContext, why: str, *, is_known: bool = False) -> Conflict:
    """The refusal of a log that was shortened, changed, or restored from before what was signed of it.

    A log of which this `is_known` is counted again, and logged no more.
    """
    metrics.LOGS_BROKEN.inc()
    if not is_known:
        _log.critical("the log of %s does not continue what was signed of it: %s", ctx.tenant, why)
    return not_continued(why)


def not_continued(why: str) -> Conflict:
    """The refusal of a log that is known not to continue what was signed of it."""
    return Conflict(
        f"The log does not continue what was signed of it: {why}. An operator must look at it: `causeloop audit "
        "recover`."
    )


def require_unchanged(ctx: AuthContext, stored: StoredEntry | StoredLeaf) -> None:
    """Conflict when an entry's leaf is not the one that was entered."""
    if stored.leaf is not None and leaf_hash(stored.leaf.encode()) != stored.leaf_hash:
        raise _changed(ctx, stored.index)


def data_of(ctx: AuthContext, stored: StoredEntry) -> dict[str, Any] | None:
    """The data of an entry; None once it was removed. Conflict when its leaf or a column beside it was changed."""
    if stored.leaf is None:
        return None
    require_unchanged(ctx, stored)
    try:
        leaf = orjson.loads(stored.leaf)
        columns = (
            stored.id, stored.action, stored.actor, stored.credential, stored.target, stored.request_id,
            stored.occurred_at,
        )  # fmt: skip
        written = (
            leaf["id"], leaf["action"], leaf["actor"], leaf["credential"], leaf["target"], leaf["request"] or "",
            datetime.fromisoformat(leaf["time"]),
        )  # fmt: skip
        if columns == written:
            return leaf["data"]  # type: ignore[no-any-return]
    except (ValueError, LookupError, TypeError):
        pass
    raise _changed(ctx, stored.index)


def _changed(ctx: AuthContext, index: int) -> Conflict:
    metrics.LOGS_BROKEN.inc()
    _log.critical("entry %d of the log of %s was changed after it was entered", index, ctx.tenant)
    return Conflict(f"Entry {index} of the log was changed after it was entered. An operator must look at it.")
