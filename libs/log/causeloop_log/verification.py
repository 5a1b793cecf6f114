"""Is this log what was signed, all of it, and only grown since you last looked? Step by step, trusting only a key.

    1 key           the key is the one you pinned
    2 checkpoint    this key signed this checkpoint, of this log
    3 entries       every entry is the log's, in its one form, and there once
    4 completeness  there are as many entries as the checkpoint says
    5 root          the entries hash to the checkpoint's root (RFC 6962)
    6 history       the log begins with the one whose checkpoint you kept

and of a single entry's proof

    3 entry         the entry is the log's, in its one form
    4 inclusion     its hash leads to the checkpoint's root

A step that does not hold ends it: `Refused` has its number and why. What is shown so: these entries, in this order,
none missing, none changed. What is not: that an event tells the truth, and that everything that happened was told.
"""

import json
from collections.abc import Callable, Iterable
from typing import NamedTuple

from causeloop_log import entry
from causeloop_log.entry import NotCanonical
from causeloop_log.tlog import NotVerified
from causeloop_log.tlog.checkpoint import Checkpoint
from causeloop_log.tlog.merkle import HASH_BYTES, Frontier, leaf_hash
from causeloop_log.tlog.note import VerifierKey
from causeloop_log.tlog.proof import LogProof


class Pruned(NamedTuple):
    """An entry whose content retention removed: what is left is its hash."""

    leaf_hash: bytes


Leaf = bytes | Pruned


class Step(NamedTuple):
    """A step that held."""

    number: int
    name: str
    told: str


class Refused(Exception):
    """A step that did not hold."""

    def __init__(self, number: int, name: str, why: str) -> None:
        super().__init__(f"step {number}, {name}: {why}")
        self.number = number
        self.name = name
        self.why = why


class Verification:
    """The steps in their order; `tell` hears of each that held."""

    def __init__(self, tell: Callable[[Step], None]) -> None:
        self._tell = tell

    def log(
        self, told_key: str, pinned: str | None, signed: str, leaves: Iterable[Leaf], kept: str | None = None
    ) -> Checkpoint:
        """All steps over a whole log; the checkpoint that it holds for. `kept` is a checkpoint from an earlier look."""
        key = self._key(told_key, pinned)
        checkpoint = self._checkpoint(signed, key)
        earlier = self._kept(kept, key)
        log = _Log(checkpoint.origin.rpartition("/")[2], earlier.size if earlier else 0)
        for leaf in leaves:
            log.add(leaf)

        pruned = f", of {log.pruned} only the hash is left" if log.pruned else ""
        self._held(3, "entries", f"{log.frontier.size} entries of {log.tenant}, each once and in its one form{pruned}.")
        if log.frontier.size != checkpoint.size:
            raise Refused(
                4, "completeness", f"there are {log.frontier.size} entries, and {checkpoint.size} were signed"
            )
        self._held(4, "completeness", f"As many as were signed: {checkpoint.size}.")
        if log.frontier.root() != checkpoint.root:
            raise Refused(5, "root", "the entries hash to another root than was signed: something was changed")
        self._held(5, "root", f"They hash to the signed root, {checkpoint.root.hex()[:16]}….")
        if earlier is not None:
            self._history(earlier, checkpoint, log.earlier_root)
        return checkpoint

    def proof(self, told_key: str | None, pinned: str | None, text: str) -> Checkpoint:
        """All steps over the proof of one entry, which is in it."""
        if told_key is None and pinned is None:
            raise Refused(1, "key", "a proof has no key in it: give the log's with --key")
        key = self._key(told_key or "", pinned)
        try:
            proof = LogProof.parse(text)
        except NotVerified as error:
            raise Refused(2, "checkpoint", str(error)) from error
        checkpoint = self._checkpoint(proof.checkpoint, key)
        if proof.leaf is None:
            raise Refused(3, "entry", "the file has no entry in it, only its place")
        log = _Log(checkpoint.origin.rpartition("/")[2], 0)
        log.add(proof.leaf)
        told = json.loads(proof.leaf)
        self._held(3, "entry", f"{told['action']} by {told['actor']} on {told['target']} at {told['time']}.")
        try:
            proof.verified(key, leaf_hash(proof.leaf))
        except NotVerified as error:
            raise Refused(4, "inclusion", str(error)) from error
        self._held(4, "inclusion", f"It is entry {proof.index} of {checkpoint.size}.")
        return checkpoint

    def _key(self, told: str, pinned: str | None) -> VerifierKey:
        try:
            key = VerifierKey.parse(pinned if pinned is not None else told)
            if pinned is not None and told and VerifierKey.parse(told) != key:
                raise NotVerified(f"it is not the one you pinned: {told.strip()}")
        except NotVerified as error:
            raise Refused(1, "key", str(error)) from error
        how = "the one you pinned" if pinned is not None else "SELF-ASSERTED, the log's own word: pin it with --key"
        self._held(1, "key", f"{key.name}+{key.id.hex()}, {how}.")
        return key

    def _checkpoint(self, signed: str, key: VerifierKey) -> Checkpoint:
        try:
            checkpoint = Checkpoint.verified(signed, key)
        except NotVerified as error:
            raise Refused(2, "checkpoint", str(error)) from error
        self._held(2, "checkpoint", f"Signed by this key: {checkpoint.size} entries of {checkpoint.origin}.")
        return checkpoint

    def _kept(self, kept: str | None, key: VerifierKey) -> Checkpoint | None:
        if kept is None:
            return None
        try:
            return Checkpoint.verified(kept, key)
        except NotVerified as error:
            raise Refused(6, "history", f"of the checkpoint you kept: {error}") from error

    def _history(self, earlier: Checkpoint, checkpoint: Checkpoint, root: bytes | None) -> None:
        if earlier.size > checkpoint.size:
            why = f"you kept a checkpoint of {earlier.size} entries, and only {checkpoint.size} are signed now"
            raise Refused(6, "history", why)
        if root != earlier.root:
            why = f"its first {earlier.size} entries are not those whose checkpoint you kept: it is another log"
            raise Refused(6, "history", why)
        self._held(6, "history", f"It begins with the {earlier.size} entries whose checkpoint you kept.")

    def _held(self, number: int, name: str, told: str) -> None:
        self._tell(Step(number, name, told))


class _Log:
    """The entries seen so far."""

    def __init__(self, tenant: str, earlier_size: int) -> None:
        self.tenant = tenant
        self.frontier = Frontier()
        self.pruned = 0
        self.earlier_root = self.frontier.root() if earlier_size == 0 else None
        self._earlier_size = earlier_size
        self._seen: set[str] = set()

    def add(self, leaf: Leaf) -> None:
        """One more, in its order."""
        index = self.frontier.size
        if isinstance(leaf, Pruned):
            if len(leaf.leaf_hash) != HASH_BYTES:
                raise Refused(3, "entries", f"of entry {index} there is neither content nor hash")
            self.pruned += 1
            hashed = leaf.leaf_hash
        else:
            self._read(index, leaf)
            hashed = leaf_hash(leaf)
        self.frontier.append(hashed)
        self.frontier.completed.clear()
        if self.frontier.size == self._earlier_size:
            self.earlier_root = self.frontier.root()

    def _read(self, index: int, leaf: bytes) -> None:
        try:
            value = entry.read_leaf(leaf)
        except NotCanonical as error:
            raise Refused(3, "entries", f"entry {index} {error}") from error
        if value["tenant"] != self.tenant:
            raise Refused(3, "entries", f"entry {index} is of another tenant, {value['tenant']}")
        if value["id"] in self._seen:
            raise Refused(3, "entries", f"entry {index} is there a second time: {value['id']}")
        self._seen.add(value["id"])
