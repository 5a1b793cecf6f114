"""All SQL of the log: reading and proving under row security; appending, and what is unsigned, by the writer's role."""

from causeloop_audit.repository.entries import StoredEntry, StoredLeaf, entries_of, is_entered, list_events, read
from causeloop_audit.repository.held import HeldEvent, HeldEvents, HeldMessage
from causeloop_audit.repository.proofs import Head, SignedHead, checkpoint, hashes, head, keep_checkpoint
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
    "SignedHead",
    "Stored",
    "StoredEntry",
    "StoredLeaf",
    "checkpoint",
    "entries_of",
    "hashes",
    "head",
    "is_entered",
    "keep_checkpoint",
    "list_events",
    "read",
]
