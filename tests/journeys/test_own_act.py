"""Reading one's own act in the log: the list waits for it, for a bounded time."""

import asyncio
import time

from tests.support.stack import Person, Stack, content_of, refused


class TestListEvents:
    async def test_waits_for_the_entry_of_a_request(self, stack: Stack, owner: Person) -> None:
        """F4: of twenty acts each is in the log that is read right after it."""
        for number in range(20):
            made = await owner.put("/secrets/awaited", json={"value": str(number)})
            path = f"/audit/events?limit=1&wait_for={made.headers['x-request-id']}"
            page = content_of(await owner.get(path))
            assert page["data"][0]["request_id"] == made.headers["x-request-id"]

    async def test_waits_for_an_event_by_its_id(self, stack: Stack, owner: Person) -> None:
        """F4: an event's id does as well."""
        newest = (await owner.log())[-1]
        assert content_of(await owner.get(f"/audit/events?wait_for={newest['id']}"))["data"]

    async def test_does_not_wait_for_ever_and_not_for_another_workspace(self, stack: Stack, owner: Person) -> None:
        """F4: bounded."""
        other = await stack.sign_up()
        made = await other.put("/secrets/theirs", json={"value": "x"})
        began = time.monotonic()
        waits = [owner.get(f"/audit/events?wait_for={made.headers['x-request-id']}") for _ in range(3)]
        for answer in await asyncio.gather(*waits):
            assert "came within 3 s" in refused(answer, 404, "not_found")["detail"]
        assert 2.5 < time.monotonic() - began < 5
        refused(await owner.get("/audit/events?wait_for=x"), 422, "validation_error")
