"""Acts through the gateway, each on a target of its own, so that its log has exactly one entry of it.

Every actor has a workspace, and does one act after the other at a common pace: writes secrets and reveals each once,
makes tokens and revokes each once, and creates workspaces.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import httpx

from causeloop_client import ClientError
from tests.support.stack import Person, Stack, until

ACTORS = 24


class Act(NamedTuple):
    """An act that was answered 200: the log of `tenant` has one entry of `action` on `target`."""

    tenant: str
    action: str
    target: str


@dataclass
class Acts:
    """All acts of one campaign."""

    stack: Stack
    seed: int
    count: int
    seconds: float
    done: list[Act] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    people: list[Person] = field(default_factory=list)
    going_on: bool = True
    """Whether acts are done beyond the count: until everything was done to the installation that is to be."""
    _begun: float = 0.0
    _begins: int = 0

    @property
    def tenants(self) -> list[str]:
        """Every workspace and realm that there is for sure."""
        made = {act.target for act in self.done if act.action == "tenancy.workspace_created"}
        return sorted({*(person.id for person in self.people), *(person.workspace for person in self.people), *made})

    async def sign_up(self) -> None:
        """Sign up everybody who acts."""
        for _ in range(min(ACTORS, self.count)):
            person = await until("somebody can sign up", self._sign_up)
            assert person is not None
            self.people.append(person)
            self.done.append(Act(person.workspace, "tenancy.workspace_created", person.workspace))

    async def _sign_up(self) -> Person | None:
        try:
            return await self.stack.sign_up()
        except ClientError:  # on a busy machine the wire may be too late for a ping
            return None

    async def run(self) -> None:
        """Do as many acts as there are to be, evenly within the seconds; more of them, if they have to go on."""
        self._begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, person in enumerate(self.people):
                group.create_task(_Actor(self, person, random.Random(f"{self.seed}/{number}")).run())

    @property
    def part(self) -> float:
        """The part of the acts that have been done, from 0 to 1."""
        return len(self.done) / self.count

    async def turn(self) -> bool:
        """Wait for the turn of the next act; False when there is none any more."""
        if len(self.done) >= self.count and not self.going_on:
            return False
        self._begins += 1
        await asyncio.sleep(self._begun + self._begins * self.seconds / self.count - time.monotonic())
        return True


class _Actor:
    def __init__(self, acts: Acts, person: Person, choices: random.Random) -> None:
        self._acts = acts
        self._person = person
        self._choices = choices
        self._made = 0
        self._secrets: list[tuple[str, str]] = []
        self._tokens: list[str] = []

    async def run(self) -> None:
        kinds = [self._put] * 30 + [self._reveal] * 30 + [self._make_token] * 19 + [self._revoke] * 19
        kinds += [self._create_workspace]
        while await self._acts.turn():
            await self._choices.choice(kinds)()

    async def _put(self) -> None:
        path = self._new("s")
        answer = await self._ask(lambda: self._person.put(f"/secrets/{path}", json={"value": path}))
        if answer is not None:
            self._secrets.append((path, answer.json()["id"]))
            self._did("vault.secret_written", answer.json()["id"])

    async def _reveal(self) -> None:
        if not self._secrets:
            return await self._put()
        path, target = self._secrets.pop(self._choices.randrange(len(self._secrets)))
        if await self._ask(lambda: self._person.post(f"/secrets/{path}/reveal")) is not None:
            self._did("vault.secret_revealed", target)
        return None

    async def _make_token(self) -> None:
        body = {"name": self._new("t"), "scopes": ["workspace:read"]}
        answer = await self._ask(lambda: self._person.post("/api-tokens", json=body))
        if answer is not None:
            self._tokens.append(answer.json()["id"])
            self._did("auth.token_created", answer.json()["id"])

    async def _revoke(self) -> None:
        if not self._tokens:
            return await self._make_token()
        token = self._tokens.pop(self._choices.randrange(len(self._tokens)))
        if await self._ask(lambda: self._person.delete(f"/api-tokens/{token}")) is not None:
            self._did("auth.token_revoked", token)
        return None

    async def _create_workspace(self) -> None:
        body, token = {"name": "Acme", "slug": self._new("w")}, self._person.realm_token
        answer = await self._ask(lambda: self._person.post("/workspaces", json=body, token=token))
        if answer is not None:
            made = answer.json()["id"]
            self._acts.done.append(Act(made, "tenancy.workspace_created", made))

    def _new(self, kind: str) -> str:
        self._made += 1
        return f"{kind}{self._made}"

    def _did(self, action: str, target: str) -> None:
        self._acts.done.append(Act(self._person.workspace, action, target))

    async def _ask(self, ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response | None:
        """The answer, if it confirms the act."""
        try:
            answer = await ask()
        except httpx.TransportError:
            self._acts.answers[0] += 1
            return None
        self._acts.answers[answer.status_code] += 1
        return answer if answer.is_success else None
