"""The subcommands of `causeloop` that are there where this package is installed, and their options."""

import argparse


def declare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add them to the parser of `causeloop`."""
    dev = commands.add_parser("dev", help="run everything on this machine, nothing else needed")
    dev.add_argument("--data", help="keep data in this folder; without it everything is throw-away")
    dev.add_argument("--port", type=int, default=4000, help="the gateway's port (4000)")
    dev.add_argument("--one-process", action="store_true", help="all services in one process, for little memory")
    dev.add_argument("--no-seed", action="store_true", help="make no demo workspace")

    demo = commands.add_parser("demo", help="the whole journey at the dev that runs in this folder, and what it proves")

    servers = commands.add_parser("servers", help="run only PostgreSQL and NATS, migrated; prints how to reach them")
    servers.add_argument("--fsync", action="store_true", help="durable writes, as in production")
    servers.add_argument("--containers", action="store_true", help="from containers, instead of embedded")

    schemas = commands.add_parser("schemas", help="write the JSON Schema of every message, OpenAPI and AsyncAPI")
    schemas.add_argument("--check", action="store_true", help="write nothing; fail when something differs")

    for parser in (dev, demo, servers, schemas):
        parser.set_defaults(package="causeloop_dev")
