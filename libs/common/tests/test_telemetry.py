"""What operators see, and what they must never see."""

import asyncio
import json
import logging
from collections.abc import Iterator
from functools import cached_property

import nkeys
import pytest

from causeloop_common import telemetry
from causeloop_common.application import Listener, Operations
from causeloop_common.contracts import topology
from causeloop_common.keys import KeyRing
from causeloop_common.telemetry import UNTRACED, AccessLog, Act, cause, logs, redact, working

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
TENANT = "ws_01h455vb4pex5vsknk084sn02q"
SUFFIX = "01h455vb4pex5vsknk084sn02q"

CREDENTIALS = {
    "a personal access token": f"clp_pat_{TENANT}_{SUFFIX}{'a' * 52}_0123abcd",
    "a refresh token": f"clp_rt_{TENANT}_{SUFFIX}{'z' * 52}_0123abcd",
    "a JWT": JWT,
    "a JWT without signature": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.",
    "a service's keys": KeyRing.derive(b"s" * 32, "vault", topology.pairs()).dump(),
    "a vault ciphertext": "clv1:12:QUJDREVGRw+/aGlqa2xtbm9w==",
    "an nkey seed": nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER).decode(),
    "an account's seed": nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_ACCOUNT).decode(),
    "a bearer": "Bearer abcdefgh12345678",
    "a bearer in small letters": "bearer 0123456789",
}


class TestRedact:
    @pytest.mark.parametrize("credential", CREDENTIALS.values(), ids=CREDENTIALS.keys())
    def test_strikes_out_every_credential(self, credential: str) -> None:
        found = redact(f'before "{credential}", after')

        assert found == 'before "[redacted]", after'

    @pytest.mark.parametrize("credential", CREDENTIALS.values(), ids=CREDENTIALS.keys())
    def test_strikes_out_every_one_of_several(self, credential: str) -> None:
        assert redact(f"{credential} {credential}") == "[redacted] [redacted]"

    def test_strikes_out_user_and_password_of_an_address_and_keeps_where_it_leads(self) -> None:
        found = redact("cannot reach postgresql://causeloop_auth:p%40ss:word@db.example.com:5432/causeloop?sslmode=x")

        assert found == "cannot reach postgresql://[redacted]@db.example.com:5432/causeloop?sslmode=x"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "GET /v1/secrets/{path:path} 200",
            f"{TENANT} usr_{SUFFIX} ses_{SUFFIX} tok_{SUFFIX}",
            "nats://127.0.0.1:4222",
            '{"bus":"nats://127.0.0.1:4222","mail":"somebody@example.com"}',
            "https://example.com/a?b=c#d",
            "eyJ is how a token begins",
            "The bearer has left",
        ],
    )
    def test_leaves_everything_else(self, text: str) -> None:
        assert redact(text) == text


class Shown:
    """A logger, and the JSON lines it wrote. Set up within the test: pytest gives each phase an output of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    @cached_property
    def log(self) -> logging.Logger:
        telemetry.setup("vault")
        return logging.getLogger("causeloop.test")

    @property
    def text(self) -> str:
        return self._capsys.readouterr().out

    @property
    def line(self) -> dict[str, object]:
        line: dict[str, object] = json.loads(self.text)
        return line


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Iterator[Shown]:
    kept = {name: getattr(logging, name) for name in ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing")}
    loggers = [
        logging.getLogger(name) for name in (None, "uvicorn.access", "uvicorn.error", "httpx", "httpcore", "faststream")
    ]
    levels, handlers = [logger.level for logger in loggers], loggers[0].handlers[:]
    yield Shown(capsys)
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    for name, value in kept.items():
        setattr(logging, name, value)


@pytest.fixture
def unbound() -> Iterator[None]:
    before = logs._act.get()
    logs._act.set(None)
    yield
    logs._act.set(before)


@pytest.mark.usefixtures("unbound")
class TestLog:
    def test_a_line_is_one_json_object(self, shown: Shown) -> None:
        shown.log.info("%s is\nready", "vault", extra={"milliseconds": 1.5})

        line = shown.line
        assert line.pop("time")
        assert line == {
            "level": "INFO",
            "service": "vault",
            "logger": "causeloop.test",
            "message": "vault is\nready",
            "milliseconds": 1.5,
        }

    def test_a_line_carries_the_act_it_belongs_to(self, shown: Shown) -> None:
        telemetry.bind(Act("auth", "req_1", TENANT))

        with working(UNTRACED.start_span("a request", cause(PARENT))):
            shown.log.warning("slow")

        line = shown.line
        assert (line["service"], line["request_id"], line["tenant"]) == ("auth", "req_1", TENANT)
        assert line["trace_id"] == PARENT[3:35]

    @pytest.mark.parametrize("credential", CREDENTIALS.values(), ids=CREDENTIALS.keys())
    def test_no_credential_leaves_in_message_field_or_traceback(self, shown: Shown, credential: str) -> None:
        def fail() -> None:
            raise ValueError(credential)

        try:
            fail()
        except ValueError:
            shown.log.exception("message %s", credential, extra={"field": {"deep": [credential]}})

        text = shown.text
        assert credential not in text
        assert credential[-12:] not in text
        assert set(json.loads(text)) >= {"message", "field", "exception"}

    def test_personal_data_is_left_out(self, shown: Shown) -> None:
        shown.log.info("a sign-in", extra={"address": "203.0.113.9", "device": "Browser", "count": 1})
        line = shown.line
        assert (line["address"], line["device"], line["count"]) == ("[personal]", "[personal]", 1)

    def test_what_cannot_be_written_as_json_is_written_as_text(self, shown: Shown) -> None:
        shown.log.info("odd", extra={"thing": {1, 2}.__class__})

        assert shown.line["thing"] == "<class 'set'>"

    def test_a_warning_that_repeats_itself_is_written_once_a_minute_and_when_it_is_over(
        self, shown: Shown, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """F15: a wrong password logged four lines a second."""
        now = 0.0
        monkeypatch.setattr(logs, "_clock", lambda: now)
        log = shown.log
        for _ in range(4 * 61):
            log.warning("waiting: %s", "the password is wrong")
            log.error("failed")
            now += 0.25
        log.warning("waiting: %s", "the disk is full")
        now += logs.QUIET_SECONDS
        log.info("is ready")

        lines = [line for line in map(json.loads, shown.text.splitlines()) if line["message"] != "failed"]
        assert [(line["level"], line["message"], line.get("repeated")) for line in lines] == [
            ("WARNING", "waiting: the password is wrong", None),
            ("WARNING", "waiting: the password is wrong", 239),
            ("WARNING", "waiting: the disk is full", None),
            ("INFO", "over, after 244 times: waiting: the password is wrong", 3),
            ("INFO", "is ready", None),
        ]

    async def test_the_end_of_a_warning_is_written_though_nothing_else_is(
        self, shown: Shown, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """F15: one line when it is over."""
        monkeypatch.setattr(logs, "QUIET_SECONDS", 0.02)
        shown.log.warning("waiting")
        shown.log.warning("waiting")
        text = shown.text
        async with asyncio.timeout(10):
            while "over, after 2 times: waiting" not in text:
                await asyncio.sleep(0.01)
                text += shown.text

    async def test_a_listener_logs_where_it_is_in_plain_words(self, shown: Shown) -> None:
        """F15: "Press CTRL+C to quit", coloured, stood inside JSON."""
        _ = shown.log
        listener = Listener.on(Operations([]), "127.0.0.1", 0)
        serving = asyncio.create_task(listener.serve())
        async with asyncio.timeout(10):
            while not listener.started:  # noqa: ASYNC110  uvicorn has no event for it
                await asyncio.sleep(0.01)
        port = listener.servers[0].sockets[0].getsockname()[1]
        listener.should_exit = True
        await serving
        assert [json.loads(line)["message"] for line in shown.text.splitlines()] == [
            f"listening on 127.0.0.1, port {port}"
        ]

    def test_debug_is_left_out(self, shown: Shown) -> None:
        shown.log.debug("details")

        assert shown.text == ""


@pytest.mark.usefixtures("unbound")
class TestAccessLog:
    def test_a_request_is_logged_like_everything_else(self, shown: Shown) -> None:
        """F15: route and status were only in the sentence."""
        _ = shown.log
        act = Act("gateway", "req_1", TENANT)

        with working(UNTRACED.start_span("a request", cause(PARENT))):
            AccessLog("gateway").write(act, "GET", "/v1/secrets/{path:path}", 200, 1.25)
            access = shown.line
            telemetry.bind(act)
            logging.getLogger("causeloop.access").info(
                "%s %s %d",
                "GET",
                "/v1/secrets/{path:path}",
                200,
                extra={"method": "GET", "route": "/v1/secrets/{path:path}", "status": 200, "milliseconds": 1.25},
            )
            usual = shown.line

        assert access["trace_id"] == PARENT[3:35]
        assert access.pop("time")
        assert usual.pop("time")
        assert access == usual

    def test_is_silent_where_the_level_says_so(self, shown: Shown) -> None:
        shown.log.root.setLevel("WARNING")

        AccessLog("gateway").write(Act("gateway", "req_1", TENANT), "GET", "/v1/workspace", 200, 1.25)

        assert shown.text == ""
