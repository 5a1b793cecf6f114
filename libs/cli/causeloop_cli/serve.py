"""`causeloop serve`: any subset of the services in one process."""

import argparse
import logging
import os
from collections.abc import Mapping, Sequence

import uvloop

from causeloop_cli import loops, services
from causeloop_common import telemetry
from causeloop_common.application import run


def main(options: argparse.Namespace) -> int:
    """Serve until a signal to stop."""
    serve(options.services, os.environ)
    return 0


def serve(names: Sequence[str], environ: Mapping[str, str], also: logging.Handler | None = None) -> None:
    """Compose the services and run them in one event loop; `also` is one more place where log records go."""
    telemetry.setup(names[0] if len(names) == 1 else "causeloop", _level(environ))
    if also is not None:
        logging.getLogger().addHandler(also)

    async def composed() -> None:
        # Inside the loop: connections and locks belong to the loop they were made in.
        await run([services.create(name, environ) for name in dict.fromkeys(names)])

    loops.run(composed(), uvloop.new_event_loop)


def _level(environ: Mapping[str, str]) -> str:
    """The level to log with until the settings are read, which refuse one that is none."""
    level = environ.get("LOG_LEVEL", "")
    return level if level in logging.getLevelNamesMapping() else "INFO"
