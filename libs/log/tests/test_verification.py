"""The steps: a log that holds passes all of them, a bent one is refused, by the step that should refuse it."""

import dataclasses
import io
import json
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from causeloop_log import export_file
from causeloop_log.entry import v1
from causeloop_log.export_file import Head
from causeloop_log.tlog import merkle
from causeloop_log.tlog.checkpoint import Checkpoint
from causeloop_log.tlog.merkle import Frontier, Span, leaf_hash
from causeloop_log.tlog.note import VerifierKey
from causeloop_log.tlog.proof import LogProof
from causeloop_log.verification import EPOCH_OPENED, Leaf, Pruned, Refused, Step, Verification

TENANT = "ws_01h455vb4pex5vsknk084sn02r"
OTHER = "ws_01h455vb4pex5vsknk084sn02s"
ORIGIN = f"causeloop.example/log/{TENANT}"
PRIVATE = Ed25519PrivateKey.generate()
KEY = str(VerifierKey(ORIGIN, PRIVATE.public_key().public_bytes_raw()))


def leaf(number: int, tenant: str = TENANT, event: str | None = None, action: str = "vault.secret_written") -> bytes:
    fields = v1.Fields(
        id=event or f"evt_{number}", tenant=tenant, action=action,
        actor="usr_x", credential=None, target=f"sec_{number}", occurred_at=datetime(2026, 1, 2, tzinfo=UTC),
        request_id="req_x", data={"version": number},
    )  # fmt: skip
    return v1.leaf(fields, bytes([number % 256]) * 16)


LEAVES: list[Leaf] = [leaf(number) for number in range(11)]


def root_of(leaves: list[Leaf]) -> bytes:
    frontier = Frontier()
    for one in leaves:
        frontier.append(one.leaf_hash if isinstance(one, Pruned) else leaf_hash(one))
    return frontier.root()


def signed(leaves: list[Leaf], private: Ed25519PrivateKey = PRIVATE, origin: str = ORIGIN) -> str:
    return Checkpoint(origin, len(leaves), root_of(leaves)).sign(private)


def verify(
    leaves: list[Leaf],
    note: str,
    *,
    key: str = KEY,
    pinned: str | None = KEY,
    kept: str | None = None,
    allow_withheld: bool = False,
) -> list[Step]:
    steps: list[Step] = []
    Verification(steps.append, allow_withheld=allow_withheld).log(key, pinned, note, leaves, kept)
    return steps


def refused(step: int, why: str, leaves: list[Leaf], note: str, **given: str | None) -> None:
    with pytest.raises(Refused, match=why) as refusal:
        verify(leaves, note, **given)  # type: ignore[arg-type]
    assert refusal.value.number == step


class TestALog:
    def test_that_is_what_was_signed_holds_in_five_steps(self) -> None:
        steps = verify(LEAVES, signed(LEAVES))
        assert [(step.number, step.name) for step in steps] == [
            (1, "key"), (2, "checkpoint"), (3, "entries"), (4, "completeness"), (5, "root"),
        ]  # fmt: skip
        assert "the one you pinned" in steps[0].finding

    def test_without_a_pinned_key_says_that_the_key_came_with_the_log(self) -> None:
        assert "SELF-ASSERTED" in verify(LEAVES, signed(LEAVES), pinned=None)[0].finding

    def test_of_nothing_holds(self) -> None:
        verify([], signed([]))

    def test_whose_entries_were_pruned_still_holds(self) -> None:
        pruned: list[Leaf] = [Pruned(leaf_hash(one)) if n % 2 else one for n, one in enumerate(LEAVES)]  # type: ignore[arg-type]
        assert "of 5 only the hash is left" in verify(pruned, signed(LEAVES), allow_withheld=True)[2].finding
        refused(3, "of 5 of 11 entries only the hash is left: --allow-withheld accepts", pruned, signed(LEAVES))

    def test_with_any_byte_of_any_entry_flipped_is_refused(self) -> None:
        note = signed(LEAVES[:3])
        for number, one in enumerate(LEAVES[:3]):
            assert isinstance(one, bytes)
            for at in range(len(one)):
                bent = one[:at] + bytes([one[at] ^ 1]) + one[at + 1 :]
                with pytest.raises(Refused) as refusal:
                    verify([*LEAVES[:number], bent, *LEAVES[number + 1 : 3]], note)
                assert refusal.value.number in (3, 5), refusal.value

    def test_with_any_byte_of_the_checkpoint_flipped_is_refused_by_its_step(self) -> None:
        note = signed(LEAVES).encode()
        for at in range(len(note)):
            bent = (note[:at] + bytes([note[at] ^ 1]) + note[at + 1 :]).decode(errors="replace")
            refused(2, "checkpoint", LEAVES, bent)

    def test_that_lost_its_tail_is_refused_by_completeness(self) -> None:
        for size in range(11):
            refused(4, f"there are {size} entries, and 11 were signed", LEAVES[:size], signed(LEAVES))

    def test_with_an_entry_more_is_refused_by_completeness(self) -> None:
        refused(4, "there are 12 entries, and 11 were signed", [*LEAVES, leaf(99)], signed(LEAVES))

    def test_with_an_entry_left_out_and_one_put_in_is_refused_by_the_root(self) -> None:
        refused(5, "hash to another root", [*LEAVES[:4], leaf(99), *LEAVES[5:]], signed(LEAVES))

    def test_in_another_order_is_refused_by_the_root(self) -> None:
        refused(5, "hash to another root", LEAVES[::-1], signed(LEAVES))

    @pytest.mark.parametrize(
        ("bent", "why"),
        [
            (leaf(3, tenant=OTHER), "is of another tenant"),
            (LEAVES[0], "is there a second time"),
            (b"{}", "is not an entry of version 1"),
            (b"not json", "is not JSON"),
            (LEAVES[3].replace(b'"v":1', b'"v":2'), "breaks rule 3 of version 2"),  # type: ignore[union-attr]
            (LEAVES[3].replace(b'{"action"', b'{ "action"'), "written in another than its one form"),  # type: ignore[union-attr]
            (Pruned(b"short"), "has neither content nor hash"),
        ],
        ids=range(7),
    )
    def test_with_what_is_no_entry_of_it_is_refused_by_its_entries(self, bent: Leaf, why: str) -> None:
        leaves = [*LEAVES[:3], bent, *LEAVES[4:]]
        refused(3, f"entry 3 {why}|{why}", leaves, signed(LEAVES))

    def test_with_one_id_of_two_services_holds(self) -> None:
        """P3: a service that uses the id of another's event keeps nobody from verifying the log."""
        leaves = [*LEAVES, leaf(11, event="evt_3", action="gateway.access_denied")]
        Verification(lambda _: None).log(KEY, KEY, signed(leaves), leaves)

    def test_of_another_tenant_is_refused_though_the_same_key_signed_it(self) -> None:
        other = f"causeloop.example/log/{OTHER}"
        refused(2, "not signed by the key", LEAVES, signed(LEAVES, origin=other))

    def test_signed_by_somebody_else_is_refused_by_the_pinned_key(self) -> None:
        forger = Ed25519PrivateKey.generate()
        theirs = str(VerifierKey(ORIGIN, forger.public_key().public_bytes_raw()))
        refused(1, "not the one you pinned", LEAVES, signed(LEAVES, forger), key=theirs)
        refused(2, "not signed by the key", LEAVES, signed(LEAVES, forger))
        verify(LEAVES, signed(LEAVES, forger), key=theirs, pinned=None)  # which is why keys are pinned

    def test_with_a_key_that_is_none_is_refused(self) -> None:
        refused(1, "not of the form", LEAVES, signed(LEAVES), pinned="nothing")


class TestIds:
    """A service may announce under the id of another one's event: the log has both, and goes on to verify."""

    @pytest.mark.parametrize("action", ["gateway.access_denied", "audit.malformed"])
    def test_of_two_services_may_be_alike(self, action: str) -> None:
        """P3: a stranger who reuses an id does not make the log of a tenant one that is refused for ever."""
        other = leaf(3, event="evt_0", action=action)
        verify([LEAVES[0], other], signed([LEAVES[0], other]))

    def test_that_were_claimed_by_what_could_not_be_read_may_be_alike(self) -> None:
        """P3: neither does one who sends what cannot be read."""
        two: list[Leaf] = [leaf(number, event="evt_0", action="audit.malformed") for number in range(2)]
        verify(two, signed(two))

    def test_of_one_service_are_there_once(self) -> None:
        again = leaf(3, event="evt_0", action="vault.secret_revealed")
        refused(3, "entry 1 is there a second time", [LEAVES[0], again], signed([LEAVES[0], again]))


class TestTheHistory:
    def test_holds_while_the_log_grows(self) -> None:
        for size in range(12):
            finding = verify(LEAVES, signed(LEAVES), kept=signed(LEAVES[:size]))[-1].finding
            assert f"begins with the {size} entries" in finding

    def test_of_a_restored_older_log_is_refused(self) -> None:
        refused(6, "kept a checkpoint of 11 entries, and only 7", LEAVES[:7], signed(LEAVES[:7]), kept=signed(LEAVES))

    def test_of_a_forked_log_is_refused_though_its_own_key_signed_both(self) -> None:
        forked: list[Leaf] = [*LEAVES[:4], leaf(99), *LEAVES[5:]]
        verify(forked, signed(forked))
        refused(6, "it is another log", forked, signed(forked), kept=signed(LEAVES[:5]))
        refused(6, "it is another log", forked, signed(forked), kept=signed(LEAVES))

    def test_needs_a_kept_checkpoint_of_this_log(self) -> None:
        refused(6, "of the checkpoint you kept", LEAVES, signed(LEAVES), kept="nothing")


class TestAProof:
    def proof(self, index: int = 4, note: str | None = None) -> LogProof:
        hashes = [leaf_hash(one) for one in LEAVES if isinstance(one, bytes)]

        def root(span: Span) -> bytes:
            frontier = Frontier()
            for hashed in hashes[span.first : span.last]:
                frontier.append(hashed)
            return frontier.root()

        found = LEAVES[index]
        assert isinstance(found, bytes)
        path = [root(span) for span in merkle.inclusion_spans(index, 11)]
        return LogProof(index, path, note or signed(LEAVES), found)

    def refused(self, step: int, why: str, text: str, pinned: str | None = KEY) -> None:
        with pytest.raises(Refused, match=why) as refusal:
            Verification(lambda _: None).proof(pinned, text)
        assert refusal.value.number == step

    def test_of_every_entry_holds_in_four_steps(self) -> None:
        for index in range(11):
            steps: list[Step] = []
            Verification(steps.append).proof(KEY, str(self.proof(index)))
            assert [step.name for step in steps] == ["key", "checkpoint", "entry", "inclusion"]
            assert steps[-1].finding == f"Its index is {index}, in a log of 11 entries."

    def test_with_any_byte_flipped_is_refused(self) -> None:
        whole = str(self.proof()).encode()
        for at in range(len(whole)):
            bent = (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]).decode(errors="replace")
            with pytest.raises(Refused):
                Verification(lambda _: None).proof(KEY, bent)

    def test_needs_a_key(self) -> None:
        self.refused(1, "a proof has no key in it", str(self.proof()), pinned=None)

    def test_of_another_entry_is_refused_by_inclusion(self) -> None:
        self.refused(4, "leads to another root", str(dataclasses.replace(self.proof(), leaf=leaf(99))))
        self.refused(4, "the inclusion proof", str(dataclasses.replace(self.proof(), index=5)))

    def test_with_another_log_s_checkpoint_is_refused_by_inclusion(self) -> None:
        forked = signed([*LEAVES[:4], leaf(99), *LEAVES[5:]])
        self.refused(4, "leads to another root", str(self.proof(note=forked)))

    def test_without_its_entry_is_refused(self) -> None:
        self.refused(3, "no entry in it", str(dataclasses.replace(self.proof(), leaf=None)))


class TestAnExport:
    def export(self, leaves: list[Leaf] | None = None, head: Head | None = None) -> bytes:
        file = io.BytesIO()
        export_file.write(file, head or Head(signed(LEAVES), KEY), LEAVES if leaves is None else leaves)
        return file.getvalue()

    def verify(self, text: bytes) -> None:
        head, leaves = export_file.read(io.BytesIO(text))
        Verification(lambda _: None, allow_withheld=True).log(head.key, KEY, head.checkpoint, leaves)

    def test_is_read_as_it_is_written(self) -> None:
        pruned: list[Leaf] = [Pruned(leaf_hash(LEAVES[0])), *LEAVES[1:]]  # type: ignore[arg-type]
        for leaves in (LEAVES, pruned):
            head, read = export_file.read(io.BytesIO(self.export(leaves)))
            assert (head, list(read)) == (Head(signed(LEAVES), KEY), leaves)
            self.verify(self.export(leaves))

    def test_is_plain_ndjson(self) -> None:
        lines = self.export().splitlines()
        assert [json.loads(line)["target"] for line in lines[1:]] == [f"sec_{n}" for n in range(11)]

    def test_with_any_byte_flipped_is_refused(self) -> None:
        whole = self.export(LEAVES[:2], Head(signed(LEAVES[:2]), KEY))
        for at in range(len(whole)):
            with pytest.raises(Refused):
                self.verify(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])

    def test_cut_off_anywhere_is_refused(self) -> None:
        whole = self.export(LEAVES[:2], Head(signed(LEAVES[:2]), KEY))
        for end in range(len(whole)):
            with pytest.raises(Refused):
                self.verify(whole[:end])

    def test_with_a_line_that_never_ends_is_refused(self) -> None:
        with pytest.raises(Refused, match="too long to be an entry"):
            self.verify(self.export() + b"x" * 600_000)


class TestHostileEntries:
    @pytest.mark.parametrize(
        ("bent", "why"),
        [
            ({"id": ["evt"]}, "a field of another type"),
            ({"v": True}, "not an entry of version 1"),
            ({"credential": 1}, "a field of another type"),
            ({"data": {"n": 1.5}}, "a value of type float"),
            ({"data": {"n": 2**60}}, "an integer beyond"),
        ],
    )
    def test_a_leaf_that_no_log_writes_is_refused(self, bent: dict[str, object], why: str) -> None:
        line = json.dumps({**json.loads(leaf(0)), **bent}, separators=(",", ":"), sort_keys=True).encode()
        refused(3, why, [line], signed([line]))

    def test_a_leaf_nested_too_deep_is_refused(self) -> None:
        line = leaf(0).replace(b'{"version":0}', b'{"a":' + b"[" * 300 + b"]" * 300 + b"}")
        refused(3, "nested too deep", [line], signed([line]))

    @pytest.mark.parametrize("start", ['{"causeloop":"log-export/v1","a":', '{"pruned":'])
    def test_an_export_nested_too_deep_is_refused(self, start: str) -> None:
        head = io.BytesIO()
        export_file.write(head, Head(signed([]), KEY), [])
        before = b"" if "causeloop" in start else head.getvalue()
        with pytest.raises(Refused):
            list(export_file.read(io.BytesIO(before + start.encode() + b"[" * 100_000 + b"\n"))[1])

    def test_a_key_s_name_that_a_terminal_would_obey_is_refused(self) -> None:
        for name in ("a\x1b[31m", "a\x9b31m", "a\u202eb", "a\udcff"):
            refused(1, "cannot be printed", [], signed([]), key=f"{name}+00000000+{KEY.split('+', 2)[2]}", pinned=None)


class TestAnEpoch:
    """P6: a log that could not continue begins anew, and nobody can overlook it."""

    SECOND = f"{ORIGIN}/2"
    KEY_OF_SECOND = str(VerifierKey(SECOND, PRIVATE.public_key().public_bytes_raw()))

    def opened(self, epoch: int = 2) -> bytes:
        data = {"epoch": epoch, "ended_size": 12, "ended_root": "ab" * 32, "reason": "restored"}
        fields = v1.Fields(
            id="evt_opened", tenant=TENANT, action=EPOCH_OPENED, actor="svc_vault", credential=None, target="x",
            occurred_at=datetime(2026, 1, 2, tzinfo=UTC), request_id="req_x", data=data,
        )  # fmt: skip
        return v1.leaf(fields, bytes(16))

    def shown(self, leaves: list[Leaf]) -> str:
        steps: list[Step] = []
        note = signed(leaves, origin=self.SECOND)
        return Verification(steps.append).log(self.KEY_OF_SECOND, self.KEY_OF_SECOND, note, leaves).shown

    def test_is_named_with_the_end_of_the_one_before(self) -> None:
        """P6: the verdict has the size and root that were signed before, and the reason."""
        shown = self.shown([*LEAVES, self.opened()])
        assert "This is epoch 2 of the log" in shown
        assert f"By entry 11 the one before ended at 12 entries, with the root {'ab' * 32}: restored" in shown

    def test_whose_beginning_is_not_among_the_entries_is_named_so(self) -> None:
        assert "The entry about its beginning is not among these" in self.shown([*LEAVES, self.opened(epoch=3)])

    def test_is_refused_by_the_key_of_another_one(self) -> None:
        """P6: a pinned key is of one epoch; its owner is asked why there is another."""
        note = signed(LEAVES, origin=self.SECOND)
        why = "it is of epoch 2 of the log, and you pinned that of epoch 1"
        refused(1, why, LEAVES, note, key=self.KEY_OF_SECOND, pinned=KEY)
        refused(2, "not signed by the key", LEAVES, note)

    def test_does_not_continue_a_checkpoint_of_another_one(self) -> None:
        """P6: what was kept of the epoch before is no history of this one."""
        note, kept = signed(LEAVES, origin=self.SECOND), signed(LEAVES[:5])
        given = {"key": self.KEY_OF_SECOND, "pinned": self.KEY_OF_SECOND, "kept": kept}
        refused(6, "it is of epoch 1 of the log, and this is epoch 2", LEAVES, note, **given)
