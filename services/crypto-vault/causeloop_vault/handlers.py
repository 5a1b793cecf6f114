"""Messages in: each command to its use case."""

from causeloop_common.context import AuthContext
from causeloop_common.contracts.vault import (
    AuditKey,
    CreateKey,
    Decrypt,
    Decrypted,
    Encrypt,
    Encrypted,
    GetAuditKey,
    GetSecret,
    KeyPage,
    KeyView,
    ListKeys,
    ListSecrets,
    PutSecret,
    RevealedSecret,
    RevealSecret,
    Seal,
    SealedData,
    SecretPage,
    SecretView,
    SignCheckpoint,
    SignedCheckpoint,
)
from causeloop_common.messaging import CommandRouter
from causeloop_vault.service import CheckpointService, KeyService, SealingService, SecretService


def router(
    secrets: SecretService, keys: KeyService, sealing: SealingService, checkpoints: CheckpointService
) -> CommandRouter:
    """What the vault answers."""
    commands = CommandRouter()

    @commands.on(PutSecret)
    async def put_secret(ctx: AuthContext, command: PutSecret) -> SecretView:
        return await secrets.put_secret(ctx, command)

    @commands.on(GetSecret)
    async def get_secret(ctx: AuthContext, command: GetSecret) -> SecretView:
        return await secrets.get_secret(ctx, command)

    @commands.on(ListSecrets)
    async def list_secrets(ctx: AuthContext, command: ListSecrets) -> SecretPage:
        return await secrets.list_secrets(ctx, command)

    @commands.on(RevealSecret)
    async def reveal_secret(ctx: AuthContext, command: RevealSecret) -> RevealedSecret:
        return await secrets.reveal_secret(ctx, command)

    @commands.on(CreateKey)
    async def create_key(ctx: AuthContext, command: CreateKey) -> KeyView:
        return await keys.create_key(ctx, command)

    @commands.on(ListKeys)
    async def list_keys(ctx: AuthContext, command: ListKeys) -> KeyPage:
        return await keys.list_keys(ctx, command)

    @commands.on(Encrypt)
    async def encrypt(ctx: AuthContext, command: Encrypt) -> Encrypted:
        return await keys.encrypt(ctx, command)

    @commands.on(Decrypt)
    async def decrypt(ctx: AuthContext, command: Decrypt) -> Decrypted:
        return await keys.decrypt(ctx, command)

    @commands.on(Seal)
    async def seal(ctx: AuthContext, command: Seal) -> SealedData:
        return await sealing.seal(ctx, command)

    @commands.on(SignCheckpoint)
    async def sign_checkpoint(ctx: AuthContext, command: SignCheckpoint) -> SignedCheckpoint:
        return await checkpoints.sign_checkpoint(ctx, command)

    @commands.on(GetAuditKey)
    async def get_audit_key(ctx: AuthContext, command: GetAuditKey) -> AuditKey:
        return await checkpoints.get_audit_key(ctx, command)

    return commands
