"""`causeloop-verify`: verify an export, a checkpoint or a proof, offline, trusting only a key."""

import argparse
import io
import os
import sys
from importlib.metadata import version
from pathlib import Path

from causeloop_log import command
from causeloop_log.files import Unusable

_WHAT = """\
Verify what a Causeloop log gave out, step by step, trusting only a key.

  causeloop-verify log.ndjson --key log.key                          a whole log, exported
  causeloop-verify log.ndjson --key log.key --kept last.checkpoint   and that it only grew since the last time
  causeloop-verify new.checkpoint --key log.key                      a checkpoint
  causeloop-verify evt_….tlog-proof --key log.key                    the proof of one entry
"""
_CODES = """\
exit codes:
  0  verified: every step held
  1  not verified: a step did not hold, and the last line names it
  2  could not look: a file is missing or unreadable, or the options are wrong

Pin the key when you first see the log, over a channel you trust: GET /v1/audit/key.
"""
_VERIFIED, _NOT_VERIFIED, _COULD_NOT_LOOK, _INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command; its exit code."""
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="replace")  # an encoding without … shows ? for it
    options = _parser().parse_args(arguments)
    try:
        pinned = command.key(options.key)
        held = command.run(
            lambda steps: command.verify_file(steps, options.file, pinned, options.kept),
            pinned=True,
            allow_withheld=options.allow_withheld,
        )
        if sys.stdout is not None:
            sys.stdout.flush()
    except Unusable as error:
        print(f"causeloop-verify: {command.printable(str(error))}", file=sys.stderr)
        return _COULD_NOT_LOOK
    except (
        OSError
    ) as error:  # the reader of our output, such as `head`, is gone, or its disk is full: no verdict is seen
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"causeloop-verify: the output cannot be written: {error.strerror}.", file=sys.stderr)
        return _COULD_NOT_LOOK
    except KeyboardInterrupt:
        return _INTERRUPTED
    return _VERIFIED if held else _NOT_VERIFIED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="causeloop-verify", description=_WHAT, epilog=_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="an export, a checkpoint or a proof; - is standard input")
    parser.add_argument("--key", required=True, help="the log's verifier key that you pinned, or a file that has it")
    parser.add_argument(
        "--kept",
        type=Path,
        metavar="FILE",
        help="the checkpoint of your last verification; an export that holds leaves its own there",
    )
    parser.add_argument(
        "--allow-withheld",
        action="store_true",
        help="accept a log with entries of which only the hash is left; their number is shown",
    )
    parser.add_argument("--version", action="version", version=f"causeloop-verify {version('causeloop-log')}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
