"""Following a log: reading server-sent events, going on after a cut, and giving up."""

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from causeloop_client import ClientError, Problem, Unreachable
from causeloop_client.stream import Event, Reader

if TYPE_CHECKING:
    from conftest import Given, Script

URL = "https://causeloop.example.com"

# White space, line breaks of Unicode that are none here, and an event without data, which is not dispatched.
STREAM = (
    '\ufeff: a comment\nretry: 2500\nid: 6\n\nid: 7\ndata: {"a":"\u2028 \u0085 \x0b"}\n\n'
    "event: pruned\nid:8\ndata:first\ndata: second\n\nunknown: field\ndata\n\nid: 9\ndata: never finished\n"
)
EVENTS = [
    Event("message", '{"a":"\u2028 \u0085 \x0b"}', "7"),
    Event("pruned", "first\nsecond", "8"),
    Event("message", "", "8"),
]
LOST = httpx.ReadError("cut")
UNREACHED = httpx.ConnectError("refused")


class TestReader:
    @pytest.mark.parametrize("end", ["\n", "\r", "\r\n"], ids=["LF", "CR", "CR LF"])
    @pytest.mark.parametrize("size", [1, 2, 7, 10_000])
    def test_events_come_out_whatever_ends_the_lines_and_wherever_the_bytes_are_cut(self, end: str, size: int) -> None:
        data = STREAM.replace("\n", end).encode()
        reader = Reader()
        events = [event for at in range(0, len(data), size) for event in reader.feed(data[at : at + size])]
        assert events == EVENTS
        assert (reader.last_id, reader.retry) == ("8", 2.5)

    def test_an_id_without_data_is_a_position_and_no_event(self) -> None:
        reader = Reader("3")
        assert reader.feed(b"retry: 1000\nid: 41\n") == []
        assert reader.last_id == "3"
        assert reader.feed(b"\n") == []
        assert reader.last_id == "41"

    @pytest.mark.parametrize(
        "field", [b"id: a\0b", b"retry: soon", b"retry: -1", b"retry: 1.5", b"retry: " + b"9" * 4000]
    )
    def test_a_field_that_is_not_well_formed_is_passed_over(self, field: bytes) -> None:
        reader = Reader("3")
        reader.feed(field + b"\n\n")
        assert (reader.last_id, reader.retry) == ("3", 1.0)

    def test_a_line_that_never_ends_is_refused(self) -> None:
        reader = Reader()
        reader.feed(b"x" * 1_000_000)
        with pytest.raises(ValueError, match=r"^A line of the stream does not end\.$"):
            reader.feed(b"x" * 100_000)

    def test_an_event_that_never_ends_is_refused(self) -> None:
        reader = Reader()
        reader.feed(b"data: x\n" * 100_000)
        with pytest.raises(ValueError, match=r"^An event of the stream does not end\.$"):
            reader.feed(b"data: x\n" * 100_000)

    def test_an_entry_that_looks_like_a_heartbeat_ends_nothing(self) -> None:
        reader, between = Reader(), []
        for data in (b"", b"data: the first half", b": heartbeat\n", b"\n"):
            reader.feed(data)
            between.append(reader.is_between)
        assert between == [True, False, False, True]


def entries(*indexes: int) -> bytes:
    return b"".join(b'id: %d\ndata: {"action":"a%d"}\n\n' % (index, index) for index in indexes)


def opening(position: int = -1, retry: int = 1000) -> bytes:
    return b"retry: %d\nid: %d\n\n" % (retry, position)


def end(code: str) -> bytes:
    return b"event: end\ndata: " + json.dumps({"code": code, "detail": f"It is {code}."}).encode() + b"\n\n"


def answer(status: int, *parts: bytes | Exception, **headers: str) -> "Given":
    return status, parts, headers


def refused(status: int, code: str, **headers: str) -> "Given":
    return answer(status, json.dumps({"code": code, "detail": f"It is {code}."}).encode(), **headers)


OVER = refused(401, "unauthorized")


def positions(script: "Script") -> list[str]:
    """The query and the last id of each connection."""
    return [f"{request.url.query.decode()}{request.headers.get('last-event-id', '')}" for request in script.requests]


class TestFollowing:
    def follow(self, script: "Script", *start: int, **more: Any) -> list[int]:
        """The indexes that came, up to a refusal."""
        found: list[Event] = []
        with pytest.raises(Problem, match="unauthorized"):
            script.follow(*start, found=found, **more)
        return [event.index for event in found]

    def test_gives_entries_as_they_are_stored_and_those_that_were_removed(self, script: "Script") -> None:
        pruned = b'id: 1\nevent: pruned\ndata: {"index":1,"leaf_hash":"00"}\n\n'
        later = b"event: of a later version\ndata: x\n\n"
        script.answers(answer(200, opening(), entries(0) + pruned, later + end("unauthorized")))
        found: list[Event] = []
        with pytest.raises(Problem, match=r"^It is unauthorized\.$") as ended:
            script.follow(0, found=found)
        assert [(event.kind, event.index, event.body) for event in found] == [
            ("message", 0, {"action": "a0"}),
            ("pruned", 1, {"index": 1, "leaf_hash": "00"}),
        ]
        assert found[0].data == '{"action":"a0"}'
        assert (ended.value.status, ended.value.code) == (200, "unauthorized")
        assert script.requests[0].url == f"{URL}/v1/audit/stream?from=0"
        assert script.requests[0].headers["accept"] == "text/event-stream"
        assert script.requests[0].headers["authorization"] == "Bearer a-token"

    @pytest.mark.parametrize(
        ("start", "more", "asked"),
        [
            ((), {}, ""),
            ((3,), {}, "from=3"),
            ((), {"after": 7}, "7"),
            ((), {"after": -1}, "-1"),
            ((), {"after": "2/7"}, "2/7"),
        ],
    )
    def test_begins_where_it_is_asked_to(
        self, script: "Script", start: tuple[int, ...], more: dict[str, Any], asked: str
    ) -> None:
        script.answers(OVER)
        self.follow(script, *start, **more)
        assert positions(script) == [asked]

    def test_goes_on_in_the_epoch_that_it_was_in(self, script: "Script") -> None:
        """P6: an id of a later epoch names it, so that the gateway refuses to go on in another one."""
        first = answer(200, b"retry: 1\nid: 2/6\n\n", b'id: 2/7\ndata: {"action":"a"}\n\n', LOST)
        script.answers(first, OVER)
        found: list[Event] = []
        with pytest.raises(Problem, match="unauthorized"):
            script.follow(7, found=found)
        assert [(event.epoch, event.index) for event in found] == [(2, 7)]
        assert positions(script) == ["from=7", "2/7"]

    def test_goes_on_after_the_last_whole_entry_whatever_cuts_it(self, script: "Script") -> None:
        script.answers(
            answer(200, opening(), entries(0, 1)[:-1]),
            answer(200, opening(0) + entries(1, 2) + b"id: 3\ndata: half", LOST),
            answer(200, opening(2), entries(3), end("unavailable")),
            UNREACHED,
            answer(200, entries(4) + b"x" * 2_000_000),
            answer(200, entries(4, 5)),
            OVER,
        )
        assert self.follow(script, 0) == [0, 1, 2, 3, 4, 5]
        assert positions(script) == ["from=0", "0", "2", "3", "3", "3", "5"]

    def test_goes_on_from_the_position_it_was_given_before_the_first_entry(self, script: "Script") -> None:
        script.answers(answer(200, opening(41)), OVER)
        assert self.follow(script) == []
        assert positions(script) == ["", "41"]

    def test_waits_longer_each_time_nobody_answers_and_not_after_a_connection(self, script: "Script") -> None:
        script.answers(answer(200, opening()), *[UNREACHED] * 7, answer(200, opening(retry=2500)), OVER)
        self.follow(script, 0)
        assert script.waits == [1, 2, 4, 8, 16, 30, 30, 30, 2.5]

    def test_waits_as_long_as_the_gateway_asks(self, script: "Script") -> None:
        script.answers(refused(429, "rate_limited", retry_after="7"), answer(503, b"<html>"), OVER)
        self.follow(script, 0)
        assert script.waits == [7, 2]

    def test_tells_its_caller_why_it_waits(self, script: "Script") -> None:
        script.answers(answer(200, opening()), refused(503, "unavailable"), LOST, OVER)
        waits: list[tuple[float, str]] = []
        self.follow(script, 0, waiting=lambda seconds, failure: waits.append((seconds, str(failure))))
        assert waits == [
            (1, "None"), (2, "It is unavailable."), (4, f"Nobody answers at {URL}: ReadError."),
        ]  # fmt: skip

    @pytest.mark.parametrize("code", ["unauthorized", "forbidden", "conflict"])
    def test_ends_when_the_gateway_ends_it_for_good(self, script: "Script", code: str) -> None:
        script.answers(answer(200, entries(0) + end(code)))
        found: list[Event] = []
        with pytest.raises(Problem, match=f"It is {code}") as ended:
            script.follow(0, found=found)
        assert (ended.value.code, [event.index for event in found]) == (code, [0])

    @pytest.mark.parametrize("last", [end("internal_error"), b"event: end\ndata: x\n\n", b"event: end\ndata: 1\n\n"])
    def test_goes_on_when_it_ends_for_another_reason(self, script: "Script", last: bytes) -> None:
        script.answers(answer(200, entries(0) + last), answer(200, entries(1)), OVER)
        assert self.follow(script, 0) == [0, 1]

    @pytest.mark.parametrize(("status", "code"), [(400, "malformed"), (403, "forbidden"), (409, "conflict"), (307, "")])
    def test_ends_when_it_is_refused(self, script: "Script", status: int, code: str) -> None:
        script.answers(answer(200, entries(0)), refused(status, code))
        with pytest.raises(Problem) as refusal:
            script.follow(0)
        assert (refusal.value.status, refusal.value.code) == (status, code)

    def test_reads_no_refusal_without_end(self, script: "Script") -> None:
        script.answers(answer(403, *[b" " * 1_000_000] * 100))
        with pytest.raises(ClientError):
            script.follow(0)

    def test_of_nobody_ends_at_once(self, script: "Script") -> None:
        script.answers(UNREACHED)
        with pytest.raises(Unreachable, match=rf"^Nobody answers at {URL}: ConnectError\.$"):
            script.follow(0)
        assert script.waits == []

    def test_of_nobody_is_tried_again_with_patience(self, script: "Script") -> None:
        script.answers(*[UNREACHED] * 3, answer(200, entries(0)), OVER)
        found: list[Event] = []
        with pytest.raises(Problem, match="unauthorized"):
            script.all(lambda _: script.client(patience=10).follow(0), found)
        assert [event.index for event in found] == [0]


class TestACount:
    def test_ends_after_so_many_entries_and_asks_no_further(self, script: "Script") -> None:
        script.answers(answer(200, entries(0, 1)), answer(200, entries(2, 3, 4)))
        assert [event.index for event in script.follow(0, count=4)] == [0, 1, 2, 3]

    def test_of_nothing_asks_nobody(self, script: "Script") -> None:
        assert script.follow(0, count=0) == []
        assert script.requests == []

    def test_ends_where_the_log_does(self, script: "Script") -> None:
        script.answers(answer(200, entries(0, 1), b": heartbeat\n\n", entries(2)))
        assert [event.index for event in script.follow(0, count=9)] == [0, 1]

    def test_gives_up_when_no_entry_comes_for_a_minute(self, script: "Script") -> None:
        script.answers(answer(200, entries(0)), *[answer(200, opening(0)) for _ in range(100)])
        with pytest.raises(Unreachable, match=r"^The stream was cut again and again, without an entry\.$"):
            script.follow(0, count=2)
        assert 55 <= sum(script.waits) <= 65
