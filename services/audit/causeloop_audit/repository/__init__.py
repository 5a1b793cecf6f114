"""All SQL of the log: reading and proving under row security; appending, and what is unsigned, by the writer's role."""

from causeloop_audit.repository.entries import StoredEntry, StoredLeaf, entries_of, is_entered, list_events, read
from causeloop_audit.repository.faults import NotStorable
from causeloop_audit.repository.held import HeldEvent, HeldEvents, HeldMessage
from causeloop_audit.repository.proofs import (
    Refusal,
    SignedHead,
    State,
    begin_epoch,
    hashes,
    hashes_of_logs,
    head,
    keep_checkpoints,
    keep_refusal,
    state,
    states,
)
from causeloop_audit.repository.watch import LogWatch
from causeloop_audit.repository.writer import Appended, Identity, LogWriter, Stored

__all__ = [
    "Appended",
    "HeldEvent",
    "HeldEvents",
    "HeldMessage",
    "Identity",
    "LogWatch",
    "LogWriter",
    "NotStorable",
    "Refusal",
    "SignedHead",
    "State",
    "Stored",
    "StoredEntry",
    "StoredLeaf",
    "begin_epoch",
    "entries_of",
    "hashes",
    "hashes_of_logs",
    "head",
    "is_entered",
    "keep_checkpoints",
    "keep_refusal",
    "list_events",
    "read",
    "state",
    "states",
]
