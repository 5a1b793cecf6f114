"""`causeloop migrate`: roles, schemas, tables, streams and consumers, as this version declares them."""

import argparse
import asyncio
import os

from causeloop_cli import endings, loops, services, streams
from causeloop_common import migrations
from causeloop_common.settings import SettingsError, migrator_url, require_bus_url

UNABLE = endings.NO
"""Its exit code when it refuses, or cannot reach what it migrates: a deployment stops at either."""

_BUS_SECONDS = 60


def main(options: argparse.Namespace) -> int:
    """Migrate what DATABASE_URL and NATS_URL name."""
    url = migrator_url(os.environ)
    secret, nats_url, seed = (os.environ.get(n, "") for n in ("JWT_SECRET", "NATS_URL", "NATS_NKEY_SEED_OPERATOR"))
    if nats_url and seed:
        require_bus_url(nats_url, os.environ)  # refused before anything is changed
    loops.run(everything(url.text(), secret, nats_url, seed, replace_passwords=options.replace_passwords))
    return 0


async def everything(
    database_url: str, secret: str, nats_url: str | None, operator_seed: str | None, *, replace_passwords: bool = False
) -> None:
    """The database, and the bus where its operator's credential is given.

    `replace_passwords`: the secret takes the place of the one from which the roles that are there have passwords.
    """
    schemas = services.schemas().values()
    await migrations.migrate(database_url, secret.encode(), schemas, replace_passwords=replace_passwords)
    await migrations.verify(database_url, secret.encode(), schemas)
    print("database: roles, schemas and tables are as this version declares them")
    if nats_url and operator_seed:
        try:
            await asyncio.wait_for(streams.declare(nats_url, operator_seed), _BUS_SECONDS)
        except streams.FAULTS as error:
            raise SettingsError(streams.refusal(error)) from error
        print("bus: streams and consumers are as this version declares them")
    else:
        print("bus: left alone; set NATS_URL and NATS_NKEY_SEED_OPERATOR to declare streams and consumers")
