"""Routes of audit: the workspace's log, and what proves it."""

from causeloop_common.contracts.audit import (
    GetCheckpoint,
    GetEntry,
    ListEntries,
    ProveConsistency,
    ProveEntry,
    ReadLog,
)
from causeloop_common.contracts.vault import GetLogKey
from causeloop_gateway.commands import Endpoint

ENDPOINTS = (
    Endpoint("GET", "/audit/events", ListEntries),
    Endpoint("GET", "/audit/events/{id}", GetEntry),
    Endpoint("GET", "/audit/events/{id}/proof", ProveEntry, text="tlog_proof"),
    Endpoint("GET", "/audit/checkpoint", GetCheckpoint, text="checkpoint"),
    Endpoint("GET", "/audit/consistency", ProveConsistency),
    Endpoint("GET", "/audit/key", GetLogKey, text="key"),
)
STREAM = Endpoint("GET", "/audit/stream", ReadLog)
