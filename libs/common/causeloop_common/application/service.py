"""The parts of one service: composed in its `app.py`, started in order, watched, and drained."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from functools import cached_property, partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from causeloop_common import leases, schedules, telemetry
from causeloop_common.application import exports
from causeloop_common.application.listener import GRACE_SECONDS, Listener
from causeloop_common.contracts import topology
from causeloop_common.contracts.announced import Announced
from causeloop_common.database import Connections, Database, look_at, role_connections
from causeloop_common.errors import AppError, Unavailable
from causeloop_common.leader import PATIENCE_SECONDS, Leader, Work
from causeloop_common.memory import Memories
from causeloop_common.messaging import Bus, CommandRouter, EventRouter, reach
from causeloop_common.relay import Relay
from causeloop_common.rls import IsolationError, Tables
from causeloop_common.scheduler import Scheduler, Task, forget_expired
from causeloop_common.settings import Settings, SettingsError
from causeloop_common.telemetry import metrics
from causeloop_common.worker import JobService, Runs, StepOf, Worker

if TYPE_CHECKING:
    from causeloop_common.outbound import Outbound

_log = logging.getLogger(__name__)

_START_SECONDS = 60.0
_PROOF_REMEMBERED_SECONDS = 15.0

Check = Callable[[], Awaitable[None]]


class Application:
    """One service: composed in its `app.py`, run by `run`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = settings.service
        self.keys = settings.keyring()
        self._spans = exports.spans(settings)
        self.tracer = telemetry.UNTRACED if self._spans is None else self._spans.tracer
        """Makes the service's spans."""
        self.bus = Bus(settings, self.keys, self.tracer)
        self.memories = Memories(self.bus)
        self._databases: list[Database] = []
        self._scheduler: Scheduler
        self._connections: dict[str, Connections] = {}
        self._commands: CommandRouter | None = None
        self._about_jobs: JobService | None = None
        self._background: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._before: list[Check] = []
        self._after: list[Check] = []
        self._checks: dict[str, Check] = {"bus": self._check_bus}
        self._states: dict[str, Check] = {}
        self._examinations: dict[str, Check] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._proven_at = float("-inf")
        self._not_serving: str | None = "The service is starting."
        self._http: Callable[[], Listener] | None = None

    @cached_property
    def outbound(self) -> "Outbound":
        """The way out of the installation, loaded by the services that take it. SettingsError for a bad CA file."""
        from causeloop_common.outbound import Outbound  # noqa: PLC0415

        return Outbound(self.settings, self.tracer)

    def database(self, tables: Tables) -> Database:
        """The service's schema, proven at start and while ready."""
        database = Database(
            self.settings.dsn(f"causeloop_{self.name}"),
            self.name,
            tables,
            workers=self.settings.database_workers,
            tracer=self.tracer,
        )
        self._databases.append(database)
        self._checks["database"] = database.ping
        self._checks["clock"] = database.check_clock
        self._checks["isolation"] = self._check_isolation
        leader = self.leader(database, schedules.LEASE, lease=schedules.LEASE_SECONDS)
        self._scheduler = Scheduler(leader, self.name)
        self.leads(leader, self._scheduler)
        self.every("forget_expired", partial(forget_expired, tables), hours=1)
        return database

    def every(self, name: str, task: Task, *, hours: float) -> None:
        """Do a task once per period in one replica, in transactions of the role of the service's jobs."""
        self._scheduler.every(name, task, seconds=hours * 3600)

    def connections(self, role: str) -> Connections:
        """The connections of one of the service's roles that works across tenants."""
        if role not in self._connections:
            self._connections[role] = role_connections(self.settings.dsn(role), role)
        return self._connections[role]

    def leader(
        self,
        database: Database,
        name: str,
        *,
        patience: float = PATIENCE_SECONDS,
        lease: float = leases.LEASE_SECONDS,
    ) -> Leader:
        """This process's part in one kind of work, of which one replica at a time is the leader: for `leads`.

        `patience` is the time in seconds after which work that waits, or stands still, makes it not ready; `lease` the
        time after which a leader that fell silent is succeeded.
        """
        role = leases.leader_of(database.tables, name)
        return Leader(self.connections(role), self.name, name, patience=patience, lease=lease)

    def leads(self, leader: Leader, work: Work) -> None:
        """Do this work in one replica at a time."""
        self.background(leader.name, partial(leader.run, work))
        self.state(leader.name, leader.check)

    def relay(self, database: Database) -> None:
        """Put the events of this database on the bus."""
        database.at_once = {kind.type: self._publish for kind in topology.prompt(self.name)}
        leader = self.leader(database, "relay")
        key = self.keys.own("relay/v1")
        relay = Relay(leader, self.name, self.bus, database.published, key)
        self.leads(leader, relay)
        self.examination("receipts", relay.examine)

    def commands(self, router: CommandRouter) -> None:
        """Answer commands."""
        self._commands = router

    def jobs(self, database: Database, *steps: StepOf) -> None:
        """Answer the commands about this service's jobs, and do the steps of each kind of them."""
        self._about_jobs = JobService(database)
        runs = Runs(database, self.bus, steps)
        if steps:
            worker = Worker(self.connections(schedules.role(self.name)), self.name, self.bus, runs.run)
            database.enqueued = worker.wake
            self.background("jobs", worker.run)
            self.state("jobs", worker.check)

    def events(self, router: EventRouter) -> None:
        """Follow a durable consumer."""
        router.attach(self.bus)
        self.background(router.consumer.name, router.run)
        self.state(router.consumer.name, router.check)

    def background(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """A task that runs as long as the service; if it ends by itself the process stops, to be started again."""
        self._background.append((name, run))

    def check(self, name: str, check: Check) -> None:
        """A check of something outside this process, for readiness and `causeloop doctor`: raises AppError with a
        sentence, also when it cannot look.
        """
        self._checks[name] = check

    def state(self, name: str, check: Check) -> None:
        """A readiness check of what this process remembers of its work. Where it does not run there is nothing to look
        at, so `causeloop doctor` leaves it out.
        """
        self._states[name] = check

    def examination(self, name: str, check: Check) -> None:
        """A check for `causeloop doctor` alone, of something that the service can do without for a while."""
        self._examinations[name] = check

    def http(self, listener: Callable[[], Listener]) -> None:
        """Serve HTTP once everything else is started."""
        self._http = listener

    def listener(self) -> Listener | None:
        """The HTTP listener of this service, if it has one."""
        return self._http() if self._http is not None else None

    def before_serving(self, step: Check) -> None:
        """Run once when database and bus are there, before the first command."""
        self._before.append(step)

    def after_serving(self, step: Check) -> None:
        """Run once when the service stops, after the last command."""
        self._after.append(step)

    async def start(self) -> None:
        """Start in order; IsolationError when the database does not isolate."""
        metrics.BUILD.labels(self.name, version("causeloop-common")).set(1)
        if self._spans is not None:
            self._spans.start()
        for database in self._databases:
            await self._patiently(database.start)
        await self._prove()
        for role, connections in self._connections.items():
            with contextlib.suppress(Unavailable):  # the role's work waits for its server, the service does not
                await look_at(role, connections)
        await self._patiently(self.bus.connect)
        for step in self._before:
            await step()
        await self.bus.start()
        for name, run in (("bus", self.bus.ended), *self._background):
            self._tasks.append(asyncio.create_task(run(), name=f"{self.name}:{name}"))  # type: ignore[arg-type]
        if self._commands is not None:
            if self._about_jobs is not None:
                self._commands.add(dict(self._about_jobs.handlers()))
            await self._commands.start(self.bus, workers=self.settings.database_workers)
        await self.bus.flush()
        self.memories.clear()  # what was read before the subscriptions were in force may be out of date
        self._not_serving = None
        _log.info("%s is ready", self.name)

    def leave(self) -> None:
        """Be not ready from now on, while everything is still served, so that balancers send no more."""
        self._not_serving = "The service is stopping."

    async def stop(self) -> None:
        """Stop taking commands, let the running ones end, and leave in the reverse order."""
        self.leave()
        if self._commands is not None:
            await self._commands.drain(GRACE_SECONDS)
        for step in self._after:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(step(), GRACE_SECONDS)
        ending: set[asyncio.Task[None]] = set(self._tasks)
        deadline = time.monotonic() + GRACE_SECONDS
        while ending and time.monotonic() < deadline:  # a library may swallow a cancellation: ask again
            for task in ending:
                task.cancel()
            _, ending = await asyncio.wait(ending, timeout=0.5)
        await self.bus.close()
        for database in self._databases:
            await database.stop()
        for connections in self._connections.values():
            await connections.close(GRACE_SECONDS)
        if self._spans is not None:
            await self._spans.stop()

    async def failed(self) -> str:
        """Wait until a background task ends by itself, and name it."""
        if not self._tasks:
            await asyncio.Event().wait()
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        return f"{task.get_name()}: {task.exception() or 'ended'}" if not task.cancelled() else task.get_name()

    async def readiness(self) -> dict[str, str]:
        """Every check by name: 'ok', or the sentence of what is wrong. Before all is started, only that."""
        if self._not_serving is not None:
            return {"started": self._not_serving}

        checks = self._checks | self._states
        return dict(zip(checks, await asyncio.gather(*map(_finding, checks.values())), strict=True))

    async def examine(self) -> dict[str, str]:
        """The checks of a start, once and without serving; by name 'ok' or a sentence with what is wrong."""
        steps: dict[str, Check] = {}
        for database in self._databases:
            steps |= {"database": database.start, "postgres": database.examine, "isolation": self._prove}
        steps["bus"] = self._examine_bus
        steps |= {name: check for name, check in self._checks.items() if name not in steps} | self._examinations
        try:
            return {name: await _finding(step, seconds=10) for name, step in steps.items()}
        finally:
            for step in self._after:
                await step()
            await self.bus.close()
            for database in self._databases:
                await database.stop()
            for connections in self._connections.values():
                await connections.close(1)

    async def _publish(self, event: Announced) -> None:
        """Forget in this process what a committed event makes untrue, and let the other replicas do so."""
        self.memories.forget(event)
        await self.bus.publish(event)

    async def _prove(self) -> None:
        for database in self._databases:
            if findings := await database.prove():
                raise IsolationError(self.name, findings)
        self._proven_at = time.monotonic()

    async def _patiently(self, step: Check) -> None:
        """Repeat a step while what it needs is still starting, for a minute."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                return await step()
            except Unavailable as error:
                if time.monotonic() > deadline:
                    raise
                self._not_serving = error.detail
                _log.warning("waiting: %s", error.detail)
                await asyncio.sleep(0.25)

    async def _check_isolation(self) -> None:
        if time.monotonic() - self._proven_at < _PROOF_REMEMBERED_SECONDS:
            return
        try:
            await self._prove()
        except IsolationError as error:
            raise Unavailable(str(error)) from error

    async def _examine_bus(self) -> None:
        await self.bus.connect()
        await reach.examine(self.bus)

    async def _check_bus(self) -> None:
        self.bus.check()
        self.bus.check_clock()


async def _finding(check: Check, seconds: float = 3) -> str:
    """'ok', or the sentence of what is wrong."""
    try:
        await asyncio.wait_for(check(), timeout=seconds)
    except AppError as error:
        return error.detail
    except (IsolationError, SettingsError) as error:
        return str(error)
    except TimeoutError:
        return f"No answer within {seconds:g} seconds."
    except Exception as error:  # noqa: BLE001  however a check fails, it is reported by name
        return f"The check failed: {type(error).__name__}."
    return "ok"
