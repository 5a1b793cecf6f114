"""Many large requests at once: some are refused, nobody else waits for them, and their memory is given back."""

import asyncio
import base64
import time
from collections import Counter
from pathlib import Path

import httpx
import orjson
import pytest

from tests.support.stack import Person, Stack, content_of, until

MIB = 1024 * 1024
PARALLEL = 60
ROUNDS = 3

pytestmark = [pytest.mark.alone, pytest.mark.slow]


def resident(stack: Stack, service: str) -> float:
    """The memory of a service's process, in MiB."""
    lines = Path(f"/proc/{stack.processes[service].pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


async def send(stack: Stack, person: Person, http: httpx.AsyncClient, body: bytes) -> httpx.Response:
    return await http.post(f"{stack.url}/v1/keys/large/encrypt", content=body, headers=person.headers)


class TestLargeRequests:
    async def test_at_once_are_bounded_and_keep_nobody_waiting(self, stack: Stack) -> None:
        """E5: 60 encrypts of a mebibyte at once, three times."""
        heavy, neighbour = await stack.sign_up(), await stack.sign_up()
        content_of(await heavy.post("/keys", json={"name": "large", "type": "aes256-gcm"}), 201)
        content_of(await neighbour.put("/secrets/a", json={"value": "v"}))
        heavy.headers = {"authorization": f"Bearer {heavy.token}", "content-type": "application/json"}
        plaintext = base64.b64encode(bytes(48 * 1024)).decode()
        body = orjson.dumps({"items": [{"plaintext": plaintext}] * 15})
        assert MIB * 0.9 < len(body) < MIB
        before = {service: resident(stack, service) for service in ("gateway", "vault")}
        lost = [stack.raw_log(service).count(b"lost the bus") for service in ("gateway", "vault")]
        waited, done = [0.0], asyncio.Event()

        async def beside() -> None:
            while not done.is_set():
                began = time.monotonic()
                content_of(await neighbour.post("/secrets/a/reveal"))
                waited.append(time.monotonic() - began)
                await asyncio.sleep(0.02)

        revealing = asyncio.create_task(beside())
        statuses: Counter[int] = Counter()
        async with httpx.AsyncClient(
            trust_env=False, timeout=20, limits=httpx.Limits(max_connections=PARALLEL)
        ) as http:
            for _ in range(ROUNDS):
                answers = await asyncio.gather(*(send(stack, heavy, http, body) for _ in range(PARALLEL)))
                statuses.update(answer.status_code for answer in answers)
                for answer in answers:
                    if answer.status_code != 200:
                        assert int(answer.headers["retry-after"]) >= 1
        done.set()
        await revealing
        assert set(statuses) <= {200, 429, 503}
        assert statuses[200] >= ROUNDS * 3
        assert max(waited) < 1
        assert [stack.raw_log(service).count(b"lost the bus") for service in ("gateway", "vault")] == lost

        async def is_given_back() -> bool:
            return all(resident(stack, service) < before[service] + 48 for service in before)

        await until("the memory is given back", is_given_back, seconds=10)
