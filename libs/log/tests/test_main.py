"""`causeloop-verify`: a line for each step, a verdict, an exit code, and one sentence for every mistake of its user."""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

from causeloop_log.files import LARGEST, Unusable, replacing, text
from causeloop_log.main import main
from causeloop_log.tlog.note import VerifierKey

FILES = json.loads(files("causeloop_log").joinpath("vectors", "files.json").read_text(encoding="ascii"))
TEXTS = {vector["name"]: vector.get("text") for vector in (*FILES["accepted"], *FILES["refused"])}
KEY = FILES["key"]
ORIGIN = KEY.partition("+")[0]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return written(tmp_path / "log.ndjson", "export.ndjson")


def written(path: Path, name: str) -> Path:
    path.write_bytes(TEXTS[name].encode())
    return path


class TestAVerification:
    def test_shows_each_step_and_ends_with_its_verdict(self, export: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(export), "--key", KEY]) == 0
        shown = capsys.readouterr().out
        for number, name in enumerate(("key", "checkpoint", "entries", "completeness", "root"), start=1):
            assert f"  {number}  ok      {name}" in shown
        assert f"VERIFIED: {ORIGIN}, 6 entries." in shown
        assert shown.endswith("Not shown: that each is true.\n")

    def test_names_the_step_that_did_not_hold(self, export: Path, capsys: pytest.CaptureFixture[str]) -> None:
        export.write_bytes(export.read_bytes().replace(b"sn105", b"sn115"))
        assert main([str(export), "--key", KEY]) == 1
        shown = capsys.readouterr().out
        assert "  5  FAILED  root" in shown
        assert shown.endswith("NOT VERIFIED: step 5, root.\n")

    def test_counts_the_removed_entries_in_its_verdict(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """P7: withheld entries are refused, and where they are accepted the verdict counts them."""
        path = written(tmp_path / "log.ndjson", "export-with-removed-entries.ndjson")
        assert main([str(path), "--key", KEY]) == 1
        assert "Of 2 of 6 entries only the hash is left: --allow-withheld accepts that." in capsys.readouterr().out

        assert main([str(path), "--key", KEY, "--allow-withheld"]) == 0
        shown = capsys.readouterr().out
        assert f"VERIFIED: {ORIGIN}, 6 entries, 2 of them WITHHELD, without content." in shown
        assert "Not shown: what the 2 removed entries were" in shown
        assert "none missing" not in shown

    def test_of_a_proof_shows_the_entry(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for index, entry in (
            (1, "vault.secret_written by usr_2… on sec_0… at 2026-01-02T03:01:05.678901+00:00."),
            (5, "vault.secret_revealed by svc_0… for usr_2… on secret sec_0… at 2026-01-02T03:05:05.678901Z."),
        ):
            path = written(tmp_path / "one.tlog-proof", f"entry-{index}.tlog-proof")
            assert main([str(path), "--key", KEY]) == 0
            shown = re.sub(r"(_[02])[0-9a-z]{25}\b", r"\1…", capsys.readouterr().out)
            assert f"  3  ok      entry         {entry}\n" in shown
            assert f"  4  ok      inclusion     Its index is {index}, in a log of 6 entries.\n" in shown

    def test_of_a_checkpoint_shows_what_it_is_worth(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = written(tmp_path / "log.checkpoint", "log.checkpoint")
        assert main([str(path), "--key", KEY]) == 0
        assert capsys.readouterr().out.endswith(
            "Shown: the log's key signed this checkpoint. Not shown: any entry of it.\n"
        )

    def test_of_an_answer_in_json_names_the_header_that_gets_the_text(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "answer"
        path.write_text('{"size":1,"root":"00","checkpoint":"…"}')
        assert main([str(path), "--key", KEY]) == 1
        assert "  2  FAILED  checkpoint" in (shown := capsys.readouterr().out)
        assert "it is JSON, and `Accept: text/plain` gets the text.\n" in shown

    def test_of_a_checkpoint_that_grew_does_not_claim_that_it_only_grew(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = written(tmp_path / "log.checkpoint", "log.checkpoint")
        kept = tmp_path / "kept"
        kept.write_text(next(v["kept"] for v in FILES["accepted"] if v["name"] == "log-that-grew.checkpoint"))
        before = kept.read_text()
        assert main([str(path), "--key", KEY, "--kept", str(kept)]) == 0
        shown = capsys.readouterr().out
        assert "  3  ok      history       2 entries more than the one you kept.\n" in shown
        assert shown.endswith("Not shown: that the log begins with those entries. An export shows it.\n")
        assert kept.read_text() == before

    def test_takes_the_file_from_standard_input(
        self, export: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for path in (export, written(export.with_name("log.checkpoint"), "log.checkpoint")):
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
            assert main(["-", "--key", KEY]) == 0
        assert capsys.readouterr().out.count("\nVERIFIED: ") == 2


class TestTheKey:
    def test_is_given_as_it_is_written_or_in_a_file(self, export: Path, tmp_path: Path) -> None:
        key = tmp_path / "key"
        key.write_text(f"{KEY}\n")
        assert main([str(export), "--key", str(key)]) == 0
        assert main([str(export), "--key", KEY]) == 0

    @pytest.mark.parametrize(
        "key",
        ["a+b+c", f"{KEY}x", KEY.replace("+", "+0", 1), f"{'x' * 5000}{KEY}", f"{'x+' * 5000}{KEY}"],
        ids=["short", "longer", "another", "very long", "many parts"],
    )
    def test_that_is_none_is_not_looked_with(self, key: str, export: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """E33: a key that is none, however long, is no verdict about the log."""
        assert main([str(export), "--key", key]) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith("causeloop-verify: --key has no verifier key, such as ")
        assert len(shown.err) < 400
        assert "VERIFIED" not in shown.out

    def test_of_another_log_is_refused_by_the_first_step(
        self, export: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([str(export), "--key", str(VerifierKey("x", b"x" * 32))]) == 1
        assert "NOT VERIFIED: step 1, key." in capsys.readouterr().out


class TestTheKeptCheckpoint:
    def test_is_there_for_the_next_time_and_only_for_its_owner(
        self, export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        kept = tmp_path / "kept"
        for _ in range(2):
            assert main([str(export), "--key", KEY, "--kept", str(kept)]) == 0
        assert "  6  ok      history" in capsys.readouterr().out
        assert kept.read_text() == TEXTS["log.checkpoint"]
        assert kept.stat().st_mode & 0o777 == 0o600

    def test_stays_when_a_log_did_not_hold(self, tmp_path: Path) -> None:
        bent = next(vector for vector in FILES["refused"] if vector["name"] == "export-rolled-back.ndjson")
        export, kept = written(tmp_path / "log.ndjson", bent["name"]), tmp_path / "kept"
        kept.write_text(bent["kept"])
        assert main([str(export), "--key", KEY, "--kept", str(kept)]) == 1
        assert kept.read_text() == bent["kept"]

    def test_is_not_written_through_a_link(self, export: Path, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("mine")
        (tmp_path / "kept.unfinished").symlink_to(victim)
        assert main([str(export), "--key", KEY, "--kept", str(tmp_path / "kept")]) == 0
        assert victim.read_text() == "mine"
        assert not (tmp_path / "kept").is_symlink()

    def test_with_other_line_ends_is_refused(self, export: Path, tmp_path: Path) -> None:
        kept = tmp_path / "kept"
        kept.write_bytes(TEXTS["log.checkpoint"].replace("\n", "\r\n").encode())
        assert main([str(export), "--key", KEY, "--kept", str(kept)]) == 2


class TestMistakes:
    """Each ends with code 2 and one sentence."""

    def sentence(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        assert main([*arguments]) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith("causeloop-verify: ")
        assert shown.err.count("\n") == 1
        assert "VERIFIED" not in shown.out
        return shown.err.removeprefix("causeloop-verify: ").strip()

    def test_a_file_that_is_not_there(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        file = str(tmp_path / "nowhere")
        assert self.sentence(capsys, file, "--key", KEY) == f"{file} cannot be read: No such file or directory."
        assert self.sentence(capsys, "x", "--key", file) == f"{file} cannot be read: No such file or directory."

    def test_a_folder(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.sentence(capsys, ".", "--key", KEY) == ". cannot be read: Is a directory."

    def test_a_name_that_a_terminal_would_obey(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.sentence(capsys, "\x1b[2J", "--key", KEY) == "?[2J cannot be read: No such file or directory."

    def test_a_name_that_no_file_can_have(self, capsys: pytest.CaptureFixture[str], export: Path) -> None:
        long = "x" * 5000
        assert self.sentence(capsys, long, "--key", KEY) == f"{long[:200]}… cannot be read: File name too long."
        assert self.sentence(capsys, str(export), "--key", long).startswith(f"{long[:200]}… cannot be read: File name")
        assert "cannot be written" in self.sentence(capsys, str(export), "--key", KEY, "--kept", long)

    def test_a_key_that_is_not_text(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"\xff\xfe")
        assert self.sentence(capsys, "x", "--key", str(tmp_path / "x")) == f"{tmp_path / 'x'} is not UTF-8 text."

    @pytest.mark.parametrize("start", ["", "c2sp.org/tlog-proof@v1\n", "\n\n"])
    def test_a_file_that_is_far_too_large(self, start: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        path = tmp_path / "large"
        path.write_text(f"{start}{'x' * 2 * LARGEST}")
        assert "is larger than anything that belongs there" in self.sentence(capsys, str(path), "--key", KEY)

    @pytest.mark.parametrize(
        ("packed", "what"),
        [
            (gzip.compress, "is compressed (gzip): unpack it first."),
            (bz2.compress, "is compressed (bzip2): unpack it first."),
            (lzma.compress, "is compressed (xz): unpack it first."),
            (lambda text: text.decode().encode("utf-16"), "is UTF-16 text: take the file as it was written, in UTF-8."),
            (lambda text: text.replace(b"\n", b"\r\n"), "has line ends of another system (CR LF): take the file as it"),
            (lambda _: b"", "is empty."),
        ],
        ids=["gzip", "bzip2", "xz", "utf-16", "crlf", "empty"],
    )
    def test_a_file_that_another_program_packed_or_rewrote(
        self, packed: Callable[[bytes], bytes], what: str, export: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """E33: it is not NOT VERIFIED, which is a claim about the log."""
        export.write_bytes(packed(export.read_bytes()))
        assert self.sentence(capsys, str(export), "--key", KEY).startswith(f"{export} {what}")

    def test_an_answer_that_was_kept_as_a_key(self, export: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """F5: a refusal had been kept as `log.key`."""
        key = export.with_name("log.key")
        key.write_text('{"type":"about:blank","status":401}')
        assert "it is JSON" in self.sentence(capsys, str(export), "--key", str(key))

    def test_a_place_that_is_no_file(self, capsys: pytest.CaptureFixture[str], export: Path, tmp_path: Path) -> None:
        """E33: a pipe is never replaced by a file."""
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(Unusable, match="it is no ordinary file"), replacing(tmp_path / "pipe"):
            pass
        assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
        assert self.sentence(capsys, str(export), "--key", KEY, "--kept", "/dev/null")
        assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)

    def test_a_key_that_is_no_file(self, capsys: pytest.CaptureFixture[str], export: Path) -> None:
        assert self.sentence(capsys, str(export), "--key", "log.key").startswith("log.key cannot be read")

    def test_a_kept_checkpoint_beside_a_proof(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        proof = written(tmp_path / "one.tlog-proof", "entry-1.tlog-proof")
        assert self.sentence(capsys, str(proof), "--key", KEY, "--kept", str(tmp_path / "kept")).startswith("--kept is")

    def test_no_kept_checkpoint_where_one_is_compared(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        path = written(tmp_path / "log.checkpoint", "log.checkpoint")
        assert "cannot be read" in self.sentence(capsys, str(path), "--key", KEY, "--kept", str(tmp_path / "kept"))

    def test_a_place_where_nothing_can_be_kept(
        self, capsys: pytest.CaptureFixture[str], export: Path, tmp_path: Path
    ) -> None:
        kept = str(tmp_path / "nowhere" / "kept")
        assert self.sentence(capsys, str(export), "--key", KEY, "--kept", kept).startswith(f"{kept} cannot be written")

    @pytest.mark.parametrize("arguments", [[], ["x"], ["--key", KEY], ["x", "--key", KEY, "--no-such-option"]])
    def test_of_options_show_how_to_call_it(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert "usage: causeloop-verify" in capsys.readouterr().err


class TestTheProgram:
    """As a process."""

    COMMAND = Path(sys.executable).with_name("causeloop-verify")

    def run(self, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
        command = [str(self.COMMAND), *arguments]
        return subprocess.run(command, text=True, stdout=stdout, stderr=subprocess.PIPE, check=False)

    def test_explains_itself(self) -> None:
        done = self.run("--help")
        assert done.returncode == 0
        for code, meaning in ((0, "verified"), (1, "not verified"), (2, "could not look")):
            assert f"  {code}  {meaning}: " in done.stdout

    def test_shows_a_question_mark_for_a_letter_that_the_terminal_does_not_have(self, export: Path) -> None:
        command = [str(self.COMMAND), str(export), "--key", KEY]
        ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=ascii_only)
        assert (done.returncode, done.stderr) == (0, "")
        assert "They hash to the signed root" in done.stdout

    def test_knows_its_version(self) -> None:
        done = self.run("--version")
        assert (done.returncode, done.stdout) == (0, f"causeloop-verify {version('causeloop-log')}\n")

    def test_shows_no_traceback_when_nobody_reads_its_output(self, export: Path) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        done = self.run(str(export), "--key", KEY, stdout=writing)
        os.close(writing)
        assert (done.returncode, done.stderr) == (2, "")


class TestFilesOnTheCommandLine:
    def test_a_link_where_a_file_is_written_is_not_followed(self, tmp_path: Path) -> None:
        victim, target = tmp_path / "victim", tmp_path / "log.ndjson"
        victim.write_text("mine")
        (tmp_path / "log.ndjson.unfinished").symlink_to(victim)
        with replacing(target) as file:
            file.write(b"log")
        assert (victim.read_text(), target.read_text()) == ("mine", "log")
        assert target.stat().st_mode & 0o777 == 0o600

    def test_nothing_is_left_of_a_file_that_was_not_finished(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError, match="division"), replacing(tmp_path / "log.ndjson") as file:
            file.write(b"log" * (1 // 0))
        assert list(tmp_path.iterdir()) == []

    def test_a_file_without_end_is_refused(self) -> None:
        with pytest.raises(Unusable, match="larger than anything that belongs there"):
            text("/dev/zero")
