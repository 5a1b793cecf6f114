"""`causeloop audit verify`: the verifier of libs/log as a command, and what only a log at a gateway needs.

That bent files are refused is tested in libs/log; here, that the command does what the verifier does.
"""

import json
from importlib.resources import files as resources
from pathlib import Path

import pytest

from causeloop_cli.audit import log
from causeloop_cli.main import main

VECTORS = json.loads(resources("causeloop_log").joinpath("vectors", "files.json").read_text(encoding="ascii"))
TEXTS = {vector["name"]: vector.get("text") for vector in VECTORS["accepted"]}
KEY = VECTORS["key"]
ORIGIN = KEY.partition("+")[0]


def verify(*arguments: str) -> int:
    return main(["audit", "verify", *arguments])


@pytest.fixture
def export(tmp_path: Path) -> Path:
    path = tmp_path / "log.ndjson"
    path.write_bytes(TEXTS["export.ndjson"].encode())
    return path


class TestTheCommand:
    def test_shows_each_step_and_ends_with_its_verdict(self, export: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert verify(str(export), "--key", KEY) == 0
        shown = capsys.readouterr().out
        for number, name in enumerate(("key", "checkpoint", "entries", "completeness", "root"), start=1):
            assert f"  {number}  ok      {name}" in shown
        assert f"VERIFIED: {ORIGIN}, 6 entries." in shown
        assert "Not shown: that each is true." in shown

    def test_without_a_key_says_what_its_verdict_is_worth(
        self, export: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert verify(str(export)) == 0
        shown = capsys.readouterr().out
        assert "SELF-ASSERTED" in shown
        assert "The key came with the log" in shown

    def test_names_the_step_that_did_not_hold(self, export: Path, capsys: pytest.CaptureFixture[str]) -> None:
        export.write_bytes(export.read_bytes().replace(b"sn105", b"sn115"))
        assert verify(str(export), "--key", KEY) == 1
        shown = capsys.readouterr().out
        assert "  5  FAILED  root" in shown
        assert shown.endswith("NOT VERIFIED: step 5, root.\n")

    def test_takes_the_key_from_a_file_and_keeps_the_checkpoint_for_the_next_time(
        self, export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        key, kept = tmp_path / "key", tmp_path / "kept"
        key.write_text(f"{KEY}\n")
        for _ in range(2):
            assert verify(str(export), "--key", str(key), "--kept", str(kept)) == 0
        assert "  6  ok      history" in capsys.readouterr().out
        assert kept.read_text() == TEXTS["log.checkpoint"]

    def test_keeps_nothing_of_a_log_that_did_not_hold(self, export: Path, tmp_path: Path) -> None:
        kept = tmp_path / "kept"
        kept.write_text(TEXTS["log.checkpoint"])
        export.write_bytes(b"\n".join(export.read_bytes().split(b"\n")[:4]) + b"\n")
        assert verify(str(export), "--key", KEY, "--kept", str(kept)) == 1
        assert kept.read_text() == TEXTS["log.checkpoint"]

    def test_verifies_the_file_of_one_proof(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "one.tlog-proof"
        path.write_text(TEXTS["entry-4.tlog-proof"])
        assert verify(str(path), "--key", KEY) == 0
        assert "  4  ok      inclusion" in capsys.readouterr().out

    def test_of_one_entry_no_history_can_be_shown(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "one.tlog-proof"
        path.write_text(TEXTS["entry-4.tlog-proof"])
        assert verify(str(path), "--key", KEY, "--kept", str(tmp_path / "kept")) == 2
        assert "--kept is for a log" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["nowhere", "."])
    def test_names_the_file_that_cannot_be_read(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        """E33: it is no verdict about the log."""
        assert verify(name, "--key", KEY) == 2
        assert f"{name} cannot be read" in capsys.readouterr().err


class TestALogAtAGateway:
    def test_a_checkpoint_that_is_none_asks_for_no_entries(self) -> None:
        for size in ("²", "9" * 5000, "-1"):
            assert log.size_of(f"a\n{size}\nb\n\n— a b\n") == 0
