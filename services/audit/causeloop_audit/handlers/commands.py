"""What audit answers: each command to its use case."""

from causeloop_audit.service import CheckpointService, LogService
from causeloop_common.context import AuthContext
from causeloop_common.contracts.audit import (
    CheckpointView,
    ConsistencyProof,
    EventPage,
    EventProof,
    EventView,
    GetCheckpoint,
    GetConsistency,
    GetEvent,
    GetEventProof,
    ListEvents,
    ReadStream,
    StreamPage,
)
from causeloop_common.messaging import CommandRouter


def router(service: LogService, checkpoints: CheckpointService) -> CommandRouter:
    """What audit answers."""
    commands = CommandRouter()

    @commands.on(ListEvents)
    async def list_events(ctx: AuthContext, command: ListEvents) -> EventPage:
        return await service.list_events(ctx, command)

    @commands.on(GetEvent)
    async def get_event(ctx: AuthContext, command: GetEvent) -> EventView:
        return await service.get_event(ctx, command)

    @commands.on(ReadStream)
    async def read_stream(ctx: AuthContext, command: ReadStream) -> StreamPage:
        return await service.read_stream(ctx, command)

    @commands.on(GetCheckpoint)
    async def get_checkpoint(ctx: AuthContext, command: GetCheckpoint) -> CheckpointView:
        return await checkpoints.get_checkpoint(ctx, command)

    @commands.on(GetEventProof)
    async def get_event_proof(ctx: AuthContext, command: GetEventProof) -> EventProof:
        return await checkpoints.get_event_proof(ctx, command)

    @commands.on(GetConsistency)
    async def get_consistency(ctx: AuthContext, command: GetConsistency) -> ConsistencyProof:
        return await checkpoints.get_consistency(ctx, command)

    return commands
