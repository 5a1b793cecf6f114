"""Rotation of a tenant's keyring: a new data key, and a job that seals under it what older ones sealed."""

from functools import partial

from causeloop_common.context import AuthContext
from causeloop_common.contracts.jobs import JobView
from causeloop_common.contracts.vault import GetKeyring, KeyringRotated, KeyringView, ReencryptKeyring, RotateKeyring
from causeloop_common.database import Database
from causeloop_common.errors import Conflict
from causeloop_common.jobs import Step
from causeloop_vault import repository
from causeloop_vault.service.keyrings import Keyring, Keyrings
from causeloop_vault.service.reencryption import Reencryption


class RotationService:
    """Show and rotate the keyring; the steps of the re-encryption that follows."""

    def __init__(self, database: Database, keyrings: Keyrings, reencryption: Reencryption) -> None:
        self._database = database
        self._keyrings = keyrings
        self._reencryption = reencryption

    async def get_keyring(self, ctx: AuthContext, command: GetKeyring) -> KeyringView:
        """The versions of the tenant's data key, without their material."""
        async with self._database.reading(ctx) as tx:
            return KeyringView(versions=await repository.key_versions(tx))

    async def rotate_keyring(self, ctx: AuthContext, command: RotateKeyring) -> JobView:
        """Make the next data key the primary, and have everything sealed under it, by one job at a time."""
        key = await self._keyrings.next_key(ctx)
        async with self._database.transaction(ctx, command) as tx:
            if (open_job := await tx.open_job(ReencryptKeyring)) is not None:
                raise Conflict(f"The job {open_job} is still re-encrypting. Wait for its end, or cancel it first.")

            if not await repository.rotate(tx, key):
                raise Conflict("Another rotation was faster. Look at its job.")

            tx.publish(KeyringRotated(keyring=ctx.tenant, version=key.version))
            return tx.answer(tx.enqueue(ReencryptKeyring(version=key.version)))

    async def reencrypt_keyring(self, ctx: AuthContext, step: Step[ReencryptKeyring]) -> None:
        """A step of the job: a batch of what is sealed under older data keys."""
        await self._keyrings.use(ctx, partial(self._reencrypt, ctx, step))

    async def _reencrypt(self, ctx: AuthContext, step: Step[ReencryptKeyring], keyring: Keyring) -> None:
        async with self._database.transaction(ctx, step) as tx:
            total = await self._reencryption.total(tx) if step.total is None else step.total

            batch = await self._reencryption.step(tx, keyring, step.cursor)
            done = step.done + batch.done

            total = max(total, done)  # more may have been written since it was counted
            detail = f"{done} of {total} values and keys are sealed under version {keyring.version}."
            if batch.cursor is None:
                tx.end(detail, done=batch.done)
            else:
                tx.advance(batch.cursor, done=batch.done, total=total, detail=detail, wait=batch.wait)
