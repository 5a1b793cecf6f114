"""Messages in: each command, and each event that it follows, with its use case."""

from causeloop_common.contracts import tenancy, vault
from causeloop_common.contracts.topology import VAULT_EVENTS
from causeloop_common.messaging import CommandRouter, EventRouter
from causeloop_vault.handlers.plain import PlainForms
from causeloop_vault.service import (
    CheckpointService,
    Keyrings,
    KeyService,
    RotationService,
    SealingService,
    SecretService,
)


def router(
    secrets: SecretService,
    keys: KeyService,
    rotation: RotationService,
    sealing: SealingService,
    checkpoints: CheckpointService,
) -> CommandRouter:
    """The commands that the vault answers."""
    plain = PlainForms(keys)
    return CommandRouter(
        {
            vault.PutSecret: secrets.put_secret,
            vault.GetSecret: secrets.get_secret,
            vault.ListSecrets: secrets.list_secrets,
            vault.RevealSecret: secrets.reveal_secret,
            vault.CreateKey: keys.create_key,
            vault.ListKeys: keys.list_keys,
            vault.Encrypt: keys.encrypt,
            vault.Decrypt: keys.decrypt,
            vault.GetKeyring: rotation.get_keyring,
            vault.RotateKeyring: rotation.rotate_keyring,
            vault.Seal: sealing.seal,
            vault.StoreSealedValue: sealing.store_sealed_value,
            vault.OpenSealedValue: sealing.open_sealed_value,
            vault.DeleteSealedValue: sealing.delete_sealed_value,
            vault.SignCheckpoints: checkpoints.sign_checkpoints,
            vault.GetAuditKey: checkpoints.get_audit_key,
        },
        plain={vault.Encrypt: plain.encrypt_batch, vault.Decrypt: plain.decrypt_batch},
    )


def events(keyrings: Keyrings, sealing: SealingService) -> EventRouter:
    """The events that the vault follows."""
    ends = dict.fromkeys(sealing.ends, sealing.record_ended)
    return EventRouter(VAULT_EVENTS, {tenancy.WorkspaceCreated: keyrings.workspace_created, **ends})
