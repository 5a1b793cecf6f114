"""The subcommands of `causeloop` that are there where this package is installed, and their options."""

import argparse


def declare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add them to the parser of `causeloop`."""
    dev = commands.add_parser("dev", help="run everything on this machine, nothing else needed")
    dev.add_argument("--data", help="keep data in this folder (default: everything is deleted at the end)")
    dev.add_argument("--port", type=int, default=4000, help="the gateway's port (default: 4000)")
    dev.add_argument("--one-process", action="store_true", help="run all services in one process, for little memory")
    dev.add_argument("--no-seed", action="store_true", help="make no demo workspace")

    demo = commands.add_parser("demo", help="walk the whole journey beside a running `causeloop dev`, and prove it")

    servers = commands.add_parser("servers", help="run only PostgreSQL and NATS, migrated, and print their addresses")
    servers.add_argument("--fsync", action="store_true", help="write durably, as in production")
    servers.add_argument("--containers", action="store_true", help="run them in containers")

    schemas = commands.add_parser("schemas", help="write the documents of messages and routes, and the client's calls")
    schemas.add_argument("--check", action="store_true", help="write nothing; fail when a file differs")

    for parser in (dev, demo, servers, schemas):
        parser.set_defaults(package="causeloop_dev")
