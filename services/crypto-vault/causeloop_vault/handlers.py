"""Messages in: each command with its use case."""

from causeloop_common.contracts.vault import (
    CreateKey,
    Decrypt,
    Encrypt,
    GetAuditKey,
    GetSecret,
    ListKeys,
    ListSecrets,
    PutSecret,
    RevealSecret,
    Seal,
    SignCheckpoint,
)
from causeloop_common.messaging import CommandRouter
from causeloop_vault.service import CheckpointService, KeyService, SealingService, SecretService


def router(
    secrets: SecretService, keys: KeyService, sealing: SealingService, checkpoints: CheckpointService
) -> CommandRouter:
    """The commands that the vault answers."""
    return CommandRouter(
        {
            PutSecret: secrets.put_secret,
            GetSecret: secrets.get_secret,
            ListSecrets: secrets.list_secrets,
            RevealSecret: secrets.reveal_secret,
            CreateKey: keys.create_key,
            ListKeys: keys.list_keys,
            Encrypt: keys.encrypt,
            Decrypt: keys.decrypt,
            Seal: sealing.seal,
            SignCheckpoint: checkpoints.sign_checkpoint,
            GetAuditKey: checkpoints.get_audit_key,
        }
    )
