"""Two tenants full of data, for everything that is generated here."""

from collections.abc import AsyncIterator

import pytest

from tests.isolation.tenants import Tenants, settle
from tests.support.stack import Stack


@pytest.fixture(scope="module")
async def tenants(stack: Stack) -> AsyncIterator[Tenants]:
    yield await settle(stack)
    async with stack.sql() as sql:
        await sql.execute("DELETE FROM audit.refused")  # logs that were planted as refused: audit would not be ready
