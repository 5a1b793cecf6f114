"""`causeloop audit tail`: every entry of a workspace's log as it arrives, each exactly once, whatever is cut.

It ends when the gateway refuses to go on, when nobody answers at the start, and on Ctrl-C.
"""

import argparse
import sys
from contextlib import suppress

from causeloop_cli.audit import client
from causeloop_client import ClientError, Problem
from causeloop_client.stream import Event
from causeloop_log import entry
from causeloop_log.command import printable
from causeloop_log.entry import NotCanonical


def main(options: argparse.Namespace) -> int:
    """Follow the log."""
    with suppress(KeyboardInterrupt), client.gateway(options) as gateway:
        for event in gateway.follow(options.start, waiting=_waiting):
            print(event.data if options.json else _readable(event), flush=True)
    return 0


def _readable(event: Event) -> str:
    """Index, time, action, actor and target of an entry; for whom the actor acted; an outcome other than success."""
    if event.kind == "pruned":
        return f"{event.id}  removed by retention"
    try:
        found = entry.read(event.data.encode())
    except NotCanonical as error:  # such as an entry of a later version
        return printable(f"{event.id}  {error}: --json shows it")
    shown = [event.id, found.time, found.action, found.actor, found.target]
    if found.on_behalf_of is not None:
        shown.append(f"for {found.on_behalf_of}")
    if found.outcome is not None and found.outcome != "success":
        shown.append(found.outcome)
    return printable("  ".join(shown))


def _waiting(seconds: float, failure: ClientError | None) -> None:
    if isinstance(failure, Problem):
        print(failure, file=sys.stderr)
    print(f"The stream was cut; connecting again in {seconds:.1f} s.", file=sys.stderr)
