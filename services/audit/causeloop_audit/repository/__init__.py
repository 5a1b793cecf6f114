"""All SQL of the log: reading and proving under row security; appending, and what is unsigned, by the writer's role."""

from causeloop_audit.repository.entries import StoredEntry, StoredLeaf, entries_of, is_entered, list_events, read
from causeloop_audit.repository.held import HeldEvent, HeldEvents, HeldMessage
from causeloop_audit.repository.proofs import (
    Head,
    Refusal,
    SignedHead,
    State,
    begin_epoch,
    forget_refusal,
    hashes,
    head,
    keep_checkpoint,
    keep_refusal,
    state,
)
from causeloop_audit.repository.writer import Appended, Identity, LogWatch, LogWriter, NotStorable, Stored

__all__ = [
    "Appended",
    "Head",
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
    "forget_refusal",
    "hashes",
    "head",
    "is_entered",
    "keep_checkpoint",
    "keep_refusal",
    "list_events",
    "read",
    "state",
]
