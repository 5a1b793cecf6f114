"""The documents agree with the code."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from causeloop_cli.services import tables
from causeloop_common.contracts.topology import OWNERS, SERVICES
from causeloop_common.settings import Settings, own_name
from causeloop_common.telemetry import metrics
from causeloop_common.telemetry.tracing import ATTRIBUTES
from tests.documents.pages import in_code, rows
from tests.support.stack import Stack

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "libs/*/README.md", "services/*/README.md")
    for path in ROOT.glob(pattern)
)


def settings_of(service: str) -> type[Settings]:
    kinds = vars(import_module(f"causeloop_{service}.settings")).values()
    (found,) = (
        k
        for k in kinds
        if isinstance(k, type) and issubclass(k, Settings) and k.__module__.startswith(f"causeloop_{service}")
    )
    return found


def example(default: object) -> str:
    """A default as an environment has it."""
    match default:
        case None:
            return ""
        case bool():
            return str(default).lower()
        case float():
            return f"{default:g}"
        case tuple() | frozenset():
            return ",".join(sorted(map(str, default)))
        case _:
            return str(default)


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

    @pytest.mark.parametrize("service", SERVICES)
    async def test_lists_every_check_of_readiness(self, stack: Stack, service: str) -> None:
        printed = {
            in_code(check)[0]
            for check, services, _ in rows("docs/observability.md", "Readiness")
            if services == "all" or service in services.split(", ")
        }
        checks = (await stack.readiness(service))["checks"]
        assert {f"{service}.{check}" for check in printed - {"started"}} == set(checks)

    def test_alarms_name_metrics_that_there_are(self) -> None:
        text = (ROOT / "docs/observability.md").read_text()
        known = {
            sample
            for metric in vars(metrics).values()
            if isinstance(metric, MetricWrapperBase)
            for sample in (metric._name, *(f"{metric._name}_{part}" for part in ("total", "bucket", "sum", "count")))
        }
        assert set(re.findall(r"\bcauseloop_\w+", text)) <= known

    def test_an_alarm_adds_a_rate_up_before_it_compares_it_with_zero(self) -> None:
        """A process exports the counters that only others move, too: their rate is always 0 there."""
        idle = re.findall(r"\S*\brate\(causeloop_\w+\[\w+\]\)+ == 0", (ROOT / "docs/observability.md").read_text())
        assert idle
        assert all(rate.startswith("sum(") for rate in idle)


class TestTheExampleEnvironment:
    @pytest.mark.parametrize("service", SERVICES)
    def test_names_every_setting_of_every_service(self, service: str) -> None:
        text = (ROOT / ".env.example").read_text()
        named = set(re.findall(r"^#?\s*([A-Z][A-Z0-9_]+)=", text, re.MULTILINE))
        fields = settings_of(service).model_fields.values()
        assert {own_name(field.alias, service) for field in fields if field.alias} <= named

    def test_names_nothing_else_and_every_default_as_it_is(self) -> None:
        written = dict(re.findall(r"(?m)^([A-Z][A-Z0-9_]+)=(.*)$", (ROOT / ".env.example").read_text()))
        defaults = {
            own_name(field.alias, service): example(None if field.is_required() else field.default)
            for service in SERVICES
            for field in settings_of(service).model_fields.values()
            if field.alias
        }
        assert written == {**defaults, "NATS_NKEY_SEED_OPERATOR": ""}


class TestContributing:
    def test_lists_every_target_of_make(self) -> None:
        printed = {word for command, _ in rows("CONTRIBUTING.md", "Set-up") for word in in_code(command)}
        targets = re.findall(r"(?m)^([a-z-]+):.*## ", (ROOT / "Makefile").read_text())
        assert printed == {"make", *(f"make {target}" for target in targets if target != "help")}

    def test_lists_every_package(self) -> None:
        printed = {word for package, *_ in rows("CONTRIBUTING.md", "Packages") for word in in_code(package)}
        assert printed == {*(str(path.relative_to(ROOT)) for path in ROOT.glob("libs/*")), "services/*"}


class TestEveryPage:
    @pytest.mark.parametrize("document", PAGES)
    def test_every_relative_link_leads_somewhere(self, document: str) -> None:
        path = ROOT / document
        for link in re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", path.read_text()):
            assert (path.parent / link).exists(), link


class TestTheDecisions:
    def test_are_listed_by_number_with_their_titles(self) -> None:
        records = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
        titles = [record.read_text().splitlines()[0].removeprefix("# ") for record in records]
        listed = re.findall(r"(?m)^\| \[(.+?)\]\((.+?)\)", (ROOT / "docs/decisions/README.md").read_text())
        assert listed == list(zip(titles, (record.name for record in records), strict=True))
        numbers = [int(record.name[:4]) for record in records]
        assert [title.partition(".")[0] for title in titles] == list(map(str, numbers))
        assert len(numbers) == len(set(numbers))

    def test_have_their_status_and_their_four_parts(self) -> None:
        for record in sorted((ROOT / "docs/decisions").glob("[0-9]*.md")):
            lines = record.read_text().splitlines()
            assert lines[2].startswith(("Accepted.", "Superseded by ")), record.name
            parts = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
            assert parts == ["Context", "Decision", "Consequences", "Alternatives"], record.name


class TestPersonalData:
    def test_every_column_that_names_a_person_is_marked(self) -> None:
        """The page is written from the marks; `causeloop schemas --check` compares it."""
        names = {"actor", "created_by", "owner", "person_id", "principal"}
        columns = [column for name in OWNERS for table in tables(name).sorted_tables for column in table.columns]
        assert [str(one) for one in columns if one.name in names and "personal" not in one.info] == []
