"""Spans and metrics reach the collector; one that is away, silent or slow costs nothing but these."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from opentelemetry import trace
from prometheus_client import REGISTRY, CollectorRegistry

from causeloop_cli.embedded import Janitor
from causeloop_common.contracts import topology
from causeloop_common.telemetry import SpanKind, Tracer, cause, export, metrics, working
from causeloop_common.telemetry.export import Metrics, Spans
from causeloop_dev.authority import Authority
from tests.support.collector import Collector
from tests.support.ports import free_port
from tests.support.stack import Stack, content_of, until

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def spans_to(service: str, url: str, headers: dict[str, str] | None = None, ca_file: str | None = None) -> Spans:
    return Spans(service, export.Collector(url, headers or {}, ca_file), sampler="parentbased_always_on", ratio=1)


@asynccontextmanager
async def tracing(
    service: str, url: str, headers: dict[str, str] | None = None, ca_file: str | None = None
) -> AsyncIterator[Tracer]:
    spans = spans_to(service, url, headers, ca_file)
    spans.start()
    try:
        yield spans.tracer
    finally:
        await spans.stop()


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
    async def test_is_sent_what_there_was_when_the_service_stops(self, own_collector: Collector) -> None:
        shown = counted("vault")
        async with tracing("vault", own_collector.url) as tracer:
            for _ in range(3):
                with working(tracer.start_span("cmd.vault.put_secret", cause(PARENT), SpanKind.SERVER)) as span:
                    span.set_attribute("causeloop.tenant", "ws_1")
            unkept = tracer.start_span("cmd.vault.put_secret", cause(f"{PARENT[:-2]}00"), SpanKind.SERVER)
            unkept.end()

        assert len(own_collector.spans) == shown("delivered") == 3
        first = own_collector.spans[0]
        assert (first.trace_id, first.parent) == (PARENT[3:35], PARENT[36:52])
        assert first.resource == {"service.name": "causeloop-vault", "service.version": "0.1.0"}
        assert first.attributes == {"causeloop.tenant": "ws_1"}

    async def test_hears_each_service_of_a_process_under_its_own_name(self, own_collector: Collector) -> None:
        async with tracing("auth", own_collector.url) as auth, tracing("vault", own_collector.url) as vault:
            auth.start_span("a").end()
            vault.start_span("b").end()

        assert {(span.service, span.name) for span in own_collector.spans} == {
            ("causeloop-auth", "a"),
            ("causeloop-vault", "b"),
        }

    async def test_is_shown_the_headers_it_wants(self, own_collector: Collector) -> None:
        async with tracing("vault", f"{own_collector.url}/", headers={"x-key": "k"}) as tracer:
            tracer.start_span("a").end()

        assert own_collector.headers[0]["x-key"] == "k"

    async def test_of_a_private_authority_is_trusted_by_its_file(self, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        shown = counted("vault")
        collector = Collector(tls=authority.server("127.0.0.1"))
        try:
            for ca_file in (None, str(authority.ca_file)):
                async with tracing("vault", collector.url, ca_file=ca_file) as tracer:
                    tracer.start_span(f"with {ca_file}").end()
        finally:
            collector.close()

        assert [span.name for span in collector.spans] == [f"with {authority.ca_file}"]
        assert (shown("undelivered"), shown("delivered")) == (1, 1)

    async def test_is_not_sent_what_the_list_does_not_allow(self, own_collector: Collector) -> None:
        canary = "canary-7c1f"
        async with tracing("vault", own_collector.url) as tracer:
            span = tracer.start_span("a", attributes={"causeloop.path": canary, "causeloop.tenant": f"no {canary}"})
            span.add_event(canary)
            span.add_link(trace.get_current_span(cause(PARENT)).get_span_context(), {"causeloop.action": canary})
            with pytest.raises(ValueError, match=canary), trace.use_span(span, end_on_exit=True):  # a library's way
                raise ValueError(canary)

        (only,) = own_collector.spans
        assert (only.attributes, only.is_error) == ({}, True)
        assert canary.encode() not in b"".join(own_collector.raw["/v1/traces"])

    @pytest.mark.alone
    async def test_that_is_away_costs_the_spans_and_one_line(self, away: str, caplog: pytest.LogCaptureFixture) -> None:
        shown = counted("vault")
        began = time.monotonic()
        async with tracing("vault", away) as tracer:
            for _ in range(2 * export.QUEUE):
                tracer.start_span("a").end()
            assert time.monotonic() - began < 2
        assert time.monotonic() - began < export.STOP_SECONDS + 2

        async def all_lost() -> bool:
            return shown("overflow") + shown("undelivered") == 2 * export.QUEUE

        await until("every span is counted as lost", all_lost)
        assert shown("delivered") == 0
        assert shown("overflow") > 0
        lines = [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")]
        assert [line.name for line in lines] == ["causeloop_common.telemetry.export"]
        assert "the trace collector does not take spans" in lines[0].getMessage()

    @pytest.mark.alone
    async def test_that_never_answers_does_not_keep_a_service_from_stopping(self, silent: str) -> None:
        shown = counted("vault")
        spans = spans_to("vault", silent)
        spans.start()
        for _ in range(100):
            spans.tracer.start_span("a").end()
        began = time.monotonic()
        await spans.stop()
        assert time.monotonic() - began < export.STOP_SECONDS + 1

        async def ended() -> bool:
            return not [thread for thread in threading.enumerate() if thread.name.startswith(("Otel", "causeloop-"))]

        await until("no thread is left", ended)
        assert shown("undelivered") == 100

    async def test_that_comes_back_is_sent_what_happens_from_then_on(self) -> None:
        port = free_port()
        shown = counted("vault")
        async with tracing("vault", f"http://127.0.0.1:{port}") as tracer:
            tracer.start_span("before").end()

            async def lost() -> bool:
                return shown("undelivered") == 1

            await until("the first is lost", lost)
            collector = Collector(port)
            try:
                tracer.start_span("after").end()

                async def arrived() -> bool:
                    return [span.name for span in collector.spans] == ["after"]

                await until("the next arrived", arrived)
            finally:
                collector.close()


class TestMetrics:
    async def test_reach_the_collector_under_the_names_and_with_the_numbers_of_the_registry(
        self, own_collector: Collector
    ) -> None:
        metrics.COMMANDS.labels("cmd.test.a", "ok").inc(3)
        for seconds in (0.0005, 0.003, 0.003, 9):
            metrics.COMMAND_SECONDS.labels("cmd.test.a").observe(seconds)
        metrics.BUS_CONNECTED.labels("test").set(1)
        exported = Metrics("test", export.Collector(own_collector.url, {"x-key": "k"}, None), seconds=3600)
        exported.start()
        await exported.stop()

        found = own_collector.newest("causeloop-test")
        (counter,) = [one for one in found["causeloop_commands_total"] if one.labels["command"] == "cmd.test.a"]
        assert (counter.kind, counter.labels["outcome"], counter.value) == ("counter", "ok", 3)
        (gauge,) = [one for one in found["causeloop_bus_connected"] if one.labels["service"] == "test"]
        assert (gauge.kind, gauge.value) == ("gauge", 1)
        (timed,) = [one for one in found["causeloop_command_seconds"] if one.labels["command"] == "cmd.test.a"]
        bounds, counts, total = timed.value
        assert (timed.kind, len(counts), total) == ("histogram", len(bounds) + 1, pytest.approx(9.0065))
        assert dict(zip([*bounds, "more"], counts, strict=True)) == {
            bound: {0.001: 1, 0.005: 2, "more": 1}.get(bound, 0) for bound in [*bounds, "more"]
        }
        assert own_collector.headers[0]["x-key"] == "k"
        assert set(counter.resource) == {"service.name", "service.version", "service.instance.id"}
        assert _named(REGISTRY) == set(found)

    async def test_are_delivered_every_so_often(self, own_collector: Collector) -> None:
        exported = Metrics("test", export.Collector(own_collector.url, {}, None), seconds=0.05)
        exported.start()

        async def thrice() -> bool:
            return len(own_collector.headers) >= 3

        try:
            await until("metrics arrived", thrice)
        finally:
            await exported.stop()

    @pytest.mark.alone
    async def test_do_not_keep_a_service_from_stopping(self, silent: str, caplog: pytest.LogCaptureFixture) -> None:
        exported = Metrics("test", export.Collector(silent, {}, None), seconds=0.01)
        exported.start()
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await exported.stop()
        assert time.monotonic() - began < export.STOP_SECONDS + 1

        async def ended() -> bool:
            return not [thread for thread in threading.enumerate() if thread.name.startswith("causeloop-")]

        await until("no thread is left", ended)
        assert [record.getMessage() for record in caplog.records if "does not take metrics" in record.message] == [
            "the collector does not take metrics; deliveries that failed so far: 1"
        ]

    async def test_of_a_gauge_that_cannot_be_read_cost_one_delivery(self, own_collector: Collector) -> None:
        def broken() -> float:
            raise RuntimeError("changed in the middle")

        gauge = metrics.BUS_CONNECTED.labels("broken")
        gauge.set_function(broken)
        exported = Metrics("test", export.Collector(own_collector.url, {}, None), seconds=0.05)
        exported.start()
        try:
            await asyncio.sleep(0.2)
            assert own_collector.metrics == []
            metrics.BUS_CONNECTED.remove("broken")

            async def arrived() -> bool:
                return bool(own_collector.metrics)

            await until("the next delivery arrived", arrived)
        finally:
            await exported.stop()


def _named(registry: CollectorRegistry) -> set[str]:
    """The names of all metrics that have a value, as `/metrics` shows them."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in registry.collect()
        if family.samples
    }


@pytest.fixture
async def rotel(own_collector: Collector, tmp_path: Path) -> AsyncIterator[str]:
    """The address of another maker's collector, which sends on to `own_collector` what it can read."""
    package = pytest.importorskip("rotel", reason="there is no rotel for this platform")
    port = free_port()
    asked = ["--otlp-http-endpoint", f"127.0.0.1:{port}", "--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}"]
    sent = ["--exporter", "otlp", "--otlp-exporter-endpoint", own_collector.url, "--otlp-exporter-protocol", "http"]
    agent = Path(package.__file__).parent / "rotel-agent"
    process = await asyncio.create_subprocess_exec(agent, "start", *asked, *sent, cwd=tmp_path)

    async def listening() -> bool:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        return False

    try:
        await until("rotel listens", listening)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 10)


class TestAnotherMakersCollector:
    async def test_reads_our_spans_and_metrics(self, rotel: str, own_collector: Collector) -> None:
        async with tracing("vault", rotel) as tracer:
            with working(tracer.start_span("a", cause(PARENT), SpanKind.SERVER)) as span:
                span.set_attribute("causeloop.tenant", "ws_1")
        metrics.COMMAND_SECONDS.labels("cmd.test.rotel").observe(0.003)
        exported = Metrics("vault", export.Collector(rotel, {}, None), seconds=3600)
        exported.start()
        await exported.stop()

        async def both() -> bool:
            return bool(own_collector.spans and own_collector.metrics)

        await until("both were sent on", both)
        (only,) = own_collector.spans
        assert (only.trace_id, only.parent, only.kind) == (PARENT[3:35], PARENT[36:52], "SERVER")
        assert only.attributes == {"causeloop.tenant": "ws_1"}
        timed = own_collector.newest("causeloop-vault")["causeloop_command_seconds"]
        assert [one.value[2] for one in timed if one.labels["command"] == "cmd.test.rotel"] == [0.003]


@pytest.mark.slow
class TestAHouseThatStops:
    async def test_delivers_its_last_spans_and_metrics(
        self, own_collector: Collector, janitor: Janitor, tmp_path: Path
    ) -> None:
        house = Stack(tmp_path, janitor, more={"OTEL_EXPORTER_OTLP_ENDPOINT": own_collector.url})
        try:
            await house.start_all()
            person = await house.sign_up()
            content_of(await person.put("/secrets/last", json={"value": "v"}, headers={"traceparent": PARENT}))
        finally:
            await house.stop_all()

        assert {(span.service, span.name) for span in own_collector.trace(PARENT[3:35])} >= {
            ("causeloop-gateway", "PUT /v1/secrets/{path}"),
            ("causeloop-gateway", "cmd.vault.put_secret"),
            ("causeloop-vault", "cmd.vault.put_secret"),
            ("causeloop-vault", "vault transaction"),
        }
        answered = own_collector.newest("causeloop-vault")["causeloop_commands_total"]
        assert [one.value for one in answered if one.labels["command"] == "cmd.vault.put_secret"] == [1]
        assert len({one.resource["service.instance.id"] for one in own_collector.metrics}) == len(topology.SERVICES)


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
                content_of(await person.put("/secrets/a", json={"value": "v"}))
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
