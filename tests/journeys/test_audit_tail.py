"""`causeloop audit tail` against the whole house, as a process of its own."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from causeloop_client.calls import CreatedApiToken
from tests.support.log import stored_log
from tests.support.stack import Person, Stack, content_of, until

pytestmark = pytest.mark.slow


class Tail:
    """The command, and what it printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.errors = ""

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().removesuffix("\n"))

    async def printed(self, count: int) -> list[str]:
        async def enough() -> bool:
            return len(self.lines) >= count

        await until(f"{count} lines were printed", enough, seconds=20)
        return self.lines

    async def ended(self) -> tuple[int, str]:
        """How it ended, and what it printed about that."""
        assert self.process.stderr is not None
        async with asyncio.timeout(10):
            shown = await self.process.stderr.read()
            return await self.process.wait(), shown.decode()


@asynccontextmanager
async def tail(stack: Stack, token: str, *options: str) -> AsyncIterator[Tail]:
    command = ["-m", "causeloop_cli", "audit", "tail", "--url", f"http://127.0.0.1:{stack.port}"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, *options,
        env={**os.environ, "CAUSELOOP_TOKEN": token}, limit=1 << 20,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    running = Tail(process)
    reading = asyncio.create_task(running.read())
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


@pytest.fixture
async def token(owner: Person) -> CreatedApiToken:
    made = await owner.personal_token("audit:stream")
    await owner.log(least=4)
    return made


class TestAuditTail:
    async def test_prints_a_line_an_entry_and_ends_well_on_ctrl_c(
        self, stack: Stack, owner: Person, token: CreatedApiToken
    ) -> None:
        async with tail(stack, token["token"], "--from", "0") as running:
            lines = await running.printed(4)
            content_of(await owner.put("/secrets/tailed", json={"value": "v"}))
            lines = await running.printed(5)
            running.process.send_signal(signal.SIGINT)
            assert await running.ended() == (0, "")
        log = await owner.log(least=5)
        assert [line.split() for line in lines] == [
            [str(e["index"]), line.split()[1], e["action"], e["actor"], e["target"]]
            for e, line in zip(log, lines, strict=True)
        ]

    async def test_prints_the_entries_as_they_lie_in_the_log(
        self, stack: Stack, owner: Person, token: CreatedApiToken
    ) -> None:
        async with tail(stack, token["token"], "--from", "1", "--json") as running:
            lines = await running.printed(2)
        entries, _ = await stored_log(stack, owner.workspace)
        assert lines == [entry["leaf"] for entry in entries[1:]]
        assert all(json.loads(line)["tenant"] == owner.workspace for line in lines)

    async def test_ends_with_a_sentence_when_its_token_is_revoked(
        self, stack: Stack, owner: Person, token: CreatedApiToken
    ) -> None:
        async with tail(stack, token["token"], "--from", "0") as running:
            await running.printed(3)
            content_of(await owner.delete(f"/api-tokens/{token['id']}"), 204)
            code, shown = await running.ended()
        assert code == 2
        assert shown.startswith("causeloop audit: ")
        assert shown.endswith(".\n")
        assert token["token"] not in shown

    @pytest.mark.parametrize(
        ("scope", "options", "words"),
        [
            ("audit:read", [], "This needs the permission 'audit:stream'"),
            ("audit:stream", ["--from", "1000"], "was restored to an earlier state"),
        ],
    )
    async def test_ends_with_a_sentence_when_going_on_makes_no_sense(
        self, stack: Stack, owner: Person, scope: str, options: list[str], words: str
    ) -> None:
        made = await owner.personal_token(scope)
        async with tail(stack, made["token"], *options) as running:
            code, shown = await running.ended()
        assert code == 2
        assert words in shown

    @pytest.mark.chaos
    async def test_goes_on_over_restarts_of_the_gateway(self, fragile: Stack) -> None:
        await fragile.mend()
        person = await fragile.sign_up()
        async with tail(fragile, person.token, "--from", "0", "--json") as running:
            for number in range(2):
                await running.printed(3 + number)
                await fragile.restart("gateway")
                content_of(await person.put(f"/secrets/tailed/{number}", json={"value": "v"}))
            lines = await running.printed(5)
        entries, _ = await stored_log(fragile, person.workspace)
        assert lines == [entry["leaf"] for entry in entries]
