"""The entries of a log: read in every version there is, each in its one written form.

    value       an entry, whatever its version
    v2, v1      the versions: what a leaf looks like, how it is written and read
    canonical   the part of JSON that has one form

A leaf is the bytes of an entry as they are stored and hashed.
"""

from causeloop_log.entry import v1, v2
from causeloop_log.entry.canonical import NotCanonical, digest_of, read_data
from causeloop_log.entry.value import MALFORMED, ActorKind, Entry, Outcome, Sealed

__all__ = [
    "LARGEST",
    "MALFORMED",
    "ActorKind",
    "Entry",
    "NotCanonical",
    "Outcome",
    "Sealed",
    "digest_of",
    "read",
    "read_data",
]

LARGEST = v2.LARGEST
"""Bytes of a leaf that may be entered, in either version: a larger one has no proof that foreign programs read."""


def read(leaf: bytes) -> Entry:
    """The entry of a leaf; NotCanonical unless these are the very bytes that its version writes for it."""
    value = read_data(leaf)
    version = value.get("v")
    if type(version) is int:
        if version == v1.VERSION:
            return v1.entry_of(value, leaf)
        if version == v2.VERSION:
            return v2.entry_of(value, leaf)
    raise NotCanonical("is not an entry of version 1 or 2", rule=3)
