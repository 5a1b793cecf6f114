"""The end of every command: its exit code, and the sentence on standard error.

    0    it did what was asked
    1    it looked, and the answer is no: not verified, a check failed, a document differs; each refusal of migrate
    2    it could not look or act: an option, a setting, a file, the network, or a refusal
    70   a fault of ours, with its place; CAUSELOOP_TRACEBACK=1 prints all of it
    130  interrupted

No command prints a traceback for something that a person can cause.
"""

import io
import os
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

DONE, NO, UNABLE, FAULT, INTERRUPTED = 0, 1, 2, 70, 130

CODES = """\
exit codes:
  0    it did what was asked
  1    it looked, and the answer is no; each refusal of migrate
  2    it could not look or act: an option, a setting, a file, the network, or a refusal
  70   a fault of ours
  130  interrupted
"""

TRACEBACK = "CAUSELOOP_TRACEBACK"
_LONGEST = 2_000
_OF_SERVERS = ("asyncpg", "nats", "nkeys", "sqlalchemy")
"""The libraries whose errors are about a server that a setting names; none of them has a secret in its words."""


def prepare_output() -> None:
    """Let a terminal or pipe without our characters show ? for them."""
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="replace")


def flush() -> None:
    """Send what was printed, while an error can still be answered. OSError when nobody takes it."""
    if sys.stdout is not None:
        sys.stdout.flush()


def silence() -> None:
    """Let nothing more be written to standard output, whose reader is gone or whose device is full."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def code_of(command: str, error: BaseException, unable: int = UNABLE) -> int:
    """Print the sentence of an error, and return the exit code; `unable` is the command's code for a sentence."""
    if isinstance(error, KeyboardInterrupt):
        warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # it was made, and not yet begun
        sys.unraisablehook = lambda _: None  # so was an event loop, which then cannot be closed
        silence()
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):  # the reader of our output, such as `head`, has had enough
        silence()
        return UNABLE
    if isinstance(error, SystemExit):
        if isinstance(error.code, str):
            _print(command, error.code)
            return UNABLE
        try:
            flush()
        except (OSError, ValueError):
            silence()
            return UNABLE
        return error.code or DONE
    sentence = _sentence(error)
    silence()
    _print(command, sentence or _fault(error))
    return unable if sentence else FAULT


def _sentence(error: BaseException) -> str | None:
    """The words for an error that a person can correct; None for a fault of ours."""
    # Imported when one happens: a command starts sooner without.
    from causeloop_cli.embedded.process import ServerFailed
    from causeloop_client import ClientError
    from causeloop_common.errors import AppError
    from causeloop_common.rls import IsolationError
    from causeloop_common.settings import SettingsError
    from causeloop_log.files import Unusable
    from causeloop_log.verification import Refused

    if isinstance(error, SettingsError | Unusable | IsolationError | AppError | ClientError | ServerFailed | Refused):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        named = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return f"{named}{error.strerror}."
    if isinstance(error, TimeoutError):
        return "There was no answer in time."
    if type(error).__module__.partition(".")[0] in _OF_SERVERS:
        return f"A server refuses, or is none: {' '.join(str(error).split()) or type(error).__name__}."
    return None


def _fault(error: BaseException) -> str:
    if os.environ.get(TRACEBACK) == "1":
        return "".join(traceback.format_exception(error)).rstrip()
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"This is a fault of ours: {type(error).__name__}{place}. {TRACEBACK}=1 prints all of it; report it."


def _print(command: str, sentence: str) -> None:
    with suppress(OSError, ValueError):  # nobody reads it
        print(f"causeloop {command}: {sentence[:_LONGEST]}", file=sys.stderr, flush=True)
