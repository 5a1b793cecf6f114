"""The witness's rule: a log may only grow.

Of every log the vault remembers the last head it signed, and signs another one only if that one begins with it. So
an attacker who can write to the log, but not to the vault, can neither shorten it nor change what was signed.
"""

from causeloop_log.tlog import NotVerified, merkle
from causeloop_log.tlog.merkle import TreeHead


class Stale(Exception):
    """The proof does not begin at the size last signed, or the head is older than that: `size` is what to begin from.

    That may be a race between two that ask, or a log that lost its end: reading the log again shows which.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def judge(signed: TreeHead, old_size: int, head: TreeHead, proof: list[bytes]) -> None:
    """Return if `head` may be signed after `signed`.

    NotVerified names what is wrong with the log; Stale means that another head or proof is needed. Another root at the
    size last signed is wrong wherever the proof begins, and the very head last signed is right.
    """
    if head.size == signed.size:
        if head.root != signed.root:
            raise NotVerified(f"the log has another root than was signed at the same size, {head.size}")
        return
    if old_size != signed.size or head.size < signed.size:
        raise Stale(signed.size)
    merkle.verify_consistency(signed.size, signed.root, head.size, head.root, proof)
