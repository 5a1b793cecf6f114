"""Every command in bad surroundings ends with a sentence and a documented code, and never with a traceback.

The commands are those of the parser, so that a new one is tried without a line here.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from causeloop_cli import endings
from causeloop_cli.main import parser
from tests.support.surroundings import CLOSED, Commands, Run, started

CODES = {endings.DONE, endings.NO, endings.UNABLE, endings.INTERRUPTED}
EVENT = "evt_01h455vb4pex5vsknk084sn02q"
TOKEN = "clp_0123456789"
NOWHERE = {
    "CAUSELOOP_URL": "http://127.0.0.1:9",
    "CAUSELOOP_TOKEN": TOKEN,
    "DATABASE_URL": "postgresql://migrator:x@127.0.0.1:9/causeloop",
    "NATS_URL": "nats://127.0.0.1:9",
    "JWT_SECRET": "a-secret-of-at-least-thirty-two-characters",
    "NATS_NKEY_SEED_OPERATOR": "SUAGSWGD2DPD7WFZ2DA4WYZJJHGB2QPYFGYZ3GAU2K2NMMY6VLMAGW52EY",
    "CAUSELOOP_MASTER_KEY": "mZ0c6mO0Gq5d1T3C4lP0w2Zr9a7sVh1uJb8xYkFeN5U=",
    "CLERK_JWKS_URL": "http://127.0.0.1:9/.well-known/jwks.json",
    "CLERK_AUTHORIZED_PARTIES": "http://127.0.0.1:4000",
}
"""Settings that can be read, of servers that are not there."""


def leaves(found: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The arguments of every command that does something, with a value for each that it needs."""
    below = [action for action in found._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        needed = [value for action in found._actions for value in _value(action)]
        yield (*words, *needed)
    for action in below:
        for word, subparser in action.choices.items():
            yield from leaves(subparser, (*words, word))


def _value(action: argparse.Action) -> list[str]:
    if action.option_strings:
        return [action.option_strings[0], "written"] if action.required else []
    if action.nargs == "*" or (action.nargs == "?" and not action.choices):
        return []
    return [str(next(iter(action.choices))) if action.choices else EVENT if action.dest == "event" else "7"]


COMMANDS = {" ".join(arguments): arguments for arguments in leaves(parser())}
_SECONDS = {"servers": 0.3, "serve": 0.5}
"""After so long those are interrupted that go on until they are."""


class Surroundings:
    """What each kind of surroundings changes. `answering` is the port of a server that answers with garbage."""

    def __init__(self, folder: Path, answering: int) -> None:
        self.folder = folder
        self._answering = answering

    def kinds(self) -> dict[str, dict[str, Any]]:
        """By name, what is other than in a run with settings of servers that are not there."""
        missing = str(self.folder / "missing")
        garbage = f"127.0.0.1:{self._answering}"
        return {
            "no settings": {"environ": {}},
            "no server": {},
            "a wrong scheme": {
                "environ": {"CAUSELOOP_URL": "ftp://127.0.0.1", "DATABASE_URL": "mysql://x/y", "NATS_URL": "http://x"}
            },
            "an address that is none": {
                "environ": {"CAUSELOOP_URL": "http://[::1", "DATABASE_URL": "//[", "NATS_URL": "nats://[::1:x"}
            },
            "unreadable files": {
                "environ": {"SSL_CERT_FILE": missing, "NATS_CA_FILE": missing, "OUTBOUND_CA_FILE": "/"},
                "more": ["--token-file", missing, "--key", "/"],
            },
            "a folder where a file belongs": {"environ": {"CAUSELOOP_TOKEN": ""}, "more": ["--token-file", "/"]},
            "closed output": {"stdout": CLOSED},
            "a full disk": {"stdout": "/dev/full"},
            "no home": {"without": ("HOME", "PATH", "USER", "TMPDIR")},
            "an ascii terminal": {"environ": {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}},
            "a folder that cannot be written": {"folder": "/proc"},
            "a folder that is gone": {"gone": True},
            "a bad token": {"environ": {"CAUSELOOP_TOKEN": "päss\tword \x1b[2J"}},
            "a token that is no text": {"more": ["--token-file", "/dev/urandom"], "environ": {"CAUSELOOP_TOKEN": ""}},
            "garbage for an answer": {
                "environ": {
                    "CAUSELOOP_URL": f"http://{garbage}",
                    "DATABASE_URL": f"postgresql://m:x@{garbage}/c?sslmode=disable",
                    "NATS_URL": f"nats://{garbage}",
                    "CLERK_JWKS_URL": f"http://{garbage}/.well-known/jwks.json",
                }
            },
            "a proxy of another kind": {
                "environ": {"CAUSELOOP_URL": "https://x.invalid", "HTTPS_PROXY": "socks5://p", "NO_PROXY": "[::1]"}
            },
            "settings that are none": {
                "environ": {
                    "LOG_LEVEL": "LOUD",
                    "DATABASE_WORKERS": "many",
                    "CAUSELOOP_OPS_PORT": "99999",
                    "NATS_NKEY_SEED_OPERATOR": "SUxx",
                    "CAUSELOOP_MASTER_KEY": "short",
                    "JWT_SECRET": "ä",
                }
            },
            "a dev that is none": {"dev": '{"pids": [1], "gateway_url": 7, "tokens": 5}', "environ": {}},
            "an interrupt": {"seconds": 0.05},
        }

    def run(self, arguments: tuple[str, ...], kind: str) -> Run:
        """A command in a kind of surroundings."""
        changed = self.kinds()[kind]
        place = self.folder / re.sub(r"\W+", "-", f"{kind} {' '.join(arguments)}")[:100]
        place.mkdir()
        if "dev" in changed:
            (place / ".causeloop").mkdir()
            (place / ".causeloop/dev.json").write_text(changed["dev"])
        if arguments[0] == "dev":  # a folder with files of somebody else: refused before anything is started
            (place / "theirs").mkdir()
            (place / "theirs" / "file").touch()
            arguments = (*arguments, "--data", "theirs", "--port", "0")
        without = changed.get("without", ())
        environ = {name: os.environ[name] for name in ("PATH", "HOME") if name not in without}
        if kind not in ("no settings", "a dev that is none"):
            environ |= NOWHERE | changed.get("environ", {})
        more = [word for pair in zip(*[iter(changed.get("more", []))] * 2, strict=True) for word in pair]
        known = _options(arguments)
        more = [
            word for name, word in zip(more[::2], more[1::2], strict=True) if name in known for word in (name, word)
        ]
        return Run(
            (*arguments, *more),
            changed.get("folder") or str(place),
            environ,
            stdout=changed.get("stdout", ""),
            gone=changed.get("gone", False) and arguments[0] != "dev",
            seconds=changed.get("seconds", _SECONDS.get(arguments[0], 1.5)),
        )


def _options(arguments: tuple[str, ...]) -> set[str]:
    """The options of the command that the first words name."""
    found = parser()
    for word in arguments:
        below = [action for action in found._actions if isinstance(action, argparse._SubParsersAction)]
        if not below:
            break
        found = below[0].choices[word]
    return {option for action in found._actions for option in action.option_strings}


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with started() as made:
        yield made


@pytest.fixture(scope="module")
def garbage() -> Iterator[int]:
    """A server that answers everybody with the same bytes, which no client reads."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"garbage \x00\xff \r\n\r\n\x1b[2J" * 50)

    threading.Thread(target=answer, daemon=True).start()
    yield listening.getsockname()[1]
    listening.close()


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory, garbage: int) -> Surroundings:
    return Surroundings(tmp_path_factory.mktemp("surroundings"), garbage)


DROPPING = """
import signal, sys, time
from causeloop_cli import main
from causeloop_cli.__main__ import run

class Interrupted:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def command():
    Interrupted()
    time.sleep(60)

main.main = command
sys.exit(run())
"""
"""A command that is interrupted where Python can raise nothing: in a destructor."""

ENDING = """
import signal, sys
from causeloop_cli import endings
from causeloop_cli.__main__ import run

endings._sentence = lambda error: signal.raise_signal(signal.SIGINT)
sys.argv = ["causeloop", "dead", "list"]
sys.exit(run())
"""
"""A command that is interrupted while it looks for the words of another error."""

BARE = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}

KINDS = tuple(Surroundings(Path("/"), 9).kinds())


@pytest.mark.slow
class TestEveryCommand:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_ends_with_a_sentence_in_any_surroundings(
        self, commands: Commands, surroundings: Surroundings, command: str
    ) -> None:
        """E33, F9, F11: no traceback for what a person can cause, and a code that shows whether it could look."""
        bad = []
        for kind in KINDS:
            one = surroundings.run(COMMANDS[command], kind)
            ended = commands.run(one)
            written = f"{ended.output}\n{ended.error}"
            faults = [word for word in ("Traceback", "Exception", "fault of ours", "never awaited") if word in written]
            if ended.code not in CODES or faults:
                bad.append(f"{kind}: {ended.code} {faults} {' '.join(one.arguments)}\n{ended.error[-3000:]}")
            elif ended.code == endings.UNABLE and not ended.error.strip():
                bad.append(f"{kind}: no sentence")
            elif TOKEN in written or "a-secret-of-at-least" in ended.error:
                bad.append(f"{kind}: a secret is shown")
        assert not bad, "\n\n".join(bad)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_explains_itself_with_an_example_and_its_exit_codes(
        self, commands: Commands, command: str, tmp_path: Path
    ) -> None:
        """F6: `--help` of every command, in any terminal."""
        words = command.split()
        below: Callable[[str], bool] = lambda word: word not in (EVENT, "7", "written", "gateway", "--to", "--since")  # noqa: E731
        named = [word for word in words if below(word)]
        ended = commands.run(Run((*named, "--help"), str(tmp_path), {"PYTHONIOENCODING": "ascii"}))
        assert (ended.code, ended.error) == (0, "")
        assert "example:\n  " in ended.output
        assert f"causeloop {' '.join(named)}" in ended.output
        for code in (0, 1, 2, 70, 130):
            assert re.search(rf"(?m)^  {code} +[ai]", ended.output)


class TestTheProgram:
    def test_knows_its_version(self, commands: Commands, tmp_path: Path) -> None:
        """F6: there was no `--version`."""
        ended = commands.run(Run(("--version",), str(tmp_path)))
        assert (ended.code, ended.error) == (0, "")
        assert re.fullmatch(r"causeloop \d+\.\d+\.\d+\n", ended.output)

    @pytest.mark.parametrize("program", [DROPPING, ENDING], ids=["in a destructor", "at its end"])
    def test_ends_without_a_word_wherever_it_is_interrupted(self, program: str) -> None:
        """E33: a command that was interrupted in a destructor, or at its end, printed a traceback, and went on."""
        ended = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False, env=BARE
        )
        assert (ended.returncode, ended.stderr) == (130, "")
