"""What the documents say of the code is what the code says."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from causeloop_common.contracts.topology import SERVICES
from causeloop_common.settings import Settings, own_name
from causeloop_common.telemetry import metrics
from causeloop_common.telemetry.tracing import ATTRIBUTES

ROOT = Path(__file__).parents[2]


def settings_of(service: str) -> type[Settings]:
    kinds = vars(import_module(f"causeloop_{service}.settings")).values()
    (found,) = (
        k
        for k in kinds
        if isinstance(k, type) and issubclass(k, Settings) and k.__module__.startswith(f"causeloop_{service}")
    )
    return found


class TestObservability:
    def test_lists_every_metric_with_its_kind_and_labels(self) -> None:
        text = (ROOT / "docs/observability.md").read_text()
        block = text.partition("<!-- metrics:begin -->")[2].partition("<!-- metrics:end -->")[0]
        printed = re.findall(r"^\| `(causeloop_\w+)` \| (\w+) \| ([^|]*?) \|", block, re.MULTILINE)
        declared = {
            metric._name + ("_total" if metric._type == "counter" else ""): (
                metric._type, ", ".join(f"`{label}`" for label in metric._labelnames) or "–"
            )
            for metric in vars(metrics).values()
            if isinstance(metric, MetricWrapperBase)
        }  # fmt: skip
        assert {name: (kind, labels) for name, kind, labels in printed} == declared
        assert len(printed) == len(declared)

    def test_lists_every_attribute_of_a_span(self) -> None:
        text = (ROOT / "docs/observability.md").read_text()
        block = text.partition("<!-- attributes:begin -->")[2].partition("<!-- attributes:end -->")[0]
        assert set(re.findall(r"`([a-z_]+\.[a-z_.]+)`", block)) == ATTRIBUTES

    def test_alarms_name_metrics_that_there_are(self) -> None:
        text = (ROOT / "docs/observability.md").read_text()
        known = {
            sample
            for metric in vars(metrics).values()
            if isinstance(metric, MetricWrapperBase)
            for sample in (metric._name, *(f"{metric._name}_{part}" for part in ("total", "bucket", "sum", "count")))
        }
        assert set(re.findall(r"\bcauseloop_\w+", text)) <= known


class TestTheExampleEnvironment:
    @pytest.mark.parametrize("service", SERVICES)
    def test_names_every_setting_of_every_service(self, service: str) -> None:
        text = (ROOT / ".env.example").read_text()
        named = set(re.findall(r"^#?\s*([A-Z][A-Z0-9_]+)=", text, re.MULTILINE))
        fields = settings_of(service).model_fields.values()
        assert {own_name(field.alias, service) for field in fields if field.alias} <= named


class TestTheArchitecture:
    def test_fits_in_two_hundred_lines(self) -> None:
        assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 200

    @pytest.mark.parametrize(
        "document",
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/security-model.md", "docs/observability.md"],
    )
    def test_every_relative_link_leads_somewhere(self, document: str) -> None:
        path = ROOT / document
        for link in re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", path.read_text()):
            assert (path.parent / link).exists(), link
