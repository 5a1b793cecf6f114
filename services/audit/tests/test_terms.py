"""The terms of the intakes: none is forgotten in a way that hides a restore, and they are bounded."""

import asyncio

import asyncpg
import orjson

from causeloop_audit import app
from causeloop_audit.domain.terms import MOST, Terms, new_term, with_term
from causeloop_dev.testing import Servers


def test_are_bounded_and_keep_the_lowest_batch() -> None:
    terms: Terms = []
    for number in range(100):
        terms = with_term(terms, f"{number:03}", 1000 - number if number < 50 else 2000 + number)
    assert len(terms) == MOST
    assert terms[0] == ("068", 951)
    assert terms[-1] == ("099", 2099)


def test_one_in_which_nothing_was_committed_is_replaced() -> None:
    assert with_term([("2" * 32, 5)], "1" * 32, 6)[-1] == ("2" * 31 + "3", 6)  # of a clock that is behind
    assert with_term([("1", 5), ("2", 7)], "3", 7) == [("1", 5), ("3", 7)]


async def test_of_each_lead_is_kept_in_the_database(servers: Servers, superuser: asyncpg.Connection) -> None:
    before = new_term()
    application = app.create(servers.environ["audit"])
    await application.start()
    try:
        async with asyncio.timeout(20):
            while True:
                row = await superuser.fetchrow("SELECT batch, terms FROM audit.intake")
                assert row is not None
                if (terms := orjson.loads(row["terms"])) and terms[-1][0] > before:
                    break
                await asyncio.sleep(0.02)
        assert terms[-1][1] <= row["batch"]
    finally:
        await application.stop()
