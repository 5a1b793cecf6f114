"""Messages in: commands to their use cases, and the intake of every event on the bus."""

from causeloop_audit.handlers.commands import router
from causeloop_audit.handlers.intake import Intake

__all__ = ["Intake", "router"]
