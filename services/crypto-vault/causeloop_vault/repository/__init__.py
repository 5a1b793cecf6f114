"""All SQL of the vault, a file per noun. Row security binds every statement to the transaction's tenant."""

from causeloop_vault.repository.checkpoints import (
    Signed,
    StoredSigningKey,
    add_signing_key,
    checkpoint,
    end_epoch,
    lock_checkpoints,
    move_checkpoints,
    of_all_logs,
    signing_key,
)
from causeloop_vault.repository.keyrings import WrappedKey, add_data_key, data_keys, is_primary, key_versions, rotate
from causeloop_vault.repository.keys import SealedMaterial, add_key, key_material, keys_after
from causeloop_vault.repository.reencryption import (
    START,
    Cursor,
    Sealed,
    count_sealed,
    have_ended,
    next_writer,
    reseal,
    walk,
)
from causeloop_vault.repository.sealed_values import delete_sealed_value, sealed_value, store_sealed_value
from causeloop_vault.repository.secrets import (
    SealedSecret,
    add_version,
    sealed_secret,
    secret,
    secrets_after,
    write_secret,
)

__all__ = [
    "START",
    "Cursor",
    "Sealed",
    "SealedMaterial",
    "SealedSecret",
    "Signed",
    "StoredSigningKey",
    "WrappedKey",
    "add_data_key",
    "add_key",
    "add_signing_key",
    "add_version",
    "checkpoint",
    "count_sealed",
    "data_keys",
    "delete_sealed_value",
    "end_epoch",
    "have_ended",
    "is_primary",
    "key_material",
    "key_versions",
    "keys_after",
    "lock_checkpoints",
    "move_checkpoints",
    "next_writer",
    "of_all_logs",
    "reseal",
    "rotate",
    "sealed_secret",
    "sealed_value",
    "secret",
    "secrets_after",
    "signing_key",
    "store_sealed_value",
    "walk",
    "write_secret",
]
