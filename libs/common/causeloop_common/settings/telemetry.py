"""Where traces and metrics go."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from causeloop_common.database_url import is_loopback
from causeloop_common.settings.values import WEB, Authority, Part, is_place, read_headers


class TelemetrySettings(Part):
    """A collector, and what it gets."""

    otlp_endpoint: str | None = Field(
        default=None,
        alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        examples=["https://collector.example.com:4318"],
        description="a collector's address (OTLP over HTTP, /v1/traces and /v1/metrics are added); unset: none",
    )
    otlp_headers: SecretStr | None = Field(
        default=None,
        alias="OTEL_EXPORTER_OTLP_HEADERS",
        examples=["x-api-key=secret"],
        description="headers the collector wants, such as a key: name=value, comma-separated, values URL-encoded",
    )
    otlp_ca_file: Authority | None = Field(
        default=None,
        alias="OTEL_EXPORTER_OTLP_CERTIFICATE",
        examples=["/etc/causeloop/collector-ca.pem"],
        description="certificate authority of the collector, if not a public one",
    )
    trace_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = Field(
        default="parentbased_traceidratio",
        alias="OTEL_TRACES_SAMPLER",
        examples=["parentbased_traceidratio"],
        description="which traces are kept; parentbased_…: one that came in follows its own sampled bit",
    )
    trace_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        alias="OTEL_TRACES_SAMPLER_ARG",
        examples=["0.1"],
        description="fraction of the traces that is kept with a sampler …traceidratio",
    )
    metrics_exporter: Literal["otlp", "none"] = Field(
        default="otlp",
        alias="OTEL_METRICS_EXPORTER",
        examples=["otlp"],
        description="none where the collector takes traces only; /metrics is served in any case",
    )
    metric_milliseconds: int = Field(
        default=60_000,
        ge=100,
        le=3_600_000,
        alias="OTEL_METRIC_EXPORT_INTERVAL",
        examples=["60000"],
        description="time between two deliveries of metrics to the collector, in milliseconds",
    )

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_http(cls, endpoint: str | None) -> str | None:
        if endpoint is not None:
            parts = urlsplit(endpoint)
            if parts.scheme not in WEB or parts.query or parts.fragment or not is_place(parts):
                raise ValueError("is no http:// or https:// address")
            if parts.username is not None or parts.password is not None:
                raise ValueError("has a password in it: use OTEL_EXPORTER_OTLP_HEADERS")
            if parts.path.rstrip("/").endswith(("/v1/traces", "/v1/metrics")):
                raise ValueError("ends in a path that is added to it: leave that out")
        return endpoint

    @field_validator("otlp_headers")
    @classmethod
    def _are_headers(cls, headers: SecretStr | None) -> SecretStr | None:
        if headers is not None:
            read_headers(headers.get_secret_value())
        return headers

    def unsafe(self) -> list[str]:
        """A collector that is reached without TLS."""
        problems = super().unsafe()
        if self.otlp_endpoint is not None:
            collector = urlsplit(self.otlp_endpoint)
            if collector.scheme != "https" and not is_loopback(collector.hostname or "localhost"):
                problems.append("OTEL_EXPORTER_OTLP_ENDPOINT leaves this host without TLS: use an https:// address.")
        return problems
