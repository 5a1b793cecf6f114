"""One service as a running thing: started in order, watched, drained."""

import asyncio
import gc
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx
import orjson
import pytest

from causeloop_common.application import Application, Listener, Operations, run, service as rooms, serving
from causeloop_common.context import AuthContext
from causeloop_common.contracts.tenancy import GetWorkspace, WorkspaceView
from causeloop_common.database import database as rooms_of_databases
from causeloop_common.errors import NotFound, Unavailable
from causeloop_common.messaging import Bus, CommandRouter
from causeloop_common.rls import IsolationError
from causeloop_common.settings import Settings
from tests.support import outboxes

Compose = Callable[..., Application]


@pytest.fixture
async def make(house: Any, scratch: Any) -> AsyncIterator[Compose]:
    """Composes a tenancy of the test's own: `make(router)`."""
    from causeloop_tenancy.models import metadata

    made: list[Application] = []

    def create(router: CommandRouter | None = None, **environ: str) -> Application:
        databases = {
            "DATABASE_URL_TENANCY": scratch.dsn("causeloop_tenancy"),
            "DATABASE_URL_TENANCY_RELAY": scratch.dsn("causeloop_tenancy_relay"),
            "DATABASE_URL_TENANCY_JOBS": scratch.dsn("causeloop_tenancy_jobs"),
        }
        settings = Settings.load("tenancy", {**house.environ("tenancy"), **databases, **environ})
        one = Application(settings)
        one.relay(one.database(metadata))
        if router is not None:
            one.commands(router)
        made.append(one)
        return one

    yield create
    for one in made:
        await one.stop()


@pytest.fixture
async def unprotected(superuser: asyncpg.Connection) -> AsyncIterator[None]:
    """A table in tenancy's schema that nobody declared."""
    await superuser.execute("CREATE TABLE tenancy.forgotten (workspace_id uuid)")
    yield
    await superuser.execute("DROP TABLE tenancy.forgotten")


async def eventually(ask: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await ask():  # noqa: ASYNC110  what is asked lies outside this process
            await asyncio.sleep(0.01)


class TestStart:
    async def test_goes_in_order_commands_last(
        self, make: Compose, bus: Callable[[str], Awaitable[Bus]], workspace: AuthContext
    ) -> None:
        order: list[str] = []
        gateway = await bus("gateway")

        async def get_workspace(ctx: AuthContext, command: GetWorkspace) -> WorkspaceView:
            raise NotFound("It answers.")

        application = make(CommandRouter({GetWorkspace: get_workspace}))

        async def before() -> None:
            assert application.bus.is_connected
            await application._databases[0].ping()
            with pytest.raises(Unavailable, match="The tenancy service is not running"):
                await gateway.call(workspace, GetWorkspace())
            order.append("before")

        async def background() -> None:
            order.append("background")
            await asyncio.Event().wait()

        application.before_serving(before)
        application.background("work", background)
        await application.start()
        await asyncio.sleep(0)

        assert order == ["before", "background"]
        with pytest.raises(NotFound, match="It answers"):
            await gateway.call(workspace, GetWorkspace())

    @pytest.mark.usefixtures("unprotected")
    async def test_is_refused_when_the_database_does_not_isolate(self, make: Compose) -> None:
        application = make(CommandRouter({}))
        reached: list[str] = []

        async def before() -> None:
            reached.append("serving")

        application.before_serving(before)
        with pytest.raises(IsolationError, match=r"tenancy refuses to run: .* tenancy\.forgotten is not declared"):
            await application.start()

        assert reached == []
        assert not application.bus.is_connected

    async def test_waits_for_a_database_that_is_still_starting(
        self, make: Compose, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        application, tries = make(), 0
        (database,) = application._databases
        start = database.start

        async def slow() -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise Unavailable("PostgreSQL does not let tenancy in: ConnectionRefusedError.")
            await start()

        monkeypatch.setattr(database, "start", slow)
        starting = asyncio.create_task(application.start())
        await asyncio.sleep(0.01)
        assert await application.readiness() == {
            "started": "PostgreSQL does not let tenancy in: ConnectionRefusedError."
        }
        await starting
        assert (tries, (await application.readiness())["database"]) == (2, "ok")

    async def test_gives_up_when_what_it_needs_does_not_come(
        self, make: Compose, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rooms, "_START_SECONDS", 0)
        application = make(DATABASE_URL_TENANCY="postgresql://u@127.0.0.1:1/x")

        with pytest.raises(Unavailable, match="PostgreSQL does not let tenancy in"):
            await application.start()


class TestReadiness:
    async def test_before_it_is_started_only_that_is_reported(self, make: Compose) -> None:
        assert await make().readiness() == {"started": "The service is starting."}

    async def test_every_check_is_reported_by_name(self, make: Compose) -> None:
        application = make()
        await application.start()

        assert await application.readiness() == dict.fromkeys(
            ("bus", "database", "clock", "isolation", "relay", "schedule"), "ok"
        )

    async def test_what_fails_is_reported_with_its_sentence_and_the_rest_goes_on(
        self, make: Compose, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        application = make()

        async def unavailable() -> None:
            raise Unavailable("The key does not open: set the right one.")

        async def broken() -> None:
            raise ZeroDivisionError

        application.check("key", unavailable)
        application.check("odd", broken)
        await application.start()

        assert await application.readiness() == {
            "bus": "ok",
            "database": "ok",
            "clock": "ok",
            "isolation": "ok",
            "relay": "ok",
            "schedule": "ok",
            "key": "The key does not open: set the right one.",
            "odd": "The check failed: ZeroDivisionError.",
        }

    async def test_a_check_that_hangs_is_reported(self, make: Compose) -> None:
        shown = await rooms._finding(asyncio.Event().wait, seconds=0.01)  # type: ignore[arg-type]

        assert shown == "No answer within 0.01 seconds."

    async def test_isolation_is_proved_again_while_it_runs(
        self, make: Compose, superuser: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        application = make()
        await application.start()
        await superuser.execute("CREATE TABLE tenancy.forgotten (workspace_id uuid)")
        try:
            assert (await application.readiness())["isolation"] == "ok"  # remembered for some seconds
            monkeypatch.setattr(rooms, "_PROOF_REMEMBERED_SECONDS", 0)
            assert "tenancy.forgotten is not declared" in (await application.readiness())["isolation"]
        finally:
            await superuser.execute("DROP TABLE tenancy.forgotten")
        assert (await application.readiness())["isolation"] == "ok"

    @pytest.mark.parametrize(("seconds", "where"), [(6.0, "ahead of"), (-6.0, "behind")])
    async def test_a_clock_that_is_apart_is_reported(
        self, make: Compose, monkeypatch: pytest.MonkeyPatch, seconds: float, where: str
    ) -> None:
        """E34: a host whose clock is some seconds off is not ready, and doctor names it."""
        application = make()
        await application.start()
        assert (await application.readiness())["clock"] == "ok"
        monkeypatch.setattr(rooms_of_databases, "time", SimpleNamespace(time=lambda: time.time() + seconds))
        for found in (await application.readiness(), await make(CommandRouter({})).examine()):
            assert re.match(
                rf"This host's clock is [56]\.\d s {where} the database's\. Set both by NTP", found["clock"]
            )

    async def test_a_lost_bus_is_reported(self, make: Compose) -> None:
        application = make()
        await application.start()
        await application.bus.close()

        assert (await application.readiness())[
            "bus"
        ] == "The message bus cannot be reached. Nothing was done; try again."


class TestExamine:
    async def test_tells_what_a_start_would_prove_without_serving(
        self, make: Compose, superuser: asyncpg.Connection
    ) -> None:
        await outboxes.settle(superuser)
        application = make(CommandRouter({}))

        assert await application.examine() == dict.fromkeys(
            ("database", "postgres", "isolation", "bus", "clock", "receipts"), "ok"
        )
        assert not application.bus.is_connected

    async def test_leaves_out_what_only_a_running_process_remembers(self, make: Compose) -> None:
        """F8: `restore` was green, though nothing was looked at."""
        application = make(CommandRouter({}))

        async def unlooked() -> None:
            """Nothing runs, so nothing is wrong."""

        application.state("restore", unlooked)
        assert "restore" not in await application.examine()

    @pytest.mark.usefixtures("unprotected")
    async def test_tells_what_would_keep_it_from_starting(self, make: Compose) -> None:
        shown = await make().examine()

        assert "Table or view tenancy.forgotten is not declared" in shown["isolation"]
        assert shown["bus"] == "ok"


class TestStop:
    async def test_lets_a_running_command_finish_and_leaves_in_order(
        self, make: Compose, bus: Callable[[str], Awaitable[Bus]], workspace: AuthContext
    ) -> None:
        order: list[str] = []
        entered, go = asyncio.Event(), asyncio.Event()
        gateway = await bus("gateway")

        async def get_workspace(ctx: AuthContext, command: GetWorkspace) -> WorkspaceView:
            entered.set()
            await go.wait()
            await application._databases[0].ping()
            order.append("command")
            raise NotFound("It finished.")

        async def after() -> None:
            order.append("after")

        async def background() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                order.append("background")

        application = make(CommandRouter({GetWorkspace: get_workspace}))
        application.after_serving(after)
        application.background("work", background)
        await application.start()
        running = asyncio.create_task(gateway.call(workspace, GetWorkspace()))
        await entered.wait()
        stopping = asyncio.create_task(application.stop())
        await asyncio.sleep(0)
        assert await application.readiness() == {"started": "The service is stopping."}
        go.set()
        await stopping

        with pytest.raises(NotFound, match="It finished"):
            await running
        assert order == ["command", "after", "background"]
        assert not application.bus.is_connected
        with pytest.raises(Unavailable, match="The tenancy service is not running"):
            await gateway.call(workspace, GetWorkspace())

    async def test_a_background_task_that_ends_by_itself_is_named(self, make: Compose) -> None:
        async def short() -> None:
            raise ValueError("no more work")

        application = make()
        application.background("short", short)
        await application.start()

        assert await asyncio.wait_for(application.failed(), timeout=2) == "tenancy:short: no more work"


class TestOperations:
    @pytest.fixture
    async def ask(self, make: Compose) -> AsyncIterator[Callable[[str], Awaitable[httpx.Response]]]:
        application = make()
        await application.start()
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=Operations([application])), base_url="http://ops"
        ) as client:
            yield client.get

    async def test_ready_tells_every_check(self, ask: Callable[[str], Awaitable[httpx.Response]]) -> None:
        answer = await ask("/ready")

        assert answer.status_code == 200
        assert answer.json()["status"] == "ready"
        assert set(answer.json()["checks"]) == {
            f"tenancy.{name}" for name in ("bus", "database", "clock", "isolation", "relay", "schedule")
        }

    async def test_not_ready_says_which(self, make: Compose) -> None:
        status, _, body = await Operations([make()])._respond("/ready")

        assert status == 503
        assert orjson.loads(body) == {"status": "not_ready", "checks": {"tenancy.started": "The service is starting."}}

    async def test_health_asks_nothing(self, make: Compose) -> None:
        assert (await Operations([make()])._respond("/health"))[::2] == (200, b'{"status":"ok"}')

    async def test_metrics_are_for_prometheus(self, ask: Callable[[str], Awaitable[httpx.Response]]) -> None:
        answer = await ask("/metrics")

        assert answer.headers["content-type"].startswith("text/plain")
        assert 'causeloop_bus_connected{service="tenancy"}' in answer.text

    async def test_anything_else_is_not_there(self, ask: Callable[[str], Awaitable[httpx.Response]]) -> None:
        assert (await ask("/v1/secrets")).status_code == 404


class TestRun:
    @pytest.fixture(autouse=True)
    async def process(self) -> AsyncIterator[None]:
        """Give back what `run` takes of a process that is not its own here."""
        thresholds = gc.get_threshold()
        yield
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_serves_until_it_is_asked_to_stop(self, make: Compose, number: signal.Signals) -> None:
        application, stopped = make(CommandRouter({})), asyncio.Event()

        async def after() -> None:
            stopped.set()

        async def ready() -> None:
            assert (await application.readiness())["bus"] == "ok"
            os.kill(os.getpid(), number)

        application.after_serving(after)
        await asyncio.wait_for(run([application], ready=ready), timeout=10)

        assert stopped.is_set()

    @pytest.mark.usefixtures("unprotected")
    async def test_raises_what_kept_a_service_from_starting(self, make: Compose) -> None:
        with pytest.raises(IsolationError, match="tenancy refuses to run"):
            await asyncio.wait_for(run([make()]), timeout=10)

    async def test_ends_when_a_background_task_does(self, make: Compose) -> None:
        async def short() -> None:
            return

        application = make()
        application.background("short", short)
        with pytest.raises(SystemExit, match="1"):
            await run([application])

    async def test_serves_http_once_everything_is_started(self, make: Compose) -> None:
        application, answers = make(), []
        listener = Listener.on(Operations([application]), "127.0.0.1", 0)
        application.http(lambda: listener)

        async def ready() -> None:
            port = listener.servers[0].sockets[0].getsockname()[1]
            async with httpx.AsyncClient() as client:
                answers.append((await client.get(f"http://127.0.0.1:{port}/health")).json())
            os.kill(os.getpid(), signal.SIGTERM)

        await asyncio.wait_for(run([application], ready=ready), timeout=10)
        assert answers == [{"status": "ok"}]

    @pytest.mark.parametrize(
        "head",
        [
            b"Host: a\r\nHost: b\r\n\r\n",
            b"\r\n",
            b"Host: a\r\nX: " + 100_000 * b"a",
            b"Host: a\r\n" + 9_000 * b"X-A: a\r\n",
        ],
        ids=["two hosts", "no host", "a long header", "many headers"],
    )
    async def test_bounds_what_it_reads_of_a_request_about_its_operations(self, make: Compose, head: bytes) -> None:
        """E16: the operations' port took heads of any size into memory, and any number of hosts."""
        listener = serving.operating([make()])
        served = asyncio.create_task(listener.serve())
        while not listener.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.servers[0].sockets[0].getsockname()[1])
        try:
            writer.write(b"GET /health HTTP/1.1\r\n" + head)
            assert (await asyncio.wait_for(reader.read(12), 5)) == b"HTTP/1.1 400"
        finally:
            writer.close()
            listener.should_exit = True
            await served

    async def test_serves_on_and_is_not_ready_before_its_port_closes(self, make: Compose) -> None:
        """F14: SIGTERM closed the port at once, before a balancer could send its requests elsewhere."""
        application, found = make(), {}
        listener = Listener.on(Operations([application]), "127.0.0.1", 0, delay=60)
        application.http(lambda: listener)
        asking: list[asyncio.Task[None]] = []

        async def ask() -> None:
            port = listener.servers[0].sockets[0].getsockname()[1]
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                assert (await client.get("/ready")).status_code == 200
                os.kill(os.getpid(), signal.SIGTERM)

                async def stopping() -> bool:
                    return (await client.get("/ready")).status_code == 503

                await eventually(stopping)
                found["checks"] = (await client.get("/ready")).json()["checks"]
                async with httpx.AsyncClient() as new:  # on a connection of its own
                    found["health"] = (await new.get(f"http://127.0.0.1:{port}/health")).status_code
                found["bus"] = application.bus.is_connected
            os.kill(os.getpid(), signal.SIGTERM)  # the second ends the delay

        async def ready() -> None:
            asking.append(asyncio.create_task(ask()))

        await asyncio.wait_for(run([application], ready=ready), timeout=20)
        await asking[0]
        assert found == {"checks": {"tenancy.started": "The service is stopping."}, "health": 200, "bus": True}
