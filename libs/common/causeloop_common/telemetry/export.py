"""Spans and metrics to a collector by OTLP: protobuf over HTTP, in batches, on threads of their own.

The one module that loads the OpenTelemetry SDK, itself loaded only when there is a collector. Queues are bounded; what
does not fit, or cannot be delivered, is dropped and counted. A collector that is away costs a request nothing and the
log one line a minute. Threads begin with `start`, in the process that serves: a fork does not copy them.
"""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any, NamedTuple

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import NoOpTracer, Status, StatusCode, Tracer
from prometheus_client import REGISTRY
from requests.utils import get_environ_proxies

from causeloop_common.telemetry.bridge import metrics_data
from causeloop_common.telemetry.metrics import SPANS
from causeloop_common.telemetry.tracing import UNTRACED, may_leave

_log = logging.getLogger(__name__)

QUEUE = 4096
"""Spans that wait at most: a few hundred requests, some megabytes."""
STOP_SECONDS = 2.0
"""For the last spans of a service; the last metrics have half of it."""
_BATCH = 512
_DELAY_MILLISECONDS = 1000
_TIMEOUT_SECONDS = 3.0
_COMPLAINT_SECONDS = 60.0
_VERSION = version("causeloop-common")
_PARENT_BASED = "parentbased_"


class Collector(NamedTuple):
    """Where spans and metrics go: an address to which `/v1/traces` and `/v1/metrics` are added, and how to get in."""

    endpoint: str
    headers: dict[str, str]
    ca_file: str | None

    def exporter(self, kind: type[Any], signal: str) -> Any:
        """The SDK's exporter of a kind, for this collector. Its own log lines are replaced by `_Complaint`."""
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        session = None
        if self.ca_file is not None:  # else REQUESTS_CA_BUNDLE would go before it
            session = requests.Session()
            session.trust_env = False
            session.proxies = dict(get_environ_proxies(self.endpoint))
        return kind(
            endpoint=f"{self.endpoint.rstrip('/')}/v1/{signal}",
            session=session,
            headers=self.headers,
            certificate_file=self.ca_file,
            timeout=_TIMEOUT_SECONDS,
            compression=Compression.Gzip,
        )


class Spans:
    """One service's spans: `tracer` makes them. Before `start` and after `stop` they go nowhere.

    `sampler` is a name that OTEL_TRACES_SAMPLER may have, `ratio` the part of the traces that its "traceidratio" keeps.
    """

    def __init__(self, service: str, collector: Collector, *, sampler: str, ratio: float) -> None:
        self._service = service
        self._collector = collector
        self._provider = TracerProvider(_sampler(sampler, ratio), _resource(service), shutdown_on_exit=False)
        self._delivery: _Delivery | None = None
        tracer = self._provider.get_tracer("causeloop", _VERSION)
        self.tracer: Tracer = UNTRACED if isinstance(tracer, NoOpTracer) else tracer  # where OTEL_SDK_DISABLED is set

    def start(self) -> None:
        """Begin to deliver."""
        self._delivery = _Delivery(self._collector.exporter(OTLPSpanExporter, "traces"), self._service)
        self._provider.add_span_processor(_AllowList(self._delivery, self._service))

    async def stop(self) -> None:
        """Deliver what is queued, within two seconds, and end the thread."""
        if self._delivery is not None:
            await _ended(self._provider.shutdown, self._delivery.give_up, STOP_SECONDS)


class _AllowList(SpanProcessor):
    """Queues of each span what may leave the process: no events, no links, no texts, and only listed attributes."""

    def __init__(self, delivery: "_Delivery", service: str) -> None:
        self._delivery = delivery
        self._overflow = SPANS.labels(service, "overflow")
        self._taken = 0
        self._queue = BatchSpanProcessor(
            delivery,
            max_queue_size=QUEUE,
            schedule_delay_millis=_DELAY_MILLISECONDS,
            max_export_batch_size=_BATCH,
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span that ended, or drop it when the queue is full."""
        if not span.context.trace_flags.sampled:
            return
        if self._taken - self._delivery.seen >= QUEUE:
            self._overflow.inc()
            return
        self._taken += 1
        self._queue.on_end(
            ReadableSpan(
                span.name,
                span.context,
                span.parent,
                span.resource,
                {name: value for name, value in (span.attributes or {}).items() if may_leave(name, value)},
                kind=span.kind,
                status=Status(StatusCode.ERROR if span.status.status_code is StatusCode.ERROR else StatusCode.UNSET),
                start_time=span.start_time,
                end_time=span.end_time,
                instrumentation_scope=span.instrumentation_scope,
            )
        )

    def shutdown(self) -> None:
        """Deliver what is queued."""
        self._queue.shutdown()  # type: ignore[no-untyped-call]


class _Delivery(SpanExporter):
    """The exporter, with its successes and failures counted."""

    def __init__(self, exporter: OTLPSpanExporter, service: str) -> None:
        self._exporter = exporter
        self._delivered = SPANS.labels(service, "delivered")
        self._undelivered = SPANS.labels(service, "undelivered")
        self._complain = _Complaint("the trace collector does not take spans; %d are lost so far")
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


class Metrics:
    """The process's metrics: those of `/metrics`, under the same names, every so many seconds and at the end.

    `name` is the process's: the service that it runs, or the installation's where it runs several.
    """

    def __init__(self, name: str, collector: Collector, *, seconds: float) -> None:
        instance = {"service.instance.id": str(uuid.uuid4())}  # else the counters of two replicas would be one
        self._resource = _resource(name).merge(Resource(instance))
        self._exporter: OTLPMetricExporter = collector.exporter(OTLPMetricExporter, "metrics")
        self._seconds = seconds
        self._complain = _Complaint("the collector does not take metrics; deliveries that failed so far: %d")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="causeloop-metrics", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    async def stop(self) -> None:
        """Deliver once more, within a second, and end the thread."""
        self._ending.set()
        await _ended(self._thread.join, self._exporter.shutdown, STOP_SECONDS / 2)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._ending.wait(self._seconds)
            try:
                result = self._exporter.export(metrics_data(REGISTRY, self._resource))
            except Exception:  # noqa: BLE001  such as a gauge that cannot be read now: the next delivery has it again
                result = MetricExportResult.FAILURE
            if result is not MetricExportResult.SUCCESS:
                self._complain(1)
        self._exporter.shutdown()


class _Complaint:
    """A warning at most once a minute, with the number of what was lost so far."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._lost = 0
        self._complained_at = float("-inf")

    def __call__(self, count: int) -> None:
        self._lost += count
        now = time.monotonic()
        if now - self._complained_at > _COMPLAINT_SECONDS:
            self._complained_at = now
            _log.warning(self._message, self._lost)


def _resource(name: str) -> Resource:
    return Resource({"service.name": "-".join(filter(None, ("causeloop", name))), "service.version": _VERSION})


def _sampler(name: str, ratio: float) -> Sampler:
    """The sampler with one of OpenTelemetry's six names; "parentbased_…" follows the flag of a trace that came in."""
    roots = {"always_on": ALWAYS_ON, "always_off": ALWAYS_OFF, "traceidratio": TraceIdRatioBased(ratio)}
    root = roots[name.removeprefix(_PARENT_BASED)]
    return ParentBased(root) if name.startswith(_PARENT_BASED) else root


async def _ended(end: Callable[[], Any], give_up: Callable[[], Any], seconds: float) -> None:
    """Let a thread do its last work, and wait for it so many seconds at most.

    All threads are daemons: one that still waits for the collector keeps no process from ending.
    """
    loop, over = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        end()
        with suppress(RuntimeError):  # too late: the loop is closed
            loop.call_soon_threadsafe(over.set)

    threading.Thread(target=run, name="causeloop-last", daemon=True).start()
    try:
        await asyncio.wait_for(over.wait(), seconds)
    except TimeoutError:
        give_up()
