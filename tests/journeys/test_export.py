"""Spans reach the collector; one that is away, silent or slow costs nothing but the spans."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from causeloop_cli.embedded import Janitor
from causeloop_common.telemetry import Kind, Tracer, export
from tests.support.collector import Collector
from tests.support.ports import free_port
from tests.support.stack import Stack, told, until

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@asynccontextmanager
async def tracing(service: str, url: str, **more: dict[str, str]) -> AsyncIterator[Tracer]:
    tracer = Tracer(service, url, **more)  # type: ignore[arg-type]
    tracer.start()
    try:
        yield tracer
    finally:
        await tracer.stop()


def counted(service: str) -> Callable[[str], float]:
    """What became of a service's spans since now."""

    def value(outcome: str) -> float:
        labels = {"service": service, "outcome": outcome}
        return REGISTRY.get_sample_value("causeloop_spans_total", labels) or 0.0

    before = {outcome: value(outcome) for outcome in ("delivered", "undelivered", "overflow")}
    return lambda outcome: value(outcome) - before[outcome]


@pytest.fixture
def own_collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def away() -> Iterator[str]:
    """The address of a collector that is not there: the port is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a collector that takes a connection and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


class TestACollector:
    async def test_is_told_what_there_was_when_the_service_stops(self, own_collector: Collector) -> None:
        said = counted("vault")
        async with tracing("vault", own_collector.url) as tracer:
            for _ in range(3):
                with tracer.begin("cmd.vault.put_secret", Kind.SERVER, PARENT) as span:
                    span.set("causeloop.tenant", "ws_1")
            unkept = tracer.begin("cmd.vault.put_secret", Kind.SERVER, f"{PARENT[:-2]}00")
            unkept.end()

        assert len(own_collector.spans) == said("delivered") == 3
        first = own_collector.spans[0]
        assert (first.trace_id, first.parent) == (PARENT[3:35], PARENT[36:52])
        assert first.resource == {"service.name": "causeloop-vault", "service.version": "0.1.0"}
        assert first.attributes == {"causeloop.tenant": "ws_1"}

    async def test_hears_each_service_of_a_process_under_its_own_name(self, own_collector: Collector) -> None:
        async with tracing("auth", own_collector.url) as auth, tracing("vault", own_collector.url) as vault:
            auth.begin("a", Kind.SERVER).end()
            vault.begin("b", Kind.SERVER).end()

        assert {(span.service, span.name) for span in own_collector.spans} == {
            ("causeloop-auth", "a"),
            ("causeloop-vault", "b"),
        }

    async def test_is_shown_the_headers_it_wants(self, own_collector: Collector) -> None:
        async with tracing("vault", f"{own_collector.url}/", headers={"x-key": "k"}) as tracer:
            tracer.begin("a", Kind.SERVER).end()

        assert own_collector.headers[0]["x-key"] == "k"

    @pytest.mark.alone
    async def test_that_is_away_costs_the_spans_and_one_line(self, away: str, caplog: pytest.LogCaptureFixture) -> None:
        said = counted("vault")
        began = time.monotonic()
        async with tracing("vault", away) as tracer:
            for _ in range(2 * export.QUEUE):
                tracer.begin("a", Kind.SERVER).end()
            assert time.monotonic() - began < 2
        assert time.monotonic() - began < export.STOP_SECONDS + 2

        async def all_lost() -> bool:
            return said("overflow") + said("undelivered") == 2 * export.QUEUE

        await until("every span is counted as lost", all_lost)
        assert said("delivered") == 0
        assert said("overflow") > 0
        lines = [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")]
        assert [line.name for line in lines] == ["causeloop_common.telemetry.export"]
        assert "the trace collector does not take spans" in lines[0].getMessage()

    @pytest.mark.alone
    async def test_that_never_answers_does_not_keep_a_service_from_stopping(self, silent: str) -> None:
        said = counted("vault")
        tracer = Tracer("vault", silent)
        tracer.start()
        for _ in range(100):
            tracer.begin("a", Kind.SERVER).end()
        began = time.monotonic()
        await tracer.stop()
        assert time.monotonic() - began < export.STOP_SECONDS + 1

        async def ended() -> bool:
            return not [
                thread for thread in threading.enumerate() if thread.name.startswith(("Otel", "causeloop-last"))
            ]

        await until("no thread is left", ended)
        assert said("undelivered") == 100

    async def test_that_comes_back_is_told_what_happens_from_then_on(self) -> None:
        port = free_port()
        said = counted("vault")
        async with tracing("vault", f"http://127.0.0.1:{port}") as tracer:
            tracer.begin("before", Kind.SERVER).end()

            async def lost() -> bool:
                return said("undelivered") == 1

            await until("the first is lost", lost)
            collector = Collector(port)
            try:
                tracer.begin("after", Kind.SERVER).end()

                async def arrived() -> bool:
                    return [span.name for span in collector.spans] == ["after"]

                await until("the next arrived", arrived)
            finally:
                collector.close()


@pytest.mark.slow
class TestAHouseWithoutItsCollector:
    async def test_works_as_ever(self, away: str, janitor: Janitor, tmp_path: Path) -> None:
        house = Stack(tmp_path, janitor, forked=False, more={"OTEL_EXPORTER_OTLP_ENDPOINT": away})
        try:
            await house.start_all()
            person = await house.sign_up()
            slowest = 0.0
            for _ in range(20):
                began = time.monotonic()
                told(await person.put("/secrets/a", json={"value": "v"}))
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.05)
            assert slowest < 2
            await person.log(least=22)

            async def noticed() -> bool:
                lost = [
                    await house.metric(name, f'causeloop_spans_total{{outcome="undelivered",service="{name}"}}')
                    for name in ("gateway", "vault", "audit")
                ]
                return all(lost)

            await until("the lost spans are counted", noticed)
            complaints = [line for line in house.log("vault") if "does not take spans" in str(line["message"])]
            assert len(complaints) == 1
        finally:
            await house.stop_all()
        assert b"Traceback" not in b"".join(map(house.raw_log, ("gateway", "vault", "audit")))
