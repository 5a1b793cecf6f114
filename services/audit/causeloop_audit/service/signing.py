"""Signing: heads of many logs at once.

    read the heads ──► prove from what was signed ──► ask the vault ──► keep checkpoints and refusals

Every step is one statement, or one message, for all logs; in each log it is bound to the log's tenant. The vault may
have signed a later head than the one known here: its answer names that size, for the next try.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from pydantic import ValidationError

from causeloop_audit import repository
from causeloop_audit.repository import Refusal, SignedHead, State
from causeloop_audit.service.damage import broken, not_continued
from causeloop_common import ids
from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import SIGNED_AT_ONCE, GrownLog, SignCheckpoints, WitnessedLog
from causeloop_common.database import Database
from causeloop_common.errors import AppError, Conflict, Timeout, Unavailable
from causeloop_common.messaging import Bus
from causeloop_common.permissions import Internal
from causeloop_log.tlog import merkle

AT_ONCE = SIGNED_AT_ONCE
MISSING = "entries or nodes of it are missing"
_HASHES_ARE_NONE = "its hashes are none"
_HEAD_IS_DAMAGED = "its head is damaged"
_TRIES = 3

Outcome = SignedHead | AppError
"""Of one log: its checkpoint, or why it has none. Conflict means that the log is refused, or grew too fast."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """A log as it is shown to the vault."""

    state: State
    asked: GrownLog


class Signing:
    """Has heads signed by the vault, and keeps what comes of it."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus

    async def sign(self, logs: Sequence[UUID], *, anew: bool = False, fence: str | None = None) -> dict[UUID, Outcome]:
        """By tenant, the outcome for each of these logs, at most `AT_ONCE`. A head that was signed is not signed again.

        `anew` asks in any case: the vault shows whether it signed more than is here. Otherwise a log that was refused
        is refused again, and nobody asked, until it has grown so that it may continue: a reader who asks often raises
        no alarm. With a `fence` the answers are kept in a leader's term only.
        """
        ctx = own_context(ids.INSTALLATION)
        async with self._database.reading(ctx) as tx:
            known = await repository.states(tx, logs)
        outcomes: dict[UUID, Outcome] = {}
        from_size: dict[UUID, int] = {}
        for log, state in known.items():
            if not anew and state.refusal is not None and not state.refusal.may_be_over(state.head.size):
                outcomes[log] = not_continued(state.refusal.why)
            elif not anew and state.is_signed and state.signed is not None:
                outcomes[log] = state.signed
            else:
                from_size[log] = _begin(state)
        found = await self._ask_until_signed(ctx, from_size)
        await self._keep_signed(ctx, known, found, fence)
        for log, outcome in found.items():
            outcomes[log] = await self._keep_refusal(log, outcome, fence) if isinstance(outcome, Refusal) else outcome
        return outcomes

    async def _ask_until_signed(
        self, ctx: AuthContext, from_size: Mapping[UUID, int]
    ) -> dict[UUID, SignedHead | Refusal | AppError]:
        """Prove each log from the given size, or from the one that the vault names, and have it signed."""
        found: dict[UUID, SignedHead | Refusal | AppError] = {}
        for _ in range(_TRIES):
            shown, refused = await self._show(ctx, from_size)
            found |= refused
            if not shown:
                return found
            from_size = {}
            for log, answer in (await self._ask(ctx, shown)).items():
                if isinstance(answer, int):
                    from_size[log] = answer
                else:
                    found[log] = answer
            if not from_size:
                return found
        grows = Conflict("The log grew faster than it could be signed. Try again.")
        return found | dict.fromkeys(from_size, grows)

    async def _show(
        self, ctx: AuthContext, from_size: Mapping[UUID, int]
    ) -> tuple[dict[UUID, _Shown], dict[UUID, Refusal]]:
        """Each log as the vault needs to see it; and the refusals of those that cannot be shown so."""
        shown: dict[UUID, _Shown] = {}
        refused: dict[UUID, Refusal] = {}
        async with self._database.reading(ctx) as tx:
            states = await repository.states(tx, list(from_size))
            spans = {}
            for log, old_size in from_size.items():
                size = states[log].head.size
                if size < old_size:
                    refused[log] = Refusal(old_size, size, f"it has {size} entries, and {old_size} were signed")
                else:
                    spans[log] = merkle.consistency_spans(old_size, size)
            runs = {log: [run for span in one for run in merkle.runs(span)] for log, one in spans.items()}
            stored = await repository.hashes_of_logs(tx, runs)
        for log, one in spans.items():
            state, old_size = states[log], from_size[log]
            try:
                proof = merkle.proof(one, iter(stored[log]))
                asked = _asked(log, old_size, state, proof)
            except ValidationError:
                refused[log] = Refusal(old_size, state.head.size, _HASHES_ARE_NONE)
            except ValueError:
                refused[log] = Refusal(old_size, state.head.size, MISSING)
            else:
                shown[log] = _Shown(state, asked)
            await asyncio.sleep(0)  # others have their turn: the intake, and readers
        return shown, refused

    async def _ask(
        self, ctx: AuthContext, shown: Mapping[UUID, _Shown]
    ) -> dict[UUID, SignedHead | Refusal | AppError | int]:
        """The vault's answers; a number is the size from which the log has to be proven.

        What the vault finds comes before damage that is found here, which counts without the vault, too.
        """
        asking = ctx.of_service("audit", Internal.SIGN_CHECKPOINTS)
        try:
            reply = await self._bus.call(asking, SignCheckpoints(logs=[one.asked for one in shown.values()]))
        except (Unavailable, Timeout) as error:
            return {log: error if one.state.is_whole else _damaged(one) for log, one in shown.items()}
        return {log: _answered(one, answer) for (log, one), answer in zip(shown.items(), reply.logs, strict=True)}

    async def _keep_signed(
        self,
        ctx: AuthContext,
        known: Mapping[UUID, State],
        found: Mapping[UUID, SignedHead | Refusal | AppError],
        fence: str | None,
    ) -> None:
        """Keep the checkpoints that are new, or of logs that were refused."""
        kept = {
            log: one
            for log, one in found.items()
            if isinstance(one, SignedHead) and (one != known[log].signed or known[log].refusal is not None)
        }
        if kept:
            async with self._database.transaction(ctx, fence=fence) as tx:
                await repository.keep_checkpoints(tx, kept)

    async def _keep_refusal(self, log: UUID, refusal: Refusal, fence: str | None) -> Conflict:
        """Keep that a log is refused; an alarm, which is logged once for each head that it does not continue."""
        ctx = own_context(ids.tenant_id(log))
        async with self._database.transaction(ctx, fence=fence) as tx:
            is_new = await repository.keep_refusal(tx, refusal)
        return broken(ctx, refusal.why, is_known=not is_new)


def own_context(tenant: str) -> AuthContext:
    """The context of audit's own work in a tenant."""
    return AuthContext(
        tenant=tenant, principal="svc_audit", permissions=frozenset(), issuer="audit", request_id=ids.new("req")
    )


def _begin(known: State) -> int:
    """The size from which to prove. Where the log is shorter than its checkpoint the vault shows what it signed."""
    return 0 if known.signed is None or known.signed.head.size > known.head.size else known.signed.head.size


def _asked(log: UUID, old_size: int, state: State, proof: Iterable[bytes]) -> GrownLog:
    return GrownLog(
        tenant=ids.tenant_id(log),
        old_size=old_size,
        size=state.head.size,
        root=state.head.root.hex(),
        proof=[sibling.hex() for sibling in proof],
    )


def _damaged(shown: _Shown) -> Refusal:
    return Refusal(shown.asked.old_size, shown.state.head.size, _HEAD_IS_DAMAGED)


def _answered(shown: _Shown, answer: WitnessedLog) -> SignedHead | Refusal | int:
    head = shown.state.head
    if answer.refused is not None:
        return Refusal(answer.signed_size, head.size, answer.refused)
    if answer.checkpoint is None:
        return answer.signed_size
    return SignedHead(head, answer.checkpoint, answer.epoch) if shown.state.is_whole else _damaged(shown)
