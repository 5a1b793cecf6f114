"""Spans to a collector by OTLP: protobuf over HTTP, in batches, on a thread of its own.

The one module that knows the OpenTelemetry SDK, loaded only when there is a collector. The queue is bounded; a span
that does not fit, or cannot be delivered, is dropped and counted. A collector that is away costs a request nothing
and the log one line a minute.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from causeloop_common.telemetry.metrics import SPANS
from causeloop_common.telemetry.tracing import Span

_log = logging.getLogger(__name__)

QUEUE = 4096
"""Spans that wait at most: a few hundred requests, two megabytes."""
STOP_SECONDS = 2.0
_BATCH = 512
_DELAY_MILLISECONDS = 1000
_TIMEOUT_SECONDS = 3.0
_COMPLAINT_SECONDS = 60.0

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_FINE, _FAULT = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


class Export:
    """The way of one service's spans to the collector."""

    def __init__(self, service: str, endpoint: str, headers: dict[str, str], ca_file: str | None) -> None:
        self._resource = Resource(
            {"service.name": f"causeloop-{service}", "service.version": version("causeloop-common")}
        )
        self._scope = InstrumentationScope("causeloop", version("causeloop-common"))
        self._overflow = SPANS.labels(service, "overflow")
        self._taken = 0
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # `_Delivery` logs it, and less often
        self._delivery = _Delivery(
            OTLPSpanExporter(
                endpoint=f"{endpoint.rstrip('/')}/v1/traces",
                headers=headers,
                certificate_file=ca_file,
                timeout=_TIMEOUT_SECONDS,
                compression=Compression.Gzip,
            ),
            service,
        )
        self._processor = BatchSpanProcessor(
            self._delivery,
            max_queue_size=QUEUE,
            schedule_delay_millis=_DELAY_MILLISECONDS,
            max_export_batch_size=_BATCH,
            export_timeout_millis=_TIMEOUT_SECONDS * 1000,
        )

    def put(self, span: Span) -> None:
        """Queue a span that ended, or drop it when the queue is full."""
        if self._taken - self._delivery.seen >= QUEUE:
            self._overflow.inc()
            return
        self._taken += 1
        self._processor.on_end(self._readable(span))

    async def stop(self) -> None:
        """Deliver what is queued, within two seconds, and end the thread."""
        loop, delivered = asyncio.get_running_loop(), asyncio.Event()

        def deliver() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]
            with suppress(RuntimeError):  # too late: the loop is closed
                loop.call_soon_threadsafe(delivered.set)

        threading.Thread(target=deliver, name="causeloop-last-spans", daemon=True).start()
        try:
            await asyncio.wait_for(delivered.wait(), STOP_SECONDS)
        except TimeoutError:  # both threads are daemons: a delivery under way keeps nobody from ending
            self._delivery.give_up()

    def _readable(self, span: Span) -> ReadableSpan:
        return ReadableSpan(
            span.name,
            _context(span.traceparent, is_remote=False),
            _context(span.parent, is_remote=True) if span.parent else None,
            self._resource,
            span.exported(),
            kind=SpanKind[span.kind.value],
            status=_FAULT if span.is_fault else _FINE,
            start_time=span.began,
            end_time=span.ended,
            instrumentation_scope=self._scope,
        )


class _Delivery(SpanExporter):
    """The exporter, with its successes and failures counted."""

    def __init__(self, exporter: OTLPSpanExporter, service: str) -> None:
        self._exporter = exporter
        self._delivered = SPANS.labels(service, "delivered")
        self._undelivered = SPANS.labels(service, "undelivered")
        self._lost = 0
        self._complained_at = float("-inf")
        self._is_over = False
        self.seen = 0
        """How many spans left the queue."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Deliver a batch; on the processor's thread."""
        self.seen += len(spans)
        result = SpanExportResult.FAILURE if self._is_over else self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._delivered.inc(len(spans))
        else:
            self._undelivered.inc(len(spans))
            self._complain(len(spans))
        return result

    def give_up(self) -> None:
        """Deliver nothing more, and do not wait to try again."""
        self._is_over = True
        self.shutdown()

    def shutdown(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _complain(self, count: int) -> None:
        self._lost += count
        now = time.monotonic()
        if now - self._complained_at > _COMPLAINT_SECONDS:
            self._complained_at = now
            _log.warning("the trace collector does not take spans; %d are lost so far", self._lost)


def _context(traceparent: str, *, is_remote: bool) -> SpanContext:
    return SpanContext(int(traceparent[3:35], 16), int(traceparent[36:52], 16), is_remote, _SAMPLED)
