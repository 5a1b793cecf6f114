"""Routes of audit: the workspace's log."""

from causeloop_common.contracts.audit import GetEntry, ListEntries, ReadLog
from causeloop_gateway.commands import Endpoint

ENDPOINTS = (
    Endpoint("GET", "/audit/events", ListEntries),
    Endpoint("GET", "/audit/events/{id}", GetEntry),
)
STREAM = Endpoint("GET", "/audit/stream", ReadLog)
