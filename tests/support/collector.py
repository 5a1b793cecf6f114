"""A collector, as far as a test needs one: it takes OTLP over HTTP and keeps every span and metric.

Written by the words of the OTLP specification, on the published protobuf messages: what our exporter sends is read here
as a real collector would.
"""

import gzip
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

KINDS = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}


class Collected(NamedTuple):
    """A span as it arrived; ids in hex, `parent` empty at the root."""

    service: str
    resource: dict[str, Any]
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    attributes: dict[str, Any]
    is_error: bool
    nanoseconds: tuple[int, int]


class Measured(NamedTuple):
    """A point of a metric as it arrived; `value` is a number, or a histogram's bounds, counts and sum."""

    service: str
    resource: dict[str, Any]
    name: str
    kind: str
    labels: dict[str, Any]
    value: Any


class Collector:
    """An HTTP server on a port of its own, until `close`; with `tls` an HTTPS server."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.spans: list[Collected] = []
        self.metrics: list[Measured] = []
        self.raw: dict[str, list[bytes]] = {"/v1/traces": [], "/v1/metrics": []}
        """Every request as protobuf, by its path."""
        self.headers: list[dict[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The value of OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def trace(self, trace_id: str) -> list[Collected]:
        """The spans of a trace so far, in the order in which they began."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.nanoseconds)

    def newest(self, service: str) -> dict[str, list[Measured]]:
        """A service's metrics by name, each point as it arrived last."""
        points = {(one.name, *sorted(one.labels.items())): one for one in self.metrics if one.service == service}
        found: dict[str, list[Measured]] = {}
        for one in points.values():
            found.setdefault(one.name, []).append(one)
        return found

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> bytes:
        raw = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        self.raw[path].append(raw)
        self.headers.append(headers)
        return {"/v1/traces": self._take_spans, "/v1/metrics": self._take_metrics}[path](raw)

    def _take_metrics(self, raw: bytes) -> bytes:
        for of_resource in ExportMetricsServiceRequest.FromString(raw).resource_metrics:
            resource = _values(of_resource.resource.attributes)
            for of_scope in of_resource.scope_metrics:
                for metric in of_scope.metrics:
                    self.metrics += _measured(resource, metric)
        return bytes(ExportMetricsServiceResponse().SerializeToString())

    def _take_spans(self, raw: bytes) -> bytes:
        for of_resource in ExportTraceServiceRequest.FromString(raw).resource_spans:
            resource = _values(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                self.spans += [_collected(resource, span) for span in of_scope.spans]
        return bytes(ExportTraceServiceResponse().SerializeToString())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers["content-length"]))
                known = self.path in collector.raw
                fine = known and headers["content-type"] == "application/x-protobuf"
                answer = collector._take(self.path, headers, body) if fine else b""
                self.send_response(200 if fine else 400)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        return Handler


def _collected(resource: dict[str, Any], span: Any) -> Collected:
    return Collected(
        service=resource["service.name"],
        resource=resource,
        name=span.name,
        kind=KINDS[span.kind],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        attributes=_values(span.attributes),
        is_error=span.status.code == 2,
        nanoseconds=(span.start_time_unix_nano, span.end_time_unix_nano),
    )


def _measured(resource: dict[str, Any], metric: Any) -> list[Measured]:
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind)
    if kind == "sum":
        kind = "counter" if data.is_monotonic and data.aggregation_temporality == 2 else "unknown"
    return [
        Measured(
            resource["service.name"],
            resource,
            metric.name,
            kind,
            _values(point.attributes),
            (list(point.explicit_bounds), list(point.bucket_counts), point.sum)
            if kind == "histogram"
            else point.as_double,
        )
        for point in data.data_points
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
