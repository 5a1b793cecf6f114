"""Use cases of the vault, one file per noun: secrets, checkpoints, sealing for other services; all take keyrings."""

from causeloop_vault.service.checkpoints import CheckpointService
from causeloop_vault.service.keyrings import Keyrings
from causeloop_vault.service.sealing import SealingService
from causeloop_vault.service.secrets import SecretService

__all__ = ["CheckpointService", "Keyrings", "SealingService", "SecretService"]
