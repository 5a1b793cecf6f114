"""Verification of a log, a checkpoint or a single entry, step by step, trusting only a key.

A log, as an export or read from the gateway:

    1 key           the key is the one you pinned
    2 checkpoint    this key signed this checkpoint, of this log
    3 entries       every entry is of this log, in its one written form, and there once
    4 completeness  there are as many entries as the checkpoint counts
    5 root          the entries hash to the checkpoint's root (RFC 6962)
    6 history       the log begins with the one whose checkpoint you kept

A checkpoint alone:

    1, 2            the same
    3 history       it does not contradict the checkpoint you kept

The proof of one entry:

    1, 2            the same
    3 entry         the entry is of this log, in its one written form
    4 inclusion     its hash leads to the checkpoint's root

The first step that does not hold ends the verification: `Refused` has its number and the reason. `Verdict.shown` is
what has been shown when all hold. No step can show that an entry is true, or that everything that happened was entered.

A log that could not continue what was signed of it is in a later epoch, under another name, and its key is of that name
alone. The verdict names the epoch, and the end of the one before, as the entry about it has it.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from causeloop_log import entry
from causeloop_log.entry import Entry, NotCanonical
from causeloop_log.tlog import NotVerified
from causeloop_log.tlog.checkpoint import Checkpoint, read_origin
from causeloop_log.tlog.merkle import HASH_BYTES, Frontier, leaf_hash
from causeloop_log.tlog.note import VerifierKey
from causeloop_log.tlog.proof import LogProof


class Pruned(NamedTuple):
    """An entry whose content retention removed: only its hash is left."""

    leaf_hash: bytes


Leaf = bytes | Pruned

EPOCH_OPENED = "vault.epoch_opened"
"""The action of the entry with which an epoch begins: its data has `epoch`, `ended_size`, `ended_root`, `reason`."""


class Step(NamedTuple):
    """A step that held, and a sentence with what it found."""

    number: int
    name: str
    finding: str


class Verdict(NamedTuple):
    """The result when all steps hold: the checkpoint, the number of entries without content, and what is shown."""

    checkpoint: Checkpoint
    pruned: int
    shown: str


class Refused(Exception):
    """A step that did not hold, with the reason as half a sentence."""

    def __init__(self, number: int, name: str, why: str) -> None:
        super().__init__(f"step {number}, {name}: {why}")
        self.number = number
        self.name = name
        self.why = why


class Verification:
    """The steps in their order. `held` is called with each step that held, before the next begins.

    A log with entries of which only the hash is left is refused, unless `allow_withheld`: the maker of a file can
    withhold any of them.
    """

    def __init__(self, held: Callable[[Step], None], *, allow_withheld: bool = False) -> None:
        self._report = held
        self._allows_withheld = allow_withheld

    def log(
        self, claimed_key: str, pinned: str | None, signed: str, leaves: Iterable[Leaf], kept: str | None = None
    ) -> Verdict:
        """Verify a whole log. `claimed_key` came with it, `kept` is a checkpoint of it from an earlier verification.

        Without a pinned key the claimed one is taken, which shows only that the log agrees with itself.
        """
        key = self._key(claimed_key, pinned)
        checkpoint = self._checkpoint(signed, key)
        earlier = None if kept is None else self._kept(6, kept, key)
        log = _Log(checkpoint, earlier.size if earlier else 0)
        for leaf in leaves:
            log.add(leaf)

        if log.pruned and not self._allows_withheld:
            why = f"of {log.pruned} of {log.frontier.size} entries only the hash is left: --allow-withheld accepts that"
            raise Refused(3, "entries", why)
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
        return Verdict(checkpoint, log.pruned, _shown(log.pruned) + log.ended())

    def checkpoint(self, pinned: str, signed: str, kept: str | None = None) -> Verdict:
        """Verify a checkpoint alone, and against one from an earlier verification."""
        key = self._key(None, pinned)
        checkpoint = self._checkpoint(signed, key)
        if kept is None:
            return Verdict(checkpoint, 0, "Shown: the log's key signed this checkpoint. Not shown: any entry of it.")
        earlier = self._kept(3, kept, key)
        if earlier.size > checkpoint.size:
            raise Refused(3, "history", _shrunk(earlier, checkpoint))
        if earlier.size == checkpoint.size and earlier.root != checkpoint.root:
            raise Refused(3, "history", f"the key signed two different logs of {checkpoint.size} entries")
        grown = checkpoint.size - earlier.size
        self._held(3, "history", f"{grown} entries more than the one you kept." if grown else "It is the one you kept.")
        shown = "Shown: the log's key signed this checkpoint, and it does not contradict the one you kept."
        unshown = " Not shown: that the log begins with those entries. An export shows it." if grown else ""
        return Verdict(checkpoint, 0, shown + unshown)

    def proof(self, pinned: str | None, text: str) -> Verdict:
        """Verify the proof of one entry, which has the entry in it."""
        if pinned is None:
            raise Refused(1, "key", "a proof has no key in it: give the log's with --key")
        key = self._key(None, pinned)
        try:
            proof = LogProof.parse(text)
        except NotVerified as error:
            raise Refused(2, "checkpoint", str(error)) from error
        checkpoint = self._checkpoint(proof.checkpoint, key)
        if proof.leaf is None:
            raise Refused(3, "entry", "the file has no entry in it, only its place")
        found = _Log(checkpoint, 0).read(3, "entry", "the entry", proof.leaf)
        self._held(3, "entry", f"{found.summary} at {found.time}.")
        try:
            proof.verified(key, leaf_hash(proof.leaf))
        except NotVerified as error:
            raise Refused(4, "inclusion", str(error)) from error
        self._held(4, "inclusion", f"Its index is {proof.index}, in a log of {checkpoint.size} entries.")
        shown = "Shown: this entry is in that log, at that place. Not shown: that it is true."
        return Verdict(checkpoint, 0, shown)

    def _key(self, claimed: str | None, pinned: str | None) -> VerifierKey:
        try:
            key = VerifierKey.parse(pinned if pinned is not None else claimed or "")
            if pinned is not None and claimed is not None and VerifierKey.parse(claimed) != key:
                raise NotVerified(_another_key(VerifierKey.parse(claimed), key, claimed))
        except NotVerified as error:
            raise Refused(1, "key", str(error)) from error
        origin = (
            "the one you pinned" if pinned is not None else "SELF-ASSERTED, it came with the log: pin it with --key"
        )
        self._held(1, "key", f"{key.name}+{key.id.hex()}, {origin}.")
        return key

    def _checkpoint(self, signed: str, key: VerifierKey) -> Checkpoint:
        try:
            checkpoint = Checkpoint.verified(signed, key)
        except NotVerified as error:
            raise Refused(2, "checkpoint", str(error)) from error
        self._held(2, "checkpoint", f"Signed by this key: {checkpoint.size} entries of {checkpoint.origin}.")
        return checkpoint

    def _kept(self, step: int, kept: str, key: VerifierKey) -> Checkpoint:
        try:
            return Checkpoint.verified(kept, key)
        except NotVerified as error:
            name, now = kept.partition("\n")[0], read_origin(key.name).epoch
            if _is_of_one_log(name, key.name) and (epoch := read_origin(name).epoch) != now:
                why = (
                    f"it is of epoch {epoch} of the log, and this is epoch {now}, which begins anew: keep it elsewhere"
                )
                raise Refused(step, "history", f"of the checkpoint you kept: {why}") from error
            raise Refused(step, "history", f"of the checkpoint you kept: {error}") from error

    def _history(self, earlier: Checkpoint, checkpoint: Checkpoint, root: bytes | None) -> None:
        if earlier.size > checkpoint.size:
            raise Refused(6, "history", _shrunk(earlier, checkpoint))
        if root != earlier.root:
            why = f"its first {earlier.size} entries are not those whose checkpoint you kept: it is another log"
            raise Refused(6, "history", why)
        self._held(6, "history", f"It begins with the {earlier.size} entries whose checkpoint you kept.")

    def _held(self, number: int, name: str, finding: str) -> None:
        self._report(Step(number, name, finding))


class _Log:
    """The log that a checkpoint is of, as far as its entries have been read."""

    def __init__(self, checkpoint: Checkpoint, earlier_size: int) -> None:
        self.tenant, self._epoch = read_origin(checkpoint.origin)[1:]
        self._end = ""
        self.frontier = Frontier()
        self.pruned = 0
        self.earlier_root = self.frontier.root() if earlier_size == 0 else None
        self._earlier_size = earlier_size
        self._seen: set[tuple[str, ...]] = set()

    def add(self, leaf: Leaf) -> None:
        """One more entry, in the log's order."""
        index = self.frontier.size
        if isinstance(leaf, Pruned):
            if len(leaf.leaf_hash) != HASH_BYTES:
                raise Refused(3, "entries", f"entry {index} has neither content nor hash")
            self.pruned += 1
            hashed = leaf.leaf_hash
        else:
            found = self.read(3, "entries", f"entry {index}", leaf)
            if found.identity in self._seen:
                raise Refused(3, "entries", f"entry {index} is there a second time: {found.id}")
            self._seen.add(found.identity)
            if found.action == EPOCH_OPENED and found.data.get("epoch") == self._epoch:
                self._end = _ended(index, found)
            hashed = leaf_hash(leaf)
        self.frontier.append(hashed)
        self.frontier.completed.clear()
        if self.frontier.size == self._earlier_size:
            self.earlier_root = self.frontier.root()

    def ended(self) -> str:
        """Of a later epoch than the first, a sentence with the end of the one before."""
        if self._epoch == 1:
            return ""
        end = self._end or "The entry about its beginning is not among these."
        return f"\nThis is epoch {self._epoch} of the log, which could not continue what was signed before. {end}"

    def read(self, step: int, name: str, which: str, leaf: bytes) -> Entry:
        """An entry of this log; Refused at this step when the leaf is none."""
        try:
            found = entry.read(leaf)
        except NotCanonical as error:
            raise Refused(step, name, f"{which} {error}") from error
        if found.tenant != self.tenant:
            raise Refused(step, name, f"{which} is of another tenant, {found.tenant}")
        return found


def _ended(index: int, opened: Entry) -> str:
    size, root, reason = (opened.data.get(name) for name in ("ended_size", "ended_root", "reason"))
    return f"By entry {index} the one before ended at {size} entries, with the root {root}: {reason}"


def _is_of_one_log(one: str, other: str) -> bool:
    return read_origin(one)[:2] == read_origin(other)[:2]


def _another_key(claimed: VerifierKey, pinned: VerifierKey, text: str) -> str:
    """The reason against a key that is not the pinned one."""
    if claimed.public == pinned.public and _is_of_one_log(claimed.name, pinned.name):
        now, then = read_origin(claimed.name).epoch, read_origin(pinned.name).epoch
        return (
            f"it is of epoch {now} of the log, and you pinned that of epoch {then}: a log that cannot continue what "
            "was signed of it begins anew. Ask its owner why before you pin the other key"
        )
    return f"it is not the one you pinned: {text.strip()}"


def _shown(pruned: int) -> str:
    if pruned:
        return (
            "Shown: these entries, in this order, none changed, and that the log has no others. "
            f"Not shown: what the {pruned} removed entries were, and that each of the others is true."
        )
    return "Shown: these entries, in this order, none changed and none missing. Not shown: that each is true."


def _shrunk(earlier: Checkpoint, checkpoint: Checkpoint) -> str:
    return f"you kept a checkpoint of {earlier.size} entries, and only {checkpoint.size} are signed now"
