"""Routes of audit: the workspace's log, and what proves it."""

from causeloop_common.contracts.audit import (
    GetCheckpoint,
    GetConsistency,
    GetEvent,
    GetEventProof,
    ListEvents,
    ReadStream,
)
from causeloop_common.contracts.vault import GetAuditKey
from causeloop_gateway.endpoints import Endpoint

ENDPOINTS = (
    Endpoint("GET", "/audit/events", ListEvents),
    Endpoint("GET", "/audit/events/{id}", GetEvent),
    Endpoint("GET", "/audit/events/{id}/proof", GetEventProof, text="tlog_proof"),
    Endpoint("GET", "/audit/checkpoint", GetCheckpoint, text="checkpoint"),
    Endpoint("GET", "/audit/consistency", GetConsistency),
    Endpoint("GET", "/audit/key", GetAuditKey, text="key"),
)
STREAM = Endpoint("GET", "/audit/stream", ReadStream)
