"""Composition root of audit."""

from collections.abc import Mapping

from causeloop_audit import handlers
from causeloop_audit.handlers import Intake
from causeloop_audit.models import WRITER, metadata
from causeloop_audit.repository import LogWatch, LogWriter
from causeloop_audit.service import CheckpointService, LogService, Signer
from causeloop_audit.settings import AuditSettings
from causeloop_common.application import Application
from causeloop_common.leader import PATIENCE_SECONDS
from causeloop_common.messaging.space import Space


def create(environ: Mapping[str, str]) -> Application:
    """Audit, ready to be run."""
    settings = AuditSettings.load("audit", environ)
    application = Application(settings)
    database = application.database(metadata)
    intake = application.leader(database, "intake")
    service = LogService(database, LogWriter(intake), application.keys.own("entry-salt/v1"))
    entering = Intake(application.bus, service, intake)
    application.leads(intake, entering)
    application.state("restore", entering.check)
    pause = settings.checkpoint_seconds
    signer = application.leader(database, "signer", patience=pause + PATIENCE_SECONDS)
    checkpoints = CheckpointService(database, application.bus)
    watch = LogWatch(application.connections(WRITER))
    signing = Signer(signer, watch, checkpoints, seconds=pause)
    application.leads(signer, signing)
    application.check("logs", signing.check)
    application.examination("witness", signing.examine)
    application.background("space", Space(application.bus).watch)
    application.relay(database)
    application.jobs(database)
    application.commands(handlers.router(service, checkpoints))
    return application
