"""Use cases of the vault, a file per noun: secrets, named keys, sealing, checkpoints; all take keyrings."""

from causeloop_vault.service.checkpoints import CheckpointService
from causeloop_vault.service.epochs import EpochService
from causeloop_vault.service.keyrings import Keyring, Keyrings
from causeloop_vault.service.keys import KeyService
from causeloop_vault.service.reencryption import Batch, Reencryption
from causeloop_vault.service.rotation import RotationService
from causeloop_vault.service.sealing import SealingService
from causeloop_vault.service.secrets import SecretService

__all__ = [
    "Batch",
    "CheckpointService",
    "EpochService",
    "KeyService",
    "Keyring",
    "Keyrings",
    "Reencryption",
    "RotationService",
    "SealingService",
    "SecretService",
]
