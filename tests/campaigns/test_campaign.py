"""The campaign of `make chaos`, short: everybody killed once, and every promise held."""

from collections.abc import Callable
from pathlib import Path

import pytest

from causeloop_cli.embedded import Janitor
from chaos.campaign import TARGETS, Campaign, Limits
from tests.support.stack import Stack

pytestmark = [pytest.mark.chaos, pytest.mark.campaign]


class TestACampaign:
    async def test_of_one_kill_each_breaks_no_promise(
        self, janitor: Janitor, tmp_path: Path, tell: Callable[[str], None]
    ) -> None:
        stack = Stack(tmp_path, janitor)
        campaign = Campaign(stack, seed=1, kills=len(TARGETS), limits=Limits(slack=3), say=tell)
        try:
            await stack.start_all()
            await campaign.run()
        finally:
            await stack.stop_all()
        assert campaign.model.broken == []
        report = campaign.report()
        assert set(report["targets"]) == set(TARGETS)
        assert report["acts"] > 50
        assert report["answers"]["503"] > 0
        tell(f"chaos: {report['kills']} kills, {report['acts']} acts acknowledged; answers: {report['answers']}")
