"""The database of a use case: a transaction that is bound to the tenant and carries its messages.

    async with database.transaction(ctx, command) as tx:  # a retried command ends here with its first answer
        row = await tx.fetchrow(STATEMENT, path=…)        # row security shows this tenant's rows, nobody else's
        tx.later(OTHER, path=…)                           # a write whose result nobody needs
        tx.publish(SecretWritten(…))                      # to the outbox, committed together with the effect
        return tx.answer(reply)                           # remembered for a retry; without it nothing is committed

    async with database.reading(ctx) as tx:               # a use case that changes nothing
        return await tx.fetch(STATEMENT)

BEGIN and the tenant's setting travel with the first statement; what is written later, the events and COMMIT travel
together; a reading is one flight for each statement (`wire`). The setting is local to the transaction, and exactly one
of tenant and person is set. No bus call belongs inside.

Promises: a refusal leaves nothing behind; `Unavailable` means that nothing was done; when the answer to COMMIT is
lost the outcome is unknown, which is `Timeout`; a change without an event is refused with `AuditUnavailable`.
"""

from causeloop_common.database.connections import SILENCE_SECONDS, Connections, look_at, role_connections
from causeloop_common.database.database import Database
from causeloop_common.database.reading import Reading
from causeloop_common.database.transaction import Transaction

__all__ = ["SILENCE_SECONDS", "Connections", "Database", "Reading", "Transaction", "look_at", "role_connections"]
