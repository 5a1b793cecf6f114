"""What audit answers: each command to its use case."""

from causeloop_audit.service import CheckpointService, LogService
from causeloop_common.context import AuthContext
from causeloop_common.contracts.audit import (
    CheckpointView,
    ConsistencyProof,
    Entry,
    EntryPage,
    EntryProof,
    GetCheckpoint,
    GetEntry,
    ListEntries,
    LogPage,
    ProveConsistency,
    ProveEntry,
    ReadLog,
)
from causeloop_common.messaging import CommandRouter


def router(service: LogService, checkpoints: CheckpointService) -> CommandRouter:
    """What audit answers."""
    commands = CommandRouter()

    @commands.on(ListEntries)
    async def list_entries(ctx: AuthContext, command: ListEntries) -> EntryPage:
        return await service.list_entries(ctx, command)

    @commands.on(GetEntry)
    async def get_entry(ctx: AuthContext, command: GetEntry) -> Entry:
        return await service.get_entry(ctx, command)

    @commands.on(ReadLog)
    async def read_log(ctx: AuthContext, command: ReadLog) -> LogPage:
        return await service.read_log(ctx, command)

    @commands.on(GetCheckpoint)
    async def get_checkpoint(ctx: AuthContext, command: GetCheckpoint) -> CheckpointView:
        return await checkpoints.get_checkpoint(ctx, command)

    @commands.on(ProveEntry)
    async def prove_entry(ctx: AuthContext, command: ProveEntry) -> EntryProof:
        return await checkpoints.prove_entry(ctx, command)

    @commands.on(ProveConsistency)
    async def prove_consistency(ctx: AuthContext, command: ProveConsistency) -> ConsistencyProof:
        return await checkpoints.prove_consistency(ctx, command)

    return commands
