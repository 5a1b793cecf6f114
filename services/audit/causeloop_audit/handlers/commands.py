"""Messages in: each command with its use case."""

from causeloop_audit.service import CheckpointService, LogService
from causeloop_common.contracts.audit import (
    GetCheckpoint,
    GetConsistency,
    GetEvent,
    GetEventProof,
    ListEvents,
    ReadStream,
)
from causeloop_common.messaging import CommandRouter


def router(service: LogService, checkpoints: CheckpointService) -> CommandRouter:
    """The commands that audit answers."""
    return CommandRouter(
        {
            ListEvents: service.list_events,
            GetEvent: service.get_event,
            ReadStream: service.read_stream,
            GetCheckpoint: checkpoints.get_checkpoint,
            GetEventProof: checkpoints.get_event_proof,
            GetConsistency: checkpoints.get_consistency,
        }
    )
