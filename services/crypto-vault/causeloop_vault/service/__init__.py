"""Use cases of the vault, one file per noun: secrets, named keys, sealing for other services; all take keyrings."""

from causeloop_vault.service.keyrings import Keyrings
from causeloop_vault.service.keys import KeyService
from causeloop_vault.service.sealing import SealingService
from causeloop_vault.service.secrets import SecretService

__all__ = ["KeyService", "Keyrings", "SealingService", "SecretService"]
