"""A house that may be broken; each test finds it whole."""

import pytest

from tests.support.stack import Person, Stack


@pytest.fixture
async def person(fragile: Stack) -> Person:
    await fragile.mend()
    return await fragile.sign_up()
