"""From the registry of metrics to what OTLP carries: the same names, labels, values and buckets.

    counter      a sum that only grows, named as in `/metrics`, with `_total`
    histogram    buckets counted apart, where the registry counts all up to a bound
    gauge        a gauge, and so is everything else

Numbers are totals since the process began ("cumulative").
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_BEGAN = time.time_ns()
_CUMULATIVE = AggregationTemporality.CUMULATIVE
_SCOPE = InstrumentationScope("causeloop")


def metrics_data(registry: Collector, resource: Resource) -> MetricsData:
    """All metrics of a registry as they are now."""
    metrics = list(_metrics(registry, time.time_ns()))
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(_SCOPE, metrics, "")], "")])


def _metrics(registry: Collector, now: int) -> Iterator[Metric]:
    for family in registry.collect():
        data: Sum | Histogram | Gauge
        name = family.name
        if family.type == "counter":
            name += "_total"
            data = Sum(_numbers(family.samples, name, now), _CUMULATIVE, is_monotonic=True)
        elif family.type == "histogram":
            data = Histogram(_histograms(family.samples, name, now), _CUMULATIVE)
        else:
            data = Gauge(_numbers(family.samples, name, now))
        if data.data_points:
            yield Metric(name, family.documentation, family.unit, data)


def _numbers(samples: Iterable[Sample], name: str, now: int) -> list[NumberDataPoint]:
    return [NumberDataPoint(one.labels, _BEGAN, now, one.value) for one in samples if one.name == name]


def _histograms(samples: Iterable[Sample], name: str, now: int) -> list[HistogramDataPoint]:
    """One point per set of labels, whose samples are `_bucket` for each bound in `le`, `_sum` and `_count`."""
    points: dict[tuple[tuple[str, str], ...], dict[str, float]] = defaultdict(dict)
    for one in samples:
        labels = tuple(item for item in one.labels.items() if item[0] != "le")
        points[labels][one.labels.get("le", one.name.removeprefix(name))] = one.value
    return [_histogram(dict(labels), found, now) for labels, found in points.items()]


def _histogram(labels: Mapping[str, str], found: dict[str, float], now: int) -> HistogramDataPoint:
    upto = [(float(bound), int(count)) for bound, count in found.items() if not bound.startswith("_")]
    counts = [count - before for (_, count), before in zip(upto, [0, *(count for _, count in upto)], strict=False)]
    bounds = [bound for bound, _ in upto[:-1]]  # the last is +Inf
    nothing: Any = None  # the registry keeps neither smallest nor largest
    return HistogramDataPoint(labels, _BEGAN, now, upto[-1][1], found["_sum"], counts, bounds, min=nothing, max=nothing)
