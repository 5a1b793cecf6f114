"""The subcommands of `causeloop` that are there where this package is installed, and their options."""

import argparse

from causeloop_cli.main import add


def declare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add them to the parser of `causeloop`."""
    dev = add(
        commands,
        "dev",
        "run everything on this machine, nothing else needed, until Ctrl-C",
        "causeloop dev --data ../causeloop-data --port 4001",
    )
    dev.add_argument(
        "--data", type=_folder, help="keep data in this folder (default: everything is deleted at the end)"
    )
    dev.add_argument("--port", type=_port, default=4000, help="the gateway's port, 0 for a free one (default: 4000)")
    dev.add_argument("--one-process", action="store_true", help="run all services in one process, for little memory")
    dev.add_argument("--no-seed", action="store_true", help="make no demo workspace")

    demo = add(
        commands, "demo", "walk the whole journey beside a running `causeloop dev`, and prove it", "causeloop demo"
    )

    servers = add(
        commands,
        "servers",
        "run only PostgreSQL and NATS, migrated, and print their addresses, until standard input ends",
        "sleep infinity | causeloop servers &",
    )
    servers.add_argument("--fsync", action="store_true", help="write durably, as in production")
    servers.add_argument("--containers", action="store_true", help="run them in containers")

    schemas = add(
        commands,
        "schemas",
        "write the documents of messages and routes, and the client's calls",
        "causeloop schemas --check",
    )
    schemas.add_argument("--check", action="store_true", help="write nothing; fail when a file differs")

    for parser in (dev, demo, servers, schemas):
        parser.set_defaults(package="causeloop_dev")


def _folder(text: str) -> str:
    if not text:  # a variable that is not set: data that was to stay would be deleted
        raise argparse.ArgumentTypeError("it names no folder; leave the option out to delete everything at the end")
    return text


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text[:20]} is no port: a number from 1 to 65535, such as 4000, or 0")
    return int(text)
