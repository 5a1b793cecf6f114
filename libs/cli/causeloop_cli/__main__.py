"""`causeloop`, from its very first import to its end: an interrupt ends it without a traceback."""

import os
import signal
import sys

_AGAIN_SECONDS = 0.001


def run() -> int:
    """Run the command of this process's arguments; its exit code."""
    try:
        _repeat_lost_interrupts()
        _keep_standard_files()
        from causeloop_cli.main import main

        return main()
    except KeyboardInterrupt:  # before the command handles it, or while it ends by another error
        return 130


def _repeat_lost_interrupts() -> None:
    """Interrupt again a moment later where Python drops it: in a destructor, a weak reference's callback, at a fork."""
    report = sys.unraisablehook

    def dropped(error: "sys.UnraisableHookArgs") -> None:
        if error.exc_type is KeyboardInterrupt:
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
        else:
            report(error)

    sys.unraisablehook = dropped


def _keep_standard_files() -> None:
    """Open what the caller closed, so that no file or connection becomes standard output and is written to."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one


if __name__ == "__main__":
    sys.exit(run())
