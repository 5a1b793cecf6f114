"""Spans: whose child they are, which are kept, and what they may say."""

import asyncio
import subprocess
import sys

import pytest

from causeloop_common.application import Application
from causeloop_common.errors import Conflict, NotFound, Unavailable
from causeloop_common.settings import Settings
from causeloop_common.telemetry import Kind, Span, Tracer, new_traceparent
from causeloop_common.telemetry.tracing import ATTRIBUTES

COLLECTOR = "http://127.0.0.1:4318"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TENANT = "ws_01h455vb4pex5vsknk084sn02q"


@pytest.fixture
def tracer() -> Tracer:
    return Tracer("vault", COLLECTOR)


def a_span(tracer: Tracer, parent: str = "") -> Span:
    return tracer.begin("cmd.vault.put_secret", Kind.CLIENT, parent)


class TestASpan:
    def test_is_the_child_of_what_came_in(self, tracer: Tracer) -> None:
        span = a_span(tracer, PARENT)

        assert span.parent == PARENT
        assert span.traceparent[:36] == PARENT[:36]
        assert span.traceparent[36:52] != PARENT[36:52]

    @pytest.mark.parametrize("parent", ["", "nonsense", PARENT.upper(), PARENT.replace("00-", "ff-", 1)])
    def test_is_a_root_where_nothing_came_in(self, tracer: Tracer, parent: str) -> None:
        span = a_span(tracer, parent)

        assert span.parent == ""
        assert span.traceparent[3:35] != PARENT[3:35]
        assert span.is_sampled

    @pytest.mark.parametrize(("flags", "kept"), [("00", False), ("01", True), ("02", False), ("03", True)])
    def test_is_kept_as_what_came_in_says(self, tracer: Tracer, flags: str, kept: bool) -> None:
        span = a_span(tracer, f"{PARENT[:-2]}{flags}")

        assert span.is_sampled is kept
        assert span.traceparent[-2:] == flags  # and says so to whoever comes next

    def test_ends_once(self, tracer: Tracer) -> None:
        span = a_span(tracer)
        span.end()
        ended = span.ended
        span.end()

        assert span.ended == ended >= span.began


class TestTheRatio:
    def test_of_nothing_keeps_no_trace_that_begins_here(self) -> None:
        tracer = Tracer("vault", COLLECTOR, ratio=0)

        assert not any(a_span(tracer).is_sampled for _ in range(100))
        assert a_span(tracer, PARENT).is_sampled  # somebody else decided

    def test_keeps_about_its_part(self) -> None:
        tracer = Tracer("vault", COLLECTOR, ratio=0.25)

        assert 300 < sum(a_span(tracer).is_sampled for _ in range(2000)) < 700

    def test_decides_a_whole_trace_alike(self) -> None:
        tracer = Tracer("vault", COLLECTOR, ratio=0.5)
        for _ in range(100):
            root = a_span(tracer)
            assert a_span(tracer, root.traceparent).is_sampled is root.is_sampled


class TestWhatASpanSays:
    def test_is_what_the_list_allows(self, tracer: Tracer) -> None:
        span = a_span(tracer)
        span.set("causeloop.tenant", TENANT)
        span.set("causeloop.log_index", 7)
        span.set("causeloop.path", "db/password")
        span.set("http.request.body", "v")

        assert span.exported() == {"causeloop.tenant": TENANT, "causeloop.log_index": 7}

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
    def test_is_no_free_text_and_no_credential_wherever_it_comes_from(self, tracer: Tracer, value: str) -> None:
        span = a_span(tracer)
        span.set("causeloop.request_id", value)

        assert span.exported() == {}

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
    def test_of_a_failure_is_its_code_and_never_its_text(
        self, tracer: Tracer, error: BaseException, code: str, is_fault: bool
    ) -> None:
        span = a_span(tracer)
        with pytest.raises(type(error)), span:
            raise error

        assert span.exported() == {"error.type": code}
        assert span.is_fault is is_fault
        assert span.ended


class TestWithoutACollector:
    def test_there_is_no_tracer(self) -> None:
        application = Application(Settings.load("auth", {"JWT_SECRET": "s" * 32}))

        assert application.tracer is None
        assert application.bus.tracer is None

    def test_nothing_of_the_sdk_is_loaded(self) -> None:
        imports = "; ".join(f"import causeloop_{name}.app" for name in ("gateway", "auth", "tenancy", "vault", "audit"))
        heavy = ["opentelemetry.sdk", "opentelemetry.exporter", "google.protobuf", "requests"]
        said = subprocess.run(
            [sys.executable, "-c", f"{imports}; import sys; print([name for name in {heavy} if name in sys.modules])"],
            capture_output=True,
            check=True,
            text=True,
        )
        assert said.stdout.strip() == "[]"

    async def test_a_tracer_that_was_not_started_takes_spans_and_keeps_none(self, tracer: Tracer) -> None:
        a_span(tracer, new_traceparent()).end()
        await tracer.stop()
