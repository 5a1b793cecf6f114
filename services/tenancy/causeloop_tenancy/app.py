"""Composition root of tenancy."""

from collections.abc import Mapping

from causeloop_common.application import Application
from causeloop_tenancy import handlers
from causeloop_tenancy.models import metadata
from causeloop_tenancy.service import TenancyService
from causeloop_tenancy.settings import TenancySettings


def create(environ: Mapping[str, str]) -> Application:
    """Tenancy, ready to be run."""
    settings = TenancySettings.load("tenancy", environ)
    application = Application(settings)
    database = application.database(metadata)
    service = TenancyService(database)
    application.relay(database)
    application.jobs(database)
    application.commands(handlers.router(service))
    return application
