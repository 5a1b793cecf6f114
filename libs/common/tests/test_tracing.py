"""Spans: whose child they are, which are kept, and what they may carry."""

import asyncio
import re
import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan

from causeloop_common.application import Application
from causeloop_common.errors import Conflict, NotFound, Unavailable
from causeloop_common.settings import Settings
from causeloop_common.telemetry import (
    UNTRACED,
    SpanKind,
    Tracer,
    cause,
    get_current_span,
    is_tracing,
    traceparent,
    working,
)
from causeloop_common.telemetry.export import Collector, Spans
from causeloop_common.telemetry.tracing import ATTRIBUTES, may_leave

COLLECTOR = Collector("http://127.0.0.1:4318", {}, None)
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TENANT = "ws_01h455vb4pex5vsknk084sn02q"
BROKEN = [
    "",
    "nonsense",
    PARENT.upper(),
    PARENT + "-extra",
    PARENT.replace("00-", "ff-", 1),
    "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
    PARENT + "\n",
    "x" * 1000,
]


def tracer(sampler: str = "parentbased_traceidratio", ratio: float = 1) -> Tracer:
    """A tracer of the SDK, not started: its spans are made and go nowhere."""
    return Spans("vault", COLLECTOR, sampler=sampler, ratio=ratio).tracer


def a_span(tracer: Tracer, parent: str = "") -> ReadableSpan:
    """A span that is kept."""
    span = tracer.start_span("cmd.vault.put_secret", cause(parent), SpanKind.CLIENT)
    assert isinstance(span, ReadableSpan)
    return span


def is_sampled(tracer: Tracer, parent: str = "") -> bool:
    return tracer.start_span("cmd.vault.put_secret", cause(parent)).get_span_context().trace_flags.sampled


class TestASpan:
    def test_is_the_child_of_what_came_in(self) -> None:
        span = a_span(tracer(), PARENT)

        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == (int(PARENT[3:35], 16), int(PARENT[36:52], 16))
        assert span.parent.is_remote
        assert span.context.trace_id == span.parent.trace_id
        assert span.context.span_id != span.parent.span_id

    @pytest.mark.parametrize("parent", BROKEN)
    def test_is_a_root_where_nothing_came_in(self, parent: str) -> None:
        span = a_span(tracer(), parent)

        assert span.parent is None
        assert span.context.trace_id != int(PARENT[3:35], 16)
        assert span.context.trace_flags.sampled

    @pytest.mark.parametrize(("flags", "kept"), [("00", False), ("01", True), ("02", False), ("03", True)])
    def test_is_kept_as_what_came_in_says(self, flags: str, kept: bool) -> None:
        span = tracer().start_span("a", cause(f"{PARENT[:-2]}{flags}"))

        assert span.is_recording() is kept
        assert traceparent(span)[-2:] == flags  # and passes that on to the next

    def test_is_the_current_one_while_it_works(self) -> None:
        span = tracer().start_span("a")
        with working(span):
            inner = tracer().start_span("b")
            assert traceparent() == traceparent(span)
            assert get_current_span() is span
            assert trace.get_current_span() is span  # where a library looks for it

        assert isinstance(inner, ReadableSpan)
        assert inner.parent == span.get_span_context()
        assert traceparent() == ""

    def test_ends_once(self) -> None:
        span = tracer().start_span("a")
        with working(span):
            pass

        assert isinstance(span, ReadableSpan)
        assert span.end_time is not None
        assert span.start_time is not None
        assert span.end_time >= span.start_time
        assert not span.is_recording()


class TestASampler:
    def test_with_a_ratio_of_nothing_keeps_no_trace_that_begins_here(self) -> None:
        none = tracer(ratio=0)

        assert not any(is_sampled(none) for _ in range(100))
        assert is_sampled(none, PARENT)  # somebody else decided

    def test_with_a_ratio_keeps_about_its_part(self) -> None:
        some = tracer(ratio=0.25)

        assert 300 < sum(is_sampled(some) for _ in range(2000)) < 700

    def test_with_a_ratio_decides_a_whole_trace_alike(self) -> None:
        some = tracer(ratio=0.5)
        for _ in range(100):
            root = some.start_span("a", Context())
            assert is_sampled(some, traceparent(root)) is root.get_span_context().trace_flags.sampled

    @pytest.mark.parametrize(
        ("sampler", "root", "of_a_sampled", "of_another"),
        [
            ("always_on", True, True, True),
            ("always_off", False, False, False),
            ("parentbased_always_on", True, True, False),
            ("parentbased_always_off", False, True, False),
            ("parentbased_traceidratio", True, True, False),
            ("traceidratio", True, True, True),
        ],
    )
    def test_does_what_its_standard_name_says(
        self, sampler: str, root: bool, of_a_sampled: bool, of_another: bool
    ) -> None:
        made = tracer(sampler)

        assert is_sampled(made) is root
        assert is_sampled(made, PARENT) is of_a_sampled
        assert is_sampled(made, f"{PARENT[:-2]}00") is of_another


class TestWhatASpanSays:
    def test_is_what_the_list_allows(self) -> None:
        assert may_leave("causeloop.tenant", TENANT)
        assert may_leave("causeloop.log_index", 7)
        assert not may_leave("causeloop.path", "db/password")
        assert not may_leave("http.request.body", "v")
        assert not may_leave("causeloop.tenant", [TENANT])

    @pytest.mark.parametrize(
        "value",
        [
            "a text with spaces",
            "somebody@example.com",
            "x" * 129,
            "",
            "line\nbreak",
            "café",
            f"clp_pat_{TENANT}_0123abcd",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
            "SUAKYRHVIOREXV7EUZTBHUHL7NUMHPMAS7QMDU3GTIUWEI5LDNOXD43IZY",
        ],
    )
    def test_is_no_free_text_and_no_credential_wherever_it_comes_from(self, value: str) -> None:
        assert not may_leave("causeloop.request_id", value)

    def test_is_nothing_about_secrets_or_people(self) -> None:
        for word in ("path", "value", "token", "body", "email", "principal", "address", "agent", "statement", "query"):
            assert not [name for name in ATTRIBUTES if word in name.replace("_", ".").split(".")], word

    @pytest.mark.parametrize(
        ("error", "code", "is_fault"),
        [
            (NotFound("There is no such secret."), "not_found", False),
            (Conflict("canary"), "conflict", False),
            (Unavailable("canary"), "unavailable", True),
            (ValueError("canary"), "internal_error", True),
            (asyncio.CancelledError("canary"), "cancelled", True),
        ],
    )
    def test_of_a_failure_is_its_code_and_never_its_text(self, error: BaseException, code: str, is_fault: bool) -> None:
        span = tracer().start_span("a")
        with pytest.raises(type(error)), working(span):
            raise error

        assert isinstance(span, ReadableSpan)
        assert span.attributes == {"error.type": code}
        assert (span.events, span.status.description) == ((), None)
        assert (not span.status.is_ok) is is_fault
        assert span.end_time


class TestWithoutACollector:
    def test_spans_record_nothing(self) -> None:
        application = Application(Settings.load("auth", {"JWT_SECRET": "s" * 32}))

        assert application.tracer is application.bus.tracer is UNTRACED
        assert not is_tracing(application.tracer)
        assert not application.tracer.start_span("a").is_recording()

    @pytest.mark.parametrize("flags", ["00", "01", "02", "03"])
    def test_a_trace_goes_on_as_it_came(self, flags: str) -> None:
        given = f"{PARENT[:-2]}{flags}"
        with working(UNTRACED.start_span("a", cause(given))):
            assert traceparent() == given
            assert traceparent(UNTRACED.start_span("b")) == given

    def test_a_trace_that_begins_here_has_the_same_ids_for_all(self) -> None:
        with working(UNTRACED.start_span("a")) as span:
            assert traceparent() == traceparent(span) == traceparent(UNTRACED.start_span("b"))

    @pytest.mark.parametrize("parent", BROKEN)
    def test_a_trace_begins_where_none_came_in(self, parent: str) -> None:
        begun = {traceparent(UNTRACED.start_span("a", cause(parent))) for _ in range(100)}

        assert len(begun) == 100
        assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-03", one) for one in begun)  # sampled, a random id
        assert not [one for one in begun if one[3:35] == PARENT[3:35]]

    def test_a_span_that_is_recorded_elsewhere_is_left_alone(self) -> None:
        span = tracer().start_span("a")
        with working(span):
            with working(UNTRACED.start_span("b")):
                assert traceparent() == traceparent(span)
            assert span.is_recording()

    def test_nothing_of_the_sdk_is_loaded(self) -> None:
        imports = "; ".join(f"import causeloop_{name}.app" for name in ("gateway", "auth", "tenancy", "vault", "audit"))
        heavy = ["opentelemetry.sdk", "opentelemetry.exporter", "google.protobuf", "requests"]
        shown = subprocess.run(
            [sys.executable, "-c", f"{imports}; import sys; print([name for name in {heavy} if name in sys.modules])"],
            capture_output=True,
            check=True,
            text=True,
        )
        assert shown.stdout.strip() == "[]"

    def test_a_disabled_sdk_passes_traces_on_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")

        assert tracer() is UNTRACED

    async def test_spans_of_a_service_that_did_not_start_go_nowhere(self) -> None:
        spans = Spans("vault", COLLECTOR, sampler="always_on", ratio=1)
        spans.tracer.start_span("a").end()
        await spans.stop()
