"""`causeloop servers`: PostgreSQL and NATS, embedded or from containers, migrated, and nothing else.

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
from causeloop_cli.embedded import EmbeddedNats, Janitor
from causeloop_common.contracts import topology
from causeloop_dev.containers import containers
from causeloop_dev.installation import UNLIMITED, Installation
from causeloop_dev.postgres import EmbeddedPostgres


def main(options: argparse.Namespace) -> int:
    """Serve until nobody needs it."""
    installation = Installation.new()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        config, pids = installation.nats_config(), {}
        if options.containers:
            database_url, superuser_url, nats_url = stack.enter_context(containers(config))
        else:
            janitor = stack.enter_context(Janitor())
            postgres = stack.enter_context(EmbeddedPostgres(fsync=options.fsync, janitor=janitor))
            nats = stack.enter_context(EmbeddedNats(config, janitor=janitor))
            database_url, nats_url = postgres.prepare(), nats.url
            superuser_url = postgres.superuser_url.replace("/postgres?", "/causeloop?")
            pids = {"postgres": postgres.pid, "nats": nats.pid}
        secret, operator = installation.jwt_secret, installation.seeds["operator"]
        with contextlib.redirect_stdout(StringIO()):
            asyncio.run(migrate.everything(database_url, secret, nats_url, operator))
        environ = {name: installation.environ(name, database_url, nats_url) for name in topology.SERVICES}
        environ["gateway"] |= UNLIMITED
        addresses = {
            "database_url": database_url,
            "superuser_url": superuser_url,
            "nats_url": nats_url,
            "jwt_secret": installation.jwt_secret,
            "seeds": installation.seeds,
            "environ": environ,
            "pids": pids,
        }
        print(json.dumps(addresses), flush=True)
        sys.stdin.buffer.read()
    return 0
