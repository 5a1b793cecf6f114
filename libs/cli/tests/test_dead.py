"""`causeloop dead` as a command. What it does with letters is tested beside the router, in libs/common."""

import argparse
from pathlib import Path

import pytest

from causeloop_cli import dead, operating
from causeloop_common.settings import SettingsError
from causeloop_dev.testing import Servers


@pytest.fixture
def environ(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", servers.nats_url)
    monkeypatch.setenv("NATS_NKEY_SEED_OPERATOR", servers.seeds["operator"])


@pytest.mark.usefixtures("environ")
class TestCommand:
    @pytest.mark.parametrize("action", ["redrive", "drop"])
    def test_of_all_letters_without_any_it_prints_that_too(
        self, capsys: pytest.CaptureFixture[str], action: str
    ) -> None:
        assert dead.main(argparse.Namespace(action=action, numbers=[], all=True)) == 0
        assert capsys.readouterr().out == "There are no dead letters.\n"

    def test_without_letters_it_prints_that_there_are_none(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert dead.main(argparse.Namespace(action="list")) == 0
        assert capsys.readouterr().out == "There are no dead letters.\n"

    def test_a_letter_that_is_not_there_is_named(self) -> None:
        with pytest.raises(SettingsError, match=r"There is no dead letter 7\."):
            dead.main(argparse.Namespace(action="show", number=7))

    def test_a_redrive_names_letters_or_asks_for_all(self) -> None:
        for numbers, everything in (([], False), ([1], True)):
            with pytest.raises(SettingsError, match="Name dead letters by their numbers or ask for --all"):
                dead.main(argparse.Namespace(action="redrive", numbers=numbers, all=everything))


def test_without_a_credential_it_names_the_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Set NATS_URL and NATS_NKEY_SEED_OPERATOR"):
        operating.credential({"NATS_URL": "nats://127.0.0.1:4222"}, tmp_path)
