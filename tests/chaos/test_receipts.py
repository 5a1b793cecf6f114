"""Short forms of `python -m chaos.receipts`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from causeloop_cli.embedded import Janitor
from chaos.receipts.__main__ import figures, run
from chaos.receipts.campaign import Plan

pytestmark = [pytest.mark.chaos, pytest.mark.slow]


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
