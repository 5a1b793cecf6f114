"""`causeloop migrate`: roles, schemas, tables, streams and consumers, as this version declares them."""

import argparse
import asyncio
import os

from causeloop_cli import endings, services, streams
from causeloop_common import migrations
from causeloop_common.settings import DEVELOPMENT_SECRET, SettingsError, is_guessable, migrator_url, require_bus_url

UNABLE = endings.NO
"""Its exit code when it refuses, or cannot reach what it migrates: a deployment stops at either."""

_BUS_SECONDS = 60


def main(options: argparse.Namespace) -> int:
    """Migrate what DATABASE_URL and NATS_URL name."""
    url = migrator_url(os.environ)
    secret = os.environ.get("JWT_SECRET") or DEVELOPMENT_SECRET
    if os.environ.get("CAUSELOOP_ENV") == "production" and is_guessable(secret):
        raise SettingsError("Set JWT_SECRET to the installation's secret: the services' passwords are derived from it.")
    nats_url, operator_seed = os.environ.get("NATS_URL"), os.environ.get("NATS_NKEY_SEED_OPERATOR")
    if nats_url and operator_seed:
        require_bus_url(nats_url, os.environ)  # refused before anything is changed
    asyncio.run(everything(url.text(), secret, nats_url, operator_seed))
    return 0


async def everything(database_url: str, secret: str, nats_url: str | None, operator_seed: str | None) -> None:
    """The database, and the bus where its operator's credential is given."""
    schemas = services.schemas().values()
    await migrations.migrate(database_url, secret.encode(), schemas)
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
