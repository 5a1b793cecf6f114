"""Messages in: each command with its use case."""

from causeloop_audit.service import CheckpointService, LogService
from causeloop_common.contracts import audit
from causeloop_common.messaging import CommandRouter


def router(service: LogService, checkpoints: CheckpointService) -> CommandRouter:
    """The commands that audit answers."""
    return CommandRouter(
        {
            audit.ListEvents: service.list_events,
            audit.GetEvent: service.get_event,
            audit.ReadStream: service.read_stream,
            audit.GetCheckpoint: checkpoints.get_checkpoint,
            audit.GetEventProof: checkpoints.get_event_proof,
            audit.GetConsistency: checkpoints.get_consistency,
        }
    )
