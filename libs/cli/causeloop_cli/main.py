"""The `causeloop` command. Each subcommand is a module that is imported when it is called.

The commands of the development stack (`dev`, `demo`, …) are there where libs/dev is installed; no image has them.
"""

import argparse
import os
import sys
from importlib import import_module
from importlib.util import find_spec

from causeloop_common.contracts.topology import SERVICES


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; an error that a person can mend is printed as a sentence, without a traceback."""
    options = _parser().parse_args(arguments)
    try:
        command = import_module(f"{options.package}.{options.command}")
        return int(command.main(options) or 0)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not isinstance(error, _mendable()):
            raise
        print(f"causeloop {options.command}: {error}", file=sys.stderr)
        return 1


def _mendable() -> tuple[type[Exception], ...]:
    """The errors that a person can correct. Imported when one happens: a command starts sooner without."""
    from causeloop_cli.embedded.process import ServerFailed
    from causeloop_client import ClientError
    from causeloop_common.errors import AppError
    from causeloop_common.rls import IsolationError
    from causeloop_common.settings import SettingsError
    from causeloop_log.files import Unusable

    return (SettingsError, Unusable, IsolationError, AppError, ClientError, ServerFailed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="causeloop", description="The security core of a multi-tenant product.")
    parser.set_defaults(package="causeloop_cli")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    serve = _command(commands, "serve", "run one or more services in this process; settings come from the environment")
    serve.add_argument("services", nargs="+", choices=SERVICES, metavar="service", help=", ".join(SERVICES))

    _command(commands, "migrate", "bring the database at DATABASE_URL, streams and consumers to this version")
    _command(commands, "doctor", "prove tenant isolation and check everything a service needs")

    keys = _command(
        commands, "keys", "print the keys of one service, derived from JWT_SECRET, as lines of its environment"
    )
    keys.add_argument("service", nargs="?", choices=SERVICES, metavar="service", help=", ".join(SERVICES))
    keys.add_argument(
        "--nats",
        nargs="?",
        const="both",
        choices=("seeds", "config", "both"),
        help="print, instead, new bus credentials (seeds), the NATS server's configuration for them (config), or both",
    )

    _dead(_command(commands, "dead", "list, show and redrive the events that a service could not handle"))
    events = _command(commands, "events", "handle the stream of events").add_subparsers(
        dest="action", required=True, metavar="action"
    )
    _command(events, "purge", "remove from the streams what all their consumers have had, to make space")
    _audit(_command(commands, "audit", "follow, export and verify a workspace's log, as any client can"))
    if find_spec("causeloop_dev") is not None:
        import_module("causeloop_dev.commands").declare(commands)
    return parser


def _dead(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    _command(actions, "list", "print a line for each dead letter, oldest first")
    show = _command(actions, "show", "print a dead letter: its attributes and its data, in which secrets are sealed")
    show.add_argument("number", type=_index, help="the letter's number, as `list` prints it")
    redrive = _command(actions, "redrive", "give dead letters back to the consumer that failed, and remove them")
    redrive.add_argument("numbers", type=_index, nargs="*", metavar="number", help="letters' numbers")
    redrive.add_argument("--all", action="store_true", help="every letter")


def _audit(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")

    tail = _command(actions, "tail", "print every entry as it arrives; reconnects until Ctrl-C")
    _gateway(tail)
    tail.add_argument(
        "--from", dest="start", type=_index, metavar="N", help="begin at this index, 0 for everything (default: now)"
    )
    tail.add_argument("--json", action="store_true", help="print each entry as it is stored, a line of JSON")

    verify = _command(
        actions, "verify", "verify a log, an export, a checkpoint or a proof, step by step, trusting only a key"
    )
    verify.add_argument("file", nargs="?", help="an export, a checkpoint or a proof (default: the log at the gateway)")
    verify.add_argument("--key", help="the log's verifier key that you pinned, or a file that has it")
    verify.add_argument(
        "--kept", metavar="FILE", help="the checkpoint of your last verification; a log that holds leaves its own there"
    )
    _gateway(verify)

    export = _command(actions, "export", "write the whole log to one file that can be verified anywhere")
    export.add_argument("--to", required=True, metavar="FILE", help="the file to write")
    _gateway(export)

    proof = _command(actions, "proof", "write the proof that an entry is in the log to a file")
    proof.add_argument("event", help="the event's id, evt_…")
    proof.add_argument("--to", metavar="FILE", help="the file to write (default: <event>.tlog-proof)")
    _gateway(proof)


def _gateway(parser: argparse.ArgumentParser) -> None:
    """The options for the gateway and the token; `audit.client` reads them."""
    parser.add_argument("--url", help="the gateway's address (default: the `causeloop dev` that runs in this folder)")
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="a file with the token, - for standard input; CAUSELOOP_TOKEN, if set, is used instead",
    )


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, does: str
) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")


def _index(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise argparse.ArgumentTypeError("not an index, a number from 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
