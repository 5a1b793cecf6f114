"""Use cases of audit, one file per noun: the log, its checkpoints with their proofs, and what keeps these near."""

from causeloop_audit.service.checkpoints import CheckpointService
from causeloop_audit.service.log import LogService
from causeloop_audit.service.readers import Readers, ReadLogs
from causeloop_audit.service.recovery import RecoveryService
from causeloop_audit.service.signer import Signer
from causeloop_audit.service.signing import Signing

__all__ = ["CheckpointService", "LogService", "ReadLogs", "Readers", "RecoveryService", "Signer", "Signing"]
