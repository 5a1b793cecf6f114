"""Clients that live the journey over and over, and write their answers down in the model."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from chaos.model import FAULTS, Model, Secret, Session, Token, Workspace
from tests.support.load import DEADLINE
from tests.support.stack import Person, Stack

PATIENCE = 60.0
WORD = 3.0
"""Seconds after its answer in which a revocation must have reached the gateway, whatever was killed meanwhile. It is
published before it is answered; only the answer to a retry, of what was done just before a crash, has to wait for the
relay to lead again. The hard bound is what a gateway remembers, 30 s."""

_PROBLEMS = {401: "refused who is good", 403: "forbade what is allowed", 404: "lost", 500: "failed", 422: "misread"}


class Worker:
    """One client at a time; every choice is of its own generator."""

    def __init__(self, stack: Stack, model: Model, name: str, choices: random.Random) -> None:
        self._stack = stack
        self._model = model
        self._name = name
        self._choices = choices
        self._count = 0
        self._watching: set[asyncio.Task[None]] = set()
        self.stopped = False

    async def run(self) -> None:
        """Live until stopped; what was begun is finished."""
        while not self.stopped:
            await self._live()
        await asyncio.gather(*self._watching)

    async def _live(self) -> None:
        person = Person(self._stack, self._new("user"))
        session = Session("")
        if not await self._sign_in(person, session):
            return
        if not await self._create_workspace(person) or not await self._refresh(person, session):
            return
        acts: list[Callable[[Person, Session], Awaitable[Any]]] = [
            self._put, self._put, self._reveal, self._read, self._list, self._read_log, self._keep_checkpoint,
            self._make_token, self._use_token, self._revoke, self._refresh,
        ]  # fmt: skip
        for _ in range(self._choices.randint(20, 60)):
            if self.stopped:
                return
            await self._choices.choice(acts)(person, session)
            await asyncio.sleep(self._choices.uniform(0.01, 0.06))
        if self._choices.random() < 0.5:
            session.token = person.token
            # A client without an answer that asks again has no session any more.
            await self._insist(session.ends, lambda: person.post("/auth/logout"), done_status=401)

    # The journey

    async def _sign_in(self, person: Person, session: Session) -> bool:
        async def exchange() -> httpx.Response:
            return await self._stack.exchange(person.subject)

        answer = await self._insist(session.starts, exchange)
        if answer is None:
            return False
        granted = answer.json()
        person.realm_token, person.refresh_token = granted["access_token"], granted["refresh_token"]
        person.id = session.realm = f"usr_{person.refresh_token.split('_')[3]}"
        self._model.sessions.append(session)
        return True

    async def _create_workspace(self, person: Person) -> bool:
        workspace = Workspace(self._new("ws").replace("_", "-"), keyed=self._choices.random() < 0.7)
        self._model.workspaces.append(workspace)
        body = {"name": workspace.slug, "slug": workspace.slug}
        answer = await self._change(
            workspace.answers,
            workspace.keyed,
            lambda headers: person.post("/workspaces", json=body, token=person.realm_token, headers=headers),
        )
        if answer is None:
            return False
        person.workspace = workspace.id = answer.json()["id"]
        return True

    async def _refresh(self, person: Person, session: Session) -> bool:
        body = {"refresh_token": person.refresh_token, "workspace_id": person.workspace}
        answer = await self._insist(session.refreshes, lambda: self._stack.http.post("/v1/auth/refresh", json=body))
        if answer is None:
            return False
        granted = answer.json()
        person.token, person.refresh_token = granted["access_token"], granted["refresh_token"]
        return True

    async def _put(self, person: Person, session: Session) -> None:
        secret = Secret(person.workspace, self._new("s"), keyed=self._choices.random() < 0.5)
        self._model.secrets.append(secret)
        answer = await self._change(
            secret.answers,
            secret.keyed,
            lambda headers: person.put(f"/secrets/{secret.path}", json={"value": secret.path}, headers=headers),
        )
        if answer is not None and answer.json()["version"] != 1:
            self._model.breaks(f"{secret.path} was written {answer.json()['version']} times")

    async def _reveal(self, person: Person, session: Session) -> None:
        if (secret := self._own_secret(person)) is not None:
            answer = await self._once(lambda: person.post(f"/secrets/{secret.path}/reveal"))
            secret.reveals.append(answer.status_code)
            if answer.is_success and answer.json()["value"] != secret.path:
                self._model.breaks(f"{secret.path} was revealed as something else")

    async def _read(self, person: Person, session: Session) -> None:
        if (secret := self._own_secret(person)) is not None:
            await self._once(lambda: person.get(f"/secrets/{secret.path}"))

    async def _list(self, person: Person, session: Session) -> None:
        await self._once(lambda: person.get("/secrets?limit=5"))

    async def _read_log(self, person: Person, session: Session) -> None:
        await self._once(lambda: person.get("/audit/events?limit=5"))

    async def _keep_checkpoint(self, person: Person, session: Session) -> None:
        answer = await self._once(lambda: person.get("/audit/checkpoint"))
        if answer.is_success:
            self._model.checkpoints.append((person.workspace, answer.json()["checkpoint"]))

    async def _make_token(self, person: Person, session: Session) -> None:
        token = Token(person.workspace, self._new("t"), keyed=self._choices.random() < 0.5)
        self._model.tokens.append(token)
        body = {"name": token.name, "scopes": ["workspace:read"]}
        answer = await self._change(
            token.answers, token.keyed, lambda headers: person.post("/api-tokens", json=body, headers=headers)
        )
        if answer is None:
            return
        shown = answer.json()
        if answer.status_code == 409:  # it was shown in an answer that was lost
            token.answers.append(201)
            token.id = shown["errors"]["id"][0]
        else:
            token.id, token.secret = shown["id"], shown["token"]

    async def _use_token(self, person: Person, session: Session) -> None:
        if (token := self._own_token(person)) is not None:
            await self._once(lambda: person.get("/workspace", token=token.secret))

    async def _revoke(self, person: Person, session: Session) -> None:
        if (token := self._own_token(person)) is None:
            return
        keyed = self._choices.random() < 0.5
        answer = await self._change(
            token.revocations, keyed, lambda headers: person.delete(f"/api-tokens/{token.id}", headers=headers)
        )
        if answer is not None:
            token.revoked_at = time.monotonic()
            watching = asyncio.create_task(self._watch(person, token))
            self._watching.add(watching)
            watching.add_done_callback(self._watching.discard)

    async def _watch(self, person: Person, token: Token) -> None:
        """Try a revoked token until it is refused."""
        word = 0.0
        while not token.refused:
            begun = time.monotonic()
            answer = await self._once(lambda: person.get("/workspace", token=token.secret), expected=(401,))
            token.refused = answer.status_code == 401
            if answer.status_code == 200:
                word = begun - token.revoked_at
                if word > WORD:
                    self._model.breaks(f"{token.name} opens something {word:.1f} s after its revocation was answered")
                    return
            await asyncio.sleep(0.02)
        self._model.words.append(word)

    # Asking

    def _new(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._name}_{self._count}"

    def _own_secret(self, person: Person) -> Secret | None:
        own = [s for s in self._model.secrets[-400:] if s.workspace == person.workspace and 200 in s.answers]
        return self._choices.choice(own) if own else None

    def _own_token(self, person: Person) -> Token | None:
        own = [t for t in self._model.tokens[-400:] if t.workspace == person.workspace and t.is_live]
        return self._choices.choice(own) if own else None

    async def _change(
        self, answers: list[int], keyed: bool, ask: Callable[[dict[str, str]], Awaitable[httpx.Response]]
    ) -> httpx.Response | None:
        """Under a key until it is answered, otherwise once; None when it was not done or nobody knows."""
        if keyed:
            headers = {"idempotency-key": f"{self._choices.getrandbits(128):032x}"}
            answer = await self._insist(answers, lambda: ask(headers))
            if answer is not None and self._choices.random() < 0.3:
                await self._ask_again(answer, lambda: ask(headers))
            return answer
        answer = await self._once(lambda: ask({}))
        answers.append(answer.status_code)
        return answer if answer.is_success else None

    async def _ask_again(self, first: httpx.Response, ask: Callable[[], Awaitable[httpx.Response]]) -> None:
        """Ask once more: the answer has to be the same, or to name that it was given before."""
        again = await self._once(ask)
        same = (again.status_code, again.content) == (first.status_code, first.content)
        if again.status_code not in FAULTS and again.status_code != 409 and not same:
            path = again.request.url.path
            self._model.breaks(f"{path}: the same key is answered {first.text[:100]}, then {again.text[:100]}")

    async def _insist(
        self, answers: list[int], ask: Callable[[], Awaitable[httpx.Response]], *, done_status: int | None = None
    ) -> httpx.Response | None:
        """Ask again after every fault; None when that goes on for too long.

        `done_status` is the answer to a second try whose first was done and not answered.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            lost = not {0, 504}.isdisjoint(answers)
            answer = await self._once(ask, expected=(done_status,) if lost and done_status else ())
            answers.append(answer.status_code)
            if lost and done_status and answer.status_code == done_status:
                answers[-1] = 200
                return answer
            if answer.is_success:
                return answer
            code = answer.json()["code"] if answer.status_code else ""
            if code == "secret_already_shown":
                answers.pop()
                return answer
            if code == "idempotency_in_progress":
                answers.pop()
            elif answer.status_code not in FAULTS:
                return None
            await asyncio.sleep(self._choices.uniform(0.05, 0.15))
        self._model.breaks(f"{self._name} is answered {answers[-1]} for {PATIENCE:g} s")
        return None

    async def _once(
        self, ask: Callable[[], Awaitable[httpx.Response]], *, expected: tuple[int, ...] = ()
    ) -> httpx.Response:
        """Ask, and judge the answers that no client may ever get."""
        begun = time.monotonic()
        try:
            answer = await ask()
        except httpx.TransportError:
            answer = httpx.Response(0, request=httpx.Request("GET", "http://gone/"))
        seconds, status = time.monotonic() - begun, answer.status_code
        self._model.answers[status] += 1
        if seconds > DEADLINE + 2:  # this process waits a little itself, while a server starts
            self._model.breaks(f"{answer.request.method} {answer.request.url.path}: {status} after {seconds:.1f} s")
        code = answer.json().get("code") if status >= 400 else None
        fine = status < 400 or status in (503, 504) or status in expected
        if not fine and code not in ("idempotency_in_progress", "secret_already_shown"):
            wrong = _PROBLEMS.get(status, "refused")
            self._model.breaks(
                f"{answer.request.method} {answer.request.url.path}: {wrong}: {status} {answer.text[:200]}"
            )
        return answer
