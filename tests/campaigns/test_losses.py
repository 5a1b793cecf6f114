"""Short forms of `python -m chaos.receipts`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from causeloop_cli.embedded import Janitor
from chaos.receipts.__main__ import figures, run
from chaos.receipts.campaign import Plan

pytestmark = [pytest.mark.chaos, pytest.mark.campaign]


class TestACampaign:
    async def test_loses_nothing(self, janitor: Janitor, tmp_path: Path, tell: Callable[[str], None]) -> None:
        """P1, P3, E15: cut wires, a thief of ids and a purged stream cost no act its entry."""
        campaign = await run(tmp_path, janitor, Plan(seed=2, acts=400, seconds=15))
        tell(figures(campaign))
        assert campaign.found.is_whole()
        assert campaign.holds

    async def test_enters_again_what_a_restore_of_audit_lost(
        self, janitor: Janitor, tmp_path: Path, tell: Callable[[str], None]
    ) -> None:
        """P6: each act has one entry again, and each log continues what was signed of it before the restore."""
        campaign = await run(tmp_path, janitor, Plan(seed=2, acts=200, seconds=8, strikes=frozenset({"restore"})))
        tell(figures(campaign))
        assert campaign.logs["continued"] == sum(campaign.logs.values()) > 0
        assert campaign.holds

    async def test_has_every_entry_though_the_stream_was_purged_before_the_restore(
        self, janitor: Janitor, tmp_path: Path, tell: Callable[[str], None]
    ) -> None:
        """P6: the outboxes have what the stream lost; a log that is in another order by that is counted."""
        strikes = frozenset({"purge", "restore"})
        campaign = await run(tmp_path, janitor, Plan(seed=2, acts=400, seconds=15, strikes=strikes))
        tell(figures(campaign))
        assert sum(campaign.logs.values()) > 0
        assert campaign.notes["republished"] > 0
        assert campaign.holds

    async def test_finds_losses_without_receipts(
        self, janitor: Janitor, tmp_path: Path, tell: Callable[[str], None]
    ) -> None:
        plan = Plan(seed=2, acts=200, seconds=8, strikes=frozenset({"purge"}), receipts=False, patience=8)
        campaign = await run(tmp_path, janitor, plan)
        tell(figures(campaign))
        assert campaign.found.lost


class TestALateIntake:
    async def test_causes_no_repeated_publication(
        self, janitor: Janitor, tmp_path: Path, tell: Callable[[str], None]
    ) -> None:
        """P1: an event that waits for its entry is not missing."""
        campaign = await run(tmp_path, janitor, Plan(seed=1, acts=200, seconds=8, lag=7))
        tell(figures(campaign))
        assert campaign.wire.tally["pull", "dropped"] > 0
        assert campaign.notes["republished"] == 0
        assert campaign.holds
