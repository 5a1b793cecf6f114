"""Composition root of audit."""

from collections.abc import Mapping

from causeloop_audit import handlers
from causeloop_audit.handlers import Intake
from causeloop_audit.models import WRITER, metadata
from causeloop_audit.repository import LogWatch, LogWriter
from causeloop_audit.service import CheckpointService, LogService, Readers, ReadLogs, Signer, Signing
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
    readers = Readers()
    service = LogService(database, LogWriter(intake), application.keys.own("entry-salt/v1"), readers)
    entering = Intake(application.bus, service, intake)
    application.leads(intake, entering)
    application.state("restore", entering.check)
    pause = settings.checkpoint_seconds
    signer = application.leader(database, "signer", patience=pause + PATIENCE_SECONDS)
    watch, signing = LogWatch(application.connections(WRITER)), Signing(database, application.bus)
    keeping = Signer(signer, watch, signing, seconds=pause)
    application.leads(signer, keeping)
    application.check("logs", keeping.check)
    application.examination("witness", keeping.examine)
    application.background("readers", ReadLogs(readers, watch, signing).keep_signed)
    application.background("space", Space(application.bus).watch)
    application.relay(database)
    application.jobs(database)
    application.commands(handlers.router(service, CheckpointService(database, signing)))
    return application
