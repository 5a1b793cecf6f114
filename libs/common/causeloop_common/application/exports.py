"""The way of spans and metrics to a collector; OpenTelemetry's SDK is loaded only where there is one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from causeloop_common.settings import Settings, read_headers

if TYPE_CHECKING:
    from causeloop_common.telemetry.export import Collector, Metrics, Spans


def spans(settings: Settings) -> "Spans | None":
    """The way of a service's spans to the collector, if there is one; only then OpenTelemetry's SDK is loaded."""
    if settings.otlp_endpoint is None:
        return None
    from causeloop_common.telemetry.export import Spans  # noqa: PLC0415

    collector = _collector(settings, settings.otlp_endpoint)
    return Spans(settings.service, collector, sampler=settings.trace_sampler, ratio=settings.trace_ratio)


def metrics(services: Sequence[Settings]) -> "Metrics | None":
    """The way of the process's metrics to the collector, if there is one and it takes them."""
    settings = services[0]
    if settings.otlp_endpoint is None or settings.metrics_exporter == "none":
        return None
    from causeloop_common.telemetry.export import Metrics  # noqa: PLC0415

    name = settings.service if len(services) == 1 else ""
    return Metrics(name, _collector(settings, settings.otlp_endpoint), seconds=settings.metric_milliseconds / 1000)


def _collector(settings: Settings, endpoint: str) -> "Collector":
    from causeloop_common.telemetry.export import Collector  # noqa: PLC0415

    headers = read_headers(settings.otlp_headers.get_secret_value()) if settings.otlp_headers else {}
    return Collector(endpoint, headers, settings.otlp_ca_file)
