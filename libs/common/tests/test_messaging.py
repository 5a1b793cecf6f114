"""Commands over a real bus: answered or refused, never run late, and secrets sealed on the way."""

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from causeloop_common import permissions, telemetry
from causeloop_common.context import AuthContext, Idempotency
from causeloop_common.contracts import topology
from causeloop_common.contracts.tenancy import Resolve, Standing
from causeloop_common.contracts.vault import (
    GetSecret,
    ListSecrets,
    PutSecret,
    SecretPage,
    SecretView,
)
from causeloop_common.errors import (
    AppError,
    Conflict,
    Internal,
    InvalidInput,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    Timeout,
    Unavailable,
)
from causeloop_common.idempotency import Replayed
from causeloop_common.messaging import Bus, CommandRouter, aside, bus as bus_module
from causeloop_common.messaging.workers import Workers
from causeloop_common.telemetry import metrics
from tests.support.answering import CANARY, GET, PUT, VIEW, Connect, Serve, answering, handler


class TestTable:
    def test_a_handler_with_another_name_than_its_command_s_is_refused(self) -> None:
        async def put_secret(ctx: AuthContext, command: PutSecret) -> SecretView:
            return VIEW

        async def read_secret(ctx: AuthContext, command: GetSecret) -> SecretView:
            return VIEW

        with pytest.raises(TypeError, match=r"The handler of GetSecret is named 'read_secret'; name it 'get_secret'\."):
            CommandRouter({PutSecret: put_secret, GetSecret: read_secret})


class TestCall:
    async def test_the_owner_hears_who_asks_what_and_the_asker_its_answer(
        self, bus: Connect, serve: Serve, workspace: AuthContext
    ) -> None:
        heard: list[tuple[AuthContext, PutSecret, str]] = []

        async def put_secret(ctx: AuthContext, command: PutSecret) -> SecretView:
            heard.append((ctx, command, telemetry.traceparent()))
            return VIEW

        router = CommandRouter({PutSecret: put_secret})
        await serve("vault", router)
        assert router.kinds == [PutSecret]
        with telemetry.working(telemetry.UNTRACED.start_span("a request")):
            trace = telemetry.traceparent()
            assert await (await bus("gateway")).call(workspace, PUT) == VIEW

        assert heard == [(workspace, PUT, trace)]

    async def test_a_key_travels_with_what_changes_something_only(
        self, bus: Connect, serve: Serve, workspace: AuthContext
    ) -> None:
        heard: list[Idempotency | None] = []

        async def put_secret(ctx: AuthContext, command: Any) -> SecretView:
            heard.append(ctx.idempotency)
            return VIEW

        async def get_secret(ctx: AuthContext, command: Any) -> SecretView:
            return await put_secret(ctx, command)

        await serve("vault", CommandRouter({PutSecret: put_secret, GetSecret: get_secret}))
        gateway, keyed = await bus("gateway"), replace(workspace, idempotency=Idempotency("key-1", "print"))
        for ctx, command in ((keyed, PUT), (keyed, GET), (workspace, PUT)):
            await gateway.request(ctx, type(command), command.to_json())

        assert heard == [Idempotency("key-1", "print"), None, None]

    async def test_a_replay_is_reported_as_one(self, bus: Connect, serve: Serve, workspace: AuthContext) -> None:
        await serve("vault", answering(PutSecret, reply=Replayed(VIEW.to_json())))

        answer = await (await bus("gateway")).request(workspace, PutSecret, PUT.to_json())

        assert (answer.body, answer.replayed) == (VIEW.to_json(), True)

    @pytest.mark.parametrize(
        "error",
        [
            NotFound("There is no secret 'a/b' in this workspace."),
            RateLimited("Too many. Wait.", retry_after=17),
            Conflict("Größer als «erlaubt» – 世界 …"),
            InvalidInput("See 'errors'.", fields={"path": ["is too long", "is odd: é"]}),
            Unavailable("Busy.", retry_after=None),
        ],
        ids=lambda error: error.code,
    )
    async def test_a_refusal_arrives_as_it_was_raised(
        self, bus: Connect, serve: Serve, workspace: AuthContext, error: AppError
    ) -> None:
        await serve("vault", answering(GetSecret, reply=error))

        with pytest.raises(type(error)) as refused:
            await (await bus("gateway")).call(workspace, GET)

        heard = refused.value
        assert (heard.detail, heard.fields, heard.retry_after) == (error.detail, error.fields, error.retry_after)

    async def test_a_failing_handler_is_answered_without_its_reason(
        self, bus: Connect, serve: Serve, workspace: AuthContext
    ) -> None:
        await serve("vault", answering(GetSecret, reply=ValueError(f"SELECT {CANARY}")))

        with pytest.raises(Internal, match=r"^Something failed on our side\. Report it with the trace id\.$"):
            await (await bus("gateway")).call(workspace, GET)

    async def test_many_at_once_get_their_own_answers(self, bus: Connect, serve: Serve, workspace: AuthContext) -> None:

        async def get_secret(ctx: AuthContext, command: GetSecret) -> SecretView:
            await asyncio.sleep(0)
            return VIEW.model_copy(update={"path": command.path})

        router = CommandRouter({GetSecret: get_secret})
        await serve("vault", router, workers=20)
        gateway, paths = await bus("gateway"), [f"path/{number}" for number in range(100)]

        answers = await asyncio.gather(*(gateway.call(workspace, GetSecret(path=path)) for path in paths))

        assert [answer.path for answer in answers] == paths


class TestClocks:
    @pytest.mark.parametrize("seconds", [-6.0, 66.0])
    async def test_that_are_apart_are_named_by_the_one_who_asks(
        self, bus: Connect, serve: Serve, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch, seconds: float
    ) -> None:
        """E34: a service that asks with a wrong clock is refused, is not ready, and names both."""

        async def get_secret(ctx: AuthContext, command: GetSecret) -> SecretView:
            return VIEW

        await serve("vault", CommandRouter({GetSecret: get_secret}))
        gateway = await bus("gateway")
        wrong = SimpleNamespace(time=lambda: time.time() + seconds, monotonic=time.monotonic)
        monkeypatch.setattr(bus_module, "time", wrong)
        gateway.tokens._clock = wrong.time
        with pytest.raises(Unavailable, match="Nothing was done"):
            await gateway.call(workspace, GET)
        with pytest.raises(Unavailable, match=r"This host's clock is \d+\.\d s (ahead of|behind) that of the vault"):
            gateway.check_clock()

        monkeypatch.undo()
        gateway.tokens._clock = time.time
        gateway.tokens._minted.clear()
        await gateway.call(workspace, GET)
        gateway.check_clock()


class TestUnavailable:
    async def test_nobody_listens(self, bus: Connect, workspace: AuthContext) -> None:
        with pytest.raises(Unavailable, match=r"The vault service is not running\. Nothing was done"):
            await (await bus("gateway")).call(workspace, GET)

    async def test_there_is_no_connection(self, house: Any, workspace: AuthContext) -> None:
        settings = house.settings("gateway")
        gateway = Bus(settings, settings.keyring())

        with pytest.raises(Unavailable, match=r"The message bus cannot be reached\. Nothing was done"):
            await gateway.call(workspace, GET)
        assert not gateway.is_connected

    async def test_the_connection_was_closed(self, bus: Connect, serve: Serve, workspace: AuthContext) -> None:
        await serve("vault", answering(GetSecret))
        gateway = await bus("gateway")
        await gateway.close()

        with pytest.raises(Unavailable, match="The message bus cannot be reached"):
            await gateway.call(workspace, GET)

    async def test_the_queue_is_full(self, bus: Connect, serve: Serve, workspace: AuthContext) -> None:
        go, running = asyncio.Event(), 0

        async def get_secret(ctx: AuthContext, command: GetSecret) -> SecretView:
            nonlocal running
            running += 1
            await go.wait()
            return VIEW

        router = CommandRouter({GetSecret: get_secret})
        await serve("vault", router, workers=2)
        gateway = await bus("gateway")
        waiting = [asyncio.create_task(gateway.call(workspace, GET)) for _ in range(18)]  # 2 run, 16 wait
        await asyncio.sleep(0)

        with pytest.raises(Unavailable, match=r"The vault service is busy\. Try again"):
            await gateway.call(workspace, GET)
        assert running == 2
        go.set()
        assert await asyncio.gather(*waiting) == [VIEW] * 18

    async def test_a_draining_service_ends_what_runs_and_leaves_new_commands_to_others(
        self, bus: Connect, serve: Serve, workspace: AuthContext
    ) -> None:
        go, entered = asyncio.Event(), asyncio.Event()

        async def get_secret(ctx: AuthContext, command: GetSecret) -> SecretView:
            entered.set()
            await go.wait()
            return VIEW

        router = CommandRouter({GetSecret: get_secret})
        owner, gateway = await serve("vault", router), await bus("gateway")
        running = asyncio.create_task(gateway.call(workspace, GET))
        await entered.wait()
        draining = asyncio.create_task(router.drain(5))
        await asyncio.sleep(0)
        await owner.flush()  # the server knows that it left

        with pytest.raises(Unavailable, match="The vault service is not running"):
            await gateway.call(workspace, GET)
        assert not draining.done()
        go.set()
        await draining
        assert await running == VIEW


class TestAside:
    """A command that waits for the outside gives its worker to another one."""

    async def test_others_are_answered_meanwhile(self, bus: Connect, serve: Serve, workspace: AuthContext) -> None:
        go, entered = asyncio.Event(), asyncio.Queue[None]()

        async def get_secret(ctx: AuthContext, command: GetSecret) -> SecretView:
            async with aside():
                entered.put_nowait(None)
                await go.wait()
            return VIEW

        router = CommandRouter({GetSecret: get_secret, PutSecret: handler(PutSecret, VIEW)})
        await serve("vault", router, workers=1)
        gateway = await bus("gateway")
        waiting = [asyncio.create_task(gateway.call(workspace, GET)) for _ in range(4)]
        for _ in waiting:
            await entered.get()

        assert await gateway.call(workspace, PUT) == VIEW
        assert not any(task.done() for task in waiting)
        with pytest.raises(Unavailable, match=r"The vault service is busy\. Try again"):  # four per worker, no more
            await gateway.call(workspace, GET)
        go.set()
        assert await asyncio.gather(*waiting) == [VIEW] * 4
        assert (router._workers.aside, router._workers.free._value) == (0, 1)

    async def test_its_worker_is_taken_again_before_it_goes_on(
        self, bus: Connect, serve: Serve, workspace: AuthContext
    ) -> None:
        running = most = 0

        async def get_secret(ctx: AuthContext, command: GetSecret) -> SecretView:
            nonlocal running, most
            async with aside():
                await asyncio.sleep(0.01)
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1
            return VIEW

        await serve("vault", CommandRouter({GetSecret: get_secret}), workers=2)
        gateway = await bus("gateway")
        assert await asyncio.gather(*(gateway.call(workspace, GET) for _ in range(8))) == [VIEW] * 8
        assert most == 2

    async def test_while_it_waits_for_another_service_others_are_answered(
        self, bus: Connect, serve: Serve, workspace: AuthContext
    ) -> None:
        """E1: a service that stood still held all the workers of those that ask it, and nobody's token was known."""
        go, asked = asyncio.Event(), asyncio.Queue[None]()
        asker: Bus

        async def resolve(ctx: AuthContext, command: Resolve) -> Standing:
            asked.put_nowait(None)
            await go.wait()
            return Standing(role=None, permissions=[])

        async def get_secret(ctx: AuthContext, command: GetSecret) -> SecretView:
            of_service = ctx.of_service("vault", permissions.Internal.RESOLVE)
            await asker.call(of_service, Resolve(principal=ctx.principal))
            return VIEW

        await serve("tenancy", CommandRouter({Resolve: resolve}), workers=20)
        router = CommandRouter({GetSecret: get_secret, PutSecret: handler(PutSecret, VIEW)})
        asker = await serve("vault", router, workers=1)
        gateway = await bus("gateway")
        waiting = [asyncio.create_task(gateway.call(workspace, GET)) for _ in range(7)]
        for _ in range(4):  # four wait at the same service, three for a place there: none is refused
            await asked.get()

        assert await gateway.call(workspace, PUT) == VIEW
        assert asked.empty()
        go.set()
        assert await asyncio.gather(*waiting) == [VIEW] * 7
        assert (router._workers.aside, router._workers.free._value) == (0, 1)

    async def test_those_who_wait_for_one_keep_nobody_from_another(self) -> None:
        """E1: sign-ins that need the vault alone do not wait behind those that wait for tenancy."""
        workers, go = Workers("auth", 1), asyncio.Event()

        async def waits() -> None:
            async with workers.free, workers.given_back("tenancy", queues=True):
                await go.wait()

        waiting = [asyncio.create_task(waits()) for _ in range(6)]
        await asyncio.sleep(0.01)
        async with asyncio.timeout(5), workers.free, workers.given_back("vault", queues=True):
            assert workers.aside == 4 + 2 + 1
        go.set()
        await asyncio.gather(*waiting)
        assert (workers.aside, workers.free._value) == (0, 1)

    async def test_outside_of_a_command_it_changes_nothing(self) -> None:
        async with aside():
            pass


class TestTimeout:
    @pytest.mark.parametrize(
        ("keyed", "next_step"),
        [(True, "; it may have acted. Retry with the same Idempotency-Key."), (False, ". Try again.")],
    )
    async def test_no_answer_in_time_leaves_the_outcome_unknown(
        self,
        bus: Connect,
        serve: Serve,
        workspace: AuthContext,
        monkeypatch: pytest.MonkeyPatch,
        keyed: bool,
        next_step: str,
    ) -> None:
        monkeypatch.setattr(GetSecret, "timeout", 0.1)
        monkeypatch.setattr(GetSecret, "keyed", keyed)
        go = asyncio.Event()

        async def get_secret(ctx: AuthContext, command: GetSecret) -> SecretView:
            await go.wait()
            return VIEW

        router = CommandRouter({GetSecret: get_secret})
        await serve("vault", router)
        gateway = await bus("gateway")

        with pytest.raises(Timeout) as refused:
            await gateway.call(workspace, GET)
        assert refused.value.detail == f"The vault service did not answer in time{next_step}"
        go.set()  # the answer that nobody waits for harms nobody
        monkeypatch.undo()
        assert await gateway.call(workspace, GET) == VIEW
        assert not gateway._replies._waiting

    async def test_what_waited_beyond_its_deadline_is_dropped_unexecuted(
        self, bus: Connect, serve: Serve, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go, entered, ran = asyncio.Event(), asyncio.Event(), []

        async def get_secret(ctx: AuthContext, command: GetSecret) -> SecretView:
            ran.append(command.path)
            entered.set()
            await go.wait()
            return VIEW

        router = CommandRouter({GetSecret: get_secret})
        await serve("vault", router, workers=1)
        gateway, late = await bus("gateway"), metrics.COMMANDS.labels(GetSecret.subject, "late")
        before = late._value.get()
        first = asyncio.create_task(gateway.call(workspace, GET))
        await entered.wait()
        monkeypatch.setattr(GetSecret, "timeout", 0.05)

        with pytest.raises(Timeout, match="did not answer in time"):
            await gateway.call(workspace, GetSecret(path="late"))
        monkeypatch.undo()
        go.set()
        await first
        await gateway.call(workspace, GetSecret(path="next"))
        assert ran == ["a/b", "next"]
        assert late._value.get() == before + 1


class TestSizes:
    async def test_a_request_larger_than_the_bus_takes_is_refused_unsent(
        self, bus: Connect, serve: Serve, workspace: AuthContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await serve("vault", answering(PutSecret))
        gateway = await bus("gateway")
        long = PutSecret.model_validate({"path": "a", "value": "x" * 60_000})
        monkeypatch.setattr(topology, "MAX_PAYLOAD_BYTES", 64 * 1024)

        with pytest.raises(PayloadTooLarge, match=r"The request is \d+ bytes on the bus, more than fits"):
            await gateway.call(workspace, long)

        monkeypatch.undo()
        assert await gateway.call(workspace, long) == VIEW

    async def test_an_answer_larger_than_the_bus_takes_is_refused_and_the_connections_survive(
        self, bus: Connect, serve: Serve, workspace: AuthContext
    ) -> None:
        page = SecretPage(data=[VIEW] * 30_000)
        assert len(page.to_json()) > topology.MAX_PAYLOAD_BYTES
        handlers: Any = {ListSecrets: handler(ListSecrets, page), GetSecret: handler(GetSecret, VIEW)}
        owner = await serve("vault", CommandRouter(handlers))
        gateway = await bus("gateway")
        connections = [gateway.client._transport, owner.client._transport]

        with pytest.raises(PayloadTooLarge, match="The answer is larger than fits on the bus"):
            await gateway.call(workspace, ListSecrets())

        assert await gateway.call(workspace, GET) == VIEW
        assert [gateway.client._transport, owner.client._transport] == connections

    async def test_the_largest_answer_that_fits_arrives(
        self, bus: Connect, serve: Serve, workspace: AuthContext
    ) -> None:
        page = SecretPage(data=[VIEW] * ((topology.MAX_PAYLOAD_BYTES - 20_000) // (len(VIEW.to_json()) + 1)))
        await serve("vault", answering(ListSecrets, reply=page))

        assert await (await bus("gateway")).call(workspace, ListSecrets()) == page
