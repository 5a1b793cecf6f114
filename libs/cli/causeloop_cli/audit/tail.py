"""`causeloop audit tail`: every entry of a workspace's log as it arrives, each exactly once, whatever is cut.

--action, --actor and --target print only the entries that have these. In a terminal, what was refused or failed is red.

It ends when the gateway refuses to go on, when nobody answers at the start, and on Ctrl-C.
"""

import argparse
import os
import sys
from contextlib import suppress

from causeloop_cli.audit import client
from causeloop_client import ClientError, Problem
from causeloop_client.stream import Event
from causeloop_log import entry
from causeloop_log.command import printable
from causeloop_log.entry import Entry, NotCanonical


def main(options: argparse.Namespace) -> int:
    """Follow the log."""
    is_selective = any((options.begins, options.actor, options.target))
    in_color = sys.stdout is not None and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    with suppress(KeyboardInterrupt), client.gateway(options) as gateway:
        for event in gateway.follow(options.start, waiting=_waiting):
            found = _entry(event)
            if is_selective and not (isinstance(found, Entry) and _is_selected(found, options)):
                continue
            line = event.data if options.json else _readable(event, found)
            is_bad = in_color and isinstance(found, Entry) and found.outcome in ("denied", "failure")
            print(f"\033[31m{line}\033[0m" if is_bad and not options.json else line, flush=True)
    return 0


def _entry(event: Event) -> Entry | str:
    """The entry of an event; what it is instead, if it is none that this version reads."""
    if event.kind == "pruned":
        return "removed by retention"
    try:
        return entry.read(event.data.encode())
    except NotCanonical as error:  # such as an entry of a later version
        return f"{error}: --json shows it"


def _is_selected(found: Entry, options: argparse.Namespace) -> bool:
    return (
        found.action.startswith(options.begins or "")
        and options.actor in (None, found.actor)
        and options.target in (None, found.target)
    )


def _readable(event: Event, found: Entry | str) -> str:
    """Index, time, action, actor and target of an entry; for whom the actor acted; an outcome other than success."""
    if isinstance(found, str):
        return printable(f"{event.id}  {found}")
    shown = [f"{event.id:>4}", found.time, f"{found.action:<26}", found.actor, found.target]
    if found.on_behalf_of is not None:
        shown.append(f"for {found.on_behalf_of}")
    if found.outcome is not None and found.outcome != "success":
        shown.append(found.outcome)
    return printable("  ".join(shown))


def _waiting(seconds: float, failure: ClientError | None) -> None:
    if isinstance(failure, Problem):
        print(failure, file=sys.stderr)
    print(f"The stream was cut; connecting again in {seconds:.1f} s.", file=sys.stderr)
