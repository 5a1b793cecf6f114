"""The transparency log as its three parties see it: who proves, who witnesses, who verifies.

    merkle        the tree of RFC 6962 (RFC 9162 2.1): its frontier, proofs of inclusion and consistency, both verified
    note          text signed with Ed25519, and the keys that verify it (C2SP signed-note)
    checkpoint    a signed tree head: origin, size, root (C2SP tlog-checkpoint)
    proof         an entry's place in a log, in one file that anybody can verify (C2SP tlog-proof)

Pure: bytes in, bytes out. What does not hold raises `NotVerified`; nothing here returns whether it held, so that no
caller can forget to look.
"""


class NotVerified(ValueError):
    """A proof, note, key or checkpoint that does not hold. The text says which part, as half a sentence."""
