"""Composition root of audit."""

from collections.abc import Mapping

from causeloop_audit import handlers
from causeloop_audit.handlers import Intake
from causeloop_audit.models import WRITER, metadata
from causeloop_audit.repository import LogWatch, LogWriter
from causeloop_audit.service import CheckpointService, LogService, Signer
from causeloop_audit.settings import AuditSettings
from causeloop_common.application import Application


def create(environ: Mapping[str, str]) -> Application:
    """Audit, ready to be run."""
    settings = AuditSettings.load("audit", environ)
    application = Application(settings)
    database = application.database(metadata)
    writer = LogWriter(settings.dsn(WRITER))
    service = LogService(database, writer)
    checkpoints = CheckpointService(database, application.bus)
    signer = Signer(LogWatch(settings.dsn(WRITER)), checkpoints, seconds=settings.checkpoint_seconds)
    intake = Intake(application.bus, service, writer)
    application.background("intake", intake.run)
    application.check("intake", intake.check)
    application.background("signer", signer.run)
    application.check("signer", signer.check)
    application.commands(handlers.router(service, checkpoints))
    return application
