"""Proofs of entries and of growth, at every size and of a log that was spoilt."""

import random
from dataclasses import replace

import pytest

from causeloop_common import ids
from causeloop_common.contracts.announced import Announced
from causeloop_common.contracts.audit import GetConsistency, GetEventProof
from causeloop_common.errors import Conflict, InvalidInput, NotFound
from causeloop_log.tlog import merkle
from causeloop_log.tlog.merkle import EMPTY_ROOT, Frontier, leaf_hash
from causeloop_log.tlog.note import VerifierKey
from causeloop_log.tlog.proof import LogProof
from tests.support.witnessed import Witnessed, tree


class TestGetEventProof:
    async def test_verifies_at_every_size_around_stored_nodes(self, witnessed: Witnessed, key: VerifierKey) -> None:
        events: list[Announced] = []
        for size in (*range(1, 18), 255, 256, 257, 300, 511, 512, 513, 600):
            events += await witnessed.grow(size - len(events))
            leaves = await witnessed.hashes()
            for index in {0, size // 2, max(0, size - 2), size - 1, min(255, size - 1), min(256, size - 1)}:
                shown = await witnessed.proof(events[index])
                proof = LogProof.parse(shown.tlog_proof)
                checkpoint = proof.verified(key, leaves[index])
                assert index < checkpoint.size <= size
                assert proof.leaf is not None
                assert (proof.index, leaf_hash(proof.leaf)) == (index, leaves[index])
                assert checkpoint.root == tree(leaves[: checkpoint.size]).root()

    async def test_of_an_entry_younger_than_the_last_checkpoint_has_a_new_one_signed(
        self, witnessed: Witnessed
    ) -> None:
        (old,) = await witnessed.grow(1)
        assert (await witnessed.proof(old)).size == 1
        *_, young = await witnessed.grow(3)
        assert (await witnessed.proof(old)).size == 1
        assert (await witnessed.proof(young)).size == 4

    async def test_of_an_old_entry_needs_no_vault(self, witnessed: Witnessed) -> None:
        (old,) = await witnessed.grow(1)
        proven = await witnessed.proof(old)
        assert await witnessed.away.get_event_proof(witnessed.ctx, GetEventProof(id=old.id)) == proven

    async def test_of_a_pruned_entry_still_verifies(self, witnessed: Witnessed, key: VerifierKey) -> None:
        first, _ = await witnessed.grow(2)
        await witnessed.superuser.execute(
            "UPDATE audit.entries SET leaf = NULL WHERE workspace_id = $1 AND index = 0", witnessed.ctx.tenant_uuid
        )
        shown = await witnessed.proof(first)
        assert shown.leaf is None
        LogProof.parse(shown.tlog_proof).verified(key, bytes.fromhex(shown.leaf_hash))

    async def test_another_tenant_finds_nothing(self, witnessed: Witnessed) -> None:
        (one,) = await witnessed.grow(1)
        with pytest.raises(NotFound, match="no such event in this workspace's log"):
            await witnessed.checkpoints.get_event_proof(
                replace(witnessed.ctx, tenant=ids.new("ws")), GetEventProof(id=one.id)
            )

    async def test_refuses_a_log_that_lost_what_was_signed(self, witnessed: Witnessed) -> None:
        first, *_ = await witnessed.grow(9)
        await witnessed.checkpoint()
        await witnessed.cut(7)
        with pytest.raises(Conflict, match="entries or nodes of it are missing"):
            await witnessed.proof(first)


class TestGetConsistency:
    async def test_holds_between_any_two_sizes(self, witnessed: Witnessed) -> None:
        await witnessed.grow(600)
        frontier, roots = Frontier(), [EMPTY_ROOT]
        for leaf in await witnessed.hashes():
            frontier.append(leaf)
            roots.append(frontier.root())
        chance = random.Random(6962)
        sizes = [(0, 0), (0, 600), (600, 600), (255, 256), (256, 257), (256, 512), (511, 513)]
        sizes += [(min(pair), max(pair)) for pair in (chance.sample(range(601), 2) for _ in range(100))]
        for old, new in sizes:
            shown = await witnessed.checkpoints.get_consistency(
                witnessed.ctx, GetConsistency.model_validate({"from": old, "to": new})
            )
            path = [bytes.fromhex(sibling) for sibling in shown.path]
            merkle.verify_consistency(old, roots[old], new, roots[new], path)

    @pytest.mark.parametrize(
        ("sizes", "field", "why"),
        [
            ({"from": 0, "to": 4}, "to", "is more than the log has: 3 entries"),
            ({"from": 2, "to": 1}, "from", "is more than 'to', which is 1"),
            ({"from": 4}, "from", "is more than 'to', which is 3"),
        ],
    )
    async def test_refuses_sizes_by_name(
        self, witnessed: Witnessed, sizes: dict[str, int], field: str, why: str
    ) -> None:
        await witnessed.grow(3)
        with pytest.raises(InvalidInput) as refused:
            await witnessed.checkpoints.get_consistency(witnessed.ctx, GetConsistency.model_validate(sizes))
        assert refused.value.fields == {field: [why]}
