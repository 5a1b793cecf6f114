"""`causeloop audit tail`: every entry of a workspace's log as it arrives, each exactly once, whatever is cut.

It ends when the gateway refuses to go on, when nobody answers at the start, and on Ctrl-C.
"""

import argparse
import sys
from contextlib import suppress

from causeloop_cli.audit import client
from causeloop_client import ClientError, Problem
from causeloop_client.stream import Event


def main(options: argparse.Namespace) -> int:
    """Follow the log."""
    with suppress(KeyboardInterrupt), client.gateway(options) as gateway:
        for entry in gateway.follow(options.start, waiting=_waiting):
            print(entry.data if options.json else _readable(entry), flush=True)
    return 0


def _readable(entry: Event) -> str:
    """Index, time, action, actor, target; nothing of it reaches the terminal that the terminal would obey."""
    fields = entry.body
    names = ("time", "action", "actor", "target")
    shown = ["removed by retention"] if entry.kind == "pruned" else [fields[name] for name in names]
    return "  ".join("".join(c if c.isprintable() else "?" for c in str(part)) for part in (entry.id, *shown))


def _waiting(seconds: float, failure: ClientError | None) -> None:
    if isinstance(failure, Problem):
        print(failure, file=sys.stderr)
    print(f"The stream was cut; connecting again in {seconds:.1f} s.", file=sys.stderr)
