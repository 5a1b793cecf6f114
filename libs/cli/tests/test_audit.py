"""`causeloop audit`: the address of the gateway and the token, and what `tail` prints."""

import argparse
import io
import json
import os
import re
from importlib.resources import files as resources
from pathlib import Path

import pytest

from causeloop_cli.audit import client, tail
from causeloop_cli.main import main
from causeloop_client.stream import Event
from causeloop_common.settings import SettingsError
from causeloop_log.files import Unusable


def options(url: str | None = None, token_file: str | None = None) -> argparse.Namespace:
    return argparse.Namespace(url=url, token_file=token_file)


class TestGateway:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv(client.TOKEN, raising=False)
        monkeypatch.delenv(client.URL, raising=False)

    @pytest.fixture
    def dev(self) -> None:
        Path(".causeloop").mkdir()
        answer = {
            "gateway_url": "http://127.0.0.1:4000",
            "tokens": {"owner": "of-dev"},
            "pids": {"supervisor": os.getpid()},
        }
        Path(".causeloop/dev.json").write_text(json.dumps(answer))

    @pytest.mark.usefixtures("dev")
    def test_is_that_of_the_dev_that_runs_here_with_its_owner_s_token(self) -> None:
        found = client.gateway(options())
        assert (found.url, found.token) == ("http://127.0.0.1:4000", "of-dev")

    @pytest.mark.usefixtures("dev")
    def test_a_dev_s_token_is_sent_nowhere_else(self) -> None:
        with pytest.raises(SettingsError, match=r"^Give a token in CAUSELOOP_TOKEN or in a file with --token-file\.$"):
            client.gateway(options("https://causeloop.example.com"))

    @pytest.mark.usefixtures("dev")
    def test_options_and_environment_go_before_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(client.TOKEN, "mine")
        found = client.gateway(options("https://causeloop.example.com/"))
        assert (found.url, found.token) == ("https://causeloop.example.com", "mine")

    def test_the_token_is_read_from_a_file_or_from_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("token").write_text("of-file\n")
        assert client.gateway(options("http://x", "token")).token == "of-file"
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"of-input\nmore\n")))
        assert client.gateway(options("http://x", "-")).token == "of-input"
        with pytest.raises(Unusable, match="missing cannot be read: No such file or directory"):
            client.gateway(options("http://x", "missing"))

    @pytest.mark.usefixtures("dev")
    def test_the_environment_names_the_gateway_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """F5: CAUSELOOP_URL and CAUSELOOP_TOKEN are all that a command needs."""
        monkeypatch.setenv(client.URL, "https://causeloop.example.com")
        monkeypatch.setenv(client.TOKEN, "mine")
        assert client.gateway(options()).url == "https://causeloop.example.com"
        assert client.gateway(options("http://x")).url == "http://x"
        monkeypatch.setenv(client.URL, "causeloop.example.com")
        with pytest.raises(SettingsError, match=r"^CAUSELOOP_URL: causeloop\.example\.com is no http or https address"):
            client.gateway(options())

    @pytest.mark.parametrize("text", ["", "\n", "a\tb", "ä", "a\x1bb"])
    def test_what_cannot_be_a_token_is_refused(self, text: str) -> None:
        Path("token").write_text(text)
        with pytest.raises(SettingsError, match=r"^(Give a|The) token in CAUSELOOP_TOKEN or "):
            client.gateway(options("http://x", "token"))

    def test_without_one_the_refusal_has_what_to_do(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["audit", "tail"]) == 2
        assert capsys.readouterr().err == (
            "causeloop audit: Give the gateway's address in CAUSELOOP_URL or with --url, such as "
            "https://causeloop.example.com: no `causeloop dev` runs in this folder.\n"
        )

    @pytest.mark.parametrize("url", ["causeloop.example.com", "file:///etc/passwd", "http://", "//x"])
    def test_an_address_that_is_none_is_refused(self, url: str) -> None:
        with pytest.raises(SettingsError, match=r"^--url: .* is no (http or https )?address"):
            client.gateway(options(url))


def readable(event: Event) -> str:
    return tail._readable(event, tail._entry(event))


class TestTail:
    def test_prints_what_is_asked_for(self) -> None:
        """F13: a person looks for one action, one actor, one thing."""
        text = resources("causeloop_log").joinpath("vectors", "entry-v2.json").read_text(encoding="ascii")
        found = tail._entry(Event("message", json.loads(text)["accepted"][0]["leaf"], "7"))
        assert not isinstance(found, str)

        def is_selected(**given: str | None) -> bool:
            return tail._is_selected(
                found, argparse.Namespace(**{"begins": None, "actor": None, "target": None, **given})
            )

        assert is_selected(begins="vault.", actor=found.actor, target=found.target)
        for name, value in {"begins": found.action, "actor": found.actor, "target": found.target}.items():
            assert is_selected(**{name: value})
            assert not is_selected(**{name: "another"})

    def test_of_nobody_is_reported_as_a_sentence(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv(client.TOKEN, "mine")
        assert main(["audit", "tail", "--url", "http://127.0.0.1:9"]) == 2
        received = capsys.readouterr().err
        assert received == "causeloop audit: Nobody answers at http://127.0.0.1:9: Connection refused.\n"

    @pytest.mark.parametrize(
        ("version", "name", "line"),
        [
            (1, "an entry", "7 2026-01-02T03:04:05.678901+00:00 vault.secret_written usr_2… sec_0…"),
            (
                2,
                "an entry",
                "7 2026-01-02T03:04:05.678901Z vault.secret_revealed svc_0… sec_0… for usr_2…",
            ),
            (
                2,
                "a person, refused",
                "7 2026-01-02T03:04:05.678901Z vault.secret_revealed usr_2… sec_0… denied",
            ),
        ],
    )
    def test_shows_entries_of_both_versions(self, version: int, name: str, line: str) -> None:
        text = resources("causeloop_log").joinpath("vectors", f"entry-v{version}.json").read_text(encoding="ascii")
        leaf = next(vector["leaf"] for vector in json.loads(text)["accepted"] if vector["name"] == name)
        shown = readable(Event("message", leaf, "7"))
        assert re.sub(r"(_[02])[0-9a-z]{25}\b", r"\1…", " ".join(shown.split())) == line

    def test_shows_what_it_cannot_read_in_one_line(self) -> None:
        assert readable(Event("pruned", "{}", "7")) == "7  removed by retention"
        shown = readable(Event("message", '{"v":3}', "7"))
        assert shown == "7  is not an entry of version 1 or 2: --json shows it"

    @pytest.mark.parametrize("given", ["-1", "x", "1.0", "1" * 16, "٣"])
    def test_an_index_that_is_none_is_refused(self, given: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["audit", "tail", f"--from={given}"]) == 2
        assert "not an index, a number from 0" in capsys.readouterr().err
