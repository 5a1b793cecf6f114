"""The `causeloop` command. Each subcommand is a module that is imported when it is called.

The commands of the development stack (`dev`, `demo`, …) are there where libs/dev is installed; no image has them.
"""

import argparse
import logging
import re
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

from causeloop_cli import endings
from causeloop_common.contracts.topology import SERVICES

_MORE = f"""\
causeloop <command> --help explains a command, with an example. Settings come from the environment: .env.example has all
of them.

{endings.CODES}"""


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; its exit code. An error is a sentence, without a traceback (`endings`)."""
    command, unable = "?", endings.UNABLE
    try:
        endings.prepare_output()
        logging.raiseExceptions = False  # a full disk ends no service with a traceback for each line
        logging.getLogger().addHandler(logging.NullHandler())  # what a command prints is its report
        options = parser().parse_args(arguments)
        command = options.command
        module = import_module(f"{options.package}.{command}")
        unable = getattr(module, "UNABLE", unable)
        code = int(module.main(options) or endings.DONE)
        endings.flush()
    except BaseException as error:  # noqa: BLE001  whatever ends it has a code and a sentence
        return endings.code_of(command, error, unable)
    return code


def parser() -> argparse.ArgumentParser:
    """The parser of every command that is installed here."""
    made = argparse.ArgumentParser(
        prog="causeloop",
        description="The security core of a multi-tenant product.",
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"causeloop {version('causeloop-cli')}")
    made.set_defaults(package="causeloop_cli")
    commands = made.add_subparsers(dest="command", required=True, metavar="command")

    serve = add(
        commands,
        "serve",
        "run one or more services in this process; settings come from the environment",
        "set -a; . ./.env; set +a\n  causeloop serve gateway auth tenancy vault audit",
    )
    serve.add_argument("services", nargs="+", choices=SERVICES, metavar="service", help=", ".join(SERVICES))

    migrate = add(
        commands,
        "migrate",
        "bring the database at DATABASE_URL, streams and consumers to this version",
        "set -a; . ./.env; set +a\n  causeloop migrate",
    )
    migrate.add_argument(
        "--replace-passwords",
        action="store_true",
        help="JWT_SECRET replaces the one that the passwords in the database were derived from; restart every service",
    )
    add(commands, "doctor", "prove tenant isolation and check everything a service needs", "causeloop doctor")

    keys = add(
        commands,
        "keys",
        "print the keys of one service, derived from JWT_SECRET, as lines of its environment",
        "causeloop keys auth > auth.env\n  causeloop keys --nats config > accounts.conf",
    )
    keys.add_argument("service", nargs="?", choices=SERVICES, metavar="service", help=", ".join(SERVICES))
    keys.add_argument(
        "--nats",
        nargs="?",
        const="both",
        choices=("seeds", "config", "both"),
        help="print, instead, new bus credentials (seeds), the NATS server's configuration for them (config), or both",
    )

    _dead(add(commands, "dead", "list, show, redrive and drop the events that a service could not handle"))
    events = add(commands, "events", "handle the stream of events").add_subparsers(
        dest="action", required=True, metavar="action"
    )
    add(
        events,
        "purge",
        "remove from the streams what all their consumers have had, to make space",
        "causeloop events purge",
    )
    reconcile = add(
        events,
        "reconcile",
        "have every service send its acts since a time to the log again, which enters what it lacks",
        "causeloop events reconcile --since 2026-01-02T03:04Z",
    )
    reconcile.add_argument(
        "--since",
        required=True,
        type=_moment,
        metavar="TIME",
        help="when the first of these acts happened, with its zone, such as 2026-01-02T03:04Z",
    )
    _audit(add(commands, "audit", "follow, export and verify a workspace's log, as any client can; recover logs"))
    if find_spec("causeloop_dev") is not None:
        import_module("causeloop_dev.commands").declare(commands)
    return made


def add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, does: str, example: str = ""
) -> argparse.ArgumentParser:
    """A command: its description is what it does, its epilog an example and the exit codes."""
    epilog = f"example:\n  {example}\n\n{endings.CODES}" if example else endings.CODES
    return commands.add_parser(
        name,
        help=does,
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _dead(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    add(
        actions,
        "list",
        "print a line for each dead letter, oldest first: number, time, consumer, event, workspace, failure",
        "causeloop dead list",
    )
    show = add(
        actions,
        "show",
        "print a dead letter: its attributes and its data, in which secrets are sealed",
        "causeloop dead show 7",
    )
    show.add_argument("number", type=_number, help="the letter's number, as `list` prints it")
    redrive = add(
        actions,
        "redrive",
        "give dead letters back to the consumer that failed, and remove them",
        "causeloop dead redrive 7 9",
    )
    drop = add(actions, "drop", "remove dead letters that nobody can handle", "causeloop dead drop 7 9")
    for chosen in (redrive, drop):
        chosen.add_argument("numbers", type=_number, nargs="*", metavar="number", help="letters' numbers")
        chosen.add_argument("--all", action="store_true", help="every letter")


def _audit(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")

    tail = add(
        actions,
        "tail",
        "print every entry as it arrives; reconnects until Ctrl-C",
        "causeloop audit tail --from 0 --action vault.",
    )
    _gateway(tail)
    tail.add_argument(
        "--from", dest="start", type=_index, metavar="N", help="begin at this index, 0 for everything (default: now)"
    )
    tail.add_argument("--json", action="store_true", help="print each entry as it is stored, a line of JSON")
    tail.add_argument(
        "--action", dest="begins", metavar="TEXT", help="only entries whose action begins so, such as vault."
    )
    tail.add_argument("--actor", metavar="ID", help="only entries of this principal, usr_…")
    tail.add_argument("--target", metavar="ID", help="only entries about this thing, sec_…")

    verify = add(
        actions,
        "verify",
        "verify a log, an export, a checkpoint or a proof, step by step, trusting only a key",
        "causeloop audit verify log.ndjson --key log.key --kept last.checkpoint",
    )
    verify.add_argument("file", nargs="?", help="an export, a checkpoint or a proof (default: the log at the gateway)")
    verify.add_argument("--key", help="the log's verifier key that you pinned, or a file that has it")
    verify.add_argument(
        "--kept", metavar="FILE", help="the checkpoint of your last verification; a log that holds leaves its own there"
    )
    _withheld(verify)
    _gateway(verify)

    key = add(
        actions,
        "key",
        "print the log's verifier key, or write it to a file: pin it when you first see the log",
        "causeloop audit key --to log.key",
    )
    _file(key, "print it")
    _gateway(key)

    export = add(
        actions,
        "export",
        "write the whole log to one file that can be verified anywhere",
        "causeloop audit export --to log.ndjson",
    )
    _file(export)
    _gateway(export)

    recover = add(
        actions,
        "recover",
        "for operators: list the logs that do not continue what was signed of them, or open a new epoch of one",
        "causeloop audit recover\n  causeloop audit recover --workspace ws_… --open-epoch --reason 'restored from "
        "Sunday'",
    )
    recover.add_argument("--workspace", type=_tenant, metavar="ID", help="only this log, ws_… or usr_…")
    recover.add_argument(
        "--open-epoch", action="store_true", help="let this log begin anew, in the open; it cannot be undone"
    )
    recover.add_argument("--reason", type=_reason, metavar="TEXT", help="why, for everybody who reads the log")

    proof = add(
        actions,
        "proof",
        "write the proof that an entry is in the log to a file",
        "causeloop audit proof evt_01h455vb4pex5vsknk084sn02q --to entry.tlog-proof",
    )
    proof.add_argument("event", type=_event, help="the event's id, evt_…")
    _file(proof, "<event>.tlog-proof")
    _gateway(proof)


def _file(parser: argparse.ArgumentParser, default: str = "") -> None:
    """The options for a file that is written."""
    more = f" (default: {default})" if default else ""
    parser.add_argument("--to", required=not default, metavar="FILE", help=f"the file, - for standard output{more}")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def _withheld(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-withheld",
        action="store_true",
        help="accept a log with entries of which only the hash is left; their number is shown",
    )


def _gateway(parser: argparse.ArgumentParser) -> None:
    """The options for the gateway and the token; `audit.client` reads them."""
    parser.add_argument(
        "--url",
        help="the gateway's address (default: CAUSELOOP_URL, else the `causeloop dev` that runs in this folder)",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="a file with the token, - for standard input; CAUSELOOP_TOKEN, if set, is used instead",
    )


def _index(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise argparse.ArgumentTypeError("not an index, a number from 0")
    return int(text)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15 or not int(text):
        raise argparse.ArgumentTypeError("not a letter's number, from 1, as `causeloop dead list` prints it")
    return int(text)


def _tenant(text: str) -> str:
    if re.fullmatch("(ws|usr)_[0-7][0-9a-hjkmnp-tv-z]{25}", text) is None:
        raise argparse.ArgumentTypeError("not a log's owner, such as ws_3rf1w7gy3rh1w9gy3rf1w7gy3r")
    return text


def _reason(text: str) -> str:
    if not 0 < len(text) <= 200 or not text.isprintable():
        raise argparse.ArgumentTypeError("not a reason of 1 to 200 characters in one line")
    return text


_FIRST_YEAR = 2000
"""Of an act that an outbox may have."""
_NO_TIME = "not a time with its zone, such as 2026-01-02T03:04Z"


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(_NO_TIME) from None
    if moment.tzinfo is None or moment.year < _FIRST_YEAR:
        raise argparse.ArgumentTypeError(_NO_TIME)
    if moment > datetime.now(UTC):
        raise argparse.ArgumentTypeError("in the future: give the time of an act that is past")
    return moment


def _event(text: str) -> str:
    if re.fullmatch("evt_[0-7][0-9a-hjkmnp-tv-z]{25}", text) is None:
        raise argparse.ArgumentTypeError("not an event's id, such as evt_01h455vb4pex5vsknk084sn02q")
    return text
