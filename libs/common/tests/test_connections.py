"""The connections of a database: never too many, and nobody waits for ever."""

import asyncio

import pytest

from causeloop_common.database import Connections


class _Fake:
    """A connection that only opens and closes."""

    def __init__(self) -> None:
        self.closed = False

    def is_closed(self) -> bool:
        return self.closed

    async def close(self, timeout: float) -> None:
        self.closed = True


class TestConnections:
    @staticmethod
    def pool(size: int) -> tuple[Connections, list[_Fake]]:
        made: list[_Fake] = []

        async def connect() -> _Fake:
            await asyncio.sleep(0)
            made.append(_Fake())
            return made[-1]

        return Connections(size, connect), made

    async def test_never_more_than_its_size(self) -> None:
        connections, made = self.pool(3)
        used = most = 0

        async def use() -> None:
            nonlocal used, most
            connection = await connections.acquire()
            used += 1
            most = max(most, used)
            await asyncio.sleep(0)
            used -= 1
            connections.release(connection)

        await asyncio.gather(*(use() for _ in range(50)))
        assert (most, len(made)) == (3, 3)

    async def test_the_last_used_goes_first(self) -> None:
        connections, _ = self.pool(2)
        one, two = await connections.acquire(), await connections.acquire()
        connections.release(one)
        connections.release(two)

        assert await connections.acquire() is two

    async def test_a_closed_one_is_replaced(self) -> None:
        connections, made = self.pool(1)
        first = await connections.acquire()
        first.closed = True
        connections.release(first)
        second = await connections.acquire()
        connections.release(second)
        second.closed = True  # while idle

        third = await connections.acquire()
        assert len({id(one) for one in (first, second, third)}) == len(made) == 3

    async def test_one_who_gave_up_waiting_takes_nobodys_turn(self) -> None:
        connections, _ = self.pool(1)
        held = await connections.acquire()
        waiting = [asyncio.create_task(connections.acquire()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        connections.release(held)
        waiting[1].cancel()  # its turn had come

        assert await asyncio.wait_for(waiting[2], timeout=1) is held

    async def test_a_failure_to_connect_leaves_room_for_the_next(self) -> None:
        tries = 0

        async def connect() -> _Fake:
            nonlocal tries
            tries += 1
            if tries == 1:
                await asyncio.sleep(0)
                raise OSError("refused")
            return _Fake()

        connections = Connections(1, connect)
        first, second = asyncio.create_task(connections.acquire()), asyncio.create_task(connections.acquire())

        with pytest.raises(OSError, match="refused"):
            await first
        assert isinstance(await asyncio.wait_for(second, timeout=1), _Fake)

    async def test_closing_waits_for_those_in_use(self) -> None:
        connections, _ = self.pool(1)
        held = await connections.acquire()
        closing = asyncio.create_task(connections.close(5))
        await asyncio.sleep(0)
        assert not held.closed
        connections.release(held)
        await closing

        assert held.closed
