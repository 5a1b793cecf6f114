"""Use cases of audit, one file per noun: the log, and its checkpoints with their proofs."""

from causeloop_audit.service.checkpoints import CheckpointService
from causeloop_audit.service.log import LogService
from causeloop_audit.service.recovery import RecoveryService
from causeloop_audit.service.signer import Signer

__all__ = ["CheckpointService", "LogService", "RecoveryService", "Signer"]
