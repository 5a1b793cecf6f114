"""`causeloop servers`: embedded PostgreSQL and NATS, migrated, and nothing else.

For tests and debuggers. Prints one line of JSON when ready, runs until its standard input ends (or Ctrl-C):

    {"database_url", "superuser_url", "nats_url", "jwt_secret", "environ": {service: {…}}, "seeds": {…}, "pids": {…}}
"""

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from io import StringIO

from causeloop_cli import migrate
from causeloop_cli.embedded import EmbeddedNats, EmbeddedPostgres, Janitor
from causeloop_cli.installation import Installation
from causeloop_common.contracts import topology


def main(options: argparse.Namespace) -> int:
    """Serve until nobody needs it."""
    installation = Installation.new()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        janitor = stack.enter_context(Janitor())
        postgres = stack.enter_context(EmbeddedPostgres(fsync=options.fsync, janitor=janitor))
        nats = stack.enter_context(EmbeddedNats(installation.nats_config(), janitor=janitor))
        database_url = postgres.prepare()
        with contextlib.redirect_stdout(StringIO()):
            asyncio.run(
                migrate.everything(database_url, installation.jwt_secret, nats.url, installation.seeds["operator"])
            )
        told = {
            "database_url": database_url,
            "superuser_url": postgres.superuser_url.replace("/postgres?", "/causeloop?"),
            "nats_url": nats.url,
            "jwt_secret": installation.jwt_secret,
            "seeds": installation.seeds,
            "environ": {name: installation.environ(name, database_url, nats.url) for name in topology.SERVICES},
            "pids": {"postgres": postgres.pid, "nats": nats.pid},
        }
        print(json.dumps(told), flush=True)
        sys.stdin.buffer.read()
    return 0
