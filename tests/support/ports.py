"""Ports for what a test starts."""

import os
import random

from causeloop_cli.embedded.nats import is_free

_FIRST, _LAST = 10_000, 20_000
"""Below those that an embedded nats-server takes."""

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_ports = list(range(_FIRST + _WORKER, _LAST, _WORKERS))
random.SystemRandom().shuffle(_ports)


def free_port() -> int:
    """A port of the loopback on which nobody listens. No other test of this run gets it, on any worker."""
    while not is_free(port := _ports.pop()):
        pass
    return port
