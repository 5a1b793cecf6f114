"""A short form of `python -m chaos.leaders`: leaders of three replicas are killed, and stopped and woken."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from causeloop_cli.embedded import Janitor
from chaos.leaders import Fire
from tests.support.stack import Stack

pytestmark = [pytest.mark.chaos, pytest.mark.campaign]


async def test_one_leads_at_a_time_whichever_is_killed_or_stopped(
    janitor: Janitor, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    stack = Stack(tmp_path, janitor)
    fire = Fire(stack, janitor, tell, random.Random(7), stop_seconds=4.0)
    try:
        await stack.start_all()
        tell(await fire.run(kills=2, stops=2))
    finally:
        await stack.stop_all()
