"""Two tenants full of data, for everything that is generated here."""

import pytest

from tests.isolation.tenants import Tenants, settle
from tests.support.stack import Stack


@pytest.fixture(scope="module")
async def tenants(stack: Stack) -> Tenants:
    return await settle(stack)
