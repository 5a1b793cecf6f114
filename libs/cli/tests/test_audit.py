"""`causeloop audit`: reading server-sent events, and where gateway and token come from."""

import argparse
import io
import json
import os
from pathlib import Path

import pytest

from causeloop_cli.audit import client
from causeloop_cli.audit.sse import Event, Reader
from causeloop_cli.main import main
from causeloop_common.settings import SettingsError

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

    @pytest.mark.parametrize("field", [b"id: a\0b", b"retry: soon", b"retry: -1", b"retry: 1.5"])
    def test_a_field_that_is_not_well_formed_is_passed_over(self, field: bytes) -> None:
        reader = Reader("3")
        reader.feed(field + b"\n\n")
        assert (reader.last_id, reader.retry) == ("3", 1.0)

    def test_a_line_that_never_ends_is_refused(self) -> None:
        reader = Reader()
        reader.feed(b"x" * 1_000_000)
        with pytest.raises(ValueError, match=r"^A line of the stream does not end\.$"):
            reader.feed(b"x" * 100_000)


def options(url: str | None = None, token_file: str | None = None) -> argparse.Namespace:
    return argparse.Namespace(url=url, token_file=token_file)


class TestGateway:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv(client.TOKEN, raising=False)

    @pytest.fixture
    def dev(self) -> None:
        Path(".causeloop").mkdir()
        told = {
            "gateway_url": "http://127.0.0.1:4000",
            "tokens": {"owner": "of-dev"},
            "pids": {"supervisor": os.getpid()},
        }
        Path(".causeloop/dev.json").write_text(json.dumps(told))

    @pytest.mark.usefixtures("dev")
    def test_is_that_of_the_dev_that_runs_here_with_its_owner_s_token(self) -> None:
        assert client.gateway(options()) == ("http://127.0.0.1:4000", "of-dev")

    @pytest.mark.usefixtures("dev")
    def test_a_dev_s_token_is_sent_nowhere_else(self) -> None:
        with pytest.raises(SettingsError, match=r"^Give a token in CAUSELOOP_TOKEN or in a file with --token-file\.$"):
            client.gateway(options("https://causeloop.example.com"))

    @pytest.mark.usefixtures("dev")
    def test_options_and_environment_go_before_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(client.TOKEN, "mine")
        assert client.gateway(options("https://causeloop.example.com/")) == ("https://causeloop.example.com", "mine")

    def test_the_token_is_read_from_a_file_or_from_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("token").write_text("of-file\n")
        assert client.gateway(options("http://x", "token")).token == "of-file"
        monkeypatch.setattr("sys.stdin", io.StringIO("of-input\nmore\n"))
        assert client.gateway(options("http://x", "-")).token == "of-input"
        with pytest.raises(SettingsError, match="cannot be read from missing: FileNotFoundError"):
            client.gateway(options("http://x", "missing"))

    @pytest.mark.parametrize("text", ["", "\n", "a\tb", "ä", "a\x1bb"])
    def test_what_cannot_be_a_token_is_refused(self, text: str) -> None:
        Path("token").write_text(text)
        with pytest.raises(SettingsError, match=r"^Give a token"):
            client.gateway(options("http://x", "token"))

    def test_without_one_it_is_said_what_to_do(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["audit", "tail"]) == 1
        said = capsys.readouterr().err
        assert said == "causeloop audit: Say where the gateway is with --url: no `causeloop dev` runs in this folder.\n"

    @pytest.mark.parametrize("url", ["causeloop.example.com", "file:///etc/passwd", "http://", "//x"])
    def test_an_address_that_is_none_is_refused(self, url: str) -> None:
        with pytest.raises(SettingsError, match="--url is not an http or https address"):
            client.gateway(options(url))


class TestTail:
    def test_of_nobody_is_told_as_a_sentence(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv(client.TOKEN, "mine")
        assert main(["audit", "tail", "--url", "http://127.0.0.1:9"]) == 1
        said = capsys.readouterr().err
        assert said == "causeloop audit: Nobody answers at http://127.0.0.1:9: ConnectError.\n"

    @pytest.mark.parametrize("given", ["-1", "x", "1.0", "1" * 16, "٣"])
    def test_an_index_that_is_none_is_refused(self, given: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["audit", "tail", f"--from={given}"])
        assert "not an index, a number from 0" in capsys.readouterr().err
