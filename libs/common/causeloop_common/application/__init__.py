"""One service as a running thing: its parts, started in order, watched, and drained.

service     the parts of one service: start, readiness, stop
serving     a process with any number of services, until it is asked to stop
operations  its `/health` (the process is alive), `/ready` (every check by name; 503 when one fails), `/metrics`
listener    an HTTP server in a process that handles its signals itself
exports     the way of spans and metrics to a collector

    start   spans ─► database ─► isolation proof ─► bus ─► background tasks ─► commands
    stop    not ready ─► after the listener's delay HTTP drained ─► commands drained
            ─► background tasks ended ─► bus ─► database ─► last spans delivered

A service that cannot prove its isolation does not start.
"""

from causeloop_common.application.listener import GRACE_SECONDS, Listener
from causeloop_common.application.operations import Operations
from causeloop_common.application.service import Application
from causeloop_common.application.serving import run, settle_memory

__all__ = ["GRACE_SECONDS", "Application", "Listener", "Operations", "run", "settle_memory"]
