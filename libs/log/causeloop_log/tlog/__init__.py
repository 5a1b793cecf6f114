"""The transparency log: what the log's server, its witness and its verifiers have in common.

    merkle        the tree of RFC 6962 (RFC 9162 2.1): its frontier, proofs of inclusion and of consistency
    note          text signed with Ed25519, and the keys that verify it (C2SP signed-note)
    checkpoint    a signed tree head: origin, size, root (C2SP tlog-checkpoint)
    proof         an entry's place in a log, in one file that anybody can verify (C2SP tlog-proof)

Pure: bytes in, bytes out. A verification returns nothing or raises `NotVerified`, so that no caller can forget to look
at its result.
"""


class NotVerified(ValueError):
    """A proof, note, key or checkpoint does not hold. The message is half a sentence: which part, and why."""
